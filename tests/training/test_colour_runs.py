"""The loop on colour networks: z, samples at fixed z and their health, gradient norms, NaN, resumed equals unbroken."""

import copy
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from made_runs import GAN_MNIST, SVHN, made_run
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import draw_z
from pipeline.models.store import read_note, read_tensors
from pipeline.training import adversarial, checkpoint
from pipeline.training.adversarial import Run
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import RunState
from pipeline.training.health import COLLAPSED, diversity, some_real
from pipeline.training.updates import update_discriminator, update_generator

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
STEPS_AN_EPOCH = 3


def tiny_run(**changes: object) -> Run:
    """4 epochs of 3 steps."""
    own = {"log_every_steps": 4, "n_samples": 12, "constant_epochs": 4, "sample_every_epochs": 2}
    return made_run(**(own | changes))


def made_set(n: int = 20, sides: tuple[int, int, int] = (32, 32, 3)) -> ImageSet:
    """Random training images, the last batch of each epoch with 4, and as many of another split, all white."""
    images = numpy_stream(1, "images").integers(0, 256, (2 * n, *sides), dtype=np.uint8)
    images[n:] = 255
    splits = ["train"] * n + ["test"] * n
    label = -1 if sides[-1] == 3 else 0
    index = pd.DataFrame({"key": "", "split": splits, "label": label, "source": ""})
    return ImageSet(path=Path("made"), images=images, index=index)


def train(run: Run, scratch: Path, image_set: ImageSet | None = None) -> adversarial.Trained:
    return adversarial.train(image_set or made_set(), run, COMPUTE, scratch, None)


def batches_of(run: Run) -> Batches:
    return Batches(made_set(), "train", run.architecture, batch_size=run.batch_size, seed=0, device="cpu")


# ---- z --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("z", "variance", "fourth"), [("uniform", 1 / 3, 1 / 5), ("gaussian", 1, 3)])
def test_z_has_the_moments_of_its_distribution(z: str, variance: float, fourth: float):
    drawn = draw_z(dataclasses.replace(SVHN, z=z, z_dim=50), 4000, torch_stream(0, "z")).double()
    assert drawn.shape == (4000, 50)
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.square().mean().item() == pytest.approx(variance, rel=0.02)
    assert drawn.pow(4).mean().item() == pytest.approx(fourth, rel=0.04)
    assert (drawn.abs().max().item() > 3) == (z == "gaussian")


@pytest.mark.parametrize("z", ["uniform", "gaussian"])
def test_a_step_draws_its_z_from_the_stream_of_its_number(z: str):
    run = tiny_run(updates="both", architecture=dataclasses.replace(SVHN, z=z))
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    adversarial.training_step(state, run, COMPUTE, batches_of(run), 0, 7)
    by_hand = adversarial.initial_networks(run, COMPUTE, 0)
    stream = torch_stream(0, "z", 7)
    drawn = torch.randn(8, 5, generator=stream) if z == "gaussian" else 2 * torch.rand(8, 5, generator=stream) - 1
    update_discriminator(by_hand, batches_of(run).batch(7).images, drawn, autocast=autocast(COMPUTE))
    update_generator(by_hand, drawn, autocast=autocast(COMPUTE))
    for name in ("generator", "discriminator"):
        for got, expected in zip(*(getattr(n, name).parameters() for n in (state.networks, by_hand)), strict=True):
            assert torch.equal(got, expected)


# ---- samples at fixed z, and their health ---------------------------------------------------------------------------


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> dict[int, nn.Module]:
    """Filled with a copy of the generator as it was at the end of each epoch of the last seed."""
    kept: dict[int, nn.Module] = {}
    end_epoch = adversarial.end_epoch

    def told(state, *arguments, seed: int, epoch: int) -> None:
        kept[epoch] = copy.deepcopy(state.networks.generator)
        end_epoch(state, *arguments, seed=seed, epoch=epoch)

    monkeypatch.setattr(adversarial, "end_epoch", told)
    return kept


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(4, 2, [1, 2, 4]), (5, 2, [1, 2, 4, 5]), (3, 7, [1, 3]), (3, 1, [1, 2, 3]), (1, 1, [1])],
)
def test_samples_of_the_first_the_nth_and_the_last_epochs(
    tmp_path: Path, generators: dict[int, nn.Module], epochs: int, every: int, expected: list[int]
):
    """Each the generator of its epoch on the very same z."""
    trained = train(tiny_run(constant_epochs=epochs, sample_every_epochs=every), tmp_path)
    assert trained.sample_epochs.tolist() == expected
    assert trained.sample_epochs.dtype == np.int64
    assert trained.samples.shape == (len(expected), 12, 32, 32, 3)
    assert trained.samples.dtype == np.uint8
    z = torch.randn(12, 5, generator=torch_stream(0, "fixed z"))
    for epoch, samples in zip(expected, trained.samples, strict=True):
        with torch.no_grad():
            levels = (generators[epoch](z).permute(0, 2, 3, 1).double().numpy() + 1) * 127.5
        assert np.abs(samples - levels).max() <= 0.501
    assert all((a != b).any() for a, b in zip(trained.samples, trained.samples[1:], strict=False))


