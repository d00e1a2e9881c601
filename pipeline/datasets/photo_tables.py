"""Tables beside a folder of photographs: which count, in which half, and the true boxes that people drew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import read_parquet
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.archives import PhotoFolder, text_of

SPLITS = ("train", "test")
BOX = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True, kw_only=True)
class PhotoTables:
    """``photos.parquet`` and ``boxes.parquet`` of a raw folder, checked.

    Attributes
    ----------
    photos : photo, split ("train" or "test"), labelled (its boxes are complete), collection; one row a photo, sorted;
        None where there is no listing: all photos count, unlabelled, as "train"
    boxes : photo, head (its number in the photo), x1, y1, x2, y2 in pixels of the upright photo, and attributes;
        None where nobody drew boxes
    """

    photos: pd.DataFrame | None
    boxes: pd.DataFrame | None


def read_tables(raw: Path) -> PhotoTables:
    """The tables of a raw folder, if it has them.

    Raises
    ------
    InputError
        If the tables lack a column, name a photo twice or an unknown one, or hold a box without extent.
    """
    listing, truth = raw / "photos.parquet", raw / "boxes.parquet"
    if not listing.is_file():
        if truth.is_file():
            message = f"{raw}: boxes.parquet without photos.parquet; run dvc repro fetch@faces"
            raise InputError(message)
        return PhotoTables(photos=None, boxes=None)
    photos = _checked_photos(_read(listing), listing)
    return PhotoTables(photos=photos, boxes=_checked_boxes(_read(truth), photos, truth) if truth.is_file() else None)


def _read(file: Path) -> pd.DataFrame:
    return read_parquet(file, f"remove {file.parent} and run dvc repro")


def _checked_photos(photos: pd.DataFrame, where: Path) -> pd.DataFrame:
    _need(photos, ["photo", "split", "labelled", "collection"], where)
    if not len(photos):
        message = f"{where}: names no photos; fetch again, or name some"
        raise InputError(message)
    twice = photos["photo"][photos["photo"].duplicated()]
    if len(twice):
        message = f"{where}: names the photo {twice.iloc[0]} twice ({len(twice)} such rows); once is expected"
        raise InputError(message)
    other = photos[~photos["split"].isin(SPLITS)]
    if len(other):
        first = other.iloc[0]
        message = f"{where}: photo {first['photo']} has split {first['split']!r}; expected {' or '.join(SPLITS)}"
        raise InputError(message)
    if photos["labelled"].dtype != np.bool_:
        message = f"{where}: column labelled is of type {photos['labelled'].dtype}; true or false is expected"
        raise InputError(message)
    return photos.sort_values("photo", ignore_index=True)


def _checked_boxes(boxes: pd.DataFrame, photos: pd.DataFrame, where: Path) -> pd.DataFrame:
    _need(boxes, ["photo", *BOX], where)
    unknown = boxes["photo"][~boxes["photo"].isin(photos["photo"])]
    if len(unknown):
        message = f"{where}: box of the photo {unknown.iloc[0]}, which photos.parquet does not name; fetch again"
        raise InputError(message)
    x1, y1, x2, y2 = (boxes[name].to_numpy(dtype=np.float64) for name in BOX)
    wrong = np.flatnonzero(~((x2 > x1) & (y2 > y1) & np.isfinite([x1, y1, x2, y2]).all(axis=0)))
    if len(wrong):
        row = boxes.iloc[wrong[0]]
        found = ", ".join(str(row[name]) for name in BOX)
        message = f"{where}: row {wrong[0]} (photo {row['photo']}) is the box {found}; expected x1 < x2 and y1 < y2"
        raise InputError(message)
    if "head" not in boxes:
        boxes = boxes.assign(head=boxes.groupby("photo").cumcount())
    twice = boxes[boxes.duplicated(["photo", "head"])]
    if len(twice):
        message = f"{where}: head {twice['head'].iloc[0]} of the photo {twice['photo'].iloc[0]} is there twice"
        raise InputError(message)
    boxes = boxes.sort_values(["photo", "head"], ignore_index=True)
    return boxes[["photo", "head", *BOX, *[name for name in boxes if name not in ("photo", "head", *BOX)]]]


def _need(table: pd.DataFrame, columns: list[str], where: Path) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        found = ", ".join(map(str, table))
        message = f"{where}: no column {', '.join(missing)}; expected {', '.join(columns)}, found {found}"
        raise InputError(message)


def read_csv(file: Path, columns: list[str], **options: Any) -> pd.DataFrame:
    """A table of truth that came with photos; ``options`` : of ``pandas.read_csv``.

    Raises
    ------
    InputError
        If it cannot be read or lacks one of ``columns``.
    """
    try:
        table = pd.read_csv(file, encoding="utf-8", **options)
    except OSError as error:
        message = f"{file}: cannot be read ({error.strerror}); it holds the truth about the photos, put it there"
        raise InputError(message) from error
    except ValueError as error:  # ParserError and UnicodeDecodeError are ValueErrors
        message = f"{file}: not a CSV table in UTF-8 ({error})"
        raise InputError(message) from error
    _need(table, columns, file)
    return table


def photo_tables(folder: Path, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of a collection of real photos: ``photos`` and ``boxes``, as :class:`PhotoTables` has them.

    With an ``index.csv`` (columns file, true_faces, true_boxes_x1_y1_x2_y2) the photos are those that it names: a
    count of 0 is a photo known to have no face, an empty one an unlabelled photo. Without it they are all photos of
    the folder, unlabelled. Labelled photos are parted into halves, ``train`` to tune a detector on and ``test`` to
    report it on; unlabelled photos serve neither and are ``train``.

    Raises
    ------
    InputError
        If index.csv lacks a column or a photo, or its counts and boxes do not agree.
    """
    file = folder / "index.csv"
    if not file.is_file():
        names = _photos_in(folder)
        listing = pd.DataFrame({"file": names, "true_faces": "", "true_boxes_x1_y1_x2_y2": ""}, index=range(len(names)))
    else:
        columns = ["file", "true_faces", "true_boxes_x1_y1_x2_y2"]
        listing = read_csv(file, columns, dtype=str, keep_default_na=False)
        unnamed = sorted(set(_photos_in(folder)) - set(listing["file"]))
        if unnamed:
            message = (
                f"{file}: does not name {len(unnamed)} of the photos in the folder, such as {unnamed[0]}; name them "
                "(with an empty count if nobody knows their faces), or take them out"
            )
            raise InputError(message)
    photos = pd.DataFrame(
        {
            "photo": listing["file"].astype("str"),
            "split": "train",
            "labelled": (listing["true_faces"] != "").astype(bool),
            "collection": [name.rpartition("/")[0] for name in listing["file"]],
        }
    )
    rows = [
        (row.file, head, *box)
        for row in listing.itertuples()
        for head, box in enumerate(_listed_boxes(str(row.true_faces), str(row.true_boxes_x1_y1_x2_y2), row.file, file))
    ]
    boxes = pd.DataFrame(rows, columns=["photo", "head", *BOX])
    boxes = boxes.astype({"photo": "str", "head": np.int64} | dict.fromkeys(BOX, np.float64))
    photos = _checked_photos(photos, file if file.is_file() else folder)
    boxes = _checked_boxes(boxes, photos, file)
    n_faces = photos["photo"].map(boxes["photo"].value_counts()).fillna(0)
    photos["split"] = _halves(photos, n_faces.to_numpy(dtype=np.int64), seed)
    return photos, boxes


