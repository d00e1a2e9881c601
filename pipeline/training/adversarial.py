"""The unsupervised loop of DCGAN: Algorithm 1 of Goodfellow et al. with k = 1, in the authors' order of updates."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval, MinLen, MultipleOf
from torch import nn

from pipeline.core import ranks
from pipeline.core.compute import Compute, autocast, to_device
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import (
    Architecture,
    build_discriminator,
    build_generator,
    conditioned,
    draw_z,
    from_network,
    sides,
)
from pipeline.models.layers import initialise
from pipeline.models.mnist import CLASSES
from pipeline.models.released import Released
from pipeline.models.store import named_tensors
from pipeline.training.batches import Batches, one_hot
from pipeline.training.checkpoint import (
    HEALTH,
    HISTORY,
    VALIDATION,
    CheckpointClock,
    RunState,
    restore,
    save,
    stacked,
)
from pipeline.training.health import check_finite, some_real
from pipeline.training.parallel import check_divides, check_same_step, in_parallel
from pipeline.training.updates import Networks, gradient_norm, update_discriminator, update_generator


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
    updates: Literal["alternate", "both"]  # an epoch of `both` has the updates of two of `alternate`
    log_every_steps: Annotated[int, Ge(1)]
    n_samples: Annotated[int, Ge(2)]  # generated at fixed z during training
    # the run's own
    dataset: str
    architecture: Architecture
    seeds: Annotated[list[int], MinLen(1)]
    batch_size: Annotated[int, Ge(2)]  # batch statistics of one image are no statistics
    constant_epochs: Annotated[int, Ge(0)]
    decay_epochs: Annotated[int, Ge(0)]
    l2: Annotated[float, Ge(0)]
    sample_every_epochs: Annotated[int, Ge(1)]  # and after the first and the last
    selection: Selection | None  # None: the networks of the last epoch
    released: Released | None  # the authors' arrays instead of training

    def __post_init__(self) -> None:
        if self.epochs < 1:
            message = "constant_epochs + decay_epochs must be at least 1, found 0"
            raise ValueError(message)
        if len(set(self.seeds)) != len(self.seeds):
            message = f"seeds must differ from each other, found {self.seeds}"
            raise ValueError(message)
        if conditioned(self.architecture) != (self.selection is not None):
            kind = "must be chosen by a selection" if self.selection is None else "cannot be chosen by labelled digits"
            message = f"selection: the epoch of {self.architecture.name} {kind}; found {self.selection}"
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
    tensors : ``seed<k>/{generator, discriminator}/...`` of the chosen epoch, ``seed<k>/generator_last/...`` if an epoch
        was chosen
    history : seed, step, epoch (of the step, from 0), learning_rate, d_loss, g_loss, d_real, d_fake; means since the
        row before; d_gradient, g_gradient: norms of the gradients in the last updates before the row
    validation : seed, epoch (epochs done, from 1), n_images, error_percent, mean_distance, chosen
    health : seed, epoch (epochs done), diversity (see ``health``), collapsed
    samples : uint8 (epochs, n_samples, H, W, C) of the first seed, at fixed z
    sample_epochs : int64 (epochs,), epochs done
    steps : of each seed
    images : that this process went through, over all seeds; not those before a kill
    """

    tensors: dict[str, torch.Tensor]
    history: pd.DataFrame
    validation: pd.DataFrame
    health: pd.DataFrame
    samples: np.ndarray
    sample_epochs: np.ndarray
    steps: int
    images: int


def train(image_set: ImageSet, run: Run, compute: Compute, scratch: Path, score: ScoreFunction | None) -> Trained:
    """Train each seed of a run from its own initial state; resumes from what ``scratch`` holds.

    ``score`` is needed where ``run.selection`` is not None.
    """
    check_divides(run.batch_size)
    tensors: dict[str, torch.Tensor] = {}
    history: list[dict[str, float]] = []
    validation: list[dict[str, float]] = []
    health: list[dict[str, float]] = []
    samples: dict[str, torch.Tensor] = {}
    steps = images = 0
    for seed in run.seeds:
        state = train_seed(image_set, run, compute, seed, scratch / f"seed{seed}.safetensors", score)
        best = min(state.validation, key=_by_largest_search) if state.validation else None
        if best is None:
            tensors |= named_tensors(f"seed{seed}/generator", state.networks.generator)
            tensors |= named_tensors(f"seed{seed}/discriminator", state.networks.discriminator)
        else:
            tensors |= {f"seed{seed}/{name}": tensor for name, tensor in state.best.items()}
            tensors |= named_tensors(f"seed{seed}/generator_last", state.networks.generator)
        history += state.history
        validation += [row | {"chosen": best is not None and row["epoch"] == best["epoch"]} for row in state.validation]
        health += state.health
        samples = samples or state.samples
        steps, images = state.step, images + (state.step - state.resumed_from) * run.batch_size
    shown, sample_epochs = stacked(samples)
    return Trained(
        tensors=tensors,
        history=pd.DataFrame(history, columns=list(HISTORY)),
        validation=pd.DataFrame(validation, columns=list(VALIDATION)),
        health=pd.DataFrame(health, columns=list(HEALTH)),
        samples=shown,
        sample_epochs=sample_epochs,
        steps=steps,
        images=images,
    )


