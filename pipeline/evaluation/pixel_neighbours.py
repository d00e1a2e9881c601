"""Nearest neighbours on pixels from a few labels: a baseline of DCGAN's Table 2 that learns nothing from the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, MinLen

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.store import ImageSet
from pipeline.evaluation import probes
from pipeline.evaluation.neighbours import FP32_EXACT_PIXELS, error_percent

QUERY_BLOCK = 1000


@section
class PixelNeighbours:
    """``pixel_neighbours`` in params.yaml.

    Attributes
    ----------
    labels_per_class : training images of each class that neighbours are searched among
    k : numbers of neighbours to choose from on validation images, ascending; the majority of their labels wins
    draws_to_choose, draws_to_test : random subsets of labels; those to test are fresh ones
    """

    seed: int
    labels_per_class: Annotated[int, Ge(1)]
    k: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]
    draws_to_choose: Annotated[int, Ge(1)]
    draws_to_test: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        probes.check_ascending("k", self.k)


def pixel_neighbours(image_set: ImageSet, config: PixelNeighbours, compute: Compute, scratch: Path) -> pd.DataFrame:
    """Error by the majority of the k nearest; resumes from what ``scratch`` holds. Rows as of a probe, setting = k.

    Raises
    ------
    InputError
        If the set has no split ``validation``, an image has no label, or a class fewer images than labels are asked
        for; or if there are fewer labels than neighbours.
    """
    parts = probes.parts_of(image_set, n_validation=None, seed=config.seed)
    n_labels = config.labels_per_class * (int(parts.train.labels.max()) + 1)
    if config.k[-1] > n_labels:
        message = (
            f"{image_set.path}: {config.k[-1]} neighbours among {n_labels} labelled images; "
            f"lower pixel_neighbours.k to at most {n_labels}"
        )
        raise InputError(message)

    def judge(
        fitted: probes.Part, draws: Sequence[np.ndarray], settings: Sequence[float], judged: probes.Part
    ) -> list[list[float]]:
        queries = image_set.images[image_set.rows(judged.split)[judged.rows]]
        numbers, errors = [int(k) for k in settings], []
        for subset in map(fitted.take, draws):
            candidates = image_set.images[image_set.rows(subset.split)[subset.rows]]
            voted = votes(queries, candidates, subset.labels, numbers, compute.device)
            errors.append([error_percent(labels, judged.labels) for labels in voted])
        return errors

    draws = probes.Draws(
        seed=config.seed,
        per_class=config.labels_per_class,
        to_choose=config.draws_to_choose,
        to_test=config.draws_to_test,
    )
    ledger = probes.Ledger(scratch / "rows.json")
    probes.few_labels(parts, draws, config.k, judge, ledger)
    pixels = int(np.prod(image_set.images.shape[1:]))
    return probes.result_table(ledger.rows(), n_features=pixels, max_feature_units=0)


def votes(
    queries: np.ndarray, candidates: np.ndarray, labels: np.ndarray, numbers: Sequence[int], device: str
) -> np.ndarray:
    """Label that most of the k nearest candidates have, for each k; the same on every machine.

    Distances are exact integers. Among equally near candidates the first is the nearer one, among labels of equally
    many candidates the smallest wins.

    Parameters
    ----------
    queries, candidates : uint8 (n, ...) and (m, ...), m >= every k
    labels : int64 (m,), not negative
    numbers : of neighbours: k

    Returns
    -------
    int64 array, shape (len(numbers), n)
    """
    x, nearest = _flat(candidates, device), max(numbers)
    # |q|^2 is the same for all candidates of a query and decides nothing
    squares = x.to(torch.int64).square().sum(dim=1)
    order = torch.arange(len(x), device=device)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).to(device))
    voted = np.empty((len(numbers), len(queries)), dtype=np.int64)
    for start in range(0, len(queries), QUERY_BLOCK):
        q = _flat(queries[start : start + QUERY_BLOCK], device)
        distances = squares - 2 * _products(q, x)
        # one number for distance and place, because topk may order equals as it likes
        found = (distances * len(x) + order).topk(nearest, dim=1, largest=False, sorted=True).indices
        counts = one_hot[found].cumsum(dim=1)
        for i, k in enumerate(numbers):
            # NumPy's argmax gives the first of equals
            voted[i, start : start + QUERY_BLOCK] = counts[:, k - 1].cpu().numpy().argmax(axis=1)
    return voted


def _flat(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 0..255 -> float32 (n, pixels) in -128..127; distances do not change."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    return torch.from_numpy(flat).to(device).float().sub_(128)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b' as int64, exact: float32 holds every integer that a sum over so few pixels can reach."""
    total = torch.zeros(len(a), len(b), dtype=torch.int64, device=a.device)
    for start in range(0, a.shape[1], FP32_EXACT_PIXELS):
        part = slice(start, start + FP32_EXACT_PIXELS)
        total += (a[:, part] @ b[:, part].t()).to(torch.int64)
    return total
