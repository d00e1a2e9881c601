"""A stage in a process of its own, run to its end or killed; pytest puts the folder of the test files on the path."""

import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(here: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_"))}
    return kept | {"GAN_SCRATCH": str(here / "scratch"), "PYTHONPATH": str(ROOT)}


def said_by_whole(command: list[str], here: Path) -> list[str]:
    """Run to the end; the lines that it said."""
    done = subprocess.run(command, cwd=ROOT, env=environment(here), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [*(here / "scratch").iterdir()], "the scratch folder goes away on success"
    return done.stdout.splitlines()


def said_by_killed(command: list[str], here: Path, out: str, lines: int) -> list[str]:
    """kill -9 once so many lines were said; those, and what else came before it died."""
    with subprocess.Popen(command, cwd=ROOT, env=environment(here), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    assert not (here / out).exists()
    return said
