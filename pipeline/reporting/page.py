"""report.md: every table and figure of a profile on one page, with what the numbers rest on.

A page is a list of parts, lines of Markdown and tables: report.md joins them, and html_page.py lays the same parts out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import number, printed
from pipeline.models.store import read_run
from pipeline.reporting import health, readings, score_tables
from pipeline.reporting.result_files import NOT_KEPT
from pipeline.reporting.rows import NOT_MADE, NOT_RUN, Report, lacking
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
    "imagenet128_dcgan": "photographs of ImageNet at 128 x 128",
}

READING = {
    "yes": (
        "The paper's data. What was measured may be set beside the paper's numbers where column `comparable` of the "
        "table's CSV says yes; the notes of the other rows say what was reduced."
    ),
    "reduced": "Real data at a reduced schedule: the numbers show the trend, not the paper's result.",
    "no": "Small nets on embedded data: the numbers show that the pipeline works. They reproduce nothing.",
}

TEXT_NUMBERS = "text_numbers"
CLAIMS = "claims"
CLAIMS_READING = (
    "The papers' sentences, what tests each - an ablation, or a comparison of committed results - and what came of it. "
    "Embedded data and small nets: a verdict is one on this pipeline, not on the paper. Effect: on the metric, mean "
    "± standard deviation over n seeds, draws, splits or games. The rule of each verdict was written down before "
    "the ablations ran; where it compares committed results alone, those were known."
)
NO_CLAIMS = "No claim has been tested in this profile. Ablations (`make ablations`) run on the embedded data."

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

SCORES_READING = {
    "yes": [
        "Settings of the paper's models are not published, so these are ours, as the notes say. An Inception score is",
        "printed only where the network of 2015 gave real CIFAR-10 its 11.24 first.",
    ],
    "reduced": [
        "The paper's rows on real CIFAR-10, with nets and schedules that are much smaller than its own must have been;",
        "its settings are not published. What can be read is how the rows stand to each other here, where no seed of",
        "them has failed; not the paper's scores.",
    ],
    "no": [
        "Small nets and short schedules on embedded data: no score here reproduces one of the paper, and the order of",
        "the rows says little of the techniques.",
    ],
}
CLASSIFIER_SCORE = (
    "`classifier_score` is the formula of the Inception score on the class probabilities of a classifier that this "
    "pipeline trains on the same data set, and `classifier_frechet` to `classifier_coverage` are measured on its "
    "features. It is not an Inception score, and no number of the paper is comparable with it. Samples are measured "
    "against training images, the training images in row Real data against test images."
)
TURING_READING = (
    "Who looks at the decks of this profile is shown screens of 3 x 3 images, four or five of them generated, and says "
    "which; the page is ours, as the paper describes neither its own nor its annotators. Votes of simulated annotators "
    "are not counted."
)
NOBODY = "Nobody has voted in this profile."
LEARNING = "figures/turing_learning.png"  # of votes


DATASETS_READING = {
    "yes": "The official sets, but where a note says otherwise.",
    "reduced": "Samples of the real sets, MNIST and CIFAR-10 whole: the counts are those of the samples.",
    "no": "Rendered images and windows of photographs, with their ground truth. The counts reproduce nothing.",
}

HEALTH_READING = [
    "Gradients: norms in the last updates of the run. Diversity: the median distance of a generated image to the",
    "nearest other one at fixed z, as a share of the same among real images; below 0.1 the run is said to have",
    "collapsed. Above, it may still give one image with noise in its pixels: the pictures of samples show that.",
]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The place of a table on a page.

    Attributes
    ----------
    lines : what stands there in Markdown: its main columns, or where it is found
    folded : other parts of the page tell the same in fewer numbers, so that a page with all rows may hide them at first
    """

    name: str
    lines: tuple[str, ...] = ()
    folded: bool = False


Part = str | Table


