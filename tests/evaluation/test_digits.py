"""Table 3's search over generated digits against a direct computation that stores them all."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation import digits, table3
from pipeline.evaluation.digits import Search, SearchTask, classify_by_images, classify_by_samples, validation_score
from pipeline.evaluation.generate import sample_batches
from pipeline.models import mnist, store
from pipeline.models.layers import initialise
from pipeline.training import checkpoint

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
N_TEST = 90


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int = 0) -> nn.Module:
    network = mnist.gan_generator(z_dim=6, hidden=16)
    initialise(network, 0.2, torch_stream(seed, "generator"))
    return network


def made_images() -> np.ndarray:
    return numpy_stream(8, "test").integers(0, 256, (N_TEST, 28, 28, 1), dtype=np.uint8)


LABELS = numpy_stream(8, "labels").integers(0, 10, N_TEST)


def task(seed: int = 3) -> SearchTask:
    return SearchTask(
        test_images=made_images(), test_labels=LABELS, generator=generator(), z_dim=6, seed=seed, stream="neighbours"
    )


def by_hand(images: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """Wrong answers and mean distance by all pairs in int64."""
    queries, candidates = (x.reshape(len(x), -1).astype(np.int64) for x in (made_images(), images))
    distances = (queries**2).sum(axis=1)[:, None] + (candidates**2).sum(axis=1) - 2 * queries @ candidates.T
    nearest = distances.argmin(axis=1)
    return int((labels[nearest] != LABELS).sum()), float(np.sqrt(distances.min(axis=1)).mean() / 255)


def all_samples(n: int, batch_size: int, seed: int = 3, stream: str = "neighbours") -> tuple[np.ndarray, np.ndarray]:
    settings = {"z_dim": 6, "seed": seed, "stream": stream, "batch_size": batch_size, "compute": COMPUTE}
    made = [*sample_batches(generator(), first=0, last=n // batch_size, **settings)]
    return np.concatenate([s.images for s in made]), np.concatenate([s.labels for s in made])


@pytest.mark.parametrize(
    ("sizes", "batch_size", "block"),
    [
        ([20, 60, 400], 20, 50),
        ([20, 60, 400], 20, 4000),
        ([400], 50, 120),
        ([10, 20, 30], 10, 1),
        ([100, 200], 100, 150),
    ],
)
def test_equals_a_direct_computation(monkeypatch: pytest.MonkeyPatch, sizes: list[int], batch_size: int, block: int):
    monkeypatch.setattr(digits, "BLOCK_IMAGES", block)
    rows = classify_by_samples(task(), sizes, batch_size, COMPUTE)
    assert rows.columns.tolist() == ["n_images", "n_test", "n_wrong", "error_percent", "mean_distance"]
    assert rows["n_images"].tolist() == sizes
    assert rows["n_test"].tolist() == [N_TEST] * len(sizes)
    images, labels = all_samples(sizes[-1], batch_size)
    for row in rows.to_dict("records"):
        n = row["n_images"]
        wrong, distance = by_hand(images[:n], labels[:n])
        assert row["n_wrong"] == wrong
        assert row["error_percent"] == pytest.approx(100 * wrong / N_TEST, rel=1e-12)
        assert row["mean_distance"] == pytest.approx(distance, rel=1e-12)
    assert rows["mean_distance"].is_monotonic_decreasing


@pytest.mark.parametrize("sizes", [[30], [20, 50], [40, 20], [20, 20]])
def test_sizes_that_do_not_fit_are_refused(sizes: list[int]):
    with pytest.raises(ValueError, match=r"ascend in multiples of batch_size 20, found \["):
        classify_by_samples(task(), sizes, 20, COMPUTE)


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("breaks", [[0], [1], [2], [7], [19], [3, 9, 15]])
def test_resumed_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: list[int]):
    """Broken off before each of the given batches; a checkpoint after every block of two batches."""
    sizes, file = [20, 60, 300, 400], tmp_path / "search.safetensors"
    unbroken = classify_by_samples(task(), sizes, 20, COMPUTE)
    monkeypatch.setattr(digits, "BLOCK_IMAGES", 40)
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    waiting, made, make = [*breaks], [], digits.sample_batches

    def breakable(*args, first, last, **settings):
        for number in range(first, last):
            if waiting and waiting[0] == number:
                waiting.pop(0)
                raise KilledError
            made.append(number)
            yield from make(*args, first=number, last=number + 1, **settings)

    monkeypatch.setattr(digits, "sample_batches", breakable)
    for _ in breaks:
        with pytest.raises(KilledError):
            classify_by_samples(task(), sizes, 20, COMPUTE, file)
    resumed = classify_by_samples(task(), sizes, 20, COMPUTE, file)
    pd.testing.assert_frame_equal(resumed, unbroken, check_exact=True)
    assert sorted(set(made)) == [*range(20)]
    assert len(made) <= 20 + len(breaks), "at most the waiting half of a block is made again"
    made.clear()
    finished = classify_by_samples(task(), sizes, 20, COMPUTE, file)
    assert made == []
    pd.testing.assert_frame_equal(finished, unbroken, check_exact=True)


def test_without_a_checkpoint_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    monkeypatch.chdir(tmp_path)
    classify_by_samples(task(), [40], 20, COMPUTE)
    assert not [*tmp_path.iterdir()]


def test_a_truncated_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "search.safetensors"
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    classify_by_samples(task(), [40], 20, COMPUTE, file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=f"{file}: not a whole safetensors file"):
        classify_by_samples(task(), [40], 20, COMPUTE, file)


def test_classify_by_images():
    images, labels = all_samples(200, 20)
    (row,) = classify_by_images(made_images(), LABELS, images, labels, COMPUTE).to_dict("records")
    wrong, distance = by_hand(images, labels)
    assert (row["n_images"], row["n_test"], row["n_wrong"]) == (200, N_TEST, wrong)
    assert row["mean_distance"] == pytest.approx(distance, rel=1e-12)
    (itself,) = classify_by_images(made_images(), LABELS, made_images(), LABELS, COMPUTE).to_dict("records")
    assert (itself["n_wrong"], itself["error_percent"], itself["mean_distance"]) == (0, 0.0, 0.0)


def test_every_validation_sees_the_same_z():
    settings = {
        "images": made_images(),
        "labels": LABELS,
        "z_dim": 6,
        "sizes": [20, 100],
        "batch_size": 20,
        "compute": COMPUTE,
    }
    first, again = (validation_score(generator(), 3, **settings) for _ in range(2))
    assert first == again
    assert [score.n_images for score in first] == [20, 100]
    images, labels = all_samples(100, 20, seed=3, stream="validation")
    wrong, distance = by_hand(images, labels)
    assert first[1].error_percent == pytest.approx(100 * wrong / N_TEST, rel=1e-12)
    assert first[1].mean_distance == pytest.approx(distance, rel=1e-12)
    assert validation_score(generator(), 4, **settings) != first
    assert validation_score(generator(seed=1), 3, **settings) != first
    json.dumps([vars(score) for score in first])  # checkpoints store them as JSON


# ---- rows of Table 3, panels of Figure 9 ----------------------------------------------------------------------------


def digit_set() -> ImageSet:
    """150 training images, class by class, and the test images."""
    train = numpy_stream(8, "train").integers(0, 256, (150, 28, 28, 1), dtype=np.uint8)
    label = np.concatenate([np.arange(150) % 10, np.arange(N_TEST)[::-1] % 10])
    index = pd.DataFrame({"key": "", "split": ["train"] * 150 + ["test"] * N_TEST, "label": label, "source": ""})
    return ImageSet(path=Path("made"), images=np.concatenate([train, made_images()]), index=index)


def test_real_digits():
    image_set = digit_set()
    rows, sheet = table3.real_digits(image_set, COMPUTE)
    (row,) = rows.to_dict("records")
    assert (row["seed"], row["network"], row["n_images"], row["n_labels"], row["n_test"]) == (
        -1,
        "real",
        150,
        150,
        N_TEST,
    )
    test, labels = image_set.images[150:], image_set.labels(np.arange(150, 150 + N_TEST))
    assert sheet.labels.tolist() == [label for label in range(10) for _ in range(7)]
    for label in range(10):
        of_class = [image for image, its in zip(test, labels, strict=True) if its == label]
        for column in range(7):  # the first seven of the class, in their order
            assert np.array_equal(sheet.images[7 * label + column], of_class[column])
    distances = ((sheet.images.astype(int)[:, None] - image_set.images[None, :150].astype(int)) ** 2).sum(
        axis=(2, 3, 4)
    )
    assert sheet.nearest_labels.tolist() == (distances.argmin(axis=1) % 10).tolist()


def test_generated_digits(tmp_path: Path):
    model, networks = tmp_path / "model", {"generator": 10, "generator_last": 20}
    tensors: dict[str, torch.Tensor] = {}
    for seed in (0, 7):
        for name, number in networks.items():
            tensors |= store.named_tensors(f"seed{seed}/{name}", generator(seed=seed + number))
    validation = pd.DataFrame(
        {"seed": [0, 0, 7, 7], "epoch": [2, 4, 2, 4], "n_images": 10, "chosen": [True, False, False, True]}
    )
    architecture = {"name": "gan_mnist", "z_dim": 6, "filters": 0, "hidden": 16}
    store.write_model(
        model, tensors, {"params": {"architecture": architecture, "seeds": [0, 7]}}, {"validation": validation}
    )
    search = Search(batch_size=20, n_images=[40, 100], n_images_last_epoch=[60])
    rows, sheet = table3.generated_digits(digit_set(), model, search, COMPUTE, tmp_path)
    assert rows[["seed", "network", "epoch", "n_images"]].to_numpy().tolist() == [
        [0, "generator", 2, 40],
        [0, "generator", 2, 100],
        [0, "generator_last", 4, 60],
        [7, "generator", 4, 40],
        [7, "generator", 4, 100],
        [7, "generator_last", 4, 60],
    ]
    settings = {"z_dim": 6, "stream": "neighbours", "batch_size": 20, "first": 0, "last": 4, "compute": COMPUTE}
    made = [*sample_batches(generator(seed=10), seed=0, **settings)]
    images, labels = np.concatenate([s.images for s in made]), np.concatenate([s.labels for s in made])
    first = np.concatenate([np.flatnonzero(labels == label)[:7] for label in range(10)])
    np.testing.assert_array_equal(sheet.images, images[first])
    np.testing.assert_array_equal(sheet.labels, labels[first])
    image_set, task_of = digit_set(), SearchTask(
        test_images=made_images(),
        test_labels=digit_set().labels(np.arange(150, 150 + N_TEST)),
        generator=generator(seed=27),
        z_dim=6,
        seed=7,
        stream="neighbours",
    )  # fmt: skip
    assert len(image_set.images) == 150 + N_TEST
    (last,) = classify_by_samples(task_of, [60], 20, COMPUTE).to_dict("records")
    assert {key: rows.iloc[5][key] for key in last} == last
