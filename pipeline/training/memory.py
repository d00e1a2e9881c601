"""How the process gives memory back."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # glibc's malloc.h
AHEAD = 2**28  # bytes that are asked of the system at once


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, where glibc would hand every large block back to the system.

    The next step asks for the same blocks again, and the system hands out each page by a fault and zeroed: that took a
    tenth of a step of ten MNIST networks. Nothing happens where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(MMAP_MAX, 0)
    mallopt(TRIM_THRESHOLD, -1)
    mallopt(TOP_PAD, AHEAD)
