"""Samples of a generator, and what says that they are no copies (DCGAN, Figures 10 and 11).

Two checks beside the pictures, neither of them in the paper. The nearest training image of some samples, in D's
features and in pixels: section 6 refuses such searches because a small transform of an image fools them, and in pixels
above all it does. So neighbours as far away as a held-out image's prove nothing; much nearer ones would prove a copy.

And the authors' measure of progress (their code), the mean distance of images to the nearest of 1 k, 10 k and 100 k
samples: theirs of training images, ours of held-out ones too. A network that only copied would be nearer to the former.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation.features import features_of, map_rows
from pipeline.evaluation.neighbours import NeighbourSearch, exact_kernel, mean_distance
from pipeline.internals.frozen import BATCH, FrozenGenerator
from pipeline.internals.half_done import HalfDone, below, prefixed
from pipeline.models.dcgan import to_signed

BLOCK = 1000  # samples of one random stream, generated and compared at once
TRAINING_BLOCK = 500  # training images at once


@section
class Samples:
    """``internals.samples`` in params.yaml.

    Attributes
    ----------
    seed : draws the samples and the images that they are compared with
    n_shown : samples in the figure
    n_nearest : samples whose nearest training images are looked for, the first ones
    n_held_out : held-out images for which the same is done, for comparison
    n_images : images of either split whose distance to the nearest sample is averaged; fewer if there are fewer
    n_samples : how many samples the nearest is one of, ascending; they are the first of one stream
    """

    seed: int
    n_shown: Annotated[int, Ge(1)]
    n_nearest: Annotated[int, Ge(1)]
    n_held_out: Annotated[int, Ge(0)]
    n_images: Annotated[int, Ge(1)]
    n_samples: list[Annotated[int, Ge(1)]]

    def __post_init__(self) -> None:
        if not self.n_samples or sorted(set(self.n_samples)) != self.n_samples:
            message = f"n_samples must ascend and have at least one number, found {self.n_samples}"
            raise ValueError(message)


def sample_blocks(generator: FrozenGenerator, seed: int, n: int, *, first: int = 0) -> Iterator[np.ndarray]:
    """The first ``n`` images of an endless stream, uint8 (at most BLOCK, H, W, 3) at a time, from block ``first`` on.

    Block i has the z of the stream (seed, "samples", i), all of it, so that an image never depends on ``n``.
    """
    for number in range(first, -(-n // BLOCK)):
        z = generator.draw_z(BLOCK, seed, "samples", number)
        yield generator.images(z[: n - number * BLOCK])


def first_samples(generator: FrozenGenerator, seed: int, n: int) -> np.ndarray:
    """uint8 (n, H, W, 3): the first images of the stream."""
    return np.concatenate(list(sample_blocks(generator, seed, n)))


def held_out_split(image_set: ImageSet) -> str | None:
    """``validation`` if the set has such images, else ``test``, else None."""
    splits = set(image_set.index["split"])
    return next((split for split in ("validation", "test") if split in splits), None)


def drawn_rows(image_set: ImageSet, split: str, n: int, seed: int) -> np.ndarray:
    """Rows of ``n`` images of a split, drawn by seed without replacement, in that order; all if there are fewer."""
    return numpy_stream(seed, f"images {split}").permutation(image_set.rows(split))[:n]


# ---- pixels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest candidate of each query: squared distance on 0..255 levels (n,), place in the stream int64 (n,)."""

    squared_distance: np.ndarray
    index: np.ndarray