def _photos_in(folder: Path) -> list[str]:
    chunks = PhotoFolder(folder=folder).chunks()
    return [text_of(name)[0] for chunk in chunks for name in chunk.names.split(b"\0")]


def _listed_boxes(count: str, listed: str, name: object, where: Path) -> list[list[float]]:
    try:
        boxes = [[float(number) for number in box.split(",")] for box in listed.split()]
        expected = int(count or 0)
    except ValueError as error:
        message = f"{where}: {name}: true_faces {count!r}, boxes {listed!r}; expected a count and x1,y1,x2,y2 a box"
        raise InputError(message) from error
    if len(boxes) != expected or any(len(box) != 4 for box in boxes):
        message = (
            f"{where}: {name}: {expected} true faces but {len(boxes)} boxes {listed!r}; expected as many of 4 numbers"
        )
        raise InputError(message)
    return boxes


def _halves(photos: pd.DataFrame, n_faces: np.ndarray, seed: int) -> np.ndarray:
    """Part the labelled photos of each collection: neighbours in the number of faces are parted at random."""
    rng = numpy_stream(seed, "faces/halves")
    split = np.full(len(photos), "train", dtype=object)
    labelled = photos["labelled"].to_numpy(dtype=bool)
    rows = rng.permutation(np.flatnonzero(labelled))
    collection = photos["collection"].astype("category").cat.codes.to_numpy()
    rows = rows[np.lexsort((-n_faces[rows], collection[rows]))]
    for first in range(0, len(rows) - 1, 2):
        split[rows[first + rng.integers(2)]] = "test"
    return split.astype(str)
