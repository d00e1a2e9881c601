"""Improved GAN's networks for 128 x 128 ImageNet (section 6.5, figure 6), row by row, from the authors' code.

D sees one joint batch, the real images in front and as many generated ones behind: its batch norm and its minibatch
features tell the halves apart. D has a logit for each class and a last one for "generated".

Parameters at the authors' widths and 1000 classes: G 72,334,811, D 67,638,273.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Len, MultipleOf
from torch import nn
from torch.autograd.function import once_differentiable

from pipeline.core.params import section
from pipeline.models.dcgan import Tanh
from pipeline.models.improved_layers import (
    VIRTUAL_BATCH_NORM_EPS,
    GaussianNoise,
    VirtualBatchNorm,
    WithReference,
    at_least_fp32,
    joint_closeness,
)
from pipeline.models.layers import AffineBatchNorm, Flatten, Reshape

SIDE = 128  # of the images
FIRST_SIDE = 4  # of the maps that z is projected to, and of the last maps of D
STAGE_SIDES = (4, 8, 16, 32, 64, 128)  # of G's maps after each of its six hidden stages
CROSS_BATCH_NORM_EPS = 1e-5
OUTPUT_STD, OUTPUT_BIAS = 0.075, -0.45  # G's last row when drawn


@section
class Architecture:
    """``imagenet128.architecture``.

    Attributes
    ----------
    generator_width : maps of G's last hidden stages (64)
    noise_maps : maps of fresh noise beside those of each of G's six stages (64, 64, 32, 16, 8, 8); 0 = none
    reference_batch : examples in the reference batch of virtual batch norm in G (16, the batch size); 0 = batch norm
    discriminator_width : maps of D's first row (64)
    input_noise : standard deviation of the noise on D's images, which are in [-1, 1] (0.1)
    n_kernels, kernel_dim : of the minibatch features (300, 50), two sets of ``n_kernels``; 0 kernels = without
    """

    z_dim: Annotated[int, Ge(1)]
    generator_width: Annotated[int, Ge(1)]
    noise_maps: Annotated[list[Annotated[int, Ge(0)]], Len(len(STAGE_SIDES), len(STAGE_SIDES))]
    reference_batch: Annotated[int, Ge(0)]
    discriminator_width: Annotated[int, Ge(2), MultipleOf(2)]  # half of the channels go by the real half's statistics
    input_noise: Annotated[float, Ge(0)]
    n_kernels: Annotated[int, Ge(0)]
    kernel_dim: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.reference_batch == 1:
            message = "reference_batch: one example has no batch statistics; write 0 (batch norm), or 2 or more"
            raise ValueError(message)


# ---- what G takes ---------------------------------------------------------------------------------------------------


def input_sizes(a: Architecture) -> list[int]:
    """How many of G's inputs are z, and how many are the noise of each stage."""
    return [a.z_dim, *(maps * side**2 for maps, side in zip(a.noise_maps, STAGE_SIDES, strict=True))]


def draw_inputs(a: Architecture, n: int, stream: torch.Generator) -> torch.Tensor:
    """float32 (n, sum of ``input_sizes``), uniform in [-1, 1): of each example z and all its noise maps, in one row.

    So the noise maps of the reference batch are as fixed as its z, and an example's are its own whatever is beside it.
    """
    return torch.rand(n, sum(input_sizes(a)), generator=stream).mul_(2).sub_(1)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def halves(n: int) -> int:
    """Half of a joint batch of n examples.

    Raises
    ------
    ValueError
        If there are no two halves of two or more.
    """
    half, odd = divmod(n, 2)
    if odd or half < 2:
        message = f"a joint batch needs two halves of equal size, of at least 2 examples each; found {n}"
        raise ValueError(message)
    return half


class Moments(torch.autograd.Function):
    """Mean and biased variance over the places of each map.

    Autograd's own gradient would go through maps of 128 x 128 again and again, which took most of a step's time.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) -> means and variances, each (B, C)."""
        mean = x.mean((2, 3))
        variance = (x - mean[..., None, None]).square_().mean((2, 3))  # in half the time of var_mean
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_moments: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """d mean / dx = 1 / n; d variance / dx = 2 (x - mean) / n."""
        x, mean = ctx.saved_tensors
        of_mean, of_variance = (each * (x.shape[1] / x[0].numel()) for each in of_moments)
        slope = 2 * of_variance
        return affine(x, slope, of_mean - slope * mean)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each example and channel over its places: each (B, C); of units x itself and 0."""
    return Moments.apply(x) if x.dim() == 4 else (x, torch.zeros_like(x))


def together(mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance over examples and places, (C,), from those over the places of each, (B, C)."""
    whole = mean.mean(0)
    return whole, variance.mean(0) + (mean - whole).square().mean(0)


