"""Outputs appear whole or not at all: written under a temporary name beside their place, then renamed."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import InputError


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``out`` when the block ends well and is removed when it does not.

    Raises
    ------
    InputError
        If the disk is full or the place may not be written; an earlier ``out`` is then untouched.
    """
    partial = _partial(out)
    with _explained(out):
        _remove(partial)  # left by a killed run
        partial.mkdir(parents=True)
        try:
            yield partial
            old = out.with_name(f".{out.name}.old.partial")
            _remove(old)
            _swap(partial, out, old)
            _remove(old)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Yield a path to write; it replaces ``out`` when the block ends well. Errors as :func:`whole_directory`."""
    partial = _partial(out)
    with _explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        try:
            yield partial
            partial.replace(out)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_text(out: Path, text: str) -> None:
    """Write a small text file whole, with Unix line ends on every platform."""
    with whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def _swap(partial: Path, out: Path, old: Path) -> None:
    """Put ``partial`` in the place of ``out``; if that fails, ``out`` is what it was."""
    existed = out.exists()
    if existed:
        out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        if existed:
            old.rename(out)
        raise


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_CAUSES = {
    errno.ENOSPC: "no space left on the disk; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "no permission to write there; change the permissions or the owner",
    errno.EPERM: "no permission to write there; change the permissions or the owner",
    errno.EROFS: "the file system is read-only; write elsewhere or remount it",
}


def os_error_number(error: BaseException) -> int | None:
    """The errno behind an error; safetensors (Rust) reports it only in its text, as ``(os error 28)``."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if isinstance(error, OSError) and re.search(r"requested and \d+ written|Not enough free space", text):
        return errno.ENOSPC  # NumPy's tofile sets no errno
    for number in _CAUSES:
        if f"os error {number})" in text:
            return number
    return None


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        number = os_error_number(error)
        if isinstance(error, InputError) or number not in _CAUSES:
            raise
        place = getattr(error, "filename", None)
        if isinstance(place, str | Path) and not _belongs(Path(place).absolute(), out.absolute()):
            message = f"{place}: {os.strerror(number)}, while {out} was being made; nothing was replaced"
            raise InputError(message) from error
        message = f"{out}: could not be written: {_CAUSES[number]} and run the stage again; nothing was replaced"
        raise InputError(message) from error


def _belongs(place: Path, out: Path) -> bool:
    """Whether writing ``out`` touches ``place``: its folders (they may have to be made) or the unfinished one."""
    return place.parent in out.parents or place in out.parents or _partial(out) in place.parents
