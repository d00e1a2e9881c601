"""Improved GAN's tables from hand-made logits: every printed row, the right networks in each, nothing invented."""

import csv
import json

import made_semisupervised as made
import numpy as np
import pytest

from pipeline import papers
from pipeline.core import params, records
from pipeline.core.errors import InputError
from pipeline.reporting import semisup_tables as semisup
from pipeline.reporting.rows import NOT_RUN, QUOTED, Report
from pipeline.reporting.tables import TABLES

CLASSES, N_TEST = 10, 200
DATASETS = {"mnist": "what MNIST is", "cifar10": "what CIFAR-10 is", "svhn": "what SVHN is"}
NOTES = {"mnist-100": "a short schedule", "mb_svhn": "few maps"}
PRINTED = {  # the papers' tables, row, labels: error, standard deviation, whether the authors' own
    "improved_table1": """
        DGN | 100: 333 14 | published
        Virtual Adversarial | 100: 212 - | published
        CatGAN | 100: 191 10 | published
        Skip Deep Generative Model | 100: 132 7 | published
        Ladder network | 100: 106 37 | published
        Auxiliary Deep Generative Model | 100: 96 2 | published
        Our model | 20: 1677 452, 50: 221 136, 100: 93 6.5, 200: 90 4.2 | ours
        Ensemble of 10 of our models | 20: 1134 445, 50: 142 96, 100: 86 5.6, 200: 81 4.3 | ours
    """,
    "improved_table2": """
        Ladder network | 4000: 20.40 0.47 | published
        CatGAN | 4000: 19.58 0.46 | published
        Our model | 1000: 21.83 2.01, 2000: 19.61 2.09, 4000: 18.63 2.32, 8000: 17.72 1.82 | ours
        Ensemble of 10 of our models | 1000: 19.22 0.54, 2000: 17.25 0.66, 4000: 15.59 0.47, 8000: 14.87 0.89 | ours
    """,
    "improved_svhn": """
        DGN | 1000: 36.02 0.10 | published
        Virtual Adversarial | 1000: 24.63 - | published
        Auxiliary Deep Generative Model | 1000: 22.86 - | published
        Skip Deep Generative Model | 1000: 16.61 0.24 | published
        Our model | 500: 18.44 4.8, 1000: 8.11 1.3, 2000: 6.16 0.58 | ours
        Ensemble of 10 of our models | 1000: 5.88 1.0 | ours
    """,
}
PUBLISHED = {
    "improved_table1": papers.IMPROVED_TABLE1,
    "improved_table2": papers.IMPROVED_TABLE2,
    "improved_svhn": papers.IMPROVED_SVHN,
}
UNITS = {
    "improved_table1": "errors_of_10000",
    "improved_table2": "percent_error",
    "improved_svhn": "percent_error",
}
NAMES = pytest.mark.parametrize("name", PRINTED)
WIDTHS = {"mnist": (500, 250), "cifar10": (128, 96), "svhn": (128, 64)}
EPOCHS = {"mnist": (300, 0), "cifar10": (800, 400), "svhn": (600, 300)}
N_IMAGES = {"mnist": 60_000, "cifar10": 50_000, "svhn": 73_257}
OUR, ENSEMBLE = "Our model", "Ensemble of 10 of our models"
LOGITS, ALL = "Ensemble, averaged logits", "Our model, all seeds and splits"
ALONE, MINIBATCH = "Same network, labels only", "Minibatch discrimination model"


def report(comparable="no"):
    return Report(comparable=comparable, notes=NOTES, datasets=DATASETS)


def printed(name):
    """(row, column, value, spread, unit, kind) of each cell."""
    for line in PRINTED[name].strip().splitlines():
        row, cells, kind = (part.strip() for part in line.split("|"))
        for cell in cells.split(","):
            n_labels, numbers = cell.split(":")
            value, spread = numbers.split()
            plus_minus = None if spread == "-" else float(spread)
            yield row, f"labels_{n_labels.strip()}", float(value), plus_minus, UNITS[name], kind


