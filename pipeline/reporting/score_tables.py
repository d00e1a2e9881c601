"""Improved GAN's Table 3: what each technique adds to a score of generated CIFAR-10 images.

Results: of each row ``NAME.parquet`` (seed, quantity, split, value, n_images, n_labels) and ``NAME.json`` (schedule and
params of the run, and whether the paper's Inception network was at hand). The same measures are taken with a classifier
of this pipeline; what it gives is a ``classifier_score``, never an Inception score.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import ResultRow
from pipeline.reporting.result_files import table
from pipeline.reporting.rows import NOT_RUN, Extra, Place, Report, joined, result
from pipeline.reporting.semisup_tables import OFF_AT_0, WORDS

REAL, OURS = "real", "is_ours"
RUNS = {  # row of the table -> name of its results
    papers.REAL_DATA: REAL,
    papers.OUR_METHODS: OURS,
    "-VBN+BN": "is_bn",
    "-L+HA": "is_nolabels_ha",
    "-LS": "is_nosmooth",
    "-L": "is_nolabels",
    "-MBF": "is_nominibatch",
}
TECHNIQUES: dict[str, Callable[[Any], bool]] = {  # setting -> whether its technique is on
    "n_labels": lambda n: n > 0,
    "n_kernels": lambda n: n > 0,
    "reference_batch": lambda n: n > 0,
    "real_target": lambda target: target < 1,
    "historical_averaging": lambda weight: weight > 0,
}
TECHNIQUE_NAMES = {
    "n_labels": "labels",
    "n_kernels": "minibatch features",
    "reference_batch": "virtual batch norm",
    "real_target": "label smoothing",
    "historical_averaging": "historical averaging",
}
ALL = {"n_labels", "n_kernels", "reference_batch", "real_target"}  # of "Our methods"
HAS = {  # run -> the techniques that its row's name promises
    OURS: ALL,
    "is_bn": ALL - {"reference_batch"},
    "is_nolabels_ha": ALL - {"n_labels"} | {"historical_averaging"},
    "is_nosmooth": ALL - {"real_target"},
    "is_nolabels": ALL - {"n_labels"},
    "is_nominibatch": ALL - {"n_kernels"},
}
INCEPTION, CLASSIFIER = "inception", "classifier"  # whose outputs and features are measured
SCORE = "score"
SCORES = (papers.INCEPTION_SCORE, f"{CLASSIFIER}_{SCORE}")
BESIDE = {  # measured on the same features -> unit
    "frechet": "distance",
    "kernel": "distance_x_1000",
    "precision": "share",
    "recall": "share",
    "density": "ratio",
    "coverage": "share",
}
NEIGHBOURS = ("precision", "recall", "density", "coverage")  # searched among as many images of either kind
KERNEL_SCALE = 1000  # a kernel distance has its first digits in the thousandths
ACCURACY = "classifier_accuracy"
SPLIT_SPREAD = "split_spread"
N_SPLITS, N_IMAGES = 10, 50_000  # Improved GAN, section 4
GATE_SCORE, GATE_TOLERANCE = 11.24, 0.02  # of real CIFAR-10, before any other Inception score is reported
LEAST_SCORE = 1 - 1e-6  # exp of a mean divergence; the rest is rounding
ALIKE_SCORE = 1.05  # a score below is that of images which the classifier takes for one and the same
ALIKE = "takes all samples for alike"
VALUES = ("seed", "quantity", "split", "value", "n_images", "n_labels")
OUR_NETWORK = "by a classifier of this pipeline, not the Inception network: not comparable with the paper"
LEARNT = "the classifier was trained on these very images"
TOLD = (  # settings without which the notes cannot say what a run is
    *TECHNIQUES,
    *("name", "generator_width", "discriminator_width", "generator_loss", "generator_steps", "learning_rate"),
)
NAMED = {  # settings that are compared, in words
    "name": "networks",
    "preset": "preset",
    "n_labels": "labels",
    **WORDS,
    "constant_epochs": "epochs of constant rate",
    "decay_epochs": "epochs of falling rate",
}
SCHEDULE = ("n_seeds", "epochs", "steps", "batch_size", "n_images")


# ---- what the stage left --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A row of the table that was scored.

    Attributes
    ----------
    values : as the head of this file says
    inception : why the Inception network was not run, or the mean score of the gate
    reference, n_reference : the split of the real images that distances are measured against, and how many they are
    settings : of the run by name, its labels among them; empty of real data
    schedule : n_seeds, epochs, steps, batch_size, n_images
    """

    name: str
    values: pd.DataFrame
    inception: str | float
    reference: str
    n_reference: int
    settings: Mapping[str, Any]
    schedule: Mapping[str, int]

    @property
    def is_real(self) -> bool:
        """Whether these are images of the data set."""
        return self.name == REAL

    def by_seed(self, quantity: str) -> pd.DataFrame:
        """seed -> mean, split_sd (population standard deviation over the splits, as the paper's), n_splits.

        Empty if the quantity was not measured.
        """
        of_seed = self.values[self.values["quantity"] == quantity].groupby("seed", sort=True)["value"]
        return pd.DataFrame({"mean": of_seed.mean(), "split_sd": of_seed.std(ddof=0), "n_splits": of_seed.size()})

    def n_images(self, quantity: str) -> int:
        """That a quantity was computed on, of each seed: neighbours are searched among fewer."""
        return int(self.values.loc[self.values["quantity"] == quantity, "n_images"].iloc[0])

    @property
    def accuracy(self) -> float | None:
        """Of the classifier, in % of its test images."""
        found = self.values.loc[self.values["quantity"] == ACCURACY, "value"]
        return float(found.iloc[0]) if len(found) else None

    @property
    def no_inception_score(self) -> str:
        """Why there is none, in words; empty if it was measured and the gate held."""
        if isinstance(self.inception, str):
            return self.inception
        if self.by_seed(papers.INCEPTION_SCORE).empty:
            return "the Inception network was not run"
        if not abs(self.inception - GATE_SCORE) <= GATE_TOLERANCE:
            wanted = f"real CIFAR-10 must give {GATE_SCORE:g} +- {GATE_TOLERANCE:g}"
            return f"no Inception score, as its gate did not hold: {wanted}, it gave {self.inception:.3f}"
        return ""


