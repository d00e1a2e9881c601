"""Improved GAN's Tables 1 and 2 and its table for SVHN: test errors with few labels, of single models and ensembles.

Results: a folder a run, with ``run.json`` and ``logits.npz``: members (M, 2) of (split, seed), labels (n_test,), logits
(M, n_test, 10) of the test images, labels_only (M or 0, n_test, 10) of the same networks trained on the labelled images
alone. Run ``mnist-100`` fills column ``labels_100``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import ResultRow
from pipeline.evaluation.ensembles import (
    SPLIT,
    averaged_logits,
    averaged_probabilities,
    first_of_each_split,
    member_errors,
    split_errors,
    splits_of,
)
from pipeline.reporting.result_files import arrays
from pipeline.reporting.rows import NOT_RUN, Extra, Place, Report, joined, quoted, result

N_SPLITS, N_MEMBERS = 10, 10  # Improved GAN, section 6: ten labelled subsets, ensembles of ten
AVERAGED_LOGITS, ALL_NETWORKS = "Ensemble, averaged logits", "Our model, all seeds and splits"
LABELS_ONLY, MINIBATCH = "Same network, labels only", "Minibatch discrimination model"
COMBINED = {papers.ENSEMBLE: averaged_probabilities, AVERAGED_LOGITS: averaged_logits}
ONE_SEED = "no ensemble: each split has one seed only"
MINIBATCH_RUN = "mb_"  # begins the name of a run with minibatch discrimination
Value = str | float  # of a setting; a switch is a bool
SCALES = {papers.ERRORS_OF_10000: 10_000, papers.PERCENT_ERROR: 100}  # whatever the number of test images


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the authors' code has, by the names of the params.

    Attributes
    ----------
    current : the released code
    c0 : what its state when the paper was submitted has in another way; a script that is lost has nothing known there
    epochs, decay_epochs : by preset: all of them, and those in which the learning rate falls; absent if not known
    """

    current: Mapping[str, Value]
    c0: Mapping[str, Value]
    epochs: Mapping[str, int]
    decay_epochs: Mapping[str, int]

    def of(self, preset: str) -> dict[str, Value]:
        """The settings of a preset."""
        return {**self.current, **(self.c0 if preset == "c0" else {})}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, and what its runs have."""

    dataset: str
    title: str  # of the dataset of the quoted rows
    published: tuple[papers.Published, ...]
    n_images: int  # for training, with and without labels
    n_test: int
    matching: Settings  # runs with feature matching, one a column
    minibatch: Settings  # the run with minibatch discrimination
    minibatch_labels: int  # of its own column

    @property
    def unit(self) -> str:
        """Of all its rows."""
        return self.published[0].unit


SHARED: dict[str, Value] = {
    "noise": True,
    "weight_norm": True,
    "data_dependent": True,
    "reference_batch": 0,
    "z_dim": 100,
    "generator_steps": 1,
    "real_target": 1.0,
    "historical_averaging": 0.0,
    "parameter_average": 1e-4,
    "batch_size": 100,
    "learning_rate": 3e-4,
    "beta1": 0.5,
    "beta2": 0.999,
    "adam_epsilon": 1e-8,
}
DIGITS: dict[str, Value] = {"offset": 0.0, "divisor": 255.0}  # pixels
COLOURS: dict[str, Value] = {"offset": 127.5, "divisor": 128.0}
HOUSES: dict[str, Value] = {"offset": 127.5, "divisor": 127.5}
MATCHING: dict[str, Value] = SHARED | {"generator_loss": "absolute_feature_matching", "generator_width": 128}
OF_MINIBATCH: dict[str, Value] = {
    **SHARED,
    "generator_loss": "minimax",
    "generator_steps": 3,
    "generator_width": 128,
    "discriminator_width": 96,
    "n_kernels": 100,
    "kernel_dim": 5,
}
TABLE1 = Table(
    dataset="mnist",
    title="MNIST",
    published=papers.IMPROVED_TABLE1,
    n_images=60_000,
    n_test=10_000,
    matching=Settings(
        current={
            **SHARED,
            **DIGITS,
            "generator_loss": "squared_feature_matching",
            "learning_rate": 3e-3,
            "generator_width": 500,
            "discriminator_width": 250,
        },
        c0={"learning_rate": 1e-3, "parameter_average": 0.0},
        epochs={"current": 300, "c0": 300},
        decay_epochs={"current": 0, "c0": 100},
    ),
    minibatch=Settings(current=OF_MINIBATCH | DIGITS, c0={}, epochs={}, decay_epochs={}),
    minibatch_labels=4000,
)
TABLE2 = Table(
    dataset="cifar10",
    title="CIFAR-10",
    published=papers.IMPROVED_TABLE2,
    n_images=50_000,
    n_test=10_000,
    matching=Settings(
        current=MATCHING | COLOURS | {"discriminator_width": 96},
        c0={"parameter_average": 1e-3},
        epochs={"current": 1200, "c0": 1001},
        decay_epochs={"current": 400, "c0": 0},
    ),
    minibatch=Settings(
        current=OF_MINIBATCH | COLOURS,
        c0={"parameter_average": 0.0},
        epochs={"current": 1200, "c0": 500},
        decay_epochs={"current": 400, "c0": 200},
    ),
    minibatch_labels=4000,
)
SVHN = Table(
    dataset="svhn",
    title="SVHN",
    published=papers.IMPROVED_SVHN,
    n_images=73_257,
    n_test=26_032,
    matching=Settings(
        current=MATCHING | HOUSES | {"discriminator_width": 64},
        c0={"parameter_average": 1e-3},
        epochs={"current": 900, "c0": 501},
        decay_epochs={"current": 300, "c0": 0},
    ),
    minibatch=Settings(
        current=OF_MINIBATCH | HOUSES, c0={}, epochs={"current": 900, "c0": 500}, decay_epochs={"current": 300}
    ),
    minibatch_labels=1000,
)

DATASETS = {table.dataset: table.title for table in (TABLE1, TABLE2, SVHN)}


def improved_table1(results: Path, report: Report) -> list[ResultRow]:
    """Improved GAN, Table 1: MNIST, errors of 10,000 test images with 20 to 200 labels."""
    return _table(TABLE1, results, report)


def improved_table2(results: Path, report: Report) -> list[ResultRow]:
    """Improved GAN, Table 2: CIFAR-10, % test error with 1,000 to 8,000 labels."""
    return _table(TABLE2, results, report)


def improved_svhn(results: Path, report: Report) -> list[ResultRow]:
    """Improved GAN, Figure 5: SVHN, % test error with 500 to 2,000 labels."""
    return _table(SVHN, results, report)


# ---- what a run left -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has been trained: its settings in force, and the arrays that the head of this file names."""

    name: str
    n_labels: int
    n_images: int  # for training
    preset: str
    settings: Mapping[str, Value]  # the numbers and switches of its params, by name
    batch_size: int
    epochs: int
    decay_epochs: int  # of them
    steps: int  # of each network
    labels_only_epochs: int
    labels_only_steps: int
    members: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    labels_only: np.ndarray

    @property
    def n_splits(self) -> int:
        """Labelled subsets."""
        return len(splits_of(self.members))

    @property
    def n_seeds(self) -> int:
        """Of each split: a run trains every pair of a split and a seed."""
        return len(self.members) // self.n_splits


