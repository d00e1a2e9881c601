"""report.md: every table and figure of a profile on one page, with what the numbers rest on."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import InputError
from pipeline.models.store import read_run
from pipeline.reporting.tables import DATASETS, Report

SHEETS = {
    "lsun_collisions": "Images that the deduplication removed, each before the one that was kept",
    "faces_rejected": "Detections that were left out",
}

READING = {
    "yes": "The numbers may be set beside the paper's.",
    "reduced": "Real data at a reduced schedule: the numbers show the trend, not the paper's result.",
    "no": "Small nets on embedded data: the numbers show that the pipeline works. They reproduce nothing.",
}


DATASETS_READING = {
    "yes": "The official sets, but where a note says otherwise.",
    "reduced": "Samples of the real sets, MNIST and CIFAR-10 whole: the counts are those of the samples.",
    "no": "Rendered images and windows of photographs, with their ground truth. The counts reproduce nothing.",
}


def report_page(profile: str, report: Report, reports: Path, models: list[Path]) -> str:
    """Markdown of the whole report; links are relative to the folder ``reports``."""
    lines = [f"# Report of profile `{profile}`", "", READING[report.comparable], ""]
    lines += [f"- {name}: {what}" for name, what in sorted(report.datasets.items())]
    lines += ["", "What became of every image, with contact sheets: [datasets.md](datasets.md).", ""]
    lines += ["## DCGAN, Table 3: MNIST nearest-neighbour test error, %", ""]
    lines += _short_table(reports / "tables/dcgan_table3.csv")
    lines += ["", "All columns: [CSV](tables/dcgan_table3.csv), [Markdown](tables/dcgan_table3.md).", ""]
    lines += ["![Test error over the number of generated digits](figures/error_over_n.png)", ""]
    lines += ["## DCGAN, Figure 9: digits", ""]
    lines += ["![Real digits, GAN, DCGAN](figures/dcgan_fig9.png)", ""]
    lines += [
        "Chosen by order: the first seven test digits of each class, and of the streams that the table was measured"
    ]
    lines += ["on. A digit is recognised if the nearest real training digit has its label.", ""]
    lines += ["## Training runs", "", *_runs(models), "", "Curves: `dvc plots show`.", ""]
    return "\n".join(lines)


def datasets_page(profile: str, report: Report, reports: Path) -> str:
    """Markdown of the dataset page: a row a dataset, accuracy against truth, and the contact sheets.

    The sheets of real photographs are not in Git (project/twins.py): they are named, not shown.
    """
    table = pd.read_csv(reports / "tables/datasets.csv")
    measured = table[table["measured"].notna()]
    lines = [f"# Datasets of profile `{profile}`", "", DATASETS_READING[report.comparable], ""]
    lines += ["`in` = `out` + `rejected` + `duplicates`. All counts and notes: [CSV](tables/datasets.csv).", ""]
    lines += ["| dataset | in | out | rejected | duplicates | reasons |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for title, rows in measured[measured["unit"].isin(["images", "photos"])].groupby("row", sort=False):
        counts = dict(zip(rows["column"], rows["measured"].astype(int), strict=True))
        reasons = [
            f"{column.removeprefix('rejected: ')} {n:,}"
            for column, n in counts.items()
            if column.startswith("rejected:")
        ]
        cells = " | ".join(f"{counts[name]:,}" for name in ("in", "out", "rejected", "duplicates"))
        photos = f" (detections in {counts['photos']:,} photos)" if "photos" in counts else ""
        lines.append(f"| {title}{photos} | {cells} | {'; '.join(reasons)} |")
    missing = sorted(set(DATASETS.values()) - set(measured["row"]))
    lines += ["", f"Not run in this profile: {', '.join(missing)}."] if missing else []
    lines += ["", "What each of them is here:", ""]
    names = [name for name, title in DATASETS.items() if title in set(measured["row"])]
    for name in names:
        note = f" ({report.notes[name]})" if report.notes.get(name) else ""
        lines.append(f"- {DATASETS[name]}: {report.datasets[name]}{note}")
    lines += ["", "## Near-duplicates found by the autoencoder's code", "", *_dedup_lines(measured), ""]
    lines += ["![Recall and precision over the Hamming radius, by alteration](figures/duplicates.png)", ""]
    lines += ["## Faces found by the detector", ""]
    lines += ["![Recall by group, precision and recall of the settings](figures/faces.png)", ""]
    lines += ["## Contact sheets", "", "Images drawn by seed.", ""]
    shown = {**{name: DATASETS[name] for name in names}, **SHEETS}
    if profile != "embedded":
        return "\n".join([*lines, f"In `data/{profile}/sheets/`, in the DVC cache: photographs do not enter Git.", ""])
    for name, title in shown.items():
        lines += [f"### {title}", "", f"![{title}](sheets/{name}.png)", ""]
    return "\n".join(lines)


def _dedup_lines(measured: pd.DataFrame) -> list[str]:
    """What the deduplication of LSUN did, in a few sentences; nothing if it has not run."""
    rows = measured[measured["row"] == DATASETS["lsun_dedup"]]
    found = dict(zip(rows["column"], rows["measured"], strict=True))
    if "distinct_codes" not in found:
        return []
    sizes = {int(name.removeprefix("groups_of_")): int(n) for name, n in found.items() if name.startswith("groups_of_")}
    told = "; ".join(f"{n:,} of {size}" for size, n in sorted(sizes.items()) if size > 1) or "none"
    lines = [
        f"LSUN: {found['duplicates']:,.0f} images left out. Groups of like images: {told}. "
        f"{found['distinct_codes']:,.0f} distinct codes; all-zero codes {100 * found['all_zero_share']:.2f} %; "
        f"dead units {found['dead_units']:.0f} of 128."
    ]
    if "false_positives" in found:
        low, high = found["false_positives_low"], found["false_positives_high"]
        lines += [
            f"Left out wrongly: {found['false_positives']:.2f} % (95 % interval {low:.2f} to {high:.2f} %), by the "
            "planted truth; the paper judged fewer than 1 in 100 by eye."
        ]
    else:
        lines += ["How many were left out wrongly nobody has judged: see the sheet of collisions."]
    return lines


def provenance(models: list[Path]) -> dict[str, Any]:
    """What decided the bytes of the results: device, threads, precision and instruction set of the training runs.

    Raises
    ------
    InputError
        If the models were trained on machines of different kinds.
    """
    keys = ("device", "threads", "precision", "instruction_set")
    kinds = {tuple(read_run(model)[key] for key in keys) for model in models}
    if len(kinds) != 1:
        found = "; ".join(", ".join(map(str, kind)) for kind in sorted(kinds, key=str))
        message = f"{models[0].parent}: the models were trained on machines of different kinds ({found}); retrain them"
        raise InputError(message)
    return dict(zip(keys, kinds.pop(), strict=True))


def _short_table(path: Path) -> list[str]:
    table = pd.read_csv(path, keep_default_na=True)
    lines = ["| row | column | paper | measured | seeds | note |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for row in table.to_dict("records"):
        measured = _number(row["measured"]) + (f" ± {row['spread']:.2f}" if pd.notna(row["spread"]) else "")
        seeds = "" if pd.isna(row["n_seeds"]) else str(int(row["n_seeds"]))
        note = "" if pd.isna(row["note"]) else row["note"]
        lines.append(f"| {row['row']} | {row['column']} | {_number(row['paper'])} | {measured} | {seeds} | {note} |")
    return lines


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _runs(models: list[Path]) -> list[str]:
    lines = [
        "| run | seeds | steps | epochs chosen | D loss, end | G loss, end | D(x), end | D(G(z)), end |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for model in models:
        run = read_run(model)
        last = pd.read_parquet(model / "history.parquet").groupby("seed").tail(1)
        validation = pd.read_parquet(model / "validation.parquet")
        chosen = validation[validation["chosen"]].groupby("seed")["epoch"].first()
        ends = " | ".join(f"{last[name].mean():.3f}" for name in ("d_loss", "g_loss", "d_real", "d_fake"))
        seeds = ", ".join(map(str, run["params"]["seeds"]))
        lines.append(f"| {run['run']} | {seeds} | {run['steps']:,} | {', '.join(map(str, chosen))} | {ends} |")
    return lines
