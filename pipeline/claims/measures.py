"""What claims are judged by: each function reads what stages left and gives one number a seed, split or draw.

Numbers of two arms with the same index (the same seed, the same draw of labels) are compared in pairs.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import read_parquet, slug

MODELS, RESULTS = "data/embedded/models", "data/embedded/results"
TABLES = "reports/embedded/tables"


class Outputs(Protocol):
    """What one arm left: the committed results, or those of an experiment."""

    def path(self, name: str) -> Path:
        """Where the bytes of an output lie, named as in dvc.yaml; InputError if there are none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One side of a comparison.

    Attributes
    ----------
    values : float64, a number each; the index says of which seed, split or draw
    interval : of a single value, if the results have one
    """

    values: pd.Series
    interval: tuple[float, float] | None = None


# ---- DCGAN's training ----------------------------------------------------------------------------------------------


def loss_oscillation(outputs: Outputs, *, run: str, loss: str, window: int, skip: float) -> Measured:
    """How far a loss swings about its own trend: the standard deviation of loss - moving mean, a seed each.

    Parameters
    ----------
    run, loss : of ``train.runs``; a column of its history, ``d_loss`` or ``g_loss``
    window : logged rows of the centred moving mean; odd
    skip : share of the rows that is left out at the start, where losses fall
    """
    history = _table(outputs, f"{MODELS}/{run}/history.parquet", ("seed", "step", loss))
    values = {}
    for seed, rows in history.sort_values("step").groupby("seed"):
        kept = _complete(rows[loss].iloc[int(skip * len(rows)) :], f"{run}, seed {seed}: {loss}")
        trend = kept.rolling(window, center=True).mean()
        if trend.notna().sum() < 2:
            message = f"{run}: {len(kept)} logged rows are too few for a moving mean of {window}"
            raise InputError(message)
        values[seed] = float((kept - trend).std(ddof=0))
    return Measured(values=_series(values))


def final_diversity(outputs: Outputs, *, run: str) -> Measured:
    """Diversity of the samples after the last epoch, a network each: 1 = as varied as real images, 0 = all alike."""
    health = _health(outputs, run)
    return Measured(values=health[health["epoch"] == health["epoch"].max()].set_index("network")["diversity"])


def diversity_gap(outputs: Outputs, *, run: str, until_epoch: int) -> Measured:
    """|1 - diversity|, averaged over the epochs up to one, a network each: small = soon as varied as real images."""
    health = _health(outputs, run)
    early = health[health["epoch"] <= until_epoch]
    if early.empty:
        message = f"{run}: no epoch up to {until_epoch} was looked at (sample_every_epochs)"
        raise InputError(message)
    return Measured(values=(1 - early["diversity"]).abs().groupby(early["network"]).mean())


def diversity_oscillation(outputs: Outputs, *, run: str, after_epoch: int) -> Measured:
    """How far diversity jumps from one recorded epoch to the next: the mean |difference|, a network each."""
    health = _health(outputs, run)
    late = health[health["epoch"] > after_epoch].sort_values("epoch")
    jumps = late.groupby("network")["diversity"].diff().abs()
    if jumps.notna().sum() == 0:
        message = f"{run}: fewer than two epochs after epoch {after_epoch} were looked at (sample_every_epochs)"
        raise InputError(message)
    return Measured(values=jumps.groupby(late["network"]).mean())


def validation_error(outputs: Outputs, *, run: str, until_epoch: int) -> Measured:
    """1-nearest-neighbour error on validation digits by generated ones at the last epoch up to one, %, a seed each."""
    found = _table(
        outputs, f"{MODELS}/{run}/validation.parquet", ("seed", "epoch", "n_images", "error_percent")
    ).astype({"seed": int})
    found = found[(found["n_images"] == found["n_images"].max()) & (found["epoch"] <= until_epoch)]
    if found.empty:
        message = f"{run}: no validation error up to epoch {until_epoch}; only runs with a selection have any"
        raise InputError(message)
    return Measured(values=found[found["epoch"] == found["epoch"].max()].set_index("seed")["error_percent"])


def alike_filters(outputs: Outputs, *, run: str, tensor: str, least_cosine: float, least_norm: float) -> Measured:
    """Share of a layer's filters that are dead or alike, %, a seed each.

    Parameters
    ----------
    run, tensor : a convolution of the model, such as ``discriminator/0.0.weight``, of shape (filters, ...)
    least_cosine : |cosine| with another filter from which on both are alike
    least_norm : share of the median norm below which a filter is dead
    """
    from safetensors.numpy import load_file

    tensors = load_file(outputs.path(f"{MODELS}/{run}/networks.safetensors"))
    found = {name.partition("/")[0]: weight for name, weight in tensors.items() if name.partition("/")[2] == tensor}
    if not found:
        names = ", ".join(sorted({name.partition("/")[2] for name in tensors}))
        message = f"{run}: no tensor '{tensor}'; found {names}"
        raise InputError(message)
    values = {
        int(seed.removeprefix("seed")): 100 * float(_alike(weight, least_cosine, least_norm).mean())
        for seed, weight in found.items()
    }
    return Measured(values=_series(values))


def _alike(weight: np.ndarray, least_cosine: float, least_norm: float) -> np.ndarray:
    """bool (filters,): dead, or with a twin among those that live."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    dead = norms < least_norm * np.median(norms)
    unit = flat / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
    cosines = np.abs(unit @ unit.T)
    np.fill_diagonal(cosines, 0.0)
    cosines[:, dead] = 0.0
    return dead | (cosines.max(axis=1) >= least_cosine)


