"""Single-layer K-means features of Coates and Ng: what an image gives without any network (DCGAN, table 1).

"An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (AISTATS 2011) and the authors' code. Patches of
training images, each normalised for brightness and contrast, are whitened together; K-means finds ``n_maps`` centroids.
An image's patch at every place then answers to each centroid with max(0, mean(z) - z), where z are its distances to
all centroids ("triangle"), and the answers are summed over the four quadrants of places.

The written features are standardised with the moments of the training images, as in the authors' code and with its
constant: a linear SVM without standardisation would follow the maps of largest variance.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet, write_arrays
from pipeline.evaluation.features import write_features

FEATURE_VARIANCE = 0.01  # added to the variance of a feature before its root divides it (authors' code)
BATCH_IMAGES = 16  # images whose patches are cut and whitened at once
GRID = 2.0**-20  # what is learnt is rounded to its multiples, which float32 holds exactly up to 16


@section
class KMeansFeatures:
    """``kmeans`` in params.yaml.

    Attributes
    ----------
    n_maps : centroids; an image has 4 * n_maps features
    patch_size : side of a patch in pixels
    n_patches : drawn from the training images
    iterations : how often K-means goes through as many patches as there are
    batch_size : patches between two updates of the centroids
    normalisation_epsilon : added to the variance of a patch, of pixels from 0 to 255, before its root divides it
    whitening_epsilon : added to the eigenvalues of the patches' covariance
    dtype : of the stored features
    """

    seed: int
    n_maps: Annotated[int, Ge(1)]
    patch_size: Annotated[int, Ge(2)]
    n_patches: Annotated[int, Ge(2)]
    iterations: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(1)]
    normalisation_epsilon: Annotated[float, Gt(0)]
    whitening_epsilon: Annotated[float, Gt(0)]
    dtype: Literal["float16", "float32"]

    def __post_init__(self) -> None:
        if self.n_maps > self.n_patches:
            message = (
                f"n_maps {self.n_maps} centroids cannot be found among n_patches {self.n_patches}; raise n_patches"
            )
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """What is learnt from patches p (d,), which lie channel by channel, row by row: d = channels * side * side.

    Attributes
    ----------
    mean : float32 (d,), of the normalised patches
    whitening : float32 (d, d), symmetric: whitened patches are (p - mean) @ whitening
    centroids : float32 (n_maps, d), among whitened patches
    """

    mean: np.ndarray
    whitening: np.ndarray
    centroids: np.ndarray


def kmeans_features(image_set: ImageSet, out: Path, *, config: KMeansFeatures, compute: Compute, scratch: Path) -> None:
    """Learn from the split ``train`` and write the features of every split, as ``features.write_features``.

    Resumes from what ``scratch`` holds. Standardisation needs the moments of all training images, so the raw features
    lie there first (float32: 4 bytes x images x features): reading them again is many times cheaper than computing
    them twice.

    Raises
    ------
    InputError
        If the images are too small for four quadrants of patches, or there is no split ``train``.
    """
    check_images(image_set, config)
    splits = sorted(image_set.index["split"].unique())
    dictionary = learnt_dictionary(image_set, config, scratch / "dictionary.npz")
    encoder, n_features = Encoder(dictionary, config, compute.device), 4 * config.n_maps
    raw = scratch / "raw"
    if not raw.exists():
        made_by = {"network": _sha256(dictionary, config), "max_feature_units": config.n_maps}
        write_features(
            raw,
            image_set,
            splits,
            lambda rows: encoder.batches(image_set, rows),
            n_features=n_features,
            dtype="float32",
            record=made_by,
            scratch=scratch / "raw.partial",
        )
    arrays = {split: np.load(raw / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in splits}
    mean, deviation = moments(arrays["train"])

    def standardised(rows: np.ndarray) -> Iterator[np.ndarray]:
        split = image_set.index["split"].iloc[rows[0]]
        behind = arrays[split][np.searchsorted(image_set.rows(split), rows[0]) :]  # a resumed run asks for the rest
        for block in _blocks(behind):
            yield (block - mean) / deviation

    made_by = {
        "network": _sha256(dictionary, config, mean, deviation),
        "max_feature_units": config.n_maps,
        "precision": "fp32",
    }
    write_features(
        out,
        image_set,
        splits,
        standardised,
        n_features=n_features,
        dtype=config.dtype,
        record=made_by,
        scratch=scratch / "standardised.partial",
    )


def check_images(image_set: ImageSet, config: KMeansFeatures) -> None:
    """Refuse images that have no two places of a patch along a side."""
    height, width = image_set.images.shape[1:3]
    if min(height, width) <= config.patch_size:
        message = (
            f"{image_set.path}: images of {height} x {width}; patches of {config.patch_size} x {config.patch_size} "
            f"(kmeans.patch_size) in four quadrants need at least {config.patch_size + 1} pixels a side"
        )
        raise InputError(message)


# ---- learning -------------------------------------------------------------------------------------------------------


def learnt_dictionary(image_set: ImageSet, config: KMeansFeatures, kept: Path) -> Dictionary:
    """Learn whitening and centroids from the split ``train``, or read them from the file ``kept``.

    All three are multiples of ``GRID``, and the same bytes whatever the kernels of BLAS.
    """
    if not kept.exists():
        patches = normalised(torch.from_numpy(drawn_patches(image_set, config)), config.normalisation_epsilon).numpy()
        # In float64: K-means magnifies last bits, and those of a float32 product differ from processor to processor.
        mean, whitening, whitened = zca(patches.astype(np.float64), config.whitening_epsilon)
        learnt = {"mean": mean, "whitening": whitening, "centroids": learnt_centroids(whitened, config)}
        write_arrays(kept, **{name: on_grid(array) for name, array in learnt.items()})
    with np.load(kept, allow_pickle=False) as arrays:
        return Dictionary(mean=arrays["mean"], whitening=arrays["whitening"], centroids=arrays["centroids"])


def on_grid(learnt: np.ndarray) -> np.ndarray:
    """float64 to the nearest multiples of ``GRID``, float32.

    Processors differ by some 1e-13. Rounded straight to float32, whose steps shrink with the number, coordinates near 0
    would keep that difference: one in ten thousand did.
    """
    return (np.rint(learnt / GRID) * GRID + 0.0).astype(np.float32)  # + 0.0: there is no -0


def drawn_patches(image_set: ImageSet, config: KMeansFeatures) -> np.ndarray:
    """Patches of training images at random places, with replacement: float32 (n_patches, d) from 0 to 255."""
    n, side, stream = config.n_patches, config.patch_size, numpy_stream(config.seed, "patches")
    _, height, width, channels = image_set.images.shape
    rows = stream.choice(image_set.rows("train"), n)
    top, left = stream.integers(0, height - side + 1, n), stream.integers(0, width - side + 1, n)
    order, patches = np.argsort(rows, kind="stable"), np.empty((n, channels, side, side), dtype=np.float32)
    for some in np.array_split(order, -(-n // 10_000)):  # in the order that the images lie in on the disk
        y, x = top[some, None] + np.arange(side), left[some, None] + np.arange(side)
        cut = image_set.images[rows[some, None, None], y[:, :, None], x[:, None, :]]
        patches[some] = cut.transpose(0, 3, 1, 2)
    return patches.reshape(n, -1)


def normalised(patches: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Subtract the mean of each patch (n, d) and divide by the root of its variance + epsilon, in place."""
    patches.sub_(patches.mean(dim=1, keepdim=True))
    # not torch.var_mean, which takes forty times as long; d - 1: authors' code
    variance = torch.linalg.vector_norm(patches, dim=1, keepdim=True).square_().div_(patches.shape[1] - 1)
    return patches.div_(variance.add_(epsilon).sqrt_())


