"""Training of Improved GAN's 128 x 128 ImageNet model (section 6.5; authors' code): D and G in one and the same step.

A step has ``towers`` batches, each with statistics and minibatch features of its own, whose gradients are averaged: the
authors' four GPUs of 16 images each. Several processes share the towers; how many there are changes a result by
rounding only.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval, MinLen
from torch import nn

from pipeline.core import ranks
from pipeline.core.compute import Compute, autocast, to_device
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.dcgan import from_signed, to_signed
from pipeline.models.imagenet128 import SIDE, Architecture, build_generator, discriminator, draw_inputs, initialise
from pipeline.models.improved_layers import set_noise
from pipeline.models.store import named_tensors
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
from pipeline.training.parallel import average, check_same_step
from pipeline.training.updates import Networks, gradient_norm

HISTORY_WITH_CLASSES = (*HISTORY, "class_loss", "class_error_percent")


@section
class Run:
    """``imagenet128`` in params.yaml.

    Attributes
    ----------
    labels : D learns the classes of real images too; false: one class, all real images
    real_target : one-sided label smoothing: what D should say of a real image (0.75); 1 = not smoothed
    generator_target : what G wants D to say of a generated one (0.375, where D's answers meet if it cannot tell)
    batch_size : real images of a tower, and generated ones beside them (16)
    towers : batches of a step (4)
    """

    dataset: str
    architecture: Architecture
    labels: bool
    real_target: Annotated[float, Interval(gt=0, le=1)]
    generator_target: Annotated[float, Interval(gt=0, le=1)]
    seeds: Annotated[list[int], MinLen(1)]
    batch_size: Annotated[int, Ge(2)]  # statistics and closeness of one image are none
    towers: Annotated[int, Ge(1)]
    epochs: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)]
    beta1: Annotated[float, Interval(ge=0, lt=1)]
    beta2: Annotated[float, Interval(ge=0, lt=1)]
    adam_epsilon: Annotated[float, Gt(0)]
    initial_std: Annotated[float, Gt(0)]
    log_every_steps: Annotated[int, Ge(1)]
    n_samples: Annotated[int, Ge(2)]  # generated at fixed z and noise
    sample_every_epochs: Annotated[int, Ge(1)]  # and after the first and the last

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            message = f"seeds must differ from each other, found {self.seeds}"
            raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """All seeds of a run.

    Attributes
    ----------
    tensors : ``seed<k>/{generator, discriminator}/...`` of the last epoch, G's reference batch among them
    n_classes : that D tells apart, beside "generated"
    history : seed, step, epoch (of the step, from 0), learning_rate, d_loss (all of D's), g_loss, d_real, d_fake,
        class_loss, class_error_percent (of real images; empty without labels): means since the row before; d_gradient,
        g_gradient: norms of the gradients in the last step before the row
    validation : no rows; its columns are those of other runs
    health : seed, epoch (epochs done), diversity (see ``health``), collapsed
    samples : uint8 (epochs, n_samples, H, W, C) of the first seed, at fixed z and noise
    sample_epochs : int64 (epochs,), epochs done
    steps : of each seed
    images : real ones that all processes went through, over all seeds; not those before a kill
    """

    tensors: dict[str, torch.Tensor]
    n_classes: int
    history: pd.DataFrame
    validation: pd.DataFrame
    health: pd.DataFrame
    samples: np.ndarray
    sample_epochs: np.ndarray
    steps: int
    images: int


# ---- losses ---------------------------------------------------------------------------------------------------------


def gan_logit(logits: torch.Tensor) -> torch.Tensor:
    """L = log of the sum over classes of exp(l_k), less the logit of "generated": (B, K + 1) -> (B,).

    D(x) = sigmoid(L) is the probability that the K + 1 logits give to all classes together.
    """
    return logits[:, :-1].logsumexp(dim=1) - logits[:, -1]


def divergence(logit: torch.Tensor, target: float) -> torch.Tensor:
    """Mean KL divergence of D(x) = sigmoid(L) from a coin that falls with probability t.

    Cross-entropy - t log D - (1 - t) log(1 - D) = softplus(L) - t L, less the target's entropy. At least 0; at t = 0 it
    is - log(1 - D), at t = 1 it is - log D.
    """
    entropy = sum(-p * math.log(p) for p in (target, 1 - target) if p > 0)
    # softplus(L) - L = softplus(-L), which does not lose the digits of a small loss
    return (F.softplus(-logit) + (1 - target) * logit).mean() - entropy


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of - log p(y | x) over all K + 1 logits, "generated" among them: (B, K + 1), int64 (B,) -> ()."""
    return F.cross_entropy(logits, labels)


# ---- batches --------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A tower's real images: float32 (B, 3, 128, 128) in [-1, 1], and their labels, int64 (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


class Batches:
    """Shuffled batches of the training images, read from the memory map; each epoch is a fresh permutation.

    What is left over by whole steps is dropped.

    Attributes
    ----------
    n_classes : of the set's labels; 1 without labels
    per_epoch : steps of an epoch
    """

    def __init__(self, image_set: ImageSet, run: Run, *, seed: int, device: str) -> None:
        self._set, self._run, self._seed, self._device = image_set, run, seed, device
        self._rows = image_set.rows("train")
        self._labels = image_set.labels(self._rows)
        check_images(image_set)
        self.n_classes = classes_of(image_set) if run.labels else 1
        size = run.batch_size * run.towers
        self.per_epoch = len(self._rows) // size
        if not self.per_epoch:
            message = (
                f"{image_set.path}: {len(self._rows)} training images, fewer than one step of {run.towers} x "
                f"{run.batch_size}; lower imagenet128.batch_size or imagenet128.towers"
            )
            raise InputError(message)
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def part(self, step: int, tower: int) -> Part:
        """The images of a tower in a step, which is counted over all epochs."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = numpy_stream(self._seed, "shuffle", epoch).permutation(len(self._rows))
            self._epoch = epoch
        first = (position * self._run.towers + tower) * self._run.batch_size
        chosen = self._order[first : first + self._run.batch_size]
        images = to_signed(self._set.images[self._rows[chosen]], self._device)
        return Part(images, to_device(torch.from_numpy(self._labels[chosen]), self._device))


def check_images(image_set: ImageSet) -> None:
    """Refuse images of another size than the networks'."""
    if (found := image_set.images.shape[1:]) != (SIDE, SIDE, 3):
        message = (
            f"{image_set.path}: images of {' x '.join(map(str, found))}, these networks take {SIDE} x {SIDE} x 3; name "
            "another dataset in imagenet128.dataset"
        )
        raise InputError(message)


def classes_of(image_set: ImageSet) -> int:
    """How many classes the training images have.

    Raises
    ------
    InputError
        If an image has no label, or the labels are not 0 to the number of classes less 1.
    """
    labels = image_set.labels(image_set.rows("train"))
    if (labels < 0).any():
        message = (
            f"{image_set.path}: {(labels < 0).sum()} of {len(labels)} training images have no label; label them, or "
            "write imagenet128.labels: false"
        )
        raise InputError(message)
    found = np.unique(labels)
    if found[-1] >= len(found):
        message = (
            f"{image_set.path}: the training images are of {len(found)} classes, but have labels up to {found[-1]}; "
            f"number them 0 to {len(found) - 1}, or write imagenet128.labels: false"
        )
        raise InputError(message)
    return len(found)


def own_towers(towers: int) -> range:
    """Those of this process.

    Raises
    ------
    InputError
        If the towers do not fall into equal parts, one a process.
    """
    n = ranks.world_size()
    if towers % n:
        message = (
            f"params, imagenet128.towers: {towers} do not fall into {n} equal parts, one a process; change the number "
            "of processes (GAN_LAUNCH) or towers"
        )
        raise InputError(message)
    each = towers // n
    return range(ranks.rank() * each, (ranks.rank() + 1) * each)


# ---- one update of both ---------------------------------------------------------------------------------------------


class Gradients(NamedTuple):
    """Of both networks' losses, at the same parameters; and the losses' numbers.

    Attributes
    ----------
    generator, discriminator : one a parameter
    told : ``d``: D's loss, mean D(x), mean D(G(z)); ``g``: G's loss; ``class``: the class loss and error in percent
    """

    generator: list[torch.Tensor]
    discriminator: list[torch.Tensor]
    told: dict[str, torch.Tensor]


def gradients(networks: Networks, part: Part, inputs: torch.Tensor, run: Run, context: torch.autocast) -> Gradients:
    """Both losses of one pass through G and D.

    D: KL to ``real_target`` on real images, - log(1 - D) on generated ones, the class loss on real ones. G: KL to
    ``generator_target`` on the same generated images.
    """
    with context:
        fake = networks.generator(inputs)
        logits = networks.discriminator(torch.cat([part.images, fake]))
    real_logits, _ = logits.chunk(2)
    on_real, on_fake = gan_logit(logits).chunk(2)
    d_loss = divergence(on_real, run.real_target) + divergence(on_fake, 0.0)
    told: dict[str, torch.Tensor] = {}
    if run.labels:
        of_class = class_loss(real_logits, part.labels)
        d_loss = d_loss + of_class
        error = 100 * (real_logits[:, :-1].argmax(1) != part.labels).float().mean()
        told["class"] = torch.stack([of_class, error]).detach()
    g_loss = divergence(on_fake, run.generator_target)
    of_d = torch.autograd.grad(d_loss, [*networks.discriminator.parameters()], retain_graph=True)
    of_g = torch.autograd.grad(g_loss, [*networks.generator.parameters()])
    told["d"] = torch.stack([d_loss, on_real.sigmoid().mean(), on_fake.sigmoid().mean()]).detach()
    told["g"] = g_loss.detach().reshape(1)
    return Gradients(list(of_g), list(of_d), told)


def mean_over_towers(towers: list[Gradients]) -> Gradients:
    """The mean over those of this process, then over the processes, which have as many each."""

    def mean(each: list[torch.Tensor]) -> torch.Tensor:
        return average(torch.stack(each).mean(0) if len(each) > 1 else each[0].contiguous())

    return Gradients(
        generator=[mean(list(each)) for each in zip(*(tower.generator for tower in towers), strict=True)],
        discriminator=[mean(list(each)) for each in zip(*(tower.discriminator for tower in towers), strict=True)],
        told={name: torch.stack([tower.told[name] for tower in towers]).mean(0) for name in towers[0].told},
    )


def descend(network: nn.Module, adam: torch.optim.Adam, found: list[torch.Tensor]) -> None:
    """One step of Adam along given gradients."""
    for parameter, gradient in zip(network.parameters(), found, strict=True):
        parameter.grad = gradient.contiguous()
    adam.step()


def training_step(
    state: RunState, run: Run, compute: Compute, batches: Batches, seed: int, step: int, *, measured: bool = False
) -> None:
    """One step of both networks, on all towers; ``measured``: the norms of the gradients are recorded too."""
    networks, context = state.networks, autocast(compute)
    towers: list[Gradients] = []
    for tower in own_towers(run.towers):
        nth = step * run.towers + tower
        inputs = to_device(draw_inputs(run.architecture, run.batch_size, torch_stream(seed, "z", nth)), compute.device)
        set_noise(networks.discriminator, [torch_stream(seed, "noise for D", nth, compute.device)])
        towers.append(gradients(networks, batches.part(step, tower), inputs, run, context))
    found = mean_over_towers(towers)
    descend(networks.discriminator, networks.discriminator_adam, found.discriminator)
    descend(networks.generator, networks.generator_adam, found.generator)
    for name, values in found.told.items():
        state.add(name, values)
    if measured:
        state.add("d_gradient", gradient_norm(networks.discriminator))
        state.add("g_gradient", gradient_norm(networks.generator))


# ---- the loop -------------------------------------------------------------------------------------------------------


class State(RunState):
    """A run's state, whose rows of the history tell of the classes too."""

    def log(self, *, seed: int, epoch: int, learning_rate: float) -> None:
        """Turn the sums into a row of means."""
        of_class, error = self._mean("class") or [math.nan] * 2
        super().log(seed=seed, epoch=epoch, learning_rate=learning_rate)
        self.history[-1] |= {"class_loss": of_class, "class_error_percent": error}


def train(image_set: ImageSet, run: Run, compute: Compute, scratch: Path) -> Trained:
    """Train each seed from its own initial state; resumes from what ``scratch`` holds."""
    own_towers(run.towers)  # refused before anything is computed
    tensors: dict[str, torch.Tensor] = {}
    history: list[dict[str, float]] = []
    health: list[dict[str, float]] = []
    samples: dict[str, torch.Tensor] = {}
    steps = images = 0
    for seed in run.seeds:
        state = train_seed(image_set, run, compute, seed, scratch / f"seed{seed}.safetensors")
        for name in ("generator", "discriminator"):
            tensors |= named_tensors(f"seed{seed}/{name}", getattr(state.networks, name))
        history += state.history
        health += state.health
        samples = samples or state.samples
        steps, images = state.step, images + (state.step - state.resumed_from) * run.batch_size * run.towers
    shown, sample_epochs = stacked(samples)
    return Trained(
        tensors=tensors,
        n_classes=classes_of(image_set) if run.labels else 1,
        history=pd.DataFrame(history, columns=list(HISTORY_WITH_CLASSES)),
        validation=pd.DataFrame(columns=list(VALIDATION)),  # no epoch is chosen: no rows
        health=pd.DataFrame(health, columns=list(HEALTH)),
        samples=shown,
        sample_epochs=sample_epochs,
        steps=steps,
        images=images,
    )


def train_seed(image_set: ImageSet, run: Run, compute: Compute, seed: int, checkpoint_file: Path) -> State:
    """Train one seed; the state is saved at least once a minute and at the end."""
    batches = Batches(image_set, run, seed=seed, device=compute.device)
    real = some_real(image_set, run.n_samples, seed=seed)
    state = State(networks=initial_networks(run, compute, seed, n_classes=batches.n_classes))
    restore(checkpoint_file, state)
    check_same_step(state.step, checkpoint_file)
    clock = CheckpointClock()
    total = run.epochs * batches.per_epoch
    with Progress(f"training, seed {seed}", total=total, unit="steps", done=state.step) as progress:
        for step in range(state.step, total):
            left = min(run.log_every_steps - step % run.log_every_steps, total - step)  # steps to the next row
            training_step(state, run, compute, batches, seed, step, measured=left == 1)
            state.step = step + 1
            epochs_done, inside = divmod(state.step, batches.per_epoch)
            if left == 1:
                state.log(seed=seed, epoch=step // batches.per_epoch, learning_rate=run.learning_rate)
            due = clock.due() or state.step == total
            if due or inside == 0:
                check_finite(state.bad_step(), run=f"training, seed {seed}", kept=checkpoint_file)
            if inside == 0:
                end_epoch(state, run, compute, real, seed=seed, epoch=epochs_done)
            if due and ranks.is_first():
                save(checkpoint_file, state)
            progress.advance(1)
    return state


def end_epoch(state: State, run: Run, compute: Compute, real: np.ndarray, *, seed: int, epoch: int) -> None:
    """Samples and their health, in the epochs (counted as done) that are due."""
    if epoch == 1 or epoch % run.sample_every_epochs == 0 or epoch == run.epochs:
        state.add_samples(fixed_samples(state.networks.generator, run, compute, seed), real, seed=seed, epoch=epoch)


def fixed_samples(generator: nn.Module, run: Run, compute: Compute, seed: int) -> np.ndarray:
    """uint8 (n_samples, H, W, C) at the same z and noise after every epoch, in batches as in training."""
    inputs = draw_inputs(run.architecture, run.n_samples, torch_stream(seed, "fixed z")).to(compute.device)
    with torch.inference_mode(), autocast(compute):
        return np.concatenate([from_signed(generator(part)) for part in inputs.split(run.batch_size)])


def initial_networks(run: Run, compute: Compute, seed: int, *, n_classes: int) -> Networks:
    """Both networks as drawn, and an Adam for each."""
    networks = {
        "generator": build_generator(run.architecture),
        "discriminator": discriminator(run.architecture, n_classes),
    }
    adams = {}
    for name, network in networks.items():
        initialise(network, run.initial_std, torch_stream(seed, f"initial {name}"))
        network.to(compute.device)
        adams[f"{name}_adam"] = torch.optim.Adam(
            network.parameters(),
            lr=run.learning_rate,
            betas=(run.beta1, run.beta2),
            eps=run.adam_epsilon,
            fused=True,
        )
    return Networks(
        **networks,
        **adams,
        # gradients are averaged over the towers of a step, whichever process has them: no wrapper does it
        parallel_generator=networks["generator"],
        parallel_discriminator=networks["discriminator"],
    )
