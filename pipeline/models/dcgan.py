"""DCGAN's networks for colour images, row by row: 64 x 64 (LSUN, faces), 32 x 32 (ImageNet), SVHN's, and 128 x 128.

No labels, no biases but batch norm's shift. Every network is an ``nn.Sequential`` of the rows of its table, so that the
first k rows are ``network[:k]``. What the paper argues for can be undone by a ``Variant``.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import nn

from pipeline.core.images import from_unit, to_unit
from pipeline.core.params import section
from pipeline.models.layers import (
    AffineBatchNorm,
    Convolution,
    Deconvolution,
    Flatten,
    GlobalAverage,
    Linear,
    Logits,
    Maxout,
    MaxPool,
    Reshape,
    Upsample,
)

SIDE = 4  # of the maps that z is projected to, and of the last maps of D


@section
class Variant:
    """Departures from the architecture guidelines of DCGAN, section 3, for ablations; ``PAPER`` has none.

    Attributes
    ----------
    batch_norm : ``default`` leaves out G's output and D's first row; ``all`` has it there too (not on D's single logit,
        which would then average 0 in every batch); ``none`` nowhere
    resampling : ``pooling``: D convolves with stride 1 and, after the activation, takes the maximum of each 2 x 2
        places; G repeats each place four times and convolves with stride 1
    hidden : units of a fully connected hidden layer behind z and before D's logit; 0 = none
    global_average : D's logit sees the mean over places of the last maps
    activation : D's; ``maxout`` takes the larger of two pieces, from twice the channels
    """

    batch_norm: Literal["default", "all", "none"]
    resampling: Literal["strides", "pooling"]
    hidden: Annotated[int, Ge(0)]
    global_average: bool
    activation: Literal["leaky_relu", "relu", "maxout"]


PAPER = Variant(batch_norm="default", resampling="strides", hidden=0, global_average=False, activation="leaky_relu")


# ---- images ---------------------------------------------------------------------------------------------------------


def to_signed(images: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in [-1, 1], channels_last: x / 127.5 - 1, the range of tanh."""
    return to_unit(images, device).mul_(2.0).sub_(1.0)


def from_signed(images: torch.Tensor) -> np.ndarray:
    """float (N, C, H, W) in [-1, 1] -> uint8 (N, H, W, C), rounded to the nearest of 256 levels."""
    return from_unit(images.float().add(1.0).div_(2.0))


# ---- rows -----------------------------------------------------------------------------------------------------------


class Tanh(nn.Module):
    """Tanh of a generator's last layer, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> fp32 in [-1, 1]."""
        return torch.tanh(x.float())


class Unbounded(nn.Module):
    """In place of :class:`Tanh`: what the last layer gives, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> fp32, of any size; pixels beyond [-1, 1] are cut off where images are stored."""
        return x.float()


def project(v: Variant, z_dim: int, n_out: int) -> nn.Sequential:
    """z -> n_out maps of 4 x 4. Batch norm comes before the reshape: it has a gain for each unit."""
    hidden = [Linear(z_dim, v.hidden), *_norm(v, v.hidden), nn.ReLU()] if v.hidden else []
    units = n_out * SIDE * SIDE
    return nn.Sequential(
        *hidden, Linear(v.hidden or z_dim, units), *_norm(v, units), nn.ReLU(), Reshape(n_out, SIDE, SIDE)
    )


