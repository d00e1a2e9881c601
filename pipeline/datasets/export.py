"""Archives of photographs to an image set: shorter side to ``size``, center crop, by several processes, resumable.

Each worker takes a chunk, writes its rows straight to their place in the one large array on disk (no memory map: the
workers' memory stays flat) and then a small record of what it did. A killed run goes on with the chunks that have no
record. The bytes of the result depend on the archives and the params only.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory, whole_file, write_text
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.datasets.archives import Archive, Chunk, ImageFolder, LmdbImages, PhotoFolder
from pipeline.datasets.decode import (
    BOX_SUFFIXES,
    Decoding,
    Rejected,
    crop_geometry,
    decode,
    resize_and_crop,
    transform_boxes,
)
from pipeline.datasets.in_place import (
    AGAIN,
    Pin,
    check_listing,
    content_folder,
    content_sha256,
    listing_line,
    open_archive,
    pins,
    read_record,
)
from pipeline.datasets.workers import parallel

HEADER_BYTES = 128  # of images.npy; NumPy leaves room for any number of images
ROWS_A_GROUP = 32_768  # of the tables
COPY_BYTES = 8 << 20


@section
class Crops:
    """``assemble.NAME``: size of the crops in pixels, and the first ``limit`` keys of each part (null = all)."""

    size: Annotated[int, Ge(1)]
    limit: Annotated[int, Ge(1)] | None


@dataclass(frozen=True, kw_only=True)
class Export:
    """Size and limit as in :class:`Crops`, and what is refused."""

    size: int
    limit: int | None
    decoding: Decoding


@dataclass(frozen=True, kw_only=True)
class Part:
    """One archive of a set; ``pin`` is checked against what the workers read, unless there is a limit."""

    archive: Archive
    split: str
    source: str
    pin: Pin | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Counts of an export: ``n_inputs`` is the sum of the others."""

    n_inputs: int
    n_images: int
    n_rejected: int


def lsun_parts(raw: Path) -> list[Part]:
    """The LSUN databases in raw: ``SCENE_train_lmdb`` is split ``train``, ``SCENE_val_lmdb`` is ``validation``."""
    folder, pinned = content_folder(raw), pins(raw)
    names = list(pinned) or sorted(path.name for path in folder.glob("*_lmdb"))
    splits = {"train": "train", "val": "validation"}
    found = []
    for name in names:
        split = splits.get(name.removesuffix("_lmdb").rpartition("_")[2])
        if split is None or not name.endswith("_lmdb"):
            message = f"{folder / name}: expected the name SCENE_train_lmdb or SCENE_val_lmdb"
            raise InputError(message)
        found.append(Part(archive=LmdbImages(folder=folder / name), split=split, source=name, pin=pinned.get(name)))
    if not found:
        message = f"{folder}: no LSUN database; expected folders such as bedroom_train_lmdb"
        raise InputError(message)
    return found


def imagenet_parts(raw: Path) -> list[Part]:
    """``train/CLASS/*`` (or the ILSVRC tar) and, if there is one, ``val/CLASS/*`` with the training part's labels."""
    folder, pinned, record = content_folder(raw), pins(raw), read_record(raw)
    layouts = {name: part["layout"] for name, part in record["parts"].items()} if record else {}
    names = list(layouts) or [name for name in ("train", "val") if (folder / name).is_dir()]
    train = next((name for name in names if name != "val"), None)
    if train is None:
        message = f"{folder}: no training part; expected train/CLASS/*.JPEG"
        raise InputError(message)
    more = [name for name in names if name not in (train, "val")]
    if more:
        message = (
            f"{folder}: parts {', '.join(names)}; expected one training part, and val: leave out {', '.join(more)}"
        )
        raise InputError(message)
    archive = open_archive(folder / train, layouts.get(train, "image_folder"))
    found = [Part(archive=archive, split="train", source=train, pin=pinned.get(train))]
    if "val" in names:
        classes = archive.class_names()  # pyright: ignore[reportAttributeAccessIssue]
        validation = ImageFolder(folder=folder / "val", classes=classes)
        found.append(Part(archive=validation, split="validation", source="val", pin=pinned.get("val")))
    return found


