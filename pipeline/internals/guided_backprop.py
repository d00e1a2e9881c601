"""What D's last maps respond to: guided backpropagation of their strongest responses (DCGAN, section 6.2, Figure 5).

Springenberg et al. 2015, "Striving for Simplicity": from one unit back to the pixels, where a ReLU passes a gradient
only if what went in was positive *and* the gradient is. The paper shows that a trained D's units respond to beds and
windows, those of a random D to nothing in particular. Where the boxes of beds and windows are known (rendered rooms)
that is measured, for every feature of the last convolutional layer and not only for the six that are shown:

- ``centre``: is the centre of the unit's receptive field in a box? Coarse: D has 4 x 4 places, 16 pixels apart.
- ``energy``: which share of the squared guided gradient falls on the boxes' pixels? The gradient says which pixels of
  the 61 x 61 the response came from.
- ``excess``: how much more energy that is than the network's *other* responses at the same place would have in the
  same boxes, had they come from this image: their mean energy map stands for them.

``area_of_boxes``, their share of the pixels of the same images, is there for scale only: energy spread evenly would
have that share if units saw the whole image, but they see their receptive field, cut off at the image's edge. For the
centres, few and fixed, it says nothing.

The shares alone are no fair comparison. A random D responds to contrast, and in the middle of the image rather than at
its padded edge: there rooms have their windows and beds, whatever its features are. The excess is what the content of
this image adds: a feature that looks for windows finds them where they are, not only where they often are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation.features import RandomFeatures, map_rows, random_discriminator
from pipeline.internals.frozen import BATCH
from pipeline.internals.half_done import HalfDone
from pipeline.internals.part_detector import PARTS, cells_inside, has_boxes, true_boxes
from pipeline.models.build import ColourArchitecture
from pipeline.models.dcgan import to_signed
from pipeline.models.layers import Convolution, MaxPool

MID_GREY, MOST = 128, 127  # a gradient of 0, and how far the largest of a row is from it
WHITE = 255
BORDER_PX = 2  # between the two panels of a contact sheet


@section
class GuidedBackprop:
    """``internals.guided_backprop`` in params.yaml.

    Attributes
    ----------
    seed : draws the random D's weights, and the images
    initial_std : of the random D's weights
    n_images : training images that are searched for strong responses; of a set with boxes, those with one
    n_features, n_shown : rows and columns of a panel: the first features, and the strongest responses to each
    n_judged : strongest responses of each feature whose places are compared with the boxes
    """

    seed: int
    initial_std: Annotated[float, Gt(0)]
    n_images: Annotated[int, Ge(1)]
    n_features: Annotated[int, Ge(1)]
    n_shown: Annotated[int, Ge(1)]
    n_judged: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        if max(self.n_shown, self.n_judged) > self.n_images:
            message = f"n_shown {self.n_shown} and n_judged {self.n_judged} strongest responses, one an image, "
            message += f"cannot be found among n_images {self.n_images}; raise n_images"
            raise ValueError(message)


def untrained(architecture: ColourArchitecture, config: GuidedBackprop, *, depth: int) -> nn.Sequential:
    """The random D of the comparison: as many of its first rows as the trained one has; a released D may lack some."""
    config_of_random = RandomFeatures(seed=config.seed, initial_std=config.initial_std)
    return random_discriminator(architecture, config_of_random)[:depth]


# ---- geometry -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The pixels that a unit sees: those from ``origin + step * place``, ``size`` of them, along either side.

    ``origin`` is negative by the padding: the fields of units at the edge reach beyond the image.
    """

    size: int
    origin: int
    step: int

    def start(self, place: np.ndarray) -> np.ndarray:
        """First pixel of the units at these places."""
        return self.origin + self.step * place

    def centre(self, place: np.ndarray) -> np.ndarray:
        """Middle pixel of the units at these places."""
        return self.start(place) + self.size // 2


def receptive_field(layers: nn.Sequential) -> ReceptiveField:
    """Of the units of the last of these rows, from kernels, strides and paddings; 61 pixels for D of 64 x 64."""
    size, origin, step = 1, 0, 1
    for part in (part for row in layers for part in row.children()):
        if isinstance(part, Convolution):
            kernel, stride, padding = part.weight.shape[-1], part.stride, part.weight.shape[-1] // 2
        elif isinstance(part, MaxPool):
            kernel, stride, padding = 2, 2, 0
        else:
            continue
        size, origin, step = size + (kernel - 1) * step, origin - padding * step, step * stride
    return ReceptiveField(size=size, origin=origin, step=step)


