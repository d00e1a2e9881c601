"""Signs of a sick GAN: a loss that is no number, and samples that are all alike."""

import sys
from pathlib import Path

import numpy as np
import torch

from pipeline.core import ranks
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet

# Samples nearer to each other than this share of the distance between real images have collapsed. Healthy runs of ours
# end between 0.4 and 0.95, and have 0.19 or more after an epoch; a generator of one image or a handful has nearly 0.
COLLAPSED = 0.1


def nearest_other(images: np.ndarray) -> float:
    """Median over uint8 images (N, H, W, C) of the Euclidean distance to the nearest other one, in grey levels.

    Not the mean distance between all of them, which stays large when the samples fall into a handful of heaps.
    """
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return float(distances.min(dim=1).values.median())


def diversity(samples: np.ndarray, real: np.ndarray) -> float:
    """``nearest_other`` of generated images as a share of that of as many real ones; 1 = as varied as they are."""
    return nearest_other(samples) / max(nearest_other(real), 1e-9)


def some_real(image_set: ImageSet, n: int, *, seed: int) -> np.ndarray:
    """Training images drawn by seed, as many as there are samples: what their diversity is compared with."""
    rows = image_set.rows("train")
    return image_set.images[np.sort(numpy_stream(seed, "real beside samples").permutation(rows)[:n])]


def sample_health(samples: np.ndarray, real: np.ndarray, *, of: str) -> dict[str, float]:
    """What a row of a health table says of samples: diversity, collapsed; ``of``: whose they are, for the warning."""
    ratio = diversity(samples, real)
    if ratio < COLLAPSED and ranks.is_first():
        print(f"warning: {of}: the samples have collapsed (diversity {ratio:.3f})", file=sys.stderr)
    return {"diversity": ratio, "collapsed": ratio < COLLAPSED}


def check_finite(bad_step: int, *, run: str, kept: Path) -> None:
    """Stop if an update's numbers were not finite.

    Parameters
    ----------
    bad_step : the first such step, counted from 1; 0 = none
    run, kept : what was trained, and where the last good checkpoint is, for the message

    Raises
    ------
    InputError
        Naming the step and the checkpoint.
    """
    if bad_step:
        message = (
            f"{run}: a loss or a weight is NaN or infinite in step {bad_step:,}; the last good checkpoint, if there "
            f"was one, is kept ({kept}). Train anew with a lower learning_rate of this run, or with "
            "compute.precision fp32"
        )
        raise InputError(message)
