"""Probe protocols against a slow loop over scikit-learn, and what may never be looked at while C is chosen."""

# ruff: noqa: N803, N806 - C and X are scikit-learn's names
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from sklearn.svm import LinearSVC

from pipeline.core import compute, params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, open_set, write_set
from pipeline.datasets.splits import labelled_subset, validation_rows
from pipeline.evaluation import features as features_module
from pipeline.evaluation import probes
from pipeline.evaluation.linear_svm import LinearL2SVM
from pipeline.evaluation.probes import Draws, Ledger, Probe, Row, chosen_setting, few_labels, parts_of, predictions
from pipeline.models import dcgan, store
from pipeline.models.layers import initialise
from stages import probe as probe_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
HELD_OUT = Probe(
    seed=5,
    n_validation=40,
    C=[0.003, 0.03, 0.3],
    tol=1e-7,
    all_labels=True,
    labels_per_class=[3, 8],
    draws_to_choose=4,
    draws_to_test=12,
)
OWN_SPLIT = dataclasses.replace(HELD_OUT, n_validation=None)
CLASSES, FEATURES, SIZES = 4, 50, {"train": 200, "validation": 60, "test": 80}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on problems this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(classes: int = CLASSES, **changed: int) -> ImageSet:
    """Blank images with labels; splits lie mixed."""
    sizes = SIZES | changed
    split = np.repeat(list(sizes), list(sizes.values()))[numpy_stream(1, "split").permutation(sum(sizes.values()))]
    labels = numpy_stream(1, "labels").integers(0, classes, len(split))
    keys = [f"image {i}" for i in range(len(split))]
    index = pd.DataFrame({"key": keys, "split": split, "label": labels, "source": "none"})
    images = np.zeros((len(split), 1, 1, 1), dtype=np.uint8)
    return ImageSet(path=Path("sets/blank"), images=images, index=index)


def features_of(images: ImageSet, noise: float = 3.0) -> dict[str, np.ndarray]:
    """Class means and so much noise that the classes overlap: every error lies well between 0 and chance."""
    means = numpy_stream(2, "means").normal(size=(64, FEATURES))
    values = means[images.index["label"]] + noise * numpy_stream(2, "noise").normal(size=(len(images.index), FEATURES))
    return {split: values[images.rows(split)].astype(np.float16) for split in images.index["split"].unique()}


def run(
    scratch: Path, config: Probe = HELD_OUT, images: ImageSet | None = None, features: dict | None = None
) -> pd.DataFrame:
    images = images or image_set()
    parts = parts_of(images, n_validation=config.n_validation, seed=config.seed)
    rows = probes.probe(features or features_of(images), parts, config, FP32, scratch)
    return probes.result_table(rows, n_features=FEATURES, max_feature_units=7)


# ---- the protocol, slowly -------------------------------------------------------------------------------------------


def error_slowly(X: np.ndarray, y: np.ndarray, X_judged: np.ndarray, y_judged: np.ndarray, C: float) -> float:
    svm = LinearSVC(C=C, dual=False, tol=1e-8, max_iter=10_000).fit(X.astype(np.float64), y)
    return 100.0 * sum(svm.predict(X_judged.astype(np.float64)) != y_judged) / len(y_judged)


def protocol_slowly(config: Probe) -> list[tuple]:
    """(purpose, labels a class, labels, C, draw, error, images judged), one after the other."""
    images = image_set()
    X, y = features_of(images), {split: images.labels(images.rows(split)) for split in SIZES}
    if config.n_validation is None:
        fit, judge = (X["train"], y["train"]), (X["validation"], y["validation"])
    else:
        held = validation_rows(y["train"], config.n_validation, seed=config.seed, stratified=True, where="")
        kept = np.setdiff1d(np.arange(len(y["train"])), held)
        fit, judge = (X["train"][kept], y["train"][kept]), (X["train"][held], y["train"][held])
    whole, test = (X["train"], y["train"]), (X["test"], y["test"])
    found: list[tuple] = []

    def best(errors: dict[float, float]) -> float:
        return min(errors, key=lambda C: (errors[C], C))

    errors = {C: error_slowly(*fit, *judge, C) for C in config.C}
    found += [("choose", 0, len(fit[1]), C, 0, error, len(judge[1])) for C, error in errors.items()]
    C = best(errors)
    found.append(("test", 0, len(whole[1]), C, 0, error_slowly(*whole, *test, C), len(test[1])))
    for per_class in config.labels_per_class:
        sums = dict.fromkeys(config.C, 0.0)
        for draw in range(config.draws_to_choose):
            rows = labelled_subset(fit[1], per_class, seed=config.seed, where="", draw=draw)
            for C in config.C:
                error = error_slowly(fit[0][rows], fit[1][rows], *judge, C)
                sums[C] += error
                found.append(("choose", per_class, len(rows), C, draw, error, len(judge[1])))
        C = best(sums)
        for draw in range(config.draws_to_choose, config.draws_to_choose + config.draws_to_test):
            rows = labelled_subset(whole[1], per_class, seed=config.seed, where="", draw=draw)
            error = error_slowly(whole[0][rows], whole[1][rows], *test, C)
            found.append(("test", per_class, len(rows), C, draw, error, len(test[1])))
    return found


