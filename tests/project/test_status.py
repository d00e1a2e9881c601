"""What `gan-tables status` says, of a toy project that DVC ran, and of made-up tables and records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from made_project import copied, dvc, environment, write

from pipeline.core.records import ResultRow, to_frame, write_csv
from pipeline.project import status
from pipeline.project.lock import Problem

GRAPH = """\
stages:
  make:
    foreach:
      - a
      - b
    do:
      cmd: exec sh make.sh data/${profile}/${item}.txt
      deps:
        - make.sh
      params:
        - scale
      outs:
        - data/${profile}/${item}.txt
  table:
    cmd: exec cp data/${profile}/a.txt reports/${profile}/a.txt
    deps:
      - data/${profile}/a.txt
    outs:
      - reports/${profile}/a.txt:
          cache: false
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """All stages but make@b have run."""
    folder = tmp_path_factory.mktemp("toy") / "project"
    files = {
        "dvc.yaml": GRAPH,
        "params.yaml": "profile: embedded\nscale: 1\n",
        "make.sh": "echo $1 > $1\n",
        "data/embedded/": "",
        "reports/embedded/": "",
    }
    write(folder, files)
    with environment(folder):
        dvc(folder, "init", "--no-scm", "--quiet")
        dvc(folder, "repro", "--quiet", "table")
        yield folder


@pytest.fixture
def project(toy, tmp_path, monkeypatch):
    """A copy of it, as the working folder."""
    copy = copied(toy, tmp_path / "project")
    monkeypatch.chdir(copy)
    monkeypatch.delenv("GAN_DATA", raising=False)
    return copy


def said(capsys, **options):
    status.print_status(**options)
    return capsys.readouterr().out.splitlines()


def test_what_is_up_to_date_and_what_is_missing(project, capsys):
    lines = said(capsys)
    assert lines[:2] == ["Up to date, as dvc.lock has it:", "  embedded: 2 of 3 stages; 1 never run"]
    assert "  embedded: never run: make@b: `make repro`" in lines
    assert not any("data of" in line for line in lines)
    (project / "data/embedded/a.txt").unlink()
    assert any(
        "embedded: data of 1 of 1 outputs (data/embedded/a.txt, ...): `dvc checkout dvc.yaml` if the cache has them, "
        "else `make repro` (no remote is set up to pull from)" in line
        for line in said(capsys)
    )
    (project / ".dvc/config").write_text("['remote \"store\"']\n    url = /store\n")
    assert any("if the cache has them, else `dvc pull`" in line for line in said(capsys))


@pytest.fixture
def comparisons(monkeypatch):
    """Each time that the lock files are compared."""
    done = []
    compare = status._compare_locks
    monkeypatch.setattr(status, "_compare_locks", lambda root: done.append(1) or compare(root))
    return done


@pytest.mark.parametrize(
    ("file", "text", "fresh"),
    [
        ("params.yaml", "profile: embedded\nscale: 2\n", 1),  # table only has to follow make@a
        ("make.sh", "echo $1 x > $1\n", 1),
        ("reports/embedded/a.txt", "edited\n", 1),
        ("dvc.yaml", GRAPH.replace("sh make.sh", "sh  make.sh"), 1),
        ("notes.txt", "nothing to do with it\n", 2),
    ],
)
def test_the_answer_is_kept_until_something_changes(project, comparisons, file, text, fresh):
    first = status.profile_states()
    assert status.profile_states() == first
    assert len(comparisons) == 1
    (project / file).write_text(text)
    again = status.profile_states()["embedded"]
    assert len(again.stages) - len({problem.stage for problem in again.problems}) == fresh
    assert len(comparisons) == (1 if file == "notes.txt" else 2)
    assert status.profile_states()["embedded"] == again


@pytest.mark.parametrize("moment", ["_watched", "problems_of"])
def test_an_answer_of_files_that_changed_meanwhile_is_not_kept(project, monkeypatch, moment):
    """DVC ends a stage after its lock was read, or after it was compared."""
    real = getattr(status, moment)

    def meanwhile(*args):
        found = real(*args)
        (project / "params.yaml").write_text("profile: embedded\nscale: 2\n")
        return found

    monkeypatch.setattr(status, moment, meanwhile)
    status.profile_states()
    monkeypatch.setattr(status, moment, real)
    assert not (project / status.KEPT).exists()
    assert {problem.stage for problem in status.profile_states()["embedded"].problems} == {"make@a", "make@b"}


@pytest.mark.parametrize("content", ["", "[]", '{"signature": 1}', "\x00"])
def test_a_damaged_answer_is_made_anew(project, content):
    before = status.profile_states()
    (project / status.KEPT).write_text(content)
    assert status.profile_states() == before


def test_what_git_tracks_is_watched(project):
    with Repo() as repo:
        assert status._watched(repo) == ["make.sh", "params.yaml", "reports"]  # and never data


# ---- parts that need no DVC ----


