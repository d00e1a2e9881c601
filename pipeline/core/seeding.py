"""Named random streams: (seed, name, index) -> generator, the same in every process and on every machine.

A resumed run needs no saved random state: step ``i`` draws from stream ``i``.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # stages and workers that only need NumPy should not pay a second for it


def stream_seed(seed: int, name: str, index: int = 0) -> int:
    """63-bit seed of the stream ``(seed, name, index)``; not ``hash()``, which is salted for text."""
    digest = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_stream(seed: int, name: str, index: int = 0, device: str = "cpu") -> "torch.Generator":
    """Generator of the stream. On the CPU, so that every device sees the same z; noise of many values on the device."""
    import torch

    return torch.Generator(device).manual_seed(stream_seed(seed, name, index))


def numpy_stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """NumPy generator of the stream."""
    return np.random.default_rng(stream_seed(seed, name, index))
