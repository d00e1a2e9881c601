"""The rows of a table as a page shows them: paper and measured side by side, their difference judged by the unit."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.records import COLUMNS, COUNTED, decimals, number, printed
from pipeline.reporting.rows import read_table

LOWER_IS_BETTER = ("percent_error", "errors_of_10000")
HIGHER_IS_BETTER = ("percent_accuracy", "score")
UNITS = {
    "percent_error": "% error",
    "percent_accuracy": "% accuracy",
    "percent": "%",
    "errors_of_10000": "errors of 10,000",
    "distance_x_1000": "distance, thousandths",
}

Judgement = Literal["better", "worse", "equal", ""]  # empty: nothing to judge, or neither direction is better


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of a table.

    Attributes
    ----------
    row_span : how many lines its row has, counted at the first of them; 0 at the others
    judgement : which way the measured number differs from the paper's; empty where the row is not comparable
    comparable : ``yes``, ``reduced``, ``no``, or nothing where there is nothing to compare
    """

    row: str
    row_span: int
    column: str
    unit: str
    kind: str
    paper: str
    measured: str
    over: str
    difference: str
    judgement: Judgement
    comparable: str
    counts: str
    dataset: str
    source: str
    note: str


def read(csv: Path) -> list[Cell]:
    """Every row of a table's CSV, in its order.

    Raises
    ------
    InputError
        If a column of the contract is missing, or the file is no CSV.
    """
    table = read_csv(csv, COLUMNS)
    spans: dict[int, int] = {}
    for _, lines in groupby(range(len(table)), key=lambda number: table["row"].iloc[number]):
        numbers = list(lines)
        spans[numbers[0]] = len(numbers)
    return [_cell(row, spans.get(number, 0)) for number, row in enumerate(table.to_dict("records"))]


def read_csv(csv: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV that must have ``columns``; errors as :func:`read`."""
    table = read_table(csv)
    missing = [name for name in columns if name not in table]
    if missing:
        message = f"{csv}: column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing; make it anew"
        raise InputError(message)
    return table


def judged(difference: float, unit: str) -> Judgement:
    """Errors are better when lower, accuracies and scores when higher; of other units nobody can say."""
    if unit not in LOWER_IS_BETTER + HIGHER_IS_BETTER:
        return ""
    if round(difference, decimals(unit, difference)) == 0:  # as it is shown
        return "equal"
    return "better" if (difference < 0) == (unit in LOWER_IS_BETTER) else "worse"


def _cell(row: dict[Any, Any], row_span: int) -> Cell:
    unit = text(row["unit"])
    comparable = text(row["comparable"])
    both = pd.notna(row["measured"]) and pd.notna(row["paper"])
    difference = row["measured"] - row["paper"] if both else 0.0
    return Cell(
        row=text(row["row"]),
        row_span=row_span,
        column=text(row["column"]),
        unit=UNITS.get(unit, unit),
        kind=text(row["kind"]),
        paper=printed(row["paper"], row["paper_spread"]),
        measured=number(row["measured"], unit, spread=row["spread"]),
        over=_over(row),
        difference=_signed(difference, unit) if both else "",
        judgement=judged(difference, unit) if both and comparable != "no" else "",
        comparable=comparable if pd.notna(row["measured"]) else "",
        counts=_counts(row),
        dataset=text(row["dataset"]),
        source=text(row["source"]),
        note=text(row["note"]),
    )


def text(value: Any) -> str:
    """A cell of a CSV as text; an absent one is empty."""
    return "" if pd.isna(value) else str(value)


def _signed(difference: float, unit: str) -> str:
    shown = decimals(unit, difference)
    sign = "" if round(difference, shown) == 0 else "+" if difference > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(difference):,.{shown}f}"


def _over(row: dict[Any, Any]) -> str:
    """What the spread is over: ``3 seeds``, ``draws``; without one how many seeds there were, if that is known."""
    over = text(row["spread_over"])
    if pd.isna(row["measured"]) or (over != "seeds" and pd.notna(row["spread"])):
        return over if pd.notna(row["measured"]) else ""
    if pd.isna(row["n_seeds"]):
        return ""
    return f"{row['n_seeds']:.0f} seed{'' if row['n_seeds'] == 1 else 's'}"


def _counts(row: dict[Any, Any]) -> str:
    """``100,000 images, 1,000 labels``, of a number that was measured and is no count itself."""
    if pd.isna(row["measured"]) or (row["unit"] in COUNTED and row["unit"] not in LOWER_IS_BETTER):
        return ""
    parts = [f"{row[f'n_{name}']:,.0f} {name}" for name in ("images", "labels") if pd.notna(row[f"n_{name}"])]
    return ", ".join(parts)
