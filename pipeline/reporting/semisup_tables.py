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
SCALES = {papers.ERRORS_OF_10000: 10_000, papers.PERCENT_ERROR: 100}  # whatever the number of test images


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of the authors' code has, by the names of the params.

    Attributes
    ----------
    epochs : by preset, the code as it is and as it was when the paper was submitted; a script that is lost has none
    """

    epochs: Mapping[str, int]
    widths: Mapping[str, int]


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

    @property
    def unit(self) -> str:
        """Of all its rows."""
        return self.published[0].unit


MINIBATCH_WIDTHS = {"generator_width": 128, "discriminator_width": 96, "n_kernels": 100}
TABLE1 = Table(
    dataset="mnist",
    title="MNIST",
    published=papers.IMPROVED_TABLE1,
    n_images=60_000,
    n_test=10_000,
    matching=Settings(epochs={"current": 300, "c0": 300}, widths={"generator_width": 500, "discriminator_width": 250}),
    minibatch=Settings(epochs={}, widths=MINIBATCH_WIDTHS),
)
TABLE2 = Table(
    dataset="cifar10",
    title="CIFAR-10",
    published=papers.IMPROVED_TABLE2,
    n_images=50_000,
    n_test=10_000,
    matching=Settings(epochs={"current": 1200, "c0": 1001}, widths={"generator_width": 128, "discriminator_width": 96}),
    minibatch=Settings(epochs={"current": 1200, "c0": 500}, widths=MINIBATCH_WIDTHS),
)
SVHN = Table(
    dataset="svhn",
    title="SVHN",
    published=papers.IMPROVED_SVHN,
    n_images=73_257,
    n_test=26_032,
    matching=Settings(epochs={"current": 900, "c0": 501}, widths={"generator_width": 128, "discriminator_width": 64}),
    minibatch=Settings(epochs={"current": 900, "c0": 500}, widths=MINIBATCH_WIDTHS),
)


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
    widths: Mapping[str, int]
    batch_size: int
    epochs: int
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


def read(folder: Path, settings: Settings) -> Run | None:
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
            widths={name: params["architecture"][name] for name in settings.widths},
            batch_size=params["batch_size"],
            epochs=params["constant_epochs"] + params["decay_epochs"],
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
    """Refuse arrays that are not of the same networks, all seeds of every split."""
    n = len(run.logits)
    if not n or run.members.shape != (n, 2):
        wrong = f"members of shape {run.members.shape} beside {n} networks; expected (M, 2) beside M networks, M > 0"
    elif n != run.n_splits * run.n_seeds:
        wrong = f"{n} networks of {run.n_splits} splits; expected as many seeds of each split"
    elif len(run.labels_only) not in (0, n):
        alone = f"{len(run.labels_only)} networks trained on labelled images alone"
        wrong = f"{alone} beside {n}; expected as many, or none"
    else:
        return
    message = f"{path}: {wrong}; run semisup@{run.name} again"
    raise InputError(message)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _table(table: Table, results: Path, report: Report) -> list[ResultRow]:
    runs = {f"labels_{n}": read(results / f"{table.dataset}-{n}", table.matching) for n in _numbers_of_labels(table)}
    rows = [
        quoted(printed, table.title)
        if printed.kind == "published"
        else _cell(printed, table, runs[printed.column], report)
        for printed in table.published
    ]
    rows += [_cell(place, table, runs[place.column], report) for place in _extras(table, runs)]
    minibatch = read(results / f"mb_{table.dataset}", table.minibatch)
    if minibatch:
        place = Extra(row=MINIBATCH, column=f"labels_{minibatch.n_labels}", unit=table.unit)
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
    dataset, comparable = report.datasets[table.dataset], report.comparable
    if run is None:
        return result(place, dataset=dataset, comparable=comparable, note=NOT_RUN)
    more = report.notes.get(run.name, "")
    if not _can_fill(place.row, run):
        return result(place, dataset=dataset, comparable=comparable, note=joined(ONE_SEED, more))
    measured = _measured(place.row, run)
    said = _said(place, table, run)
    errors, several, scale = measured.errors, len(measured.errors) > 1, SCALES[place.unit]
    whole = not any(each.too_few for each in said)
    return result(
        place,
        measured=scale * float(errors.mean()),
        spread=scale * float(errors.std(ddof=1)) if several else None,
        spread_over=measured.over if several else "",
        n_seeds=measured.n_networks,
        n_images=run.n_labels if place.row == LABELS_ONLY else run.n_images,
        n_labels=run.n_labels,
        dataset=dataset,
        comparable="reduced" if comparable == "yes" and not whole else comparable,
        note=joined(*(each.text for each in said), more),
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Shares of errors of a row, over what they differ, and how many networks entered."""

    errors: np.ndarray
    over: str
    n_networks: int


