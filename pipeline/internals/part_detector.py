"""A detector of the window and the bed of a rendered room, learnt from the truth about training images.

It judges what a generator draws, so it is trained on pictures as spoilt as generated ones: blurred, over-exposed, in
false colours, under blotches, stripes and the checkerboards of fractionally strided convolutions. A convolutional
network says for every cell how likely its centre lies in the box of a part. The detection is the box around the largest
connected group of likely cells, if it is large enough: one window and one bed at most, as in the truth.

There are two of them: what one has labelled, the other counts, as a detector that judged what came of its own labels
would confirm its own mistakes. They share data and architecture, so that mistakes of these stay common.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import nn

from pipeline.core.compute import Compute, record
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, stream_seed, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.dcgan import to_signed
from pipeline.models.store import named_tensors, read_into, read_run, write_model

PARTS = ("window", "bed")
EDGES = ("x1", "y1", "x2", "y2")
CELL = 4  # side of a cell in pixels
SHRINKAGE = 8  # the network's smallest maps are this many times smaller than the image
RIGHT_IOU = 0.5  # a detection that overlaps the true box by at least this is right
THRESHOLDS = tuple(np.linspace(0.1, 0.9, 17).round(2).tolist())
BATCH = 100  # images at once when judging
LOG_EVERY = 20  # steps
COLUMNS = {
    **dict.fromkeys(("detector", "part"), "str"),
    **dict.fromkeys(("n_images", "n_true", "n_found", "n_right"), "int64"),
    **dict.fromkeys(("precision", "recall", "mean_iou"), "float64"),
    **dict.fromkeys(("n_without", "n_found_without"), "int64"),
}


@section
class PartDetector:
    """``internals.part_detector`` in params.yaml.

    Attributes
    ----------
    filters : maps of the first layer; the last have four times as many
    steps : updates, of ``batch_size`` images each
    learning_rate : Adam's, falling to zero along half a cosine
    erased_share : of the windows, and of the beds, that are painted over in training
    tuning_share : of the training images, which choose the thresholds and are not trained on
    min_cells : a smaller group of cells is no detection
    """

    seed: int
    filters: Annotated[int, Ge(1)]
    steps: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(2)]
    learning_rate: Annotated[float, Gt(0)]
    erased_share: Annotated[float, Interval(ge=0, le=1)]
    tuning_share: Annotated[float, Interval(gt=0, lt=1)]
    min_cells: Annotated[int, Ge(1)]


# ---- truth ----------------------------------------------------------------------------------------------------------


def has_boxes(image_set: ImageSet) -> bool:
    """Whether the set knows where its windows and beds are."""
    return {f"{part}_{edge}" for part in PARTS for edge in EDGES} <= set(image_set.index.columns)


def true_boxes(image_set: ImageSet, rows: np.ndarray, part: str) -> np.ndarray:
    """float64 (n, 4): x1, y1, x2, y2 in pixels, edges; NaN where none is visible."""
    return image_set.index[[f"{part}_{edge}" for edge in EDGES]].to_numpy(dtype=np.float64)[rows]


def cells_inside(boxes: np.ndarray, rows: int, columns: int, cell: float) -> np.ndarray:
    """Which cells have their centre in a box, left and upper edge included; none for a box of NaN.

    Parameters
    ----------
    boxes : (n, 4) in pixels
    cell : side of a cell in pixels

    Returns
    -------
    bool (n, rows, columns)
    """
    x, y = (np.arange(columns) + 0.5) * cell, (np.arange(rows) + 0.5) * cell
    x1, y1, x2, y2 = np.asarray(boxes, dtype=np.float64).T[:, :, None]
    return ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None, :]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4), pair by pair; 0 where either is NaN."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b)]
    return np.nan_to_num(common / (areas[0] + areas[1] - common))


# ---- network --------------------------------------------------------------------------------------------------------


def network(n: int) -> nn.Sequential:
    """Images (B, 3, H, W) in [-1, 1] -> logits (B, 2, H / 4, W / 4): of a window, of a bed."""
    return nn.Sequential(
        _row(3, n, kernel=5, stride=2),
        _row(n, 2 * n, stride=2),
        _row(2 * n, 4 * n, stride=2),
        _row(4 * n, 4 * n),
        _row(4 * n, 4 * n),
        _row(4 * n, 4 * n),
        nn.Conv2d(4 * n, len(PARTS) * (SHRINKAGE // CELL) ** 2, 1),
        nn.PixelShuffle(SHRINKAGE // CELL),
    )


def _row(n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _initialise(detector: nn.Sequential, stream: torch.Generator) -> None:
    """He's normal initialisation from a stream of our own; the rest is PyTorch's zeros and ones."""
    for part in detector.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=stream)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


# ---- erased parts and spoilt pictures -------------------------------------------------------------------------------


def erased(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) without what a box holds: each row goes over from the pixel left of it to the one right of it.

    Nearly every room has a window and a bed. Without such pictures the detector would learn where they usually are and
    find them in any picture. Where the box reaches an edge of the picture, the pixel of the other side fills the row;
    where it reaches both, the row above the box (below it, if it reaches the upper edge, too) fills them all.
    """
    height, width = image.shape[:2]
    x1, y1 = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
    x2, y2 = np.minimum(np.ceil(box[2:]).astype(int) + 1, (width, height))
    picture = image.copy()
    sides = [image[y1:y2, x].astype(np.float64) for x in (x1 - 1, x2) if 0 <= x < width]
    if sides:
        share = np.linspace(0, 1, x2 - x1)[:, None]
        picture[y1:y2, x1:x2] = sides[0][:, None] * (1 - share) + sides[-1][:, None] * share
    elif y1 > 0 or y2 < height:
        picture[y1:y2, x1:x2] = image[y1 - 1 if y1 > 0 else y2, x1:x2]
    return picture


