"""Encoded photographs to RGB: the one place that decodes, resizes and crops, and that says why an image is refused.

Pillow judges: OpenCV fills the missing part of a truncated JPEG with grey and says nothing. Where the markers of a JPEG
prove it whole, OpenCV decodes it, because it gives the same pixels in half the time (the tests compare them); likewise
plain WebP, which OpenCV refuses if it is cut. OpenCV also shrinks by area: Pillow's box filter takes whole pixels only.
"""

import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge

from pipeline.core.params import section

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # EXIF tag
BOX_SUFFIXES = ("_x1", "_y1", "_x2", "_y2")


@section
class Decoding:
    """What is refused before it is decoded: ``decoding`` in the params of every stage that reads photographs."""

    max_pixels: Annotated[int, Ge(1)]
    max_aspect_ratio: Annotated[float, Ge(1)]


class Rejected(Exception):  # noqa: N818 - a verdict on one input, not an error of the run
    """The image is left out; the text is the short reason that ``rejects.parquet`` holds."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One photograph, upright.

    Attributes
    ----------
    rgb : uint8 array, shape (height', width', 3); smaller than the source if reduced decoding was allowed
    width, height : size of the source image in pixels, upright
    """

    rgb: np.ndarray
    width: int
    height: int


def decode(content: bytes, limits: Decoding, at_least: int | None = None) -> Decoded:
    """Decode a JPEG, PNG or WebP image; the content decides, not the name.

    Grey, 1-bit, palette, CMYK and YCCK images become RGB by Pillow's plain formulas (colour profiles are not applied);
    what is transparent is laid on white. EXIF orientation is applied.

    Parameters
    ----------
    at_least : the short side in pixels that the caller shrinks to. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its
        size, as long as its short side stays at least twice that: the area filter has still two pixels or more to
        average. None decodes in full.

    Raises
    ------
    Rejected
        With a reason that depends on the content only.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as on damaged EXIF or a palette's transparency: none concerns the pixels
        try:
            return _decode(content, limits, at_least)
        except (Rejected, MemoryError):
            raise
        except Exception as error:  # damaged bytes make the parsers fail in any way
            # Pillow's texts can hold an object's address, which differs from run to run.
            text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error) or type(error).__name__)
            reason = f"truncated or damaged: {' '.join(text.split())[:120]}"
            raise Rejected(reason) from error


def _decode(content: bytes, limits: Decoding, at_least: int | None) -> Decoded:
    if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8 " and (size := _webp_size(content)):
        _check_size(*size, limits)
        rgb = _by_opencv(content, 1)  # this kind has neither alpha, frames nor EXIF
        if rgb is not None and rgb.shape[1::-1] == size:
            return Decoded(rgb=rgb, width=size[0], height=size[1])
    image = _open(content, limits)
    if getattr(image, "n_frames", 1) > 1:
        reason = f"animated ({getattr(image, 'n_frames', 1)} frames)"
        raise Rejected(reason)
    if image.format == "PNG" and content[24] == 16:  # Pillow would cut 16-bit RGB down to 8 bits without a word
        reason = "16-bit image"
        raise Rejected(reason)
    width, height = image.size
    rgb = None
    if image.format == "JPEG":
        # The smallest size whose sides are still at least twice the target.
        scale = next((scale for scale in (8, 4, 2) if at_least and min(width, height) // (2 * at_least) >= scale), 1)
        if image.mode in ("RGB", "L") and is_whole_jpeg(content):
            rgb = _by_opencv(content, scale)
        if rgb is None:
            image.draft(None, (width // scale, height // scale))
            rgb = np.asarray(_to_rgb(image))
        # Unless the scale divides the size, the last pixel is partly padding: cut at the nearest whole pixel.
        rgb = rgb[: int(height / scale + 0.5), : int(width / scale + 0.5)]
    else:
        rgb = np.asarray(_to_rgb(image))
    orientation = _orientation(image)
    rgb = upright(rgb, orientation)
    if orientation >= 5:
        width, height = height, width
    return Decoded(rgb=rgb, width=width, height=height)


def _open(content: bytes, limits: Decoding) -> "Image.Image":
    """Parse the header only. The classes are called directly: ``Image.open`` brings its own limit of pixels."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    if not content:
        reason = "empty file"
        raise Rejected(reason)
    if content.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(io.BytesIO(content))  # of a multi-picture file (MPO) the first
        _check_size(*image.size, limits)
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        image = PngImageFile(io.BytesIO(content))
        _check_size(*image.size, limits)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        size = _webp_size(content)
        if size is not None:
            _check_size(*size, limits)  # before Pillow allocates two canvases
        image = WebPImageFile(io.BytesIO(content))
        _check_size(*image.size, limits)
    else:
        reason = "not a JPEG, PNG or WebP image"
        raise Rejected(reason)
    return image


