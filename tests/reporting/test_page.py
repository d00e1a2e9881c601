"""report.md and the provenance of its numbers."""

import json
import re

import pandas as pd
import pytest

from pipeline import papers
from pipeline.core.errors import InputError
from pipeline.core.records import write_table
from pipeline.reporting import page, tables
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.rows import Report

DATASETS = {"mnist": "a few digits", "cifar10": "ten photographs", "svhn": "drawn house numbers"}
REPORT = Report(comparable="no", notes={}, datasets=DATASETS)
MACHINE = {"device": "cpu", "threads": 2, "precision": "bf16", "instruction_set": "avx512+amx+bf16"}


def model(folder, name: str, **machine):
    (folder / name).mkdir()
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1]}} | MACHINE | machine
    (folder / name / "run.json").write_text(json.dumps(run))
    history = {"seed": [0, 0, 1], "d_loss": [9.0, 1.0, 3.0], "g_loss": [9.0, 1.0, 2.0], "d_real": 0.5, "d_fake": 0.25}
    pd.DataFrame(history).to_parquet(folder / name / "history.parquet")
    validation = {"seed": [0, 0, 1], "epoch": [4, 8, 8], "chosen": [True, False, True]}
    pd.DataFrame(validation).to_parquet(folder / name / "validation.parquet")
    health = {"seed": [0, 0, 1], "epoch": [1, 2, 2], "diversity": [0.5, 0.01, 0.5], "collapsed": [False, True, False]}
    pd.DataFrame(health).to_parquet(folder / name / "health.parquet")
    return folder / name


def probe(error, n_draws):
    rows = [("test", 400, 4000, 0.01, draw, error + draw, 10_000, 28_672, 512) for draw in range(n_draws)]
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    return pd.DataFrame(rows, columns=[*columns, "n_features", "max_feature_units"])


@pytest.fixture
def reports(tmp_path):
    """Tables of a profile of which little was run."""
    results = tmp_path / "results"
    results.mkdir()
    probe(26.0, 3).to_parquet(results / "cifar10.parquet")
    for name in ("dcgan_table1", "dcgan_table2", "dcgan_table3"):
        write_table(
            tables.TABLES[name][1](results, REPORT),
            "T",
            csv=tmp_path / f"tables/{name}.csv",
            md=tmp_path / "t.md",
            metrics=tmp_path / "m.json",
        )
    return tmp_path


def test_page_shows_tables_figures_and_runs(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_mnist")])
    assert "They reproduce nothing" in text
    assert "| AlignMNIST | test_error_10m_samples | 1.40 |" in text
    for name in ("dcgan_fig9", "error_over_n", "table1_probes", "table2_probes"):
        assert f"](figures/{name}.png)" in text
    assert "| dcgan_mnist | 0, 1 | 1,320 | 4, 8 | 2.000 | 1.500 | 0.500 | 0.250 |" in text


def test_page_has_every_row_of_the_probes(reports):
    text = page.report_page("embedded", REPORT, reports, [])
    for printed in (*papers.DCGAN_TABLE1, *papers.DCGAN_TABLE2):
        assert f"| {printed.row} | {printed.column} |" in text
    assert f"| {papers.DCGAN_SVM} | accuracy_400_per_class | 73.80 ± 0.40 | 73.00 ± 1.00 | draws |" in text
    assert f"| {papers.DCGAN_SVM} | max_feature_units | 512 | 512 |  |" in text
    assert f"| {papers.KMEANS} | max_feature_units | 4,800 |  |  | not run in this profile yet |" in text


def test_page_shows_the_samples_of_the_colour_runs_that_were_trained(reports):
    released = model(reports, "dcgan_imagenet", released="a folder of arrays")
    runs = [model(reports, "dcgan_mnist"), model(reports, "dcgan_svhn"), released, reports / "dcgan_faces"]
    text = page.report_page("embedded", REPORT, reports, runs)
    assert re.findall(r"\(figures/(samples_\w+)\.png\)", text) == ["samples_dcgan_svhn"]
    assert "each picture has 256 colours" in text


def test_every_picture_of_samples_has_a_place():
    assert {f"samples_{run}" for run in page.SAMPLES} == {name for name in FIGURES if name.startswith("samples_")}


def test_page_says_that_a_run_collapsed(reports):
    text = page.report_page("embedded", REPORT, reports, [model(reports, "dcgan_lsun")])
    assert "| dcgan_lsun | - | - | 0.255 | 0.010 after epoch 2 | **collapsed after epoch 2** (seed 0) |" in text


def test_page_of_a_profile_with_little_in_it(tmp_path):
    text = page.report_page("paper", REPORT, tmp_path, [model(tmp_path, "gan_mnist"), tmp_path / "dcgan_lsun"])
    assert text.count("Not run in this profile.") == 4
    assert text.count("Not run in this profile: dcgan_lsun.") == 2
    assert "| gan_mnist | 0, 1 |" in text


@pytest.mark.parametrize(
    ("spread", "spread_over", "n_seeds", "told"),
    [(0.5, "seeds", 3, "3 seeds"), (0.5, "draws", 1, "draws"), (None, None, 1, ""), (None, None, None, "")],
)
def test_spread_says_over_what(spread, spread_over, n_seeds, told):
    assert page._over({"spread": spread, "spread_over": spread_over, "n_seeds": n_seeds}) == told


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_digits_generated_by_several_seeds_say_so(tmp_path, n_seeds):
    found = [(seed, "generator", 10, 50_000, 4.0 + seed) for seed in range(n_seeds)]
    found = pd.DataFrame(found, columns=["seed", "network", "epoch", "n_images", "error_percent"])
    found.assign(n_test=10_000, n_labels=50_000).to_parquet(tmp_path / "dcgan_mnist.parquet")
    csv = tmp_path / "table.csv"
    write_table(tables.dcgan_table3(tmp_path, REPORT), "T", csv=csv, md=tmp_path / "t.md", metrics=tmp_path / "m.json")
    lines = [line for line in page._short_table(csv) if f"| {papers.AT_50K} | 2.98 |" in line]
    assert [line.split(" | ")[3:5] for line in lines] == [["5.00 ± 1.00", "3 seeds"] if n_seeds == 3 else ["4.00", ""]]


def test_provenance_is_what_decides_the_bytes(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b"), tmp_path / "not_trained"]
    assert page.provenance(models) == MACHINE


def test_nothing_trained_has_no_provenance(tmp_path):
    assert page.provenance([tmp_path / "not_trained"]) == {}


def test_models_of_different_machines_are_refused(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", instruction_set="avx2")]
    with pytest.raises(InputError, match="machines of different kinds"):
        page.provenance(models)
