"""Opening a report page, and the page of all profiles, which needs no data."""

import re
import shutil
import webbrowser

import pandas as pd
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.project import report_pages


@pytest.fixture
def browser(monkeypatch):
    """What a browser is asked to open."""
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    return asked


def test_a_report_is_opened_and_its_path_is_said(tmp_path, browser, capsys):
    path = tmp_path / "a b/data/laptop/report/index.html"
    write_text(path, "page")
    report_pages.open_report("laptop", tmp_path / "a b")
    assert browser == [path.as_uri()]
    assert "a%20b" in browser[0]
    said = capsys.readouterr()
    assert (said.out.strip(), said.err) == (str(path), "")


def test_without_a_browser_the_path_is_said_all_the_same(tmp_path, monkeypatch, capsys):
    write_text(tmp_path / "data/paper/report/index.html", "page")
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    report_pages.open_report("paper", tmp_path)
    said = capsys.readouterr()
    assert said.out.strip().endswith("data/paper/report/index.html")
    assert said.err == "note: no browser was found; open that file in one\n"


@pytest.mark.parametrize(
    ("profile", "command"), [("embedded", "dvc repro report"), ("paper", "dvc repro profiles/paper/dvc.yaml:report")]
)
def test_a_page_that_is_not_there_is_said_with_the_way_to_it(tmp_path, browser, profile, command):
    with pytest.raises(InputError, match=re.escape(f"data/{profile}/report/index.html: missing;")) as error:
        report_pages.open_report(profile, tmp_path)
    assert f"`{command}`" in str(error.value)
    assert browser == []


def test_an_unknown_profile_is_refused(tmp_path, browser):
    with pytest.raises(InputError, match="found the profile 'big'; expected embedded, laptop, paper"):
        report_pages.open_report("big", tmp_path)


def test_the_pages_place_is_that_of_the_graph(root):
    for profile, dvc_yaml in report_pages.PROFILES.items():
        written = (root / dvc_yaml).read_text(encoding="utf-8")
        assert "data/${profile}/report/index.html" in written, "stage report writes it"
        assert report_pages.report_file(profile).as_posix() == f"data/{profile}/report/index.html"


# ---- the profiles side by side --------------------------------------------------------------------------------------


@pytest.fixture
def project(root, tmp_path):
    """The committed tables, and two figures."""
    for profile in report_pages.PROFILES:
        shutil.copytree(root / f"reports/{profile}/tables", tmp_path / f"reports/{profile}/tables")
    for place in ("paper/figures/fig10.png", "laptop/figures/fig2.png", "paper/figures/fig2.png"):
        (tmp_path / "reports" / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "reports" / place)
    return tmp_path


def all_of(project):
    path = report_pages.write_all(project)
    assert path == report_pages.REPORT_ALL
    return (project / path).read_text(encoding="utf-8")


def table_of(text, name):
    rows = re.findall(r"<tr.*?</tr>", re.search(rf'data-table="{name}">.*?</table>', text, re.DOTALL)[0], re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"\s*<[^>]*>\s*", " ", cell).strip() for cell in row] for row in cells]


def test_every_number_of_every_profile_stands_beside_the_papers(project):
    text = all_of(project)
    lines = table_of(text, "dcgan_table3")
    assert lines[0][-4:] == ["published", "paper", "laptop", "embedded"]
    (line,) = [line for line in lines if "10m samples" in line[-5] and line[-4] == "1.48"]
    for cell, profile in zip(line[-3:], ("paper", "laptop", "embedded"), strict=True):
        table = pd.read_csv(project / f"reports/{profile}/tables/dcgan_table3.csv").set_index(["row", "column"])
        number = table.loc[("DCGAN (ours)", "test_error_10m_samples"), "measured"]
        assert cell.startswith(f"{number:.2f}")
        assert ("better" in cell or "worse" in cell) == (profile != "embedded")


@pytest.mark.parametrize("name", ["dcgan_table1", "improved_table3", "datasets", "turing"])
def test_the_rows_are_those_that_any_profile_has(project, name):
    tables = [pd.read_csv(path) for path in project.glob(f"reports/*/tables/{name}.csv")]
    expected = {(row, column) for table in tables for row, column in zip(table["row"], table["column"], strict=True)}
    assert len(table_of(all_of(project), name)) - 1 == len(expected)


def test_a_profile_without_a_table_is_named(project):
    (project / "reports/paper/tables/dcgan_table2.csv").unlink()
    for profile in report_pages.PROFILES:
        (project / f"reports/{profile}/tables/turing.csv").unlink()
    text = all_of(project)
    after = text.partition('<h2 id="table_dcgan_table2">')[2].partition("<table")[0]
    assert "No such table in: paper." in after
    assert re.search("No profile has made: .*Improved GAN: the visual Turing test", text)
    assert {line[-3] for line in table_of(text, "dcgan_table2")[1:]} == {"not run yet"}


def test_a_profile_without_reports_is_left_empty(project):
    shutil.rmtree(project / "reports/laptop")
    text = all_of(project)
    assert {line[-2] for line in table_of(text, "dcgan_table3")[1:]} == {"not run yet"}
    assert "laptop: not drawn yet" in text


def test_an_empty_cell_says_why(project):
    text = all_of(project)
    lines = {name: {line[-5]: line for line in table_of(text, name)} for name in ("text_numbers", "datasets")}
    assert lines["text_numbers"]["people count"][-1] == "not counted: no image set here says who is shown"
    assert lines["datasets"]["groups of 3 groups"][-3:-1] == ["not run yet", "no such number"]
    assert {line[-2] for line in table_of(text, "turing")[1:]} == {"nobody has voted", "quoted"}


def test_figures_of_one_name_stand_together_in_their_order(project):
    text = all_of(project)
    assert re.findall(r'<h3 id="figure_(\w+)">', text) == ["fig2", "fig10"]
    assert re.findall(r'data-picture="([^"]+)"', text) == [
        "paper/figures/fig2.png", "laptop/figures/fig2.png", "paper/figures/fig10.png",
    ]  # fmt: skip
    assert "embedded: not drawn yet" in text


def test_a_learning_curve_without_votes_is_not_shown(project):
    for profile in ("paper", "laptop"):
        Image.new("RGB", (2, 2)).save(project / f"reports/{profile}/figures/turing_learning.png")
    path = project / "reports/laptop/tables/turing.csv"
    pd.read_csv(path).assign(measured=60.0).to_csv(path, index=False)
    path = project / "reports/paper/tables/turing.csv"
    pd.read_csv(path).assign(measured=None).to_csv(path, index=False)
    after = all_of(project).partition('id="figure_turing_learning"')[2]
    assert re.findall(r'data-picture="([^"]+)"', after) == ["laptop/figures/turing_learning.png"]
    assert "paper: nobody has voted" in after


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tables of any profile"):
        report_pages.write_all(tmp_path)
    assert not (tmp_path / report_pages.REPORT_ALL).exists()
