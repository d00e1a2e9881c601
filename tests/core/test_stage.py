"""How a stage script runs: one sentence on bad input, no twin, no orphan, a record of every run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import stage

TOY = """
import os
import sys
import time
from pathlib import Path

from pipeline.core import stage
from pipeline.core.errors import InputError


def main(what: str, out: Path) -> None:
    if what == "bad":
        raise InputError("params.yaml, train: unknown key 'beta'")
    if what == "broken":
        raise ZeroDivisionError("a defect of ours")
    out.write_text(str(os.getpid()))
    if what == "count":
        stage.counted(images=7)
    if what == "wait":
        sys.stdin.read()
    if what == "sleep":
        time.sleep(120)


stage.run(main)
"""


@pytest.fixture(autouse=True)
def toy(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)


@pytest.fixture
def start(tmp_path, project_env):
    """Run the toy stage."""

    def run(*arguments, module=None, **env):
        script = ["-m", module] if module else ["toy.py"]
        command = [sys.executable, *script, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=project_env | env, capture_output=True, text=True, check=False)

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / ".work/runs.jsonl").read_text().splitlines()]


def wait_until(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"gave up waiting until {what}")


def test_success_is_recorded(tmp_path, start):
    result = start("go", "out.txt")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out.txt").is_file()
    (row,) = rows(tmp_path)
    assert (row["stage"], row["status"]) == ("toy go out.txt", "done")
    assert row["started"] == pytest.approx(time.time(), abs=300)
    assert 0 <= row["seconds"] < 300


def test_what_the_stage_worked_through_is_recorded(tmp_path, start):
    start("count", "out.txt")
    start("go", "out.txt")
    counted, plain = rows(tmp_path)
    assert counted["images"] == 7
    assert "images" not in plain


def test_dvc_names_the_stage(tmp_path, start):
    start("go", "out.txt", DVC_STAGE="profiles/paper/dvc.yaml:train@toy")
    assert rows(tmp_path)[0]["stage"] == "profiles/paper/dvc.yaml:train@toy"


@pytest.mark.parametrize("seen_from_there", ["train@toy", "dvc.yaml:train@toy", "../laptop/dvc.yaml:train@toy"])
def test_a_stage_that_dvc_started_in_its_profiles_folder_is_that_profiles(tmp_path, start, seen_from_there):
    start("profiles/laptop/params.yaml", "out.txt", DVC_STAGE=seen_from_there)
    assert rows(tmp_path)[0]["stage"] == "profiles/laptop/dvc.yaml:train@toy"


@pytest.mark.parametrize("seen_from_there", ["train@toy", "../dvc.yaml:train@toy"])
def test_a_stage_of_the_root_is_that_from_everywhere(tmp_path, start, seen_from_there):
    start("params.yaml", "out.txt", DVC_STAGE=seen_from_there)
    assert rows(tmp_path)[0]["stage"] == "train@toy"


@pytest.mark.parametrize(
    ("params_file", "more"),
    [
        (
            "profiles/paper/params.yaml",
            "stages of this profile are named so: dvc repro profiles/paper/dvc.yaml:STAGE\n",
        ),
        ("params.yaml", ""),
    ],
)
def test_the_way_out_is_told_for_the_profile_of_the_stage(tmp_path, project_env, params_file, more):
    told = TOY.replace("params.yaml, train: unknown key 'beta'", "data/x: missing; run dvc repro fetch@x")
    (tmp_path / "told.py").write_text(told.replace('if what == "bad"', "if True"))
    command = [sys.executable, "told.py", params_file, "out.txt"]
    result = subprocess.run(command, cwd=tmp_path, env=project_env, capture_output=True, text=True, check=False)
    assert result.stderr == f"error: data/x: missing; run dvc repro fetch@x\n{more}"


def test_bad_input_is_one_sentence(tmp_path, start):
    result = start("bad", "out.txt")
    assert result.returncode == 1
    assert result.stderr == "error: params.yaml, train: unknown key 'beta'\n"
    assert result.stdout == ""
    assert [row["status"] for row in rows(tmp_path)] == ["failed"]


def test_a_defect_keeps_its_traceback(tmp_path, start):
    result = start("broken", "out.txt")
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" in result.stderr
    assert [row["status"] for row in rows(tmp_path)] == ["failed"]


def test_missing_and_surplus_arguments(start):
    for arguments, word in (([], "WHAT"), (["go"], "OUT"), (["go", "a", "extra"], "EXTRA")):
        result = start(*arguments)
        assert result.returncode == 2
        assert word in result.stderr.upper()
        assert "Usage" in result.stderr
        assert "Traceback" not in result.stderr


def test_long_arguments(tmp_path, start):
    deep = Path("a" * 120) / ("b" * 120)
    (tmp_path / deep).mkdir(parents=True)
    result = start("go", str(deep / "out.txt"))
    assert (result.returncode, result.stderr) == (0, "")


def test_records_are_appended(tmp_path, start):
    for what in ("go", "bad", "go"):
        start(what, "out.txt")
    assert [row["status"] for row in rows(tmp_path)] == ["done", "failed", "done"]


def test_a_twin_is_refused(tmp_path, start, project_env):
    with subprocess.Popen(
        [sys.executable, "toy.py", "wait", "out.txt"], cwd=tmp_path, env=project_env, stdin=subprocess.PIPE
    ) as first:
        wait_until((tmp_path / "out.txt").is_file, "the first run holds the lock")
        twin = start("wait", "out.txt")
        other = start("go", "other.txt")
        first.communicate()
    assert twin.returncode == 1
    assert twin.stderr.startswith("error: ")
    assert f"stage toy wait out.txt is already running (process {first.pid}); wait for it or stop it" in twin.stderr
    assert len(twin.stderr.splitlines()) == 1
    assert (other.returncode, first.returncode) == (0, 0)
    assert sorted(row["status"] for row in rows(tmp_path)) == ["done", "done", "failed"]


# several processes of a launcher


def test_a_stage_that_cannot_share_its_work_runs_in_the_first_process_only(tmp_path, start):
    second = start("go", "out.txt", RANK="1", WORLD_SIZE="2")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.py"], "no output, no lock, no record"
    first = start("go", "out.txt", RANK="0", WORLD_SIZE="2")
    assert (first.returncode, (tmp_path / "out.txt").is_file(), len(rows(tmp_path))) == (0, True, 1)


def test_a_stage_that_shares_its_work_runs_in_all_and_the_first_one_records(tmp_path, start):
    (tmp_path / "toy.py").write_text(TOY.replace("stage.run(main)", "stage.run(main, several_processes=True)"))
    second = start("count", "second.txt", RANK="1", WORLD_SIZE="2")
    assert (second.returncode, second.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second.txt", "toy.py"], "no lock, no record"
    assert start("count", "first.txt", RANK="0", WORLD_SIZE="2").returncode == 0
    assert [(row["stage"], row["images"]) for row in rows(tmp_path)] == [("toy count first.txt", 7)]
    bad = start("bad", "second.txt", RANK="1", WORLD_SIZE="2")
    assert (bad.returncode, bad.stderr) == (1, "error: params.yaml, train: unknown key 'beta'\n")
    assert len(rows(tmp_path)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="sessions as Linux has them")
@pytest.mark.parametrize(("launcher", "status"), [("torchrun --nproc-per-node 2 --no-python", 0), ("", 1)])
def test_a_launcher_may_be_of_another_session_than_the_stage(tmp_path, project_env, launcher, status):
    """As dvc may not: then it would be the process that adopted an orphan."""
    env = project_env | {"DVC_STAGE": "train@toy", "GAN_LAUNCH": launcher}
    command = [sys.executable, "toy.py", "go", "out.txt"]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert (done.returncode, (tmp_path / "out.txt").exists()) == (status, status == 0)


PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "toy.py", "sleep", "out.txt"], check=False)
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")  # dead, waiting to be reaped


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux only")
def test_dies_with_its_parent(tmp_path, project_env):
    out = tmp_path / "out.txt"
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=project_env) as parent:
        wait_until(lambda: out.is_file() and out.read_text(), "the stage runs")
        child = int(out.read_text())
        assert child != parent.pid
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not alive(child), "the stage is gone")
    assert not (tmp_path / ".work/runs.jsonl").exists()


SLOW_TO_LOAD = """
import pathlib, sys, time
pathlib.Path("loading").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.02)
sys.argv = ["toy.py", "go", "out.txt"]
"""
DVC = """
import subprocess, sys
with open("said.txt", "w") as said:
    subprocess.run([sys.executable, "slow.py"], stderr=said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sessions and adoption as Linux has them")
def test_a_stage_whose_dvc_died_while_it_was_loading_does_not_start(tmp_path, project_env):
    """Seen: kill -9 of dvc in the seconds in which a stage imports torch left an orphan that went on writing."""
    (tmp_path / "slow.py").write_text(SLOW_TO_LOAD + TOY)
    env = project_env | {"DVC_STAGE": "train@toy"}
    with subprocess.Popen([sys.executable, "-c", DVC], cwd=tmp_path, env=env, start_new_session=True) as dvc:
        wait_until((tmp_path / "loading").exists, "the stage loads")
        os.kill(dvc.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    said = tmp_path / "said.txt"
    wait_until(said.read_text, "the stage gives up")
    assert said.read_text() == "error: the dvc that started this stage is gone; run dvc repro again\n"
    assert not (tmp_path / "out.txt").exists()


def test_name(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert stage.name("train@toy") == "train@toy"
    monkeypatch.setenv("DVC_STAGE", "train@other")
    assert stage.name("train@toy") == "train@other"
    monkeypatch.setenv("DVC_STAGE", "profiles/paper/dvc.yaml:train@other")
    assert stage.name("train@toy") == "train@other"


# the real scripts


def test_fetch_and_assemble_know_their_datasets(root, start):
    params_file = str(root / "params.yaml")
    fetch = start(params_file, "cifar", "raw", module="stages.fetch")
    known = "mnist, cifar10, svhn, lsun, imagenet, faces, neardup"
    assert (fetch.returncode, fetch.stderr) == (1, f"error: fetch: no source for data set 'cifar'; expected {known}\n")
    assemble = start(params_file, "cifar", "raw", "set", module="stages.assemble")
    assert (assemble.returncode, assemble.stdout) == (1, "")
    known = "mnist, cifar10, svhn, lsun, imagenet32, imagenet128, neardup"
    assert assemble.stderr == f"error: assemble: no recipe for image set 'cifar'; expected {known}\n"


def test_fetch_without_a_params_file(start):
    result = start("nowhere.yaml", "mnist", "raw", module="stages.fetch")
    assert result.returncode == 1
    assert result.stderr == "error: nowhere.yaml: no such params file; run from the project's root\n"
