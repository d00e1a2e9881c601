"""Training steps against the same networks and updates in plain fp32 PyTorch.

The MNIST conditional DCGAN at the paper's width; the 64 x 64 and 32 x 32 DCGANs at half of it, 64 filters, so that the
races end soon. Batches of 128 images, alternating updates.
"""

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.core.compute import Compute, precision_in_force, set_up
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models import dcgan
from pipeline.models.build import Architecture, ColourArchitecture, MnistArchitecture, conditioned, sides
from pipeline.training.adversarial import Run, Selection, initial_networks, training_step
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import RunState

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
ROUNDS = 3
BATCH = 128
TARGET_DIGITS, TARGET_COLOUR = 2.0, 1.6


def run_of(architecture: Architecture) -> Run:
    digits = conditioned(architecture)
    selection = Selection(every_epochs=100, batch_size=500, n_images=[1000]) if digits else None
    return Run(
        beta1=0.5,
        beta2=0.999,
        learning_rate=0.0002,
        adam_epsilon=1e-8,
        initial_std=0.02,
        updates="alternate",
        log_every_steps=100,
        n_samples=100,
        dataset="made",
        architecture=architecture,
        seeds=[0],
        batch_size=BATCH,
        constant_epochs=100,
        decay_epochs=100,
        l2=2.5e-5,
        sample_every_epochs=100,
        selection=selection,
        released=None,
    )


# ---- the peer: what a user would write ------------------------------------------------------------------------------


def labelled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if x.dim() == 4:
        y = y[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, y], dim=1)


