"""report.md and the provenance of its numbers."""

import json

import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import write_table
from pipeline.reporting import page, tables
from pipeline.reporting.rows import Report

DATASETS = {"mnist": "a few digits", "cifar10": "ten photographs", "svhn": "drawn house numbers"}
REPORT = Report(comparable="no", notes={}, datasets=DATASETS)
MACHINE = {"device": "cpu", "threads": 2, "precision": "bf16", "instruction_set": "avx512+amx+bf16"}


def model(folder, name: str, **machine):
    (folder / name).mkdir()
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1]}} | MACHINE | machine
    (folder / name / "run.json").write_text(json.dumps(run))
    history = {"seed": [0, 0, 1], "d_loss": [9.0, 1.0, 3.0], "g_loss": [9.0, 1.0, 2.0], "d_real": 0.5, "d_fake": 0.25}
    pd.DataFrame(history).to_parquet(folder / name / "history.parquet")
    validation = {"seed": [0, 0, 1], "epoch": [4, 8, 8], "chosen": [True, False, True]}
    pd.DataFrame(validation).to_parquet(folder / name / "validation.parquet")
    health = {"seed": [0, 0, 1], "epoch": [1, 2, 2], "diversity": [0.5, 0.01, 0.5], "collapsed": [False, True, False]}
    pd.DataFrame(health).to_parquet(folder / name / "health.parquet")
    return folder / name


def probe(error, n_draws):
    rows = [("test", 400, 4000, 0.01, draw, error + draw, 10_000, 28_672, 512) for draw in range(n_draws)]
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    return pd.DataFrame(rows, columns=[*columns, "n_features", "max_feature_units"])


@pytest.fixture
def reports(tmp_path):
    """Tables of a profile of which little was run."""
    results = tmp_path / "results"
    results.mkdir()
    probe(26.0, 3).to_parquet(results / "cifar10.parquet")
    for name in ("dcgan_table1", "dcgan_table2", "dcgan_table3"):
        write_table(
            tables.TABLES[name][1](results, REPORT),
            "T",
            csv=tmp_path / f"tables/{name}.csv",
            md=tmp_path / "t.md",
            metrics=tmp_path / "m.json",
        )
    return tmp_path


def test_page_shows_tables_figures_and_runs(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_mnist")])
    assert "They reproduce nothing" in text
    assert "| AlignMNIST | test_error_10m_samples | 1.40 |" in text
    for name in ("dcgan_fig9", "error_over_n", "table1_probes", "table2_probes", "training_samples"):
        assert f"](figures/{name}.png)" in text
    assert "| dcgan_mnist | 0, 1 | 1,320 | 4, 8 | 2.000 | 1.500 | 0.500 | 0.250 |" in text


def test_page_has_every_row_of_the_probes(reports):
    text = page.report_page("embedded", REPORT, reports, [])
    for printed in (*papers.DCGAN_TABLE1, *papers.DCGAN_TABLE2):
        assert f"| {printed.row} | {printed.column} |" in text
    assert f"| {papers.DCGAN_SVM} | accuracy_400_per_class | 73.80 ± 0.40 | 73.00 ± 1.00 | draws |" in text
    assert f"| {papers.DCGAN_SVM} | max_feature_units | 512 | 512 |  |" in text
    assert f"| {papers.KMEANS} | max_feature_units | 4,800 |  |  | not run in this profile yet |" in text


def test_page_says_that_a_run_collapsed(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_lsun")])
    assert "| dcgan_lsun | - | - | 0.255 | 0.010 after epoch 2 | **collapsed after epoch 2** (seed 0) |" in text


def test_page_of_a_profile_with_little_in_it(tmp_path):
    text = page.report_page("paper", REPORT, tmp_path, [model(tmp_path, "gan_mnist"), tmp_path / "dcgan_lsun"])
    assert text.count("Not run in this profile.") == 3
    assert text.count("Not run in this profile: dcgan_lsun.") == 2
    assert "| gan_mnist | 0, 1 |" in text


@pytest.mark.parametrize(
    ("spread_over", "n_seeds", "told"),
    [("seeds", 3, "3 seeds"), (None, 1, "1 seed"), ("draws", 1, "draws"), (None, None, "")],
)
def test_spread_says_over_what(spread_over, n_seeds, told):
    assert page._over({"spread_over": spread_over, "n_seeds": n_seeds}) == told


def test_provenance_is_what_decides_the_bytes(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b"), tmp_path / "not_trained"]
    assert page.provenance(models) == MACHINE


def test_nothing_trained_has_no_provenance(tmp_path):
    assert page.provenance([tmp_path / "not_trained"]) == {}


def test_models_of_different_machines_are_refused(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", instruction_set="avx2")]
    with pytest.raises(InputError, match="machines of different kinds"):
        page.provenance(models)
