"""README's results: the text between two markers, written from the committed tables and from nothing else.

What the numbers mean is written by hand, outside the markers.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.records import number, printed

README = Path("README.md")
BEGIN = "<!-- results: begin (written by `make readme` from reports/*/tables: an edit here is lost) -->"
END = "<!-- results: end -->"
PROFILES = {"paper": "paper profile", "laptop": "laptop", "embedded": "embedded"}  # as columns, in this order
PUBLISHED = ""  # stands for a profile where the paper's own number is meant
NOT_RUN = "not run yet"
WIDTH = 120  # of a line of text


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line: what it is called, the table, and the row and column of its CSV, of which its columns may name one."""

    labels: tuple[str, ...]
    table: str
    row: str = ""
    column: str = ""
    nominal: int | None = None  # number of images that the label promises


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers: of a profile, or of the paper; left out if no line has one."""

    title: str
    profile: str
    row: str = ""
    column: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of README."""

    heading: str
    text: str
    labels: tuple[str, ...]  # names of the columns that say what a line is
    lines: tuple[Line, ...]
    columns: tuple[Column, ...] = field(
        default_factory=lambda: (
            Column(title="published", profile=PUBLISHED),
            *(Column(title=title, profile=profile) for profile, title in PROFILES.items()),
        )
    )


def _digits() -> Iterator[Line]:
    cells = (
        ("Real Data", "Real Data", papers.AT_50K),
        *((name, row, column) for name, row in ROWS.items() for column in (papers.AT_50K, papers.AT_10M)),
    )
    for name, row, column in cells:
        told, nominal = ("50 K", 50_000) if column == papers.AT_50K else ("10 M", 10_000_000)
        yield Line(labels=(name, told), table="dcgan_table3", row=row, column=column, nominal=nominal)


ROWS = {"GAN": "GAN", "DCGAN": "DCGAN (ours)"}
FEATURES = {
    "K-means, one layer": papers.KMEANS,
    "D trained on ImageNet": papers.DCGAN_SVM,
    "D trained on CIFAR-10": "DCGAN trained on CIFAR-10 + L2-SVM",
    "D untrained": "Random D + L2-SVM",
}
LABELS = {"all": papers.ACCURACY_FULL, "400 a class": papers.ACCURACY_400}
WITH_1000_LABELS = {
    "nearest neighbour on pixels": (papers.KNN, papers.TEST_1000),
    "D trained on SVHN": (papers.DCGAN_SVM, papers.TEST_1000),
    "D trained on ImageNet": ("DCGAN trained on ImageNet + L2-SVM", papers.TEST_1000),
    "D untrained": ("Random D + L2-SVM", papers.TEST_1000),
    "supervised CNN, validation": (papers.SUPERVISED, papers.VALIDATION_1000),
    "supervised CNN, test": (papers.SUPERVISED, papers.TEST_1000),
}
SEMISUPERVISED = {
    "MNIST": ("improved_table1", (20, 50, 100, 200)),
    "CIFAR-10": ("improved_table2", (1000, 2000, 4000, 8000)),
    "SVHN": ("improved_svhn", (500, 1000, 2000)),
}
ALONE = "Same network, labels only"
SCORED = ("Real data", "Our methods", "-VBN+BN", "-L+HA", "-LS", "-L", "-MBF")
JUDGED = {
    "MNIST, minibatch discrimination": "percent_correct",
    "CIFAR-10, best model": "percent_correct",
    "CIFAR-10, top 1 % of samples by Inception score": "percent_correct",
}

