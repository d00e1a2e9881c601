"""Rendered bedrooms as a real LSUN-layout LMDB, with planted near-duplicates and the truth about all."""

import hashlib
import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import alterations
from pipeline.datasets.workers import parallel

if TYPE_CHECKING:
    from pipeline.datasets.embedded.room_drawing import Box, Room

ROOMS_A_TASK = 50
WEBP_QUALITY = 85
WEBP_METHOD = 1  # a third of the time of cv2.imencode, whose method 4 saves a fifth of the bytes
GROUP_OF_THREE = 5  # every fifth original has two copies, the others one


@section
class RenderedRooms:
    """``fetch.lsun``, rendered: how many rooms of each kind; copies and mirrored rooms come on top of ``n_train``."""

    seed: int
    n_train: Annotated[int, Ge(1)]
    n_validation: Annotated[int, Ge(1)]
    n_planted: Annotated[int, Ge(0)]
    n_mirrored: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        if self.n_groups > self.n_train:
            message = f"n_planted {self.n_planted} takes {self.n_groups} originals, n_train is {self.n_train}; lower it"
            raise ValueError(message)
        if self.n_mirrored > self.n_groups:
            message = f"n_mirrored {self.n_mirrored}: only the {self.n_groups} originals of planted copies are mirrored"
            raise ValueError(message)

    @property
    def n_groups(self) -> int:
        """Rooms that have near-duplicates."""
        return self.n_planted - max(self.n_planted - 1, 0) // GROUP_OF_THREE


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of the archive: which room it shows, and how altered."""

    key: str
    split: str
    number: int  # within its split; copies and mirrored rooms come after the rooms
    room: int
    alteration: str = ""
    group: int = -1
    mirror_of: int = -1


def entries(rooms: RenderedRooms) -> list[Entry]:
    """All images to be made, sorted by split and key.

    The keys are hashes, as LSUN's: so copies lie scattered, and the first of a group may be a copy.
    """
    originals = numpy_stream(rooms.seed, "room originals").permutation(rooms.n_train)[: rooms.n_groups]
    group_of = {int(room): group for group, room in enumerate(originals)}
    made = []
    for number in range(rooms.n_train):
        group = group_of.get(number, -1)
        made.append(_entry("train", number, number, alterations.ORIGINAL if group >= 0 else "", group=group))
    for copy in range(rooms.n_planted):
        group = copy - copy // GROUP_OF_THREE
        alteration = alterations.PLANTED[copy % len(alterations.PLANTED)]
        made.append(_entry("train", rooms.n_train + copy, int(originals[group]), alteration, group=group))
    for copy in range(rooms.n_mirrored):
        number = rooms.n_train + rooms.n_planted + copy
        made.append(_entry("train", number, int(originals[copy]), "mirror", mirror_of=copy))
    made += [_entry("validation", number, number) for number in range(rooms.n_validation)]
    return sorted(made, key=lambda entry: (entry.split, entry.key))


def _entry(split: str, number: int, room: int, alteration: str = "", *, group: int = -1, mirror_of: int = -1) -> Entry:
    key = hashlib.sha1(f"{split}/{number}".encode(), usedforsecurity=False).hexdigest()
    return Entry(
        key=key, split=split, number=number, room=room, alteration=alteration, group=group, mirror_of=mirror_of
    )


def write_rooms(out: Path, rooms: RenderedRooms) -> None:
    """Write ``bedroom_train_lmdb``, ``bedroom_val_lmdb`` and ``truth.parquet`` to the folder ``out``.

    The truth has a row an image (both splits, sorted by key): its boxes in pixels, what the room has, ``group`` and
    ``alteration`` of planted near-duplicates, ``mirror_of`` of rooms that are the mirror image of a group's original.
    """
    planned = entries(rooms)
    tasks = [(rooms.seed, planned[start : start + ROOMS_A_TASK]) for start in range(0, len(planned), ROOMS_A_TASK)]
    contents: dict[str, list[tuple[str, bytes]]] = {"train": [], "validation": []}
    truth: list[dict[str, Any]] = []
    with (
        whole_directory(out) as partial,
        Progress("rendered rooms", total=len(planned), unit="rooms") as progress,
    ):
        for (_, part), results in zip(tasks, parallel(_render_all, tasks), strict=True):
            for entry, (content, row) in zip(part, results, strict=True):
                contents[entry.split].append((entry.key, content))
                truth.append(row)
            progress.advance(len(part))
        write_lmdb(partial / "bedroom_train_lmdb", contents["train"])
        write_lmdb(partial / "bedroom_val_lmdb", contents["validation"])
        _table(truth).to_parquet(partial / "truth.parquet", index=False)


def _table(truth: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(truth).sort_values("key", ignore_index=True)
    boxes = [column for column in table.columns if column.endswith(("_x1", "_y1", "_x2", "_y2"))]
    return table.astype(dict.fromkeys(boxes, np.float32) | {"group": np.int64, "mirror_of": np.int64})


def _render_all(task: tuple[int, list[Entry]]) -> list[tuple[bytes, dict[str, Any]]]:
    seed, part = task
    return [render(seed, entry) for entry in part]


def draw(seed: int, split: str, number: int) -> "Room":
    """Room ``number`` of a split: the same whatever else is drawn."""
    from pipeline.datasets.embedded.room_drawing import draw_room
    from pipeline.datasets.embedded.room_textures import bank

    return draw_room(numpy_stream(seed, "room" if split == "train" else f"room/{split}", number), bank(seed))


def render(seed: int, entry: Entry) -> tuple[bytes, dict[str, Any]]:
    """The encoded image of an entry and its row of the truth."""
    from pipeline.datasets.embedded.room_drawing import BED, WINDOW

    room = draw(seed, entry.split, entry.room)
    dx = dy = 0
    if entry.alteration in alterations.SHIFTS:
        rng = numpy_stream(seed, "room shift", entry.number)
        dx, dy = alterations.shift_by(alterations.SHIFTS[entry.alteration], rng)
    picture = room.picture(dx, dy)
    window, bed = room.box(WINDOW, dx, dy), room.box(BED, dx, dy)
    facts = room.facts
    if entry.alteration == "jpeg75":
        content = alterations.jpeg(picture, alterations.JPEG_QUALITIES["jpeg75"])
    else:
        if entry.alteration in ("brightness+5", "brightness-5", "crop2", "mirror"):
            picture = alterations.ALTERATIONS[entry.alteration](picture, numpy_stream(seed, "room copy", entry.number))
        content = _webp(picture)
    height, width = picture.shape[:2]
    if entry.alteration == "crop2":
        window, bed = (_enlarged(box, width, height) for box in (window, bed))
    elif entry.alteration == "mirror":
        window, bed = ((width - box[2], box[1], width - box[0], box[3]) for box in (window, bed))
        turned = {"left": "right", "right": "left"}
        facts = {name: turned.get(fact, fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    row: dict[str, Any] = {"key": entry.key}
    for name, box in (("window", window), ("bed", bed)):
        row |= {f"{name}_{edge}": value for edge, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)}
    row |= facts | {"group": entry.group, "alteration": entry.alteration, "mirror_of": entry.mirror_of}
    return content, row


def _webp(rgb: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return file.getvalue()


def _enlarged(box: "Box", width: int, height: int) -> "Box":
    """Where a box lies after :func:`alterations.enlarge_middle`; NaN if nothing of it is left."""
    x, y, kept_width, kept_height = alterations.crop_rectangle(width, height, alterations.KEEP_OF_CROP2)
    x1, x2 = (np.clip((edge - x) * width / kept_width, 0, width) for edge in box[::2])
    y1, y2 = (np.clip((edge - y) * height / kept_height, 0, height) for edge in box[1::2])
    if not (x2 > x1 and y2 > y1):
        return (np.nan, np.nan, np.nan, np.nan)
    return float(x1), float(y1), float(x2), float(y2)


def write_lmdb(folder: Path, contents: list[tuple[str, bytes]]) -> None:
    """Write an LMDB in LSUN's layout, ``data.mdb`` alone: the same contents give the same bytes.

    Parameters
    ----------
    contents : ASCII key and value, sorted by key
    """
    import lmdb

    folder.mkdir()
    # the most the file can grow to: each value on pages of its own, and as much again for the tree
    size = sum(2 + len(value) // mmap.PAGESIZE for _, value in contents) * 2 * mmap.PAGESIZE + (1 << 20)
    environment = lmdb.open(str(folder), map_size=size, lock=False)
    with environment.begin(write=True) as transaction:
        for key, value in contents:
            if not transaction.put(key.encode("ascii"), value, append=True):
                message = f"{folder}: key {key} occurs twice or out of order"
                raise AssertionError(message)
    environment.close()