def photo_parts(raw: Path, *, name: str = "images", split: str = "test") -> list[Part]:
    """All photos of one folder as one split."""
    archive = PhotoFolder(folder=content_folder(raw) / name)
    return [Part(archive=archive, split=split, source=name, pin=pins(raw).get(name))]


# image set -> the archives that it is made from
PARTS: dict[str, Callable[[Path], list[Part]]] = {
    "lsun": lsun_parts,
    "imagenet32": imagenet_parts,
    "imagenet128": imagenet_parts,
    "neardup": photo_parts,
}


def truth_of(raw: Path) -> Path | None:
    """The table of truth beside the archives, if there is one."""
    file = raw / "truth.parquet"
    return file if file.is_file() else None


def export(parts: Sequence[Part], out: Path, folder: Path, config: Export, *, truth: Path | None = None) -> Exported:
    """Write the image set ``out``.

    Parameters
    ----------
    folder : scratch folder of this very computation; what a killed run left there is used again
    truth : parquet table with a row a key. Columns ``NAME_x1, NAME_y1, NAME_x2, NAME_y2`` are boxes in source pixels
        and become boxes in pixels of the crop; the others are copied to the index.

    Raises
    ------
    InputError
        If an archive cannot be read, is not what is pinned, holds no usable image, does not fit the table of truth, or
        the disk is full. ``out`` is then as it was.
    """
    started = time.monotonic()
    tasks = _plan(parts, folder, config)
    n_inputs = sum(task.chunk.n for task in tasks)
    if not n_inputs:
        message = f"{out}: the archives hold no images: {', '.join(part.source for part in parts)}"
        raise InputError(message)
    _prepare(folder, tasks, n_inputs * config.size**2 * 3)
    todo = [task for task in tasks if not task.record.is_file()]
    done = n_inputs - sum(task.chunk.n for task in todo)
    with Progress(f"exporting {out.name}", total=n_inputs, done=done, unit="images") as progress:
        for task, _ in zip(todo, parallel(_export_chunk, todo), strict=True):
            progress.advance(task.chunk.n)
    with whole_directory(out) as partial:
        merged = _Merged(partial, _Truth(truth, out) if truth else None, config.size)
        with merged:
            for task in tasks:
                merged.add(parts[task.part], task)
        _check_pins(parts, merged, folder)
        counts = Exported(n_inputs=n_inputs, n_images=merged.n_images, n_rejected=merged.n_rejected)
        assert counts.n_inputs == counts.n_images + counts.n_rejected
        if not counts.n_images:
            message = f"{out}: all {n_inputs} images were rejected, the first one as: {merged.first_reason}"
            raise InputError(message)
        if merged.truth and config.limit is None:
            merged.truth.check_all_used()
        _compact(folder, tasks, merged.accepted, config.size)
        _place(folder / "images.npy", partial / "images.npy")
    seconds = time.monotonic() - started
    fresh = n_inputs - done
    print(
        f"{out.name}: {counts.n_images:,} images, {counts.n_rejected:,} rejected; "
        f"{seconds:.1f} s, {fresh / max(seconds, 1e-9):,.0f} images/s",
        file=sys.stderr,
    )
    return counts


# The work of one chunk


@dataclass(frozen=True, kw_only=True)
class _Task:
    number: int
    part: int
    chunk: Chunk
    first_row: int
    images: Path
    record: Path
    config: Export
    with_sha256: bool


