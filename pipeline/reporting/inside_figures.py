"""What the networks' inner maps stand for: what D's last maps respond to, and G's maps that draw windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.seeding import numpy_stream
from pipeline.reporting import mosaic, result_files
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty
from pipeline.reporting.result_files import NOT_KNOWN
from pipeline.reporting.rows import NOT_RUN

NETWORKS = {"random": "random D", "trained": "trained D"}  # left and right, as in the paper
COLOURS = {"random": "0.5", "trained": "C0"}
MEASURES = tuple(
    f"{measure}_in_{name}" for measure in ("centre", "energy", "excess") for name in ("boxes", "bed", "window")
)
SHOWN_SHARES = {"centre_in_boxes": "centre of the receptive field", "energy_in_boxes": "energy of the guided gradient"}
AREA = "area_of_boxes"
FEATURES = ("network", "feature", "n_top", *MEASURES, AREA)
N_BOOTSTRAP, BATCH = 2000, 100  # draws; at once
BINS = {"centre_in_boxes": np.arange(-5, 106, 10), "energy_in_boxes": np.arange(0, 101, 5)}  # in %; tenths, anything
LAYERS = ("8x8", "16x16")
FORGETTING = ("layer", "dropped", "draw", "n_maps", "n_dropped", "n_images", "windows", "beds", "pixel_change")
CLASSIFIER = ("layer", "negatives", "n_boxes", "n_positive", "n_negative", "accuracy", "n_maps", "n_positive_weights")
DETECTOR = (
    *("detector", "part", "n_images", "n_true", "n_found", "n_right", "precision", "recall", "mean_iou"),
    *("n_without", "n_found_without"),
)
PARTS = ("windows", "beds")
ROWS = {  # of the picture: array -> layer, what is dropped
    "kept": ("", ""),
    "dropped": ("8x8", "windows"),
    "dropped_16x16": ("16x16", "windows"),
    "random": ("8x8", "random"),
    "strongest": ("8x8", "strongest"),
}
# What is dropped -> colour and name of its bars: the paper's rule and ours for narrow networks, each with its control.
BARS = {
    "none": ("0.6", "all maps"),
    "windows": ("C0", "paper's rule"),
    "random": ("C1", "as many random maps"),
    "strongest": ("#9ecae1", "our rule"),
    "random_strongest": ("#fdd0a2", "as many random maps as ours"),
}


def guided_backprop(results: Path, *, run: str) -> Drawn:
    """DCGAN, Figure 5: guided backpropagation of the strongest responses of D's last maps, random and trained.

    Where the boxes of beds and windows are known: how much of the responses of every feature comes from them, which the
    boxes' share of the images' area would be by chance. Intervals are bootstrapped over the features of each network.
    """
    found = result_files.arrays(results / f"{run}.npz", **dict.fromkeys(NETWORKS, 5))
    judged = result_files.table(results / f"{run}.parquet", FEATURES)
    if found is None or judged is None or not len(found["trained"]):
        return empty(NOT_RUN, FEATURES)
    known = judged[judged[list(SHOWN_SHARES)].notna().all(axis=1)]

    def layout(scale: float) -> mosaic.Canvas:
        panels = [_panel(title, found[network], scale) for network, title in NETWORKS.items()]
        sheet = mosaic.beside(*panels, gap_px=2 * mosaic.MARGIN_PX)
        title = f"{run}: strongest responses, a row a feature of the last maps"
        plot = [_shares_plot(known, sheet.shape[1])] if len(known) else []
        return mosaic.titled(title, sheet, *plot)

    n_features = {network: int((judged["network"] == network).sum()) for network in NETWORKS}
    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {"n_features": n_features["trained"], "n_shown": len(found["trained"])} | made.size()
    if len(known):
        metrics |= _share_metrics(known)
    return Drawn(figure=made.picture, metrics=metrics, numbers=judged)


def _panel(title: str, images: np.ndarray, scale: float) -> mosaic.Canvas:
    n_rows, n_columns = images.shape[:2]
    sheet = mosaic.tiles(images.reshape(-1, *images.shape[2:]), columns=n_columns, rows=n_rows, scale=scale)
    return mosaic.below(mosaic.words(title, width=sheet.shape[1]), sheet)


def _share_metrics(known: pd.DataFrame) -> Metrics:
    """Means over the features of each network, with 95 % intervals, and the difference of the two means.

    Feature 3 of one network has nothing to do with feature 3 of the other: each network is drawn from on its own.
    """
    shares = {network: known[known["network"] == network] for network in NETWORKS}
    metrics: Metrics = {network: {} for network in (*NETWORKS, "trained_minus_random")}
    for measure in MEASURES:
        values = {network: rows[measure].dropna().to_numpy() for network, rows in shares.items()}
        if not all(map(len, values.values())):
            continue
        drawn = {network: bootstrapped(found, network) for network, found in values.items()}
        unit = "points" if measure.startswith("excess") else "percent"
        for network, found in values.items():
            metrics[network][measure] = _mean_and_interval(found.mean(), drawn[network], unit)
        difference, draws = values["trained"].mean() - values["random"].mean(), drawn["trained"] - drawn["random"]
        metrics["trained_minus_random"][measure] = _mean_and_interval(difference, draws, "points")
    for network, rows in shares.items():
        metrics[network]["area_of_boxes_percent"] = round(100 * float(rows[AREA].mean()), 2)
    return metrics


def bootstrapped(shares: np.ndarray, network: str) -> np.ndarray:
    """float64 (N_BOOTSTRAP,): means of draws of the shares (n,) with replacement, from the network's own stream."""
    stream = numpy_stream(0, f"bootstrap {network}")
    draws = [shares[stream.integers(0, len(shares), (BATCH, len(shares)))] for _ in range(N_BOOTSTRAP // BATCH)]
    return np.concatenate([draw.mean(axis=1) for draw in draws])


def _mean_and_interval(mean: float, draws: np.ndarray, unit: str) -> Metrics:
    """In % or, of a difference, in percent points; the interval has 95 % of the draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    numbers = {"mean": mean, "low": low, "high": high}
    return {f"{name}_{unit}": round(100 * float(number), 2) for name, number in numbers.items()}


def _shares_plot(known: pd.DataFrame, width: int) -> mosaic.Canvas:
    figure, axes = canvas(columns=len(SHOWN_SHARES), size=(mosaic.inches(width), 3.2))
    for axis, (measure, title) in zip(axes, SHOWN_SHARES.items(), strict=True):
        _draw_shares(axis, known, measure)
        axis.set_title(title, fontsize=9)
    axes[0].set_ylabel("features", fontsize=8)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return mosaic.plotted(figure)


def _draw_shares(axis: Any, known: pd.DataFrame, measure: str) -> None:
    """Histograms over the features; lines at the means and, for the energy, at what chance would give.

    Centres lie on a coarse grid of places, for which the area of the boxes is no baseline.
    """
    for network, title in NETWORKS.items():
        shares = 100 * known.loc[known["network"] == network, measure]
        axis.hist(shares, BINS[measure], histtype="stepfilled", alpha=0.45, color=COLOURS[network], label=title)
        axis.axvline(shares.mean(), color=COLOURS[network], linewidth=1.5)
    if measure == "energy_in_boxes":
        axis.axvline(100 * known[AREA].mean(), color="k", linestyle=":", label="chance: area of the boxes")
    axis.set_xlabel("in bed or window boxes, %", fontsize=8)
    axis.tick_params(labelsize=8)


def forget_windows(results: Path) -> Drawn:
    """DCGAN, Figure 6: the same z with and without the maps that draw windows; below, windows and beds detected.

    The paper's two rows first; then, ours, the other reading of its layer, as many random maps, and our rule.
    """
    sizes = dict.fromkeys(ROWS, 4)
    found = result_files.arrays(results / "pictures.npz", **sizes)
    forgotten = result_files.table(results / "forgetting.parquet", FORGETTING)
    if found is None or forgotten is None:
        return empty(NOT_RUN, FORGETTING)
    if not len(found["kept"]):
        drawn = empty(NOT_KNOWN, FORGETTING)
        return Drawn(figure=drawn.figure, metrics={"n_shown": 0}, numbers=drawn.numbers)

    def layout(scale: float) -> mosaic.Canvas:
        rows = []
        for name, (layer, dropped) in ROWS.items():
            row = mosaic.tiles(found[name], columns=max(len(found[name]), 1), scale=scale)
            title = mosaic.words(_row_title(forgotten, layer, dropped), width=row.shape[1], size=13)
            rows.append(mosaic.below(title, row))
        plot = [_forgetting_plot(forgotten, rows[0].shape[1])] if len(forgotten) else []
        return mosaic.titled("The same z with all maps and without some", *rows, *plot)

    made = mosaic.fitted(layout, scale=1)
    metrics: Metrics = {"n_shown": len(found["kept"])} | made.size()
    classifiers = result_files.table(results / "classifier.parquet", CLASSIFIER)
    for layer in LAYERS:
        rows = forgotten[forgotten["layer"] == layer]
        own = {} if rows.empty else _forgetting_metrics(rows)
        if classifiers is not None:
            fitted = classifiers[classifiers["layer"] == layer].to_dict("records")
            own |= {f"classifier_{row['negatives']}": _classifier_metrics(row) for row in fitted}
        if own:
            metrics[f"layer_{layer}"] = own
    detectors = result_files.table(results / "detector.parquet", DETECTOR)
    if detectors is not None and len(detectors):
        metrics["detector"] = {
            str(name): {row["part"]: _detector_metrics(row) for row in rows.to_dict("records")}
            for name, rows in detectors.groupby("detector", sort=False)
        }
    return Drawn(figure=made.picture, metrics=metrics, numbers=forgotten)


def _row_title(forgotten: pd.DataFrame, layer: str, dropped: str) -> str:
    if not layer:
        return BARS["none"][1]
    rows = forgotten[(forgotten["layer"] == layer) & (forgotten["dropped"] == dropped)]
    counts = f": {rows['n_dropped'].iloc[0]} of {rows['n_maps'].iloc[0]} maps dropped" if len(rows) else ""
    return f"{BARS[dropped][1]}, {layer.replace('x', ' x ')}{counts}"


def _forgetting_metrics(rows: pd.DataFrame) -> Metrics:
    """Of one layer: detections before and after, and their fall in %; of random maps mean and spread over the draws."""
    before = rows[rows["dropped"] == "none"]
    metrics: Metrics = {"n_images": int(rows["n_images"].iloc[0]), "n_maps": int(rows["n_maps"].iloc[0])}
    if len(before):
        metrics["before"] = {part: int(before[part].iloc[0]) for part in PARTS}
    for dropped in list(BARS)[1:]:
        after = rows[rows["dropped"] == dropped]
        if after.empty:
            continue
        own: Metrics = {"n_dropped": int(after["n_dropped"].iloc[0])}
        if dropped.startswith("random"):
            own["n_draws"] = len(after)
        for part in PARTS:
            own[part] = round(float(after[part].mean()), 2)
            if len(after) > 1:
                own[f"{part}_sd"] = round(float(after[part].std(ddof=1)), 2)
            if len(before) and before[part].iloc[0]:
                own[f"{part}_fall_percent"] = round(100 * (1 - float(after[part].mean() / before[part].iloc[0])), 2)
        own["pixel_change"] = round(float(after["pixel_change"].mean()), 4)
        metrics[f"{dropped}_dropped"] = own
    return metrics


def _classifier_metrics(row: dict[Any, Any]) -> Metrics:
    """Guessing: the share of the commoner kind of place."""
    counts: Metrics = {name: int(row[name]) for name in ("n_boxes", "n_positive", "n_negative", "n_positive_weights")}
    if pd.notna(row["accuracy"]):
        commoner = max(row["n_positive"], row["n_negative"]) / (row["n_positive"] + row["n_negative"])
        shares = {"accuracy_percent": row["accuracy"], "guessing_percent": commoner}
        counts |= {name: round(100 * float(share), 2) for name, share in shares.items()}
    return counts


def _detector_metrics(row: dict[Any, Any]) -> Metrics:
    counts = {name: int(row[name]) for name in ("n_true", "n_found", "n_without", "n_found_without")}
    shares = {f"{name}_percent": round(100 * row[name], 2) for name in ("precision", "recall") if pd.notna(row[name])}
    iou = {"mean_iou": round(float(row["mean_iou"]), 4)} if pd.notna(row["mean_iou"]) else {}
    return counts | shares | iou


def _forgetting_plot(forgotten: pd.DataFrame, width: int) -> mosaic.Canvas:
    figure, (axis,) = canvas(columns=1, size=(mosaic.inches(width), 3.0))
    _draw_forgetting(axis, forgotten)
    return mosaic.plotted(figure)


def _draw_forgetting(axis: Any, forgotten: pd.DataFrame) -> None:
    """A bar for all that is dropped in each group: the windows and the beds of either layer."""
    groups = [(layer, part) for layer in LAYERS for part in PARTS]
    shown = [dropped for dropped in BARS if (forgotten["dropped"] == dropped).any()]
    width = 0.84 / len(shown)
    for number, dropped in enumerate(shown):
        colour, label = BARS[dropped]
        for place, (layer, part) in enumerate(groups):
            found = forgotten.loc[(forgotten["layer"] == layer) & (forgotten["dropped"] == dropped), part]
            if found.empty:
                continue
            spread = float(found.std(ddof=1)) if len(found) > 1 else None
            at = place + width * (number - (len(shown) - 1) / 2)
            axis.bar(
                at, found.mean(), 0.93 * width, yerr=spread, color=colour, capsize=3, label=None if place else label
            )
    names = [f"{part},\n{layer.replace('x', ' x ')}" for layer, part in groups]
    axis.set_xticks(range(len(groups)), names, fontsize=8)
    axis.set_ylabel(f"images of {forgotten['n_images'].iloc[0]} with one detected", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(alpha=0.3, axis="y")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
