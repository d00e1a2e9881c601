"""Improved GAN's semi-supervised and minibatch-discrimination networks for MNIST, CIFAR-10 and SVHN, row by row.

Several independent networks (seeds) are one module: every parameter and every activation has a leading axis S, and
network s sees its own slice only; the ``s`` of the functions below is their number. D has a logit for each of 10
classes; that of "fake" is fixed at 0, so it has none.

Parameters of one seed at the authors' widths, all trained: MNIST G 694,568, D 1,538,770; CIFAR-10 G 4,933,382, D
1,406,804; SVHN D 626,580. Trained are directions, biases, batch norm's shifts, and the scales of weight-normalised
output layers; the scales of the hidden layers are set by the data-dependent initialisation and then fixed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple, TypeVar

import torch
from annotated_types import Ge
from pydantic import Field
from torch import nn

from pipeline.core.params import section
from pipeline.models.dcgan import Tanh
from pipeline.models.improved_layers import (
    Deconvolution,
    Dropout,
    GaussianNoise,
    GeneratorBatchNorm,
    Linear,
    MinibatchDiscrimination,
    Noise,
    VirtualBatchNorm,
    WeightNorm,
    WeightNormConvolution,
    WeightNormDeconvolution,
    WeightNormLinear,
    WithReference,
    set_noise,
)
from pipeline.models.mnist import CLASSES, Pixels

Preset = Literal["current", "c0"]
Network = TypeVar("Network", bound=nn.Module)
SIDE = 4  # of the maps that z is projected to


# ---- params ---------------------------------------------------------------------------------------------------------


@section
class SemisupArchitecture:
    """``architecture`` of a run with feature matching: ``semisup_mnist`` (Table 1), ``semisup_conv`` (Table 2, SVHN).

    Attributes
    ----------
    preset : the authors' code as it is (``current``) or as it was when the paper was submitted (``c0``)
    generator_width : ``semisup_mnist``: units of a hidden layer (500); ``semisup_conv``: maps of the last one (128)
    discriminator_width : ``semisup_mnist``: units of the last three layers (250); ``semisup_conv``: maps of the first
        three (96; SVHN 64)
    weight_norm : false: the layers are not normed; their scales and biases are still set by data
    data_dependent : false: scales stay 1 and biases 0 until training
    noise : Gaussian noise and dropout in D
    reference_batch : examples in the reference batch of virtual batch norm in G (section 3.5); 0 = batch norm
    """

    name: Literal["semisup_mnist", "semisup_conv"]
    preset: Preset
    z_dim: Annotated[int, Ge(1)]
    generator_width: Annotated[int, Ge(1)]
    discriminator_width: Annotated[int, Ge(1)]
    weight_norm: bool
    data_dependent: bool
    noise: bool
    reference_batch: Annotated[int, Ge(0)]


@section
class MinibatchArchitecture:
    """``architecture`` of a run with minibatch discrimination: for RGB images of 32 x 32, or for MNIST.

    Attributes
    ----------
    preset : as above
    generator_width : maps of the last hidden layer (128)
    discriminator_width : maps of the first three layers (96)
    n_kernels, kernel_dim : of the minibatch layer: features that it adds (100; 0 = without the layer, row "-MBF" of
        Table 3), rows compared for each (5)
    weight_norm, data_dependent, noise, reference_batch : as above
    """

    name: Literal["minibatch_conv", "minibatch_mnist"]
    preset: Preset
    z_dim: Annotated[int, Ge(1)]
    generator_width: Annotated[int, Ge(1)]
    discriminator_width: Annotated[int, Ge(1)]
    n_kernels: Annotated[int, Ge(0)]
    kernel_dim: Annotated[int, Ge(1)]
    weight_norm: bool
    data_dependent: bool
    noise: bool
    reference_batch: Annotated[int, Ge(0)]


Architecture = Annotated[SemisupArchitecture | MinibatchArchitecture, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a preset decides; all from the authors' code.

    Attributes
    ----------
    slope : of the leaky ReLUs
    output_std : what the data-dependent initialisation makes of an output layer's std; hidden layers get 1
    per_channel : it sets one std a channel, not one a layer
    theta_std : of the minibatch layer's directions when drawn
    """

    slope: float
    output_std: float
    per_channel: bool
    theta_std: float


