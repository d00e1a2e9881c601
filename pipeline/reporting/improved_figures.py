"""Improved GAN's samples (Figures 3 to 5), and the test error of its classifiers over training."""

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import slug
from pipeline.evaluation.ensembles import member_errors
from pipeline.reporting import mosaic, result_files, semisup_tables
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty, say
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.semisup_tables import DATASETS, MINIBATCH_RUN

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

SCORED_RUN = "is_"  # begins the name of a run of Table 3
KEYS = {  # the papers' numbers of labels, and the run with minibatch discrimination
    "mnist": (*(f"mnist-{n}" for n in (20, 50, 100, 200)), "mb_mnist"),
    "cifar10": (*(f"cifar10-{n}" for n in (1000, 2000, 4000, 8000)), "mb_cifar10"),
    "svhn": (*(f"svhn-{n}" for n in (500, 1000, 2000)), "mb_svhn"),
}
ERRORS = ("split", "seed", "epoch", "error_percent", "error_percent_last")
CURVE = ("dataset", "key", "epoch", "error_percent", "lowest", "highest", "error_percent_last")
POINTS = 2  # decimals of an error in %
D_HAS_WON = 0.01  # an unsupervised loss this near to its least: G learns nothing more, as in training
MOST_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Classifiers:
    """The networks of a run.

    Attributes
    ----------
    n_steps : of each network
    curve : epoch, error_percent (mean over the networks), lowest, highest, error_percent_last (mean)
    final : error in % of each network, with averaged parameters
    labels_only : the same of each network trained on the labelled images alone; or nothing
    n_test : images that they were tested on
    alarms : what went wrong in training, as metrics
    """

    key: str
    n_labels: int
    n_splits: int
    n_steps: int
    curve: pd.DataFrame
    final: np.ndarray
    labels_only: np.ndarray
    n_test: int
    alarms: Metrics


