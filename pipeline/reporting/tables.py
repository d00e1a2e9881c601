"""Measured beside published: one function a table, from the results that the stages before left in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from pipeline import papers
from pipeline.core.records import ResultRow, read_parquet
from pipeline.reporting.probe_tables import dcgan_table1, dcgan_table2
from pipeline.reporting.rows import NOT_RUN, Extra, Place, Report, at_most, joined, quoted, read_results, result
from pipeline.reporting.running_text import NO_TRUTH
from pipeline.reporting.score_tables import improved_table3
from pipeline.reporting.semisup_tables import improved_svhn, improved_table1, improved_table2
from pipeline.reporting.text_numbers import text_numbers

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
NOMINAL, N_TEST = {papers.AT_50K: 50_000, papers.AT_10M: 10_000_000}, 10_000


def dcgan_table3(results: Path, report: Report) -> list[ResultRow]:
    """DCGAN, Table 3: test error of a 1-nearest-neighbour classifier on real or generated digits."""
    paths = {row: results / f"{name}.parquet" for row, name in TABLE3_RESULTS.items()}
    models = {row: read_results(path) for row, path in paths.items() if path.exists()}
    rows = []
    for printed in papers.DCGAN_TABLE3:
        if printed.kind == "published":
            rows.append(quoted(printed, "MNIST"))
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
            rows.append(result(printed, comparable=report.comparable, dataset=report.described(name), note=note))
        else:
            rows.append(_count(printed, value, name, report, n_images=counts[name].get("in")))
    told = {(row.row, row.column) for row in rows}
    for name, title in DATASETS.items():
        if not counts[name] and (title, "out") not in told:
            rows.append(_count(_extra(title, "out"), None, name, report, n_images=None))
        rows += [
            _count(_extra(title, column), value, name, report, n_images=counts[name].get("in"))
            for column, value in counts[name].items()
            if (title, column) not in told
        ]
    return rows


def _counts(path: Path) -> dict[str, float]:
    """quantity -> value; empty if the stage has not run in this profile."""
    if not path.is_file():
        return {}
    found = read_parquet(path)
    return dict(zip(found["quantity"], found["value"].astype(float), strict=True))


def _extra(row: str, column: str) -> Extra:
    name = column.split(":", maxsplit=1)[0]
    unit = "groups" if column.startswith("groups_of_") else UNITS.get(name, "images")
    return Extra(row=row, column=column, unit=unit)


def _count(place: Place, value: float | None, name: str, report: Report, *, n_images: float | None) -> ResultRow:
    note = report.notes.get(name, "")
    return result(
        place,
        measured=value,
        n_images=None if n_images is None else int(n_images),
        dataset=report.described(name),
        comparable="reduced" if note and report.comparable == "yes" else report.comparable,
        note=NOT_RUN if value is None else note,
    )


TABLES: dict[str, tuple[str, Callable[[Path, Report], list[ResultRow]]]] = {
    "dcgan_table1": ("DCGAN, Table 1: CIFAR-10 accuracy of linear classifiers on features", dcgan_table1),
    "dcgan_table2": ("DCGAN, Table 2: SVHN test error with 1,000 labels", dcgan_table2),
    "dcgan_table3": ("DCGAN, Table 3: MNIST nearest-neighbour test error", dcgan_table3),
    "improved_table1": ("Improved GAN, Table 1: MNIST errors of 10,000 with few labels", improved_table1),
    "improved_table2": ("Improved GAN, Table 2: CIFAR-10 test error with few labels", improved_table2),
    "improved_svhn": ("Improved GAN, Figure 5: SVHN test error with few labels", improved_svhn),
    "improved_table3": ("Improved GAN, Table 3: Inception scores of CIFAR-10 samples", improved_table3),
    "text_numbers": ("Numbers of the papers' running text", text_numbers),
    "datasets": ("Datasets: what became of every input", datasets),
}


def _not_run(printed: papers.Published, report: Report) -> ResultRow:
    note = "not run in this profile yet: the schedule has not fitted; other profiles show shorter ones"
    return result(printed, comparable=report.comparable, dataset=report.described("mnist"), note=note)


def _measured(printed: papers.Published, results: pd.DataFrame, network: str, report: Report) -> ResultRow:
    """The row at the nominal number of images, or at the most that this profile has."""
    found = _largest(results[results["network"] == network], NOMINAL[printed.column])
    if found.empty:
        note = f"no search of {NOMINAL[printed.column]:,} digits or fewer was run (neighbours.n_images)"
        return result(printed, comparable=report.comparable, dataset=report.described("mnist"), note=note)
    return _row(printed, found, TABLE3_RESULTS[printed.row], report)


def _last_epoch(row: str, results: pd.DataFrame, report: Report) -> list[ResultRow]:
    """An extra row for the networks of the last epoch, if they were searched with 50,000 digits or fewer."""
    found = _largest(results[results["network"] == "generator_last"], NOMINAL[papers.AT_50K])
    if found.empty:
        return []
    note = "networks of the last epoch instead of the one that validation chose"
    place = Extra(row=f"{row}, last epoch", column=papers.AT_50K, unit="percent_error")
    return [_row(place, found, TABLE3_RESULTS[row], report, notes=[note])]


def _largest(found: pd.DataFrame, nominal: int) -> pd.DataFrame:
    """The rows of the largest search that does not exceed the nominal number of images; empty if there is none."""
    n_images = at_most(found["n_images"], nominal)
    return found.head(0) if n_images is None else found[found["n_images"] == n_images]


def _row(place: Place, found: pd.DataFrame, name: str, report: Report, *, notes: Sequence[str] = ()) -> ResultRow:
    """A measured row from the results of one size: one line a seed."""
    errors = found["error_percent"]
    real = bool((found["network"] == "real").all())
    n_images, n_test, nominal = int(found["n_images"].iloc[0]), int(found["n_test"].iloc[0]), NOMINAL[place.column]
    kind = "real training" if real else "generated"
    comparable, whole = report.comparable, n_images == nominal and n_test == N_TEST
    # the real digits need no schedule: with all of them, the row of a reduced profile is the paper's
    if real and whole and comparable == "reduced":
        comparable = "yes"
    elif not whole and comparable == "yes":
        comparable = "reduced"
    return result(
        place,
        measured=float(errors.mean()),
        spread=float(errors.std(ddof=1)) if len(errors) > 1 else None,
        spread_over="seeds" if len(errors) > 1 else "",
        n_seeds=None if real else len(errors),
        n_images=n_images,
        n_labels=int(found["n_labels"].iloc[0]),
        dataset=report.described("mnist"),
        comparable=comparable,
        note=joined(
            f"{n_images:,} {kind} digits instead of {nominal:,}" if n_images != nominal else "",
            *notes,
            "" if real else f"epochs {', '.join(str(epoch) for epoch in found['epoch'])}",
            f"{n_test:,} test digits" if n_test != N_TEST else "",
            report.notes.get(name, ""),
        ),
    )
