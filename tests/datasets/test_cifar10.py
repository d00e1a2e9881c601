"""CIFAR-10's batches: read as they are, refused when they are anything else, never executed."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets.cifar10 import BATCHES, FOLDER, Cifar10Splits, assemble_cifar10, load_arrays

NAMES = [name for names in BATCHES.values() for name in names]
SPLITS = Cifar10Splits(n_train=15, n_test=3)
FIRST = "data_batch_1"


def batch(number, n=3):
    """Random pixels, labels in turn, as a batch of the official archive."""
    return {
        "batch_label": f"toy batch {number}",
        "labels": [(number + row) % 10 for row in range(n)],
        "data": np.random.default_rng(number).integers(0, 256, (n, 3072), dtype=np.uint8),
        "filenames": [f"toy_{number}_{row}.png" for row in range(n)],
    }


@pytest.fixture
def raw(tmp_path):
    """Six batches of three images each."""
    (tmp_path / "raw" / FOLDER).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        write(tmp_path / "raw", name, batch(number))
    return tmp_path / "raw"


def write(raw, name, content, protocol=2):
    (raw / FOLDER / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))


def pins(raw):
    return {name: hashlib.md5((raw / FOLDER / name).read_bytes()).hexdigest() for name in NAMES}


def refusal(raw, splits=SPLITS, md5=None):
    out = raw.parent / "set"
    with pytest.raises(InputError) as caught:
        assemble_cifar10(raw, out, splits, {} if md5 is None else md5)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# read


@pytest.mark.parametrize("pinned", [False, True])
def test_every_image_with_its_label_key_and_split(raw, tmp_path, pinned):
    assemble_cifar10(raw, tmp_path / "set", SPLITS, pins(raw) if pinned else {})
    found = open_set(tmp_path / "set")
    assert found.images.shape == (18, 32, 32, 3)
    for number, name in enumerate(NAMES):
        expected = batch(number)
        for row in range(3):
            entry, image = found.index.iloc[3 * number + row], found.images[3 * number + row]
            planes = expected["data"][row]  # 1,024 red values, row by row, then green, then blue
            for channel, y, x in [(0, 0, 0), (0, 0, 31), (1, 5, 7), (2, 31, 0), (2, 31, 31)]:
                assert image[y, x, channel] == planes[1024 * channel + 32 * y + x]
            assert entry["key"] == f"{name}/{row:05d}"
            assert entry["split"] == ("test" if name == "test_batch" else "train")
            assert entry["label"] == expected["labels"][row]
            assert entry["source"] == name
            assert entry["filename"] == expected["filenames"][row]
    assert len(pd.read_parquet(tmp_path / "set/rejects.parquet")) == 0


def test_batches_may_differ_in_size(raw, tmp_path):
    write(raw, "data_batch_2", batch(1, n=5))
    write(raw, "test_batch", batch(5, n=1))
    assemble_cifar10(raw, tmp_path / "set", Cifar10Splits(n_train=17, n_test=1), {})
    found = open_set(tmp_path / "set")
    assert np.array_equal(found.images[-1].transpose(2, 0, 1).ravel(), batch(5, n=1)["data"][0])
    assert np.array_equal(found.images[8].transpose(2, 0, 1).ravel(), batch(2)["data"][0])


def test_bytes_repeat(raw, tmp_path):
    for name in ("a", "b"):
        assemble_cifar10(raw, tmp_path / name, SPLITS, {})
    for file in ("images.npy", "index.parquet", "rejects.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_batch_without_file_names(raw, tmp_path):
    content = batch(0)
    del content["filenames"]
    write(raw, FIRST, content)
    assemble_cifar10(raw, tmp_path / "set", SPLITS, {})
    names = open_set(tmp_path / "set").index["filename"]
    assert names.iloc[:4].tolist() == ["", "", "", "toy_1_0.png"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3(raw, tmp_path, protocol):
    write(raw, FIRST, batch(0), protocol)
    assemble_cifar10(raw, tmp_path / "set", SPLITS, {})
    first = open_set(tmp_path / "set").images[0]
    assert np.array_equal(first.transpose(2, 0, 1).ravel(), batch(0)["data"][0])


def test_pickles_of_numpy_1(raw, tmp_path):
    """Older NumPy names another module; so do the official batches."""
    content = pickle.dumps(batch(0), 2)
    assert b"cnumpy._core.multiarray\n" in content
    write(raw, FIRST, content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assemble_cifar10(raw, tmp_path / "set", SPLITS, {})
    assert np.array_equal(open_set(tmp_path / "set").images[0].transpose(2, 0, 1).ravel(), batch(0)["data"][0])


# never executed


class Touches:
    """Unpickled by Python, this opens a file for writing."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return io.open, (self.path, "w")