def wrong_on(*counts, n_test=N_TEST, first=0):
    """Logits of members that are wrong on so many images, the first ones from ``first`` on; all labels are 0."""
    logits = np.zeros((len(counts), n_test, CLASSES), dtype=np.float32)
    logits[..., 0] = 1.0
    for of_member, count in zip(logits, counts, strict=True):
        of_member[first : first + count, 1] = 2.0
    return logits


MATCHING = "absolute_feature_matching"
AUTHORS = {  # what a run has unless the test says otherwise
    "mnist": {},
    "cifar10": {"generator_loss": MATCHING, "learning_rate": 3e-4, "offset": 127.5, "divisor": 128.0},
    "svhn": {"generator_loss": MATCHING, "learning_rate": 3e-4, "offset": 127.5, "divisor": 127.5},
}
OF_MINIBATCH = {
    "generator_loss": "minimax",
    "generator_steps": 3,
    "learning_rate": 3e-4,
    "n_kernels": 100,
    "kernel_dim": 5,
}


def write_run(
    folder, name, logits, *, splits=(0,), alone=None, n_images=None, n_labels=None, epochs=None, widths=None, **settings
):
    """A results folder: seeds 0, 1, ... of every split; the authors' settings, but for ``settings``."""
    dataset, _, n = name.partition("-")
    minibatch = name.startswith("mb_")
    dataset = name.removeprefix("mb_") if minibatch else dataset
    constant, decay = epochs or EPOCHS[dataset]
    g_width, d_width = widths or ((128, 96) if minibatch else WIDTHS[dataset])
    theirs = AUTHORS[dataset] | (OF_MINIBATCH if minibatch else {})
    theirs |= {"generator_width": g_width, "discriminator_width": d_width, "constant_epochs": constant}
    theirs |= {"decay_epochs": decay, "labels_only_epochs": 0 if alone is None else 5}
    params = made.params_of(n_labels or int(n), **theirs | settings)
    n_seeds = len(logits) // len(splits)
    members = np.array([(split, seed) for split in splits for seed in range(n_seeds)]).reshape(-1, 2)
    target = folder / name
    target.mkdir(parents=True)
    found = {"run": name, "params": params, "steps": 4200, "labels_only_steps": 350}
    found |= {"n_images": n_images or N_IMAGES[dataset]}
    (target / "run.json").write_text(json.dumps(found))
    np.savez(
        target / "logits.npz",
        members=members,
        labels=np.zeros(logits.shape[1], dtype=np.int64),
        logits=logits,
        labels_only=logits[:0] if alone is None else alone,
    )
    return folder


def cells(rows):
    found = {(row.row, row.column): row for row in rows}
    assert len(found) == len(rows)
    return found


def table(name, folder, comparable="no"):
    return cells(TABLES[name][1](folder, report(comparable)))


# ---- the published numbers ------------------------------------------------------------------------------------------


@NAMES
def test_published_numbers_are_the_papers(name):
    found = [(p.row, p.column, p.value, p.spread, p.unit, p.kind) for p in PUBLISHED[name]]
    assert found == list(printed(name))
    source = "Improved GAN, " + {"improved_table1": "Table 1", "improved_table2": "Table 2"}.get(name, "Figure 5")
    assert {p.kind: p.source for p in PUBLISHED[name]} == {"published": f"quoted in {source}", "ours": source}


@NAMES
def test_every_printed_row_in_order_where_nothing_was_run(tmp_path, name):
    rows = TABLES[name][1](tmp_path / "missing", report())
    assert [(r.row, r.column, r.paper, r.paper_spread, r.unit, r.kind) for r in rows] == list(printed(name))
    for row in rows:
        assert row.measured is None
        assert row.note == (QUOTED if row.kind == "published" else NOT_RUN)
        dataset = {"improved_table1": "MNIST", "improved_table2": "CIFAR-10", "improved_svhn": "SVHN"}[name]
        assert row.dataset == (dataset if row.kind == "published" else f"what {dataset} is")


