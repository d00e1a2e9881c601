"""Result rows and their three forms."""

import json

import pandas as pd
import pytest

from pipeline.core import records
from pipeline.core.records import COLUMNS, ResultRow


def row(**changed) -> ResultRow:
    values = {
        "row": "DCGAN (ours)",
        "column": "test_error_50k_samples",
        "unit": "percent_error",
        "kind": "ours",
        "paper": 2.98,
        "paper_spread": None,
        "measured": 3.0 + 1 / 3,
        "spread": 0.25,
        "spread_over": "seeds",
        "n_seeds": 3,
        "n_images": 50_000,
        "n_labels": 3_500,
        "dataset": "MNIST, some",
        "source": "DCGAN, Table 3",
        "comparable": "no",
        "note": "small | nets",
    }
    return ResultRow(**(values | changed))


def test_columns_are_those_of_the_contract():
    assert COLUMNS == (
        "row", "column", "unit", "kind", "paper", "paper_spread", "measured", "spread", "spread_over", "n_seeds",
        "n_images", "n_labels", "dataset", "source", "comparable", "note",
    )  # fmt: skip


def test_an_empty_measurement_needs_a_note():
    with pytest.raises(ValueError, match="nothing was measured and no note says why"):
        row(measured=None, note="")
    assert row(measured=None, note="not run").measured is None


def test_a_published_row_needs_its_number():
    with pytest.raises(ValueError, match="without the published number"):
        row(kind="published", paper=None)


def test_csv_keeps_numbers_and_absences(tmp_path):
    rows = [row(), row(row="GAN", measured=None, spread=None, n_seeds=None)]
    records.write_csv(tmp_path / "t.csv", records.to_frame(rows))
    table = pd.read_csv(tmp_path / "t.csv")
    assert tuple(table.columns) == COLUMNS
    assert table["measured"][0] == 3.33333
    assert pd.isna(table["measured"][1])
    assert pd.isna(table["n_seeds"][1])
    text = (tmp_path / "t.csv").read_bytes()
    assert b"\r" not in text
    assert b",3,50000,3500," in text, "counts are whole numbers"


def test_metrics_are_nested_slugs_without_the_unmeasured(tmp_path):
    rows = [row(), row(column="b.c"), row(row="GAN", measured=None)]
    records.write_metrics(tmp_path / "m.json", records.metrics_of(rows))
    found = json.loads((tmp_path / "m.json").read_text())
    assert found == {"dcgan_ours": {"test_error_50k_samples": 3.33333, "b_c": 3.33333}}


def test_markdown_shows_paper_measured_and_difference():
    lines = records.markdown([row(), row(paper=None, measured=1.0, spread=None)], "Title").splitlines()
    assert lines[0] == "# Title"
    cells = [cell.strip() for cell in lines[4].split("|")]
    assert cells[4:7] == ["2.98", "3.33 ± 0.25", "+0.35"]
    assert "small / nets" in lines[4], "a bar in a note would open a new cell"
    assert [cell.strip() for cell in lines[5].split("|")][4:7] == ["", "1.00", ""]


@pytest.mark.parametrize(("text", "slug"), [("DCGAN (ours)", "dcgan_ours"), ("Real Data", "real_data"), ("a.b", "a_b")])
def test_slug(text, slug):
    assert records.slug(text) == slug


def test_counts_have_no_decimals_and_shares_have_two():
    def line(unit, **kwargs):
        return records.markdown([row(unit=unit, paper=3_000_000.0, measured=6900.0, spread=None, **kwargs)], "T")

    assert "| 3,000,000 | 6,900 | -2,993,100 |" in line("images")
    assert "| 3,000,000 | 6,900.00 | -2,993,100.00 |" in line("percent")


@pytest.mark.parametrize(
    ("value", "unit", "spread", "told"),
    [
        (1424.0, "errors_of_10000", None, "1,424"),
        (1424.0, "errors_of_10000", 45.0, "1,424 ± 45"),
        (93.0, "errors_of_10000", 6.5, "93.0 ± 6.5"),
        (120.8, "errors_of_10000", None, "120.8"),
        (157.00000000000003, "errors_of_10000", None, "157"),
        (3.0, "votes", None, "3"),
        (3.0, "percent", None, "3.00"),
        (0.0, "share", 0.0, "0.00 ± 0.00"),
        (0.000266667, "share", 0.00015, "0.00027 ± 0.00015"),
        (0.25, "share", 0.0098, "0.25 ± 0.0098"),
        (0.0099996, "share", None, "0.010"),
        (-0.004, "ratio", None, "-0.0040"),
        (0.01, "ratio", None, "0.01"),
        (2.7e-7, "ratio", None, "2.7e-07"),
        (0.25, "ratio", 5.6e-17, "0.25 ± 0.00"),
        (None, "share", 1.0, ""),
        (float("nan"), "images", float("nan"), ""),
    ],
)
def test_counts_are_whole_their_means_have_a_decimal_and_small_numbers_two_digits(value, unit, spread, told):
    assert records.number(value, unit, spread=spread) == told


def test_more_digits_where_they_are_asked_for():
    assert records.number(0.12344, "share", digits=4) == "0.1234"
    assert records.number(0.12344, "count", digits=4) == "0.1"
    assert records.number(0.0012, "", digits=3) == "0.0012"


@pytest.mark.parametrize(("value", "spread", "told"), [(80.60, 0.7, "80.6 ± 0.7"), (28_672.0, None, "28,672")])
def test_a_published_number_is_as_printed(value, spread, told):
    assert records.printed(value, spread) == told
    assert records.printed(None, None) == ""
