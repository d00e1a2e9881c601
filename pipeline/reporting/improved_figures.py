"""Improved GAN's samples (Figures 3 to 5), and the test error of its classifiers over training."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import slug
from pipeline.evaluation.ensembles import member_errors
from pipeline.reporting import mosaic, result_files
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty, say
from pipeline.reporting.rows import NOT_RUN

# ---- samples --------------------------------------------------------------------------------------------------------

HALVES = {"feature_matching": "feature matching", "minibatch_discrimination": "minibatch discrimination"}
SIDE, SCALE = 10, 2  # images beside and below each other in a half, and how many times they are enlarged
TITLE_SIZE = 16  # of the letters
HALF = (
    *("half", "run", "split", "seed", "n_images", "side_px"),
    *("nearest_other", "duplicates_percent", "scale", "n_colours"),
)


@dataclass(frozen=True, kw_only=True)
class Half:
    """What is shown of a run: images uint8 (n, H, W, 3) of its first network."""

    run: str
    split: int
    seed: int
    images: np.ndarray


def samples(results: Path, *, feature_matching: str, minibatch_discrimination: str) -> Drawn:
    """Improved GAN, Figures 3, 4 and 5: samples of two runs, left feature matching, right minibatch discrimination.

    Of each the first network and its first images, 10 x 10 at most. A run that is missing is left out with a sentence.
    """
    runs = dict(zip(HALVES, (feature_matching, minibatch_discrimination), strict=True))
    found = {half: _half(results, run) for half, run in runs.items()}
    shown = {half: own for half, own in found.items() if own is not None}
    if not shown:
        return empty(NOT_RUN, HALF)
    missing = [f"{HALVES[half]}, run {run}: {NOT_RUN}" for half, run in runs.items() if half not in shown]

    def layout(scale: float) -> mosaic.Canvas:
        sheets = [mosaic.tiles(own.images, columns=SIDE, scale=scale) for own in shown.values()]
        titles = [_title(HALVES[half], own, sheet) for (half, own), sheet in zip(shown.items(), sheets, strict=True)]
        title_px = max(map(len, titles))  # one may take a line more
        titles = [mosaic.framed(title, top=title_px - len(title)) for title in titles]
        parts = [mosaic.below(*part, gap_px=mosaic.GAP_PX) for part in zip(titles, sheets, strict=True)]
        body = mosaic.beside(*parts, gap_px=2 * mosaic.MARGIN_PX)
        left_out = [mosaic.words(text, width=body.shape[1]) for text in missing]
        whole = mosaic.below(body, *left_out, gap_px=mosaic.PART_GAP_PX)
        margin = mosaic.MARGIN_PX
        return mosaic.framed(whole, top=margin // 2, right=margin, bottom=margin, left=margin)

    made = mosaic.fitted(layout, scale=SCALE)
    metrics: Metrics = {half: _variety(own.images) for half, own in shown.items()}
    rows = [
        {"half": half, "run": own.run, "split": own.split, "seed": own.seed} | metrics[half] | made.size()
        for half, own in shown.items()
    ]
    return Drawn(
        figure=made.picture, metrics=metrics | made.size(), numbers=pd.DataFrame(rows).reindex(columns=list(HALF))
    )


def _half(results: Path, run: str) -> Half | None:
    path = results / f"{run}.npz"
    found = result_files.arrays(path, images=5, members=2)
    if found is None or not found["images"].size:
        return None
    images, members = found["images"], found["members"]
    if len(images) != len(members) or images.shape[-1] not in (1, 3):
        message = (
            f"{path}: found images {images.shape}, members {members.shape}; expected images (networks, samples, H, W, "
            "1 or 3) and a row of members for each network; run the stage that writes it again"
        )
        raise InputError(message)
    split, seed = (int(number) for number in members[0])
    first = images[0, : SIDE**2]
    return Half(run=run, split=split, seed=seed, images=first.repeat(3 // first.shape[-1], axis=-1))


def _title(technique: str, half: Half, sheet: mosaic.Canvas) -> mosaic.Canvas:
    text = f"{technique}\nrun {half.run}, split {half.split}, seed {half.seed}"
    return mosaic.words(text, width=sheet.shape[1], size=TITLE_SIZE)


def _variety(images: np.ndarray) -> Metrics:
    """How many images there are, and how they differ from each other.

    ``nearest_other``: median Euclidean distance to the nearest other image, in grey levels, that of the training's
    ``diversity`` before it is set beside real images; grey images are counted once, not in three channels.
    ``duplicates_percent``: those that are equal to another one, byte by byte.
    """
    metrics: Metrics = {"n_images": len(images), "side_px": images.shape[1]}
    if len(images) < 2:
        return metrics
    grey = (images == images[..., :1]).all()
    flat = (images[..., :1] if grey else images).reshape(len(images), -1).astype(np.int64)
    distances = np.stack([np.square(flat - image).sum(axis=1) for image in flat]).astype(np.float64)
    np.fill_diagonal(distances, np.inf)
    nearest = np.sqrt(distances.min(axis=1))
    return metrics | {
        "nearest_other": round(float(np.median(nearest)), 1),
        "duplicates_percent": round(100 * float((nearest == 0).mean()), 2),
    }


# ---- errors ---------------------------------------------------------------------------------------------------------

MINIBATCH = "mb_"
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN"}
KEYS = {  # the papers' numbers of labels, and the run with minibatch discrimination
    "mnist": (*(f"mnist-{n}" for n in (20, 50, 100, 200)), "mb_mnist"),
    "cifar10": (*(f"cifar10-{n}" for n in (1000, 2000, 4000, 8000)), "mb_cifar10"),
    "svhn": (*(f"svhn-{n}" for n in (500, 1000, 2000)), "mb_svhn"),
}
ERRORS = ("split", "seed", "epoch", "error_percent", "error_percent_last")
CURVE = ("dataset", "key", "epoch", "error_percent", "lowest", "highest", "error_percent_last")
POINTS = 2  # decimals of an error in %


@dataclass(frozen=True, kw_only=True)
class Classifiers:
    """The networks of a run.

    Attributes
    ----------
    curve : epoch, error_percent (mean over the networks), lowest, highest, error_percent_last (mean)
    final : error in % of each network, with averaged parameters
    labels_only : the same of each network trained on the labelled images alone; or nothing
    n_test : images that they were tested on
    alarms : what went wrong in training, as metrics
    """

    key: str
    n_labels: int
    curve: pd.DataFrame
    final: np.ndarray
    labels_only: np.ndarray
    n_test: int
    alarms: Metrics


def semisup_errors(results: Path) -> Drawn:
    """Test error over the epochs: a panel a dataset, a line a run, its band from the best to the worst network.

    Dotted in the same colour: the same D trained on the labelled images alone, at its end. On the logarithmic axis an
    error of 0 stands at half an image.
    """
    found = {dataset: _classifiers(results / dataset, dataset) for dataset in DATASETS}
    if not any(found.values()):
        return empty(NOT_RUN, CURVE)
    figure, axes = canvas(columns=len(DATASETS), size=(15.0, 6.0))
    for axis, (dataset, runs) in zip(axes, found.items(), strict=True):
        axis.set_title(DATASETS[dataset])
        if runs:
            _draw_errors(axis, dataset, runs)
        else:
            say(axis, NOT_RUN)
    missing = [key for dataset, runs in found.items() for key in KEYS[dataset] if key not in {run.key for run in runs}]
    if missing:
        figure.supxlabel(textwrap.fill(f"{NOT_RUN}: {', '.join(missing)}", width=160), fontsize=8)
    metrics: Metrics = {
        dataset: {slug(run.key): _error_metrics(run) for run in runs} for dataset, runs in found.items() if runs
    }
    curves = [run.curve.assign(dataset=dataset, key=run.key) for dataset, runs in found.items() for run in runs]
    return Drawn(figure=figure, metrics=metrics, numbers=pd.concat(curves, ignore_index=True)[list(CURVE)])


def _classifiers(folder: Path, dataset: str) -> list[Classifiers]:
    """The runs of a dataset that this profile has, the tables' first; runs of one's own come after them, by name."""
    there = sorted(path.parent.name for path in folder.glob("*/errors.parquet"))
    keys = [key for key in KEYS[dataset] if key in there] + [key for key in there if key not in KEYS[dataset]]
    return [_read(folder / key) for key in keys]


def _read(folder: Path) -> Classifiers:
    errors = result_files.table(folder / "errors.parquet", ERRORS)
    tested = result_files.arrays(folder / "logits.npz", members=2, labels=1, logits=3, labels_only=3)
    if errors is None or tested is None or not (folder / "run.json").is_file():
        message = f"{folder}: run.json, errors.parquet or logits.npz is missing; run its stage semisup again"
        raise InputError(message)
    n, labels, alone = len(tested["members"]), tested["labels"], tested["labels_only"]
    of_epochs = errors.groupby("epoch", sort=True)
    shapes = {name: tested[name].shape[:2] for name in ("logits", "labels_only") if len(tested[name])}
    if errors.empty or (of_epochs.size() != n).any() or any(shape != (n, len(labels)) for shape in shapes.values()):
        message = (
            f"{folder}: {n} networks and {len(labels)} test images, but errors of {of_epochs.size().tolist()} networks "
            f"by epoch and arrays {shapes}; run its stage semisup again"
        )
        raise InputError(message)
    curve = of_epochs[["error_percent", "error_percent_last"]].mean()
    curve["lowest"], curve["highest"] = of_epochs["error_percent"].min(), of_epochs["error_percent"].max()
    return Classifiers(
        key=folder.name,
        n_labels=json.loads((folder / "run.json").read_text(encoding="utf-8"))["params"]["n_labels"],
        curve=curve.reset_index(),
        final=100 * member_errors(tested["logits"], labels),
        labels_only=100 * member_errors(alone, labels) if len(alone) else np.empty(0),
        n_test=len(labels),
        alarms=_alarms(folder),
    )


def _alarms(folder: Path) -> Metrics:
    """How many networks have collapsed samples; the lowest unsupervised loss between two rows of the history."""
    metrics: Metrics = {}
    health = result_files.table(folder / "health.parquet", ("collapsed",))
    if health is not None:
        metrics["n_collapsed"] = int(health["collapsed"].sum())
    history = result_files.table(folder / "history.parquet", ("unsupervised_loss",))
    if history is not None and history["unsupervised_loss"].notna().any():
        metrics["lowest_unsupervised_loss"] = round(float(history["unsupervised_loss"].min()), 4)
    return metrics


def _error_metrics(run: Classifiers) -> Metrics:
    """``gain_points``: by how much the unlabelled images lower the error; ``n_gained``: in how many networks."""
    final = float(run.final.mean())
    metrics: Metrics = {
        "n_labels": run.n_labels,
        "n_networks": len(run.final),
        "n_test_images": run.n_test,
        "final_error_percent": round(final, POINTS),
        "lowest_percent": round(float(run.final.min()), POINTS),
        "highest_percent": round(float(run.final.max()), POINTS),
    }
    if len(run.labels_only):
        alone = float(run.labels_only.mean())
        metrics["labels_only_error_percent"] = round(alone, POINTS)
        metrics["gain_points"] = round(alone - final, POINTS)
        metrics["n_gained"] = int((run.final < run.labels_only).sum())
    return metrics | run.alarms


def _draw_errors(axis: Any, dataset: str, runs: list[Classifiers]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for number, run in enumerate(runs):
        curve, least, colour = run.curve, 50 / run.n_test, f"C{number}"
        low, high, mean = (curve[name].clip(lower=least) for name in ("lowest", "highest", "error_percent"))
        axis.fill_between(curve["epoch"], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(curve["epoch"], mean, ".-", color=colour, linewidth=1.2, label=_label(dataset, run))
        if len(run.labels_only):
            axis.axhline(max(run.labels_only.mean(), least), color=colour, linestyle=":", linewidth=1.5)
    if any(len(run.labels_only) for run in runs):
        axis.plot([], [], color="0.4", linestyle=":", linewidth=1.5, label="the labelled images alone")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))  # a panel may span less than a decade
    axis.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("epochs of all training images")
    axis.set_ylabel("test error, %")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))  # it hides no line there


def _label(dataset: str, run: Classifiers) -> str:
    labels, n = f"{run.n_labels:,} labels", len(run.final)
    networks = f"{n} network{'s' if n > 1 else ''}"
    if run.key.startswith(MINIBATCH):
        return f"{labels}, {HALVES['minibatch_discrimination']}, {networks}"
    known = run.key in KEYS[dataset]
    return f"{labels}, {networks}" if known else f"{run.key}: {labels}, {networks}"
