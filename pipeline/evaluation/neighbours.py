"""1-nearest-neighbour search over a stream of candidates: exact, in memory that does not grow with the stream.

8-bit images make exactness cheap. Shifted to -128..127, the dot product of two images of up to 1,024 pixels is a sum of
integers below 2^24 in size, so int8 products summed in int32 *and* fp32 products summed in any order are exact, and

    |q - x|^2 = |q|^2 + (|x|^2 - 2 q.x)

is an exact integer. The winner, and the first index among equals, are therefore the same on every machine, whichever
kernel computed them; nothing has to be scored again.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError

FP32_EXACT_PIXELS = 1024  # 1024 * 128 * 128 = 2^24, up to which fp32 holds every integer
QUERY_BLOCK = 500  # a block of scores (500 x 4096 int32) stays in the cache between product and minimum
CANDIDATE_BLOCK = 4096
NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The nearest candidate of each query.

    Attributes
    ----------
    squared_distance : int32 (n_queries,), on the scale of 0..255 levels
    index : int64 (n_queries,), position in the stream; the first among equally near ones
    label : int64 (n_queries,)
    """

    squared_distance: np.ndarray
    index: np.ndarray
    label: np.ndarray


class NeighbourSearch:
    """Running minimum over candidates that arrive in order.

    Parameters
    ----------
    queries : uint8, shape (n_queries, ...)
        Images; all axes but the first are flattened.
    """

    def __init__(self, queries: np.ndarray, compute: Compute) -> None:
        if queries.dtype != np.uint8:
            message = f"the search is exact for uint8 images; the queries are {queries.dtype}"
            raise InputError(message)
        flat = queries.reshape(len(queries), -1)
        self._pixels = flat.shape[1]
        self._device = compute.device
        self._kernel = exact_kernel(self._pixels, compute.device)
        self._queries = _shifted(flat, self._device).to(self._kernel)
        self._query_norms = _squared_norms(self._queries)
        self._best = torch.full((len(queries),), NEVER, dtype=torch.int32, device=self._device)  # |x|^2 - 2 q.x
        self._index = torch.full((len(queries),), -1, dtype=torch.int64, device=self._device)
        self._label = torch.full((len(queries),), -1, dtype=torch.int64, device=self._device)
        self.seen = 0
        self._buffer = torch.empty(QUERY_BLOCK * CANDIDATE_BLOCK, dtype=torch.int32, device=self._device)

    def add(self, candidates: np.ndarray, labels: np.ndarray) -> None:
        """Compare the next candidates of the stream, uint8 (m, ...), with all queries."""
        flat = candidates.reshape(len(candidates), -1)
        if flat.dtype != np.uint8 or flat.shape[1] != self._pixels or len(labels) != len(flat):
            message = (
                f"candidates must be uint8 images of {self._pixels} pixels with one label each; "
                f"found {flat.dtype}, {flat.shape[1]} pixels, {len(flat)} images and {len(labels)} labels"
            )
            raise InputError(message)
        device_labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)).to(self._device)
        for start in range(0, len(flat), CANDIDATE_BLOCK):
            block = _shifted(flat[start : start + CANDIDATE_BLOCK], self._device).to(self._kernel)
            self._compare(block, device_labels[start : start + CANDIDATE_BLOCK], self.seen + start)
        self.seen += len(flat)

    def _compare(self, block: torch.Tensor, labels: torch.Tensor, offset: int) -> None:
        norms = _squared_norms(block)
        for start in range(0, len(self._queries), QUERY_BLOCK):
            rows = slice(start, min(start + QUERY_BLOCK, len(self._queries)))
            scores = self._products(self._queries[rows], block)
            torch.add(norms, scores, alpha=-2, out=scores)
            lowest, position = scores.min(dim=1)  # the first position among equals
            nearer = lowest < self._best[rows]  # strictly: an earlier candidate keeps its place
            self._best[rows] = torch.where(nearer, lowest, self._best[rows])
            self._index[rows] = torch.where(nearer, position + offset, self._index[rows])
            self._label[rows] = torch.where(nearer, labels[position], self._label[rows])

    def _products(self, queries: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        shape = (len(queries), len(block))
        if self._kernel == torch.float32:
            return torch.mm(queries, block.t()).to(torch.int32)
        # one buffer for all blocks: fresh pages would cost more than the sums
        out = self._buffer[: math.prod(shape)].view(shape)
        return torch._int_mm(queries, block.t(), out=out)  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]

    def result(self) -> Neighbours:
        """The nearest candidates seen so far."""
        if not self.seen:
            message = "no candidate has been added to the search"
            raise ValueError(message)
        return Neighbours(
            squared_distance=(self._best + self._query_norms).cpu().numpy(),
            index=self._index.cpu().numpy().copy(),
            label=self._label.cpu().numpy().copy(),
        )

    def state(self) -> dict[str, torch.Tensor]:
        """All that a resumed search needs, copied."""
        seen = torch.tensor(self.seen, dtype=torch.int64)
        return {
            "best": self._best.cpu().clone(),
            "index": self._index.cpu().clone(),
            "label": self._label.cpu().clone(),
            "seen": seen,
        }

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a :meth:`state` of a search for the same queries."""
        self._best = state["best"].to(self._device)
        self._index = state["index"].to(self._device)
        self._label = state["label"].to(self._device)
        self.seen = int(state["seen"])


def exact_kernel(pixels: int, device: str) -> torch.dtype:
    """int8 where the processor multiplies bytes in hardware, else fp32; both are exact, the choice is one of speed.

    Raises
    ------
    InputError
        If neither would be exact: images of more than 1,024 pixels on a machine without byte products.
    """
    capabilities = torch.cpu.get_capabilities()
    # pixels > 1: torch's int8 product is wrong for matrices of one column
    if device == "cpu" and pixels > 1 and (capabilities.get("avx512_vnni") or capabilities.get("amx_int8")):
        return torch.int8
    if pixels > FP32_EXACT_PIXELS:
        message = (
            f"images of {pixels} pixels: the fp32 search is exact up to {FP32_EXACT_PIXELS}; "
            "use a processor with AVX-512 VNNI or AMX"
        )
        raise InputError(message)
    return torch.float32


def _shifted(flat: np.ndarray, device: str) -> torch.Tensor:
    """uint8 0..255 -> int8 -128..127; distances do not change."""
    return torch.from_numpy((flat ^ 0x80).view(np.int8)).to(device)


def _squared_norms(images: torch.Tensor) -> torch.Tensor:
    """int32 (n,): sums of squares, exact."""
    return images.to(torch.int32).square().sum(dim=1, dtype=torch.int32)


def error_percent(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of wrong predictions, in per cent."""
    return 100.0 * float(np.mean(predicted != labels))


def mean_distance(squared_distance: np.ndarray) -> float:
    """Mean Euclidean distance on pixels in [0, 1]."""
    return float(np.sqrt(squared_distance.astype(np.float64)).mean() / 255.0)