# ---- strong responses -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Responses:
    """The strongest responses of each feature, one an image, strongest first; all of shape (n_features, n).

    Attributes
    ----------
    value : float32, after the activation
    row : int64, of the image set
    y, x : int64, the place on the feature's map
    """

    value: torch.Tensor
    row: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor


@torch.no_grad()  # not inference mode: the places take part in a gradient later
def strongest(
    layers: nn.Sequential,
    image_set: ImageSet,
    rows: np.ndarray,
    n: int,
    device: str,
    checkpoint_file: Path | None = None,
) -> Responses:
    """The ``n`` images of ``rows`` with the strongest response of each feature, and where; fewer if there are fewer.

    Memory does not grow with the images. Of equal responses the one to the earlier image counts as stronger. Resumes
    from what the file holds.
    """
    width, kept, done = 0, [], 0  # kept: value, row and place, (n_features, n) each
    half_done = HalfDone(checkpoint_file)
    if state := half_done.read():
        kept = [state[name].to(device) for name in ("value", "row", "place")]
        width, done = int(state["width"]), int(state["done"])
    with Progress("strongest responses", total=len(rows), unit="images", done=done) as progress:
        for start in range(done, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            maps = layers(to_signed(image_set.images[batch], device))
            width = maps.shape[3]
            peaks, at = maps.flatten(2).max(dim=2)  # (B, n_features): one an image
            numbers = torch.from_numpy(batch).to(device).expand(maps.shape[1], -1)
            found = [peaks.t(), numbers, at.t()]
            found = [torch.cat(pair, dim=1) for pair in zip(kept, found, strict=True)] if kept else found
            order = found[0].argsort(dim=1, descending=True, stable=True)[:, :n]
            kept = [part.gather(1, order) for part in found]
            done += len(batch)
            progress.advance(len(batch))
            so_far = dict(zip(("value", "row", "place"), kept, strict=True))
            so_far |= {"width": torch.tensor(width), "done": torch.tensor(done)}
            half_done.keep(lambda so_far=so_far: {name: part.cpu().contiguous() for name, part in so_far.items()})
    value, row, place = (part.cpu() for part in kept)
    return Responses(value=value, row=row, y=place // width, x=place % width)


# ---- guided gradients -----------------------------------------------------------------------------------------------


class _Pass(torch.autograd.Function):
    """Leaky ReLU whose gradient is guided."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        return F.leaky_relu(x, slope)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        return torch.ops.aten.threshold_backward(grad.clamp_min(0), x, 0), None  # 0 where x is not above 0


class GuidedReLU(nn.Module):
    """(Leaky) ReLU that passes a gradient back where its input and the gradient are positive, and as it is.

    A leaky ReLU's negative side passes none: the method is one for ReLU, and knows evidence *for* a response only.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same."""
        return _Pass.apply(x, self.slope)  # pyright: ignore[reportReturnType]


def guided(layers: nn.Sequential) -> nn.Sequential:
    """The same rows with guided gradients. Maxout and pooling, which have no sign to be guided by, stay as they are."""
    return nn.Sequential(*[nn.Sequential(*map(_guided, row.children())) for row in layers])


def _guided(part: nn.Module) -> nn.Module:
    if isinstance(part, nn.LeakyReLU):
        return GuidedReLU(part.negative_slope)
    return GuidedReLU(0.0) if isinstance(part, nn.ReLU) else part


def pixel_gradients(
    layers: nn.Sequential, pixels: torch.Tensor, feature: torch.Tensor, y: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """Gradients of one unit for each image, by the pixels: float32 (B, 3, H, W) -> the same shape.

    feature, y, x (B,) name the unit of each image; guided if ``layers`` are :func:`guided`.
    """
    pixels = pixels.detach().requires_grad_()
    maps = layers(pixels)
    units = maps[torch.arange(len(maps), device=maps.device), feature, y, x]
    return torch.autograd.grad(units.sum(), pixels)[0]


def gradients(
    layers: nn.Sequential, image_set: ImageSet, responses: Responses, device: str
) -> Iterator[tuple[slice, np.ndarray]]:
    """Guided gradients of all responses, batch by batch: which of them (row by row), and float64 (B, H, W, 3)."""
    through = guided(layers)
    n_features, n = responses.row.shape
    feature = torch.arange(n_features).repeat_interleave(n)
    row, y, x = (part.flatten() for part in (responses.row, responses.y, responses.x))
    for start in range(0, len(row), BATCH):
        some = slice(start, min(start + BATCH, len(row)))
        pixels = to_signed(image_set.images[row[some].numpy()], device)
        found = pixel_gradients(through, pixels, *(part[some].to(device) for part in (feature, y, x)))
        yield some, found.permute(0, 2, 3, 1).cpu().double().numpy()


# ---- the panels -----------------------------------------------------------------------------------------------------


def panel(layers: nn.Sequential, image_set: ImageSet, responses: Responses, device: str) -> np.ndarray:
    """Figure 5's tiles of some responses: uint8 (n_features, n, size, size, 3), the units' receptive fields.

    No gradient is mid-grey, as is all that lies outside the image; the largest gradient of a row is black or white.
    """
    field, shape = receptive_field(layers), responses.row.shape
    y, x = (field.start(part.flatten().numpy()) for part in (responses.y, responses.x))
    tiles = np.zeros((shape[0] * shape[1], field.size, field.size, 3))
    for some, found in gradients(layers, image_set, responses, device):
        edge = [(0, 0), (field.size, field.size), (field.size, field.size), (0, 0)]
        for i, wide in zip(range(some.start, some.stop), np.pad(found, edge), strict=True):
            top, left = y[i] + field.size, x[i] + field.size
            tiles[i] = wide[top : top + field.size, left : left + field.size]
    tiles = tiles.reshape(*shape, *tiles.shape[1:])
    largest = np.abs(tiles).max(axis=(1, 2, 3, 4), keepdims=True)
    scaled = np.divide(tiles, largest, out=np.zeros_like(tiles), where=largest > 0)
    return np.rint(MID_GREY + MOST * scaled).astype(np.uint8)


def top(responses: Responses, n: int, *, n_features: int | None = None) -> Responses:
    """The strongest ``n`` responses of the first features; None: of all."""
    parts = {name: getattr(responses, name)[:n_features, :n] for name in ("value", "row", "y", "x")}
    return Responses(**parts)


def side_by_side(random: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Two panels (n_features, n_shown, size, size, 3) -> (2 * n_features * n_shown, ...), tiles of a contact sheet.

    A row a feature: the random D's tiles, the last of which ends in a white border, then the trained one's.
    """
    left = random.copy()
    left[:, -1, :, -BORDER_PX:] = WHITE
    rows = np.concatenate([left, trained], axis=1)
    return rows.reshape(-1, *rows.shape[2:])


# ---- beds and windows -----------------------------------------------------------------------------------------------


MEASURES = (
    *(f"{measure}_in_{name}" for measure in ("centre", "energy", "excess") for name in ("bed", "window", "boxes")),
    "area_of_boxes",
)


def searched_rows(image_set: ImageSet, config: GuidedBackprop) -> np.ndarray:
    """Training images drawn by seed, ascending; of a set with boxes, among those that have one.

    Raises
    ------
    InputError
        If the set has columns of boxes, but no training image has a box.
    """
    rows = image_set.rows("train")
    if has_boxes(image_set):
        known = np.any([np.isfinite(true_boxes(image_set, rows, part)[:, 0]) for part in PARTS], axis=0)
        if not known.any():
            message = f"{image_set.path}: none of the {len(rows)} training images has a box of a bed or a window, "
            message += "though the set has columns for them; make the set again"
            raise InputError(message)
        rows = rows[known]
    return np.sort(numpy_stream(config.seed, "guided backprop").permutation(rows)[: config.n_images])


def box_shares(layers: nn.Sequential, image_set: ImageSet, responses: Responses, device: str) -> pd.DataFrame:
    """Where the responses of each feature came from, one row a feature: the columns of Figure 5 behind ``network``.

    Shares are means over the feature's responses. Left out of a mean are those that have no energy, because nothing
    passed the gradient back, and, of the excess, those whose place no other response has. Without boxes all is NaN.
    """
    n_features, n = responses.row.shape
    feature = np.arange(n_features)
    if not has_boxes(image_set):
        return pd.DataFrame({"feature": feature, "n_top": 0} | dict.fromkeys(MEASURES, np.nan))
    field, rows = receptive_field(layers), responses.row.flatten().numpy()
    y, x = (field.centre(part.flatten().numpy()) for part in (responses.y, responses.x))
    measured = {name: np.empty(len(rows)) for name in MEASURES}
    places = _EnergyByPlace(y, x, image_set.images.shape[1:3])
    with Progress("guided backpropagation", total=len(rows), unit="responses") as progress:
        for some, found in gradients(layers, image_set, responses, device):
            energy = _shares(np.square(found).sum(axis=3))
            places.add(some, energy)
            masks = _masks(image_set, rows[some])
            for name, mask in masks.items():
                measured[f"centre_in_{name}"][some] = mask[np.arange(len(mask)), y[some], x[some]]
                measured[f"energy_in_{name}"][some] = (energy * mask).sum(axis=(1, 2))
            measured["area_of_boxes"][some] = masks["boxes"].mean(axis=(1, 2))
            progress.advance(some.stop - some.start)
    for start in range(0, len(rows), BATCH):
        some = slice(start, start + BATCH)
        for name, mask in _masks(image_set, rows[some]).items():
            own = measured[f"energy_in_{name}"][some]
            measured[f"excess_in_{name}"][some] = own - places.of_others(some, own, mask)
    means = {name: _mean(values.reshape(n_features, n)) for name, values in measured.items()}
    return pd.DataFrame({"feature": feature, "n_top": n} | means)


class _EnergyByPlace:
    """Sums of energy maps over the responses that have the same place."""

    def __init__(self, y: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> None:
        _, self._place = np.unique(np.stack([y, x]), axis=1, return_inverse=True)
        n = self._place.max() + 1
        self._sums, self._counts = np.zeros((n, *shape)), np.zeros(n)

    def add(self, some: slice, energy: np.ndarray) -> None:
        """The maps (B, H, W) of some responses; a map of NaN, which has no energy, does not count."""
        known = ~np.isnan(energy[:, 0, 0])
        np.add.at(self._sums, self._place[some][known], energy[known])
        np.add.at(self._counts, self._place[some][known], 1)

    def of_others(self, some: slice, own: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Share in the masks (B, H, W) that the mean map of the other responses at each place has; NaN if none."""
        place = self._place[some]
        total, others = (self._sums[place] * mask).sum(axis=(1, 2)) - own, self._counts[place] - 1
        return np.divide(total, others, out=np.full(len(own), np.nan), where=others > 0)


def _masks(image_set: ImageSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of each part and of ``boxes``, either part: bool (n, H, W), the pixels whose centre lies in a box."""
    height, width = image_set.images.shape[1:3]
    masks = {part: cells_inside(true_boxes(image_set, rows, part), height, width, 1.0) for part in PARTS}
    return masks | {"boxes": np.logical_or.reduce(list(masks.values()))}


def _shares(energy: np.ndarray) -> np.ndarray:
    """(B, H, W) divided by the sum of each map; NaN where it is 0."""
    total = energy.sum(axis=(1, 2), keepdims=True)
    return np.divide(energy, total, out=np.full_like(energy, np.nan), where=total > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each row without its NaN; NaN where a row has nothing else."""
    known = ~np.isnan(values)
    total, n = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0)


def guided_backprop(
    networks: Mapping[str, nn.Sequential],
    image_set: ImageSet,
    rows: np.ndarray,
    config: GuidedBackprop,
    device: str,
    scratch: Path | None = None,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The panels of some networks with frozen statistics, and the table of all their features.

    The search for the strongest responses resumes from what ``scratch`` holds.

    Parameters
    ----------
    networks : by name, such as ``trained`` and ``random``
    rows : of the images that all of them are shown, see :func:`searched_rows`

    Returns
    -------
    panels : by name, uint8 (n_features, n_shown, size, size, 3)
    table : ``dcgan_fig5`` as the graph's contract has it
    """
    panels, tables = {}, []
    for name, network in networks.items():
        layers = map_rows(network)
        file = scratch / f"{name}.safetensors" if scratch else None
        responses = strongest(layers, image_set, rows, max(config.n_shown, config.n_judged), device, file)
        shown = top(responses, config.n_shown, n_features=config.n_features)
        panels[name] = panel(layers, image_set, shown, device)
        table = box_shares(layers, image_set, top(responses, config.n_judged), device)
        table.insert(0, "network", name)
        tables.append(table)
    return panels, pd.concat(tables, ignore_index=True)
