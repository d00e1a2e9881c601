"""Batches of several semi-supervised networks at once: few labelled images, tiled, and all of them without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Gt

from pipeline.core.compute import to_device
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.datasets.splits import labelled_subset


@section
class Pixels:
    """How a network sees a pixel of 0 to 255: (pixel - offset) / divisor, the range of G's output."""

    offset: float
    divisor: Annotated[float, Gt(0)]


class Member(NamedTuple):
    """One of the networks that are trained together.

    Attributes
    ----------
    split : which images have a label
    seed : of the initial parameters, the order of the data and all noise
    """

    split: int
    seed: int

    def name(self, what: str) -> str:
        """Name of this member's stream of random numbers."""
        return f"{what}/split {self.split}"

    def stream(self, what: str, index: int = 0, device: str = "cpu") -> torch.Generator:
        """The same numbers for this member whichever others are trained beside it; on a device, that device's."""
        return torch_stream(self.seed, self.name(what), index, device)


@dataclass(frozen=True, kw_only=True)
class SemisupervisedBatch:
    """Images are float32 (S, B, C, H, W) in the range of G's output, each member's own.

    Attributes
    ----------
    labelled, labels : one of each, labels int64 (S, B); or nothing, where no image has a label
    unlabelled : what D sees
    matched : what feature matching compares the generated images with: another order of the same images
    """

    labelled: tuple[torch.Tensor, ...]
    labels: tuple[torch.Tensor, ...]
    unlabelled: torch.Tensor
    matched: torch.Tensor


