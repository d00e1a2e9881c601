"""Arms as real DVC experiments, in a small project of its own: what runs, what is carried along, what runs again."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from made_project import dvc, environment, is_dead, wait_for, write

from pipeline.claims import experiments, runner, table
from pipeline.claims.book import load
from pipeline.core.errors import InputError
from pipeline.project import dvc_child

DVC_YAML = """\
stages:
  prepare:
    cmd: python -m stages.prepare data/embedded/sets/x
    outs:
      - data/embedded/sets/x
  train:
    foreach: ${train.runs}
    do:
      cmd: exec python -m stages.train ${key} data/embedded/models/${key}
      deps:
        - stages/train.py
        - pipeline/offset.py
        - data/embedded/sets/x
      params:
        - train.rate
        - train.runs.${key}
      outs:
        - data/embedded/models/${key}
"""
PARAMS = "train:\n  rate: 0.5\n  runs:\n    a:\n      seeds: [0, 1, 2]\n"
PREPARE = "import sys, pathlib\np = pathlib.Path(sys.argv[1])\np.parent.mkdir(parents=True)\np.write_text('x')\n"
TRAIN = """\
import os, pathlib, sys, time
import pandas as pd
from ruamel.yaml import YAML
from pipeline.offset import OFFSET  # only this project's own copy has it
train = YAML(typ="safe").load(pathlib.Path("params.yaml").read_text())["train"]
if train["rate"] > 1:
    sys.exit("error: a loss is NaN")
if train["rate"] == 0.95:  # until it is stopped
    pathlib.Path(os.environ["DVC_ROOT"], ".work/pid").write_text(str(os.getpid()))
    time.sleep(600)
seeds = train["runs"][sys.argv[1]]["seeds"]
out = pathlib.Path(sys.argv[2])
out.mkdir(parents=True)
rows = [{"seed": s, "epoch": 1, "diversity": 1.0 - train["rate"] + OFFSET + s / 100} for s in seeds]
pd.DataFrame(rows).to_parquet(out / "health.parquet")
"""
# DVC, found before the installed one by `python -m dvc`, that takes its time to prepare an experiment.
SLOW_DVC = """\
import os, pathlib, sys, time
sys.path.pop(0)
from dvc.cli import main
from dvc.repo.experiments.queue.base import BaseStashQueue
def wait(*_, **__):
    pathlib.Path(".work/pid").write_text(str(os.getpid()))
    time.sleep(600)
BaseStashQueue._stash_commit_deps = wait
sys.exit(main(sys.argv[1:]))
"""


def claim(base, ablated):
    return f"""\
      paper: dcgan
      section: '4'
      sentence: A high rate is worse.
      metric: final_diversity
      of: {{run: a}}
      unit: share
      base: {{arm: {base}, of: {{}}}}
      ablated: {{arm: {ablated}, of: {{}}}}
      claimed: lower
      rule: seeds
      least: 0.1
      note: ''
"""


BOOK = f"""\
ablations:
  rules:
    seeds: {{name: mean, confidence: 0.95, least_pairs: 3}}
  arms:
    strong: {{like: null, overrides: ['train.rate=0.9'], targets: [train@a]}}
    broken: {{like: null, overrides: ['train.rate=2'], targets: [train@a]}}
  claims:
    rate:
{claim("committed", "strong")}    breaks:
{claim("committed", "broken")}  not_tested: {{}}
"""


def command(folder, *arguments):
    done = subprocess.run(arguments, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A committed project whose graph has run once; the environment leads to no other checkout."""
    folder = tmp_path_factory.mktemp("ablations") / "project"
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": PARAMS,
        "ablations.yaml": BOOK,
        "stages/prepare.py": PREPARE,
        "stages/train.py": TRAIN,
        "pipeline/offset.py": "OFFSET = 0.0\n",
        ".gitignore": "/data/\n/.work/\n__pycache__/\n",
    }
    write(folder, files)
    with environment(folder, without=("DVC_", "GAN_", "GIT_", "PYTHON")) as patch:
        patch.chdir(folder)
        command(folder, "git", "init", "--quiet", "-b", "main")
        command(folder, "git", "config", "user.name", "test")
        command(folder, "git", "config", "user.email", "test@example.org")
        dvc(folder, "init", "--quiet")
        dvc(folder, "config", "core.analytics", "false")
        dvc(folder, "repro", "--quiet")
        command(folder, "git", "add", ".")
        command(folder, "git", "commit", "--quiet", "-m", "project")
        yield folder


