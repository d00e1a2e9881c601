"""Generated images at fixed z during training: after the first epoch and after the last."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.store import read_arrays
from pipeline.reporting import mosaic
from pipeline.reporting.drawing import Drawn, Metrics, empty
from pipeline.reporting.rows import NOT_RUN

RUNS = ("dcgan_lsun", "dcgan_faces", "dcgan_imagenet", "dcgan_cifar10", "dcgan_svhn", "imagenet128_dcgan")
SQUARE = 5  # images a side; more would not fit a file of 500 KB if they were noise
SHOWN_PX = 128  # side of an image in the picture, if it is a multiple of the image's
LARGEST_PX = 64  # side of images to whose own pixels a palette is fitted
MARGIN_PX, TITLE_PX = 20, 40
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
    titles = [f"{run} after epoch {epochs[i]}{' (last)' if i == len(epochs) - 1 else ''}" for i in at]

    def layout(scale: float) -> mosaic.Canvas:
        return mosaic.beside(*(_panel(title, one, scale) for title, one in zip(titles, shown, strict=True)))

    # of large images the palette is fitted to the picture, as it would take a minute on all of their pixels
    made = mosaic.fitted(layout, scale=scale, fit_to=shown if side_px <= LARGEST_PX else None)
    row = (run, len(epochs), int(epochs[0]), int(epochs[-1]), n_images, side_px, made.scale, made.n_colours)
    numbers = pd.DataFrame([row], columns=list(NUMBERS))
    metrics: Metrics = dict(zip(NUMBERS[1:], row[1:], strict=True))
    return Drawn(figure=made.picture, metrics=metrics, numbers=numbers)


def _panel(title: str, images: np.ndarray, scale: float) -> mosaic.Canvas:
    """The title over the square, with a margin on every side."""
    square = mosaic.tiles(images, columns=SQUARE, rows=SQUARE, scale=scale)
    strip = mosaic.words(title, width=square.shape[1] + 2 * MARGIN_PX, height=TITLE_PX, size=20)
    return mosaic.below(strip, mosaic.framed(square, right=MARGIN_PX, bottom=MARGIN_PX, left=MARGIN_PX))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 (n_epochs, n_images, H, W, 3) and epochs int64 (n_epochs,), ascending; none of released networks."""
    found = read_arrays(path)
    images, epochs = found.get("images"), found.get("epochs")
    if images is None or epochs is None or images.ndim != 5 or images.shape[-1] != 3 or len(images) != len(epochs):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(found.items())) or "nothing"
        message = (
            f"{path}: found {shapes}; expected images (n_epochs, n_images, H, W, 3) and epochs (n_epochs,); retrain"
        )
        raise InputError(message)
    return images, epochs
