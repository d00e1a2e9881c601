"""Stages side by side: toy projects that DVC really runs, and the schedule alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import psutil
import pytest
from made_project import copied, dvc, environment, is_dead, wait_for, write

from pipeline.core.errors import InputError
from pipeline.project import dvc_child, fan_out, lock
from pipeline.project.fan_out import Plan, Schedule

GRAPH = """\
stages:
  join:
    cmd: exec sh join.sh data/${profile}/t reports/joined.txt
    deps:
      - join.sh
      - data/${profile}/t
    outs:
      - reports/joined.txt:
          cache: false
  make:
    foreach:
      - a
      - b
    do:
      cmd: exec python make.py ${item} data/${profile}/t/${item}.txt
      deps:
        - make.py
      params:
        - compute
      outs:
        - data/${profile}/t/${item}.txt
  slow:
    cmd: exec python slow.py data/${profile}/slow.txt
    deps:
      - slow.py
    outs:
      - data/${profile}/slow.txt
  after_slow:
    cmd: exec cp data/${profile}/slow.txt data/${profile}/after_slow.txt
    deps:
      - data/${profile}/slow.txt
    outs:
      - data/${profile}/after_slow.txt
"""
# Each waits until the other has started, where the test asks for it.
MAKE = """\
import os, sys, time
from pathlib import Path
name, out = sys.argv[1:]
Path(f"gpu_{name}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))
Path(f"started_{name}").touch()
if Path("meet").exists():
    deadline = time.monotonic() + 30
    while not Path("started_" + {"a": "b", "b": "a"}[name]).exists():
        if time.monotonic() > deadline:
            sys.exit("error: the other stage did not start meanwhile")
        time.sleep(0.05)
Path(out).write_text(name)
"""
SLOW = """\
import ctypes, os, sys, time
from pathlib import Path
ctypes.CDLL(None).prctl(1, 9)  # as pipeline.core.stage does
if Path("broken").exists():
    sys.exit("error: this stage is broken")
if Path("wait").exists():
    Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
Path(sys.argv[1]).write_text("slow")
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A project that never ran."""
    folder = tmp_path_factory.mktemp("toy") / "project"
    files = {
        "dvc.yaml": GRAPH,
        "params.yaml": "profile: embedded\ncompute:\n  threads: 2\n",
        "make.py": MAKE,
        "slow.py": SLOW,
        "join.sh": "cat $1/a.txt $1/b.txt > $2\n",
        "data/embedded/t/": "",
        "reports/": "",
    }
    write(folder, files)
    with environment(folder):
        dvc(folder, "init", "--no-scm", "--quiet")
        yield folder


@pytest.fixture
def project(toy, tmp_path, monkeypatch):
    """A copy to run, as the working folder."""
    copy = copied(toy, tmp_path / "project")
    monkeypatch.chdir(copy)
    return copy


def test_the_plan_is_that_of_dvcs_own_graph(project):
    plan = fan_out.make_plan(project, "embedded", ["join", "slow"])
    # join stands first in dvc.yaml, and reads a folder that no stage names as a whole
    assert list(plan.needs) == ["make@a", "make@b", "join", "slow"]
    assert plan.needs["join"] == {"make@a", "make@b"}
    assert plan.changed == set(plan.needs)  # nothing has run
    assert plan.on_gpu == {"make@a", "make@b"}
    assert set(fan_out.make_plan(project, "embedded", []).needs) == {*plan.needs, "after_slow"}


def test_stages_run_side_by_side_and_leave_the_lock_of_a_serial_run(project, toy, tmp_path, capsys):
    (project / "meet").touch()
    assert fan_out.run([], jobs=2)
    said = capsys.readouterr().out
    assert "5 stages: 0 up to date, 5 done, 0 failed, 0 skipped" in said
    assert (project / "reports/joined.txt").read_text() == "ab"

    serial = copied(toy, tmp_path / "serial")
    dvc(serial, "repro", "--quiet", "dvc.yaml")
    lock.order_lock(serial)
    assert (project / "dvc.lock").read_bytes() == (serial / "dvc.lock").read_bytes()

    shutil.rmtree(project / fan_out.LOGS)  # a stage that is up to date gets no child, and so no output
    assert fan_out.run([], jobs=2)
    assert "5 stages: 5 up to date, 0 done" in capsys.readouterr().out
    assert not list(project.glob(".work/fan-out/*/*.log"))


def test_a_failure_stops_only_what_needs_it(project, capsys):
    (project / "broken").touch()
    assert not fan_out.run([], jobs=3, gpus=["0", "GPU-7"])
    lines = capsys.readouterr().out.splitlines()
    log = ".work/fan-out/embedded/slow.log"
    assert lines[-3].startswith("5 stages: 0 up to date, 3 done, 1 failed, 1 skipped; ")
    assert lines[-2:] == [
        f"failed: slow: this stage is broken; its output: {log}",
        "  skipped, as they need it: after_slow",
    ]
    assert "error: this stage is broken" in (project / log).read_text()
    assert (project / "reports/joined.txt").read_text() == "ab"
    # one GPU for each stage that computes
    assert sorted((project / f"gpu_{name}").read_text() for name in "ab") == ["0", "GPU-7"]


def started(project, *arguments):
    """`gan-tables run slow`, whose stage is in the middle of its work."""
    env = os.environ | {"PYTHONPATH": str(Path(fan_out.__file__).resolve().parents[2])}
    (project / "wait").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.project.cli", "run", "slow"],
        cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(lambda: (project / "pid").is_file() and (project / "pid").read_text(), process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert int((project / "pid").read_text()) in [member.pid for member in family]
    return process, family


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux only")
def test_kill_9_leaves_no_child_and_the_next_run_goes_on(project, capsys):
    process, family = started(project)
    process.kill()
    process.communicate()
    wait_for(lambda: all(is_dead(member) for member in family))
    assert "slow.py" in (project / ".dvc/tmp/rwlock").read_text()  # what DVC left behind, which holds nobody up
    (project / "wait").unlink()
    assert fan_out.run(["after_slow"], jobs=1)
    assert (project / "data/embedded/after_slow.txt").read_text() == "slow"
    assert "2 stages: 0 up to date, 2 done" in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_is_stopped_while_dvc_writes_the_lock_loses_no_entry(tmp_path, monkeypatch, whole):
    from dvc.utils.serialize import dump_yaml, modify_yaml

    path = tmp_path / "dvc.lock"
    dump_yaml(str(path), {"stages": {f"train@{n}": {"cmd": f"train {n}"} for n in range(1000)}})
    before = path.read_bytes()
    assert before.count(b"cmd: train") == 1000

    def stopped(data, stream):
        stream.write(before[: len(before) // 2].decode())
        raise KeyboardInterrupt

    monkeypatch.setattr("dvc.utils.serialize._yaml._dump", stopped)
    context = dvc_child.files_written_whole() if whole else nullcontext()
    with pytest.raises(KeyboardInterrupt), context, modify_yaml(str(path)) as lock_file:
        lock_file["stages"]["train@0"] = {"cmd": "train again"}
    assert (path.read_bytes() == before) is whole  # DVC itself leaves the half of it
    assert [file.name for file in tmp_path.iterdir()] == ["dvc.lock"]


@pytest.mark.parametrize("profile", ["", "profiles/laptop", "profiles/paper"])
def test_a_lock_is_written_in_the_bytes_of_dvc(root, tmp_path, profile):
    from dvc.utils.serialize import modify_yaml

    def change(path, **params):
        with modify_yaml(str(path)) as lock_file:
            stages = lock_file["stages"]
            stages["new"] = stages.pop(next(iter(stages))) | {"params": {"params.yaml": params}}
        return path.read_bytes()

    written = []
    for number, ours in enumerate((False, True)):
        path = tmp_path / str(number) / "dvc.lock"
        path.parent.mkdir()
        shutil.copyfile(root / profile / "dvc.lock", path)
        with ExitStack() as contexts:
            for context in (
                (dvc_child.files_written_whole, dvc_child.lock_read_plainly, dvc_child.parsed_once) if ours else ()
            ):
                contexts.enter_context(context())
            # twice: what was written the first time is not put into YAML again
            written.append([change(path, rate=5e-05, limit=None), change(path, rate=0.1, limit="no")])
    assert written[0] == written[1]
    assert len({*written[0], (root / profile / "dvc.lock").read_bytes()}) == 3


def test_a_lock_of_nothing_is_written_as_dvc_does(tmp_path):
    from dvc.utils.serialize import dump_yaml

    path = tmp_path / "dvc.lock"
    for data in ({"schema": "2.0", "stages": {}}, {"schema": "2.0"}, {"schema": "2.0", "datasets": [], "stages": {}}):
        dump_yaml(str(path), data)
        expected = path.read_bytes()
        with dvc_child.files_written_whole():
            dump_yaml(str(path), data)
        assert path.read_bytes() == expected


def test_comments_of_other_files_are_kept(tmp_path):
    from dvc.utils.serialize import modify_yaml

    path = tmp_path / "params.yaml"
    path.write_text("rate: 1 # ours\n")
    with dvc_child.lock_read_plainly(), dvc_child.parsed_once(), modify_yaml(str(path)) as params:
        params["rate"] = 2
    assert path.read_text() == "rate: 2 # ours\n"


def test_a_text_is_parsed_once_and_read_as_dvc_reads_it(tmp_path, monkeypatch):
    from dvc.utils.serialize import _yaml

    path = tmp_path / "params.yaml"
    parse, parsed = _yaml.parse_yaml, []
    monkeypatch.setattr(_yaml, "parse_yaml", lambda text, *rest: parsed.append(text) or parse(text, *rest))
    texts = ["rate: 5e-05\nruns: {a: [1, no]}\n", "", "on: 2026-01-02 03:04:05+01:00\nday: 2026-01-02\n"]
    with dvc_child.parsed_once():
        for text in texts:
            path.write_text(text)
            first = _yaml.load_yaml(str(path))
            first["more"] = 1  # a reader's own
            assert _yaml.load_yaml(str(path)) == parse(text, str(path))
    assert parsed == texts
    path.write_text("a: [")
    for _ in range(2):
        with dvc_child.parsed_once(), pytest.raises(_yaml.YAMLFileCorruptedError, match=r"params\.yaml"):
            _yaml.load_yaml(str(path))


def test_of_a_lock_that_was_written_here_only_new_entries_are_parsed(root, tmp_path, monkeypatch):
    from dvc.utils.serialize import _yaml

    path = tmp_path / "dvc.lock"
    shutil.copyfile(root / "dvc.lock", path)
    parse, parsed = _yaml.parse_yaml, []
    monkeypatch.setattr(_yaml, "parse_yaml", lambda text, *rest: parsed.append(text) or parse(text, *rest))

    def changed(entry):
        parsed.clear()
        with _yaml.modify_yaml(str(path)) as lock_file:
            before = lock_file["stages"].get("new")
            lock_file["stages"]["new"] = entry
        return before

    with dvc_child.files_written_whole(), dvc_child.lock_read_plainly(), dvc_child.parsed_once():
        changed({})
        assert len(parsed) == 1
        changed(OrderedDict(cmd="x", params={"rates": (1e-05, 0.1), "limit": "no"}))
        assert len(parsed) > 1  # each entry, once
        # as a file is read: no tuple
        assert changed({"cmd": "y"}) == {"cmd": "x", "params": {"rates": [1e-05, 0.1], "limit": "no"}}
        assert parsed == [
            "stages:\n  new:\n    cmd: x\n    params:\n      rates:\n      - 1e-05\n      - 0.1\n      limit: no\n"
        ]
        path.write_text(path.read_text().replace("cmd: y", "cmd: z"))  # by somebody else
        assert changed({"cmd": "w"}) == {"cmd": "z"}
        with suppress(KeyboardInterrupt), _yaml.modify_yaml(str(path)) as lock_file:
            lock_file["stages"].clear()
            raise KeyboardInterrupt  # before anything is written
        read = _yaml.load_yaml(str(path))
    assert read == parse(path.read_text(), str(path))
    assert read["stages"]["new"] == {"cmd": "w"}


def test_only_living_commands_hold_files(project):
    path = project / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    last = " ".join(psutil.Process().cmdline()).rpartition(" ")[2]
    living = {"pid": os.getpid(), "cmd": f"dvc repro {last}"}
    reused = {"pid": os.getpid(), "cmd": "dvc repro of another time"}  # the number now belongs to this process
    path.write_text(json.dumps({"read": {"x": [living, reused], "y": [reused]}, "write": {"z": reused, "u": living}}))
    fan_out.make_plan(project, "embedded", ["slow"])
    assert json.loads(path.read_text()) == {"read": {"x": [living]}, "write": {"u": living}}


def test_the_list_of_files_in_use_is_edited_under_dvcs_own_lock(project):
    """An experiment that starts meanwhile takes its files without the repository's lock."""
    from dvc.fs import localfs
    from dvc.rwlock import _edit_rwlock

    folder = project / ".dvc/tmp"
    folder.mkdir(exist_ok=True)
    dead = {"pid": os.getpid(), "cmd": "dvc repro of another time"}
    (folder / "rwlock").write_text(json.dumps({"read": {}, "write": {"z": dead}}))
    own = {"pid": os.getpid(), "cmd": " ".join(psutil.Process().cmdline())}
    forgetting = threading.Thread(target=dvc_child.forget_the_dead, args=[folder])
    with _edit_rwlock(str(folder), localfs, hardlink=False) as held:
        forgetting.start()
        time.sleep(0.3)
        assert forgetting.is_alive()
        held["write"]["mine"] = own
    forgetting.join()
    assert json.loads((folder / "rwlock").read_text()) == {"read": {}, "write": {"mine": own}}


IGNORES_SIGINT = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
STARTS_IT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {IGNORES_SIGINT!r}], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_stop_ends_what_a_leader_that_has_ended_left_behind():
    """A program that a launcher started, and that goes on where DVC has gone."""
    command = [sys.executable, "-c", STARTS_IT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        left_behind = psutil.Process(int(leader.stdout.readline()))
        dvc_child.stop([leader], ((signal.SIGINT, 2.0), (signal.SIGTERM, 10.0)))
        assert leader.poll() is not None
    assert is_dead(left_behind)


def test_make_repro_lets_go_of_what_the_dead_hold(project):
    """After a restart of a container the number of a killed DVC is soon some other program's."""
    path = project / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    dead = {"pid": os.getpid(), "cmd": "dvc repro of another time"}
    held = {"read": {}, "write": {str(project / "data/a.txt"): dead, "elsewhere": dead}}
    path.write_text(json.dumps(held))
    command = [sys.executable, "-m", "pipeline.project.dvc_child", "0", "--wait-for-lock", "repro", "dvc.yaml"]
    environment = os.environ | {"PYTHONPATH": str(Path(dvc_child.__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of another time" not in path.read_text()


@pytest.mark.parametrize("compute", ["", "compute:\n", "compute: {threads: two}\n", "compute: [1]\n"])
def test_params_that_the_stages_will_refuse_are_no_defect_of_the_fan_out(project, compute):
    (project / "params.yaml").write_text(f"profile: embedded\n{compute}")
    assert fan_out.run(["make@a"]) == bool(compute), "without the section DVC itself says what is missing"


def test_a_second_run_is_refused_and_sigterm_ends_all(project):
    process, family = started(project)
    with pytest.raises(InputError, match="another `gan-tables run` is already running"):
        fan_out.run(["slow"], jobs=1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    wait_for(lambda: all(is_dead(member) for member in family))


def test_a_signal_that_is_ignored_stays_so():
    """``nohup`` ignores SIGHUP, so that the run outlives its terminal."""
    with pytest.raises(KeyboardInterrupt), dvc_child.stopped_by_signals():
        signal.raise_signal(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with dvc_child.stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_targets():
    names = ["train@a", "train@b", "trainer", "table"]
    match = lambda *targets: fan_out.matching(names, targets, Path("profiles/paper/dvc.yaml"))  # noqa: E731
    assert match() == names
    assert match("train") == ["train@a", "train@b"]
    assert match("table", "train@b", "profiles/paper/dvc.yaml:table") == ["table", "train@b"]
    with pytest.raises(InputError, match=r"no stage or group 'tabel'; did you mean table\?"):
        match("tabel")
    with pytest.raises(InputError, match="no stage or group 'train@'"):
        match("train@")


@pytest.mark.parametrize("gpus", [["0", "0"], ["0", ""]])
def test_gpus_have_to_differ(gpus):
    with pytest.raises(InputError, match="expected different GPUs"):
        fan_out.run([], gpus=gpus)


def test_gpus_without_effect_are_told(project, capsys):
    (project / "params.yaml").write_text("profile: embedded\ncompute: {device: cpu, threads: 1}\n")
    assert fan_out.run(["slow"], gpus=["0"])
    assert "note: --gpus has no effect: profile embedded computes on the CPU" in capsys.readouterr().out


def test_unknown_profile():
    with pytest.raises(InputError, match="found the profile 'big'; expected embedded, laptop, paper"):
        fan_out.run([], profile="big")


# ---- the schedule alone: a -> b -> c, and d on its own ----


def chain(*changed):
    return Schedule(Plan(needs={"a": set(), "b": {"a"}, "c": {"b"}, "d": set()}, changed=set(changed), on_gpu=set()))


def test_only_what_changed_runs_and_what_follows_from_it():
    schedule = chain("b")
    assert list(schedule.take_ready()) == ["b"]
    assert schedule.outcomes == {"a": "up to date", "d": "up to date"}
    schedule.start("b")
    assert list(schedule.take_ready()) == []
    schedule.end("b", "done")
    assert list(schedule.take_ready()) == ["c"]  # DVC says whether it did change


def test_a_stage_that_gave_the_same_again_lets_the_rest_be():
    schedule = chain("b")
    list(schedule.take_ready())
    schedule.start("b")
    schedule.end("b", "up to date")  # DVC found nothing to do after all
    assert list(schedule.take_ready()) == []
    assert schedule.outcomes["c"] == "up to date"
    assert schedule.n_left == 0


def test_all_below_a_failure_are_skipped():
    schedule = chain("a", "d")
    schedule.start("a")
    schedule.end("a", "failed")
    assert schedule.outcomes == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert schedule.because == {"b": "a", "c": "a"}
    assert list(schedule.take_ready()) == ["d"]


def test_log_names_are_plain():
    assert fan_out.log_of("profiles/paper/dvc.yaml:semisup@x y/1", Path("l")) == Path("l/semisup@x_y_1.log")