def normal_1d(n: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(n, eps=1e-8, affine=False, track_running_stats=False)


def normal_2d(n: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n, eps=1e-8, affine=False, track_running_stats=False)


class PlainGenerator(nn.Module):
    """The four rows of G, in contiguous format."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.norm1 = nn.Linear(110, 1024, bias=False), normal_1d(1024)
        self.linear2, self.norm2 = nn.Linear(1034, 6272, bias=False), normal_1d(6272)
        self.up3 = nn.ConvTranspose2d(138, 64, 5, stride=2, padding=2, output_padding=1, bias=False)
        self.norm3 = normal_2d(64)
        self.up4 = nn.ConvTranspose2d(74, 1, 5, stride=2, padding=2, output_padding=1, bias=False)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """z (B, 100), y (B, 10) -> (B, 1, 28, 28)."""
        x = torch.relu(self.norm1(self.linear1(labelled(z, y))))
        x = torch.relu(self.norm2(self.linear2(labelled(x, y)))).view(-1, 128, 7, 7)
        x = torch.relu(self.norm3(self.up3(labelled(x, y))))
        return torch.sigmoid(self.up4(labelled(x, y)))


class PlainDiscriminator(nn.Module):
    """The four rows of D, in contiguous format."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(11, 64, 5, stride=2, padding=2, bias=False)
        self.down2, self.norm2 = nn.Conv2d(74, 128, 5, stride=2, padding=2, bias=False), normal_2d(128)
        self.linear3, self.norm3 = nn.Linear(6282, 1024, bias=False), normal_1d(1024)
        self.linear4 = nn.Linear(1034, 1, bias=False)
        self.leaky = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28), y (B, 10) -> logits (B, 1)."""
        x = self.leaky(self.down1(labelled(x, y)))
        x = self.leaky(self.norm2(self.down2(labelled(x, y)))).flatten(1)
        x = self.leaky(self.norm3(self.linear3(labelled(x, y))))
        return self.linear4(labelled(x, y))


def halved(n_in: int, n_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def doubled(n_in: int, n_out: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        n_in, n_out, kernel, stride=stride, padding=kernel // 2, output_padding=stride - 1, bias=False
    )


def learnt(n: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n, eps=1e-8, track_running_stats=False)


def projected(z_dim: int, n: int) -> list[nn.Module]:
    norm = nn.BatchNorm1d(16 * n, eps=1e-8, track_running_stats=False)
    return [nn.Linear(z_dim, 16 * n, bias=False), norm, nn.ReLU(), nn.Unflatten(1, (n, 4, 4))]


def judged(n: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(16 * n, 1, bias=False)]


def plain_64(n: int = 64) -> tuple[nn.Module, nn.Module]:
    """G and D for 64 x 64 images, in contiguous format."""
    generator = projected(100, 8 * n)
    for width in (8 * n, 4 * n, 2 * n):
        generator += [doubled(width, width // 2), learnt(width // 2), nn.ReLU()]
    discriminator: list[nn.Module] = [halved(3, n), nn.LeakyReLU(0.2)]
    for width in (n, 2 * n, 4 * n):
        discriminator += [halved(width, 2 * width), learnt(2 * width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*generator, doubled(n, 3), nn.Tanh()), nn.Sequential(*discriminator, *judged(8 * n))


def plain_32(n: int = 64) -> tuple[nn.Module, nn.Module]:
    """G and D for 32 x 32 images (ImageNet), in contiguous format."""
    generator = projected(256, 4 * n)
    for n_in, n_out, stride in ((4, 4, 2), (4, 2, 1), (2, 2, 2), (2, 1, 1), (1, 1, 2)):
        generator += [doubled(n_in * n, n_out * n, 3, stride), learnt(n_out * n), nn.ReLU()]
    discriminator: list[nn.Module] = [halved(3, n, 3, 1), nn.LeakyReLU(0.2)]
    for n_in, n_out, stride in ((1, 1, 2), (1, 2, 1), (2, 2, 2), (2, 4, 1), (4, 4, 2)):
        discriminator += [halved(n_in * n, n_out * n, 3, stride), learnt(n_out * n), nn.LeakyReLU(0.2)]
    return nn.Sequential(*generator, doubled(n, 3, 3, 1), nn.Tanh()), nn.Sequential(*discriminator, *judged(4 * n))


class Plain:
    """Both networks, their optimisers, and the alternating step."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, image_set: ImageSet, *, digits: bool) -> None:
        self.generator, self.discriminator, self.digits = generator, discriminator, digits
        for network in (self.generator, self.discriminator):
            for weight in network.parameters():
                if weight.dim() > 1:
                    nn.init.normal_(weight, std=0.02)
        settings = {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 2.5e-5}
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), **settings)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.loss = nn.BCEWithLogitsLoss()
        self.images, self.labels = image_set.images, image_set.index["label"].to_numpy()

    def batch(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Images in the range of the generator, and labels for digits."""
        chosen = torch.randperm(len(self.images))[:BATCH].numpy()
        real = torch.from_numpy(self.images[chosen]).permute(0, 3, 1, 2).contiguous().float() / 255
        if not self.digits:
            return real * 2 - 1, []
        return real, [nn.functional.one_hot(torch.from_numpy(self.labels[chosen]), 10).float()]

    def step(self, number: int, z_dim: int) -> None:
        """G on even numbers, D on odd ones."""
        real, y = self.batch()
        z = torch.rand(BATCH, z_dim) * 2 - 1
        ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
        if number % 2 == 1:
            self.discriminator_adam.zero_grad()
            fake = self.generator(z, *y).detach()
            loss = self.loss(self.discriminator(real, *y), ones) + self.loss(self.discriminator(fake, *y), zeros)
            loss.backward()
            self.discriminator_adam.step()
        else:
            self.generator_adam.zero_grad()
            self.loss(self.discriminator(self.generator(z, *y), *y), ones).backward()
            self.generator_adam.step()


# ---- the races ------------------------------------------------------------------------------------------------------


def made_set(architecture: Architecture) -> ImageSet:
    n = 1024
    images = numpy_stream(0, "benchmark").integers(0, 256, (n, *sides(architecture)), dtype=np.uint8)
    index = pd.DataFrame({"key": "", "split": "train", "label": np.arange(n) % 10, "source": ""})
    return ImageSet(path=Path("made"), images=images, index=index)


def our_step(architecture: Architecture, image_set: ImageSet) -> Callable[[int], None]:
    run = run_of(architecture)
    batches = Batches(image_set, "train", architecture, batch_size=BATCH, seed=0, device="cpu")
    state = RunState(networks=initial_networks(run, COMPUTE, 0))
    return lambda number: training_step(state, run, COMPUTE, batches, 0, number)


def race(
    what: str, architecture: Architecture, plain: tuple[nn.Module, nn.Module], *, steps: int, target: float
) -> None:
    """Print images/s of both and their ratio; an even number of steps has as many updates of G as of D."""
    image_set = made_set(architecture)
    peer = Plain(*plain, image_set, digits=conditioned(architecture))
    racers = {
        "ours": our_step(architecture, image_set),
        "plain": functools.partial(peer.step, z_dim=architecture.z_dim),
    }
    for step in racers.values():  # first calls choose kernels
        step(0)
        step(1)
    seconds: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(ROUNDS):
        for name, step in racers.items():
            started = time.perf_counter()
            for number in range(steps):
                step(number)
            seconds[name].append(time.perf_counter() - started)
    rate = {name: BATCH * steps / statistics.median(values) for name, values in seconds.items()}
    print(
        f"training step, {what}, batch {BATCH}, alternate, {COMPUTE.threads} threads: "
        f"ours ({precision_in_force(COMPUTE)}) {rate['ours']:,.0f} images/s, "
        f"plain fp32 PyTorch {rate['plain']:,.0f} images/s, "
        f"ratio {rate['ours'] / rate['plain']:.2f} (target >= {target:g})",
        flush=True,
    )


def main() -> None:
    set_up(COMPUTE)
    torch.manual_seed(0)
    digits = MnistArchitecture(name="dcgan_mnist", z_dim=100, filters=64, hidden=1024)
    plain = PlainGenerator(), PlainDiscriminator()
    race("MNIST conditional DCGAN", digits, plain, steps=10, target=TARGET_DIGITS)
    lsun = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=100, filters=64, variant=dcgan.PAPER)
    race("64 x 64 DCGAN of 64 filters", lsun, plain_64(), steps=4, target=TARGET_COLOUR)
    imagenet = ColourArchitecture(name="dcgan_32", z="uniform", z_dim=256, filters=64, variant=dcgan.PAPER)
    race("32 x 32 DCGAN of 64 filters", imagenet, plain_32(), steps=6, target=TARGET_COLOUR)


if __name__ == "__main__":
    main()
