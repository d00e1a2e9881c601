"""Image sets: what is written is read back, and what does not belong together is refused."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core import store
from pipeline.core.errors import InputError


def images(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, 4, 3, 2), dtype=np.uint8)


def index(n=5):
    return pd.DataFrame(
        {
            "key": [f"toy/{row}" for row in range(n)],
            "split": ["train", "test", "train", "validation", "train"][:n],
            "label": np.arange(n) - 1,
            "source": "toy",
            "box": np.arange(n) * 0.5,
        }
    )


@pytest.fixture
def path(tmp_path):
    """A good set on disk."""
    store.write_set(tmp_path / "set", images(), index(), store.no_rejects())
    return tmp_path / "set"


def test_round_trip(tmp_path):
    rejects = pd.DataFrame({"key": ["toy/9"], "reason": ["too small"]})
    store.write_set(tmp_path / "set", images(), index(), rejects)
    found = store.open_set(tmp_path / "set")
    assert np.array_equal(found.images, images())
    assert found.images.dtype == np.uint8
    pd.testing.assert_frame_equal(found.index, index(), check_dtype=False)
    assert pd.read_parquet(tmp_path / "set/rejects.parquet").to_dict("records") == rejects.to_dict("records")
    files = sorted(file.name for file in (tmp_path / "set").iterdir())
    assert files == ["images.npy", "index.parquet", "rejects.parquet"]


def test_images_stay_on_disk(path):
    found = store.open_set(path)
    assert isinstance(found.images, np.memmap)
    assert not found.images.flags.writeable


def test_any_memory_layout_is_stored_in_c_order(tmp_path):
    turned = images().transpose(0, 2, 1, 3)
    store.write_set(tmp_path / "set", turned, index(), store.no_rejects())
    stored = store.open_set(tmp_path / "set").images
    assert stored.flags.c_contiguous
    assert np.array_equal(stored, turned)


def test_the_same_set_gives_the_same_bytes(tmp_path, path):
    store.write_set(tmp_path / "again", images(), index(), store.no_rejects())
    for file in path.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_rows_and_labels(path):
    found = store.open_set(path)
    assert found.rows("train").tolist() == [0, 2, 4]
    assert found.labels(found.rows("train")).tolist() == [-1, 1, 3]
    assert found.labels(np.array([4, 0])).tolist() == [3, -1]
    assert found.labels(np.array([0])).dtype == np.int64


def test_an_absent_split_lists_those_there_are(path):
    with pytest.raises(InputError, match="no images in split 'dev'; found test, train, validation") as caught:
        store.open_set(path).rows("dev")
    assert str(path) in str(caught.value)


def test_no_rejects_is_an_empty_table_of_two_columns():
    assert list(store.no_rejects().columns) == ["key", "reason"]
    assert len(store.no_rejects()) == 0


# refused


@pytest.mark.parametrize(
    ("array", "rows", "words"),
    [
        (images(4), index(), "array has 4 images but the index has 5 rows"),
        (images(), index(4), "array has 5 images but the index has 4 rows"),
        (images().astype(np.float32), index(), r"must be uint8 N x H x W x C, found float32 of shape \(5, 4, 3, 2\)"),
        (images()[..., 0], index(), r"must be uint8 N x H x W x C, found uint8 of shape \(5, 4, 3\)"),
        (images(), index().drop(columns="label"), "no column label; expected key, split, label, source"),
        (images(), index()[["key", "label"]], "no column split, source"),
    ],
)
def test_a_set_that_breaks_the_contract(tmp_path, path, array, rows, words):
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(InputError, match=words):
        store.write_set(path, array, rows, store.no_rejects())
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    # the same found on disk
    np.save(path / "images.npy", array)
    rows.to_parquet(path / "index.parquet", index=False)
    with pytest.raises(InputError, match=words) as caught:
        store.open_set(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["images.npy", "index.parquet"])
def test_a_missing_file(path, name):
    (path / name).unlink()
    with pytest.raises(InputError, match=f"no {name}; run the stage .*dvc repro"):
        store.open_set(path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no images\.npy"):
        store.open_set(tmp_path / "nowhere")


def truncate(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


@pytest.mark.parametrize("keep", [0, 3, 50, 128, -1])
def test_a_truncated_array(path, keep):
    truncate(path / "images.npy", keep)
    with pytest.raises(InputError, match=r"images\.npy: not a whole NumPy array .*dvc repro"):
        store.open_set(path)


@pytest.mark.parametrize("keep", [0, 3, 100, -5])
def test_a_truncated_index(path, keep):
    truncate(path / "index.parquet", keep)
    with pytest.raises(InputError, match=r"index\.parquet: "):
        store.open_set(path)


@pytest.mark.parametrize("name", ["images.npy", "index.parquet"])
def test_a_flipped_bit_is_refused_in_a_sentence_or_harmless(path, name):
    """NumPy, pyarrow and pandas have seven kinds of errors for that; in an image it is another image."""
    whole, refusals = (path / name).read_bytes(), []
    for position in range(0, min(len(whole), 5000), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (path / name).write_bytes(damaged)
        try:
            store.open_set(path)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all(sentence.startswith(str(path)) for sentence in refusals)


def test_pickled_objects_are_never_loaded(path):
    np.save(path / "images.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"images\.npy"):
        store.open_set(path)


def test_a_file_of_arrays_round_trip(tmp_path):
    arrays = {"images": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": np.array([4, 5])}
    store.write_arrays(tmp_path / "a.npz", **arrays)
    found = store.read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_a_damaged_file_of_arrays(tmp_path):
    path, refusals = tmp_path / "a.npz", []
    store.write_arrays(path, images=np.arange(6, dtype=np.uint8), labels=np.array([4, 5]))
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            store.read_arrays(path)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > len(whole) // 2  # nobody reads the dates, for one
    assert all(sentence.startswith(f"{path}: not a whole file of arrays (") for sentence in refusals)
    np.save(tmp_path / "lone.npy", np.arange(3))
    for other in (tmp_path / "lone.npy", tmp_path / "missing.npz", tmp_path):
        with pytest.raises(InputError, match=r"not a whole file of arrays .*; remove it and retrain"):
            store.read_arrays(other, "remove it and retrain")


def test_arrays_are_written_in_the_same_bytes(tmp_path):
    arrays = {"images": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": np.array([4, 5])}
    for name in ("a.npz", "b.npz"):
        store.write_arrays(tmp_path / name, **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert {*read.files} == {"images", "labels"}
        np.testing.assert_array_equal(read["images"], arrays["images"])


@pytest.mark.parametrize(("limit", "needed"), [(store.LARGEST_WITHOUT_ZIP64, 20), (0, 45)])
def test_only_large_arrays_ask_for_zip64(tmp_path, monkeypatch, limit, needed):
    """Versions of the zip format: 2.0, and 4.5 with ZIP64, whose headers differ between patch releases of Python."""
    monkeypatch.setattr(store, "LARGEST_WITHOUT_ZIP64", limit)
    store.write_arrays(tmp_path / "a.npz", few=np.arange(3), no_images=np.empty((0, 2, 2)))
    first = (tmp_path / "a.npz").read_bytes()
    assert first[:4] == b"PK\x03\x04"
    assert int.from_bytes(first[4:6], "little") == needed
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read["few"].tolist() == [0, 1, 2]
        assert read["no_images"].shape == (0, 2, 2)