def read(folder: Path) -> Run | None:
    """The run of a results folder; None if it has not run in this profile.

    Raises
    ------
    InputError
        If a file is missing or has another form.
    """
    found = arrays(folder / "logits.npz", members=2, labels=1, logits=3, labels_only=3)
    if found is None:
        return None
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        params = record["params"]
        run = Run(
            name=folder.name,
            n_labels=params["n_labels"],
            n_images=record["n_images"],
            preset=params["architecture"]["preset"],
            settings=params | params["architecture"] | params["techniques"] | params["pixels"],
            batch_size=params["batch_size"],
            epochs=params["constant_epochs"] + params["decay_epochs"],
            decay_epochs=params["decay_epochs"],
            steps=record["steps"],
            labels_only_epochs=params["labels_only_epochs"],
            labels_only_steps=record["labels_only_steps"],
            **{name: found[name] for name in ("members", "labels", "logits", "labels_only")},
        )
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError) as error:
        message = f"{path}: {error!r} while reading what a semi-supervised run records; run semisup@{folder.name} again"
        raise InputError(message) from error
    _check(folder / "logits.npz", run)
    return run


def _check(path: Path, run: Run) -> None:
    """Refuse arrays that are not of the same networks and images, all seeds of every split."""
    n, n_test = len(run.logits), len(run.labels)
    if not n or run.members.shape != (n, 2):
        wrong = f"members of shape {run.members.shape} beside {n} networks; expected (M, 2) beside M networks, M > 0"
    elif len(set((seeds := np.unique(run.members[:, SPLIT], return_counts=True)[1]).tolist())) > 1:
        wrong = f"splits of {' and '.join(map(str, seeds))} networks; expected as many seeds of each split"
    elif len(run.labels_only) not in (0, n):
        alone = f"{len(run.labels_only)} networks trained on labelled images alone"
        wrong = f"{alone} beside {n}; expected as many, or none"
    elif any(len(of) and of.shape[1] != n_test for of in (run.logits, run.labels_only)):
        wrong = f"logits of shape {run.logits.shape} and labels_only of shape {run.labels_only.shape} beside {n_test} "
        wrong += "labels; expected those of the same test images"
    else:
        return
    message = f"{path}: {wrong}; run semisup@{run.name} again"
    raise InputError(message)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _table(table: Table, results: Path, report: Report) -> list[ResultRow]:
    runs = {f"labels_{n}": read(results / f"{table.dataset}-{n}") for n in _numbers_of_labels(table)}
    rows = [
        quoted(printed, table.title)
        if printed.kind == "published"
        else _cell(printed, table, runs[printed.column], report)
        for printed in table.published
    ]
    rows += [_cell(place, table, runs[place.column], report) for place in _extras(table, runs)]
    minibatch = read(results / f"{MINIBATCH_RUN}{table.dataset}")
    if minibatch:
        place = Extra(row=MINIBATCH, column=f"labels_{table.minibatch_labels}", unit=table.unit)
        rows.append(_cell(place, table, minibatch, report))
    return rows


