"""Curves of the linear probes: over C on validation images, over the number of labels on test images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty, say
from pipeline.reporting.probe_results import (
    ALL_LABELS,
    CIFAR10_FEATURES,
    CIFAR10_PER_CLASS,
    PIXELS,
    SVHN_FEATURES,
    SVHN_PER_CLASS,
    TRIALS,
    chosen_from,
    most_labels,
    ranked,
    read,
    tested,
)
from pipeline.reporting.rows import NOT_RUN

ALL, PER_CLASS = "all_labels", "per_class"
STYLES = {ALL: "-", PER_CLASS: "--"}
OVER_C, OVER_LABELS, OVER_TRIALS = "log10_c", "log10_n_labels", "trial_rank"
PIXEL_TITLE = {PIXELS: "pixels, nearest neighbour"}
BARS = "bars: one standard deviation over draws of labels"
ERRORS = {"validation_error_percent": "trial_validation", "test_error_percent": "trial_test"}
SETTINGS = (
    "learning_rate",
    "beta1",
    "l2",
    "dropout",
    "batch_size",
    "initial_std",
    "batch_norm",
    "epochs",
    "best_epoch",
)


def table1_probes(results: Path) -> Drawn:
    """CIFAR-10 accuracy over C (left) and over the number of labels (right), a line a feature set."""
    found = read(results, CIFAR10_FEATURES)
    if not found:
        return empty(NOT_RUN, _columns(CIFAR10_FEATURES, CIFAR10_FEATURES))
    figure, (over_c, over_labels) = canvas(columns=2, size=(11.0, 5.6))
    blocks = _draw_over_c(over_c, found, CIFAR10_FEATURES, CIFAR10_PER_CLASS, accuracy=True)
    blocks += _draw_over_labels(over_labels, found, CIFAR10_FEATURES, accuracy=True)
    over_c.set_ylabel("accuracy on validation images, %")
    over_labels.set_ylabel("test accuracy, %")
    numbers = _wide(blocks, _columns(CIFAR10_FEATURES, CIFAR10_FEATURES))
    return Drawn(figure=figure, metrics=_metrics(found, accuracy=True), numbers=numbers)


def table2_probes(results: Path) -> Drawn:
    """SVHN error over C, over the number of labels, and of the supervised trials, the best first."""
    shown = SVHN_FEATURES | PIXEL_TITLE
    found = read(results, shown)
    trials = read(results, [TRIALS]).get(TRIALS)
    columns = [*_columns(SVHN_FEATURES, shown), OVER_TRIALS, "trial", *ERRORS.values(), *SETTINGS]
    if not found and trials is None:
        return empty(NOT_RUN, columns)
    figure, (over_c, over_labels, over_trials) = canvas(columns=3, size=(15.0, 5.6))
    probes = {name: rows for name, rows in found.items() if name in SVHN_FEATURES}
    blocks = _draw_over_c(over_c, probes, SVHN_FEATURES, SVHN_PER_CLASS, accuracy=False)
    blocks += _draw_over_labels(over_labels, found, shown, accuracy=False)
    metrics = _metrics(found, accuracy=False)
    over_c.set_ylabel("error on validation images, %")
    over_labels.set_ylabel("test error, %")
    if trials is None:
        say(over_trials, f"supervised CNN: {NOT_RUN}")
    else:
        trials = ranked(trials)
        best = trials.iloc[0]
        blocks.append(_draw_trials(over_trials, trials))
        over_labels.plot(best["n_labels"], best["test_error_percent"], "k*", markersize=10, label="supervised CNN")
        _legend(over_labels, BARS if found else None)
        metrics[TRIALS] = {
            "n_trials": len(trials),
            "best_validation": round(float(best["validation_error_percent"]), 4),
            "test_of_best": round(float(best["test_error_percent"]), 4),
        }
    return Drawn(figure=figure, metrics=metrics, numbers=_wide(blocks, columns))


def _curve(rows: pd.DataFrame, x: str, *, accuracy: bool) -> pd.DataFrame:
    """Mean and sample standard deviation over the draws at each ``x``, its index; one draw has no deviation."""
    errors = rows.groupby(x, sort=True)["error_percent"]
    mean = 100 - errors.mean() if accuracy else errors.mean()
    return pd.DataFrame({"mean": mean, "spread": errors.std(ddof=1)})


def _draw(axis: Any, curve: pd.DataFrame, **style: Any) -> None:
    axis.errorbar(curve.index, curve["mean"], yerr=curve["spread"], marker="o", markersize=4, capsize=3, **style)


def _block(x: str, name: str, curve: pd.DataFrame) -> pd.DataFrame:
    """A curve as columns of the numbers: DVC's plots take a column a line, and know no log axis."""
    columns = {"mean": name, "spread": f"{name}_spread"}
    return curve.rename(columns=columns).set_index(np.log10(curve.index.to_numpy(dtype=float))).rename_axis(x)