@NAMES
def test_every_printed_row_in_order_where_all_was_run(tmp_path, name):
    dataset = {"improved_table1": "mnist", "improved_table2": "cifar10", "improved_svhn": "svhn"}[name]
    columns = list(dict.fromkeys(column for row, column, *_ in printed(name) if row == OUR))
    for number, column in enumerate(columns):
        run = f"{dataset}-{column.removeprefix('labels_')}"
        errors = wrong_on(20 + number, 24 + number, 30 + number, 30 + number)
        write_run(tmp_path, run, errors, splits=(0, 1), alone=wrong_on(90, 91, 92, 93))
    write_run(tmp_path, f"mb_{dataset}", wrong_on(10), n_labels=4000)
    rows = TABLES[name][1](tmp_path, report())
    n = len(PUBLISHED[name])
    assert [(r.row, r.column, r.paper, r.paper_spread, r.unit, r.kind) for r in rows[:n]] == list(printed(name))
    assert all(r.measured is None for r in rows if r.kind == "published")
    extra = [(r.row, r.column) for r in rows[n:]]
    more = [(ENSEMBLE, "labels_500"), (ENSEMBLE, "labels_2000")] if name == "improved_svhn" else []
    wanted = more + [(row, column) for row in (LOGITS, ALL, ALONE) for column in columns]
    minibatch = "labels_1000" if name == "improved_svhn" else "labels_4000"
    assert extra == [*wanted, (MINIBATCH, minibatch)]
    assert {(r.kind, r.paper, r.unit, r.source) for r in rows[n:]} == {("extra", None, UNITS[name], "ours")}
    scale = 10_000 if name == "improved_table1" else 100
    for number, column in enumerate(columns):
        single = next(r for r in rows if (r.row, r.column) == (OUR, column))
        assert single.measured == pytest.approx(scale * (25 + number) / N_TEST), "a run fills its own column"


# ---- which networks enter -------------------------------------------------------------------------------------------


def test_one_split_is_a_mean_over_seeds(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4, 9), alone=wrong_on(40, 44, 48))
    found = table("improved_table1", tmp_path)
    row = found[OUR, "labels_100"]
    assert (row.measured, row.spread) == (pytest.approx(250.0), pytest.approx(50 * 13**0.5))  # 5 of 200 = 250 of 10,000
    assert (row.spread_over, row.n_seeds, row.n_labels, row.n_images) == ("seeds", 3, 100, 60_000)
    assert (row.paper, row.paper_spread, row.dataset, row.comparable) == (93, 6.5, "what MNIST is", "no")
    said = "one split instead of 10; 3 seeds; 300 epochs; 4,200 steps; 200 test images instead of 10,000"
    assert row.note == f"{said}; a short schedule"
    assert (ALL, "labels_100") not in found


def test_several_splits_are_a_mean_over_the_first_seeds(tmp_path):
    write_run(tmp_path, "cifar10-4000", wrong_on(20, 0, 24, 0, 40, 0), splits=(5, 2, 9))
    row = table("improved_table2", tmp_path)[OUR, "labels_4000"]
    assert (row.measured, row.spread) == (pytest.approx(14.0), pytest.approx(28**0.5))  # 10, 12, 20 %
    assert (row.spread_over, row.n_seeds) == ("splits", 3)
    assert row.note.startswith("3 splits instead of 10; the first of 2 seeds of each; 1,200 epochs; ")


def test_all_networks_are_a_row_only_of_several_seeds_and_splits(tmp_path):
    write_run(tmp_path, "svhn-500", wrong_on(20, 22, 24, 30), splits=(0, 1))
    write_run(tmp_path, "svhn-1000", wrong_on(20, 30, 40))
    write_run(tmp_path, "svhn-2000", wrong_on(20, 30), splits=(0, 1))
    found = table("improved_svhn", tmp_path)
    row = found[ALL, "labels_500"]
    assert (row.measured, row.spread) == (pytest.approx(12.0), pytest.approx(0.5 * np.std([20, 22, 24, 30], ddof=1)))
    assert (row.spread_over, row.n_seeds) == ("splits and seeds", 4)
    assert row.note.startswith("2 splits instead of 10; 2 seeds; ")
    assert {column for name, column in found if name == ALL} == {"labels_500"}


