"""Scores of Improved GAN's Table 3 while its networks were trained: of generators that were kept on the way."""

from pathlib import Path

import pandas as pd

from pipeline import papers
from pipeline.core.records import read_parquet
from pipeline.reporting.drawing import Drawn, Metrics, canvas, empty
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.score_tables import CLASSIFIER, REAL, RUNS, SCORE

DECIMALS = 4  # of a score
MEASURES = {papers.INCEPTION_SCORE: "Inception score", f"{CLASSIFIER}_{SCORE}": "classifier score, ours"}


def score_over_steps(results: Path) -> Drawn:
    """A line a row of Table 3: mean over its seeds, the band from the lowest to the highest; dashed: real images.

    By the Inception network where all rows that were run have its scores, else by our own classifier: one measure.
    Scores are of fewer images than the table's, in one part.
    """
    found = {name: read_parquet(path) for name in RUNS.values() if (path := results / f"{name}.parquet").is_file()}
    runs = {name: table for name, table in found.items() if name != REAL and len(table)}
    if not runs:
        return empty(NOT_RUN)
    measure = next(m for m in MEASURES if all((table["quantity"] == m).any() for table in runs.values()))
    curves = {name: _curve(table, measure) for name, table in runs.items()}
    figure, (axis,) = canvas(columns=1, size=(7.0, 4.2))
    titles = {name: row for row, name in RUNS.items()}
    for name, curve in curves.items():
        axis.plot(curve.index, curve["mean"], marker="o", markersize=3, label=titles[name])
        axis.fill_between(curve.index, curve["min"], curve["max"], alpha=0.15)
    real = _of_real(found.get(REAL), measure)
    if real is not None:
        axis.axhline(real, color="0.5", linestyle="--", label=titles[REAL])
    n_images = sorted({int(n) for table in runs.values() for n in table["n_images"]})
    axis.set_title(f"{MEASURES[measure]}, of {', '.join(f'{n:,}' for n in n_images)} images a seed", fontsize=10)
    axis.set_xlabel("updates")
    axis.set_ylabel("score")
    axis.set_ylim(bottom=1)  # of one class, or of images that are all judged alike
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    missing = [row for row, name in RUNS.items() if name not in found]
    if missing:
        figure.suptitle(f"{NOT_RUN}: {', '.join(missing)}", fontsize=8)
    metrics: Metrics = {
        name: {f"step_{step}": round(float(mean), DECIMALS) for step, mean in curve["mean"].items()}
        for name, curve in curves.items()
    }
    if real is not None:
        metrics[REAL] = round(real, DECIMALS)
    numbers = pd.concat({name: curve["mean"] for name, curve in curves.items()}, axis=1).round(DECIMALS).reset_index()
    return Drawn(figure=figure, metrics=metrics, numbers=numbers)


def _curve(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """mean, min, max over the seeds, by step."""
    return table[table["quantity"] == measure].groupby("step", sort=True)["value"].agg(["mean", "min", "max"])


def _of_real(table: pd.DataFrame | None, measure: str) -> float | None:
    values = table.loc[table["quantity"] == measure, "value"] if table is not None else pd.Series(dtype="float64")
    return float(values.iloc[0]) if len(values) else None