PRESETS = {
    "current": Settings(slope=0.2, output_std=0.1, per_channel=True, theta_std=0.05),
    "c0": Settings(slope=0.1, output_std=1.0, per_channel=False, theta_std=0.1),
}


def settings_of(a: Architecture) -> Settings:
    """What the preset decides for these networks.

    For ``semisup_mnist`` nothing: the layers of the authors' script are "older code", the same in both states, and give
    every unit a std of 1, those of the output layer too; 0.1 is that of the CIFAR-10 and SVHN scripts.
    """
    settings = PRESETS[a.preset]
    return replace(settings, output_std=1.0, per_channel=True) if a.name == "semisup_mnist" else settings


def image_shape(a: Architecture) -> tuple[int, int, int]:
    """Channels, height and width: what G gives and D takes."""
    return (1, 28, 28) if a.name in ("semisup_mnist", "minibatch_mnist") else (3, 32, 32)


# ---- rows -----------------------------------------------------------------------------------------------------------


class GlobalAverage(nn.Module):
    """The mean over places, in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, C, H, W) -> fp32 (S, B, C)."""
        return x.float().mean(dim=(3, 4))


class Crop(nn.Module):
    """The central places of maps, without ``margin`` at each border."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, C, H, W) -> (S, B, C, H - 2 margin, W - 2 margin)."""
        return x[..., self.margin : -self.margin, self.margin : -self.margin]