def _measured(row: str, run: Run) -> Measured:
    if row in COMBINED:
        errors = split_errors(run.logits, run.labels, run.members, COMBINED[row])
        return Measured(errors=errors, over="splits", n_networks=len(run.members))
    errors = member_errors(run.labels_only if row == LABELS_ONLY else run.logits, run.labels)
    if row == ALL_NETWORKS:
        return Measured(errors=errors, over="splits and seeds", n_networks=len(errors))
    if run.n_splits == 1:
        return Measured(errors=errors, over="seeds", n_networks=len(errors))
    return Measured(errors=errors[first_of_each_split(run.members)], over="splits", n_networks=run.n_splits)


# ---- notes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Said:
    """A part of the note, and whether it tells of less than the paper's."""

    text: str
    too_few: bool = False


def _said(place: Place, table: Table, run: Run) -> list[Said]:
    """Splits and seeds, the schedule, and what differs in size from the paper's."""
    row, settings = place.row, table.minibatch if place.row == MINIBATCH else table.matching
    if row == LABELS_ONLY:
        schedule = [_counted(run.labels_only_epochs, "epoch"), _counted(run.labels_only_steps, "step")]
    else:
        schedule = [_counted(run.epochs, "epoch", settings.epochs.get(run.preset)), _counted(run.steps, "step")]
    said = [_splits(row, run), _seeds(row, run), *schedule, *_sizes(place, table, run, settings)]
    if row == MINIBATCH:
        said.append(Said(text=f"tested in batches of {run.batch_size}, which the minibatch layer sees"))
    return said


def _splits(row: str, run: Run) -> Said:
    return _counted(run.n_splits, "split", None if row == MINIBATCH else N_SPLITS)  # the paper has no error of it


def _seeds(row: str, run: Run) -> Said:
    if row in COMBINED:
        return _counted(run.n_seeds, "seed", N_MEMBERS)
    if row == ALL_NETWORKS or 1 in (run.n_splits, run.n_seeds):
        return _counted(run.n_seeds, "seed")
    return Said(text=f"the first of {run.n_seeds} seeds of each")


def _sizes(place: Place, table: Table, run: Run, settings: Settings) -> list[Said]:
    """Labels, images and widths where they are not the paper's; of what the row's networks have."""
    n_test, alone = len(run.labels), place.row == LABELS_ONLY
    sizes = [(f"{run.n_labels:,} labels", run.n_labels, _in_column(place.column))]
    sizes += [] if alone else [(f"{run.n_images:,} training images", run.n_images, table.n_images)]
    sizes += [(f"{n_test:,} test images", n_test, table.n_test)]
    sizes += [
        (f"{name} {n:,}", n, settings.widths[name])
        for name, n in run.widths.items()
        if not alone or name != "generator_width"
    ]
    return [_beside(text, n, nominal) for text, n, nominal in sizes if n != nominal]


def _counted(n: int, what: str, nominal: int | None = None) -> Said:
    return _beside(f"one {what}" if n == 1 else f"{n:,} {what}s", n, nominal)


def _beside(text: str, n: int, nominal: int | None) -> Said:
    instead = "" if nominal in (None, n) else f" instead of {nominal:,}"
    return Said(text=text + instead, too_few=nominal is not None and n < nominal)
