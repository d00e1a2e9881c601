"""DVC as ``gan-tables`` and ``make repro`` start it: it writes dvc.lock whole or not at all, and handles it faster.

DVC empties dvc.lock before it writes it anew, which takes a second for a lock as long as ours, after every stage: a run
that is stopped in that moment would lose the entries of other stages. And it reads it anew each time, with a parser
that keeps comments, which takes longer than the writing; params.yaml it reads six times a stage. Here only the entries
that changed are put into YAML again, and what was parsed or written before is not parsed again. What is written has
the same bytes as DVC's own.

    python -m pipeline.project.dvc_child PARENT ARGUMENTS ...    # PARENT: a process that it dies with; 0: none
"""

import ctypes
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest.mock import patch

from pipeline.core.files import write_text

PR_SET_PDEATHSIG = 1
# Seconds to wait after each. On an interrupt DVC clears up: its locks, and the workspace where it changed that.
ON_THE_WAY_OUT = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 60.0))

# dvc.lock -> its text as it was last written here, and the YAML of its head and of each entry, which make up that text
_written: dict[str, tuple[str, list[str]]] = {}


def main(parent: int, arguments: Sequence[str]) -> int:
    """Become DVC; not preexec_fn of the parent, which may deadlock."""
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            print("error: gan-tables run is gone; run it again", file=sys.stderr)
            return 1
    from dvc.cli import main as dvc

    sys.argv = ["dvc", *arguments]  # which DVC writes down beside the files that it has in use
    if not parent:  # else the parent has done it
        forget_all_dead()
    with files_written_whole(), lock_read_plainly(), parsed_once():
        return dvc(list(arguments))


@contextmanager
def files_written_whole() -> Iterator[None]:
    """Within this context DVC replaces its YAML files at once; of dvc.lock it puts only what changed into YAML."""
    from dvc.utils.serialize import _common, _yaml

    entries: dict[str, str] = {}  # of dvc.lock, as they were last written: content -> YAML

    def in_yaml(data: Any, dumper: Callable[..., Any], **options: Any) -> str:
        text = io.StringIO()
        dumper(data, text, **options)
        return text.getvalue()

    def entry_in_yaml(name: str, entry: Any, dumper: Callable[..., Any]) -> str:
        content = repr((name, entry))
        if content not in entries:
            entries[content] = in_yaml({"stages": {name: entry}}, dumper)
        return entries[content]

    def dump(path: str, data: Any, dumper: Callable[..., Any], fs: Any = None, **options: Any) -> None:  # noqa: ARG001
        if Path(path).name == "dvc.lock" and list(data) == ["schema", "stages"] and data["stages"]:
            head = in_yaml({"schema": data["schema"]}, dumper)
            parts = [entry_in_yaml(name, entry, dumper) for name, entry in data["stages"].items()]
            text = head + "stages:\n" + "".join(part.removeprefix("stages:\n") for part in parts)
            write_text(Path(path), text)
            _written[str(path)] = text, [head, *parts]
        else:
            write_text(Path(path), in_yaml(data, dumper, **options))

    with patch.object(_common, "_dump_data", dump), patch.object(_yaml, "_dump_data", dump):
        yield


@contextmanager
def lock_read_plainly() -> Iterator[None]:
    """Within this context DVC reads dvc.lock, which has no comments to keep, with the parser in C, to change it."""
    from dvc.utils.serialize import _yaml

    keeping_comments = _yaml.parse_yaml_for_update

    def parse(text: str, path: str) -> Any:
        return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else keeping_comments(text, path)

    with patch.object(_yaml, "parse_yaml_for_update", parse):
        yield


@contextmanager
def parsed_once() -> Iterator[None]:
    """Within this context DVC parses a YAML file anew only if its text is another, or if comments are to be kept."""
    from dvc.utils.serialize import _yaml

    parse_anew = _yaml.parse_yaml

    @lru_cache(maxsize=1000)
    def pickled(text: str, path: str) -> bytes:
        return pickle.dumps(parse_anew(text, path))

    def parsed(text: str, path: str) -> Any:
        return pickle.loads(pickled(text, path))  # noqa: S301 - from above; a copy, for its reader may change it

    def parse(text: str, path: str, typ: str = "safe") -> Any:
        if typ != "safe":
            return parse_anew(text, path, typ)
        written, parts = _written.get(str(path), ("", []))
        if not parts or text != written:
            return parsed(text, path)
        head, *entries = (parsed(part, path) for part in parts)
        return head | {"stages": {name: entry for one in entries for name, entry in one["stages"].items()}}

    with patch.object(_yaml, "parse_yaml", parse):
        yield


# ---- the parent's part ----


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is in this context as Ctrl-C does, unless they are ignored, as under ``nohup``."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(
    leaders: "Collection[subprocess.Popen[bytes]]", on_the_way_out: Sequence[tuple[int, float]] = ON_THE_WAY_OUT
) -> None:
    """End processes that lead a group of their own, and all that they started, kindly first."""
    for number, patience in on_the_way_out:
        for leader in leaders:
            with suppress(ProcessLookupError):
                os.killpg(leader.pid, number)
        deadline = time.monotonic() + patience
        while leaders and time.monotonic() < deadline:
            leaders = [leader for leader in leaders if leader.poll() is None or _members(leader.pid)]
            time.sleep(0.05)


def _members(group: int) -> list[int]:
    """Numbers of a group's living processes; a zombie, which nobody may collect in a container, does not count."""
    import psutil

    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def forget_the_dead(folder: Path, *, hardlink_lock: bool = False) -> None:
    """Drop what killed DVC commands hold in DVC's list of files in use; to be called under the repository's lock.

    ``folder`` : .dvc/tmp, or .dvc/tmp/exps, where experiments have a list of their own.
    ``hardlink_lock`` : DVC's ``core.hardlink_lock``, as the list is edited under the lock that DVC edits it under:
    experiments do so without the repository's.

    DVC drops an entry itself if no process has its number. In a container, however, the dead may stay as zombies, and
    after a restart other programs soon have the old numbers: every later run would then be refused.

    Raises
    ------
    dvc.lock.LockError
        If another command edits the list for seconds.
    """
    from dvc.lock import make_lock

    path = folder / "rwlock"
    if path.is_file():
        with make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder), hardlink_lock=hardlink_lock):
            _forget_the_dead(path)


def _forget_the_dead(path: Path) -> None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        alive = {
            "read": {file: [one for one in holders if _is_alive(**one)] for file, holders in held["read"].items()},
            "write": {file: holder for file, holder in held["write"].items() if _is_alive(**holder)},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none, or not as DVC 3 writes it: then DVC says what is wrong
    alive["read"] = {file: holders for file, holders in alive["read"].items() if holders}
    if alive != held:
        write_text(path, json.dumps(alive))


def forget_all_dead(root: Path | None = None) -> None:
    """:func:`forget_the_dead` of a project and of its experiments; DVC waits for one that has the lock and is alive."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with suppress(DvcException), Repo(None if root is None else str(root.resolve())) as repo, repo.lock:
        for folder in (Path(repo.tmp_dir or ""), Path(repo.tmp_dir or "") / "exps"):
            forget_the_dead(folder, hardlink_lock=repo.config["core"].get("hardlink_lock", False))


def _is_alive(pid: int, cmd: str) -> bool:
    """Whether a process still is the command that is said to have that number."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return " ".join(process.cmdline()).endswith(cmd.rpartition(" ")[2])
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
