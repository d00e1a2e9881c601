"""What all tables share: how the profile's numbers are to be read, and the rows that were or were not measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.records import COLUMNS, ResultRow, read_parquet
from pipeline.papers import Published

NOT_RUN = "not run in this profile yet"
NOT_MADE = "not made"
QUOTED = "quoted by the paper, not measured here"


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

    def described(self, dataset: str) -> str:
        """What a dataset really is here; InputError if the params do not say."""
        if dataset not in self.datasets:
            found = ", ".join(sorted(self.datasets)) or "nothing"
            message = f"params, report.datasets: no '{dataset}'; found {found}; write there what it is in this profile"
            raise InputError(message)
        return self.datasets[dataset]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A row or column of our own, beside the published ones."""

    row: str
    column: str
    unit: str


Place = Published | Extra


def result(
    place: Place,
    *,
    dataset: str,
    comparable: str,
    note: str,
    measured: float | None = None,
    spread: float | None = None,
    spread_over: str = "",
    n_seeds: int | None = None,
    n_images: int | None = None,
    n_labels: int | None = None,
) -> ResultRow:
    """A row of a table: the printed number of its place, if there is one, and what was measured."""
    printed = place if isinstance(place, Published) else None
    return ResultRow(
        row=place.row,
        column=place.column,
        unit=place.unit,
        kind=printed.kind if printed else "extra",
        paper=printed.value if printed else None,
        paper_spread=printed.spread if printed else None,
        measured=measured,
        spread=spread,
        spread_over=spread_over,
        n_seeds=n_seeds,
        n_images=n_images,
        n_labels=n_labels,
        dataset=dataset,
        source=printed.source if printed else "ours",
        comparable=comparable,
        note=note,
    )


def quoted(printed: Published, dataset: str) -> ResultRow:
    """A number that the paper took from others and that nobody measured here."""
    return result(printed, comparable="", dataset=dataset, note=QUOTED)


def joined(*notes: str) -> str:
    """The notes that are not empty, in one line."""
    return "; ".join(filter(None, notes))


def read_table(csv: Path) -> pd.DataFrame:
    """A table's CSV, whatever columns it has.

    Raises
    ------
    InputError
        If it is no CSV.
    """
    try:
        return pd.read_csv(csv)
    except (ValueError, OSError) as error:
        message = f"{csv}: not a readable CSV ({error}); run dvc repro for its stage, or restore it with git"
        raise InputError(message) from error


def lacking(csv: Path) -> str:
    """Why a table cannot be shown: it was not made, or lacks columns; empty if it can. Errors: :func:`read_table`."""
    if not csv.is_file():
        return NOT_MADE
    missing = [name for name in COLUMNS if name not in read_table(csv)]
    return f"without {', '.join(missing)}" if missing else ""


def read_results(path: Path) -> pd.DataFrame:
    """Rows (seed, network, n_images, error_percent, ...) of one neighbours stage."""
    if not path.is_file():
        message = f"{path}: missing; run dvc repro neighbours@{path.stem}"
        raise InputError(message)
    return read_parquet(path)


def at_most(sizes: pd.Series, nominal: int) -> int | None:
    """The largest size that does not exceed the nominal one, None if there is none."""
    sizes = sizes[sizes <= nominal]
    return None if sizes.empty else int(sizes.max())
