"""Scratch folders: the same computation finds its folder again, another one gets its own, two never share one."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.scratch import scratch, scratch_root

SCRIPT = Path("stages/toy.py")
DATA = Path("data/set")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of one script and one data folder, as working directory."""
    for name in ("GAN_SCRATCH", "DVC_ROOT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for path, text in ((SCRIPT, "print(1)\n"), (DATA / "a.bin", "abc")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def interrupted(stage="train@toy", **settings):
    """Folder of a run that was stopped half-way."""
    folders = []

    def work():
        with scratch(stage, script=SCRIPT, data=[DATA], **settings or {"beta1": 0.5}) as folder:
            folders.append(folder)
            (folder / "checkpoint").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    return folders[0]


def test_the_same_inputs_find_the_checkpoint_again():
    folder = interrupted()
    assert (folder / "checkpoint").read_text() == "half"
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as again:
        assert again == folder
        assert (again / "checkpoint").read_text() == "half"
    assert not folder.exists()


def test_removed_on_success():
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as folder:
        assert folder.is_dir()
        assert list(folder.glob("checkpoint")) == []
    assert not folder.exists()
    assert list(Path(".work").iterdir()) == []


def test_removed_where_an_open_file_keeps_a_name(monkeypatch):
    """As on NFS: what is unlinked while it is open stays under another name until it is closed."""
    unlink, kept = os.unlink, []

    def silly(path, *arguments, **options):
        if str(path).endswith("lock"):
            kept.append(Path(path).with_name(".nfs0001"))
            Path(path).rename(kept[0])
        else:
            unlink(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", silly)
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as folder:
        (folder / "checkpoint").write_text("whole")
        (folder / "parts").mkdir()
        (folder / "parts/1").write_text("1")
    assert kept == list(folder.iterdir())  # and no error


def test_a_file_system_without_locks_is_a_sentence(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(InputError, match=r"lock: cannot be locked \(Function not implemented\)"),
        scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5),
    ):
        pass


def test_the_order_of_settings_does_not_matter():
    assert interrupted(beta1=0.5, l2=1e-5) == interrupted(l2=1e-5, beta1=0.5)


def test_changed_params_get_another_folder():
    folders = {interrupted(beta1=0.5), interrupted(beta1=0.9), interrupted(beta2=0.5), interrupted(beta1="0.5")}
    assert len(folders) == 4


def test_changed_code_gets_another_folder():
    before = interrupted()
    SCRIPT.write_text("print(2)\n")
    assert interrupted() != before
    SCRIPT.write_text("print(1)\n")
    assert interrupted() == before


def test_changed_code_of_an_import_gets_another_folder():
    script, library = Path("stages/importer.py"), Path("pipeline/library.py")
    script.write_text("def main():\n    from pipeline import library\n")
    library.parent.mkdir()
    folders = []
    for text in ("a = 1\n", "a = 2\n"):
        library.write_text(text)
        with scratch("toy", script=script, data=[]) as folder:
            folders.append(folder)
    assert folders[0] != folders[1]


def test_changed_data_get_another_folder():
    before = interrupted()
    (DATA / "a.bin").write_text("abd")
    changed = interrupted()
    (DATA / "a.bin").write_text("abc")
    (DATA / "b.bin").write_text("")
    added = interrupted()
    (DATA / "b.bin").unlink()
    assert len({before, changed, added}) == 3
    assert interrupted() == before


def test_another_stage_gets_another_folder():
    assert interrupted("train@toy") != interrupted("train@other")


def test_the_stage_is_readable_in_the_folders_name():
    name = interrupted("profiles/paper/dvc.yaml:train@toy").name
    assert re.fullmatch(r"[A-Za-z0-9_.-]+train_toy-[0-9a-f]{16}", name)


def test_gan_scratch_and_dvc_root(tmp_path, monkeypatch):
    assert scratch_root() == Path(".work")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert scratch_root() == tmp_path / "main/.work"
    assert interrupted().is_relative_to(tmp_path / "main/.work")
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "fast"))
    assert scratch_root() == tmp_path / "fast"
    assert interrupted().is_relative_to(tmp_path / "fast")


def test_the_other_processes_of_a_launcher_read_beside_the_first_one(monkeypatch):
    """No lock of their own, and the folder stays when they are done."""
    before = interrupted()
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as folder:
        monkeypatch.setenv("RANK", "1")
        with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as beside:
            assert beside == folder == before
            assert (beside / "checkpoint").read_text() == "half"
        assert folder.is_dir()
        monkeypatch.setenv("RANK", "0")
    assert not folder.exists()


def test_another_process_than_the_first_makes_no_folder(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as folder:
        assert not folder.exists()
    assert not Path(".work").exists()


HOLDER = """
import sys
from pathlib import Path
from pipeline.core.scratch import scratch
with scratch("train@toy", script=Path("stages/toy.py"), data=[Path("data/set")], beta1=0.5) as folder:
    (folder / "checkpoint").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_until_the_first_is_gone(project, project_env):
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(
        command, cwd=project, env=project_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        folder = Path(holder.stdout.readline().strip())
        with (
            pytest.raises(InputError) as caught,
            scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5),
        ):
            pytest.fail("two runs share a scratch folder")
        with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.9) as other:
            assert other != folder
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    message = str(caught.value)
    assert str(folder) in message
    assert "stage train@toy" in message
    assert f"is already running (process {holder.pid})" in message
    with scratch("train@toy", script=SCRIPT, data=[DATA], beta1=0.5) as again:
        assert again == folder
        assert (again / "checkpoint").read_text() == "half"
        assert (again / "lock").read_text() == f"{os.getpid()}\n"
