"""Freed memory that stays with the process: page faults are counted in a process of its own."""

import ctypes
import subprocess
import sys

import pytest

from pipeline.training import memory

COUNT = """
import ctypes, resource, sys
from pipeline.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
use(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str, environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, what], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_the_same_blocks_again_cost_no_page_faults(project_env: dict[str, str]):
    """64 MB twenty times: of pages of 4 KB that is 16,384 faults a time, of huge ones still 32."""
    plain, kept = faults("plain", project_env), faults("keep", project_env)
    assert plain >= 20 * 32, "the measurement itself"
    assert kept < 20


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
def test_nothing_happens_without_glibc(platform: str, monkeypatch: pytest.MonkeyPatch):
    """On Linux a C library without ``mallopt`` (musl) is asked for it and left alone; elsewhere none is opened."""
    opened: list[object] = []
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: opened.append(name) or object())
    memory.keep_freed_memory()
    assert opened == ([None] if platform == "linux" else [])