def report_page(
    profile: str, report: Report, reports: Path, models: list[Path], metrics: Path, few_labels: Sequence[Path] = ()
) -> str:
    """Markdown of the whole report; links are relative to the folder ``reports``. Parameters: :func:`report_parts`."""
    return markdown(report_parts(profile, report, reports, models, metrics, few_labels))


def markdown(parts: Iterable[Part]) -> str:
    """The parts of a page as one text."""
    return "\n".join(line for part in parts for line in (part.lines if isinstance(part, Table) else [part]))


def report_parts(
    profile: str, report: Report, reports: Path, models: list[Path], metrics: Path, few_labels: Sequence[Path] = ()
) -> list[Part]:
    """Everything that the report says, in order.

    Parameters
    ----------
    reports : the tables are read from it
    models : model folders, or the records of their runs
    metrics : folder of the figures' metrics
    few_labels : result folders of Improved GAN's runs, for their health
    """
    lines: list[Part] = [f"# Report of profile `{profile}`", "", READING[report.comparable], ""]
    csv = reports / "tables/datasets.csv"
    unread = [] if _unusable(csv) else _not_run(pd.read_csv(csv))
    for name, what in sorted(report.datasets.items()):
        lines.append(f"- {name}: {what}{' (not run in this profile yet)' if DATASETS.get(name) in unread else ''}")
    lines += ["", "What became of every image, with contact sheets: [datasets](datasets.md).", ""]
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
    lines += _scores(report, reports)
    lines += readings.section(profile, metrics, "improved_table3", report.notes)
    lines += readings.section(profile, metrics, "imagenet128", report.notes)
    lines += _turing(reports)
    lines += readings.section(profile, metrics, "turing", report.notes)
    lines += _text_numbers(reports)
    lines += _claims(reports)
    lines += ["## Training runs", "", *health.runs_table(models), "", "Curves: `dvc plots show`.", ""]
    lines += ["## Health of the training runs", "", *health.health_table([*models, *few_labels]), ""]
    lines += [*HEALTH_READING, ""]
    return lines


def _text_numbers(reports: Path) -> list[Part]:
    """The numbers in the papers' running text; nothing before their table was made."""
    if not (reports / f"tables/{TEXT_NUMBERS}.csv").is_file():
        return []
    return ["## Numbers in the running text of the papers", "", *_table(reports, TEXT_NUMBERS)]


def _claims(reports: Path) -> list[Part]:
    """The papers' claims with their verdicts; nothing before their table was made."""
    csv = reports / f"tables/{CLAIMS}.csv"
    if not csv.is_file():
        return []
    claims = pd.read_csv(csv)
    lines: list[Part] = ["## Claims of the papers, tested by ablations", ""]
    if claims.empty:
        return [*lines, NO_CLAIMS, ""]
    counts = claims["verdict"].value_counts()
    told = ", ".join(f"{verdict} {n}" for verdict, n in sorted(counts.items(), key=lambda item: str(item[0])))
    lines += [CLAIMS_READING, "", f"Of {len(claims)} claims: {told}.", ""]
    links = f"All columns: [CSV](tables/{CLAIMS}.csv)."
    return [*lines, Table(name=CLAIMS, lines=(*_claims_table(claims), "", links)), ""]


def _claims_table(claims: pd.DataFrame) -> list[str]:
    lines = ["| claim | sentence | metric | effect | n | verdict |", "| --- | --- | --- | ---: | ---: | --- |"]
    for claim in claims.to_dict("records"):
        effect = "" if pd.isna(claim["effect"]) else f"{claim['effect']:+.3g}"
        effect += "" if not effect or pd.isna(claim["effect_spread"]) else f" ± {claim['effect_spread']:.2g}"
        seeds = "" if pd.isna(claim["n_seeds"]) else f"{claim['n_seeds']:.0f}"
        texts = [_cell(claim[name]) for name in ("claim", "sentence", "metric")]
        lines.append(f"| {' | '.join(texts)} | {effect} | {seeds} | {_cell(claim['verdict'])} |")
    return lines


