"""Networks whose batch norm no longer sees the batch: the same z gives the same picture whatever stands beside it.

In training batch norm has the statistics of each batch. Everything that compares pictures of single z (walks,
arithmetic, dropped maps) or looks at single images with D needs fixed ones: those of one large reference batch, which
are drawn by seed and so belong to the model. Computed in fp32: small differences between pictures are the subject here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import (
    ColourArchitecture,
    build_generator,
    draw_z,
    from_network,
    read_architecture,
    sides,
    trained_discriminator,
)
from pipeline.models.dcgan import to_signed
from pipeline.models.layers import AffineBatchNorm, batch_norm_eps
from pipeline.models.store import read_into, read_run, seeds

BATCH = 50  # images at once, always: a batch of another shape may be summed in another order


@section
class Reference:
    """``internals.reference`` in params.yaml: the batch that gives a network its statistics.

    Attributes
    ----------
    seed : draws the z of the generator's batch and the training images of the discriminator's
    n_images : size of either; fewer if there are fewer training images
    """

    seed: int
    n_images: Annotated[int, Ge(2)]


class FrozenBatchNorm(nn.Module):
    """Batch norm by constants: gain * (x - mean) / sqrt(variance + eps) + shift, as one product and one sum."""

    def __init__(self, norm: AffineBatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
        super().__init__()
        self.gain, self.shift = (
            norm.gain,
            norm.shift,
        )  # stay among the parameters; scale and offset are computed of them
        scale = norm.gain.detach().double() / (variance.double() + batch_norm_eps(torch.float32)).sqrt()
        self.scale = scale.float()
        self.offset = (norm.shift.detach().double() - mean.double() * scale).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) or (B, C, H, W) -> the same shape."""
        places = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.offset.view(places), x, self.scale.view(places))


@torch.no_grad()
def freeze(network: nn.Sequential, reference: torch.Tensor) -> nn.Sequential:
    """The rows of a network, each batch norm replaced by the statistics that it has on the batch ``reference``.

    Parameters
    ----------
    network : rows that are themselves ``nn.Sequential``, as ``models.dcgan`` builds them; stays as it is, but its
        parameters need no gradients from now on
    reference : float32, what the network takes; on the network's device

    Returns
    -------
    nn.Sequential
        The same rows; parameters are shared with ``network``.
    """
    network.requires_grad_(requires_grad=False)
    rows, x = [], reference
    for row in network:
        parts: list[nn.Module] = []
        for part in row.children():
            if isinstance(part, AffineBatchNorm):
                x, mean, variance = part.with_moments(x)
                parts.append(FrozenBatchNorm(part, mean, variance))
            else:
                x = part(x)
                parts.append(part)
        rows.append(nn.Sequential(*parts))
    return nn.Sequential(*rows)


@dataclass(frozen=True, kw_only=True)
class FrozenGenerator:
    """A trained generator with fixed statistics.

    Attributes
    ----------
    rows : as the rows of its table; ``rows[:k]`` gives the maps of row k after the ReLU, ``rows[k:]`` the picture
    reference : decides the statistics, and the deck
    """

    rows: nn.Sequential
    architecture: ColourArchitecture
    reference: Reference
    device: str

    def draw_z(self, n: int, seed: int, stream: str, index: int = 0) -> torch.Tensor:
        """float32 (n, z_dim) from the named stream, distributed as in training."""
        return draw_z(self.architecture, n, torch_stream(seed, stream, index))

    def deck(self, n: int) -> torch.Tensor:
        """z of the samples that people annotate and networks choose from, by their number: float32 (n, z_dim)."""
        return self.draw_z(n, self.reference.seed, "deck")

    def images(self, z: torch.Tensor) -> np.ndarray:
        """float32 (N, z_dim) -> uint8 (N, H, W, 3)."""
        return self.images_from(z, first_row=0)

    def images_from(self, x: torch.Tensor, *, first_row: int) -> np.ndarray:
        """What row ``first_row`` takes, float32 (N, ...) -> uint8 (N, H, W, 3)."""
        done = [from_network(self.architecture, y) for y in _in_batches(self.rows[first_row:], x, self.device)]
        return np.concatenate(done) if done else np.empty((0, *sides(self.architecture)), dtype=np.uint8)

    def maps(self, z: torch.Tensor, *, rows: int) -> torch.Tensor:
        """float32 (N, z_dim) -> what the first ``rows`` rows give, float32 (N, C, H, W), on the CPU."""
        return torch.cat([y.cpu() for y in _in_batches(self.rows[:rows], z, self.device)])


