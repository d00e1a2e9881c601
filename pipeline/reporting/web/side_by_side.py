"""Tables and figures of several profiles side by side, on one page that needs nothing else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.reporting import page
from pipeline.reporting.rows import NOT_RUN, QUOTED
from pipeline.reporting.web import cells, html_page, pictures

# Figures of three profiles; nobody sends this page around, so it may be longer than the report of one.
BUDGET = 60_000_000
SHORT = {NOT_RUN: "not run yet", QUOTED: "quoted"}  # notes of most numbers that are missing


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row and column that some profile's table has: the paper's number, and each profile's cell, if it has one.

    Attributes
    ----------
    why : of each profile, why it has no number, where it has none
    """

    row: str
    row_span: int
    column: str
    unit: str
    paper: str
    profiles: tuple[cells.Cell | None, ...]
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of all profiles, and the profiles that lack it."""

    name: str
    title: str
    lines: tuple[Line, ...]
    missing: tuple[str, ...]


def side_by_side(reports: Mapping[str, Path]) -> str:
    """The page of all profiles.

    Parameters
    ----------
    reports : profile -> its folder under ``reports/``, in the order of the columns

    Raises
    ------
    InputError
        If a table or picture cannot be read.
    """
    names = [name for name in html_page.TITLES if name != page.CLAIMS]
    found = [table for name in names if (table := _table(name, reports)).lines]
    paths = {profile: pictures.in_folders(folder / "figures") for profile, folder in reports.items()}
    links = sorted({link for own in paths.values() for link in own}, key=_natural)
    unvoted = [profile for profile, folder in reports.items() if page.nobody_voted(folder / "tables")]
    for profile in unvoted:
        paths[profile].pop(page.LEARNING, None)  # an empty canvas
    shown = pictures.read(
        {f"{profile}/{link}": path for profile, own in paths.items() for link, path in own.items()}, budget=BUDGET
    )
    headings = [html_page.Heading(level=2, text=table.title, anchor=f"table_{table.name}") for table in found]
    headings.append(html_page.Heading(level=2, text="Figures", anchor="figures"))
    headings += [html_page.Heading(level=3, text=_words(link), anchor=f"figure_{Path(link).stem}") for link in links]
    return html_page.render(
        "side_by_side.html",
        profiles=list(reports),
        tables=found,
        absent=[html_page.TITLES[name] for name in names if name not in {table.name for table in found}],
        figures={link: {profile: shown.get(f"{profile}/{link}") for profile in reports} for link in links},
        nothing={(profile, page.LEARNING): "nobody has voted" for profile in unvoted},
        headings=headings,
    )


def _natural(link: str) -> list[tuple[int, str]]:
    """For sorting: fig2 before fig10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", link)]


def _words(link: str) -> str:
    return Path(link).stem.replace("_", " ")


def _table(name: str, reports: Mapping[str, Path]) -> Table:
    files = {profile: folder / f"tables/{name}.csv" for profile, folder in reports.items()}
    found = {profile: cells.read(path) if path.is_file() else [] for profile, path in files.items()}
    missing = tuple(profile for profile, own in found.items() if not own)
    return Table(name=name, title=html_page.TITLES[name], lines=_lines(list(found.values())), missing=missing)


def _lines(profiles: Sequence[Sequence[cells.Cell]]) -> tuple[Line, ...]:
    """Every row and column once; rows of the first profile that has them first, lines of a row together."""
    own = [{(cell.row, cell.column): cell for cell in found} for found in profiles]
    rows: dict[str, dict[str, cells.Cell]] = {}
    for found in profiles:
        for cell in found:
            rows.setdefault(cell.row, {}).setdefault(cell.column, cell)
    return tuple(
        Line(
            row=row,
            row_span=len(columns) if number == 0 else 0,
            column=column,
            unit=cell.unit,
            paper=cell.paper,
            profiles=tuple(found.get((row, column)) for found in own),
            why=tuple(_why(row, column, found) for found in own),
        )
        for row, columns in rows.items()
        for number, (column, cell) in enumerate(columns.items())
    )


def _why(row: str, column: str, found: Mapping[tuple[str, str], cells.Cell]) -> str:
    """Of a row that has other numbers in the profile: that it lacks this one."""
    cell = found.get((row, column))
    if cell is None:
        ran = any(other.row == row and other.measured for other in found.values())
        return "no such number" if ran else SHORT[NOT_RUN]
    return next((short for note, short in SHORT.items() if note in cell.note), cell.note)
