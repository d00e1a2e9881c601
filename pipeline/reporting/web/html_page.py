"""The report as one HTML file that needs nothing else: no server, no network, no file beside it.

It says what report.md and datasets.md say, from the same parts, with every row of every table, all pictures of the
profile, and what each training run rests on. Text of tables, params and notes goes in as text, never as HTML; a content
security policy keeps the page from loading anything.
"""

import base64
import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import slug
from pipeline.papers import Published
from pipeline.reporting import page, provenance, text_numbers
from pipeline.reporting.rows import lacking
from pipeline.reporting.tables import DATASETS, TABLES
from pipeline.reporting.web import cells, pictures
from pipeline.turing import published as turing

if TYPE_CHECKING:
    from jinja2 import Environment
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

HERE = Path(__file__).parent
TITLES = {
    **{name: title for name, (title, _) in TABLES.items()},
    "turing": "Improved GAN: the visual Turing test",
    page.TEXT_NUMBERS: "Numbers in the running text of the papers",
    page.CLAIMS: "Claims of the papers, tested by ablations",
}
NAMED_IN = "report.datasets or report.notes of the params"  # where words of a user's own stand
PRINTED: dict[str, tuple[Published, ...]] = {  # table -> numbers that must have a row
    "dcgan_table1": papers.DCGAN_TABLE1,
    "dcgan_table2": papers.DCGAN_TABLE2,
    "dcgan_table3": papers.DCGAN_TABLE3,
    "improved_table1": papers.IMPROVED_TABLE1,
    "improved_table2": papers.IMPROVED_TABLE2,
    "improved_svhn": papers.IMPROVED_SVHN,
    "improved_table3": papers.IMPROVED_TABLE3,
    "turing": (*(place for places in turing.PUBLISHED.values() for place in places), turing.AUTHORS),
    page.TEXT_NUMBERS: text_numbers.PUBLISHED,
    "datasets": papers.DATASETS,
}
CLAIMS_COLUMNS = (
    *("claim", "paper", "section", "sentence", "ablation", "targets", "metric", "unit", "base", "base_spread"),
    *("ablated", "ablated_spread", "effect", "effect_spread", "n_seeds", "rule", "verdict", "note"),
)
SHEET_TITLES = {**DATASETS, **page.SHEETS}
BANNERS = {  # by comparable: what a reader must know before any number
    "no": (
        "Embedded numbers reproduce nothing.",
        "Small nets on data that installed packages ship or that are rendered: they show that the pipeline works.",
    ),
    "reduced": (
        "Real data at a reduced schedule.",
        "The numbers show the trend, not the paper's result; each row says what was reduced.",
    ),
    "yes": (
        "The papers' sizes and schedules.",
        "What was measured may be set beside the paper's numbers where its row does not say otherwise; what has not "
        "been run is empty and says so.",
    ),
}
OWN_ANCHORS = {"main", "at_a_glance", "datasets", "further_pictures", "provenance"}  # of headings of the page itself
PARAGRAPH = 3  # tokens: open, inline, close


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A line of the contents list."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A table in a line: how much of what the papers' authors measured was measured here, and how it came out.

    Attributes
    ----------
    anchor : of its place on the page; empty if it has none
    lacks : ``not made``, or the columns or rows that its CSV has not
    """

    title: str
    anchor: str
    lacks: str
    n_ours: int
    n_measured: int
    begun: bool  # whether anything in the table was measured, such as rows of our own
    better: int
    worse: int
    comparable: bool


@dataclass
class _Layout:
    """What is gathered while the parts of a page are laid out, one after the other."""

    tables: Path
    pictures: dict[str, pictures.Picture]
    headings: list[Heading] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # tables

    def anchor(self, text: str) -> str:
        """A name for a heading that no other has."""
        wanted = slug(text)
        taken = OWN_ANCHORS | {heading.anchor for heading in self.headings}
        numbers = (f"{wanted}_{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (wanted, *numbers) if name not in taken)


def html_page(
    profile: str,
    report: page.Report,
    *,
    report_parts: Sequence[page.Part],
    datasets_parts: Sequence[page.Part],
    tables: Path,
    shown: dict[str, pictures.Picture],
    runs: Sequence[provenance.Run],
) -> str:
    """The page of a profile.

    Parameters
    ----------
    report_parts, datasets_parts : of page.py; titles and the report's first sentence are the page's own
    tables : folder of the CSVs, all of whose rows are shown
    shown : link of a picture, as in the Markdown -> the picture; those that no text links come at the end
    runs : what each training run rests on

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    layout = _Layout(tables=tables, pictures=shown)
    layout.headings.append(Heading(level=2, text="At a glance", anchor="at_a_glance"))
    own_words = page.READING[report.comparable]
    body = _laid_out([part for part in report_parts[1:] if part != own_words], layout)
    layout.headings.append(Heading(level=2, text="Datasets", anchor="datasets"))
    datasets = _laid_out(datasets_parts[1:], layout, deeper=1)
    more = _further(layout)
    layout.headings.append(Heading(level=2, text="Provenance", anchor="provenance"))
    return render(
        "page.html",
        profile=profile,
        comparable=report.comparable,
        banner=BANNERS[report.comparable],
        headings=layout.headings,
        summaries=summaries(tables, layout.told),
        body=body,
        datasets=datasets,
        more=more,
        runs=runs,
        lossy=sorted(link for link, picture in shown.items() if picture.lossy),
    )


