"""Photographs of installed packages: their windows as an ImageFolder, their patches in CIFAR-10's layout."""

import hashlib
import pickle
import socket

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.datasets.embedded import photos
from pipeline.datasets.embedded.photos import PhotoPatches, PhotoWindows

WINDOWS = PhotoWindows(seed=3, n_train=48, n_validation=16)
PATCHES = PhotoPatches(seed=3, n_train=100, n_test=50)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    out = tmp_path_factory.mktemp("windows") / "out"
    photos.write_photo_windows(out, WINDOWS)
    return out


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    out = tmp_path_factory.mktemp("patches") / "out"
    photos.write_photo_patches(out, PATCHES)
    return out


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def batch(folder, name, encoding="bytes"):
    with (folder / "cifar-10-batches-py" / name).open("rb") as file:
        return pickle.load(file, encoding=encoding)


# the photographs


def test_photographs_come_from_the_packages_alone(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *args, **kwargs: pytest.fail("no network is needed"))
    photos._photograph.cache_clear()
    found = photos.photographs()
    assert list(found) == sorted(found)
    assert len(found) >= 10
    for name, photo in found.items():
        assert photo.dtype == np.uint8, name
        assert photo.ndim == 3, name
        assert photo.shape[2] == 3, name
        assert min(photo.shape[:2]) >= 150, name
        assert photo.std() > 5, name
        with pytest.raises(ValueError, match="read-only"):
            photo[0, 0] = 0


def test_photographs_are_rgb():
    red = photos.photographs()["retina"].mean(axis=(0, 1))
    assert red[0] > 1.5 * red[2]
    assert photos.photographs()["rocket"][:100].mean(axis=(0, 1)).argmax() == 2  # a blue sky


@pytest.mark.parametrize("place", [("skimage", "data/nothing.png"), ("no_such_package", "a.png")])
def test_a_package_without_the_file(monkeypatch, place):
    monkeypatch.setitem(photos.FILES, "lost", place)
    with pytest.raises(InputError, match="the photograph 'lost' is not there; install the pinned packages"):
        photos.photographs()


# windows


def test_windows_are_an_image_folder_of_jpegs(windows):
    for split, each in (("train", 3), ("val", 1)):
        assert sorted(path.name for path in (windows / split).iterdir()) == sorted(photos.WINDOW_CLASSES)
        for folder in (windows / split).iterdir():
            assert sorted(path.name for path in folder.iterdir()) == [f"{number:05d}.JPEG" for number in range(each)]
    assert {path.name for path in windows.iterdir()} == {"train", "val"}


def test_windows_differ_in_size_aspect_and_content(windows):
    shapes = set()
    for path in windows.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert image.mode == (
                "L" if path.parent.name in ("brick", "camera", "coins", "grass", "gravel", "moon") else "RGB"
            )
            shapes.add(image.size)
            pixels = np.asarray(image, dtype=float)
        assert 140 <= min(image.size) <= 200
        assert max(image.size) <= 1.6 * min(image.size) + 1
        assert pixels.std(axis=(0, 1)).max() > 2, path
    assert len(shapes) > 40
    assert any(width > 1.2 * height for width, height in shapes)
    assert any(height > 1.2 * width for width, height in shapes)
    assert len(set(contents(windows).values())) == 64


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_train_and_validation_parts_share_no_pixel(shape):
    photo = np.arange(30 * 50 * 3).reshape(*shape, 3)
    train, validation = (photos._part(photo, split) for split in ("train", "val"))
    assert not set(train.ravel()) & set(validation.ravel())
    assert train.size + validation.size == photo.size
    assert train.size == pytest.approx(0.72 * photo.size)


def test_no_validation_windows(tmp_path):
    photos.write_photo_windows(tmp_path / "out", PhotoWindows(seed=1, n_train=2, n_validation=0))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_flat_windows_are_drawn_again():
    part = np.zeros((400, 400, 3), np.uint8)
    part[:, 150:] = np.random.default_rng(0).integers(0, 255, (400, 250, 3))
    for seed in range(20):
        window = photos._window(part[:, :300], np.random.default_rng(seed))
        assert window.std() > 5
    flat = photos._window(np.full((200, 200, 3), 7, np.uint8), np.random.default_rng(0))  # nothing else is to be had
    assert np.unique(flat).tolist() == [7]


# patches