@torch.inference_mode()
def _in_batches(rows: nn.Sequential, x: torch.Tensor, device: str) -> Iterator[torch.Tensor]:
    """The rows' output, batch by batch; the last batch is filled up, so that all have one shape."""
    for start in range(0, len(x), BATCH):
        batch = x[start : start + BATCH]
        n = len(batch)
        if n < BATCH:
            batch = torch.cat([batch, batch[:1].expand(BATCH - n, *batch.shape[1:])])
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        yield rows(batch.to(device))[:n]


def frozen_generator(model: Path, reference: Reference, compute: Compute) -> FrozenGenerator:
    """The generator of a model folder's first seed, its statistics those of ``reference.n_images`` random z.

    Raises
    ------
    InputError
        If the model is missing, its tensors are another network's, or it is none for colour images.
    """
    architecture = _colour(model)
    released = read_run(model)["params"].get("released")
    if released and released["generator"] is None:
        message = f"{model}: the arrays that it was taken from have no generator; name its files in the params "
        message += "(released.generator), or train the network"
        raise InputError(message)
    network = build_generator(architecture)
    assert isinstance(network, nn.Sequential)
    read_into(network, model, f"seed{seeds(model)[0]}/generator")
    network.to(compute.device)
    z = draw_z(architecture, reference.n_images, torch_stream(reference.seed, "reference z")).to(compute.device)
    rows = freeze(network, z)
    return FrozenGenerator(rows=rows, architecture=architecture, reference=reference, device=compute.device)


def frozen_discriminator(model: Path, image_set: ImageSet, reference: Reference, compute: Compute) -> nn.Sequential:
    """The discriminator of a model folder's first seed, its statistics those of random training images.

    The rows that give maps, and the one that gives the logit; images go in as ``to_signed`` makes them.

    Raises
    ------
    InputError
        As :func:`frozen_generator`, and if the images of the set are not of the network's size.
    """
    architecture = _colour(model)
    check_size(architecture, image_set, model)
    return freeze_on_images(trained_discriminator(model), image_set, reference, compute)


def freeze_on_images(
    discriminator: nn.Sequential, image_set: ImageSet, reference: Reference, compute: Compute
) -> nn.Sequential:
    """Any discriminator with the statistics of random training images."""
    discriminator.to(compute.device)
    return freeze(discriminator, to_signed(reference_images(image_set, reference), compute.device))


def reference_images(image_set: ImageSet, reference: Reference) -> np.ndarray:
    """uint8 (n, H, W, C): training images drawn by seed without replacement, in the order of the set."""
    rows = image_set.rows("train")
    drawn = numpy_stream(reference.seed, "reference images").permutation(rows)[: reference.n_images]
    return image_set.images[np.sort(drawn)]


def check_size(architecture: ColourArchitecture, image_set: ImageSet, model: Path) -> None:
    """Refuse an image set whose images are not those of the network."""
    expected, found = sides(architecture), image_set.images.shape[1:]
    if found != expected:
        message = (
            f"{image_set.path}: images of {' x '.join(map(str, found))}, but {model} has a {architecture.name} for "
            f"{' x '.join(map(str, expected))}; give the set that it was trained on"
        )
        raise InputError(message)


def _colour(model: Path) -> ColourArchitecture:
    architecture = read_architecture(model)
    if not isinstance(architecture, ColourArchitecture):
        message = f"{model}: found a {architecture.name}; expected a network for colour images without labels, such as "
        message += "dcgan_64; name another model in dvc.yaml"
        raise InputError(message)
    return architecture
