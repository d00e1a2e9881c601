"""The discriminator's architecture trained on the labelled images alone, by random search (DCGAN, table 2, last row).

The paper gives the number of trials and the labels, nothing else of the search; its ranges are ours, in the params.
Networks keep no running averages for batch norm: predictions use its statistics over the labelled training images,
measured anew after every epoch in batches of at most 128, as the features of table 2 are (mean of the batches' means
and mean of their biased variances). So no image's prediction depends on the images beside it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval, Len, MinLen
from torch import nn

from pipeline.core.compute import Compute, autocast, precision_in_force, set_up
from pipeline.core.errors import InputError
from pipeline.core.files import write_text
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, open_set
from pipeline.datasets.splits import labelled_subset
from pipeline.datasets.workers import parallel
from pipeline.evaluation.features import Statistics, statistics_over, with_fixed_statistics
from pipeline.models.dcgan import PAPER, SIDE, discriminator_svhn, to_signed
from pipeline.models.layers import Flatten, Linear, initialise

IMAGE = (32, 32, 3)  # what D of the SVHN DCGAN takes
STATISTICS_BATCH = 128
EVALUATION_BATCH = 250  # changes a prediction by rounding at most

Positive = Annotated[float, Gt(0)]


@section
class SupervisedCnn:
    """``supervised_cnn`` in params.yaml; pairs are the lowest and the highest value drawn, lists are choices.

    Attributes
    ----------
    filters : maps of the first layer
    labels_per_class : training images; every trial has the same ones
    patience : epochs without a lower validation error after which a trial ends
    learning_rate, l2, initial_std : drawn uniformly in the logarithm
    l2 : times every parameter, added to its gradient (weight decay within Adam, as in the authors' code)
    dropout : probability, before the output; drawn uniformly
    batch_size : an epoch is cut into as few batches of at most so many as possible, of equal size up to one image
    batch_norm : on every layer but the first, or nowhere
    """

    seed: int
    n_trials: Annotated[int, Ge(1)]
    filters: Annotated[int, Ge(1)]
    labels_per_class: Annotated[int, Ge(1)]
    max_epochs: Annotated[int, Ge(1)]
    patience: Annotated[int, Ge(1)]
    learning_rate: Annotated[list[Positive], Len(2, 2)]
    l2: Annotated[list[Positive], Len(2, 2)]
    dropout: Annotated[list[Annotated[float, Interval(ge=0, lt=1)]], Len(2, 2)]
    initial_std: Annotated[list[Positive], Len(2, 2)]
    beta1: Annotated[list[Annotated[float, Interval(ge=0, lt=1)]], MinLen(1)]
    batch_size: Annotated[list[Annotated[int, Ge(4)]], MinLen(1)]  # 4: no batch of one image, which has no variance
    batch_norm: Annotated[list[bool], MinLen(1)]

    def __post_init__(self) -> None:
        for name in ("learning_rate", "l2", "dropout", "initial_std"):
            low, high = getattr(self, name)
            if low > high:
                message = f"{name} is [{low}, {high}]; expected the lowest value first"
                raise ValueError(message)


# ---- the search -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One draw of the random search."""

    trial: int
    learning_rate: float
    beta1: float
    l2: float
    dropout: float
    batch_size: int
    initial_std: float
    batch_norm: bool


def drawn_trial(number: int, config: SupervisedCnn) -> Trial:
    """The trial of this number: the same whatever the number of trials."""
    stream = numpy_stream(config.seed, "supervised CNN trial", number)
    low_dropout, high_dropout = config.dropout

    def log_uniform(bounds: list[float]) -> float:
        low, high = bounds
        return float(np.clip(np.exp(stream.uniform(np.log(low), np.log(high))), low, high))

    return Trial(
        trial=number,
        learning_rate=log_uniform(config.learning_rate),
        beta1=config.beta1[stream.integers(len(config.beta1))],
        l2=log_uniform(config.l2),
        dropout=float(stream.uniform(low_dropout, high_dropout)),
        batch_size=config.batch_size[stream.integers(len(config.batch_size))],
        initial_std=log_uniform(config.initial_std),
        batch_norm=config.batch_norm[stream.integers(len(config.batch_norm))],
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial as it goes to a worker process; its row of the table is written to ``out``."""

    trial: Trial
    images: Path  # the image set
    config: SupervisedCnn
    compute: Compute
    out: Path


def search(image_set: ImageSet, config: SupervisedCnn, compute: Compute, scratch: Path) -> pd.DataFrame:
    """Run all trials, in parallel processes of one thread each; those whose rows ``scratch`` has are not repeated.

    Returns
    -------
    One row a trial: trial, learning_rate, beta1, l2, dropout, batch_size, initial_std, batch_norm, epochs (that ran:
    fewer than patience asks for if the loss stopped being finite), best_epoch (from 1; 0 if none ended with a finite
    loss, and errors are then those of guessing), validation_error_percent and test_error_percent after that epoch,
    n_labels, n_validation, n_test, n_parameters.

    Raises
    ------
    InputError
        If the set lacks a split, a class has too few training images, a label is none of the training labels, or the
        images are of another size than the network takes.
    """
    read_data(image_set, config)  # what is wrong with them is said before any process starts
    tasks = [
        Task(
            trial=drawn_trial(number, config),
            images=image_set.path,
            config=config,
            compute=compute,
            out=scratch / f"trial-{number:04d}.json",
        )
        for number in range(config.n_trials)
    ]
    waiting = [task for task in tasks if not task.out.exists()]
    done = len(tasks) - len(waiting)
    with Progress("supervised CNN", total=len(tasks), unit="trials", done=done) as progress:
        for _ in parallel(run_trial, waiting):
            progress.advance(1)
    return pd.DataFrame([json.loads(task.out.read_text(encoding="utf-8")) for task in tasks])


def run_trial(task: Task) -> None:
    """Train one network and write its row."""
    with _one_thread(task.compute):
        data = read_data(open_set(task.images), task.config)
        row = trained_row(task.trial, data, task.config, task.compute)
        write_text(task.out, json.dumps(row) + "\n")


@contextmanager
def _one_thread(compute: Compute) -> Iterator[None]:
    """One thread, in a worker process as in this one, so that the number of workers does not change a sum."""
    set_up(replace(compute, threads=1))
    try:
        yield
    finally:
        set_up(compute)


# ---- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """uint8 images (n, H, W, C) and their int64 labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a trial sees. ``test`` is judged once, by the state that was best on ``validation``."""

    train: Labelled
    validation: Labelled
    test: Labelled
    n_classes: int


def read_data(image_set: ImageSet, config: SupervisedCnn) -> Data:
    """The labelled subset of the training images, and all images of the other two splits; errors as :func:`search`."""
    if image_set.images.shape[1:] != IMAGE:
        height, width, channels = image_set.images.shape[1:]
        message = (
            f"{image_set.path}: images of {height} x {width} x {channels}; the network takes "
            f"{' x '.join(map(str, IMAGE))}: name another image set"
        )
        raise InputError(message)
    pool = image_set.rows("train")
    labels = image_set.labels(pool)
    chosen = labelled_subset(labels, config.labels_per_class, seed=config.seed, where=str(image_set.path))
    n_classes = int(labels.max()) + 1

    def read(rows: np.ndarray) -> Labelled:
        return Labelled(images=image_set.images[rows], labels=image_set.labels(rows))

    data = Data(
        train=read(pool[chosen]),
        validation=read(image_set.rows("validation")),
        test=read(image_set.rows("test")),
        n_classes=n_classes,
    )
    for split in ("validation", "test"):
        found = getattr(data, split).labels
        strange = found[(found < 0) | (found >= n_classes)]
        if len(strange):
            message = (
                f"{image_set.path}: split '{split}' has {len(strange)} images of other labels than 0 to "
                f"{n_classes - 1}, such as {strange[0]}; leave them out of the set"
            )
            raise InputError(message)
    return data


# ---- one trial ------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """D of the SVHN DCGAN with an output for each class, and dropout before it."""

    def __init__(self, filters: int, n_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        variant = replace(PAPER, batch_norm="default" if batch_norm else "none")
        self.maps = discriminator_svhn(filters, variant)[:-1]
        self.flatten = Flatten()
        self.output = Linear(4 * filters * SIDE * SIDE, n_classes)

    def forward(self, x: torch.Tensor, dropout: float, stream: torch.Generator) -> torch.Tensor:
        """Images (B, 3, 32, 32) in [-1, 1] -> fp32 logits (B, n_classes)."""
        units = self.flatten(self.maps(x))
        kept = torch.rand(units.shape, generator=stream) >= dropout
        return self.output(units * kept.to(units.device) / (1 - dropout)).float()


@dataclass(frozen=True, kw_only=True)
class Best:
    """The state after the epoch of lowest validation error so far, the earliest among equals."""

    epoch: int
    error_percent: float
    parameters: dict[str, torch.Tensor]
    statistics: Statistics


def trained_row(trial: Trial, data: Data, config: SupervisedCnn, compute: Compute) -> dict[str, Any]:
    """Train until validation error has not fallen for ``patience`` epochs; a row of :func:`search`'s table."""
    network = Classifier(config.filters, data.n_classes, batch_norm=trial.batch_norm)
    initialise(network, trial.initial_std, torch_stream(config.seed, "supervised CNN weights", trial.trial))
    network.to(device=compute.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    adam = torch.optim.Adam(
        network.parameters(), lr=trial.learning_rate, betas=(trial.beta1, 0.999), weight_decay=trial.l2, fused=True
    )
    best: Best | None = None
    epochs = 0
    for epoch in range(1, config.max_epochs + 1):
        if not train_epoch(network, adam, epoch, trial, data.train, config, compute):
            break
        epochs = epoch
        statistics = training_statistics(network, data.train, config.seed, compute)
        error = error_percent(network, statistics, data.validation, compute)
        if best is None or error < best.error_percent:
            parameters = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            best = Best(epoch=epoch, error_percent=error, parameters=parameters, statistics=statistics)
        elif epoch - best.epoch >= config.patience:
            break
    validation_error = test_error = 100 * (1 - 1 / data.n_classes)
    if best is not None:
        network.load_state_dict(best.parameters)
        validation_error = best.error_percent
        test_error = error_percent(network, best.statistics, data.test, compute)
    return asdict(trial) | {
        "epochs": epochs,
        "best_epoch": best.epoch if best else 0,
        "validation_error_percent": validation_error,
        "test_error_percent": test_error,
        "n_labels": len(data.train.labels),
        "n_validation": len(data.validation.labels),
        "n_test": len(data.test.labels),
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def train_epoch(
    network: Classifier,
    adam: torch.optim.Adam,
    epoch: int,
    trial: Trial,
    train: Labelled,
    config: SupervisedCnn,
    compute: Compute,
) -> bool:
    """Go once through the training images, in an order of this epoch's own; False if loss or weights became NaN."""
    order = numpy_stream(config.seed, f"supervised CNN shuffle {trial.trial}", epoch).permutation(len(train.labels))
    stream = torch_stream(config.seed, f"supervised CNN dropout {trial.trial}", epoch)
    total = torch.zeros((), device=compute.device)
    for chosen in _equal_parts(order, trial.batch_size):
        images, labels = to_signed(train.images[chosen], compute.device), torch.from_numpy(train.labels[chosen])
        with autocast(compute):
            logits = network(images, trial.dropout, stream)
        loss = F.cross_entropy(logits, labels.to(compute.device))
        adam.zero_grad()
        loss.backward()
        adam.step()
        total += loss.detach()
    return bool(torch.isfinite(total)) and all(bool(torch.isfinite(p).all()) for p in network.parameters())


def _equal_parts(order: np.ndarray, at_most: int) -> list[np.ndarray]:
    """As few parts of at most so many as possible, equal up to one: no small last batch with statistics of its own."""
    return np.array_split(order, -(-len(order) // at_most))


def training_statistics(network: Classifier, train: Labelled, seed: int, compute: Compute) -> Statistics:
    """Of each batch norm over the training images, without dropout; empty for a network without batch norm."""
    # shuffled: a set may be sorted by class
    order = numpy_stream(seed, "supervised CNN statistics").permutation(len(train.labels))
    parts = _equal_parts(order, STATISTICS_BATCH)
    return statistics_over(network.maps, (to_signed(train.images[p], compute.device) for p in parts), compute)


@torch.inference_mode()
def error_percent(network: Classifier, statistics: Statistics, judged: Labelled, compute: Compute) -> float:
    """Share of images of which another class than the label has the highest output, batch norm being constant."""
    dtype = torch.bfloat16 if precision_in_force(compute) == "bf16" else torch.float32
    maps = with_fixed_statistics(network.maps, statistics, dtype)
    wrong = 0
    for start in range(0, len(judged.labels), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        x = maps(to_signed(judged.images[rows], compute.device).to(dtype))
        logits = network.output(network.flatten(x).float())
        wrong += int(np.sum(logits.argmax(dim=1).cpu().numpy() != judged.labels[rows]))
    return 100 * wrong / len(judged.labels)
