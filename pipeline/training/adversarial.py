"""The unsupervised loop of DCGAN: Algorithm 1 of Goodfellow et al. with k = 1, in the authors' order of updates."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval, MinLen, MultipleOf
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import Architecture, build_discriminator, build_generator
from pipeline.models.layers import initialise
from pipeline.models.store import named_tensors
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import CheckpointClock, RunState, restore, save
from pipeline.training.updates import Networks, update_discriminator, update_generator

CLASSES = 10


def check_sizes(sizes: list[int], batch_size: int) -> None:
    """Refuse sizes of a generated set that whole batches do not reach; the stream is made of whole batches."""
    if any(size % batch_size for size in sizes) or sorted(set(sizes)) != sizes:
        message = f"numbers of generated images must ascend in multiples of batch_size {batch_size}, found {sizes}"
        raise ValueError(message)


@section
class Selection:
    """How the epoch is chosen: the lowest validation error of a 1-nearest-neighbour search, as in facts of Table 3."""

    every_epochs: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(CLASSES), MultipleOf(CLASSES)]
    n_images: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)]

    def __post_init__(self) -> None:
        check_sizes(self.n_images, self.batch_size)


@section
class Run:
    """``train`` (shared by all runs) and ``train.runs.NAME`` (a run's own)."""

    # shared
    beta1: Annotated[float, Interval(ge=0, lt=1)]
    beta2: Annotated[float, Interval(ge=0, lt=1)]
    learning_rate: Annotated[float, Gt(0)]
    adam_epsilon: Annotated[float, Gt(0)]
    initial_std: Annotated[float, Gt(0)]
    updates: Literal["alternate", "both"]
    log_every_steps: Annotated[int, Ge(1)]
    # the run's own
    dataset: str
    architecture: Architecture
    seeds: Annotated[list[int], MinLen(1)]
    batch_size: Annotated[int, Ge(2)]  # batch statistics of one image are no statistics
    constant_epochs: Annotated[int, Ge(0)]
    decay_epochs: Annotated[int, Ge(0)]
    l2: Annotated[float, Ge(0)]
    selection: Selection

    def __post_init__(self) -> None:
        if self.epochs < 1:
            message = "constant_epochs + decay_epochs must be at least 1, found 0"
            raise ValueError(message)
        if len(set(self.seeds)) != len(self.seeds):
            message = f"seeds must differ from each other, found {self.seeds}"
            raise ValueError(message)

    @property
    def epochs(self) -> int:
        """Epochs at the full learning rate and epochs of its decay."""
        return self.constant_epochs + self.decay_epochs


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """One search on validation images: generated images seen so far, error, mean distance to the nearest."""

    n_images: int
    error_percent: float
    mean_distance: float


# (generator, seed) -> a score for each size of Selection.n_images; the stage hands it in, evaluation/ computes it
ScoreFunction = Callable[[nn.Module, int], list[ValidationScore]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """All seeds of a run.

    Attributes
    ----------
    tensors : ``seed<k>/{generator, discriminator}/...`` of the chosen epoch, ``seed<k>/generator_last/...``
    history : seed, step, epoch (of the step, from 0), learning_rate, d_loss, g_loss, d_real, d_fake; means since the
        row before
    validation : seed, epoch (epochs done, from 1), n_images, error_percent, mean_distance, chosen
    """

    tensors: dict[str, torch.Tensor]
    history: pd.DataFrame
    validation: pd.DataFrame
    steps: int


def train(image_set: ImageSet, run: Run, compute: Compute, scratch: Path, score: ScoreFunction) -> Trained:
    """Train each seed of a run from its own initial state; resumes from what ``scratch`` holds."""
    tensors: dict[str, torch.Tensor] = {}
    history: list[dict[str, float]] = []
    validation: list[dict[str, float]] = []
    steps = 0
    for seed in run.seeds:
        state = train_seed(image_set, run, compute, seed, scratch / f"seed{seed}.safetensors", score)
        best = min(state.validation, key=_by_largest_search) if state.validation else None
        for name, tensor in state.best.items():
            tensors[f"seed{seed}/{name}"] = tensor
        tensors |= named_tensors(f"seed{seed}/generator_last", state.networks.generator)
        history += state.history
        validation += [row | {"chosen": best is not None and row["epoch"] == best["epoch"]} for row in state.validation]
        steps = state.step
    return Trained(tensors=tensors, history=pd.DataFrame(history), validation=pd.DataFrame(validation), steps=steps)


def train_seed(
    image_set: ImageSet, run: Run, compute: Compute, seed: int, checkpoint_file: Path, score: ScoreFunction
) -> RunState:
    """Train one seed; the state is saved at least once a minute and at the end."""
    batches = Batches(image_set, "train", classes=CLASSES, batch_size=run.batch_size, seed=seed, device=compute.device)
    state = RunState(networks=initial_networks(run, compute, seed))
    restore(checkpoint_file, state)
    clock = CheckpointClock()
    total = run.epochs * batches.per_epoch
    with Progress(f"training, seed {seed}", total=total, unit="steps", done=state.step) as progress:
        for step in range(state.step, total):
            epoch = step // batches.per_epoch
            learning_rate = set_learning_rate(state.networks, run, epoch)
            training_step(state, run, compute, batches, seed, step)
            state.step = step + 1
            if state.step % run.log_every_steps == 0 or state.step == total:
                state.log(seed=seed, epoch=epoch, learning_rate=learning_rate)
            epochs_done, inside = divmod(state.step, batches.per_epoch)
            due = epochs_done % run.selection.every_epochs == 0 or epochs_done == run.epochs
            if inside == 0 and due:
                consider(state, score(state.networks.generator, seed), seed=seed, epoch=epochs_done)
            if clock.due() or state.step == total:
                save(checkpoint_file, state)
            progress.advance(1)
    return state


def training_step(state: RunState, run: Run, compute: Compute, batches: Batches, seed: int, step: int) -> None:
    """``alternate``: G alone on even steps, D alone on odd ones (authors' code); ``both``: D, then G, on each batch."""
    networks, context = state.networks, autocast(compute)
    batch = batches.batch(step)
    z = uniform_z(len(batch.labels), run.architecture.z_dim, torch_stream(seed, "z", step)).to(compute.device)
    if run.updates == "both" or step % 2 == 1:
        state.add("d", update_discriminator(networks, batch.images, batch.labels, z, context))
    if run.updates == "both" or step % 2 == 0:
        state.add("g", update_generator(networks, batch.labels, z, context))


def uniform_z(n: int, z_dim: int, stream: torch.Generator) -> torch.Tensor:
    """float32 (n, z_dim), uniform in [-1, 1)."""
    return torch.rand(n, z_dim, generator=stream).mul_(2).sub_(1)


def set_learning_rate(networks: Networks, run: Run, epoch: int) -> float:
    """Set and return the rate of an epoch (counted from 0): constant, then falling linearly towards 0.

    The authors lower it after each epoch beyond ``constant_epochs``, so the first decayed epoch is the second of them.
    """
    late = max(0, epoch - run.constant_epochs)
    rate = run.learning_rate * (1 - late / run.decay_epochs) if late else run.learning_rate
    for adam in (networks.generator_adam, networks.discriminator_adam):
        adam.param_groups[0]["lr"] = rate
    return rate


def initial_networks(run: Run, compute: Compute, seed: int) -> Networks:
    """Both networks drawn from N(0, initial_std^2), and an Adam for each.

    ``weight_decay`` of Adam (not AdamW) is the authors' l2 term: l2 times the weight is added to the gradient first.
    """
    networks = {"generator": build_generator(run.architecture), "discriminator": build_discriminator(run.architecture)}
    adams = {}
    for name, network in networks.items():
        initialise(network, run.initial_std, torch_stream(seed, f"initial {name}"))
        network.to(compute.device)
        adams[f"{name}_adam"] = torch.optim.Adam(
            network.parameters(),
            lr=run.learning_rate,
            betas=(run.beta1, run.beta2),
            eps=run.adam_epsilon,
            weight_decay=run.l2,
            fused=True,
        )
    return Networks(**networks, **adams)


def consider(state: RunState, scores: list[ValidationScore], *, seed: int, epoch: int) -> None:
    """Record the validation scores of an epoch, and keep its networks if they are the best so far."""
    rows = [
        {
            "seed": seed,
            "epoch": epoch,
            "n_images": s.n_images,
            "error_percent": s.error_percent,
            "mean_distance": s.mean_distance,
        }
        for s in scores
    ]
    state.validation += rows
    if min(state.validation, key=_by_largest_search)["epoch"] == epoch:
        state.best = named_tensors("generator", state.networks.generator)
        state.best |= named_tensors("discriminator", state.networks.discriminator)
        state.best = {name: tensor.clone() for name, tensor in state.best.items()}


def _by_largest_search(row: dict[str, float]) -> tuple[float, float, float]:
    """Largest search first, then the lowest error; the earliest epoch among equals."""
    return (-row["n_images"], row["error_percent"], row["epoch"])
