"""Export: equals a plain loop, the same bytes for any number of workers and after any kill, and counts that add up."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets import archives, decode
from pipeline.datasets import export as exporting
from pipeline.datasets.archives import LmdbImages, PhotoFolder
from pipeline.datasets.decode import Decoding, crop_geometry, transform_boxes
from pipeline.datasets.export import Export, Exported, Part, export, imagenet_parts, lsun_parts
from pipeline.datasets.in_place import Pin, listing_sha256

LIMITS = Decoding(max_pixels=1_000_000, max_aspect_ratio=20.0)
CONFIG = Export(size=16, limit=None, decoding=LIMITS)
DAMAGED = {3: b"", 4: b"a text file", 17: None, 30: None, 31: b"\xff\xd8\xff", 69: b"no"}  # None: a photo cut in half


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """One process, small chunks: workers are started where a test asks for them."""
    monkeypatch.setenv("GAN_WORKERS", "1")


def photo(number):
    rng = np.random.default_rng(number)
    width, height = 40 + number % 7, 30 + number % 5
    picture = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (width, height))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, ("JPEG", "PNG", "WEBP")[number % 3])
    return buffer.getvalue()


def write_lmdb(folder, contents):
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, content in contents.items():
            transaction.put(key.encode(), content)
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """A raw folder of 70 + 10 images, six of the first damaged, and the good ones by key."""
    raw = tmp_path_factory.mktemp("raw")
    good = {}
    for part, numbers in (("train", range(70)), ("val", range(100, 110))):
        contents = {f"{number:03d}": photo(number) for number in numbers}
        for number, content in DAMAGED.items():
            if number in numbers:
                contents[f"{number:03d}"] = contents[f"{number:03d}"][:200] if content is None else content
        write_lmdb(raw / f"bedroom_{part}_lmdb", contents)
        good |= {key: content for key, content in contents.items() if int(key) not in DAMAGED}
    return raw, good


def bytes_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def names_of(folder):
    return sorted(path.name for path in folder.iterdir())


# what comes out


def test_equals_a_plain_loop(rooms, tmp_path):
    raw, good = rooms
    counts = export(lsun_parts(raw), tmp_path / "out", tmp_path / "scratch", CONFIG)
    assert counts == Exported(n_inputs=80, n_images=74, n_rejected=6)
    image_set = open_set(tmp_path / "out")
    assert image_set.images.shape == (74, 16, 16, 3)
    assert list(image_set.index["key"]) == list(good)
    for row, (key, content) in enumerate(good.items()):
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        height, width = picture.shape[:2]
        assert (image_set.index["width"][row], image_set.index["height"][row]) == (width, height)
        longer = int(width * 16 / height + 0.5)
        left = (longer - 16) // 2
        expected = cv2.resize(picture, (longer, 16), interpolation=cv2.INTER_AREA)[:, left : left + 16]
        assert np.array_equal(image_set.images[row], expected), key
    assert image_set.index["split"].tolist() == ["train"] * 64 + ["validation"] * 10
    assert image_set.index["source"].tolist() == ["bedroom_train_lmdb"] * 64 + ["bedroom_val_lmdb"] * 10
    assert (image_set.index["label"] == -1).all()
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "out/index.parquet")}
    assert types == {
        "key": "string",
        "split": "string",
        "label": "int64",
        "source": "string",
        "width": "int32",
        "height": "int32",
    }


def test_rejects_are_listed_with_reasons(rooms, tmp_path):
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "scratch", CONFIG)
    rejects = pd.read_parquet(tmp_path / "out/rejects.parquet")
    assert list(rejects.columns) == ["key", "reason", "split", "source"]
    assert rejects["key"].tolist() == ["003", "004", "017", "030", "031", "069"]
    reasons = rejects["reason"].str.split(":").str[0].tolist()
    damaged = "truncated or damaged"
    assert reasons == ["empty file", "not a JPEG, PNG or WebP image", *[damaged] * 3, "not a JPEG, PNG or WebP image"]


def test_the_array_is_as_numpy_writes_it(rooms, tmp_path):
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "scratch", CONFIG)
    np.save(tmp_path / "again.npy", np.load(tmp_path / "out/images.npy"))
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "out/images.npy").read_bytes()


@pytest.mark.parametrize("limit", [1, 4, 69, 1000])
def test_limit_is_of_each_part(rooms, tmp_path, limit):
    raw, good = rooms
    config = Export(size=16, limit=limit, decoding=LIMITS)
    counts = export(lsun_parts(raw), tmp_path / "out", tmp_path / "scratch", config)
    assert counts.n_inputs == min(limit, 70) + min(limit, 10)
    assert counts.n_inputs == counts.n_images + counts.n_rejected
    expected = [key for key in good if int(key) % 100 < limit]
    assert open_set(tmp_path / "out").index["key"].tolist() == expected


def test_another_scratch_file_system_is_copied(rooms, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    export(lsun_parts(rooms[0]), tmp_path / "linked", tmp_path / "scratch1", CONFIG)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    export(lsun_parts(rooms[0]), tmp_path / "copied", tmp_path / "scratch2", CONFIG)
    assert bytes_of(tmp_path / "linked") == bytes_of(tmp_path / "copied")
    assert (tmp_path / "copied/images.npy").stat().st_nlink == 1


# the same bytes


@pytest.mark.parametrize("workers", ["2", "3"])
def test_the_number_of_workers_changes_nothing(rooms, tmp_path, monkeypatch, workers):
    export(lsun_parts(rooms[0]), tmp_path / "one", tmp_path / "scratch1", CONFIG)
    monkeypatch.setenv("GAN_WORKERS", workers)
    export(lsun_parts(rooms[0]), tmp_path / "many", tmp_path / "scratch2", CONFIG)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "many")


def test_the_cut_into_chunks_changes_nothing(rooms, tmp_path, monkeypatch):
    export(lsun_parts(rooms[0]), tmp_path / "small", tmp_path / "scratch1", CONFIG)
    monkeypatch.setattr(archives, "CHUNKS_AT_LEAST", 1)
    export(lsun_parts(rooms[0]), tmp_path / "large", tmp_path / "scratch2", CONFIG)
    assert len(list((tmp_path / "scratch2/chunks").iterdir())) == 2
    assert bytes_of(tmp_path / "small") == bytes_of(tmp_path / "large")


SLOW = """
import sys, time
from pathlib import Path
from pipeline.datasets import decode, export
from pipeline.datasets.decode import Decoding

