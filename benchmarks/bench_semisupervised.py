"""Steps of semi-supervised training: against plain fp32 PyTorch, and several networks as one batch against each alone.

A step updates D, then G (Improved GAN, section 5). The authors' sizes for MNIST: G 500-500-784, D
1000-500-250-250-250, batches of 100 labelled, 100 unlabelled and 100 generated images. The images are random: speed
does not depend on them.
"""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pipeline.core.compute import Compute, precision_in_force, set_up
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.improved import SemisupArchitecture, image_shape
from pipeline.models.improved_layers import GeneratorBatchNorm, Linear, WeightNormLinear
from pipeline.models.mnist import CLASSES
from pipeline.training.labelled_batches import Pixels, SemisupervisedBatches
from pipeline.training.memory import keep_freed_memory
from pipeline.training.semisupervised import GroupState, Players, Run, Techniques, initial_players, training_step, z_of

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
BATCH = 100
LEARNING_RATE, BETAS, AVERAGE_RATE = 0.003, (0.5, 0.999), 0.0001
TARGET_PLAIN, TARGET_BATCHED = 2.0, 2.0

MNIST = SemisupArchitecture(
    name="semisup_mnist",
    preset="current",
    z_dim=100,
    generator_width=500,
    discriminator_width=250,
    weight_norm=True,
    data_dependent=True,
    noise=True,
    reference_batch=0,
)
SMALL_MNIST = replace(MNIST, generator_width=100, discriminator_width=50)
CIFAR10 = replace(MNIST, name="semisup_conv", generator_width=32, discriminator_width=32)


def run_of(architecture: SemisupArchitecture, n_members: int) -> Run:
    digits = architecture.name == "semisup_mnist"
    return Run(
        beta1=BETAS[0],
        beta2=BETAS[1],
        adam_epsilon=1e-8,
        log_every_steps=100,
        n_samples=100,
        dataset="made",
        n_labels=100,
        architecture=architecture,
        techniques=Techniques(
            generator_loss="squared_feature_matching" if digits else "absolute_feature_matching",
            generator_steps=1,
            real_target=1.0,
            historical_averaging=0.0,
            parameter_average=AVERAGE_RATE,
        ),
        pixels=Pixels(offset=0.0, divisor=255.0) if digits else Pixels(offset=127.5, divisor=128.0),
        splits=[0],
        seeds=list(range(n_members)),
        at_once=n_members,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        constant_epochs=300,
        decay_epochs=0,
        test_every_epochs=100,
        labels_only_epochs=0,
        n_snapshots=0,
    )


def made_set(architecture: SemisupArchitecture) -> ImageSet:
    n = 6000
    channels, height, width = image_shape(architecture)
    images = numpy_stream(0, "benchmark").integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    index = pd.DataFrame({"key": "", "split": "train", "label": np.arange(n) % CLASSES, "source": ""})
    return ImageSet(path=Path("made"), images=images, index=index)


class Ours:
    """A group of members, as the stage trains it; the same step of ``training_step`` for all of them."""

    def __init__(
        self, architecture: SemisupArchitecture, image_set: ImageSet, n_members: int, compute: Compute = COMPUTE
    ) -> None:
        self.run, self.compute = run_of(architecture, n_members), compute
        (members,) = self.run.groups
        self.batches = SemisupervisedBatches(
            image_set,
            members=members,
            n_labels=self.run.n_labels,
            n_classes=CLASSES,
            batch_size=BATCH,
            pixels=self.run.pixels,
            device=compute.device,
        )
        self.state = GroupState(players=initial_players(self.run, compute, members, self.batches))

    def step(self, number: int) -> None:
        """D, then G."""
        training_step(self.state, self.run, self.compute, self.batches, number)


# ---- the peer: what a user would write ------------------------------------------------------------------------------


SCALE, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"


def normed(n_in: int, n_out: int, *, trained_scale: bool) -> nn.Linear:
    """PyTorch's weight norm; the authors freeze the scales of hidden layers."""
    layer = nn.Linear(n_in, n_out)
    weight_norm(layer)
    layer.get_parameter(SCALE).requires_grad = trained_scale
    return layer


def shifted_norm(n: int) -> nn.BatchNorm1d:
    """Batch norm without a gain."""
    norm = nn.BatchNorm1d(n, eps=1e-6, track_running_stats=False)
    norm.weight.requires_grad = False
    return norm


class PlainGenerator(nn.Module):
    """The three rows of G."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.norm1 = nn.Linear(100, 500, bias=False), shifted_norm(500)
        self.linear2, self.norm2 = nn.Linear(500, 500, bias=False), shifted_norm(500)
        self.linear3 = normed(500, 784, trained_scale=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z (B, 100) -> (B, 784)."""
        x = F.softplus(self.norm1(self.linear1(z)))
        x = F.softplus(self.norm2(self.linear2(x)))
        return torch.sigmoid(self.linear3(x))


