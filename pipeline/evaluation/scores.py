"""Scores of generated images: pure functions of class probabilities p(y|x) and of features, whatever network gave them.

From probabilities: the class score exp(E_x KL(p(y|x) || p(y))), which is the Inception score where the network is the
paper's (``inception.py``). From features of real and generated images: Frechet and kernel distance, precision, recall,
density and coverage. Feature arrays may be memory maps of float16 or float32: they are read in blocks, computed with in
float64, and memory does not grow with the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import rel_entr

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream

BLOCK = 1024  # rows at once: 16 MB in float64 where a feature vector has 2,048 numbers
ROW_SUM_TOLERANCE = 1e-3  # softmax stored as float16 sums to 1 within 5e-4, as float32 within 1e-6
# A distance of two points differs in its last digits between two products of blocks. Relative to the squared lengths,
# float64 is wrong by 1e-13 at most with 2,048 features, where those of two different float32 images differ by 1e-7.
ROUNDING = 1e-11


# From class probabilities


def class_score(probabilities: np.ndarray, n_splits: int = 10) -> np.ndarray:
    """exp(mean over x of KL(p(y|x) || p(y))) of each of the consecutive splits (Improved GAN, section 4).

    Split i holds the images i N / n_splits to (i + 1) N / n_splits, and p(y) is the mean of its own p(y|x), as in the
    authors' code. Whoever calls shuffles: of samples in the order of their classes a split holds few classes, p(y) is
    that of those few, and the score is far too low.

    Parameters
    ----------
    probabilities : float array (N, K), may be a memory map
        p(y|x): each row is the softmax of one image, all N images of a run.

    Returns
    -------
    float64 array (n_splits,), each from 1 (all rows equal) to K (as many images of each class, every one certain).

    Raises
    ------
    InputError
        If there are fewer images than splits, a value is negative or not finite, or a row does not sum to 1 within
        1e-3; nothing is normalised.
    """
    _check_probabilities(probabilities)
    n = len(probabilities)
    if not 1 <= n_splits <= n:
        message = (
            f"score: {n} images cannot be cut into {n_splits} splits; expected at least one image a split; score more "
            "images, or take fewer splits"
        )
        raise InputError(message)
    bounds = [split * n // n_splits for split in range(n_splits + 1)]
    parts = [probabilities[first:last] for first, last in pairwise(bounds)]
    return np.array([np.exp(_divergence(part).mean()) for part in parts])


def image_divergence(probabilities: np.ndarray) -> np.ndarray:
    """KL(p(y|x) || p(y)) of each image, p(y) over all of them: what the "top 1 %" of the samples are ranked by.

    Improved GAN (section 6.2) ranks samples "by Inception score" without saying how a single image gets one; the score
    with one split is the exponential of this quantity's mean.

    Parameters
    ----------
    probabilities : as :func:`class_score`

    Returns
    -------
    float64 array (N,), in nats: 0 or above.
    """
    _check_probabilities(probabilities)
    return _divergence(probabilities)


def _divergence(probabilities: np.ndarray) -> np.ndarray:
    """sum_y p(y|x) log(p(y|x) / p(y)), with 0 log 0 = 0 (``rel_entr``)."""
    marginal = sum(block.sum(axis=0) for _, block in _blocks(probabilities)) / len(probabilities)
    parts = [rel_entr(block, marginal).sum(axis=1) for _, block in _blocks(probabilities)]
    # a row that is the mean itself may come out as -1e-17
    return np.maximum(np.concatenate(parts), 0.0)


def _check_probabilities(probabilities: np.ndarray) -> None:
    if probabilities.ndim != 2 or probabilities.dtype.kind != "f" or not probabilities.size:
        message = (
            f"score: probabilities are {probabilities.dtype} of shape {probabilities.shape}; expected floating-point "
            "numbers (images, classes), at least one of each; give the softmax of every image"
        )
        raise InputError(message)
    for rows, block in _blocks(probabilities):
        if (bad := ~(np.isfinite(block) & (block >= 0)).all(axis=1)).any():
            row = int(np.argmax(bad))
            message = (
                f"score: row {rows.start + row} of the probabilities holds a value that is negative or not finite; "
                "expected a softmax; look at the network and at its input"
            )
            raise InputError(message)
        sums = block.sum(axis=1)
        if (bad := np.abs(sums - 1) > ROW_SUM_TOLERANCE).any():
            row = int(np.argmax(bad))
            message = (
                f"score: row {rows.start + row} of the probabilities sums to {sums[row]:.6g}; expected 1 within "
                f"{ROW_SUM_TOLERANCE}; give the softmax over all classes, not logits"
            )
            raise InputError(message)


# From features


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared Frechet distance of two normal distributions with the sets' means and covariances (Heusel et al. 2017).

        |m_r - m_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2))

    Computed on all rows of both sets, which need not be equally many; two sets of the same images have distance 0. It
    is biased: it falls as the number of images grows, so only equal numbers compare.

    Parameters
    ----------
    real, fake : float arrays (N, D) and (M, D), N and M at least 2; may be memory maps

    Raises
    ------
    InputError
        If the shapes do not fit or a value is not finite.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    _check_features(real, fake, at_least=2, what="a covariance")
    statistics = [_mean_and_covariance(features) for features in (real, fake)]
    distance = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    return max(0.0, distance)  # rounding can leave equal sets at -1e-9


def _mean_and_covariance(features: np.ndarray) -> dict[str, np.ndarray]:
    """``mu`` (D,) and ``sigma`` (D, D), divided by n - 1, as torch-fidelity takes them. Two passes: no cancellation."""
    n, width = features.shape
    mean = sum(block.sum(axis=0) for _, block in _blocks(features)) / n
    products = np.zeros((width, width))
    for _, block in _blocks(features):
        centred = block - mean
        products += centred.T @ centred
    return {"mu": mean, "sigma": products / (n - 1)}


def kernel_distance(real: np.ndarray, fake: np.ndarray, *, seed: int, n_subsets: int, subset_size: int) -> float:
    """Kernel distance (KID): unbiased squared maximum mean discrepancy, k(a, b) = (a.b / D + 1)^3.

    Binkowski et al. 2018. The mean over ``n_subsets`` pairs of subsets, each of ``subset_size`` rows of either set
    drawn without replacement from the stream (seed, "score/kernel_distance", number of the subset). Unbiased: it does
    not depend on the number of images, and is 0 on average for two samples of one distribution; it can be negative.

    Parameters
    ----------
    real, fake : float arrays (N, D) and (M, D), each of at least ``subset_size`` rows; may be memory maps

    Raises
    ------
    InputError
        If the shapes do not fit, there are fewer rows than a subset has, or a value is not finite.
    """
    from torch_fidelity.metric_kid import kernel_mmd

    if n_subsets < 1 or subset_size < 2:
        message = (
            f"score: {n_subsets} subsets of {subset_size} images for the kernel distance; expected at least one subset "
            "of at least two images"
        )
        raise InputError(message)
    _check_features(real, fake, at_least=subset_size, what="a subset of the kernel distance")
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}  # None: 1 / D
    distances = []
    for number in range(n_subsets):
        rng = numpy_stream(seed, "score/kernel_distance", number)
        chosen = [np.sort(rng.choice(len(features), subset_size, replace=False)) for features in (real, fake)]
        subsets = [features[rows].astype(np.float64) for features, rows in zip((real, fake), chosen, strict=True)]
        distances.append(kernel_mmd(*subsets, **kernel, kid_kernel_poly_coef0=1))
    return float(np.mean(distances))


@dataclass(frozen=True, kw_only=True)
class NeighbourMeasures:
    """How far two sets cover one another, judged by balls around points that reach to the k-th nearest of their set.

    Attributes
    ----------
    precision : share of generated images in a real image's ball, in [0, 1] (Kynkaanniemi et al. 2019)
    recall : share of real images in a generated image's ball, in [0, 1] (the same)
    density : mean number of real images' balls that hold a generated image, divided by k; 1 on average for two samples
        of one distribution, can be larger (Naeem et al. 2020)
    coverage : share of real images whose ball holds a generated image, in [0, 1] (the same)
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_measures(real: np.ndarray, fake: np.ndarray, k: int = 5) -> NeighbourMeasures:
    """Precision, recall, density and coverage (Naeem et al. 2020, k = 5) on all rows of both sets.

    Balls are closed, of squared radius r^2 = squared distance to the k-th nearest other row of the same set. The work
    grows with the square of the number of rows (Naeem et al. take 10,000 of each); the memory does not grow.

    Parameters
    ----------
    real, fake : float arrays (N, D) and (M, D), N and M above k; may be memory maps

    Raises
    ------
    InputError
        If the shapes do not fit, there are not more rows than k, or a value is not finite.
    """
    if k < 1:
        message = f"score: k = {k} neighbours; expected at least 1"
        raise InputError(message)
    _check_features(real, fake, at_least=k + 1, what=f"the {k}-th nearest neighbour")
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    balls = np.zeros(len(fake), dtype=np.int64)  # real images' balls around each generated image
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, of_real in _blocks(real):
        for columns, of_fake in _blocks(fake):
            distances, rounding = _squared_distances(of_real, of_fake)
            in_real = distances <= real_radii[rows, None] + rounding
            balls[columns] += in_real.sum(axis=0)
            covered[rows] |= in_real.any(axis=1)
            recalled[rows] |= (distances <= fake_radii[columns] + rounding).any(axis=1)
    return NeighbourMeasures(
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
    )


