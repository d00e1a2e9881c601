"""The toy games of Improved GAN, section 3.3: paths with and without historical averaging, and the sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import read_parquet
from pipeline.reporting.drawing import Drawn, Metrics, canvas

DIGITS = 6  # significant digits of a metric
LATE = 0.9  # of the steps: from here on the largest distance is taken
MOST_STEPS = 201  # rows of the numbers over steps
FAR = 100.0  # a path that diverged is drawn up to this distance
LEAST = 1e-12  # a distance of 0 on an axis that is logarithmic
PLAIN, AVERAGED = "plain", "averaged"
RUN = ["start_x", "start_y", "strength", "learning_rate"]
MEASURED = ["start_distance", "final_distance", "late_distance", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Game:
    """What is said of a game, and where its equilibrium lies."""

    title: str
    equilibrium: tuple[float, float]


GAMES = {
    "xy": Game(title="xy", equilibrium=(0.0, 0.0)),
    "kinked": Game(title="(f(x) \N{MINUS SIGN} 1)(y \N{MINUS SIGN} 1)", equilibrium=(1.0, 1.0)),
}


def toy_games(results: Path) -> Drawn:
    """A row a game: plain descent, historical averaging, distance over steps, final distance over lambda.

    The numbers are the runs of the trajectories and of the sweep, a row each, then the largest distance over the
    starts at each step.
    """
    paths, sweep = _read(results / "trajectories.parquet"), _read(results / "sweep.parquet")
    figure, axes = canvas(columns=4, rows=len(GAMES), size=(14.0, 8.0))
    figure.suptitle("dot: start, cross: end, star: equilibrium", fontsize=9)
    metrics: Metrics = {}
    runs, over_steps = [], []
    for number, (name, game) in enumerate(GAMES.items()):
        mine, swept = paths[paths["game"] == name], sweep[sweep["game"] == name]
        plain, averaged = mine[mine["strength"] == 0], mine[mine["strength"] > 0]
        on_plain, on_averaged, on_steps, on_sweep = axes[4 * number : 4 * number + 4]
        _draw_paths(on_plain, plain, game, "plain descent")
        _draw_paths(on_averaged, averaged, game, f"averaging, \N{GREEK SMALL LETTER LAMDA} = {_strength(averaged):g}")
        _draw_over_steps(on_steps, plain, averaged)
        _draw_sweep(on_sweep, swept)
        summary = _summary(mine)
        metrics[name] = _metrics(summary)
        runs += [summary.assign(game=name, part="trajectories"), swept.assign(part="sweep")]
        over_steps += [_largest(rows).rename(f"{name}_{kind}") for kind, rows in ((PLAIN, plain), (AVERAGED, averaged))]
    curves = pd.concat(over_steps, axis=1).reset_index()
    kept = np.unique(np.linspace(0, len(curves) - 1, min(MOST_STEPS, len(curves))).round().astype(int))
    table = pd.concat(runs, ignore_index=True)[["part", "game", *RUN, *MEASURED]]
    numbers = pd.concat([table, curves.iloc[kept]], ignore_index=True).astype({"diverged": object, "step": "Int64"})
    return Drawn(figure=figure, metrics=metrics, numbers=numbers)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        message = f"{path}: missing; run dvc repro toy_games"
        raise InputError(message)
    return read_parquet(path)


def _strength(rows: pd.DataFrame) -> float:
    return float(rows["strength"].iloc[0])


def _largest(rows: pd.DataFrame) -> pd.Series:
    """Largest distance over the starts, at each step."""
    return rows.groupby("step", sort=True)["distance"].max()


def _summary(paths: pd.DataFrame) -> pd.DataFrame:
    """A row a path: the columns of ``RUN`` and ``MEASURED``, and the number of its start."""
    late = paths[paths["step"] > LATE * paths["step"].max()].groupby(["start", *RUN])["distance"].max()
    by_run = paths.sort_values("step").groupby(["start", *RUN])
    summary = pd.DataFrame(
        {
            "start_distance": by_run["distance"].first(),
            "final_distance": by_run["distance"].last(),
            "late_distance": late,
            "diverged": by_run["diverged"].last(),
        }
    )
    return summary.reset_index()


def _metrics(summary: pd.DataFrame) -> Metrics:
    """Of each start: final distance without and with averaging, and whether the former is larger than at the start."""
    metrics: Metrics = {}
    for start, rows in summary.groupby("start", sort=True):
        plain, averaged = rows[rows["strength"] == 0].iloc[0], rows[rows["strength"] > 0].iloc[0]
        metrics[f"start_{start}"] = {
            "x": float(plain["start_x"]),
            "y": float(plain["start_y"]),
            "start_distance": _rounded(plain["start_distance"]),
            "plain_final_distance": _rounded(plain["final_distance"]),
            "plain_late_distance": _rounded(plain["late_distance"]),
            "plain_diverged": bool(plain["diverged"]),
            "plain_ended_further_away": bool(plain["final_distance"] > plain["start_distance"]),
            "averaged_final_distance": _rounded(averaged["final_distance"]),
            "averaged_diverged": bool(averaged["diverged"]),
        }
    return metrics


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _draw_paths(axis: Any, paths: pd.DataFrame, game: Game, title: str) -> None:
    """Dot: start; cross: end; star: equilibrium. A path that diverged has no end and is drawn up to ``FAR``."""
    for start, path in paths.groupby("start", sort=True):
        first, last = path.iloc[0], path.iloc[-1]
        end = "diverges" if last["diverged"] else f"ends {last['distance']:.2g} away"
        label = f"from ({first['start_x']:g}, {first['start_y']:g}), {end}"
        colour = f"C{start}"
        shown = path[path["distance"] <= FAR] if last["diverged"] else path
        axis.plot(shown["x"], shown["y"], color=colour, linewidth=0.6, label=label)
        axis.plot(first["x"], first["y"], "o", color=colour, markersize=6, markeredgecolor="w", zorder=3)
        if not last["diverged"]:
            axis.plot(last["x"], last["y"], "X", color=colour, markersize=7, markeredgecolor="w", zorder=3)
    axis.plot(*game.equilibrium, "k*", markersize=13, markeredgecolor="w", zorder=4)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel("x, which minimises")
    axis.set_ylabel("y, which maximises")
    axis.set_title(f"{game.title}: {title}", fontsize=10)
    axis.grid(alpha=0.3)
    _legend(axis, columns=1)


def _draw_over_steps(axis: Any, plain: pd.DataFrame, averaged: pd.DataFrame) -> None:
    for colour, label, rows in (("C3", "plain descent", plain), ("C2", "averaging", averaged)):
        largest = _largest(rows).clip(lower=LEAST)
        axis.plot(largest.index, largest, color=colour, linewidth=0.8, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("steps")
    axis.set_ylabel("distance, the furthest run")
    axis.set_title(f"step size {plain['learning_rate'].iloc[0]:g}", fontsize=10)
    axis.grid(alpha=0.3)
    _legend(axis)


def _draw_sweep(axis: Any, sweep: pd.DataFrame) -> None:
    """Of several starts the one that ended furthest away; crosses above the dashed line: at least one diverged."""
    worst = sweep.groupby(["learning_rate", "strength"], sort=True)[["final_distance", "diverged"]].max()
    kept = worst.loc[~worst["diverged"], "final_distance"].clip(lower=LEAST)
    furthest_start = float(sweep["start_distance"].max())
    ceiling = 2 * max(furthest_start, LEAST, *kept)
    positive = sorted(strength for strength in sweep["strength"].unique() if strength > 0)
    zero_at = positive[0] / 10 if positive else 1.0
    for number, (rate, rows) in enumerate(worst.groupby(level="learning_rate", sort=True)):
        of_rate = rows.droplevel("learning_rate")
        at = np.where(of_rate.index > 0, of_rate.index, zero_at)
        distance = of_rate["final_distance"].clip(lower=LEAST).mask(of_rate["diverged"]).to_numpy()
        averaged = np.asarray(of_rate.index > 0)
        axis.plot(at[averaged], distance[averaged], "o-", color=f"C{number}", markersize=4, label=f"step size {rate:g}")
        axis.plot(at[~averaged], distance[~averaged], "o", color=f"C{number}", markersize=4)
        gone = at[of_rate["diverged"].to_numpy()]
        axis.plot(gone, np.full(len(gone), ceiling * 1.7 ** (number + 1)), "x", color=f"C{number}", markersize=6)
    axis.axhline(furthest_start, color="0.5", linestyle=":", linewidth=1, label="the furthest start")
    if worst["diverged"].any():
        axis.axhline(ceiling, color="k", linestyle="--", linewidth=0.8)
        axis.text(0.98, ceiling * 1.15, "diverged", ha="right", transform=axis.get_yaxis_transform(), fontsize=8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = [zero_at, *(10.0**power for power in _powers(positive))]
    axis.set_xticks(ticks, ["0", *(f"{tick:g}" for tick in ticks[1:])])
    axis.tick_params(axis="x", which="minor", bottom=False)
    axis.set_xlabel("\N{GREEK SMALL LETTER LAMDA}, weight of historical averaging")
    axis.set_ylabel(f"distance after {sweep['n_steps'].iloc[0]:,} steps, the furthest run")
    axis.set_title("other weights and step sizes", fontsize=10)
    axis.grid(alpha=0.3)
    _legend(axis)


def _powers(positive: list[float]) -> range:
    """Exponents of the powers of ten from the smallest value to the largest."""
    if not positive:
        return range(0)
    return range(int(np.ceil(np.log10(positive[0]))), int(np.floor(np.log10(positive[-1]))) + 1)


def _legend(axis: Any, columns: int = 2) -> None:
    """Below the axes, so that it hides no line."""
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns)