class PlainDiscriminator(nn.Module):
    """The six rows of D."""

    def __init__(self, *, noise: bool) -> None:
        super().__init__()
        self.noise = noise
        widths = [784, 1000, 500, 250, 250, 250]
        self.hidden = nn.ModuleList([normed(n, m, trained_scale=False) for n, m in pairwise(widths)])
        self.logits = normed(250, CLASSES, trained_scale=True)

    def noisy(self, x: torch.Tensor, std: float) -> torch.Tensor:
        """Noise while training, which is all that is timed."""
        return x + std * torch.randn_like(x) if self.noise else x

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 784) -> (B, 250)."""
        for number, layer in enumerate(self.hidden):
            x = torch.relu(layer(self.noisy(x, 0.5 if number else 0.3)))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 784) -> logits (B, 10)."""
        return self.logits(self.noisy(self.features(x), 0.5))


class Plain:
    """Both networks, their optimisers, the average of D's parameters, and one step.

    PyTorch's weight norm computes each layer's weights anew in every pass of D, of which a step has five.
    """

    def __init__(self, image_set: ImageSet, *, noise: bool = True) -> None:
        self.generator, self.discriminator = PlainGenerator(), PlainDiscriminator(noise=noise)
        self.generator_adam, self.discriminator_adam = (
            torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=LEARNING_RATE, betas=BETAS)
            for network in (self.generator, self.discriminator)
        )
        self.trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.discriminator.parameters()]
        self.images = torch.from_numpy(image_set.images).flatten(1)
        self.labels = torch.from_numpy(image_set.labels(np.arange(len(image_set.images))))

    def batch(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random images of the first n, in [0, 1], and their labels."""
        rows = torch.randint(0, n, (BATCH,))
        return self.images[rows].float() / 255, self.labels[rows]

    def discriminator_loss(
        self, labelled: torch.Tensor, labels: torch.Tensor, unlabelled: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The labelled and the unsupervised part; a pass of D for each of the three batches."""
        with torch.no_grad():
            fake = self.generator(z)
        of_class = F.cross_entropy(self.discriminator(labelled), labels)
        of_real = torch.logsumexp(self.discriminator(unlabelled), dim=1)
        of_fake = torch.logsumexp(self.discriminator(fake), dim=1)
        return of_class, 0.5 * F.softplus(-of_real).mean() + 0.5 * F.softplus(of_fake).mean()

    def generator_loss(self, matched: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Feature matching."""
        with torch.no_grad():
            target = self.discriminator.features(matched).mean(0)
        return (self.discriminator.features(self.generator(z)).mean(0) - target).square().mean()

    def step(self, _number: int) -> None:
        """D, then G, in whose step D's parameters are frozen, so that no gradient of them is computed."""
        labelled, labels = self.batch(100)
        unlabelled, _ = self.batch(len(self.images))
        matched, _ = self.batch(len(self.images))
        self.discriminator_adam.zero_grad()
        of_class, unsupervised = self.discriminator_loss(labelled, labels, unlabelled, torch.rand(BATCH, 100))
        (of_class + unsupervised).backward()
        self.discriminator_adam.step()
        with torch.no_grad():
            for average, parameter in zip(self.averages, self.discriminator.parameters(), strict=True):
                average.lerp_(parameter, AVERAGE_RATE)
        self.generator_adam.zero_grad()
        for parameter in self.trained:
            parameter.requires_grad = False
        self.generator_loss(matched, torch.rand(BATCH, 100)).backward()
        for parameter in self.trained:
            parameter.requires_grad = True
        self.generator_adam.step()


# ---- the peer computes the same -------------------------------------------------------------------------------------


@torch.no_grad()
def copy_linear(ours: nn.Module, theirs: nn.Linear) -> None:
    """Weights of our layer, of one member, into PyTorch's."""
    if isinstance(ours, WeightNormLinear):
        theirs.get_parameter(SCALE).copy_(ours.scale[0].unsqueeze(1))
        theirs.get_parameter(DIRECTION).copy_(ours.direction[0].T)
        theirs.bias.copy_(ours.bias[0])
    else:
        assert isinstance(ours, Linear)
        theirs.weight.copy_(ours.weight[0].T)


def copy_players(players: Players, peer: Plain) -> None:
    """All that the networks of one member hold, into the peer's."""
    kinds = (Linear, WeightNormLinear)
    of_generator = [layer for layer in players.generator.modules() if isinstance(layer, kinds)]
    of_discriminator = [layer for layer in players.discriminator.modules() if isinstance(layer, kinds)]
    generator, discriminator = peer.generator, peer.discriminator
    for ours, theirs in zip(of_generator, (generator.linear1, generator.linear2, generator.linear3), strict=True):
        copy_linear(ours, theirs)
    for ours, theirs in zip(of_discriminator, (*discriminator.hidden, discriminator.logits), strict=True):
        assert isinstance(theirs, nn.Linear)
        copy_linear(ours, theirs)
    norms = [layer for layer in players.generator.modules() if isinstance(layer, GeneratorBatchNorm)]
    for ours, theirs in zip(norms, (generator.norm1, generator.norm2), strict=True):
        theirs.bias.data.copy_(ours.shift[0])


def check_same(image_set: ImageSet) -> None:
    """Without noise, with equal weights, in fp32: the losses of a step are the same for both."""
    ours = Ours(replace(MNIST, noise=False), image_set, 1, replace(COMPUTE, precision="fp32"))
    peer = Plain(image_set, noise=False)
    copy_players(ours.state.players, peer)
    batch, z = ours.batches.batch(0), functools.partial(z_of, ours.run, COMPUTE, ours.batches.members, index=0)
    (labelled,), (labels,) = batch.labelled, batch.labels
    of_class, unsupervised = peer.discriminator_loss(
        labelled[0].flatten(1), labels[0], batch.unlabelled[0].flatten(1), z(what="z for D")[0]
    )
    matching = peer.generator_loss(batch.matched[0].flatten(1), z(what="z for G")[0])
    theirs = {"labelled_loss": of_class, "unsupervised_loss": unsupervised, "generator_loss": matching}
    for adam in (ours.state.players.generator_adam, ours.state.players.discriminator_adam):
        adam.param_groups[0]["lr"] = 0.0  # G's loss is of the same D then: their Adam is not ours
    ours.step(0)
    for name, value in theirs.items():
        found, expected = ours.state.sums[name].item(), value.item()
        assert abs(found - expected) < 1e-4 * max(1.0, abs(expected)), f"{name}: ours {found}, the peer's {expected}"


# ---- the races ------------------------------------------------------------------------------------------------------


def race(racers: dict[str, Callable[[int], None]], steps: dict[str, int], rounds: int) -> dict[str, float]:
    """Seconds of a step of each: the median of rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in racers}
    for step in racers.values():  # first calls choose kernels
        step(0)
    for round_number in range(rounds):
        for name, step in racers.items():
            started = time.perf_counter()
            for number in range(steps[name]):
                step(round_number * steps[name] + number)
            seconds[name].append((time.perf_counter() - started) / steps[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def against_plain(image_set: ImageSet, *, steps: int, rounds: int) -> None:
    ours, peer = Ours(MNIST, image_set, 1), Plain(image_set)
    taken = race({"ours": ours.step, "plain": peer.step}, {"ours": steps, "plain": steps}, rounds)
    print(
        f"semi-supervised step (D and G), MNIST at the authors' sizes, 1 network, {COMPUTE.threads} threads: "
        f"ours ({precision_in_force(COMPUTE)}) {1 / taken['ours']:,.1f} steps/s, "
        f"plain fp32 PyTorch {1 / taken['plain']:,.1f} steps/s, "
        f"ratio {taken['plain'] / taken['ours']:.2f} (target >= {TARGET_PLAIN:g})",
        flush=True,
    )


def batched(
    what: str, architecture: SemisupArchitecture, image_set: ImageSet, n: int, *, rounds: int, target: float | None
) -> None:
    """Print the time per network and step of n networks as one batch, and of one alone."""
    one, many = Ours(architecture, image_set, 1), Ours(architecture, image_set, n)
    taken = race({"one": one.step, "many": many.step}, {"one": n, "many": 1}, rounds)
    print(
        f"semi-supervised step (D and G), {what}, {COMPUTE.threads} threads, {precision_in_force(COMPUTE)}: "
        f"{n} networks as one batch {1000 * taken['many'] / n:,.2f} ms a network, one alone "
        f"{1000 * taken['one']:,.2f} ms, ratio {taken['one'] * n / taken['many']:.2f}"
        + (f" (target >= {target:g})" if target else ""),
        flush=True,
    )


def main() -> None:
    set_up(COMPUTE)
    keep_freed_memory()
    torch.manual_seed(0)
    digits, colours = made_set(MNIST), made_set(CIFAR10)
    check_same(digits)
    against_plain(digits, steps=5, rounds=9)
    batched("MNIST at the authors' sizes", MNIST, digits, 10, rounds=7, target=TARGET_BATCHED)
    batched("MNIST at G 100, D 50", SMALL_MNIST, digits, 10, rounds=9, target=TARGET_BATCHED)
    batched("CIFAR-10 at G 32, D 32", CIFAR10, colours, 3, rounds=3, target=None)


if __name__ == "__main__":
    main()