def verdicts(folder):
    found = table.read(folder / "reports/embedded/tables/claims.csv")
    return dict(zip(found["claim"], zip(found["verdict"], found["note"], strict=True), strict=True))


def test_arms_run_once_a_failed_one_is_named_and_edited_code_is_carried_along(project, capsys):
    (project / "pipeline/offset.py").write_text("OFFSET = 0.25\n")  # edited, not committed: run with it, and say so
    with pytest.raises(InputError, match="1 of 2 arms failed") as error:
        runner.run([], 1, listing=False)
    assert "arm broken: a loss is NaN" in str(error.value)
    said = capsys.readouterr().out
    assert "edited and not committed, the experiments carry it along: pipeline/offset.py" in said
    assert "0 of 2 arms are there, 2 to run" in said
    found = verdicts(project)
    assert found["breaks"] == ("not tested", "failed: broken")
    assert found["rate"][0] == "not tested", "the edit would be taken for an effect of the ablation"
    assert (
        "models/a/health.parquet is of other code, params or data than there are now; run `make repro`"
        in found["rate"][1]
    )
    assert "rate: 0.5" in (project / "params.yaml").read_text(), "the workspace is left as it is"
    assert [name.split("-")[1] for name in experiments.done(project)] == ["strong"]

    dvc(project, "repro", "--quiet")
    with pytest.raises(InputError, match="1 of 2 arms failed"):
        runner.run([], 1, listing=False)
    assert verdicts(project)["rate"] == ("supported", "")
    row = table.read(project / "reports/embedded/tables/claims.csv").iloc[0]
    # 1 - 0.9 + 0.25 against 1 - 0.5 + 0.25, both by the edited code
    assert (row["base"], row["ablated"], row["n_seeds"]) == (pytest.approx(0.76), pytest.approx(0.36), 3)
    assert row["effect"] == pytest.approx(-0.4)
    said = capsys.readouterr().out
    assert "arm broken: was failed, runs again" in said
    assert "1 of 2 arms are there, 1 to run" in said
    assert "strong: done" not in said

    before = table.read(project / "reports/embedded/tables/claims.csv")
    runner.run(["rate"], 1, listing=False)
    assert "1 of 1 arms are there, 0 to run" in capsys.readouterr().out
    assert table.read(project / "reports/embedded/tables/claims.csv").equals(before)
    assert (project / "reports/paper/tables/claims.csv").read_text().startswith("claim,paper")


def test_arms_at_once(project, capsys):
    """They share Git, the cache and the copy of the working tree that DVC makes."""
    text = BOOK
    for rate in (6, 7, 8):
        text = text.replace(
            "    broken:",
            f"    rate{rate}: {{like: null, overrides: ['train.rate=0.{rate}'], targets: [train@a]}}\n    broken:",
        ).replace("  not_tested:", f"    claim{rate}:\n{claim('committed', f'rate{rate}')}  not_tested:")
    (project / "ablations.yaml").write_text(text)
    runner.run(["claim6", "claim7", "claim8"], 3, listing=False)
    (project / "ablations.yaml").write_text(BOOK)
    assert "0 of 3 arms are there, 3 to run" in capsys.readouterr().out
    found = table.read(project / "reports/embedded/tables/claims.csv").set_index("claim")
    for rate in (6, 7, 8):
        assert found["ablated"][f"claim{rate}"] == pytest.approx(1 - rate / 10 + 0.25 + 0.01), "each its own overrides"


