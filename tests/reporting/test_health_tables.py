"""The tables of training runs: what they ended with, and a collapse said in words."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.reporting import health as reporting_health
from pipeline.reporting.health import health_table, runs_table, verdict
from pipeline.training import health as training_health


def model(folder, name, *, health=None, validation=None, history=None, **more):
    (folder / name).mkdir()
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1]}} | more
    (folder / name / "run.json").write_text(json.dumps(run))
    for table, frame in {"health": health, "validation": validation, "history": history}.items():
        if frame is not None:
            frame.to_parquet(folder / name / f"{table}.parquet")
    return folder / name


def history():
    """Two seeds; the last row of each has no update of G, so its gradient is the one before."""
    return pd.DataFrame(
        {
            "seed": [0, 0, 1, 1],
            "d_loss": [9.0, 1.0, 9.0, 3.0],
            "g_loss": [9.0, 1.0, 9.0, 2.0],
            "d_real": 0.5,
            "d_fake": 0.25,
            "d_gradient": [5.0, 1.0, 5.0, 2.0],
            "g_gradient": [4.0, np.nan, 6.0, np.nan],
        }
    )


def health(*rows):
    return pd.DataFrame(rows, columns=["seed", "epoch", "diversity", "collapsed"])


HEALTHY = health((0, 1, 0.5, False), (0, 2, 0.75, False), (1, 1, 0.625, False), (1, 2, 0.25, False))


def test_a_run_without_validation_shows_the_last_epoch(tmp_path):
    empty = pd.DataFrame({"seed": [], "epoch": [], "chosen": []})
    for name, validation in (("columns", empty), ("nothing", pd.DataFrame()), ("no_file", None)):
        lines = runs_table([model(tmp_path, name, history=history(), validation=validation)])
        assert lines[-1] == f"| {name} | 0, 1 | 1,320 | last | 2.000 | 1.500 | 0.500 | 0.250 |"


def test_epochs_chosen_are_those_of_the_seeds(tmp_path):
    validation = pd.DataFrame({"seed": [0, 0, 1], "epoch": [4, 8, 8], "chosen": [True, False, True]})
    assert "| 4, 8 | 2.000 |" in runs_table([model(tmp_path, "run", history=history(), validation=validation)])[-1]


def test_the_limit_of_a_collapse_is_that_of_training():
    """Reports do not import training, which would bring torch into every figure."""
    assert reporting_health.COLLAPSED == training_health.COLLAPSED


def test_health_is_gradients_and_diversity(tmp_path):
    lines = health_table([model(tmp_path, "run", history=history(), health=HEALTHY)])
    assert lines[-1] == "| run | 1.500 | 5.000 | 0.500 | 0.250 after epoch 2 | never below 0.1 |"


def test_collapse_is_said_with_its_epoch():
    rows = health((0, 1, 0.5, False), (0, 2, 0.01, True), (0, 3, 0.01, True), (1, 1, 0.02, True), (1, 2, 0.5, False))
    assert verdict(rows) == (
        "**collapsed after epoch 2** (seed 0); **collapsed after epoch 1**, not at the end (seed 1)"
    )
    assert verdict(rows.iloc[::-1]) == verdict(rows)  # by epoch, not by place


def test_networks_of_a_split_are_told_apart():
    rows = pd.concat(
        [
            health((0, 30, 0.01, True), (0, 60, 0.01, True)).assign(split=0),
            health((0, 30, 0.8, False), (0, 60, 0.8, False)).assign(split=1),
        ]
    )
    assert verdict(rows) == "**collapsed after epoch 30** (split 0, seed 0)"


def test_ends_are_means_over_every_pair_of_split_and_seed(tmp_path):
    rows = pd.concat([health((0, 2, 0.25, False)).assign(split=0), health((0, 2, 0.75, False)).assign(split=1)])
    assert "| 0.500 | 0.250 after epoch 2 |" in health_table([model(tmp_path, "run", health=rows)])[-1]


def test_runs_from_before_the_health_record_have_none(tmp_path):
    old = history().drop(columns=["d_gradient", "g_gradient"])
    assert health_table([model(tmp_path, "old", history=old)])[-1] == "| old | - | - | - | - | no record |"


def test_networks_that_were_not_trained_here_have_no_ends(tmp_path):
    nothing = {"history": pd.DataFrame(columns=history().columns, dtype="float64")}
    nothing |= {name: pd.DataFrame(columns=HEALTHY.columns) for name in ("health", "validation")}
    taken = model(tmp_path, "taken", **nothing, steps=0, released="a listing")
    assert runs_table([taken])[-1] == "| taken | 0, 1 | 0 | released arrays, not trained here | - | - | - | - |"
    assert health_table([taken])[-1] == "| taken | - | - | - | - | no record |"


def test_unknown_diversity_is_no_number(tmp_path):
    rows = health((0, 1, np.nan, False))
    assert health_table([model(tmp_path, "run", history=history(), health=rows)])[-1].endswith(
        "| - | - | never below 0.1 |"
    )


@pytest.mark.parametrize("table", [runs_table, health_table])
def test_runs_that_this_profile_has_not_are_named(tmp_path, table):
    lines = table([model(tmp_path, "run", history=history()), tmp_path / "dcgan_lsun", tmp_path / "dcgan_faces"])
    assert lines[-1] == "Not run in this profile: dcgan_lsun, dcgan_faces."
    assert [line.split(" | ")[0] for line in lines if "run |" in line] == ["| run", "| run"]


def test_a_folder_without_its_record_is_refused(tmp_path):
    broken = model(tmp_path, "run", history=history())
    (broken / "run.json").unlink()
    with pytest.raises(InputError, match=r"run\.json: missing; run the stage"):
        runs_table([broken])
