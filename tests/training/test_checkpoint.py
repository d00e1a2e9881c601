"""Checkpoints: everything comes back exactly, and a file that does not belong here is refused by name."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_runs import made_run
from made_semisup import made_players, made_semisup

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models.build import MnistArchitecture, uniform_z
from pipeline.models.store import named_tensors, write_tensors
from pipeline.training import checkpoint
from pipeline.training.adversarial import Run, initial_networks
from pipeline.training.checkpoint import (
    CheckpointClock,
    RunState,
    restore,
    restoring,
    save,
    stacked,
    write_checkpoint,
)
from pipeline.training.labelled_batches import Member
from pipeline.training.semisupervised import GroupState
from pipeline.training.updates import gradient_norm, update_discriminator, update_generator

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")


def run_of(hidden: int = 16, name: str = "gan_mnist") -> Run:
    filters = 4 if name == "dcgan_mnist" else 0
    return made_run(MnistArchitecture(name=name, z_dim=5, filters=filters, hidden=hidden), updates="both", batch_size=6)


def fresh_state(seed: int = 0, **kind: object) -> RunState:
    return RunState(networks=initial_networks(run_of(**kind), COMPUTE, seed))


def advance(state: RunState, steps: int) -> None:
    """Both updates on made data; the step number alone decides the data."""
    for _ in range(steps):
        real = torch.rand(6, 1, 28, 28, generator=torch_stream(0, "real", state.step))
        z, labels = uniform_z(6, 5, torch_stream(0, "z", state.step)), torch.eye(10)[:6]
        state.add("d", update_discriminator(state.networks, real, z, labels, autocast=autocast(COMPUTE)))
        state.add("d_gradient", gradient_norm(state.networks.discriminator))
        state.add("g", update_generator(state.networks, z, labels, autocast=autocast(COMPUTE)))
        state.add("g_gradient", gradient_norm(state.networks.generator))
        state.step += 1


def worked_state(**kind: object) -> RunState:
    """Three steps, a row of the history, a validation, samples, and two more steps in the running sums."""
    state = fresh_state(**kind)
    advance(state, 3)
    state.log(seed=0, epoch=0, learning_rate=0.1 + 0.2)
    state.validation = [{"seed": 0, "epoch": 1, "n_images": 10, "error_percent": 1 / 3, "mean_distance": 2 / 7}]
    state.health = [{"seed": 0, "epoch": 1, "diversity": 1 / 7, "collapsed": True}]
    for epoch in (1, 2, 10):
        stream = torch_stream(0, "samples", epoch)
        state.samples[str(epoch)] = torch.randint(0, 256, (4, 28, 28, 1), generator=stream, dtype=torch.uint8)
    state.best = {k: v.clone() for k, v in named_tensors("generator", state.networks.generator).items()}
    advance(state, 2)
    return state


def everything(state: RunState) -> dict[str, torch.Tensor]:
    tensors = {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"sums/{name}": tensor for name, tensor in state.sums.items()}
    tensors |= {f"samples/{epoch}": images for epoch, images in state.samples.items()}
    for name in ("generator", "discriminator"):
        tensors |= named_tensors(name, getattr(state.networks, name))
        for number, values in getattr(state.networks, f"{name}_adam").state_dict()["state"].items():
            tensors |= {f"{name}_adam/{number}/{key}": value for key, value in values.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same(state: RunState, other: RunState) -> None:
    mine, theirs = everything(state), everything(other)
    assert {*mine} == {*theirs}
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
    for field in ("step", "history", "validation", "health", "counts"):
        assert getattr(state, field) == getattr(other, field), field


@pytest.mark.parametrize("name", ["gan_mnist", "dcgan_mnist"])
def test_everything_comes_back(tmp_path: Path, name: str):
    path, state = tmp_path / "seed0.safetensors", worked_state(name=name)
    save(path, state)
    restored = fresh_state(seed=9, name=name)  # another seed: nothing of its start may remain
    restore(path, restored)
    assert_same(restored, state)
    assert restored.resumed_from == 5
    assert {int(values["step"]) for values in state.networks.generator_adam.state_dict()["state"].values()} == {5}
    assert state.counts == {"d": 2, "d_gradient": 2, "g": 2, "g_gradient": 2}
    advance(state, 3)
    advance(restored, 3)
    assert_same(restored, state)


def test_sums_and_counts_of_the_interval_go_on(tmp_path: Path):
    path, state = tmp_path / "seed0.safetensors", worked_state()
    save(path, state)
    restored = fresh_state()
    restore(path, restored)
    for each in (state, restored):
        each.log(seed=0, epoch=0, learning_rate=0.0002)
    assert restored.history == state.history
    assert len(state.history) == 2
    assert not state.sums
    assert not state.counts


def test_nan_in_the_history_comes_back(tmp_path: Path):
    path, state = tmp_path / "seed0.safetensors", fresh_state()
    state.log(seed=0, epoch=0, learning_rate=0.0002)
    save(path, state)
    restored = fresh_state()
    restore(path, restored)
    (row,) = restored.history
    assert all(
        row[key] != row[key] for key in ("d_loss", "g_loss", "d_real", "d_fake", "d_gradient", "g_gradient")
    )  # NaN alone differs from itself
    assert row["learning_rate"] == 0.0002


def test_rates_and_betas_are_those_of_the_params(tmp_path: Path):
    path, state = tmp_path / "seed0.safetensors", worked_state()
    state.networks.generator_adam.param_groups[0]["lr"] = 123.0
    save(path, state)
    restored = fresh_state()
    restore(path, restored)
    assert restored.networks.generator_adam.param_groups[0]["lr"] == 0.0002


def test_no_checkpoint_no_change(tmp_path: Path):
    state = fresh_state()
    restore(tmp_path / "none.safetensors", state)
    assert_same(state, fresh_state())
    assert state.step == 0


def test_same_state_same_bytes_and_nothing_beside_it(tmp_path: Path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(first, worked_state())
    save(second, worked_state())
    save(second, worked_state())  # over the old one
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_a_restored_state_survives_the_next_save(tmp_path: Path):
    """Restored tensors may be maps of the file; replacing the file must not change them."""
    path, state = tmp_path / "seed0.safetensors", worked_state()
    save(path, state)
    restored = fresh_state()
    restore(path, restored)
    save(path, fresh_state(seed=5))
    path.unlink()
    assert_same(restored, state)


@pytest.mark.parametrize(("kind", "first"), [({"hidden": 20}, "20x15"), ({"name": "dcgan_mnist"}, "")])
def test_checkpoint_of_another_network_is_refused(tmp_path: Path, kind: dict[str, object], first: str):
    path = tmp_path / "seed0.safetensors"
    save(path, worked_state())
    with pytest.raises(InputError, match=rf"{path}: 'generator' is not this network .*{first}"):
        restore(path, fresh_state(**kind))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.99999])
def test_truncated_checkpoint_is_refused(tmp_path: Path, share: float):
    path = tmp_path / "seed0.safetensors"
    save(path, worked_state())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=f"{path}: not a whole safetensors file"):
        restore(path, fresh_state())


@pytest.mark.parametrize("note", ["", "{}", json.dumps({"step": 3}), "no json"])
def test_networks_without_a_training_state_are_refused(tmp_path: Path, note: str):
    path, networks = tmp_path / "seed0.safetensors", fresh_state().networks
    tensors = named_tensors("generator", networks.generator)
    write_tensors(path, tensors | named_tensors("discriminator", networks.discriminator), note=note)
    with pytest.raises(InputError, match=f"{path}: not a training checkpoint"):
        restore(path, fresh_state())


def test_samples_come_back_in_the_order_of_their_epochs(tmp_path: Path):
    path, state, restored = tmp_path / "seed0.safetensors", worked_state(), fresh_state()
    save(path, state)
    restore(path, restored)
    for each in (state, restored):
        samples, epochs = stacked(each.samples)
        assert epochs.tolist() == [1, 2, 10]
        assert epochs.dtype == np.int64
        for epoch, images in zip(epochs, samples, strict=True):
            assert np.array_equal(images, state.samples[str(epoch)].numpy())


def test_plain_attributes_are_those_named(tmp_path: Path):
    path, state = tmp_path / "any.safetensors", SimpleNamespace(step=7, history=[{"loss": 0.1 + 0.2}], other=1)
    write_checkpoint(path, {"sum": torch.tensor(2.5)}, state, ("step", "history"))
    restored = SimpleNamespace(step=0, history=[], other=0)
    with restoring(path, restored, ("step", "history"), what="a checkpoint") as tensors:
        assert {name: tensor.item() for name, tensor in tensors.items()} == {"sum": 2.5}
    assert restored == SimpleNamespace(step=7, history=[{"loss": 0.1 + 0.2}], other=0)


@pytest.mark.parametrize("lacking", ["sum", "history"], ids=["a tensor", "a plain attribute"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, lacking: str):
    path, state = tmp_path / "any.safetensors", SimpleNamespace(step=7, history=[])
    tensors = {name: torch.zeros(()) for name in ("sum", "more") if name != lacking}
    write_checkpoint(path, tensors, state, tuple(name for name in ("step", "history") if name != lacking))
    with (
        pytest.raises(InputError, match=rf"^{path}: not a toy \('{lacking}'\); remove it and run the stage again$"),
        restoring(path, state, ("step", "history"), what="a toy") as found,
    ):
        assert found["sum"].item() == 0


LOSSES = [1.0, 1.0, float("nan"), 1.0, float("nan"), 1.0]  # of steps 1 to 6


def test_the_first_bad_step_is_told():
    state = fresh_state()
    for state.step, loss in enumerate(LOSSES):
        state.add("g", torch.tensor([loss]))
    assert state.bad_step() == 3


def test_the_first_bad_step_of_a_group_is_told():
    state = GroupState(players=made_players(made_semisup(), [Member(0, 4)]))
    for state.step, loss in enumerate(LOSSES):
        state.add(unsupervised_loss=torch.tensor([loss]))
    assert state.bad_step() == 3


def test_clock_is_due_once_an_interval(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 45.0)
    clock, said = CheckpointClock(), []
    for seconds in (0, 44.9, 45.0, 45.1, 89.9, 90.1, 300, 301):
        now[0] = 1000 + seconds
        said.append(clock.due())
    assert said == [False, False, True, False, False, True, True, False]