def test_a_name_stands_for_code_params_overrides_and_nothing_else(project):
    book = load(project / "ablations.yaml")

    def names():
        return experiments.names(project, book.experiments.values())

    first = names()
    assert len(set(first.values())) == 2
    (project / "notes.md").write_text("nothing to do with it")
    assert names() == first
    for name, text in (("pipeline/offset.py", "OFFSET = 1.0\n"), ("params.yaml", PARAMS.replace("[0,", "[4,"))):
        before = (project / name).read_text()
        (project / name).write_text(text)
        changed = names()
        assert all(changed[arm] != first[arm] for arm in first), name
        (project / name).write_text(before)
    assert names() == first


def test_what_an_arm_does_not_make_is_known(project):
    """Its dvc.lock has those outputs from the committed run: a metric on them would find no effect of the ablation."""
    book = load(project / "ablations.yaml")
    before = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(PARAMS + "    b:\n      seeds: [0]\n")
    try:
        found = experiments.not_made(project, book.experiments.values())
    finally:
        (project / "params.yaml").write_text(before)
    assert found == dict.fromkeys(("strong", "broken"), frozenset({"data/embedded/models/b"}))


def test_a_dvc_that_outlived_its_runner_is_not_run_twice(project):
    book = load(project / "ablations.yaml")
    log = project / experiments.LOGS / "ablation-strong-0.log"
    with log.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="still running this arm"):
            experiments.Runs(project).run(book.experiments["strong"], "ablation-strong-0")


def test_what_an_experiment_cannot_work_with(project, monkeypatch):
    (project / "pipeline/new.py").write_text("")
    with pytest.raises(InputError, match=r"pipeline/new\.py: not known to Git"):
        experiments.check_tree(project)
    (project / "pipeline/new.py").unlink()

    command(project, "git", "checkout", "--quiet", "--detach")
    assert "no branch is checked out" in experiments.check_tree(project)[-1]
    command(project, "git", "checkout", "--quiet", "main")

    command(project, "git", "config", "user.useConfigOnly", "true")
    command(project, "git", "config", "--unset", "user.email")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(InputError, match="Git does not know who you are"):
        experiments.check_tree(project)
    command(project, "git", "config", "user.email", "test@example.org")
    with pytest.raises(InputError, match="experiments need a Git checkout with a commit"):
        experiments.check_tree(project.parent)


def test_bytes_that_are_not_in_the_cache(project):
    """Else the first arm would make all data anew, and every arm again."""
    book = load(project / "ablations.yaml")
    names = experiments.names(project, book.experiments.values())
    before = (project / "reports/embedded/tables/claims.csv").read_bytes()
    cached = Path(dvc(project, "cache", "dir").strip()) / "files"
    cached.rename(cached.with_name("away"))
    try:
        with pytest.raises(InputError, match="data/embedded/sets/x is not in DVC's cache; run `make repro` first"):
            runner.run(["rate"], 1, listing=False)
        assert experiments.names(project, book.experiments.values()) == names, "they do not depend on the data"
        assert (project / "reports/embedded/tables/claims.csv").read_bytes() == before
    finally:
        cached.with_name("away").rename(cached)


def test_a_target_that_is_no_stage(project):
    book = load(project / "ablations.yaml")
    gone = book.experiments["strong"].__class__(arm="x", overrides=("train.rate=1",), targets=("train@gone",))
    with pytest.raises(InputError, match="arm x: 'train@gone' is no stage"):
        experiments.names(project, [gone])


def test_the_list_needs_no_data(project, tmp_path, monkeypatch, capsys):
    """As in a fresh clone, which has neither cache nor experiments."""
    clone = tmp_path / "clone"
    command(project, "git", "clone", "--quiet", str(project), str(clone))
    table_of_claims = clone / "reports/embedded/tables/claims.csv"
    table_of_claims.parent.mkdir(parents=True)
    table_of_claims.write_bytes((project / "reports/embedded/tables/claims.csv").read_bytes())
    monkeypatch.chdir(clone)
    runner.run(["rate"], 1, listing=True)
    assert capsys.readouterr().out.splitlines() == [
        f"rate: A high rate is worse. [{verdicts(project)['rate'][0]}]",
        "    committed (dvc.lock), strong (missing)",
        "arm strong (missing): train@a",
        "    -S train.rate=0.9",
    ]
    table_of_claims.unlink()
    runner.run([], 1, listing=True)
    assert "breaks: A high rate is worse. [not in claims.csv]" in capsys.readouterr().out