def semisup_errors(results: Path) -> Drawn:
    """Test error over the epochs: a panel a dataset, a line a run, its band from the best to the worst network.

    A run that was tested once is a point with a bar instead; the bars of one panel stand beside each other. Dashed:
    minibatch discrimination. Dotted in the colour of its run: the same D trained on the labelled images alone, at its
    end. On the logarithmic axis an error of 0 stands at half an image.
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
    """The runs of a dataset that this profile has, the tables' first; runs of one's own come after them, by name.

    Those of Table 3 are judged by their samples, and two of them have no labels.
    """
    there = sorted(path.parent.name for path in folder.glob("*/errors.parquet"))
    there = [key for key in there if not key.startswith(SCORED_RUN)]
    keys = [key for key in KEYS[dataset] if key in there] + [key for key in there if key not in KEYS[dataset]]
    return [_read(folder / key) for key in keys]


def _read(folder: Path) -> Classifiers:
    errors = result_files.table(folder / "errors.parquet", ERRORS)
    run = semisup_tables.read(folder) if (folder / "run.json").is_file() else None
    if errors is None or run is None:
        message = f"{folder}: run.json, errors.parquet or logits.npz is missing; run its stage semisup again"
        raise InputError(message)
    of_epochs = errors.groupby("epoch", sort=True)
    n = len(run.members)
    if errors.empty or (of_epochs.size() != n).any():
        message = f"{folder}: {n} networks, but errors of {of_epochs.size().tolist()} networks by epoch; run its stage "
        raise InputError(message + "semisup again")
    curve = of_epochs[["error_percent", "error_percent_last"]].mean()
    curve["lowest"], curve["highest"] = of_epochs["error_percent"].min(), of_epochs["error_percent"].max()
    alone = run.labels_only
    return Classifiers(
        key=folder.name,
        n_labels=run.n_labels,
        n_splits=run.n_splits,
        n_steps=run.steps,
        curve=curve.reset_index(),
        final=100 * member_errors(run.logits, run.labels),
        labels_only=100 * member_errors(alone, run.labels) if len(alone) else np.empty(0),
        n_test=len(run.labels),
        alarms=_alarms(folder, least_unsupervised_loss(float(run.settings["real_target"]))),
    )


def least_unsupervised_loss(real_target: float) -> float:
    """What the unsupervised loss is of a D that is right of every image: half the entropy of the real target."""
    return 0.5 * sum(-p * math.log(p) for p in (real_target, 1 - real_target) if p > 0)


def _alarms(folder: Path, least_loss: float) -> Metrics:
    """How many networks have collapsed samples; the lowest unsupervised loss, and in how many networks D has won.

    A loss is the mean between two rows of the history; D has won where it comes within ``D_HAS_WON`` of the least.
    """
    metrics: Metrics = {}
    health = result_files.table(folder / "health.parquet", ("collapsed",))
    if health is not None:
        metrics["n_collapsed"] = int(health["collapsed"].sum())
    history = result_files.table(folder / "history.parquet", ("split", "seed", "unsupervised_loss"))
    if history is not None and history["unsupervised_loss"].notna().any():
        lowest = history.groupby(["split", "seed"])["unsupervised_loss"].min()
        metrics["lowest_unsupervised_loss"] = round(float(lowest.min()), 4)
        metrics["n_d_won"] = int((lowest - least_loss < D_HAS_WON).sum())
    return metrics


def _error_metrics(run: Classifiers) -> Metrics:
    """Numbers of a run.

    ``gain_points``: by how much the unlabelled images lower the error, the mean over the networks; ``gain_sd_points``:
    the standard deviation of these differences; ``n_gained``: in how many networks.
    """
    final = float(run.final.mean())
    metrics: Metrics = {
        "run": run.key,
        "n_labels": run.n_labels,
        "n_networks": len(run.final),
        "n_splits": run.n_splits,
        "n_steps": run.n_steps,
        "n_test_images": run.n_test,
        "final_error_percent": round(final, POINTS),
        "lowest_percent": round(float(run.final.min()), POINTS),
        "highest_percent": round(float(run.final.max()), POINTS),
    }
    if len(run.labels_only):
        gains = run.labels_only - run.final
        metrics["labels_only_error_percent"] = round(float(run.labels_only.mean()), POINTS)
        metrics["gain_points"] = round(float(gains.mean()), POINTS)
        if len(gains) > 1:
            metrics["gain_sd_points"] = round(float(gains.std(ddof=1)), POINTS)
        metrics["n_gained"] = int((gains > 0).sum())
    return metrics | run.alarms


def _draw_errors(axis: Any, dataset: str, runs: list[Classifiers]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    last = max(float(run.curve["epoch"].max()) for run in runs)
    for number, run in enumerate(runs):
        beside = 0.035 * last * (number - (len(runs) - 1) / 2)
        _draw_run(axis, run, colour=f"C{number}", label=_label(dataset, run), beside=beside)
    handles, labels = axis.get_legend_handles_labels()
    if any(len(run.labels_only) for run in runs):
        handles += axis.plot([], [], color="0.4", linestyle=":", linewidth=1.5)
        labels.append("the labelled images alone")
    axis.set_yscale("log")
    axis.set_xlim(0, 1.12 * last)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_ylim(*axis.get_ylim())
    axis.yaxis.set_major_locator(FixedLocator(_ticks(*axis.get_ylim())))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    axis.set_xlabel("epochs of all training images")
    axis.set_ylabel("test error, %")
    axis.grid(alpha=0.3)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}  # it hides no line there
    axis.legend(handles, labels, frameon=False, fontsize=8, **below)


def _draw_run(axis: Any, run: Classifiers, *, colour: str, label: str, beside: float) -> None:
    """A line and its band, or, of a single test, a point ``beside`` its epoch and its bar."""
    curve, least = run.curve, 50 / run.n_test
    low, high, mean = (curve[name].clip(lower=least) for name in ("lowest", "highest", "error_percent"))
    line = "--" if run.key.startswith(MINIBATCH_RUN) else "-"
    if len(curve) > 1:
        axis.fill_between(curve["epoch"], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(curve["epoch"], mean, marker=".", linestyle=line, color=colour, linewidth=1.2, label=label)
    else:
        marker = "D" if run.key.startswith(MINIBATCH_RUN) else "o"
        bars, epoch = [mean - low, high - mean], curve["epoch"] + beside
        axis.errorbar(epoch, mean, bars, fmt=marker, color=colour, markersize=7, capsize=5, linewidth=1.5, label=label)
    if len(run.labels_only):
        axis.axhline(max(run.labels_only.mean(), least), color=colour, linestyle=":", linewidth=1.5)


def _ticks(low: float, high: float) -> list[float]:
    """At most five round numbers from ``low`` to ``high`` for a logarithmic axis; three at least.

    Over less than a factor of 10 as on a linear axis, else the same digits in every decade.
    """
    from matplotlib.ticker import MaxNLocator

    if high < 10 * low:
        steps = MaxNLocator(nbins=MOST_TICKS, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3).tick_values(low, high)
        inside = [round(float(tick), 10) for tick in steps if low <= tick <= high]
        return inside[:: 2 if len(inside) > MOST_TICKS else 1]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [tick for decade in decades for digit in digits if low <= (tick := digit * 10.0**decade) <= high]
        if len(found) <= MOST_TICKS:
            return found
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def _label(dataset: str, run: Classifiers) -> str:
    labels, n = f"{run.n_labels:,} labels", len(run.final)
    networks = f"{n} network{'s' if n > 1 else ''}"
    if run.key.startswith(MINIBATCH_RUN):
        return f"{labels}, {HALVES['minibatch_discrimination']}, {networks}"
    known = run.key in KEYS[dataset]
    return f"{labels}, {networks}" if known else f"{run.key}: {labels}, {networks}"
