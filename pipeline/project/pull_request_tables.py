"""Numbers of the reports, base beside head: tables, metrics behind the figures, claims."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core import records
from pipeline.core.errors import InputError
from pipeline.project.pull_request_sections import Block, Section, code, count, table, text
from pipeline.project.pull_request_sides import Pair, Side

KEYS = ("row", "column")
NUMBERS = ("paper", "measured", "spread")
CLAIMS = "reports/embedded/tables/claims.csv"
CLAIM_COLUMNS = ("claim", "verdict")
NEW, GONE = "new row", "row gone"  # states of a change

# Whether a larger number is better (1) or worse (-1). Other units count things, or depend on what is measured.
BETTER_UNIT = {
    "percent_error": -1,
    "errors_of_10000": -1,
    "distance": -1,
    "distance_x_1000": -1,
    "percent_accuracy": 1,
    "score": 1,
}
BETTER_COLUMN = {"_precision": 1, "_recall": 1, "_coverage": 1, "_spread": 0}  # by the end of the name, before the unit
FINE = ("share", "ratio")

Row = dict[str, str]
Table = dict[tuple[str, ...], Row]


@dataclass(frozen=True)
class Change:
    """One number of a table that is not the same on both sides; None where a side has none."""

    row: str
    column: str
    base_unit: str
    unit: str  # head's
    paper: float | None
    base: float | None
    head: float | None
    spread: float | None  # the larger of both sides'
    spread_over: str
    state: str  # "", or why there is nothing to subtract

    @property
    def times_spread(self) -> float | None:
        """The change, in spreads; None where one of them is not known, or there is nothing to subtract."""
        if self.base is None or self.head is None or self.spread is None or self.state:
            return None
        change = abs(self.head - self.base)
        return change / self.spread if self.spread else (math.inf if change else 0.0)

    @property
    def better(self) -> int:
        """1 if head is better, -1 if it is worse, 0 if the unit does not say."""
        if self.base is None or self.head is None or self.state:
            return 0
        by_name = [sign for end, sign in BETTER_COLUMN.items() if self.column.endswith(end)]
        sign = by_name[0] if by_name else BETTER_UNIT.get(self.unit, 0)
        return sign * ((self.head > self.base) - (self.head < self.base))


def tables(pair: Pair) -> Section:
    """What was measured, where it changed: paper, base, head, and the change beside the spread over the seeds."""
    found = Section("Tables", "not compared")
    if pair.base is None:
        return found
    all_changes: list[Change] = []
    n_same = 0
    remarks: list[str] = []
    for path in sorted(path for path in {*pair.base.blobs, *pair.head.blobs} if _is_table(path)):
        base, head = _read(pair.base, path, KEYS, found, "base"), _read(pair.head, path, KEYS, found, "head")
        if base is None or head is None:
            continue
        changes, same, notes = compare_tables(base, head)
        all_changes += changes
        n_same += same
        for side, name in ((pair.base, "base"), (pair.head, "head")):
            if path not in side.blobs:
                notes = [f"not in {name}, so every row is {'new' if name == 'base' else 'gone'}"]
        remarks += [f"- {code(path)}: {note}" for note in notes]
        if changes:
            found.blocks.append(_block(_title(path), changes, same))
    if remarks:
        found.blocks.insert(0, Block(remarks))
    found.summary = _summary(all_changes, n_same)
    return found


def _is_table(path: str) -> bool:
    parts = path.split("/")
    in_tables = len(parts) == 4 and parts[0] == "reports" and parts[2] == "tables"
    return in_tables and path.endswith(".csv") and parts[3] != "claims.csv"  # of laptop and paper it has a header only


def _summary(changes: Sequence[Change], n_same: int) -> str:
    """``3 numbers changed, 1 by more than the spread; 2 rows new; 40 unchanged``."""
    n_new, n_gone = (sum(change.state == state for change in changes) for state in (NEW, GONE))
    beyond = sum((change.times_spread or 0) > 1 for change in changes)
    if not changes:
        return "no number changed"
    n_changed = len(changes) - n_new - n_gone
    parts = [f"{count(n_changed, 'number')} changed, {beyond} by more than the spread"] if n_changed else []
    parts += [f"{count(n, 'row')} {what}" for n, what in ((n_new, "new"), (n_gone, "gone")) if n]
    return "; ".join([*parts, *([f"{n_same:,} unchanged"] if n_same else [])])


def _title(path: str) -> str:
    _, profile, _, name = path.split("/")
    return f"{profile}, {name.removesuffix('.csv').removesuffix('.json')}"


def compare_tables(base: Table, head: Table) -> tuple[list[Change], int, list[str]]:
    """Changed numbers in head's order (gone rows last), how many rows have the same numbers, and remarks."""
    changes: list[Change] = []
    text_only: set[str] = set()
    n_text = same = 0
    for key in [*head, *(key for key in base if key not in head)]:
        before, after = base.get(key, {}), head.get(key, {})
        change = _change(before, after)
        if change:
            changes.append(change)
            continue
        same += 1
        other = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        text_only |= other
        n_text += bool(other)
    notes = _remarks(base, head)
    if n_text:
        notes.append(f"{count(n_text, 'row')} with the same numbers changed in {', '.join(sorted(text_only))}")
    return changes, same, notes


