"""The twin profiles' dvc.yaml are generated from the root's, and DVC reads them in their own folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.project import lock, twins

TOY = """\
stages:
  one:
    foreach: ${runs}
    do:
      cmd: exec python -m stages.one params.yaml ${key} my_params.yaml data/${profile}/one
      deps:
        - stages/one.py
      params:
        - runs.${key}
      outs:
        - data/${profile}/one
  sheet:
    cmd: exec python -m stages.sheet params.yaml reports/${profile}/sheets/a.png reports/${profile}/tables/a.csv
    outs:
      - reports/${profile}/sheets/a.png:
          cache: false
      - reports/${profile}/tables/a.csv:
          cache: false
  two:
    cmd: exec python -m stages.two params.yaml
    deps:
      - stages/two.py
metrics:
  - reports/${profile}/metrics/one.json
plots:
  - reports/${profile}/figures
  - losses:
      x: step
      title: d_loss and g_loss
      y:
        reports/${profile}/curves/one.csv:
          - d_loss
artifacts:
  generator:
    path: data/${profile}/models/one
    desc: the generator
"""


def load(text):
    return YAML(typ="safe").load(text)


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "dvc.yaml").write_text(TOY)
    return load(twins.twin(tmp_path, "paper"))


@pytest.mark.parametrize("profile", twins.TWINS)
def test_committed_twins_are_in_step(root, profile):
    committed = (root / "profiles" / profile / "dvc.yaml").read_text(encoding="utf-8")
    assert committed == twins.twin(root, profile), "run `make profiles`"


def test_stages_run_in_the_root_with_the_twins_params(toy):
    body = toy["stages"]["one"]["do"]
    assert body["wdir"] == toy["stages"]["two"]["wdir"] == "../.."
    assert body["cmd"] == (
        "exec python -m stages.one profiles/paper/params.yaml ${key} my_params.yaml data/${profile}/one"
    )
    assert body["params"] == [{"profiles/paper/params.yaml": ["runs.${key}"]}]
    assert body["deps"] == ["stages/one.py"]
    assert "params" not in toy["stages"]["two"]


def test_sheets_are_in_the_cache_of_a_twin_and_not_in_git(toy):
    body = toy["stages"]["sheet"]
    assert body["outs"] == ["data/${profile}/sheets/a.png", {"reports/${profile}/tables/a.csv": {"cache": False}}]
    assert body["cmd"].split()[-2:] == ["data/${profile}/sheets/a.png", "reports/${profile}/tables/a.csv"]


def test_paths_outside_stages_move_up(toy):
    assert toy["metrics"] == ["../../reports/${profile}/metrics/one.json"]
    figures, losses = toy["plots"]
    assert figures == "../../reports/${profile}/figures"
    assert losses["losses"] == {
        "x": "step",
        "title": "d_loss and g_loss",
        "y": {"../../reports/${profile}/curves/one.csv": ["d_loss"]},
    }
    assert toy["artifacts"]["generator"] == {"path": "../../data/${profile}/models/one", "desc": "the generator"}


@pytest.mark.parametrize("profile", twins.TWINS)
def test_dvc_reads_a_twin_in_its_own_folder(root, profile):
    folder = root / "profiles" / profile
    listing = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert listing == lock.stage_names(root, Path("profiles") / profile / "dvc.yaml")
    assert listing


def test_the_profiles_have_the_same_stages(root):
    embedded, *others = (lock.stage_names(root, dvc_yaml) for dvc_yaml in lock.PROFILES.values())
    assert others == [embedded] * len(others)


@pytest.mark.parametrize("profile", twins.TWINS)
def test_plots_of_a_twin_are_found_where_stages_write_them(root, profile):
    """Every file that a top-level plot names is an output of a stage of the same profile."""
    from dvc.repo import Repo

    folder = root / "profiles" / profile
    with Repo(str(root)) as repo:
        outs = {Path(out.fs_path) for stage in repo.index.stages for out in stage.outs}
        params = load((folder / "params.yaml").read_text(encoding="utf-8"))
    graph = load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    for plot in graph.get("plots", []):
        for definition in plot.values():
            for path in definition["y"]:
                assert (folder / path.replace("${profile}", params["profile"])).resolve() in outs


@pytest.mark.parametrize("folder", [".", "profiles/laptop", "profiles/paper"])
def test_dvc_draws_the_plots_from_every_folder(root, folder, tmp_path):
    """The losses and the curve of the embedded profile are drawn wherever `dvc plots show` is called."""
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--json", "--out", str(tmp_path)],
        cwd=root / folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    drawn = json.loads(shown)["data"]
    for name in ("error_over_n", "training_dcgan_mnist", "training_gan_mnist"):
        plots = [plot for key, found in drawn.items() if key.endswith(f"dvc.yaml::{name}") for plot in found]
        assert plots, f"{name} is drawn for no profile"
        for plot in plots:
            assert plot["type"] == "vega"
            fields = {field for row in plot["content"]["data"]["values"] for field in row}
            assert fields & {"d_loss", "g_loss", "gan", "dcgan"}
