"""The supervised baseline: what is drawn, what is learnt, what a killed run repeats, and that no test image decides."""

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.core import params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, no_rejects, open_set, write_set
from pipeline.evaluation import supervised_cnn
from pipeline.evaluation.supervised_cnn import (
    Classifier,
    Data,
    Labelled,
    SupervisedCnn,
    drawn_trial,
    error_percent,
    read_data,
    run_trial,
    search,
    trained_row,
    training_statistics,
)
from pipeline.models.dcgan import discriminator_svhn, to_signed
from pipeline.models.layers import initialise

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = SupervisedCnn(
    seed=0,
    n_trials=3,
    filters=2,
    labels_per_class=6,
    max_epochs=2,
    patience=2,
    learning_rate=[1e-3, 1e-2],
    l2=[1e-6, 1e-2],
    dropout=[0.0, 0.7],
    initial_std=[0.01, 0.1],
    beta1=[0.5, 0.9],
    batch_size=[8, 16],
    batch_norm=[True, False],
)
LEARNABLE = dataclasses.replace(
    drawn_trial(0, CONFIG), learning_rate=0.003, beta1=0.9, l2=1e-6, dropout=0.2, batch_size=8, initial_std=0.05
)
COLUMNS = [
    *("trial", "learning_rate", "beta1", "l2", "dropout", "batch_size", "initial_std", "batch_norm"),
    *("epochs", "best_epoch", "validation_error_percent", "test_error_percent"),
    *("n_labels", "n_validation", "n_test", "n_parameters"),
]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A trial sets the whole process up; threads cost more than they give on networks this small."""
    threads, mode, environment = torch.get_num_threads(), torch.get_deterministic_debug_mode(), dict(os.environ)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    os.environ.clear()
    os.environ.update(environment)


def changed(**changes: object) -> SupervisedCnn:
    return dataclasses.replace(CONFIG, **changes)


def made_set(folder: Path, n_classes: int = 3, per_class: int = 8, side: int = 32, seed: int = 0) -> ImageSet:
    """Stripes of a direction for each class, of any phase and under noise; splits mixed."""
    stream, n = numpy_stream(seed, "stripes"), 3 * n_classes * per_class
    labels = np.arange(n) % n_classes
    split = np.array(["train", "validation", "test"])[np.arange(n) // n_classes % 3]
    y, x = np.mgrid[:side, :side]
    angle = np.pi * labels[:, None, None] / n_classes
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 0.9 + stream.uniform(0, 6, (n, 1, 1)))
    pixels = 128 + 60 * wave[..., None] + stream.normal(0, 20, (n, side, side, 3))
    index = pd.DataFrame({"key": [f"{i}" for i in range(n)], "split": split, "label": labels, "source": "made"})
    write_set(folder, pixels.clip(0, 255).astype(np.uint8), index, no_rejects())
    return open_set(folder)


def rewritten(image_set: ImageSet, folder: Path, **columns: np.ndarray) -> ImageSet:
    images = columns.pop("images", image_set.images)
    write_set(folder, images, image_set.index.assign(**columns), no_rejects())
    return open_set(folder)


def network(*, batch_norm: bool = True, filters: int = 2, n_classes: int = 3) -> Classifier:
    classifier = Classifier(filters, n_classes, batch_norm=batch_norm)
    initialise(classifier, 0.1, torch_stream(0, "classifier"))
    return classifier


# ---- trials ---------------------------------------------------------------------------------------------------------


def test_trials_are_drawn_within_their_ranges():
    trials = [drawn_trial(number, CONFIG) for number in range(400)]
    assert [trial.trial for trial in trials] == list(range(400))
    for name in ("learning_rate", "l2", "dropout", "initial_std"):
        low, high = getattr(CONFIG, name)
        values = np.array([getattr(trial, name) for trial in trials])
        assert low <= values.min() < values.max() <= high
        shares = values / high if name == "dropout" else np.log(values / low) / np.log(high / low)
        # uniform: the k-th of 400 lies where it should, within four standard deviations of the middle one
        np.testing.assert_allclose(np.sort(shares), (np.arange(400) + 0.5) / 400, atol=0.1)
    for name in ("beta1", "batch_size", "batch_norm"):
        values = [getattr(trial, name) for trial in trials]
        assert {*values} == {*getattr(CONFIG, name)}
        assert 150 < values.count(values[0]) < 250
    pairs = {(trial.beta1, trial.batch_size, trial.batch_norm) for trial in trials}
    assert len(pairs) == 8


def test_a_trial_depends_on_seed_and_number_only():
    assert drawn_trial(5, CONFIG) == drawn_trial(5, changed(n_trials=64, filters=9, max_epochs=7))
    assert drawn_trial(5, CONFIG) != drawn_trial(5, changed(seed=1))
    assert drawn_trial(5, changed(l2=[0.01, 0.01])).l2 == 0.01


def test_parameters_are_those_of_d_with_ten_outputs():
    """1,033,664 of the SVHN discriminator, nine more outputs of 4,096 units."""
    assert sum(p.numel() for p in Classifier(64, 10, batch_norm=True).parameters()) == 1_033_664 + 9 * 4096
    without = sum(p.numel() for p in Classifier(64, 10, batch_norm=False).parameters())
    assert without == 1_033_664 + 9 * 4096 - 2 * (128 + 256)


# ---- the network ----------------------------------------------------------------------------------------------------


def test_dropout_drops_units_before_the_output():
    classifier = network(n_classes=10)
    x = torch.rand(4, 3, 32, 32)
    units = classifier.maps(x).flatten(1)
    kept = torch.rand(units.shape, generator=torch_stream(3, "dropout")) >= 0.6
    assert 0.3 < kept.double().mean() < 0.5
    expected = (units * kept / 0.4) @ classifier.output.weight.t()
    torch.testing.assert_close(classifier(x, 0.6, torch_stream(3, "dropout")), expected)
    torch.testing.assert_close(classifier(x, 0.0, torch_stream(3, "dropout")), units @ classifier.output.weight.t())


def test_statistics_are_those_of_the_training_images_layer_by_layer(tmp_path, monkeypatch):
    """With one batch they are plain moments; a network in evaluation by them gives what the batch gives."""
    train = read_data(made_set(tmp_path / "set"), CONFIG).train
    classifier = network()
    statistics = training_statistics(classifier, train, 0, COMPUTE)
    x = to_signed(train.images)
    with torch.no_grad():
        before = classifier.maps[1][0](classifier.maps[0](x)).double()
    np.testing.assert_allclose(statistics[0].mean, before.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics[0].variance, before.var(dim=(0, 2, 3), correction=0), rtol=1e-4)
    with torch.no_grad():
        expected = classifier(x, 0.0, torch_stream(0, "unused")).argmax(dim=1).numpy()
    # one image at a time: the error against those labels is zero only if each prediction is the batch's
    monkeypatch.setattr(supervised_cnn, "EVALUATION_BATCH", 1)
    assert len({*expected.tolist()}) > 1
    assert error_percent(classifier, statistics, Labelled(images=train.images, labels=expected), COMPUTE) == 0


def test_statistics_of_batches_are_averaged(tmp_path, monkeypatch):
    train = read_data(made_set(tmp_path / "set"), CONFIG).train
    classifier = network()
    monkeypatch.setattr(supervised_cnn, "STATISTICS_BATCH", 7)  # 18 images: three batches of six
    found = training_statistics(classifier, train, 0, COMPUTE)[0]
    order = numpy_stream(0, "supervised CNN statistics").permutation(18)
    with torch.no_grad():
        maps = classifier.maps[1][0](classifier.maps[0](to_signed(train.images))).double().numpy()
    batches = [maps[part] for part in np.split(order, 3)]
    np.testing.assert_allclose(found.mean, np.mean([b.mean(axis=(0, 2, 3)) for b in batches], axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.variance, np.mean([b.var(axis=(0, 2, 3)) for b in batches], axis=0), rtol=1e-4)


def test_a_network_without_batch_norm_has_no_statistics(tmp_path):
    assert training_statistics(network(batch_norm=False), read_data(made_set(tmp_path), CONFIG).train, 0, COMPUTE) == ()


def test_error_is_the_share_of_wrong_images(tmp_path, monkeypatch):
    train = read_data(made_set(tmp_path / "set"), CONFIG).train
    classifier = network(batch_norm=False)
    with torch.no_grad():
        predicted = classifier(to_signed(train.images), 0.0, torch_stream(0, "unused")).argmax(dim=1).numpy()
    labels = np.where(np.arange(18) < 4, (predicted + 1) % 3, predicted)
    for size in (1, 5, 250):
        monkeypatch.setattr(supervised_cnn, "EVALUATION_BATCH", size)
        judged = Labelled(images=train.images, labels=labels)
        assert error_percent(classifier, (), judged, COMPUTE) == pytest.approx(100 * 4 / 18)


# ---- a trial --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_learnable_problem_is_learnt(tmp_path, batch_norm, precision):
    config = changed(filters=4, labels_per_class=16, max_epochs=25, patience=25)
    data = read_data(made_set(tmp_path / "set", per_class=16), config)
    trial = dataclasses.replace(LEARNABLE, batch_norm=batch_norm)
    row = trained_row(trial, data, config, Compute(device="cpu", threads=1, precision=precision))
    assert row["validation_error_percent"] < 15
    assert row["test_error_percent"] < 25
    assert list(row) == COLUMNS
    assert (row["n_labels"], row["n_validation"], row["n_test"]) == (48, 48, 48)


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "l2", "initial_std", "dropout"])
def test_every_setting_of_a_trial_is_used(tmp_path, monkeypatch, name):
    """Two epochs with it and with another value of it: other weights. And Adam has the very values."""
    adams, adam = [], torch.optim.Adam

    def seen(*arguments, **settings):
        adams.append(adam(*arguments, **settings))
        return adams[-1]

    monkeypatch.setattr(torch.optim, "Adam", seen)
    trials = [LEARNABLE, dataclasses.replace(LEARNABLE, **{name: 0.6 * getattr(LEARNABLE, name)})]
    data = read_data(made_set(tmp_path), CONFIG)
    for trial in trials:
        trained_row(trial, data, changed(max_epochs=2), COMPUTE)
    for trial, used in zip(trials, adams, strict=True):
        (group,) = used.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (
            trial.learning_rate,
            (trial.beta1, 0.999),
            trial.l2,
        )
    weights = [used.param_groups[0]["params"][0] for used in adams]
    assert not torch.equal(*weights)


def scripted(monkeypatch, errors: list[float]) -> list[int]:
    """Validation errors as given, one an epoch; the numbers of images that were judged."""
    judged, waiting = [], iter(errors)

    def error(network, statistics, images, compute):
        judged.append(len(images.labels))
        return next(waiting, 55.5)

    monkeypatch.setattr(supervised_cnn, "error_percent", error)
    return judged


@pytest.mark.parametrize(
    ("errors", "epochs", "best_epoch"),
    [
        ([50, 40, 40, 41, 42], 5, 2),  # no lower error for three epochs
        ([50, 60, 60, 49, 60, 60, 60], 7, 4),
        ([50, 49, 48, 47, 46, 45, 44, 43], 8, 8),  # the last epoch that is allowed
        ([95, 99, 99, 99], 4, 1),
    ],
)
def test_a_trial_ends_after_patience_epochs_without_a_lower_error(tmp_path, monkeypatch, errors, epochs, best_epoch):
    config = changed(max_epochs=8, patience=3)
    image_set = made_set(tmp_path / "set")
    data = read_data(image_set, config)
    data = dataclasses.replace(
        data, test=Labelled(images=data.test.images[:5], labels=data.test.labels[:5])
    )  # told by its size
    judged = scripted(monkeypatch, errors)
    row = trained_row(LEARNABLE, data, config, COMPUTE)
    assert (row["epochs"], row["best_epoch"]) == (epochs, best_epoch)
    assert row["validation_error_percent"] == min(errors)
    assert row["test_error_percent"] == 55.5
    assert judged == [24] * epochs + [5]  # the test images once, at the end


def test_the_test_error_is_of_the_best_state(tmp_path, monkeypatch):
    """Best at the first epoch of three: the same as a trial of one epoch."""
    data = read_data(made_set(tmp_path / "set"), CONFIG)
    real, calls = error_percent, []

    def error(network, statistics, images, compute):
        calls.append(1)
        found = real(network, statistics, images, compute)
        states.append(copy.deepcopy(network.state_dict()))
        return found if len(calls) == 1 or images is data.test else 100.0

    rows, states = [], []
    for max_epochs in (1, 3):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(supervised_cnn, "error_percent", error)
            rows.append(trained_row(LEARNABLE, data, changed(max_epochs=max_epochs, patience=9), COMPUTE))
    one, three = rows
    assert three == one | {"epochs": 3}
    first, judged, *_, last = states
    assert all(torch.equal(first[name], last[name]) and torch.equal(first[name], judged[name]) for name in first)
    assert not all(torch.equal(first[name], states[3][name]) for name in first)


@pytest.mark.parametrize(("bad_epoch", "epochs"), [(1, 0), (3, 2)])
def test_a_loss_that_is_not_finite_ends_a_trial_that_keeps_its_best(tmp_path, monkeypatch, bad_epoch, epochs):
    config = changed(max_epochs=6, patience=6)
    data = read_data(made_set(tmp_path / "set"), config)
    real, seen = nn.functional.cross_entropy, []

    def loss(logits, labels):
        seen.append(1)
        per_epoch = 3  # 18 images in batches of at most 8
        return real(logits, labels) * (float("nan") if len(seen) == 1 + per_epoch * (bad_epoch - 1) else 1)

    monkeypatch.setattr(nn.functional, "cross_entropy", loss)
    row = trained_row(LEARNABLE, data, config, COMPUTE)
    assert row["epochs"] == epochs
    if epochs:
        assert 1 <= row["best_epoch"] <= epochs
    else:
        assert row["best_epoch"] == 0
        assert row["validation_error_percent"] == row["test_error_percent"] == pytest.approx(100 * 2 / 3)
    assert np.isfinite([row["validation_error_percent"], row["test_error_percent"]]).all()


def test_weights_that_overflow_end_a_trial(tmp_path):
    data = read_data(made_set(tmp_path / "set"), CONFIG)
    row = trained_row(dataclasses.replace(LEARNABLE, learning_rate=1e38), data, changed(max_epochs=5), COMPUTE)
    assert row["epochs"] < 2
    assert np.isfinite(row["validation_error_percent"])


def test_batches_are_equal_up_to_one_image():
    for n, at_most in ((1000, 128), (18, 8), (30, 4), (13, 4), (5, 8)):
        parts = supervised_cnn._equal_parts(np.arange(n), at_most)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == n
        assert len(parts) == -(-n // at_most)
        assert max(sizes) <= at_most
        assert 2 <= max(sizes) - 1 <= min(sizes)


# ---- the search -----------------------------------------------------------------------------------------------------


def test_the_number_of_workers_does_not_change_the_rows(tmp_path, monkeypatch):
    image_set, found = made_set(tmp_path / "set"), []
    for workers, threads in (("1", 2), ("2", 1)):
        monkeypatch.setenv("GAN_WORKERS", workers)
        found.append(search(image_set, CONFIG, dataclasses.replace(COMPUTE, threads=threads), tmp_path / workers))
        if workers == "1":
            assert torch.get_num_threads() == 2  # as the stage had set this process up
    pd.testing.assert_frame_equal(*found, check_exact=True)
    one = found[0]
    assert list(one.columns) == COLUMNS
    assert one["trial"].tolist() == [0, 1, 2]
    assert one["batch_norm"].dtype == bool
    assert one["epochs"].dtype == one["n_labels"].dtype == np.int64
    assert one["validation_error_percent"].dtype == np.float64
    for row, number in zip(one.to_dict("records"), range(3), strict=True):
        assert row.items() >= dataclasses.asdict(drawn_trial(number, CONFIG)).items()


def test_a_killed_search_repeats_only_what_was_running(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")
    image_set = made_set(tmp_path / "set")
    unbroken = search(image_set, CONFIG, COMPUTE, tmp_path / "unbroken")
    real, run, calls = run_trial, [], 2

    def killed(task):
        if len(run) == calls:
            raise KeyboardInterrupt
        run.append(task.trial.trial)
        real(task)

    monkeypatch.setattr(supervised_cnn, "run_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        search(image_set, CONFIG, COMPUTE, tmp_path / "work")
    calls = 99
    found = search(image_set, CONFIG, COMPUTE, tmp_path / "work")
    assert run == [0, 1, 2]
    pd.testing.assert_frame_equal(found, unbroken, check_exact=True)


def test_more_trials_keep_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")
    image_set = made_set(tmp_path / "set")
    few, more = (search(image_set, changed(n_trials=n), COMPUTE, tmp_path / f"{n}") for n in (1, 2))
    pd.testing.assert_frame_equal(more.head(1), few, check_exact=True)


def test_a_test_image_decides_nothing_but_the_test_error(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")
    image_set = made_set(tmp_path / "set")
    test, images = image_set.rows("test"), np.array(image_set.images)
    images[test] = numpy_stream(9, "other").integers(0, 256, images[test].shape, dtype=np.uint8)
    labels = image_set.index["label"].to_numpy().copy()
    labels[test] = (labels[test] + 1) % 3
    other = rewritten(image_set, tmp_path / "other", images=images, label=labels)
    one, two = (search(s, CONFIG, COMPUTE, tmp_path / f"work {s.path.name}") for s in (image_set, other))
    pd.testing.assert_frame_equal(
        one.drop(columns="test_error_percent"), two.drop(columns="test_error_percent"), check_exact=True
    )
    assert (one["test_error_percent"] != two["test_error_percent"]).any()


# ---- data and bad input ---------------------------------------------------------------------------------------------


def test_every_trial_has_the_same_balanced_labels_of_the_training_images(tmp_path):
    image_set = made_set(tmp_path / "set")
    data = read_data(image_set, CONFIG)
    assert isinstance(data, Data)
    assert np.bincount(data.train.labels).tolist() == [6, 6, 6]
    pool = {image.tobytes(): label for image, label in zip(*pixels_of(image_set, "train"), strict=True)}
    assert [pool[image.tobytes()] for image in data.train.images] == data.train.labels.tolist()
    for split in ("validation", "test"):
        images, labels = pixels_of(image_set, split)
        np.testing.assert_array_equal(getattr(data, split).images, images)
        np.testing.assert_array_equal(getattr(data, split).labels, labels)
    assert not np.array_equal(read_data(image_set, changed(seed=1)).train.images, data.train.images)


def pixels_of(image_set: ImageSet, split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = image_set.rows(split)
    return image_set.images[rows], image_set.labels(rows)


def test_fewer_images_of_a_class_than_labels_are_refused(tmp_path):
    image_set = made_set(tmp_path / "set")
    with pytest.raises(InputError, match="class 0 has 8 training images, 9 labels per class are asked for"):
        search(image_set, changed(labels_per_class=9), COMPUTE, tmp_path / "work")


def test_a_set_without_validation_images_is_refused(tmp_path):
    image_set = made_set(tmp_path / "set")
    image_set.index["split"] = image_set.index["split"].replace("validation", "test")
    with pytest.raises(InputError, match="no images in split 'validation'; found test, train"):
        read_data(image_set, CONFIG)


@pytest.mark.parametrize(("split", "label"), [("validation", 3), ("test", -1)])
def test_labels_that_training_images_do_not_have_are_refused(tmp_path, split, label):
    image_set = made_set(tmp_path / "set")
    image_set.index.loc[image_set.rows(split)[2], "label"] = label
    with pytest.raises(InputError, match=rf"split '{split}' has 1 images of other labels than 0 to 2, such as {label}"):
        read_data(image_set, CONFIG)


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(InputError, match="images of 28 x 28 x 3; the network takes 32 x 32 x 3"):
        read_data(made_set(tmp_path / "set", side=28), CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": [0.01, 0.001]}, r"learning_rate is \[0.01, 0.001\]; expected the lowest value first"),
        ({"l2": [0.0, 0.01]}, "greater than 0"),
        ({"dropout": [0.0, 1.0]}, "less than 1"),
        ({"batch_size": []}, "batch_size"),
        ({"initial_std": [0.01]}, "initial_std"),
        ({"batch_size": [1]}, "greater than or equal to 4"),
    ],
)
def test_ranges_that_are_none_are_refused(tmp_path, changes, message):
    values = dataclasses.asdict(CONFIG) | changes
    (tmp_path / "params.yaml").write_text(json.dumps({"supervised_cnn": values}))
    with pytest.raises(InputError, match=message):
        params.load(tmp_path / "params.yaml", SupervisedCnn, own="supervised_cnn")


def test_the_maps_are_those_of_the_discriminator():
    expected = {f"maps.{n}": p.shape for n, p in discriminator_svhn(4)[:-1].named_parameters()}
    found = {name: p.shape for name, p in Classifier(4, 10, batch_norm=True).named_parameters()}
    assert found == expected | {"output.weight": (10, 4 * 4 * 16)}
