"""Which process this is of those that a launcher such as ``torchrun`` started; alone without one."""

import os


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes, holds locks and talks."""
    return rank() == 0