def affine(x: torch.Tensor, factor: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """x (B, C, ...) times ``factor`` plus ``offset``, each (C,) or (B, C)."""
    places = [1] * (x.dim() - 2)
    return torch.addcmul(offset.view(*offset.shape, *places), x, factor.view(*factor.shape, *places))


class CrossBatchNorm(nn.Module):
    """Batch norm by the statistics of one half of a joint batch (authors' code).

    Of the real half for the first half of the channels, of the generated half for the others. All examples are
    normalised alike, so that a difference between the halves stays visible, which it would not with statistics of each
    half alone. Gain and shift per channel; biased variance.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n))
        self.shift = nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(2 B, C) or (2 B, C, H, W), the real half first -> the same shape; statistics in fp32."""
        n, c = halves(len(x)), x.shape[1] // 2
        values = at_least_fp32(x)
        means, variances = moments(values)
        by_real = together(means[:n, :c], variances[:n, :c])
        by_fake = together(means[n:, c:], variances[n:, c:])
        mean, variance = (torch.cat(both) for both in zip(by_real, by_fake, strict=True))
        factor = self.gain * (variance + CROSS_BATCH_NORM_EPS).rsqrt()
        return affine(values, factor, self.shift - mean * factor).to(x.dtype)


class MapsVirtualBatchNorm(VirtualBatchNorm):
    """:class:`VirtualBatchNorm` of maps, in a third of the time: all but two passes over them is done on moments."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N + B, C, H, W), the reference first -> the same shape; statistics in fp32."""
        n = self.n_reference
        if not 0 < n <= len(x):
            message = f"virtual batch norm needs its reference batch first: {n} examples, found a batch of {len(x)}"
            raise ValueError(message)
        values = at_least_fp32(x)
        means, variances = moments(values)
        mean, variance = together(means[:n], variances[:n])
        w, away = 1 / (n + 1), means[n:] - mean
        mixed_mean = mean + w * away
        mixed_variance = w * variances[n:] + (1 - w) * variance + w * (1 - w) * away.square()
        of_all = torch.cat([variance.expand(n, -1), mixed_variance])
        factor = self.gain * (of_all + VIRTUAL_BATCH_NORM_EPS).rsqrt()
        offset = self.shift - torch.cat([mean.expand(n, -1), mixed_mean]) * factor
        return affine(values, factor, offset).to(x.dtype)


class InputNoise(nn.Module):
    """Gaussian noise on D's images while training, drawn from the one stream that ``set_noise`` gives it."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.noise = GaussianNoise(std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(2 B, 3, H, W) -> the same shape."""
        return self.noise(x.unsqueeze(0)).squeeze(0)


class MinibatchFeatures(nn.Module):
    """Append to each example how close the real and the generated examples of its joint batch are to it.

    M_i = x_i T, with T plain weights: no norm, no offset; a bias would cancel in the distances. See
    ``improved_layers.joint_closeness``.
    """

    def __init__(self, n_in: int, n_kernels: int, kernel_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_kernels, kernel_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(2 B, n_in) -> (2 B, n_in + 2 n_kernels); distances at least in fp32: small differences are what counts."""
        device = "cpu" if x.is_meta else x.device.type  # shapes without values know no autocast
        with torch.autocast(device, enabled=False):
            m = (at_least_fp32(x) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
            return torch.cat([x, joint_closeness(m).to(x.dtype)], dim=1)


class Logits(nn.Linear):
    """Last row of D; the losses are computed in fp32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's own name
        """(2 B, n_in) -> fp32 (2 B, n_classes + 1), the last one "generated"."""
        return super().forward(input).float()


# ---- rows -----------------------------------------------------------------------------------------------------------

# batch norm, or virtual batch norm, of a stage of G: channels -> module
Norm = Callable[[int], nn.Module]


def project(z_dim: int, n_out: int, norm: Norm) -> nn.Sequential:
    """z -> n_out maps of 4 x 4. The norm comes after the reshape: it has a gain for each map, not for each unit."""
    linear = nn.Linear(z_dim, n_out * FIRST_SIDE**2)
    return nn.Sequential(linear, Reshape(n_out, FIRST_SIDE, FIRST_SIDE), norm(n_out), nn.ReLU())


def up(n_in: int, n_out: int, norm: Norm) -> nn.Sequential:
    """Maps of G and the noise beside them -> maps of twice the side."""
    deconvolution = nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=2, output_padding=1)
    return nn.Sequential(deconvolution, norm(n_out), nn.ReLU())


def to_pixels(n_in: int) -> nn.Sequential:
    """Maps of G and the noise beside them -> RGB of the same side, in [-1, 1]."""
    return nn.Sequential(nn.ConvTranspose2d(n_in, 3, 5, padding=2), Tanh())


def conv(n_in: int, n_out: int, *, stride: int) -> nn.Sequential:
    """Maps of D -> maps of the side divided by ``stride``."""
    convolution = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, CrossBatchNorm(n_out), nn.LeakyReLU(0.2))