def _remarks(base: Table, head: Table) -> list[str]:
    """What one side's table has and the other's has not."""
    notes: list[str] = []
    columns = [list(next(iter(side.values()), {})) for side in (base, head)]
    if base and head and columns[0] != columns[1]:
        gone = [name for name in columns[0] if name not in columns[1]]
        new = [name for name in columns[1] if name not in columns[0]]
        how = [f"{what} {', '.join(names)}" for what, names in (("without", gone), ("with the new", new)) if names]
        notes.append(f"head's columns are {' and '.join(how) or 'in another order'}; the common ones are compared")
    missing = [key for key in base if key not in head]
    if missing and head:
        notes.append(f"{count(len(missing), 'row')} of base {'is' if len(missing) == 1 else 'are'} missing in head")
    return notes


def _change(before: Row, after: Row) -> Change | None:
    either = after or before
    numbers = [{name: _float(row.get(name)) for name in NUMBERS} for row in (before, after)]
    common = [name for name in (*NUMBERS, "unit") if name in before and name in after]
    if before and after and all(_same(before[name], after[name]) for name in common):
        return None
    state = "" if before and after else NEW if after else GONE
    units = [row.get("unit", "") for row in (before, after) if row]
    if before and after and units[0] != units[-1]:
        state = f"unit was {units[0] or 'empty'}"
    if not state and not _same(before.get("paper"), after.get("paper")):
        state = f"the paper's number was {before.get('paper') or 'empty'}"
    spreads = [side["spread"] for side in numbers if side["spread"] is not None]
    return Change(
        row=either["row"],
        column=either["column"],
        base_unit=units[0],
        unit=units[-1],
        paper=numbers[1 if after else 0]["paper"],
        base=numbers[0]["measured"],
        head=numbers[1]["measured"],
        spread=max(spreads) if spreads else None,
        spread_over=either.get("spread_over", ""),
        state=state,
    )


def _same(before: str | None, after: str | None) -> bool:
    return before == after or (_float(before) is not None and _float(before) == _float(after))


