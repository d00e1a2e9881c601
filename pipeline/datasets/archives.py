"""Where encoded photographs lie: LSUN's LMDB, class folders, photo folders, the ILSVRC tar. Read in place, in chunks.

An archive is cut into chunks that can be pickled; a worker reads the items of a chunk. The cut depends on the archive
and the limit only. The order is that of the keys as bytes; in a tar, that of the archive.
"""

import os
import stat
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    import lmdb

# What counts as a photo in a folder; further kinds are listed to be rejected with a reason, not passed over in silence.
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ITEMS_A_CHUNK = 512
CHUNKS_AT_LEAST = 32  # smaller archives are cut finer, so that every worker gets its share
KEYS_A_MAP = 2048
NO_LABEL = -1
DUPLICATE_KEY, NOT_UTF8 = "duplicate key", "name is not UTF-8"  # reasons

MOST_BYTES = 1 << 28  # of one encoded image: more is no photograph, and would be read into memory whole


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input: its key, class (-1 = none) and bytes, or the reason why there are none."""

    key: str
    label: int = NO_LABEL
    content: bytes | None = None
    reason: str = ""


class Chunk(Protocol):
    """A run of items that one worker reads; can be pickled, and its ``repr`` says which items it holds."""

    @property
    def n(self) -> int:
        """Number of items, known without reading them."""
        ...

    def items(self) -> Iterator[Item]:
        """Read the items, in order; exactly ``n``."""
        ...


class Archive(Protocol):
    """Something that can be cut into chunks."""

    def chunks(self, limit: int | None = None) -> Sequence[Chunk]:
        """All chunks, or those of the first ``limit`` keys."""
        ...


def chunk_size(n: int) -> int:
    """Items in a chunk of an archive of n: never depends on the number of workers."""
    return max(1, min(ITEMS_A_CHUNK, -(-n // CHUNKS_AT_LEAST)))


def text_of(name: bytes) -> tuple[str, str]:
    """Key of a name, and a reason to reject it: names that are not UTF-8 are escaped, so that they can be reported."""
    try:
        return name.decode("utf-8"), ""
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace"), NOT_UTF8


def is_there(path: Path, *, folder: bool = False) -> bool:
    """Whether a file, or a folder, is there.

    Raises
    ------
    InputError
        If nobody may look.
    """
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError as error:  # a folder that may not be entered
        message = f"{path}: cannot be read ({error.strerror}); see to the permissions of the folders on the way"
        raise InputError(message) from error


# LMDB


@dataclass(frozen=True, kw_only=True)
class LmdbImages:
    """An LSUN database: a folder with ``data.mdb``, key -> encoded image."""

    folder: Path

    def chunks(self, limit: int | None = None) -> list["LmdbChunk"]:
        """One pass over the keys, of which only the first of each chunk is kept."""
        with _opened(self.folder) as (environment, _):
            entries = environment.stat()["entries"]
        n = entries if limit is None else min(limit, entries)
        size = chunk_size(n)
        found: list[LmdbChunk] = []
        number, previous, repeats = 0, b"", 0
        while number < n:
            # The binding touches the values too, so their pages count as this process's memory until the map is closed.
            with _opened(self.folder) as (_, transaction):
                cursor = transaction.cursor()
                skip = repeats + 1 if number and cursor.set_key(previous) else 0
                last = min(n - number, KEYS_A_MAP)
                for key in islice(cursor.iternext(keys=True, values=False), skip, skip + last):
                    name = bytes(key)
                    repeats = repeats + 1 if number and name == previous else 0  # only with MDB_DUPSORT
                    previous = name
                    if number % size == 0:
                        found.append(LmdbChunk(folder=self.folder, first=name, skip=repeats, n=min(size, n - number)))
                    number += 1
                    last -= 1
            if last:
                message = (
                    f"{self.folder}: {number} of {n} keys found; the database is damaged, or changed during the run"
                )
                raise InputError(message)
        return found


@dataclass(frozen=True, kw_only=True)
class LmdbChunk:
    """``n`` entries from the key ``first`` on, whose first ``skip`` values belong to the chunk before."""

    folder: Path
    first: bytes
    skip: int
    n: int

    def items(self) -> Iterator[Item]:
        """Read the items. A second value of the same key is rejected."""
        with _opened(self.folder) as (_, transaction):
            cursor = transaction.cursor()
            if not cursor.set_key(self.first):
                message = f"{self.folder}: key {text_of(self.first)[0]} is gone; the database changed during the run"
                raise InputError(message)
            previous = self.first if self.skip else None
            for name, content in islice(cursor.iternext(keys=True, values=True), self.skip, self.skip + self.n):
                key, reason = text_of(bytes(name))
                if name == previous:
                    reason = DUPLICATE_KEY
                previous = name
                yield Item(key=key, reason=reason) if reason else Item(key=key, content=bytes(content))


@contextmanager
def _opened(folder: Path) -> Iterator[tuple["lmdb.Environment", "lmdb.Transaction"]]:
    """Open a database for reading without touching its folder: no lock file is written."""
    import lmdb

    file = folder / "data.mdb"
    if not is_there(file):
        message = f"{folder}: no data.mdb; expected the folder of an LSUN database, such as bedroom_train_lmdb"
        raise InputError(message)
    again = "unpack or download it again"
    try:
        # The kernel's reading ahead would fetch what other workers' ranges need and drop what this one does.
        with lmdb.open(os.fspath(folder), readonly=True, lock=False, readahead=False) as environment:
            # LMDB maps the file: reading past its end would kill the process, not raise.
            expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if file.stat().st_size < expected:
                message = f"{file}: cut short: {file.stat().st_size} bytes, its header asks for {expected}; {again}"
                raise InputError(message)
            with environment.begin() as transaction:
                yield environment, transaction
    except lmdb.Error as error:
        message = f"{file}: cannot be read as an LMDB database ({_cause(error, folder)}); {again}"
        raise InputError(message) from error


def _cause(error: Exception, folder: Path) -> str:
    return str(error).removeprefix(f"{folder}: ")


# Folders


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """``folder/CLASS/...``: the label is the class's place among the sorted names of the class folders.

    ``classes`` gives the names where another folder decides (a validation part takes those of its training part).
    """

    folder: Path
    classes: tuple[str, ...] | None = None

    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the class folders; a class without photos keeps its place.

        A hidden folder without photos, as programs leave them, is none: it would shift the labels of all classes after
        it, and no pin would notice.
        """
        found = tuple(
            sorted(
                os.fsdecode(entry.name)
                for entry in _listing(self.folder)
                if _is_folder(entry) and (not entry.name.startswith(b".") or _has_photos(self.folder, entry))
            )
        )
        if not found:
            message = f"{self.folder}: no class folders; expected {self.folder}/CLASS/*.JPEG"
            raise InputError(message)
        return found

    def chunks(self, limit: int | None = None) -> list["FileChunk"]:
        """Photos of the class folders and whatever lies below them."""
        names = self.class_names()
        classes = names if self.classes is None else self.classes
        unknown = sorted(set(names) - set(classes))
        if unknown:
            message = f"{self.folder}: class {unknown[0]} is not one of the {len(classes)} classes of the training part"
            raise InputError(message)
        labels = {os.fsencode(name): label for label, name in enumerate(classes)}
        photos = (
            (name, reason or ("" if b"/" in name else "not in a class folder")) for name, reason in _walk(self.folder)
        )
        return _file_chunks(self.folder, photos, limit, labels)