def read_all(results: Path) -> dict[str, Scored]:
    """Row of the table -> what was scored, in the table's order; rows that were not run in this profile are missing.

    Raises
    ------
    InputError
        If a file is damaged, or the rows were scored with different classifiers.
    """
    found = {row: scored for row, name in RUNS.items() if (scored := read(results, name))}
    accuracies = {scored.name: scored.accuracy for scored in found.values()}
    if len(set(accuracies.values())) > 1:
        told = ", ".join(f"{name} {accuracy}" for name, accuracy in accuracies.items())
        message = (
            f"{results}: classifiers of different accuracy ({told}); expected one for all rows; run dvc repro score"
        )
        raise InputError(message)
    return found


def read(results: Path, name: str) -> Scored | None:
    """One row's results; None if they have not been made in this profile.

    Raises
    ------
    InputError
        If a file is missing beside the other, damaged or of another form.
    """
    values_file, record_file = results / f"{name}.parquet", results / f"{name}.json"
    there = [path for path in (values_file, record_file) if path.is_file()]
    if not there:
        return None
    if len(there) == 1:
        missing = record_file if there == [values_file] else values_file
        message = f"{missing}: missing beside {there[0].name}; run score@{name} again"
        raise InputError(message)
    values = table(values_file, VALUES)
    assert values is not None
    scored = _record(record_file, name, values)
    wrong = _wrong(scored)
    if wrong:
        message = f"{values_file}: {wrong}; run score@{name} again"
        raise InputError(message)
    return scored


