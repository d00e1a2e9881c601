"""Typed result rows of a table, and their three forms: CSV, Markdown and the metrics JSON that DVC compares."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file, write_text

DIGITS = 6  # significant digits of a stored number
DECIMALS = 2  # of a number that people read
COUNTED = (  # units of whole numbers
    *("images", "photos", "classes", "codes", "units", "groups", "votes", "count"),
    "errors_of_10000",
)


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One cell of a published table: what the paper printed, and what was measured here.

    Attributes
    ----------
    kind : ``ours`` is regenerated, ``published`` only quoted, ``extra`` our own addition
    paper, paper_spread : as printed; None where the paper has none
    measured : mean over ``n_seeds``; None needs a ``note`` saying why, unless the row is only quoted
    spread : sample standard deviation over what ``spread_over`` names
    comparable : ``yes``, ``reduced`` (the note says how) or ``no``
    """

    row: str
    column: str
    unit: str
    kind: Literal["ours", "published", "extra"]
    paper: float | None
    paper_spread: float | None
    measured: float | None
    spread: float | None
    spread_over: str
    n_seeds: int | None
    n_images: int | None
    n_labels: int | None
    dataset: str
    source: str
    comparable: str
    note: str

    def __post_init__(self) -> None:
        if self.kind == "ours" and self.measured is None and not self.note:
            message = f"row '{self.row}', column '{self.column}': nothing was measured and no note says why"
            raise ValueError(message)
        if self.kind == "published" and self.paper is None:
            message = f"row '{self.row}', column '{self.column}': a published row without the published number"
            raise ValueError(message)


COLUMNS = tuple(field.name for field in fields(ResultRow))


def to_frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """One line a row, columns in the order of the contract; absent numbers stay empty."""
    frame = pd.DataFrame(
        [[getattr(row, name) for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object
    )
    for name in ("n_seeds", "n_images", "n_labels"):
        frame[name] = frame[name].astype("Int64")
    for name in ("paper", "paper_spread", "measured", "spread"):
        frame[name] = frame[name].astype("float64")
    return frame


def write_csv(out: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV: six significant digits, Unix line ends, no index."""
    with whole_file(out) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n", float_format=f"%.{DIGITS}g")


def write_parquet(out: Path, frame: pd.DataFrame) -> None:
    """Write a frame as parquet, whole."""
    with whole_file(out) as partial:
        frame.to_parquet(partial, index=False)


def read_parquet(path: Path, again: str = "run the stage that writes it again") -> pd.DataFrame:
    """Read a parquet, whatever columns it has; ``again`` tells the way out if it is damaged.

    Raises
    ------
    InputError
        If it is missing, or no whole parquet.
    """
    try:
        return pd.read_parquet(path)
    # a flipped bit in the pages, in the footer, in the metadata for pandas: each has errors of its own
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        message = f"{path}: not a whole parquet file ({error}); {again}"
        raise InputError(message) from error


def write_metrics(out: Path, metrics: dict[str, Any]) -> None:
    """Write nested metrics for ``dvc metrics diff``; keys must be slugs, because a dot would read as nesting."""
    write_text(out, json.dumps(metrics, indent=2) + "\n")


def metrics_of(rows: Sequence[ResultRow]) -> dict[str, dict[str, float]]:
    """row -> column -> measured number; rows without one are left out."""
    metrics: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.measured is not None:
            metrics.setdefault(slug(row.row), {})[slug(row.column)] = _rounded(row.measured)
    return metrics


def slug(text: str) -> str:
    """``DCGAN (ours)`` -> ``dcgan_ours``."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


def markdown(rows: Sequence[ResultRow], title: str) -> str:
    """The table as people read it: paper beside measured, their difference, and how the number was made."""
    head = ["row", "column", "kind", "paper", "measured", "difference", "seeds", "images", "comparable", "note"]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        difference = row.measured - row.paper if row.measured is not None and row.paper is not None else None
        cells = [
            row.row,
            f"{row.column} [{row.unit}]",
            row.kind,
            printed(row.paper, row.paper_spread),
            number(row.measured, row.unit, spread=row.spread),
            "" if difference is None else f"{difference:+,.{decimals(row.unit, difference)}f}",
            "" if row.n_seeds is None else str(row.n_seeds),
            "" if row.n_images is None else f"{row.n_images:,}",
            row.comparable,
            row.note,
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, ""])


def printed(value: float | None, spread: float | None) -> str:
    """A published number as printed: 80.6 and not 80.60; the spread behind it."""
    if pd.isna(value):
        return ""
    return f"{value:,.10g}" + ("" if pd.isna(spread) else f" ± {spread:,.10g}")


def number(value: float | None, unit: str, *, spread: float | None = None, digits: int = DECIMALS) -> str:
    """A measured number as all pages write it; the spread behind it, empty if there is no number.

    ``digits`` decimals, but none for whole counts and one for their means. A number below 0.01 has two significant
    digits instead, so that it does not read as zero.
    """
    if pd.isna(value):
        return ""
    # equal numbers in floating point: their deviation is not 3e-17
    numbers = [value] if pd.isna(spread) else [value, spread if spread > 1e-12 * abs(value) else 0.0]
    shown = decimals(unit, *numbers, digits=digits)
    return " ± ".join(f"{one:#.2g}" if 0 < abs(one) < 0.01 else f"{one:,.{shown}f}" for one in numbers)


def decimals(unit: str, *numbers: float, digits: int = DECIMALS) -> int:
    """How many decimals numbers that stand together have."""
    if unit not in COUNTED:
        return digits
    return 0 if all(_rounded(one).is_integer() for one in numbers) else 1  # as stored: 157, not 157.00000000000003


def write_table(rows: Sequence[ResultRow], title: str, *, csv: Path, md: Path, metrics: Path) -> None:
    """Write a table in its three forms."""
    write_csv(csv, to_frame(rows))
    write_text(md, markdown(rows, title))
    write_metrics(metrics, metrics_of(rows))
