"""report.md and the provenance of its numbers."""

import json

import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import write_table
from pipeline.reporting import page, tables

REPORT = tables.Report(comparable="no", notes={}, datasets={"mnist": "a few digits"})
MACHINE = {"device": "cpu", "threads": 2, "precision": "bf16", "instruction_set": "avx512+amx+bf16"}


def model(folder, name: str, **machine):
    (folder / name).mkdir()
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1]}} | MACHINE | machine
    (folder / name / "run.json").write_text(json.dumps(run))
    history = {"seed": [0, 0, 1], "d_loss": [9.0, 1.0, 3.0], "g_loss": [9.0, 1.0, 2.0], "d_real": 0.5, "d_fake": 0.25}
    pd.DataFrame(history).to_parquet(folder / name / "history.parquet")
    validation = {"seed": [0, 0, 1], "epoch": [4, 8, 8], "chosen": [True, False, True]}
    pd.DataFrame(validation).to_parquet(folder / name / "validation.parquet")
    return folder / name


def test_page_shows_table_figures_and_health(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (tmp_path / "tables").mkdir()
    write_table(
        tables.dcgan_table3(results, REPORT),
        "T",
        csv=tmp_path / "tables/dcgan_table3.csv",
        md=tmp_path / "t.md",
        metrics=tmp_path / "m.json",
    )
    text = page.report_page("embedded", REPORT, tmp_path, [model(tmp_path, "dcgan_mnist")])
    assert "They reproduce nothing" in text
    assert "| AlignMNIST | test_error_10m_samples | 1.40 |" in text
    assert "figures/dcgan_fig9.png" in text
    assert "| dcgan_mnist | 0, 1 | 1,320 | 4, 8 | 2.000 | 1.500 | 0.500 | 0.250 |" in text


def test_provenance_is_what_decides_the_bytes(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b")]
    assert page.provenance(models) == MACHINE


def test_models_of_different_machines_are_refused(tmp_path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", instruction_set="avx2")]
    with pytest.raises(InputError, match="machines of different kinds"):
        page.provenance(models)
