"""The command `gan-tables`: what it passes on, how it says errors, what the shell completes; and the Makefile."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.core.errors import InputError
from pipeline.internals.annotation_page import Written
from pipeline.project import cli, completion, data_check
from pipeline.project.lock import PROFILES, Report
from pipeline.project.verify import Comparison

COMMANDS = [
    "status", "run", "data", "report", "compare", "pr", "ablations", "readme", "verify-lock", "prune-lock", "verify",
    "profiles", "after-repro", "annotate", "turing", "boxes",
]  # fmt: skip


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
    assert set(get_command(cli.app).commands) == set(COMMANDS)  # pyright: ignore[reportAttributeAccessIssue] - a group
    for command in COMMANDS:
        assert re.search(rf"\W{command}\s", done.output)


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


@pytest.mark.parametrize(
    ("agrees", "rerun_on", "code", "says"),
    [
        (True, "avx2", 0, "instruction set avx2, the same: bytes are compared\nverified\n"),
        (False, "avx2", 1, "bytes are compared\nerror: the committed reports are not what this code, data and params"),
        (True, "neon", 0, "instruction set neon, another instruction set than avx2: metrics are compared within 3 x"),
    ],
)
def test_verify_sets_the_status(project, monkeypatch, agrees, rerun_on, code, says):
    found = Comparison(committed_on="avx2", rerun_on=rerun_on, lines=["a table: said"], agrees=agrees, different=[])
    monkeypatch.setattr("pipeline.project.verify.verify", lambda: found)
    done = run("verify")
    assert done.exit_code == code
    assert done.output.startswith("a table: said\ninstruction set ")
    assert says in done.output


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


@pytest.fixture
def stand_in(monkeypatch):
    """Put functions in the place of a module's; the calls are listed."""
    calls = []

    def put(module, **results):
        def function(name, result):
            def called(*places, **options):
                calls.append((name, places, options))
                if isinstance(result, BaseException):
                    raise result
                return result

            return called

        fake = SimpleNamespace(**{name: function(name, result) for name, result in results.items()})
        package, _, name = module.rpartition(".")
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(importlib.import_module(package), name, fake, raising=False)
        return calls

    return put