def test_digits_are_sampled_of_every_class_equally(tmp_path: Path, generators: dict[int, nn.Module]):
    run = tiny_run(architecture=GAN_MNIST, constant_epochs=1, n_samples=20)
    trained = train(run, tmp_path, made_set(sides=(28, 28, 1)))
    assert trained.samples.shape == (1, 20, 28, 28, 1)
    z = 2 * torch.rand(20, 5, generator=torch_stream(0, "fixed z")) - 1
    with torch.no_grad():
        levels = generators[1](z, torch.eye(10).repeat(2, 1)).permute(0, 2, 3, 1).double().numpy() * 255
    assert np.abs(trained.samples[0] - levels).max() <= 0.501


def test_health_is_the_samples_beside_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Samples as varied as the images, then a little above the threshold, then a little below it."""
    noise = numpy_stream(2, "noise").integers(0, 256, (12, 32, 32, 3))
    script = iter([(noise * share).round().astype(np.uint8) for share in (1, 1.2 * COLLAPSED, 0.8 * COLLAPSED)])
    monkeypatch.setattr(adversarial, "fixed_samples", lambda *_: next(script))
    trained = train(tiny_run(), tmp_path)
    assert trained.health["seed"].tolist() == [0] * 3
    assert trained.health["epoch"].tolist() == [1, 2, 4]
    real = some_real(made_set(), 12, seed=0)
    expected = [diversity(samples, real) for samples in trained.samples]
    assert trained.health["diversity"].tolist() == expected
    assert expected == pytest.approx([1, 1.2 * COLLAPSED, 0.8 * COLLAPSED], rel=0.1)
    assert trained.health["collapsed"].tolist() == [False, False, True]


def test_a_collapse_is_said_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Healthy after the first epoch, five modes after the second, one image after the fourth."""
    noise = numpy_stream(2, "noise").integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    script = iter([noise, noise[np.arange(12) % 5], noise[np.zeros(12, dtype=int)]])
    monkeypatch.setattr(adversarial, "fixed_samples", lambda *_: next(script))
    trained = train(tiny_run(), tmp_path)
    assert trained.health["collapsed"].tolist() == [False, True, True]
    assert trained.health["diversity"].tolist() == pytest.approx([1, 0, 0], abs=0.1)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: seed 0, epoch {epoch}: the samples have collapsed (diversity 0.000)" for epoch in (2, 4)]


def test_only_the_first_of_several_processes_warns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(adversarial, "fixed_samples", lambda *_: np.zeros((12, 32, 32, 3), dtype=np.uint8))
    run, real = tiny_run(), made_set().images[:12]
    for rank, said in (("1", ""), ("0", "warning: seed 0, epoch 1: the samples have collapsed (diversity 0.000)\n")):
        monkeypatch.setenv("RANK", rank)
        state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
        adversarial.end_epoch(state, run, COMPUTE, None, real, seed=0, epoch=1)
        assert state.health == [{"seed": 0, "epoch": 1, "diversity": 0, "collapsed": True}]
        assert capsys.readouterr() == ("", said)


# ---- several seeds; the last epoch's networks -----------------------------------------------------------------------


def test_without_a_selection_the_networks_of_the_last_epoch_are_kept(tmp_path: Path, generators: dict[int, nn.Module]):
    trained = train(tiny_run(seeds=[5]), tmp_path)
    assert {name.rsplit("/", 1)[0] for name in trained.tensors} == {"seed5/generator", "seed5/discriminator"}
    for name, tensor in generators[4].state_dict().items():
        assert torch.equal(trained.tensors[f"seed5/generator/{name}"], tensor)
    assert len(trained.validation) == 0
    assert [*trained.validation.columns] == ["seed", "epoch", "n_images", "error_percent", "mean_distance", "chosen"]
    assert trained.steps == 4 * STEPS_AN_EPOCH