@dataclass(frozen=True, kw_only=True)
class PhotoFolder:
    """All photos below a folder; the key is the path relative to it. Files of other kinds are not listed."""

    folder: Path

    def chunks(self, limit: int | None = None) -> list["FileChunk"]:
        """All photos, or the first ``limit``."""
        return _file_chunks(self.folder, _walk(self.folder), limit)


@dataclass(frozen=True, kw_only=True)
class PhotoListing:
    """The photos that a table names, by paths relative to a folder, in the table's order."""

    folder: Path
    keys: tuple[str, ...]

    def chunks(self, limit: int | None = None) -> list["FileChunk"]:
        """All named photos, or the first ``limit``; a name given twice or leading out of the folder is rejected."""
        seen: set[str] = set()
        found: list[tuple[bytes, str]] = []
        escaped = self._escaped()
        for key in self.keys[:limit]:
            reason = NOT_UTF8 if key in escaped else ""
            if key in seen:
                reason = DUPLICATE_KEY
            elif "\0" in key or os.path.isabs(key) or ".." in Path(key).parts:  # noqa: PTH117 - a key, not yet a path
                reason = "leads out of the folder"
            seen.add(key)
            found.append((key.replace("\0", "\\0").encode("utf-8", "surrogateescape"), reason))
        return _file_chunks(self.folder, iter(found), None)

    def _escaped(self) -> set[str]:
        """Texts of the photos whose names are none: a table can hold no others, but no file is found by them."""
        if not any("\\x" in key for key in self.keys):
            return set()
        texts = [text_of(name) for name, _ in _walk(self.folder)]
        return {text for text, reason in texts if reason}


