"""The semi-supervised loop of Improved GAN (section 5): D classifies real images while it tells them from G's.

Several networks (members: pairs of a labelled subset and a seed) are trained as one batch. One update of a member is
the same, within rounding, whichever others are trained beside it; over many updates roundings grow.
"""

import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, Interval, MinLen
from safetensors import SafetensorError
from torch import nn

from pipeline.core.compute import Compute, autocast, to_device
from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.improved import (
    Architecture,
    Discriminator,
    MinibatchArchitecture,
    build_discriminator,
    build_generator,
    draw_z,
    image_shape,
    initialise_discriminator,
    initialise_generator,
)
from pipeline.models.improved_layers import keep_weights, set_noise
from pipeline.models.mnist import CLASSES
from pipeline.models.store import load_into, named_tensors, read_note, read_tensors, write_tensors
from pipeline.training import semisupervised_losses as losses
from pipeline.training.adam import RootAdam
from pipeline.training.averaging import HistoricalAverage, ParameterAverage
from pipeline.training.checkpoint import CheckpointClock, adam_tensors, restore_adam, restoring, write_checkpoint
from pipeline.training.health import check_finite, sample_health, some_real
from pipeline.training.labelled_batches import (
    Member,
    Pixels,
    SemisupervisedBatch,
    SemisupervisedBatches,
    from_network,
    to_network,
    training_rows,
)

# An unsupervised loss this near to its least: G learns nothing more. Ports of the authors' code where it fell to 0 went
# from 98.5 % to 65 % right.
D_HAS_WON = 0.01
HISTORY = ("split", "seed", "step", "epoch", "learning_rate")
LOSSES = ("labelled_loss", "labelled_error_percent", "unsupervised_loss", "generator_loss")
ERRORS = ("split", "seed", "epoch", "error_percent", "error_percent_last")
HEALTH = ("split", "seed", "epoch", "diversity", "collapsed")
RANGE_TOLERANCE = 0.01  # of pixels beside G's output: 127.5 / 128 is 0.996
N_INITIAL = 500  # images that set scales and biases (authors' code)
FEATURE_MATCHING = {
    "squared_feature_matching": losses.squared_feature_matching,
    "absolute_feature_matching": losses.absolute_feature_matching,
}
SAMPLE_LOSSES = {"minimax": losses.generator_minimax_loss, "non_saturating": losses.generator_loss}


# ---- params ---------------------------------------------------------------------------------------------------------


@section
class Techniques:
    """``semisup.runs.NAME.techniques``: what training adds to the two networks.

    Attributes
    ----------
    generator_loss : feature matching (section 3.1), or a loss of D's judgement
    generator_steps : updates of G for each of D, each with fresh z
    real_target : one-sided label smoothing (section 3.4): what D should say of a real image; 1 = not smoothed
    historical_averaging : weight of that term in both players' cost (section 3.3); 0 = none
    parameter_average : rate of the average of D's parameters that it is tested with; 0 = none. Another thing than
        historical averaging
    """

    generator_loss: Literal["squared_feature_matching", "absolute_feature_matching", "minimax", "non_saturating"]
    generator_steps: Annotated[int, Ge(1)]
    real_target: Annotated[float, Interval(gt=0, le=1)]
    historical_averaging: Annotated[float, Ge(0)]
    parameter_average: Annotated[float, Interval(ge=0, le=1)]