def test_the_ensemble_of_a_split_outvotes_its_members(tmp_path):
    """Three members, each wrong on 20 other images of which two share 6."""
    logits = np.concatenate([wrong_on(20), wrong_on(20, first=14), wrong_on(20, first=100)])
    write_run(tmp_path, "mnist-100", logits)
    found = table("improved_table1", tmp_path)
    for row in (found[ENSEMBLE, "labels_100"], found[LOGITS, "labels_100"]):
        assert row.measured == pytest.approx(300.0)  # 6 of 200
        assert (row.spread, row.spread_over, row.n_seeds) == (None, "", 3)
        assert row.note.startswith("one split instead of 10; 3 seeds instead of 10; 300 epochs; ")
    assert found[ENSEMBLE, "labels_100"].kind == "ours"
    assert found[LOGITS, "labels_100"].kind == "extra"
    assert found[OUR, "labels_100"].measured == pytest.approx(1000.0)


def test_ensembles_are_of_one_split_each_and_averaged_over_the_splits(tmp_path):
    write_run(tmp_path, "svhn-1000", wrong_on(10, 10, 10, 30, 30, 30), splits=(0, 1))
    row = table("improved_svhn", tmp_path)[ENSEMBLE, "labels_1000"]
    assert (row.measured, row.spread) == (pytest.approx(10.0), pytest.approx(50**0.5))  # 5 and 15 %
    assert (row.spread_over, row.n_seeds) == ("splits", 3), "three networks form each"


def test_the_two_ensembles_are_told_apart(tmp_path):
    """A member so sure that it decides the averaged logits alone, and no more than its share of the probabilities."""
    logits = wrong_on(0, 0, 0)
    logits[:2, ..., 0] = 4.0
    logits[2, :50, 1] = 90.0
    write_run(tmp_path, "cifar10-1000", logits)
    found = table("improved_table2", tmp_path)
    assert found[ENSEMBLE, "labels_1000"].measured == 0.0
    assert found[LOGITS, "labels_1000"].measured == 25.0


def test_one_seed_of_each_split_is_no_ensemble(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4), splits=(0, 1), alone=wrong_on(40, 60))
    found = table("improved_table1", tmp_path)
    row = found[ENSEMBLE, "labels_100"]
    assert (row.measured, row.n_seeds, row.kind, row.comparable) == (None, None, "ours", "no")
    assert row.note == "no ensemble: each split has one seed only; a short schedule"
    assert (LOGITS, "labels_100") not in found
    assert found[OUR, "labels_100"].note.startswith("2 splits instead of 10; one seed; ")
    assert found[OUR, "labels_100"].spread_over == "splits"


def test_one_network_has_no_spread(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(3))
    row = table("improved_table1", tmp_path)[OUR, "labels_100"]
    assert (row.measured, row.spread, row.spread_over, row.n_seeds) == (pytest.approx(150.0), None, "", 1)
    assert row.note.startswith("one split instead of 10; one seed; ")


def test_labels_only_stand_beside_the_same_networks(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4), alone=wrong_on(40, 60), widths=(50, 250), n_images=4000)
    found = table("improved_table1", tmp_path)
    row = found[ALONE, "labels_100"]
    assert (row.measured, row.spread) == (pytest.approx(2500.0), pytest.approx(50 * 200**0.5))
    assert (row.spread_over, row.n_seeds, row.n_labels, row.n_images) == ("seeds", 2, 100, 100)
    assert row.note == (  # no generator and no image without a label had a part in it
        "one split instead of 10; 2 seeds; 5 epochs; 350 steps; 200 test images instead of 10,000; "
        "on labels alone the parameter average has the rate 0.006: 0.0001 times 300 / 5 epochs; a short schedule"
    )
    write_run(tmp_path, "mnist-50", wrong_on(2, 4, 6, 8), alone=wrong_on(40, 0, 60, 0), splits=(0, 1))
    row = table("improved_table1", tmp_path)[ALONE, "labels_50"]
    assert (row.measured, row.spread_over, row.n_seeds) == (pytest.approx(2500.0), "splits", 2)


