"""The curves of the probes from hand-made results: what is drawn, its numbers, and columns that never change."""

import csv
import hashlib

import numpy as np
import pandas as pd
import pytest

from pipeline.core.records import write_csv
from pipeline.reporting import drawing
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.probe_figures import BARS, SETTINGS, table1_probes, table2_probes
from pipeline.reporting.rows import NOT_RUN


def probe(scale=1.0, all_labels=True, per_class=(10, 400)):
    """Two draws a number of labels a class; the middle one of three settings is the chosen one."""
    rows = []
    for k in (*([0] if all_labels else []), *per_class):
        n_labels = 10 * k or 50_000
        for draw in (0, 1) if k else (0,):
            error = scale * (20 if not k else 40 - k / 40) + draw
            rows += [("choose", k, n_labels, c, draw, error + 3 * (c != 0.01), 700) for c in (0.001, 0.01, 0.1)]
            rows.append(("test", k, n_labels, 0.01, draw, error, 1000))
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    found = pd.DataFrame(rows, columns=columns).assign(n_features=100, max_feature_units=8)
    assert found["error_percent"].between(0, 100).all()
    return found


def trials():
    return pd.DataFrame(
        {
            "trial": [0, 1, 2],
            "learning_rate": [0.1, 0.01, 0.001],
            "beta1": [0.5, 0.9, 0.5],
            "l2": [1e-6, 1e-5, 1e-4],
            "dropout": [0.1, 0.2, 0.3],
            "batch_size": [32, 64, 128],
            "initial_std": [0.01, 0.02, 0.03],
            "batch_norm": [True, False, True],
            "epochs": [50, 60, 70],
            "best_epoch": [10, 20, 30],
            "validation_error_percent": [40.0, 30.0, 30.0],
            "test_error_percent": [41.0, 33.0, 31.0],
            "n_labels": 1000,
        }
    )


@pytest.fixture
def results(tmp_path):
    for name in ("cifar10", "cifar10_random"):
        probe(1.0 + (name != "cifar10")).to_parquet(tmp_path / f"{name}.parquet")
    probe(all_labels=False, per_class=(100,)).to_parquet(tmp_path / "svhn.parquet")
    probe(0.5, all_labels=False, per_class=(100,)).assign(setting=3.0).to_parquet(tmp_path / "pixels.parquet")
    trials().to_parquet(tmp_path / "supervised_cnn.parquet")
    return tmp_path


def test_accuracy_over_c_is_the_mean_over_draws_on_validation_images(results):
    numbers = table1_probes(results).numbers
    over_c = numbers[numbers["log10_c"].notna()]
    assert over_c["log10_c"].tolist() == [-3, -2, -1]
    assert over_c["cifar10_all_labels"].tolist() == [77, 80, 77]
    assert over_c["cifar10_per_class"].tolist() == pytest.approx([66.5, 69.5, 66.5])  # errors of 400 a class: 30 + draw
    assert over_c["cifar10_per_class_spread"].tolist() == pytest.approx([np.sqrt(0.5)] * 3)
    assert over_c["cifar10_kmeans_all_labels"].isna().all()


def test_one_fit_has_no_spread_and_no_bar(results):
    drawn = table1_probes(results)
    numbers = drawn.numbers
    assert numbers["cifar10_all_labels"].notna().sum() == 3
    assert numbers["cifar10_all_labels_spread"].isna().all()
    test_spread = numbers.loc[numbers["log10_n_labels"].notna(), "cifar10_test_spread"]
    assert test_spread.tolist() == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), np.nan], nan_ok=True)
    for axis in drawn.figure.axes:
        assert axis.get_legend().get_title().get_text() == BARS
    bars = {line.get_label(): line.lines[2][0].get_segments() for line in drawn.figure.axes[0].containers}
    assert [len(bar) for bar in bars["D trained on ImageNet, all labels"]] == [0, 0, 0]
    assert [len(bar) for bar in bars["D trained on ImageNet, 400 labels a class"]] == [2, 2, 2]


def test_accuracy_over_labels_is_that_of_the_tests(results):
    numbers = table1_probes(results).numbers
    over_labels = numbers[numbers["log10_n_labels"].notna()]
    assert (10 ** over_labels["log10_n_labels"]).tolist() == pytest.approx([100, 4000, 50_000])
    assert over_labels["cifar10_random_test"].tolist() == pytest.approx([20.0, 39.5, 60.0])
    assert over_labels["log10_c"].isna().all(), "no row belongs to both plots"