def up(v: Variant, n_in: int, n_out: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """Maps of G -> maps of ``stride`` times the side."""
    return nn.Sequential(*_enlarge(v, n_in, n_out, kernel, stride), *_norm(v, n_out), nn.ReLU())


def to_pixels(v: Variant, n_in: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """Maps of G -> RGB in [-1, 1], no batch norm."""
    return nn.Sequential(*_enlarge(v, n_in, 3, kernel, stride), *_norm(v, 3, edge=True), Tanh())


def from_pixels(v: Variant, n_out: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """RGB in [-1, 1] -> the first maps of D, no batch norm."""
    return _maps(v, 3, n_out, kernel, stride, edge=True)


def down(v: Variant, n_in: int, n_out: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """Maps of D -> maps of the side divided by ``stride``."""
    return _maps(v, n_in, n_out, kernel, stride, edge=False)


def logit(v: Variant, n_in: int) -> nn.Sequential:
    """The last maps of D -> fp32 logits (B, 1)."""
    units = n_in if v.global_average else n_in * SIDE * SIDE
    hidden: list[nn.Module] = []
    if v.hidden:
        width = v.hidden * _pieces(v)
        hidden = [Linear(units, width), *_norm(v, width), _activation(v)]
    return nn.Sequential(GlobalAverage() if v.global_average else Flatten(), *hidden, Logits(v.hidden or units))


def _maps(v: Variant, n_in: int, n_out: int, kernel: int, stride: int, *, edge: bool) -> nn.Sequential:
    pool, n = v.resampling == "pooling" and stride == 2, n_out * _pieces(v)
    convolution = Convolution(n_in, n, kernel=kernel, stride=1 if pool else stride)
    return nn.Sequential(convolution, *_norm(v, n, edge=edge), _activation(v), *([MaxPool()] if pool else []))


def _enlarge(v: Variant, n_in: int, n_out: int, kernel: int, stride: int) -> list[nn.Module]:
    if v.resampling == "strides":
        return [Deconvolution(n_in, n_out, kernel=kernel, stride=stride)]
    return [*([Upsample()] if stride == 2 else []), Convolution(n_in, n_out, kernel=kernel)]


def _norm(v: Variant, n: int, *, edge: bool = False) -> list[nn.Module]:
    """Batch norm where the variant has it; ``edge``: next to the pixels."""
    return [AffineBatchNorm(n)] if v.batch_norm == "all" or (v.batch_norm == "default" and not edge) else []


def _activation(v: Variant) -> nn.Module:
    return {"leaky_relu": nn.LeakyReLU(0.2), "relu": nn.ReLU(), "maxout": Maxout()}[v.activation]


def _pieces(v: Variant) -> int:
    return 2 if v.activation == "maxout" else 1


# ---- networks -------------------------------------------------------------------------------------------------------


def generator_64(z_dim: int = 100, n: int = 128, variant: Variant = PAPER) -> nn.Sequential:
    """z (B, z_dim) in [-1, 1] -> images (B, 3, 64, 64) in [-1, 1].  DCGAN, figure 1; LSUN and faces."""
    v = variant
    return nn.Sequential(
        project(v, z_dim, 8 * n),  # 1024 x 4 x 4
        up(v, 8 * n, 4 * n, kernel=5, stride=2),  # 512 x 8 x 8
        up(v, 4 * n, 2 * n, kernel=5, stride=2),  # 256 x 16 x 16
        up(v, 2 * n, n, kernel=5, stride=2),  # 128 x 32 x 32
        to_pixels(v, n, kernel=5, stride=2),  # 3 x 64 x 64
    )


def discriminator_64(n: int = 128, variant: Variant = PAPER) -> nn.Sequential:
    """Images (B, 3, 64, 64) in [-1, 1] -> logits (B, 1).  The mirror of figure 1, from the authors' faces script."""
    v = variant
    return nn.Sequential(
        from_pixels(v, n, kernel=5, stride=2),  # 128 x 32 x 32
        down(v, n, 2 * n, kernel=5, stride=2),  # 256 x 16 x 16
        down(v, 2 * n, 4 * n, kernel=5, stride=2),  # 512 x 8 x 8
        down(v, 4 * n, 8 * n, kernel=5, stride=2),  # 1024 x 4 x 4
        logit(v, 8 * n),  # 1
    )


def generator_32(z_dim: int = 256, n: int = 128, variant: Variant = PAPER) -> nn.Sequential:
    """z (B, z_dim) in [-1, 1] -> images (B, 3, 32, 32) in [-1, 1].  ImageNet; from the authors' released arrays."""
    v = variant
    return nn.Sequential(
        project(v, z_dim, 4 * n),  # 512 x 4 x 4
        up(v, 4 * n, 4 * n, kernel=3, stride=2),  # 512 x 8 x 8
        up(v, 4 * n, 2 * n, kernel=3),  # 256 x 8 x 8
        up(v, 2 * n, 2 * n, kernel=3, stride=2),  # 256 x 16 x 16
        up(v, 2 * n, n, kernel=3),  # 128 x 16 x 16
        up(v, n, n, kernel=3, stride=2),  # 128 x 32 x 32
        to_pixels(v, n, kernel=3),  # 3 x 32 x 32
    )


def discriminator_32(n: int = 128, variant: Variant = PAPER) -> nn.Sequential:
    """Images (B, 3, 32, 32) in [-1, 1] -> logits (B, 1).  ImageNet; the 28,672 features of Table 1 are its maps."""
    v = variant
    return nn.Sequential(
        from_pixels(v, n, kernel=3),  # 128 x 32 x 32
        down(v, n, n, kernel=3, stride=2),  # 128 x 16 x 16
        down(v, n, 2 * n, kernel=3),  # 256 x 16 x 16
        down(v, 2 * n, 2 * n, kernel=3, stride=2),  # 256 x 8 x 8
        down(v, 2 * n, 4 * n, kernel=3),  # 512 x 8 x 8
        down(v, 4 * n, 4 * n, kernel=3, stride=2),  # 512 x 4 x 4
        logit(v, 4 * n),  # 1
    )


def generator_svhn(z_dim: int = 100, n: int = 64, variant: Variant = PAPER) -> nn.Sequential:
    """z (B, z_dim) from N(0, 1) -> images (B, 3, 32, 32) in [-1, 1].  From the authors' released arrays."""
    v = variant
    return nn.Sequential(
        project(v, z_dim, 4 * n),  # 256 x 4 x 4
        up(v, 4 * n, 2 * n, kernel=5, stride=2),  # 128 x 8 x 8
        up(v, 2 * n, n, kernel=5, stride=2),  # 64 x 16 x 16
        to_pixels(v, n, kernel=5, stride=2),  # 3 x 32 x 32
    )


def generator_svhn_linear(z_dim: int = 100, n: int = 64, variant: Variant = PAPER) -> nn.Sequential:
    """:func:`generator_svhn` without tanh, for an ablation: section 3 says that a bounded output learns faster."""
    *rows, last = generator_svhn(z_dim, n, variant).children()
    *to_rgb, _ = last.children()
    return nn.Sequential(*rows, nn.Sequential(*to_rgb, Unbounded()))


def discriminator_svhn(n: int = 64, variant: Variant = PAPER) -> nn.Sequential:
    """Images (B, 3, 32, 32) in [-1, 1] -> logits (B, 1).  The 7,168 features of Table 2's SVHN row are its maps."""
    v = variant
    return nn.Sequential(
        from_pixels(v, n, kernel=5, stride=2),  # 64 x 16 x 16
        down(v, n, 2 * n, kernel=5, stride=2),  # 128 x 8 x 8
        down(v, 2 * n, 4 * n, kernel=5, stride=2),  # 256 x 4 x 4
        logit(v, 4 * n),  # 1
    )


def generator_128(z_dim: int = 100, n: int = 64, variant: Variant = PAPER) -> nn.Sequential:
    """z (B, z_dim) in [-1, 1] -> images (B, 3, 128, 128) in [-1, 1].  ``generator_64`` with one more row.

    The plain DCGAN beside Improved GAN's ImageNet model (its figure 6, left), whose layers are nowhere stated.
    """
    v = variant
    return nn.Sequential(
        project(v, z_dim, 16 * n),  # 1024 x 4 x 4
        up(v, 16 * n, 8 * n, kernel=5, stride=2),  # 512 x 8 x 8
        up(v, 8 * n, 4 * n, kernel=5, stride=2),  # 256 x 16 x 16
        up(v, 4 * n, 2 * n, kernel=5, stride=2),  # 128 x 32 x 32
        up(v, 2 * n, n, kernel=5, stride=2),  # 64 x 64 x 64
        to_pixels(v, n, kernel=5, stride=2),  # 3 x 128 x 128
    )


def discriminator_128(n: int = 64, variant: Variant = PAPER) -> nn.Sequential:
    """Images (B, 3, 128, 128) in [-1, 1] -> logits (B, 1).  ``discriminator_64`` with one more row."""
    v = variant
    return nn.Sequential(
        from_pixels(v, n, kernel=5, stride=2),  # 64 x 64 x 64
        down(v, n, 2 * n, kernel=5, stride=2),  # 128 x 32 x 32
        down(v, 2 * n, 4 * n, kernel=5, stride=2),  # 256 x 16 x 16
        down(v, 4 * n, 8 * n, kernel=5, stride=2),  # 512 x 8 x 8
        down(v, 8 * n, 16 * n, kernel=5, stride=2),  # 1024 x 4 x 4
        logit(v, 16 * n),  # 1
    )
