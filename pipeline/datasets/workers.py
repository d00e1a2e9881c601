"""Several processes over independent tasks: results in the order of the tasks, whatever the number of workers."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def worker_count() -> int:
    """Processes to use: ``GAN_WORKERS``, else the CPUs that this process may use (affinity and container limits).

    Raises
    ------
    InputError
        If ``GAN_WORKERS`` is not a positive whole number.
    """
    value = os.environ.get("GAN_WORKERS")
    if not value:
        import joblib

        return joblib.cpu_count()
    if not value.isdecimal() or int(value) < 1:
        message = (
            f"GAN_WORKERS={value!r}: expected a positive whole number of worker processes; unset it to use all CPUs"
        )
        raise InputError(message)
    return int(value)


def parallel(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for each task, in order, as soon as each is there.

    The function and the tasks are pickled; results should be small, because those that come early wait in memory.
    A surrounding ``joblib.parallel_config(backend=...)`` (Dask, Ray) replaces the local processes and decides their
    number. OpenCV runs single-threaded inside, so that the number of workers does not change its sums.

    Raises
    ------
    InputError
        As raised by the function; or if a worker process was killed from outside.
    """
    import joblib

    # With no configuration of somebody else's in force this is 1.
    configured = joblib.effective_n_jobs(None) > 1  # pyright: ignore[reportArgumentType]
    count = worker_count()
    if count == 1 and not configured:
        for task in tasks:
            yield _in_process(function, task)
        return
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pool = joblib.Parallel(n_jobs=None if configured else count, return_as="generator")
    call = joblib.delayed(_in_worker)
    try:
        results: Any = pool(call(function, task, os.getpid(), Path.cwd()) for task in tasks)
        yield from results
    except TerminatedWorkerError as error:
        message = (
            f"a worker process was killed from outside, often for lack of memory: set GAN_WORKERS below {count} "
            "and run again"
        )
        raise InputError(message) from error


def _in_process(function: Callable[[Task], Result], task: Task) -> Result:
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return function(task)
    finally:
        cv2.setNumThreads(threads)


def _in_worker(function: Callable[[Task], Result], task: Task, parent: int, folder: Path) -> Result:
    """Run in a worker process. Set up at each task, not by an initializer: not every joblib backend has those."""
    if os.getppid() == parent and Path.cwd() != folder:
        os.chdir(folder)  # joblib keeps its workers where they were started: relative paths would lead there
    import cv2

    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    die_with(parent)
    return function(task)


def die_with(parent: int) -> None:
    """Ask Linux to end this worker when the process that started it dies: it would else go on writing for a while.

    Does nothing where ``parent`` is not the parent of this process, as in a cluster's worker.
    """
    if sys.platform == "linux" and os.getppid() == parent:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
