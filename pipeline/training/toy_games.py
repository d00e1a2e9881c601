"""Two minimax games of two numbers, played by simultaneous gradient steps, with and without historical averaging.

Improved GAN, section 3.3: gradient descent goes into extended orbits where historical averaging finds the equilibrium.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Interval, Len, MinLen

from pipeline.core.params import section

DIVERGED = 1000.0  # distance from the equilibrium at which a run ends; no start may be further out than a tenth of it

# The upper limits keep the one step that leaves the circle of DIVERGED finite.
Coordinate = Annotated[float, Interval(ge=-DIVERGED / 10, le=DIVERGED / 10)]
Starts = Annotated[list[Annotated[list[Coordinate], Len(2, 2)]], MinLen(1)]
LearningRate = Annotated[float, Interval(gt=0, le=10)]
Strength = Annotated[float, Interval(ge=0, le=1000)]


@section
class ToyStarts:
    """``toy_games.starts``: points [x, y] from which each game is played."""

    xy: Starts
    kinked: Starts


@section
class ToyGames:
    """``toy_games`` in params.yaml.

    Attributes
    ----------
    learning_rate, strength : of the stored trajectories; strength is lambda, and lambda = 0 is stored beside it
    every : steps from one stored point to the next; the first and the last point are always stored
    sweep_strengths, sweep_learning_rates : every pair is played from every start, for as many steps; ascending
    """

    n_steps: Annotated[int, Ge(1)]
    learning_rate: LearningRate
    strength: Annotated[Strength, Gt(0)]
    every: Annotated[int, Ge(1)]
    starts: ToyStarts
    sweep_strengths: Annotated[list[Strength], MinLen(1)]
    sweep_learning_rates: Annotated[list[LearningRate], MinLen(1)]

    def __post_init__(self) -> None:
        for name in ("sweep_strengths", "sweep_learning_rates"):
            values = getattr(self, name)
            if any(a >= b for a, b in pairwise(values)):
                message = f"{name} must ascend, found {', '.join(f'{value:g}' for value in values)}"
                raise ValueError(message)


# ---- the games ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Game:
    """x minimises the value, y maximises it.

    Attributes
    ----------
    value : theta (n, 2) -> (n,); theta holds x and y of n independent runs
    gradient : theta (n, 2) -> (n, 2): of each player's own cost, d value / dx and - d value / dy
    """

    name: str
    equilibrium: tuple[float, float]
    value: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]

    def distance(self, theta: np.ndarray) -> np.ndarray:
        """Euclidean distance (...,) of the points (..., 2) to the equilibrium."""
        return np.sqrt(((theta - self.equilibrium) ** 2).sum(axis=-1))  # np.hypot differs from one libm to another


def _xy_value(theta: np.ndarray) -> np.ndarray:
    x, y = theta.T
    return x * y


def _xy_gradient(theta: np.ndarray) -> np.ndarray:
    x, y = theta.T
    return np.stack([y, -x], axis=1)


def _f(x: np.ndarray) -> np.ndarray:
    """f(x) = x for x < 0, x^2 otherwise."""
    return np.where(x < 0, x, x * x)


def _kinked_value(theta: np.ndarray) -> np.ndarray:
    x, y = theta.T
    return (_f(x) - 1) * (y - 1)


def _kinked_gradient(theta: np.ndarray) -> np.ndarray:
    """At the kink, x = 0, f' is taken from the right: 0.

    Far out, plain descent multiplies x by a factor below 1 for so long that it may underflow to 0, where it then stays.
    """
    x, y = theta.T
    slope = np.where(x < 0, 1.0, 2 * x)
    return np.stack([slope * (y - 1), 1 - _f(x)], axis=1)


XY = Game(name="xy", equilibrium=(0.0, 0.0), value=_xy_value, gradient=_xy_gradient)
KINKED = Game(name="kinked", equilibrium=(1.0, 1.0), value=_kinked_value, gradient=_kinked_gradient)


# ---- play -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Played:
    """What n runs went through.

    Attributes
    ----------
    steps : int64 (n_stored,), from 0 (the start) to the last one
    points : float64 (n_stored, n, 2), all finite
    diverged_at : int64 (n,), the first step further than ``DIVERGED`` from the equilibrium, where the run stays from
        then on; -1 if there was none
    late_distance : float64 (n,), the largest over the last tenth of the steps: where a run orbits, its last point may
        happen to be near
    """

    steps: np.ndarray
    points: np.ndarray
    diverged_at: np.ndarray
    late_distance: np.ndarray


def play(
    game: Game,
    starts: np.ndarray,
    strengths: np.ndarray,
    learning_rates: np.ndarray,
    *,
    n_steps: int,
    every: int,
) -> Played:
    """Simultaneous gradient descent of both players on cost + strength * ||theta - mean of past theta||^2.

    The mean includes the start, is updated after each step and is a constant in the gradient; weight and start of the
    mean: ours, the paper is silent. Each player's penalty is on its own number. Strength 0 is plain descent.

    Parameters
    ----------
    starts : float64 (n, 2)
    strengths, learning_rates : float64 (n,)
    every : steps from one stored point to the next; the first and the last are always stored
    """
    steps = stored_steps(n_steps, every)
    pull, rate = 2 * strengths[:, np.newaxis], learning_rates[:, np.newaxis]
    theta, mean = starts.astype(np.float64), starts.astype(np.float64)
    points = [theta]
    diverged_at = np.full(len(theta), -1)
    late_distance, late = np.zeros(len(theta)), n_steps - max(1, n_steps // 10)
    for step in range(1, n_steps + 1):
        gradient = game.gradient(theta) + pull * (theta - mean)
        theta = np.where(diverged_at[:, np.newaxis] < 0, theta - rate * gradient, theta)
        mean = updated_mean(mean, theta, n_past=step)

        distance = game.distance(theta)
        diverged_at[(diverged_at < 0) & (distance > DIVERGED)] = step
        if step > late:
            late_distance = np.maximum(late_distance, distance)
        if step == steps[len(points)]:
            points.append(theta)
    return Played(steps=steps, points=np.stack(points), diverged_at=diverged_at, late_distance=late_distance)


def updated_mean(mean: np.ndarray, theta: np.ndarray, *, n_past: int) -> np.ndarray:
    """The mean of ``n_past`` points and ``theta``, from the mean of the ``n_past`` points."""
    return mean + (theta - mean) / (n_past + 1)


def stored_steps(n_steps: int, every: int) -> np.ndarray:
    """int64: 0, every, 2 every, ... and ``n_steps``."""
    return np.unique(np.append(np.arange(0, n_steps, every), n_steps))


# ---- tables ---------------------------------------------------------------------------------------------------------


def trajectories(config: ToyGames) -> pd.DataFrame:
    """The path of each start, once without and once with averaging.

    Returns
    -------
    DataFrame
        game, start (its number), start_x, start_y, strength, learning_rate, step, x, y, distance, diverged (True from
        the step on at which the run diverged and since when it stays where it is).
    """
    return pd.concat([_paths(game, starts, config) for game, starts in _games(config)], ignore_index=True)


def _paths(game: Game, starts: Sequence[Sequence[float]], config: ToyGames) -> pd.DataFrame:
    runs = _runs(starts, [0.0, config.strength], [config.learning_rate])
    played = _play(game, runs, n_steps=config.n_steps, every=config.every)
    points = played.points.swapaxes(0, 1)  # (run, step, 2): the rows of a run together
    table = runs.loc[runs.index.repeat(len(played.steps))].reset_index(drop=True)
    table.insert(0, "game", game.name)
    table["step"] = np.tile(played.steps, len(runs))
    table["x"], table["y"] = points[..., 0].ravel(), points[..., 1].ravel()
    table["distance"] = game.distance(points).ravel()
    diverged_at = np.repeat(played.diverged_at, len(played.steps))
    table["diverged"] = (diverged_at >= 0) & (table["step"] >= diverged_at)
    return table


def sweep(config: ToyGames) -> pd.DataFrame:
    """One row a game, start, strength and learning rate.

    Returns
    -------
    DataFrame
        game, start, start_x, start_y, strength, learning_rate, n_steps, start_distance, final_distance, late_distance
        (the largest over the last tenth of the steps), diverged, diverged_at (-1 if not). A run that diverged keeps
        the distance at which it did: finite, and more than 1000.
    """
    tables = []
    for game, starts in _games(config):
        runs = _runs(starts, config.sweep_strengths, config.sweep_learning_rates)
        played = _play(game, runs, n_steps=config.n_steps, every=config.n_steps)
        distances = game.distance(played.points)
        tables.append(
            runs.assign(
                game=game.name,
                n_steps=config.n_steps,
                start_distance=distances[0],
                final_distance=distances[-1],
                late_distance=played.late_distance,
                diverged=played.diverged_at >= 0,
                diverged_at=played.diverged_at,
            )[["game", *runs.columns, "n_steps", *_RESULTS]]
        )
    return pd.concat(tables, ignore_index=True)


_RESULTS = ("start_distance", "final_distance", "late_distance", "diverged", "diverged_at")


def _games(config: ToyGames) -> list[tuple[Game, Sequence[Sequence[float]]]]:
    return [(XY, config.starts.xy), (KINKED, config.starts.kinked)]


def _runs(
    starts: Sequence[Sequence[float]], strengths: Sequence[float], learning_rates: Sequence[float]
) -> pd.DataFrame:
    """Every start with every strength and learning rate."""
    rows = [
        {"start": number, "start_x": float(x), "start_y": float(y), "strength": strength, "learning_rate": rate}
        for rate, strength, (number, (x, y)) in product(learning_rates, strengths, enumerate(starts))
    ]
    return pd.DataFrame(rows).astype({"strength": np.float64, "learning_rate": np.float64})


def _play(game: Game, runs: pd.DataFrame, *, n_steps: int, every: int) -> Played:
    return play(
        game,
        runs[["start_x", "start_y"]].to_numpy(),
        runs["strength"].to_numpy(),
        runs["learning_rate"].to_numpy(),
        n_steps=n_steps,
        every=every,
    )
