"""The 128 x 128 model of Improved GAN: losses against definitions, one step of both networks, resuming, processes."""

import dataclasses
import gc
import hashlib
import json
import math
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from ruamel.yaml import YAML

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, no_rejects, write_set
from pipeline.models.imagenet128 import Architecture, draw_inputs
from pipeline.models.improved_layers import set_noise
from pipeline.models.store import named_tensors, read_note, read_tensors
from pipeline.reporting.health import health_table, runs_table
from pipeline.training import checkpoint, health, imagenet128
from pipeline.training.imagenet128 import (
    Batches,
    Run,
    State,
    class_loss,
    divergence,
    gan_logit,
    gradients,
    initial_networks,
    mean_over_towers,
    own_towers,
    train,
    training_step,
)
from pipeline.training.updates import Networks
from stages import imagenet128 as stage

ROOT = Path(__file__).resolve().parents[2]
COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
ARCHITECTURE: dict[str, Any] = {
    "z_dim": 3,
    "generator_width": 2,
    "noise_maps": [1, 1, 1, 1, 0, 1],
    "reference_batch": 2,
    "discriminator_width": 2,
    "input_noise": 0.1,
    "n_kernels": 3,
    "kernel_dim": 2,
}
SETTINGS: dict[str, Any] = {
    "dataset": "made",
    "architecture": ARCHITECTURE,
    "labels": True,
    "real_target": 0.75,
    "generator_target": 0.375,
    "seeds": [0],
    "batch_size": 2,
    "towers": 1,
    "epochs": 2,
    "learning_rate": 0.0004,
    "beta1": 0.5,
    "beta2": 0.999,
    "adam_epsilon": 1e-8,
    "initial_std": 0.1,
    "log_every_steps": 2,
    "n_samples": 3,
    "sample_every_epochs": 1,
}


def made_run(**changes: Any) -> Run:
    of_networks = {key: changes.pop(key) for key in list(changes) if key in ARCHITECTURE}
    values: dict[str, Any] = SETTINGS | changes
    values["architecture"] = Architecture(**(ARCHITECTURE | of_networks))
    return Run(**values)


def made_set(n: int = 7, labels: list[int] | None = None, side: int = 128) -> ImageSet:
    """Seven images: three steps of two, one left over."""
    images = numpy_stream(1, "images").integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    index = pd.DataFrame(
        {
            "key": [str(i) for i in range(n)],
            "split": "train",
            "label": labels or [i % 3 for i in range(n)],
            "source": "",
        }
    )
    return ImageSet(path=Path("made"), images=images, index=index)


def draw(*shape: int, name: str = "logits") -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch_stream(7, name), dtype=torch.float64)


def copies(state: State) -> dict[str, torch.Tensor]:
    both = named_tensors("generator", state.networks.generator)
    both |= named_tensors("discriminator", state.networks.discriminator)
    return {name: tensor.clone() for name, tensor in both.items()}


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_the_gan_logit_is_that_of_all_classes_together():
    logits = draw(5, 4)
    probabilities = logits.softmax(1)
    torch.testing.assert_close(gan_logit(logits).sigmoid(), probabilities[:, :3].sum(1))
    assert gan_logit(torch.tensor([[800.0, 1.0, 0.0]])).item() == pytest.approx(800), "no overflow"


@pytest.mark.parametrize("target", [0.0, 0.375, 0.75, 1.0])
def test_divergence_is_kl_of_two_coins(target: float):
    logit = draw(6)
    expected = []
    for q in logit.sigmoid().tolist():
        pairs = [(target, q), (1 - target, 1 - q)]
        expected.append(sum(p * math.log(p / other) for p, other in pairs if p > 0))
    assert divergence(logit, target).item() == pytest.approx(np.mean(expected), rel=1e-9)
    at_target = torch.tensor([target], dtype=torch.float64).clamp(1e-9, 1 - 1e-9).logit()
    assert divergence(at_target, target).item() == pytest.approx(0, abs=1e-8)
    assert divergence(at_target + 0.5, target).item() >= 0
    assert divergence(at_target - 0.5, target).item() >= 0
    large = divergence(torch.tensor([200.0, -200.0]), target).item()
    entropy = -sum(p * math.log(p) for p in (target, 1 - target) if p > 0)
    assert large == pytest.approx(100 - entropy, rel=1e-6), "softplus(L) - t L is |L| of one of the two"