@dataclass(frozen=True, kw_only=True)
class FileChunk:
    """Files below a folder. ``names``: relative paths joined by NUL bytes, which take little memory."""

    folder: Path
    names: bytes
    n: int
    reasons: tuple[tuple[int, str], ...]  # (place in the chunk, why it is rejected unread)
    labels: tuple[tuple[bytes, int], ...]  # (class folder, label) of those in the chunk

    def items(self) -> Iterator[Item]:
        """Read the items; a file that cannot be read is one with a reason."""
        reasons, labels = dict(self.reasons), dict(self.labels)
        for place, name in enumerate(self.names.split(b"\0")):
            key, reason = text_of(name)
            reason = reasons.get(place, reason)
            content = None
            if not reason:
                content, reason = _read(os.path.join(os.fsencode(self.folder), name))  # noqa: PTH118 - bytes
            yield Item(key=key, label=labels.get(name.split(b"/")[0], NO_LABEL), content=content, reason=reason)


def _file_chunks(
    folder: Path, photos: Iterator[tuple[bytes, str]], limit: int | None, labels: dict[bytes, int] | None = None
) -> list[FileChunk]:
    listed = list(islice(photos, limit))
    size = chunk_size(len(listed))
    found = []
    for start in range(0, len(listed), size):
        part = listed[start : start + size]
        classes = sorted({name.split(b"/")[0] for name, _ in part}) if labels else []
        found.append(
            FileChunk(
                folder=folder,
                names=b"\0".join(name for name, _ in part),
                n=len(part),
                reasons=tuple((place, reason) for place, (_, reason) in enumerate(part) if reason),
                labels=tuple((name, labels[name]) for name in classes if labels and name in labels),
            )
        )
    return found


def _walk(folder: Path) -> Iterator[tuple[bytes, str]]:
    """Relative names of the photos, sorted as whole paths, with a reason where one is known already.

    Links to folders are followed, as data sets are often put together by links; one that leads to a folder above
    itself is reported, not entered.
    """
    _listing(folder)  # refuses what cannot be read
    return _below(folder, b"", _parents(folder))


def _has_photos(folder: Path, entry: "os.DirEntry[bytes]") -> bool:
    above = _parents(folder) | {_identity(folder.stat())}
    return _identity(entry.stat()) not in above and any(True for _ in _below(folder, entry.name + b"/", above))


def _parents(folder: Path) -> frozenset[tuple[int, int]]:
    return frozenset(_identity(parent.stat()) for parent in folder.resolve().parents)


def _below(folder: Path, inside: bytes, above: frozenset[tuple[int, int]]) -> Iterator[tuple[bytes, str]]:
    here = Path(os.fsdecode(os.path.join(os.fsencode(folder), inside)))  # noqa: PTH118 - bytes
    entries = _listing(here)
    above |= {_identity(here.stat())}
    folders = {entry.name for entry in entries if _is_folder(entry)}
    # "a/x" comes after "a-b/x": a folder sorts as its name and a slash.
    for entry in sorted(entries, key=lambda entry: entry.name + b"/" if entry.name in folders else entry.name):
        name = inside + entry.name
        if entry.name not in folders:
            if name.lower().endswith(tuple(suffix.encode() for suffix in PHOTO_SUFFIXES)):
                yield name, ""
        elif _identity(entry.stat()) in above:
            yield name, "link to a folder above it"
        else:
            yield from _below(folder, name + b"/", above)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _listing(folder: Path) -> list["os.DirEntry[bytes]"]:
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            return list(entries)
    except OSError as error:
        message = f"{folder}: the folder cannot be read ({error.strerror}); check its name and permissions"
        raise InputError(message) from error


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; reading it will say so
        return False


