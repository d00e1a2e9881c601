"""Discriminator features: what every convolutional layer gives, max-pooled to 4 x 4, flattened, concatenated.

DCGAN, sections 5.1 and 5.2. Batch norm then has fixed statistics, from a separate pass over training images (authors'
code), so that an image's features do not depend on the images beside it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import nn

from pipeline.core.compute import Compute, autocast, precision_in_force
from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.store import ImageSet
from pipeline.models.dcgan import to_signed
from pipeline.models.layers import AffineBatchNorm, Convolution, MaxPool, batch_norm_eps

CELLS = 4  # the side that all maps are pooled to
RECORD = "features.json"


@section
class Features:
    """``features`` in params.yaml.

    Attributes
    ----------
    dtype : of the stored features
    batch_size : images at a time; changes a feature by rounding at most
    statistics_batch_size : images a batch of the pass for batch norm's statistics; part of the result
    """

    dtype: Literal["float16", "float32"]
    batch_size: Annotated[int, Ge(1)]
    statistics_batch_size: Annotated[int, Ge(2)]


# ---- statistics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Per channel of one batch norm: float64 (C,) each."""

    mean: np.ndarray
    variance: np.ndarray


Statistics = tuple[Moments, ...]  # of each batch norm among D's maps, in the order of the layers


def map_rows(discriminator: nn.Sequential) -> nn.Sequential:
    """The rows of a discriminator that give maps, from its first; not the last row, which gives the logit."""
    firsts = [next(row.children()) for row in discriminator]
    n = next((n for n, first in enumerate(firsts) if not isinstance(first, Convolution)), len(firsts))
    if n == 0:
        message = f"a discriminator begins with a convolution, this network with {firsts[:1]}"
        raise ValueError(message)
    return discriminator[:n]


@torch.inference_mode()
def batch_statistics(
    discriminator: nn.Sequential, image_set: ImageSet, rows: np.ndarray, *, batch_size: int, compute: Compute
) -> Statistics:
    """One pass of D, normalising by each batch: mean of the batches' means and mean of their biased variances.

    A last partial batch counts as much as any other (authors' code).

    Parameters
    ----------
    discriminator : on ``compute.device``
    rows : of the image set; batches are taken in this order, so shuffle the rows of a set that is sorted by class
    """
    layers = map_rows(discriminator)
    check_images(layers, image_set)
    parts = [part for row in layers for part in row.children()]
    sums = [torch.zeros(2, len(part.gain), dtype=torch.float64) for part in parts if isinstance(part, AffineBatchNorm)]
    batches = 0
    with Progress("batch-norm statistics", total=len(rows), unit="images") as progress:
        for images in _batches(image_set, rows, batch_size, compute.device):
            x, found = images, []
            with autocast(compute):
                for part in parts:
                    if isinstance(part, AffineBatchNorm):
                        x, mean, variance = part.with_moments(x)
                        found.append(torch.stack([mean, variance]).double().cpu())
                    else:
                        x = part(x)
            sums = [total + moments for total, moments in zip(sums, found, strict=True)]
            batches += 1
            progress.advance(len(images))
    return tuple(
        Moments(mean=mean.numpy(), variance=variance.numpy()) for mean, variance in (s / batches for s in sums)
    )