plain = decode.decode
def slow(*args, **kwargs):
    time.sleep(0.03)
    return plain(*args, **kwargs)

export.decode = slow
config = export.Export(size=16, limit=None, decoding=Decoding(max_pixels=1_000_000, max_aspect_ratio=20.0))
raw, out, folder = map(Path, sys.argv[1:])
export.export(export.lsun_parts(raw), out, folder, config)
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(rooms, tmp_path, project_env, monkeypatch):
    raw, scratch = rooms[0], tmp_path / "scratch"
    export(lsun_parts(raw), tmp_path / "unbroken", tmp_path / "scratch1", CONFIG)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, script, raw, tmp_path / "out", scratch], env=project_env | {"GAN_WORKERS": "1"}
    )
    end = time.monotonic() + 60
    while len(list(scratch.glob("chunks/*.json"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in scratch.glob("chunks/*.json")}
    assert 3 <= len(kept) < 30
    read = []
    plain = decode.decode
    monkeypatch.setattr(exporting, "decode", lambda *args, **kwargs: (read.append(1), plain(*args, **kwargs))[1])
    export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unbroken")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not done again
    assert 0 < len(read) < 80 - 3


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("where", ["_compact", "_move", "_header", "_place", "_check_pins"])
def test_a_kill_while_the_set_is_put_together(rooms, tmp_path, monkeypatch, where):
    raw, scratch = rooms[0], tmp_path / "scratch"
    export(lsun_parts(raw), tmp_path / "unbroken", tmp_path / "scratch1", CONFIG)
    plain, calls = getattr(exporting, where), []

    def killed(*args):
        calls.append(1)
        if where != "_move" or len(calls) == 5:
            if where == "_move":
                file, source, target, n_bytes = args
                plain(file, source, target, n_bytes // 2)  # half a block has moved
            raise Killed
        return plain(*args)

    monkeypatch.setattr(exporting, where, killed)
    with pytest.raises(Killed):
        export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    monkeypatch.setattr(exporting, where, plain)
    export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unbroken")


def test_a_finished_scratch_folder_gives_the_set_again(rooms, tmp_path, monkeypatch):
    raw, scratch = rooms[0], tmp_path / "scratch"
    export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    before = bytes_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(exporting, "decode", lambda *args, **kwargs: pytest.fail("nothing is left to decode"))
    export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    assert bytes_of(tmp_path / "out") == before


def test_other_params_or_data_start_afresh(rooms, tmp_path):
    raw, scratch = rooms[0], tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "lock").touch()  # the running stage's own
    small = Export(size=8, limit=20, decoding=LIMITS)
    export(lsun_parts(raw), tmp_path / "first", tmp_path / "other", small)
    export(lsun_parts(raw), tmp_path / "out", scratch, CONFIG)
    export(lsun_parts(raw), tmp_path / "out", scratch, small)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "first")
    assert (scratch / "lock").exists()


# truth

BOXES = {"bed": (5.0, 6.0, 20.0, 25.0), "window": (0.0, 0.0, 3.0, 9.0)}


def truth_of(keys):
    table = pd.DataFrame({"key": keys, "group": np.arange(len(keys)), "alteration": "original", "lamp_on": True})
    for name, box in BOXES.items():
        for suffix, value in zip(decode.BOX_SUFFIXES, box, strict=True):
            table[name + suffix] = np.float32(value)
    table.loc[table["key"] == "005", [f"bed{suffix}" for suffix in decode.BOX_SUFFIXES]] = np.nan
    return table.sample(frac=1, random_state=0)  # the order does not matter


def all_keys():
    return [f"{number:03d}" for number in [*range(70), *range(100, 110)]]


def test_truth_goes_into_the_index(rooms, tmp_path):
    truth = truth_of(all_keys()).set_index("key", drop=False)
    truth.to_parquet(tmp_path / "truth.parquet", index=False)
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG, truth=tmp_path / "truth.parquet")
    index = open_set(tmp_path / "out").index
    assert index["group"].tolist() == [truth["group"][key] for key in index["key"]]
    assert index["group"].dtype == np.int64
    assert (index["alteration"] == "original").all()
    assert index["lamp_on"].dtype == bool
    for name, box in BOXES.items():
        found = index[[name + suffix for suffix in decode.BOX_SUFFIXES]].to_numpy()
        assert found.dtype == np.float32
        for row, key in enumerate(index["key"]):
            crop = crop_geometry(int(index["width"][row]), int(index["height"][row]), 16)
            expected = transform_boxes(np.array([box]), crop)[0]
            if key == "005" and name == "bed":
                expected[:] = np.nan
            assert np.array_equal(found[row], expected, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[table["key"] != "001"], "no row for key 001"),
        (lambda table: pd.concat([table, table[table["key"] == "001"]]), "1 keys stand there more than once"),
        (lambda table: table.rename(columns={"key": "name"}), "no column key"),
        (lambda table: table.drop(columns="bed_y2"), "no column bed_y2"),
        (lambda table: table.assign(label=0), "column label is one that the export writes itself"),
        (lambda table: pd.concat([table, table[:1].assign(key="999")]), "1 rows are of images .* such as 999"),
    ],
)
def test_truth_that_does_not_fit(rooms, tmp_path, change, message):
    change(truth_of(all_keys())).to_parquet(tmp_path / "truth.parquet", index=False)
    with pytest.raises(InputError, match=message):
        export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG, truth=tmp_path / "truth.parquet")
    assert names_of(tmp_path) == ["s", "truth.parquet"]