def test_the_class_loss_counts_generated_among_the_classes():
    logits, labels = draw(4, 3), torch.tensor([0, 1, 1, 0])
    expected = [
        -math.log(math.exp(row[y]) / sum(map(math.exp, row))) for row, y in zip(logits.tolist(), labels, strict=True)
    ]
    assert class_loss(logits, labels).item() == pytest.approx(np.mean(expected), rel=1e-9)
    logits[:, -1] += 50  # surely generated
    assert class_loss(logits, labels).item() > 40


# ---- one step -------------------------------------------------------------------------------------------------------


def flat(gradient: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.flatten() for each in gradient])


def one_tower(run: Run, tower: int = 0) -> tuple[State, imagenet128.Gradients]:
    """The gradients of a tower of the first step, in float32."""
    batches = Batches(made_set(8), run, seed=0, device="cpu")
    state = State(networks=initial_networks(run, COMPUTE, 0, n_classes=batches.n_classes))
    inputs = draw_inputs(run.architecture, run.batch_size, torch_stream(0, "z", tower))
    set_noise(state.networks.discriminator, [torch_stream(0, "noise for D", tower)])
    return state, gradients(state.networks, batches.part(0, tower), inputs, run, autocast(COMPUTE))


@pytest.mark.parametrize("labels", [True, False])
def test_gradients_are_those_of_each_loss_at_the_same_parameters(labels: bool):
    """Against two passes, each with its own loss, as one writes them without sharing the generated images."""
    run = made_run(labels=labels)
    state, found = one_tower(run)
    part = Batches(made_set(8), run, seed=0, device="cpu").part(0, 0)
    g, d = state.networks.generator, state.networks.discriminator
    for network, expected_of in ((d, found.discriminator), (g, found.generator)):
        set_noise(d, [torch_stream(0, "noise for D", 0)])
        fake = g(draw_inputs(run.architecture, 2, torch_stream(0, "z", 0)))
        logits = d(torch.cat([part.images, fake if network is g else fake.detach()]))
        p = logits.double().softmax(1)
        real = p[:, :-1].sum(1)
        if network is d:
            cross = -(0.75 * real[:2].log() + 0.25 * (1 - real[:2]).log()).mean()
            loss = cross + (0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - (1 - real[2:]).log().mean()
            if labels:
                loss = loss - p[torch.arange(2), part.labels].log().mean()
            said = [loss.item(), real[:2].mean().item(), real[2:].mean().item()]
            assert found.told["d"].tolist() == pytest.approx(said, rel=1e-4)
        else:
            loss = -(0.375 * real[2:].log() + 0.625 * (1 - real[2:]).log()).mean()
            assert found.told["g"].item() == pytest.approx(
                loss.item() + 0.375 * math.log(0.375) + 0.625 * math.log(0.625), rel=1e-4
            )
        expected = flat(torch.autograd.grad(loss, [*network.parameters()]))
        # as a whole: the gradient of a bias before a norm is rounding error
        assert ((flat(expected_of) - expected).norm() / expected.norm()).item() < 1e-4
    assert ("class" in found.told) == labels


def test_a_step_moves_both_networks_by_adam_and_not_the_reference():
    run = made_run()
    state, found = one_tower(run)
    before = copies(state)
    batches = Batches(made_set(8), run, seed=0, device="cpu")
    training_step(state, run, COMPUTE, batches, 0, 0, measured=True)
    after = copies(state)
    assert torch.equal(after.pop("generator/reference"), before.pop("generator/reference"))
    of = {"generator": found.generator, "discriminator": found.discriminator}
    for name, gradient in of.items():
        keys = [f"{name}/{key}" for key, _ in getattr(state.networks, name).named_parameters()]
        for key, each in zip(keys, gradient, strict=True):
            # the first step of Adam: the rate times the sign, where a gradient is more than its epsilon
            expected = before[key] - 0.0004 * each / (each.abs() + 1e-8)
            torch.testing.assert_close(after[key], expected, rtol=0, atol=2e-7)
        norm = torch.cat([each.flatten() for each in gradient]).norm().item()
        assert state.sums[f"{name[0]}_gradient"].item() == pytest.approx(norm, rel=1e-4)


def test_every_tower_of_every_step_draws_its_own_inputs_and_noise(monkeypatch: pytest.MonkeyPatch):
    run, drawn = made_run(towers=2), []

    def seen(*arguments: Any) -> torch.Tensor:
        drawn.append(draw_inputs(*arguments))
        return drawn[-1]

    def noise(discriminator: torch.nn.Module, streams: Sequence[torch.Generator]) -> None:
        drawn.append(streams[0].get_state().float())
        set_noise(discriminator, streams)

    monkeypatch.setattr(imagenet128, "draw_inputs", seen)
    monkeypatch.setattr(imagenet128, "set_noise", noise)
    state = State(networks=initial_networks(run, COMPUTE, 0, n_classes=3))
    batches = Batches(made_set(8), run, seed=0, device="cpu")
    for seed, step in ((0, 0), (0, 1), (5, 1)):
        training_step(state, run, COMPUTE, batches, seed, step)
    assert len(drawn) == 12  # three steps of two towers
    for of_one_kind in (drawn[::2], drawn[1::2]):
        digests = {hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in of_one_kind}
        assert len(digests) == 6


def test_adam_has_the_settings_of_the_params():
    run = made_run(learning_rate=0.01, beta1=0.3, beta2=0.7, adam_epsilon=1e-3)
    networks = initial_networks(run, COMPUTE, 0, n_classes=3)
    for adam in (networks.generator_adam, networks.discriminator_adam):
        (group,) = adam.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (0.01, (0.3, 0.7), 1e-3)


def test_gradients_of_towers_are_averaged():
    """Two towers: another update than one tower of twice the batch, as each has its own statistics."""
    run = made_run(towers=2)
    towers = [one_tower(run, tower)[1] for tower in (0, 1)]
    found = mean_over_towers(towers)
    for kind in ("generator", "discriminator"):
        for mean, first, second in zip(getattr(found, kind), *(getattr(t, kind) for t in towers), strict=True):
            torch.testing.assert_close(mean, (first + second) / 2)
    assert found.told["d"].tolist() == pytest.approx(((towers[0].told["d"] + towers[1].told["d"]) / 2).tolist())
    images = [Batches(made_set(8), run, seed=0, device="cpu").part(0, tower).images for tower in (0, 1)]
    whole = Batches(made_set(8), made_run(batch_size=4), seed=0, device="cpu").part(0, 0)
    assert torch.equal(torch.cat(images), whole.images)
    _, alone = one_tower(made_run(batch_size=4))
    apart = [(a - b).norm() / b.norm() for a, b in zip(found.discriminator, alone.discriminator, strict=True)]
    assert max(apart) > 0.01


def test_an_epoch_shows_every_image_once_with_its_label():
    run, images = made_run(towers=3), made_set(12, labels=[*range(12)])
    batches = Batches(images, run, seed=4, device="cpu")
    assert (batches.per_epoch, batches.n_classes) == (2, 12)
    orders = []
    for epoch in (0, 1):
        parts = [batches.part(2 * epoch + step, tower) for step in range(2) for tower in range(3)]
        labels = torch.cat([part.labels for part in parts])
        assert sorted(labels.tolist()) == [*range(12)]
        expected = torch.from_numpy(images.images[labels.numpy()]).permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(torch.cat([part.images for part in parts]), expected, rtol=0, atol=1e-6)
        orders.append(labels.tolist())
    assert orders[0] != orders[1]
    assert Batches(images, run, seed=4, device="cpu").part(3, 1).labels.tolist() == orders[1][8:10]


# ---- a run ----------------------------------------------------------------------------------------------------------


def outcome(trained: imagenet128.Trained, scratch: Path) -> dict[str, str]:
    contents = {
        "tensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in trained.tensors.items()}),
        "history": trained.history.to_csv(float_format="%.17g").encode(),
        "health": trained.health.to_csv(float_format="%.17g").encode(),
        "samples": trained.samples.tobytes(),
        "epochs": trained.sample_epochs.tobytes(),
    } | {path.name: path.read_bytes() for path in scratch.glob("*.safetensors")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0, 2], "precision": "fp32"},
        {"precision": "bf16", "reference_batch": 0, "n_kernels": 0, "labels": False},
    ],
    ids=["as in the paper", "all switches off, bf16"],
)
def test_resumed_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict):
    """Broken off inside an interval of the log, after samples, and (two seeds) in the second seed."""
    changes = dict(changes)
    compute = Compute(device="cpu", threads=1, precision=changes.pop("precision"))
    run, images = made_run(**changes), made_set()
    unbroken = train(images, run, compute, tmp_path / "unbroken")
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    waiting, step_of = [(0, 1), (0, 4)] + [(2, 5)] * (len(run.seeds) - 1), imagenet128.training_step

    def breakable(state, run, compute, batches, seed, step, *, measured):
        if waiting and waiting[0] == (seed, step):
            waiting.pop(0)
            raise KilledError
        step_of(state, run, compute, batches, seed, step, measured=measured)

    monkeypatch.setattr(imagenet128, "training_step", breakable)
    for _ in [*waiting]:
        with pytest.raises(KilledError):
            train(images, run, compute, tmp_path / "resumed")
    resumed = train(images, run, compute, tmp_path / "resumed")
    assert outcome(resumed, tmp_path / "resumed") == outcome(unbroken, tmp_path / "unbroken")
    assert resumed.images < unbroken.images == len(run.seeds) * 6 * 2
    assert unbroken.history[["seed", "step"]].to_numpy().tolist() == [[s, n] for s in run.seeds for n in (2, 4, 6)]
    assert unbroken.history.drop(columns=["class_loss", "class_error_percent"]).notna().all().all()
    assert unbroken.history["class_loss"].notna().all() == run.labels
    assert unbroken.samples.shape == (2, 3, 128, 128, 3)
    assert unbroken.sample_epochs.tolist() == [1, 2]
    assert not np.array_equal(*unbroken.samples)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step_of = imagenet128.training_step

    def spoilt(state, run, compute, batches, seed, step, *, measured):
        step_of(state, run, compute, batches, seed, step, measured=measured)
        if step == 1:
            state.add("g", torch.tensor([float("inf")]))

    monkeypatch.setattr(imagenet128, "training_step", spoilt)
    with pytest.raises(InputError, match="training, seed 0: a loss or a weight is NaN or infinite in step 2"):
        train(made_set(), made_run(), COMPUTE, tmp_path)


