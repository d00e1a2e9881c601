"""What a face crop shows: a smile, glasses, light hair, and how far the head is turned; learnt from rendered heads.

The networks look at generated faces, so they are trained on pictures as spoilt as those: in false colours, blurred,
over-exposed, under stripes, the checkerboards of fractionally strided convolutions and noise. They see grey, each image
brought to the same mean and spread: none of the attributes needs colours, and a generator's are seldom right.

There are two of them. The chooser finds exemplars, the judge looks at results: a network that judged what came of its
own choices would confirm its own mistakes. They share the training images, the truth and the architecture and differ in
their first weights, the order of the images and how those are spoilt; mistakes that both make stay undiscovered.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import nn

from pipeline.core.compute import Compute, record
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.store import named_tensors, read_into, read_run, write_model

BINARY = ("smile", "glasses", "light hair")
YAW = "yaw"  # degrees, positive to the right of the picture
YAW_SCALE = 25.0  # degrees that are 1 to the networks; rendered heads turn as far
LIGHT_HAIR = ("blond", "grey")  # what is left: black, brown, chestnut, red, and none
TRUTH = ("smile", "glasses", "hair_colour", "yaw")  # columns of an index
SIDE = 64
GREY = (0.299, 0.587, 0.114)  # luminance of red, green, blue
ROLES = ("chooser", "judge")
SURE = 0.9  # in the model folder's table: a probability above it, or below 1 - SURE
BATCH = 100  # images at once when looking
LOG_EVERY = 20  # steps
YAW_WEIGHT = 2.0  # of the squared error of yaw / YAW_SCALE beside the mean cross-entropy of the binary attributes
COLUMNS = {
    "attribute": "str",
    "n_images": "int64",
    **dict.fromkeys(("accuracy", "majority", "correlation", "mean_absolute_error"), "float64"),
}


@section
class FaceAttributes:
    """``internals.face_attributes`` in params.yaml.

    Attributes
    ----------
    filters : maps of the first layer; the last two have four times as many
    steps : updates, of ``batch_size`` images each, of either network
    learning_rate : Adam's, falling to zero along half a cosine
    """

    seed: int
    filters: Annotated[int, Ge(1)]
    steps: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(2)]
    learning_rate: Annotated[float, Gt(0)]


# ---- truth ----------------------------------------------------------------------------------------------------------


def has_attributes(image_set: ImageSet) -> bool:
    """Whether the set knows what its faces show."""
    return set(TRUTH) <= set(image_set.index.columns)


def known_rows(image_set: ImageSet, split: str) -> np.ndarray:
    """Rows of a split whose attributes are known, ascending; a detection that is no head has none.

    Raises
    ------
    InputError
        If there is none, or the faces are of another size than the networks take.
    """
    shape = image_set.images.shape[1:]
    if shape != (SIDE, SIDE, 3):
        message = (
            f"{image_set.path}: images of {' x '.join(map(str, shape))}; attributes are learnt from RGB faces of "
            f"{SIDE} x {SIDE}: set detect_faces.size to {SIDE}"
        )
        raise InputError(message)
    rows = image_set.rows(split)
    known = image_set.index[list(TRUTH)].notna().all(axis=1).to_numpy()[rows]
    if not known.any():
        message = f"{image_set.path}: none of the {len(rows)} images of split '{split}' has known attributes "
        message += f"({', '.join(TRUTH)}); make the set again"
        raise InputError(message)
    return rows[known]


def truth_of(image_set: ImageSet, rows: np.ndarray) -> np.ndarray:
    """float32 (n, 4): smile, glasses, light hair (0 or 1), yaw in degrees."""
    index = image_set.index.iloc[rows]
    columns = (index["smile"], index["glasses"], index["hair_colour"].isin(LIGHT_HAIR), index["yaw"])
    return np.stack([column.to_numpy(dtype=np.float32) for column in columns], axis=1)


# ---- network --------------------------------------------------------------------------------------------------------


def network(n: int) -> nn.Sequential:
    """Standardised grey images (B, 1, 64, 64) -> logits of the binary attributes and yaw / YAW_SCALE, (B, 4)."""
    return nn.Sequential(
        _row(1, n, kernel=5),  # 32 x 32
        _row(n, 2 * n),  # 16 x 16
        _row(2 * n, 4 * n),  # 8 x 8
        _row(4 * n, 4 * n),  # 4 x 4
        nn.Flatten(),
        nn.Linear(4 * n * 16, len(BINARY) + 1),
    )


def _row(n_in: int, n_out: int, *, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _initialise(layers: nn.Sequential, stream: torch.Generator) -> None:
    """He's normal initialisation from a stream of our own, the last layer near zero."""
    for part in layers.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=stream)
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01, generator=stream)
            nn.init.zeros_(part.bias)


