"""What a pass over very many images has found so far, kept on disk, so that a kill loses less than a minute of it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline.core import ranks
from pipeline.core.files import whole_file
from pipeline.models.store import read_tensors, write_tensors

SECONDS_BETWEEN = 30.0


class HalfDone:
    """Tensors of one pass in one file.

    Parameters
    ----------
    file : in the stage's scratch folder, whose name stands for all that decides the result; None: nothing is kept
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._last = time.monotonic()

    def read(self) -> dict[str, torch.Tensor]:
        """What an earlier process kept; empty if there was none."""
        return read_tensors(self._file) if self._file is not None and self._file.exists() else {}

    def keep(self, tensors: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Write what ``tensors`` gives, if the last time is long enough ago; of several processes the first does it."""
        now = time.monotonic()
        if self._file is None or not ranks.is_first() or now - self._last < SECONDS_BETWEEN:
            return
        self._last = now
        with whole_file(self._file) as partial:
            write_tensors(partial, dict(tensors()))


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under names that begin with ``prefix.``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that :func:`prefixed` named so, under their own names."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
