"""Discriminator features: what every convolutional layer gives, max-pooled to 4 x 4, flattened, concatenated.

DCGAN, sections 5.1 and 5.2. Batch norm then has fixed statistics, from a separate pass over training images (authors'
code), so that an image's features do not depend on the images beside it.

Also the folders that features lie in, whatever made them: ``SPLIT.npy`` for each split and ``features.json``.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import nn

from pipeline.core.compute import Compute, autocast, precision_in_force
from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory, write_text
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, memory_map, write_arrays
from pipeline.models.build import ColourArchitecture, colour_discriminator
from pipeline.models.dcgan import to_signed
from pipeline.models.layers import AffineBatchNorm, Convolution, MaxPool, batch_norm_eps, initialise

CELLS = 4  # the side that all maps are pooled to
RECORD = "features.json"
REQUIRED = {"network", "max_feature_units", "images", "n_features", "dtype"}  # keys of the record


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


@section
class RandomFeatures:
    """``random_features`` in params.yaml: the weights of a discriminator that nobody trains, from N(0, initial_std)."""

    seed: int
    initial_std: Annotated[float, Gt(0)]


def random_discriminator(architecture: ColourArchitecture, config: RandomFeatures) -> nn.Sequential:
    """A discriminator with weights and gains as they are before the first update."""
    discriminator = colour_discriminator(architecture)
    initialise(discriminator, config.initial_std, torch_stream(config.seed, "random discriminator"))
    return discriminator


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

    def batches() -> Iterator[torch.Tensor]:
        with Progress("batch-norm statistics", total=len(rows), unit="images") as progress:
            for images in _batches(image_set, rows, batch_size, compute.device):
                yield images
                progress.advance(len(images))

    return statistics_over(layers, batches(), compute)


@torch.inference_mode()
def statistics_over(layers: nn.Sequential, batches: Iterable[torch.Tensor], compute: Compute) -> Statistics:
    """:func:`batch_statistics` over batches of images (B, C, H, W) in [-1, 1]; empty without batch norm."""
    parts = [part for row in layers for part in row.children()]
    sums = [torch.zeros(2, len(part.gain), dtype=torch.float64) for part in parts if isinstance(part, AffineBatchNorm)]
    if not sums:
        return ()
    n_batches = 0
    for images in batches:
        x, waiting = images, iter(sums)
        with autocast(compute):
            for part in parts:
                if isinstance(part, AffineBatchNorm):
                    x, mean, variance = part.with_moments(x)
                    next(waiting).add_(torch.stack([mean, variance]).double().cpu())
                else:
                    x = part(x)
        n_batches += 1
    means = [(total / n_batches).numpy() for total in sums]
    return tuple(Moments(mean=mean, variance=variance) for mean, variance in means)


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


def maps_of(rows: nn.Sequential, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images (B, C, H, W) in [-1, 1] -> the maps (B, n_maps, side, side) that each row gives, one row at a time."""
    for row in rows:
        x = row(x)
        yield x