@pytest.mark.parametrize("config", [HELD_OUT, OWN_SPLIT], ids=["held out", "own split"])
def test_the_protocol_against_a_loop_over_scikit_learn(tmp_path: Path, config: Probe):
    got, expected = run(tmp_path, config), protocol_slowly(config)
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    assert [*got.columns] == [*columns, "n_features", "max_feature_units"]
    as_expected = pd.DataFrame(expected, columns=columns)
    pd.testing.assert_frame_equal(got[columns], as_expected, check_exact=False, rtol=1e-12, check_dtype=False)
    assert got["error_percent"].between(5, 70).all(), "errors that could not tell a wrong protocol from a right one"
    assert (got["n_features"] == FEATURES).all()
    assert (got["max_feature_units"] == 7).all()
    assert [kind.kind for kind in got.dtypes[1:]] == [*"iififiii"]


def test_the_last_fit_is_on_all_training_images(tmp_path: Path):
    """Held-out images count: a fit without them has another test error."""
    images = image_set()
    got = run(tmp_path).query("labels_per_class == 0 and purpose == 'test'").iloc[0]
    X, y = features_of(images), {split: images.labels(images.rows(split)) for split in SIZES}
    kept = parts_of(images, n_validation=40, seed=5).pool.rows
    all_images = error_slowly(X["train"], y["train"], X["test"], y["test"], got["setting"])
    without = error_slowly(X["train"][kept], y["train"][kept], X["test"], y["test"], got["setting"])
    assert got["n_labels"] == SIZES["train"]
    assert got["error_percent"] == pytest.approx(all_images)
    assert all_images != without


# ---- what choosing may not see --------------------------------------------------------------------------------------


def choose_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["purpose"] == "choose"].reset_index(drop=True)


@pytest.mark.parametrize("config", [HELD_OUT, OWN_SPLIT], ids=["held out", "own split"])
def test_no_test_image_decides_a_choice(tmp_path: Path, config: Probe):
    images = image_set()
    plain = run(tmp_path / "a", config)
    labels, test = images.index["label"].to_numpy().copy(), images.rows("test")
    labels[test] = numpy_stream(3, "permutation").permutation(labels[test])
    other_labels = dataclasses.replace(images, index=images.index.assign(label=labels))
    other_features = features_of(images)
    other_features["test"] = other_features["test"][::-1].copy()
    for name, changed in (
        ("b", run(tmp_path / "b", config, other_labels, features_of(images))),
        ("c", run(tmp_path / "c", config, images, other_features)),
    ):
        pd.testing.assert_frame_equal(choose_rows(changed), choose_rows(plain), check_exact=True)
        tested, before = (table[table["purpose"] == "test"] for table in (changed, plain))
        assert (tested["setting"].to_numpy() == before["setting"].to_numpy()).all(), name
        assert tested["error_percent"].mean() > before["error_percent"].mean() + 20, "the test rows should notice"


def test_no_image_is_both_fitted_on_and_judged_while_choosing():
    images = image_set()
    parts = parts_of(images, n_validation=40, seed=5)
    assert set(parts.pool.rows).isdisjoint(parts.validation.rows)
    assert sorted([*parts.pool.rows, *parts.validation.rows]) == [*range(SIZES["train"])]
    assert parts.splits() == ["test", "train"]
    for part in (parts.pool, parts.validation, parts.train, parts.test):
        np.testing.assert_array_equal(part.labels, images.labels(images.rows(part.split)[part.rows]))
    counts = np.bincount(parts.validation.labels)
    expected = 40 * np.bincount(parts.train.labels) / SIZES["train"]
    assert (np.abs(counts - expected) < 1).all(), "each class in its share"
    own = parts_of(images, n_validation=None, seed=5)
    assert own.validation.split == "validation"
    assert len(own.pool.rows) == SIZES["train"]
    assert own.splits() == ["test", "train", "validation"]


