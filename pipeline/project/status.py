"""How long each stage took when it last ran, from the untracked record that the stages keep."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.core.stage import RUN_RECORD

FIELDS = {"stage": str, "started": (int, float), "seconds": (int, float), "status": str}


def latest_runs(record: Path = RUN_RECORD) -> list[dict[str, Any]]:
    """The last run of each stage, in the order in which they started; lines cut short by a kill are left out."""
    if not record.is_file():
        return []
    latest: dict[str, dict[str, Any]] = {}
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parsed(line)
        if row:
            latest[row["stage"]] = row
    return sorted(latest.values(), key=lambda row: row["started"])


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in FIELDS.items())
    return row if complete else None


def print_status(record: Path = RUN_RECORD) -> None:
    """A table on a terminal, tab-separated lines elsewhere, and the sum."""
    rows = latest_runs(record)
    if not rows:
        print(f"{record}: no stage has run here yet; `make repro` runs them")
        return
    total = sum(row["seconds"] for row in rows)
    cells = [
        (row["stage"], _clock(row["started"]), _duration(row["seconds"]), row["status"], _rate(row)) for row in rows
    ]
    if sys.stdout.isatty():
        _print_table(cells, total)
        return
    for cell in cells:
        print("\t".join(cell))
    print(f"sum\t\t{_duration(total)}\t\t")


def _print_table(cells: list[tuple[str, ...]], total: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "started", "took", "status", "worked through", show_footer=True)
    table.columns[0].footer = "sum"
    table.columns[2].footer = _duration(total)
    table.columns[2].justify = "right"
    for cell in cells:
        table.add_row(*cell)
    Console().print(table)


def _rate(row: dict[str, Any]) -> str:
    """``6,900 images, 1,468 a second``, where the stage counted something."""
    amounts = {name: n for name, n in row.items() if name not in FIELDS and isinstance(n, int)}
    return "; ".join(f"{n:,} {name}, {n / max(row['seconds'], 0.01):,.0f} a second" for name, n in amounts.items())


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min {rest:02d} s" if hours else f"{minutes} min {rest:02d} s"
