"""report.md: every table and figure of a profile on one page, with what the numbers rest on."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import InputError
from pipeline.models.store import read_run
from pipeline.reporting import health, readings
from pipeline.reporting.result_files import NOT_KEPT
from pipeline.reporting.rows import Report
from pipeline.reporting.tables import DATASETS

SHEETS = {
    "lsun_collisions": "Images that the deduplication removed, each before the one that was kept",
    "faces_rejected": "Detections that were left out",
}

SAMPLES = {  # run -> what it generates
    "dcgan_lsun": "bedrooms",
    "dcgan_faces": "faces",
    "dcgan_imagenet": "photographs of ImageNet",
    "dcgan_cifar10": "photographs of CIFAR-10",
    "dcgan_svhn": "house numbers",
}

READING = {
    "yes": "The numbers may be set beside the paper's.",
    "reduced": "Real data at a reduced schedule: the numbers show the trend, not the paper's result.",
    "no": "Small nets on embedded data: the numbers show that the pipeline works. They reproduce nothing.",
}

SEMISUPERVISED = {  # table -> heading
    "improved_table1": "Table 1: MNIST, test errors of 10,000 images",
    "improved_table2": "Table 2: CIFAR-10, test error, %",
    "improved_svhn": "Figure 5: SVHN, test error, %",
}

SEMISUPERVISED_READING = {
    "yes": [
        "Where a row is not `comparable`, networks, epochs, images or settings are not the authors', as its note says.",
    ],
    "reduced": [
        "Fewer networks, shorter schedules or narrower nets than the paper's, as the notes say: the errors show what",
        "more labels and unlabelled images do, not the paper's result.",
    ],
    "no": [
        "Small nets and short schedules on embedded data: no error here reproduces one of the paper. What can be read",
        "is whether unlabelled images help the same D, and whether an ensemble of such networks does.",
    ],
}


DATASETS_READING = {
    "yes": "The official sets, but where a note says otherwise.",
    "reduced": "Samples of the real sets, MNIST and CIFAR-10 whole: the counts are those of the samples.",
    "no": "Rendered images and windows of photographs, with their ground truth. The counts reproduce nothing.",
}

HEALTH_READING = [
    "Gradients: norms in the last updates of the run. Diversity: the median distance of a generated image to the",
    "nearest other one at fixed z, as a share of the same among real images; near 0, the generator gives one image.",
]


def report_page(profile: str, report: Report, reports: Path, models: list[Path], metrics: Path) -> str:
    """Markdown of the whole report; links are relative to the folder ``reports``.

    Parameters
    ----------
    reports : the tables are read from it
    models : model folders, or the records of their runs
    metrics : folder of the figures' metrics
    """
    lines = [f"# Report of profile `{profile}`", "", READING[report.comparable], ""]
    lines += [f"- {name}: {what}" for name, what in sorted(report.datasets.items())]
    lines += ["", "What became of every image, with contact sheets: [datasets.md](datasets.md).", ""]
    lines += ["## DCGAN, Table 1: CIFAR-10 accuracy of a linear classifier on features, %", ""]
    lines += _table(reports, "dcgan_table1")
    lines += [
        "Each layer of the discriminator is max-pooled to 4 x 4 maps; an L2-SVM is fitted on all of them together."
    ]
    lines += ["Its C is chosen on training images that were held out.", ""]
    lines += ["![Accuracy over C and over the number of labels](figures/table1_probes.png)", ""]
    lines += ["## DCGAN, Table 2: SVHN error with 1,000 labels, %", "", *_table(reports, "dcgan_table2")]
    lines += ["![Error over C, over the number of labels, and of the supervised trials](figures/table2_probes.png)", ""]
    lines += ["## DCGAN, Table 3: MNIST nearest-neighbour test error, %", "", *_table(reports, "dcgan_table3")]
    lines += ["![Test error over the number of generated digits](figures/error_over_n.png)", ""]
    lines += readings.section(profile, metrics, "samples", report.notes)
    lines += ["## Samples during training, all colour runs", ""]
    lines += _samples(models, metrics)
    for name in ("walk", "guided_backprop", "forget_windows", "arithmetic", "turn"):
        lines += readings.section(profile, metrics, name, report.notes)
    lines += ["## DCGAN, Figure 9: digits", ""]
    lines += ["![Real digits, GAN, DCGAN](figures/dcgan_fig9.png)", ""]
    lines += [
        "Chosen by order: the first seven test digits of each class, and of the streams that the table was measured"
    ]
    lines += ["on. A digit is recognised if the nearest real training digit has its label.", ""]
    for name in ("grids", "distances"):
        lines += readings.section(profile, metrics, name, report.notes)
    lines += readings.section(profile, metrics, "toy_games", report.notes)
    lines += _semisupervised(report, reports)
    for name in ("semisup_errors", "improved_samples"):
        lines += readings.section(profile, metrics, name, report.notes)
    lines += ["## Training runs", "", *health.runs_table(models), "", "Curves: `dvc plots show`.", ""]
    lines += ["## Health of the training runs", "", *health.health_table(models), "", *HEALTH_READING, ""]
    return "\n".join(lines)


def _semisupervised(report: Report, reports: Path) -> list[str]:
    """Improved GAN's three tables, and ensembles beside single networks."""
    lines = ["## Improved GAN: semi-supervised classification", "", *SEMISUPERVISED_READING[report.comparable], ""]
    for name, heading in SEMISUPERVISED.items():
        lines += [f"### {heading}", "", *_table(reports, name)]
        csv = reports / f"tables/{name}.csv"
        told = readings.ensembles(pd.read_csv(csv).to_dict("records")) if csv.is_file() else []
        lines += [*told, ""] if told else []
    return lines


