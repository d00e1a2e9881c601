"""Image sets: ``images.npy`` + ``index.parquet`` + ``rejects.parquet``, one writer, one reader; files of arrays."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory, whole_file
from pipeline.core.records import read_parquet

INDEX_COLUMNS = ("key", "split", "label", "source")
REJECT_COLUMNS = ("key", "reason")
LARGEST_WITHOUT_ZIP64 = 2**30  # bytes; the format's limit is 2 GiB, headers included


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set opened for reading.

    Attributes
    ----------
    images : uint8 memory map, shape (n_images, height, width, channels), RGB or grey
    index : one row an image, in the same order: key, split, label (-1 = none), source, and what the stage knows
    """

    path: Path
    images: np.ndarray
    index: pd.DataFrame

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending.

        Raises
        ------
        InputError
            If the set has no image of that split.
        """
        found = np.flatnonzero(self.index["split"].to_numpy() == split)
        if not len(found):
            splits = ", ".join(sorted(self.index["split"].unique())) or "none"
            message = f"{self.path}: no images in split '{split}'; found {splits}"
            raise InputError(message)
        return found

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """int64 labels of the given rows."""
        return self.index["label"].to_numpy(dtype=np.int64)[rows]


def write_set(out: Path, images: np.ndarray, index: pd.DataFrame, rejects: pd.DataFrame) -> None:
    """Write an image set whole. ``rejects`` has a row (key, reason) for every input left out."""
    check_set(out, images, index)
    with whole_directory(out) as partial:
        with (partial / "images.npy").open("wb") as file:
            np.save(file, np.ascontiguousarray(images))
        index.to_parquet(partial / "index.parquet", index=False)
        rejects.to_parquet(partial / "rejects.parquet", index=False)


def open_set(path: Path) -> ImageSet:
    """Open an image set; the images stay on disk.

    Raises
    ------
    InputError
        If a file is missing, or index and array do not belong together.
    """
    for name in ("images.npy", "index.parquet"):
        if not (path / name).is_file():
            message = f"{path}: no {name}; run the stage that makes this image set (dvc repro)"
            raise InputError(message)
    again = f"remove {path} and run dvc repro"
    images = memory_map(path / "images.npy", again)
    index = read_parquet(path / "index.parquet", again)
    check_set(path, images, index)
    return ImageSet(path=path, images=images, index=index)


def check_set(path: Path, images: np.ndarray, index: pd.DataFrame) -> None:
    """Refuse an image set that breaks the contract."""
    if images.dtype != np.uint8 or images.ndim != 4:
        message = f"{path}: images must be uint8 N x H x W x C, found {images.dtype} of shape {images.shape}"
        raise InputError(message)
    missing = [column for column in INDEX_COLUMNS if column not in index.columns]
    if missing:
        message = f"{path}: the index has no column {', '.join(missing)}; expected {', '.join(INDEX_COLUMNS)}"
        raise InputError(message)
    if len(images) != len(index):
        message = (
            f"{path}: the array has {len(images)} images but the index has {len(index)} rows; "
            "remove the folder and run the stage that makes it again"
        )
        raise InputError(message)


def read_rejects(path: Path) -> pd.DataFrame:
    """The rejects of a set: key, reason, and what else the stage knows."""
    file = path / "rejects.parquet"
    rejects = read_parquet(file, f"remove {path} and run dvc repro")
    missing = [column for column in REJECT_COLUMNS if column not in rejects.columns]
    if missing:
        message = f"{file}: no column {', '.join(missing)}; expected {', '.join(REJECT_COLUMNS)}"
        raise InputError(message)
    return rejects


def memory_map(path: Path, again: str) -> np.ndarray:
    """Open an ``.npy`` for reading; the array stays on disk. ``again`` tells the way out if it is damaged.

    Raises
    ------
    InputError
        If it is missing, or no whole NumPy array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TokenError) as error:  # TokenError: of NumPy's reader of headers
        message = f"{path}: not a whole NumPy array ({error}); {again}"
        raise InputError(message) from error


def write_arrays(out: Path, **arrays: np.ndarray) -> None:
    """Write named arrays as an uncompressed ``.npz``, whole.

    Not by ``np.savez``: it asks for ZIP64 whatever the size, whose headers patch releases of Python write differently
    (3.11.2 and 3.11.7: seen). Members have the fixed date of ``ZipInfo``, so the bytes repeat.
    """
    with whole_file(out) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in arrays.items():
            large = array.nbytes > LARGEST_WITHOUT_ZIP64
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=large) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_arrays(path: Path, again: str = "remove it and run the stage that writes it again") -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``, by name; ``again`` tells the way out if it is damaged.

    Raises
    ------
    InputError
        If it is missing, or no whole file of arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    # RuntimeError: flags of another archive; TypeError: a lone array; TokenError: a header
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, TokenError, zipfile.BadZipFile) as error:
        message = f"{path}: not a whole file of arrays ({error}); {again}"
        raise InputError(message) from error


def no_rejects() -> pd.DataFrame:
    """An empty table of rejects."""
    return pd.DataFrame({column: pd.Series(dtype="str") for column in REJECT_COLUMNS})
