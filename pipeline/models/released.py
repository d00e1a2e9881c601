"""Networks from the arrays that DCGAN's authors released: a folder of ``.npy`` files, one a parameter.

The order is that of the layers: weights, then gain and shift where the layer has batch norm. An array's place is the
last number in its file's name, as in ``30_discrim_params.jl_04.npy``: place 4. Layouts: linear (in, out), convolution
(out, in, k, k), fractionally strided convolution (in, out, k, k). Their convolutions were true ones, where PyTorch
correlates: every kernel is turned by 180 degrees.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Annotated

import numpy as np
import torch
from annotated_types import Len
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.models.layers import AffineBatchNorm, Convolution, Deconvolution, Linear


@section
class Released:
    """``train.runs.NAME.released``: arrays to take in place of training.

    Attributes
    ----------
    folder : below GAN_DATA
    generator, discriminator : patterns of file names; null where the arrays are not there
    sha256 : of the listing of both networks' files: a line ``name NUL sha256-of-content LF`` each, sorted; null = not
        pinned
    """

    folder: str
    generator: str | None
    discriminator: str | None
    sha256: Annotated[str, Len(64, 64)] | None


def check_listing(folder: Path, released: Released) -> str:
    """The sha256 of the listing of the arrays that ``released`` names in a folder.

    Raises
    ------
    InputError
        If it is not the one that the params pin.
    """
    patterns = [p for p in (released.generator, released.discriminator) if p is not None]
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    lines = [f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in paths]
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    if released.sha256 is not None and found != released.sha256:
        message = (
            f"{folder}: the {len(paths)} arrays have the listing {found}, the params pin {released.sha256} "
            "(released.sha256); restore the files, or pin what is there on purpose"
        )
        raise InputError(message)
    return found


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where an array goes."""

    row: int  # of the network's table, from 1
    what: str
    parameter: nn.Parameter
    turned: Callable[[torch.Tensor], torch.Tensor]  # from their layout to ours; its own inverse

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return tuple(self.turned(self.parameter.detach()).shape)


def load_released(network: nn.Sequential, folder: Path, pattern: str = "*.npy") -> nn.Sequential:
    """Copy released arrays into a network, or into its first rows.

    Parameters
    ----------
    pattern : the network's files; the authors keep both networks in one folder: ``*_discrim_params.jl_*.npy``

    Returns
    -------
    nn.Sequential
        The rows that the arrays cover, sharing the network's parameters: all of them, or the first few.

    Raises
    ------
    InputError
        If an array is missing, damaged, of another shape than its place asks for, not of finite floating-point
        numbers, or there are more than the network has parameters; the network is then as it was.
    """
    slots, paths = _slots(network), _in_order(folder, pattern)
    values = [_read(path, slot) for path, slot in zip(paths, slots, strict=False)]  # a wrong shape says most: first
    if len(paths) > len(slots):
        message = (
            f"{folder}: {len(paths)} arrays match '{pattern}', this network has {len(slots)} parameters (weights, then "
            "gain and shift where a layer has batch norm); choose the files of one network by the pattern"
        )
        raise InputError(message)
    used, rest = slots[: len(paths)], slots[len(paths) :]
    if rest and rest[0].row == used[-1].row:
        message = (
            f"{folder}: after {paths[-1].name}, the {rest[0].what} of layer {rest[0].row} is missing; the arrays may "
            "end early, but only with a whole layer"
        )
        raise InputError(message)
    with torch.no_grad():
        for slot, value in zip(used, values, strict=True):
            slot.parameter.copy_(slot.turned(value))
    return network[: used[-1].row]


def _slots(network: nn.Sequential) -> list[Slot]:
    slots: list[Slot] = []
    for row, layer in enumerate(network, start=1):
        for part in layer.modules():
            for name, parameter in part.named_parameters(recurse=False):
                turned = _LAYOUTS[next(kind for kind in _LAYOUTS if isinstance(part, kind))]
                slots.append(Slot(row=row, what=f"{type(part).__name__} {name}", parameter=parameter, turned=turned))
    return slots


def _transposed(weight: torch.Tensor) -> torch.Tensor:
    return weight.T


def _rotated(weight: torch.Tensor) -> torch.Tensor:
    return weight.flip(2, 3)


def _as_it_is(values: torch.Tensor) -> torch.Tensor:
    return values


_LAYOUTS: dict[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    Linear: _transposed,
    Convolution: _rotated,
    Deconvolution: _rotated,
    AffineBatchNorm: _as_it_is,
}


def _in_order(folder: Path, pattern: str) -> list[Path]:
    """The files, by the last number in their names; it must count up from 0 or 1 without a gap."""
    places: dict[int, Path] = {}
    for path in sorted(folder.glob(pattern)):
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            message = f"{path}: no number in the name says which array this is; expected such as params_01.npy"
            raise InputError(message)
        place = int(numbers[-1])
        if place in places:
            message = (
                f"{folder}: {places[place].name} and {path.name} both claim place {place}; choose the files of one "
                "network by the pattern"
            )
            raise InputError(message)
        places[place] = path
    if not places:
        message = f"{folder}: no file matches '{pattern}'; expected the released arrays, one .npy a parameter"
        raise InputError(message)
    found = sorted(places)
    first = min(found[0], 1)
    for expected, place in enumerate(found, start=first):
        if place != expected:
            message = (
                f"{folder}: array {expected} is missing, the next is {places[place].name}; add it, or leave the later "
                "arrays out: the first layers can be used alone"
            )
            raise InputError(message)
    return [places[place] for place in found]


def _read(path: Path, slot: Slot) -> torch.Tensor:
    """float32, in the file's layout."""
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, TokenError) as error:  # TokenError: of NumPy's reader of headers
        message = f"{path}: not a whole NumPy array without pickled objects ({error}); fetch the file again"
        raise InputError(message) from error
    if values.shape != slot.shape or values.dtype.kind != "f":
        message = (
            f"{path}: expected {slot.what} of layer {slot.row}, floating-point numbers of shape {_said(slot.shape)}, "
            f"found {values.dtype} of shape {_said(values.shape)}; the array is another network's or out of order"
        )
        raise InputError(message)
    if not np.isfinite(values).all():
        message = f"{path}: {np.sum(~np.isfinite(values))} values are not finite; fetch the file again"
        raise InputError(message)
    return torch.from_numpy(values.astype(np.float32))


def _said(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