class Float64Search:
    """Running minimum of |q - x|^2 = |q|^2 + (|x|^2 - 2 q.x) over candidates that arrive in order.

    Of whole numbers it is exact, for those below 2^53 have exact sums in float64 in any order.

    Parameters
    ----------
    queries : float64 (n_queries, d)
    """

    def __init__(self, queries: torch.Tensor) -> None:
        self._queries, self._norms = queries, squared_norms(queries)
        self._best = torch.full_like(self._norms, torch.inf)  # |x|^2 - 2 q.x
        self._index = torch.full_like(self._norms, -1, dtype=torch.int64)
        self.seen = 0

    def state(self) -> dict[str, torch.Tensor]:
        """All that a resumed search needs, as :meth:`NeighbourSearch.state`."""
        return {"best": self._best.cpu(), "index": self._index.cpu(), "seen": torch.tensor(self.seen)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a :meth:`state` of a search for the same queries."""
        self._best, self._index = (state[name].to(self._norms.device) for name in ("best", "index"))
        self.seen = int(state["seen"])

    def add(self, candidates: torch.Tensor) -> None:
        """Compare the next candidates of the stream, float64 (m, d), with all queries."""
        scores = torch.addmm(squared_norms(candidates), self._queries, candidates.t(), alpha=-2)
        lowest, position = scores.min(dim=1)
        nearer = lowest < self._best  # strictly: an earlier candidate keeps its place
        self._best = torch.where(nearer, lowest, self._best)
        self._index = torch.where(nearer, position + self.seen, self._index)
        self.seen += len(candidates)

    def result(self) -> Nearest:
        """The nearest candidates seen so far."""
        squared_distance = (self._best + self._norms).clamp_min(0)  # of features it may be rounded below 0
        return Nearest(squared_distance=squared_distance.cpu().numpy(), index=self._index.cpu().numpy())


def squared_norms(x: torch.Tensor) -> torch.Tensor:
    """(n, d) -> (n,), without the squares in between."""
    return torch.einsum("nd,nd->n", x, x)


class PixelSearch:
    """:class:`NeighbourSearch`, and where its kernels would not be exact the same in float64, many times as slow.

    Parameters
    ----------
    queries : uint8 (n_queries, ...)
    """

    def __init__(self, queries: np.ndarray, compute: Compute) -> None:
        self._device = compute.device
        exact = _has_exact_kernel(queries, compute)
        self._search = NeighbourSearch(queries, compute) if exact else Float64Search(_flat(queries, self._device))

    @property
    def seen(self) -> int:
        """Candidates so far."""
        return self._search.seen

    def state(self) -> dict[str, torch.Tensor]:
        """All that a resumed search needs."""
        return self._search.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a :meth:`state` of a search for the same queries on the same machine."""
        self._search.restore(state)

    def add(self, candidates: np.ndarray) -> None:
        """Compare the next candidates of the stream, uint8 (m, ...), with all queries."""
        if isinstance(self._search, NeighbourSearch):
            self._search.add(candidates, np.full(len(candidates), -1))
        else:
            self._search.add(_flat(candidates, self._device))

    def result(self) -> Nearest:
        """The nearest candidates seen so far."""
        found = self._search.result()
        return Nearest(squared_distance=found.squared_distance, index=found.index)


def _has_exact_kernel(queries: np.ndarray, compute: Compute) -> bool:
    try:
        exact_kernel(queries[0].size, compute.device)
    except InputError:
        return False
    return True


def _flat(images: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)).to(device).double()