@pytest.mark.parametrize(
    ("arguments", "module", "call", "result"),
    [
        (["status"], "pipeline.project.status", ("print_status", (), {"times": False}), None),
        (["status", "--times"], "pipeline.project.status", ("print_status", (), {"times": True}), None),
        (["report", "open"], "pipeline.project.report_pages", ("open_report", ("embedded",), {}), None),
        (["report", "open", "paper"], "pipeline.project.report_pages", ("open_report", ("paper",), {}), None),
        (["report", "--all"], "pipeline.project.report_pages", ("write_all", (), {}), Path("all.html")),
        (["compare", "v1"], "pipeline.project.pull_request", ("compare", ("v1", "HEAD"), {}), None),
        (["compare", "v1", "v2"], "pipeline.project.pull_request", ("compare", ("v1", "v2"), {}), None),
        (["pr", "v1"], "pipeline.project.pull_request", ("write_comment", ("v1", None), {}), Path("c.md")),
        (["readme"], "pipeline.project.readme", ("rewrite", (), {}), None),
        (["ablations"], "pipeline.claims.runner", ("run", ([], 1, False), {}), None),
        (
            ["ablations", "--only", "a", "--only", "b", "-j", "3", "--list"],
            "pipeline.claims.runner",
            ("run", (["a", "b"], 3, True), {}),
            None,
        ),
        (["run"], "pipeline.project.fan_out", ("run", ([], None, [], "embedded"), {}), True),
        (
            ["run", "train", "figure@x", "-j", "2", "--gpus", "0,1", "--profile", "paper"],
            "pipeline.project.fan_out",
            ("run", (["train", "figure@x"], 2, ["0", "1"], "paper"), {}),
            True,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_pass_on_what_they_are_given(project, stand_in, arguments, module, call, result):
    calls = stand_in(module, **{call[0]: result})
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert calls == [call]
    assert done.output == (f"{result}\n" if isinstance(result, Path) else "")


def test_a_file_is_named_from_where_one_is(project, stand_in):
    calls = stand_in("pipeline.project.pull_request", write_comment=Path("c.md"))
    assert run("pr", "v1", "--output", "c.md").exit_code == 0
    assert calls == [("write_comment", ("v1", project / "inner/c.md"), {})]  # though it runs in the root


def test_run_fails_where_a_stage_did(project, stand_in):
    stand_in("pipeline.project.fan_out", run=False)
    assert run("run").exit_code == 1
    assert run("run", "-j", "0").exit_code == 2


@pytest.mark.parametrize(("state", "code"), [("verified", 0), ("missing", 1), ("wrong", 1)])
def test_data_check_sets_the_status(project, monkeypatch, state, code):
    found = [data_check.Entry(data_set="svhn", where="place/x", state=state, says="why")]
    monkeypatch.setattr(data_check, "check", lambda profile: found)
    monkeypatch.setenv("GAN_DATA", "/data")
    done = run("data", "check", "laptop")
    assert done.exit_code == code
    assert done.output.splitlines()[0] == "laptop: real data below GAN_DATA=/data"
    assert "place/x: why" in done.output


@pytest.mark.parametrize("command", [["data", "check"], ["report", "open"], ["turing", "serve"]])
def test_unknown_profiles_are_refused(project, command):
    done = run(*command, "big")
    assert done.exit_code == 1
    assert done.output == f"error: {' '.join(command)}: found the profile 'big'; expected embedded, laptop, paper\n"


def test_any_error_is_a_sentence(project, stand_in):
    stand_in("pipeline.project.readme", rewrite=ZeroDivisionError("division by zero"))
    done = run("readme")
    assert done.exit_code == 1
    first, second = done.output.splitlines()
    assert first == "error: ZeroDivisionError: division by zero"
    assert "--traceback" in second


@pytest.mark.parametrize("error", [InputError("x is missing"), KeyError("x")])
def test_a_flag_shows_where_an_error_arose(project, stand_in, error):
    stand_in("pipeline.project.readme", rewrite=error)
    done = run("--traceback", "readme")
    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.output
    assert done.output.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run("readme").output  # and the next command is plain again


def test_an_interrupt_is_no_error_of_ours(project, stand_in):
    stand_in("pipeline.project.report_pages", write_all=KeyboardInterrupt())
    done = run("report", "--all")
    assert done.exit_code == 130
    assert done.output == "interrupted\n"


def test_report_alone_says_what_it_can(project):
    done = run("report")
    assert done.exit_code == 0
    assert "--all" in done.output


def test_version():
    done = run("--version")
    assert done.exit_code == 0
    assert done.output.startswith("gan-tables ")


# ---- completion ----


def test_completion_names_profiles_and_stages(project):
    (project / "dvc.yaml").write_text("stages:\n  train:\n    foreach: [a]\nplots:\n  curve:\n    x: step\n")
    (project / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train@a:\n    cmd: x\n    deps:\n    - path: y\n")
    (project / "profiles/paper").mkdir(parents=True)
    (project / "profiles/paper/dvc.lock").write_text("schema: '2.0'\nstages:\n  table:\n    cmd: x\n")
    assert completion.stages("t") == ["table", "train", "train@a"]
    assert completion.stages("train@") == ["train@a"]
    assert completion.stages("c") == []  # a plot is no stage
    assert completion.profiles("p") == ["paper"]
    assert tuple(PROFILES) == completion.PROFILE_NAMES


def test_completion_names_claims(project):
    assert completion.claims("") == []
    (project / "reports/embedded/tables").mkdir(parents=True)
    (project / "reports/embedded/tables/claims.csv").write_text("claim,paper\nbeta1,dcgan\nbeta1,dcgan\ntanh,dcgan\n")
    assert completion.claims("b") == ["beta1"]


def test_completion_outside_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completion.stages("t") == []
    assert completion.claims("t") == []


def test_the_shell_is_offered_names(root):
    env = os.environ | {
        "_GAN_TABLES_COMPLETE": "complete_bash", "COMP_WORDS": "gan-tables run table@dcgan", "COMP_CWORD": "2",
        "PYTHONPATH": str(root),
    }  # fmt: skip
    code = "from pipeline.project.cli import app; app(prog_name='gan-tables')"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert {"table@dcgan_table1", "table@dcgan_table2", "table@dcgan_table3"} <= set(done.stdout.split()), done.stderr


def test_the_module_runs_without_heavy_imports(root):
    heavy = {"torch", "dvc", "numpy", "pandas", "pydantic", "ruamel.yaml", "rich"}
    code = f"import sys; import pipeline.project.cli; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
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
    repro = ["-m pipeline.project.dvc_child 0 --wait-for-lock repro dvc.yaml", "-m pipeline.project.cli after-repro"]
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
    assert calls[1:] == ["-m ruff format --check .", "-m ruff check .", "-m pyright", "-m pytest -n 2 --dist loadfile"]
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