def test_draws_to_test_are_fresh_and_may_hold_what_was_held_out(tmp_path: Path):
    parts = parts_of(image_set(), n_validation=40, seed=5)
    seen: list[tuple[str, frozenset]] = []

    def judge(fitted, draws, settings, judged) -> list[list[float]]:
        seen.extend((judged.split, frozenset(fitted.take(draw).rows)) for draw in draws)
        return [[50.0 + setting for setting in settings] for _ in draws]

    draws = Draws(seed=5, per_class=8, to_choose=3, to_test=12)
    few_labels(parts, draws, [1.0, 2.0], judge, Ledger(tmp_path / "rows.json"))
    assert [split for split, _ in seen] == ["train"] * 3 + ["test"] * 12
    assert len({subset for _, subset in seen}) == 15, "no subset comes twice"
    held_out = set(parts.validation.rows)
    assert all(held_out.isdisjoint(subset) for split, subset in seen if split == "train")
    assert sum(not held_out.isdisjoint(subset) for split, subset in seen if split == "test") > 6
    rows = Ledger(tmp_path / "rows.json").rows()
    assert [row.draw for row in rows if row.purpose == "choose"] == [0, 0, 1, 1, 2, 2]
    assert [(row.draw, row.setting) for row in rows if row.purpose == "test"] == [(n, 1.0) for n in range(3, 15)]


def of_errors(errors: dict[float, list[float]]) -> list[Row]:
    return [
        Row(purpose="choose", labels_per_class=1, n_labels=1, setting=setting, draw=draw, error_percent=e, n_images=1)
        for setting, of_setting in errors.items()
        for draw, e in enumerate(of_setting)
    ]


def test_the_smallest_mean_wins_and_the_smallest_setting_among_equals():
    assert chosen_setting(of_errors({0.1: [30, 10], 1.0: [18, 19], 10.0: [20, 18]})) == 1.0
    assert chosen_setting(of_errors({10.0: [20, 18], 1.0: [18, 20], 0.1: [30, 10]})) == 1.0
    assert chosen_setting(of_errors({1.0: [0.3, 0.2, 0.1], 0.1: [0.1, 0.2, 0.3]})) == 0.1, "whatever the last bit says"
    tested = dataclasses.replace(of_errors({5.0: [0.0]})[0], purpose="test")
    assert chosen_setting([*of_errors({1.0: [9.0]}), tested]) == 1.0


