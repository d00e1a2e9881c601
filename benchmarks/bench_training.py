"""Training steps of the MNIST conditional DCGAN at the paper's width, against the same in plain fp32 PyTorch."""

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
from pipeline.models.build import Architecture
from pipeline.training.adversarial import Run, Selection, initial_networks, training_step
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import RunState

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
ROUNDS = 3
STEPS = 10  # an even number: as many updates of G as of D
BATCH = 128
RUN = Run(
    beta1=0.5,
    beta2=0.999,
    learning_rate=0.0002,
    adam_epsilon=1e-8,
    initial_std=0.02,
    updates="alternate",
    log_every_steps=100,
    dataset="mnist",
    architecture=Architecture(name="dcgan_mnist", z_dim=100, filters=64, hidden=1024),
    seeds=[0],
    batch_size=BATCH,
    constant_epochs=100,
    decay_epochs=100,
    l2=2.5e-5,
    selection=Selection(every_epochs=5, batch_size=500, n_images=[1000]),
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


class Plain:
    """Both networks, their optimisers, and the alternating step."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.generator, self.discriminator = PlainGenerator(), PlainDiscriminator()
        for network in (self.generator, self.discriminator):
            for weight in network.parameters():
                nn.init.normal_(weight, std=0.02)
        settings = {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 2.5e-5}
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), **settings)
        self.discriminator_adam = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.loss = nn.BCEWithLogitsLoss()
        self.images, self.labels = images, labels

    def step(self, number: int) -> None:
        """G on even numbers, D on odd ones."""
        chosen = torch.randperm(len(self.images))[:BATCH].numpy()
        real = torch.from_numpy(self.images[chosen]).permute(0, 3, 1, 2).contiguous().float() / 255
        y = nn.functional.one_hot(torch.from_numpy(self.labels[chosen]), 10).float()
        z = torch.rand(BATCH, 100) * 2 - 1
        ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
        if number % 2 == 1:
            self.discriminator_adam.zero_grad()
            fake = self.generator(z, y).detach()
            loss = self.loss(self.discriminator(real, y), ones) + self.loss(self.discriminator(fake, y), zeros)
            loss.backward()
            self.discriminator_adam.step()
        else:
            self.generator_adam.zero_grad()
            self.loss(self.discriminator(self.generator(z, y), y), ones).backward()
            self.generator_adam.step()


# ---- the race -------------------------------------------------------------------------------------------------------


def our_step(images: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    index = pd.DataFrame({"key": "", "split": "train", "label": labels, "source": ""})
    image_set = ImageSet(path=Path("made"), images=images, index=index)
    batches = Batches(image_set, "train", classes=10, batch_size=BATCH, seed=0, device="cpu")
    state = RunState(networks=initial_networks(RUN, COMPUTE, 0))
    return lambda number: training_step(state, RUN, COMPUTE, batches, 0, number)


def main() -> None:
    set_up(COMPUTE)
    images = numpy_stream(0, "benchmark").integers(0, 256, (4096, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(4096) % 10
    torch.manual_seed(0)
    steps = {"ours": our_step(images, labels), "plain": Plain(images, labels).step}
    for step in steps.values():  # first calls choose kernels
        step(0)
        step(1)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.perf_counter()
            for number in range(STEPS):
                step(number)
            seconds[name].append(time.perf_counter() - started)
    rate = {name: BATCH * STEPS / statistics.median(values) for name, values in seconds.items()}
    print(
        f"training step, MNIST conditional DCGAN, batch {BATCH}, alternate, {COMPUTE.threads} threads: "
        f"ours ({precision_in_force(COMPUTE)}) {rate['ours']:,.0f} images/s, "
        f"plain fp32 PyTorch {rate['plain']:,.0f} images/s, ratio {rate['ours'] / rate['plain']:.2f} (target >= 2)"
    )


if __name__ == "__main__":
    main()