@pytest.mark.parametrize(
    ("rate", "epochs", "told"),
    [(0.0, (300, 0), ""), (1e-4, (5, 0), ""), (0.5, (10, 10), "the rate 1: 0.5 times 20 / 5 epochs")],
)
def test_the_average_on_labels_alone_is_told_at_the_rate_of_its_training(tmp_path, rate, epochs, told):
    """That of ``train_labels_only``: as much faster as its schedule is shorter, 1 at most."""
    write_run(tmp_path, "mnist-100", wrong_on(2), alone=wrong_on(40), epochs=epochs, parameter_average=rate)
    note = table("improved_table1", tmp_path)[ALONE, "labels_100"].note
    assert told in note
    assert bool(told) == ("on labels alone" in note)


def test_labels_only_are_left_out_where_they_were_not_trained(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4))
    assert ALONE not in {row for row, _ in table("improved_table1", tmp_path)}


def test_minibatch_model_stands_in_the_column_of_the_authors_labels(tmp_path):
    write_run(tmp_path, "mb_svhn", wrong_on(20), n_labels=1000, widths=(128, 64))
    found = table("improved_svhn", tmp_path)
    row = found[MINIBATCH, "labels_1000"]
    assert (row.measured, row.n_seeds, row.n_labels, row.kind) == (10.0, 1, 1000, "extra")
    assert row.note == (
        "one split; one seed; 900 epochs; 4,200 steps; 200 test images instead of 26,032; width of D 64 instead of 96; "
        "tested in batches of 100 in a fixed random order: its layer sees a batch; few maps"
    )
    assert found[OUR, "labels_1000"].note == NOT_RUN
    write_run(tmp_path, "mb_mnist", wrong_on(20, 30), n_labels=4000)
    row = table("improved_table1", tmp_path)[MINIBATCH, "labels_4000"]
    assert (row.measured, row.unit, row.spread_over) == (pytest.approx(1250.0), "errors_of_10000", "seeds")
    assert "300 epochs; 4,200" in row.note, "nobody knows the epochs of the lost script"
    assert "labels instead of" not in row.note


@pytest.mark.parametrize(
    ("name", "run", "column", "theirs"),
    [
        ("improved_table1", "mb_mnist", "labels_4000", "4,000"),
        ("improved_table2", "mb_cifar10", "labels_4000", "4,000"),
        ("improved_svhn", "mb_svhn", "labels_1000", "1,000"),
    ],
)
def test_a_minibatch_model_with_other_labels_says_how_many(tmp_path, name, run, column, theirs):
    write_run(tmp_path, run, wrong_on(20), n_labels=500)
    row = table(name, tmp_path)[MINIBATCH, column]
    assert row.n_labels == 500
    assert f"; 500 labels instead of {theirs}; " in row.note


# ---- how it is to be read -------------------------------------------------------------------------------------------


def full(folder, n_splits=10, n_seeds=10, **settings):
    """The paper's run of MNIST in full, on logits that repeat themselves."""
    logits = np.tile(wrong_on(3, n_test=settings.pop("n_test", 10_000)), (n_splits * n_seeds, 1, 1))
    return write_run(folder, "mnist-200", logits, splits=range(n_splits), **settings)


