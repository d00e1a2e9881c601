"""SVHN's cropped digits (.mat files) to an image set."""

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.store import no_rejects, write_set
from pipeline.datasets.splits import validation_rows

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat", "extra": "extra_32x32.mat"}
CLASSES = 10
SIDE = 32
CHUNK = 4096
VERSION_5 = (b"\x00\x01IM", b"\x01\x00MI")  # little-endian, big-endian


@section
class SvhnSplits:
    """``assemble.svhn``: images of the official splits; ``n_extra: 0`` leaves the extra set out, as the papers do.

    ``n_validation`` of the training images, a plain shuffle by ``seed``, become the split ``validation``.
    """

    n_train: Annotated[int, Ge(1)]
    n_validation: Annotated[int, Ge(1)]
    seed: int
    n_test: Annotated[int, Ge(1)]
    n_extra: Annotated[int, Ge(0)]


def assemble_svhn(raw: Path, out: Path, splits: SvhnSplits, md5: dict[str, str]) -> None:
    """SVHN's .mat files -> image set N x 32 x 32 x 3 in the order of the files; their label 10 becomes 0.

    The validation images (DCGAN, section 5.2) are rows of the training file, marked as such.

    Parameters
    ----------
    raw : folder of the .mat files
    md5 : of each file, as in ``fetch.svhn.official.md5``, checked before it is read (scipy may crash on a damaged
        one); empty for files made here

    Raises
    ------
    InputError
        If a file is missing, has another md5, is not a whole .mat file of MATLAB 5, has other variables, shapes or
        labels, or another number of images than ``splits`` says.
    """
    sizes = {"train": splits.n_train, "test": splits.n_test, "extra": splits.n_extra}
    if not splits.n_extra and (raw / FILES["extra"]).is_file():
        message = (
            f"{raw / FILES['extra']}: fetched, but assemble.svhn.n_extra is 0; set it to the number of its images "
            "(531131), or fetch.svhn.official.extra to false"
        )
        raise InputError(message)
    wanted = {split: raw / FILES[split] for split, size in sizes.items() if size}
    for split, file in wanted.items():
        if not file.is_file():
            hint = "set fetch.svhn.official.extra to true and " if split == "extra" else ""
            message = f"{file}: missing; {hint}run dvc repro fetch@svhn"
            raise InputError(message)
    # uncommitted until filled: at most the set and one file are in memory
    images = np.empty((sum(sizes.values()), SIDE, SIDE, 3), dtype=np.uint8)
    parts: list[pd.DataFrame] = []
    start = 0
    for split, file in wanted.items():
        _check_md5(file, md5)
        pixels, labels = _read_mat(file)
        if len(labels) != sizes[split]:
            message = (
                f"{file}: {len(labels)} images, assemble.svhn.n_{split} is {sizes[split]}; "
                "set it to what counts as the set, or fetch the set again"
            )
            raise InputError(message)
        for first in range(0, len(labels), CHUNK):  # MATLAB's order: the image is the slowest axis, the row the fastest
            block = pixels[..., first : first + CHUNK].transpose(3, 0, 1, 2)
            images[start + first : start + first + len(block)] = block
        start += len(labels)
        keys = [f"{file.stem}/{row:06d}" for row in range(len(labels))]
        parts.append(pd.DataFrame({"key": keys, "split": split, "label": labels % CLASSES, "source": file.stem}))
        del pixels  # before the next file is read
    index = pd.concat(parts, ignore_index=True)
    train = index["split"] == "train"
    held_out = validation_rows(
        index.loc[train, "label"].to_numpy(),
        splits.n_validation,
        seed=splits.seed,
        stratified=False,
        where="params, assemble.svhn",
    )
    index.loc[index.index[train][held_out], "split"] = "validation"
    write_set(out, images, index, no_rejects())


def _check_md5(file: Path, md5: dict[str, str]) -> None:
    if not md5:
        return
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5.get(file.name):
        message = (
            f"{file}: its md5 is {found}, fetch.svhn.official.md5 pins {md5.get(file.name, 'none for it')}; "
            "it was not read: run dvc repro fetch@svhn"
        )
        raise InputError(message)


def _read_mat(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (32, 32, 3, N) uint8 and labels (N,) int64 in 1..10 of one file."""
    found, names = _load(file)
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        message = (
            f"{file}: no variable {' and no '.join(missing)}; found {', '.join(names) or 'none'}; "
            "expected X and y, as in SVHN's own files"
        )
        raise InputError(message)
    pixels, labels = found["X"], found["y"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (SIDE, SIDE, 3):
        message = f"{file}: X is {pixels.dtype} of shape {pixels.shape}; expected uint8 of shape (32, 32, 3, N)"
        raise InputError(message)
    n = pixels.shape[3]
    if labels.dtype.kind not in "iu" or labels.shape not in ((n, 1), (1, n)):
        message = f"{file}: y is {labels.dtype} of shape {labels.shape}; expected whole numbers of shape ({n}, 1)"
        raise InputError(message)
    labels = labels.reshape(-1)
    wrong = np.flatnonzero((labels < 1) | (labels > CLASSES))
    if len(wrong):
        message = f"{file}: label {labels[wrong[0]]} at row {wrong[0]}; expected 1..10 (10 is the digit 0)"
        raise InputError(message)
    return pixels, labels.astype(np.int64)


def _load(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Variables X and y of a .mat file, as far as they are there, and the names of all."""
    from scipy.io import loadmat, whosmat

    with file.open("rb") as opened:
        header = opened.read(128)
    # by hand, because scipy takes a file of any other kind for one of MATLAB 4
    if header.startswith((b"MATLAB 7.3", b"\x89HDF")):
        message = f"{file}: a .mat file of MATLAB 7.3 (HDF5); expected MATLAB 5, as SVHN's own: save it with '-v7'"
        raise InputError(message)
    if not header.startswith(b"MATLAB 5.0") or header[124:] not in VERSION_5:
        begin = header[:4].hex(" ") or "nothing"
        message = f"{file}: not a whole .mat file of MATLAB 5 (it begins with {begin}); fetch it again"
        raise InputError(message)
    try:
        names = sorted(name for name, _, _ in whosmat(file, appendmat=False))
        return loadmat(file, appendmat=False, variable_names=["X", "y"]), names
    except Exception as error:  # a damaged file raises nearly anything, UnboundLocalError included
        message = f"{file}: truncated or damaged .mat file ({error or type(error).__name__}); fetch it again"
        raise InputError(message) from error
