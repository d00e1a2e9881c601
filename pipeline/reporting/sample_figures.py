"""Generated images at fixed z during training: after the first epoch and after the last."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.images import grid
from pipeline.reporting.drawing import Drawn, Metrics, empty
from pipeline.reporting.rows import NOT_RUN

if TYPE_CHECKING:
    from PIL.Image import Image

RUNS = ("dcgan_lsun", "dcgan_faces", "dcgan_imagenet", "dcgan_cifar10", "dcgan_svhn")
SQUARE = 5  # images a side; more would not fit a file of 500 KB if they were noise
SHOWN_PX = 128  # side of an image in the picture, if it is a multiple of the image's
GAP_PX, MARGIN_PX, TITLE_PX = 2, 20, 40
# The palette: the images' colours, then greys for paper and titles, which take none of them away.
N_GREYS = 8
N_COLOURS = 256 - N_GREYS
WHITE = 255
NUMBERS = ("run", "n_epochs", "first_epoch", "last_epoch", "n_images", "side_px", "scale", "n_colours")


def samples(results: Path, *, run: str) -> Drawn:
    """DCGAN, Figures 2 and 3 and their like: images of one z after the first epoch (left) and after the last (right).

    One pixel of an image is a square of ``scale`` x ``scale`` pixels, its colour one of a palette that is fitted to
    the shown images.
    """
    path = results / f"{run}.npz"
    images, epochs = _read(path) if path.is_file() else (np.empty((0,)), np.empty((0,)))
    if not len(epochs):
        return empty(NOT_RUN, NUMBERS)
    at = sorted({0, len(epochs) - 1})  # one square if there was one epoch
    shown = images[at, : SQUARE**2]
    n_images, side_px = shown.shape[1:3]
    scale = max(1, SHOWN_PX // side_px)
    indices, colours = _reduced(shown)
    titles = [f"{run} after epoch {epochs[i]}{' (last)' if i == len(epochs) - 1 else ''}" for i in at]
    panels = [_panel(title, _square(one, scale)) for title, one in zip(titles, indices, strict=True)]
    row = (run, len(epochs), int(epochs[0]), int(epochs[-1]), n_images, side_px, scale, len(colours))
    numbers = pd.DataFrame([row], columns=list(NUMBERS))
    metrics: Metrics = dict(zip(NUMBERS[1:], row[1:], strict=True))
    return Drawn(figure=_picture(np.hstack(panels), colours), metrics=metrics, numbers=numbers)


def _reduced(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (..., H, W, 3) -> uint8 (..., H, W) into the colours, and these: uint8 (n, 3), n at most 248.

    Maximum coverage keeps rare colours, one round of k-means brings the frequent ones near; nothing is dithered.
    """
    from PIL import Image

    strip = Image.fromarray(np.ascontiguousarray(images).reshape(-1, images.shape[-2], 3))
    palette = strip.quantize(N_COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    return np.asarray(palette).reshape(images.shape[:-1]), colours[: int(np.asarray(palette).max()) + 1]


def _square(indices: np.ndarray, scale: int) -> np.ndarray:
    """uint8 (N, H, W) -> one sheet (H', W'), enlarged by repetition and filled up with white."""
    missing = np.full((SQUARE**2 - len(indices), *indices.shape[1:]), WHITE, dtype=np.uint8)
    large = np.concatenate([indices, missing]).repeat(scale, axis=1).repeat(scale, axis=2)
    return grid(large[..., np.newaxis], rows=SQUARE, columns=SQUARE, gap_px=GAP_PX, fill=WHITE)[..., 0]


def _panel(title: str, square: np.ndarray) -> np.ndarray:
    """The title over the square, with a margin on every side."""
    height, width = square.shape
    panel = np.full((TITLE_PX + height + MARGIN_PX, width + 2 * MARGIN_PX), WHITE, dtype=np.uint8)
    panel[:TITLE_PX] = _written(title, panel.shape[1])
    panel[TITLE_PX : TITLE_PX + height, MARGIN_PX : MARGIN_PX + width] = square
    return panel


def _written(title: str, width: int) -> np.ndarray:
    """A strip of text as indices of the greys."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("L", (width, TITLE_PX), 255)
    font = ImageFont.load_default(20)  # Pillow's own, the same everywhere
    ImageDraw.Draw(strip).text((width / 2, TITLE_PX / 2), title, fill=0, font=font, anchor="mm")
    return (N_COLOURS + np.rint(np.asarray(strip) / 255 * (N_GREYS - 1))).astype(np.uint8)


def _picture(indices: np.ndarray, colours: np.ndarray) -> "Image":
    from PIL import Image

    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = colours
    palette[N_COLOURS:] = np.linspace(0, 255, N_GREYS).round()[:, np.newaxis]
    picture = Image.fromarray(np.ascontiguousarray(indices)).convert("L")
    picture.putpalette(palette.tobytes())
    return picture


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 (n_epochs, n_images, H, W, 3) and epochs int64 (n_epochs,), ascending; none of released networks."""
    with np.load(path, allow_pickle=False) as content:
        found: dict[str, Any] = {name: content[name] for name in content.files}
    images, epochs = found.get("images"), found.get("epochs")
    if images is None or epochs is None or images.ndim != 5 or images.shape[-1] != 3 or len(images) != len(epochs):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(found.items())) or "nothing"
        message = (
            f"{path}: found {shapes}; expected images (n_epochs, n_images, H, W, 3) and epochs (n_epochs,); retrain"
        )
        raise InputError(message)
    return images, epochs