def test_truth_of_more_keys_fits_a_limit(rooms, tmp_path):
    truth_of(all_keys()).to_parquet(tmp_path / "truth.parquet", index=False)
    config = Export(size=16, limit=3, decoding=LIMITS)
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", config, truth=tmp_path / "truth.parquet")
    assert open_set(tmp_path / "out").index["group"].tolist() == [0, 1, 2, 70, 71, 72]


# pins


def pinned_parts(raw, **change):
    archive = LmdbImages(folder=raw / "bedroom_train_lmdb")
    pin = {"n_images": 70, "sha256": listing_sha256(archive.chunks())} | change
    return [Part(archive=archive, split="train", source="bedroom_train_lmdb", pin=Pin(**pin))]


def test_pins_hold(rooms, tmp_path):
    counts = export(pinned_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG)
    assert counts.n_inputs == 70
    export(lsun_parts(rooms[0])[:1], tmp_path / "unpinned", tmp_path / "s2", CONFIG)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unpinned")


def test_other_data_than_pinned(rooms, tmp_path):
    with pytest.raises(InputError, match="70 images, pinned are 71"):
        export(pinned_parts(rooms[0], n_images=71), tmp_path / "out", tmp_path / "s", CONFIG)
    wrong = pinned_parts(rooms[0], sha256="0" * 64)
    with pytest.raises(InputError, match=f"bedroom_train_lmdb: sha256 of the listing .* pinned is {'0' * 64}"):
        export(wrong, tmp_path / "out", tmp_path / "s", CONFIG)
    assert names_of(tmp_path) == ["s"]
    assert names_of(tmp_path / "s") == []  # what was read of the wrong data is not used again
    limited = Export(size=16, limit=5, decoding=LIMITS)
    assert export(wrong, tmp_path / "out", tmp_path / "s", limited).n_inputs == 5


