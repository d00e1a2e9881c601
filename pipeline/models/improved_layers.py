"""Building blocks of Improved GAN's networks, for several independent networks ("seeds") at once.

Every parameter has a leading axis S, one slice a network; every activation is (S, B, ...). Network s sees its own slice
only, so that it computes the same, within rounding, whatever S is; S = 1 is a single network. Linear layers are batched
matrix products. Convolutions are one grouped convolution, the maps of all networks side by side: (B, S * C, H, W), of
which (S, B, C, H, W) is a view, so that no copies are made between one convolution and the next.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from pipeline.core.errors import InputError
from pipeline.models.layers import REDUCED_PRECISION

WEIGHT_NORM_EPS = 1e-6  # added to the squared norm, inside the root (authors' code)
GENERATOR_BATCH_NORM_EPS = 1e-6
VIRTUAL_BATCH_NORM_EPS = 1e-5

Std = float | Literal["glorot"]


# ---- side by side ---------------------------------------------------------------------------------------------------


def side_by_side(x: torch.Tensor) -> torch.Tensor:
    """(S, B, C, ...) -> (B, S * C, ...): a view, where x came out of :func:`apart`.

    Maps in channels_last: grouped convolutions of few maps are twice as fast then.
    """
    y = x.transpose(0, 1).flatten(1, 2)
    return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y


def apart(x: torch.Tensor, n_seeds: int) -> torch.Tensor:
    """(B, S * C, ...) -> (S, B, C, ...), a view."""
    return x.unflatten(1, (n_seeds, -1)).transpose(0, 1)


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """Statistics, norms and distances are not taken in reduced precision."""
    return x.float() if x.dtype in REDUCED_PRECISION else x


def draw_weights(weight: torch.Tensor, std: Std, streams: Sequence[torch.Generator], *, fans: int) -> None:
    """Draw weight[s] from streams[s], on the CPU: from N(0, std^2), or Glorot's uniform distribution.

    Parameters
    ----------
    weight : (S, ...), overwritten
    std : ``glorot``: U(-a, a), a^2 = 6 / (fan_in + fan_out)
    fans : fan_in + fan_out, each times the kernel's area
    """
    check_one_each(streams, len(weight))
    limit = (6 / fans) ** 0.5
    with torch.no_grad():
        for mine, stream in zip(weight, streams, strict=True):
            drawn = torch.empty(mine.shape)
            if std == "glorot":
                drawn.uniform_(-limit, limit, generator=stream)
            else:
                drawn.normal_(0.0, std, generator=stream)
            mine.copy_(drawn)


def check_one_each(streams: Sequence[Any], n_seeds: int) -> None:
    """Refuse a number of streams that is not the number of seeds."""
    if len(streams) != n_seeds:
        message = f"{n_seeds} seeds need as many random streams, found {len(streams)}"
        raise ValueError(message)


# ---- without weight norm --------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A matrix product for each seed, without bias."""

    def __init__(self, n_seeds: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_seeds, n_in, n_out))

    def initialise(self, std: Std, streams: Sequence[torch.Generator]) -> None:
        """Draw the weights, each seed's from its stream."""
        draw_weights(self.weight, std, streams, fans=sum(self.weight.shape[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> (S, B, n_out)."""
        return torch.bmm(x, self.weight)


class Deconvolution(nn.Module):
    """A fractionally strided convolution for each seed, without bias: the side times the stride, exactly."""

    def __init__(self, n_seeds: int, n_in: int, n_out: int, *, kernel: int = 5, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(n_seeds, n_in, n_out, kernel, kernel))

    def initialise(self, std: Std, streams: Sequence[torch.Generator]) -> None:
        """Draw the weights, each seed's from its stream."""
        draw_weights(self.weight, std, streams, fans=_fans_of_maps(self.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in, H, W) -> (S, B, n_out, H * stride, W * stride)."""
        return grouped_deconvolution(x, self.weight, self.stride)

    def extra_repr(self) -> str:
        """What the shape of the weights does not tell."""
        return f"stride={self.stride}"


def grouped_deconvolution(
    x: torch.Tensor, weight: torch.Tensor, stride: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x (S, B, n_in, H, W), weight (S, n_in, n_out, k, k), bias (S, n_out) -> (S, B, n_out, H * stride, W * stride)."""
    y = F.conv_transpose2d(
        side_by_side(x),
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=stride,
        padding=weight.shape[-1] // 2,
        output_padding=stride - 1,
        groups=len(weight),
    )
    return apart(y, len(weight))


def _fans_of_maps(weight: torch.Tensor) -> int:
    """fan_in + fan_out of (S, n, m, k, k)."""
    return (weight.shape[1] + weight.shape[2]) * weight.shape[3] * weight.shape[4]


# ---- weight norm ----------------------------------------------------------------------------------------------------


class SquaredNorm(torch.autograd.Function):
    """Sum of squares over some axes. Autograd's own would go through the large tensor of squares once more."""

    @staticmethod
    def forward(ctx: Any, v: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """v, of which ``axes`` are summed over."""
        ctx.save_for_backward(v)
        ctx.axes = axes
        if v.numel() <= 2**20:
            return v.square().sum(axes)
        # one seed after another: a tensor of squares as large as all weights would not stay in the cache
        return torch.stack([mine.square().sum([axis - 1 for axis in axes]) for mine in v])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """2 v times the gradient."""
        (v,) = ctx.saved_tensors
        gradient = 2 * gradients[0]
        for axis in sorted(ctx.axes):
            gradient = gradient.unsqueeze(axis)
        return v * gradient, None


class WeightNorm(nn.Module, ABC):
    """w = g v / ||v|| for each output unit, plus a bias (Salimans & Kingma 2016; Improved GAN, authors' code).

    Attributes
    ----------
    direction : v, parameter, as the weights of the layer without norm
    scale : g (S, n_out); a parameter if ``trained_scale``, else a buffer: the authors freeze the scales of hidden
        layers once the data have set them, and train those of output layers only
    bias : parameter (S, n_out)
    normed : False: w = g v, for comparison
    """

    direction: nn.Parameter
    scale: torch.Tensor
    bias: nn.Parameter
    normed: bool = True
    summed: tuple[int, ...]  # axes of the direction that lead into one output unit

    def _add_parameters(self, n_out: int, direction: torch.Tensor, *, trained_scale: bool) -> None:
        self.direction = nn.Parameter(direction)
        scale = torch.ones(len(direction), n_out)
        if trained_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.bias = nn.Parameter(torch.zeros(len(direction), n_out))

    def initialise(self, std: Std, streams: Sequence[torch.Generator]) -> None:
        """Draw the directions, each seed's from its stream; scales 1, biases 0, until data set them."""
        shape = self.direction.shape
        fans = sum(shape[1:]) if len(shape) == 3 else _fans_of_maps(self.direction)
        draw_weights(self.direction, std, streams, fans=fans)
        with torch.no_grad():
            self.scale.fill_(1.0)
            self.bias.zero_()

    def gain(self) -> torch.Tensor:
        """g / ||v|| (S, n_out), fp32; without the norm g."""
        if not self.normed:
            return self.scale
        return self.scale * (SquaredNorm.apply(self.direction, self.summed) + WEIGHT_NORM_EPS).rsqrt()

    @abstractmethod
    def product(self, x: torch.Tensor) -> torch.Tensor:
        """w x, without the bias."""

    @torch.no_grad()
    def data_dependent(self, x: torch.Tensor, init_std: float, *, per_channel: bool = True) -> torch.Tensor:
        """Set g and b so that each output channel has mean 0 and standard deviation ``init_std`` on these data.

        Statistics are over the batch and, of maps, over places; biased variance.

        Parameters
        ----------
        x : as in ``forward``
        init_std : 1 for hidden layers, 0.1 for output layers (authors' code; their preset at submission: 1)
        per_channel : False: one standard deviation for all channels of a seed, with each its own mean (the authors'
            code at submission)

        Returns
        -------
        The output on these data, thus normalised: what the next layer is initialised with.

        Raises
        ------
        InputError
            If a standard deviation is 0: no scale would do.
        """
        product = self.product(x)
        y = at_least_fp32(product)
        places = (1, *range(3, y.dim()))
        mean = y.mean(places)
        variance = (y - self._beside(mean, y)).square().mean(places)
        if not per_channel:
            variance = variance.mean(1, keepdim=True).expand_as(variance)
        if not bool((variance > 0).all()):
            message = (
                f"weight norm cannot be initialised from {x.shape[1]} examples: a unit is the same for all of them"
            )
            message += "; give more examples, or others"
            raise InputError(message)
        factor = init_std * variance.rsqrt()
        self.scale.mul_(factor)
        self.bias.copy_(-mean * factor)
        return ((y - self._beside(mean, y)) * self._beside(factor, y)).to(product.dtype)

    @staticmethod
    def _beside(values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(S, C) -> (S, 1, C, 1, ...), to be spread over the batch and places of y."""
        return values.view(len(values), 1, -1, *[1] * (y.dim() - 3))


class NormedProduct(torch.autograd.Function):
    """g x v / ||v|| + b of several seeds, with fewer passes over v than autograd's: see :class:`WeightNormLinear`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        direction: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        weight: torch.Tensor,
        inverse: torch.Tensor,
    ) -> torch.Tensor:
        """x (S, B, n), v (S, n, m), g, b (S, m); v in the product's precision and 1 / ||v|| (S, m) -> (S, B, m)."""
        ctx.dtype = x.dtype
        x = x.to(weight.dtype)
        y = torch.bmm(x, weight)
        gain = (scale * inverse).unsqueeze(1).to(y.dtype)
        ctx.save_for_backward(x, y, gain, direction, scale, weight, inverse)
        return torch.addcmul(bias.unsqueeze(1).to(y.dtype), y, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """d(1 / ||v||) / dv = - v / ||v||^3."""
        x, y, gain, direction, scale, weight, inverse = ctx.saved_tensors
        (of_output,) = gradients
        of_y = of_output * gain
        found: list[torch.Tensor | None] = [None] * 6
        if ctx.needs_input_grad[0]:
            found[0] = torch.bmm(of_y, weight.mT).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            of_gain = (of_output * y).sum(1, dtype=scale.dtype)
            found[2] = of_gain * inverse
            through_product = torch.bmm(x.mT, of_y).to(direction.dtype)
            through_norm = (of_gain * scale * inverse.pow(3)).neg_().unsqueeze(1)
            found[1] = through_product.addcmul_(direction, through_norm)
        if ctx.needs_input_grad[3]:
            found[3] = of_output.sum(1, dtype=scale.dtype)
        return tuple(found)


class WeightNormLinear(WeightNorm):
    """A matrix product for each seed, of normed columns, plus a bias.

    Attributes
    ----------
    keeps : keep the direction in the product's precision, and its norms, until autograd's version of it says that it
        has changed: between two updates D uses them three times, and to make them takes as long as a matrix product.
        Not for those who change a direction through ``.data``, which raises no version
    """

    summed = (1,)
    keeps: bool = False
    _kept: tuple[Any, torch.Tensor, torch.Tensor] | None = None

    def __init__(self, n_seeds: int, n_in: int, n_out: int, *, trained_scale: bool) -> None:
        super().__init__()
        self._add_parameters(n_out, torch.empty(n_seeds, n_in, n_out), trained_scale=trained_scale)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> (S, B, n_out), without the bias."""
        y = torch.bmm(x, self.direction)
        return y * self.gain().unsqueeze(1).to(y.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> (S, B, n_out).

        x v is scaled, not v: a batch has fewer numbers than the weights.
        """
        if self.normed:
            return NormedProduct.apply(x, self.direction, self.scale, self.bias, *self._weights(x))
        y = torch.bmm(x, self.direction)
        return torch.addcmul(self.bias.unsqueeze(1).to(y.dtype), y, self.gain().unsqueeze(1).to(y.dtype))

    def _weights(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """v (S, n_in, n_out) in the precision of products with x, and 1 / ||v|| (S, n_out)."""
        v, device = self.direction, "cpu" if x.is_meta else x.device.type  # shapes without values know no autocast
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else v.dtype
        state = (v._version, v.data_ptr(), dtype)  # noqa: SLF001  no public name
        if self._kept is None or self._kept[0] != state or not self.keeps:
            with torch.inference_mode(mode=False), torch.no_grad():  # what inference makes cannot be trained with
                norms = SquaredNorm.apply(v, self.summed) + WEIGHT_NORM_EPS
                self._kept = state, v.detach().to(dtype), norms.rsqrt()
        return self._kept[1:]


def keep_weights(network: nn.Module) -> None:
    """Let the linear layers keep what they make of their directions until a step or a copy changes those."""
    for module in network.modules():
        if isinstance(module, WeightNormLinear):
            module.keeps = True


class WeightNormConvolution(WeightNorm):
    """A convolution for each seed, of normed kernels, plus a bias per channel."""

    summed = (2, 3, 4)

    def __init__(
        self,
        n_seeds: int,
        n_in: int,
        n_out: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        trained_scale: bool,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self._add_parameters(n_out, torch.empty(n_seeds, n_out, n_in, kernel, kernel), trained_scale=trained_scale)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in, H, W) -> (S, B, n_out, H', W'), without the bias."""
        return self._convolved(x, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in, H, W) -> (S, B, n_out, H', W'), H' = (H + 2 padding - kernel) // stride + 1."""
        return self._convolved(x, self.bias.flatten())

    def _convolved(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        n_seeds = len(self.direction)
        weight = (self.direction * self.gain()[..., None, None, None]).flatten(0, 1)
        y = F.conv2d(side_by_side(x), weight, bias, stride=self.stride, padding=self.padding, groups=n_seeds)
        return apart(y, n_seeds)

    def extra_repr(self) -> str:
        """What the shape of the weights does not tell."""
        return f"stride={self.stride}, padding={self.padding}"


class WeightNormDeconvolution(WeightNorm):
    """A fractionally strided convolution for each seed, of normed kernels, plus a bias: the side times the stride."""

    summed = (1, 3, 4)

    def __init__(
        self, n_seeds: int, n_in: int, n_out: int, *, kernel: int = 5, stride: int = 2, trained_scale: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self._add_parameters(n_out, torch.empty(n_seeds, n_in, n_out, kernel, kernel), trained_scale=trained_scale)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in, H, W) -> (S, B, n_out, H * stride, W * stride), without the bias."""
        return grouped_deconvolution(x, self._weight(), self.stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in, H, W) -> (S, B, n_out, H * stride, W * stride)."""
        return grouped_deconvolution(x, self._weight(), self.stride, self.bias)

    def _weight(self) -> torch.Tensor:
        return self.direction * self.gain()[:, None, :, None, None]

    def extra_repr(self) -> str:
        """What the shape of the weights does not tell."""
        return f"stride={self.stride}"


# ---- generator batch norm -------------------------------------------------------------------------------------------


class GeneratorBatchNorm(nn.Module):
    """Batch norm with a shift but no gain, always by the statistics of this batch, also in sampling (authors' code)."""

    def __init__(self, n_seeds: int, n: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_seeds, n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, C) or (S, B, C, H, W) -> the same shape; per seed and channel, sums in fp32.

        ``eps`` is the authors' 1e-6; bf16 activations need 1e-5.
        """
        eps = 1e-5 if x.dtype in REDUCED_PRECISION else GENERATOR_BATCH_NORM_EPS
        shift = self.shift.flatten()
        # a gain of 1, because CUDA's kernels have no gradient of a shift without a gain
        y = F.batch_norm(side_by_side(x), None, None, torch.ones_like(shift), shift, training=True, eps=eps)
        return apart(y, len(self.shift))


# ---- noise ----------------------------------------------------------------------------------------------------------


LEVELS = 2**16


@functools.cache
def quantiles(std: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """N(0, std^2) in 65,536 equally likely parts, the middle of each: up to 4.3 std; variance 0.9999 std^2."""
    middle = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    return (std * torch.special.ndtri(middle)).to(device, dtype)


def looked_up(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """table[index], in a fifth of the time; index dense, in any order of memory, which the result has too."""
    flat = index.as_strided((index.numel(),), (1,))
    return table.index_select(0, flat).as_strided(index.shape, index.stride())


class Noise(nn.Module):
    """A layer that draws, while training, from generators that the caller sets: see :func:`set_noise`.

    16 random bits a number, four numbers a draw: half the time of ``normal_`` and ``uniform_``, which would take more
    of a step of the permutation-invariant networks than any one matrix product.
    """

    noise: tuple[torch.Generator, ...] = ()

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def _bits(self, x: torch.Tensor) -> torch.Tensor:
        """int32 of x's shape, 0 to 65,535, on its device: x[s] from generator s, whatever S is.

        In the order of x's memory as of channels_last, so that the two go through the cache alike.
        """
        check_one_each(self.noise, len(x))
        n = x[0].numel()
        words = torch.empty(len(x), -(-n // 4), dtype=torch.int64, device=self.noise[0].device)
        for mine, generator in zip(words, self.noise, strict=True):
            mine.random_(-(2**63), None, generator=generator)
        bits = words.view(torch.int16)[:, :n].to(x.device)
        bits = bits.to(torch.int32).add_(LEVELS // 2)
        if x.dim() < 5:
            return bits.view(x.shape)
        s, b, c, h, w = x.shape
        return bits.view(s, b, h, w, c).permute(0, 1, 4, 2, 3)


class GaussianNoise(Noise):
    """Add N(0, std^2) to every unit while training; nothing in evaluation. To 16 bits: see :func:`quantiles`."""

    def __init__(self, std: float) -> None:
        super().__init__(std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, ...) -> the same shape and dtype."""
        if not self.training or self.amount == 0:
            return x
        return x + looked_up(quantiles(self.amount, x.dtype, x.device), self._bits(x))

    def extra_repr(self) -> str:
        """The amount."""
        return f"std={self.amount}"


class Dropout(Noise):
    """Set each unit to 0 with probability p and divide the others by 1 - p while training; nothing in evaluation.

    p is rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            message = f"the probability of dropout must be at least 0 and below 1, found {p}"
            raise ValueError(message)
        super().__init__(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, ...) -> the same shape and dtype; element by element, also of maps."""
        dropped = round(self.amount * LEVELS)
        if not self.training or not dropped:
            return x
        return torch.where(self._bits(x) >= dropped, x * (LEVELS / (LEVELS - dropped)), 0)

    def extra_repr(self) -> str:
        """The amount."""
        return f"p={self.amount}"


def set_noise(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Let all noise and dropout layers of a network draw from these, generator s for seed s.

    A generator on the network's own device saves the copy; one on the CPU gives the same noise on every device.
    """
    for module in network.modules():
        if isinstance(module, Noise):
            module.noise = tuple(generators)


# ---- minibatch discrimination ---------------------------------------------------------------------------------------


class MinibatchDiscrimination(nn.Module):
    """Append to each example how close the others of its batch are to it (Improved GAN, section 3.2; authors' code).

    M_i = x_i T; o_b(i) = sum over j != i of exp(-||M_ib - M_jb||_1), plus an offset. Real and fake batches pass through
    separately. T is a direction normed over the inputs, for each kernel and dimension, times exp(log_scale).
    """

    def __init__(self, n_seeds: int, n_in: int = 192, n_kernels: int = 100, kernel_dim: int = 5) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(n_seeds, n_in, n_kernels, kernel_dim))
        self.log_scale = nn.Parameter(torch.zeros(n_seeds, n_kernels, kernel_dim))
        self.offset = nn.Parameter(torch.full((n_seeds, n_kernels), -1.0))

    def initialise(self, std: Std, streams: Sequence[torch.Generator]) -> None:
        """Draw the directions (authors: std 0.05; at submission 0.1), each seed's from its stream."""
        fans = self.direction.shape[1] + self.direction[0, 0].numel()
        draw_weights(self.direction, std, streams, fans=fans)
        with torch.no_grad():
            self.log_scale.zero_()
            self.offset.fill_(-1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> (S, B, n_in + n_kernels)."""
        return self._appended(x, closeness(self._projected(x)) + self.offset.unsqueeze(1))

    @torch.no_grad()
    def data_dependent(self, x: torch.Tensor) -> torch.Tensor:
        """Scale T so that an example's nearest is 2 away on average, for each kernel; then centre the features.

        Returns
        -------
        As ``forward`` on these data.

        Raises
        ------
        InputError
            If that average is 0, or there is one example only: no scale would do.
        """
        if x.shape[1] < 2:
            message = "minibatch discrimination cannot be initialised from one example; give at least two"
            raise InputError(message)
        half_nearest = nearest_distances(self._projected(x)).mean(1) / 2  # (S, n_kernels)
        if not bool((half_nearest > 0).all()):
            message = (
                f"minibatch discrimination cannot be initialised from {x.shape[1]} examples: all have an equal among "
                "them; give others, as by more labelled images, or switch D's noise on (architecture.noise)"
            )
            raise InputError(message)
        self.log_scale.sub_(half_nearest.log().unsqueeze(-1))
        close = closeness(self._projected(x))
        self.offset.copy_(-close.mean(1))
        return self._appended(x, close + self.offset.unsqueeze(1))

    def _projected(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> M (S, B, n_kernels, kernel_dim), at least fp32: what counts are small differences of it."""
        norm = torch.linalg.vector_norm(self.direction, dim=1)
        device = "cpu" if x.is_meta else x.device.type  # shapes without values know no autocast
        with torch.autocast(device, enabled=False):
            m = torch.bmm(at_least_fp32(x), self.direction.flatten(2)).unflatten(2, self.direction.shape[2:])
        return m * (self.log_scale.exp() / norm).unsqueeze(1)

    @staticmethod
    def _appended(x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, features.to(x.dtype)], dim=-1)


def closeness(m: torch.Tensor) -> torch.Tensor:
    """For each example and kernel the sum over the others of exp(-||M_ib - M_jb||_1); itself left out.

    m (..., B, n_kernels, kernel_dim) -> (..., B, n_kernels), between 0 and B - 1, fp32 of reduced precision. An example
    alone in its batch gets 0.
    """
    return _pairwise(m).sum(-1).transpose(-1, -2)


def joint_closeness(m: torch.Tensor) -> torch.Tensor:
    """Mean closeness to the real and to the fake examples of one joint batch (authors' ImageNet code).

    Means over the others: an example is not among its own half. (The released code divides both sums by the number of
    pairs in all of a half, B (2 B - 1): another scale for each half.)

    Parameters
    ----------
    m : (..., 2 B, n_kernels, kernel_dim), the first half real, the second fake; B at least 2

    Returns
    -------
    (..., 2 B, 2 n_kernels): means over the real half, then over the fake half; between 0 and 1.
    """
    n, odd = divmod(m.shape[-3], 2)
    if odd or n < 2:
        message = f"a joint batch needs two halves of equal size, of at least 2 examples each; found {m.shape[-3]}"
        raise ValueError(message)
    sums = _pairwise(m).unflatten(-1, (2, n)).sum(-1)  # (..., n_kernels, 2 B, half)
    own = torch.arange(2 * n, device=m.device).div(n, rounding_mode="floor")
    others = n - F.one_hot(own, 2)  # (2 B, half): how many each sum has
    means = sums / others.to(sums.dtype)
    return means.movedim((-1, -3), (-2, -1)).flatten(-2)


def nearest_distances(m: torch.Tensor) -> torch.Tensor:
    """L1 distance to the nearest other: m (..., B, n_kernels, kernel_dim) -> (..., B, n_kernels)."""
    distances = _distances(m)
    return distances.masked_fill(_itself(distances), torch.inf).amin(-1).transpose(-1, -2)


def _pairwise(m: torch.Tensor) -> torch.Tensor:
    """m (..., B, n_kernels, kernel_dim) -> closeness of all pairs (..., n_kernels, B, B), 0 on the diagonal."""
    distances = _distances(m)
    return distances.neg().exp().masked_fill(_itself(distances), 0.0)


def _distances(m: torch.Tensor) -> torch.Tensor:
    """L1 distances of all pairs: (..., B, n_kernels, kernel_dim) -> (..., n_kernels, B, B), at least fp32.

    ``cdist`` keeps these for the gradient, and not the differences, which are kernel_dim times as many: of ten seeds of
    the authors' sizes 0.2 GB, of their ImageNet network 1 GB.
    """
    rows = at_least_fp32(m).transpose(-3, -2)
    return torch.cdist(rows, rows, p=1.0)


def _itself(distances: torch.Tensor) -> torch.Tensor:
    return torch.eye(distances.shape[-1], dtype=torch.bool, device=distances.device)


# ---- virtual batch norm ---------------------------------------------------------------------------------------------


class VirtualBatchNorm(nn.Module):
    """Normalise each example by the statistics of a fixed reference batch and itself (Improved GAN, section 3.5).

    The reference is pushed along: the first ``n_reference`` examples of every batch are the reference, normalised by
    its own statistics (see :class:`WithReference`, which sets the number). Of another example, mean and mean square are
    1 / (N + 1) of its own over places and N / (N + 1) of the reference's over batch and places (authors' code), so that
    its output does not depend on the examples beside it. The authors' code took "its own" over all of the batch until
    May 2017; that is not offered here.

    Parameters
    ----------
    n : channels
    n_seeds : None: a plain network, (B, C, ...); else several, (S, B, C, ...)
    """

    def __init__(self, n: int, n_seeds: int | None = None) -> None:
        super().__init__()
        shape = (n,) if n_seeds is None else (n_seeds, n)
        self.gain = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))
        self.n_reference = 0

    @property
    def batch_axis(self) -> int:
        """Where the examples are."""
        return self.gain.dim() - 1

    def initialise(self, streams: Sequence[torch.Generator]) -> None:
        """Draw the gains of several seeds from N(1, 0.02^2), each from its stream (authors' code); shifts 0."""
        draw_weights(self.gain, 0.02, streams, fans=1)
        with torch.no_grad():
            self.gain.add_(1.0)
            self.shift.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N + B, C), (N + B, C, H, W), or these with S in front; the reference first -> the same shape.

        Statistics in fp32.
        """
        n, axis = self.n_reference, self.batch_axis
        if not 0 < n <= x.shape[axis]:
            message = f"virtual batch norm needs its reference batch first: {n} examples, found a batch of "
            raise ValueError(message + str(x.shape[axis]))
        values = at_least_fp32(x)
        places = tuple(range(axis + 2, x.dim()))
        reference, examples = values.narrow(axis, 0, n), values.narrow(axis, n, x.shape[axis] - n)
        variance, mean = torch.var_mean(reference, dim=(axis, *places), correction=0, keepdim=True)
        if places:
            # not var_mean, which warns where the batch is the reference and nothing else
            own_mean = examples.mean(places, keepdim=True)
            own_variance = (examples - own_mean).square().mean(places, keepdim=True)
        else:
            own_variance, own_mean = torch.zeros_like(examples), examples
        w = 1 / (n + 1)
        each = [-1] * x.dim()
        each[axis] = n
        means = torch.cat([mean.expand(each), mean + w * (own_mean - mean)], dim=axis)
        # the mixed mean square less the square of the mixed mean, without that difference of large numbers
        mixed = w * own_variance + (1 - w) * variance + w * (1 - w) * (own_mean - mean).square()
        variances = torch.cat([variance.expand(each), mixed], dim=axis)
        spread = (*self.gain.shape[:-1], 1, self.gain.shape[-1], *[1] * len(places))
        factor = self.gain.view(spread) * (variances + VIRTUAL_BATCH_NORM_EPS).rsqrt()
        return ((values - means) * factor + self.shift.view(spread)).to(x.dtype)


class WithReference(nn.Module):
    """A network whose virtual batch norms see a fixed reference batch, pushed through the network as it is now.

    The reference is a buffer: it is saved with the network and never trained; the gradient flows through what the
    network makes of it.

    Parameters
    ----------
    reference : (N, ...) or, of several seeds, (S, N, ...), inputs like any other of the network; N = the batch size
        (authors' code)
    """

    reference: torch.Tensor

    def __init__(self, network: nn.Module, reference: torch.Tensor) -> None:
        super().__init__()
        norms = [module for module in network.modules() if isinstance(module, VirtualBatchNorm)]
        if not norms:
            message = "a reference batch is for networks with virtual batch norm; this one has none"
            raise InputError(message)
        self.network = network
        self.register_buffer("reference", reference)
        self._axis = norms[0].batch_axis
        for norm in norms:
            norm.n_reference = reference.shape[self._axis]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network makes of x (B, ...) or (S, B, ...) beside the reference."""
        n = self.reference.shape[self._axis]
        y = self.network(torch.cat([self.reference.to(x.dtype), x], dim=self._axis))
        return y.narrow(self._axis, n, x.shape[self._axis])
