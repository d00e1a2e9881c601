"""The table of datasets, and the page with a row a dataset."""

import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.records import write_table
from pipeline.reporting import page, tables
from pipeline.reporting.tables import DATASETS, NO_TRUTH, NOT_RUN, Report, datasets

REPORT = Report(comparable="no", notes={}, datasets={name: f"what {name} is" for name in DATASETS})


def write(folder, **counts):
    for name, quantities in counts.items():
        frame = pd.DataFrame({"quantity": list(quantities), "value": list(quantities.values())})
        frame.to_parquet(folder / f"{name}.parquet")
    return folder


LSUN = {"in": 12, "out": 10, "rejected": 2, "duplicates": 0, "rejected: empty file": 2}
DEDUP = {"in": 10, "out": 7, "rejected": 0, "duplicates": 3}


def cells(rows):
    return {(row.row, row.column): row for row in rows}


def test_published_numbers_come_first_in_order(tmp_path):
    rows = datasets(write(tmp_path, lsun=LSUN), REPORT)
    printed = [(p.row, p.column, p.value) for p in papers.DATASETS]
    assert [(r.row, r.column, r.paper) for r in rows[: len(printed)]] == printed
    assert {r.kind for r in rows[: len(printed)]} == {"ours"}
    assert {r.kind for r in rows[len(printed) :]} == {"extra"}
    assert len(cells(rows)) == len(rows)


def test_counts_are_those_of_the_stages(tmp_path):
    folder = write(tmp_path, lsun=LSUN, lsun_dedup=DEDUP, dedup={"false_positive_percent": 0.5})
    found = cells(datasets(folder, REPORT))
    assert found[papers.LSUN, "in"].measured == 12
    assert found[papers.LSUN, "out"].measured == 10
    assert found[papers.LSUN_DEDUP, "duplicates"].measured == 3
    assert found[papers.LSUN_DEDUP, "false_positives"].measured == 0.5
    assert found[papers.LSUN_DEDUP, "false_positives"].unit == "percent"
    assert found[papers.LSUN, "out"].dataset == "what lsun is"


def test_what_was_not_run_says_so(tmp_path):
    found = cells(datasets(write(tmp_path, lsun_dedup=DEDUP), REPORT))
    assert (found[papers.FACES, "out"].measured, found[papers.FACES, "out"].note) == (None, NOT_RUN)
    false = found[papers.LSUN_DEDUP, "false_positives"]
    assert (false.measured, false.note) == (None, NO_TRUTH)


def test_a_stand_in_is_not_the_papers_set(tmp_path):
    report = Report(comparable="yes", notes={"faces": "another set"}, datasets=REPORT.datasets)
    found = cells(datasets(write(tmp_path, faces=DEDUP, lsun=LSUN), report))
    faces, lsun = found[papers.FACES, "out"], found[papers.LSUN, "out"]
    assert (faces.comparable, faces.note) == ("reduced", "another set")
    assert (lsun.comparable, lsun.note) == ("yes", "")


@pytest.fixture
def reports(tmp_path):
    write(tmp_path, lsun=LSUN, lsun_dedup=DEDUP)
    folder = tmp_path / "reports/embedded"
    write_table(
        datasets(tmp_path, REPORT),
        "T",
        csv=folder / "tables/datasets.csv",
        md=folder / "t.md",
        metrics=folder / "m.json",
    )
    return folder


def test_page_has_a_row_a_dataset(reports):
    text = page.datasets_page("embedded", REPORT, reports)
    assert f"| {papers.LSUN} | 12 | 10 | 2 | 0 | empty file 2 |" in text
    assert f"| {papers.LSUN_DEDUP} | 10 | 7 | 0 | 3 |  |" in text
    assert "| MNIST |" not in text  # not run
    assert f"- {papers.LSUN}: what lsun is" in text
    assert f"![{papers.LSUN}](sheets/lsun.png)" in text
    assert "](sheets/lsun_collisions.png)" in text


def test_sheets_outside_the_reports_are_named_but_not_shown(reports):
    text = page.datasets_page("laptop", REPORT, reports)
    assert "`data/laptop/sheets/`" in text
    assert "sheets/lsun.png" not in text


def test_metrics_have_no_dots_in_their_names(reports):
    assert tables.TABLES["datasets"][1] is datasets
    assert "rejected_empty_file" in (reports / "m.json").read_text()