def evil(kind, path):
    if kind == "class_by_hand":  # opcode INST, of Python 2's old classes
        return b"(V" + str(path).encode() + b"\nVw\niio\nopen\n."
    value = Touches(path)
    if kind == "in_an_array":
        array = np.empty((3, 3072), dtype=object)
        array[0, 0] = value
        value = batch(0) | {"data": array}
    elif kind == "in_a_batch":
        value = batch(0) | {"batch_label": value}
    return pickle.dumps(value, 4 if kind == "protocol_4" else 2)


EVIL = pytest.mark.parametrize("kind", ["plain", "protocol_4", "in_a_batch", "in_an_array", "class_by_hand"])


@EVIL
def test_the_malicious_pickles_of_these_tests_work(tmp_path, kind):
    loaded = pickle.loads(evil(kind, tmp_path / "touched"))
    for value in (loaded, *(loaded.values() if isinstance(loaded, dict) else ())):
        for opened in np.ravel(value) if isinstance(value, np.ndarray) else [value]:
            if isinstance(opened, io.IOBase):
                opened.close()
    assert (tmp_path / "touched").exists()


@EVIL
def test_a_wrong_md5_is_never_unpickled(raw, tmp_path, monkeypatch, kind):
    md5 = pins(raw)
    write(raw, FIRST, evil(kind, tmp_path / "touched"))

    def unpickled(*args):
        pytest.fail("unpickled")

    monkeypatch.setattr("pipeline.datasets.cifar10.load_arrays", unpickled)
    message = refusal(raw, md5=md5)
    found = hashlib.md5((raw / FOLDER / FIRST).read_bytes()).hexdigest()
    assert message.startswith(
        f"{raw / FOLDER / FIRST}: its md5 is {found}, fetch.cifar10.official.md5 pins {md5[FIRST]}"
    )
    assert "not unpickled" in message
    assert not (tmp_path / "touched").exists()


@EVIL
@pytest.mark.parametrize("pinned", [False, True])
def test_a_malicious_batch_with_the_right_md5_is_not_executed(raw, tmp_path, kind, pinned):
    write(raw, FIRST, evil(kind, tmp_path / "touched"))
    message = refusal(raw, md5=pins(raw) if pinned else {})
    assert message.startswith(f"{raw / FOLDER / FIRST}: the pickle asks for io.open, a batch needs arrays only")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_no_builtin_is_given_out(name):
    content = pickle.dumps(__builtins__[name] if isinstance(__builtins__, dict) else getattr(__builtins__, name), 2)
    with pytest.raises(InputError, match=f"asks for __builtin__.{name}|asks for builtins.{name}"):
        load_arrays(content, Path("batch"))


def test_a_batch_that_params_do_not_pin(raw):
    md5 = pins(raw)
    del md5["test_batch"]
    assert "pins none for it" in refusal(raw, md5=md5)


# refused


def test_every_truncation(raw):
    content = (raw / FOLDER / FIRST).read_bytes()
    for keep in [*range(0, 200, 7), *range(200, len(content), 997), len(content) - 1]:
        with pytest.raises(InputError, match=f"{FIRST}: not a whole pickle"):
            load_arrays(content[:keep], raw / FOLDER / FIRST)
    write(raw, FIRST, content[:1000])
    assert "not a whole pickle" in refusal(raw)