def test_the_papers_run_in_full_is_comparable(tmp_path):
    found = table("improved_table1", full(tmp_path), "yes")
    for name in (OUR, ENSEMBLE, LOGITS, ALL):
        row = found[name, "labels_200"]
        assert (row.comparable, row.measured) == ("yes", pytest.approx(3.0))
        assert "instead of" not in row.note
    assert found[OUR, "labels_200"].note == "10 splits; the first of 10 seeds of each; 300 epochs; 4,200 steps"
    assert found[ENSEMBLE, "labels_200"].n_seeds == 10
    assert found[ALL, "labels_200"].n_seeds == 100


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_splits": 9, "n_seeds": 2}, "9 splits instead of 10"),
        ({"n_seeds": 2, "n_test": 1000}, "1,000 test images instead of 10,000"),
        ({"n_seeds": 2, "epochs": (40, 0)}, "40 epochs instead of 300"),
        ({"n_seeds": 2, "epochs": (400, 0)}, "400 epochs instead of 300"),
        ({"n_seeds": 2, "epochs": (200, 100)}, "; 300 epochs; learning rate falling in 100 of them instead of none; "),
        ({"n_seeds": 2, "widths": (100, 50)}, "width of G 100 instead of 500; width of D 50 instead of 250"),
        ({"n_seeds": 2, "n_images": 4000}, "4,000 training images instead of 60,000"),
        ({"n_seeds": 2, "n_labels": 100}, "100 labels instead of 200"),
    ],
)
def test_another_size_than_the_papers_is_reduced_and_said(tmp_path, settings, told):
    row = table("improved_table1", full(tmp_path, **settings), "yes")[OUR, "labels_200"]
    assert row.comparable == "reduced"
    assert told in row.note
    for comparable in ("reduced", "no"):
        assert table("improved_table1", tmp_path, comparable)[OUR, "labels_200"].comparable == comparable


def test_fewer_seeds_reduce_the_ensembles_alone(tmp_path):
    found = table("improved_table1", full(tmp_path, n_seeds=3), "yes")
    assert found[OUR, "labels_200"].comparable == "yes"
    for name in (ENSEMBLE, LOGITS):
        assert found[name, "labels_200"].comparable == "reduced"
        assert "; 3 seeds instead of 10; " in found[name, "labels_200"].note


def test_the_epochs_are_those_of_the_preset(tmp_path):
    write_run(tmp_path, "svhn-500", wrong_on(20, 30), preset="c0", epochs=(501, 0))
    note = table("improved_svhn", tmp_path)[OUR, "labels_500"].note
    assert "; 501 epochs; " in note
    write_run(tmp_path, "svhn-1000", wrong_on(20, 30), preset="current", epochs=(501, 0))
    assert "501 epochs instead of 900" in table("improved_svhn", tmp_path)[OUR, "labels_1000"].note


SWITCHES = {  # of a run of MNIST; how the note says it
    ("noise", False): "noise off instead of on",
    ("weight_norm", False): "weight norm off instead of on",
    ("data_dependent", False): "initialisation by data off instead of on",
    ("reference_batch", 50): "virtual batch norm of 50 examples instead of off",
    ("z_dim", 50): "dimension of z 50 instead of 100",
    ("n_kernels", 20): "minibatch kernels 20 instead of none",
    ("generator_loss", "minimax"): "loss of G: minimax instead of squared feature matching",
    ("generator_steps", 3): "updates of G for each of D: 3 instead of 1",
    ("real_target", 0.9): "target of real images 0.9 instead of 1",
    ("historical_averaging", 0.001): "historical averaging 0.001 instead of off",
    ("parameter_average", 0.005): "rate of the parameter average 0.005 instead of 0.0001",
    ("parameter_average", 0.0): "rate of the parameter average off instead of 0.0001",
    ("batch_size", 50): "batch 50 instead of 100",
    ("learning_rate", 0.0003): "learning rate 0.0003 instead of 0.003",
    ("beta1", 0.9): "beta1 0.9 instead of 0.5",
    ("adam_epsilon", 1e-6): "epsilon of Adam 1e-06 instead of 1e-08",
    ("divisor", 128.0): "divisor of pixels 128 instead of 255",
}
OF_G = {"reference_batch", "z_dim", "generator_loss", "generator_steps", "real_target"}


@pytest.mark.parametrize(("switch", "told"), SWITCHES.items())
def test_each_switch_is_said_once_and_reduces(tmp_path, switch, told):
    name, value = switch
    logits = np.tile(wrong_on(3, n_test=10_000), (20, 1, 1))
    write_run(tmp_path, "mnist-200", logits, splits=range(10), alone=logits, **{name: value})
    found = table("improved_table1", tmp_path, "yes")
    row, alone = found[OUR, "labels_200"], found[ALONE, "labels_200"]
    assert row.comparable == "reduced"
    assert row.note == f"10 splits; the first of 2 seeds of each; 300 epochs; 4,200 steps; {told}"
    assert (told in alone.note, alone.comparable == "reduced") == ((False,) * 2 if name in OF_G else (True,) * 2)


