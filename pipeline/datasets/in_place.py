"""Large data sets are left where they are: a raw folder then holds only ``in_place.json``, which names and pins them.

What is pinned is the number of images and the sha256 of the listing: one line ``key NUL sha256-of-content LF`` per
image, in the order of the keys. So a changed, added, missing or renamed image is found, and the file of pins is all
that DVC has to hash.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.gan_data import data_folder
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.datasets.archives import Archive, Chunk, IlsvrcTar, ImageFolder, LmdbImages, PhotoFolder, is_there
from pipeline.datasets.workers import parallel

RECORD = "in_place.json"
ILSVRC_TRAIN_MD5 = "1d675b47d978889d74fa0da5fadfb00e"  # of ILSVRC2012_img_train.tar, as torchvision checks it

Layout = Literal["lmdb", "image_folder", "photos", "ilsvrc_tar"]

AGAIN = "restore the data, or take what is there on purpose: dvc repro --force --single-item on the fetch stage"
HOW_TO_GET = {
    "celeba": "unpack img_align_celeba.zip of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html there",
    "lsun": "download it with download.py of https://github.com/fyu/lsun and unpack it there",
    "imagenet": "it needs a login: https://image-net.org/download-images (ILSVRC2012, training images)",
}


@section
class Pin:
    """What counts as the set.

    ``sha256`` of the listing; None = the official set, whose listing nobody here could compute: then only the number of
    images is checked (of the ILSVRC tar also its published md5), and the listing found goes into ``in_place.json``.
    """

    n_images: Annotated[int, Ge(1)]
    sha256: Annotated[str, Len(64, 64)] | None


@section
class PinnedPart:
    """One folder or file of a data set: how it is laid out, and its pin."""

    layout: Layout
    pin: Pin


@section
class InPlace:
    """``folder`` below GAN_DATA, and its parts by path below that (``.``: the folder itself).

    ``tables`` are files of truth beside the parts, by path, each with its sha256.
    """

    folder: str
    tables: dict[str, str]
    parts: Annotated[dict[str, PinnedPart], Len(min_length=1)]


def fetch_in_place(out: Path, source: InPlace, add: Callable[[Path, Path], None] | None = None) -> None:
    """Check the folder below GAN_DATA against its pins and write ``in_place.json`` to the folder ``out``.

    Parameters
    ----------
    add : called with the folder below GAN_DATA and the folder being written, to put tables of truth beside the pins

    Raises
    ------
    InputError
        If GAN_DATA is not set, something is missing or unreadable, or is not what the params pin.
    """
    how = how_to_get(source)
    folder = _folder(source.folder, how)
    for name, expected in source.tables.items():
        _check_table(folder / name, expected)
    archives: dict[str, Archive] = {}
    for name, part in source.parts.items():
        _present(folder / name, part.layout, how)
        archives[name] = open_archive(folder / name, part.layout)
    found: dict[str, Any] = {}
    for name, part in source.parts.items():
        chunks = archives[name].chunks()
        n_images = sum(chunk.n for chunk in chunks)
        where = folder / name
        if n_images != part.pin.n_images:
            message = (
                f"{where}: {n_images} images, the params pin {part.pin.n_images}: "
                "not what counts as the set; complete it, or pin the new set in the params on purpose"
            )
            raise InputError(message)
        record: dict[str, Any] = {"layout": part.layout, "n_images": n_images}
        if part.layout == "ilsvrc_tar" and part.pin.sha256 is None:
            record["md5"] = _check_md5(where)
        else:
            record["sha256"] = listing_sha256(chunks)
            check_listing(where, record["sha256"], part.pin.sha256)
        found[name] = record
    with whole_directory(out) as partial:
        text = json.dumps({"folder": source.folder, "parts": found}, indent=2) + "\n"
        (partial / RECORD).write_text(text, encoding="utf-8", newline="\n")
        if add is not None:
            add(folder, partial)


def open_archive(path: Path, layout: str) -> Archive:
    """The reader of a layout."""
    match layout:
        case "lmdb":
            return LmdbImages(folder=path)
        case "image_folder":
            return ImageFolder(folder=path)
        case "photos":
            return PhotoFolder(folder=path)
        case "ilsvrc_tar":
            return IlsvrcTar(file=path)
    message = f"{path}: layout '{layout}' is unknown; expected lmdb, image_folder, photos or ilsvrc_tar"
    raise InputError(message)


def content_folder(raw: Path) -> Path:
    """Where the bytes of a raw folder are: itself, or what its ``in_place.json`` names below GAN_DATA.

    Raises
    ------
    InputError
        If GAN_DATA is not set or the folder is missing.
    """
    record = read_record(raw)
    return raw if record is None else _folder(record["folder"], "restore it")


def read_record(raw: Path) -> dict[str, Any] | None:
    """``{"folder", "parts": {path: {"layout", "n_images", "sha256" or "md5"}}}``; None: the bytes are in raw."""
    file = raw / RECORD
    if not file.is_file():
        if not raw.is_dir():
            message = f"{raw}: no such folder; run dvc repro, which fetches it"
            raise InputError(message)
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record["folder"], str) and isinstance(record["parts"], dict):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    message = f"{file}: not a record of data left in place; remove {raw} and run dvc repro"
    raise InputError(message)


def pins(raw: Path) -> dict[str, Pin]:
    """What ``in_place.json`` holds, by part; empty when the bytes are in raw."""
    record = read_record(raw) or {"parts": {}}
    return {
        name: Pin(n_images=part["n_images"], sha256=part.get("sha256"))
        for name, part in sorted(record["parts"].items())
    }


def check_pins(raw: Path) -> None:
    """Read all that was left in place again and compare it with its pins.

    Raises
    ------
    InputError
        If an image was changed, added, removed or renamed since the fetch.
    """
    record = read_record(raw) or {"parts": {}}
    for name, pin in pins(raw).items():
        where = content_folder(raw) / name
        chunks = open_archive(where, record["parts"][name]["layout"]).chunks()
        n_images = sum(chunk.n for chunk in chunks)
        if n_images != pin.n_images:
            message = f"{where}: {n_images} images, {raw} pins {pin.n_images}; {AGAIN}"
            raise InputError(message)
        check_listing(where, listing_sha256(chunks), pin.sha256)


def listing_line(key: str, content_sha256: str) -> bytes:
    """One line of the listing; keys of names that are not UTF-8 are escaped already."""
    return f"{key}\0{content_sha256}\n".encode()


def listing_sha256(chunks: Sequence[Chunk]) -> str:
    """sha256 of the listing, read by several workers."""
    digest = hashlib.sha256()
    with Progress("hashing", total=sum(chunk.n for chunk in chunks), unit="images") as progress:
        for chunk, lines in zip(chunks, parallel(_listing_of, chunks), strict=True):
            digest.update(lines)
            progress.advance(chunk.n)
    return digest.hexdigest()


def _listing_of(chunk: Chunk) -> bytes:
    return b"".join(listing_line(item.key, content_sha256(item.content)) for item in chunk.items())


def content_sha256(content: bytes | None) -> str:
    """Hex digest of an image's bytes; a word for what could not be read, so that it differs from any pin."""
    return "unreadable" if content is None else hashlib.sha256(content).hexdigest()