def _cell(text: Any) -> str:
    return "" if pd.isna(text) else str(text).replace("|", "/")


def _semisupervised(report: Report, reports: Path) -> list[Part]:
    """Improved GAN's three tables, and ensembles beside single networks."""
    lines: list[Part] = [
        "## Improved GAN: semi-supervised classification",
        "",
        *SEMISUPERVISED_READING[report.comparable],
        "",
    ]
    for name, heading in SEMISUPERVISED.items():
        lines += [f"### {heading}", "", *_table(reports, name)]
        csv = reports / f"tables/{name}.csv"
        told = [] if lacking(csv) else readings.ensembles(pd.read_csv(csv).to_dict("records"))
        lines += [*told, ""] if told else []
    return lines


def _scores(report: Report, reports: Path) -> list[Part]:
    """Improved GAN, Table 3, a line a row; its notes; and which of the paper's orderings hold."""
    lines: list[Part] = ["## Improved GAN, Table 3: scores of CIFAR-10 samples", ""]
    csv = reports / "tables/improved_table3.csv"
    if why := _unusable(csv):
        return [*lines, why, ""]
    table = pd.read_csv(csv)
    lines += [*SCORES_READING[report.comparable], "", *_wide_table(table), ""]
    lines += ["± of a measured number: over the seeds, or over the splits of the images where there is one seed."]
    score = f"{score_tables.CLASSIFIER}_{score_tables.SCORE}"
    if f"{score}_{score_tables.SPLIT_SPREAD}" in set(table["column"]):
        lines += [f"`{score}_{score_tables.SPLIT_SPREAD}` is that over the splits, as the paper's own ±."]
    lines += [""]
    if score in set(table["column"]):
        lines += [f"{CLASSIFIER_SCORE} {_accuracy(table)}".strip(), ""]
    whole = Table(name="improved_table3", lines=(_links("improved_table3"),), folded=True)
    lines += [*_score_notes(table), "", whole, ""]
    told = score_tables.orderings(table.to_dict("records"))
    return lines + ([*told, ""] if told else [])


def _wide_table(table: pd.DataFrame) -> list[str]:
    """A line a row, a column a measure; the paper's number in the second column."""
    measures = [column for column in dict.fromkeys(table["column"]) if column != score_tables.ACCURACY]
    cells = {(row["row"], row["column"]): row for row in table.to_dict("records")}
    lines = [
        f"| row | paper, {papers.INCEPTION_SCORE} | {' | '.join(measures)} |",
        f"| --- |{' ---: |' * (len(measures) + 1)}",
    ]
    for row in dict.fromkeys(table["row"]):
        scored = cells[row, papers.INCEPTION_SCORE]
        numbers = [printed(scored["paper"], scored["paper_spread"])]
        numbers += [
            number(cell["measured"], cell["unit"], spread=cell["spread"]) if (cell := cells.get((row, measure))) else ""
            for measure in measures
        ]
        lines.append(f"| {row} | {' | '.join(numbers)} |")
    return lines


def _accuracy(table: pd.DataFrame) -> str:
    found = table.loc[table["column"] == score_tables.ACCURACY, "measured"].dropna()
    return "" if found.empty else f"The classifier is right on {number(found.iloc[0], 'percent')} % of its test images."


def _score_notes(table: pd.DataFrame) -> list[str]:
    """Of each row once: what the notes of its scores say; what they say of all rows before that."""
    notes: dict[str, list[str]] = {}
    for cell in table[table["column"].isin(score_tables.SCORES) & table["note"].notna()].to_dict("records"):
        told = [part for part in cell["note"].split("; ") if part != score_tables.OUR_NETWORK]
        if pd.isna(cell["measured"]) and cell["note"] != NOT_RUN:
            told[0] = f"`{cell['column']}` {told[0]}"
        notes.setdefault(cell["row"], []).extend(told)
    of_all = [part for part in next(iter(notes.values()), []) if all(part in told for told in notes.values())]
    lines = [f"- all rows: {'; '.join(dict.fromkeys(of_all))}"] if of_all else []
    for row, told in notes.items():
        own = [part for part in dict.fromkeys(told) if part not in of_all]
        lines += [f"- {row}: {'; '.join(own)}"] if own else []
    return lines


