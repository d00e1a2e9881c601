"""Data left in place: pinned by number, keys and contents; anything else stops with one sentence."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import lmdb
import pytest

from pipeline.core.errors import InputError
from pipeline.datasets import in_place
from pipeline.datasets.export import imagenet_parts, lsun_parts
from pipeline.datasets.in_place import InPlace, Pin, PinnedPart, content_folder, fetch_in_place, pins

FILES = {"b.jpg": b"one", "a/z.jpg": b"two", "a-x/y.jpg": b"three", "a/index.csv": b"no photo"}


def listing_of(contents):
    """The definition."""
    lines = [f"{key}\0{hashlib.sha256(content).hexdigest()}\n" for key, content in sorted(contents.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tar_of(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PHOTOS = {name: content for name, content in FILES.items() if name.endswith(".jpg")}


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """GAN_DATA with a folder of photos."""
    folder = tmp_path / "gan_data"
    for name, content in FILES.items():
        (folder / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "faces" / name).write_bytes(content)
    monkeypatch.setenv("GAN_DATA", str(folder))
    return folder


LISTING = listing_of(PHOTOS)


def source(n_images=3, sha256=LISTING, *, folder="faces", part=".", layout="photos"):
    return InPlace(
        folder=folder, tables={}, parts={part: PinnedPart(layout=layout, pin=Pin(n_images=n_images, sha256=sha256))}
    )


def refusal(source, out):
    with pytest.raises(InputError) as caught:
        fetch_in_place(out, source)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_record(data, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("GAN_WORKERS", workers)
    out = tmp_path / "raw"
    fetch_in_place(out, source())
    assert [path.name for path in out.iterdir()] == ["in_place.json"]
    text = (out / "in_place.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text) == {
        "folder": "faces",
        "parts": {".": {"layout": "photos", "n_images": 3, "sha256": LISTING}},
    }
    assert content_folder(out) == data / "faces"
    assert pins(out) == {".": Pin(n_images=3, sha256=LISTING)}


def test_without_a_pinned_listing_the_one_found_is_recorded(data, tmp_path):
    fetch_in_place(tmp_path / "raw", source(sha256=None))
    assert pins(tmp_path / "raw") == {".": Pin(n_images=3, sha256=LISTING)}


def test_tables_can_be_added(data, tmp_path):
    def add(folder, out):
        (out / "photos.csv").write_bytes((folder / "a/index.csv").read_bytes())

    fetch_in_place(tmp_path / "raw", source(), add)
    assert (tmp_path / "raw/photos.csv").read_bytes() == b"no photo"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "b.jpg").write_bytes(b"One"),
        lambda folder: (folder / "b.jpg").rename(folder / "c.jpg"),
        lambda folder: (folder / "b.jpg").write_bytes(b"two") and (folder / "a/z.jpg").write_bytes(b"one"),
        lambda folder: ((folder / "b.jpg").unlink(), (folder / "b.jpg").symlink_to("nowhere")),
    ],
)
def test_any_change_is_found(data, tmp_path, change):
    change(data / "faces")
    assert "sha256 of the listing of keys and contents" in refusal(source(), tmp_path / "raw")


def test_the_count_is_checked_first(data, tmp_path):
    (data / "faces/more.jpg").write_bytes(b"four")
    assert "4 images, the params pin 3" in refusal(source(), tmp_path / "raw")
    assert "4 images, the params pin 3" in refusal(source(sha256=None), tmp_path / "raw")


def test_other_files_do_not_count(data, tmp_path):
    (data / "faces/a/index.csv").write_bytes(b"changed")
    fetch_in_place(tmp_path / "raw", source())


def test_missing_data_is_one_sentence(data, tmp_path, monkeypatch):
    bedrooms = source(sha256=None, folder="lsun", part="bedroom_train_lmdb", layout="lmdb")
    text = refusal(bedrooms, tmp_path / "raw")
    assert str(data / "lsun") in text
    assert "https://github.com/fyu/lsun" in text
    (data / "lsun").mkdir()
    assert f"{data}/lsun/bedroom_train_lmdb: no such folder" in refusal(bedrooms, tmp_path / "raw")
    monkeypatch.delenv("GAN_DATA")
    assert "$GAN_DATA/lsun: not there, because GAN_DATA is not set" in refusal(bedrooms, tmp_path / "raw")
    photos = source(sha256=None, folder="imagenet", part="train", layout="image_folder")
    assert "https://image-net.org" in refusal(photos, tmp_path / "raw")


def test_the_public_set_is_not_recommended_where_another_one_is_pinned(data, tmp_path):
    text = refusal(source(folder="lsun", part="bedroom_train_lmdb", layout="lmdb"), tmp_path / "raw")
    assert "the params pin 3 images that are not the public set: put those there, or pin yours" in text
    assert "https" not in text


def test_content_folder_of_data_that_went_away(data, tmp_path, monkeypatch):
    fetch_in_place(tmp_path / "raw", source())
    monkeypatch.setenv("GAN_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"faces: no such folder \(GAN_DATA is"):
        content_folder(tmp_path / "raw")
    monkeypatch.delenv("GAN_DATA")
    with pytest.raises(InputError, match="GAN_DATA is not set"):
        content_folder(tmp_path / "raw")


def test_content_folder_of_bytes(tmp_path):
    assert content_folder(tmp_path) == tmp_path
    assert pins(tmp_path) == {}
    with pytest.raises(InputError, match="no such folder; run dvc repro"):
        content_folder(tmp_path / "missing")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"folder": 1, "parts": {}}', '{"folder": "x", "parts": []}'])
def test_a_damaged_record(tmp_path, text):
    (tmp_path / "in_place.json").write_text(text)
    with pytest.raises(InputError, match="not a record of data left in place"):
        content_folder(tmp_path)


def test_lmdb_and_image_folder(data, tmp_path):
    contents = {f"{number:02d}": bytes([number]) * 50 for number in range(40)}
    folder = data / "lsun/church_outdoor_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key, content in contents.items():
            transaction.put(key.encode(), content)
    rooms = source(40, listing_of(contents), folder="lsun", part="church_outdoor_train_lmdb", layout="lmdb")
    fetch_in_place(tmp_path / "lsun", rooms)
    (part,) = lsun_parts(tmp_path / "lsun")
    assert (part.split, part.source) == ("train", "church_outdoor_train_lmdb")
    assert part.pin == Pin(n_images=40, sha256=listing_of(contents))
    assert sum(chunk.n for chunk in part.archive.chunks()) == 40
    photos = source(2, None, folder="faces", part="train", layout="image_folder")
    (data / "faces/train/n01").mkdir(parents=True)
    for name in ("x.JPEG", "y.JPEG"):
        (data / "faces/train/n01" / name).write_bytes(b"photo")
    fetch_in_place(tmp_path / "imagenet", photos)
    (part,) = imagenet_parts(tmp_path / "imagenet")
    assert part.pin == Pin(n_images=2, sha256=listing_of({"n01/x.JPEG": b"photo", "n01/y.JPEG": b"photo"}))


def test_the_ilsvrc_tar_has_a_published_md5(data, tmp_path, monkeypatch):
    content = tar_of("n01.tar", tar_of("n01_1.JPEG", b"photo"))
    (data / "imagenet").mkdir()
    name = "ILSVRC2012_img_train.tar"
    (data / "imagenet" / name).write_bytes(content)
    tar = source(1, None, folder="imagenet", part=name, layout="ilsvrc_tar")
    assert f"the official archive has {in_place.ILSVRC_TRAIN_MD5}" in refusal(tar, tmp_path / "raw")
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(in_place, "ILSVRC_TRAIN_MD5", md5)
    fetch_in_place(tmp_path / "raw", tar)
    assert json.loads((tmp_path / "raw/in_place.json").read_text())["parts"][name]["md5"] == md5
    (part,) = imagenet_parts(tmp_path / "raw")
    assert (part.split, part.pin) == ("train", Pin(n_images=1, sha256=None))
    listing = source(1, listing_of({"n01/n01_1.JPEG": b"photo"}), folder="imagenet", part=name, layout="ilsvrc_tar")
    fetch_in_place(tmp_path / "listed", listing)  # a sample of one's own may be pinned by its listing instead
    assert "no such file; it needs a login" in refusal(
        source(1, None, folder="imagenet", part="other.tar", layout="ilsvrc_tar"), tmp_path / "other"
    )


@pytest.mark.real_data
def test_pins_of_the_real_samples(tmp_path):
    assert Path(os.environ["GAN_DATA"]).is_dir()
    for folder, part, layout, n_images, sha256 in (
        ("lsun", "bedroom_train_lmdb", "lmdb", 484, "dcbfbe0e61c98394d6f7ebf431d524988b049748e9d7431d62114ec32e5e6e62"),
        ("lsun", "bedroom_val_lmdb", "lmdb", 50, "cb850631a5a4ed164361115103e75d6da01cab663b29f4088e6ee92cf07f3fd3"),
        ("imagenet", "train", "image_folder", 496, "af7d539131c6c5145070bdb7c33733cc2aec743e5b97876a1bbbfb38c444c10d"),
        ("faces", ".", "photos", 269, "a2f0b8a13af0924e8a259df38d16a5c858cd5927f33f3b4c6ed0bc8b6f38c2b6"),
        ("lfw150", ".", "photos", 1500, "5d86e0b6d254413283e2916a24d2dedb05db2151daa72ae786f102af7a383dd8"),
        ("neardup", "images", "photos", 720, "8e0f1aaac2e6f8579fd8df11fcab5b94109da928ce572114f1623cd9ee3ed5b4"),
    ):
        fetch_in_place(tmp_path / part / folder, source(n_images, sha256, folder=folder, part=part, layout=layout))
