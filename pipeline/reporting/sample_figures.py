"""Generated images at fixed z during training: after the first epoch and after the last."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.images import grid
from pipeline.reporting import drawing
from pipeline.reporting.drawing import Drawn, canvas
from pipeline.reporting.probe_figures import not_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUNS = ("dcgan_lsun", "dcgan_faces", "dcgan_imagenet", "dcgan_cifar10", "dcgan_svhn")
SIDE_IMAGES = 5  # of the square of images
MOST_BYTES = 480_000  # a picture in Git stays under 500 KB
# pixels of an image and colours of a square, until the file is small enough: generated images compress badly
SIZES = ((64, 256), (64, 64), (48, 48), (40, 32), (32, 32), (32, 16), (24, 16), (16, 8))
NUMBERS = ("run", "n_epochs", "first_epoch", "last_epoch", "n_images", "side_px")


def training_samples(results: Path) -> Drawn:
    """DCGAN, Figures 2 and 3 and their like: images of one z after the first and the last epoch, a row a run."""
    found = {name: _read(path) for name in RUNS if (path := results / f"{name}.npz").is_file()}
    samples = {name: (images, epochs) for name, (images, epochs) in found.items() if len(epochs)}
    if not samples:
        return not_run(NUMBERS)
    rows = [
        (name, len(epochs), int(epochs[0]), int(epochs[-1]), images.shape[1], images.shape[2])
        for name, (images, epochs) in samples.items()
    ]
    numbers = pd.DataFrame(rows, columns=list(NUMBERS))
    metrics = {row["run"]: {name: row[name] for name in NUMBERS[1:]} for row in numbers.to_dict("records")}
    figures = (_draw(samples, side_px, colours) for side_px, colours in SIZES)
    figure = next((figure for figure in figures if _size(figure) <= MOST_BYTES), None)
    assert figure is not None, "the last size holds five runs of noise"
    return Drawn(figure=figure, metrics=metrics, numbers=numbers)


def _draw(samples: dict[str, tuple[np.ndarray, np.ndarray]], side_px: int, colours: int) -> "Figure":
    figure, axes = canvas(rows=len(samples), columns=2, size=(6.4, 3.2 * len(samples)))
    for row, (name, (images, epochs)) in enumerate(samples.items()):
        shown = {int(epochs[at]): images[at] for at in (0, -1)}  # one if there was one epoch
        for axis in axes[2 * row : 2 * row + 2]:
            axis.set_axis_off()
        for axis, (epoch, square) in zip(axes[2 * row :], shown.items(), strict=False):
            axis.imshow(_reduced(_square(square, side_px), colours), interpolation="nearest", vmin=0, vmax=255)
            last = " (last)" if epoch == epochs[-1] else ""
            axis.set_title(f"{name} after epoch {epoch}{last}", fontsize=9)
    return figure


def _square(images: np.ndarray, side_px: int) -> np.ndarray:
    """The first 25 of uint8 (N, H, W, 3), filled up with white, none larger than ``side_px``."""
    import cv2

    n_images, side = SIDE_IMAGES**2, min(side_px, images.shape[1])
    first = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images[:n_images]]
    white = [np.full((side, side, 3), 255, dtype=np.uint8)] * (n_images - len(first))
    return grid(np.stack([*first, *white]), rows=SIDE_IMAGES, columns=SIDE_IMAGES, gap_px=1)


def _reduced(sheet: np.ndarray, colours: int) -> np.ndarray:
    from PIL import Image

    palette = Image.fromarray(sheet).quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(palette.convert("RGB"))


def _size(figure: "Figure") -> int:
    with TemporaryDirectory() as folder:
        drawing.save(figure, Path(folder) / "figure.png")
        return (Path(folder) / "figure.png").stat().st_size


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
