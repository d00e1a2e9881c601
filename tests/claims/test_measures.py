"""Each metric on made-up results, against a slow definition."""

import inspect
import math

import numpy as np
import pandas as pd
import pytest
from made_claims import MadeOutputs, health
from safetensors.numpy import save_file

from pipeline.claims import measures
from pipeline.claims.measures import MEASURES, measure, refusal
from pipeline.core.errors import InputError

MODEL = "data/embedded/models/a"
RESULTS = "data/embedded/results"


def values(tmp_path, frames, metric, **of):
    return measure(metric, MadeOutputs(tmp_path, frames), of).values.to_dict()


def made_history():
    rng = np.random.default_rng(0)
    rows = [{"seed": seed, "step": 20 * k, "d_loss": rng.normal() + 0.1 * k} for seed in (1, 0) for k in range(1, 41)]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)  # the order of rows must not matter


def test_loss_oscillation_against_a_double_loop(tmp_path):
    history = made_history()
    found = values(
        tmp_path, {f"{MODEL}/history.parquet": history}, "loss_oscillation", run="a", loss="d_loss", window=5, skip=0.2
    )
    for seed in (0, 1):
        losses = list(history[history["seed"] == seed].sort_values("step")["d_loss"])[8:]
        residuals = [losses[k] - sum(losses[k - 2 : k + 3]) / 5 for k in range(2, len(losses) - 2)]
        mean = sum(residuals) / len(residuals)
        expected = math.sqrt(sum((r - mean) ** 2 for r in residuals) / len(residuals))
        assert found[seed] == pytest.approx(expected, rel=1e-9)


def test_a_straight_fall_does_not_oscillate_and_a_zigzag_does(tmp_path):
    steps = np.arange(30)
    for name, losses, expected in (("line", 3 - 0.1 * steps, 0.0), ("zigzag", (-1.0) ** steps, 1.0)):
        history = pd.DataFrame({"seed": 0, "step": steps, "d_loss": losses})
        found = values(
            tmp_path / name,
            {f"{MODEL}/history.parquet": history},
            "loss_oscillation",
            run="a",
            loss="d_loss",
            window=9,
            skip=0.0,
        )
        assert found[0] == pytest.approx(expected, abs=0.13)


def test_diversity_of_the_last_epoch_its_gap_and_its_jumps(tmp_path):
    frames = {f"{MODEL}/health.parquet": health({0: [0.2, 0.5, 0.9], 1: [0.1, 1.3, 1.2]})}
    assert values(tmp_path, frames, "final_diversity", run="a") == pytest.approx({"0": 0.9, "1": 1.2})
    gap = values(tmp_path, frames, "diversity_gap", run="a", until_epoch=2)
    assert gap == pytest.approx({"0": (0.8 + 0.5) / 2, "1": (0.9 + 0.3) / 2})
    jumps = values(tmp_path, frames, "diversity_oscillation", run="a", after_epoch=0)
    assert jumps == pytest.approx({"0": (0.3 + 0.4) / 2, "1": (1.2 + 0.1) / 2})
    assert values(tmp_path, frames, "diversity_oscillation", run="a", after_epoch=1) == pytest.approx(
        {"0": 0.4, "1": 0.1}
    )


def test_networks_of_several_splits_are_told_apart(tmp_path):
    both = pd.concat([health({0: [0.5]}, split=0), health({0: [0.7]}, split=1)])
    found = values(tmp_path, {f"{MODEL}/health.parquet": both}, "final_diversity", run="a")
    assert found == pytest.approx({"0/0": 0.5, "1/0": 0.7})


def test_validation_error_is_of_the_last_epoch_and_the_largest_search(tmp_path):
    rows = [(0, 8, 5000, 20.0), (0, 8, 500, 30.0), (0, 16, 5000, 10.0), (0, 16, 500, 25.0), (1, 16, 5000, 12.0)]
    frame = pd.DataFrame(rows, columns=["seed", "epoch", "n_images", "error_percent"])
    frames = {f"{MODEL}/validation.parquet": frame}
    assert values(tmp_path, frames, "validation_error", run="a", until_epoch=16) == {0: 10.0, 1: 12.0}
    assert values(tmp_path, frames, "validation_error", run="a", until_epoch=8) == {0: 20.0}