def _plan(parts: Sequence[Part], folder: Path, config: Export) -> list[_Task]:
    tasks: list[_Task] = []
    row = 0
    for number, part in enumerate(parts):
        before = row
        for chunk in part.archive.chunks(config.limit):
            task = _Task(
                number=len(tasks),
                part=number,
                chunk=chunk,
                first_row=row,
                images=folder / "images.npy",
                record=folder / "chunks" / f"{len(tasks):06d}.json",
                config=config,
                with_sha256=part.pin is not None and part.pin.sha256 is not None and config.limit is None,
            )
            tasks.append(task)
            row += chunk.n
        if part.pin is not None and config.limit is None and row - before != part.pin.n_images:
            message = f"{part.source}: {row - before} images, pinned are {part.pin.n_images}; {AGAIN}"
            raise InputError(message)
    return tasks


def _prepare(folder: Path, tasks: Sequence[_Task], n_bytes: int) -> None:
    """Make the scratch folder ready: keep what a killed run left if it was doing the same, else start afresh."""
    images, plan, state = folder / "images.npy", folder / "plan", folder / "state"
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(f"{task!r}\n".encode())
    same = plan.is_file() and plan.read_text(encoding="utf-8") == digest.hexdigest()
    # Rows move during compaction: a run killed there has lost the places that its records tell of.
    compacting = state.is_file() and state.read_text(encoding="utf-8") == "compacting"
    if not same or compacting or not images.is_file():
        _start_afresh(folder)
    allocated = images.stat().st_blocks * 512 if images.is_file() else 0
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < n_bytes - allocated:
        message = (
            f"{folder}: the images take {n_bytes / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left; "
            "free some space, or set GAN_SCRATCH to a folder on a larger disk"
        )
        raise InputError(message)
    if not images.is_file():
        (folder / "chunks").mkdir(exist_ok=True)
        with images.open("wb") as file:
            file.truncate(HEADER_BYTES + n_bytes)
        write_text(plan, digest.hexdigest())


def _start_afresh(folder: Path) -> None:
    """Remove what an export left, and only that: the folder also holds the lock of the running stage."""
    shutil.rmtree(folder / "chunks", ignore_errors=True)
    for name in ("plan", "state", "images.npy"):
        (folder / name).unlink(missing_ok=True)


def _export_chunk(task: _Task) -> None:
    """Write the rows of a chunk's images, without gaps from its first row on, and then the record."""
    config = task.config
    rows: list[dict[str, Any]] = []
    with whole_file(task.record) as partial:
        images = os.open(task.images, os.O_WRONLY)
        try:
            row_bytes = config.size**2 * 3
            place = HEADER_BYTES + task.first_row * row_bytes
            for item in task.chunk.items():
                row: dict[str, Any] = {"key": item.key, "label": item.label, "reason": item.reason}
                if task.with_sha256:
                    row["sha256"] = content_sha256(item.content)
                if item.content is not None:
                    try:
                        decoded = decode(item.content, config.decoding, at_least=config.size)
                    except Rejected as rejected:
                        row["reason"] = str(rejected)
                    else:
                        crop = crop_geometry(decoded.width, decoded.height, config.size)
                        _write_at(images, resize_and_crop(decoded.rgb, config.size, crop).data, place)
                        place += row_bytes
                        row |= {"width": decoded.width, "height": decoded.height}
                rows.append(row)
        finally:
            os.close(images)
        if len(rows) != task.chunk.n:
            message = f"{task.chunk}: {len(rows)} images read, {task.chunk.n} expected; the data changed during the run"
            raise InputError(message)
        partial.write_text(json.dumps(rows), encoding="utf-8")


def _write_at(file: int, data: memoryview | bytes, place: int) -> None:
    view = memoryview(data).cast("B")
    while view:  # the kernel may write a part only, as on a disk that fills up
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written


# Putting the chunks together