def nothing_trained(run: Run, tensors: dict[str, torch.Tensor]) -> Trained:
    """Networks that were not trained here: no history, no samples."""
    h, w, channels = sides(run.architecture)
    return Trained(
        tensors=tensors,
        history=pd.DataFrame(columns=list(HISTORY), dtype="float64"),
        validation=pd.DataFrame(columns=list(VALIDATION)),
        health=pd.DataFrame(columns=list(HEALTH)),
        samples=np.empty((0, run.n_samples, h, w, channels), dtype=np.uint8),
        sample_epochs=np.empty(0, dtype=np.int64),
        steps=0,
        images=0,
    )


def train_seed(
    image_set: ImageSet, run: Run, compute: Compute, seed: int, checkpoint_file: Path, score: ScoreFunction | None
) -> RunState:
    """Train one seed; the state is saved at least once a minute and at the end."""
    batches = Batches(image_set, "train", run.architecture, batch_size=run.batch_size, seed=seed, device=compute.device)
    real = some_real(image_set, run.n_samples, seed=seed)
    state = RunState(networks=initial_networks(run, compute, seed))
    restore(checkpoint_file, state)
    check_same_step(state.step, checkpoint_file)
    clock = CheckpointClock()
    total = run.epochs * batches.per_epoch
    with Progress(f"training, seed {seed}", total=total, unit="steps", done=state.step) as progress:
        for step in range(state.step, total):
            epoch = step // batches.per_epoch
            learning_rate = set_learning_rate(state.networks, run, epoch)
            left = min(run.log_every_steps - step % run.log_every_steps, total - step)  # steps to the next row
            training_step(state, run, compute, batches, seed, step, measured=left <= 2)
            state.step = step + 1
            if left == 1:
                state.log(seed=seed, epoch=epoch, learning_rate=learning_rate)
            epochs_done, inside = divmod(state.step, batches.per_epoch)
            due = clock.due() or state.step == total
            if due or inside == 0:
                check_finite(state.bad_step(), run=f"training, seed {seed}", kept=checkpoint_file)
            if inside == 0:
                end_epoch(state, run, compute, score, real, seed=seed, epoch=epochs_done)
            if due and ranks.is_first():
                save(checkpoint_file, state)
            progress.advance(1)
    return state


def training_step(
    state: RunState, run: Run, compute: Compute, batches: Batches, seed: int, step: int, *, measured: bool = False
) -> None:
    """``alternate``: G alone on even steps, D alone on odd ones (authors' code); ``both``: D, then G, on each batch.

    ``measured``: the norms of the gradients are recorded too.
    """
    networks, context = state.networks, autocast(compute)
    of_d, of_g = run.updates == "both" or step % 2 == 1, run.updates == "both" or step % 2 == 0
    batch = batches.batch(step, with_images=of_d)
    z = to_device(draw_z(run.architecture, batch.size, torch_stream(seed, "z", step))[batch.mine], compute.device)
    if of_d:
        state.add("d", update_discriminator(networks, batch.images, z, *batch.condition, autocast=context))
        if measured:
            state.add("d_gradient", gradient_norm(networks.discriminator))
    if of_g:
        state.add("g", update_generator(networks, z, *batch.condition, autocast=context))
        if measured:
            state.add("g_gradient", gradient_norm(networks.generator))


def end_epoch(
    state: RunState,
    run: Run,
    compute: Compute,
    score: ScoreFunction | None,
    real: np.ndarray,
    *,
    seed: int,
    epoch: int,
) -> None:
    """Samples and their health, and the validation score, in the epochs (counted as done) that are due."""
    last = epoch == run.epochs
    if epoch == 1 or epoch % run.sample_every_epochs == 0 or last:
        state.add_samples(fixed_samples(state.networks.generator, run, compute, seed), real, seed=seed, epoch=epoch)
    if run.selection is not None and score is not None and (epoch % run.selection.every_epochs == 0 or last):
        consider(state, score(state.networks.generator, seed), seed=seed, epoch=epoch)


def fixed_samples(generator: nn.Module, run: Run, compute: Compute, seed: int) -> np.ndarray:
    """uint8 (n_samples, H, W, C): one batch at the same z after every epoch, of every class equally often."""
    a, n = run.architecture, run.n_samples
    z = draw_z(a, n, torch_stream(seed, "fixed z")).to(compute.device)
    condition = (one_hot(np.arange(n) % CLASSES, CLASSES, compute.device),) if conditioned(a) else ()
    with torch.inference_mode(), autocast(compute):
        images = generator(z, *condition)
    return from_network(a, images)


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
    return Networks(
        **networks,
        **adams,
        parallel_generator=in_parallel(networks["generator"]),
        parallel_discriminator=in_parallel(networks["discriminator"]),
    )


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
