"""The table of claims: claims.csv, which other pages read, and claims.md, which people read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from pipeline.claims.book import IntervalRule, MeanRule
from pipeline.claims.verdicts import Verdict
from pipeline.core import records
from pipeline.core.errors import InputError
from pipeline.core.files import write_text

CSV = "tables/claims.csv"
PAPERS = {"dcgan": "DCGAN (Radford, Metz, Chintala 2016)", "improved": "Improved GAN (Salimans et al. 2016)"}
VERDICTS: tuple[Verdict, ...] = ("supported", "contradicted", "undecided", "not tested")
NUMBERS = ("base", "base_spread", "ablated", "ablated_spread", "effect", "effect_spread")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim.

    Attributes
    ----------
    ablation : what the ablated side changes, as ``dvc exp run -S`` takes it; empty where committed results are compared
    base, ablated, ..._spread : mean and sample standard deviation over the seeds, draws or splits
    effect, effect_spread : ablated - base, in pairs where both sides have the same seeds
    n_seeds : numbers a side: seeds, or draws, splits, games
    """

    claim: str
    paper: str
    section: str
    sentence: str
    ablation: str
    targets: str
    metric: str
    unit: str
    base: float | None
    base_spread: float | None
    ablated: float | None
    ablated_spread: float | None
    effect: float | None
    effect_spread: float | None
    n_seeds: int | None
    rule: str
    verdict: Verdict
    note: str


COLUMNS = tuple(field.name for field in fields(Row))


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a claim; absent numbers stay empty."""
    frame = pd.DataFrame(
        [[getattr(row, name) for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object
    )
    frame["n_seeds"] = frame["n_seeds"].astype("Int64")
    return frame.astype(dict.fromkeys(NUMBERS, "float64"))


def write(rows: Sequence[Row], reports: Path) -> None:
    """``tables/claims.csv`` and ``tables/claims.md`` below a profile's reports."""
    records.write_csv(reports / CSV, to_frame(rows))
    write_text((reports / CSV).with_suffix(".md"), markdown(rows))


def write_header(reports: Path) -> None:
    """A claims.csv without claims, for profiles in which none is tested."""
    records.write_csv(reports / CSV, to_frame([]))


def read(path: Path) -> pd.DataFrame:
    """The claims of a profile, empty text where a cell is empty.

    Raises
    ------
    InputError
        If the file is missing or has other columns.
    """
    if not path.is_file():
        message = f"{path}: missing; `make ablations` writes it"
        raise InputError(message)
    text = dict.fromkeys((name for name in COLUMNS if name not in (*NUMBERS, "n_seeds")), str)
    found = pd.read_csv(path, dtype=text | {"n_seeds": "Int64"} | dict.fromkeys(NUMBERS, "float64"))
    if tuple(found) != COLUMNS:
        message = (
            f"{path}: found columns {', '.join(found.columns)}; expected {', '.join(COLUMNS)}; run `make ablations`"
        )
        raise InputError(message)
    return found.fillna(dict.fromkeys(text, ""))


def rule_text(rule: MeanRule | IntervalRule, claimed: str, least: float, unit: str) -> str:
    """A rule with its numbers, as one phrase."""
    size = f", at least {least:g} {unit}" if least else ""
    if isinstance(rule, IntervalRule):
        return f"{claimed}{size}; intervals apart"
    return f"{claimed}{size}; one-sided t, {100 * rule.confidence:g} %, {rule.least_pairs} or more"


def markdown(rows: Sequence[Row]) -> str:
    """The table as people read it, a section a paper."""
    lines = [
        "# Claims of the papers, tested on the embedded data",
        "",
        "Small networks, short schedules, rendered or few data: a verdict says what holds here, not whether the papers",
        "are right. Claims, metrics, least effects and rules stand in `ablations.yaml` and were fixed before any",
        "ablation was run; where committed results are compared, their numbers were known. Effect = ablated - base.",
        "`docs/ablations.md` says how to read a verdict.",
    ]
    for paper, title in PAPERS.items():
        lines += ["", f"## {title}", ""]
        head = [
            "claim",
            "section",
            "what the paper says",
            "tested by",
            "metric",
            "base",
            "ablated",
            "effect",
            "n",
            "rule",
        ]
        head += ["verdict", "note"]
        lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        lines += [_line(row) for row in rows if row.paper == paper]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    compared = f"`{row.ablation}`" if row.ablation else "committed results" if row.metric else ""
    cells = [
        row.claim,
        row.section,
        row.sentence,
        compared,
        f"{row.metric} [{row.unit}]" if row.metric else "",
        _number(row.base, row.base_spread),
        _number(row.ablated, row.ablated_spread),
        _number(row.effect, row.effect_spread, sign="+"),
        "" if row.n_seeds is None else str(row.n_seeds),
        row.rule,
        f"**{row.verdict}**",
        row.note,
    ]
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _number(value: float | None, spread: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{value:{sign}.4g}" if spread is None else f"{value:{sign}.4g} ± {spread:.2g}"
