"""batch(step): the same step always gives the same images, so that a resumed run needs no loader state."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core import ranks
from pipeline.core.compute import to_device
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import Architecture, conditioned, sides, to_network
from pipeline.models.mnist import CLASSES


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Real images, and their labels if the networks take any.

    Attributes
    ----------
    images : float32 (B, C, H, W), in the range of the generator's output; (0, C, H, W) if none were asked for
    condition : one float32 (B, 10), one-hot, or nothing
    size : images of the whole batch, of which these are the rows ``mine``: all, unless several processes share it
    """

    images: torch.Tensor
    condition: tuple[torch.Tensor, ...]
    size: int
    mine: slice


class Batches:
    """Shuffled batches of one split, read from the memory map; each epoch is a fresh permutation.

    The last partial batch of an epoch is kept; shared by n processes, it loses what is beyond a multiple of n.
    """

    def __init__(
        self, image_set: ImageSet, split: str, architecture: Architecture, *, batch_size: int, seed: int, device: str
    ) -> None:
        self._set = image_set
        self._rows = image_set.rows(split)
        self._labels = image_set.labels(self._rows)
        self._architecture = architecture
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self.per_epoch = -(-len(self._rows) // batch_size)
        self._check()

    def _check(self) -> None:
        expected, found = sides(self._architecture), self._set.images.shape[1:]
        if found != expected:
            message = (
                f"{self._set.path}: images of {_said(found)}, the networks {self._architecture.name} take "
                f"{_said(expected)}; name another dataset or architecture"
            )
            raise InputError(message)
        if len(self._rows) < self._batch_size:
            message = (
                f"{self._set.path}: {len(self._rows)} images, fewer than one batch of {self._batch_size}; lower "
                f"batch_size to at most {len(self._rows)}"
            )
            raise InputError(message)
        least = 2 * ranks.world_size()
        if 0 < (last := len(self._rows) % self._batch_size) < least:
            one = "one image" if last == 1 else f"{last} images"
            message = (
                f"{self._set.path}: {len(self._rows)} images leave a last batch of {one} at batch_size "
                f"{self._batch_size}, which has no batch statistics ({least} are needed); choose another batch_size"
            )
            raise InputError(message)
        if conditioned(self._architecture) and not ((self._labels >= 0) & (self._labels < CLASSES)).all():
            message = (
                f"{self._set.path}: a conditional network needs labels 0..{CLASSES - 1}, found "
                f"{self._labels.min()}..{self._labels.max()}; name another dataset or architecture"
            )
            raise InputError(message)

    def batch(self, step: int, *, with_images: bool = True) -> Batch:
        """The batch of this step, counted over all epochs, or this process's part of it.

        ``with_images=False``: none are read, as no update of G alone looks at them; labels and size are the same.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = numpy_stream(self._seed, "shuffle", epoch).permutation(len(self._rows))
            self._epoch = epoch
        chosen = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        part = len(chosen) // ranks.world_size()
        mine = slice(ranks.rank() * part, (ranks.rank() + 1) * part)
        size, chosen = part * ranks.world_size(), chosen[mine]
        read = self._rows[chosen] if with_images else self._rows[:0]
        images = to_network(self._architecture, self._set.images[read], self._device)
        condition: tuple[torch.Tensor, ...] = ()
        if conditioned(self._architecture):
            condition = (one_hot(self._labels[chosen], CLASSES, self._device),)
        return Batch(images=images, condition=condition, size=size, mine=mine)


def one_hot(labels: np.ndarray, classes: int, device: str) -> torch.Tensor:
    """int (B,) -> float32 (B, classes)."""
    return to_device(F.one_hot(torch.from_numpy(labels), classes).to(torch.float32), device)


def _said(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