def test_dead_filters_and_twins(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(10, 3, 5, 5)).astype(np.float32)
    weight[3] = -2 * weight[1]  # a twin, whatever its sign and size
    weight[7] *= 0.001  # dead
    weight[8] = 0.001 * weight[2]  # dead, too, and so no twin of one that lives
    other = rng.normal(size=(10, 3, 5, 5)).astype(np.float32)
    outputs = MadeOutputs(tmp_path, {})
    (tmp_path / MODEL).mkdir(parents=True)
    save_file(
        {"seed0/d/0.weight": weight, "seed1/d/0.weight": other, "seed0/d/1.gain": np.ones(3, np.float32)},
        tmp_path / MODEL / "networks.safetensors",
    )
    of = {"run": "a", "tensor": "d/0.weight", "least_cosine": 0.9, "least_norm": 0.1}
    found = measure("alike_filters", outputs, of).values.to_dict()
    assert found == {0: 40.0, 1: 0.0}
    with pytest.raises(InputError, match=r"no tensor 'x'; found d/0\.weight, d/1\.gain"):
        measure("alike_filters", outputs, of | {"tensor": "x"})


def test_classification_error_is_of_the_last_epoch(tmp_path):
    rows = [(0, 0, 4, 30.0), (0, 1, 4, 28.0), (0, 0, 8, 20.0), (0, 1, 8, 18.0)]
    frame = pd.DataFrame(rows, columns=["split", "seed", "epoch", "error_percent"])
    found = values(tmp_path, {f"{MODEL}/errors.parquet": frame}, "classification_error", run="a")
    assert found == {"0/0": 20.0, "0/1": 18.0}


def test_scores_are_means_over_the_splits(tmp_path):
    rows = [(0, "s", 0, 2.0), (0, "s", 1, 4.0), (1, "s", 0, 1.0), (1, "s", 1, 1.5), (0, "t", -1, 9.0)]
    frame = pd.DataFrame(rows, columns=["seed", "quantity", "split", "value"])
    frames = {f"{RESULTS}/improved_table3/a.parquet": frame}
    assert values(tmp_path, frames, "sample_score", run="a", quantity="s") == {0: 3.0, 1: 1.25}
    with pytest.raises(InputError, match="no score 'u'; found s, t"):
        values(tmp_path, frames, "sample_score", run="a", quantity="u")


def test_games_searches_probes_and_shares(tmp_path):
    sweep = pd.DataFrame(
        [("xy", 0, 0.1, 0.01, 0.5), ("xy", 1, 0.1, 0.01, 0.7), ("xy", 0, 0.0, 0.01, 3.0), ("xy", 0, 0.1, 0.1, 9.0)],
        columns=["game", "start", "strength", "learning_rate", "late_distance"],
    )
    search = pd.DataFrame(
        [(0, "generator", 1000, 9.0), (0, "generator_last", 1000, 8.0), (0, "generator", 500, 12.0)],
        columns=["seed", "network", "n_images", "error_percent"],
    )
    probe = pd.DataFrame(
        [("test", 100, 0, 5.0), ("test", 100, 1, 6.0), ("choose", 100, 0, 1.0), ("test", 10, 0, 30.0)],
        columns=["purpose", "labels_per_class", "draw", "error_percent"],
    )
    share = pd.DataFrame([("z", 3, 0.75, 0.7, 0.8)], columns=["space", "n_exemplars", "share", "low", "high"])
    cells = pd.DataFrame(
        [("Ours", "Labels 20", 7.0), ("Ours", "Labels 50", None), ("Theirs", "Labels 20", None)],
        columns=["row", "column", "measured"],
    )
    outputs = MadeOutputs(
        tmp_path,
        {
            f"{RESULTS}/toy_games/sweep.parquet": sweep,
            f"{RESULTS}/dcgan_table3/a.parquet": search,
            f"{RESULTS}/t/f.parquet": probe,
            f"{RESULTS}/dcgan_fig7/arithmetic.parquet": share,
            "reports/embedded/tables/t.csv": cells,
        },
    )
    games = measure("game_distance", outputs, {"strength": 0.1, "learning_rate": 0.01})
    assert games.values.to_dict() == {"xy/0": 0.5, "xy/1": 0.7}
    assert measure("neighbour_error", outputs, {"run": "a", "n_images": 1000}).values.to_dict() == {0: 9.0}
    probed = measure("probe_error", outputs, {"table": "t", "features": "f", "labels_per_class": 100})
    assert probed.values.to_dict() == {0: 5.0, 1: 6.0}
    right = measure("arithmetic_share", outputs, {"space": "z", "n_exemplars": 3})
    assert (right.values.to_dict(), right.interval) == ({"all": 75.0}, pytest.approx((70.0, 80.0)))
    assert measure("table_cells", outputs, {"table": "t", "row": "Ours"}).values.to_dict() == {"labels_20": 7.0}
    for metric, of in (
        ("game_distance", {"strength": 0.2, "learning_rate": 0.01}),
        ("neighbour_error", {"run": "a", "n_images": 7}),
        ("probe_error", {"table": "t", "features": "f", "labels_per_class": 7}),
        ("arithmetic_share", {"space": "x", "n_exemplars": 3}),
        ("table_cells", {"table": "t", "row": "Theirs"}),
        ("table_cells", {"table": "gone", "row": "Ours"}),
    ):
        with pytest.raises(InputError):
            measure(metric, outputs, of)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pd.DataFrame({"seed": [0], "step": [1]}), "expected also d_loss"),
        (pd.DataFrame({"seed": [], "step": [], "d_loss": []}), "no rows"),
        (pd.DataFrame({"seed": 0, "step": range(8), "d_loss": 1.0}), "8 logged rows are too few"),
    ],
)
def test_results_that_give_no_number_are_refused(tmp_path, frame, said):
    of = {"run": "a", "loss": "d_loss", "window": 9, "skip": 0.0}
    with pytest.raises(InputError, match=said):
        values(tmp_path, {f"{MODEL}/history.parquet": frame}, "loss_oscillation", **of)