def test_the_chosen_c_is_marked_on_every_line(results):
    over_c, _ = table1_probes(results).figure.axes
    stars = [line for line in over_c.lines if line.get_marker() == "*"]
    assert [list(star.get_xdata()) for star in stars] == [[0.01]] * 4
    assert [text.get_text() for text in over_c.get_legend().get_texts()] == [
        "D trained on ImageNet, all labels", "D trained on ImageNet, 400 labels a class",
        "random D, all labels", "random D, 400 labels a class",
    ]  # fmt: skip


def test_metrics_have_a_number_a_feature_set_and_number_of_labels(results):
    metrics = table1_probes(results).metrics
    assert list(metrics) == ["cifar10", "cifar10_random"]
    assert metrics["cifar10"]["labels_4000"] == {"mean": 69.5, "setting": 0.01}
    assert metrics["cifar10"]["labels_50000"]["mean"] == 80.0


def test_table2_shows_pixels_and_the_supervised_trials(results):
    drawn = table2_probes(results)
    numbers = drawn.numbers
    ranked = numbers[numbers["trial_rank"].notna()]
    assert ranked["trial"].tolist() == [1, 2, 0]
    assert ranked["trial_validation"].tolist() == [30, 30, 40]
    assert ranked["trial_test"].tolist() == [33, 31, 41]
    assert ranked["learning_rate"].tolist() == [0.01, 0.001, 0.1]
    assert ranked["batch_norm"].tolist() == [False, True, True]
    assert ranked["best_epoch"].tolist() == [20, 30, 10]
    assert ranked[list(SETTINGS)].notna().all(axis=None)
    assert numbers["pixels_test"].dropna().tolist() == pytest.approx([19.25])  # half of 37.5, and draws 0, 1
    assert numbers["svhn_per_class"].notna().sum() == 3
    assert drawn.metrics["supervised_cnn"] == {"n_trials": 3, "best_validation": 30.0, "test_of_best": 33.0}
    _, over_labels, _ = drawn.figure.axes
    assert [text.get_text() for text in over_labels.get_legend().get_texts()] == [
        "supervised CNN", "D trained on SVHN", "pixels, nearest neighbour",
    ]  # fmt: skip


def test_the_tracked_table_has_the_settings_of_all_trials(results, tmp_path):
    write_csv(tmp_path / "numbers.csv", table2_probes(results).numbers)
    with (tmp_path / "numbers.csv").open(newline="") as file:
        ranked = [row for row in csv.DictReader(file) if row["trial_rank"]]
    assert [ranked[0][name] for name in ("trial", "trial_validation", "trial_test", *SETTINGS)] == [
        "1", "30", "33", "0.01", "0.9", "1e-05", "0.2", "64", "0.02", "False", "60", "20",
    ]  # fmt: skip


@pytest.mark.parametrize("alone", ["pixels", "supervised_cnn", "svhn"])
def test_what_is_there_is_drawn(results, tmp_path, alone):
    folder = tmp_path / "alone"
    folder.mkdir()
    (results / f"{alone}.parquet").rename(folder / f"{alone}.parquet")
    drawn = table2_probes(folder)
    assert list(drawn.metrics) == [alone]
    said = [text.get_text() for axis in drawn.figure.axes for text in axis.texts]
    assert said == ([] if alone == "supervised_cnn" else [f"supervised CNN: {NOT_RUN}"])
    drawing.save(drawn.figure, tmp_path / "figure.png")


@pytest.mark.parametrize("name", ["table1_probes", "table2_probes"])
def test_the_numbers_have_the_same_columns_whatever_was_run(results, tmp_path, name):
    empty = tmp_path / "empty"
    empty.mkdir()
    drawn = FIGURES[name](empty)
    assert drawn.metrics == {"n_results": 0}
    assert [text.get_text() for axis in drawn.figure.axes for text in axis.texts] == [NOT_RUN]
    assert list(drawn.numbers.columns) == list(FIGURES[name](results).numbers.columns)


@pytest.mark.parametrize("name", ["table1_probes", "table2_probes"])
def test_same_results_same_bytes(results, tmp_path, name):
    hashes = set()
    for copy in ("a.png", "b.png"):
        drawing.save(FIGURES[name](results).figure, tmp_path / copy)
        hashes.add(hashlib.sha256((tmp_path / copy).read_bytes()).hexdigest())
        assert (tmp_path / copy).stat().st_size < 500_000
    assert len(hashes) == 1