def _samples(models: list[Path], metrics: Path) -> list[str]:
    """The pictures of the colour runs that this profile has trained; released networks came without samples."""
    runs = {model.name: read_run(model) for model in models if model.exists()}
    shown = {name: what for name, what in SAMPLES.items() if name in runs and "released" not in runs[name]}
    released = [name for name in SAMPLES if name in runs and name not in shown]
    lines = [f"{', '.join(released)}: {NOT_KEPT[0].lower()}{NOT_KEPT[1:]}", ""] if released else []
    if not shown:
        return lines or [readings.NOT_RUN, ""]
    lines += [
        "Left after the first epoch, right after the last, at the same z; nothing is chosen by eye. So that Git can"
    ]
    lines += ["hold a picture, its file has a palette.", ""]
    for name, what in shown.items():
        lines += [f"![Run {name}, {what}: after the first and the last epoch](figures/samples_{name}.png)", ""]
        own = readings.read(metrics / f"samples_{name}.json")
        lines += [f"{name}: images {readings.rendition(own)}.", ""] if "scale" in own else []
    return lines


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

    Runs that this profile has not trained say nothing of it.

    Raises
    ------
    InputError
        If the models were trained on machines of different kinds.
    """
    keys = ("device", "threads", "precision", "instruction_set")
    trained, _ = health.split(models)
    kinds = {tuple(read_run(model)[key] for key in keys) for model in trained}
    if not kinds:
        return {}
    if len(kinds) != 1:
        found = "; ".join(", ".join(map(str, kind)) for kind in sorted(kinds, key=str))
        message = f"{trained[0].parent}: the models were trained on machines of different kinds ({found}); retrain them"
        raise InputError(message)
    return dict(zip(keys, kinds.pop(), strict=True))


def _table(reports: Path, name: str) -> list[str]:
    """A table of the page, short, with links to the whole one."""
    csv = reports / f"tables/{name}.csv"
    if not csv.is_file():
        return [readings.NOT_RUN, ""]
    return [*_short_table(csv), "", f"All columns: [CSV](tables/{name}.csv), [Markdown](tables/{name}.md).", ""]


def _short_table(path: Path) -> list[str]:
    table = pd.read_csv(path, keep_default_na=True)
    lines = ["| row | column | paper | measured | ± over | note |", "| --- | --- | ---: | ---: | --- | --- |"]
    for row in table.to_dict("records"):
        paper = _number(row["paper"], row["paper_spread"], row["unit"])
        measured = _number(row["measured"], row["spread"], row["unit"])
        note = "" if pd.isna(row["note"]) else row["note"]
        lines.append(f"| {row['row']} | {row['column']} | {paper} | {measured} | {_over(row)} | {note} |")
    return lines


def _over(row: dict[Any, Any]) -> str:
    """``3 seeds``, or ``draws``, which the note counts; nothing where there is no spread."""
    if pd.isna(row["spread"]):
        return ""
    return f"{row['n_seeds']:.0f} seeds" if row["spread_over"] == "seeds" else row["spread_over"]


def _number(value: float, spread: float, unit: str) -> str:
    if pd.isna(value):
        return ""
    if unit == "count":
        return f"{value:,.0f}"
    return f"{value:.2f}" + (f" ± {spread:.2f}" if pd.notna(spread) else "")
