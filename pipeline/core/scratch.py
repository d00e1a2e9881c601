"""A crash-safe working folder, keyed by all that decides the result: params, code and data.

A stage that was killed finds its checkpoints again; one whose params, code or data changed starts afresh. The folder
goes away on success, so that ``dvc repro --force`` really runs again.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.core import ranks
from pipeline.core.errors import InputError
from pipeline.core.source_code import fingerprint, imported_files


def scratch_root() -> Path:
    """Where scratch folders lie: ``GAN_SCRATCH``, else ``.work`` of the main checkout (``dvc exp`` copies share it)."""
    return Path(os.environ.get("GAN_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".work")


@contextmanager
def scratch(stage: str, *, script: Path, data: list[Path], **settings: Any) -> Iterator[Path]:
    """Yield the folder for this very computation, locked against a second run of it.

    Of several processes of a launcher the first holds the lock and removes the folder; the others read what it saved.

    Parameters
    ----------
    stage : name of the stage, such as ``train@dcgan_mnist``
    script : the stage's script; its code and all that it imports enter the key
    data : files or folders that the stage reads; their bytes enter the key
    settings : the params in force; anything whose ``repr`` is complete (numbers, text, dataclasses)

    Raises
    ------
    InputError
        If another process is running the same computation.
    """
    inputs = {
        "settings": repr(sorted(settings.items())),
        "code": fingerprint(imported_files(script)),
        "data": fingerprint(data),
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = scratch_root() / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', stage)}-{key}"
    if not ranks.is_first():
        yield folder
        return
    with locked(folder / "lock", f"stage {stage} with the same params, code and data"):
        yield folder
        _clear(folder)
    with suppress(OSError):  # somebody may have begun the same computation again
        folder.rmdir()


def _clear(folder: Path) -> None:
    """Empty a folder whose lock is held: NFS keeps a name for a file that is open, so the folder itself goes later."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def locked(lock_file: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock; the kernel drops it when the process dies, however it dies."""
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        opened = lock_file.open("a+")
    except OSError as error:
        message = f"{lock_file}: cannot be written ({error.strerror}); the place (.work, GAN_SCRATCH) must be writable"
        raise InputError(message) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            message = f"{lock_file}: {what} is already running (process {holder}); wait for it or stop it"
            raise InputError(message) from error
        except OSError as error:
            message = (
                f"{lock_file}: cannot be locked ({error.strerror}); put it where locks work (.work, GAN_SCRATCH): "
                "some network file systems know none, or only when mounted for it"
            )
            raise InputError(message) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