@section
class Run:
    """``semisup`` (shared by all runs) and ``semisup.runs.NAME`` (a run's own).

    Every pair of a split and a seed is a network of its own. ``at_once``: how many of them are trained as one batch: a
    matter of speed and memory.
    """

    # shared
    beta1: Annotated[float, Interval(ge=0, lt=1)]
    beta2: Annotated[float, Interval(gt=0, lt=1)]
    adam_epsilon: Annotated[float, Gt(0)]  # inside the root
    log_every_steps: Annotated[int, Ge(1)]
    n_samples: Annotated[int, Ge(2)]  # generated at fixed z at the end
    # the run's own
    dataset: str
    n_labels: Annotated[int, Ge(0)]
    architecture: Architecture
    techniques: Techniques
    pixels: Pixels
    splits: Annotated[list[int], MinLen(1)]
    seeds: Annotated[list[int], MinLen(1)]
    at_once: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(2)]
    learning_rate: Annotated[float, Gt(0)]
    constant_epochs: Annotated[int, Ge(0)]
    decay_epochs: Annotated[int, Ge(0)]
    test_every_epochs: Annotated[int, Ge(1)]  # and after the last
    labels_only_epochs: Annotated[int, Ge(0)]  # of the same D on the labelled images alone, for comparison; 0 = none
    n_snapshots: Annotated[int, Ge(0)]  # of G, evenly over the steps, the last at the end; 0 = the one at the end alone

    def __post_init__(self) -> None:
        for refusal in (self._bad_counts(), self._bad_pixels(), self._bad_techniques()):
            if refusal:
                raise ValueError(refusal)

    def _bad_counts(self) -> str:
        if self.epochs < 1:
            return "constant_epochs + decay_epochs must be at least 1, found 0"
        for name in ("splits", "seeds"):
            if len(set(values := getattr(self, name))) != len(values):
                return f"{name} must differ from each other, found {values}"
        if self.n_labels % CLASSES:
            return (
                f"n_labels must be a multiple of the {CLASSES} classes, so that subsets are balanced; "
                f"found {self.n_labels}"
            )
        if self.labels_only_epochs and not self.n_labels:
            return "labels_only_epochs: a run with n_labels 0 has nothing to be trained on without the other images"
        return ""

    def _bad_pixels(self) -> str:
        low, high = (0, 1) if image_shape(self.architecture)[0] == 1 else (-1, 1)
        black, white = ((value - self.pixels.offset) / self.pixels.divisor for value in (0, 255))
        if max(abs(black - low), abs(white - high)) <= RANGE_TOLERANCE:
            return ""
        return (
            f"pixels: 0 to 255 become {black:g} to {white:g}, G of {self.architecture.name} gives {low} to {high}: D "
            "would tell them apart by that alone; change offset and divisor"
        )

    def _bad_techniques(self) -> str:
        """Those that make no sense for these networks."""
        a = self.architecture
        if a.preset == "c0" and a.name == "semisup_mnist":
            return (
                "architecture.preset: semisup_mnist has no preset c0, its layers are the same in both states of the "
                "authors' code; write current, and set learning_rate, the epochs and parameter_average"
            )
        if a.reference_batch == 1:
            return (
                "architecture.reference_batch: one example has no batch statistics; write 0 (batch norm), or 2 or more"
            )
        minibatch_layer = isinstance(a, MinibatchArchitecture) and a.n_kernels
        if minibatch_layer and self.techniques.generator_loss in FEATURE_MATCHING:
            return (
                "techniques.generator_loss: feature matching compares features before the minibatch layer of "
                f"{a.name}, which would not reach G; choose minimax or non_saturating"
            )
        return ""

    @property
    def epochs(self) -> int:
        """Epochs at the full learning rate and epochs of its decay."""
        return self.constant_epochs + self.decay_epochs

    @property
    def members(self) -> list[Member]:
        """All networks of the run: the seeds of the first split, of the second, and so on."""
        return [Member(split, seed) for split in self.splits for seed in self.seeds]

    @property
    def groups(self) -> list[list[Member]]:
        """Those that are trained together."""
        members = self.members
        return [members[first : first + self.at_once] for first in range(0, len(members), self.at_once)]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """All networks of a run.

    Attributes
    ----------
    tensors : ``seed<k>/split<j>/{generator, discriminator, discriminator_average}/...``, of the snapshots before the
        end ``generator_step<n>``; each with an axis of 1 for the seeds in front
    history : split, seed, step, epoch (of the step, from 0), learning_rate, labelled_loss, labelled_error_percent,
        unsupervised_loss, generator_loss; means since the row before
    errors : split, seed, epoch (epochs done), error_percent on the test images with averaged parameters,
        error_percent_last with the parameters as they are
    health : split, seed, epoch (the last), diversity of the samples (see ``health``), collapsed
    labelled : split, key, label: the images that had a label
    logits : float32 (members, n_test, 10) of the test images, as tested, in the order of the set
    samples : uint8 (members, n_samples, H, W, C) of the last epoch, at fixed z
    steps : of each network
    images : in the batches that this process went through, one a step and network; not those before a kill
    """

    tensors: dict[str, torch.Tensor]
    history: pd.DataFrame
    errors: pd.DataFrame
    health: pd.DataFrame
    labelled: pd.DataFrame
    logits: np.ndarray
    samples: np.ndarray
    steps: int
    images: int


