"""Training runs and their health, from the model folders: losses, gradients, diversity, and whether a run collapsed."""

from pathlib import Path

import pandas as pd

from pipeline.core.records import number, read_parquet
from pipeline.models.store import read_run

ENDS = ("d_loss", "g_loss", "d_real", "d_fake")
NONE = "-"
COLLAPSED = 0.1  # diversity below this, as in training
NEVER_BELOW = f"never below {COLLAPSED}"  # not "healthy": noise in the pixels alone can keep the diversity above


def split(models: list[Path]) -> tuple[list[Path], list[str]]:
    """The models that this profile has, and the names of those that it has not trained.

    The folder of one that has not been trained may be there: ``dvc checkout`` makes it, and leaves it empty.
    """
    trained = [model for model in models if model.is_dir() and any(model.iterdir())]
    return trained, [model.name for model in models if model not in trained]


def runs_table(models: list[Path]) -> list[str]:
    """Markdown: steps, the epochs chosen on validation images, and the last losses; means over the seeds."""
    trained, missing = split(models)
    lines = [
        "| run | seeds | steps | epochs chosen | D loss, end | G loss, end | D(x), end | D(G(z)), end |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for model in trained:
        run = read_run(model)
        validation, history = _table(model, "validation"), _table(model, "history")
        chosen = "released arrays, not trained here" if "released" in run else "last"  # unless validation chose
        if len(validation):
            chosen = ", ".join(map(str, validation[validation["chosen"]].groupby("seed")["epoch"].first()))
        ends = " | ".join(_end(history, name) for name in ENDS)
        seeds = ", ".join(map(str, run["params"]["seeds"]))
        lines.append(f"| {run['run']} | {seeds} | {run['steps']:,} | {chosen} | {ends} |")
    return [*lines, *_not_run(missing)]


def health_table(models: list[Path]) -> list[str]:
    """Markdown: gradient norms at the end, diversity of generated images, and in words whether a run collapsed."""
    trained, missing = split(models)
    lines = [
        "| run | D gradient, end | G gradient, end | diversity, end | lowest diversity | health |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for model in trained:
        history, health = _table(model, "history"), _table(model, "health")
        gradients = " | ".join(_end(history, name) for name in ("d_gradient", "g_gradient"))
        cells = f"{_end(health, 'diversity')} | {_lowest(health)} | {verdict(health)}"
        lines.append(f"| {read_run(model)['run']} | {gradients} | {cells} |")
    return [*lines, *_not_run(missing)]


def verdict(health: pd.DataFrame) -> str:
    """In words, from rows ([split], seed, epoch, diversity, collapsed): which networks collapsed, and when.

    Epochs are counted as done; not every one has a row, so a collapse is dated by the first row that shows it.
    """
    if health.empty:
        return "no record"
    told = []
    for network, rows in health.groupby(_network(health), sort=True):
        in_order = rows.sort_values("epoch", kind="stable")
        collapsed = in_order["collapsed"].to_numpy(dtype=bool)
        if not collapsed.any():
            continue
        first = in_order["epoch"].iloc[int(collapsed.argmax())]
        end = "" if collapsed[-1] else ", not at the end"
        whose = ", ".join(f"{key} {n}" for key, n in zip(_network(health), network, strict=True))
        told.append(f"**collapsed after epoch {first}**{end} ({whose})")
    return "; ".join(told) or NEVER_BELOW


def _network(table: pd.DataFrame) -> list[str]:
    """The columns that tell a run's networks apart: semi-supervised ones are pairs of a labelled split and a seed."""
    return [name for name in ("split", "seed") if name in table]


def _table(model: Path, name: str) -> pd.DataFrame:
    """A table of a model folder; empty where the run kept none, such as one whose networks were released."""
    path = model / f"{name}.parquet"
    return read_parquet(path) if path.is_file() else pd.DataFrame()


def _end(table: pd.DataFrame, name: str) -> str:
    """Mean over the networks of the last number of each; a row has none for a network that was not updated."""
    ends = table.groupby(_network(table))[name].last() if name in table else pd.Series(dtype=float)
    return NONE if ends.isna().all() else number(ends.mean(), "", digits=3)


def _lowest(health: pd.DataFrame) -> str:
    if health.empty or health["diversity"].isna().all():
        return NONE
    lowest = health.sort_values(["diversity", *_network(health), "epoch"], kind="stable").iloc[0]
    return f"{number(lowest['diversity'], 'share', digits=3)} after epoch {lowest['epoch']:.0f}"


def _not_run(missing: list[str]) -> list[str]:
    return ["", f"Not run in this profile: {', '.join(missing)}."] if missing else []
