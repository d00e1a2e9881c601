"""What the samples look like, in the papers' layouts, and how near they are to images that exist."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting import mosaic, result_files
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty
from pipeline.reporting.result_files import NOT_KEPT
from pipeline.reporting.rows import NOT_RUN

RUNS = {"dcgan_lsun": "bedrooms", "dcgan_faces": "faces", "dcgan_imagenet": "ImageNet"}
GRID = ("run", "epoch", "n_images", "side_px", "scale", "n_colours")
DISTANCES = ("split", "n_samples", "n_images", "mean_distance")
NEAREST = ("what", "number", "space", "key", "distance")
TRAIN, SAMPLES, HELD_OUT, FEATURES = "train", "sample", "held_out", "features"
OVER_N, RANK = "log10_n_samples", "rank"


def after_epoch(results: Path, *, run: str, last: bool, columns: int = 10, rows: int = 5) -> Drawn:
    """DCGAN, Figures 2 and 3: the first samples of a run after its first or its last epoch, at the same z."""
    found = result_files.arrays(results / f"{run}.npz", images=5, epochs=1)
    if found is None:
        return empty(NOT_RUN, GRID)
    if not len(found["epochs"]):
        drawn = empty(NOT_KEPT, GRID)
        return Drawn(figure=drawn.figure, metrics={"n_epochs": 0}, numbers=drawn.numbers)
    images, epoch = found["images"][-1 if last else 0], int(found["epochs"][-1 if last else 0])
    title = f"{run} after epoch {epoch}{' (last)' if last else ''}"
    return _grid(run, images[: rows * columns], title, columns=columns, epoch=epoch)


def of_trained(results: Path, *, run: str, columns: int) -> Drawn:
    """DCGAN, Figures 10 and 11: a square of samples of the trained generator, the first of their stream."""
    found = result_files.arrays(results / f"{run}.npz", images=4)
    if found is None or not len(found["images"]):
        return empty(NOT_RUN, GRID)
    images = found["images"][: columns**2]
    return _grid(run, images, f"{run}, {len(images)} samples", columns=columns, epoch=None)


def _grid(run: str, images: np.ndarray, title: str, *, columns: int, epoch: int | None) -> Drawn:
    def layout(scale: float) -> mosaic.Canvas:
        return mosaic.titled(title, mosaic.tiles(images, columns=columns, scale=scale))

    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {} if epoch is None else {"epoch": epoch}
    metrics |= {"n_images": len(images), "side_px": images.shape[1]} | made.size()
    row = (run, epoch, len(images), images.shape[1], made.scale, made.n_colours)
    return Drawn(figure=made.picture, metrics=metrics, numbers=pd.DataFrame([row], columns=list(GRID)))


def sample_distances(results: Path) -> Drawn:
    """How near generated images are to those that exist: Euclidean distances, in pixels from 0 to 1 or in D's features.

    Left the authors' progress metric, over the number of generated images: the mean distance of images to the nearest
    generated one, for held-out images and, as theirs, for training images. Right a check of memorisation: the distance
    of generated images to the nearest training image in D's features, beside that of held-out images, whose median is 1
    in each run, since every D has a scale of its own.
    """
    curves, nearest = {}, {}
    for run in RUNS:
        distances = result_files.table(results / run / f"{run}_distances.parquet", DISTANCES)
        neighbours = result_files.table(results / run / f"{run}_nearest.parquet", NEAREST)
        if distances is not None and len(distances):
            curves[run] = distances.sort_values("n_samples", kind="stable")
        if neighbours is not None and len(neighbours):
            nearest[run] = neighbours
    if not curves and not nearest:
        return empty(NOT_RUN, _distance_columns())
    figure, (over_n, check) = canvas(columns=2, size=(11.0, 4.6))
    metrics: Metrics = {}
    for number, run in enumerate(RUNS):
        if run in curves:
            _draw_curves(over_n, curves[run], RUNS[run], f"C{number}")
            metrics.setdefault(run, {})["mean_distance"] = _curve_metrics(curves[run])
            metrics[run]["n_images"] = {
                name: int(side["n_images"].iloc[0]) for name, side in _sides(curves[run]).items()
            }
        if run in nearest:
            _draw_nearest(check, nearest[run], number)
            spaces = sorted(nearest[run]["space"].unique())
            metrics.setdefault(run, {})["nearest_training_image"] = {
                space: _nearest_metrics(nearest[run], space) for space in spaces
            }
    _finish(over_n, check, list(nearest))
    return Drawn(figure=figure, metrics=metrics, numbers=_distance_numbers(curves, nearest))


def _side(curve: pd.DataFrame, *, training: bool) -> pd.DataFrame:
    return curve[(curve["split"] == TRAIN) == training]


def _sides(curve: pd.DataFrame) -> dict[str, pd.DataFrame]:
    sides = {"held_out": _side(curve, training=False), "training": _side(curve, training=True)}
    return {name: side for name, side in sides.items() if len(side)}


def _draw_curves(axis: Any, curve: pd.DataFrame, title: str, colour: str) -> None:
    for training, style, name in ((False, "-", "held-out"), (True, "--", "training")):
        shown = _side(curve, training=training)
        label = f"{title}, {name} images"
        axis.plot(
            shown["n_samples"], shown["mean_distance"], style, color=colour, marker="o", markersize=4, label=label
        )


def _curve_metrics(curve: pd.DataFrame) -> Metrics:
    return {
        name: {f"n_{n}": round(float(d), 4) for n, d in zip(side["n_samples"], side["mean_distance"], strict=True)}
        for name, side in _sides(curve).items()
    }


def _distances(nearest: pd.DataFrame, what: str, space: str) -> np.ndarray:
    """Ascending."""
    return np.sort(nearest.loc[(nearest["what"] == what) & (nearest["space"] == space), "distance"].to_numpy())


def _draw_nearest(axis: Any, nearest: pd.DataFrame, number: int) -> None:
    """Points side by side, samples left of the run's place, held-out images right, a bar at the median."""
    held_out = _distances(nearest, HELD_OUT, FEATURES)
    unit = float(np.median(held_out)) if len(held_out) else 1.0
    for what, place, marker in ((SAMPLES, number - 0.18, "o"), (HELD_OUT, number + 0.18, ".")):
        found = _distances(nearest, what, FEATURES) / unit
        spread = 0.24 * (np.arange(len(found)) * 0.618 % 1 - 0.5)  # even, and without a random number
        colour = f"C{number}" if what == SAMPLES else "0.55"
        axis.plot(place + spread, found, marker, color=colour, markersize=4)
        if len(found):
            axis.hlines(np.median(found), place - 0.15, place + 0.15, color="k", linewidth=1.2)


