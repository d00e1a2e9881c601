"""The loop: whose turn it is, the learning-rate schedule, the choice of the epoch, and that resumed equals unbroken."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from made_runs import GAN_MNIST, made_run
from torch import nn

from pipeline.core.compute import Compute, autocast, precision_in_force
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.models.build import MnistArchitecture, uniform_z
from pipeline.training import adversarial, batches, checkpoint
from pipeline.training.adversarial import Run, Selection, ValidationScore
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import RunState
from pipeline.training.updates import update_discriminator, update_generator

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")


def tiny_run(**changes: object) -> Run:
    """4 epochs of 4 steps, of two seeds."""
    own = {
        "log_every_steps": 5,
        "n_samples": 20,
        "architecture": GAN_MNIST,
        "seeds": [0, 3],
        "batch_size": 16,
        "constant_epochs": 2,
        "decay_epochs": 2,
        "sample_every_epochs": 3,
        "selection": Selection(every_epochs=2, batch_size=10, n_images=[10, 20]),
    }
    return made_run(**(own | changes))


def digits(n: int = 56) -> ImageSet:
    """Random images: 4 batches of 16, the last of 8."""
    images = numpy_stream(1, "images").integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)
    index = pd.DataFrame({"key": "", "split": "train", "label": np.arange(n) % 10, "source": ""}, index=range(n))
    return ImageSet(path=Path("made"), images=images, index=index)


def batches_of(run: Run) -> Batches:
    return Batches(digits(), "train", run.architecture, batch_size=run.batch_size, seed=0, device="cpu")


def score_by_weights(generator: nn.Module, seed: int) -> list[ValidationScore]:
    """A score that any change of a weight changes."""
    total = sum(weight.double().abs().sum().item() for weight in generator.parameters())
    return [
        ValidationScore(n_images=n, error_percent=(total * 1e3 * n) % 100, mean_distance=total + seed) for n in (10, 20)
    ]


# ---- whose turn it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updates", "step", "g_changes", "d_changes"),
    [
        ("alternate", 0, True, False),
        ("alternate", 1, False, True),
        ("alternate", 6, True, False),
        ("both", 0, True, True),
        ("both", 1, True, True),
    ],
)
def test_turns(updates: str, step: int, g_changes: bool, d_changes: bool):
    run = tiny_run(updates=updates)
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    before = [
        [weight.clone() for weight in network.parameters()]
        for network in (state.networks.generator, state.networks.discriminator)
    ]
    adversarial.training_step(state, run, COMPUTE, batches_of(run), 0, step)
    after = [[*network.parameters()] for network in (state.networks.generator, state.networks.discriminator)]
    changed = [
        [not torch.equal(a, b) for a, b in zip(now, then, strict=True)] for now, then in zip(after, before, strict=True)
    ]
    assert changed == [[g_changes] * 3, [d_changes] * 3]
    assert state.counts == {name: 1 for name, does in (("d", d_changes), ("g", g_changes)) if does}


def test_both_updates_the_discriminator_first_and_the_generator_against_the_new_one():
    run = tiny_run(updates="both")
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    adversarial.training_step(state, run, COMPUTE, batches_of(run), 0, 0)
    by_hand = adversarial.initial_networks(run, COMPUTE, 0)
    batch = batches_of(run).batch(0)
    z = uniform_z(16, 5, torch_stream(0, "z", 0))
    context = autocast(COMPUTE)
    update_discriminator(by_hand, batch.images, z, *batch.condition, autocast=context)
    update_generator(by_hand, z, *batch.condition, autocast=context)
    for got, expected in zip(state.networks.generator.parameters(), by_hand.generator.parameters(), strict=True):
        assert torch.equal(got, expected)


def test_z_is_uniform_between_minus_1_and_1():
    z = uniform_z(2000, 50, torch_stream(0, "z"))
    assert z.shape == (2000, 50)
    assert z.dtype == torch.float32
    assert z.min().item() == pytest.approx(-1, abs=1e-3)
    assert z.max().item() == pytest.approx(1, abs=1e-3)
    assert z.min() >= -1
    assert z.max() < 1
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.square().mean().item() == pytest.approx(1 / 3, rel=0.02)


# ---- the schedule ---------------------------------------------------------------------------------------------------


def rates(run: Run) -> list[float]:
    networks = adversarial.initial_networks(run, COMPUTE, 0)
    returned = []
    for epoch in range(run.epochs):
        returned.append(adversarial.set_learning_rate(networks, run, epoch))
        for adam in (networks.generator_adam, networks.discriminator_adam):
            assert [group["lr"] for group in adam.param_groups] == [returned[-1]]
    return returned


def test_schedule_of_the_paper():
    """100 epochs at 2e-4, then linearly towards 0, the first decrement after epoch 101 (counted from 1)."""
    got = rates(tiny_run(constant_epochs=100, decay_epochs=100))
    assert len(got) == 200
    assert got[:101] == [0.0002] * 101
    assert got[101] == pytest.approx(0.0002 * 0.99, rel=1e-12)
    assert got[150] == pytest.approx(0.0002 * 0.5, rel=1e-12)
    assert got[199] == pytest.approx(0.0002 / 100, rel=1e-9)
    assert np.diff(got[100:]) == pytest.approx([-2e-6] * 99, rel=1e-9)


@pytest.mark.parametrize(
    ("constant", "decay", "expected"), [(3, 0, [1, 1, 1]), (0, 4, [1, 0.75, 0.5, 0.25]), (1, 1, [1, 1])]
)
def test_schedules_at_the_edge(constant: int, decay: int, expected: list[float]):
    got = rates(tiny_run(constant_epochs=constant, decay_epochs=decay))
    assert got == pytest.approx([0.0002 * share for share in expected], rel=1e-12)


def test_adam_is_the_papers():
    run = tiny_run(beta1=0.4, beta2=0.99, adam_epsilon=1e-7, l2=3e-5)
    networks = adversarial.initial_networks(run, COMPUTE, 0)
    for adam in (networks.generator_adam, networks.discriminator_adam):
        assert type(adam) is torch.optim.Adam
        (group,) = adam.param_groups
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.4, 0.99), 1e-7, 3e-5)
        assert not group["amsgrad"]
        assert not group.get("decoupled_weight_decay", False)


def test_initial_networks_follow_the_seed_and_the_std():
    run = tiny_run(architecture=MnistArchitecture(name="gan_mnist", z_dim=5, filters=0, hidden=64))
    first, again, other = (adversarial.initial_networks(run, COMPUTE, seed) for seed in (0, 0, 1))
    for name in ("generator", "discriminator"):
        for a, b, c in zip(*(getattr(n, name).parameters() for n in (first, again, other)), strict=True):
            assert torch.equal(a, b)
            assert not torch.equal(a, c)
            assert a.std().item() == pytest.approx(0.02, rel=4 / (2 * a.numel()) ** 0.5)
    assert not torch.equal([*first.generator.parameters()][1], [*first.discriminator.parameters()][1])


# ---- the history and the choice -------------------------------------------------------------------------------------


def test_history_and_validation_have_their_rows(tmp_path: Path):
    run = tiny_run()  # 4 epochs of 4 steps
    trained = adversarial.train(digits(), run, COMPUTE, tmp_path, score_by_weights)
    assert trained.steps == 16
    history = trained.history
    assert history["seed"].tolist() == [0] * 4 + [3] * 4
    assert history["step"].tolist() == [5, 10, 15, 16] * 2, "every fifth step, and the last"
    assert history["epoch"].tolist() == [1, 2, 3, 3] * 2
    assert history["learning_rate"].tolist() == pytest.approx([2e-4, 2e-4, 1e-4, 1e-4] * 2)
    last = history.iloc[3]  # step 15 alone: a discriminator update
    assert np.isnan(last["g_loss"])
    assert 0 < last["d_loss"] < 3
    assert history.drop(index=[3, 7])[["d_loss", "g_loss", "d_real", "d_fake"]].notna().all(axis=None)
    assert history[["d_real", "d_fake"]].to_numpy() == pytest.approx(0.5, abs=0.2)
    assert trained.validation[["seed", "epoch", "n_images"]].to_numpy().tolist() == [
        [seed, epoch, n] for seed in (0, 3) for epoch in (2, 4) for n in (10, 20)
    ]


def test_history_is_the_mean_of_its_interval(tmp_path: Path):
    """Rows of one step each, averaged by hand, are the rows of a coarser log."""
    fine = adversarial.train(digits(), tiny_run(log_every_steps=1), COMPUTE, tmp_path / "a", score_by_weights).history
    coarse = adversarial.train(digits(), tiny_run(log_every_steps=8), COMPUTE, tmp_path / "b", score_by_weights).history
    columns = ["d_loss", "g_loss", "d_real", "d_fake"]
    groups = fine.groupby([fine["seed"], (fine["step"] - 1) // 8])[columns].mean()  # NaN = no update, left out
    np.testing.assert_allclose(coarse[columns].to_numpy(), groups.to_numpy(), rtol=1e-6)


def test_an_interval_without_an_update_of_a_network_is_nan(tmp_path: Path):
    history = adversarial.train(digits(), tiny_run(log_every_steps=1), COMPUTE, tmp_path, score_by_weights).history
    assert history["g_loss"].isna().tolist() == [False, True] * 16
    assert history["d_loss"].isna().tolist() == [True, False] * 16


def scripted(errors: list[list[float]], kept: list[list[torch.Tensor]]) -> Callable[..., list[ValidationScore]]:
    """A score that follows a script and keeps a copy of each generator it was shown."""
    script = iter(errors)

    def score(generator: nn.Module, seed: int) -> list[ValidationScore]:
        kept.append([weight.detach().clone() for weight in generator.parameters()])
        return [
            ValidationScore(n_images=n, error_percent=error, mean_distance=1.0)
            for n, error in zip((10, 20), next(script), strict=True)
        ]

    return score


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ([[1, 9], [5, 7], [3, 8], [2, 9]], 1),  # the largest search decides
        ([[1, 7], [5, 7], [3, 8], [0, 7]], 0),  # the earliest among equals
        ([[1, 7], [5, 6], [3, 5], [9, 4]], 3),
    ],
)
def test_the_chosen_epoch(tmp_path: Path, errors: list[list[float]], chosen: int):
    run = tiny_run(seeds=[0], selection=Selection(every_epochs=1, batch_size=10, n_images=[10, 20]))
    shown: list[list[torch.Tensor]] = []
    trained = adversarial.train(digits(), run, COMPUTE, tmp_path, scripted(errors, shown))
    rows = trained.validation
    assert rows["epoch"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert rows["error_percent"].tolist() == [error for pair in errors for error in pair]
    assert rows.loc[rows["chosen"], "epoch"].tolist() == [chosen + 1] * 2
    for row in range(3):
        best, last = (
            trained.tensors[f"seed0/{name}/layers.{row}.0.weight"] for name in ("generator", "generator_last")
        )
        assert torch.equal(best, shown[chosen][row])
        assert torch.equal(last, shown[3][row])
    assert {name.split("/")[1] for name in trained.tensors} == {"generator", "discriminator", "generator_last"}


def test_the_last_epoch_is_scored_even_off_the_rhythm(tmp_path: Path):
    run = tiny_run(seeds=[0], selection=Selection(every_epochs=3, batch_size=10, n_images=[10]))
    trained = adversarial.train(digits(), run, COMPUTE, tmp_path, score_by_weights)
    assert sorted(set(trained.validation["epoch"])) == [3, 4]


def test_seeds_do_not_depend_on_each_other(tmp_path: Path):
    together = adversarial.train(digits(), tiny_run(), COMPUTE, tmp_path / "a", score_by_weights)
    alone = adversarial.train(digits(), tiny_run(seeds=[3]), COMPUTE, tmp_path / "b", score_by_weights)
    for name, tensor in alone.tensors.items():
        assert torch.equal(together.tensors[name], tensor)
        assert not torch.equal(together.tensors[name.replace("seed3", "seed0")], tensor)


def test_z_is_another_one_in_every_step_and_of_every_seed(monkeypatch: pytest.MonkeyPatch):
    run, drawn = tiny_run(), []

    def seen(*arguments: object) -> torch.Tensor:
        drawn.append(adversarial_draw(*arguments))
        return drawn[-1]

    adversarial_draw = adversarial.draw_z
    monkeypatch.setattr(adversarial, "draw_z", seen)
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    for seed, step in ((0, 0), (0, 1), (3, 0), (3, 1)):
        adversarial.training_step(state, run, COMPUTE, batches_of(run), seed, step)
    assert len({z.numpy().tobytes() for z in drawn}) == 4


@pytest.mark.parametrize(("updates", "expected"), [("alternate", [0, 16, 0, 16]), ("both", [16] * 4)])
def test_images_are_read_only_for_updates_of_the_discriminator(
    monkeypatch: pytest.MonkeyPatch, updates: str, expected: list[int]
):
    run, read = tiny_run(updates=updates), []
    to_network = batches.to_network

    def seen(architecture: object, images: np.ndarray, device: str) -> torch.Tensor:
        read.append(len(images))
        return to_network(architecture, images, device)

    monkeypatch.setattr(batches, "to_network", seen)
    state = RunState(networks=adversarial.initial_networks(run, COMPUTE, 0))
    served = batches_of(run)
    for step in range(4):
        adversarial.training_step(state, run, COMPUTE, served, 0, step)
    # the last batch of an epoch has 8 of the 56 images
    assert read == [min(n, 8) if step == 3 else n for step, n in enumerate(expected)]


@pytest.mark.parametrize("spoilt", [0, 1], ids=["generator", "discriminator"])
def test_nan_at_the_end_of_an_epoch_stops_before_it_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: int
):
    """The second epoch ends with step 8: no samples are due, nor a checkpoint, but a score is."""
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: False)
    step_of = adversarial.training_step

    def step(state, *arguments, **options):
        if state.step == 7:
            networks = (state.networks.generator, state.networks.discriminator)
            with torch.no_grad():
                next(networks[spoilt].parameters()).view(-1)[0] = float("nan")
        step_of(state, *arguments, **options)

    monkeypatch.setattr(adversarial, "training_step", step)
    with pytest.raises(InputError, match=rf"in step 8; .*\({tmp_path}/seed0\.safetensors\)"):
        adversarial.train(digits(), tiny_run(), COMPUTE, tmp_path, lambda *_: pytest.fail("a score of NaN"))


# ---- resumed equals unbroken ----------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for kill -9."""