# ---- state ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Players:
    """Both networks of a group of members, and what is kept beside each."""

    generator: nn.Module
    discriminator: Discriminator
    generator_adam: RootAdam
    discriminator_adam: RootAdam
    average: ParameterAverage | None
    histories: dict[str, HistoricalAverage]  # of the player's name; empty without historical averaging


@dataclass(kw_only=True)
class GroupState:
    """All that the training of a group carries from step to step."""

    players: Players
    least_loss: float = 0.0  # that the unsupervised loss can take: above 0 with label smoothing
    step: int = 0
    resumed_from: int = 0
    warned: set[Member] = field(default_factory=set)
    history: list[dict[str, float]] = field(default_factory=list)
    errors: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # (S,) since the last row of the history
    counts: dict[str, int] = field(default_factory=dict)
    first_bad: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def add(self, **values: torch.Tensor) -> None:
        """Add one update's numbers, each (S,), to the running sums, without waiting for the device."""
        for name, of_step in values.items():
            value = of_step.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
            first_bad = self.first_bad.to(value.device)
            self.first_bad = torch.where((first_bad == 0) & ~value.isfinite().all(), self.step + 1, first_bad)

    def log(self, members: list[Member], *, epoch: int, learning_rate: float) -> None:
        """Turn the sums into a row of means for each member."""
        means = {name: (total / self.counts[name]).tolist() for name, total in self.sums.items()}
        for number, member in enumerate(members):
            row = member._asdict() | {"step": self.step, "epoch": epoch, "learning_rate": learning_rate}
            row |= {name: means[name][number] if name in means else float("nan") for name in LOSSES}
            self.history.append(row)
            if row["unsupervised_loss"] - self.least_loss < D_HAS_WON and member not in self.warned:
                self.warned.add(member)
                said = f"warning: {said_members([member])}, step {self.step:,}: the unsupervised loss is "
                said += f"{row['unsupervised_loss']:.4f}; D has won and G learns nothing more"
                print(said, file=sys.stderr)
        self.sums.clear()
        self.counts.clear()

    def bad_step(self) -> int:
        """The first step with a loss, or this one if a weight, is not finite; counted from 1, 0 = none."""
        weights = [*self.players.generator.parameters(), *self.players.discriminator.parameters()]
        return int(self.first_bad) or (0 if all(w.isfinite().all() for w in weights) else self.step)


PLAIN = ("step", "history", "errors", "counts")


def save(path: Path, state: GroupState) -> None:
    """Replace the checkpoint by the present state."""
    players = state.players
    tensors = {f"sums/{name}": total.cpu() for name, total in state.sums.items()}
    for name in ("generator", "discriminator"):
        tensors |= named_tensors(name, getattr(players, name))
        tensors |= adam_tensors(f"{name}_adam", getattr(players, f"{name}_adam"))
    if players.average is not None:
        tensors |= players.average.tensors("average")
    for name, history in players.histories.items():
        tensors |= history.tensors(f"history/{name}")
    write_checkpoint(path, tensors, state, PLAIN)


def restore(path: Path, state: GroupState) -> None:
    """Bring a freshly initialised state to the checkpoint's, if there is one.

    Raises
    ------
    InputError
        If the checkpoint is of other networks or damaged.
    """
    if not path.exists():
        return
    players = state.players
    device = next(players.generator.parameters()).device
    with restoring(path, state, PLAIN, what="a checkpoint of this training") as tensors:
        for name in ("generator", "discriminator"):
            load_into(getattr(players, name), tensors, name, path)
            restore_adam(getattr(players, f"{name}_adam"), tensors, f"{name}_adam")
        if players.average is not None:
            players.average.restore(tensors, "average")
        for name, history in players.histories.items():
            history.restore(tensors, f"history/{name}")
        state.sums = {n.removeprefix("sums/"): t.to(device) for n, t in tensors.items() if n.startswith("sums/")}
    state.resumed_from = state.step


# ---- one update of each ---------------------------------------------------------------------------------------------