# bad input


def test_nothing_usable(tmp_path):
    (tmp_path / "photos").mkdir()
    part = Part(archive=PhotoFolder(folder=tmp_path / "photos"), split="test", source="photos")
    with pytest.raises(InputError, match="the archives hold no images: photos"):
        export([part], tmp_path / "out", tmp_path / "s", CONFIG)
    (tmp_path / "photos/a.jpg").write_text("a text file")
    with pytest.raises(InputError, match=r"all 1 images were rejected, the first one as: a\.jpg: not a JPEG"):
        export([part], tmp_path / "out", tmp_path / "s", CONFIG)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_counts_add_up_whatever_lies_in_the_folder(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("GAN_WORKERS", workers)
    photos = tmp_path / "photos"
    photos.mkdir()
    contents = {
        "good.jpg": photo(0),
        "good.png": photo(1),
        "cut.jpg": photo(3)[:300],
        "empty.jpg": b"",
        "text.jpg": b"text",
        "picture.bmp": b"BM" * 50,
    }
    for name, content in contents.items():
        (photos / name).write_bytes(content)
    (photos / "gone.jpg").symlink_to("nowhere")
    (photos / "up").symlink_to("..")
    Path(photos, os.fsdecode(b"n\xff.jpg")).write_bytes(photo(0))
    buffer = io.BytesIO()
    Image.new("RGB", (1, 5000)).save(buffer, "PNG")
    (photos / "strip.png").write_bytes(buffer.getvalue())
    Image.new("RGB", (1001, 1000)).save(photos / "bomb.png")
    Image.fromarray(np.full((20, 20), 9999, np.uint16)).save(photos / "deep.png")
    part = Part(archive=PhotoFolder(folder=photos), split="test", source="photos")
    counts = export([part], tmp_path / "out", tmp_path / "s", CONFIG)
    assert counts == Exported(n_inputs=12, n_images=2, n_rejected=10)
    assert open_set(tmp_path / "out").index["key"].tolist() == ["good.jpg", "good.png"]
    rejects = pd.read_parquet(tmp_path / "out/rejects.parquet").set_index("key")["reason"]
    assert len(rejects) == 10
    assert rejects["bomb.png"] == "1001000 pixels, at most 1000000"
    assert rejects["gone.jpg"] == "cannot be read: No such file or directory"
    assert rejects["up"] == "link to a folder above it"
    assert rejects["n\\xff.jpg"] == "name is not UTF-8"
    assert rejects["strip.png"] == "aspect ratio 5000.0, at most 20"
    assert rejects["deep.png"] == "16-bit image"
    assert str(tmp_path) not in "".join(rejects)


def test_a_full_disk_is_a_sentence(rooms, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(InputError, match=r"could not be written: no space left on the disk"):
            export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG)
    assert names_of(tmp_path) == ["s"]
    assert list((tmp_path / "s/chunks").iterdir()) == []
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
        with pytest.raises(InputError, match=r"the images take .* GB, the disk has .* set GAN_SCRATCH"):
            export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s3", CONFIG)
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG)