def _numbers_of_labels(table: Table) -> list[int]:
    columns = dict.fromkeys(printed.column for printed in table.published if printed.kind == "ours")
    return [_in_column(column) for column in columns]


def _in_column(column: str) -> int:
    return int(column.removeprefix("labels_"))


def _extras(table: Table, runs: Mapping[str, Run | None]) -> list[Extra]:
    """Rows of our own that these runs can fill, row by row."""
    printed = {(published.row, published.column) for published in table.published}
    return [
        Extra(row=row, column=column, unit=table.unit)
        for row in (papers.ENSEMBLE, AVERAGED_LOGITS, ALL_NETWORKS, LABELS_ONLY)
        for column, run in runs.items()
        if run and _can_fill(row, run) and (row, column) not in printed
    ]


def _can_fill(row: str, run: Run) -> bool:
    if row in COMBINED:
        return run.n_seeds > 1
    if row == ALL_NETWORKS:
        return run.n_seeds > 1 and run.n_splits > 1
    return row != LABELS_ONLY or len(run.labels_only) > 0


def _cell(place: Place, table: Table, run: Run | None, report: Report) -> ResultRow:
    dataset, comparable = report.described(table.dataset), report.comparable
    if run is None:
        return result(place, dataset=dataset, comparable=comparable, note=NOT_RUN)
    more = report.notes.get(run.name, "")
    if not _can_fill(place.row, run):
        return result(place, dataset=dataset, comparable=comparable, note=joined(ONE_SEED, more))
    measured = _measured(place.row, run)
    said = _said(place, table, run)
    errors, several, scale = measured.errors, len(measured.errors) > 1, SCALES[place.unit]
    as_theirs = not any(each.differs for each in said)
    return result(
        place,
        measured=scale * float(errors.mean()),
        spread=scale * float(errors.std(ddof=1)) if several else None,
        spread_over=measured.over if several else "",
        n_seeds=measured.n_seeds,
        n_images=run.n_labels if place.row == LABELS_ONLY else run.n_images,
        n_labels=run.n_labels,
        dataset=dataset,
        comparable="reduced" if comparable == "yes" and not as_theirs else comparable,
        note=joined(*(each.text for each in said), more),
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Shares of errors of a row.

    Attributes
    ----------
    over : what they differ by
    n_seeds : the networks whose errors these are; of ensembles the networks that form each
    """

    errors: np.ndarray
    over: str
    n_seeds: int


def _measured(row: str, run: Run) -> Measured:
    if row in COMBINED:
        errors = split_errors(run.logits, run.labels, run.members, COMBINED[row])
        return Measured(errors=errors, over="splits", n_seeds=run.n_seeds)
    errors = member_errors(run.labels_only if row == LABELS_ONLY else run.logits, run.labels)
    if row == ALL_NETWORKS:
        return Measured(errors=errors, over="splits and seeds", n_seeds=len(errors))
    if run.n_splits == 1:
        return Measured(errors=errors, over="seeds", n_seeds=len(errors))
    return Measured(errors=errors[first_of_each_split(run.members)], over="splits", n_seeds=run.n_splits)


# ---- notes -----------------------------------------------------------------------------------------------------------

OFF_AT_0 = {"historical_averaging", "parameter_average"}
WORDS = {  # setting -> what the note calls it, in the note's order
    "generator_width": "width of G",
    "discriminator_width": "width of D",
    "n_kernels": "minibatch kernels",
    "kernel_dim": "minibatch kernel dimension",
    "z_dim": "dimension of z",
    "noise": "noise",
    "weight_norm": "weight norm",
    "data_dependent": "initialisation by data",
    "reference_batch": "virtual batch norm",
    "generator_loss": "loss of G:",
    "generator_steps": "updates of G for each of D:",
    "real_target": "target of real images",
    "historical_averaging": "historical averaging",
    "parameter_average": "rate of the parameter average",
    "batch_size": "batch",
    "learning_rate": "learning rate",
    "beta1": "beta1",
    "beta2": "beta2",
    "adam_epsilon": "epsilon of Adam",
    "offset": "offset of pixels",
    "divisor": "divisor of pixels",
}
OF_THE_GENERATOR = {  # no part of a network that was trained on labelled images alone
    *("generator_width", "z_dim", "reference_batch", "generator_loss", "generator_steps", "real_target"),
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """A part of the note, and whether it tells of another value than the authors'."""

    text: str
    differs: bool = False


def _said(place: Place, table: Table, run: Run) -> list[Said]:
    """Splits and seeds, the schedule, and what is not as in the authors' code."""
    row, settings = place.row, table.minibatch if place.row == MINIBATCH else table.matching
    if row == LABELS_ONLY:
        schedule = [_counted(run.labels_only_epochs, "epoch"), _counted(run.labels_only_steps, "step")]
    else:
        schedule = [*_epochs(run, settings), _counted(run.steps, "step")]
    others = [*_sizes(place, table, run), *_switches(row, run, settings.of(run.preset))]
    said = [_splits(row, run), _seeds(row, run), *schedule, *others]
    if row == MINIBATCH:
        said.append(Said(text=f"tested in batches of {run.batch_size} in a fixed random order: its layer sees a batch"))
    return said


def _splits(row: str, run: Run) -> Said:
    return _counted(run.n_splits, "split", None if row == MINIBATCH else N_SPLITS)  # the paper has no error of it


def _seeds(row: str, run: Run) -> Said:
    if row in COMBINED:
        return _counted(run.n_seeds, "seed", N_MEMBERS)
    if row == ALL_NETWORKS or 1 in (run.n_splits, run.n_seeds):
        return _counted(run.n_seeds, "seed")
    return Said(text=f"the first of {run.n_seeds} seeds of each")


def _epochs(run: Run, settings: Settings) -> list[Said]:
    """All of them; and those of decay, where they are not the authors'."""
    said = [_counted(run.epochs, "epoch", settings.epochs.get(run.preset))]
    decay = settings.decay_epochs.get(run.preset)
    if decay not in (None, run.decay_epochs):
        text = f"learning rate falling in {run.decay_epochs or 'none'} of them instead of {decay or 'none'}"
        said.append(Said(text=text, differs=True))
    return said


def _sizes(place: Place, table: Table, run: Run) -> list[Said]:
    """Labels and images where they are not the paper's; of what the row's networks have."""
    n_test = len(run.labels)
    sizes = [(f"{run.n_labels:,} labels", run.n_labels, _in_column(place.column))]
    sizes += [] if place.row == LABELS_ONLY else [(f"{run.n_images:,} training images", run.n_images, table.n_images)]
    sizes += [(f"{n_test:,} test images", n_test, table.n_test)]
    return [_beside(text, n, nominal) for text, n, nominal in sizes if n != nominal]


def _switches(row: str, run: Run, authors: Mapping[str, Value]) -> list[Said]:
    """Each setting that is not the authors', in words."""
    parts = [name for name in WORDS if row != LABELS_ONLY or name not in OF_THE_GENERATOR]
    pairs = [(name, run.settings.get(name), authors.get(name)) for name in parts]
    said = [
        Said(text=f"{WORDS[name]} {_value(name, ours)} instead of {_value(name, theirs)}", differs=True)
        for name, ours, theirs in pairs
        if ours != theirs
    ]
    return said + (_faster_average(run) if row == LABELS_ONLY else [])


def _faster_average(run: Run) -> list[Said]:
    """The parameter average forgets as much faster as the schedule on labels alone is shorter; see its training."""
    rate = float(run.settings.get("parameter_average") or 0.0)
    faster = min(1.0, rate * run.epochs / run.labels_only_epochs)
    if faster == rate:
        return []
    epochs = f"{run.epochs} / {run.labels_only_epochs} epochs"
    return [Said(text=f"on labels alone the parameter average has the rate {faster:g}: {rate:g} times {epochs}")]


def _value(name: str, value: Value | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool) or (name in OFF_AT_0 and not value):
        return "on" if value else "off"
    if name == "reference_batch":
        return f"of {value} examples" if value else "off"
    return value.replace("_", " ") if isinstance(value, str) else f"{value:g}"


def _counted(n: int, what: str, nominal: int | None = None) -> Said:
    return _beside(f"one {what}" if n == 1 else f"{n:,} {what}s", n, nominal)


def _beside(text: str, n: int, nominal: int | None) -> Said:
    differs = nominal not in (None, n)
    return Said(text=text + (f" instead of {nominal:,}" if differs else ""), differs=differs)