def test_every_setting_of_the_authors_has_words():
    for of in (semisup.TABLE1, semisup.TABLE2, semisup.SVHN):
        for settings in (of.matching, of.minibatch):
            assert set(settings.current) <= set(semisup.WORDS)
            assert set(settings.c0) <= set(settings.current)


def test_a_preset_has_its_own_settings(tmp_path):
    write_run(tmp_path, "mnist-20", wrong_on(2, 3), preset="c0", epochs=(200, 100), learning_rate=0.001)
    note = table("improved_table1", tmp_path)[OUR, "labels_20"].note
    assert "; 300 epochs; 4,200 steps; " in note
    assert note.endswith("test images instead of 10,000; rate of the parameter average 0.0001 instead of off")


@pytest.mark.parametrize("key", ["mnist-200", "cifar10-4000", "svhn-1000", "mb_mnist", "mb_cifar10", "mb_svhn"])
def test_the_paper_profile_differs_in_no_setting(root, key):
    """Its params and what this file says that the authors have are the same numbers."""
    runs = params.read(root / "profiles/paper/params.yaml")["semisup"]
    own = runs["runs"][key]
    dataset = key.removeprefix("mb_").split("-")[0]
    of = next(one for one in (semisup.TABLE1, semisup.TABLE2, semisup.SVHN) if one.dataset == dataset)
    minibatch = key.startswith("mb_")
    settings = of.minibatch if minibatch else of.matching
    found = runs | own | own["architecture"] | own["techniques"] | own["pixels"]
    assert {name: found.get(name) for name in settings.current} == settings.current
    if key != "mb_mnist":
        assert own["constant_epochs"] + own["decay_epochs"] == settings.epochs["current"]
        assert own["decay_epochs"] == settings.decay_epochs["current"]
    if minibatch:
        assert own["n_labels"] == of.minibatch_labels


def test_metrics_have_a_key_for_each_row_and_column(tmp_path):
    write_run(tmp_path / "results", "mnist-100", wrong_on(2, 4, 9), alone=wrong_on(40, 44, 48))
    rows = TABLES["improved_table1"][1](tmp_path / "results", report())
    paths = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "md")}
    records.write_table(rows, "Title", **paths, metrics=tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "our_model": {"labels_100": 250.0},
        "ensemble_of_10_of_our_models": {"labels_100": 200.0},
        "ensemble_averaged_logits": {"labels_100": 200.0},
        "same_network_labels_only": {"labels_100": 2200.0},
    }
    assert "| Our model | labels_100 [errors_of_10000] | ours | 93 ± 6.5 | 250.0 ± 180.3 | +157 |" in (
        paths["md"].read_text()
    )


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_record_without_a_setting_is_refused(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2))
    path = tmp_path / "mnist-100/run.json"
    path.write_text(path.read_text().replace("steps", "stairs"))
    with pytest.raises(InputError, match=r"run.json: KeyError\('steps'\) .* run semisup@mnist-100 again"):
        table("improved_table1", tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"run.json: FileNotFoundError"):
        table("improved_table1", tmp_path)