def zca(patches: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (d,) and whitening (d, d) of patches (n, d), and the whitened patches (n, d), all float64.

    The whitening is V (D + epsilon)^-1/2 V' with V D V' the patches' covariance.
    """
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    whitening = (vectors / np.sqrt(values.clip(min=0) + epsilon)) @ vectors.T
    mean = patches.mean(axis=0)
    return mean, whitening, (patches - mean) @ whitening


def learnt_centroids(whitened: np.ndarray, config: KMeansFeatures) -> np.ndarray:
    """Centroids (n_maps, d) of whitened patches (n, d), float64."""
    from sklearn.cluster import MiniBatchKMeans

    settings: dict[str, Any] = {  # whose types scikit-learn declares by their defaults
        "batch_size": config.batch_size,
        "max_iter": config.iterations,
        "max_no_improvement": None,  # as many passes as asked for
        "n_init": 1,
        # Centroids of few patches stay, as in the authors' code. scikit-learn would move them to drawn patches, at
        # times two to the same one, and the last bits of BLAS would decide between the two.
        "reassignment_ratio": 0.0,
        "compute_labels": False,
        "random_state": int(numpy_stream(config.seed, "k-means").integers(2**31)),
    }
    search: Any = MiniBatchKMeans(config.n_maps, **settings)
    return search.fit(whitened).cluster_centers_


# ---- encoding -------------------------------------------------------------------------------------------------------


class Encoder:
    """Images to raw features, in fp32: quadrant by quadrant (upper left, upper right, lower left, lower right), maps.

    On a grid of odd side the upper and left quadrants are the larger ones.
    """

    def __init__(self, dictionary: Dictionary, config: KMeansFeatures, device: str) -> None:
        self._side, self._epsilon, self._device = config.patch_size, config.normalisation_epsilon, device
        mean, self._whitening, centroids = (
            torch.from_numpy(array).to(device)
            for array in (dictionary.mean, dictionary.whitening, dictionary.centroids)
        )
        self._offset = -mean @ self._whitening
        # |p - c|^2 = (p, |p|^2, 1) . (-2c, 1, |c|^2): one matrix product, and two readings of all distances less
        self._centroids = torch.cat(
            [-2 * centroids.t(), torch.ones(1, len(centroids), device=device), centroids.square().sum(dim=1)[None]]
        )

    def batches(self, image_set: ImageSet, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Features float32 (m, 4 * n_maps) of the given images, batch by batch; memory is that of one batch."""
        for start in range(0, len(rows), BATCH_IMAGES):
            yield self.encoded(image_set.images[rows[start : start + BATCH_IMAGES]])

    @torch.inference_mode()
    def encoded(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C) -> float32 (B, 4 * n_maps)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2).float()
        grid = [side - self._side + 1 for side in pixels.shape[2:]]
        patches = F.unfold(pixels, self._side).transpose(1, 2)  # (B, places, d), row by row of places
        flat = normalised(patches.reshape(-1, patches.shape[2]), self._epsilon)
        whitened = torch.addmm(self._offset, flat, self._whitening)
        ones = torch.ones(len(whitened), 1, device=self._device)
        whitened = torch.cat([whitened, whitened.square().sum(dim=1, keepdim=True), ones], dim=1)
        places = whitened.view(len(images), *grid, -1)
        upper, left = (-(-side // 2) for side in grid)
        sums = torch.zeros(2, upper, grid[1], device=self._device)
        sums[0, :, :left] = sums[1, :, left:] = 1
        sums = sums.flatten(1)
        n_maps = self._centroids.shape[1]
        features = torch.empty(len(images), 2, 2, n_maps, device=self._device)
        # half an image at a time: its distances to 1,600 centroids still fit in a processor's cache
        buffer = torch.empty(sums.shape[1], n_maps, device=self._device)
        for image, found in zip(places, features, strict=True):
            for half, quadrants in zip((image[:upper], image[upper:]), found, strict=True):
                n = half.shape[0] * half.shape[1]
                answers = self._triangle(half.reshape(n, -1), out=buffer[:n])
                torch.mm(sums[:, :n], answers, out=quadrants)
        return features.flatten(1).cpu().numpy()

    def _triangle(self, whitened: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(n, d + 2) -> (n, n_maps): how much nearer each centroid is than centroids are on average, at least 0."""
        z = torch.mm(whitened, self._centroids, out=out).clamp_min_(0).sqrt_()
        return torch.sub(z.mean(dim=1, keepdim=True), z, out=z).clamp_min_(0)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and root of variance + 0.01, of each feature: float32 (n_features,), summed in float64."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for block in _blocks(features):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(features)
    for block in _blocks(features):
        squares += np.square(block - mean).sum(axis=0)
    deviation = np.sqrt(squares / max(len(features) - 1, 1) + FEATURE_VARIANCE)
    return mean.astype(np.float32), deviation.astype(np.float32)


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows, a few megabytes at a time; the size decides no result but the rounding of sums."""
    size = max(1, (1 << 22) // features.shape[1])
    for start in range(0, len(features), size):
        yield features[start : start + size]


def _sha256(dictionary: Dictionary, config: KMeansFeatures, *more: np.ndarray) -> str:
    """Of all that decides an image's features."""
    settings = (config.patch_size, config.normalisation_epsilon, FEATURE_VARIANCE)
    digest = hashlib.sha256(repr(settings).encode())
    for array in (dictionary.mean, dictionary.whitening, dictionary.centroids, *more):
        digest.update(f"{array.dtype} {array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()