SECTIONS = (
    Section(
        heading="DCGAN, Table 1: features of the discriminator on CIFAR-10",
        text="Accuracy (%) of linear L2-SVMs; those of K-means are quoted by the paper.",
        labels=("features", "labels"),
        lines=tuple(
            Line(labels=(name, labels), table="dcgan_table1", row=row, column=column)
            for name, row in FEATURES.items()
            for labels, column in LABELS.items()
        ),
    ),
    Section(
        heading="DCGAN, Table 2: SVHN with 1,000 labels",
        text="Test error (%), of the supervised network on validation images, too.",
        labels=("classifier",),
        lines=tuple(
            Line(labels=(name,), table="dcgan_table2", row=row, column=column)
            for name, (row, column) in WITH_1000_LABELS.items()
        ),
    ),
    Section(
        heading="DCGAN, Table 3: MNIST digits",
        text="Test error (%) of a 1-nearest-neighbour classifier built on real or generated digits; in brackets how "
        "many there were where it was another number.",
        labels=("row", "digits"),
        lines=tuple(_digits()),
    ),
    Section(
        heading="Improved GAN, Tables 1 and 2 and SVHN: classification with few labels",
        text="MNIST: errors of 10,000 test digits; CIFAR-10 and SVHN: test error (%). Labels only: the same network "
        "without the unlabelled images.",
        labels=("data, labels",),
        lines=tuple(
            Line(labels=(f"{data}, {n_labels:,}",), table=table, column=f"labels_{n_labels}")
            for data, (table, counts) in SEMISUPERVISED.items()
            for n_labels in counts
        ),
        columns=tuple(
            Column(title=f"{title}{what}", profile=profile, row=row)
            for profile, title in {PUBLISHED: "published", **PROFILES}.items()
            for what, row in (("", papers.OUR_MODEL), (", ensemble", papers.ENSEMBLE), (", labels only", ALONE))
        ),
    ),
    Section(
        heading="Improved GAN, Table 3: scores of CIFAR-10 samples",
        text="The classifier score is the Inception score's formula on a classifier of this pipeline: another scale, "
        "comparable with no number of the paper.",
        labels=("row",),
        lines=tuple(Line(labels=(row,), table="improved_table3", row=row) for row in SCORED),
        columns=(
            Column(title="published Inception score", profile=PUBLISHED, column=papers.INCEPTION_SCORE),
            *(
                Column(title=f"{title}, {what}", profile=profile, column=column)
                for profile, title in PROFILES.items()
                for what, column in (
                    ("Inception score", papers.INCEPTION_SCORE),
                    ("classifier score", "classifier_score"),
                    ("Fréchet distance", "classifier_frechet"),
                )
            ),
        ),
    ),
    Section(
        heading="Improved GAN: the visual Turing test",
        text="Share (%) of images that people told right.",
        labels=("samples",),
        lines=tuple(Line(labels=(row,), table="turing", row=row, column=column) for row, column in JUDGED.items()),
    ),
)
GLANCE = {  # table -> name in the first table
    "dcgan_table1": "DCGAN, Table 1",
    "dcgan_table2": "DCGAN, Table 2",
    "dcgan_table3": "DCGAN, Table 3",
    "improved_table1": "Improved GAN, Table 1: MNIST",
    "improved_table2": "Improved GAN, Table 2: CIFAR-10",
    "improved_svhn": "Improved GAN, SVHN",
    "improved_table3": "Improved GAN, Table 3",
    "turing": "Improved GAN, visual Turing test",
    "datasets": "the papers' counts of images",
    "text_numbers": "numbers in the running text",
}

Row = dict[Any, Any]
Tables = dict[tuple[str, str], list[Row]]  # by profile and table


def rewrite(root: Path = Path()) -> None:
    """Put README's results in line with the committed tables; the text around the markers stays.

    Raises
    ------
    InputError
        If README or its markers are missing, or a table cannot be read.
    """
    path = root / README
    if not path.is_file():
        message = f"{path}: missing; restore it with `git checkout {README}`"
        raise InputError(message)
    write_text(path, rewritten(path.read_text(encoding="utf-8"), block(root), path))


def rewritten(text: str, results: str, where: Path = README) -> str:
    """``text`` with ``results`` between its markers.

    Raises
    ------
    InputError
        If the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        message = (
            f"{where}: expected the lines '{BEGIN}' and '{END}' once each, in this order; put them around the results"
        )
        raise InputError(message)
    return f"{before}{BEGIN}\n{results}{END}{after}"


def block(root: Path = Path()) -> str:
    """The results as Markdown: how much was measured, and each table with the paper's numbers beside the profiles'."""
    tables = _read_tables(root)
    parts = [_glance(tables), *(_claims(root))]
    for section in SECTIONS:
        told = _wrapped(section.text), _table(section, tables), _wrapped(_footnote(section, tables, root))
        parts += [f"### {section.heading}", *told]
    return "\n" + "\n\n".join(filter(None, parts)) + "\n\n"


def _read_tables(root: Path) -> Tables:
    names = [*GLANCE]
    files = {(profile, name): root / f"reports/{profile}/tables/{name}.csv" for profile in PROFILES for name in names}
    return {key: _read(path) for key, path in files.items() if path.is_file()}


def _read(path: Path) -> list[Row]:
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        message = f"{path}: not a readable CSV ({error}); restore it with git"
        raise InputError(message) from error
    missing = {"row", "column", "unit", "kind", "paper", "measured", "spread", "n_images"} - set(table)
    if missing:
        message = f"{path}: column {', '.join(sorted(missing))} missing; run dvc repro for its stage"
        raise InputError(message)
    return table.to_dict("records")


def _glance(tables: Tables) -> str:
    """How many of the numbers that the papers' authors measured were measured in each profile."""
    lines = []
    for name, title in GLANCE.items():
        counts = [_measured_of(tables.get((profile, name), [])) for profile in PROFILES]
        if any((profile, name) in tables for profile in PROFILES):
            lines.append((title, *(count or NOT_RUN for count in counts)))
    intro = (
        "How many of the numbers that the papers' authors measured have been measured here. Only the paper profile's "
        "may be set beside theirs, where no note says otherwise; the laptop's show trends, and the embedded ones "
        "reproduce nothing: they show that the pipeline works."
    )
    return f"{_wrapped(intro)}\n\n{_markdown(('table', *PROFILES.values()), lines, n_labels=1)}"


