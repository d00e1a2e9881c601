"""Contact sheets: many images on one picture, for the eye."""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.images import grid
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet

SHEET_COLUMNS = 10
MOST_BYTES = 480_000  # a picture in Git stays under 500 KB
SIDES = (64, 56, 48, 40, 32, 28, 24)  # pixels; the largest that fits is taken


@section
class Sheet:
    """``sheet``: how many images a contact sheet shows, and the seed that picks them."""

    seed: int
    n_images: Annotated[int, Ge(1)]


def random_images(image_set: ImageSet, sheet: Sheet) -> np.ndarray:
    """uint8 (n, H, W, C): images of all splits, drawn by seed without replacement, in the order of the set."""
    n_images = min(sheet.n_images, len(image_set.images))
    rows = numpy_stream(sheet.seed, "sheet").choice(len(image_set.images), n_images, replace=False)
    return np.stack([image_set.images[row] for row in np.sort(rows)])


def contact_sheet(images: np.ndarray, *, columns: int = SHEET_COLUMNS) -> np.ndarray:
    """Lay uint8 images (N, H, W, C) out row by row; a last row that is not full is filled up with white."""
    missing = -len(images) % columns if len(images) else columns  # an empty sheet is a white row
    white = np.full((missing, *images.shape[1:]), 255, dtype=np.uint8)
    return grid(np.concatenate([images, white]), rows=(len(images) + missing) // columns, columns=columns, gap_px=2)


def save_sheet(out: Path, images: np.ndarray, *, columns: int = SHEET_COLUMNS) -> None:
    """Write a contact sheet as PNG, its images made smaller until the file has at most ``MOST_BYTES``."""
    sheets = (_png(contact_sheet(_shrunk(images, side), columns=columns)) for side in SIDES)
    png = next((png for png in sheets if len(png) <= MOST_BYTES), None)
    if png is None:
        message = f"{out}: {len(images)} images do not fit a picture of {MOST_BYTES:,} bytes; lower sheet.n_images"
        raise InputError(message)
    with whole_file(out) as partial:
        partial.write_bytes(png)


def _shrunk(images: np.ndarray, side: int) -> np.ndarray:
    if images.shape[1] <= side:
        return images
    import cv2

    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).reshape(len(images), side, side, images.shape[3])  # OpenCV drops a single channel


def _png(sheet: np.ndarray) -> bytes:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet).save(content, format="PNG", optimize=True)
    return content.getvalue()