# ---- stopped while arms run ----


@pytest.mark.parametrize("folder", ["tmp", "tmp/exps"])
def test_files_that_a_killed_dvc_held_are_let_go(project, folder):
    """Its process has ended but is nobody's to bury, as in a container: DVC alone would take it for alive."""
    path = project / ".dvc" / folder / "rwlock"
    path.parent.mkdir(exist_ok=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    try:
        wait_for(lambda: is_dead(psutil.Process(ended.pid)))
        alive = {"pid": os.getpid(), "cmd": " ".join(psutil.Process().cmdline())}
        held = {"refs/exps/stash": {"pid": ended.pid, "cmd": f"{sys.executable} -c "}, "params.yaml": alive}
        path.write_text(json.dumps({"read": {}, "write": held}))
        dvc_child.forget_all_dead(project)
        assert json.loads(path.read_text()) == {"read": {}, "write": {"params.yaml": alive}}
    finally:
        ended.wait()
        path.unlink()


@pytest.fixture
def edited(project):
    """Arm `slow`, whose stage waits until it is stopped; and an edit that DVC has to put away and bring back."""
    arm = "    slow: {like: null, overrides: ['train.rate=0.95'], targets: [train@a]}\n"
    text = BOOK.replace("    broken:", f"{arm}    broken:")
    text = text.replace("  not_tested:", f"    slows:\n{claim('committed', 'slow')}  not_tested:")
    (project / "ablations.yaml").write_text(text)
    (project / "pipeline/offset.py").write_text("OFFSET = 0.125  # edited\n")
    yield project
    (project / "dvc.py").unlink(missing_ok=True)
    (project / "ablations.yaml").write_text(BOOK)


def started(project, root):
    """`gan-tables ablations --only slows`, whose DVC, or the stage of it, waits; its processes."""
    (project / ".work/pid").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.project.cli", "ablations", "--only", "slows"],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    pid = project / ".work/pid"
    wait_for(lambda: pid.is_file() and pid.read_text(), process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert int(pid.read_text()) in [member.pid for member in family]
    return process, family


def state_of(project):
    """What a user would miss: branch, index, working tree, stashes."""
    status = command(project, "git", "status", "--porcelain", "--branch")
    return status, command(project, "git", "diff", "HEAD"), command(project, "git", "stash", "list")


@pytest.mark.parametrize("preparing", [True, False])
def test_sigterm_stops_dvc_and_leaves_the_workspace_as_it_was(edited, root, preparing):
    if preparing:
        (edited / "dvc.py").write_text(SLOW_DVC)
    before = state_of(edited)
    process, family = started(edited, root)
    assert (state_of(edited) == before) is not preparing  # params.yaml has the override
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    wait_for(lambda: all(is_dead(member) for member in family))
    assert state_of(edited) == before
    assert list((edited / ".dvc/tmp/exps").glob("standalone/tmp*")) == []
    book = load(edited / "ablations.yaml")
    assert runner.states(edited, experiments.names(edited, book.experiments.values()))["slow"] == "killed"


@pytest.mark.parametrize("with_edits", [True, False])
def test_what_a_killed_dvc_leaves_is_refused_and_the_way_back_is_said(edited, root, with_edits):
    if not with_edits:
        command(edited, "git", "add", ".")
        command(edited, "git", "commit", "--quiet", "-m", "all")
    (edited / "dvc.py").write_text(SLOW_DVC)
    before = state_of(edited)
    process, family = started(edited, root)
    for member in [psutil.Process(process.pid), *family]:
        member.kill()
    process.communicate()
    (edited / "dvc.py").unlink()
    left = state_of(edited)
    assert "rate: 0.95" in left[1]
    with pytest.raises(InputError, match=r"params\.yaml: edited and staged while no branch is checked out") as error:
        runner.run(["rate"], 1, listing=False)
    assert state_of(edited) == left
    back = re.search("run `(.*?)`", str(error.value))
    command(edited, "sh", "-c", back[1])
    (edited / "dvc.py").write_text(SLOW_DVC)  # as it was before
    assert state_of(edited) == before