# ---- classification, samples and games -----------------------------------------------------------------------------


def classification_error(outputs: Outputs, *, run: str) -> Measured:
    """Test error after the last epoch with averaged parameters, %, a network (split and seed) each."""
    errors = _table(outputs, f"{MODELS}/{run}/errors.parquet", ("split", "seed", "epoch", "error_percent"))
    last = errors[errors["epoch"] == errors["epoch"].max()]
    return Measured(values=last.set_index(_network(last))["error_percent"])


def sample_score(outputs: Outputs, *, run: str, quantity: str) -> Measured:
    """A score of generated images (column ``quantity`` of stage score), its mean over the splits, a seed each."""
    found = _table(outputs, f"{RESULTS}/improved_table3/{run}.parquet", ("seed", "quantity", "value"))
    chosen = found[found["quantity"] == quantity]
    if chosen.empty:
        message = f"{run}: no score '{quantity}'; found {', '.join(sorted(set(found['quantity'])))}"
        raise InputError(message)
    _complete(chosen["value"], f"{run}: {quantity}")
    return Measured(values=chosen.groupby("seed")["value"].mean())


def game_distance(outputs: Outputs, *, strength: float, learning_rate: float) -> Measured:
    """Largest distance to the equilibrium late in a toy game, a game and start each."""
    columns = ("game", "start", "strength", "learning_rate", "late_distance")
    sweep = _table(outputs, f"{RESULTS}/toy_games/sweep.parquet", columns)
    chosen = sweep[np.isclose(sweep["strength"], strength) & np.isclose(sweep["learning_rate"], learning_rate)]
    if chosen.empty:
        message = f"toy_games: no game with strength {strength:g} and learning rate {learning_rate:g} was played"
        raise InputError(message)
    return Measured(values=chosen.set_index(chosen["game"] + "/" + chosen["start"].astype(str))["late_distance"])


def neighbour_error(outputs: Outputs, *, run: str, n_images: int) -> Measured:
    """Test error of a 1-nearest-neighbour classifier built on so many generated digits, %, a seed each."""
    columns = ("seed", "network", "n_images", "error_percent")
    found = _table(outputs, f"{RESULTS}/dcgan_table3/{run}.parquet", columns)
    chosen = found[(found["network"] == "generator") & (found["n_images"] == n_images)]
    if chosen.empty:
        message = f"{run}: no search of {n_images:,} generated digits (neighbours.n_images)"
        raise InputError(message)
    return Measured(values=chosen.set_index("seed")["error_percent"])


def probe_error(outputs: Outputs, *, table: str, features: str, labels_per_class: int) -> Measured:
    """Test error of an L2-SVM on features with so many labels a class, %, a draw of the labels each."""
    columns = ("purpose", "labels_per_class", "draw", "error_percent")
    found = _table(outputs, f"{RESULTS}/{table}/{features}.parquet", columns)
    chosen = found[(found["purpose"] == "test") & (found["labels_per_class"] == labels_per_class)]
    if chosen.empty:
        message = f"{features}: no test with {labels_per_class} labels a class (probe.labels_per_class)"
        raise InputError(message)
    return Measured(values=chosen.set_index("draw")["error_percent"])