def _draw_over_c(
    axis: Any, found: dict[str, pd.DataFrame], titles: dict[str, str], per_class: int, *, accuracy: bool
) -> list[pd.DataFrame]:
    """Validation images; a star marks the C that they chose."""
    blocks = []
    for number, (name, title) in enumerate(titles.items()):
        if name not in found:
            continue
        for kind, labels in ((ALL, ALL_LABELS), (PER_CLASS, most_labels(found[name], per_class))):
            rows = found[name].head(0) if labels is None else chosen_from(found[name], labels)
            if labels is None or rows.empty:
                continue
            curve = _curve(rows, "setting", accuracy=accuracy)
            label = f"{title}, {f'{labels} labels a class' if labels else 'all labels'}"
            _draw(axis, curve, color=f"C{number}", linestyle=STYLES[kind], label=label)
            chosen = tested(found[name], labels)["setting"].iloc[:1]
            axis.plot(chosen, curve["mean"].reindex(chosen), "*", color=f"C{number}", markersize=13)
            blocks.append(_block(OVER_C, f"{name}_{kind}", curve))
    _finish(axis, "C of the SVM (star: chosen)", drawn=bool(blocks))
    return blocks


def _draw_over_labels(
    axis: Any, found: dict[str, pd.DataFrame], titles: dict[str, str], *, accuracy: bool
) -> list[pd.DataFrame]:
    blocks = []
    for number, (name, title) in enumerate(titles.items()):
        if name not in found:
            continue
        curve = _curve(found[name][found[name]["purpose"] == "test"], "n_labels", accuracy=accuracy)
        _draw(axis, curve, color=f"C{number}", label=title)
        blocks.append(_block(OVER_LABELS, f"{name}_test", curve))
    _finish(axis, "labels", drawn=bool(blocks))
    return blocks


def _finish(axis: Any, x_label: str, *, drawn: bool) -> None:
    axis.set_xscale("log")
    axis.set_xlabel(x_label)
    axis.grid(alpha=0.3)
    if drawn:
        _legend(axis, BARS)


def _legend(axis: Any, title: str | None = None) -> None:
    """Above the axes, so that it hides no line."""
    axis.legend(
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=8,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
    )


def _draw_trials(axis: Any, trials: pd.DataFrame) -> pd.DataFrame:
    """``trials``, the best first."""
    rank = np.arange(1, len(trials) + 1)
    axis.plot(rank, trials["validation_error_percent"], "o-", markersize=4, label="supervised CNN, validation images")
    axis.plot(rank, trials["test_error_percent"], "x", markersize=4, label="test images")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("random trials, the best on validation images first")
    axis.set_ylabel("error, %")
    axis.grid(alpha=0.3)
    _legend(axis)
    shown = trials[["trial", *ERRORS, *SETTINGS]].rename(columns=ERRORS)
    return shown.set_index(pd.Index(rank, name=OVER_TRIALS))


def _columns(over_c: Iterable[str], over_labels: Iterable[str]) -> list[str]:
    """All columns that the numbers may have: the same ones whatever was run, since ``dvc.yaml`` names them."""
    lines = [f"{name}_{kind}" for name in over_c for kind in (ALL, PER_CLASS)]
    tests = [f"{name}_test" for name in over_labels]
    return [
        OVER_C,
        *(column for line in lines for column in (line, f"{line}_spread")),
        OVER_LABELS,
        *(column for line in tests for column in (line, f"{line}_spread")),
    ]


def _wide(blocks: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """One block of rows for each kind of x; within it a row an x and a column a line."""
    parts = [
        pd.concat(mine, axis=1).sort_index().rename_axis(x).reset_index()
        for x in (OVER_C, OVER_LABELS, OVER_TRIALS)
        if (mine := [block for block in blocks if block.index.name == x])
    ]
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def _metrics(found: dict[str, pd.DataFrame], *, accuracy: bool) -> Metrics:
    """Feature set -> what was tested with how many labels, and the setting chosen for it."""
    metrics: Metrics = {}
    for name, rows in found.items():
        test = rows[rows["purpose"] == "test"]
        curve = _curve(test, "n_labels", accuracy=accuracy)
        settings = test.groupby("n_labels", sort=True)["setting"].first()
        metrics[name] = {
            f"labels_{n}": {"mean": round(float(mean), 4), "setting": float(setting)}
            for n, mean, setting in zip(curve.index, curve["mean"], settings, strict=True)
        }
    return metrics
