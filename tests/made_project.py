"""A project made in a test, that the real DVC runs; and processes that a test has started."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

NOT_COPIED = {".git", ".venv", ".work", "data", "cache", "tmp", "config.local", "dvc_plots", ".hypothesis"}


def dvc(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run DVC, which has to succeed; what it prints."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def environment(folder: Path, *, without: tuple[str, ...] = ()) -> Iterator[pytest.MonkeyPatch]:
    """In this context DVC keeps its site cache beside ``folder``, and stages find this Python.

    Parameters
    ----------
    without : beginnings of names of variables that would lead to another checkout
    """
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith(without)]:
            patch.delenv(key)
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield patch


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write text files; a name that ends with a slash is an empty folder."""
    for name, text in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def copied(project: Path, target: Path, *left_out: str) -> Path:
    """A copy to work in; what DVC has under way in the original is not copied."""
    shutil.copytree(project, target, ignore=shutil.ignore_patterns("tmp", *left_out))
    return target


def without_data(root: Path, target: Path) -> Path:
    """A copy of this project to run DVC in, without data, caches, and what is under way in the original.

    The profiles are left out of DVC's sight: three graphs take it three times as long to read.
    """
    shutil.copytree(
        root, target, ignore=lambda _, names: {n for n in names if n in NOT_COPIED or n.endswith(("cache__", "_cache"))}
    )
    with (target / ".dvcignore").open("a") as ignored:
        ignored.write("/profiles/*/dvc.yaml\n")
    return target


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until something is so, as long as the process that is to bring it about lives."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        if process is not None and process.poll() is not None:
            pytest.fail(process.communicate()[0])
        time.sleep(0.05)


def is_dead(member: psutil.Process) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return member.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
