"""Labelled samples of a conditional generator, as a stream of 8-bit images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.images import from_unit
from pipeline.core.seeding import torch_stream
from pipeline.models.build import uniform_z
from pipeline.models.mnist import CLASSES
from pipeline.training.batches import one_hot


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A batch of generated images."""

    images: np.ndarray  # uint8 (B, H, W, C)
    labels: np.ndarray  # int64 (B,)


def balanced_labels(n: int) -> np.ndarray:
    """0, 1, ..., 9, 0, 1, ...: every class equally often, and mixed in every batch.

    Mixed classes matter: G normalises by the statistics of the batch, and a batch of one class has other statistics
    than the mixed batches of training.
    """
    return np.arange(n, dtype=np.int64) % CLASSES


def sample_batches(
    generator: nn.Module,
    *,
    z_dim: int,
    seed: int,
    stream: str,
    batch_size: int,
    first: int,
    last: int,
    compute: Compute,
) -> Iterator[Samples]:
    """Batches ``first`` to ``last - 1`` of an endless stream; batch i is the same whatever came before it.

    Parameters
    ----------
    stream : name of the random stream; batch i draws its z from (seed, stream, i)
    batch_size : images a batch, a multiple of 10; batch statistics make it part of the result
    """
    labels = balanced_labels(batch_size)
    y = one_hot(labels, CLASSES, compute.device)
    for number in range(first, last):
        z = uniform_z(batch_size, z_dim, torch_stream(seed, stream, number))
        with torch.inference_mode(), autocast(compute):
            images = generator(z.to(compute.device), y)
        yield Samples(images=from_unit(images), labels=labels)