def _record(path: Path, name: str, values: pd.DataFrame) -> Scored:
    """What was scored, with the record beside it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["run"] != name:
            message = f"{path}: is of run {record['run']}, expected {name}; run score@{name} again"
            raise InputError(message)
        params, inception = record["params"], record["inception"]
        settings = dict(params)
        for part in ("architecture", "techniques", "pixels"):
            settings |= params.get(part, {})
        missing = [key for key in TOLD if name != REAL and key not in settings]
        if missing:
            raise KeyError(*missing)
        return Scored(
            name=name,
            values=values,
            inception=inception if isinstance(inception, str) else float(inception["gate"]),
            reference=str(record["reference"]),
            n_reference=int(record["n_reference"]),
            settings=settings,
            schedule={key: int(record[key]) for key in SCHEDULE},
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{path}: {error!r} while reading what a score records; run score@{name} again"
        raise InputError(message) from error


def _wrong(scored: Scored) -> str:
    """What of the values cannot be, in words."""
    values, n_images = scored.values, scored.schedule["n_images"]
    scores = values.loc[values["quantity"].isin(SCORES)]
    splits = scores.groupby(["quantity", "seed"]).size().groupby("quantity").nunique()
    n_seeds = int(values.loc[values["quantity"] == SCORES[1], "seed"].nunique())
    expected = 1 if scored.is_real else scored.schedule["n_seeds"]
    problems = {
        f"no {SCORES[1]}; expected one of every split and seed": not n_seeds,
        "values that are not finite": not np.isfinite(values["value"]).all(),
        f"a score of {scores['value'].min():g}; expected 1 or more": (scores["value"] < LEAST_SCORE).any(),
        "a seed, quantity and split stand there twice": values.duplicated(["seed", "quantity", "split"]).any(),
        f"scores of {sorted(set(scores['n_images']))} images beside a record of {n_images}": set(scores["n_images"])
        != {n_images},
        "seeds of different numbers of splits": (splits > 1).any(),
        f"scores of {n_seeds} seeds; expected {expected}": n_seeds != expected,
    }
    return next((problem for problem, there in problems.items() if there), "")


# ---- rows -----------------------------------------------------------------------------------------------------------


def improved_table3(results: Path, report: Report) -> list[ResultRow]:
    """Improved GAN, Table 3: Inception scores, and beside them what a classifier of ours says of the same images."""
    found = read_all(results)
    rows = [_inception(printed, found, report) for printed in papers.IMPROVED_TABLE3]
    accuracy = next((scored.accuracy for scored in found.values()), None)
    for place in _extras(found):
        if place.column == ACCURACY:
            rows.append(_accuracy(place, accuracy, report))
        else:
            rows.append(_extra(place, found, report))
    return rows


def _extras(found: Mapping[str, Scored]) -> list[Extra]:
    """Columns of our own that were measured, those of the classifier first; in each the rows in the table's order."""
    columns = [(f"{network}_{name}", unit) for network in (CLASSIFIER, INCEPTION) for name, unit in _measures().items()]
    places = [
        Extra(row=row, column=column, unit=unit)
        for column, unit in columns
        for row, scored in found.items()
        if column != papers.INCEPTION_SCORE and _can_fill(column, scored)
    ]
    if any(scored.accuracy is not None for scored in found.values()):
        places.append(Extra(row=papers.REAL_DATA, column=ACCURACY, unit="percent_accuracy"))
    return places


def _measures() -> dict[str, str]:
    return {SCORE: "score", f"{SCORE}_{SPLIT_SPREAD}": "score", **BESIDE}


def _can_fill(column: str, scored: Scored) -> bool:
    own = scored.by_seed(_quantity(column))
    if column.startswith(INCEPTION) and scored.no_inception_score:
        return False
    return len(own) > 0 and (not column.endswith(SPLIT_SPREAD) or int(own["n_splits"].iloc[0]) > 1)


def _quantity(column: str) -> str:
    return column.removesuffix(f"_{SPLIT_SPREAD}")


def _inception(printed: papers.Published, found: Mapping[str, Scored], report: Report) -> ResultRow:
    """The paper's cell: empty, with the reason, where its network was not at hand."""
    scored, dataset = found.get(printed.row), report.described("cifar10")
    if scored is None:
        return result(printed, dataset=dataset, comparable=report.comparable, note=NOT_RUN)
    more = report.notes.get(scored.name, "")
    why = scored.no_inception_score
    if why:
        return result(printed, dataset=dataset, comparable=report.comparable, note=joined(why, more))
    gate = f"gate: real CIFAR-10 gives {scored.inception:.3f}"
    return _measured(printed, scored, report, said=[*_said(scored, found), Said(text=gate)])


