"""Parts of a pull request's comment, and how they are cut so that GitHub takes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

LONG = 20  # rows: a longer table is folded


@dataclass
class Block:
    """Lines that belong together: ``rows`` can be dropped from the end, what opens and closes them cannot."""

    rows: list[str]
    opening: list[str] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)

    def first(self, n: int) -> list[str]:
        """The block with its first ``n`` rows, and an empty line after it."""
        return [*self.opening, *self.rows[:n], *self.closing, ""]


@dataclass
class Section:
    """One heading of the comment.

    Attributes
    ----------
    summary : what a reader of the first lines gets to know of it
    problems : a sentence for each thing that could not be compared
    """

    title: str
    summary: str
    blocks: list[Block] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lines(self, limit: int | None = None, whole: str = "") -> list[str]:
        """The section as Markdown of at most ``limit`` characters, cut after a row; ``whole``: where the rest is."""
        if not self.blocks and not self.problems:
            return []  # the first lines say it
        start = [f"## {self.title}", "", *(line for problem in self.problems for line in (warning(problem), ""))]
        complete = start + [line for block in self.blocks for line in block.first(len(block.rows))]
        if limit is None or length(complete) <= limit:
            return complete
        lines, left_out = list(start), 0
        cut = False
        for block in self.blocks:
            room = limit - length(lines) - length([_left_out(10**6, whole), ""])
            n = 0 if cut else _fitting(block, room)
            if n:
                lines += block.first(n)
            cut = cut or n < len(block.rows)
            left_out += len(block.rows) - n
        return [*lines, _left_out(left_out, whole), ""]


def _fitting(block: Block, room: int) -> int:
    """How many rows of the block fit; 0 if not even one does."""
    used = length(block.first(0))
    for n, row in enumerate(block.rows):
        used += len(row) + 1
        if used > room:
            return n
    return len(block.rows)


def _left_out(n: int, whole: str) -> str:
    return f"*{n:,} lines more: {whole}*"


def length(lines: Sequence[str]) -> int:
    """Characters of the lines when joined."""
    return sum(len(line) + 1 for line in lines)


def fit(sections: Sequence[Section], limit: int, whole: str) -> list[str]:
    """All sections within ``limit`` characters: short ones stay whole, and the long ones share what is left."""
    lengths = [length(section.lines()) for section in sections]
    share, left = limit, limit
    for rank, n in enumerate(sorted(lengths)):
        share = left // (len(lengths) - rank)
        if n > share:
            break
        left -= n
    return [
        line
        for section, n in zip(sections, lengths, strict=True)
        for line in section.lines(None if n <= share else share, whole)
    ]


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    title: str = "",
    longest: int = LONG,
) -> Block:
    """A Markdown table; folded under its title where it has more rows than ``longest``."""
    rule = "|".join(" ---: " if name in numbers else " --- " for name in head)
    opening = [f"| {' | '.join(head)} |", f"|{rule}|"]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return folded(title, lines, opening) if len(rows) > longest else Block(lines, [*heading(title), *opening])


def folded(title: str, rows: list[str], opening: Sequence[str] = (), closing: Sequence[str] = ()) -> Block:
    """A block that shows its title until the reader opens it."""
    return Block(rows, [f"<details><summary>{title}</summary>", "", *opening], [*closing, "", "</details>"])


def heading(title: str) -> list[str]:
    """A line above a table, as bold text; none without a title."""
    return [f"**{title}**", ""] if title else []


def text(value: str) -> str:
    """Text of a file as it may stand in a cell: no markup, no cell border, nobody is notified."""
    plain = " ".join(value.split())
    for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("@", "@\u200b")):
        plain = plain.replace(character, written)
    for mark in "*_`[]~":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def code(value: str, longest: int = 80) -> str:
    """A name or value in a code span of a cell, shortened where it is long."""
    plain = " ".join(value.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain if len(plain) <= longest else plain[: longest - 1] + '…'}`"


def warning(sentence: str) -> str:
    """What could not be done."""
    return f"> **Not compared:** {sentence}"


def count(n: int, one: str, many: str = "") -> str:
    """``1 row``, ``2 rows``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