def summaries(tables: Path, shown: Container[str]) -> list[Summary]:
    """Of each table that has numbers of the papers' authors, in the order of ``PRINTED``; ``shown`` are on the page."""
    return [_summary(name, tables / f"{name}.csv", f"table_{name}" if name in shown else "") for name in PRINTED]


def _summary(name: str, csv: Path, anchor: str) -> Summary:
    lacks = lacking(csv)
    found = [] if lacks else cells.read(csv)
    ours = [cell for cell in found if cell.kind == "ours"]
    there = {(cell.row, cell.column) for cell in found}
    missing = [place for place in PRINTED[name] if (place.row, place.column) not in there]
    judgements = [cell.judgement for cell in ours]
    return Summary(
        title=TITLES[name],
        anchor=anchor,
        lacks=lacks or _without(missing),
        n_ours=len(ours) + sum(place.kind == "ours" for place in missing),
        n_measured=sum(bool(cell.measured) for cell in ours),
        begun=any(cell.measured for cell in found),
        better=judgements.count("better"),
        worse=judgements.count("worse"),
        comparable=any(cell.comparable in ("yes", "reduced") for cell in ours),
    )


def _without(missing: Sequence[Published]) -> str:
    """The printed numbers that have no row in a table."""
    places = "; ".join(f"{place.row}, {place.column.replace('_', ' ')}" for place in missing)
    return f"without {len(missing)} row{'' if len(missing) == 1 else 's'}: {places}" if missing else ""


def _further(layout: _Layout) -> str:
    """Pictures of the profile that no text has shown, such as the contact sheets that Git does not hold.

    Without the learning curve of votes that nobody has given: where it would stand, the page says so.
    """
    empty = {page.LEARNING} if page.nobody_voted(layout.tables) else set()
    rest = [link for link in layout.pictures if link not in layout.shown | empty]
    if not rest:
        return ""
    heading = Heading(level=2, text="Further pictures", anchor="further_pictures")
    layout.headings.append(heading)
    titles = {link: SHEET_TITLES.get(Path(link).stem, Path(link).stem.replace("_", " ")) for link in rest}
    figures = "".join(_figure(layout, link, titles[link]) for link in rest)
    return f'<h2 id="{heading.anchor}">{heading.text}</h2>\n<div class="gallery">\n{figures}</div>\n'


def _laid_out(parts: Iterable[page.Part], layout: _Layout, *, deeper: int = 0) -> str:
    """Parts of a page as HTML; headings stand ``deeper`` levels deeper than in the Markdown."""
    html: list[str] = []
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
            continue
        html += [_prose(lines, layout, deeper), _table(part, layout)]
        lines = []
    return "".join([*html, _prose(lines, layout, deeper)])


# ---- Markdown -------------------------------------------------------------------------------------------------------


def _prose(lines: list[str], layout: _Layout, deeper: int) -> str:
    markdown = _markdown()
    tokens = markdown.parse("\n".join(lines))
    laid_out: list[Token] = []
    number = 0
    while number < len(tokens):
        token = tokens[number]
        if (link := _lone_picture(tokens[number : number + PARAGRAPH])) is not None:
            laid_out.append(_raw(_figure(layout, *link)))
            number += PARAGRAPH
            continue
        if token.type == "heading_open":
            _take_heading(token, tokens[number + 1], layout, deeper)
        elif token.type == "heading_close":
            token.tag = f"h{int(token.tag[1]) + deeper}"
        elif token.type == "table_open":
            laid_out.append(_raw('<div class="scroll prose" tabindex="0" role="region" aria-label="table">'))
        elif token.type in ("th_open", "td_open"):
            _align(token)
        _point_inside(token)
        laid_out.append(token)
        if token.type == "table_close":
            laid_out.append(_raw("</div>"))
        number += 1
    return markdown.renderer.render(laid_out, markdown.options, {})


@cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")  # HTML in a note is text


def _raw(html: str) -> "Token":
    from markdown_it.token import Token

    return Token("html_block", "", 0, content=html)


def _lone_picture(tokens: "Sequence[Token]") -> tuple[str, str] | None:
    """Link and caption of a paragraph that is a picture and nothing else."""
    if [token.type for token in tokens] != ["paragraph_open", "inline", "paragraph_close"]:
        return None
    children = tokens[1].children or []
    if [child.type for child in children] != ["image"]:
        return None
    return str(children[0].attrs["src"]), children[0].content


def _take_heading(token: "Token", inline: "Token", layout: _Layout, deeper: int) -> None:
    level = int(token.tag[1]) + deeper
    text = "".join(child.content for child in inline.children or [])
    heading = Heading(level=level, text=text, anchor=layout.anchor(text))
    layout.headings.append(heading)
    token.tag = f"h{level}"
    token.attrs["id"] = heading.anchor


def _align(token: "Token") -> None:
    """A class in place of the style that the policy of the page refuses."""
    if "right" in str(token.attrs.pop("style", "")):
        token.attrs["class"] = "number"


def _point_inside(token: "Token") -> None:
    """Links to other files of the reports become links to their place on the page; no other file is linked."""
    for child in token.children or []:
        if child.type == "image":
            message = f"report page: a picture inside a line of text: {child.attrs['src']}; take it out of {NAMED_IN}"
            raise InputError(message)
        if child.type == "link_open":
            child.attrs["href"] = _inside(str(child.attrs["href"]))


def _inside(address: str) -> str:
    if re.match(r"https?://", address):
        return address
    if address == "datasets.md":
        return "#datasets"
    if table := re.fullmatch(r"tables/(\w+)\.(csv|md)", address):
        return f"#table_{table[1]}"
    message = f"report page: it has no place for the link {address}; name a whole https:// address in {NAMED_IN}"
    raise InputError(message)


# ---- pictures and tables --------------------------------------------------------------------------------------------


def _figure(layout: _Layout, link: str, caption: str) -> str:
    layout.shown.add(link)
    return _filled("figure.html", picture=layout.pictures.get(link), link=link, caption=caption)


def _table(table: page.Table, layout: _Layout) -> str:
    layout.told.add(table.name)
    csv = layout.tables / f"{table.name}.csv"
    values: dict[str, Any] = {"name": table.name, "title": TITLES[table.name], "folded": table.folded}
    if table.name == page.CLAIMS:
        return _filled("claims.html", claims=_claims(csv), **values)
    return _filled("table.html", cells=cells.read(csv), **values)


def _claims(csv: Path) -> list[dict[str, str]]:
    """Every claim; numbers with their spreads."""
    claims = []
    for row in cells.read_csv(csv, CLAIMS_COLUMNS).to_dict("records"):
        claim = {str(name): cells.text(value) for name, value in row.items()}
        for name in ("base", "ablated", "effect"):
            claim[name] = _plus_minus(row[name], row[f"{name}_spread"], signed=name == "effect")
        claim |= {
            name: claim[name].removesuffix(".0") for name in ("n_seeds", "section")
        }  # pandas reads them as floats
        claim["unit"] = cells.UNITS.get(claim["unit"], claim["unit"])
        claim["class"] = slug(claim["verdict"])
        claims.append(claim)
    return claims


def _plus_minus(value: float, spread: float, *, signed: bool) -> str:
    if not cells.text(value):
        return ""
    number = f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.4g}"
    return number + (f" ± {spread:.2g}" if cells.text(spread) else "")


# ---- templates ------------------------------------------------------------------------------------------------------


@cache
def _environment() -> "Environment":
    """The templates beside this module; what is filled in is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = lambda name: name.replace("_", " ")
    return environment


def render(name: str, /, **values: Any) -> str:
    """A whole page, with its style, its script, and the policy that lets it load nothing else."""
    style, script = ((HERE / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    own = {"style": style, "script": script, "style_hash": _policy_hash(style), "script_hash": _policy_hash(script)}
    return _filled(name, **values, **own)


def _filled(name: str, /, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