@pytest.mark.parametrize(
    "content", [b"a text file", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x05K\x01", b"\x80\x63N."]
)
def test_another_kind_of_file(raw, content):
    write(raw, FIRST, content)
    assert refusal(raw).startswith(f"{raw / FOLDER / FIRST}: not a whole pickle (")


@pytest.mark.parametrize("name", [FIRST, "test_batch"])
def test_a_missing_batch(raw, name):
    (raw / FOLDER / name).unlink()
    assert refusal(raw) == f"{raw / FOLDER / name}: missing; run dvc repro fetch@cifar10"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "no data in the batch; found batch_label, filenames, labels"),
        ({"labels": None}, "no labels in the batch; found batch_label, data, filenames"),
        ({"data": None, "labels": None}, "no data and no labels in the batch; found batch_label, filenames"),
        (
            {"data": np.zeros((3, 3071), np.uint8)},
            "data is uint8 of shape (3, 3071); expected uint8 of shape (N, 3072)",
        ),
        ({"data": np.zeros((3, 32, 32, 3), np.uint8)}, "data is uint8 of shape (3, 32, 32, 3); expected uint8"),
        ({"data": np.zeros((3, 3072), np.int16)}, "data is int16 of shape (3, 3072); expected uint8"),
        ({"data": np.zeros((3, 3072), object)}, "data is object of shape (3, 3072); expected uint8"),
        ({"data": [[0] * 3072] * 3}, "data is list; expected uint8"),
        ({"labels": [0, 1, 10]}, "label 10 at row 2; expected 0..9"),
        ({"labels": [0, -1, 11]}, "label -1 at row 1; expected 0..9"),
        ({"labels": [0, 1]}, "3 images, 2 labels and 3 file names; one each is expected"),
        ({"labels": []}, "3 images, 0 labels and 3 file names"),
        ({"labels": [0, 1, 2.5]}, "labels are not a list of whole numbers"),
        ({"labels": [0, 1, 2**80]}, "labels are not a list of whole numbers"),
        ({"labels": ["a", "b", "c"]}, "labels are not a list of whole numbers"),
        ({"labels": [[0], [1], [2]]}, "labels are not a list of whole numbers"),
        ({"labels": [[0], [1, 2], []]}, "labels are not a list of whole numbers"),
        ({"labels": 3}, "labels are not a list of whole numbers"),
        ({"filenames": ["a", "b"]}, "3 images, 3 labels and 2 file names"),
        ({"filenames": [1, 2, 3]}, "filenames is not a list of text"),
        ({"filenames": "abc"}, "filenames is not a list of text"),
    ],
)
def test_a_batch_that_is_not_one(raw, change, said):
    content = {key: value for key, value in (batch(0) | change).items() if value is not None}
    write(raw, FIRST, content)
    message = refusal(raw)
    assert message.startswith(f"{raw / FOLDER / FIRST}: ")
    assert said in message


@pytest.mark.parametrize(("content", "found"), [([1, 2], "list"), (None, "NoneType"), ({}, "no key")])
def test_a_pickle_of_something_else(raw, content, found):
    write(raw, FIRST, pickle.dumps(content, 2))
    assert f"no data and no labels in the batch; found {found}" in refusal(raw)


@pytest.mark.parametrize(
    ("splits", "split"), [((14, 3), "train"), ((16, 3), "train"), ((15, 2), "test"), ((15, 4), "test")]
)
def test_sizes_that_are_not_the_archives(raw, splits, split):
    sizes = dict(zip(("train", "test"), splits, strict=True))
    message = refusal(raw, Cifar10Splits(n_train=sizes["train"], n_test=sizes["test"]))
    has = {"train": 15, "test": 3}[split]
    assert f"the batches have {has} {split} images, assemble.cifar10.n_{split} is {sizes[split]}" in message


def test_an_earlier_set_survives_a_refusal(raw, tmp_path):
    assemble_cifar10(raw, tmp_path / "set", SPLITS, {})
    before = (tmp_path / "set/images.npy").read_bytes()
    write(raw, FIRST, b"")
    with pytest.raises(InputError):
        assemble_cifar10(raw, tmp_path / "set", SPLITS, {})
    assert (tmp_path / "set/images.npy").read_bytes() == before