def update_discriminator(
    players: Players, batch: SemisupervisedBatch, z: torch.Tensor, techniques: Techniques, context: torch.autocast
) -> dict[str, torch.Tensor]:
    """Descend D's loss once: the class of labelled images, and real against generated (section 5).

    Returns
    -------
    unsupervised_loss and, if there are labelled images, labelled_loss and labelled_error_percent; each (S,).
    """
    with context:
        with torch.no_grad():
            fake = players.generator(z)
        *labelled, real, fake = players.discriminator.judge(*batch.labelled, batch.unlabelled, fake)
    told = {"unsupervised_loss": losses.unsupervised_loss(real.logits, fake.logits, real_target=techniques.real_target)}
    loss = told["unsupervised_loss"].sum()
    for judged, labels in zip(labelled, batch.labels, strict=True):
        told |= classification(judged.logits, labels)
        loss = loss + told["labelled_loss"].sum()
    descend(players, "discriminator", loss, techniques.historical_averaging)
    if players.average is not None:
        players.average.update()
    return told


def update_classifier(
    players: Players, batch: SemisupervisedBatch, techniques: Techniques, context: torch.autocast
) -> dict[str, torch.Tensor]:
    """Descend the loss of the labelled images alone: D as a plain classifier, for comparison.

    Returns
    -------
    labelled_loss, labelled_error_percent; each (S,).
    """
    (images,), (labels,) = batch.labelled, batch.labels
    with context:
        (judged,) = players.discriminator.judge(images)
    told = classification(judged.logits, labels)
    descend(players, "discriminator", told["labelled_loss"].sum(), techniques.historical_averaging)
    if players.average is not None:
        players.average.update()
    return told


def update_generator(
    players: Players, matched: torch.Tensor, z: torch.Tensor, techniques: Techniques, context: torch.autocast
) -> dict[str, torch.Tensor]:
    """Descend G's loss once; D's noise stays on, drawn anew for the real and for the generated images.

    Parameters
    ----------
    matched : images (S, B, C, H, W) whose features G's should match; a loss of D's judgement does not use them

    Returns
    -------
    generator_loss (S,).
    """
    discriminator = players.discriminator
    discriminator.requires_grad_(requires_grad=False)
    with context:
        fake = players.generator(z)
        if techniques.generator_loss in FEATURE_MATCHING:
            with torch.no_grad():
                target = discriminator.features(matched)
            each = FEATURE_MATCHING[techniques.generator_loss](target, discriminator.features(fake))
        else:
            each = SAMPLE_LOSSES[techniques.generator_loss](discriminator(fake).logits)
    descend(players, "generator", each.sum(), techniques.historical_averaging)
    discriminator.requires_grad_(requires_grad=True)
    return {"generator_loss": each.detach()}