def check_listing(where: Path, found: str, pinned: str | None) -> None:
    """Refuse a listing that is not the pinned one."""
    if pinned is not None and found != pinned:
        message = (
            f"{where}: sha256 of the listing of keys and contents is {found}, pinned is {pinned}: "
            "not what counts as the set; restore it, or pin the new set in the params on purpose"
        )
        raise InputError(message)


def _check_table(file: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        message = f"{file}: cannot be read ({error.strerror}); it holds the truth that comes with the images"
        raise InputError(message) from error
    if found != expected:
        message = (
            f"{file}: its sha256 is {found}, params pin {expected}: not the truth that counts; "
            "restore it, or pin the new one in the params on purpose"
        )
        raise InputError(message)


def _check_md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    size = file.stat().st_size
    with file.open("rb") as opened, Progress(f"md5 of {file.name}", total=size >> 20, unit="MiB") as progress:
        while block := opened.read(1 << 23):
            digest.update(block)
            progress.advance(len(block) >> 20)
    if digest.hexdigest() != ILSVRC_TRAIN_MD5:
        message = f"{file}: md5 is {digest.hexdigest()}, the official archive has {ILSVRC_TRAIN_MD5}; download it again"
        raise InputError(message)
    return digest.hexdigest()


def _folder(name: str, how: str) -> Path:
    root = data_folder()
    if root is None:
        message = (
            f"$GAN_DATA/{name}: not there, because GAN_DATA is not set; set it to the folder that holds {name}/; {how}"
        )
        raise InputError(message)
    if not is_there(root / name, folder=True):
        message = f"{root / name}: no such folder (GAN_DATA is {root}); {how}"
        raise InputError(message)
    return root / name


def _present(path: Path, layout: Layout, how: str) -> None:
    if layout == "ilsvrc_tar":
        if not is_there(path):
            message = f"{path}: no such file; {how}"
            raise InputError(message)
    elif not is_there(path, folder=True):
        message = f"{path}: no such folder; {how}"
        raise InputError(message)


def how_to_get(source: InPlace) -> str:
    """What to do where a part is missing: the way to the public set, unless the params pin another one."""
    own = [part.pin.n_images for part in source.parts.values() if part.pin.sha256 is not None]
    if own:
        return (
            f"the params pin {sum(own):,} images that are not the public set: put those there, or pin yours "
            "(docs/assembly.md)"
        )
    return HOW_TO_GET.get(source.folder.partition("/")[0], "put it there")