def _turing(reports: Path) -> list[Part]:
    """The votes beside the paper's numbers, and the learning curve where there are votes."""
    lines: list[Part] = ["## Improved GAN: the visual Turing test", ""]
    if why := _unusable(reports / "tables/turing.csv"):
        return [*lines, why, ""]
    lines += [TURING_READING, "", *_table(reports, "turing")]
    if nobody_voted(reports / "tables"):
        return [*lines, NOBODY, ""]
    return [*lines, f"![Share correct over the screens, with feedback and without]({LEARNING})", ""]


def nobody_voted(tables: Path) -> bool:
    """Whether table ``turing`` has no measured number, so that the learning curve is an empty canvas."""
    csv = tables / "turing.csv"
    return bool(lacking(csv)) or bool(pd.read_csv(csv)["measured"].isna().all())


def _samples(models: list[Path], metrics: Path) -> list[str]:
    """The pictures of the colour runs that this profile has trained; released networks came without samples."""
    trained, _ = health.split(models)
    runs = {model.name: read_run(model) for model in trained}
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
    """Markdown of the dataset page; parameters as :func:`report_parts`."""
    return markdown(datasets_parts(profile, report, reports))


def _not_run(table: pd.DataFrame) -> list[str]:
    """Titles of the datasets that the table of datasets has no counts of."""
    return sorted(set(DATASETS.values()) - set(table["row"][table["measured"].notna()]))


def datasets_parts(profile: str, report: Report, reports: Path) -> list[Part]:
    """Everything that the dataset page says: a row a dataset, accuracy against truth, and the contact sheets.

    The sheets of real photographs are not in Git (project/twins.py): they are named, not shown.
    """
    csv = reports / "tables/datasets.csv"
    lines: list[Part] = [f"# Datasets of profile `{profile}`", "", DATASETS_READING[report.comparable], ""]
    if why := _unusable(csv):
        return [*lines, why, ""]
    table = pd.read_csv(csv)
    measured = table[table["measured"].notna()]
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
    missing = _not_run(table)
    lines += ["", f"Not run in this profile: {', '.join(missing)}."] if missing else []
    lines += ["", "What each of them is here:", ""]
    names = [name for name, title in DATASETS.items() if title in set(measured["row"])]
    for name in names:
        note = f" ({report.notes[name]})" if report.notes.get(name) else ""
        lines.append(f"- {DATASETS[name]}: {report.described(name)}{note}")
    lines.append(Table(name="datasets", folded=True))
    lines += ["", "## Near-duplicates found by the autoencoder's code", "", *_dedup_lines(measured), ""]
    lines += ["![Recall and precision over the Hamming radius, by alteration](figures/duplicates.png)", ""]
    lines += ["## Faces found by the detector", ""]
    lines += ["![Recall by group, precision and recall of the settings](figures/faces.png)", ""]
    lines += ["## Contact sheets", "", "Images drawn by seed.", ""]
    shown = {**{name: DATASETS[name] for name in names}, **SHEETS}
    if profile != readings.SHEETS_IN_GIT:
        return [*lines, f"In `data/{profile}/sheets/`, in the DVC cache: photographs do not enter Git.", ""]
    for name, title in shown.items():
        lines += [f"### {title}", "", f"![{title}](sheets/{name}.png)", ""]
    return lines