def test_a_short_write_is_continued(rooms, tmp_path, monkeypatch):
    export(lsun_parts(rooms[0]), tmp_path / "plain", tmp_path / "s1", CONFIG)
    plain = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: plain(file, data[:100], place))
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s2", CONFIG)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "plain")


def test_an_earlier_set_survives_a_failure(rooms, tmp_path):
    export(lsun_parts(rooms[0]), tmp_path / "out", tmp_path / "s", CONFIG)
    before = bytes_of(tmp_path / "out")
    with pytest.raises(InputError):
        export(pinned_parts(rooms[0], sha256="0" * 64), tmp_path / "out", tmp_path / "s", CONFIG)
    assert bytes_of(tmp_path / "out") == before


# which parts a raw folder has


def test_lsun_parts(tmp_path):
    for name in ("church_outdoor_train_lmdb", "church_outdoor_val_lmdb"):
        (tmp_path / name).mkdir()
    assert [(part.source, part.split) for part in lsun_parts(tmp_path)] == [
        ("church_outdoor_train_lmdb", "train"),
        ("church_outdoor_val_lmdb", "validation"),
    ]
    (tmp_path / "strange_lmdb").mkdir()
    with pytest.raises(InputError, match="strange_lmdb: expected the name SCENE_train_lmdb"):
        lsun_parts(tmp_path)
    with pytest.raises(InputError, match="no LSUN database"):
        lsun_parts(tmp_path / "strange_lmdb")


def test_imagenet_parts(tmp_path):
    for name in ("train/n02", "train/n01", "val/n02"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.JPEG").write_bytes(photo(len(name)))
    export(imagenet_parts(tmp_path), tmp_path / "out", tmp_path / "s", CONFIG)
    index = open_set(tmp_path / "out").index
    assert list(zip(index["key"], index["split"], index["label"], strict=True)) == [
        ("n01/a.JPEG", "train", 0),
        ("n02/a.JPEG", "train", 1),
        ("n02/a.JPEG", "validation", 1),
    ]
    with pytest.raises(InputError, match="no training part"):
        imagenet_parts(tmp_path / "out")


# real data


@pytest.mark.real_data
def test_real_bedrooms_and_photos_none_lost(tmp_path):
    data = Path(os.environ["GAN_DATA"])
    limits = Decoding(max_pixels=100_000_000, max_aspect_ratio=25.0)
    (tmp_path / "raw").mkdir()
    for name, folder, size, expected in (
        ("lsun", "lsun", 64, {"train": 484, "validation": 50}),
        ("imagenet32", "imagenet", 32, {"train": 496}),
        ("imagenet128", "imagenet", 128, {"train": 496}),
    ):
        (tmp_path / "raw" / name).symlink_to(data / folder)
        parts = (lsun_parts if name == "lsun" else imagenet_parts)(tmp_path / "raw" / name)
        config = Export(size=size, limit=None, decoding=limits)
        counts = export(parts, tmp_path / name, tmp_path / f"scratch-{name}", config)
        assert counts == Exported(n_inputs=sum(expected.values()), n_images=sum(expected.values()), n_rejected=0)
        image_set = open_set(tmp_path / name)
        assert image_set.index["split"].value_counts().to_dict() == expected
        assert image_set.images.shape == (counts.n_images, size, size, 3)
        assert (image_set.images.reshape(counts.n_images, -1).std(axis=1) > 5).all()
        if name != "lsun":
            assert image_set.index["label"].tolist() == list(range(496))
            assert json.loads(pd.Series(image_set.index["key"]).to_json(orient="values"))[0].startswith("n01440764/")
