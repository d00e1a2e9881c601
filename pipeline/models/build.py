"""From the name of an architecture in the params to a pair of networks, their z and the range of their pixels."""

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from pydantic import Field, TypeAdapter
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.images import from_unit, to_unit
from pipeline.core.params import section
from pipeline.models import dcgan, mnist
from pipeline.models.store import read_into, read_run, seeds


@section
class MnistArchitecture:
    """``train.runs.NAME.architecture`` of conditional networks for digits; their pixels are in [0, 1].

    ``filters`` is the number of maps of the generator's last hidden layer; a fully connected network has none (0).
    ``..._affine`` is the same network whose batch norm has a gain and a shift, for an ablation.
    """

    name: Literal["dcgan_mnist", "gan_mnist", "dcgan_mnist_affine", "gan_mnist_affine"]
    z_dim: Annotated[int, Ge(1)]
    filters: Annotated[int, Ge(0)]
    hidden: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.convolutional and self.filters < 1:
            message = f"filters must be at least 1 for {self.name}, found {self.filters}"
            raise ValueError(message)

    @property
    def convolutional(self) -> bool:
        """Whether it is DCGAN's, and not the fully connected one."""
        return self.name.startswith("dcgan")

    @property
    def affine(self) -> bool:
        """Whether batch norm has a gain and a shift."""
        return self.name.endswith("affine")


@section
class ColourArchitecture:
    """``train.runs.NAME.architecture`` of networks without labels for RGB images; their pixels are in [-1, 1].

    ``filters`` is the number of maps of the discriminator's first layer. ``dcgan_svhn_linear`` is ``dcgan_svhn`` with a
    generator without tanh, for an ablation.
    """

    name: Literal["dcgan_64", "dcgan_32", "dcgan_svhn", "dcgan_svhn_linear", "dcgan_128"]
    z: Literal["uniform", "gaussian"]
    z_dim: Annotated[int, Ge(1)]
    filters: Annotated[int, Ge(1)]
    variant: dcgan.Variant


Architecture = Annotated[MnistArchitecture | ColourArchitecture, Field(discriminator="name")]

GENERATORS = {
    "dcgan_64": dcgan.generator_64,
    "dcgan_32": dcgan.generator_32,
    "dcgan_svhn": dcgan.generator_svhn,
    "dcgan_svhn_linear": dcgan.generator_svhn_linear,
    "dcgan_128": dcgan.generator_128,
}
DISCRIMINATORS = {
    "dcgan_64": dcgan.discriminator_64,
    "dcgan_32": dcgan.discriminator_32,
    "dcgan_svhn": dcgan.discriminator_svhn,
    "dcgan_svhn_linear": dcgan.discriminator_svhn,
    "dcgan_128": dcgan.discriminator_128,
}


def build_generator(a: Architecture) -> nn.Module:
    """The generator, its parameters not yet drawn."""
    if isinstance(a, ColourArchitecture):
        return GENERATORS[a.name](a.z_dim, a.filters, a.variant)
    if a.convolutional:
        return mnist.dcgan_generator(z_dim=a.z_dim, n=a.filters, hidden=a.hidden, affine=a.affine)
    return mnist.gan_generator(z_dim=a.z_dim, hidden=a.hidden, affine=a.affine)


def build_discriminator(a: Architecture) -> nn.Module:
    """The discriminator, its parameters not yet drawn."""
    if isinstance(a, ColourArchitecture):
        return colour_discriminator(a)
    if a.convolutional:
        return mnist.dcgan_discriminator(n=a.filters, hidden=a.hidden, affine=a.affine)
    return mnist.gan_discriminator(hidden=a.hidden, affine=a.affine)


def colour_discriminator(a: ColourArchitecture) -> nn.Sequential:
    """The discriminator as the rows of its table, its parameters not yet drawn."""
    return DISCRIMINATORS[a.name](a.filters, a.variant)


def draw_z(a: Architecture, n: int, stream: torch.Generator) -> torch.Tensor:
    """float32 (n, z_dim): uniform in [-1, 1), or from N(0, 1)."""
    if isinstance(a, ColourArchitecture) and a.z == "gaussian":
        return torch.randn(n, a.z_dim, generator=stream)
    return uniform_z(n, a.z_dim, stream)


def uniform_z(n: int, z_dim: int, stream: torch.Generator) -> torch.Tensor:
    """float32 (n, z_dim), uniform in [-1, 1)."""
    return torch.rand(n, z_dim, generator=stream).mul_(2).sub_(1)


def to_network(a: Architecture, images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in the range of the generator's output."""
    return (dcgan.to_signed if isinstance(a, ColourArchitecture) else to_unit)(images, device)


def from_network(a: Architecture, images: torch.Tensor) -> np.ndarray:
    """What a generator gives -> uint8 (N, H, W, C), rounded to the nearest of 256 levels."""
    return (dcgan.from_signed if isinstance(a, ColourArchitecture) else from_unit)(images)


def conditioned(a: Architecture) -> bool:
    """Whether both networks take labels."""
    return isinstance(a, MnistArchitecture)


def sides(a: Architecture) -> tuple[int, int, int]:
    """Height, width and channels of the images."""
    if isinstance(a, MnistArchitecture):
        return 28, 28, 1
    side = {"dcgan_64": 64, "dcgan_128": 128}.get(a.name, 32)
    return side, side, 3


def read_architecture(model: Path) -> Architecture:
    """The architecture that a model folder was trained with."""
    stored = read_run(model)["params"]["architecture"]
    return TypeAdapter(Architecture).validate_json(json.dumps(stored))  # strict mode takes no dict for a section


def trained_discriminator(model: Path) -> nn.Sequential:
    """The discriminator of a model folder's first seed: all its rows, or the first few if no more were released.

    Raises
    ------
    InputError
        If the model is missing, has no discriminator, or its tensors are another network's.
    """
    run = read_run(model)
    architecture = read_architecture(model)
    assert isinstance(architecture, ColourArchitecture), model
    if run.get("discriminator_rows") == 0:
        message = f"{model}: the arrays that it was taken from have no discriminator; name its files in the params "
        message += "(released.discriminator), or train the network"
        raise InputError(message)
    network = colour_discriminator(architecture)[: run.get("discriminator_rows")]
    read_into(network, model, f"seed{seeds(model)[0]}/discriminator")
    return network