class FixedConvolution(nn.Module):
    """A convolution and the batch norm of fixed statistics behind it, as one convolution with bias.

    gain * (w * x - mean) / sqrt(variance + eps) + shift = (w * scale) * x + (shift - mean * scale).
    """

    def __init__(
        self, convolution: Convolution, norm: AffineBatchNorm | None, moments: Moments | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.stride, weight, self.bias = convolution.stride, convolution.weight.detach().double(), None
        if norm is not None and moments is not None:
            mean, variance = (torch.from_numpy(v).to(weight.device) for v in (moments.mean, moments.variance))
            scale = norm.gain.detach().double() / (variance + batch_norm_eps(dtype)).sqrt()
            weight = weight * scale[:, None, None, None]
            self.bias = (norm.shift.detach().double() - mean * scale).to(dtype)
        self.weight = weight.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.weight.shape[-1] // 2)


def with_fixed_statistics(discriminator: nn.Sequential, statistics: Statistics, dtype: torch.dtype) -> nn.Sequential:
    """The map rows with constants in place of batch statistics, for inputs of ``dtype``; D itself stays as it is.

    Raises
    ------
    ValueError
        If the statistics are another network's.
    """
    layers, waiting, rows = map_rows(discriminator), list(statistics), []
    widths = [len(part.gain) for part in layers.modules() if isinstance(part, AffineBatchNorm)]
    if widths != [len(moments.mean) for moments in statistics]:
        found = [len(moments.mean) for moments in statistics]
        message = f"statistics of {found} channels for a network whose batch norms have {widths}"
        raise ValueError(message)
    for row in layers:
        convolution, norm, rest = _parts(row)
        fixed = FixedConvolution(convolution, norm, waiting.pop(0) if norm is not None else None, dtype)
        rows.append(nn.Sequential(fixed, *map(_in_place, rest)))
    return nn.Sequential(*rows)


def _in_place(part: nn.Module) -> nn.Module:
    """The same without a second copy of the maps, which would cost a tenth of the time of the convolutions."""
    if isinstance(part, nn.LeakyReLU):
        return nn.LeakyReLU(part.negative_slope, inplace=True)
    return nn.ReLU(inplace=True) if isinstance(part, nn.ReLU) else part


def _parts(row: nn.Module) -> tuple[Convolution, AffineBatchNorm | None, list[nn.Module]]:
    """A row's convolution, its batch norm if it has one, and what follows."""
    convolution, *rest = row.children()
    assert isinstance(convolution, Convolution)
    if rest and isinstance(rest[0], AffineBatchNorm):
        return convolution, rest[0], rest[1:]
    return convolution, None, rest


# ---- features -------------------------------------------------------------------------------------------------------


def features_of(rows: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [-1, 1] -> (B, n_features), layer by layer, map by map, place by place."""
    pooled = []
    for row in rows:
        x = row(x)
        pooled.append(F.max_pool2d(x, x.shape[2] // CELLS).flatten(1))
    return torch.cat(pooled, dim=1)


@torch.inference_mode()
def extract(
    discriminator: nn.Sequential,
    statistics: Statistics,
    image_set: ImageSet,
    splits: Sequence[str],
    out: Path,
    *,
    config: Features,
    compute: Compute,
) -> int:
    """Write the folder ``out`` whole: ``SPLIT.npy`` (n_images, n_features) for each split, in its order, and a record.

    Memory stays flat: a batch is computed, written and dropped.

    Parameters
    ----------
    discriminator : on ``compute.device``

    Returns
    -------
    int
        The number of features.

    Raises
    ------
    InputError
        If the images do not fit the network, or a feature is not finite in the stored dtype.
    """
    check_images(map_rows(discriminator), image_set)
    dtype = torch.bfloat16 if precision_in_force(compute) == "bf16" else torch.float32
    fixed = with_fixed_statistics(discriminator, statistics, dtype)
    _, height, width, channels = image_set.images.shape
    blank = torch.zeros(1, channels, height, width, dtype=dtype, device=compute.device)
    n_features = features_of(fixed, blank).shape[1]
    rows = {split: image_set.rows(split) for split in splits}
    with (
        whole_directory(out) as partial,
        Progress("features", total=sum(map(len, rows.values())), unit="images") as progress,
    ):
        for split, chosen in rows.items():
            header = {"descr": _stored(config.dtype), "fortran_order": False, "shape": (len(chosen), n_features)}
            with (partial / f"{split}.npy").open("wb") as file:
                # not a memory map written to: its pages would count as this process's memory until the disk has them
                np.lib.format.write_array_header_1_0(file, header)
                for x in _batches(image_set, chosen, config.batch_size, compute.device):
                    found = features_of(fixed, x.to(dtype)).to(getattr(torch, config.dtype))
                    _check_finite(found, config.dtype, image_set.path, split)
                    file.write(found.cpu().numpy().astype(_stored(config.dtype), copy=False).data)
                    progress.advance(len(x))
        record = {
            "network": network_sha256(discriminator),
            "statistics": _statistics_sha256(statistics),
            "precision": precision_in_force(compute),
            "dtype": config.dtype,
            "n_features": n_features,
            "images": {split: _images_record(image_set, chosen) for split, chosen in rows.items()},
        }
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        (partial / RECORD).write_text(text, encoding="utf-8", newline="\n")
    return n_features


def open_features(folder: Path, split: str, discriminator: nn.Sequential, image_set: ImageSet) -> np.ndarray:
    """Features of one split as a memory map (n_images, n_features), rows as ``image_set.rows(split)``.

    Raises
    ------
    InputError
        If they are missing or damaged, or were made with another network or from other images.
    """
    record = _read_record(folder)
    path, again = folder / f"{split}.npy", f"remove {folder} and run dvc repro"
    network, images = network_sha256(discriminator), _images_record(image_set, image_set.rows(split))
    if record["network"] != network:
        message = (
            f"{folder}: features of another network: made with sha256 {record['network'][:16]}, expected "
            f"{network[:16]}; {again}"
        )
        raise InputError(message)
    made_from = record["images"].get(split)
    if made_from is None:
        message = f"{folder}: no features of split '{split}'; found {', '.join(sorted(record['images'])) or 'none'}"
        raise InputError(message)
    if made_from != images:
        message = (
            f"{path}: features of other images: {made_from['n']} images with keys {made_from['keys'][:16]}, expected "
            f"{images['n']} with {images['keys'][:16]} of {image_set.path}; {again}"
        )
        raise InputError(message)
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        message = f"{path}: not a whole NumPy array ({error}); {again}"
        raise InputError(message) from error
    shape = (images["n"], record["n_features"])
    if features.shape != shape or features.dtype != _stored(record["dtype"]):
        message = f"{path}: expected {record['dtype']} {shape}, found {features.dtype} {features.shape}; {again}"
        raise InputError(message)
    return features


def network_sha256(discriminator: nn.Sequential) -> str:
    """Of the rows that give the features: what they compute and every parameter; not of the logit."""
    layers = map_rows(discriminator)
    digest = hashlib.sha256(repr([[repr(part) for part in row.children()] for row in layers]).encode())
    for name, tensor in layers.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_images(layers: nn.Sequential, image_set: ImageSet) -> None:
    """Refuse images of another number of channels, or whose maps cannot be pooled to 4 x 4."""
    _, height, width, channels = image_set.images.shape
    expected = next(iter(layers.parameters())).shape[1]
    if channels != expected:
        message = (
            f"{image_set.path}: images of {channels} channels, the network takes {expected}; name another image set"
        )
        raise InputError(message)
    halvings = sum(_halves(part) for part in layers.modules())
    if height != width or height % (CELLS * 2**halvings):
        message = (
            f"{image_set.path}: images of {height} x {width}; the network halves the side {halvings} times and its "
            f"maps are pooled to {CELLS} x {CELLS}: the images must be square, the side a multiple of "
            f"{CELLS * 2**halvings}"
        )
        raise InputError(message)


def _halves(part: nn.Module) -> bool:
    return isinstance(part, MaxPool) or (isinstance(part, Convolution) and part.stride == 2)


def _batches(image_set: ImageSet, rows: np.ndarray, batch_size: int, device: str) -> Iterator[torch.Tensor]:
    for start in range(0, len(rows), batch_size):
        yield to_signed(image_set.images[rows[start : start + batch_size]], device)


def _check_finite(features: torch.Tensor, dtype: str, where: Path, split: str) -> None:
    if features.sum(dtype=torch.float64).isfinite():  # a NaN or an infinity stays one in any sum
        return
    message = (
        f"{where}, split '{split}': features that are not finite in {dtype}; "
        + ("choose features.dtype float32, or " if dtype == "float16" else "")
        + "look for NaN in the network"
    )
    raise InputError(message)


def _stored(dtype: str) -> str:
    """Little-endian on every machine."""
    return {"float16": "<f2", "float32": "<f4"}[dtype]


def _images_record(image_set: ImageSet, rows: np.ndarray) -> dict[str, Any]:
    keys = "\n".join(image_set.index["key"].to_numpy()[rows].tolist())
    return {"n": len(rows), "keys": hashlib.sha256(keys.encode()).hexdigest()}


def _statistics_sha256(statistics: Statistics) -> str:
    digest = hashlib.sha256()
    for moments in statistics:
        digest.update(moments.mean.tobytes() + moments.variance.tobytes())
    return digest.hexdigest()


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path}: missing; run the stage that makes these features (dvc repro)"
        raise InputError(message) from error
    except ValueError as error:
        message = f"{path}: not valid JSON ({error}); remove {folder} and run dvc repro"
        raise InputError(message) from error
    if not isinstance(record, dict) or not {"network", "images", "n_features", "dtype"} <= record.keys():
        message = f"{path}: not a record of features; remove {folder} and run dvc repro"
        raise InputError(message)
    return record