def _dedup_lines(measured: pd.DataFrame) -> list[str]:
    """What the deduplication of LSUN did, in a few sentences; nothing if it has not run."""
    rows = measured[measured["row"] == DATASETS["lsun_dedup"]]
    found = dict(zip(rows["column"], rows["measured"], strict=True))
    if "distinct_codes" not in found:
        return []
    sizes = {int(name.removeprefix("groups_of_")): int(n) for name, n in found.items() if name.startswith("groups_of_")}
    all_zero = number(100 * found["all_zero_share"], "percent")
    told = "; ".join(f"{n:,} of {size}" for size, n in sorted(sizes.items()) if size > 1) or "none"
    lines = [
        f"LSUN: {found['duplicates']:,.0f} images left out. Groups of like images: {told}. "
        f"{found['distinct_codes']:,.0f} distinct codes; all-zero codes {all_zero} %; "
        f"dead units {found['dead_units']:.0f} of 128."
    ]
    if "false_positives" in found:
        wrongly, low, high = (number(found[f"false_positives{end}"], "percent") for end in ("", "_low", "_high"))
        lines += [
            f"Left out wrongly: {wrongly} % (95 % interval {low} to {high} %), by the planted truth; the paper judged "
            "fewer than 1 in 100 by eye."
        ]
    else:
        lines += ["How many were left out wrongly nobody has judged: see the sheet of collisions."]
    return lines


def provenance(models: list[Path]) -> dict[str, Any]:
    """What decided the bytes of the results: device, threads, precision and instruction set of the training runs.

    Where some runs were trained on a processor and others on a GPU (``compute.device: auto``), both are told. Runs that
    this profile has not trained say nothing of it.

    Raises
    ------
    InputError
        If models were trained on devices of one name but of different kinds.
    """
    keys = ("device", "threads", "precision", "instruction_set")
    trained, _ = health.split(models)
    kinds = sorted({tuple(read_run(model)[key] for key in keys) for model in trained}, key=str)
    if len({device for device, *_ in kinds}) < len(kinds):
        found = "; ".join(", ".join(map(str, kind)) for kind in kinds)
        message = f"{trained[0].parent}: the models were trained on machines of different kinds ({found}); retrain them"
        raise InputError(message)
    if not kinds:
        return {}
    told = [list(dict.fromkeys(values)) for values in zip(*kinds, strict=True)]
    joined = [values[0] if len(values) == 1 else ", ".join(map(str, values)) for values in told]
    return dict(zip(keys, joined, strict=True))


def _table(reports: Path, name: str) -> list[Part]:
    """A table of the page, short, with links to the whole one."""
    csv = reports / f"tables/{name}.csv"
    if why := _unusable(csv):
        return [why, ""]
    return [Table(name=name, lines=(*_short_table(csv), "", _links(name))), ""]


def _unusable(csv: Path) -> str:
    """A sentence in place of a table that was not made or lacks columns; empty where there is one."""
    why = lacking(csv)
    return readings.NOT_RUN if why == NOT_MADE else f"`tables/{csv.name}` is {why}: make it anew." if why else ""


def _links(name: str) -> str:
    return f"All columns: [CSV](tables/{name}.csv), [Markdown](tables/{name}.md)."


def _short_table(path: Path) -> list[str]:
    table = pd.read_csv(path, keep_default_na=True)
    lines = ["| row | column | paper | measured | ± over | note |", "| --- | --- | ---: | ---: | --- | --- |"]
    for row in table.to_dict("records"):
        paper = printed(row["paper"], row["paper_spread"])
        measured = number(row["measured"], row["unit"], spread=row["spread"])
        place, note = f"{_cell(row['row'])} | {_cell(row['column'])}", _cell(row["note"])
        lines.append(f"| {place} | {paper} | {measured} | {_over(row)} | {note} |")
    return lines


def _over(row: dict[Any, Any]) -> str:
    """``3 seeds``, or ``draws``, which the note counts; nothing where there is no spread."""
    if pd.isna(row["spread"]):
        return ""
    return f"{row['n_seeds']:.0f} seeds" if row["spread_over"] == "seeds" else row["spread_over"]
