"""Improved GAN's Table 3 in pictures: samples of every row, and scores beside the paper's; and ImageNet (Figure 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.reporting import mosaic, result_files
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.score_tables import CLASSIFIER, OURS, REAL, RUNS, SCORE, SCORES, Scored, read_all

TITLE_SIZE = 15  # of the letters
DECIMALS = 4  # of a score

# ---- samples of Table 3 ---------------------------------------------------------------------------------------------

SIDE = 8  # images beside and below each other in a block
BLOCKS_A_ROW = 4
TOP = f"{OURS}_top"  # block of the best samples
SAMPLES = (
    *("row", "run", "n_images", "side_px", "mean_distance", "nearest_other", "diversity", "duplicates_percent"),
    *("scale", "n_colours"),
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Images uint8 (n, H, W, 3), in the order in which they are shown."""

    title: str
    images: np.ndarray


def improved_table3_samples(results: Path) -> Drawn:
    """A block a row of Table 3: the first samples of its first seed; last the best samples of "Our methods", by KL.

    Rows that are missing are named below.
    """
    found = {name: images for name in RUNS.values() if len(images := _samples(results / f"{name}.npz", "images"))}
    if not found:
        return empty(NOT_RUN, SAMPLES)
    titles = {name: row for row, name in RUNS.items()}
    blocks = {name: Block(title=titles[name], images=images) for name, images in found.items()}
    best = _samples(results / f"{OURS}.npz", "top")
    if len(best):
        blocks[TOP] = Block(title=f"{papers.OUR_METHODS}, the best", images=best)
    missing = [row for row, name in RUNS.items() if name not in found]

    shown = list(blocks.values())

    def layout(scale: float) -> mosaic.Canvas:
        strips = [
            _strip(shown[first : first + BLOCKS_A_ROW], scale, gap_px=mosaic.MARGIN_PX)
            for first in range(0, len(shown), BLOCKS_A_ROW)
        ]
        whole = mosaic.below(*strips, gap_px=mosaic.PART_GAP_PX)
        return _with_words(whole, [f"{NOT_RUN}: {', '.join(missing)}"] if missing else [])

    made = mosaic.fitted(layout, scale=1)
    metrics = _varieties({name: block.images for name, block in blocks.items()})
    rows = [{"row": block.title, "run": name} | metrics[name] | made.size() for name, block in blocks.items()]
    return Drawn(
        figure=made.picture, metrics=metrics | made.size(), numbers=pd.DataFrame(rows).reindex(columns=list(SAMPLES))
    )