def standardised(grey: torch.Tensor) -> torch.Tensor:
    """Grey images (B, 1, 64, 64) in [0, 1], each brought to mean 0 and, unless it is flat, a spread of about 1."""
    std, mean = torch.std_mean(grey, dim=(1, 2, 3), correction=0, keepdim=True)
    return (grey - mean) / (std + 0.05)


def to_grey(images: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3), weights of the colours, 3 or N x 3 that sum to 1 -> float32 (N, 1, H, W)."""
    colours = torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).div_(255)
    return (colours @ weights.reshape(-1, 1, 3, 1)).permute(0, 3, 1, 2)


# ---- spoilt pictures ------------------------------------------------------------------------------------------------


def spoilt(images: np.ndarray, truth: np.ndarray, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces as a generator might draw them, each altered in a way of its own; about one in five stays nearly as it is.

    In this order: grey from other weights of the colours, mirrored (yaw changes its sign) and moved by up to 3 pixels,
    blurred, over-exposed, under stripes, a checkerboard and noise; clipped.

    Parameters
    ----------
    images : uint8 (N, 64, 64, 3)
    truth : float32 (N, 4), as :func:`truth_of` gives it

    Returns
    -------
    Grey images (N, 1, 64, 64) in [0, 1], and their truth.
    """
    n, side = len(images), images.shape[1]

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, generator=stream) * (high - low) + low

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(n, 1, *shape, generator=stream)

    def often(share: float) -> torch.Tensor:
        """1 for this share of the images, 0 for the others."""
        return (torch.rand(n, 1, 1, 1, generator=stream) < share).float()

    spoils = often(0.8)
    weights = torch.tensor(GREY) + 0.1 * spoils[:, 0] * torch.randn(n, 1, 3, generator=stream)
    x = to_grey(images, weights / weights.sum(dim=2, keepdim=True))
    mirrored = often(0.5)
    x = mirrored * x.flip(3) + (1 - mirrored) * x
    y = torch.from_numpy(truth).clone()
    y[:, -1] *= 1 - 2 * mirrored.flatten()
    x = _moved_and_blurred(x, spoils * uniform(0.0, 1.2), stream)
    checkerboard = normal(2, 2).tile(1, 1, side // 2, side // 2)
    stripes = normal(1, side) * often(0.3) + normal(side, 1) * often(0.3)
    added = uniform(0.0, 0.08) * checkerboard + uniform(0.0, 0.04) * stripes + uniform(0.0, 0.08) * normal(side, side)
    exposure = torch.exp(spoils * uniform(-0.5, 0.6))
    x = (x - 0.5) * exposure + 0.5 + spoils * (uniform(-0.15, 0.15) + added)
    return x.clamp(0, 1), y


def _moved_and_blurred(x: torch.Tensor, sigma: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """Images (B, 1, H, W) under a Gaussian blur of sigma (B, 1, 1, 1) pixels, moved by up to 3 both ways."""
    moves = torch.randint(-3, 4, (2, len(x), 1, 1), generator=stream)
    down, across = (_gaussian(x.shape[2], move, sigma[:, 0]) for move in moves)
    return down[:, None] @ x @ across[:, None].transpose(2, 3)


def _gaussian(side: int, move: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(B, side, side): what each place takes from each, the edge repeated outward; rows sum to 1."""
    places = torch.arange(side)
    source = (places[:, None] + move).clamp(0, side - 1)
    exponent = (places - source).float() ** 2 / (2 * sigma.clamp_min(0.1) ** 2)
    # weights below exp(-20) are left out: denormal numbers take ten times as long
    weights = torch.exp(-exponent.clamp_max(20)) * (exponent < 20)
    return weights / weights.sum(dim=2, keepdim=True)


# ---- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a network sees in images.

    Attributes
    ----------
    probability : float64 (N, 3), of each binary attribute
    yaw : float64 (N,), degrees
    """

    probability: np.ndarray
    yaw: np.ndarray

    def shows(self, attribute: int, *, on: bool, confidence: float = 0.5) -> np.ndarray:
        """bool (N,): whether the attribute is on (off) with at least that probability."""
        is_on = self.probability[:, attribute]
        return (is_on if on else 1 - is_on) >= confidence


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The two trained networks."""

    networks: dict[str, nn.Sequential]
    device: str

    def chooser(self, images: np.ndarray) -> Seen:
        """What the network that finds exemplars sees in uint8 (N, 64, 64, 3)."""
        return self.seen("chooser", images)

    def judge(self, images: np.ndarray) -> Seen:
        """What the network that looks at results sees in uint8 (N, 64, 64, 3)."""
        return self.seen("judge", images)

    def seen(self, role: str, images: np.ndarray) -> Seen:
        """What one of the networks sees.

        Raises
        ------
        InputError
            If the images are not of the size that was learnt from.
        """
        if images.shape[1:] != (SIDE, SIDE, 3):
            message = (
                f"images of {' x '.join(map(str, images.shape[1:]))}, but face attributes are learnt from RGB faces of "
                f"{SIDE} x {SIDE}; give a network that makes such faces, or a face set without attributes"
            )
            raise InputError(message)
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return self.seen_in_grey(role, [to_grey(batch, torch.tensor(GREY)) for batch in batches])

    @torch.inference_mode()
    def seen_in_grey(self, role: str, batches: list[torch.Tensor]) -> Seen:
        """What one of the networks sees in grey images (B, 1, 64, 64) in [0, 1]."""
        looks = [self.networks[role](standardised(grey.to(self.device))).cpu() for grey in batches]
        y = torch.cat([torch.empty(0, len(BINARY) + 1), *looks]).double()
        return Seen(probability=y[:, :-1].sigmoid().numpy(), yaw=YAW_SCALE * y[:, -1].numpy())


def train_attributes(image_set: ImageSet, config: FaceAttributes, compute: Compute) -> tuple[Attributes, pd.DataFrame]:
    """Train both networks on the split ``train``, always in fp32.

    Returns
    -------
    The networks, and their history: network, step, loss (mean over the last LOG_EVERY steps).

    Raises
    ------
    InputError
        If no training image, or no test image to measure the networks on, has known attributes, or the images are of
        another size.
    """
    known_rows(image_set, "test")  # what measures the networks afterwards: a set without it fails now
    rows = known_rows(image_set, "train")
    images, truth = image_set.images[rows], truth_of(image_set, rows)
    networks, history = {}, []
    with Progress("face attributes", total=len(ROLES) * config.steps, unit="steps") as progress:
        for role in ROLES:
            networks[role], losses = _trained(role, images, truth, config, compute, progress)
            history += [(role, (i + 1) * LOG_EVERY, loss) for i, loss in enumerate(losses)]
    table = pd.DataFrame(history, columns=["network", "step", "loss"])
    return Attributes(networks=networks, device=compute.device), table.astype({"step": np.int64, "loss": np.float64})


def _trained(
    role: str, images: np.ndarray, truth: np.ndarray, config: FaceAttributes, compute: Compute, progress: Progress
) -> tuple[nn.Sequential, list[float]]:
    layers = network(config.filters)
    _initialise(layers, torch_stream(config.seed, f"face attributes, {role}: weights"))
    layers.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    adam = torch.optim.Adam(layers.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.steps)
    losses, total = [], torch.zeros((), device=compute.device)
    for step in range(config.steps):
        drawn = numpy_stream(config.seed, f"face attributes, {role}: batch", step)
        chosen = drawn.integers(len(images), size=config.batch_size)
        stream = torch_stream(config.seed, f"face attributes, {role}: spoilt", step)
        x, y = spoilt(images[chosen], truth[chosen], stream)
        x = standardised(x.to(compute.device)).contiguous(memory_format=torch.channels_last)
        loss = loss_of(layers(x), y.to(compute.device))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        total += loss.detach()
        if (step + 1) % LOG_EVERY == 0:
            losses.append(float(total) / LOG_EVERY)
            total.zero_()
        progress.advance(1)
    return layers.eval().requires_grad_(requires_grad=False), losses


def loss_of(y: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the binary attributes + YAW_WEIGHT x mean squared error of yaw / YAW_SCALE."""
    binary = F.binary_cross_entropy_with_logits(y[:, :-1], truth[:, :-1])
    return binary + YAW_WEIGHT * F.mse_loss(y[:, -1], truth[:, -1] / YAW_SCALE)


# ---- accuracy -------------------------------------------------------------------------------------------------------


def accuracy(attributes: Attributes, image_set: ImageSet) -> pd.DataFrame:
    """How often the judge is right on the split ``test``, whose photographs are others than those trained on.

    Returns
    -------
    One row an attribute: attribute, n_images, accuracy, majority (share of the commoner value), correlation and
    mean_absolute_error (degrees); the first two are NaN for yaw, the last two for the others.
    """
    rows = known_rows(image_set, "test")
    truth, seen = truth_of(image_set, rows), attributes.judge(image_set.images[rows])
    table: list[list[Any]] = []
    for i, name in enumerate(BINARY):
        is_on = truth[:, i] == 1
        right = float(np.mean(seen.shows(i, on=True) == is_on))
        table.append([name, len(rows), right, max(is_on.mean(), 1 - is_on.mean()), np.nan, np.nan])
    table.append([YAW, len(rows), np.nan, np.nan, *_yaw_agreement(seen.yaw, truth[:, -1])])
    return pd.DataFrame(table, columns=list(COLUMNS)).astype(COLUMNS)


def _yaw_agreement(seen: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pearson's correlation (NaN if either is constant) and mean absolute error."""
    varies = len(seen) > 1 and np.ptp(seen) > 0 and np.ptp(truth) > 0
    correlation = float(np.corrcoef(seen, truth)[0, 1]) if varies else np.nan
    return correlation, float(np.abs(seen - truth).mean())


def no_accuracy() -> pd.DataFrame:
    """The table of :func:`accuracy` of a set that does not know what its faces show."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})


def calibration(attributes: Attributes, image_set: ImageSet, config: FaceAttributes) -> pd.DataFrame:
    """Of both networks, on the split ``test`` as it is and spoilt as in training: how far to trust a sure answer.

    Returns
    -------
    One row a (network, images, attribute): network, images ("as they are" | "spoilt"), attribute, n_images, accuracy,
    n_sure (probability at least ``SURE`` for either value), accuracy_of_sure (NaN if none is).
    """
    rows = known_rows(image_set, "test")
    images, truth = image_set.images[rows], truth_of(image_set, rows)
    starts = range(0, len(rows), BATCH)
    plain = [to_grey(images[i : i + BATCH], torch.tensor(GREY)) for i in starts]
    altered = [
        spoilt(images[i : i + BATCH], truth[i : i + BATCH], torch_stream(config.seed, "face attributes: tested", i))[0]
        for i in starts
    ]
    table = []
    for role in ROLES:
        for what, batches in (("as they are", plain), ("spoilt", altered)):
            seen = attributes.seen_in_grey(role, batches)
            for i, name in enumerate(BINARY):
                right = seen.shows(i, on=True) == (truth[:, i] == 1)
                sure = seen.shows(i, on=True, confidence=SURE) | seen.shows(i, on=False, confidence=SURE)
                of_sure = float(right[sure].mean()) if sure.any() else np.nan
                table.append([role, what, name, len(rows), float(right.mean()), int(sure.sum()), of_sure])
    names = ["network", "images", "attribute", "n_images", "accuracy", "n_sure", "accuracy_of_sure"]
    return pd.DataFrame(table, columns=names)


# ---- model folder ---------------------------------------------------------------------------------------------------


def write_attributes(
    out: Path,
    image_set: ImageSet,
    config: FaceAttributes,
    compute: Compute,
    made: tuple[Attributes, pd.DataFrame] | None,
) -> None:
    """Write the model folder: networks, history, calibration; or only the word that there was nothing to learn from."""
    run = {"params": asdict(config), "dataset": image_set.path.name, "trained": made is not None}
    run |= record(compute) | {"precision": "fp32"}  # whatever compute.precision says
    if made is None:
        lacking = ", ".join(name for name in TRUTH if name not in image_set.index.columns)
        run |= {
            "n_images": 0,
            "note": f"image set {image_set.path.name} does not know what its faces show: no {lacking}",
        }
        write_model(out, {}, run, {})
        return
    attributes, history = made
    tensors = {}
    for role, layers in attributes.networks.items():
        tensors |= named_tensors(_prefix(config.seed, role), layers)
    tables = {"history": history, "calibration": calibration(attributes, image_set, config)}
    write_model(out, tensors, run | {"n_images": len(known_rows(image_set, "train"))}, tables)


def read_attributes(model: Path, compute: Compute) -> Attributes | None:
    """The networks of a model folder; None if its image set did not know what its faces show.

    Raises
    ------
    InputError
        If the folder is missing, damaged or another model's.
    """
    run = read_run(model)
    if "trained" not in run or "filters" not in run.get("params", {}):
        message = f"{model}: not a model of face attributes; expected a folder that stage face_attributes made"
        raise InputError(message)
    if not run["trained"]:
        return None
    networks = {}
    for role in ROLES:
        layers = network(run["params"]["filters"])
        read_into(layers, model, _prefix(run["params"]["seed"], role))
        layers.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        networks[role] = layers.eval().requires_grad_(requires_grad=False)
    return Attributes(networks=networks, device=compute.device)


def _prefix(seed: int, role: str) -> str:
    return f"seed{seed}/{role}"
