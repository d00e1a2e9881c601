"""The command `gan-tables` and the record of times that `status` reads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.internals.annotation_page import Written
from pipeline.project import cli, status
from pipeline.project.lock import Report

COMMANDS = ["verify-lock", "prune-lock", "verify", "profiles", "status", "after-repro", "annotate", "turing", "boxes"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The least that counts as a project, seen from a folder inside it."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.app, arguments)


def test_help_names_every_command():
    done = run("--help")
    assert done.exit_code == 0
    for command in COMMANDS:
        assert command in done.output


def test_bad_input_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("status")
    assert done.exit_code == 1
    assert done.output.startswith("error: ")
    assert "no DVC project here or above" in done.output


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_verify_lock_sets_the_status(project, monkeypatch, passed, code):
    monkeypatch.setattr("pipeline.project.lock.verify_lock", lambda: Report(["embedded: said"], passed))
    done = run("verify-lock")
    assert done.exit_code == code
    assert done.output == "embedded: said\n"


def test_prune_lock_says_what_it_dropped(project, monkeypatch):
    monkeypatch.setattr("pipeline.project.lock.prune_lock", lambda: ["dvc.lock: gone"])
    assert run("prune-lock").output == "dropped dvc.lock: gone\n"
    monkeypatch.setattr("pipeline.project.lock.prune_lock", list)
    assert run("prune-lock").output == "nothing to drop\n"


def test_profiles_writes_the_twins(project):
    assert run("profiles").exit_code == 0
    assert (project / "profiles/paper/dvc.yaml").is_file()


def test_after_repro_never_fails(project):
    done = run("after-repro")  # a .dvc folder that is no DVC project, and no Git
    assert done.exit_code == 0


def test_status_before_any_run(project):
    done = run("status")
    assert done.exit_code == 0
    assert "no stage has run here yet" in done.output


@pytest.mark.parametrize(
    ("profile", "params_file"), [("embedded", "params.yaml"), ("paper", "profiles/paper/params.yaml")]
)
def test_annotate_says_where_the_page_is_and_where_the_file_goes(project, monkeypatch, profile, params_file):
    def write_page(*given):
        assert given == ("faces", profile, Path(params_file))
        assert Path.cwd() == project
        return Written(page=Path("page.html"), place=Path("place.json"), note="begins empty.")

    monkeypatch.setattr("pipeline.internals.annotation_page.write_page", write_page)
    done = run("annotate", "faces", profile)
    assert done.exit_code == 0, done.output
    assert done.output == (
        "note: begins empty.\npage.html: open it in a browser, and put the file that it downloads at place.json\n"
    )


def test_annotate_refuses_what_it_does_not_know(project):
    done = run("annotate", "faces", "../paper")
    assert done.exit_code == 1
    assert done.output == "error: annotate: found the profile '../paper'; expected embedded, laptop, paper\n"
    done = run("annotate", "faces", "embedded")  # a project without params
    assert done.exit_code == 1
    assert done.output == "error: params.yaml: no such params file; run from the project's root\n"
    assert run("annotate", "hats", "embedded").exit_code == 2


def test_turing_serve_passes_its_options_on(project, monkeypatch):
    given = []
    monkeypatch.setattr("pipeline.turing.server.serve", lambda *places, **options: given.append((places, options)))
    assert run("turing", "serve", "paper").exit_code == 0
    done = run("turing", "serve", "embedded", "--host", "0.0.0.0", "--port", "9", "--simulated")
    assert done.exit_code == 0, done.output
    assert given == [
        (("paper", Path("profiles/paper/params.yaml")), {"host": "127.0.0.1", "port": 8765, "simulated": False}),
        (("embedded", Path("params.yaml")), {"host": "0.0.0.0", "port": 9, "simulated": True}),
    ]
    assert run("turing", "serve", "embedded", "--port", "65536").exit_code == 2


def test_boxes_draw_passes_its_options_on(project, monkeypatch):
    given = []
    monkeypatch.setattr("pipeline.turing.boxes.serve", lambda *places, **options: given.append((places, options)))
    assert run("boxes", "draw", "laptop").exit_code == 0
    assert run("boxes", "draw", "embedded", "--host", "::1", "--port", "0").exit_code == 0
    assert given == [
        (("laptop", Path("profiles/laptop/params.yaml")), {"host": "127.0.0.1", "port": 8766}),
        (("embedded", Path("params.yaml")), {"host": "::1", "port": 0}),
    ]


def write_record(project, *rows, tail=""):
    path = project / status.RUN_RECORD
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def row(stage, started, seconds, how="done"):
    return {"stage": stage, "started": started, "seconds": seconds, "status": how}


def test_status_says_the_latest_run_of_each_stage_and_the_sum(project):
    write_record(project, row("train@a", 100, 9999), row("fetch", 50, 0.5), row("train@a", 300, 3725, "failed"))
    lines = [line.split("\t") for line in run("status").output.splitlines()]
    assert [(cells[0], cells[2], cells[3]) for cells in lines] == [
        ("fetch", "0.5 s", "done"),
        ("train@a", "1 h 02 min 05 s", "failed"),
        ("sum", "1 h 02 min 06 s", ""),
    ]


def test_status_tells_the_rate_of_what_was_counted(project):
    write_record(project, row("fetch", 50, 0.5), row("assemble@lsun", 60, 4) | {"images": 6900})
    cells = [line.split("\t")[-1] for line in run("status").output.splitlines()]
    assert cells == ["", "6,900 images, 1,725 a second", ""]


@pytest.mark.parametrize("tail", ['{"stage": "x", "star', "[1]\n", "\x00\x00\n", '{"stage": "x"}\n', "\n"])
def test_a_broken_line_is_left_out(project, tail):
    path = write_record(project, row("fetch", 50, 0.5), tail=tail)
    assert [found["stage"] for found in status.latest_runs(path)] == ["fetch"]


def test_a_table_on_a_terminal(project, monkeypatch, capsys):
    path = write_record(project, row("fetch", 50, 75))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status.print_status(path)
    said = capsys.readouterr().out
    assert said.count("1 min 15 s") == 2  # the stage, and the sum
    assert "started" in said


def test_the_module_runs_without_heavy_imports(root):
    code = "import sys; import pipeline.project.cli; sys.exit('torch' in sys.modules or 'dvc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.project.cli", "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "verify-lock" in done.stdout


# ---- the Makefile, with stand-ins for what takes long ----

make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(root, tmp_path):
    """A copy with an environment that only records how it was called."""
    folder = tmp_path / "a folder with blanks"
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(root / name, folder / name)
    fake = f"""\