def _measured_of(rows: Sequence[Row]) -> str:
    """``0 of 7`` where only rows beside the paper's own were measured; empty where nothing was."""
    measured = [row for row in rows if pd.notna(row["measured"])]
    counts = [sum(row["kind"] == "ours" for row in some) for some in (measured, rows)]
    return "{} of {}".format(*counts) if measured else ""


def _claims(root: Path) -> list[str]:
    """How the papers' claims were tested, and the verdicts, in a sentence; nothing before any was tested."""
    path = root / "reports/embedded/tables/claims.csv"
    claims = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if claims.empty:
        return []
    tested = claims[claims["verdict"] != "not tested"]
    n_ablated = tested["ablation"].notna().sum()
    n_compared, n_untested = len(tested) - n_ablated, len(claims) - len(tested)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(tested["verdict"].value_counts().items(), key=str))
    return [
        _wrapped(
            f"Of {len(claims)} claims of the papers, tested by ablations on embedded data: {n_ablated}; by comparing "
            f"committed results: {n_compared}; not tested: {n_untested}. Verdicts: {counts} "
            "([all of them](reports/embedded/tables/claims.md))."
        )
    ]


def _table(section: Section, tables: Tables) -> str:
    columns = _filled(section, tables)
    profiles = {column.profile for column in columns}
    lines = []
    for line in section.lines:
        cells = [_cell(_found(tables, line, column), line, column) for column in columns]
        # an empty cell of a profile that has others says so; the paper's own may have no number
        cells = [
            cell or ("" if column.profile == PUBLISHED or column.row == ALONE else NOT_RUN)
            for cell, column in zip(cells, columns, strict=True)
        ]
        lines.append((*line.labels, *cells))
    titles = (*section.labels, *(column.title for column in columns))
    text = _markdown(titles, lines, n_labels=len(section.labels))
    return text if profiles - {PUBLISHED} else f"{text}\n\nNot run yet in any profile."


def _filled(section: Section, tables: Tables) -> list[Column]:
    """The columns in which some line has a number."""
    return [
        column
        for column in section.columns
        if any(_cell(_found(tables, line, column), line, column) for line in section.lines)
    ]


def _found(tables: Tables, line: Line, column: Column) -> Row | None:
    """The row of the CSV behind a cell; the paper's numbers are the same in every profile."""
    place = (line.row or column.row, line.column or column.column)
    for profile in PROFILES if column.profile == PUBLISHED else (column.profile,):
        for row in tables.get((profile, line.table), []):
            if (row["row"], row["column"]) == place:
                return row
    return None


def _cell(row: Row | None, line: Line, column: Column) -> str:
    if row is None:
        return ""
    if column.profile == PUBLISHED:
        return printed(row["paper"], row["paper_spread"])
    measured = number(row["measured"], row["unit"], spread=row["spread"])
    other = measured and line.nominal is not None and row["n_images"] != line.nominal
    return f"{measured} ({_thousands(int(row['n_images']))})" if other else measured


def _thousands(number: int) -> str:
    return f"{number // 1000} K" if number % 1000 == 0 else f"{number:,}"


def _footnote(section: Section, tables: Tables, root: Path) -> str:
    """What ± is over in each profile, who has not run the table, and where all of it stands."""
    filled = _filled(section, tables)
    told = [
        f"{title} over {' or '.join(over)}"
        for profile, title in PROFILES.items()
        if (over := _spreads(section, [column for column in filled if column.profile == profile], tables))
    ]
    empty = [title for profile, title in PROFILES.items() if profile not in {column.profile for column in filled}]
    parts = [f"± of measured numbers is a standard deviation: {', '.join(told)}." if told else ""]
    parts += [f"Not run yet: {', '.join(empty)}." if 0 < len(empty) < len(PROFILES) else ""]
    shown = [profile for profile in PROFILES if PROFILES[profile] not in empty]
    links = "; ".join(
        filter(None, (_links(name, shown, root) for name in dict.fromkeys(line.table for line in section.lines)))
    )
    return " ".join([*filter(None, parts), f"All columns and notes: {links}." if links else ""]).strip()


def _links(table: str, profiles: Sequence[str], root: Path) -> str:
    files = {PROFILES[profile]: f"reports/{profile}/tables/{table}.md" for profile in profiles}
    links = ", ".join(f"[{title}]({path})" for title, path in files.items() if (root / path).is_file())
    return f"{GLANCE[table]}: {links}" if links else ""


def _spreads(section: Section, columns: Sequence[Column], tables: Tables) -> list[str]:
    found = [_found(tables, line, column) for line in section.lines for column in columns]
    rows = [row for row in found if row is not None and pd.notna(row["measured"]) and pd.notna(row["spread"])]
    return list(
        dict.fromkeys(
            f"{row['n_seeds']:.0f} seeds" if row["spread_over"] == "seeds" else str(row["spread_over"]) for row in rows
        )
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _markdown(titles: Sequence[str], lines: Sequence[Sequence[str]], *, n_labels: int) -> str:
    """A Markdown table whose first ``n_labels`` columns are text and the others numbers."""
    rule = [*["---"] * n_labels, *["---:"] * (len(titles) - n_labels)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *lines))
