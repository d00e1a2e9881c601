"""Small semi-supervised runs and their images; pytest puts the folder of the test files on the path."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.core.compute import Compute
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.improved import Architecture, MinibatchArchitecture, SemisupArchitecture, image_shape
from pipeline.training import semisupervised
from pipeline.training.labelled_batches import Member, Pixels, SemisupervisedBatches
from pipeline.training.semisupervised import GroupState, Players, Run, Techniques

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
SPLITS = ("train", "test", "train", "train", "validation")  # over and over: the rows of a split are not one block


def made_architecture(name: str = "semisup_mnist", **changes: object) -> Architecture:
    values = {"name": name, "preset": "current", "z_dim": 5, "generator_width": 4, "discriminator_width": 4}
    values |= {"weight_norm": True, "data_dependent": True, "noise": True, "reference_batch": 0}
    if name.startswith("minibatch"):
        return MinibatchArchitecture(**(values | {"n_kernels": 3, "kernel_dim": 2} | changes))
    return SemisupArchitecture(**(values | changes))


def made_techniques(**changes: object) -> Techniques:
    values = {
        "generator_loss": "squared_feature_matching",
        "generator_steps": 1,
        "real_target": 1.0,
        "historical_averaging": 0.0,
        "parameter_average": 0.1,
    }
    return Techniques(**(values | changes))


def made_semisup(architecture: Architecture | None = None, **changes: object) -> Run:
    """Three epochs of two splits of two seeds, all four trained together, with the authors' Adam."""
    architecture = architecture or made_architecture()
    digits = image_shape(architecture)[0] == 1
    values = {
        "beta1": 0.5,
        "beta2": 0.999,
        "adam_epsilon": 1e-8,
        "log_every_steps": 4,
        "n_samples": 6,
        "dataset": "made",
        "n_labels": 20,
        "architecture": architecture,
        "techniques": made_techniques(),
        "pixels": Pixels(offset=0.0, divisor=255.0) if digits else Pixels(offset=127.5, divisor=128.0),
        "splits": [0, 1],
        "seeds": [4, 7],
        "at_once": 4,
        "batch_size": 8,
        "learning_rate": 0.003,
        "constant_epochs": 2,
        "decay_epochs": 1,
        "test_every_epochs": 2,
        "labels_only_epochs": 1,
        "n_snapshots": 0,
    }
    return Run(**(values | changes))


def made_set(shape: tuple[int, int, int] = (28, 28, 1), n: int = 70) -> ImageSet:
    """Noise, brighter in one band of rows: the class. Of 70 images 56 are to be trained on, 7 batches of 8."""
    images = numpy_stream(1, "images").integers(0, 64, (n, *shape), dtype=np.uint8)
    splits = np.array([SPLITS[row % len(SPLITS)] for row in range(n)])
    labels = np.where(splits == "test", np.cumsum(splits == "test"), np.cumsum(splits != "test")) % 10
    height = shape[0] // 10
    for image, label in zip(images, labels, strict=True):
        image[label * height : (label + 1) * height] += 180
    keys = [f"{row:03d}" for row in range(n)]
    index = pd.DataFrame({"key": keys, "split": splits, "label": labels, "source": "made"})
    return ImageSet(path=Path("made"), images=images, index=index)


def set_for(run: Run) -> ImageSet:
    channels, height, width = image_shape(run.architecture)
    return made_set((height, width, channels))


def made_batches(run: Run, members: list[Member]) -> SemisupervisedBatches:
    return SemisupervisedBatches(
        set_for(run),
        members=members,
        n_labels=run.n_labels,
        n_classes=10,
        batch_size=run.batch_size,
        pixels=run.pixels,
        device="cpu",
    )


def made_players(run: Run, members: list[Member]) -> Players:
    return semisupervised.initial_players(run, COMPUTE, members, made_batches(run, members))


MEMBERS = [Member(0, 4), Member(0, 7), Member(1, 4)]

# every technique is switched on somewhere, and off elsewhere
CASES = {
    "dense": made_semisup(),
    "dense, all techniques": made_semisup(
        made_architecture(reference_batch=4),
        techniques=made_techniques(generator_steps=3, real_target=0.9, historical_averaging=0.5),
    ),
    "dense, plain": made_semisup(
        made_architecture(weight_norm=False, data_dependent=False, noise=False),
        techniques=made_techniques(generator_loss="non_saturating", parameter_average=0.0),
    ),
    "conv": made_semisup(
        made_architecture("semisup_conv", preset="c0"),
        techniques=made_techniques(generator_loss="absolute_feature_matching", historical_averaging=0.1),
    ),
    "minibatch": made_semisup(
        made_architecture("minibatch_conv"), techniques=made_techniques(generator_loss="minimax", generator_steps=3)
    ),
    "minibatch digits": made_semisup(
        made_architecture("minibatch_mnist", reference_batch=3),
        techniques=made_techniques(generator_loss="non_saturating", real_target=0.75, historical_averaging=0.1),
    ),
    "no labels": made_semisup(n_labels=0, labels_only_epochs=0, techniques=made_techniques(generator_loss="minimax")),
}


def parameters_of(players: Players) -> dict[str, torch.Tensor]:
    """Copies of the parameters and buffers of both networks."""
    both = {"generator": players.generator, "discriminator": players.discriminator}
    return {
        f"{name}/{key}": tensor.detach().clone()
        for name, network in both.items()
        for key, tensor in network.state_dict().items()
    }


def state_of(state: GroupState) -> dict[str, torch.Tensor]:
    """All that one member's training carries, each with the axis of members in front."""
    players = state.players
    tensors = parameters_of(players) | {f"sums/{name}": total.clone() for name, total in state.sums.items()}
    for name in ("generator", "discriminator"):
        adam = getattr(players, f"{name}_adam")
        for number, values in adam.state_dict()["state"].items():
            tensors |= {f"{name}_adam/{number}/{key}": values[key].clone() for key in ("exp_avg", "exp_avg_sq")}
    averages = {f"history/{name}": history.means for name, history in players.histories.items()}
    averages["average"] = players.average.averages if players.average is not None else []
    for name, means in averages.items():
        tensors |= {f"{name}/{number}": mean.clone() for number, mean in enumerate(means)}
    return tensors


def after_steps(run: Run, members: list[Member], n_steps: int, *, labels_only: bool = False) -> GroupState:
    batches = made_batches(run, members)
    state = GroupState(players=semisupervised.initial_players(run, COMPUTE, members, batches))
    for step in range(n_steps):
        semisupervised.training_step(state, run, COMPUTE, batches, step, labels_only=labels_only)
        state.step = step + 1
    return state