#!/bin/sh
case "$1" in -c) exec {sys.executable} "$@" ;; esac
echo "$@" >>calls
command -v python >>paths
"""
    for name in ("python", "pip"):
        (folder / ".venv/bin" / name).write_text(fake)
        (folder / ".venv/bin" / name).chmod(0o755)
    return folder


def call_make(folder, *arguments):
    env = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "PIP_ARGS")
    }
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)


@make
def test_make_repro_installs_once(checkout):
    install = "-m pip --disable-pip-version-check install -c constraints.txt -e ."
    repro = ["-m dvc --wait-for-lock repro dvc.yaml", "-m pipeline.project.cli after-repro"]
    assert call_make(checkout, "repro").returncode == 0
    assert (checkout / "calls").read_text().splitlines() == [install, *repro]
    assert f"{checkout}/.venv/bin/python" in (checkout / "paths").read_text()
    (checkout / "calls").unlink()
    assert call_make(checkout, "repro").returncode == 0
    assert (checkout / "calls").read_text().splitlines() == repro
    os.utime(checkout / "pyproject.toml", (2**32, 2**32))
    call_make(checkout, "repro", "PIP_ARGS=--no-index")
    assert (checkout / "calls").read_text().splitlines()[len(repro)] == install.replace("-e", "--no-index -e")


@make
def test_make_test_installs_for_repro_too(checkout):
    assert call_make(checkout, "test").returncode == 0
    calls = (checkout / "calls").read_text().splitlines()
    assert calls[0].endswith("-e .[test]")
    assert calls[1:] == ["-m ruff format --check .", "-m ruff check .", "-m pyright", "-m pytest"]
    (checkout / "calls").unlink()
    call_make(checkout, "verify-lock")
    assert (checkout / "calls").read_text().splitlines() == ["-m pipeline.project.cli verify-lock"]


@make
def test_make_refuses_an_old_or_missing_python(checkout):
    shutil.rmtree(checkout / ".venv")
    done = call_make(checkout, "repro", "PYTHON=no-such-python")
    assert done.returncode
    assert "error: no-such-python was not found; install Python 3.11 or newer" in done.stderr
    old = checkout / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit\nexit 1\n')
    old.chmod(0o755)
    done = call_make(checkout, "repro", "PYTHON=./old-python")
    assert done.returncode
    assert "error: ./old-python is Python 3.9.1; Python 3.11 or newer is needed" in done.stderr
    assert not (checkout / ".venv").exists()


@make
def test_make_alone_lists_the_targets(checkout):
    said = call_make(checkout).stdout
    for target in ("repro", "verify", "verify-lock", "profiles", "status", "test", "bench", "clean"):
        assert f"  make {target} " in said
    assert not (checkout / "calls").exists()
