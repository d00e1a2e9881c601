"""Measured beside published: one function a table, from the results that the stages before left in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.records import ResultRow

TABLE3_RESULTS = {"Real Data": "real", "GAN": "gan_mnist", "DCGAN (ours)": "dcgan_mnist"}
DATASETS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "lsun": papers.LSUN,
    "lsun_dedup": papers.LSUN_DEDUP,
    "imagenet32": "ImageNet 32 x 32",
    "imagenet128": "ImageNet 128 x 128",
    "faces": papers.FACES,
    "neardup": "Near-duplicates",
}
# what the stage dedup counts -> column
DEDUP_COLUMNS = {
    "false_positive_percent": "false_positives",
    "false_positive_percent_low": "false_positives_low",
    "false_positive_percent_high": "false_positives_high",
    "distinct_codes": "distinct_codes",
    "all_zero_share": "all_zero_share",
    "dead_units": "dead_units",
    "constant_units": "constant_units",
    "n_groups": "groups",
    "largest_group": "largest_group",
}
# of the columns that do not count images
UNITS = {
    "photos": "photos",
    "labels": "classes",
    "false_positives_low": "percent",
    "false_positives_high": "percent",
    "distinct_codes": "codes",
    "all_zero_share": "share",
    "dead_units": "units",
    "constant_units": "units",
    "groups": "groups",
}
NOT_RUN = "not run in this profile yet"
NO_TRUTH = "no truth comes with these images: a person judges the sheet of collisions"
NOMINAL = {papers.AT_50K: 50_000, papers.AT_10M: 10_000_000}


@section
class Report:
    """``report``: how this profile's numbers are to be read.

    Attributes
    ----------
    comparable : whether they may be set beside the paper's
    notes : name of a run or dataset -> what was reduced or chosen in it, put into the note of its rows
    datasets : name of a dataset -> what it really is here
    """

    comparable: Literal["yes", "reduced", "no"]
    notes: dict[str, str]
    datasets: dict[str, str]


def dcgan_table3(results: Path, report: Report) -> list[ResultRow]:
    """DCGAN, Table 3: test error of a 1-nearest-neighbour classifier on real or generated digits."""
    paths = {row: results / f"{name}.parquet" for row, name in TABLE3_RESULTS.items()}
    models = {row: read_results(path) for row, path in paths.items() if path.exists()}
    rows = []
    for printed in papers.DCGAN_TABLE3:
        if printed.kind == "published":
            rows.append(_quoted(printed))
            continue
        if printed.row not in models:
            rows.append(_not_run(printed, report))
            continue
        network = "real" if printed.row == "Real Data" else "generator"
        rows.append(_measured(printed, models[printed.row], network, report))
    for row in ("GAN", "DCGAN (ours)"):
        if row in models:
            rows += _last_epoch(row, models[row], report)
    return rows


def datasets(results: Path, report: Report) -> list[ResultRow]:
    """What became of every input of every image set, and what the papers' running text says of theirs."""
    counts = {name: _counts(results / f"{name}.parquet") for name in DATASETS}
    if counts["lsun_dedup"]:
        found = _counts(results / "dedup.parquet")
        counts["lsun_dedup"] |= {column: found[name] for name, column in DEDUP_COLUMNS.items() if name in found}
        counts["lsun_dedup"] |= {name: found[name] for name in found if name.startswith("groups_of_")}
    names = {title: name for name, title in DATASETS.items()}
    rows = []
    for printed in papers.DATASETS:
        name = names[printed.row]
        value = counts[name].get(printed.column)
        if value is None:
            note = NO_TRUTH if counts[name] and printed.column == "false_positives" else NOT_RUN
            what = report.datasets[name]
            rows.append(_unmeasured(printed, comparable=report.comparable, dataset=what, note=note))
        else:
            rows.append(
                _count(printed.row, printed.column, value, name, report, printed, n_images=counts[name].get("in"))
            )
    told = {(row.row, row.column) for row in rows}
    for name, title in DATASETS.items():
        if not counts[name] and (title, "out") not in told:
            rows.append(_count(title, "out", None, name, report, None, n_images=None))
        rows += [
            _count(title, column, value, name, report, None, n_images=counts[name].get("in"))
            for column, value in counts[name].items()
            if (title, column) not in told
        ]
    return rows


def _counts(path: Path) -> dict[str, float]:
    """quantity -> value; empty if the stage has not run in this profile."""
    if not path.is_file():
        return {}
    found = pd.read_parquet(path)
    return dict(zip(found["quantity"], found["value"].astype(float), strict=True))


def _unit(column: str) -> str:
    return "groups" if column.startswith("groups_of_") else UNITS.get(column.split(":", maxsplit=1)[0], "images")