class SemisupervisedBatches:
    """batch(step): the same step always gives the same images.

    An epoch is one pass over all training images (splits ``train`` and, if there is one, ``validation``; the labelled
    ones are among them), in whole batches: what is left over is dropped (authors' code). D and feature matching each
    have their own order of them. The labelled images are tiled to the same length, with a fresh permutation per tile.
    """

    def __init__(
        self,
        image_set: ImageSet,
        *,
        members: Sequence[Member],
        n_labels: int,
        n_classes: int,
        batch_size: int,
        pixels: Pixels,
        device: str,
    ) -> None:
        self.members = list(members)
        self._images, self._batch_size, self._pixels, self._device = image_set.images, batch_size, pixels, device
        self._rows = training_rows(image_set)
        if len(self._rows) < batch_size:
            message = (
                f"{image_set.path}: {len(self._rows)} training images, fewer than one batch of {batch_size}; lower "
                f"batch_size to at most {len(self._rows)}"
            )
            raise InputError(message)
        self._labels = image_set.labels(np.arange(len(image_set.images)))
        # (S, n_labels), rows of the set
        self.labelled_rows = np.stack(
            [draw_labelled(image_set, member.split, n_labels, n_classes) for member in self.members]
        )
        self._subsets = self.labelled_rows.copy()  # as drawn: what the alarm compares with
        self.per_epoch = len(self._rows) // batch_size
        self._epoch = -1
        self._orders: dict[str, np.ndarray] = {}  # of the present epoch: rows of the set, (S, per_epoch * batch_size)
        self._seen = np.empty((0,))
        self._served = 0

    def batch(self, step: int, *, labels_only: bool = False, matching: bool = True) -> SemisupervisedBatch:
        """The batch of this step, counted over all epochs.

        With ``labels_only`` it has no other images, (S, 0, ...); without ``matching`` none to match features with.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        chosen = slice(position * self._batch_size, (position + 1) * self._batch_size)
        labelled: tuple[torch.Tensor, ...] = ()
        labels: tuple[torch.Tensor, ...] = ()
        if self.labelled_rows.size:
            places = self._orders["labelled"][:, chosen]
            rows = np.take_along_axis(self.labelled_rows, places, axis=1)
            np.put_along_axis(self._seen, rows, values=True, axis=1)
            self._served += 1
            labelled = (self._gathered(rows),)
            labels = (to_device(torch.from_numpy(self._labels[rows]), self._device),)
        others = slice(0) if labels_only else chosen
        return SemisupervisedBatch(
            labelled=labelled,
            labels=labels,
            unlabelled=self._gathered(self._orders["unlabelled"][:, others]),
            matched=self._gathered(self._orders["matched"][:, others if matching else slice(0)]),
        )

    def first(self, n: int, *, member: int, labelled: bool) -> torch.Tensor:
        """(1, n, C, H, W): one member's first images of the first epoch, or first labelled ones."""
        if self._epoch != 0:
            self._begin(0)
        rows = self._orders["labelled" if labelled else "unlabelled"][member : member + 1, :n]
        return self._gathered(self.labelled_rows[member][rows] if labelled else rows)

    def check_labelled_seen(self) -> None:
        """At the end of an epoch: its labelled images were all of the labelled images, and no others.

        Ports of the authors' code drew 100 fresh labelled images a batch: fully supervised, by accident. An epoch that
        this process did not serve whole, after a resume, tells nothing.
        """
        if self._served < self.per_epoch:
            return
        n_labels = self._subsets.shape[1]
        expected = min(n_labels, self.per_epoch * self._batch_size)
        of_subsets = np.take_along_axis(self._seen, self._subsets, axis=1).sum(axis=1)
        for found in (self._seen.sum(axis=1), of_subsets):
            if (found != expected).any():
                message = (
                    f"labelled images of epoch {self._epoch}: {found} distinct ones of the subsets, not {expected}"
                )
                raise AssertionError(message)

    def _begin(self, epoch: int) -> None:
        n, n_labels = self.per_epoch * self._batch_size, self.labelled_rows.shape[1]
        for what in ("unlabelled", "matched"):
            orders = [
                numpy_stream(member.seed, member.name(what), epoch).permutation(self._rows)[:n]
                for member in self.members
            ]
            self._orders[what] = np.stack(orders)
        if n_labels:
            tiles = -(-n // n_labels)
            orders = []
            for member in self.members:
                draw = numpy_stream(member.seed, member.name("labelled"), epoch)
                orders.append(np.concatenate([draw.permutation(n_labels) for _ in range(tiles)])[:n])
            self._orders["labelled"] = np.stack(orders)
            self._seen = np.zeros((len(self.members), len(self._images)), dtype=bool)
        self._served = 0
        self._epoch = epoch

    def _gathered(self, rows: np.ndarray) -> torch.Tensor:
        """Rows (S, B) of the set -> images."""
        return to_network(self._images[rows.reshape(-1)], self._pixels, self._device).unflatten(0, rows.shape)


def to_network(images: np.ndarray, pixels: Pixels, device: str) -> torch.Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in the range of G's output."""
    values = to_device(torch.from_numpy(np.ascontiguousarray(images)), device).permute(0, 3, 1, 2)
    return values.to(torch.float32).sub_(pixels.offset).div_(pixels.divisor)


def from_network(images: torch.Tensor, pixels: Pixels) -> np.ndarray:
    """What G gives (N, C, H, W) -> uint8 (N, H, W, C), rounded to the nearest of 256 levels."""
    levels = images.float().mul(pixels.divisor).add_(pixels.offset).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def training_rows(image_set: ImageSet) -> np.ndarray:
    """Rows of all images that may be trained on, ascending: the authors take validation images too."""
    splits = image_set.index["split"].to_numpy()
    rows = [image_set.rows("train")]
    rows += [image_set.rows("validation")] if (splits == "validation").any() else []
    return np.sort(np.concatenate(rows))


def draw_labelled(image_set: ImageSet, split: int, n_labels: int, n_classes: int) -> np.ndarray:
    """Rows of a balanced subset of the training images, ascending; those of 20 labels are among those of 100.

    Raises
    ------
    InputError
        If the labels do not divide by the classes, or a class has too few.
    """
    if n_labels % n_classes:
        message = (
            f"{image_set.path}: {n_labels} labels do not divide by {n_classes} classes, so no subset is balanced; ask "
            f"for {n_labels // n_classes * n_classes} or {(n_labels // n_classes + 1) * n_classes}"
        )
        raise InputError(message)
    if not n_labels:
        return np.empty(0, dtype=np.int64)
    rows = training_rows(image_set)
    labels = image_set.labels(rows)
    found = len(np.unique(labels[labels >= 0]))
    if found != n_classes:
        message = (
            f"{image_set.path}: the networks have logits for {n_classes} classes, the labels are of {found}; name "
            "another dataset"
        )
        raise InputError(message)
    return rows[labelled_subset(labels, n_labels // n_classes, seed=split, where=str(image_set.path))]
