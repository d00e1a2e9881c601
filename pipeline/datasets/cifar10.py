"""CIFAR-10's pickled batches (torchvision's layout) to an image set; nothing in a batch is ever executed."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.store import no_rejects, write_set

FOLDER = "cifar-10-batches-py"
BATCHES = {
    "train": ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    "test": ("test_batch",),
}
CLASSES = 10
SIDE = 32
VALUES = 3 * SIDE * SIDE


@section
class Cifar10Splits:
    """``assemble.cifar10``: images of the official splits; those who choose by validation take it off ``train``."""

    n_train: Annotated[int, Ge(1)]
    n_test: Annotated[int, Ge(1)]


def assemble_cifar10(raw: Path, out: Path, splits: Cifar10Splits, md5: dict[str, str]) -> None:
    """CIFAR-10's batches -> image set N x 32 x 32 x 3, in the order of the files.

    The index has, besides the usual columns, ``filename``: the name that the batch gives the image ("" if none).

    Parameters
    ----------
    raw : folder that holds ``cifar-10-batches-py/``
    md5 : of each batch, as in ``fetch.cifar10.official.md5``, checked before a batch is read; empty for batches made
        here

    Raises
    ------
    InputError
        If a batch is missing, has another md5, asks for anything but arrays, is damaged, or has other keys, shapes or
        labels; if the splits have other sizes than ``splits`` says.
    """
    files = [(split, raw / FOLDER / name) for split, names in BATCHES.items() for name in names]
    for _, file in files:
        if not file.is_file():
            message = f"{file}: missing; run dvc repro fetch@cifar10"
            raise InputError(message)
    sizes = {"train": splits.n_train, "test": splits.n_test}
    # uncommitted until filled: at most the set and one batch are in memory
    images = np.empty((sum(sizes.values()), SIDE, SIDE, 3), dtype=np.uint8)
    parts: list[pd.DataFrame] = []
    done = dict.fromkeys(sizes, 0)
    for split, file in files:
        pixels, labels, filenames = _read_batch(file, md5)
        start = done[split] + (sizes["train"] if split == "test" else 0)
        done[split] += len(pixels)
        if done[split] <= sizes[split]:  # else refused below, with the whole count
            channels_first = pixels.reshape(-1, 3, SIDE, SIDE)
            images[start : start + len(pixels)] = channels_first.transpose(0, 2, 3, 1)
        keys = [f"{file.name}/{row:05d}" for row in range(len(pixels))]
        parts.append(
            pd.DataFrame({"key": keys, "split": split, "label": labels, "source": file.name, "filename": filenames})
        )
    for split, size in sizes.items():
        if done[split] != size:
            message = (
                f"{raw}: the batches have {done[split]} {split} images, assemble.cifar10.n_{split} is {size}; "
                "set it to what counts as the set, or fetch the set again"
            )
            raise InputError(message)
    write_set(out, images, pd.concat(parts, ignore_index=True), no_rejects())


def _read_batch(file: Path, md5: dict[str, str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pixels (N, 3072) uint8, labels (N,) int64 and file names of one batch."""
    content = file.read_bytes()  # what is hashed is what is unpickled
    if md5:
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5.get(file.name):
            message = (
                f"{file}: its md5 is {found}, fetch.cifar10.official.md5 pins {md5.get(file.name, 'none for it')}; "
                "it was not unpickled: run dvc repro fetch@cifar10"
            )
            raise InputError(message)
    batch = load_arrays(content, file)
    missing = [key for key in ("data", "labels") if not isinstance(batch, dict) or key not in batch]
    if missing:
        keys = ", ".join(sorted(map(str, batch))) if isinstance(batch, dict) else type(batch).__name__
        message = f"{file}: no {' and no '.join(missing)} in the batch; found {keys or 'no key'}"
        raise InputError(message)
    pixels, labels = batch["data"], _labels(batch["labels"], file)
    shape = pixels.shape if isinstance(pixels, np.ndarray) else ()
    if len(shape) != 2 or shape[1] != VALUES or pixels.dtype != np.uint8:
        found = f"{pixels.dtype} of shape {shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        message = f"{file}: data is {found}; expected uint8 of shape (N, {VALUES})"
        raise InputError(message)
    filenames = batch.get("filenames", [""] * len(pixels))
    if not isinstance(filenames, list) or not all(isinstance(name, str) for name in filenames):
        message = f"{file}: filenames is not a list of text"
        raise InputError(message)
    if not len(pixels) == len(labels) == len(filenames):
        message = (
            f"{file}: {len(pixels)} images, {len(labels)} labels and {len(filenames)} file names; one each is expected"
        )
        raise InputError(message)
    return pixels, labels, filenames


def _labels(found: Any, file: Path) -> np.ndarray:
    try:
        labels = np.asarray(found)
    except ValueError:  # lists of different lengths
        labels = np.empty((), dtype=object)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        message = f"{file}: labels are not a list of whole numbers"
        raise InputError(message)
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES)) if labels.size else []
    if len(wrong):
        message = f"{file}: label {labels[wrong[0]]} at row {wrong[0]}; expected 0..{CLASSES - 1}"
        raise InputError(message)
    return labels.astype(np.int64)


def load_arrays(content: bytes, where: Path) -> Any:
    """Unpickle arrays, numbers, text and their containers; a pickle that asks for anything else is refused.

    Raises
    ------
    InputError
        If the pickle is damaged, or names a function or class that building an array does not need.
    """
    try:
        # latin1: the official batches were written by Python 2, whose text holds the pixels
        return _ArraysOnly(io.BytesIO(content), where).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything, MemoryError included
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # some of pickle's have two lines
        message = f"{where}: not a whole pickle ({reason}); fetch it again"
        raise InputError(message) from error


class _ArraysOnly(pickle.Unpickler):
    """No name is ever imported: what may be asked for is looked up here, whatever else stops."""

    def __init__(self, file: io.BytesIO, where: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            message = f"{self._where}: the pickle asks for {module}.{name}, a batch needs arrays only; nothing was run"
            raise InputError(message) from None


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # makes an empty array for the pickle to fill
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # its place since NumPy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): str.encode,  # bytes, as Python 3 writes them in protocol 2
}