def _squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """float64 (N,): squared distance of each row to its k-th nearest other row; equal rows are neighbours too."""
    radii = np.empty(len(features))
    for rows, points in _blocks(features):
        nearest = np.full((len(points), k), np.inf)
        for columns, others in _blocks(features):
            distances, _ = _squared_distances(points, others)
            if rows == columns:
                np.fill_diagonal(distances, np.inf)  # not the row itself
            nearest = np.partition(np.hstack([nearest, distances]), k - 1, axis=1)[:, :k]
        radii[rows] = nearest.max(axis=1)
    return radii


def _squared_distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|a_i - b_j|^2 (n, m) and what rounding may have added to or taken from each."""
    lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    return np.maximum(lengths - 2 * (a @ b.T), 0.0), ROUNDING * lengths


def _blocks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, those rows as float64), in order."""
    for start in range(0, len(array), BLOCK):
        rows = slice(start, min(start + BLOCK, len(array)))
        yield rows, np.asarray(array[rows], dtype=np.float64)


def _check_features(real: np.ndarray, fake: np.ndarray, *, at_least: int, what: str) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or not real.shape[1]:
        message = (
            f"score: real features of shape {real.shape}, generated ones of shape {fake.shape}; expected (images, "
            "features) with as many features; take both from one network"
        )
        raise InputError(message)
    for name, features in (("real", real), ("generated", fake)):
        if len(features) < at_least:
            message = f"score: {len(features)} {name} images; {what} needs at least {at_least}; score more images"
            raise InputError(message)
        if features.dtype.kind != "f":
            message = f"score: features of the {name} images are {features.dtype}; expected floating-point numbers"
            raise InputError(message)
        for rows, block in _blocks(features):
            if (bad := ~np.isfinite(block).all(axis=1)).any():
                message = (
                    f"score: features of the {name} image {rows.start + int(np.argmax(bad))} are not finite; look at "
                    "the network and at its input, or store them as float32"
                )
                raise InputError(message)
