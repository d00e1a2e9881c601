"""How a row of a table is shown: as printed, with its difference, judged by the unit."""

import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import to_frame, write_csv
from pipeline.reporting.rows import Extra, result
from pipeline.reporting.web import cells

PRINTED = {(p.row, p.column): p for p in (*papers.DCGAN_TABLE1, *papers.DCGAN_TABLE3)}
DCGAN_10M = PRINTED["DCGAN (ours)", papers.AT_10M]  # 1.48 %
SVM = PRINTED[papers.DCGAN_SVM, papers.ACCURACY_400]  # 73.8 ± 0.4 %


def row(place, comparable="yes", note="", **measured):
    return result(place, comparable=comparable, dataset="digits", note=note or "a note", **measured)


def read(tmp_path, *rows):
    write_csv(tmp_path / "table.csv", to_frame(rows))
    return cells.read(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("unit", "difference", "expected"),
    [
        ("percent_error", -0.5, "better"),
        ("percent_error", 0.5, "worse"),
        ("errors_of_10000", -3, "better"),
        ("errors_of_10000", 3, "worse"),
        ("percent_accuracy", 0.5, "better"),
        ("percent_accuracy", -0.5, "worse"),
        ("score", 0.01, "better"),
        ("score", -0.01, "worse"),
        ("percent_error", 0.004, "equal"),
        ("errors_of_10000", 0.4, "worse"),
        ("errors_of_10000", 0.04, "equal"),
        ("images", 1000, ""),
        ("percent", 5, ""),
        ("a unit of tomorrow", 5, ""),
    ],
)
def test_what_is_better_follows_from_the_unit(unit, difference, expected):
    assert cells.judged(difference, unit) == expected


def test_paper_as_printed_and_measured_with_its_spread(tmp_path):
    seeds = {"spread": 0.25, "spread_over": "seeds", "n_seeds": 3, "n_images": 100_000, "n_labels": 50_000}
    (cell,) = read(tmp_path, row(DCGAN_10M, measured=1.72, **seeds))
    assert (cell.paper, cell.measured, cell.over) == ("1.48", "1.72 ± 0.25", "3 seeds")
    assert (cell.difference, cell.judgement, cell.unit) == ("+0.24", "worse", "% error")
    assert cell.counts == "100,000 images, 50,000 labels"
    (cell,) = read(tmp_path, row(SVM, measured=74.5, n_seeds=1))
    assert (cell.paper, cell.measured, cell.over, cell.judgement) == ("73.8 ± 0.4", "74.50", "1 seed", "better")
    (cell,) = read(tmp_path, row(SVM, measured=70.0, spread=0.5, spread_over="draws", n_seeds=1))
    assert (cell.over, cell.difference) == ("draws", "\N{MINUS SIGN}3.80")


def test_what_is_not_comparable_is_not_judged(tmp_path):
    bad, reduced = read(tmp_path, row(DCGAN_10M, "no", measured=12.0), row(DCGAN_10M, "reduced", measured=12.0))
    assert (bad.difference, bad.judgement, bad.comparable) == ("+10.52", "", "no")
    assert (reduced.judgement, reduced.comparable) == ("worse", "reduced")


def test_nothing_measured_is_nothing_shown(tmp_path):
    (cell,) = read(tmp_path, row(DCGAN_10M))
    assert (cell.measured, cell.difference, cell.judgement, cell.over, cell.counts) == ("", "", "", "", "")
    assert (cell.comparable, cell.note) == ("", "a note")


def test_counts_have_no_decimals(tmp_path):
    (cell,) = read(tmp_path, row(Extra(row="LSUN", column="out", unit="images"), measured=6387, n_images=6900))
    assert (cell.measured, cell.counts, cell.paper) == ("6,387", "", "")


def test_errors_are_whole_and_say_of_how_many_images(tmp_path):
    place = next(printed for printed in papers.IMPROVED_TABLE1 if printed.row == papers.ENSEMBLE)  # 1134 ± 445
    (cell,) = read(tmp_path, row(place, measured=1424, n_seeds=10, n_images=10_000, n_labels=20))
    assert (cell.paper, cell.measured, cell.difference) == ("1,134 ± 445", "1,424", "+290")
    assert (cell.judgement, cell.counts) == ("worse", "10,000 images, 20 labels")


def test_a_share_near_zero_is_not_zero(tmp_path):
    place = Extra(row="-MBF", column="classifier_recall", unit="share")
    small, none = read(tmp_path, row(place, measured=0.000266667, spread=0.00005), row(place, measured=0.0))
    assert (small.measured, none.measured) == ("0.00027 ± 5.0e-05", "0.00")


def test_lines_of_a_row_are_counted_at_its_first(tmp_path):
    places = [Extra(row=name, column=column, unit="score") for name, column in ("ax", "ay", "bx", "ax")]
    assert [cell.row_span for cell in read(tmp_path, *[row(place, measured=1.0) for place in places])] == [2, 0, 1, 1]


def test_a_table_without_a_column_is_refused(tmp_path):
    pd.DataFrame({"row": ["a"], "column": ["b"]}).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(InputError, match=r"table\.csv: columns unit, kind, paper, .* missing"):
        cells.read(tmp_path / "table.csv")


@pytest.mark.parametrize("content", ["", 'a,b\n"x'])
def test_a_file_that_is_no_csv_is_refused(tmp_path, content):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(InputError, match=r"table\.csv: not a readable CSV"):
        cells.read(tmp_path / "table.csv")


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"table\.csv: not a readable CSV .*No such file"):
        cells.read(tmp_path / "table.csv")