class Logits(WeightNormLinear):
    """Last layer of D, its scale trained; the losses are computed in fp32."""

    def __init__(self, n_seeds: int, n_in: int) -> None:
        super().__init__(n_seeds, n_in, CLASSES, trained_scale=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(S, B, n_in) -> fp32 logits (S, B, 10)."""
        return super().forward(x).float()


# batch norm, or virtual batch norm, of a layer of G: (seeds, channels) -> module
Norm = Callable[[int, int], nn.Module]


def project(s: int, n_in: int, n_out: int, norm: Norm) -> nn.Sequential:
    """z -> n_out maps of 4 x 4. The norm comes before the reshape: it has a shift for each unit."""
    units = n_out * SIDE * SIDE
    return nn.Sequential(Linear(s, n_in, units), norm(s, units), nn.ReLU(), nn.Unflatten(2, (n_out, SIDE, SIDE)))


def up(s: int, n_in: int, n_out: int, norm: Norm) -> nn.Sequential:
    """Maps of G -> maps of twice the side."""
    return nn.Sequential(Deconvolution(s, n_in, n_out, kernel=5, stride=2), norm(s, n_out), nn.ReLU())


def to_colours(s: int, n_in: int) -> nn.Sequential:
    """Maps of G -> RGB of twice the side, in [-1, 1]."""
    return nn.Sequential(WeightNormDeconvolution(s, n_in, 3, kernel=5, stride=2, trained_scale=True), Tanh())


def to_digits(s: int, n_in: int) -> nn.Sequential:
    """Maps of G, 16 x 16 -> the central 28 of 32, in [0, 1]; our choice, as the authors' 16 -> 28 does not fit."""
    deconvolution = WeightNormDeconvolution(s, n_in, 1, kernel=5, stride=2, trained_scale=True)
    return nn.Sequential(deconvolution, Crop(margin=2), Pixels())


def hidden(s: int, n_in: int, n_out: int, norm: Norm) -> nn.Sequential:
    """Hidden layer of the permutation-invariant G."""
    return nn.Sequential(Linear(s, n_in, n_out), norm(s, n_out), nn.Softplus())


def to_flat_digits(s: int, n_in: int) -> nn.Sequential:
    """Units of G -> a digit in [0, 1]."""
    return nn.Sequential(WeightNormLinear(s, n_in, 784, trained_scale=True), Pixels(), nn.Unflatten(2, (1, 28, 28)))


def dense(s: int, n_in: int, n_out: int) -> nn.Sequential:
    """Hidden layer of the permutation-invariant D."""
    return nn.Sequential(WeightNormLinear(s, n_in, n_out, trained_scale=False), nn.ReLU())


def conv(s: int, n_in: int, n_out: int, *, slope: float, kernel: int, padding: int, stride: int = 1) -> nn.Sequential:
    """Maps of D -> maps."""
    convolution = WeightNormConvolution(
        s, n_in, n_out, kernel=kernel, stride=stride, padding=padding, trained_scale=False
    )
    return nn.Sequential(convolution, nn.LeakyReLU(slope))


# ---- generators -----------------------------------------------------------------------------------------------------


def mnist_generator(s: int, z_dim: int = 100, n: int = 500, norm: Norm = GeneratorBatchNorm) -> nn.Sequential:
    """z (S, B, z_dim) in [0, 1] -> images (S, B, 1, 28, 28) in [0, 1].  Improved GAN, section 6.1; authors' code."""
    return nn.Sequential(
        hidden(s, z_dim, n, norm),  # 500
        hidden(s, n, n, norm),  # 500
        to_flat_digits(s, n),  # 1 x 28 x 28
    )


def conv_generator(s: int, z_dim: int = 100, n: int = 128, norm: Norm = GeneratorBatchNorm) -> nn.Sequential:
    """z (S, B, z_dim) in [0, 1] -> images (S, B, 3, 32, 32) in [-1, 1].  Improved GAN, section 6.2; authors' code."""
    return nn.Sequential(
        project(s, z_dim, 4 * n, norm),  # 512 x 4 x 4
        up(s, 4 * n, 2 * n, norm),  # 256 x 8 x 8
        up(s, 2 * n, n, norm),  # 128 x 16 x 16
        to_colours(s, n),  # 3 x 32 x 32
    )


def mnist_conv_generator(s: int, z_dim: int = 100, n: int = 128, norm: Norm = GeneratorBatchNorm) -> nn.Sequential:
    """z (S, B, z_dim) in [0, 1] -> images (S, B, 1, 28, 28) in [0, 1].  After the authors' deleted MNIST script."""
    return nn.Sequential(
        project(s, z_dim, 4 * n, norm),  # 512 x 4 x 4
        up(s, 4 * n, 2 * n, norm),  # 256 x 8 x 8
        up(s, 2 * n, n, norm),  # 128 x 16 x 16
        to_digits(s, n),  # 1 x 28 x 28
    )


# ---- discriminators -------------------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """What D says of a batch, in fp32.

    Attributes
    ----------
    features : (S, B, n): what feature matching compares
    logits : (S, B, 10): of the classes; that of "fake" is fixed at 0
    """

    features: torch.Tensor
    logits: torch.Tensor


class Discriminator(nn.Module):
    """Rows up to the features that feature matching compares, and rows from there to the logits.

    Noise and dropout act while ``.training``, drawn from the generators that ``set_noise`` was given.
    """

    def __init__(self, to_features: nn.Sequential, to_logits: nn.Sequential) -> None:
        super().__init__()
        self.to_features = to_features
        self.to_logits = to_logits

    def forward(self, x: torch.Tensor) -> Judgement:
        """Images (S, B, C, H, W) in the range of G's output -> features and logits."""
        return self.judge(x)[0]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (S, B, C, H, W) -> fp32 (S, B, n), without the rows above."""
        return self.to_features(x).float()

    def judge(self, *batches: torch.Tensor) -> list[Judgement]:
        """Several batches in one pass; a minibatch layer sees each of them apart."""
        features = self.to_features(torch.cat(batches, dim=1)).split([batch.shape[1] for batch in batches], dim=1)
        return [Judgement(each.float(), self.to_logits(each)) for each in features]


def mnist_discriminator(s: int, n: int = 250) -> Discriminator:
    """Images (S, B, 1, 28, 28) in [0, 1], seen as vectors.  Improved GAN, section 6.1; authors' code.

    The features are the last hidden layer's, before its noise.
    """
    return Discriminator(
        nn.Sequential(
            nn.Flatten(start_dim=2),  # 784
            GaussianNoise(std=0.3),  # 784
            dense(s, 784, 4 * n),  # 1000
            GaussianNoise(std=0.5),  # 1000
            dense(s, 4 * n, 2 * n),  # 500
            GaussianNoise(std=0.5),  # 500
            dense(s, 2 * n, n),  # 250
            GaussianNoise(std=0.5),  # 250
            dense(s, n, n),  # 250
            GaussianNoise(std=0.5),  # 250
            dense(s, n, n),  # 250
        ),
        nn.Sequential(
            GaussianNoise(std=0.5),  # 250
            Logits(s, n),  # 10
        ),
    )


def conv_features(s: int, n: int, slope: float, entry: nn.Module, channels: int = 3, padding: int = 1) -> nn.Sequential:
    """Images -> the mean over places of the last maps: the nine-layer D of section 6.2 without its last layer."""
    return nn.Sequential(
        entry,  # 3 x 32 x 32
        conv(s, channels, n, slope=slope, kernel=3, padding=padding),  # 96 x 32 x 32
        conv(s, n, n, slope=slope, kernel=3, padding=1),  # 96 x 32 x 32
        conv(s, n, n, slope=slope, kernel=3, padding=1, stride=2),  # 96 x 16 x 16
        Dropout(p=0.5),  # 96 x 16 x 16
        conv(s, n, 2 * n, slope=slope, kernel=3, padding=1),  # 192 x 16 x 16
        conv(s, 2 * n, 2 * n, slope=slope, kernel=3, padding=1),  # 192 x 16 x 16
        conv(s, 2 * n, 2 * n, slope=slope, kernel=3, padding=1, stride=2),  # 192 x 8 x 8
        Dropout(p=0.5),  # 192 x 8 x 8
        conv(s, 2 * n, 2 * n, slope=slope, kernel=3, padding=0),  # 192 x 6 x 6
        conv(s, 2 * n, 2 * n, slope=slope, kernel=1, padding=0),  # 192 x 6 x 6
        conv(s, 2 * n, 2 * n, slope=slope, kernel=1, padding=0),  # 192 x 6 x 6
        GlobalAverage(),  # 192
    )


def conv_discriminator(s: int, n: int = 96, slope: float = 0.2) -> Discriminator:
    """Images (S, B, 3, 32, 32) in [-1, 1].  Improved GAN, section 6.2; authors' code, SVHN with n = 64.

    The features are those after the pooling.
    """
    return Discriminator(
        conv_features(s, n, slope, entry=Dropout(p=0.2)),
        nn.Sequential(
            Logits(s, 2 * n),  # 10
        ),
    )


def minibatch_features(s: int, n_in: int, n_kernels: int, kernel_dim: int) -> list[nn.Module]:
    """The minibatch layer, or nothing."""
    return [MinibatchDiscrimination(s, n_in, n_kernels, kernel_dim)] if n_kernels else []


def minibatch_discriminator(
    s: int, n: int = 96, slope: float = 0.2, n_kernels: int = 100, kernel_dim: int = 5
) -> Discriminator:
    """Images (S, B, 3, 32, 32) in [-1, 1]; an output depends on the batch.  Section 3.2; authors' code."""
    return Discriminator(
        conv_features(s, n, slope, entry=GaussianNoise(std=0.2)),
        nn.Sequential(
            *minibatch_features(s, 2 * n, n_kernels, kernel_dim),  # 292
            Logits(s, 2 * n + n_kernels),  # 10
        ),
    )


def mnist_minibatch_discriminator(
    s: int, n: int = 96, slope: float = 0.2, n_kernels: int = 100, kernel_dim: int = 5
) -> Discriminator:
    """Images (S, B, 1, 28, 28) in [0, 1]; the first convolution pads by 3: 28 -> 32.  The authors' deleted script."""
    return Discriminator(
        conv_features(s, n, slope, entry=GaussianNoise(std=0.2), channels=1, padding=3),
        nn.Sequential(
            *minibatch_features(s, 2 * n, n_kernels, kernel_dim),  # 292
            Logits(s, 2 * n + n_kernels),  # 10
        ),
    )


# ---- from the params ------------------------------------------------------------------------------------------------

GENERATORS = {
    "semisup_mnist": mnist_generator,
    "semisup_conv": conv_generator,
    "minibatch_conv": conv_generator,
    "minibatch_mnist": mnist_conv_generator,
}


def build_generator(a: Architecture, n_seeds: int) -> nn.Module:
    """z (S, B, z_dim) -> images (S, B, C, H, W); its parameters, and its reference batch if any, are not yet drawn."""
    build = GENERATORS[a.name]
    if not a.reference_batch:
        return unnormed(a, build(n_seeds, a.z_dim, a.generator_width))
    network = build(n_seeds, a.z_dim, a.generator_width, lambda s, n: VirtualBatchNorm(n, n_seeds=s))
    return WithReference(unnormed(a, network), torch.zeros(n_seeds, a.reference_batch, a.z_dim))


def build_discriminator(a: Architecture, n_seeds: int) -> Discriminator:
    """Images (S, B, C, H, W) -> features and logits; its parameters are not yet drawn."""
    n, slope = a.discriminator_width, settings_of(a).slope
    if isinstance(a, MinibatchArchitecture):
        build = minibatch_discriminator if a.name == "minibatch_conv" else mnist_minibatch_discriminator
        network = build(n_seeds, n, slope, a.n_kernels, a.kernel_dim)
    elif a.name == "semisup_mnist":
        network = mnist_discriminator(n_seeds, n)
    else:
        network = conv_discriminator(n_seeds, n, slope)
    for layer in network.modules():
        if not a.noise and isinstance(layer, Noise):
            layer.amount = 0.0
    return unnormed(a, network)


def unnormed(a: Architecture, network: Network) -> Network:
    """The network, its weight norm taken off if the params say so."""
    for layer in network.modules():
        if isinstance(layer, WeightNorm):
            layer.normed = a.weight_norm
    return network


def draw_z(a: Architecture, n: int, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """float32 (S, n, z_dim), uniform in [0, 1); slice s from stream s."""
    return torch.stack([torch.rand(n, a.z_dim, generator=stream) for stream in streams])


# ---- initialisation -------------------------------------------------------------------------------------------------


def initialise_generator(
    a: Architecture, generator: nn.Module, streams: Sequence[torch.Generator], *, n_z: int
) -> None:
    """Draw the weights of seed s from stream s; then let ``n_z`` z from it set the last layer's scale and bias.

    The authors take a batch of 100 z. With virtual batch norm it is the reference batch, which is drawn here.
    ``semisup_mnist`` is drawn by Glorot's uniform rule and takes no data-dependent step (authors' code).
    """
    for layer in generator.modules():
        if isinstance(layer, Linear | Deconvolution | WeightNorm):
            layer.initialise("glorot" if a.name == "semisup_mnist" else 0.05, streams)
        elif isinstance(layer, VirtualBatchNorm):
            layer.initialise(streams)
    z = draw_z(a, a.reference_batch or n_z, streams).to(next(generator.parameters()).device)
    network = generator
    if isinstance(generator, WithReference):
        generator.reference.copy_(z)
        network = generator.network
    if a.data_dependent and a.name != "semisup_mnist":
        with torch.no_grad():
            _set_by_data(network, z, settings_of(a))


def initialise_discriminator(
    a: Architecture, discriminator: Discriminator, images: torch.Tensor, streams: Sequence[torch.Generator]
) -> None:
    """Draw the weights of seed s from stream s; then let images set scales and biases, layer by layer.

    Noise and dropout are on (authors' code) and drawn from the same streams. The network is left in training mode, its
    noise still coming from these streams: ``set_noise`` gives it others.

    Parameters
    ----------
    images : (S, N, C, H, W) in the range of G's output, of each seed its own; the authors take N = 500
    """
    for layer in discriminator.modules():
        if isinstance(layer, WeightNorm):
            layer.initialise(0.1 if a.name == "semisup_mnist" else 0.05, streams)
        elif isinstance(layer, MinibatchDiscrimination):
            layer.initialise(settings_of(a).theta_std, streams)
    set_noise(discriminator, streams)
    discriminator.train()
    if not a.data_dependent:
        return
    with torch.no_grad():
        x = _set_by_data(discriminator.to_features, images, settings_of(a))
        _set_by_data(discriminator.to_logits, x, settings_of(a))


def _set_by_data(layer: nn.Module, x: torch.Tensor, settings: Settings) -> torch.Tensor:
    """What leaves a layer, or rows of layers, whose scales and biases have been set by what enters it."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            x = _set_by_data(part, x, settings)
        return x
    if isinstance(layer, WeightNorm):
        std = settings.output_std if isinstance(layer.scale, nn.Parameter) else 1.0
        return layer.data_dependent(x, std, per_channel=settings.per_channel)
    return layer.data_dependent(x) if isinstance(layer, MinibatchDiscrimination) else layer(x)
