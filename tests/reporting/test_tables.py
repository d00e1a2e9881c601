"""Table 3 from hand-made results: every printed row, the right measurement in it, nothing invented."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import ResultRow
from pipeline.reporting.tables import Report, dcgan_table3

REPORT = Report(comparable="reduced", notes={"dcgan_mnist": "a short schedule"}, datasets={"mnist": "MNIST"})
PRINTED = [  # DCGAN, Table 3
    ("AlignMNIST", "test_error_10m_samples", 1.4, "published"),
    ("InfiMNIST", "test_error_10m_samples", 2.6, "published"),
    ("Real Data", "test_error_50k_samples", 3.1, "ours"),
    ("GAN", "test_error_50k_samples", 6.28, "ours"),
    ("GAN", "test_error_10m_samples", 5.65, "ours"),
    ("DCGAN (ours)", "test_error_50k_samples", 2.98, "ours"),
    ("DCGAN (ours)", "test_error_10m_samples", 1.48, "ours"),
]


def results(rows: list[tuple], n_test: int = 10_000) -> pd.DataFrame:
    """rows of (seed, network, epoch, n_images, error_percent)."""
    frame = pd.DataFrame(rows, columns=["seed", "network", "epoch", "n_images", "error_percent"])
    return frame.assign(n_test=n_test, n_labels=50_000)


def write(folder: Path, **tables: pd.DataFrame) -> Path:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder


def model(scale: float) -> pd.DataFrame:
    sizes = {1000: 9.0, 50_000: 4.0, 1_000_000: 2.0}
    rows = [(s, "generator", 10 + s, n, scale * e + s) for s in (0, 1, 2) for n, e in sizes.items()]
    return results(rows + [(s, "generator_last", 40, 50_000, scale * 5.0 + s) for s in (0, 1, 2)])


@pytest.fixture
def table(tmp_path) -> dict[tuple[str, str], ResultRow]:
    real = results([(-1, "real", -1, 50_000, 3.2)])
    rows = dcgan_table3(write(tmp_path, real=real, gan_mnist=model(2.0), dcgan_mnist=model(1.0)), REPORT)
    return {(row.row, row.column): row for row in rows}


def test_every_printed_row_in_order(table):
    head = list(table.values())[: len(PRINTED)]
    assert [(r.row, r.column, r.paper, r.kind) for r in head] == PRINTED
    assert [r.kind for r in list(table.values())[len(PRINTED) :]] == ["extra", "extra"]


def test_a_dataset_that_the_params_do_not_describe_is_a_sentence(tmp_path):
    real = write(tmp_path, real=results([(-1, "real", -1, 50_000, 3.2)]))
    report = Report(comparable="no", notes={}, datasets={"mnist_": "MNIST"})
    with pytest.raises(InputError, match=r"report\.datasets: no 'mnist'; found mnist_; write there what it is"):
        dcgan_table3(real, report)


def test_quoted_rows_are_not_measured(table):
    for row in table.values():
        if row.kind == "published":
            assert row.measured is None
            assert "not measured" in row.note


def test_mean_and_sample_deviation_over_seeds(table):
    row = table["DCGAN (ours)", papers.AT_50K]
    assert (row.measured, row.spread) == (pytest.approx(5.0), pytest.approx(1.0))  # 4, 5, 6
    assert (row.spread_over, row.n_seeds, row.n_images) == ("seeds", 3, 50_000)
    assert "epochs 10, 11, 12" in row.note
    assert "a short schedule" in row.note


def test_fewer_images_than_the_column_says_are_told(table):
    row = table["GAN", papers.AT_10M]
    assert row.n_images == 1_000_000
    assert row.measured == pytest.approx(5.0)  # 2 * 2 + mean(0, 1, 2)
    assert "1,000,000 generated digits instead of 10,000,000" in row.note


def test_real_row_has_no_seeds_and_no_schedule(table):
    row = table["Real Data", papers.AT_50K]
    assert (row.measured, row.spread, row.n_seeds, row.note) == (3.2, None, None, "")
    assert row.comparable == "yes", "all 50,000 real digits, and nothing was trained"
    assert table["GAN", papers.AT_50K].comparable == "reduced"
    assert "a short schedule" not in table["GAN", papers.AT_50K].note


def test_last_epoch_is_an_extra_row(table):
    row = table["DCGAN (ours), last epoch", papers.AT_50K]
    assert (row.kind, row.paper, row.measured) == ("extra", None, pytest.approx(6.0))


def test_sizes_beyond_the_column_are_not_put_into_it(tmp_path):
    rows = [(0, "generator", 9, 10_000_000, 1.0), (0, "generator_last", 40, 10_000_000, 2.0)]
    table = dcgan_table3(write(tmp_path, gan_mnist=results(rows)), REPORT)
    found = {(r.row, r.column): r for r in table}
    assert found["GAN", papers.AT_10M].measured == 1.0
    assert found["GAN", papers.AT_50K].measured is None
    assert "no search of 50,000 digits or fewer" in found["GAN", papers.AT_50K].note
    assert ("GAN, last epoch", papers.AT_50K) not in found


def test_one_seed_has_no_spread(tmp_path):
    one = results([(42, "generator", 35, 50_000, 3.0), (42, "generator_last", 40, 50_000, 3.5)])
    rows = dcgan_table3(write(tmp_path, gan_mnist=one), REPORT)
    row = next(r for r in rows if (r.row, r.column) == ("GAN", papers.AT_50K))
    assert (row.spread, row.spread_over, row.n_seeds) == (None, "", 1)


def test_what_was_not_run_stays_empty_with_a_note(tmp_path):
    rows = dcgan_table3(write(tmp_path, real=results([(-1, "real", -1, 50_000, 3.2)])), REPORT)
    empty = [r for r in rows if r.kind == "ours" and r.measured is None]
    assert {r.row for r in empty} == {"GAN", "DCGAN (ours)"}
    assert all("not run" in r.note for r in empty)


def test_no_published_number_is_missing_a_source():
    assert all(p.source and p.unit == "percent_error" for p in papers.DCGAN_TABLE3)


def test_fewer_test_digits_are_told(tmp_path):
    rows = dcgan_table3(write(tmp_path, real=results([(-1, "real", -1, 3500, 6.8)], n_test=1000)), REPORT)
    note = next(r.note for r in rows if r.row == "Real Data")
    assert "3,500 real training digits instead of 50,000" in note
    assert "1,000 test digits" in note


def test_fewer_real_digits_stay_reduced(tmp_path):
    rows = dcgan_table3(write(tmp_path, real=results([(-1, "real", -1, 3500, 6.8)])), REPORT)
    assert next(r.comparable for r in rows if r.row == "Real Data") == "reduced"


@pytest.mark.parametrize(
    ("name", "row", "n_images", "n_test", "comparable"),
    [
        ("gan_mnist", (0, "generator", 9, 50_000, 3.0), 50_000, 10_000, "yes"),
        ("gan_mnist", (0, "generator", 9, 10_000, 3.0), 10_000, 10_000, "reduced"),
        ("gan_mnist", (0, "generator", 9, 50_000, 3.0), 50_000, 2_000, "reduced"),
        ("real", (-1, "real", -1, 5_000, 3.0), 5_000, 10_000, "reduced"),
        ("real", (-1, "real", -1, 50_000, 3.0), 50_000, 2_000, "reduced"),
    ],
)
def test_the_paper_profile_says_less_of_fewer_digits(tmp_path, name, row, n_images, n_test, comparable):
    paper = Report(comparable="yes", notes={}, datasets=REPORT.datasets)
    rows = dcgan_table3(write(tmp_path, **{name: results([row], n_test=n_test)}), paper)
    found = next(r for r in rows if r.measured == 3.0)
    assert (found.n_images, found.comparable) == (n_images, comparable)


def test_all_real_digits_but_fewer_test_digits_stay_reduced(tmp_path):
    rows = dcgan_table3(write(tmp_path, real=results([(-1, "real", -1, 50_000, 3.2)], n_test=2_000)), REPORT)
    assert next(r.comparable for r in rows if r.row == "Real Data") == "reduced"


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "real.parquet").write_bytes(content)
    with pytest.raises(
        InputError, match=r"real\.parquet: not a whole parquet file \(.*run the stage that writes it again"
    ):
        dcgan_table3(tmp_path, REPORT)


@pytest.mark.parametrize("profile", ["embedded", "laptop", "paper"])
def test_committed_tables_follow_the_contract(profile):
    path = Path(__file__).parents[2] / f"reports/{profile}/tables/dcgan_table3.csv"
    if profile != "embedded" and not path.exists():
        pytest.skip(f"profile {profile} has no committed Table 3")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["row"], r["column"], float(r["paper"]), r["kind"]) for r in rows[: len(PRINTED)]] == PRINTED
    comparable = {"embedded": "no", "laptop": "reduced", "paper": "yes"}[profile]
    for r in rows:
        if r["kind"] == "published":
            assert not r["measured"]
        else:
            assert r["comparable"] == ("yes" if r["row"] == "Real Data" and profile != "embedded" else comparable)
            assert r["measured"] or r["note"]