def _count(
    row: str,
    column: str,
    value: float | None,
    name: str,
    report: Report,
    printed: papers.Published | None,
    *,
    n_images: float | None,
) -> ResultRow:
    note = report.notes.get(name, "")
    return ResultRow(
        row=row,
        column=column,
        unit=printed.unit if printed else _unit(column),
        kind="ours" if printed else "extra",
        paper=printed.value if printed else None,
        paper_spread=None,
        measured=value,
        spread=None,
        spread_over="",
        n_seeds=None,
        n_images=None if n_images is None else int(n_images),
        n_labels=None,
        dataset=report.datasets[name],
        source=printed.source if printed else "ours",
        comparable="reduced" if note and report.comparable == "yes" else report.comparable,
        note=NOT_RUN if value is None else note,
    )


TABLES: dict[str, tuple[str, Callable[[Path, Report], list[ResultRow]]]] = {
    "dcgan_table3": ("DCGAN, Table 3: MNIST nearest-neighbour test error", dcgan_table3),
    "datasets": ("Datasets: what became of every input", datasets),
}


def read_results(path: Path) -> pd.DataFrame:
    """Rows (seed, network, n_images, error_percent, ...) of one neighbours stage."""
    if not path.is_file():
        message = f"{path}: missing; run dvc repro neighbours@{path.stem}"
        raise InputError(message)
    return pd.read_parquet(path)


def _quoted(printed: papers.Published) -> ResultRow:
    return _unmeasured(printed, comparable="", dataset="MNIST", note="quoted by the paper, not measured here")


def _not_run(printed: papers.Published, report: Report) -> ResultRow:
    note = "not run in this profile yet: the schedule has not fitted; other profiles show shorter ones"
    return _unmeasured(printed, comparable=report.comparable, dataset=report.datasets["mnist"], note=note)


def _unmeasured(printed: papers.Published, *, comparable: str, dataset: str, note: str) -> ResultRow:
    return ResultRow(
        row=printed.row,
        column=printed.column,
        unit=printed.unit,
        kind=printed.kind,
        paper=printed.value,
        paper_spread=printed.spread,
        measured=None,
        spread=None,
        spread_over="",
        n_seeds=None,
        n_images=None,
        n_labels=None,
        dataset=dataset,
        source=printed.source,
        comparable=comparable,
        note=note,
    )


def _measured(printed: papers.Published, results: pd.DataFrame, network: str, report: Report) -> ResultRow:
    """The row at the nominal number of images, or at the most that this profile has."""
    found = _at_most(results[results["network"] == network], NOMINAL[printed.column])
    if found.empty:
        note = f"no search of {NOMINAL[printed.column]:,} digits or fewer was run (neighbours.n_images)"
        return _unmeasured(printed, comparable=report.comparable, dataset=report.datasets["mnist"], note=note)
    return _row(found, report, row=printed.row, column=printed.column, printed=printed)


def _last_epoch(row: str, results: pd.DataFrame, report: Report) -> list[ResultRow]:
    """An extra row for the networks of the last epoch, if they were searched with 50,000 digits or fewer."""
    found = _at_most(results[results["network"] == "generator_last"], NOMINAL[papers.AT_50K])
    if found.empty:
        return []
    note = "networks of the last epoch instead of the one that validation chose"
    return [_row(found, report, row=row, column=papers.AT_50K, printed=None, notes=[note])]


def _at_most(found: pd.DataFrame, nominal: int) -> pd.DataFrame:
    """The rows of the largest search that does not exceed the nominal number of images; empty if there is none."""
    n_images = found["n_images"]
    return found[n_images == n_images[n_images <= nominal].max()]


def _row(
    found: pd.DataFrame,
    report: Report,
    *,
    row: str,
    column: str,
    printed: papers.Published | None,
    notes: Sequence[str] = (),
) -> ResultRow:
    """A measured row from the results of one size: one line a seed."""
    errors = found["error_percent"]
    real = bool((found["network"] == "real").all())
    n_images, n_test, nominal = int(found["n_images"].iloc[0]), int(found["n_test"].iloc[0]), NOMINAL[column]
    kind = "real training" if real else "generated"
    notes = [
        f"{n_images:,} {kind} digits instead of {nominal:,}" if n_images != nominal else "",
        *notes,
        "" if real else f"epochs {', '.join(str(epoch) for epoch in found['epoch'])}",
        f"{n_test:,} test digits" if n_test != 10_000 else "",
        report.notes.get(TABLE3_RESULTS[row], ""),
    ]
    # the real digits need no schedule: with all of them, the row of a reduced profile is the paper's
    whole = real and n_images == nominal and report.comparable == "reduced"
    return ResultRow(
        row=row if printed else f"{row}, last epoch",
        column=column,
        unit="percent_error",
        kind="ours" if printed else "extra",
        paper=printed.value if printed else None,
        paper_spread=printed.spread if printed else None,
        measured=float(errors.mean()),
        spread=float(errors.std(ddof=1)) if len(errors) > 1 else None,
        spread_over="seeds" if len(errors) > 1 else "",
        n_seeds=None if real else len(errors),
        n_images=n_images,
        n_labels=int(found["n_labels"].iloc[0]),
        dataset=report.datasets["mnist"],
        source=printed.source if printed else "ours",
        comparable="yes" if whole else report.comparable,
        note="; ".join(filter(None, notes)),
    )