def test_seeds_do_not_depend_on_each_other_and_the_first_is_shown(tmp_path: Path):
    together = train(tiny_run(seeds=[4, 1]), tmp_path / "a")
    for seed in (4, 1):
        alone = train(tiny_run(seeds=[seed]), tmp_path / str(seed))
        assert all(torch.equal(together.tensors[name], tensor) for name, tensor in alone.tensors.items())
        for table in ("history", "health"):
            rows = getattr(together, table).query(f"seed == {seed}").reset_index(drop=True)
            pd.testing.assert_frame_equal(rows, getattr(alone, table), check_exact=True)
        assert np.array_equal(together.samples, alone.samples) == (seed == 4)
    assert together.health["seed"].tolist() == [4] * 3 + [1] * 3
    assert len(together.tensors) == 2 * len(alone.tensors)


# ---- gradient norms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", ["alternate", "both"])
def test_gradient_norms_are_those_of_the_last_updates_before_the_row(tmp_path: Path, updates: str):
    """Two steps before a row have one update of each network that alternates, two if both move (their mean)."""
    run = tiny_run(updates=updates, log_every_steps=5)
    history = train(run, tmp_path).history
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    norms: dict[str, dict[int, float]] = {"discriminator": {}, "generator": {}}
    for step in range(12):
        before = {name: adam_steps(state, name) for name in norms}
        adversarial.training_step(state, run, COMPUTE, batches_of(run), 0, step)
        for name, of_step in norms.items():
            if adam_steps(state, name) > before[name]:
                gradients = [w.grad.double() for w in getattr(state.networks, name).parameters()]
                of_step[step + 1] = sum(g.square().sum().item() for g in gradients) ** 0.5
    assert history["step"].tolist() == [5, 10, 12]
    for name, of_step in norms.items():
        expected = [np.mean([of_step[s] for s in (row - 1, row) if s in of_step]) for row in (5, 10, 12)]
        assert history[f"{name[0]}_gradient"].tolist() == pytest.approx(expected, rel=1e-5)


def adam_steps(state: RunState, name: str) -> int:
    values = getattr(state.networks, f"{name}_adam").state_dict()["state"]
    return int(values[0]["step"]) if values else 0


def test_a_log_row_a_step_has_the_norm_of_who_moved(tmp_path: Path):
    history = train(tiny_run(log_every_steps=1), tmp_path).history
    assert history["g_gradient"].isna().tolist() == [False, True] * 6
    assert history["d_gradient"].isna().tolist() == [True, False] * 6
    assert (history[["d_gradient", "g_gradient"]].max() > 0).all()


# ---- NaN ------------------------------------------------------------------------------------------------------------


def spoil(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")


def assert_good(path: Path, step: int) -> None:
    assert f'"step": {step},' in read_note(path)
    assert all(tensor.isfinite().all() for tensor in read_tensors(path).values())


@pytest.mark.parametrize(("when", "kept"), [("before", 6), ("after", 6)])
def test_nan_stops_with_the_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, kept: int
):
    """Update 7 meets a NaN, or makes one after a last finite loss; the checkpoint is of step 6, and can be resumed."""
    unbroken = outcome(train(tiny_run(), tmp_path / "unbroken"), tmp_path / "unbroken")
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    count = iter(range(1, 100))

    def update(networks, *arguments, autocast):
        now = next(count) == 4  # the generator's fourth update, in step 7
        if now and when == "before":
            spoil(next(networks.discriminator.parameters()))
        values = update_generator(networks, *arguments, autocast=autocast)
        if now and when == "after":
            assert values.isfinite().all()
            spoil(next(networks.generator.parameters()))
        return values

    with monkeypatch.context() as patched:
        patched.setattr(adversarial, "update_generator", update)
        path = tmp_path / "resumed" / "seed0.safetensors"
        with pytest.raises(InputError, match=rf"training, seed 0: .* in step 7; the last good .*\({path}\)"):
            train(tiny_run(), tmp_path / "resumed")
    assert_good(path, kept)
    assert outcome(train(tiny_run(), tmp_path / "resumed"), tmp_path / "resumed") == unbroken