@pytest.mark.parametrize("none", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_and_not_left_out_of_a_mean(tmp_path, none):
    history = made_history()
    history.loc[history["step"] == 400, "d_loss"] = none
    scores = pd.DataFrame({"seed": 0, "quantity": ["s", "s", "t"], "value": [1.0, none, 2.0]})
    frames = {
        f"{MODEL}/health.parquet": health({0: [0.5, 0.6, 0.7, 0.8], 1: [0.5, none, 0.7, 0.8]}),
        f"{MODEL}/history.parquet": history,
        f"{MODEL}/validation.parquet": pd.DataFrame(
            {"seed": [0, 1], "epoch": 8, "n_images": 500, "error_percent": [1.0, none]}
        ),
        f"{RESULTS}/improved_table3/a.parquet": scores,
    }
    for metric, of in (
        ("diversity_gap", {"until_epoch": 3}),
        ("diversity_oscillation", {"after_epoch": 1}),
        ("loss_oscillation", {"loss": "d_loss", "window": 5, "skip": 0.2}),
        ("validation_error", {"until_epoch": 8}),
        ("sample_score", {"quantity": "s"}),
    ):
        with pytest.raises(InputError, match="a number is NaN or infinite"):
            values(tmp_path, frames, metric, run="a", **of)
    assert values(tmp_path, frames, "sample_score", run="a", quantity="t") == {0: 2.0}


def test_too_few_epochs_are_refused(tmp_path):
    frames = {f"{MODEL}/health.parquet": health({0: [0.5, 0.6]})}
    with pytest.raises(InputError, match="fewer than two epochs after epoch 1"):
        values(tmp_path, frames, "diversity_oscillation", run="a", after_epoch=1)
    with pytest.raises(InputError, match="no epoch up to 0"):
        values(tmp_path, frames, "diversity_gap", run="a", until_epoch=0)


def test_parameters_are_those_of_the_function():
    for metric, function in MEASURES.items():
        named = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert all(p.annotation in (str, int, float) and p.default is p.empty for p in named), metric
    assert refusal("final_diversity", {"run": "a"}) == ""
    assert "expected float, found True" in refusal("game_distance", {"strength": True, "learning_rate": 0.1})
    assert refusal("game_distance", {"strength": 1, "learning_rate": 0.1}) == "", "1 is a number, too"
    assert "expected int, found 1.5" in refusal("diversity_gap", {"run": "a", "until_epoch": 1.5})


def test_every_metric_is_in_the_table_of_metrics():
    public = {
        name
        for name, item in vars(measures).items()
        if inspect.isfunction(item) and item.__module__ == measures.__name__ and not name.startswith("_")
    }
    assert public - {"measure", "refusal"} == set(MEASURES)