def features_of(rows: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [-1, 1] -> (B, n_features), layer by layer, map by map, place by place."""
    pooled = [F.max_pool2d(maps, maps.shape[2] // CELLS).flatten(1) for maps in maps_of(rows, x)]
    return torch.cat(pooled, dim=1)


def discriminator_features(
    discriminator: nn.Sequential, image_set: ImageSet, out: Path, *, config: Features, compute: Compute, scratch: Path
) -> None:
    """Batch norm's statistics over the training images, in a shuffled order, then the features of every split.

    Resumes from what ``scratch`` holds. Arguments and errors as of :func:`extract`.
    """
    discriminator.to(compute.device)
    rows = image_set.rows("train")
    shuffled = rows[numpy_stream(0, "batch-norm statistics").permutation(len(rows))]
    kept = scratch / "statistics.npz"
    if not kept.exists():
        size = config.statistics_batch_size
        found = batch_statistics(discriminator, image_set, shuffled, batch_size=size, compute=compute)
        write_arrays(kept, **{f"{i}": np.stack([m.mean, m.variance]) for i, m in enumerate(found)})
    with np.load(kept, allow_pickle=False) as arrays:
        pairs = [arrays[f"{i}"] for i in range(len(arrays.files))]
    statistics = tuple(Moments(mean=mean, variance=variance) for mean, variance in pairs)
    splits = sorted(image_set.index["split"].unique())
    extract(discriminator, statistics, image_set, splits, out, config=config, compute=compute, scratch=scratch)


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
    scratch: Path,
) -> int:
    """Write the features of some splits, as :func:`write_features`.

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
    widths = [maps.shape[1] for maps in maps_of(fixed, blank)]
    n_features = CELLS**2 * sum(widths)

    def batches_of(rows: np.ndarray) -> Iterator[np.ndarray]:
        for x in _batches(image_set, rows, config.batch_size, compute.device):
            yield features_of(fixed, x.to(dtype)).to(getattr(torch, config.dtype)).cpu().numpy()

    record = {
        "network": network_sha256(discriminator),
        "max_feature_units": max(widths),
        "statistics": _statistics_sha256(statistics),
        "precision": precision_in_force(compute),
    }
    write_features(
        out,
        image_set,
        splits,
        batches_of,
        n_features=n_features,
        dtype=config.dtype,
        record=record,
        scratch=scratch,
    )
    return n_features


# ---- folders of features --------------------------------------------------------------------------------------------


def write_features(
    out: Path,
    image_set: ImageSet,
    splits: Sequence[str],
    batches_of: Callable[[np.ndarray], Iterable[np.ndarray]],
    *,
    n_features: int,
    dtype: Literal["float16", "float32"],
    record: Mapping[str, str | int],
    scratch: Path,
) -> None:
    """Write the folder ``out`` whole: ``SPLIT.npy`` (n_images, n_features) for each split, in its order, and a record.

    A killed run goes on after the last batch that was written to ``scratch``.

    Parameters
    ----------
    batches_of : rows of the image set -> their features, (m, n_features) floats, consecutive and of any m. A resumed
        run asks for the rows behind those that it has, which ended where a batch ended.
    record : what made the features: ``network``, a sha256 of all that decides what an image's features are;
        ``max_feature_units``, the maps of the widest layer; and what else a reader of ``features.json`` should know
    scratch : a folder of this computation alone, as :func:`pipeline.core.scratch.scratch` gives it

    Raises
    ------
    InputError
        If a split has no image, or a feature is not finite in the stored dtype.
    ValueError
        If the record lacks a key, or the batches do not add up to the rows that were asked for.
    """
    if not record.keys() >= {"network", "max_feature_units"}:
        message = f"a record of features needs network and max_feature_units, found {', '.join(sorted(record))}"
        raise ValueError(message)
    rows = {split: image_set.rows(split) for split in splits}
    growing = {split: _GrowingFile(scratch, split, len(chosen), n_features, dtype) for split, chosen in rows.items()}
    total, done = sum(map(len, rows.values())), sum(file.done for file in growing.values())
    with Progress("features", total=total, unit="images", done=done) as progress:
        for split, chosen in rows.items():
            file = growing[split]
            for batch in batches_of(chosen[file.done :]) if file.done < len(chosen) else ():
                file.add(batch, where=f"{image_set.path}, split '{split}'")
                progress.advance(len(batch))
            if file.done != len(chosen):
                message = f"features of {file.done} images for the {len(chosen)} of split '{split}'"
                raise ValueError(message)
    with whole_directory(out) as partial:
        for split, file in growing.items():
            shutil.move(file.path, partial / f"{split}.npy")
        text = json.dumps(
            {
                **record,
                "dtype": dtype,
                "n_features": n_features,
                "images": {split: _images_record(image_set, chosen) for split, chosen in rows.items()},
            },
            indent=2,
            sort_keys=True,
        )
        (partial / RECORD).write_text(text + "\n", encoding="utf-8", newline="\n")


class _GrowingFile:
    """An array in a file that batches are appended to; a killed run's is cut behind its last whole batch.

    Not a memory map written to: its pages would count as this process's memory until the disk has them.
    """

    def __init__(self, scratch: Path, name: str, n_rows: int, n_features: int, dtype: str) -> None:
        self.path, self._count = scratch / f"{name}.npy", scratch / f"{name}.rows"
        self._n_features, self._dtype = n_features, np.dtype(_stored(dtype))
        scratch.mkdir(parents=True, exist_ok=True)
        header = io.BytesIO()  # as numpy.save would write it
        shape = {"descr": _stored(dtype), "fortran_order": False, "shape": (n_rows, n_features)}
        np.lib.format.write_array_header_1_0(header, shape)
        done = int(self._count.read_text(encoding="utf-8")) if self.path.exists() and self._count.exists() else 0
        n_bytes = header.tell() + done * n_features * self._dtype.itemsize
        if done and self.path.stat().st_size < n_bytes:  # a crash of the machine kept the count and lost the rows
            done, n_bytes = 0, header.tell()
        self.done = done
        with self.path.open("r+b" if done else "wb") as file:
            file.write(header.getvalue())
            file.truncate(n_bytes)

    def add(self, batch: np.ndarray, *, where: str) -> None:
        """Append the features of the next images."""
        if batch.ndim != 2 or batch.shape[1] != self._n_features:
            message = f"{where}: features of shape {batch.shape}, expected (m, {self._n_features})"
            raise ValueError(message)
        with np.errstate(over="ignore"):  # an infinity is looked for below
            stored = np.ascontiguousarray(batch, dtype=self._dtype)
        _check_finite(stored, where)
        with self.path.open("ab") as file:
            file.write(stored.data)
        self.done += len(stored)
        write_text(self._count, f"{self.done}\n")


def open_features(folder: Path, split: str, image_set: ImageSet, network_sha256: str | None) -> np.ndarray:
    """Features of one split as a memory map (n_images, n_features), rows as ``image_set.rows(split)``.

    Parameters
    ----------
    network_sha256 : of the network that must have made them, see :func:`network_sha256`; None takes any

    Raises
    ------
    InputError
        If they are missing or damaged, or were made with another network or from other images.
    """
    record = _read_record(folder)
    path, again = folder / f"{split}.npy", f"remove {folder} and run dvc repro"
    if network_sha256 is not None and record["network"] != network_sha256:
        message = (
            f"{folder}: features of another network: made with sha256 {record['network'][:16]}, expected "
            f"{network_sha256[:16]}; {again}"
        )
        raise InputError(message)
    images = _images_record(image_set, image_set.rows(split))
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
    features = memory_map(path, again)
    shape = (images["n"], record["n_features"])
    if features.shape != shape or features.dtype != _stored(record["dtype"]):
        message = f"{path}: expected {record['dtype']} {shape}, found {features.dtype} {features.shape}; {again}"
        raise InputError(message)
    return features


def max_feature_units(folder: Path) -> int:
    """Maps of the widest layer behind the features of a folder; errors as of :func:`open_features`."""
    return int(_read_record(folder)["max_feature_units"])


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


def _check_finite(features: np.ndarray, where: str) -> None:
    # a NaN or an infinity stays one in any sum; torch sums float16 many times faster than NumPy
    if torch.from_numpy(features).sum(dtype=torch.float64).isfinite():
        return
    dtype = features.dtype.name
    message = (
        f"{where}: features that are not finite in {dtype}; "
        + ("choose dtype float32 in the params of this stage, or " if dtype == "float16" else "")
        + "look for NaN in what made them"
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
    if not isinstance(record, dict) or not record.keys() >= REQUIRED:
        message = f"{path}: not a record of features; remove {folder} and run dvc repro"
        raise InputError(message)
    return record
