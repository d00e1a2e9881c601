"""Save and restore a training run exactly: a resumed run ends in the same bytes as an unbroken one."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.models.store import load_into, named_tensors, read_note, read_tensors, write_tensors
from pipeline.training.health import sample_health
from pipeline.training.parallel import average
from pipeline.training.updates import Networks

# of the tables, so that a run without any row has them too
HISTORY = (
    *("seed", "step", "epoch", "learning_rate", "d_loss", "g_loss", "d_real", "d_fake", "d_gradient", "g_gradient"),
)
VALIDATION = ("seed", "epoch", "n_images", "error_percent", "mean_distance", "chosen")
HEALTH = ("seed", "epoch", "diversity", "collapsed")
PLAIN = ("step", "history", "validation", "health", "counts")  # of the state, beside tensors
SECONDS_BETWEEN = 30.0  # with the time of scoring an epoch on top, a kill still loses less than a minute


@dataclass(kw_only=True)
class RunState:
    """All that one seed's training carries from step to step."""

    networks: Networks
    step: int = 0
    resumed_from: int = 0  # the step at which this process began
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # both networks at the chosen epoch
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    samples: dict[str, torch.Tensor] = field(default_factory=dict)  # epochs done -> uint8 (N, H, W, C), at fixed z
    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # since the last row of the history
    counts: dict[str, int] = field(default_factory=dict)
    first_bad: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def add(self, what: str, values: torch.Tensor) -> None:
        """Add one update's numbers (see ``updates``) to the running sums, without waiting for the device.

        Their means over the processes, so that all of these carry the same sums and stop at the same step.
        """
        values = average(values)
        self.sums[what] = self.sums[what] + values.double() if what in self.sums else values.double()
        self.counts[what] = self.counts.get(what, 0) + 1
        first_bad = self.first_bad.to(values.device)
        self.first_bad = torch.where((first_bad == 0) & ~values.isfinite().all(), self.step + 1, first_bad)

    def log(self, *, seed: int, epoch: int, learning_rate: float) -> None:
        """Turn the sums into a row of means: a network that had no update since the last row gets NaN."""
        nan = float("nan")
        d_loss, d_real, d_fake = self._mean("d") or [nan] * 3
        (g_loss,) = self._mean("g") or [nan]
        (d_gradient,) = self._mean("d_gradient") or [nan]
        (g_gradient,) = self._mean("g_gradient") or [nan]
        self.history.append(
            {
                "seed": seed,
                "step": self.step,
                "epoch": epoch,
                "learning_rate": learning_rate,
                "d_loss": d_loss,
                "g_loss": g_loss,
                "d_real": d_real,
                "d_fake": d_fake,
                "d_gradient": d_gradient,
                "g_gradient": g_gradient,
            }
        )
        self.sums.clear()
        self.counts.clear()

    def add_samples(self, samples: np.ndarray, real: np.ndarray, *, seed: int, epoch: int) -> None:
        """Keep the samples of an epoch (counted as done), and a row on their health beside real images."""
        self.samples[str(epoch)] = torch.from_numpy(samples)
        of_samples = sample_health(samples, real, of=f"seed {seed}, epoch {epoch}")
        self.health.append({"seed": seed, "epoch": epoch} | of_samples)

    def bad_step(self) -> int:
        """The first step whose loss was not finite, or this one if a weight is not; counted from 1, 0 = none.

        An update may spoil weights after a last finite loss; a checkpoint must not hold them.
        """
        weights = [*self.networks.generator.parameters(), *self.networks.discriminator.parameters()]
        return int(self.first_bad) or (0 if all(w.isfinite().all() for w in weights) else self.step)

    def _mean(self, what: str) -> list[float] | None:
        return (self.sums[what] / self.counts[what]).tolist() if what in self.sums else None


def stacked(samples: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a state, uint8 (epochs, N, H, W, C), and their epochs, int64 (epochs,), ascending."""
    epochs = sorted(samples, key=int)  # a checkpoint brings them back in the order of text
    return torch.stack([samples[epoch] for epoch in epochs]).numpy(), np.array([*map(int, epochs)], dtype=np.int64)


class CheckpointClock:
    """Says when a checkpoint is due, so that a kill loses less than a minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """True once every ``SECONDS_BETWEEN`` seconds."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN:
            return False
        self._last = now
        return True


# ---- any training ---------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], state: object, plain: tuple[str, ...]) -> None:
    """Replace a checkpoint; a kill at any moment leaves the old one or the new one.

    Parameters
    ----------
    tensors : of the state
    plain : names of the state's attributes that are numbers and rows
    """
    note = json.dumps({name: getattr(state, name) for name in plain})
    with whole_file(path) as partial:
        write_tensors(partial, tensors, note=note)


@contextmanager
def restoring(path: Path, state: object, plain: tuple[str, ...], *, what: str) -> Iterator[dict[str, torch.Tensor]]:
    """Give the tensors of a checkpoint to the block, which restores them; then restore the plain attributes.

    Raises
    ------
    InputError
        If the file is damaged or lacks something: it is not ``what``.
    """
    tensors = read_tensors(path)
    try:
        yield tensors
        found = json.loads(read_note(path))
        for name in plain:
            setattr(state, name, found[name])
    except (ValueError, KeyError) as error:
        message = f"{path}: not {what} ({error}); remove it and run the stage again"
        raise InputError(message) from error


def adam_tensors(prefix: str, adam: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """Moments and step counts under ``prefix/``, on the CPU."""
    return {
        f"{prefix}/{number}/{key}": value.detach().cpu().contiguous()
        for number, values in adam.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_adam(adam: torch.optim.Adam, tensors: dict[str, torch.Tensor], prefix: str) -> None:
    """Moments and step counts; rates and betas stay those of the params."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under(prefix, tensors).items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = value
    adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


# ---- of a RunState --------------------------------------------------------------------------------------------------


def save(path: Path, state: RunState) -> None:
    """Replace the checkpoint by the present state."""
    networks = state.networks
    tensors = {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"sums/{name}": tensor.cpu() for name, tensor in state.sums.items()}
    tensors |= {f"samples/{epoch}": images for epoch, images in state.samples.items()}
    for name in ("generator", "discriminator"):
        tensors |= named_tensors(name, getattr(networks, name))
        tensors |= adam_tensors(f"{name}_adam", getattr(networks, f"{name}_adam"))
    write_checkpoint(path, tensors, state, PLAIN)


def restore(path: Path, state: RunState) -> None:
    """Bring a freshly initialised state to the checkpoint's, if there is one.

    Raises
    ------
    InputError
        If the checkpoint is of another network or damaged.
    """
    if not path.exists():
        return
    networks = state.networks
    device = next(networks.generator.parameters()).device
    with restoring(path, state, PLAIN, what="a training checkpoint") as tensors:
        for name in ("generator", "discriminator"):
            load_into(getattr(networks, name), tensors, name, path)
            restore_adam(getattr(networks, f"{name}_adam"), tensors, f"{name}_adam")
        state.best = _under("best", tensors)
        state.samples = _under("samples", tensors)
        state.sums = {name: tensor.to(device) for name, tensor in _under("sums", tensors).items()}
    state.resumed_from = state.step