def _float(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _block(title: str, changes: Sequence[Change], same: int) -> Block:
    head = ["row", "column", "paper", "base", "head", "change", "beside the spread"]
    summary = f"{title}: {_summary(changes, same)}"
    return table(head, [_cells(change) for change in changes], numbers=head[2:6], title=summary)


def _cells(change: Change) -> list[str]:
    column = code(f"{change.column} [{change.unit}]")
    numbers = [_number(change.base, change.base_unit), _number(change.head, change.unit)]
    paper = records.printed(change.paper, None)
    return [text(change.row), column, paper, *numbers, _difference(change), _beside_spread(change)]


def _digits(unit: str) -> int:
    return 4 if unit in FINE else records.DECIMALS


def _number(value: float | None, unit: str) -> str:
    return records.number(value, unit, digits=_digits(unit))


def _difference(change: Change) -> str:
    """``-0.40 ↓ better``, or why there is none."""
    if change.state:
        return text(change.state)
    if change.base is None or change.head is None:
        return "not measured before" if change.base is None and change.head is not None else "no longer measured"
    difference = change.head - change.base
    if not difference:
        return "the spread alone"
    written = f"{difference:+,.{records.decimals(change.unit, difference, digits=_digits(change.unit))}f}"
    if not any(digit in "123456789" for digit in written):
        written = f"{difference:+.1g}"  # too small for the decimals of the unit
    arrow = "↑" if difference > 0 else "↓"
    return f"{written} {arrow} {('', 'better', 'worse')[change.better]}".strip()


def _beside_spread(change: Change) -> str:
    if change.base is None or change.head is None or change.base == change.head or change.state:
        return ""
    times = change.times_spread
    if times is None:
        return "no spread"
    over = f" over {text(change.spread_over)}" if change.spread_over else ""
    if times == math.inf:
        return f"the spread{over} is 0"
    written = f"{times:,.1f} times the spread{over}"
    return f"**{written}**" if times > 1 else f"{written}: within"


def _read(side: Side, path: str, needed: Sequence[str], found: Section, name: str) -> Table | None:
    """Rows by their key columns; empty where the side has no such file; None, and a sentence, where it is malformed."""
    try:
        content = side.text(path)
        return {} if content is None else _parsed(content, needed)
    except InputError as error:
        found.problems.append(f"{path} of {name}: {error}")
        return None


def _parsed(content: str, needed: Sequence[str]) -> Table:
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    keys = [name for name in needed if name in KEYS] or [needed[0]]
    parsed: Table = {}
    try:
        columns = list(reader.fieldnames or [])
        missing = [name for name in needed if name not in columns]
        if missing:
            message = f"found the columns {', '.join(columns) or 'nothing'}; expected also {', '.join(missing)}"
            raise InputError(message)
        for row in reader:
            if None in row or None in row.values():
                message = f"not a valid CSV: line {reader.line_num} has not {len(columns)} cells"
                raise InputError(message)
            key = tuple(row[name] for name in keys)
            if key in parsed:
                message = f"line {reader.line_num} repeats {' / '.join(key)}; a row and column may stand there once"
                raise InputError(message)
            parsed[key] = row
    except csv.Error as error:
        message = f"not a valid CSV near line {reader.line_num}: {error}"
        raise InputError(message) from error
    return parsed


def metrics(pair: Pair) -> Section:
    """Numbers behind the figures: metrics that belong to no table."""
    found = Section("Numbers behind the figures", "not compared")
    if pair.base is None:
        return found
    n_changed = n_files = 0
    for path in pair.changed(under="metrics", suffixes=(".json",)):
        base, head = _flat_metrics(pair.base, path, found, "base"), _flat_metrics(pair.head, path, found, "head")
        as_table = path.replace("/metrics/", "/tables/").replace(".json", ".csv")
        if base is None or head is None or as_table in pair.head.blobs or as_table in pair.base.blobs:
            continue
        if rows := list(_metric_rows(base, head)):
            n_changed, n_files = n_changed + len(rows), n_files + 1
            title = f"{_title(path)}: {len(rows)} of {count(len(base | head), 'number')} changed, new or gone"
            columns = ["number", "base", "head", "change"]
            found.blocks.append(table(columns, rows, numbers=columns[1:], title=title, longest=0))
    found.summary = "unchanged"
    if n_changed:
        found.summary = f"{count(n_changed, 'number')} changed, new or gone in {count(n_files, 'file')}"
    return found


def _flat_metrics(side: Side, path: str, found: Section, name: str) -> dict[str, Any] | None:
    try:
        content = side.text(path)
        return {} if content is None else dict(_flat(json.loads(content)))
    except (InputError, ValueError) as error:
        found.problems.append(f"{path} of {name}: not valid JSON: {error}")
        return None


def _flat(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _flat(child, f"{above}/{name}" if above else str(name))
    else:
        yield above, node


def _metric_rows(base: dict[str, Any], head: dict[str, Any]) -> Iterator[list[str]]:
    for key in [*head, *(key for key in base if key not in head)]:
        before, after = base.get(key), head.get(key)
        if repr(before) == repr(after):  # NaN is NaN here
            continue
        if key not in base or key not in head:
            change = "new" if key in head else "gone"
        else:
            change = _metric_difference(before, after)
        yield [code(key), _metric(before), _metric(after), change]


def _metric_difference(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, after))
    return f"{after - before:+.4g}" if numbers else ""


def _metric(value: Any) -> str:
    return "" if value is None else f"{value:,.6g}" if isinstance(value, float) else text(str(value))


def claims(pair: Pair) -> Section:
    """Claims of the papers whose verdict flipped."""
    found = Section("Claims", "not compared")
    if pair.base is None:
        return found
    absent = [name for side, name in ((pair.base, "base"), (pair.head, "head")) if CLAIMS not in side.blobs]
    if len(absent) == 2:
        found.summary = "neither side has any"
        return found
    base, head = (
        _read(side, CLAIMS, CLAIM_COLUMNS, found, name) for side, name in ((pair.base, "base"), (pair.head, "head"))
    )
    if absent:
        found.problems.append(f"{CLAIMS} is not there in {absent[0]}: no claim can have flipped")
    if base is None or head is None or absent:
        return found
    rows = [
        [
            code(key[0]),
            text(row.get("sentence", "")),
            text(base[key]["verdict"]),
            f"**{text(row['verdict'])}**",
            _effect(base[key]),
            _effect(row),
        ]
        for key, row in head.items()
        if key in base and base[key]["verdict"] != row["verdict"]
    ]
    found.summary = f"{len(rows)} of {count(len(base.keys() & head.keys()), 'claim')} flipped"
    if rows:
        found.blocks.append(table(["claim", "sentence", "base", "head", "effect in base", "effect in head"], rows))
    new = [f"- new: {code(key[0])}, {text(row['verdict'])}" for key, row in head.items() if key not in base]
    gone = [f"- gone: {code(key[0])}" for key in base if key not in head]
    if new or gone:
        found.blocks.append(Block([*new, *gone]))
    return found


def _effect(row: Row) -> str:
    effect, spread = _float(row.get("effect")), _float(row.get("effect_spread"))
    if effect is None:
        return ""
    return f"{effect:+.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
