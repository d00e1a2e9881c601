"""Remotes as docs/remotes.md sets them up: pushed to a directory, pulled over HTTP, and `repro --pull` elsewhere."""

import functools
import os
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

GRAPH = """\
stages:
  data:
    cmd: python -c "print('d' * 1000)" > data.txt
    outs:
      - data.txt
  train:
    cmd: cat data.txt params.yaml > model.txt
    deps:
      - data.txt
    params:
      - beta1
    outs:
      - model.txt
  table:
    cmd: cat model.txt > table.txt && echo ${decimals} >> table.txt
    deps:
      - model.txt
    params:
      - decimals
    outs:
      - table.txt
"""


class Store(SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for."""

    def log_message(self, *_):
        self.server.asked.append((self.command, self.path))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """No settings of the user, nothing of an enclosing DVC run or Git hook."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_", "GIT_", "PYTHON"))}
    settings = tmp_path_factory.mktemp("settings")
    folders = {f"DVC_{kind}_DIR": str(settings / kind) for kind in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | folders | {"PATH": path, "SHELL": "/bin/sh", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="module")
def dvc(environment):
    def call(folder, *arguments, fails=False):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def git(environment):
    def call(folder, *arguments):
        names = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, check=True, capture_output=True)

    return call


@pytest.fixture(scope="module")
def first_push(root, tmp_path_factory, dvc, git):
    """A folder with a project that has our DVC settings and was run, and the store that it was pushed to."""
    folder = tmp_path_factory.mktemp("remotes")
    project = folder / "project"
    project.mkdir()
    git(project, "init", "--quiet")
    dvc(project, "init", "--quiet")
    shutil.copyfile(root / ".dvc" / "config", project / ".dvc" / "config")
    (project / "dvc.yaml").write_text(GRAPH)
    (project / "params.yaml").write_text("beta1: 0.5\ndecimals: 2\n")
    (project / ".gitignore").write_text("/*.txt\n")
    dvc(project, "remote", "add", "rw", "../store")  # DVC notes it relative to .dvc/config: the folder can be copied
    dvc(project, "repro", "--quiet")
    dvc(project, "push", "--remote", "rw")
    return folder


@pytest.fixture
def store(first_push, tmp_path):
    return shutil.copytree(first_push / "store", tmp_path / "store")


@pytest.fixture
def server(store):
    """The store, over HTTP on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Store, directory=str(store))) as serving:
        serving.asked = []
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def pushed(first_push, tmp_path, server, dvc, git):
    """The project, committed; its default remote is the store over HTTP."""
    project = shutil.copytree(first_push / "project", tmp_path / "project")
    dvc(project, "remote", "add", "--default", "public", f"http://127.0.0.1:{server.server_address[1]}")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "run")
    return project


@pytest.fixture
def clone(pushed, tmp_path, git):
    git(tmp_path, "clone", "--quiet", str(pushed), "clone")
    return tmp_path / "clone"


def outs(folder):
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def test_what_was_pushed_to_a_directory_is_pulled_over_http(pushed, clone, server, dvc):
    assert outs(clone) == {}
    said = dvc(clone, "pull")
    assert "3 files fetched" in said
    assert outs(clone) == outs(pushed)
    assert server.asked
    assert {command for command, _ in server.asked} <= {"GET", "HEAD"}
    assert "up to date" in dvc(clone, "status")


def test_a_private_directory_overrides_the_public_address(pushed, clone, server, store, dvc):
    dvc(clone, "remote", "add", "--default", "--local", "mirror", str(store))
    dvc(clone, "pull", "model.txt")
    assert outs(clone) == {"model.txt": outs(pushed)["model.txt"]}
    assert server.asked == []


def test_repro_in_another_clone_pulls_what_it_needs_and_no_more(pushed, clone, dvc):
    said = dvc(clone, "repro", "--pull", "--allow-missing")
    assert "Running stage" not in said

    (clone / "params.yaml").write_text("beta1: 0.5\ndecimals: 3\n")
    said = dvc(clone, "repro", "--pull", "--allow-missing")
    assert [line for line in said.splitlines() if line.startswith("Running")] == ["Running stage 'table':"]
    expected = outs(pushed)["model.txt"]
    assert outs(clone)["model.txt"] == expected
    assert outs(clone)["table.txt"] == expected + "3\n"
    assert "data.txt" not in outs(clone)


def test_a_run_that_somebody_pushed_is_not_run_again(pushed, clone, store, dvc):
    """Run records travel through a directory (or S3), not over HTTP."""
    changed = "beta1: 0.9\ndecimals: 2\n"
    (pushed / "params.yaml").write_text(changed)
    dvc(pushed, "repro", "--quiet")
    dvc(pushed, "push", "--run-cache", "--remote", "rw")
    dvc(clone, "remote", "add", "--default", "--local", "mirror", str(store))
    (clone / "params.yaml").write_text(changed)
    said = dvc(clone, "repro", "--pull", "--allow-missing")
    assert "Stage 'train' is cached" in said
    assert "Running stage" not in said
    assert outs(clone)["table.txt"] == outs(pushed)["table.txt"]


def test_a_store_that_lacks_a_file_and_a_project_without_remote_are_named(clone, store, dvc):
    shutil.rmtree(store / "files")
    assert "missing-files" in dvc(clone, "pull", fails=True)
    dvc(clone, "remote", "remove", "public")
    assert "no remote" in dvc(clone, "pull", fails=True).lower()
