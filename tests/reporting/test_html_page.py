"""The report as one file: everything in it, nothing outside it, and text only as text."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import made_report as made
import pandas as pd
import pytest
from PIL import Image

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import COLUMNS, write_csv, write_table
from pipeline.reporting import page, provenance, tables
from pipeline.reporting.rows import Report
from pipeline.reporting.web import html_page, pictures

PROFILES = ("embedded", "laptop", "paper")
HOSTILE = '<b onclick="x">bold</b> & <script>alert(1)</script>'
REPORT = Report(comparable="no", notes={}, datasets=dict.fromkeys(tables.DATASETS, HOSTILE))
TITLE = ["# Report", "", page.READING["no"], ""]
DATASETS = ["# Datasets", "", "All of them."]


class Parsed(HTMLParser):
    """Elements with their attributes, and rows of the tables that have a name."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.cell, self.names = [], {}, None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        if tag == "table":
            self.names.append(attrs.get("data-table"))
        elif tag == "tr" and self.names[-1]:
            self.rows.setdefault(self.names[-1], []).append([])
        elif tag in ("td", "th") and self.names[-1]:
            self.rows[self.names[-1]][-1].append("")
            self.cell = self.rows[self.names[-1]][-1]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell[-1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def built(tmp_path, report=REPORT, parts=(), datasets=(), shown=None, runs=()):
    return html_page.html_page(
        "embedded",
        report,
        report_parts=[*TITLE, *parts],
        datasets_parts=[*DATASETS, *datasets],
        tables=tmp_path,
        shown=shown or {},
        runs=list(runs),
    )


def write_digits(folder, note="a note", comparable="no", measured=12.0):
    rows = [
        tables.result(
            printed,
            measured=measured if printed.kind == "ours" else None,
            comparable=comparable,
            dataset="d",
            note=note,
        )
        for printed in papers.DCGAN_TABLE3
    ]
    out = {"csv": folder / "dcgan_table3.csv", "md": folder / "t.md", "metrics": folder / "m.json"}
    write_table(rows, "T", **out)
    return page.Table(name="dcgan_table3", lines=("| not shown |",))


# ---- the committed reports ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PROFILES)
def whole(request, root, tmp_path_factory):
    """A profile, the text of its page and its elements."""
    text = made.committed(root, request.param, tmp_path_factory.mktemp("runs"))
    return request.param, text, Parsed(text)


def test_every_table_has_every_row_of_its_csv(whole, root):
    profile, _, parsed = whole
    files = {path.stem: path for path in (root / f"reports/{profile}/tables").glob("*.csv")}
    assert {"dcgan_table1", "dcgan_table2", "dcgan_table3", "improved_table1", "improved_table2", "improved_svhn",
            "improved_table3", "datasets", "turing"} <= set(files)  # fmt: skip
    for name, path in files.items():
        table = pd.read_csv(path)
        if name == page.CLAIMS and table.empty:
            continue  # said in a sentence
        lines = parsed.rows[name][1:]
        assert len(lines) == len(table), name
        first = table["claim" if name == page.CLAIMS else "column"].map(lambda text: text.replace("_", " "))
        for line, told in zip(lines, first, strict=True):
            assert told in " ".join(line), name


def test_measured_numbers_stand_beside_the_papers(whole, root):
    profile, _, parsed = whole
    table = pd.read_csv(root / f"reports/{profile}/tables/dcgan_table3.csv")
    for row, line in zip(table.to_dict("records"), parsed.rows["dcgan_table3"][1:], strict=True):
        paper, measured, difference = line[-4:-1]
        assert float(paper or "nan") == pytest.approx(row["paper"], nan_ok=True)
        assert (measured[:4].rstrip(" ±") != "") == pd.notna(row["measured"])
        if pd.notna(row["measured"]) and pd.notna(row["paper"]):
            told = re.match(r"[+\N{MINUS SIGN}]?[\d.]+", difference)[0].replace("\N{MINUS SIGN}", "-")
            assert float(told) == pytest.approx(row["measured"] - row["paper"], abs=0.006)


def test_every_picture_of_the_profile_is_in_the_page(whole, root):
    profile, _, parsed = whole
    files = pictures.in_folders(*(root / f"reports/{profile}/{name}" for name in ("figures", "sheets")))
    votes = pd.read_csv(root / f"reports/{profile}/tables/turing.csv")["measured"]
    shown = set(files) - ({page.LEARNING} if votes.isna().all() else set())
    assert sorted(image["data-picture"] for image in parsed.of("img")) == sorted(shown)
    assert all(image["alt"] and image["width"].isdigit() for image in parsed.of("img"))


def test_nothing_outside_the_page_is_asked_for(whole):
    _, _, parsed = whole
    loading = [value for _, attrs in parsed.elements for name, value in attrs.items() if name in ("src", "srcset")]
    loading += [link["href"] for link in parsed.of("link")]
    assert loading
    assert {address.partition(",")[0].partition(";")[0] for address in loading} <= {
        "data:image/png",
        "data:image/webp",
        "data:",
    }
    assert parsed.of("iframe") + parsed.of("object") + parsed.of("form") == []


def test_every_link_ends_on_the_page(whole):
    _, _, parsed = whole
    anchors = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    links = [link["href"] for link in parsed.of("a")]
    assert [link for link in links if link.removeprefix("#") not in anchors] == []
    contents = [level for level, _ in parsed.elements if level in ("h2", "h3")]
    assert len([link for link in parsed.of("li") if "level" in link.get("class", "")]) == len(contents)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_page_is_small_enough(profile, root, tmp_path):
    """With the pictures as the stage puts them in: compressed if need be."""
    folders = [root / f"reports/{profile}/{name}" for name in ("figures", "sheets")]
    n_characters = sum(picture.characters for picture in pictures.read(pictures.in_folders(*folders)).values())
    words = re.sub(r"data:image/[^\"]+", "", made.committed(root, profile, tmp_path))
    assert n_characters + len(words.encode()) <= 15_000_000


def test_the_policy_knows_the_pages_own_style_and_script_and_nothing_else(whole):
    _, text, parsed = whole
    (policy,) = (meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert [attrs for _, attrs in parsed.elements if "style" in attrs or any(n.startswith("on") for n in attrs)] == []


def test_the_banner_says_how_the_numbers_are_to_be_read(whole):
    profile, text, _ = whole
    told = {
        "embedded": "Embedded numbers reproduce nothing.",
        "laptop": "reduced schedule",
        "paper": "sizes and schedules",
    }
    (banner,) = re.findall(r'<p class="banner .*?</p>', text, re.DOTALL)
    assert told[profile] in banner


def test_embedded_numbers_are_greyed_and_not_judged(whole):
    profile, _, parsed = whole
    judged = {
        attrs["class"].split()[0]
        for attrs in parsed.of("span")
        if attrs.get("class", "").endswith((" yes", " reduced"))
    }
    assert ("better" in judged and "worse" in judged) == (profile != "embedded")
    muted = [row for row in parsed.of("tr") if "muted" in row.get("class", "")]
    if profile == "embedded":
        assert muted


def test_neither_time_host_nor_path_is_in_it(whole, root, tmp_path):
    profile, text, _ = whole
    words = re.sub(r"data:image/[^\"]+", "", text)
    assert str(root) not in words
    assert "/tmp" not in words
    assert not re.search(r"\b20[2-9]\d-\d\d-\d\d\b|\b\d\d:\d\d:\d\d\b", words)
    if profile == "paper":
        assert made.committed(root, profile, tmp_path) == text, "the same input gives the same bytes"


# ---- made-up pages --------------------------------------------------------------------------------------------------


def test_text_goes_in_as_text(tmp_path):
    table = write_digits(tmp_path, note=HOSTILE)
    claims = pd.read_csv(pd.io.common.StringIO(made.CLAIMS)).assign(note=HOSTILE, ablation=HOSTILE, verdict=HOSTILE)
    write_csv(tmp_path / "claims.csv", claims)
    made.write_run(tmp_path / "runs", "x", architecture=HOSTILE)
    parts = [f"- set: {HOSTILE}", "", f"## {HOSTILE}", "", "| a |", "| --- |", f"| {HOSTILE} |", "", table, ""]
    parts += [page.Table(name=page.CLAIMS), f"![{HOSTILE}](figures/missing.png)"]
    text = built(tmp_path, parts=parts, runs=made.recorded_runs(tmp_path / "runs"))
    parsed = Parsed(text)
    assert parsed.of("b") == []
    assert len(parsed.of("script")) == 1
    assert text.count("alert(1)") >= 10, "all of them are there, as text"


def test_a_link_to_a_table_leads_to_its_place(tmp_path):
    table = write_digits(tmp_path)
    text = built(
        tmp_path, parts=["[CSV](tables/dcgan_table3.csv), [sets](datasets.md), [w](https://x.org/)", "", table]
    )
    links = [link["href"] for link in Parsed(text).of("a")]
    assert links[-3:] == ["#table_dcgan_table3", "#datasets", "https://x.org/"]
    assert "not shown" not in text, "that line stands for the table in Markdown"


@pytest.mark.parametrize("link", ["tables/../x.csv", "figures/x.png", "docs/internals.md", "javascript:alert(1)"])
def test_a_link_that_would_lead_nowhere_is_an_error(tmp_path, link):
    if link.startswith("javascript"):
        assert 'href="javascript' not in built(tmp_path, parts=[f"[a]({link})"])
        return
    with pytest.raises(
        InputError, match=r"no place for the link .* in report\.datasets or report\.notes of the params"
    ):
        built(tmp_path, parts=[f"[a]({link})"])


def test_a_picture_that_is_missing_is_named(tmp_path):
    text = built(tmp_path, parts=["![A walk](figures/walk.png)"])
    assert "A walk: <code>figures/walk.png</code> has not been drawn in this profile." in text


def test_a_picture_within_a_line_has_no_place(tmp_path):
    with pytest.raises(InputError, match="inside a line of text"):
        built(tmp_path, parts=["see ![A walk](figures/walk.png) here"])


def test_pictures_that_no_text_names_come_at_the_end(tmp_path):
    for name in ("figures/told.png", "sheets/faces.png", "sheets/nearest_dcgan_lsun.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    shown = pictures.read(pictures.in_folders(tmp_path / "figures", tmp_path / "sheets"))
    text = built(tmp_path, parts=["![Told](figures/told.png)"], shown=shown)
    further = text.partition('<h2 id="further_pictures">')[2]
    captions = re.findall("<figcaption>(.*?)</figcaption>", further)
    assert captions == [papers.FACES, "nearest dcgan lsun"]
    assert text.count("<figcaption>Told</figcaption>") == 1
    assert '<a href="#further_pictures">' in text


def test_headings_of_one_name_have_places_of_their_own(tmp_path):
    text = built(tmp_path, parts=["## A walk", "", "## A walk", "", "### Datasets"], datasets=["", "## A walk"])
    found = re.findall(r'<(h\d) id="(\w+)">', text.partition("</nav>")[2])
    assert found[1:] == [("h2", "a_walk"), ("h2", "a_walk_2"), ("h3", "datasets_2"), ("h2", "datasets"),
                         ("h3", "a_walk_3"), ("h2", "provenance")]  # fmt: skip


def test_what_is_comparable_is_judged_and_counted(tmp_path):
    table = write_digits(tmp_path, comparable="yes", measured=3.0)
    report = REPORT.model_copy(update={"comparable": "yes"}) if hasattr(REPORT, "model_copy") else Report(
        comparable="yes", notes={}, datasets=REPORT.datasets
    )  # fmt: skip
    text = built(tmp_path, report=report, parts=["## T", "", table])
    # 3.00 % beside 3.1, 6.28, 5.65, 2.98 and 1.48
    assert re.findall(r'<span class="(\w+) yes">([^<]+)<small>', text) == [
        ("better", "\N{MINUS SIGN}0.10"), ("better", "\N{MINUS SIGN}3.28"), ("better", "\N{MINUS SIGN}2.65"),
        ("worse", "+0.02"), ("worse", "+1.52"),
    ]  # fmt: skip
    (summary,) = (row for row in html_page.summaries(tmp_path, ["dcgan_table3"]) if row.anchor)
    assert (summary.n_ours, summary.n_measured, summary.better, summary.worse) == (5, 5, 3, 2)
    assert '<span class="better">3 better</span>, <span class="worse">2 worse</span>' in text


def test_what_was_not_run_says_so_at_a_glance(tmp_path):
    table = write_digits(tmp_path, measured=None)
    glance = built(tmp_path, parts=[table]).partition("</table>")[0]
    assert '<td class="number">0 of 5</td>' in glance
    assert "not run yet" in glance


def glance_of(text, name):
    """The line of a table at a glance, as a reader sees it."""
    glance = text.partition('<table class="glance">')[2].partition("</table>")[0]
    lines = [" ".join(re.sub("<[^>]*>", " ", line).split()) for line in glance.split("<tr>")]
    (found,) = (line for line in lines if line.startswith(html_page.TITLES[name]))
    return found.removeprefix(html_page.TITLES[name]).strip()


def test_a_table_that_was_not_made_is_named_at_a_glance(tmp_path):
    text = built(tmp_path, parts=[write_digits(tmp_path)])
    assert glance_of(text, "dcgan_table3") == "5 of 5 not comparable"
    assert glance_of(text, "dcgan_table1") == "0 of 3 not made"
    assert glance_of(text, "turing") == "0 of 4 not made"
    assert "#table_dcgan_table1" not in text, "there is no such place"
    assert '<a href="#table_dcgan_table3">' in text


def test_what_a_table_lacks_is_named_at_a_glance(tmp_path):
    part = write_digits(tmp_path, comparable="yes", measured=3.0)
    path = tmp_path / "dcgan_table3.csv"
    table = pd.read_csv(path)
    ours = table["kind"] == "ours"
    table[ours & (table["column"] == papers.AT_50K)].to_csv(path, index=False)
    assert glance_of(built(tmp_path, parts=[part]), "dcgan_table3").startswith(
        "3 of 5 without 4 rows: AlignMNIST, test error 10m samples; InfiMNIST, test error 10m samples; GAN, test"
    )
    table.drop(columns=["spread", "note"]).to_csv(path, index=False)
    assert glance_of(built(tmp_path), "dcgan_table3") == "0 of 5 without spread, note"


@pytest.mark.parametrize("name", html_page.PRINTED)
def test_every_printed_number_has_a_row_in_the_committed_tables(root, name):
    for profile in PROFILES:
        found = next(row for row in html_page.summaries(root / f"reports/{profile}/tables", [name]) if row.anchor)
        assert found.lacks == "", profile


def test_the_learning_curve_of_nobody_is_not_shown(tmp_path):
    for name in ("figures/turing_learning.png", "figures/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    shown = pictures.read(pictures.in_folders(tmp_path / "figures"))
    (tmp_path / "tables").mkdir()

    def parts_after(measured):
        row = dict.fromkeys(COLUMNS) | {"row": "MNIST", "column": "percent_correct", "unit": "percent"}
        pd.DataFrame([row | {"measured": measured, "comparable": "no"}]).to_csv(
            tmp_path / "tables/turing.csv", index=False
        )
        return page._turing(tmp_path)

    text = built(tmp_path / "tables", parts=parts_after(None), shown=shown)
    assert page.NOBODY in text
    assert re.findall(r'data-picture="([^"]+)"', text) == ["figures/other.png"]
    text = built(tmp_path / "tables", parts=parts_after(60.0), shown=shown)
    assert page.NOBODY not in text
    assert re.findall(r'data-picture="([^"]+)"', text) == ["figures/turing_learning.png", "figures/other.png"]


def test_claims_have_their_verdicts(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/claims.csv").write_text(made.CLAIMS)
    parts = page._claims(tmp_path)
    markdown = page.markdown(parts)
    assert "Of 2 claims: not tested 1, supported 1." in markdown
    assert "| beta1 | a momentum of 0.9 oscillates | d_loss | +0.25 ± 0.051 | 3 | supported |" in markdown
    assert "| vbn | virtual batch norm helps |  |  |  | not tested |" in markdown
    text = built(tmp_path / "tables", parts=parts)
    assert re.findall(r'class="verdict (\w+)">([^<]+)<', text) == [
        ("supported", "supported"),
        ("not_tested", "not tested"),
    ]
    line = Parsed(text).rows["claims"][1]
    assert line[0] == "beta1dcgan, 4"
    assert line[2] == "+0.25 ± 0.0510.125 ± 0.01 → 0.375 ± 0.05n = 3"
    assert line[3].endswith("d_loss; train.beta1=0.9 more than two standard errors"), (
        "as it is called in ablations.yaml"
    )


def test_a_profile_without_ablations_says_so(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/claims.csv").write_text(made.CLAIMS.split("\n")[0] + "\n")
    assert "No claim has been tested in this profile." in built(tmp_path / "tables", parts=page._claims(tmp_path))
    (tmp_path / "tables/claims.csv").unlink()
    assert page._claims(tmp_path) == []


def test_provenance_of_every_run(tmp_path):
    made.write_run(tmp_path, "dcgan_mnist", learning_rate=0.0002)
    made.write_run(tmp_path, "gan_mnist", recorded=False)
    text = built(tmp_path, runs=made.recorded_runs(tmp_path))
    first, second = re.findall(r'<tr data-run="(\w+)">(.*?)</tr>', text, re.DOTALL)
    assert first[1].count(f"<code>{made.HASH[:12]}</code>") == 3
    assert second[1].count(provenance.NOT_RECORDED) == 3
    assert "<dt>learning_rate</dt><dd>0.0002</dd>" in text
    assert text.count(f"<code>{made.HASH}</code>") == 3, "the whole hashes are there to be copied"
    assert "No training run" in built(tmp_path)


def test_a_broken_table_stops_with_its_name(tmp_path):
    (tmp_path / "dcgan_table3.csv").write_text("row,column\na,b\n")
    with pytest.raises(InputError, match=r"dcgan_table3\.csv: columns unit, kind"):
        built(tmp_path, parts=[page.Table(name="dcgan_table3")])
