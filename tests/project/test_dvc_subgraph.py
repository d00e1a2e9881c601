"""The real graph's cheap end, run by the real DVC in a copy of the project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import made_project
import pytest


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    """A committed copy without data and cache, in a path with a blank."""
    folder = made_project.without_data(root, tmp_path_factory.mktemp("sub graph") / "project")
    for arguments in (
        ["init", "--quiet"],
        ["config", "user.name", "test"],
        ["config", "user.email", "test@example.org"],
        ["add", "."],
        ["commit", "--quiet", "-m", "copy"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True, env=environment(folder))
    return folder


def environment(folder):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_", "GIT_", "PYTHON"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }


def dvc(folder, *arguments):
    return made_project.dvc(folder, "--wait-for-lock", *arguments, env=environment(folder))


def changed_files(folder):
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    said = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True
    ).stdout
    return {line[3:] for line in said.splitlines()}


def test_repro_twice_then_an_experiment(checkout):
    first = dvc(checkout, "repro", "assemble@mnist")
    assert "Running stage 'fetch@mnist'" in first
    assert "Running stage 'assemble@mnist'" in first
    assert changed_files(checkout) <= {"dvc.lock"}  # not even that, where it was up to date
    after = (checkout / "dvc.lock").read_bytes()

    second = dvc(checkout, "repro", "assemble@mnist")
    assert "Running" not in second
    assert (checkout / "dvc.lock").read_bytes() == after

    experiment = dvc(checkout, "exp", "run", "-S", "assemble.mnist.seed=7", "assemble@mnist")
    assert "Stage 'fetch@mnist' didn't change, skipping" in experiment
    assert "Running stage 'assemble@mnist'" in experiment
    assert (checkout / "dvc.lock").read_bytes() != after
    assert "assemble.mnist.seed" in dvc(checkout, "params", "diff")
    assert {"dvc.lock", "params.yaml"} >= changed_files(checkout)


def test_data_of_two_runs_from_nothing_have_the_same_hashes(checkout, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkout, other, ignore=lambda _, names: set(names) & made_project.NOT_COPIED, symlinks=True)
    subprocess.run(["git", "init", "--quiet"], cwd=other, check=True, env=environment(other))
    shutil.copyfile(checkout / "params.yaml", other / "params.yaml")
    (other / "dvc.lock").unlink(missing_ok=True)
    dvc(other, "repro", "assemble@mnist")
    dvc(checkout, "repro", "assemble@mnist")
    assert entries(other) == entries(checkout)


def entries(folder):
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
    return {name: stages[name] for name in ("fetch@mnist", "assemble@mnist")}
