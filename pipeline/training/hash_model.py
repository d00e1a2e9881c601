"""Training of the autoencoder that hashes images for deduplication (DCGAN, section 4.1)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval

from pipeline.core.compute import Compute
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.hash_autoencoder import (
    INPUTS,
    UNITS,
    HashAutoencoder,
    downsampled,
    initialise_autoencoder,
    inputs_of,
)
from pipeline.models.store import load_into, named_tensors
from pipeline.training.checkpoint import CheckpointClock, adam_tensors, restore_adam, restoring, write_checkpoint
from pipeline.training.health import check_finite

PLAIN = ("step", "history")  # of the state, beside tensors


@section
class HashModel:
    """``hash_model`` in params.yaml."""

    dataset: str  # dvc.yaml puts the set in its place
    split: str  # whose images are learnt from
    seed: int
    masking: Annotated[float, Interval(ge=0, lt=1)]
    dropout: Annotated[float, Interval(ge=0, lt=1)]
    learning_rate: Annotated[float, Gt(0)]
    batch_size: Annotated[int, Ge(1)]
    epochs: Annotated[int, Ge(1)]


@dataclass(kw_only=True)
class HashState:
    """All that training carries from step to step."""

    network: HashAutoencoder
    adam: torch.optim.Adam
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    # since the epoch began
    loss_sum: torch.Tensor  # float64, over images
    active: torch.Tensor  # int64 (128,), images that each unit responded to

    def bad_step(self) -> int:
        """Number of this step if its epoch's loss or a weight is not finite, which no checkpoint must hold; else 0."""
        found = [self.loss_sum, *self.network.parameters()]
        return 0 if all(bool(values.isfinite().all()) for values in found) else self.step

    def log(self, config: HashModel, *, epoch: int, n_images: int) -> None:
        """Add the epoch's row to the history and begin the next epoch's sums."""
        active = self.active.cpu().numpy()
        self.history.append(
            {
                "seed": config.seed,
                "epoch": epoch,
                "step": self.step,
                "loss": float(self.loss_sum) / n_images,
                "dead_units": float(np.mean(active == 0)),
                "constant_units": float(np.mean((active == 0) | (active == n_images))),
                "active_share": float(active.mean() / n_images),
            }
        )
        self.loss_sum.zero_()
        self.active.zero_()


@dataclass(frozen=True, kw_only=True)
class TrainedHash:
    """The trained network.

    Attributes
    ----------
    tensors : ``seed<k>/autoencoder/...``
    history : a row an epoch: seed, epoch (from 0), step, loss (mean squared error to the clean input), and of the code
        units under masking noise: the shares that never responded, and that responded never or always (of the units),
        and the mean share of images a unit responded to
    """

    tensors: dict[str, torch.Tensor]
    history: pd.DataFrame
    steps: int


def train(image_set: ImageSet, config: HashModel, compute: Compute, scratch: Path) -> TrainedHash:
    """Fit the autoencoder; resumes from what ``scratch`` holds. Images are read batch by batch from the memory map.

    Always in fp32: the network is so small that most of the time goes into reading, noise and Adam.
    """
    rows = image_set.rows(config.split)
    per_epoch = -(-len(rows) // config.batch_size)
    total = config.epochs * per_epoch
    checkpoint, clock = scratch / f"seed{config.seed}.safetensors", CheckpointClock()
    state = initial_state(config, compute)
    restore(checkpoint, state)
    order, order_of = np.empty(0, dtype=np.int64), -1
    with Progress("hash model", total=total, unit="steps", done=state.step) as progress:
        for step in range(state.step, total):
            epoch, position = divmod(step, per_epoch)
            if epoch != order_of:
                order, order_of = numpy_stream(config.seed, "hash shuffle", epoch).permutation(len(rows)), epoch
            chosen = rows[order[position * config.batch_size : (position + 1) * config.batch_size]]
            small = downsampled(image_set.images[chosen], image_set.path)
            training_step(state, config, inputs_of(small, compute.device))
            due = clock.due() or state.step == total
            if due or state.step % per_epoch == 0:
                check_finite(state.bad_step(), run="hash model", kept=checkpoint)
            if state.step % per_epoch == 0:
                state.log(config, epoch=epoch, n_images=len(rows))
            if due:
                save(checkpoint, state)
            progress.advance(1)
    tensors = named_tensors(f"seed{config.seed}/autoencoder", state.network)
    return TrainedHash(tensors=tensors, history=pd.DataFrame(state.history), steps=state.step)


def initial_state(config: HashModel, compute: Compute) -> HashState:
    """The untrained network and its Adam."""
    network = HashAutoencoder()
    initialise_autoencoder(network, config.seed)
    network.to(compute.device)
    return HashState(
        network=network,
        adam=torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True),
        loss_sum=torch.zeros((), dtype=torch.float64, device=compute.device),
        active=torch.zeros(UNITS, dtype=torch.int64, device=compute.device),
    )


def training_step(state: HashState, config: HashModel, clean: torch.Tensor) -> None:
    """One update of Adam towards the clean input (B, 3072), seen through masking noise and dropout of code units."""
    masked = clean * _kept(len(clean), INPUTS, config.masking, config.seed, "hash masking", state.step).to(clean.device)
    units = state.network.units(masked)
    kept = _kept(len(clean), UNITS, config.dropout, config.seed, "hash dropout", state.step).to(clean.device)
    loss = F.mse_loss(state.network.decoder(units * kept / (1 - config.dropout)), clean)
    state.adam.zero_grad()
    loss.backward()
    state.adam.step()
    state.loss_sum += loss.detach().double() * len(clean)
    state.active += (units.detach() > 0).sum(dim=0)
    state.step += 1


def _kept(n: int, width: int, probability: float, seed: int, name: str, step: int) -> torch.Tensor:
    """bool (n, width), False with the given probability."""
    return torch.rand(n, width, generator=torch_stream(seed, name, step)) >= probability


def save(path: Path, state: HashState) -> None:
    """Replace the checkpoint by the present state."""
    tensors = named_tensors("autoencoder", state.network)
    tensors |= {"loss_sum": state.loss_sum.cpu(), "active": state.active.cpu()}
    tensors |= adam_tensors("adam", state.adam)
    write_checkpoint(path, tensors, state, PLAIN)


def restore(path: Path, state: HashState) -> None:
    """Bring a fresh state to the checkpoint's, if there is one.

    Raises
    ------
    InputError
        If the checkpoint is of another network or damaged.
    """
    if not path.exists():
        return
    with restoring(path, state, PLAIN, what="a checkpoint of the hash model") as tensors:
        load_into(state.network, tensors, "autoencoder", path)
        restore_adam(state.adam, tensors, "adam")
        state.loss_sum.copy_(tensors["loss_sum"])
        state.active.copy_(tensors["active"])