def _nearest_metrics(nearest: pd.DataFrame, space: str) -> Metrics:
    """Medians, their ratio, and how many samples are nearer to a training image than any held-out image is."""
    samples, held_out = _distances(nearest, SAMPLES, space), _distances(nearest, HELD_OUT, space)
    metrics: Metrics = {"n_samples": len(samples), "n_held_out": len(held_out)}
    medians = {"samples": samples, "held_out": held_out}
    metrics |= {f"median_{name}": round(float(np.median(found)), 4) for name, found in medians.items() if len(found)}
    if len(samples) and len(held_out):
        metrics["ratio_of_medians"] = round(float(np.median(samples) / np.median(held_out)), 4)
        metrics["n_nearer_than_any_held_out"] = int((samples < held_out[0]).sum())
    return metrics


def _finish(over_n: Any, check: Any, shown: list[str]) -> None:
    over_n.set_xscale("log")
    over_n.set_xlabel("generated images")
    over_n.set_ylabel("mean distance to the nearest one\n(Euclidean, pixels from 0 to 1)")
    over_n.set_title("of held-out and training images to generated ones", fontsize=9)
    over_n.grid(alpha=0.3)
    if over_n.lines:
        over_n.set_ylim(bottom=0)  # leaves room for the legend below the curves
        over_n.legend(frameon=False, fontsize=8, loc="lower left")
    places = list(RUNS)
    check.set_xticks([places.index(run) for run in shown], [RUNS[run] for run in shown])
    check.set_ylabel("distance / median of held-out images")
    check.set_title(
        "to the nearest training image in D's features:\nleft of samples, right (grey) of held-out images", fontsize=9
    )
    check.set_ylim(bottom=0)
    check.grid(alpha=0.3, axis="y")


def _distance_columns() -> list[str]:
    """The same whatever has run: DVC's plots take a column a line."""
    over_n = [f"{run}_{name}" for run in RUNS for name in ("held_out", "training")]
    ranked = [f"{run}_nearest_of_{name}" for run in RUNS for name in ("samples", "held_out")]
    return [OVER_N, *over_n, RANK, *ranked]


def _distance_numbers(curves: dict[str, pd.DataFrame], nearest: dict[str, pd.DataFrame]) -> pd.DataFrame:
    over_n = [
        _side(curve, training=training).set_index("n_samples")["mean_distance"].rename(f"{run}_{name}")
        for run, curve in curves.items()
        for training, name in ((False, "held_out"), (True, "training"))
    ]
    ranked = [
        pd.Series(_distances(found, what, FEATURES)).rename(f"{run}_nearest_of_{name}")
        for run, found in nearest.items()
        for what, name in ((SAMPLES, "samples"), (HELD_OUT, "held_out"))
    ]
    blocks = []
    if over_n:
        block = pd.concat(over_n, axis=1).sort_index().rename_axis(OVER_N)
        blocks.append(block.set_index(np.log10(block.index.to_numpy(dtype=float))).rename_axis(OVER_N).reset_index())
    if ranked:
        blocks.append(pd.concat(ranked, axis=1).rename_axis(RANK).reset_index())
    return pd.concat(blocks, ignore_index=True).reindex(columns=_distance_columns())