def arithmetic_share(outputs: Outputs, *, space: str, n_exemplars: int) -> Measured:
    """Share of the arithmetic problems on faces that come out right, %, with its Wilson interval."""
    columns = ("space", "n_exemplars", "share", "low", "high")
    found = _table(outputs, f"{RESULTS}/dcgan_fig7/arithmetic.parquet", columns)
    chosen = found[(found["space"] == space) & (found["n_exemplars"] == n_exemplars)]
    if len(chosen) != 1:
        message = f"arithmetic: no row of {n_exemplars} exemplars in space '{space}'"
        raise InputError(message)
    row = chosen.iloc[0]
    interval = (100 * float(row["low"]), 100 * float(row["high"]))
    return Measured(values=_series({"all": 100 * float(row["share"])}), interval=interval)


def table_cells(outputs: Outputs, *, table: str, row: str) -> Measured:
    """The measured numbers of one row of a committed table, a column each."""
    found = pd.read_csv(outputs.path(f"{TABLES}/{table}.csv"))
    chosen = found[(found["row"] == row) & found["measured"].notna()]
    if chosen.empty:
        message = f"{table}: nothing measured in row '{row}'; rows: {', '.join(dict.fromkeys(found['row']))}"
        raise InputError(message)
    return Measured(values=chosen.set_index(chosen["column"].map(slug))["measured"])


MEASURES: Mapping[str, Callable[..., Measured]] = {
    function.__name__: function
    for function in (
        loss_oscillation,
        final_diversity,
        diversity_gap,
        diversity_oscillation,
        validation_error,
        alike_filters,
        classification_error,
        sample_score,
        game_distance,
        neighbour_error,
        probe_error,
        arithmetic_share,
        table_cells,
    )
}


def measure(metric: str, outputs: Outputs, parameters: Mapping[str, Any]) -> Measured:
    """One side of a claim; the values sorted by index, float64.

    Raises
    ------
    InputError
        If an output or what it should hold is missing, or a number is none.
    """
    found = MEASURES[metric](outputs, **parameters)
    values = found.values.astype("float64").sort_index()
    if not np.isfinite(values).all():
        message = f"{metric}: a number is NaN or infinite"
        raise InputError(message)
    return Measured(values=values, interval=found.interval)


def refusal(metric: str, parameters: Mapping[str, Any]) -> str:
    """What is wrong with the parameters of a metric; empty if nothing is."""
    expected = {
        name: parameter.annotation
        for name, parameter in inspect.signature(MEASURES[metric]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    wanted = ", ".join(expected)
    if missing := [name for name in expected if name not in parameters]:
        return f"metric {metric}: missing parameter {', '.join(missing)} in of; expected {wanted}"
    if unknown := [name for name in parameters if name not in expected]:
        return f"metric {metric}: unknown parameter {', '.join(unknown)} in of; expected {wanted}"
    for name, kind in expected.items():
        value = parameters[name]
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            return f"metric {metric}, {name}: expected {kind.__name__}, found {value!r}"
    return ""


# ---- reading -------------------------------------------------------------------------------------------------------


def _table(outputs: Outputs, name: str, columns: Iterable[str]) -> pd.DataFrame:
    """These columns of a parquet output; InputError if one is missing or there is no row."""
    found, columns = read_parquet(outputs.path(name)), list(columns)
    missing = [column for column in columns if column not in found]
    if missing:
        message = f"{name}: found columns {', '.join(map(str, found))}; expected also {', '.join(missing)}"
        raise InputError(message)
    if found.empty:
        message = f"{name}: no rows"
        raise InputError(message)
    return found[columns]


def _health(outputs: Outputs, run: str) -> pd.DataFrame:
    """epoch, diversity and network (the seed, or split/seed), of a run of ``train`` or of ``semisup``."""
    health = read_parquet(outputs.path(f"{MODELS}/{run}/health.parquet"))
    if health.empty:
        message = f"{run}: no samples were looked at"
        raise InputError(message)
    _complete(health["diversity"], f"{run}: diversity")
    return health.assign(network=_network(health))


def _complete(numbers: pd.Series, what: str) -> pd.Series:
    """The numbers, all finite: pandas would leave NaN out of a mean or a standard deviation without a word."""
    if not np.isfinite(numbers.astype("float64")).all():
        message = f"{what}: a number is NaN or infinite"
        raise InputError(message)
    return numbers


def _network(rows: pd.DataFrame) -> pd.Series:
    seeds = rows["seed"].astype(int).astype(str)
    return rows["split"].astype(int).astype(str) + "/" + seeds if "split" in rows else seeds


def _series(values: Mapping[Any, float]) -> pd.Series:
    return pd.Series(values, dtype="float64")