def cell(row, measured, note="", kind="ours"):
    return ResultRow(
        row=row, column="c", unit="%", kind=kind, paper=1.0, paper_spread=None, measured=measured, spread=None,
        spread_over="", n_seeds=None, n_images=None, n_labels=None, dataset="d", source="s", comparable="no", note=note,
    )  # fmt: skip


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No DVC project, but tables and records."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports/laptop/tables"
    folder.mkdir(parents=True)
    rows = [
        cell("a", 1.5), cell("b", 0.0), cell("c", None, "not run"), cell("d", None, "not run"), cell("e", None, "gone"),
        cell("f", None, kind="published"), cell("g", 3.0, kind="extra"),
    ]  # fmt: skip
    write_csv(folder / "big.csv", to_frame(rows))
    (folder / "other.csv").write_text("claim,section\nx,3\n")  # a table of another form
    return tmp_path


def test_measured_cells_counts_what_we_regenerate(bare):
    assert status.measured_cells(bare, "laptop") == {"big": (2, 5)}
    assert status.measured_cells(bare, "paper") == {}


def test_what_was_not_measured_and_why(bare, capsys):
    lines = said(capsys)
    assert lines[0].startswith("up to date: not known: ")  # no DVC here; the rest comes all the same
    assert "  big  laptop 2 of 5" in lines
    assert "  laptop: 2 cells not measured: not run" in lines
    assert "  laptop: 1 cell not measured: gone" in lines


def test_a_table_without_notes(bare, capsys):
    (bare / "reports/laptop/tables/big.csv").write_text("row,column,kind,measured\na,b,ours,\n")
    assert "  laptop: 1 cell not measured: no note says why" in said(capsys)


def write_record(project, *rows, tail=""):
    path = project / status.RUN_RECORD
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def row(stage, started, seconds, how="done"):
    return {"stage": stage, "started": started, "seconds": seconds, "status": how}


def test_before_any_run(bare, capsys):
    assert said(capsys)[-1] == "Times: no stage has run here yet; `make repro` runs them"


def test_times_are_of_this_projects_stages(project, capsys):
    write_record(
        project,
        row("make@a", 50, 2),
        row("make@a", 60, 75),
        row("table", 70, 5, "failed"),
        row("make /tmp/bad.yaml a", 80, 9999),
        row("gone@x", 90, 9999),
    )
    assert said(capsys)[-3:] == [
        "Times, of the last run of each stage here (`gan-tables status --times` lists them all):",
        "  embedded: 2 stages, 1 min 20 s; longest: make@a 1 min 15 s, table 5.0 s",
        "  embedded: failed when last run: table: `dvc --wait-for-lock repro dvc.yaml`",
    ]


def test_the_full_list_has_the_latest_run_of_each_stage_and_the_sum(bare, capsys):
    write_record(bare, row("train@a", 100, 9999), row("fetch", 50, 0.5), row("train@a", 300, 3725, "failed"))
    lines = [line.split("\t") for line in said(capsys, times=True)[-3:]]
    assert [(cells[0], cells[2], cells[3]) for cells in lines] == [
        ("fetch", "0.5 s", "done"),
        ("train@a", "1 h 02 min 05 s", "failed"),
        ("sum", "1 h 02 min 06 s", ""),
    ]


def test_the_rate_of_what_was_counted(bare, capsys):
    write_record(bare, row("fetch", 50, 0.5), row("assemble@lsun", 60, 4) | {"images": 6900})
    cells = [line.split("\t")[-1] for line in said(capsys, times=True)[-3:]]
    assert cells == ["", "6,900 images, 1,725 a second", ""]


@pytest.mark.parametrize("tail", ['{"stage": "x", "star', "[1]\n", "\x00\x00\n", '{"stage": "x"}\n', "\n"])
def test_a_broken_line_is_left_out(tmp_path, tail):
    path = write_record(tmp_path, row("fetch", 50, 0.5), tail=tail)
    assert [found["stage"] for found in status.latest_runs(path)] == ["fetch"]


def test_a_table_on_a_terminal(bare, monkeypatch, capsys):
    write_record(bare, row("fetch", 50, 75))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = "\n".join(said(capsys, times=True))
    assert text.count("1 min 15 s") == 2  # the stage, and the sum
    assert "started" in text


def test_the_gravest_problem_of_a_stage_counts():
    stale, code = (Problem("table", kind, "x") for kind in ("stale", "code"))
    assert status._kinds([stale, code]) == status._kinds([code, stale]) == {"table": "stale"}
    assert status._kinds([code, Problem("raw", "never run", "x")]) == {"table": "code", "raw": "never run"}


def test_profiles_of_addresses():
    addresses = ["train@x", "dvc.yaml:train@x", "profiles/laptop/dvc.yaml:train@x", "profiles/paper/dvc.yaml:a"]
    assert [status._profile_of(address) for address in addresses] == ["embedded", "embedded", "laptop", "paper"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3600, "1 h 00 min 00 s")]
)
def test_durations(seconds, words):
    assert status.duration(seconds) == words


def test_no_heavy_imports(root):
    """The answer that was kept costs neither DVC nor torch."""
    code = "import sys; import pipeline.project.status; sys.exit(bool({'torch', 'dvc', 'pandas'} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(root)}
    assert subprocess.run([sys.executable, "-c", code], env=env, cwd=Path("/"), check=False).returncode == 0