def _extra(place: Extra, found: Mapping[str, Scored], report: Report) -> ResultRow:
    """A cell of our own: how the images came about is told with the score, not again with every other measure."""
    scored = found[place.row]
    said = [Said(text=OUR_NETWORK)] if place.column.startswith(CLASSIFIER) else []
    if place.column.endswith(SPLIT_SPREAD):
        said = [Said(text="standard deviation over the splits of a seed's images, as the paper's; mean over the seeds")]
    elif place.column in SCORES:
        said += _said(scored, found) + ([Said(text=LEARNT)] if scored.is_real else [])
    else:
        said.append(Said(text=_reference(place.column, scored)))
    return _measured(place, scored, report, said=said)


def _reference(column: str, scored: Scored) -> str:
    """What a distance or the neighbours are measured against."""
    n = "as many" if column.endswith(NEIGHBOURS) else f"{scored.n_reference:,}"
    return f"against {n} {'training' if scored.reference == 'train' else scored.reference} images"


def _accuracy(place: Extra, accuracy: float | None, report: Report) -> ResultRow:
    note = "of the classifier that gives the classifier's scores and features, on test images"
    dataset = report.described("cifar10")
    return result(place, measured=accuracy, dataset=dataset, comparable="no", note=note)


def _measured(place: Place, scored: Scored, report: Report, *, said: Sequence["Said"]) -> ResultRow:
    """A mean over the seeds with their deviation, or, of one seed, the deviation over its splits."""
    quantity = _quantity(place.column)
    own = scored.by_seed(quantity)
    scale = KERNEL_SCALE if place.column.endswith("_kernel") else 1
    of_splits = place.column.endswith(SPLIT_SPREAD)
    numbers = scale * own["split_sd" if of_splits else "mean"]
    spread, over = None, ""
    if len(own) > 1:
        spread, over = float(numbers.std(ddof=1)), "seeds"
    elif not of_splits and int(own["n_splits"].iloc[0]) > 1:
        spread, over = scale * float(own["split_sd"].iloc[0]), "splits"
    return result(
        place,
        measured=float(numbers.mean()),
        spread=spread,
        spread_over=over,
        n_seeds=None if scored.is_real else len(own),
        n_images=scored.n_images(quantity),
        n_labels=None if scored.is_real else int(scored.values["n_labels"].iloc[0]),
        dataset=report.described("cifar10"),
        comparable=_comparable(place, scored, report, said),
        note=joined(*(each.text for each in said), report.notes.get(scored.name, "")),
    )


def _comparable(place: Place, scored: Scored, report: Report, said: Sequence["Said"]) -> str:
    """The profile's word; but real images need no schedule, and nothing of the paper is like the classifier's score."""
    if place.column.startswith(CLASSIFIER):
        return "no"
    differs = any(each.differs for each in said)
    if scored.is_real and report.comparable == "reduced" and not differs:
        return "yes"
    return "reduced" if report.comparable == "yes" and differs else report.comparable


# ---- notes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Said:
    """A part of the note, and whether it tells of something that is not the paper's."""

    text: str
    differs: bool = False


def _said(scored: Scored, found: Mapping[str, Scored]) -> list[Said]:
    """Images and splits, the schedule, and what was chosen, as the paper leaves it open."""
    said = _sizes(scored)
    if scored.is_real:
        return said
    schedule = scored.schedule
    seeds, epochs = _counted(schedule["n_seeds"], "seed"), _counted(schedule["epochs"], "epoch")
    said.append(Said(text=f"{seeds}, {epochs}, {schedule['steps']:,} steps of D of {schedule['batch_size']} images"))
    said += _alike(scored)
    ours = found.get(papers.OUR_METHODS)
    said += _choices(scored) if ours is None or scored.name == OURS else _against(scored, ours)
    return said + _promises(scored)