def distances(
    generator: FrozenGenerator, image_set: ImageSet, config: Samples, compute: Compute, scratch: Path | None = None
) -> pd.DataFrame:
    """Mean distance of images to the nearest of so many samples, pixels in [0, 1]: one row a split and number.

    The samples are generated once for all, and not kept. Resumes from what ``scratch`` holds.
    """
    splits = ["train", held_out] if (held_out := held_out_split(image_set)) else ["train"]
    rows = [drawn_rows(image_set, split, config.n_images, config.seed) for split in splits]
    search = PixelSearch(image_set.images[np.concatenate(rows)], compute)
    of_split = np.repeat(np.arange(len(splits)), [len(some) for some in rows])
    means: list[list[float]] = []  # of each number of samples: of each split
    half_done = HalfDone(scratch / "distances.safetensors" if scratch else None)
    if state := half_done.read():
        search.restore(below("search", state))
        means = state["means"].tolist()
    total = config.n_samples[-1]
    with Progress("distances to samples", total=total, unit="samples", done=search.seen) as progress:
        for block in sample_blocks(generator, config.seed, total, first=search.seen // BLOCK):
            start = search.seen
            counts = [n for n in config.n_samples if start < n < start + len(block)]
            for part in np.split(block, [n - start for n in counts]):
                search.add(part)
                if search.seen in config.n_samples:
                    found = search.result().squared_distance
                    means.append([mean_distance(found[of_split == i]) for i in range(len(splits))])
                progress.advance(len(part))
            half_done.keep(
                lambda: prefixed("search", search.state()) | {"means": torch.tensor(means, dtype=torch.float64)}
            )
    table = [
        (split, n, len(some), mean)
        for n, of_splits in zip(config.n_samples, means, strict=True)
        for split, some, mean in zip(splits, rows, of_splits, strict=True)
    ]
    return pd.DataFrame(table, columns=["split", "n_samples", "n_images", "mean_distance"])


# ---- features -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def picture_features(layers: nn.Sequential, images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float64 (N, n_features), by the map rows of a frozen discriminator."""
    done = [
        features_of(layers, to_signed(images[start : start + BATCH], device)).double()
        for start in range(0, len(images), BATCH)
    ]
    return torch.cat(done)


def nearest_training_images(
    queries: np.ndarray,
    image_set: ImageSet,
    discriminator: nn.Sequential,
    compute: Compute,
    scratch: Path | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Space -> row of the image set, int64 (n,), and distance (n,), of the nearest of all training images.

    Distances are Euclidean: of the features of a frozen D, of pixels in [0, 1]. Memory does not grow with the set.
    Resumes from what ``scratch`` holds.
    """
    layers, rows = map_rows(discriminator), image_set.rows("train")
    by_pixels = PixelSearch(queries, compute)
    by_features = Float64Search(picture_features(layers, queries, compute.device))
    half_done = HalfDone(scratch / "nearest.safetensors" if scratch else None)
    if state := half_done.read():
        by_pixels.restore(below("pixels", state))
        by_features.restore(below("features", state))
    done = by_features.seen
    with Progress("nearest training images", total=len(rows), unit="images", done=done) as progress:
        for start in range(done, len(rows), TRAINING_BLOCK):
            block = image_set.images[rows[start : start + TRAINING_BLOCK]]
            by_pixels.add(block)
            by_features.add(picture_features(layers, block, compute.device))
            progress.advance(len(block))
            half_done.keep(lambda: prefixed("pixels", by_pixels.state()) | prefixed("features", by_features.state()))
    features, pixels = by_features.result(), by_pixels.result()
    return {
        "features": (rows[features.index], np.sqrt(features.squared_distance)),
        "pixels": (rows[pixels.index], np.sqrt(pixels.squared_distance.astype(np.float64)) / 255.0),
    }


@dataclass(frozen=True, kw_only=True)
class MemorisationCheck:
    """Nearest training images: ``table`` as the graph's contract has it, ``sheet`` uint8 (3 * n_nearest, H, W, 3)."""

    table: pd.DataFrame
    sheet: np.ndarray


def memorisation_check(
    samples: np.ndarray,
    image_set: ImageSet,
    discriminator: nn.Sequential,
    config: Samples,
    compute: Compute,
    scratch: Path | None = None,
) -> MemorisationCheck:
    """The nearest training images of samples (N, H, W, 3), and of held-out images, whose distances are what to expect.

    The sheet has the samples, then the nearest to each in D's features, then the nearest in pixels. Resumes from what
    ``scratch`` holds.
    """
    held_out = held_out_split(image_set)
    others = drawn_rows(image_set, held_out, config.n_held_out, config.seed) if held_out else np.empty(0, np.int64)
    queries = np.concatenate([samples, image_set.images[others]])
    found = nearest_training_images(queries, image_set, discriminator, compute, scratch)
    keys = image_set.index["key"].to_numpy()
    tables = [
        pd.DataFrame(
            {
                "what": ["sample"] * len(samples) + ["held_out"] * len(others),
                "number": [*range(len(samples)), *range(len(others))],
                "space": space,
                "key": keys[rows],
                "distance": distance,
            }
        )
        for space, (rows, distance) in found.items()
    ]
    pictures = [image_set.images[rows[: len(samples)]] for rows, _ in found.values()]
    return MemorisationCheck(table=pd.concat(tables, ignore_index=True), sheet=np.concatenate([samples, *pictures]))
