"""Training of the classifier: it learns, a resumed run ends in the same bytes, what is wrong is said in a sentence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.dcgan import to_signed
from pipeline.models.store import named_tensors, write_tensors
from pipeline.training import checkpoint, classifier
from pipeline.training.classifier import (
    ClassifierRun,
    accuracy_percent,
    augmented,
    initial_state,
    read_labels,
    restore,
    save,
    set_learning_rate,
    train,
    training_step,
)

COMPUTE = Compute(device="cpu", threads=1, precision="auto")
FP32 = Compute(device="cpu", threads=1, precision="fp32")
RUN = ClassifierRun(
    momentum=0.9,
    weight_decay=0.001,
    warmup_share=0.25,
    log_every_steps=2,
    dataset="made",
    seed=0,
    width=2,
    flips=True,
    max_shift=2,
    learning_rate=0.1,
    batch_size=8,
    epochs=3,
)
N_TRAIN = 27  # three whole batches an epoch, three images left over


def made_set(side: int = 32, n: int = 45) -> ImageSet:
    """Noise, brighter in one of four quarters: the class. The splits are mixed; every fifth image is of another."""
    images = numpy_stream(0, "images").integers(0, 128, (n, side, side, 3), dtype=np.uint8)
    labels, half = np.arange(n) // 3 % 4, side // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    split = np.array(["train", "test", "train", "train", "validation"])[np.arange(n) % 5]
    index = pd.DataFrame({"key": [f"{i}" for i in range(n)], "split": split, "label": labels, "source": "made"})
    return ImageSet(path=Path("made"), images=images, index=index)


def contents(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_it_learns_and_says_so(tmp_path: Path):
    run = dataclasses.replace(RUN, width=4, flips=False, epochs=12)
    trained = train(made_set(), run, COMPUTE, tmp_path)
    assert (trained.steps, trained.n_images, trained.n_test, trained.n_classes) == (36, N_TRAIN, 9, 4)
    assert trained.images == 36 * 8
    history = trained.history
    assert list(history.columns) == ["seed", "step", "epoch", "learning_rate", "loss", "error_percent"]
    assert history["step"].tolist() == list(range(2, 37, 2))
    assert history["epoch"].tolist() == [(step - 1) // 3 for step in range(2, 37, 2)]
    assert history["loss"].iloc[-1] < 0.3 * history["loss"].iloc[0]
    assert trained.test_accuracy_percent > 80
    assert {name.rpartition(".")[2] for name in trained.tensors} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert all(name.startswith("seed0/classifier/") for name in trained.tensors)


def test_a_row_after_the_last_step(tmp_path: Path):
    run = dataclasses.replace(RUN, log_every_steps=4)
    assert train(made_set(), run, COMPUTE, tmp_path).history["step"].tolist() == [4, 8, 9]


def test_rows_are_means_since_the_row_before(tmp_path: Path):
    """With a rate near zero: loss and error of the initial network on the batches, by hand."""
    image_set = made_set()
    run = dataclasses.replace(RUN, learning_rate=1e-30, weight_decay=0.0, flips=False, max_shift=0, epochs=1)
    network, rows = initial_state(run, FP32, 4).network, image_set.rows("train")
    order = numpy_stream(0, "classifier shuffle", 0).permutation(N_TRAIN)
    losses, wrong = [], []
    for step in range(3):
        chosen = rows[order[8 * step : 8 * step + 8]]
        logits, labels = network(to_signed(image_set.images[chosen])).logits, image_set.labels(chosen)
        shifted = logits - logits.logsumexp(dim=1, keepdim=True)
        losses.append(-shifted[np.arange(8), labels].mean().item())
        wrong.append(100 * (logits.argmax(dim=1).numpy() != labels).mean())
    history = train(image_set, run, FP32, tmp_path).history
    assert history["loss"].tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]], rel=1e-5)
    assert history["error_percent"].tolist() == pytest.approx([(wrong[0] + wrong[1]) / 2, wrong[2]])


def test_two_updates_by_hand():
    """Cross-entropy; Nesterov momentum on the gradient with weight decay."""
    image_set = made_set()
    data, _, n_classes = read_labels(image_set, RUN)
    state, other = initial_state(RUN, FP32, n_classes), initial_state(RUN, FP32, n_classes).network
    velocity = {name: torch.zeros_like(p) for name, p in other.named_parameters()}
    for first in (0, 8):
        batch, labels = image_set.images[data.rows[first : first + 8]], data.labels[first : first + 8]
        F.cross_entropy(other(to_signed(batch)).logits, torch.from_numpy(labels)).backward()
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                assert parameter.grad is not None
                gradient = parameter.grad + 0.001 * parameter
                velocity[name] = 0.9 * velocity[name] + gradient
                parameter.sub_(0.1 * (gradient + 0.9 * velocity[name]))
                parameter.grad = None
        training_step(state, batch, labels, FP32)
    assert state.step == state.counted == 2
    for mine, theirs in zip(state.network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_rate_is_a_triangle():
    state, rates = initial_state(RUN, FP32, 4), []
    for step in range(16):
        state.step = step
        rates.append(set_learning_rate(state, RUN, 16))
        assert state.sgd.param_groups[0]["lr"] == rates[-1]
    rise = [0.1 * (step + 0.5) / 4 for step in range(4)]
    fall = [0.1 * (15.5 - step) / 12 for step in range(4, 16)]
    assert rates == pytest.approx(rise + fall)
    assert min(rates) > 0


# ---- data -----------------------------------------------------------------------------------------------------------


def test_images_are_moved_and_mirrored_each_by_itself():
    """Every one is a window of the image padded by reflection; all places and both directions occur."""
    images = numpy_stream(1, "images").integers(0, 256, (300, 6, 6, 3), dtype=np.uint8)
    run = dataclasses.replace(RUN, max_shift=1)
    changed, found = augmented(images, run, step=5), []
    for image, other in zip(images, changed, strict=True):
        candidates = {}
        for mirrored in (False, True):
            padded = np.pad(image[:, ::-1] if mirrored else image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
            for y in range(3):
                for x in range(3):
                    candidates[mirrored, y, x] = padded[y : y + 6, x : x + 6]
        found += [place for place, candidate in candidates.items() if np.array_equal(candidate, other)]
    assert len(found) == 300
    counts = pd.Series(found).value_counts()
    assert len(counts) == 18
    assert counts.min() > 4  # 16.7 each on average
    assert np.array_equal(changed, augmented(images, run, step=5))
    assert not np.array_equal(changed, augmented(images, run, step=6))


def test_switches_of_the_augmentation():
    images = made_set().images
    off = dataclasses.replace(RUN, flips=False, max_shift=0)
    assert np.array_equal(augmented(images, off, 0), images)
    flipped = augmented(images, dataclasses.replace(off, flips=True), 0)
    same = [np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)]
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, flipped, strict=True)]
    assert 0 < sum(same) < len(images)
    assert all(a != b for a, b in zip(same, mirrored, strict=True))


def test_only_training_images_are_trained_on(tmp_path: Path):
    """Test images give the accuracy and nothing else, validation images nothing."""
    image_set = made_set()
    before = train(image_set, RUN, COMPUTE, tmp_path / "a")
    image_set.images[image_set.rows("validation")] = 0
    image_set.images[image_set.rows("test")] = 0
    after = train(image_set, RUN, COMPUTE, tmp_path / "b")
    assert contents(before.tensors) == contents(after.tensors)
    labels = image_set.labels(image_set.rows("test"))
    # of equal images all are of one class
    assert after.test_accuracy_percent in [pytest.approx(100 * (labels == label).mean()) for label in range(4)]


def test_an_epoch_has_every_image_at_most_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image_set, seen = made_set(), []
    image_set.images[:, 0, 0, 0] = np.arange(len(image_set.images))  # a mark that stays without augmentation
    step = classifier.training_step
    monkeypatch.setattr(classifier, "training_step", lambda *a: (seen.append(a[1][:, 0, 0, 0]), step(*a)))
    train(image_set, dataclasses.replace(RUN, flips=False, max_shift=0, epochs=2), COMPUTE, tmp_path)
    epochs = [np.concatenate(seen[:3]).tolist(), np.concatenate(seen[3:]).tolist()]
    for epoch in epochs:
        assert len(set(epoch)) == 24
        assert set(epoch) <= set(image_set.rows("train").tolist())
    assert epochs[0] != epochs[1]


def test_accuracy_by_hand(monkeypatch: pytest.MonkeyPatch):
    """In parts of four; and the network goes on in training mode."""
    monkeypatch.setattr(classifier, "JUDGED_AT_ONCE", 4)
    image_set = made_set()
    _, test, n_classes = read_labels(image_set, RUN)
    network = initial_state(RUN, FP32, n_classes).network
    found = accuracy_percent(network, image_set, test, FP32)
    assert network.training
    network.eval()
    right = [
        int(network(to_signed(image_set.images[row : row + 1])).logits.argmax()) == label
        for row, label in zip(test.rows, test.labels, strict=True)
    ]
    assert found == pytest.approx(100 * np.mean(right))


def changed(what: str) -> ImageSet:
    image_set = made_set(16 if what == "size" else 32)
    labels = image_set.index["label"].to_numpy().copy()
    if what == "unlabelled":
        labels[image_set.rows("train")[2:4]] = -1
    elif what == "unknown":
        labels[image_set.rows("test")[0]] = 4
    elif what == "one class":
        labels[:] = 0
    index = image_set.index.assign(label=labels)
    if what == "no test images":
        index["split"] = "train"
    return dataclasses.replace(image_set, index=index)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("size", "made: images of 16 x 16 x 3; the classifier takes 32 x 32 x 3"),
        ("unlabelled", "split 'train' has 2 images with the label -1"),
        ("unknown", "split 'test' has 1 images with the label 4"),
        ("one class", "split 'train' has images of one class"),
        ("no test images", "made: no images in split 'test'"),
    ],
)
def test_sets_that_do_not_serve(tmp_path: Path, what: str, match: str):
    with pytest.raises(InputError, match=match):
        train(changed(what), RUN, COMPUTE, tmp_path)


def test_fewer_images_than_a_batch(tmp_path: Path):
    with pytest.raises(InputError, match="27 training images, fewer than one batch of 28; lower batch_size"):
        train(made_set(), dataclasses.replace(RUN, batch_size=28), COMPUTE, tmp_path)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken_at", [0, 1, 4, 8])
def test_interrupted_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_at: int):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    unbroken = train(made_set(), RUN, COMPUTE, tmp_path / "a")
    step, said = classifier.training_step, []

    def told(state, images, labels, compute):
        if len(said) == broken_at:
            raise KeyboardInterrupt
        said.append(state.step)
        step(state, images, labels, compute)

    monkeypatch.setattr(classifier, "training_step", told)
    with pytest.raises(KeyboardInterrupt):
        train(made_set(), RUN, COMPUTE, tmp_path / "b")
    monkeypatch.setattr(classifier, "training_step", lambda *a: (said.append(a[0].step), step(*a)))
    resumed = train(made_set(), RUN, COMPUTE, tmp_path / "b")
    assert said == list(range(9))
    assert contents(resumed.tensors) == contents(unbroken.tensors)
    assert resumed.history.equals(unbroken.history)
    assert resumed.images == (9 - broken_at) * 8
    assert (tmp_path / "a/seed0.safetensors").read_bytes() == (tmp_path / "b/seed0.safetensors").read_bytes()


def test_without_momentum_a_run_resumes_too(tmp_path: Path):
    run = dataclasses.replace(RUN, momentum=0.0)
    finished = train(made_set(), run, COMPUTE, tmp_path)
    assert contents(train(made_set(), run, COMPUTE, tmp_path).tensors) == contents(finished.tensors)


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    finished = train(made_set(), RUN, COMPUTE, tmp_path)
    monkeypatch.setattr(classifier, "training_step", None)
    again = train(made_set(), RUN, COMPUTE, tmp_path)
    assert again.history.equals(finished.history)
    assert again.test_accuracy_percent == finished.test_accuracy_percent


def test_another_seed_is_another_network(tmp_path: Path):
    one = train(made_set(), RUN, COMPUTE, tmp_path / "a").tensors["seed0/classifier/output.weight"]
    other = train(made_set(), dataclasses.replace(RUN, seed=1), COMPUTE, tmp_path / "b").tensors
    assert not torch.equal(one, other["seed1/classifier/output.weight"])


def test_a_loss_that_is_no_number(tmp_path: Path):
    """The first bad step is named, and no checkpoint holds it."""
    state = initial_state(RUN, FP32, 4)
    images, labels = made_set().images[:8], np.zeros(8, dtype=np.int64)
    training_step(state, images, labels, FP32)
    assert state.bad_step() == 0
    with torch.no_grad():
        state.network.output.bias[1] = torch.nan
    assert state.bad_step() == 1
    training_step(state, images, labels, FP32)
    training_step(state, images, labels, FP32)
    assert state.bad_step() == 2
    with pytest.raises(InputError, match="training the classifier: a loss or a weight is NaN or infinite in step"):
        train(made_set(), dataclasses.replace(RUN, learning_rate=1e38), FP32, tmp_path)
    assert not (tmp_path / "seed0.safetensors").exists()


def test_checkpoints_that_are_none(tmp_path: Path):
    path, state = tmp_path / "seed0.safetensors", initial_state(RUN, FP32, 4)
    training_step(state, made_set().images[:8], np.zeros(8, dtype=np.int64), FP32)
    save(path, state)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{path}: not a whole safetensors file"):
        restore(path, initial_state(RUN, FP32, 4))
    for note in ("", "{}", json.dumps({"step": 3})):
        write_tensors(path, named_tensors("classifier", state.network), note=note)
        with pytest.raises(InputError, match=f"{path}: not a checkpoint of the classifier"):
            restore(path, initial_state(RUN, FP32, 4))
    with pytest.raises(InputError, match="'classifier' is not this network"):
        restore(path, initial_state(dataclasses.replace(RUN, width=3), FP32, 4))
