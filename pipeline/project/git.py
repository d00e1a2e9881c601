"""Git as the project's commands run it: its errors become ours, and a hook's environment does not lead it astray."""

import os
import subprocess
from pathlib import Path

from pipeline.core.errors import InputError

OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def git(*arguments: str, root: Path) -> bytes:
    """Run Git in ``root``; what it prints.

    Raises
    ------
    InputError
        If it is not installed or fails.
    """
    done = _run(arguments, root)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        message = f"git {arguments[0]} failed in {root.resolve()}: {said}; run from a Git checkout of the project"
        raise InputError(message)
    return done.stdout


def succeeds(*arguments: str, root: Path) -> bool:
    """Whether a command of Git ends with status 0, which is how it answers yes.

    Raises
    ------
    InputError
        If Git is not installed.
    """
    return _run(arguments, root).returncode == 0


def environment() -> dict[str, str]:
    """The environment without what Git gives to its hooks, which would lead every git command back to one checkout."""
    return {key: value for key, value in os.environ.items() if key not in OF_HOOKS}


def _run(arguments: tuple[str, ...], root: Path) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["git", *arguments], cwd=root, env=environment(), capture_output=True, check=False)
    except FileNotFoundError as error:
        message = "git was not found; install it, and run from a Git checkout of the project"
        raise InputError(message) from error