_WITHIN_A_SCAN = frozenset({0x00, 0xFF, *range(0xD0, 0xD8)})  # after FF: a stuffed zero, fill bytes, restart markers


def is_whole_jpeg(content: bytes) -> bool:
    """Whether the markers lead from the start to the end-of-image marker, through all scans.

    A thumbnail's own end marker inside a segment does not count, nor do bytes after the image.
    """
    place = 2
    try:
        while True:
            if content[place] != 0xFF:
                return False
            marker = content[place + 1]
            if marker == 0xD9:  # end of image
                return True
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            if marker == 0xDA:  # start of a scan: its data end at the next marker that is no restart
                while True:
                    place = content.find(b"\xff", place)
                    if place < 0:
                        return False
                    following = content[place + 1]
                    if following not in _WITHIN_A_SCAN:
                        break
                    place += 1 if following == 0xFF else 2
    except IndexError:
        return False


def _by_opencv(content: bytes, scale: int) -> np.ndarray | None:
    """RGB, a JPEG at 1/scale of its size and not turned; None where OpenCV cannot decode it."""
    import cv2

    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}.get(
        scale, cv2.IMREAD_REDUCED_COLOR_8
    )
    try:
        bgr = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height from the first chunk, or None if it is none of the three kinds."""
    kind, body = content[12:16], content[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _check_size(width: int, height: int, limits: Decoding) -> None:
    if not width or not height:
        reason = f"no pixels ({width} x {height})"
        raise Rejected(reason)
    if width * height > limits.max_pixels:
        reason = f"{width * height} pixels, at most {limits.max_pixels}"
        raise Rejected(reason)
    ratio = max(width, height) / min(width, height)
    if ratio > limits.max_aspect_ratio:
        reason = f"aspect ratio {ratio:.1f}, at most {limits.max_aspect_ratio:g}"
        raise Rejected(reason)


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: "Image.Image") -> int:
    try:
        orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a photograph whose EXIF is damaged is still a good photograph
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror an array (H, W, C) as its EXIF orientation 1..8 asks."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """How a source image maps to its center crop: resized to width x height, then cut at (left, top)."""

    size: int
    source_width: int
    source_height: int
    width: int
    height: int
    left: int
    top: int


def crop_geometry(width: int, height: int, size: int) -> Crop:
    """Geometry of "shorter side to ``size``, then center crop": the longer side rounds half up, the offset down."""
    short = min(width, height)
    new_width, new_height = (max(size, (2 * side * size + short) // (2 * short)) for side in (width, height))
    return Crop(
        size=size,
        source_width=width,
        source_height=height,
        width=new_width,
        height=new_height,
        left=(new_width - size) // 2,
        top=(new_height - size) // 2,
    )


def resize_and_crop(rgb: np.ndarray, size: int, crop: Crop | None = None) -> np.ndarray:
    """Shorter side to ``size`` by area interpolation, then center crop (DCGAN: "min-resized center crops").

    Parameters
    ----------
    rgb : uint8 array, shape (H, W, C)
    crop : geometry of the source, where ``rgb`` was decoded at reduced size; its rounding then does not matter

    Returns
    -------
    uint8 array, shape (size, size, C)
    """
    import cv2

    crop = crop or crop_geometry(rgb.shape[1], rgb.shape[0], size)
    if rgb.shape[:2] != (crop.height, crop.width):
        rgb = cv2.resize(rgb, (crop.width, crop.height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(rgb[crop.top : crop.top + size, crop.left : crop.left + size])


def transform_boxes(boxes: np.ndarray, crop: Crop) -> np.ndarray:
    """Boxes in source pixels -> boxes in pixels of the crop.

    Parameters
    ----------
    boxes : float array, shape (n, 4): x1, y1, x2, y2, edges counted from the upper left corner; NaN = no box

    Returns
    -------
    float32 array, shape (n, 4), within [0, size]; NaN where there was no box or nothing of it is left
    """
    scale = np.array([crop.width / crop.source_width, crop.height / crop.source_height] * 2)
    offset = np.array([crop.left, crop.top] * 2)
    moved = np.clip(np.asarray(boxes, dtype=np.float64) * scale - offset, 0, crop.size)
    gone = ~((moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1]))  # NaN compares false
    moved[gone] = np.nan
    return moved.astype(np.float32)
