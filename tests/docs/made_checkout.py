"""A committed copy of the project without data and cache, for tests that run what a page says; pytest puts this folder
on the path."""

import os
import subprocess
import sys
from pathlib import Path

import made_project

TINY = ("  n_steps: 20000\n", "  n_steps: 200\n")  # toy_games, in the root's params


def environment(folder):
    """Nothing of the user's DVC or of an enclosing run; ``gan-tables`` is that of the copy."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_", "GIT_", "PYTHON"))}
    return kept | {
        "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),  # before an installed checkout
        "SHELL": "/bin/sh",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
    }


def make_checkout(root, folder):
    """Copy, make the toy games tiny, commit."""
    made_project.without_data(root, folder)
    params = folder / "params.yaml"
    text = params.read_text()
    assert text.count(TINY[0]) == 1
    params.write_text(text.replace(*TINY))
    command = folder / "bin" / "gan-tables"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline.project.cli "$@"\n')
    command.chmod(0o755)
    settings = (["config", "user.name", "test"], ["config", "user.email", "test@example.org"])
    for arguments in (["init", "--quiet"], *settings, ["add", "."], ["commit", "--quiet", "-m", "copy"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, env=environment(folder))
    return folder


def run_shell(script, folder):
    """Standard output of a block of commands, each of which has to end well."""
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
