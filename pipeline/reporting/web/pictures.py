"""Pictures as part of a page: data URIs that together stay within a number of characters."""

import base64
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGET = 14_400_000  # characters of all pictures, so that a page stays below 15 MB
TYPES = {".png": "image/png", ".webp": "image/webp"}
LOSSY_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, as it goes into a page.

    Attributes
    ----------
    still : its first image as PNG, if it moves: for readers who asked for less motion
    lossy : whether it had to be compressed with loss
    """

    name: str
    kind: str
    content: bytes
    width: int
    height: int
    still: bytes | None = None
    lossy: bool = False

    @property
    def uri(self) -> str:
        """The picture itself, as an address."""
        return _uri(self.kind, self.content)

    @property
    def still_uri(self) -> str:
        """Its first image, empty if it does not move."""
        return "" if self.still is None else _uri("image/png", self.still)

    @property
    def characters(self) -> int:
        """Length of what it adds to a page."""
        return sum(4 * -(-len(content) // 3) for content in (self.content, self.still or b""))


def in_folders(*folders: Path) -> dict[str, Path]:
    """``figures/x.png`` -> where it lies, of all pictures in folders; one that does not exist holds none."""
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {f"{path.parent.name}/{path.name}": path for path in sorted(found) if path.suffix in TYPES}


def read(paths: dict[str, Path], *, budget: int = BUDGET) -> dict[str, Picture]:
    """Read pictures; if they are too long for a page together, the largest are compressed until they fit.

    First without loss (the pixels stay), and only if that is not enough with it. One that moves stays as it is.

    Parameters
    ----------
    paths : link -> file, PNG or WebP
    budget : characters of all data URIs together

    Raises
    ------
    InputError
        If a file is no whole picture, or all of them do not fit even so.
    """
    found = {link: _read(link, path) for link, path in paths.items()}
    for quality in (None, LOSSY_QUALITY):
        for link in sorted(found, key=lambda link: (-found[link].characters, link)):
            if _characters(found) <= budget:
                return found
            if found[link].still is None:
                found[link] = _compressed(found[link], quality)
    if _characters(found) > budget:
        message = (
            f"{len(found)} pictures take {_characters(found):,} characters of a page, at most {budget:,} are allowed, "
            "even compressed; make the figures or contact sheets smaller"
        )
        raise InputError(message)
    return found


def _characters(pictures: dict[str, Picture]) -> int:
    return sum(picture.characters for picture in pictures.values())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _read(link: str, path: Path) -> Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            image.load()  # a file that is cut short is an error here, and not in the reader's browser
            moves = getattr(image, "n_frames", 1) > 1
            width, height = image.size
            still = _encoded(image.convert("RGB"), "PNG", optimize=True) if moves else None
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        message = f"{path}: not a whole picture ({error}); remove it and run dvc repro report"
        raise InputError(message) from error
    kind = TYPES[path.suffix]
    return Picture(name=link, kind=kind, content=content, width=width, height=height, still=still)


def _compressed(picture: Picture, quality: int | None) -> Picture:
    """As WebP, without loss if there is no ``quality``; as it is, if that is no shorter."""
    from PIL import Image

    with Image.open(BytesIO(picture.content)) as image:
        pixels = image.convert("RGBA" if _is_transparent(image) else "RGB")
    # effort 2 of 6 and 50 of 100: a tenth of the time for a few per cent of the length
    options = {"lossless": True, "method": 2, "quality": 50, "exact": True} if quality is None else {"quality": quality}
    content = _encoded(pixels, "WEBP", **options)
    if len(content) >= len(picture.content):
        return picture
    return replace(picture, kind="image/webp", content=content, lossy=picture.lossy or quality is not None)


def _is_transparent(image: "Image") -> bool:
    if image.mode == "RGBA":
        return image.getchannel("A").getextrema() != (255, 255)
    return image.has_transparency_data


def _encoded(image: "Image", kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