def test_nan_between_checkpoints_is_named_by_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The clock is due after steps 2 and 12 only; no epoch ends with samples in between."""
    asked = iter(range(1, 100))
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: next(asked) in (2, 12))
    step_of = adversarial.training_step

    def step(state, *arguments, **options):
        if state.step == 4:
            spoil(next(state.networks.generator.parameters()))
        step_of(state, *arguments, **options)

    monkeypatch.setattr(adversarial, "training_step", step)
    with pytest.raises(InputError, match="in step 5;"):
        train(tiny_run(sample_every_epochs=4), tmp_path)
    assert_good(tmp_path / "seed0.safetensors", 2)


def test_nan_is_found_before_samples_are_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: False)
    step_of = adversarial.training_step

    def step(state, *arguments, **options):
        step_of(state, *arguments, **options)
        if state.step == 1:
            spoil(next(state.networks.generator.parameters()))

    monkeypatch.setattr(adversarial, "training_step", step)
    monkeypatch.setattr(adversarial, "fixed_samples", lambda *_: pytest.fail("samples of NaN"))
    with pytest.raises(InputError, match="in step 3;"):
        train(tiny_run(), tmp_path)


def test_a_huge_learning_rate_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    with pytest.raises(InputError, match=r"NaN or infinite in step (\d+);.*a lower learning_rate of this run"):
        train(tiny_run(learning_rate=1e38, updates="both"), tmp_path)
    path = tmp_path / "seed0.safetensors"
    assert not path.exists() or all(tensor.isfinite().all() for tensor in read_tensors(path).values())


# ---- resumed equals unbroken ----------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for kill -9."""


def outcome(trained: adversarial.Trained, scratch: Path) -> dict[str, str]:
    """Hashes of all that a run leaves."""
    contents = {
        "tensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in trained.tensors.items()}),
        "history": trained.history.to_csv(float_format="%.17g").encode(),
        "health": trained.health.to_csv(float_format="%.17g").encode(),
        "samples": trained.samples.tobytes(),
        "epochs": trained.sample_epochs.tobytes(),
        "steps": str(trained.steps).encode(),
    } | {path.name: path.read_bytes() for path in scratch.glob("*.safetensors")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.mark.parametrize("name", ["dcgan_64", "dcgan_32", "dcgan_svhn"])
@pytest.mark.parametrize(("updates", "precision"), [("alternate", "fp32"), ("both", "fp32"), ("alternate", "bf16")])
def test_resumed_equals_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, updates: str, precision: str
):
    """Broken off just before a row of the log (step 4), within the two steps whose gradients enter it, after samples
    (step 6), in the second seed, and in its last epoch."""
    compute = Compute(device="cpu", threads=1, precision=precision)
    run = tiny_run(updates=updates, seeds=[0, 2], architecture=dataclasses.replace(SVHN, name=name))
    images = made_set(sides=(64, 64, 3) if name == "dcgan_64" else (32, 32, 3))
    unbroken = adversarial.train(images, run, compute, tmp_path / "unbroken", None)
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    waiting, step_of = [(0, 2), (0, 3), (0, 6), (2, 1), (2, 11)], adversarial.training_step

    def breakable(state, run, compute, batches, seed, step, *, measured):
        if waiting and waiting[0] == (seed, step):
            waiting.pop(0)
            raise KilledError
        step_of(state, run, compute, batches, seed, step, measured=measured)

    monkeypatch.setattr(adversarial, "training_step", breakable)
    for _ in [*waiting]:
        with pytest.raises(KilledError):
            adversarial.train(images, run, compute, tmp_path / "resumed", None)
    resumed = adversarial.train(images, run, compute, tmp_path / "resumed", None)
    pd.testing.assert_frame_equal(resumed.history, unbroken.history, check_exact=True)
    assert outcome(resumed, tmp_path / "resumed") == outcome(unbroken, tmp_path / "unbroken")


def test_samples_stay_in_the_order_of_epochs_when_resumed_after_the_tenth(tmp_path: Path):
    """A checkpoint gives its tensors back in the order of text, where 10 comes before 2."""
    run = tiny_run(constant_epochs=12, sample_every_epochs=1)
    unbroken = train(run, tmp_path)
    finished = train(run, tmp_path)  # nothing is left to do: all comes from the checkpoint
    assert finished.sample_epochs.tolist() == unbroken.sample_epochs.tolist() == [*range(1, 13)]
    assert np.array_equal(finished.samples, unbroken.samples)