def _samples(path: Path, part: str) -> np.ndarray:
    """uint8 (n, H, W, 3): of ``images`` those of the first seed; empty if there are none."""
    found = result_files.arrays(path, images=5, top=4)
    images = np.empty((0, 1, 1, 3), np.uint8) if found is None else found[part]
    if part == "images" and len(images):
        images = images[0]
    if len(images) and (images.dtype != np.uint8 or images.shape[-1] not in (1, 3)):
        message = (
            f"{path}, {part}: found {images.dtype} of shape {images.shape}; expected uint8 images of 1 or 3 channels; "
            f"run score@{path.stem} again"
        )
        raise InputError(message)
    return images.repeat(3 // images.shape[-1], axis=-1) if len(images) else images


def _strip(blocks: Sequence[Block], scale: float, *, gap_px: int, side: int = SIDE) -> mosaic.Canvas:
    """Squares of images beside each other, ``side`` a side, each under its title."""
    sheets = [mosaic.tiles(block.images[: side**2], columns=side, scale=scale) for block in blocks]
    titles = [
        mosaic.words(block.title, width=sheet.shape[1], size=TITLE_SIZE)
        for block, sheet in zip(blocks, sheets, strict=True)
    ]
    title_px = max(map(len, titles))  # one may take a line more
    titles = [mosaic.framed(title, top=title_px - len(title)) for title in titles]
    parts = [mosaic.below(*part, gap_px=mosaic.GAP_PX) for part in zip(titles, sheets, strict=True)]
    return mosaic.beside(*parts, gap_px=gap_px)


def _with_words(body: mosaic.Canvas, sentences: list[str]) -> mosaic.Canvas:
    """The sentences below, and a margin around all."""
    words = [mosaic.words(sentence, width=body.shape[1]) for sentence in sentences]
    whole = mosaic.below(body, *words, gap_px=mosaic.PART_GAP_PX)
    margin = mosaic.MARGIN_PX
    return mosaic.framed(whole, top=margin // 2, right=margin, bottom=margin, left=margin)


def _varieties(images: dict[str, np.ndarray]) -> Metrics:
    """How the images of each run differ from each other, and from how real images do where there are any.

    All files hold equally many images of a seed, so that distances to the nearest other one compare.
    """
    found = {name: _variety(of_run) for name, of_run in images.items()}
    real = found.get(REAL, {}).get("nearest_other")
    for name, own in found.items():
        if real and "nearest_other" in own and own["n_images"] == found[REAL]["n_images"]:
            found[name] = own | {"diversity": round(own["nearest_other"] / real, 4)}
    return found


def _variety(images: np.ndarray) -> Metrics:
    """Euclidean distances of images uint8 (n, H, W, 3), in grey levels.

    ``mean_distance`` of two of them; ``nearest_other``: the median distance to the nearest other one, which falls where
    samples repeat, while the mean stays large as long as there are two heaps; ``duplicates_percent``: those that are
    equal to another one.
    """
    metrics: Metrics = {"n_images": len(images), "side_px": images.shape[1]}
    if len(images) < 2:
        return metrics
    flat = images.reshape(len(images), -1).astype(np.float64)  # whole numbers below 2^53: every sum of them is exact
    lengths = np.square(flat).sum(axis=1)
    distances = np.sqrt(lengths[:, np.newaxis] + lengths - 2 * (flat @ flat.T))
    mean = distances.sum() / (len(flat) * (len(flat) - 1))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    return metrics | {
        "mean_distance": round(float(mean), 1),
        "nearest_other": round(float(np.median(nearest)), 1),
        "duplicates_percent": round(100 * float((nearest == 0).mean()), 2),
    }


# ---- scores of Table 3 ----------------------------------------------------------------------------------------------

SPLIT_SD = "split_sd"
SCORED = (
    *("row", "run", "seed", "n_images", "n_splits"),
    *(name for measure in SCORES for name in (measure, f"{measure}_{SPLIT_SD}")),
    *("paper_inception_score", "paper_inception_score_spread"),
)


def improved_table3_scores(results: Path) -> Drawn:
    """Left the paper's Inception scores, right the scores by our own classifier: two measures, on axes of their own.

    A dot is a seed, its bar the standard deviation over the splits of its images, as the paper's ±; a line is the mean
    over the seeds. Where the Inception network was at hand, our Inception scores stand left beside the paper's.
    """
    found = read_all(results)
    if not found:
        return empty(NOT_RUN, SCORED)
    figure, (left, right) = canvas(columns=2, size=(11.0, 4.4))
    _draw_paper(left)
    measured = {row: scored for row, scored in found.items() if not scored.no_inception_score}
    _draw_seeds(left, measured, papers.INCEPTION_SCORE, beside=0.25)
    _draw_seeds(right, found, f"{CLASSIFIER}_{SCORE}", beside=0.0)
    ours = ", dots: ours" if measured else "; none of ours"
    left.set_title(f"Inception score, bars: the paper's{ours}", fontsize=10)
    right.set_title(f"classifier score, ours: another measure{_accuracy(found)}", fontsize=10)
    left.set_ylabel("Inception score")
    right.set_ylabel("classifier score")
    missing = [row for row in RUNS if row not in found]
    if missing:
        right.set_xlabel(f"{NOT_RUN}: {', '.join(missing)}", fontsize=8)
    return Drawn(
        figure=figure,
        metrics={scored.name: _score_metrics(scored) for scored in found.values()},
        numbers=_score_numbers(found),
    )


def _accuracy(found: dict[str, Scored]) -> str:
    accuracy = next(iter(found.values())).accuracy
    return "" if accuracy is None else f"\n(of a classifier that is right on {accuracy:.1f} % of test images)"


def _finish(axis: Any) -> None:
    axis.set_xticks(range(len(RUNS)), list(RUNS), rotation=30, ha="right", fontsize=8)
    axis.set_xlim(-0.6, len(RUNS) - 0.4)
    axis.set_ylim(bottom=1)  # of one class, or of images that are all judged alike
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)


def _draw_paper(axis: Any) -> None:
    values = [published.value - 1 for published in papers.IMPROVED_TABLE3]
    spreads = [published.spread for published in papers.IMPROVED_TABLE3]
    axis.bar(range(len(values)), values, bottom=1, width=0.4, yerr=spreads, capsize=3, color="0.75", ecolor="0.3")
    _finish(axis)


def _draw_seeds(axis: Any, found: dict[str, Scored], quantity: str, *, beside: float) -> None:
    """Seeds side by side at the place of their row, moved to the right by ``beside``."""
    for place, row in enumerate(RUNS):
        if row not in found:
            continue
        own = found[row].by_seed(quantity)
        at = place + beside + 0.12 * (np.arange(len(own)) - (len(own) - 1) / 2)
        colour = "k" if found[row].is_real else "C0"
        axis.errorbar(at, own["mean"], own["split_sd"], fmt="o", markersize=4, capsize=2, color=colour, linewidth=1)
        axis.hlines(own["mean"].mean(), place + beside - 0.3, place + beside + 0.3, color=colour, linewidth=1.2)
    _finish(axis)


def _measures(scored: Scored) -> list[str]:
    measures = [f"{CLASSIFIER}_{SCORE}"]
    return measures if scored.no_inception_score else [papers.INCEPTION_SCORE, *measures]


def _score_metrics(scored: Scored) -> Metrics:
    """Of each measure: mean over the seeds and their sample standard deviation, mean deviation over the splits."""
    metrics: Metrics = {"n_images": scored.schedule["n_images"]}
    for measure in _measures(scored):
        own = scored.by_seed(measure)
        metrics |= {f"{measure}_n_seeds": len(own), measure: round(float(own["mean"].mean()), DECIMALS)}
        if len(own) > 1:
            metrics[f"{measure}_seed_sd"] = round(float(own["mean"].std(ddof=1)), DECIMALS)
        if int(own["n_splits"].iloc[0]) > 1:
            metrics[f"{measure}_{SPLIT_SD}"] = round(float(own["split_sd"].mean()), DECIMALS)
    return metrics


def _score_numbers(found: dict[str, Scored]) -> pd.DataFrame:
    """A row a seed, a column a measure: DVC's plots take a column a line, and two measures share no axis."""
    printed = {published.row: published for published in papers.IMPROVED_TABLE3}
    parts = []
    for row, scored in found.items():
        own = scored.by_seed(f"{CLASSIFIER}_{SCORE}")
        part = pd.DataFrame({"row": row, "run": scored.name, "n_splits": own["n_splits"]}, index=own.index)
        part["n_images"] = scored.schedule["n_images"]
        for measure in _measures(scored):
            of_seed = scored.by_seed(measure)
            part[measure], part[f"{measure}_{SPLIT_SD}"] = of_seed["mean"], of_seed["split_sd"]
        part["paper_inception_score"] = printed[row].value
        part["paper_inception_score_spread"] = printed[row].spread
        parts.append(part.reset_index().reindex(columns=list(SCORED)).astype(_types()))
    return pd.concat(parts, ignore_index=True)


def _types() -> dict[str, str]:
    """Of the numbers, also where a measure was not taken at all."""
    words, counts = ("row", "run"), ("seed", "n_images", "n_splits")
    return {name: "str" if name in words else "int64" if name in counts else "float64" for name in SCORED}


# ---- ImageNet -------------------------------------------------------------------------------------------------------

HALVES = {"dcgan": "imagenet128_dcgan", "improved": "imagenet128_improved"}
TITLES = {"dcgan": "plain DCGAN", "improved": "improved techniques"}
IMAGENET_SIDE = 4  # images beside and below each other: those of 128 x 128 fill a file of 500 KB
IMAGENET = (
    *("half", "run", "epoch", "n_images", "side_px", "mean_distance", "nearest_other", "duplicates_percent"),
    *("scale", "n_colours"),
)


@dataclass(frozen=True, kw_only=True)
class Half:
    """Images uint8 (n, H, W, 3) of a run after its last epoch."""

    run: str
    epoch: int
    images: np.ndarray


def improved_fig6(results: Path) -> Drawn:
    """Improved GAN, Figure 6: ImageNet at 128 x 128, left plain DCGAN, right the improved techniques, last epoch.

    A run that is missing is left out with a sentence.
    """
    found = {half: own for half, run in HALVES.items() if (own := _half(results / f"{run}.npz"))}
    if not found:
        return empty(NOT_RUN, IMAGENET)
    missing = [f"{TITLES[half]}, run {run}: {NOT_RUN}" for half, run in HALVES.items() if half not in found]

    shown = [
        Block(title=f"{TITLES[half]}\nrun {own.run}, after epoch {own.epoch}", images=own.images)
        for half, own in found.items()
    ]

    def layout(scale: float) -> mosaic.Canvas:
        return _with_words(_strip(shown, scale, gap_px=2 * mosaic.MARGIN_PX, side=IMAGENET_SIDE), missing)

    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {half: {"epoch": own.epoch} | _variety(own.images) for half, own in found.items()}
    rows = [{"half": half, "run": own.run} | metrics[half] | made.size() for half, own in found.items()]
    return Drawn(
        figure=made.picture, metrics=metrics | made.size(), numbers=pd.DataFrame(rows).reindex(columns=list(IMAGENET))
    )


def _half(path: Path) -> Half | None:
    found = result_files.arrays(path, images=5, epochs=1)
    if found is None or not len(found["epochs"]) or not found["images"].size:
        return None
    images, epochs = found["images"], found["epochs"]
    if len(images) != len(epochs) or images.shape[-1] != 3 or images.dtype != np.uint8:
        message = (
            f"{path}: found images {images.dtype} {images.shape}, epochs {epochs.shape}; expected uint8 images "
            "(n_epochs, n_images, H, W, 3) and epochs (n_epochs,); train the run again"
        )
        raise InputError(message)
    return Half(run=path.stem, epoch=int(epochs[-1]), images=images[-1])
