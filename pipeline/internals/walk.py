"""A walk through z: straight lines between random points, and the steps of the pictures (DCGAN, section 6.1, Figure 4).

A network that had memorised its training images would jump from one to the next; the paper sees smooth changes. The
number beside it: the distance between neighbouring frames, against that between pictures of independent z.
"""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.params import section
from pipeline.evaluation.features import map_rows
from pipeline.internals.frozen import FrozenGenerator
from pipeline.internals.samples import picture_features

MOST_BYTES = 480_000  # a picture in Git stays under 500 KB
ENLARGED = 2
FRAME_MS = 80
QUALITIES = (90, 80, 70, 60, 50, 40, 30, 20, 10)  # of the lossy coding; the best that fits is taken


@section
class Walk:
    """``internals.walk`` in params.yaml.

    Attributes
    ----------
    n_points : random z that the walk goes through
    frames_per_segment : pictures from one point up to, and without, the next
    n_random_pairs : pairs of pictures of independent z, to compare the steps with
    """

    seed: int
    n_points: Annotated[int, Ge(2)]
    frames_per_segment: Annotated[int, Ge(2)]
    n_random_pairs: Annotated[int, Ge(1)]


def polyline(points: torch.Tensor, frames_per_segment: int) -> torch.Tensor:
    """Points (n, z_dim) -> ((n - 1) * frames, z_dim): equal steps from each point towards the next, never reaching it.

    So no point comes twice, the last comes not at all, and the line stays open.
    """
    t = (torch.arange(frames_per_segment) / frames_per_segment).view(1, -1, 1)
    return torch.lerp(points[:-1, None], points[1:, None], t).flatten(0, 1)


def frames(generator: FrozenGenerator, config: Walk) -> np.ndarray:
    """uint8 ((n_points - 1) * frames_per_segment, H, W, 3)."""
    points = generator.draw_z(config.n_points, config.seed, "walk")
    return generator.images(polyline(points, config.frames_per_segment))


def steps(walk: np.ndarray, generator: FrozenGenerator, discriminator: nn.Sequential, config: Walk) -> pd.DataFrame:
    """Distances between neighbouring frames and between random pairs, as the graph's contract has them.

    Euclidean in the features of a frozen D, and in pixels in [0, 1]. ``number`` counts the steps, and the pairs;
    ``segment`` is that of the frame which a step leaves, -1 for pairs.
    """
    z = generator.draw_z(2 * config.n_random_pairs, config.seed, "walk pairs")
    pairs = generator.images(z)
    number = np.arange(len(walk) - 1)
    tables = [
        _distances("step", walk[:-1], walk[1:], number // config.frames_per_segment, discriminator, generator.device),
        _distances("random", pairs[::2], pairs[1::2], np.int64(-1), discriminator, generator.device),
    ]
    return pd.concat(tables, ignore_index=True)


def _distances(
    kind: str, a: np.ndarray, b: np.ndarray, segment: np.ndarray | np.int64, discriminator: nn.Sequential, device: str
) -> pd.DataFrame:
    layers = map_rows(discriminator)
    features = picture_features(layers, a, device) - picture_features(layers, b, device)
    pixels = (a.astype(np.float64) - b.astype(np.float64)) / 255.0
    return pd.DataFrame(
        {
            "kind": kind,
            "number": np.arange(len(a)),
            "segment": segment,
            "distance": features.norm(dim=1).cpu().numpy(),
            "pixel_distance": np.sqrt(np.square(pixels).sum(axis=(1, 2, 3))),
        }
    )


def save_animation(out: Path, walk: np.ndarray) -> None:
    """Write the frames as a WebP that goes there and back without end, its quality lowered until the file is small.

    Back, because a jump from the last frame to the first would be the one step that is not smooth.
    """
    there_and_back = np.concatenate([walk, walk[-2:0:-1]])
    files = (_webp(there_and_back, quality) for quality in QUALITIES)
    webp = next((webp for webp in files if len(webp) <= MOST_BYTES), None)
    if webp is None:
        message = f"{out}: {len(walk)} frames do not fit an animation of {MOST_BYTES:,} bytes; lower "
        message += "internals.walk.frames_per_segment"
        raise InputError(message)
    with whole_file(out) as partial:
        partial.write_bytes(webp)


def _webp(images: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    large = images.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    pictures, content = [Image.fromarray(image) for image in large], BytesIO()
    # method: effort, 0 to 6; minimize_size off: deltas between all frames take many times as long
    settings = {"quality": quality, "method": 4, "duration": FRAME_MS, "loop": 0, "minimize_size": False}
    pictures[0].save(content, format="WEBP", save_all=True, append_images=pictures[1:], **settings)
    return content.getvalue()
