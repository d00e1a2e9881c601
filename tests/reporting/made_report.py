"""The page of a profile from what Git tracks, with made-up records of its training runs: needs no data."""

import json
from pathlib import Path

import pandas as pd

from pipeline.core import params
from pipeline.reporting import page, provenance, tables
from pipeline.reporting.web import html_page, pictures

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef" * 4
CLAIMS = """claim,paper,section,sentence,ablation,targets,metric,unit,base,base_spread,ablated,ablated_spread,effect,\
effect_spread,n_seeds,rule,verdict,note
beta1,dcgan,4,a momentum of 0.9 oscillates,train.beta1=0.9,train@x,d_loss,,0.125,0.01,0.375,0.05,0.25,0.051,3,\
more than two standard errors,supported,
vbn,improved,3.4,virtual batch norm helps,,,,,,,,,,,,needs ImageNet,not tested,no data | none
"""


def write_run(records, name, *, recorded=True, **settings):
    """A run's folder, as its training leaves it, and its line in what stage provenance leaves beside it."""
    folder = records / name
    folder.mkdir(parents=True)
    run = {"run": name, "steps": 1320, "params": {"seeds": [0, 1], "dataset": "mnist"} | settings, "device": "cpu"}
    run |= {"threads": 2, "precision": "bf16", "instruction_set": "avx512"}
    (folder / "run.json").write_text(json.dumps(run))
    history = {"seed": [0, 1], "d_loss": [1.0, 3.0], "g_loss": [1.0, 2.0], "d_real": 0.5, "d_fake": 0.25}
    pd.DataFrame(history).to_parquet(folder / "history.parquet")
    health = {"seed": [0, 1], "epoch": [2, 2], "diversity": [0.01, 0.5], "collapsed": [True, False]}
    pd.DataFrame(health).to_parquet(folder / "health.parquet")
    if recorded:
        hashes = provenance.read_hashes(records) | {folder.name: dict.fromkeys(("code", "data", "networks"), HASH)}
        (records / provenance.PROVENANCE_FILE).write_text(json.dumps(hashes))
    return folder


def recorded_runs(records, depth=1):
    """What a page says of all runs that :func:`write_run` has written there."""
    return provenance.read_runs(records, provenance.read_hashes(records), depth)


def committed(root, profile, folder):
    """The text of a profile's page, from the committed reports; its pictures as they are, which is faster."""
    params_file = root / ("params.yaml" if profile == "embedded" else f"profiles/{profile}/params.yaml")
    report = params.load(params_file, tables.Report, own="report")
    runs = [write_run(folder / profile, name) for name in ("dcgan_mnist", "gan_mnist")]
    reports = root / "reports" / profile
    return html_page.html_page(
        profile,
        report,
        report_parts=page.report_parts(profile, report, reports, runs, reports / "metrics"),
        datasets_parts=page.datasets_parts(profile, report, reports),
        tables=reports / "tables",
        shown=pictures.read(pictures.in_folders(reports / "figures", reports / "sheets"), budget=60_000_000),
        runs=recorded_runs(folder / profile),
    )
