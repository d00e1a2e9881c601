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


LSUN = {"in": 12, "out": 10, "out_train": 9, "rejected": 2, "duplicates": 0, "rejected: empty file": 2}
CODES = {
    "false_positive_percent": 0.5,
    "false_positive_percent_low": 0.1,
    "false_positive_percent_high": 1.25,
    "distinct_codes": 9,
    "all_zero_share": 0.25,
    "dead_units": 3,
    "constant_units": 4,
    "n_groups": 2,
    "largest_group": 3,
    "groups_of_1": 5,
    "groups_of_2": 1,
    "groups_of_3": 1,
}
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
    folder = write(tmp_path, lsun=LSUN, lsun_dedup=DEDUP, dedup=CODES)
    found = cells(datasets(folder, REPORT))
    assert found[papers.LSUN, "in"].measured == 12
    assert found[papers.LSUN, "out"].measured == 10
    assert found[papers.LSUN, "out"].n_images == 12
    assert found[papers.LSUN_DEDUP, "duplicates"].measured == 3
    assert found[papers.LSUN_DEDUP, "false_positives"].measured == 0.5
    assert found[papers.LSUN_DEDUP, "false_positives"].unit == "percent"
    assert found[papers.LSUN, "out"].dataset == "what lsun is"
    assert (found[papers.LSUN_DEDUP, "groups_of_3"].measured, found[papers.LSUN_DEDUP, "groups_of_3"].unit) == (
        1,
        "groups",
    )
    assert found[papers.LSUN_DEDUP, "false_positives_high"].unit == "percent"
    assert found[papers.LSUN_DEDUP, "all_zero_share"].unit == "share"


def test_what_was_not_run_says_so(tmp_path):
    codes = {name: value for name, value in CODES.items() if not name.startswith("false")}
    found = cells(datasets(write(tmp_path, lsun_dedup=DEDUP, dedup=codes), REPORT))
    assert (found[papers.FACES, "out"].measured, found[papers.FACES, "out"].note) == (None, NOT_RUN)
    assert (found["SVHN", "out"].measured, found["SVHN", "out"].note) == (None, NOT_RUN)
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
    write(tmp_path, lsun=LSUN, lsun_dedup=DEDUP, dedup=CODES)
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
    assert "| MNIST |" not in text
    assert "Not run in this profile: CIFAR-10, Faces," in text
    assert f"- {papers.LSUN}: what lsun is" in text
    assert f"![{papers.LSUN}](sheets/lsun.png)" in text
    assert "](sheets/lsun_collisions.png)" in text


def test_the_report_says_which_sets_nobody_read(reports):
    text = page.report_page("embedded", REPORT, reports, [], reports / "metrics")
    assert "\n- lsun: what lsun is\n" in text
    assert "\n- svhn: what svhn is (not run in this profile yet)\n" in text


def test_page_tells_what_the_codes_did(reports):
    text = page.datasets_page("embedded", REPORT, reports)
    assert "LSUN: 3 images left out. Groups of like images: 1 of 2; 1 of 3. 9 distinct codes" in text
    assert "all-zero codes 25.00 %; dead units 3 of 128" in text
    assert "Left out wrongly: 0.50 % (95 % interval 0.10 to 1.25 %)" in text


def test_sheets_outside_the_reports_are_named_but_not_shown(reports):
    text = page.datasets_page("laptop", REPORT, reports)
    assert "`data/laptop/sheets/`" in text
    assert "sheets/lsun.png" not in text


def test_metrics_have_no_dots_in_their_names(reports):
    assert tables.TABLES["datasets"][1] is datasets
    assert "rejected_empty_file" in (reports / "m.json").read_text()
