"""The 3072-128-3072 autoencoder whose binarised code hashes an image (DCGAN, section 4.1), and the codes themselves."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models.store import read_into, read_run

SIDE = 32
INPUTS = SIDE * SIDE * 3
UNITS = 128
CODE_BYTES = UNITS // 8
STD_FLOOR = 0.05  # on the [0, 1] scale: keeps the noise of flat images small
OFFSETS = ((0, 0), *((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)))  # pixels at 32 x 32
BLOCK = (
    4096  # images encoded at once, always: the product of one shape gives equal images equal codes wherever they lie
)


class HashAutoencoder(nn.Module):
    """Denoising and dropout-regularised: 3072 -> 128, ReLU -> 3072, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(INPUTS, UNITS)
        self.decoder = nn.Linear(UNITS, INPUTS)

    def units(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (B, 3072) -> activations of the code units (B, 128), >= 0."""
        return F.relu(self.encoder(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction (B, 3072), without noise and dropout."""
        return self.decoder(self.units(x))


def initialise_autoencoder(network: HashAutoencoder, seed: int) -> None:
    """Weights and biases uniform within 1 / sqrt(inputs), PyTorch's default for linear layers; the paper is silent."""
    for name, layer in (("encoder", network.encoder), ("decoder", network.decoder)):
        stream, bound = torch_stream(seed, f"initial hash {name}"), 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.weight, -bound, bound, generator=stream)
        nn.init.uniform_(layer.bias, -bound, bound, generator=stream)


def read_autoencoder(model: Path, device: str) -> HashAutoencoder:
    """The network of a model folder; errors as those of :func:`pipeline.models.store.read_into`."""
    network = HashAutoencoder()
    read_into(network, model, f"seed{read_run(model)['params']['seed']}/autoencoder")
    return network.to(device)


def downsampled(images: np.ndarray, where: Path) -> np.ndarray:
    """uint8 RGB (n, side, side, 3) -> uint8 (n, 32, 32, 3), each pixel the rounded mean of the area it covers.

    Raises
    ------
    InputError
        If the images are not square RGB images of 32 pixels or more.
    """
    _, height, width, channels = images.shape
    if channels != 3 or height != width or height < SIDE:
        message = (
            f"{where}: images of {height} x {width} x {channels}; the hash takes square RGB images of {SIDE} pixels "
            "or more: name another image set"
        )
        raise InputError(message)
    if height == SIDE:
        return np.ascontiguousarray(images)
    import cv2

    small = np.empty((len(images), SIDE, SIDE, 3), dtype=np.uint8)
    for image, out in zip(images, small, strict=True):
        cv2.resize(image, (SIDE, SIDE), dst=out, interpolation=cv2.INTER_AREA)
    return small


def shifted(small: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """(n, 32, 32, 3) moved down and to the right by up to one pixel; the edge is replicated into the gap."""
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    top, left = 1 - offset[0], 1 - offset[1]
    return np.ascontiguousarray(padded[:, top : top + SIDE, left : left + SIDE])


def inputs_of(small: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (n, 32, 32, 3) -> float32 (n, 3072), each image centred: (x - mean) / (std + 0.05) on the [0, 1] scale.

    Inputs in [0, 1] as they are would leave all but one unit constant: codes then no longer tell images apart.
    """
    x = torch.from_numpy(small.reshape(len(small), INPUTS)).to(device=device, dtype=torch.float32)
    std, mean = torch.std_mean(x, dim=1, correction=0, keepdim=True)
    return (x - mean) / (std + 255 * STD_FLOOR)


@torch.no_grad()
def encode(network: HashAutoencoder, small: np.ndarray, *, threshold: float, offsets: bool) -> np.ndarray:
    """Codes of up to ``BLOCK`` downsampled images, noise and dropout off.

    Parameters
    ----------
    small : uint8, shape (n, 32, 32, 3)
    threshold : a unit's bit is set where its activation is above it
    offsets : also the codes of the image moved by one pixel, in the order of ``OFFSETS``; the first is unmoved

    Returns
    -------
    uint8 array, shape (n, 1 or 9, 16)
        128 bits each, unit 0 in the highest bit of the first byte.
    """
    if len(small) > BLOCK:
        message = f"{len(small)} images in a block of at most {BLOCK}"
        raise ValueError(message)
    device = network.encoder.weight.device.type
    full = np.concatenate([small, np.zeros((BLOCK - len(small), *small.shape[1:]), dtype=np.uint8)])
    codes = [
        np.packbits((network.units(inputs_of(moved, device)) > threshold).cpu().numpy()[: len(small)], axis=1)
        for moved in (shifted(full, offset) if any(offset) else full for offset in OFFSETS[: 9 if offsets else 1])
    ]
    return np.stack(codes, axis=1)
