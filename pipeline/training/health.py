"""Signs of a sick GAN: a loss that is no number, and samples that are all alike."""

from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import InputError

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
