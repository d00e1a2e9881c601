"""Raw MNIST to an image set."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets import idx
from pipeline.datasets.assemble import MnistSplits, assemble_mnist

CLASSES = 10


def splits(test_from="archive", n_train=40, n_validation=20, n_test=20, seed=0, *, stratified=False):
    return MnistSplits(
        seed=seed,
        test_from=test_from,
        stratified=stratified,
        n_train=n_train,
        n_validation=n_validation,
        n_test=n_test,
    )


def write_part(raw, part, n, first=0):
    """n digits of 3 x 3 pixels, each with its own number in its first pixel, classes in turn."""
    images = np.zeros((n, 3, 3), dtype=np.uint8)
    images[:, 0, 0] = first + np.arange(n)
    raw.mkdir(exist_ok=True)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(idx.encode(images))
    write_labels(raw, part, np.arange(n) % CLASSES)


def write_labels(raw, part, labels):
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx.encode(np.asarray(labels, dtype=np.uint8)))


@pytest.fixture
def raw(tmp_path):
    """A tiny archive: 60 training and 20 test digits."""
    write_part(tmp_path / "raw", "train", 60)
    write_part(tmp_path / "raw", "t10k", 20, first=100)
    return tmp_path / "raw"


def refusal(raw, config):
    out = raw.parent / "set"
    with pytest.raises(InputError) as caught:
        assemble_mnist(raw, out, config)
    assert not out.exists()
    return str(caught.value)


# the embedded digits


@pytest.fixture(scope="module")
def embedded(embedded_raw, root):
    """The embedded image set."""
    out = embedded_raw.parent / "set"
    assemble_mnist(embedded_raw, out, params.load(root / "params.yaml", MnistSplits, own="assemble.mnist"))
    return open_set(out)


def test_embedded_splits_are_exactly_stratified(embedded):
    assert embedded.images.shape == (5000, 28, 28, 1)
    for split, per_class in {"train": 350, "validation": 50, "test": 100}.items():
        rows = embedded.rows(split)
        assert np.bincount(embedded.labels(rows)).tolist() == [per_class] * CLASSES


def test_embedded_images_are_the_archives(embedded, embedded_raw):
    for name, found in (
        ("train-images-idx3-ubyte", embedded.images[..., 0]),
        ("train-labels-idx1-ubyte", embedded.index["label"].to_numpy()),
    ):
        assert np.array_equal(found, idx.decode((embedded_raw / name).read_bytes(), embedded_raw))


def test_embedded_bytes_repeat(embedded, embedded_raw, root, tmp_path):
    again = tmp_path / "set"
    assemble_mnist(embedded_raw, again, params.load(root / "params.yaml", MnistSplits, own="assemble.mnist"))
    names = sorted(path.name for path in again.iterdir())
    assert names == ["images.npy", "index.parquet", "rejects.parquet"]
    for name in names:
        assert (again / name).read_bytes() == (embedded.path / name).read_bytes()


# a tiny archive


@pytest.mark.parametrize("stratified", [False, True])
def test_the_archives_test_files_are_the_test_split(raw, tmp_path, stratified):
    assemble_mnist(raw, tmp_path / "set", splits(stratified=stratified))
    found = open_set(tmp_path / "set")
    assert found.images.shape == (80, 3, 3, 1)
    assert found.images[found.rows("test"), 0, 0, 0].tolist() == list(range(100, 120))
    assert {split: len(found.rows(split)) for split in ("train", "validation", "test")} == {
        "train": 40,
        "validation": 20,
        "test": 20,
    }
    assert set(found.index["split"][:60]) == {"train", "validation"}
    if stratified:
        assert np.bincount(found.labels(found.rows("validation"))).tolist() == [2] * CLASSES
    else:
        assert np.bincount(found.labels(found.rows("validation"))).tolist() != [2] * CLASSES


def test_the_test_split_is_cut_from_the_training_files(raw, tmp_path):
    config = splits(test_from="split", n_train=30, n_validation=10, n_test=20, stratified=True)
    assemble_mnist(raw, tmp_path / "set", config)
    found = open_set(tmp_path / "set")
    assert len(found.images) == 60  # the t10k files are not read
    assert np.bincount(found.labels(found.rows("test"))).tolist() == [2] * CLASSES


def test_every_digit_is_in_one_split_and_keeps_its_label_and_key(raw, tmp_path):
    assemble_mnist(raw, tmp_path / "set", splits())
    found = open_set(tmp_path / "set")
    rows = np.concatenate([found.rows(split) for split in ("train", "validation", "test")])
    assert sorted(rows) == list(range(80))
    assert found.images[:, 0, 0, 0].tolist() == [*range(60), *range(100, 120)]
    assert found.index["label"].tolist() == [*(np.arange(60) % CLASSES), *(np.arange(20) % CLASSES)]
    assert found.index["key"].is_unique
    assert found.index["key"].iloc[[0, 59, 60, 79]].tolist() == [
        "train-images/00000",
        "train-images/00059",
        "t10k-images/00000",
        "t10k-images/00019",
    ]
    assert found.index["source"].tolist() == ["train-images"] * 60 + ["t10k-images"] * 20
    assert len(pd.read_parquet(tmp_path / "set/rejects.parquet")) == 0


def test_the_seed_decides_the_splits(raw, tmp_path):
    def assembled(name, seed):
        assemble_mnist(raw, tmp_path / name, splits(seed=seed))
        return (tmp_path / name / "index.parquet").read_bytes(), (tmp_path / name / "images.npy").read_bytes()

    index, images = assembled("a", 0)
    assert assembled("b", 0) == (index, images)
    other_index, other_images = assembled("c", 1)
    assert other_index != index
    assert other_images == images


# refused


@pytest.mark.parametrize(("part", "row"), [("train", 37), ("t10k", 4)])
def test_a_label_that_is_no_digit(raw, part, row):
    labels = np.zeros(60 if part == "train" else 20)
    labels[row], labels[-1] = 10, 255
    write_labels(raw, part, labels)
    message = refusal(raw, splits())
    assert message == f"{raw / f'{part}-labels-idx1-ubyte'}: label 10 at row {row}; expected 0..9"


def test_counts_of_images_and_labels_differ(raw):
    write_labels(raw, "train", np.zeros(59))
    message = refusal(raw, splits())
    assert f"{raw}: train images have shape (60, 3, 3), labels (59,); one label an image is expected" in message


def test_images_and_labels_swapped(raw):
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    images.rename(raw / "swap")
    labels.rename(images)
    (raw / "swap").rename(labels)
    assert "one label an image is expected" in refusal(raw, splits())


def test_training_sizes_that_do_not_add_up(raw):
    message = refusal(raw, splits(n_train=41))
    assert "assemble.mnist: 41 train + 20 validation = 61 examples are asked for, the archive has 60" in message
    message = refusal(raw, splits(test_from="split"))
    assert "40 train + 20 validation + 20 test = 80 examples are asked for, the archive has 60" in message


def test_a_test_size_that_is_not_the_archives(raw):
    message = refusal(raw, splits(n_test=21))
    assert message == f"{raw}: the archive has 20 test digits, assemble.mnist.n_test is 21"


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_file(raw, name):
    (raw / name).unlink()
    assert refusal(raw, splits()).startswith(f"{raw / name}: missing; run dvc repro ")


def test_a_truncated_file(raw):
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(raw, splits()).startswith(f"{file}: truncated or too long: 195 bytes")


def test_an_earlier_set_survives_a_refusal(raw, tmp_path):
    assemble_mnist(raw, tmp_path / "set", splits())
    before = (tmp_path / "set/index.parquet").read_bytes()
    with pytest.raises(InputError):
        assemble_mnist(raw, tmp_path / "set", splits(n_test=21))
    assert (tmp_path / "set/index.parquet").read_bytes() == before
