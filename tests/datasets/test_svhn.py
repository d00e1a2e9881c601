"""SVHN's .mat files: read as they are, refused when they are anything else."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets.splits import validation_rows
from pipeline.datasets.svhn import FILES, SvhnSplits, assemble_svhn

SIZES = {"train": 13, "test": 7, "extra": 4}
SPLITS = SvhnSplits(n_train=13, n_validation=5, seed=3, n_test=7, n_extra=0)
WITH_EXTRA = SvhnSplits(n_train=13, n_validation=5, seed=3, n_test=7, n_extra=4)


def variables(split, n=None):
    """Random pixels, and labels 1..10 in turn, in MATLAB's layout."""
    n = SIZES[split] if n is None else n
    rng = np.random.default_rng(SIZES[split])
    return {
        "X": rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8),
        "y": (np.arange(n, dtype=np.uint8) % 10 + 1)[:, None],
    }


@pytest.fixture
def raw(tmp_path):
    """Tiny train and test files."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in ("train", "test"):
        savemat(folder / FILES[split], variables(split), do_compression=True)
    return folder


def write(raw, split, content, **options):
    savemat(raw / FILES[split], content, **({"do_compression": True} | options))


def refusal(raw, splits=SPLITS, md5=None):
    out = raw.parent / "set"
    with pytest.raises(InputError) as caught:
        assemble_svhn(raw, out, splits, md5 or {})
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# read


@pytest.mark.parametrize("compressed", [True, False])
def test_every_image_with_its_label_key_and_split(raw, tmp_path, monkeypatch, compressed):
    monkeypatch.setattr("pipeline.datasets.svhn.CHUNK", 5)  # several blocks and a rest
    for split in ("train", "test"):
        write(raw, split, variables(split), do_compression=compressed)
    assemble_svhn(raw, tmp_path / "set", SPLITS, {})
    found = open_set(tmp_path / "set")
    assert found.images.shape == (20, 32, 32, 3)
    for split, first in (("train", 0), ("test", 13)):
        expected = variables(split)
        for row in range(SIZES[split]):
            entry = found.index.iloc[first + row]
            assert np.array_equal(found.images[first + row], expected["X"][:, :, :, row])
            assert entry["label"] == int(expected["y"][row, 0]) % 10
            assert entry["key"] == f"{split}_32x32/{row:06d}"
            assert entry["split"] in (("train", "validation") if split == "train" else ("test",))
            assert entry["source"] == f"{split}_32x32"
    assert len(found.rows("validation")) == 5  # of the training images, drawn by seed
    assert (
        found.rows("validation").tolist()
        == validation_rows(found.labels(np.arange(13)), 5, seed=3, stratified=False, where="").tolist()
    )
    assert found.index["label"].iloc[9] == 0  # stored as 10
    assert found.index["label"].dtype == np.int64
    assert set(found.index["label"]) == set(range(10))
    assert len(pd.read_parquet(tmp_path / "set/rejects.parquet")) == 0


def test_bytes_repeat(raw, tmp_path):
    for name in ("a", "b"):
        assemble_svhn(raw, tmp_path / name, SPLITS, {})
    for file in ("images.npy", "index.parquet", "rejects.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_extra_set_when_asked_for(raw, tmp_path):
    write(raw, "extra", variables("extra"))
    assemble_svhn(raw, tmp_path / "set", WITH_EXTRA, {})
    found = open_set(tmp_path / "set")
    assert found.rows("extra").tolist() == [20, 21, 22, 23]
    assert np.array_equal(found.images[23], variables("extra")["X"][..., 3])
    assert "extra_32x32.mat: fetched, but assemble.svhn.n_extra is 0" in refusal_beside(raw, tmp_path)


def refusal_beside(raw, tmp_path):
    with pytest.raises(InputError) as caught:
        assemble_svhn(raw, tmp_path / "other", SPLITS, {})
    return str(caught.value)


def test_other_variables_are_not_read(raw, tmp_path):
    write(raw, "train", variables("train") | {"names": np.array(["a", 1], dtype=object), "Z": np.zeros(3)})
    assemble_svhn(raw, tmp_path / "set", SPLITS, {})
    assert len(open_set(tmp_path / "set").images) == 20


def test_labels_in_a_row(raw, tmp_path):
    content = variables("train")
    write(raw, "train", content | {"y": content["y"].T.astype(np.int32)})
    assemble_svhn(raw, tmp_path / "set", SPLITS, {})
    assert open_set(tmp_path / "set").index["label"].tolist()[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]


# pinned


def pins(raw):
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in raw.iterdir()}


def test_pinned_files(raw, tmp_path):
    assemble_svhn(raw, tmp_path / "set", SPLITS, pins(raw))
    assert len(open_set(tmp_path / "set").images) == 20


def test_a_wrong_md5_is_never_parsed(raw, monkeypatch):
    md5 = pins(raw)
    file = raw / FILES["test"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(
        "pipeline.datasets.svhn._read_mat",
        lambda asked: pytest.fail("parsed") if asked == file else (variables("train")["X"], np.arange(13)),
    )
    message = refusal(raw, md5=md5)
    assert message.startswith(f"{file}: its md5 is {hashlib.md5(file.read_bytes()).hexdigest()}, ")
    assert f"fetch.svhn.official.md5 pins {md5[file.name]}" in message


def test_a_file_that_params_do_not_pin(raw):
    assert "fetch.svhn.official.md5 pins none for it" in refusal(raw, md5={FILES["train"]: pins(raw)[FILES["train"]]})


# refused


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_file(raw, split):
    (raw / FILES[split]).unlink()
    assert refusal(raw) == f"{raw / FILES[split]}: missing; run dvc repro fetch@svhn"


def test_a_missing_extra_file(raw):
    message = refusal(raw, WITH_EXTRA)
    assert message.startswith(
        f"{raw / FILES['extra']}: missing; set fetch.svhn.official.extra to true and run dvc repro"
    )


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"n_train": 12}, "train_32x32.mat: 13 images, assemble.svhn.n_train is 12"),
        ({"n_train": 14}, "train_32x32.mat: 13 images, assemble.svhn.n_train is 14"),
        ({"n_test": 8}, "test_32x32.mat: 7 images, assemble.svhn.n_test is 8"),
    ],
)
def test_sizes_that_are_not_the_archives(raw, splits, said):
    assert said in refusal(
        raw, SvhnSplits(**({"n_train": 13, "n_validation": 5, "seed": 3, "n_test": 7, "n_extra": 0} | splits))
    )


X, Y = variables("train")["X"], variables("train")["y"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"x": X, "y": Y}, "no variable X; found x, y; expected X and y"),
        ({"X": X}, "no variable y; found X; expected X and y"),
        ({"digits": Y}, "no variable X and no y; found digits; expected X and y"),
        ({}, "no variable X and no y; found none; expected X and y"),
        (
            {"X": X.transpose(3, 0, 1, 2), "y": Y},
            "X is uint8 of shape (13, 32, 32, 3); expected uint8 of shape (32, 32",
        ),
        ({"X": X[:, :, :1], "y": Y}, "X is uint8 of shape (32, 32, 1, 13); expected uint8"),
        ({"X": X[..., 0], "y": Y[:1]}, "X is uint8 of shape (32, 32, 3); expected uint8"),
        ({"X": X.astype(float), "y": Y}, "X is float64 of shape (32, 32, 3, 13); expected uint8"),
        ({"X": {"a": 1}, "y": Y}, "X is [('a', 'O')] of shape (1, 1); expected uint8"),
        ({"X": X, "y": Y[:12]}, "y is uint8 of shape (12, 1); expected whole numbers of shape (13, 1)"),
        ({"X": X, "y": np.tile(Y, 2)}, "y is uint8 of shape (13, 2); expected whole numbers"),
        ({"X": X, "y": Y + 0.5}, "y is float64 of shape (13, 1); expected whole numbers"),
        ({"X": X, "y": "1234567890123"}, "y is <U13 of shape (1,); expected whole numbers"),
        ({"X": X, "y": Y - 1}, "label 0 at row 0; expected 1..10 (10 is the digit 0)"),
        ({"X": X, "y": Y + 1}, "label 11 at row 9; expected 1..10"),
        ({"X": X, "y": -Y.astype(np.int16)}, "label -1 at row 0; expected 1..10"),
    ],
)
def test_a_file_with_other_variables(raw, content, said):
    write(raw, "train", content)
    message = refusal(raw)
    assert message.startswith(f"{raw / FILES['train']}: ")
    assert said in message


@pytest.mark.parametrize("compressed", [True, False])
def test_every_truncation(raw, compressed):
    file = raw / FILES["train"]
    write(raw, "train", variables("train"), do_compression=compressed)
    content = file.read_bytes()  # the last three bytes may be padding
    for keep in [0, 3, 127, 128, 129, 140, 200, len(content) // 2, len(content) - 60, len(content) - 4]:
        file.write_bytes(content[:keep])
        message = refusal(raw)
        assert message.startswith(f"{file}: ")
        if keep < 128:
            assert "not a whole .mat file of MATLAB 5" in message
        elif keep == 128:
            assert "no variable X and no y; found none" in message
        else:
            assert "truncated or damaged .mat file" in message


def test_damaged_in_the_middle(raw):
    file = raw / FILES["train"]
    content = bytearray(file.read_bytes())
    content[5000] ^= 0xFF
    file.write_bytes(content)
    assert refusal(raw).startswith(f"{file}: truncated or damaged .mat file (")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(400), "MATLAB 7.3 (HDF5); expected"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "MATLAB 7.3 (HDF5); expected MATLAB 5"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\2IM" + bytes(400), "not a whole .mat file of MATLAB 5"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600), "not a whole .mat file of MATLAB 5 (it begins with 89 50 4e 47)"),
        (b"<html>not found</html>" * 40, "not a whole .mat file of MATLAB 5 (it begins with 3c 68 74 6d)"),
        (bytes(1000), "not a whole .mat file of MATLAB 5 (it begins with 00 00 00 00)"),
        (b"", "not a whole .mat file of MATLAB 5 (it begins with nothing)"),
    ],
    ids=["hdf5_matlab", "hdf5", "other_version", "png", "html", "zeros", "empty"],
)
def test_another_kind_of_file(raw, content, said):
    (raw / FILES["train"]).write_bytes(content)
    message = refusal(raw)
    assert message.startswith(f"{raw / FILES['train']}: ")
    assert said in message


def test_an_earlier_set_survives_a_refusal(raw, tmp_path):
    assemble_svhn(raw, tmp_path / "set", SPLITS, {})
    before = (tmp_path / "set/images.npy").read_bytes()
    (raw / FILES["test"]).write_bytes(b"")
    with pytest.raises(InputError):
        assemble_svhn(raw, tmp_path / "set", SPLITS, {})
    assert (tmp_path / "set/images.npy").read_bytes() == before
