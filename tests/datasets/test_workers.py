"""Workers: results in order whatever their number, one sentence on bad input, and nobody outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest

from pipeline.core.errors import InputError
from pipeline.datasets import workers


def slow_square(number):
    time.sleep(0.02 if number % 3 == 0 else 0)  # early tasks end late
    return number**2, os.getpid()


def refuse(number):
    if number == 3:
        message = "photo 3: not a photo"
        raise InputError(message)
    return number


def opencv_threads(_):
    import cv2

    return cv2.getNumThreads()


def kill_itself(number):
    os.kill(os.getpid(), signal.SIGKILL)


def own_pid(_):
    return os.getpid()


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_results_come_in_order(monkeypatch, count):
    monkeypatch.setenv("GAN_WORKERS", count)
    results = list(workers.parallel(slow_square, range(20)))
    assert [square for square, _ in results] == [number**2 for number in range(20)]
    processes = {process for _, process in results}
    if count == "1":
        assert processes == {os.getpid()}
    else:
        assert os.getpid() not in processes
        assert len(processes) <= int(count)


def test_tasks_may_be_none(monkeypatch):
    for count in ("1", "2"):
        monkeypatch.setenv("GAN_WORKERS", count)
        assert list(workers.parallel(slow_square, [])) == []


@pytest.mark.parametrize("count", ["1", "2"])
def test_bad_input_reaches_the_caller(monkeypatch, count):
    monkeypatch.setenv("GAN_WORKERS", count)
    with pytest.raises(InputError, match=r"^photo 3: not a photo$"):
        list(workers.parallel(refuse, range(8)))
    assert list(workers.parallel(refuse, range(3))) == [0, 1, 2]  # the workers are still good


@pytest.mark.parametrize("count", ["1", "2"])
def test_opencv_is_single_threaded_inside(monkeypatch, count):
    import cv2

    monkeypatch.setenv("GAN_WORKERS", count)
    before = cv2.getNumThreads()
    assert set(workers.parallel(opencv_threads, range(4))) == {1}
    assert cv2.getNumThreads() == before


def test_a_killed_worker_is_a_sentence(monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "2")
    with pytest.raises(InputError, match=r"a worker process was killed from outside.*GAN_WORKERS below 2"):
        list(workers.parallel(kill_itself, range(4)))
    assert list(workers.parallel(refuse, range(3))) == [0, 1, 2]


def test_another_backend_replaces_the_processes(monkeypatch):
    monkeypatch.delenv("GAN_WORKERS", raising=False)
    with joblib.parallel_config(backend="threading", n_jobs=3):
        assert set(workers.parallel(own_pid, range(6))) == {os.getpid()}
    monkeypatch.setenv("GAN_WORKERS", "1")
    with joblib.parallel_config(backend="threading", n_jobs=3):
        assert [square for square, _ in workers.parallel(slow_square, range(9))] == [n**2 for n in range(9)]


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " 2"])
def test_worker_count_must_be_positive(monkeypatch, value):
    monkeypatch.setenv("GAN_WORKERS", value)
    with pytest.raises(InputError, match=r"GAN_WORKERS=.*positive whole number"):
        workers.worker_count()


def test_worker_count(monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "7")
    assert workers.worker_count() == 7
    monkeypatch.delenv("GAN_WORKERS")
    assert 1 <= workers.worker_count() <= (os.cpu_count() or 1)


PARENT = """
import os, sys, time
from pathlib import Path
from pipeline.datasets.workers import parallel

def work(number):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

list(parallel(work, range(2)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_workers_die_with_their_parent(tmp_path, project_env):
    script, pids = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT)
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, script, pids], env=project_env | {"GAN_WORKERS": "2"})
    try:
        wait(lambda: len(list(pids.iterdir())) == 2)
        time.sleep(0.2)  # the workers have set themselves up before they run the task
        found = [int(path.name) for path in pids.iterdir()]
        assert all(map(alive, found))
    finally:
        parent.kill()
        parent.wait()
    wait(lambda: not any(map(alive, found)))


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; one that ended but was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _where(_task):
    return str(Path.cwd())


def test_kept_workers_follow_into_another_folder(tmp_path, monkeypatch):
    """joblib keeps its processes; relative paths of a later run must not lead into an earlier run's folder."""
    monkeypatch.setenv("GAN_WORKERS", "2")
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert set(workers.parallel(_where, range(4))) == {str(folder)}