def _sizes(scored: Scored) -> list[Said]:
    n_images = scored.schedule["n_images"]
    n_splits = int(scored.by_seed(SCORES[1])["n_splits"].iloc[0])
    kind = "training images" if scored.is_real else "samples of each seed"
    images, splits = f"{n_images:,} {kind}", _counted(n_splits, "split")
    return [
        Said(text=images + (f" instead of {N_IMAGES:,}" if n_images != N_IMAGES else ""), differs=n_images != N_IMAGES),
        Said(text=splits + (f" instead of {N_SPLITS}" if n_splits != N_SPLITS else ""), differs=n_splits != N_SPLITS),
    ]


def _alike(scored: Scored) -> list[Said]:
    """The seeds that failed: collapsed samples may differ by their noise, but not to a classifier."""
    means = scored.by_seed(SCORES[1])["mean"]
    failed = [str(seed) for seed in means.index[means < ALIKE_SCORE]]
    if not failed:
        return []
    seeds = f"seed{'s' if len(failed) > 1 else ''} {' and '.join(failed)}"
    return [Said(text=f"of {seeds} the classifier {ALIKE} (score below {ALIKE_SCORE:g})")]


def _choices(scored: Scored) -> list[Said]:
    """The settings that the paper leaves open (and whose models and script were never released)."""
    settings = scored.settings
    told = [
        f"{settings['n_labels']:,} labels" if settings["n_labels"] else "no labels",
        f"target of real images {settings['real_target']:g}",
        f"{settings['name']} with {settings['generator_width']} maps in G and {settings['discriminator_width']} in D",
        f"{settings['n_kernels']} minibatch features" if settings["n_kernels"] else "no minibatch features",
        f"virtual batch norm of {settings['reference_batch']} examples"
        if settings["reference_batch"]
        else "batch norm",
        f"loss of G {str(settings['generator_loss']).replace('_', ' ')}",
        f"{_counted(settings['generator_steps'], 'update')} of G for each of D",
        f"learning rate {settings['learning_rate']:g}",
    ]
    if settings["historical_averaging"]:
        told.append(f"historical averaging of weight {settings['historical_averaging']:g}")
    return [Said(text=f"chosen by us, the paper does not say: {', '.join(told)}")]


def _against(scored: Scored, ours: Scored) -> list[Said]:
    """In which settings a row differs from "Our methods", and where it should not."""
    mine, theirs = scored.settings, ours.settings
    different = [name for name in NAMED if mine.get(name) != theirs.get(name)]
    words = [
        f"{NAMED[name]} {_value(name, mine.get(name))} instead of {_value(name, theirs.get(name))}"
        for name in different
    ]  # fmt: skip
    said = [Said(text=f"{', '.join(words) or 'no other setting'}, all else as in {papers.OUR_METHODS}")]
    beyond = [NAMED[name] for name in different if name not in HAS[OURS] ^ HAS[scored.name]]
    if beyond:
        said.append(Said(text=f"beyond what the row's name says: {', '.join(beyond)}", differs=True))
    unequal = [name.replace("_", " ") for name in SCHEDULE if scored.schedule[name] != ours.schedule[name]]
    if unequal:
        said.append(Said(text=f"not as in {papers.OUR_METHODS}: {', '.join(unequal)}", differs=True))
    return said


def _promises(scored: Scored) -> list[Said]:
    """The techniques that are on or off against the row's name."""
    has = {name for name, is_on in TECHNIQUES.items() if is_on(scored.settings[name])}
    wrong = [
        f"{title} {'on' if name in has else 'off'}"
        for name, title in TECHNIQUE_NAMES.items()
        if name in has ^ HAS[scored.name]
    ]
    return [Said(text=f"against the row's name: {', '.join(wrong)}", differs=True)] if wrong else []


def _value(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool) or (name in {*OFF_AT_0, "reference_batch"} and not value):
        return "on" if value else "off"
    if name == "reference_batch":
        return f"{value} examples"
    return value.replace("_", " ") if isinstance(value, str) else f"{value:,}" if name == "n_labels" else f"{value:g}"


def _counted(n: int, what: str) -> str:
    return f"one {what}" if n == 1 else f"{n:,} {what}s"


# ---- the paper's order ----------------------------------------------------------------------------------------------

TOLD_APART = 2.0  # standard errors; the rule was fixed before anything was scored
RULE = (
    "Told apart: the means differ by more than twice the pooled standard error of their difference over the seeds, a "
    "rule that was fixed before the runs. Of few seeds it is a rough one, and no choice that all rows share enters it."
)