class _Merged:
    """Streams the records into ``index.parquet`` and ``rejects.parquet``: memory does not grow with the set."""

    def __init__(self, folder: Path, truth: "_Truth | None", size: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.truth, self._size = truth, size
        key, split, source = (pa.field(name, pa.string()) for name in ("key", "split", "source"))
        label, width, height = (
            pa.field("label", pa.int64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
        )
        known = truth.fields if truth else []
        self._index_schema = pa.schema([key, split, label, source, width, height, *known])
        self._rejects_schema = pa.schema([key, pa.field("reason", pa.string()), split, source])
        self._index_writer = pq.ParquetWriter(folder / "index.parquet", self._index_schema)
        self._rejects_writer = pq.ParquetWriter(folder / "rejects.parquet", self._rejects_schema)
        self._index: list[dict[str, Any]] = []
        self._rejects: list[dict[str, Any]] = []
        self._listings: dict[str, Any] = {}
        self.accepted: list[int] = []  # images of each chunk
        self.n_images = self.n_rejected = 0
        self.first_reason = ""

    def __enter__(self) -> "_Merged":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush_index()
            self._flush_rejects()
        self._index_writer.close()
        self._rejects_writer.close()

    def add(self, part: Part, task: _Task) -> None:
        """Take up one chunk's record; chunks come in order."""
        rows = json.loads(task.record.read_text(encoding="utf-8"))
        if task.with_sha256:
            listing = self._listings.setdefault(part.source, hashlib.sha256())
            for row in rows:
                listing.update(listing_line(row["key"], row.pop("sha256")))
        accepted = [row for row in rows if not row["reason"]]
        rejected = [row for row in rows if row["reason"]]
        where = {"split": part.split, "source": part.source}
        self._index += [row | where for row in accepted]
        if self.truth:
            for row in rejected:
                self.truth.saw(row["key"])
        self._rejects += [{"key": row["key"], "reason": row["reason"]} | where for row in rejected]
        self.accepted.append(len(accepted))
        self.n_images += len(accepted)
        self.n_rejected += len(rejected)
        if rejected and not self.first_reason:
            self.first_reason = f"{rejected[0]['key']}: {rejected[0]['reason']}"
        if len(self._index) >= ROWS_A_GROUP:
            self._flush_index()
        if len(self._rejects) >= ROWS_A_GROUP:
            self._flush_rejects()

    def listing_sha256(self, source: str) -> str | None:
        """sha256 of the listing of what the workers read, or None where it was not asked for."""
        return self._listings[source].hexdigest() if source in self._listings else None

    def _flush_index(self) -> None:
        import pyarrow as pa

        if not self._index:
            return
        names = ("key", "split", "label", "source", "width", "height")
        columns = {name: [row[name] for row in self._index] for name in names}
        if self.truth:
            columns |= self.truth.columns(columns, self._size)
        self._index_writer.write_table(pa.table(columns, schema=self._index_schema))
        self._index = []

    def _flush_rejects(self) -> None:
        import pyarrow as pa

        if self._rejects:
            self._rejects_writer.write_table(pa.Table.from_pylist(self._rejects, schema=self._rejects_schema))
            self._rejects = []


class _Truth:
    """The table of truth, small enough for memory: only rendered sets have one."""

    def __init__(self, file: Path, out: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        self._where = f"{file}, for {out}"
        if "key" not in table.column_names:
            message = f"{file}: no column key; found {', '.join(table.column_names)}"
            raise InputError(message)
        keys = table.column("key").to_pylist()
        self._row = {key: row for row, key in enumerate(keys)}
        if len(self._row) < len(keys):
            message = f"{file}: {len(keys) - len(self._row)} keys stand there more than once; expected a row a key"
            raise InputError(message)
        self._seen = np.zeros(len(keys), dtype=bool)
        self._table = table.drop_columns(["key"])
        names = self._table.column_names
        clash = sorted(set(names) & {"split", "label", "source", "width", "height"})
        if clash:
            message = f"{file}: column {clash[0]} is one that the export writes itself; rename it"
            raise InputError(message)
        self._boxes = sorted({name[:-3] for name in names if name.endswith(BOX_SUFFIXES)})
        for box in self._boxes:
            missing = [box + suffix for suffix in BOX_SUFFIXES if box + suffix not in names]
            if missing:
                message = (
                    f"{file}: no column {missing[0]}; a box has {', '.join(box + suffix for suffix in BOX_SUFFIXES)}"
                )
                raise InputError(message)
        self.fields = [
            pa.field(field.name, pa.float32() if field.name.endswith(BOX_SUFFIXES) else field.type)
            for field in self._table.schema
        ]

    def columns(self, index: dict[str, list[Any]], size: int) -> dict[str, Any]:
        """The columns of truth for some rows of the index."""
        rows = [self._row.get(key, -1) for key in index["key"]]
        if -1 in rows:
            message = f"{self._where}: no row for key {index['key'][rows.index(-1)]}; the table belongs to other images"
            raise InputError(message)
        self._seen[rows] = True
        taken = self._table.take(rows)
        columns: dict[str, Any] = {name: taken.column(name) for name in taken.column_names}
        sizes = np.array([index["width"], index["height"]]).T
        for box in self._boxes:
            names = [box + suffix for suffix in BOX_SUFFIXES]
            boxes = np.stack([taken.column(name).to_numpy() for name in names], axis=1).astype(np.float64)
            moved = np.empty(boxes.shape, dtype=np.float32)
            for width, height in np.unique(sizes, axis=0):
                same = (sizes == (width, height)).all(axis=1)
                moved[same] = transform_boxes(boxes[same], crop_geometry(int(width), int(height), size))
            columns |= {name: moved[:, number] for number, name in enumerate(names)}
        return columns

    def saw(self, key: str) -> None:
        """Note a rejected image's key."""
        if key in self._row:
            self._seen[self._row[key]] = True

    def check_all_used(self) -> None:
        """Refuse a table with rows of images that the archives do not hold."""
        unseen = np.flatnonzero(~self._seen)
        if len(unseen):
            key = next(key for key, row in self._row.items() if row == unseen[0])
            message = f"{self._where}: {len(unseen)} rows are of images that the archives do not hold, such as {key}"
            raise InputError(message)


def _check_pins(parts: Sequence[Part], merged: _Merged, folder: Path) -> None:
    """Compare what the workers read with the pins; what they read is no use if it is something else."""
    for part in parts:
        found = merged.listing_sha256(part.source)
        if part.pin is not None and found is not None:
            try:
                check_listing(Path(part.source), found, part.pin.sha256)
            except InputError:
                _start_afresh(folder)
                raise


def _compact(folder: Path, tasks: Sequence[_Task], accepted: Sequence[int], size: int) -> None:
    """Close the gaps that rejected images left at the ends of chunks, in place, and write the header."""
    state = folder / "state"
    if state.is_file():  # "compacted": a run was killed between this and the end
        return
    row_bytes, n_images = size**2 * 3, sum(accepted)
    write_text(state, "compacting")
    file = os.open(folder / "images.npy", os.O_RDWR)
    try:
        row = 0
        for task, n in zip(tasks, accepted, strict=True):
            if row != task.first_row:
                _move(file, task.first_row * row_bytes, row * row_bytes, n * row_bytes)
            row += n
        os.ftruncate(file, HEADER_BYTES + n_images * row_bytes)
        _write_at(file, _header(n_images, size), 0)
    finally:
        os.close(file)
    write_text(state, "compacted")


def _move(file: int, source: int, target: int, n_bytes: int) -> None:
    """Move a block towards the start, piece by piece from its front: the ranges may overlap."""
    moved = 0
    while moved < n_bytes:
        piece = os.pread(file, min(COPY_BYTES, n_bytes - moved), HEADER_BYTES + source + moved)
        assert piece, "images.npy ends before the rows that its records tell of"
        _write_at(file, piece, HEADER_BYTES + target + moved)
        moved += len(piece)


def _header(n_images: int, size: int) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (n_images, size, size, 3)}
    np.lib.format.write_array_header_1_0(buffer, description)
    assert buffer.tell() == HEADER_BYTES
    return buffer.getvalue()


def _place(source: Path, target: Path) -> None:
    """Give the array its place in the set without losing it in the scratch folder: a kill now still costs nothing."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as error:  # copyfile names the source, whichever side failed
            raise OSError(error.errno, error.strerror, str(target)) from error
