"""batch(step): the same step always gives the same images, so that a resumed run needs no loader state."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.core.errors import InputError
from pipeline.core.images import to_unit
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Real images and their labels."""

    images: torch.Tensor  # (B, C, H, W) float32 in [0, 1]
    labels: torch.Tensor  # (B, 10) float32, one-hot


class Batches:
    """Shuffled batches of one split; each epoch is a fresh permutation, its last partial batch is kept."""

    def __init__(
        self, image_set: ImageSet, split: str, *, classes: int, batch_size: int, seed: int, device: str
    ) -> None:
        self._set = image_set
        self._rows = image_set.rows(split)
        self._labels = image_set.labels(self._rows)
        self._classes = classes
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self.per_epoch = -(-len(self._rows) // batch_size)
        if len(self._rows) % batch_size == 1:
            message = (
                f"{image_set.path}: {len(self._rows)} images in split '{split}' leave a last batch of one image at "
                f"batch_size {batch_size}, which has no batch statistics; choose another batch_size"
            )
            raise InputError(message)

    def batch(self, step: int) -> Batch:
        """The batch of this step, counted over all epochs."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = numpy_stream(self._seed, "shuffle", epoch).permutation(len(self._rows))
            self._epoch = epoch
        chosen = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        images = self._set.images[self._rows[chosen]]
        return Batch(
            images=to_unit(images, self._device), labels=one_hot(self._labels[chosen], self._classes, self._device)
        )


def one_hot(labels: np.ndarray, classes: int, device: str) -> torch.Tensor:
    """int (B,) -> float32 (B, classes)."""
    return F.one_hot(torch.from_numpy(labels), classes).to(device=device, dtype=torch.float32)