def test_samples_that_are_all_alike_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(health, "COLLAPSED", 1e9)
    trained = train(made_set(), made_run(epochs=1), COMPUTE, tmp_path)
    assert "warning: seed 0, epoch 1: the samples have collapsed" in capsys.readouterr().err
    assert trained.health["collapsed"].tolist() == [True]


def test_of_the_finished_seeds_only_the_last_stays_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[torch.nn.Module]] = []
    at_start = []

    def watched(*arguments: Any, **settings: Any) -> Networks:
        gc.collect()
        at_start.append(sum(ref() is not None for ref in alive))
        networks = initial_networks(*arguments, **settings)
        alive.append(weakref.ref(networks.generator))
        return networks

    monkeypatch.setattr(imagenet128, "initial_networks", watched)
    train(made_set(), made_run(seeds=[0, 1, 2], epochs=1), COMPUTE, tmp_path)
    # the last one's state is let go of when the next one's is there
    assert at_start == [0, 1, 1]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "changes", "said"),
    [
        ({"side": 64}, {}, r"images of 64 x 64 x 3, these networks take 128 x 128 x 3; name another dataset"),
        ({"n": 3}, {"towers": 2}, r"3 training images, fewer than one step of 2 x 2; lower imagenet128\.batch_size"),
        ({"labels": [0, 1, 2, 5, 0, 1, 2]}, {}, r"of 4 classes, but have labels up to 5; number them 0 to 3, or write"),
        ({"labels": [0, 1, -1, 0, -1, 1, 0]}, {}, r"2 of 7 training images have no label; label them, or write"),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path: Path, images: dict, changes: dict, said: str):
    with pytest.raises(InputError, match=said) as refused:
        train(made_set(**images), made_run(**changes), COMPUTE, tmp_path)
    assert "\n" not in str(refused.value)


