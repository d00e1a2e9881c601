"""DCGAN's Table 3: classify MNIST's test digits by their nearest neighbour among real or generated digits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, MinLen, MultipleOf
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.files import whole_file
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.evaluation.generate import CLASSES, Samples, sample_batches
from pipeline.evaluation.neighbours import NeighbourSearch, error_percent, mean_distance
from pipeline.models.store import read_tensors, write_tensors
from pipeline.training.adversarial import ValidationScore, check_sizes
from pipeline.training.checkpoint import CheckpointClock


@section
class Search:
    """``neighbours``: how many generated digits, in which batches.

    Attributes
    ----------
    batch_size : digits a generated batch, every class equally often; G normalises by their statistics
    n_images : sizes of the generated set at which the error is reported, ascending
    n_images_last_epoch : the same for the networks of the last epoch, reported beside those of the chosen one
    """

    batch_size: Annotated[int, Ge(CLASSES), MultipleOf(CLASSES)]
    n_images: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]
    n_images_last_epoch: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]

    def __post_init__(self) -> None:
        check_sizes(self.n_images, self.batch_size)
        check_sizes(self.n_images_last_epoch, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What one search classifies, and with which generator."""

    test_images: np.ndarray  # uint8 (n, H, W, C)
    test_labels: np.ndarray  # int64 (n,)
    generator: nn.Module
    z_dim: int
    seed: int
    stream: str


def classify_by_samples(
    task: SearchTask, sizes: list[int], batch_size: int, compute: Compute, checkpoint_file: Path | None = None
) -> pd.DataFrame:
    """Error by the nearest of the first N generated digits, for each N of ``sizes``.

    Nothing of size N is stored: a batch is generated, compared and dropped. With a ``checkpoint_file`` the running
    minimum survives a kill, and the resumed search ends in the same numbers.

    Returns
    -------
    One row a size: n_images, n_test, n_wrong, error_percent, mean_distance.

    Raises
    ------
    ValueError
        If a size is no multiple of the batch size; the params sections refuse that already.
    """
    check_sizes(sizes, batch_size)
    search = NeighbourSearch(task.test_images, compute)
    rows: list[dict[str, float]] = []
    if checkpoint_file is not None and checkpoint_file.exists():
        state = read_tensors(checkpoint_file)
        rows = _rows_of(state.pop("rows"))
        search.restore(state)
    clock = CheckpointClock()
    batches = sample_batches(
        task.generator,
        z_dim=task.z_dim,
        seed=task.seed,
        stream=task.stream,
        batch_size=batch_size,
        first=search.seen // batch_size,
        last=sizes[-1] // batch_size,
        compute=compute,
    )
    with Progress(task.stream, total=sizes[-1], unit="images", done=search.seen) as progress:
        for samples in _in_blocks(batches):
            # a block may reach over a size of the curve: the search takes it in parts
            for part in _cut(samples, search.seen, sizes):
                search.add(part.images, part.labels)
                if search.seen in sizes:
                    rows.append(_row(search, task.test_labels))
                progress.advance(len(part.labels))
            if checkpoint_file is not None and (clock.due() or search.seen == sizes[-1]):
                with whole_file(checkpoint_file) as partial:
                    write_tensors(partial, search.state() | {"rows": _tensor_of(rows)})
    return pd.DataFrame(rows)


BLOCK_IMAGES = 4000  # candidates compared at once: a full block of the search


def _in_blocks(batches: Iterable[Samples]) -> Iterator[Samples]:
    """Join small batches: the search is fastest on a few thousand candidates at a time."""
    waiting: list[Samples] = []
    for samples in batches:
        waiting.append(samples)
        if sum(len(s.labels) for s in waiting) >= BLOCK_IMAGES:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Samples]) -> Samples:
    return Samples(
        images=np.concatenate([part.images for part in parts]), labels=np.concatenate([part.labels for part in parts])
    )


def _cut(samples: Samples, seen: int, sizes: list[int]) -> Iterator[Samples]:
    """Cut a block where the stream reaches one of ``sizes``."""
    ends = sorted({size - seen for size in sizes if 0 < size - seen < len(samples.labels)} | {len(samples.labels)})
    for start, end in zip([0, *ends], ends, strict=False):
        yield Samples(images=samples.images[start:end], labels=samples.labels[start:end])


def classify_by_images(
    test_images: np.ndarray, test_labels: np.ndarray, images: np.ndarray, labels: np.ndarray, compute: Compute
) -> pd.DataFrame:
    """Error by the nearest of the given images (Table 3, row "Real Data"); one row, as :func:`classify_by_samples`."""
    search = NeighbourSearch(test_images, compute)
    search.add(images, labels)
    return pd.DataFrame([_row(search, test_labels)])


def validation_score(
    generator: nn.Module,
    seed: int,
    *,
    images: np.ndarray,
    labels: np.ndarray,
    z_dim: int,
    sizes: list[int],
    batch_size: int,
    compute: Compute,
) -> list[ValidationScore]:
    """Score a generator in training on validation digits; every epoch sees the same z, which lowers the variance."""
    task = SearchTask(
        test_images=images, test_labels=labels, generator=generator, z_dim=z_dim, seed=seed, stream="validation"
    )
    rows = classify_by_samples(task, sizes, batch_size, compute)
    return [
        ValidationScore(n_images=int(n), error_percent=float(error), mean_distance=float(distance))
        for n, error, distance in rows[["n_images", "error_percent", "mean_distance"]].itertuples(index=False)
    ]


def _row(search: NeighbourSearch, labels: np.ndarray) -> dict[str, float]:
    found = search.result()
    return {
        "n_images": search.seen,
        "n_test": len(labels),
        "n_wrong": int(np.sum(found.label != labels)),
        "error_percent": error_percent(found.label, labels),
        "mean_distance": mean_distance(found.squared_distance),
    }


_COLUMNS = ("n_images", "n_test", "n_wrong", "error_percent", "mean_distance")


def _tensor_of(rows: list[dict[str, float]]) -> torch.Tensor:
    return torch.tensor([[row[column] for column in _COLUMNS] for row in rows], dtype=torch.float64).reshape(-1, 5)


def _rows_of(tensor: torch.Tensor) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for n_images, n_test, n_wrong, *numbers in tensor.tolist():
        counts = [int(n_images), int(n_test), int(n_wrong)]
        rows.append(dict(zip(_COLUMNS, [*counts, *numbers], strict=True)))
    return rows