def dense(n_in: int, n_out: int) -> nn.Sequential:
    """The last maps of D -> units."""
    linear = nn.Linear(n_in * FIRST_SIDE**2, n_out)
    return nn.Sequential(Flatten(), linear, CrossBatchNorm(n_out), nn.LeakyReLU(0.2))


# ---- networks -------------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Rows of which all but the last get fresh noise maps beside what leaves them."""

    def __init__(self, rows: list[nn.Sequential], sizes: list[int]) -> None:
        super().__init__()
        self.rows = nn.ModuleList(rows)
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, sum of sizes) as of ``draw_inputs`` -> images (B, 3, 128, 128) in [-1, 1]."""
        z, *noises = x.split(self.sizes, dim=1)
        *stages, last = self.rows
        maps = z
        for stage, noise in zip(stages, noises, strict=True):
            maps = with_noise(stage(maps), noise)
        return last(maps)


def with_noise(maps: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """maps (B, C, H, W), noise (B, K * H * W) -> (B, C + K, H, W), channels_last."""
    if not noise.shape[1]:
        return maps
    b, _, h, w = maps.shape
    beside = noise.view(b, h, w, -1).permute(0, 3, 1, 2).to(maps.dtype)
    return torch.cat([maps, beside], dim=1)


def generator(a: Architecture, norm: Norm = MapsVirtualBatchNorm) -> Generator:
    """Inputs (B, sum of ``input_sizes``) -> images (B, 3, 128, 128) in [-1, 1]; parameters not yet drawn."""
    n, k = a.generator_width, a.noise_maps
    rows = [
        project(a.z_dim, 8 * n, norm),  # 512 x 4 x 4
        up(8 * n + k[0], 4 * n, norm),  # 256 x 8 x 8
        up(4 * n + k[1], 2 * n, norm),  # 128 x 16 x 16
        up(2 * n + k[2], n, norm),  # 64 x 32 x 32
        up(n + k[3], n, norm),  # 64 x 64 x 64
        up(n + k[4], n, norm),  # 64 x 128 x 128
        to_pixels(n + k[5]),  # 3 x 128 x 128
    ]
    return Generator(rows, input_sizes(a))


def discriminator(a: Architecture, n_classes: int) -> nn.Sequential:
    """A joint batch (2 B, 3, 128, 128) in [-1, 1], the real half first -> logits (2 B, n_classes + 1).

    Its parameters are not yet drawn, and its noise has no stream yet: see ``improved_layers.set_noise``.
    """
    n = a.discriminator_width
    features = 40 * n
    return nn.Sequential(
        InputNoise(a.input_noise),  # 3 x 128 x 128
        conv(3, n, stride=2),  # 64 x 64 x 64
        conv(n, 2 * n, stride=2),  # 128 x 32 x 32
        conv(2 * n, 4 * n, stride=2),  # 256 x 16 x 16
        conv(4 * n, 4 * n, stride=1),  # 256 x 16 x 16
        conv(4 * n, 4 * n, stride=1),  # 256 x 16 x 16
        conv(4 * n, 8 * n, stride=2),  # 512 x 8 x 8
        conv(8 * n, 8 * n, stride=2),  # 512 x 4 x 4
        dense(8 * n, features),  # 2560
        *minibatch_rows(a, features),  # 3160
        Logits(features + 2 * a.n_kernels, n_classes + 1),  # 1001
    )


def minibatch_rows(a: Architecture, n_in: int) -> list[nn.Module]:
    """The minibatch features, if there are any."""
    return [MinibatchFeatures(n_in, a.n_kernels, a.kernel_dim)] if a.n_kernels else []


def build_generator(a: Architecture) -> nn.Module:
    """G, with its reference batch still 0 if it has virtual batch norm; its parameters are not yet drawn."""
    if not a.reference_batch:
        return generator(a, AffineBatchNorm)
    return WithReference(generator(a), torch.zeros(a.reference_batch, sum(input_sizes(a))))


# ---- initialisation -------------------------------------------------------------------------------------------------


def initialise(network: nn.Module, std: float, stream: torch.Generator) -> None:
    """Draw weights from N(0, std^2) (authors: 0.02) and gains from N(1, 0.02^2); shifts and biases 0.

    G's last row is drawn from N(0, 0.075^2), its biases are -0.45 (authors' code), and its reference batch is drawn.
    """
    inner = network.network if isinstance(network, WithReference) else network
    last = inner.rows[-1] if isinstance(inner, Generator) else None
    edge = set() if last is None else {id(parameter) for parameter in last.parameters()}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            kind, is_last = name.rpartition(".")[2], id(parameter) in edge
            if kind == "weight":
                parameter.normal_(0.0, OUTPUT_STD if is_last else std, generator=stream)
            elif kind == "gain":
                parameter.normal_(1.0, 0.02, generator=stream)
            else:  # bias, shift
                parameter.fill_(OUTPUT_BIAS if is_last else 0.0)
        if isinstance(network, WithReference):
            network.reference.uniform_(-1.0, 1.0, generator=stream)
