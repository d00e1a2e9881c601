"""The MNIST networks of DCGAN's appendix: conditional DCGAN, and the permutation-invariant GAN of Table 3.

Labels enter every layer, one-hot beside its units or as constant planes beside its maps. No biases, no batch-norm gain
or shift: the only parameters are 4 + 4 weight arrays, at the paper's widths 6,820,538 in G and 6,688,202 in D. With
``affine`` batch norm has both, which the paper found worse.
"""

from collections.abc import Callable

import torch
from torch import nn

from pipeline.models.layers import AffineBatchNorm, BatchNorm, Down, Flatten, Linear, Logits, Reshape, Up, beside

CLASSES = 10


class Conditional(nn.Module):
    """Layers in a row; each sees the labels beside its input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x: z (B, z_dim) or images (B, 1, 28, 28); y one-hot float (B, 10)."""
        for layer in self.layers:
            x = layer(beside(x, y))
        return x


class Pixels(nn.Module):
    """Sigmoid of a generator's last layer, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> fp32 in (0, 1)."""
        return torch.sigmoid(x.float())


def batch_norm(affine: bool) -> Callable[[int], nn.Module]:
    """What gives the batch norm of so many channels or units; ``affine``: with a learnt gain and shift."""
    return AffineBatchNorm if affine else lambda _n: BatchNorm()


def dcgan_generator(z_dim: int = 100, n: int = 64, hidden: int = 1024, *, affine: bool = False) -> Conditional:
    """z (B, z_dim) in [-1, 1], y -> images (B, 1, 28, 28) in (0, 1).  DCGAN appendix and authors' code."""
    y, norm = CLASSES, batch_norm(affine)
    return Conditional(
        nn.Sequential(Linear(z_dim + y, hidden), norm(hidden), nn.ReLU()),  # 1024
        nn.Sequential(Linear(hidden + y, 2 * n * 49), norm(2 * n * 49), nn.ReLU(), Reshape(2 * n, 7, 7)),  # 128 x 7 x 7
        nn.Sequential(Up(2 * n + y, n), norm(n), nn.ReLU()),  # 64 x 14 x 14
        nn.Sequential(Up(n + y, 1), Pixels()),  # 1 x 28 x 28
    )


def dcgan_discriminator(n: int = 64, hidden: int = 1024, *, affine: bool = False) -> Conditional:
    """Images (B, 1, 28, 28) in [0, 1], y -> logits (B, 1).  DCGAN appendix and authors' code."""
    y, norm = CLASSES, batch_norm(affine)
    return Conditional(
        nn.Sequential(Down(1 + y, n), nn.LeakyReLU(0.2)),  # 64 x 14 x 14
        nn.Sequential(Down(n + y, 2 * n), norm(2 * n), nn.LeakyReLU(0.2), Flatten()),  # 128 x 7 x 7 = 6272
        nn.Sequential(Linear(2 * n * 49 + y, hidden), norm(hidden), nn.LeakyReLU(0.2)),  # 1024
        Logits(hidden + y),  # 1
    )


def gan_generator(z_dim: int = 100, hidden: int = 1024, *, affine: bool = False) -> Conditional:
    """z (B, z_dim) in [-1, 1], y -> images (B, 1, 28, 28) in (0, 1).  Table 3, row "GAN"; the layers are our choice."""
    y, norm = CLASSES, batch_norm(affine)
    return Conditional(
        nn.Sequential(Linear(z_dim + y, hidden), norm(hidden), nn.ReLU()),  # 1024
        nn.Sequential(Linear(hidden + y, hidden), norm(hidden), nn.ReLU()),  # 1024
        nn.Sequential(Linear(hidden + y, 784), Reshape(1, 28, 28), Pixels()),  # 784
    )


def gan_discriminator(hidden: int = 1024, *, affine: bool = False) -> nn.Module:
    """Images (B, 1, 28, 28) in [0, 1], y -> logits (B, 1).  Table 3, row "GAN"; the layers are our choice."""
    y, norm = CLASSES, batch_norm(affine)
    return FlatInput(
        nn.Sequential(Linear(784 + y, hidden), nn.LeakyReLU(0.2)),  # 1024
        nn.Sequential(Linear(hidden + y, hidden), norm(hidden), nn.LeakyReLU(0.2)),  # 1024
        Logits(hidden + y),  # 1
    )


class FlatInput(Conditional):
    """A conditional network that sees an image as a vector: permutation invariant."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Flatten the images first, so that the labels stand beside pixels and not as planes."""
        return super().forward(x.flatten(1), y)