def test_patches_read_as_torchvision_does(patches, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = patches / "cifar-10-batches-py"
    md5 = {path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in folder.iterdir()}

    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in sorted(md5) if name.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    for train, n in ((True, 100), (False, 50)):
        found = CIFAR10(patches, train=train)
        assert found.data.shape == (n, 32, 32, 3)
        assert found.data.dtype == np.uint8
        assert np.bincount(found.targets).tolist() == [n // 10] * 10
        assert found.classes == list(photos.PATCH_CLASSES)


@pytest.mark.parametrize(("encoding", "key"), [("bytes", str.encode), ("latin1", str)])
def test_patches_have_the_official_keys_under_either_encoding(patches, encoding, key):
    names = [path.name for path in (patches / "cifar-10-batches-py").iterdir()]
    assert sorted(names) == ["batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number in range(1, 6):
        found = batch(patches, f"data_batch_{number}", encoding)
        assert set(found) == {key(name) for name in ("batch_label", "labels", "data", "filenames")}
        assert found[key("batch_label")] == key(f"training batch {number} of 5")
        assert found[key("data")].shape == (20, 3072)
        assert found[key("data")].dtype == np.uint8
        assert len(found[key("labels")]) == len(set(found[key("filenames")])) == 20
    assert batch(patches, "test_batch", encoding)[key("batch_label")] == key("testing batch 1 of 1")
    meta = batch(patches, "batches.meta", encoding)
    assert meta[key("label_names")] == [key(name) for name in photos.PATCH_CLASSES]
    assert (meta[key("num_cases_per_batch")], meta[key("num_vis")]) == (20, 3072)


def test_patches_are_channel_first_rgb_pieces_of_their_photograph(patches):
    found = batch(patches, "data_batch_1")
    for label, values in zip(found[b"labels"], found[b"data"], strict=True):
        if photos.PATCH_CLASSES[label] == "retina":
            red, _, blue = values.reshape(3, -1).mean(axis=1)
            assert red > blue
    labels = [batch(patches, f"data_batch_{number}")[b"labels"] for number in range(1, 6)]
    assert len(set(map(tuple, labels))) == 5  # in random order


@pytest.mark.parametrize("name", ["chelsea", "retina", "page", "china"])
def test_cells_of_train_and_test_are_disjoint_and_cover_the_photograph(name):
    height, width = photos.photographs()[name].shape[:2]
    scale = min(1, 512 / min(height, width))
    height, width = round(height * scale), round(width * scale)
    numbered = np.arange(height * width, dtype=np.int64).reshape(height, width, 1)
    train, test = (
        np.concatenate([cell.ravel() for cell in photos.cells(numbered, split)]) for split in ("train", "test")
    )
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(height * width))
    assert 0.1 < len(test) / numbered.size < 0.35
    for split in ("train", "test"):
        assert all(min(cell.shape[:2]) >= 96 for cell in photos.cells(photos.photographs()[name], split))


def test_python2_pickle_is_the_value():
    value = {"data": np.arange(600, dtype=np.uint8).reshape(2, 300), "labels": [0, 9, 70000], "name": "x" * 300}
    found = pickle.loads(photos.python2_pickle(value), encoding="latin1")
    assert found["data"].tolist() == value["data"].tolist()
    assert (found["labels"], found["name"]) == (value["labels"], value["name"])
    found["data"][0] = 1  # an array of its own
    with pytest.raises(TypeError, match="no recipe for float"):
        photos.python2_pickle({"a": 0.5})


# repeatable


def test_same_bytes_again(windows, patches, tmp_path):
    photos.write_photo_windows(tmp_path / "windows", WINDOWS)
    photos.write_photo_patches(tmp_path / "patches", PATCHES)
    assert contents(tmp_path / "windows") == contents(windows)
    assert contents(tmp_path / "patches") == contents(patches)


def test_more_windows_begin_with_the_same_ones(windows, tmp_path):
    photos.write_photo_windows(tmp_path / "more", PhotoWindows(seed=3, n_train=50, n_validation=16))
    more = contents(tmp_path / "more")
    assert len(more) == 66
    assert contents(windows).items() <= more.items()


def test_another_seed_gives_other_images(windows, patches, tmp_path):
    photos.write_photo_windows(tmp_path / "windows", PhotoWindows(seed=4, n_train=16, n_validation=0))
    photos.write_photo_patches(tmp_path / "patches", PhotoPatches(seed=4, n_train=100, n_test=50))
    assert not set(contents(tmp_path / "windows").values()) & set(contents(windows).values())
    assert (
        contents(tmp_path / "patches")["cifar-10-batches-py/test_batch"]
        != contents(patches)["cifar-10-batches-py/test_batch"]
    )
