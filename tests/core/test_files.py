"""Outputs appear whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import files
from pipeline.core.errors import InputError


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "gan-tables-test", str(place)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs here: a full disk cannot be made")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_directory(out, fill):
    with files.whole_directory(out) as partial:
        fill(partial / "a.txt")


def write_file(out, fill):
    with files.whole_file(out) as partial:
        fill(partial)


WRITERS = pytest.mark.parametrize("write", [write_directory, write_file])


def content(out):
    return ((out / "a.txt") if out.is_dir() else out).read_text()


@WRITERS
def test_whole_on_success(tmp_path, write):
    out = tmp_path / "deep/er/out"

    def fill(path):
        path.write_text("new")
        assert not out.exists()  # not before the block has ended

    write(out, fill)
    assert content(out) == "new"
    assert names(out.parent) == ["out"]


@WRITERS
def test_replaces_an_earlier_out(tmp_path, write):
    for text in ("old", "new"):
        write(tmp_path / "out", lambda path, text=text: path.write_text(text))
    assert content(tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_an_earlier_folder_is_not_mixed_with_the_new_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale.txt").write_text("stale")
    write_directory(out, lambda path: path.write_text("new"))
    assert names(out) == ["a.txt"]


@WRITERS
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), InputError("bad")])
def test_nothing_is_left_on_error(tmp_path, write, error):
    def fill(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        write(tmp_path / "out", fill)
    assert caught.value is error
    assert names(tmp_path) == []


@WRITERS
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_earlier_out_survives_a_failed_block(tmp_path, write, error):
    write(tmp_path / "out", lambda path: path.write_text("old"))

    def fill(path):
        path.write_text("half")
        raise error

    with pytest.raises((type(error), InputError)):
        write(tmp_path / "out", fill)
    assert content(tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.core import files
with getattr(files, sys.argv[1])(Path("out")) as partial:
    (partial / "stale.txt" if partial.is_dir() else partial).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("kind", "write"), [("whole_directory", write_directory), ("whole_file", write_file)])
def test_what_a_killed_run_left_goes_away(tmp_path, project_env, kind, write):
    killed = subprocess.run([sys.executable, "-c", KILLED, kind], cwd=tmp_path, env=project_env, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", lambda path: path.write_text("new"))
    assert names(tmp_path) == ["out"]
    assert content(tmp_path / "out") == "new"
    if (tmp_path / "out").is_dir():
        assert names(tmp_path / "out") == ["a.txt"]


def test_write_text_has_unix_line_ends(tmp_path):
    files.write_text(tmp_path / "a/out.txt", "é\nb\n")
    assert (tmp_path / "a/out.txt").read_bytes() == "é\nb\n".encode()


# a disk that does not take it

CAUSES = [
    (errno.ENOSPC, "no space left"),
    (errno.EDQUOT, "quota"),
    (errno.EACCES, "no permission"),
    (errno.EPERM, "no permission"),
    (errno.EROFS, "read-only"),
]


@WRITERS
@pytest.mark.parametrize(("number", "words"), CAUSES)
def test_a_refusing_disk_is_explained(tmp_path, write, number, words):
    def fill(path):
        path.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match=f"out: could not be written: .*{words}.*nothing was replaced"):
        write(tmp_path / "out", fill)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@WRITERS
def test_a_place_that_cannot_be_made_is_explained(tmp_path, monkeypatch, write, number):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="could not be written"):
        write(tmp_path / "out", lambda path: path.write_text("new"))


def test_safetensors_says_the_errno_in_its_text_only(tmp_path):
    error = RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space" }) (os error 28)')
    assert files.os_error_number(error) == errno.ENOSPC

    def fill(path):
        path.write_text("half")
        raise error

    with pytest.raises(InputError, match="no space left"):
        write_file(tmp_path / "out", fill)
    assert names(tmp_path) == []


def test_other_errors_keep_their_kind(tmp_path):
    assert files.os_error_number(ValueError("layer 28 is too wide")) is None
    assert files.os_error_number(RuntimeError("(os error 2)")) is None  # no such file: our own mistake

    def fill(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", "somewhere")

    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "out", fill)


@WRITERS
@pytest.mark.parametrize(
    "kind",
    [
        "bytes",
        # strict: as soon as the bug is mended, these marks go
        "numpy",
        "numpy_large",
    ],
)
def test_a_full_disk(full_disk, write, kind):
    out = full_disk / "out"
    write(out, lambda path: path.write_text("old"))

    def fill(path):
        if kind == "bytes":
            path.write_bytes(bytes(2_000_000))
        else:
            with path.open("wb") as file:
                np.save(file, np.zeros(20_000_000 if kind == "numpy_large" else 2_000_000, dtype=np.uint8))

    with pytest.raises(InputError, match="out: could not be written: no space left on the disk"):
        write(out, fill)
    assert content(out) == "old"
    assert names(full_disk) == ["out"]


def test_a_full_disk_while_tensors_are_saved(full_disk):
    import torch
    from safetensors.torch import save_file

    with (
        pytest.raises(InputError, match="no space left on the disk"),
        files.whole_file(full_disk / "net.safetensors") as out,
    ):
        save_file({"a": torch.zeros(1_000_000)}, out)
    assert names(full_disk) == []


def test_a_failed_last_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_directory(out, lambda path: path.write_text("old"))
    rename = Path.rename

    def refuse(self, target):
        if self.name == ".out.partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        write_directory(out, lambda path: path.write_text("new"))
    assert content(out) == "old"
    assert names(tmp_path) == ["out"]


@WRITERS
def test_an_input_that_may_not_be_read_is_not_called_a_writing_error(tmp_path, write):
    def fill(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/input/images.npy")

    with pytest.raises(InputError, match=r"^/data/input/images.npy: Permission denied, while .*out was being made"):
        write(tmp_path / "out", fill)


def test_a_file_inside_the_unfinished_folder_is_a_writing_error(tmp_path):
    def fill(path):
        inner = path.parent / "deeper"
        inner.mkdir()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(inner / "a.txt"))

    with pytest.raises(InputError, match="could not be written"):
        write_directory(tmp_path / "out", fill)
