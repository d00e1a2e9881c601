"""Training of the classifier that generated images are scored with: cross-entropy on labelled training images.

Ours, the paper has none. Nothing is chosen by the test images: they are judged once, by the network of the last step.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.classifier import CHANNELS, SIDE, ClassifierNetwork, initialise_classifier
from pipeline.models.dcgan import to_signed
from pipeline.models.store import load_into, named_tensors
from pipeline.training.checkpoint import CheckpointClock, restoring, write_checkpoint
from pipeline.training.health import check_finite

JUDGED_AT_ONCE = 250  # test images; changes a logit by rounding at most
PLAIN = ("step", "counted", "history")  # of the state, beside tensors


@section
class ClassifierRun:
    """``classifier`` (shared by all runs) and ``classifier.runs.NAME`` (a run's own).

    Attributes
    ----------
    momentum : of Nesterov's kind
    weight_decay : times every parameter, added to its gradient
    learning_rate : the highest; it rises from 0 over the first ``warmup_share`` of the steps and falls to 0, linearly
    width : maps of the first layer
    flips : every image is mirrored with probability 1/2
    max_shift : px; every image is moved by up to so many, edges filled up by reflection; 0 = not moved
    """

    # shared
    momentum: Annotated[float, Interval(ge=0, lt=1)]
    weight_decay: Annotated[float, Ge(0)]
    warmup_share: Annotated[float, Interval(gt=0, lt=1)]
    log_every_steps: Annotated[int, Ge(1)]
    # the run's own
    dataset: str
    seed: int
    width: Annotated[int, Ge(1)]
    flips: bool
    max_shift: Annotated[int, Interval(ge=0, lt=SIDE)]
    learning_rate: Annotated[float, Gt(0)]
    batch_size: Annotated[int, Ge(2)]
    epochs: Annotated[int, Ge(1)]


@dataclass(kw_only=True)
class ClassifierState:
    """All that training carries from step to step."""

    network: ClassifierNetwork
    sgd: torch.optim.SGD
    loss_sum: torch.Tensor  # float64, of the steps since the last row of the history
    wrong_sum: torch.Tensor  # int64, images
    first_bad: torch.Tensor  # int64, the first step with a loss that was not finite, counted from 1; 0 = none
    step: int = 0
    counted: int = 0  # steps in the sums
    resumed_from: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def log(self, run: ClassifierRun, *, epoch: int, learning_rate: float) -> None:
        """Turn the sums into a row of means."""
        self.history.append(
            {
                "seed": run.seed,
                "step": self.step,
                "epoch": epoch,
                "learning_rate": learning_rate,
                "loss": float(self.loss_sum) / self.counted,
                "error_percent": 100 * int(self.wrong_sum) / (self.counted * run.batch_size),
            }
        )
        self.loss_sum.zero_()
        self.wrong_sum.zero_()
        self.counted = 0

    def bad_step(self) -> int:
        """The first step whose loss, or this one if a parameter or running average, is not finite; 0 = none."""
        tensors = self.network.state_dict().values()
        return int(self.first_bad) or (0 if all(bool(t.isfinite().all()) for t in tensors) else self.step)


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """The trained network.

    Attributes
    ----------
    tensors : ``seed<k>/classifier/...``, batch norm's running averages among them
    history : a row every ``log_every_steps`` and after the last step: seed, step, epoch (of the step, from 0),
        learning_rate (of the step), and means since the row before: loss, error_percent, of flipped and moved images
    n_images, n_test, n_classes : training and test images, and the classes of the former
    images : in the batches that this process went through; not those before a kill
    """

    tensors: dict[str, torch.Tensor]
    history: pd.DataFrame
    test_accuracy_percent: float
    steps: int
    n_images: int
    n_test: int
    n_classes: int
    images: int


# ---- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Rows of an image set, ascending, and their int64 labels."""

    rows: np.ndarray
    labels: np.ndarray


def read_labels(image_set: ImageSet, run: ClassifierRun) -> tuple[Labelled, Labelled, int]:
    """Training images, test images, and the number of classes.

    Raises
    ------
    InputError
        If the images are of another size than the network takes, there are fewer than one batch, a training image has
        no label, or a test image none of theirs.
    """
    if (found := image_set.images.shape[1:]) != (SIDE, SIDE, CHANNELS):
        message = (
            f"{image_set.path}: images of {' x '.join(map(str, found))}; the classifier takes {SIDE} x {SIDE} x "
            f"{CHANNELS}: name another dataset"
        )
        raise InputError(message)
    train, test = (
        Labelled(rows=rows, labels=image_set.labels(rows)) for rows in map(image_set.rows, ("train", "test"))
    )
    if len(train.rows) < run.batch_size:
        message = (
            f"{image_set.path}: {len(train.rows)} training images, fewer than one batch of {run.batch_size}; lower "
            f"batch_size to at most {len(train.rows)}"
        )
        raise InputError(message)
    n_classes = int(train.labels.max()) + 1
    for split, labelled in (("train", train), ("test", test)):
        strange = labelled.labels[(labelled.labels < 0) | (labelled.labels >= n_classes)]
        if len(strange) or n_classes < 2:
            what = f"{len(strange)} images with the label {strange[0]}" if len(strange) else "images of one class"
            message = (
                f"{image_set.path}: split '{split}' has {what}; a classifier needs training images of two or more "
                "classes, 0, 1 and so on, and test images of the same: name another dataset"
            )
            raise InputError(message)
    return train, test, n_classes


def augmented(images: np.ndarray, run: ClassifierRun, step: int) -> np.ndarray:
    """Images (B, H, W, C) mirrored and moved as the params say, each by itself; the same for the same step."""
    stream = numpy_stream(run.seed, "classifier augmentation", step)
    mirrored = stream.random(len(images)) < 0.5
    down, right = stream.integers(0, 2 * run.max_shift + 1, (2, len(images)))
    if run.flips:
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    if run.max_shift:
        margin = (run.max_shift, run.max_shift)
        padded = np.pad(images, ((0, 0), margin, margin, (0, 0)), mode="reflect")
        # (B, 2 * max_shift + 1, 2 * max_shift + 1, C, H, W), a view
        windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
        images = windows[np.arange(len(images)), down, right].transpose(0, 2, 3, 1)
    return images


# ---- the loop -------------------------------------------------------------------------------------------------------


def train(image_set: ImageSet, run: ClassifierRun, compute: Compute, scratch: Path) -> TrainedClassifier:
    """Fit the classifier to the training images; resumes from what ``scratch`` holds.

    An epoch is one pass over them in a fresh order, in whole batches: what is left over is dropped. Errors as of
    :func:`read_labels`, and where a loss or a parameter is no longer finite.
    """
    data, test, n_classes = read_labels(image_set, run)
    per_epoch = len(data.rows) // run.batch_size
    total = run.epochs * per_epoch
    checkpoint, clock = scratch / f"seed{run.seed}.safetensors", CheckpointClock()
    state = initial_state(run, compute, n_classes)
    restore(checkpoint, state)
    order, order_of = np.empty(0, dtype=np.int64), -1
    with Progress("classifier", total=total, unit="steps", done=state.step) as progress:
        for step in range(state.step, total):
            epoch, position = divmod(step, per_epoch)
            if epoch != order_of:
                order, order_of = numpy_stream(run.seed, "classifier shuffle", epoch).permutation(len(data.rows)), epoch
            chosen = order[position * run.batch_size : (position + 1) * run.batch_size]
            images = augmented(image_set.images[data.rows[chosen]], run, step)
            learning_rate = set_learning_rate(state, run, total)
            training_step(state, images, data.labels[chosen], compute)
            if state.step % run.log_every_steps == 0 or state.step == total:
                state.log(run, epoch=epoch, learning_rate=learning_rate)
            if clock.due() or state.step == total:
                check_finite(state.bad_step(), run="training the classifier", kept=checkpoint)
                save(checkpoint, state)
            progress.advance(1)
    return TrainedClassifier(
        tensors=named_tensors(f"seed{run.seed}/classifier", state.network),
        history=pd.DataFrame(state.history),
        test_accuracy_percent=accuracy_percent(state.network, image_set, test, compute),
        steps=state.step,
        n_images=len(data.rows),
        n_test=len(test.rows),
        n_classes=n_classes,
        images=(state.step - state.resumed_from) * run.batch_size,
    )


def initial_state(run: ClassifierRun, compute: Compute, n_classes: int) -> ClassifierState:
    """The untrained network and its optimiser."""
    network = ClassifierNetwork(run.width, n_classes)
    initialise_classifier(network, torch_stream(run.seed, "initial classifier"))
    network.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    sgd = torch.optim.SGD(
        network.parameters(),
        lr=run.learning_rate,
        momentum=run.momentum,
        nesterov=run.momentum > 0,
        weight_decay=run.weight_decay,
    )
    return ClassifierState(
        network=network.train(),
        sgd=sgd,
        loss_sum=torch.zeros((), dtype=torch.float64, device=compute.device),
        wrong_sum=torch.zeros((), dtype=torch.int64, device=compute.device),
        first_bad=torch.zeros((), dtype=torch.int64, device=compute.device),
    )


def set_learning_rate(state: ClassifierState, run: ClassifierRun, total: int) -> float:
    """Set and return the rate of the step that comes, the middle of its place in the triangle: never 0."""
    done = (state.step + 0.5) / total
    rate = run.learning_rate * min(done / run.warmup_share, (1 - done) / (1 - run.warmup_share))
    state.sgd.param_groups[0]["lr"] = rate
    return rate


def training_step(state: ClassifierState, images: np.ndarray, labels: np.ndarray, compute: Compute) -> None:
    """One update on uint8 images (B, H, W, C) and their labels (B,)."""
    truth = torch.from_numpy(labels).to(compute.device)
    with autocast(compute):
        logits = state.network(to_signed(images, compute.device)).logits
    loss = F.cross_entropy(logits, truth)
    state.sgd.zero_grad()
    loss.backward()
    state.sgd.step()
    state.step += 1
    state.counted += 1
    told = loss.detach()
    state.loss_sum += told.double()
    state.wrong_sum += (logits.detach().argmax(dim=1) != truth).sum()
    state.first_bad = torch.where((state.first_bad == 0) & ~told.isfinite(), state.step, state.first_bad)


@torch.inference_mode()
def accuracy_percent(network: ClassifierNetwork, image_set: ImageSet, test: Labelled, compute: Compute) -> float:
    """Share of images whose class has the highest logit; batch norm by its running averages."""
    network.eval()
    right = 0
    for start in range(0, len(test.rows), JUDGED_AT_ONCE):
        part = slice(start, start + JUDGED_AT_ONCE)
        with autocast(compute):
            logits = network(to_signed(image_set.images[test.rows[part]], compute.device)).logits
        right += int(np.sum(logits.argmax(dim=1).cpu().numpy() == test.labels[part]))
    network.train()
    return 100 * right / len(test.rows)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def save(path: Path, state: ClassifierState) -> None:
    """Replace the checkpoint by the present state."""
    tensors = named_tensors("classifier", state.network)
    tensors |= {"loss_sum": state.loss_sum.cpu(), "wrong_sum": state.wrong_sum.cpu()}
    for name, parameter in state.network.named_parameters():
        velocity = state.sgd.state[parameter].get("momentum_buffer")
        if velocity is not None:  # there is none without momentum
            tensors[f"momentum/{name}"] = velocity.detach().cpu().contiguous()
    write_checkpoint(path, tensors, state, PLAIN)


def restore(path: Path, state: ClassifierState) -> None:
    """Bring a fresh state to the checkpoint's, if there is one.

    Raises
    ------
    InputError
        If the checkpoint is of another network or damaged.
    """
    if not path.exists():
        return
    with restoring(path, state, PLAIN, what="a checkpoint of the classifier") as tensors:
        load_into(state.network, tensors, "classifier", path)
        for name, parameter in state.network.named_parameters():
            if (velocity := tensors.get(f"momentum/{name}")) is not None:
                # in the parameter's memory format, as SGD made it: the sums are then taken in the same order
                state.sgd.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(velocity)
        state.loss_sum.copy_(tensors["loss_sum"])
        state.wrong_sum.copy_(tensors["wrong_sum"])
    state.resumed_from = state.step
