"""From the name of an architecture in the params to a pair of networks."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from torch import nn

from pipeline.core.params import section
from pipeline.models import mnist
from pipeline.models.store import read_run


@section
class Architecture:
    """``train.runs.NAME.architecture``: which pair of networks, and how wide.

    ``filters`` is the number of maps of the generator's last hidden layer; a fully connected network has none (0).
    """

    name: Literal["dcgan_mnist", "gan_mnist"]
    z_dim: Annotated[int, Ge(1)]
    filters: Annotated[int, Ge(0)]
    hidden: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if self.name == "dcgan_mnist" and self.filters < 1:
            message = f"filters must be at least 1 for dcgan_mnist, found {self.filters}"
            raise ValueError(message)


def read_architecture(model: Path) -> Architecture:
    """The architecture that a model folder was trained with."""
    return Architecture(**read_run(model)["params"]["architecture"])


def build_generator(architecture: Architecture) -> nn.Module:
    """The generator, its parameters not yet drawn."""
    a = architecture
    if a.name == "dcgan_mnist":
        return mnist.dcgan_generator(z_dim=a.z_dim, n=a.filters, hidden=a.hidden)
    return mnist.gan_generator(z_dim=a.z_dim, hidden=a.hidden)


def build_discriminator(architecture: Architecture) -> nn.Module:
    """The discriminator, its parameters not yet drawn."""
    a = architecture
    if a.name == "dcgan_mnist":
        return mnist.dcgan_discriminator(n=a.filters, hidden=a.hidden)
    return mnist.gan_discriminator(hidden=a.hidden)