def spoilt(x: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    """Images (B, 3, H, W) in [-1, 1], each altered in a way of its own; about one in five stays as it is.

    In this order: blurred, recoloured and over-exposed, under blotches, stripes, a checkerboard and noise; clipped.
    """
    n, (height, width) = len(x), x.shape[2:]

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, 1, 1, 1, generator=stream) * (high - low) + low

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, generator=stream)

    def often(share: float) -> torch.Tensor:
        """1 for this share of the images, 0 for the others."""
        return (torch.rand(n, 1, 1, 1, generator=stream) < share).float()

    y = blurred(x, uniform(0.0, 1.5).flatten())
    exposure = torch.exp(uniform(-0.3, 0.9) + 0.2 * normal(3, 1, 1))
    y = (y - y.mean(dim=(2, 3), keepdim=True)) * exposure + uniform(-0.3, 0.3) + 0.1 * normal(3, 1, 1)
    blotches = F.interpolate(normal(3, height // 8, width // 8), size=(height, width), mode="bilinear")
    stripes = normal(3, 1, width) * often(0.3) + normal(3, height, 1) * often(0.3)
    checkerboard = normal(3, 2, 2).tile(1, 1, height // 2, width // 2)
    y = y + often(0.3) * uniform(0.0, 0.3) * blotches + uniform(0.0, 0.15) * stripes
    y = y + often(0.5) * uniform(0.0, 0.2) * checkerboard + often(0.3) * uniform(0.0, 0.2) * normal(3, height, width)
    kept = often(0.2)
    return (kept * x + (1 - kept) * y).clamp(-1, 1)


def blurred(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) under a Gaussian blur, of a sigma (B,) in pixels for each."""
    height, width = x.shape[2:]
    down = _gaussian(height, sigma)
    across = down if width == height else _gaussian(width, sigma)
    return down @ x @ across.transpose(2, 3)


def _gaussian(side: int, sigma: torch.Tensor) -> torch.Tensor:
    """(B, 1, side, side): what each place takes from each; rows sum to 1, also at the border."""
    places = torch.arange(side)
    distance = (places[:, None] - places).float()
    exponent = distance**2 / (2 * sigma.clamp_min(0.1)[:, None, None] ** 2)
    weights = torch.exp(-exponent) * (exponent < 20)  # the rest would be denormal numbers, which take ten times as long
    return (weights / weights.sum(dim=2, keepdim=True))[:, None]


# ---- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A trained network, and above which probability a cell belongs to each part."""

    network: nn.Sequential
    thresholds: dict[str, float]
    min_cells: int
    device: str

    def detect(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (N, H, W, 3) -> for each part float64 (N, 4): x1, y1, x2, y2 in pixels; NaN where there is none."""
        cells = probabilities(self.network, images, self.device)
        return {
            part: found_boxes(cells[:, number], self.thresholds[part], self.min_cells)
            for number, part in enumerate(PARTS)
        }


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """Of two seeds: one says where windows are in labelled samples, the other counts them in judged ones."""

    labeller: Detector
    counter: Detector


ROLES = ("labeller", "counter")


def train_detectors(image_set: ImageSet, config: PartDetector, compute: Compute) -> tuple[Detectors, pd.DataFrame]:
    """Both detectors, each with weights, noise and tuning images of its own; errors as :func:`train_detector`.

    Returns
    -------
    The detectors, and the history of either: detector, step, loss.
    """
    held_out_rows(image_set)  # a set without any should fail before the training
    made = {
        role: train_detector(
            image_set, replace(config, seed=stream_seed(config.seed, f"part detector {role}")), compute
        )
        for role in ROLES
    }
    history = pd.concat([table.assign(detector=role) for role, (_, table) in made.items()], ignore_index=True)
    return Detectors(**{role: detector for role, (detector, _) in made.items()}), history[["detector", "step", "loss"]]


def train_detector(image_set: ImageSet, config: PartDetector, compute: Compute) -> tuple[Detector, pd.DataFrame]:
    """Train on most of the split ``train``; the rest of it chooses the thresholds.

    Returns
    -------
    The detector, and its history: step, loss (mean over the last LOG_EVERY steps).

    Raises
    ------
    InputError
        If there are too few training images, or they are of a size that the network does not take.
    """
    check_images(image_set)
    fitted, tuned = split_rows(image_set, config)
    detector = network(config.filters)
    _initialise(detector, torch_stream(config.seed, "part detector weights"))
    detector.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    adam = torch.optim.Adam(detector.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.steps)
    truth = Truth(image_set, fitted)
    history, total = [], torch.zeros((), device=compute.device)
    with Progress("part detector", total=config.steps, unit="steps") as progress:
        for step in range(config.steps):
            x, y = truth.batch(step, config)
            loss = F.binary_cross_entropy_with_logits(detector(x.to(compute.device)), y.to(compute.device))
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            total += loss.detach()
            if (step + 1) % LOG_EVERY == 0:
                history.append({"step": step + 1, "loss": float(total) / LOG_EVERY})
                total.zero_()
            progress.advance(1)
    detector.eval().requires_grad_(requires_grad=False)
    found = Detector(
        network=detector,
        thresholds=chosen_thresholds(detector, image_set, tuned, config.min_cells, compute.device),
        min_cells=config.min_cells,
        device=compute.device,
    )
    return found, pd.DataFrame(history, columns=["step", "loss"]).astype({"step": np.int64, "loss": np.float64})


def check_images(image_set: ImageSet) -> None:
    """Refuse images that the network's cells do not tile."""
    height, width, channels = image_set.images.shape[1:]
    if height % SHRINKAGE or width % SHRINKAGE or channels != 3:
        message = (
            f"{image_set.path}: images of {height} x {width} x {channels}; the part detector takes RGB images with "
            f"sides that are multiples of {SHRINKAGE}: give another image set"
        )
        raise InputError(message)


def split_rows(image_set: ImageSet, config: PartDetector) -> tuple[np.ndarray, np.ndarray]:
    """Training images to fit the network to, and those that choose the thresholds."""
    rows = numpy_stream(config.seed, "part detector split").permutation(image_set.rows("train"))
    n_tuned = round(config.tuning_share * len(rows))
    if not 0 < n_tuned < len(rows):
        message = (
            f"{image_set.path}: {len(rows)} training images, of which a share of {config.tuning_share} "
            "(internals.part_detector.tuning_share) chooses the thresholds; at least one must be left on either side"
        )
        raise InputError(message)
    return np.sort(rows[n_tuned:]), np.sort(rows[:n_tuned])


class Truth:
    """Images to train on, and what is where in them."""

    def __init__(self, image_set: ImageSet, rows: np.ndarray) -> None:
        self.images = image_set.images[rows]
        self.boxes = np.stack([true_boxes(image_set, rows, part) for part in PARTS], axis=1)

    def batch(self, step: int, config: PartDetector) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of a step (B, 3, H, W), some parts erased, half of them mirrored, then spoilt; and their targets.

        A target (2, H / 4, W / 4) is 1 where the centre of a cell lies in the box of a window, of a bed.
        """
        stream = numpy_stream(config.seed, "part detector batch", step)
        chosen = stream.integers(len(self.images), size=config.batch_size)
        images, boxes = self.images[chosen], self.boxes[chosen]
        erase = stream.random(boxes.shape[:2]) < config.erased_share
        for image, part in np.argwhere(erase & np.isfinite(boxes[:, :, 0])):
            images[image] = erased(images[image], boxes[image, part])
        boxes[erase] = np.nan
        height, width = (side // CELL for side in images.shape[1:3])
        inside = [cells_inside(boxes[:, part], height, width, CELL) for part in range(len(PARTS))]
        x, y = to_signed(images).contiguous(), torch.from_numpy(np.stack(inside, axis=1)).float()
        mirrored = torch.from_numpy(stream.random(len(x)) < 0.5)[:, None, None, None]
        x, y = torch.where(mirrored, x.flip(3), x), torch.where(mirrored, y.flip(3), y)
        x = spoilt(x, torch_stream(config.seed, "part detector spoilt", step))
        return x.contiguous(memory_format=torch.channels_last), y


def chosen_thresholds(
    detector: nn.Sequential, image_set: ImageSet, rows: np.ndarray, min_cells: int, device: str
) -> dict[str, float]:
    """For each part the threshold of the best F1 on images and on the same without the part, the lowest of equals.

    Without the second half a detector that finds a window in any picture would score best: nearly all rooms have one.
    """
    chosen, images = {}, image_set.images[rows]
    for number, part in enumerate(PARTS):
        truth = true_boxes(image_set, rows, part)
        known = np.isfinite(truth[:, 0])
        without = [erased(image, box) for image, box in zip(images[known], truth[known], strict=True)]
        judged = np.concatenate([images, np.array(without, dtype=np.uint8).reshape(-1, *images.shape[1:])])
        truth = np.concatenate([truth, np.full((len(without), 4), np.nan)])
        cells = probabilities(detector, judged, device)[:, number]

        def f1(threshold: float, cells: np.ndarray = cells, truth: np.ndarray = truth) -> float:
            found = found_boxes(cells, threshold, min_cells)
            n_boxes = np.isfinite(found[:, 0]).sum() + np.isfinite(truth[:, 0]).sum()
            return float(2 * (iou(found, truth) >= RIGHT_IOU).sum() / max(n_boxes, 1))

        chosen[part] = max(THRESHOLDS, key=f1)
    return chosen


# ---- detection ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def probabilities(detector: nn.Sequential, images: np.ndarray, device: str) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float32 (N, 2, H / 4, W / 4): that a cell belongs to a window, to a bed."""
    done = [
        detector(to_signed(images[start : start + BATCH], device)).sigmoid().cpu().numpy()
        for start in range(0, len(images), BATCH)
    ]
    height, width = (side // CELL for side in images.shape[1:3])
    return np.concatenate([np.empty((0, len(PARTS), height, width), dtype=np.float32), *done])


def found_boxes(cells: np.ndarray, threshold: float, min_cells: int) -> np.ndarray:
    """float64 (N, 4) in pixels: around the largest connected group of the cells (N, rows, columns) above a threshold.

    Cells are connected by their sides. NaN where no group has ``min_cells``; of equal groups the first in reading
    order.
    """
    from scipy import ndimage

    boxes = np.full((len(cells), 4), np.nan)
    for number, likely in enumerate(cells > threshold):
        groups, n_groups = ndimage.label(likely)  # pyright: ignore[reportGeneralTypeIssues]
        if not n_groups:
            continue
        sizes = np.bincount(groups.ravel())[1:]
        if sizes.max() >= min_cells:
            y, x = np.nonzero(groups == 1 + sizes.argmax())
            boxes[number] = CELL * np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return boxes


def held_out_rows(image_set: ImageSet) -> np.ndarray:
    """Rows of the split ``validation``, or else ``test``."""
    return image_set.rows("validation" if (image_set.index["split"] == "validation").any() else "test")


def accuracy(detectors: Detectors, image_set: ImageSet) -> pd.DataFrame:
    """How often each detector is right on images that it has not seen.

    Returns
    -------
    One row a detector and part: detector, part, n_images, n_true, n_found, n_right (detections that overlap the true
    box by an IoU of at least a half), precision = n_right / n_found, recall = n_right / n_true, mean_iou (over the true
    boxes, 0 for one that was not found), n_without (images without the part, and the others with it erased),
    n_found_without (of these, those in which one is detected all the same); NaN for a share of nothing.
    """
    rows, table = held_out_rows(image_set), []
    images = image_set.images[rows]
    for role in ROLES:
        detector: Detector = getattr(detectors, role)
        detected = detector.detect(images)
        for part in PARTS:
            truth, found = true_boxes(image_set, rows, part), detected[part]
            overlap, known = iou(found, truth), np.isfinite(truth[:, 0])
            n_true, n_found = int(known.sum()), int(np.isfinite(found[:, 0]).sum())
            n_right = int((overlap >= RIGHT_IOU).sum())
            shares = [n_right / n_found if n_found else np.nan, n_right / n_true if n_true else np.nan]
            shares.append(float(overlap[known].mean()) if n_true else np.nan)
            without = [
                erased(image, box) if there else image for image, box, there in zip(images, truth, known, strict=True)
            ]
            n_found_without = int(np.isfinite(detector.detect(np.stack(without))[part][:, 0]).sum())
            table.append([role, part, len(rows), n_true, n_found, n_right, *shares, len(rows), n_found_without])
    return pd.DataFrame(table, columns=list(COLUMNS)).astype(COLUMNS)


def no_accuracy() -> pd.DataFrame:
    """The table of :func:`accuracy` of a set without boxes."""
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in COLUMNS.items()})


# ---- model folder ---------------------------------------------------------------------------------------------------


def write_detectors(
    out: Path, image_set: ImageSet, config: PartDetector, compute: Compute, made: tuple[Detectors, pd.DataFrame] | None
) -> None:
    """Write the model folder: detectors and history, or only the word that the set has no boxes to learn from."""
    run: dict[str, Any] = {
        "params": asdict(config),
        "dataset": image_set.path.name,
        "n_images": len(image_set.rows("train")),
        "trained": made is not None,
        **record(compute),
        "precision": "fp32",
    }
    if made is None:
        note = f"image set {image_set.path.name} has no columns of windows and beds"
        write_model(out, {}, run | {"note": note}, {})
        return
    detectors, history = made
    tensors: dict[str, torch.Tensor] = {}
    for role in ROLES:
        tensors |= named_tensors(f"seed0/{role}", getattr(detectors, role).network)
    run["thresholds"] = {role: getattr(detectors, role).thresholds for role in ROLES}
    write_model(out, tensors, run, {"history": history})


def read_detectors(model: Path, compute: Compute) -> Detectors | None:
    """The detectors of a model folder; None if its image set had no boxes.

    Raises
    ------
    InputError
        If the folder is missing, damaged or another model's.
    """
    run = read_run(model)
    if "trained" not in run:
        message = f"{model}: run.json does not say whether part detectors were trained; name the folder that stage "
        message += "part_detector makes"
        raise InputError(message)
    if not run["trained"]:
        return None

    def read(role: str) -> Detector:
        detector = network(run["params"]["filters"])
        read_into(detector, model, f"seed0/{role}")
        detector.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return Detector(
            network=detector.eval().requires_grad_(requires_grad=False),
            thresholds=run["thresholds"][role],
            min_cells=run["params"]["min_cells"],
            device=compute.device,
        )

    return Detectors(labeller=read("labeller"), counter=read("counter"))
