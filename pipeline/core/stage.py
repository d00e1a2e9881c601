"""How a stage script runs: dies with DVC, refuses a twin, says bad input in a sentence, records how long it took."""

import ctypes
import functools
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from pipeline.core import ranks
from pipeline.core.errors import InputError
from pipeline.core.scratch import locked

RUN_RECORD = Path(".work/runs.jsonl")  # untracked: times never enter a tracked output


def name(default: str) -> str:
    """Name of the running stage: ``DVC_STAGE`` without its file, as in ``dvc.yaml:train@x``, or ``default``."""
    return os.environ.get("DVC_STAGE", default).rpartition(":")[2]


def _dvc_yaml() -> Path | None:
    """The file that the running stage is of: it lies beside the params, each command's first argument."""
    beside = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    return beside.with_name("dvc.yaml") if beside.name == "params.yaml" else None


def _address() -> str:
    """The running stage as DVC names it in the project's root, ``profiles/paper/dvc.yaml:train@x``; else the command.

    ``DVC_STAGE`` is seen from the folder in which DVC was started: in ``profiles/paper`` it is ``train@x`` alone.
    """
    if "DVC_STAGE" not in os.environ:
        return " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    dvc_yaml = _dvc_yaml()
    if dvc_yaml is None:
        return os.environ["DVC_STAGE"]
    return name("") if dvc_yaml == Path("dvc.yaml") else f"{dvc_yaml.as_posix()}:{name('')}"


def _say(error: InputError) -> None:
    """Print the sentence; where it tells to run ``dvc repro``, also how that is done in the profile of this stage."""
    print(f"error: {error}", file=sys.stderr)
    dvc_yaml = _dvc_yaml() or Path("dvc.yaml")
    if "dvc repro" in str(error) and dvc_yaml != Path("dvc.yaml"):
        print(f"stages of this profile are named so: dvc repro {dvc_yaml.as_posix()}:STAGE", file=sys.stderr)


_counted: dict[str, int] = {}


def counted(**amounts: int) -> None:
    """Put what the running stage worked through, such as ``images=6900``, into the run record, which gives the rate."""
    _counted.update(amounts)


def run(main: Callable[..., None], *, several_processes: bool = False) -> None:
    """Run ``main`` with the command line's arguments; exit status 1 and one sentence on bad input.

    Of several processes that a launcher started only the first runs, unless the stage knows how to share its work:
    ``several_processes``. Locks and records are the first one's.
    """
    _die_with_parent()
    if not ranks.is_first() and not several_processes:
        return

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> None:
        address = _address()
        started = time.time()
        status = "failed"
        try:
            # a command line may be longer than the name of a file
            digest = hashlib.sha256(address.encode()).hexdigest()[:16]
            lock = Path(".work/locks") / f"{re.sub(r'[^A-Za-z0-9_.@-]+', '_', address)[:100]}-{digest}"
            with locked(lock, f"stage {address}") if ranks.is_first() else nullcontext():
                main(*args, **kwargs)
            status = "done"
        except InputError as error:
            _say(error)
            raise SystemExit(1) from None
        finally:
            if ranks.is_first():
                _record(address, started, status)

    typer.run(guarded)


def _record(address: str, started: float, status: str) -> None:
    row: dict[str, Any] = {
        "stage": address,
        "started": round(started),
        "seconds": round(time.time() - started, 2),
        "status": status,
    }
    row |= _counted
    try:
        RUN_RECORD.parent.mkdir(exist_ok=True)
        with RUN_RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:  # a record of times is never worth a failed stage
        print(f"note: {RUN_RECORD}: {error.strerror}", file=sys.stderr)


def _die_with_parent() -> None:
    """Ask Linux to end this process when DVC dies; a killed dvc would else leave an orphan that goes on writing."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # DVC may have died before that request, while modules were loading. The process that then adopted this one is of
    # another session. A launcher may be, too, so only a stage that DVC started itself can tell.
    started_by_dvc = "DVC_STAGE" in os.environ and not os.environ.get("GAN_LAUNCH")
    if started_by_dvc and os.getsid(os.getppid()) != os.getsid(0):
        print("error: the dvc that started this stage is gone; run dvc repro again", file=sys.stderr)
        raise SystemExit(1)
