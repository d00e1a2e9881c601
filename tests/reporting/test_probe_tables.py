"""Tables 1 and 2 from hand-made results: every printed row, the right measurement in it, nothing invented."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from pipeline import papers
from pipeline.reporting.probe_tables import dcgan_table1, dcgan_table2
from pipeline.reporting.rows import NOT_RUN, QUOTED, Report

NOTES = {"dcgan_imagenet": "few photographs", "cifar10_kmeans": "fewer maps", "svhn_random": "one draw of weights"}
DATASETS = {"cifar10": "what CIFAR-10 is", "svhn": "what SVHN is"}


def report(comparable="no"):
    return Report(comparable=comparable, notes=NOTES, datasets=DATASETS)


def probe(
    all_labels=None, per_class=None, *, n_test=10_000, size=(28_672, 512), settings=(0.001, 0.01, 0.1), chosen=0.01
):
    """Rows of a probe: ``all_labels`` (n_labels, error); ``per_class`` labels a class -> errors of its draws.

    ``size``: features in all, and maps of the widest layer.
    """
    tests = [(0, *all_labels, 0)] if all_labels else []
    tests += [(k, 10 * k, error, draw) for k, errors in (per_class or {}).items() for draw, error in enumerate(errors)]
    rows = []
    for k in sorted({test[0] for test in tests}):
        n_labels = next(test[1] for test in tests if test[0] == k)
        for setting in settings:
            error = 90.0 if setting != chosen else 5.0
            rows += [("choose", k, n_labels, setting, draw, error, 700) for draw in range(2 if k else 1)]
    rows += [("test", k, n_labels, chosen, draw, error, n_test) for k, n_labels, error, draw in tests]
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    return pd.DataFrame(rows, columns=columns).assign(n_features=size[0], max_feature_units=size[1])


def trials(*errors, n_labels=1000, n_validation=10_000, n_test=26_032):
    """A trial for each (validation error, test error)."""
    frame = pd.DataFrame(errors, columns=["validation_error_percent", "test_error_percent"])
    frame["trial"] = range(len(frame))
    settings = {"learning_rate": 0.002, "beta1": 0.5, "l2": 1e-5, "dropout": 0.25, "batch_size": 32}
    settings |= {"initial_std": 0.02, "batch_norm": True, "epochs": 40, "best_epoch": 30, "n_parameters": 1_100_000}
    return frame.assign(**settings, n_labels=n_labels, n_validation=n_validation, n_test=n_test)


def write(folder: Path, **tables: pd.DataFrame) -> Path:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder


def cells(rows):
    found = {(row.row, row.column): row for row in rows}
    assert len(found) == len(rows)
    return found


SVHN_SIZE = (7_168, 256)  # of D of run dcgan_svhn: half as many filters as on ImageNet
PAPER = {"all_labels": (50_000, 18.0), "per_class": {400: [27.0, 28.0, 29.0]}}
TABLES = {"dcgan_table1": (dcgan_table1, papers.DCGAN_TABLE1), "dcgan_table2": (dcgan_table2, papers.DCGAN_TABLE2)}


@pytest.fixture
def table1(tmp_path):
    folder = write(
        tmp_path,
        cifar10=probe(**PAPER),
        cifar10_kmeans=probe((50_000, 22.5), {400: [36.0, 38.0]}, size=(6400, 1600)),
        cifar10_random=probe((50_000, 38.5), {40: [60.0, 61.0], 400: [45.0, 46.0], 1000: [41.0, 42.0]}),
    )
    return cells(dcgan_table1(folder, report("yes")))


@pytest.fixture
def table2(tmp_path):
    folder = write(
        tmp_path,
        svhn=probe(None, {50: [40.0, 41.0], 100: [22.0, 24.0]}, n_test=26_032, size=SVHN_SIZE),
        pixels=probe(None, {100: [77.0, 79.0]}, n_test=26_032, size=(3072, 0), settings=(1, 3), chosen=1),
        supervised_cnn=trials((40.0, 41.0), (30.0, 33.0), (30.0, 31.0)),
    )
    return cells(dcgan_table2(folder, report("reduced")))


@pytest.mark.parametrize("name", TABLES)
def test_every_printed_row_in_order_whatever_was_run(tmp_path, name):
    make, published = TABLES[name]
    rows = make(tmp_path, report())
    head = rows[: len(published)]
    assert [(r.row, r.column, r.paper, r.paper_spread, r.unit, r.kind) for r in head] == [
        (p.row, p.column, p.value, p.spread, p.unit, p.kind) for p in published
    ]
    assert {r.kind for r in rows[len(published) :]} == {"extra"}
    assert all(r.measured is None for r in rows)
    assert all(r.note == (QUOTED if r.kind == "published" and r.row not in ours(name) else NOT_RUN) for r in rows)


def ours(name):
    """Baselines of the paper that are measured here too."""
    return {"dcgan_table1": {papers.KMEANS}, "dcgan_table2": {papers.KNN}}[name]


def test_accuracy_is_what_is_left_of_the_error(table1):
    row = table1[papers.DCGAN_SVM, papers.ACCURACY_FULL]
    assert (row.measured, row.spread, row.spread_over) == (82.0, None, "")
    assert (row.n_labels, row.n_images, row.n_seeds, row.comparable) == (50_000, 10_000, 1, "yes")
    assert row.dataset == "what CIFAR-10 is"
    assert "all 50,000 labels; C 0.01 of 3, chosen on 700 validation images; 28,672 features" in row.note
    assert "D of run dcgan_imagenet; few photographs" in row.note


def test_spread_is_the_sample_deviation_over_draws(table1):
    row = table1[papers.DCGAN_SVM, papers.ACCURACY_400]
    assert (row.measured, row.spread, row.spread_over) == (pytest.approx(72.0), pytest.approx(1.0), "draws")
    assert row.n_labels == 4_000
    assert "4,000 labels (400 a class); 3 draws; 1.96 x ± is 1.96; C 0.01 of 3" in row.note
    assert "validation images in 2 draws" in row.note


def test_a_quoted_baseline_is_measured_beside_the_paper(table1):
    row = table1[papers.KMEANS, papers.ACCURACY_FULL]
    assert (row.kind, row.paper, row.measured) == ("published", 80.6, 77.5)
    assert "fewer maps" in row.note
    assert row.comparable == "reduced", "1,600 maps where the paper has 4,800"
    assert table1["Exemplar CNN", papers.ACCURACY_FULL].measured is None


def test_units_are_those_of_the_features(table1):
    assert table1[papers.DCGAN_SVM, papers.MAX_UNITS].measured == 512
    kmeans = table1[papers.KMEANS, papers.MAX_UNITS]
    assert (kmeans.measured, kmeans.paper, kmeans.comparable) == (1600, 4800, "reduced")
    assert kmeans.note == "6,400 features in all instead of 19,200"
    assert table1[papers.DCGAN_SVM, papers.MAX_UNITS].comparable == "yes"


def test_the_largest_number_of_labels_within_the_column_is_taken(table1, tmp_path):
    assert table1["Random D + L2-SVM", papers.ACCURACY_400].measured == pytest.approx(54.5)
    write(tmp_path, cifar10=probe((10_000, 50.0), {5: [70.0], 20: [60.0, 62.0]}, n_test=2000))
    few = cells(dcgan_table1(tmp_path, report()))[papers.DCGAN_SVM, papers.ACCURACY_400]
    assert (few.measured, few.n_labels, few.n_images) == (pytest.approx(39.0), 200, 2000)
    assert "200 labels (20 a class) instead of 4,000; 2,000 test images instead of 10,000" in few.note


def test_what_was_not_fitted_is_said(tmp_path):
    write(tmp_path, cifar10=probe(None, {1000: [20.0]}), cifar10_random=probe((50_000, 40.0)))
    found = cells(dcgan_table1(tmp_path, report()))
    full, at_400 = (found[papers.DCGAN_SVM, column] for column in (papers.ACCURACY_FULL, papers.ACCURACY_400))
    assert (full.measured, full.note) == (None, "no classifier was fitted on all labels")
    assert (at_400.measured, at_400.note) == (None, "no classifier was fitted on 400 labels a class or fewer")
    assert found["Random D + L2-SVM", papers.ACCURACY_FULL].measured == 60.0


def test_features_that_are_missing_leave_their_rows_empty(table1):
    for column in (papers.ACCURACY_FULL, papers.ACCURACY_400, papers.MAX_UNITS):
        row = table1["DCGAN trained on CIFAR-10 + L2-SVM", column]
        assert (row.measured, row.note, row.kind) == (None, NOT_RUN, "extra")


@pytest.mark.parametrize(
    ("settings", "chosen", "told"),
    [
        ((0.01, 0.1), 0.01, "C 0.01, the smallest of 2"),
        ((0.001, 0.01), 0.01, "C 0.01, the largest of 2"),
        ((0.01,), 0.01, "C 0.01, the only one tried"),
    ],
)
def test_an_optimum_at_the_end_of_the_grid_is_said(tmp_path, settings, chosen, told):
    write(tmp_path, cifar10=probe((50_000, 18.0), settings=settings, chosen=chosen))
    assert told in cells(dcgan_table1(tmp_path, report()))[papers.DCGAN_SVM, papers.ACCURACY_FULL].note


def test_one_draw_has_no_spread(tmp_path):
    write(tmp_path, cifar10=probe(None, {400: [27.0]}))
    row = cells(dcgan_table1(tmp_path, report()))[papers.DCGAN_SVM, papers.ACCURACY_400]
    assert (row.measured, row.spread, row.spread_over) == (73.0, None, "")
    assert "; one draw;" in row.note


def test_svhn_is_an_error_at_a_hundred_labels_a_class(table2):
    row = table2[papers.DCGAN_SVM, papers.TEST_1000]
    assert (row.measured, row.paper, row.n_labels, row.n_images) == (pytest.approx(23.0), 22.48, 1000, 26_032)
    assert row.spread == pytest.approx(2**0.5)
    assert "the authors' later script takes SVHN and prints 22.18 ± 1.13 (1.96 x)" in row.note
    assert row.comparable == "reduced"


def test_the_papers_size_in_table2_is_that_of_its_own_discriminators(tmp_path):
    draws = {100: [22.0 + 0.01 * draw for draw in range(100)]}
    full = probe(None, draws, n_test=26_032, size=SVHN_SIZE)
    imagenet = probe(None, draws, n_test=26_032)
    found = cells(
        dcgan_table2(write(tmp_path, svhn=full, svhn_random=full, svhn_dcgan_imagenet=imagenet), report("yes"))
    )
    for name in (papers.DCGAN_SVM, "Random D + L2-SVM", "DCGAN trained on ImageNet + L2-SVM"):
        row = found[name, papers.TEST_1000]
        assert (row.measured, row.comparable) == (pytest.approx(22.495), "yes")
        assert "instead of" not in row.note
        assert "; 100 draws; 1.96 x ± is 0.57; " in row.note
    assert "7,168 features; D of run dcgan_svhn: the paper" in found[papers.DCGAN_SVM, papers.TEST_1000].note


@pytest.mark.parametrize(
    ("n_draws", "size", "told"),
    [
        (99, SVHN_SIZE, "99 draws instead of 100"),
        (1, SVHN_SIZE, "one draw instead of 100"),
        (100, (3584, 128), "3,584 features instead of 7,168"),
    ],
)
def test_fewer_draws_or_features_are_not_the_papers_row(tmp_path, n_draws, size, told):
    write(tmp_path, svhn=probe(None, {100: [22.0] * n_draws}, n_test=26_032, size=size))
    row = cells(dcgan_table2(tmp_path, report("yes")))[papers.DCGAN_SVM, papers.TEST_1000]
    assert row.comparable == "reduced"
    assert told in row.note


@pytest.mark.parametrize(("name", "title"), [("dcgan_table1", "CIFAR-10"), ("dcgan_table2", "SVHN")])
def test_quoted_numbers_are_of_the_real_images(tmp_path, name, title):
    rows = TABLES[name][0](tmp_path, report())
    assert {row.dataset for row in rows if row.note == QUOTED} == {title}
    assert title not in {row.dataset for row in rows if row.note != QUOTED}


def test_untrained_rows_say_whose_layers(table1, tmp_path):
    assert "; D of run dcgan_cifar10 as drawn, untrained" in table1["Random D + L2-SVM", papers.ACCURACY_FULL].note
    write(tmp_path, svhn_random=probe(None, {100: [60.0, 61.0]}, size=SVHN_SIZE))
    row = cells(dcgan_table2(tmp_path, report()))["Random D + L2-SVM", papers.TEST_1000]
    assert row.note.endswith("; D of run dcgan_svhn as drawn, untrained; one draw of weights")


@pytest.mark.parametrize(
    ("n_labels", "n_test", "comparable", "told"),
    [
        (100, 26_032, "yes", "yes"),
        (100, 26_032, "reduced", "reduced"),
        (100, 26_032, "no", "no"),
        (50, 26_032, "yes", "reduced"),
        (100, 1000, "yes", "reduced"),
    ],
)
def test_pixels_are_comparable_as_the_profile_is(tmp_path, n_labels, n_test, comparable, told):
    write(tmp_path, pixels=probe(None, {n_labels: [77.0, 78.0]}, n_test=n_test, size=(3072, 0)))
    assert cells(dcgan_table2(tmp_path, report(comparable)))[papers.KNN, papers.TEST_1000].comparable == told


def test_pixels_stand_beside_the_quoted_number(table2):
    row = table2[papers.KNN, papers.TEST_1000]
    assert (row.kind, row.paper, row.measured, row.comparable) == ("published", 77.93, pytest.approx(78.0), "reduced")
    assert row.n_seeds is None
    assert "k 1, the smallest of 2" in row.note
    assert "3,072 pixel values; the protocol of the quoted number is not known" in row.note


def test_fewer_test_images_are_not_the_papers_row(tmp_path):
    write(tmp_path, svhn=probe(None, {100: [22.0] * 100}, n_test=26_031, size=SVHN_SIZE))
    assert cells(dcgan_table2(tmp_path, report("yes")))[papers.DCGAN_SVM, papers.TEST_1000].comparable == "reduced"


def test_supervised_row_is_the_best_trial_on_validation_images(table2):
    row = table2[papers.SUPERVISED, papers.VALIDATION_1000]
    assert (row.kind, row.measured, row.n_images, row.n_labels) == ("ours", 30.0, 10_000, 1000)
    assert "best of 3 trials on validation images instead of 64" in row.note
    assert "trial 1: learning rate 0.002, beta1 0.5, l2 1e-05, dropout 0.25, batch 32, initial std 0.02" in row.note
    assert "with batch norm, state after epoch 30 of 40; 1,100,000 parameters" in row.note
    test = table2[papers.SUPERVISED, papers.TEST_1000]
    assert (test.kind, test.measured, test.n_images) == ("extra", 33.0, 26_032)
    assert "10,000 validation images; 26,032 test images" in test.note
    assert table2[papers.SUPERVISED, "trials"].measured == 3


def test_sixty_four_trials_at_full_size_are_the_papers(tmp_path):
    write(tmp_path, supervised_cnn=trials(*[(30.0 + i, 31.0 + i) for i in range(64)]))
    row = cells(dcgan_table2(tmp_path, report("yes")))[papers.SUPERVISED, papers.VALIDATION_1000]
    assert row.comparable == "yes"
    assert "instead of" not in row.note
    assert cells(dcgan_table2(tmp_path, report("yes")))[papers.SUPERVISED, papers.TEST_1000].comparable == "yes"
    write(tmp_path, supervised_cnn=trials((30.0, 31.0), n_labels=200, n_validation=500))
    row = cells(dcgan_table2(tmp_path, report("yes")))[papers.SUPERVISED, papers.VALIDATION_1000]
    assert (row.comparable, row.n_labels, row.n_images) == ("reduced", 200, 500)
    assert "200 labels instead of 1,000; 500 validation images instead of 10,000" in row.note


def test_fewer_test_images_reduce_the_test_error_of_the_trials_alone(tmp_path):
    write(tmp_path, supervised_cnn=trials(*[(30.0 + i, 31.0 + i) for i in range(64)], n_test=1000))
    found = cells(dcgan_table2(tmp_path, report("yes")))
    assert found[papers.SUPERVISED, papers.VALIDATION_1000].comparable == "yes"
    assert found[papers.SUPERVISED, papers.TEST_1000].comparable == "reduced"


@pytest.mark.parametrize("profile", ["embedded", "laptop", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_committed_tables_follow_the_contract(root, profile, name):
    path = root / f"reports/{profile}/tables/{name}.csv"
    if profile != "embedded" and not path.exists():
        pytest.skip(f"profile {profile} has no committed {name}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    _, published = TABLES[name]
    printed = [(p.row, p.column, p.value, p.kind) for p in published]
    assert [(r["row"], r["column"], float(r["paper"]), r["kind"]) for r in rows[: len(printed)]] == printed
    for r in rows:
        assert r["measured"] or r["note"]
        assert not r["measured"] or r["kind"] != "published" or r["row"] in ours(name)