def test_arrays_of_another_form_are_refused(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4))
    path = tmp_path / "mnist-100/logits.npz"
    with np.load(path) as content:
        found = dict(content)
    np.savez(path, **found | {"logits": found["logits"][0]})
    with pytest.raises(InputError, match="expected logits with 3 dimensions"):
        table("improved_table1", tmp_path)
    np.savez(path, **found | {"members": found["members"][:1]})
    with pytest.raises(InputError, match=r"members of shape \(1, 2\) beside 2 networks; expected \(M, 2\)"):
        table("improved_table1", tmp_path)
    np.savez(path, **found | {"members": found["members"][:0], "logits": found["logits"][:0]})
    with pytest.raises(InputError, match=r"beside 0 networks; .* M > 0; run semisup@mnist-100 again"):
        table("improved_table1", tmp_path)
    np.savez(path, **found | {"members": np.array([[0, 0], [0, 1], [1, 0]]), "logits": wrong_on(2, 4, 6)})
    with pytest.raises(InputError, match="splits of 2 and 1 networks; expected as many seeds of each split"):
        table("improved_table1", tmp_path)
    uneven = np.array([[0, 0], [0, 1], [0, 2], [1, 0]])
    np.savez(path, **found | {"members": uneven, "logits": wrong_on(2, 4, 6, 8)})
    with pytest.raises(InputError, match="splits of 3 and 1 networks; expected as many seeds of each split"):
        table("improved_table1", tmp_path)
    np.savez(path, **found | {"labels": found["labels"][:-1]})
    with pytest.raises(InputError, match="beside 199 labels; expected those of the same test images"):
        table("improved_table1", tmp_path)


def test_labels_only_of_other_networks_are_refused(tmp_path):
    write_run(tmp_path, "mnist-100", wrong_on(2, 4), alone=wrong_on(40, 50, 60))
    with pytest.raises(InputError, match="3 networks trained on labelled images alone beside 2; expected as many"):
        table("improved_table1", tmp_path)


# ---- what is committed ----------------------------------------------------------------------------------------------


def committed(root, profile, name):
    with (root / f"reports/{profile}/tables/{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("profile", ["embedded", "laptop", "paper"])
@NAMES
def test_committed_tables_follow_the_contract(root, profile, name):
    if profile != "embedded" and not (root / f"reports/{profile}/tables/{name}.csv").exists():
        pytest.skip(f"profile {profile} has no committed {name}")
    rows = committed(root, profile, name)
    wanted = [(row, column, value, unit, kind) for row, column, value, _, unit, kind in printed(name)]
    head = rows[: len(wanted)]
    assert [(r["row"], r["column"], float(r["paper"]), r["unit"], r["kind"]) for r in head] == wanted
    assert {r["kind"] for r in rows[len(wanted) :]} <= {"extra"}
    for r in rows:
        assert r["measured"] or r["note"]
        assert not (r["kind"] == "published" and r["measured"])
        if r["comparable"] == "yes" and r["measured"]:
            assert "instead of" not in r["note"]


@NAMES
def test_committed_embedded_tables_are_whole(root, name):
    rows = {(r["row"], r["column"]): r for r in committed(root, "embedded", name)}
    ours = {place: r for place, r in rows.items() if r["kind"] == "ours"}
    for place, r in ours.items():
        assert r["measured"], place
        assert int(r["n_seeds"]) >= 3, place
        assert r["comparable"] == "no", place
    point = 100.0 if name == "improved_table1" else 1.0  # of errors of 10,000, or %
    for column in {column for _, column in ours}:
        mean = rows.get((ALL, column)) or rows[OUR, column]
        if ensemble := rows.get((ENSEMBLE, column)):
            assert float(ensemble["measured"]) <= float(mean["measured"]) + point, column


def test_committed_embedded_digits_gain_from_unlabelled_images(root):
    rows = {(r["row"], r["column"]): r["measured"] for r in committed(root, "embedded", "improved_table1")}
    columns = {column for row, column in rows if row == ALONE}
    assert columns == {"labels_20", "labels_50", "labels_100", "labels_200"}
    for column in columns:
        assert float(rows[OUR, column]) < float(rows[ALONE, column]), column


def test_rows_are_named_once(tmp_path):
    """The names in this file are written out, so that a change of the code's is seen."""
    assert (papers.OUR_MODEL, papers.ENSEMBLE) == (OUR, ENSEMBLE)
    assert (semisup.AVERAGED_LOGITS, semisup.ALL_NETWORKS, semisup.LABELS_ONLY) == (LOGITS, ALL, ALONE)
    assert semisup.MINIBATCH == MINIBATCH