def outcome(trained: adversarial.Trained, scratch: Path) -> dict[str, str]:
    """Hashes of all that a run leaves: tensors, tables, checkpoints."""
    contents = {
        "tensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in trained.tensors.items()}),
        "history": trained.history.to_csv(float_format="%.17g").encode(),
        "validation": trained.validation.to_csv(float_format="%.17g").encode(),
        "health": trained.health.to_csv(float_format="%.17g").encode(),
        "samples": trained.samples.tobytes() + trained.sample_epochs.tobytes(),
        "steps": str(trained.steps).encode(),
    } | {path.name: path.read_bytes() for path in scratch.glob("*.safetensors")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def run_with_kills(
    run: Run, compute: Compute, scratch: Path, kills: list[tuple[int, int]], patch: pytest.MonkeyPatch
) -> tuple[adversarial.Trained, list[tuple[int, int]]]:
    """Train, breaking off before each (seed, step) of ``kills`` in turn and resuming; also every step that was run."""
    waiting, ran, step_of = [*kills], [], adversarial.training_step

    def breakable(state, run, compute, batches, seed, step, *, measured):
        if waiting and waiting[0] == (seed, step):
            waiting.pop(0)
            raise KilledError
        ran.append((seed, step))
        step_of(state, run, compute, batches, seed, step, measured=measured)

    with patch.context() as patched:
        patched.setattr(adversarial, "training_step", breakable)
        for _ in kills:
            with pytest.raises(KilledError):
                adversarial.train(digits(), run, compute, scratch, score_by_weights)
        trained = adversarial.train(digits(), run, compute, scratch, score_by_weights)
    return trained, ran


@pytest.mark.parametrize("updates", ["alternate", "both"])
@pytest.mark.parametrize("name", ["dcgan_mnist", "gan_mnist"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_resumed_equals_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: str, name: str, precision: str
):
    """Broken off inside an interval of the log, at its end, right after a validation, and in the second seed."""
    compute = Compute(device="cpu", threads=1, precision=precision)
    if precision == "auto" and precision_in_force(compute) == "fp32":
        pytest.skip("no native bf16 here: auto is fp32")
    architecture = MnistArchitecture(name=name, z_dim=5, filters=4 if name == "dcgan_mnist" else 0, hidden=16)
    run = tiny_run(updates=updates, architecture=architecture)
    unbroken = adversarial.train(digits(), run, compute, tmp_path / "unbroken", score_by_weights)
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)
    kills = [(0, 3), (0, 5), (0, 8), (3, 13)]
    resumed, ran = run_with_kills(run, compute, tmp_path / "resumed", kills, monkeypatch)
    assert ran == [(seed, step) for seed in (0, 3) for step in range(16)], (
        "a resumed run repeats no step and skips none"
    )
    assert outcome(resumed, tmp_path / "resumed") == outcome(unbroken, tmp_path / "unbroken")
    pd.testing.assert_frame_equal(resumed.history, unbroken.history, check_exact=True)
    pd.testing.assert_frame_equal(resumed.validation, unbroken.validation, check_exact=True)


def test_resumed_from_an_older_checkpoint_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps since the last checkpoint run again: the clock was due only once, at step 7."""
    run = tiny_run(seeds=[0])
    unbroken = adversarial.train(digits(), run, COMPUTE, tmp_path / "unbroken", score_by_weights)
    asked = iter(range(1, 1000))
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: next(asked) == 7)
    resumed, ran = run_with_kills(run, COMPUTE, tmp_path / "resumed", [(0, 12)], monkeypatch)
    assert [step for _, step in ran] == [*range(12), *range(7, 16)]
    assert outcome(resumed, tmp_path / "resumed") == outcome(unbroken, tmp_path / "unbroken")


def test_only_this_process_work_counts_as_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed after steps 0 to 11 of the first seed, of which a checkpoint holds 7: the next process does the rest."""
    asked = iter(range(1, 1000))
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: next(asked) == 7)
    resumed, ran = run_with_kills(tiny_run(), COMPUTE, tmp_path, [(0, 12)], monkeypatch)
    assert len(ran) == 12 + 9 + 16
    assert (resumed.steps, resumed.images) == (16, (9 + 16) * 16)
    finished = adversarial.train(digits(), tiny_run(), COMPUTE, tmp_path, score_by_weights)
    assert (finished.steps, finished.images) == (16, 0)