# ---- killed and resumed ---------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Not an Exception: nothing may catch it."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path, monkeypatch, moment: str):
    """Killed again and again, before or after each time that the rows of a unit are kept."""
    loose = dataclasses.replace(HELD_OUT, tol=0.3)  # where a fit ends depends on where it starts
    unbroken = run(tmp_path / "unbroken", loose)
    original, runs = Ledger.add, itertools.count()

    def add(self: Ledger, unit: str, rows) -> None:
        number = next(called)
        if number == 1 and moment == "before":
            raise KilledError
        original(self, unit, rows)
        if number == 0 and moment == "after":
            raise KilledError

    monkeypatch.setattr(Ledger, "add", add)
    for _ in runs:
        called = itertools.count()
        try:
            resumed = run(tmp_path / "resumed", loose)
            break
        except KilledError:
            continue
    assert next(runs) >= 11, "the run was hardly interrupted"
    unbroken.to_parquet(tmp_path / "unbroken.parquet")
    resumed.to_parquet(tmp_path / "resumed.parquet")
    assert (tmp_path / "unbroken.parquet").read_bytes() == (tmp_path / "resumed.parquet").read_bytes()
    for number in range(3):
        name = f"weights-{number}.npz"
        assert (tmp_path / "unbroken" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_a_path_that_begins_afresh_would_end_elsewhere(tmp_path: Path):
    """Else the test above could not fail."""
    loose = dataclasses.replace(HELD_OUT, tol=0.3)
    run(tmp_path, loose)
    images = image_set()
    pool = parts_of(images, n_validation=40, seed=5).pool
    afresh = LinearL2SVM(C=0.3, tol=0.3, gram_rows=0).fit(features_of(images)["train"][pool.rows], pool.labels)
    with np.load(tmp_path / "weights-2.npz") as kept:
        np.testing.assert_allclose(kept["coef"], afresh.coef_, atol=0.1)
        assert not np.array_equal(kept["coef"], afresh.coef_)


def test_finished_units_are_not_computed_again(tmp_path: Path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr(LinearL2SVM, "_path", None)
    pd.testing.assert_frame_equal(run(tmp_path), first, check_exact=True)


# ---- predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_predictions_of_several_models_at_once_are_those_of_each(monkeypatch, classes: int):
    monkeypatch.setattr(probes, "BLOCK_ROWS", 7)
    images = image_set(classes)
    features, labels = features_of(images), images.labels(images.rows("train"))
    models = [
        LinearL2SVM().fit(features["train"][start : start + 80].astype(np.float32), labels[start : start + 80] + 3)
        for start in (0, 60, 120)
    ]
    rows = np.array([5, 3, 8, *range(20, 60)])
    got = predictions(models, features["test"], rows, "cpu")
    for model, of_model in zip(models, got, strict=True):
        np.testing.assert_array_equal(of_model, model.predict(features["test"][rows].astype(np.float32)))
    assert not np.array_equal(got[0], got[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_memory_maps_are_read_as_they_are(tmp_path: Path, dtype: type, monkeypatch):
    images = image_set()
    features = {split: values.astype(dtype) for split, values in features_of(images).items()}
    for split, values in features.items():
        np.save(tmp_path / f"{split}.npy", values)
    mapped = {split: np.load(tmp_path / f"{split}.npy", mmap_mode="r") for split in features}
    fitted: list[np.ndarray] = []
    plain = LinearL2SVM._path

    def path(self, X, y, Cs):
        fitted.append(X)
        return plain(self, X, y, Cs)

    monkeypatch.setattr(LinearL2SVM, "_path", path)
    monkeypatch.setattr(probes, "BLOCK_ROWS", 64)
    got = run(tmp_path / "a", features=mapped)
    pool, whole, *few = fitted
    assert isinstance(pool, np.memmap)
    assert whole is mapped["train"]
    assert pool.dtype == whole.dtype == dtype
    np.testing.assert_array_equal(pool, features["train"][parts_of(images, n_validation=40, seed=5).pool.rows])
    assert all(X.dtype == np.float32 and len(X) in (12, 32) for X in few)
    pd.testing.assert_frame_equal(got, run(tmp_path / "b", features=features), check_exact=True)


# ---- refused --------------------------------------------------------------------------------------------------------


def unlabelled(images: ImageSet, split: str) -> ImageSet:
    labels = images.index["label"].to_numpy().copy()
    labels[images.rows(split)[:3]] = -1
    return dataclasses.replace(images, index=images.index.assign(label=labels))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_set_that_is_not_labelled_throughout(split: str):
    with pytest.raises(InputError, match=rf"sets/blank: 3 of {SIZES[split]} images in split '{split}' have no label"):
        parts_of(unlabelled(image_set(), split), n_validation=None, seed=5)


def test_sets_that_cannot_be_split():
    with pytest.raises(InputError, match="all training images have label 0; a classifier needs two classes"):
        parts_of(image_set(classes=1), n_validation=None, seed=5)
    with pytest.raises(InputError, match="200 validation images are asked for, the training set has 200"):
        parts_of(image_set(), n_validation=200, seed=5)
    with pytest.raises(InputError, match="no images in split 'validation'; found test, train"):
        parts_of(image_set(validation=0), n_validation=None, seed=5)


def test_fewer_images_of_a_class_than_labels_is_said_before_the_long_fits(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(LinearL2SVM, "_path", None)
    config = dataclasses.replace(HELD_OUT, labels_per_class=[3, 39])
    with pytest.raises(InputError, match=r"sets/blank: class \d has 3\d training images, 39 labels per class are ask"):
        run(tmp_path, config)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"C": [0.1, 0.0]}, r"probe\.cifar10\.C\.1: value should be greater than 0, found 0\.0"),
        ({"C": [-1.0, 1.0]}, r"probe\.cifar10\.C\.0: value should be greater than 0, found -1\.0"),
        ({"C": []}, r"probe\.cifar10\.C: .*at least 1 item"),
        ({"C": [1.0, 0.1]}, r"C must ascend, found 1, 0\.1"),
        ({"C": [0.1, 0.1]}, r"C must ascend, found 0\.1, 0\.1"),
        ({"labels_per_class": [0]}, r"labels_per_class\.0: value should be greater than or equal to 1"),
        ({"labels_per_class": [4, 4]}, "labels_per_class names a number twice"),
        ({"labels_per_class": [], "all_labels": False}, "nothing to fit: all_labels is false"),
        ({"tol": 0.0}, r"tol: value should be greater than 0"),
        ({"n_validation": 0}, "n_validation.*: value should be greater than or equal to 1"),
        ({"draws_to_test": 0}, "draws_to_test: value should be greater than or equal to 1"),
        ({"c": 1.0}, "unknown key 'c'"),
    ],
)
def test_params(tmp_path: Path, changes: dict, match: str):
    file = tmp_path / "params.yaml"
    for values in (dataclasses.asdict(HELD_OUT), dataclasses.asdict(OWN_SPLIT)):
        YAML().dump({"probe": {"cifar10": values}}, file)
        assert dataclasses.asdict(params.load(file, Probe, own="probe.cifar10")) == values
    YAML().dump({"probe": {"cifar10": dataclasses.asdict(HELD_OUT) | changes}}, file)
    with pytest.raises(InputError, match=match):
        params.load(file, Probe, own="probe.cifar10")


# ---- the stage ------------------------------------------------------------------------------------------------------

ARCHITECTURE = {
    "name": "dcgan_svhn",
    "z": "uniform",
    "z_dim": 5,
    "filters": 2,
    "variant": dataclasses.asdict(dcgan.PAPER),
}


def model(out: Path, seed: int) -> torch.nn.Sequential:
    discriminator = dcgan.discriminator_svhn(n=2)
    initialise(discriminator, 0.1, torch_stream(seed, "discriminator"))
    run = {"params": {"architecture": ARCHITECTURE, "seeds": [3]}}
    store.write_model(out, store.named_tensors("seed3/discriminator", discriminator), run, {})
    return discriminator


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Path:
    """A set, a model, its features and params; the stage's scratch folder."""
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set(train=40, validation=8, test=12)
    noise = numpy_stream(1, "noise").integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    write_set(tmp_path / "set", noise, images.index, pd.DataFrame({"key": [], "reason": []}))
    discriminator = model(tmp_path / "model", seed=0)
    config = features_module.Features(dtype="float16", batch_size=8, statistics_batch_size=8)
    features_module.discriminator_features(
        discriminator,
        open_set(tmp_path / "set"),
        tmp_path / "features",
        config=config,
        compute=FP32,
        scratch=tmp_path / "scratch",
    )
    small = dataclasses.replace(OWN_SPLIT, tol=0.01, labels_per_class=[2], draws_to_test=3)
    sections = {"probe": {"svhn": dataclasses.asdict(small)}, "compute": dataclasses.asdict(FP32)}
    YAML().dump(sections, tmp_path / "params.yaml")
    return tmp_path


def test_the_stage_writes_the_rows(world: Path):
    arguments = (world / "params.yaml", "svhn", world / "set", world / "features", world / "results" / "svhn.parquet")
    for last in (None, world / "model"):
        probe_stage.main(*arguments, last)
        table = pd.read_parquet(world / "results" / "svhn.parquet")
        assert table.groupby(["labels_per_class", "purpose"], sort=False).size().tolist() == [3, 1, 12, 3]
        assert (table["n_features"] == 16 * (2 + 4 + 8)).all()
        assert (table["max_feature_units"] == 8).all()
        assert table["error_percent"].between(0, 100).all()
    assert not [path for path in (world / "scratch").iterdir() if path.is_dir()], "the scratch folder goes away"


def test_the_stage_refuses_features_of_another_model_or_other_images(world: Path):
    out = world / "svhn.parquet"
    model(world / "other", seed=1)
    with pytest.raises(InputError, match="features of another network: made with sha256"):
        probe_stage.main(world / "params.yaml", "svhn", world / "set", world / "features", out, world / "other")
    images = open_set(world / "set")
    renamed = images.index.assign(key=images.index["key"] + "!")
    write_set(world / "renamed", images.images, renamed, pd.DataFrame({"key": [], "reason": []}))
    with pytest.raises(InputError, match="features of other images"):
        probe_stage.main(world / "params.yaml", "svhn", world / "renamed", world / "features", out)
    assert not out.exists()
