"""The choice between rendered, official and left-in-place data; the tables beside data left in place."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.datasets.embedded.photos import PhotoWindows
from pipeline.datasets.faces import photo_archive
from pipeline.datasets.fetch import FETCH, Faces, Imagenet, Neardup, fetch_faces, fetch_neardup
from pipeline.datasets.in_place import InPlace, Pin, PinnedPart, check_pins

PROFILES = ("params.yaml", "profiles/laptop/params.yaml", "profiles/paper/params.yaml")
WINDOWS = PhotoWindows(seed=0, n_train=1, n_validation=0)
PLACE = InPlace(folder="x", tables={}, parts={"a": PinnedPart(layout="photos", pin=Pin(n_images=1, sha256=None))})


@pytest.mark.parametrize("file", PROFILES)
@pytest.mark.parametrize("name", FETCH)
def test_every_profile_has_every_source(root, file, name):
    source = params.load(root / file, FETCH[name][0], own=f"fetch.{name}")
    if name != "mnist":
        assert (source.rendered is not None) == (file == "params.yaml")


@pytest.mark.parametrize(
    ("rendered", "in_place", "found"), [(WINDOWS, PLACE, "rendered, in_place"), (None, None, "none")]
)
def test_exactly_one_source(rendered, in_place, found):
    with pytest.raises(ValueError, match=f"exactly one of rendered, in_place .*found {found}"):
        Imagenet(rendered=rendered, in_place=in_place)


def test_faces_in_the_ilsvrc_tar_are_refused_at_once():
    """Single photos are cut again for the sheet of what was left out; a tar has no way to one."""
    part = PinnedPart(layout="ilsvrc_tar", pin=Pin(n_images=1, sha256=None))
    place = InPlace(folder="imagenet", tables={}, parts={"train.tar": part})
    with pytest.raises(ValueError, match=r"part train\.tar has layout ilsvrc_tar; expected photos, .*unpack"):
        Faces(rendered=None, in_place=place, split_seed=0)


def test_params_without_a_source_are_refused(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("fetch: {imagenet: {rendered: null, in_place: null}}\n")
    with pytest.raises(InputError, match=r"fetch.imagenet: .*exactly one of rendered, in_place must be given"):
        params.load(file, Imagenet, own="fetch.imagenet")


@pytest.mark.parametrize("profile", ["laptop", "paper"])
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_pins_are_those_that_torchvision_publishes(root, profile, name):
    from torchvision.datasets import CIFAR10, SVHN

    source = params.load(root / f"profiles/{profile}/params.yaml", FETCH[name][0], own=f"fetch.{name}")
    if name == "cifar10":
        batches = dict([*CIFAR10.train_list, *CIFAR10.test_list])
        published = {CIFAR10.filename: CIFAR10.tgz_md5, CIFAR10.meta["filename"]: CIFAR10.meta["md5"]} | batches
    else:
        published = {file: md5 for _, file, md5 in (SVHN.split_list["train"], SVHN.split_list["test"])}
    assert source.official.md5 == published


def laptop(root, name):
    section, fetch = FETCH[name]
    return fetch, params.load(root / "profiles/laptop/params.yaml", section, own=f"fetch.{name}")


def photos_below(folder, *names):
    from PIL import Image

    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), len(name), dtype=np.uint8)).save(folder / name)


def pinned(*parts, folder="people", tables=None):
    pin = PinnedPart(layout="photos", pin=Pin(n_images=2, sha256=None))
    return InPlace(folder=folder, tables=tables or {}, parts=dict.fromkeys(parts, pin))


@pytest.mark.parametrize("parts", [("a",), ("a", "b")])
def test_what_fetch_writes_for_photographs_passes_the_check_of_their_pins(tmp_path, monkeypatch, parts):
    """One part without tables, as CelebA, and several: the names in the tables begin with the part."""
    monkeypatch.setenv("GAN_DATA", str(tmp_path))
    photos_below(tmp_path / "people", *(f"{part}/{number}.png" for part in parts for number in range(2)))
    fetch_faces(tmp_path / "raw", Faces(rendered=None, in_place=pinned(*parts), split_seed=0))
    photos = pd.read_parquet(tmp_path / "raw/photos.parquet")["photo"].tolist()
    assert photos == [f"{part}/{number}.png" for part in parts for number in range(2)]
    check_pins(tmp_path / "raw")
    (tmp_path / "people" / photos[0]).write_bytes((tmp_path / "people" / photos[0]).read_bytes() + b" ")
    with pytest.raises(InputError, match="not what counts as the set"):
        check_pins(tmp_path / "raw")


def test_photographs_in_an_lmdb_need_no_tables(tmp_path, monkeypatch):
    from pipeline.datasets.embedded.rooms import write_lmdb

    monkeypatch.setenv("GAN_DATA", str(tmp_path))
    (tmp_path / "people").mkdir()
    write_lmdb(tmp_path / "people/lmdb", [("a", b"one"), ("b", b"two")])
    part = PinnedPart(layout="lmdb", pin=Pin(n_images=2, sha256=None))
    place = InPlace(folder="people", tables={}, parts={"lmdb": part})
    fetch_faces(tmp_path / "raw", Faces(rendered=None, in_place=place, split_seed=0))
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["in_place.json"]
    chunks = photo_archive(tmp_path / "raw", None).chunks()
    assert [item.content for chunk in chunks for item in chunk.items()] == [b"one", b"two"]


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read"), ("file,group,transform\n", "not the truth")])
def test_the_truth_is_pinned_too(tmp_path, monkeypatch, text, words):
    monkeypatch.setenv("GAN_DATA", str(tmp_path))
    photos_below(tmp_path / "neardup", "images/a.png", "images/b.png")
    if text is not None:
        (tmp_path / "neardup/ground_truth.csv").write_text(text)
    place = pinned("images", folder="neardup", tables={"ground_truth.csv": 64 * "0"})
    with pytest.raises(InputError, match=f"ground_truth.csv: .*{words}"):
        fetch_neardup(tmp_path / "raw", Neardup(rendered=None, in_place=place))
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("group", "found"), [("x", "'x'"), ("", "nothing"), ("1.5", "1.5"), ("inf", "inf"), ("True", "True")]
)
def test_groups_that_are_no_whole_numbers_are_refused(tmp_path, monkeypatch, group, found):
    monkeypatch.setenv("GAN_DATA", str(tmp_path))
    photos_below(tmp_path / "neardup", "images/a.png", "images/b.png")
    file = tmp_path / "neardup/ground_truth.csv"
    file.write_text(f"file,group,transform\na.png,3,o\nb.png,{group},o\n")
    place = pinned("images", folder="neardup", tables={file.name: hashlib.sha256(file.read_bytes()).hexdigest()})
    with pytest.raises(InputError, match=rf"ground_truth\.csv: row 2, column group: found .*{found}.*expected a whole"):
        fetch_neardup(tmp_path / "raw", Neardup(rendered=None, in_place=place))
    assert not (tmp_path / "raw").exists()


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["lsun", "imagenet", "faces", "neardup"])
def test_the_samples_are_those_that_the_laptop_profile_pins(root, tmp_path, name):
    fetch, source = laptop(root, name)
    fetch(tmp_path / "raw", source)
    record = json.loads((tmp_path / "raw/in_place.json").read_text())
    assert {part: found["n_images"] for part, found in record["parts"].items()} == {
        part: pinned.pin.n_images for part, pinned in source.in_place.parts.items()
    }


@pytest.mark.real_data
def test_another_sample_is_refused(root, tmp_path):
    fetch, _ = laptop(root, "neardup")
    part = PinnedPart(layout="photos", pin=Pin(n_images=720, sha256=64 * "0"))
    with pytest.raises(InputError, match="not what counts as the set"):
        fetch(
            tmp_path / "raw",
            Neardup(rendered=None, in_place=InPlace(folder="neardup", tables={}, parts={"images": part})),
        )
    assert not (tmp_path / "raw").exists()


@pytest.mark.real_data
def test_photographs_come_with_their_true_boxes(root, tmp_path):
    fetch, source = laptop(root, "faces")
    fetch(tmp_path / "raw", source)
    photos, boxes = (pd.read_parquet(tmp_path / "raw" / f"{name}.parquet") for name in ("photos", "boxes"))
    assert photos["photo"].str.split("/").str[0].value_counts().to_dict() == {"lfw150": 1500, "faces": 269}
    assert len(boxes) == 213
    assert boxes["photo"].nunique() == 55
    labelled = photos[photos["labelled"]]
    assert len(labelled) == 55 + 123
    assert set(boxes["photo"]) <= set(labelled["photo"])
    assert abs((labelled["split"] == "test").mean() - 0.5) < 0.05


@pytest.mark.real_data
def test_near_duplicates_come_with_their_groups(root, tmp_path):
    fetch, source = laptop(root, "neardup")
    fetch(tmp_path / "raw", source)
    truth = pd.read_parquet(tmp_path / "raw/truth.parquet")
    grouped = truth[truth["group"] >= 0]
    assert (len(truth), grouped["group"].nunique()) == (720, 30)
    np.testing.assert_array_equal(grouped.groupby("group").size(), 19)
    assert set(truth.loc[truth["group"] < 0, "alteration"]) == {"distractor"}
