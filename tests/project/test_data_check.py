"""`gan-tables data check`: small stand-ins for the official files, pinned in params of their own."""

import gzip
import hashlib
import shutil

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.datasets import idx, sources
from pipeline.datasets.archives import PhotoFolder
from pipeline.datasets.in_place import listing_sha256
from pipeline.project import data_check

NOT_HERE = "0" * 64


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with all that the params below pin."""
    folder = tmp_path / "gan data"
    for place in ("MNIST/raw", "cifar-10-batches-py", "SVHN", "photos/images"):
        (folder / place).mkdir(parents=True)
    for number, name in enumerate(sources.MNIST_FILES):
        packed = gzip.compress(idx.encode(np.full((3,), number, np.uint8)))
        (folder / f"MNIST/raw/{name}.gz").write_bytes(packed)
    for name in sources.CIFAR10_FILES:
        (folder / "cifar-10-batches-py" / name).write_bytes(name.encode())
    for name in sources.SVHN_FILES:
        (folder / "SVHN" / name).write_bytes(name.encode())
    for name in ("a.jpg", "b.jpg"):
        (folder / "photos/images" / name).write_bytes(name.encode())
    (folder / "photos/truth.csv").write_bytes(b"truth")
    monkeypatch.setenv("GAN_DATA", str(folder))
    return folder


@pytest.fixture
def project(tmp_path, data):
    """A project whose laptop profile takes these."""
    photos = listing_sha256(PhotoFolder(folder=data / "photos/images").chunks())
    fetch = {
        "mnist": {
            "source": "official",
            "sha256": {
                name: sha256(idx.encode(np.full((3,), number, np.uint8)))
                for number, name in enumerate(sources.MNIST_FILES)
            },
        },
        "cifar10": {
            "rendered": None,
            "official": {
                "md5": {"cifar-10-python.tar.gz": md5(b"tar")} | {n: md5(n.encode()) for n in sources.CIFAR10_FILES}
            },
        },
        "svhn": {
            "rendered": None,
            "official": {"extra": False, "md5": {name: md5(name.encode()) for name in sources.SVHN_FILES}},
        },
        "neardup": {
            "rendered": None,
            "in_place": {
                "folder": "photos",
                "tables": {"truth.csv": sha256(b"truth")},
                "parts": {"images": {"layout": "photos", "pin": {"n_images": 2, "sha256": photos}}},
            },
        },
    }
    root = tmp_path / "project"
    (root / "profiles/laptop").mkdir(parents=True)
    write(root, {"fetch": fetch})
    return root


def write(root, values):
    with (root / "profiles/laptop/params.yaml").open("w") as file:
        YAML().dump(values, file)


def edited(root, change):
    values = params.read(root / "profiles/laptop/params.yaml")
    change(values)
    write(root, values)


def states(root, **options):
    return {
        entry.where.rpartition("/")[2]: (entry.state, entry.says)
        for entry in data_check.check("laptop", root, **options)
    }


def test_all_is_there_and_verified(project, data):
    found = data_check.check("laptop", project)
    assert [entry.data_set for entry in found] == ["mnist"] * 4 + ["cifar10"] * 7 + ["svhn"] * 2 + ["neardup"] * 2
    assert {entry.state for entry in found} == {"verified"}
    assert data_check.is_complete(found)
    lines = data_check.lines_of("laptop", found)
    assert lines[0] == f"laptop: real data below GAN_DATA={data}"
    size = sum(map(len, sources.CIFAR10_FILES))
    assert f"  cifar10  verified    {data}/cifar-10-batches-py, 7 files ({size} bytes): md5" in lines
    assert lines[-1] == "all that this profile needs is there"


def test_without_hashing_nothing_is_verified(project, monkeypatch):
    monkeypatch.setattr(data_check.hashlib, "new", None)
    monkeypatch.setattr(data_check, "listing_sha256", None)
    assert {state for state, _ in states(project, hashing=False).values()} == {"found"}


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("MNIST/raw/train-images-idx3-ubyte.gz", "sha256 of the unpacked content is "),
        ("cifar-10-batches-py/test_batch", "md5 is "),
        ("SVHN/test_32x32.mat", "md5 is "),
        ("photos/truth.csv", "sha256 is "),
        ("photos/images/b.jpg", "sha256 of the listing of keys and contents is "),
    ],
)
def test_other_content_is_wrong(project, data, place, says):
    content = gzip.compress(idx.encode(np.full((3,), 9, np.uint8))) if place.endswith(".gz") else b"other"
    (data / place).write_bytes(content)
    name = "images" if place.startswith("photos/images") else place.rpartition("/")[2]
    found = states(project)
    assert found[name][0] == "wrong"
    assert found[name][1].startswith(says)
    assert [state for state, _ in found.values()].count("wrong") == 1
    assert not data_check.is_complete(data_check.check("laptop", project))


def test_a_damaged_archive_is_wrong(project, data):
    (data / "MNIST/raw/t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    state, says = states(project)["t10k-images-idx3-ubyte.gz"]
    assert state == "wrong"
    assert says


def test_another_number_of_images_is_wrong(project, data):
    (data / "photos/images/c.jpg").write_bytes(b"c")
    assert states(project)["images"] == (
        "wrong",
        "3 images, the params pin 2; complete it, or restore what was pinned",
    )


def test_a_set_without_a_pinned_listing_says_so(project):
    def unpin(values):
        values["fetch"]["neardup"]["in_place"]["parts"]["images"]["pin"]["sha256"] = None

    edited(project, unpin)
    assert states(project)["images"] == ("verified", f"2 images, {data_check.NOT_PINNED}")


def test_what_is_missing_says_where_it_belongs(project, data):
    shutil.rmtree(data / "SVHN")
    shutil.rmtree(data / "photos/images")
    found = states(project)
    url = "http://ufldl.stanford.edu/housenumbers/train_32x32.mat"
    assert found["train_32x32.mat"] == ("missing", f"the stage downloads {url}, or put it there")
    pinned = "the params pin 2 images that are not the public set: put those there, or pin yours (docs/assembly.md)"
    assert found["images"] == ("missing", pinned)
    lines = data_check.lines_of("laptop", data_check.check("laptop", project))
    assert any(line.startswith(f"  svhn     MISSING     {data}/SVHN/train_32x32.mat: ") for line in lines)
    assert lines[-1] == "3 missing: see above what to do"


def test_the_archive_serves_where_the_folder_is_not_whole(project, data):
    (data / "cifar-10-batches-py/test_batch").unlink()
    found = states(project)
    assert found["test_batch"][0] == "missing"
    (data / "cifar-10-python.tar.gz").write_bytes(b"tar")
    found = states(project)
    assert found["cifar-10-python.tar.gz"] == ("verified", "md5")
    assert "test_batch" not in found


def test_what_was_copied_already_is_not_missed(project, data):
    shutil.rmtree(data / "SVHN")
    (project / "data/laptop/raw/svhn").mkdir(parents=True)
    found = data_check.check("laptop", project)
    assert {entry.state for entry in found if entry.data_set == "svhn"} == {"fetched"}
    assert data_check.is_complete(found)
    (project / "data/laptop/raw/neardup").mkdir(parents=True)  # holds the pin only: the photographs stay in place
    shutil.rmtree(data / "photos")
    found = data_check.check("laptop", project)
    assert {entry.state for entry in found if entry.data_set == "neardup"} == {"missing"}


def test_without_gan_data_all_is_missing(project, monkeypatch):
    monkeypatch.delenv("GAN_DATA")
    found = data_check.check("laptop", project)
    assert {entry.state for entry in found} == {"missing"}
    assert all(entry.says.startswith("GAN_DATA is not set; ") for entry in found)
    assert all(entry.where.startswith("$GAN_DATA/") for entry in found)


def test_places_of_a_set_that_lies_in_gan_data_itself(project, monkeypatch):
    monkeypatch.delenv("GAN_DATA")
    edited(project, lambda values: values["fetch"]["neardup"]["in_place"].update(folder="."))
    places = {entry.where for entry in data_check.check("laptop", project) if entry.data_set == "neardup"}
    assert places == {"$GAN_DATA/truth.csv", "$GAN_DATA/images"}


def test_a_folder_that_is_not_there(project, monkeypatch):
    monkeypatch.setenv("GAN_DATA", "/no/such/folder")
    with pytest.raises(InputError, match="no such folder"):
        data_check.check("laptop", project)


def test_wrong_params_are_a_sentence(project):
    edited(project, lambda values: values["fetch"]["svhn"]["official"].update(extra="yes"))
    with pytest.raises(InputError, match=r"fetch\.svhn\.official"):
        data_check.check("laptop", project)


def test_params_without_sets_are_a_sentence(project):
    edited(project, lambda values: values.update(fetch=None))
    with pytest.raises(InputError, match=r"params\.yaml, fetch: expected a section for each set, found None"):
        data_check.check("laptop", project)


@pytest.mark.parametrize("wrong", [{"url": "x"}, {"file": 3, "url": "x", "sha256": "y"}])
def test_weights_without_their_keys_are_a_sentence(project, wrong):
    edited(project, lambda values: values.update(score={"inception": wrong}))
    with pytest.raises(InputError, match=r"params, score\.inception: expected text for file.*, found \{"):
        data_check.check("laptop", project)


def test_weight_files(project, data):
    content = b"weights"
    inception = {"file": "w.pth", "url": "https://example.org/w.pth", "sha256": sha256(content)}
    detector = {"detector": "yunet", "yunet": {"model": "yunet.onnx", "sha256": sha256(content)}}
    edited(project, lambda values: values.update(score={"inception": inception}, detect_faces=detector))
    found = states(project)
    assert found["w.pth"] == ("missing", "the stage downloads https://example.org/w.pth, or put it there")
    assert found["yunet.onnx"] == ("missing", "put the model there, or write detector: haar")
    (data / "inception").mkdir()
    (data / "inception/w.pth").write_bytes(content)
    (data / "yunet.onnx").write_bytes(b"another")
    found = states(project)
    assert found["w.pth"] == ("verified", "sha256")
    assert found["yunet.onnx"][0] == "wrong"


def test_the_embedded_profile_needs_nothing(root, monkeypatch):
    monkeypatch.delenv("GAN_DATA", raising=False)
    found = data_check.check("embedded", root)
    assert {entry.state for entry in found} == {"not needed"}
    assert len(found) == 7


@pytest.mark.real_data
def test_the_real_data(root):
    by_set = {}
    for entry in data_check.check("laptop", root):
        by_set.setdefault(entry.data_set, set()).add(entry.state)
    assert by_set["mnist"] == {"verified"}
    assert by_set["lsun"] == {"verified"}
    assert all("wrong" not in found for found in by_set.values())


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (1.5e15, "1,500.0 TB")]
)
def test_sizes(n, words):
    assert data_check._say_size(n) == words