def _read(path: bytes) -> tuple[bytes | None, str]:
    """Content, or the reason why there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - bytes
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            return None, "not a file"
        if found.st_size > MOST_BYTES:
            return None, f"{found.st_size} bytes, at most {MOST_BYTES}"
        with open(path, "rb") as file:  # noqa: PTH123 - bytes
            return file.read(), ""
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"


# The ILSVRC training tar


@dataclass(frozen=True, kw_only=True)
class IlsvrcTar:
    """``ILSVRC2012_img_train.tar``: a tar of one tar a class. Read in place by offset, never unpacked.

    Keys and labels are those of the unpacked :class:`ImageFolder`; classes are sorted by name, photos as archived.
    """

    file: Path

    def class_names(self) -> tuple[str, ...]:
        """Sorted names of the classes."""
        return tuple(name for name, _, _ in self._inner())

    def chunks(self, limit: int | None = None) -> list["TarChunk"]:
        """Chunks of one class each; reads the headers of all photos, up to the limit."""
        found: list[TarChunk] = []
        left = limit
        with _opened_tar(self.file) as file:
            for label, (name, start, end) in enumerate(self._inner()):
                members = list(islice(_members(file, start, end), left))
                first_of = {m.name: m.offset_data for m in reversed(members)}
                left = None if left is None else left - len(members)
                for first in range(0, len(members), ITEMS_A_CHUNK // 4):
                    part = members[first : first + ITEMS_A_CHUNK // 4]
                    found.append(
                        TarChunk(
                            file=self.file,
                            label=label,
                            names=b"\0".join(f"{name}/{m.name}".encode("utf-8", "surrogateescape") for m in part),
                            places=array("q", [value for m in part for value in (m.offset_data, m.size)]).tobytes(),
                            n=len(part),
                            twice=tuple(k for k, m in enumerate(part) if first_of[m.name] != m.offset_data),
                        )
                    )
        return found

    def _inner(self) -> list[tuple[str, int, int]]:
        """(class, first byte, end) of each inner tar, sorted by class."""
        with _opened_tar(self.file) as file:
            inner = [
                (Path(member.name).stem, member.offset_data, member.offset_data + member.size)
                for member in _members(file, 0, self.file.stat().st_size)
                if member.name.endswith(".tar")
            ]
        if not inner:
            message = f"{self.file}: holds no class archives; expected nXXXXXXXX.tar for each class"
            raise InputError(message)
        inner.sort()
        twice = [name for (name, *_), (following, *_) in pairwise(inner) if name == following]
        if twice:
            message = f"{self.file}: holds the archive of class {twice[0]} twice; expected one of each class"
            raise InputError(message)
        return inner


@dataclass(frozen=True, kw_only=True)
class TarChunk:
    """Photos of one class. ``places``: offset and size of each, as int64; ``twice``: those named as an earlier one."""

    file: Path
    label: int
    names: bytes
    places: bytes
    n: int
    twice: tuple[int, ...]

    def items(self) -> Iterator[Item]:
        """Read the items."""
        places = array("q")
        places.frombytes(self.places)
        photos = zip(self.names.split(b"\0"), places[::2], places[1::2], strict=True)
        with _opened_tar(self.file) as file:
            for number, (name, offset, size) in enumerate(photos):
                key, reason = text_of(name)
                reason = DUPLICATE_KEY if number in self.twice else reason
                if reason:
                    yield Item(key=key, label=self.label, reason=reason)
                    continue
                file.seek(offset)
                yield Item(key=key, label=self.label, content=file.read(size))


@contextmanager
def _opened_tar(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except (tarfile.TarError, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        message = f"{path}: cannot be read as a tar archive ({cause}); download it again"
        raise InputError(message) from error


def _members(file: IO[bytes], start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """Headers of the files of the tar archive that lies at [start, end) of the file."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.offset >= end:  # an inner archive without its closing zeros: this header is the outer one's
                return
            if member.offset_data + member.size > end:
                message = "unexpected end of data"
                raise tarfile.ReadError(message)
            if member.isfile():
                yield member
        # The module takes a damaged header for the end.
        file.seek(archive.offset)
        if file.read(min(tarfile.BLOCKSIZE, end - archive.offset)).strip(b"\0"):
            message = f"damaged header at byte {archive.offset}"
            raise tarfile.ReadError(message)