HOLDS, REVERSED, NOT_TOLD = VERDICTS = ("as in the paper", "the other way round", "not told apart")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Over ``n`` seeds, with their sample standard deviation (None of one seed); whether one of them failed."""

    mean: float
    spread: float | None
    n: int
    failed: bool = False


def orderings(table_rows: Iterable[Mapping[Any, Any]]) -> list[str]:
    """Which of the paper's orderings of neighbouring rows hold in what was measured, by each score that was.

    Parameters
    ----------
    table_rows : rows of the table as its CSV has them; a number that is not there is NaN
    """
    measured = {
        (row["row"], row["column"]): _mean(row) for row in table_rows if row["measured"] == row["measured"]
    }  # NaN is no number
    lines = []
    for column in SCORES:
        means = {row: measured[row, column] for row in RUNS if (row, column) in measured}
        lines += _orderings(column, means)
    return [*lines, RULE] if lines else []


def _mean(row: Mapping[Any, Any]) -> Mean:
    of_seeds = row["spread_over"] == "seeds"
    n = int(row["n_seeds"]) if row["n_seeds"] == row["n_seeds"] else 1
    failed = ALIKE in str(row["note"])
    return Mean(mean=float(row["measured"]), spread=float(row["spread"]) if of_seeds else None, n=n, failed=failed)


def _orderings(column: str, means: Mapping[str, Mean]) -> list[str]:
    """A sentence with the counts, a line for each pair of neighbouring rows that were both measured, and real data."""
    rows = [row for row in RUNS if row != papers.REAL_DATA]
    pairs = list(pairwise(rows))
    compared = [_compared(above, below, means) for above, below in pairs if {above, below} <= set(means)]
    if not compared:
        return []
    counts = ", ".join(f"{[verdict for verdict, _ in compared].count(verdict)} {verdict}" for verdict in VERDICTS)
    missing = f"; {len(pairs) - len(compared)} more were not measured" if len(compared) < len(pairs) else ""
    lines = [f"By `{column}`, of the paper's {len(pairs)} orderings of neighbouring rows: {counts}{missing}.", ""]
    lines += [line for _, line in compared]
    real = means.get(papers.REAL_DATA)
    if real is not None:
        reached = [row for row in rows if row in means and means[row].mean >= real.mean]
        told = f"not above {' and '.join(reached)}" if reached else "above every row of samples"
        lines.append(f"- {papers.REAL_DATA}, {real.mean:.2f}: {told}")
    return [*lines, ""]


def _compared(above: str, below: str, means: Mapping[str, Mean]) -> tuple[str, str]:
    """The verdict on two rows, the upper one better in the paper, and a line with its numbers."""
    one, other = means[above], means[below]
    difference, error = one.mean - other.mean, standard_error(one, other)
    verdict = NOT_TOLD
    if error is not None and abs(difference) > TOLD_APART * error:
        verdict = HOLDS if difference > 0 else REVERSED
    uncertain = "one seed" if error is None else f"standard error {error:.3f}"
    line = f"- {above} {one.mean:.2f}, {below} {other.mean:.2f}: {verdict} (difference {difference:+.3f}, {uncertain})"
    printed = {published.row: published for published in papers.IMPROVED_TABLE3}
    theirs = printed[above].value - printed[below].value
    if theirs < max(printed[above].spread or 0.0, printed[below].spread or 0.0):
        line += f"; the paper's own differ by {theirs:.2f}, less than one of its ±"
    failed = [row for row in (above, below) if means[row].failed]
    if failed:
        line += f"; seeds of {' and '.join(failed)} failed, as the notes say"
    return verdict, line


def standard_error(one: Mean, other: Mean) -> float | None:
    """Of the difference of two means, from the variance pooled over the seeds; None where a row has one seed."""
    if one.spread is None or other.spread is None:
        return None
    pooled = ((one.n - 1) * one.spread**2 + (other.n - 1) * other.spread**2) / (one.n + other.n - 2)
    return (pooled * (1 / one.n + 1 / other.n)) ** 0.5