def classification(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss (S,) and error in percent (S,) of labelled images."""
    error = 100 * (logits.argmax(-1) != labels).float().mean(1)
    return {"labelled_loss": losses.labelled_loss(logits, labels), "labelled_error_percent": error}


def descend(players: Players, name: str, loss: torch.Tensor, historical_averaging: float) -> None:
    """One step of Adam on a player's cost. The members' losses are summed: none has a gradient of another's."""
    history, adam = players.histories.get(name), getattr(players, f"{name}_adam")
    if history is not None:
        loss = loss + historical_averaging * history.penalty()
    adam.zero_grad()
    loss.backward()
    adam.step()
    if history is not None:
        history.update()


# ---- the loop -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Group:
    """What the training of one group leaves, as :class:`Trained`; nothing of it lies on the device."""

    step: int
    resumed_from: int
    history: list[dict[str, float]]
    errors: list[dict[str, float]]
    tensors: dict[str, torch.Tensor]
    labelled: pd.DataFrame
    logits: np.ndarray
    samples: np.ndarray
    health: list[dict[str, float]]


def train(image_set: ImageSet, run: Run, compute: Compute, scratch: Path) -> Trained:
    """Train all members of a run; resumes from what ``scratch`` holds."""
    return together(run, train_groups(image_set, run, compute, scratch))


def train_labels_only(image_set: ImageSet, run: Run, compute: Compute, scratch: Path) -> Trained:
    """The same discriminators, from the same initial state, on the same labelled images and no others.

    For ``labels_only_epochs`` epochs of as many steps, at the run's learning rate: what the unlabelled images are worth
    is the difference to :func:`train`. The parameter average forgets as much faster as the schedule is shorter, else it
    would still hold the initial parameters. Their generators stay as they were drawn.
    """
    rate = min(1.0, run.techniques.parameter_average * run.epochs / run.labels_only_epochs)
    techniques = replace(run.techniques, parameter_average=rate)
    alone = replace(run, constant_epochs=run.labels_only_epochs, decay_epochs=0, techniques=techniques, n_snapshots=0)
    return together(alone, train_groups(image_set, alone, compute, scratch, labels_only=True))


def train_groups(
    image_set: ImageSet, run: Run, compute: Compute, scratch: Path, *, labels_only: bool = False
) -> list[Group]:
    """The groups of a run, one after the other."""
    check_set(image_set, run)
    checkpoints = [checkpoint_of(scratch, group, labels_only=labels_only) for group in run.groups]
    total = len(run.groups) * run.epochs * (len(training_rows(image_set)) // run.batch_size)
    what = f"training {len(run.members)} networks{' on labelled images only' if labels_only else ''}"
    with Progress(what, total=total, unit="steps", done=sum(map(steps_done, checkpoints))) as progress:
        return [
            train_group(image_set, run, compute, checkpoint, group, progress, labels_only=labels_only)
            for group, checkpoint in zip(run.groups, checkpoints, strict=True)
        ]


def checkpoint_of(scratch: Path, members: list[Member], *, labels_only: bool) -> Path:
    """Named after the first and the last network: groups are runs of a list that the scratch folder stands for."""
    first, last = members[0], members[-1]
    name = f"{first.split}.{first.seed}-{last.split}.{last.seed}{'-labels_only' if labels_only else ''}"
    return scratch / f"{name}.safetensors"


def steps_done(checkpoint: Path) -> int:
    """Steps that a checkpoint stands for; 0 without one, or with a damaged one, which :func:`restore` will refuse."""
    try:
        return json.loads(read_note(checkpoint))["step"]
    except (OSError, SafetensorError, ValueError, KeyError):
        return 0


def train_group(
    image_set: ImageSet,
    run: Run,
    compute: Compute,
    checkpoint: Path,
    members: list[Member],
    progress: Progress,
    *,
    labels_only: bool = False,
) -> Group:
    """Train members as one batch; the state is saved at least once a minute and at the end."""
    batches = SemisupervisedBatches(
        image_set,
        members=members,
        n_labels=run.n_labels,
        n_classes=CLASSES,
        batch_size=run.batch_size,
        pixels=run.pixels,
        device=compute.device,
    )
    players = initial_players(run, compute, members, batches)
    state = GroupState(players=players, least_loss=losses.least_unsupervised_loss(run.techniques.real_target))
    restore(checkpoint, state)
    clock = CheckpointClock()
    total = run.epochs * batches.per_epoch
    snapshots = {step: snapshot_of(checkpoint, step) for step in snapshot_steps(run.n_snapshots, total)[:-1]}
    for step in range(state.step, total):
        epoch = step // batches.per_epoch
        learning_rate = set_learning_rate(state.players, run, epoch)
        training_step(state, run, compute, batches, step, labels_only=labels_only)
        state.step = step + 1
        if state.step % run.log_every_steps == 0 or state.step == total:
            state.log(members, epoch=epoch, learning_rate=learning_rate)
        epochs_done, inside = divmod(state.step, batches.per_epoch)
        due = clock.due() or state.step == total
        if due or inside == 0:
            check_finite(state.bad_step(), run=f"training {said_members(members)}", kept=checkpoint)
        if inside == 0:
            batches.check_labelled_seen()
            if epochs_done % run.test_every_epochs == 0 or epochs_done == run.epochs:
                state.errors += tested(state.players, image_set, run, compute, members, epoch=epochs_done)
        if state.step in snapshots:  # before the checkpoint, so that no step behind one lacks its snapshot
            keep_snapshot(snapshots[state.step], players.generator, members, state.step)
        if due:
            save(checkpoint, state)
        progress.advance(1)
    samples = fixed_samples(state.players.generator, run, compute, members)
    return Group(
        step=state.step,
        resumed_from=state.resumed_from,
        history=state.history,
        errors=state.errors,
        tensors=member_tensors(state.players, members) | read_snapshots(snapshots.values()),
        labelled=labelled_table(image_set, batches),
        logits=tested_logits(state.players, image_set, run, compute, len(members)),
        samples=samples,
        health=[] if labels_only else samples_health(samples, image_set, run, members),
    )


def training_step(
    state: GroupState,
    run: Run,
    compute: Compute,
    batches: SemisupervisedBatches,
    step: int,
    *,
    labels_only: bool = False,
) -> None:
    """D, then G ``generator_steps`` times, each with fresh z (authors' code)."""
    players, techniques, context, members = state.players, run.techniques, autocast(compute), batches.members
    matching = techniques.generator_loss in FEATURE_MATCHING
    batch = batches.batch(step, labels_only=labels_only, matching=matching)
    set_noise(players.discriminator, streams(members, "noise for D", step, compute.device))
    if labels_only:
        state.add(**update_classifier(players, batch, techniques, context))
        return
    state.add(**update_discriminator(players, batch, z_of(run, compute, members, "z for D", step), techniques, context))
    for nth in range(techniques.generator_steps):
        at = step * techniques.generator_steps + nth
        set_noise(players.discriminator, streams(members, "noise for G", at, compute.device))
        z = z_of(run, compute, members, "z for G", at)
        state.add(**update_generator(players, batch.matched, z, techniques, context))


def streams(members: list[Member], what: str, index: int = 0, device: str = "cpu") -> list[torch.Generator]:
    """A stream of random numbers for each member."""
    return [member.stream(what, index, device) for member in members]


def z_of(run: Run, compute: Compute, members: list[Member], what: str, index: int) -> torch.Tensor:
    """One batch of z for each member."""
    return to_device(draw_z(run.architecture, run.batch_size, streams(members, what, index)), compute.device)


def set_learning_rate(players: Players, run: Run, epoch: int) -> float:
    """Set and return the rate of an epoch (counted from 0): constant, then falling linearly towards 0."""
    late = max(0, epoch - run.constant_epochs)
    rate = run.learning_rate * (1 - late / run.decay_epochs) if late else run.learning_rate
    for adam in (players.generator_adam, players.discriminator_adam):
        adam.param_groups[0]["lr"] = rate
    return rate


def initial_players(run: Run, compute: Compute, members: list[Member], batches: SemisupervisedBatches) -> Players:
    """Both networks drawn, scales and biases set by data, member by member; an Adam for each.

    MNIST's scales are set by the first 500 images of the training set, those of CIFAR-10 and SVHN by the first labelled
    ones, tiled (authors' code; that MNIST's minibatch network goes with MNIST is ours). One member at a time and on the
    CPU: ten at once would keep several GB of maps.
    """
    a = run.architecture
    generator, discriminator = build_generator(a, len(members)), build_discriminator(a, len(members))
    digits = image_shape(a)[0] == 1
    for number, member in enumerate(members):
        one_generator, one_discriminator = build_generator(a, 1), build_discriminator(a, 1)
        initialise_generator(a, one_generator, [member.stream("initial generator")], n_z=run.batch_size)
        images = batches.first(N_INITIAL, labelled=not digits and bool(run.n_labels), member=number).cpu()
        initialise_discriminator(a, one_discriminator, images, [member.stream("initial discriminator")])
        put_member(generator, number, one_generator)
        put_member(discriminator, number, one_discriminator)
    for network in (generator, discriminator):
        network.to(compute.device).train()
        keep_weights(network)
    rate, history = run.techniques.parameter_average, bool(run.techniques.historical_averaging)
    both = {"generator": generator, "discriminator": discriminator}
    return Players(
        generator=generator,
        discriminator=discriminator,
        generator_adam=adam_of(generator, run),
        discriminator_adam=adam_of(discriminator, run),
        average=ParameterAverage(discriminator, rate) if rate else None,
        histories={name: HistoricalAverage(network.parameters()) for name, network in both.items() if history},
    )


def adam_of(network: nn.Module, run: Run) -> RootAdam:
    """The authors' Adam, with the run's settings."""
    return RootAdam(
        network.parameters(),
        learning_rate=run.learning_rate,
        beta1=run.beta1,
        beta2=run.beta2,
        epsilon=run.adam_epsilon,
    )


def put_member(network: nn.Module, number: int, one: nn.Module) -> None:
    """Copy a network of one seed into the slice ``number`` of one of several."""
    with torch.no_grad():
        for target, source in zip(network.state_dict().values(), one.state_dict().values(), strict=True):
            target[number].copy_(source[0])


def member_tensors(players: Players, members: list[Member]) -> dict[str, torch.Tensor]:
    """Both networks of each member, and D's averaged parameters, under ``seed<k>/split<j>/NETWORK/``."""
    whole = {
        "generator": named_tensors("generator", players.generator),
        "discriminator": named_tensors("discriminator", players.discriminator),
    }
    if players.average is not None:
        with players.average.in_place():
            averaged = named_tensors("discriminator_average", players.discriminator)
            whole["discriminator_average"] = {name: tensor.clone() for name, tensor in averaged.items()}
    return {key: tensor for tensors in whole.values() for key, tensor in by_member(tensors, members).items()}


def by_member(tensors: dict[str, torch.Tensor], members: list[Member]) -> dict[str, torch.Tensor]:
    """Tensors of a network of several members, each member's slice under ``seed<k>/split<j>/``."""
    return {
        f"seed{member.seed}/split{member.split}/{name}": tensor[number : number + 1].clone()
        for name, tensor in tensors.items()
        for number, member in enumerate(members)
    }


def snapshot_steps(n_snapshots: int, total: int) -> list[int]:
    """The steps, counted from 1, after which G is kept: ``n_snapshots`` evenly spaced ones; the last is the last."""
    return sorted({-(-total * number // n_snapshots) for number in range(1, n_snapshots + 1)}) or [total]


def snapshot_name(step: int) -> str:
    """What G as it was after that step is called among the networks."""
    return f"generator_step{step}"


def snapshot_of(checkpoint: Path, step: int) -> Path:
    """Where a group keeps a snapshot until it has ended: beside its checkpoint."""
    return checkpoint.with_name(f"{checkpoint.stem}-step{step}.safetensors")


def keep_snapshot(path: Path, generator: nn.Module, members: list[Member], step: int) -> None:
    """Write the present G of each member; a run resumed from an earlier step writes the same bytes once more."""
    with whole_file(path) as partial:
        write_tensors(partial, by_member(named_tensors(snapshot_name(step), generator), members))


def read_snapshots(paths: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The tensors of all of them."""
    return {name: tensor for path in paths for name, tensor in read_tensors(path).items()}


def together(run: Run, groups: list[Group]) -> Trained:
    """The groups of a run as one."""
    return Trained(
        tensors={name: tensor for group in groups for name, tensor in group.tensors.items()},
        history=pd.DataFrame([row for group in groups for row in group.history], columns=[*HISTORY, *LOSSES]),
        errors=pd.DataFrame([row for group in groups for row in group.errors], columns=list(ERRORS)),
        health=pd.DataFrame([row for group in groups for row in group.health], columns=list(HEALTH)),
        labelled=pd.concat([group.labelled for group in groups]).drop_duplicates(ignore_index=True),
        logits=np.concatenate([group.logits for group in groups]),
        samples=np.concatenate([group.samples for group in groups]),
        steps=groups[0].step,
        images=sum(
            (group.step - group.resumed_from) * run.batch_size * len(members)
            for group, members in zip(groups, run.groups, strict=True)
        ),
    )


def said_members(members: list[Member]) -> str:
    """Such as ``split 0, seed 0, 1, 2``."""
    return "; ".join(
        f"split {split}, seed {', '.join(str(m.seed) for m in members if m.split == split)}"
        for split in dict.fromkeys(m.split for m in members)
    )


def check_set(image_set: ImageSet, run: Run) -> None:
    """Refuse images of another size than the networks', and test images without a class where D learns classes."""
    a = run.architecture
    channels, height, width = image_shape(a)
    if (found := image_set.images.shape[1:]) != (height, width, channels):
        message = (
            f"{image_set.path}: images of {' x '.join(map(str, found))}, the networks {a.name} take {height} x {width} "
            f"x {channels}; name another dataset or architecture"
        )
        raise InputError(message)
    labels = image_set.labels(image_set.rows("test"))
    if run.n_labels and (labels.min() < 0 or labels.max() >= CLASSES):
        message = (
            f"{image_set.path}: labels of the test images from {labels.min()} to {labels.max()}, the networks have "
            f"classes 0 to {CLASSES - 1}; name another dataset"
        )
        raise InputError(message)


# ---- tests, samples -------------------------------------------------------------------------------------------------


def tested(
    players: Players, image_set: ImageSet, run: Run, compute: Compute, members: list[Member], *, epoch: int
) -> list[dict[str, float]]:
    """A row of errors for each member: with the averaged parameters, and with the parameters as they are."""
    labels = image_set.labels(image_set.rows("test"))
    last = logits_of(players.discriminator, image_set, run, compute, len(members))
    average = tested_logits(players, image_set, run, compute, len(members)) if players.average is not None else last
    errors = [100 * (logits.argmax(-1) != labels).mean(axis=1) for logits in (average, last)]
    if not run.n_labels:  # nothing has taught D which logit is whose
        errors = [np.full(len(members), np.nan)] * 2
    return [
        member._asdict() | {"epoch": epoch, "error_percent": of_average, "error_percent_last": of_last}
        for member, of_average, of_last in zip(members, *(each.tolist() for each in errors), strict=True)
    ]


def tested_logits(players: Players, image_set: ImageSet, run: Run, compute: Compute, n_members: int) -> np.ndarray:
    """As :func:`logits_of`, with D's averaged parameters if there are any."""
    with players.average.in_place() if players.average is not None else nullcontext():
        return logits_of(players.discriminator, image_set, run, compute, n_members)


def logits_of(
    discriminator: Discriminator, image_set: ImageSet, run: Run, compute: Compute, n_members: int
) -> np.ndarray:
    """float32 (S, n_test, 10) of the test images, in the order of the set; noise and dropout off.

    A minibatch layer sees the batch: batches have the training's size, the last filled up with the first images, and
    are judged in a random order, always the same, as a set sorted by class would give batches of one class.
    """
    rows = image_set.rows("test")
    n, size = len(rows), run.batch_size
    order = numpy_stream(0, "order of test images").permutation(n)
    padded = np.resize(rows[order], -(-n // size) * size)
    judged = []
    discriminator.eval()
    for first in range(0, len(padded), size):
        images = to_network(image_set.images[padded[first : first + size]], run.pixels, compute.device)
        with torch.inference_mode(), autocast(compute):
            judged.append(discriminator(images.expand(n_members, *images.shape)).logits.cpu())
    discriminator.train()
    return torch.cat(judged, dim=1)[:, np.argsort(order)].numpy()


def fixed_samples(generator: nn.Module, run: Run, compute: Compute, members: list[Member]) -> np.ndarray:
    """uint8 (S, n_samples, H, W, C): one batch of each member."""
    z = draw_z(run.architecture, run.n_samples, streams(members, "fixed z")).to(compute.device)
    with torch.inference_mode(), autocast(compute):
        images = generator(z)
    return from_network(images.flatten(0, 1), run.pixels).reshape(len(members), run.n_samples, *image_sides(run))


def image_sides(run: Run) -> tuple[int, int, int]:
    """Height, width and channels of the images."""
    channels, height, width = image_shape(run.architecture)
    return height, width, channels


def samples_health(samples: np.ndarray, image_set: ImageSet, run: Run, members: list[Member]) -> list[dict[str, float]]:
    """How varied each member's samples are beside as many training images."""
    real = some_real(image_set, run.n_samples, seed=0)
    return [
        member._asdict() | {"epoch": run.epochs} | sample_health(images, real, of=said_members([member]))
        for member, images in zip(members, samples, strict=True)
    ]


def labelled_table(image_set: ImageSet, batches: SemisupervisedBatches) -> pd.DataFrame:
    """split, key, label: the images that had a label, of each split of the group."""
    tables = []
    for member, rows in zip(batches.members, batches.labelled_rows, strict=True):
        keys = image_set.index["key"].to_numpy()[rows]
        tables.append(pd.DataFrame({"split": member.split, "key": keys, "label": image_set.labels(rows)}))
    return pd.concat(tables).drop_duplicates(ignore_index=True)


def error_curve(errors: pd.DataFrame) -> pd.DataFrame:
    """epoch, error_percent (mean over the networks), lowest, highest, error_percent_last (mean): what is plotted."""
    grouped = errors.groupby("epoch", sort=True)
    curve = grouped[["error_percent", "error_percent_last"]].mean()
    curve.insert(1, "lowest", grouped["error_percent"].min())
    curve.insert(2, "highest", grouped["error_percent"].max())
    return curve.reset_index()