def test_without_labels_none_are_needed(tmp_path: Path):
    trained = train(made_set(labels=[-1] * 7), made_run(labels=False, epochs=1), COMPUTE, tmp_path)
    assert trained.n_classes == 1
    assert trained.tensors["seed0/discriminator/10.weight"].shape == (2, 86), "real and generated"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"real_target": 0.0}, "greater than 0"),
        ({"generator_target": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_params_are_refused(change: dict, said: str):
    with pytest.raises(ValueError, match=said):
        made_run(**change)


@pytest.mark.parametrize(("processes", "towers"), [(2, 3), (4, 2), (3, 4)])
def test_towers_that_do_not_fall_into_equal_parts_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processes: int, towers: int
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(InputError, match=rf"towers: {towers} do not fall into {processes} equal parts, one a process"):
        train(made_set(), made_run(towers=towers), COMPUTE, tmp_path)


def test_towers_are_shared_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shared.append([*own_towers(6)])
    assert shared == [[0, 1, 2], [3, 4, 5]]


# ---- two processes --------------------------------------------------------------------------------------------------

# One step of both networks; then a whole run, of which only the first process saves the state.
WORKER = """
import sys
from pathlib import Path
import torch
from pipeline.core import ranks
from pipeline.models.store import write_tensors
from pipeline.training.imagenet128 import Batches, State, initial_networks, train, training_step
from pipeline.training.parallel import process_group

sys.path.insert(0, sys.argv[1])
import test_imagenet128_training as made

torch.set_num_threads(1)
out, rank = Path(sys.argv[2]), ranks.rank()
with process_group(made.COMPUTE):
    run, images = made.made_run(towers=2), made.made_set()
    batches = Batches(images, run, seed=0, device="cpu")
    state = State(networks=initial_networks(run, made.COMPUTE, 0, n_classes=batches.n_classes))
    training_step(state, run, made.COMPUTE, batches, 0, 0, measured=True)
    write_tensors(out / f"step-{rank}.safetensors", made.copies(state) | made.of_gradients(state) | state.sums)
    train(images, run, made.COMPUTE, out / f"run-{rank}")
"""


def of_gradients(state: State) -> dict[str, torch.Tensor]:
    return {
        f"gradient/{name}/{key}": parameter.grad.clone()
        for name in ("generator", "discriminator")
        for key, parameter in getattr(state.networks, name).named_parameters()
        if parameter.grad is not None
    }


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left in a folder."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GAN_"))}
    kept |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    kept |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-W", "error", "-c", WORKER, str(Path(__file__).parent), str(out)]
    started = [
        subprocess.Popen(command, env=kept | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return out


def test_a_step_of_two_processes_has_the_mean_of_two_gradients(two_processes: Path):
    """One tower each; the same as one process with both towers, and on both processes."""
    run = made_run(towers=2)
    batches = Batches(made_set(), run, seed=0, device="cpu")
    state = State(networks=initial_networks(run, COMPUTE, 0, n_classes=batches.n_classes))
    training_step(state, run, COMPUTE, batches, 0, 0, measured=True)
    expected = copies(state) | of_gradients(state) | state.sums
    found = [read_tensors(two_processes / f"step-{rank}.safetensors") for rank in (0, 1)]
    assert {*found[0]} == {*expected}
    for name, tensor in expected.items():
        assert torch.equal(found[0][name], found[1][name]), name
        if name.startswith("gradient/"):
            torch.testing.assert_close(found[0][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("d", "g", "class", "d_gradient", "g_gradient"):
        assert found[0][name].tolist() == pytest.approx(expected[name].tolist(), rel=1e-5)
    other = made_run(towers=1)
    _, alone = one_tower(other)
    keys = [name for name in expected if name.startswith("gradient/discriminator")]
    apart = [(found[0][name] - each).norm() / each.norm() for name, each in zip(keys, alone.discriminator, strict=True)]
    assert max(apart) > 0.01, "the gradient of one tower is another"


def test_only_the_first_process_saves(two_processes: Path):
    assert json.loads(read_note(two_processes / "run-0" / "seed0.safetensors"))["step"] == 2
    assert not (two_processes / "run-1").exists()


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_the_stage_writes_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    values = {"compute": dataclasses.asdict(COMPUTE), "imagenet128": SETTINGS}
    YAML().dump(values, tmp_path / "params.yaml")
    made = made_set()
    write_set(tmp_path / "set", made.images, made.index, no_rejects())
    name = "imagenet128_improved"
    out, small = tmp_path / "models" / name, tmp_path / "runs" / name
    samples, curves = tmp_path / f"{name}.npz", tmp_path / f"train_{name}.csv"
    stage.main(tmp_path / "params.yaml", name, tmp_path / "set", out, small, samples, curves)
    assert not [*(tmp_path / "scratch").iterdir()], "the scratch folder goes away on success"
    tables = ["health.parquet", "history.parquet", "validation.parquet"]
    assert sorted(path.name for path in small.iterdir()) == sorted([*tables, "run.json"])
    assert sorted(path.name for path in out.iterdir()) == sorted([*tables, "networks.safetensors", "run.json"])
    assert all(
        (small / path.name).read_bytes() == path.read_bytes() for path in out.iterdir() if path.suffix != ".safetensors"
    )
    run = json.loads((small / "run.json").read_text())
    assert (run["run"], run["steps"], run["n_images"], run["n_classes"]) == (name, 6, 7, 3)
    with np.load(samples) as arrays:
        assert arrays["images"].shape == (2, 3, 128, 128, 3)
        assert arrays["images"].dtype == np.uint8
        assert arrays["epochs"].tolist() == [1, 2]
    curve = pd.read_csv(curves)
    assert curve["step"].tolist() == [2, 4, 6]
    assert curve[["d_loss", "g_loss"]].notna().all().all()
    assert f"| {name} | 0 | 6 | last |" in "\n".join(runs_table([small]))
    assert f"| {name} |" in "\n".join(health_table([small]))