def test_a_kill_loses_less_than_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By a clock on which a step takes 7 seconds and a score 20: the time between two checkpoints."""
    now, saved, step_of, save = [0.0], [0.0], adversarial.training_step, adversarial.save
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def step(*arguments, **options):
        now[0] += 7
        step_of(*arguments, **options)

    def score(generator: nn.Module, seed: int) -> list[ValidationScore]:
        now[0] += 20
        return score_by_weights(generator, seed)

    def told(path: Path, state: RunState) -> None:
        saved.append(now[0])
        save(path, state)

    monkeypatch.setattr(adversarial, "training_step", step)
    monkeypatch.setattr(adversarial, "save", told)
    adversarial.train(digits(), tiny_run(seeds=[0]), COMPUTE, tmp_path, score)
    assert saved[-1] == now[0] == 16 * 7 + 2 * 20
    assert 0 < max(np.diff(saved)) < 60


def test_broken_off_inside_the_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(seeds=[0])
    unbroken = adversarial.train(digits(), run, COMPUTE, tmp_path / "unbroken", score_by_weights)
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: True)

    def broken(generator: nn.Module, seed: int) -> list[ValidationScore]:
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            adversarial.train(digits(), run, COMPUTE, tmp_path / "resumed", broken)
    resumed = adversarial.train(digits(), run, COMPUTE, tmp_path / "resumed", score_by_weights)
    assert outcome(resumed, tmp_path / "resumed") == outcome(unbroken, tmp_path / "unbroken")


def test_a_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run()
    first = adversarial.train(digits(), run, COMPUTE, tmp_path, score_by_weights)
    before = outcome(first, tmp_path)
    again, ran = run_with_kills(run, COMPUTE, tmp_path, [], monkeypatch)
    assert ran == []
    assert outcome(again, tmp_path) == before
