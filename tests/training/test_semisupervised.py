"""The semi-supervised loop: schedule, tests, what a run leaves, alarms, the same bytes, params."""

import copy
import dataclasses
import functools
import gc
import hashlib
import re
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from made_semisup import (
    CASES,
    COMPUTE,
    MEMBERS,
    after_steps,
    made_architecture,
    made_batches,
    made_players,
    made_semisup,
    made_techniques,
    parameters_of,
    set_for,
    state_of,
)
from ruamel.yaml import YAML

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.models.improved import Discriminator, draw_z
from pipeline.models.improved_layers import MinibatchDiscrimination
from pipeline.training import checkpoint, labelled_batches, semisupervised
from pipeline.training.labelled_batches import Member, Pixels
from pipeline.training.semisupervised import GroupState, Run, Techniques

ROOT = Path(__file__).resolve().parents[2]
by_case = pytest.mark.parametrize("case", CASES)


# ---- the schedule ---------------------------------------------------------------------------------------------------


def rates(run: Run) -> list[float]:
    players = made_players(run, MEMBERS[:1])
    returned = []
    for epoch in range(run.epochs):
        returned.append(semisupervised.set_learning_rate(players, run, epoch))
        for adam in (players.generator_adam, players.discriminator_adam):
            assert [group["lr"] for group in adam.param_groups] == [returned[-1]]
    return returned


@pytest.mark.parametrize(
    ("constant", "decay", "expected"),
    [(3, 0, [1, 1, 1]), (0, 4, [1, 0.75, 0.5, 0.25]), (1, 1, [1, 1]), (2, 2, [1, 1, 1, 0.5]), (1, 0, [1])],
)
def test_the_schedule_at_its_corners(constant: int, decay: int, expected: list[float]):
    got = rates(made_semisup(constant_epochs=constant, decay_epochs=decay))
    assert got == pytest.approx([0.003 * share for share in expected], rel=1e-12)


def test_the_schedule_of_the_authors():
    """CIFAR-10: rate times min(3 - epoch / 400, 1), of 1,200 epochs counted from 0."""
    got = rates(made_semisup(constant_epochs=800, decay_epochs=400))
    assert got == pytest.approx([0.003 * min(3 - epoch / 400, 1) for epoch in range(1200)], rel=1e-9)


# ---- tests and samples ----------------------------------------------------------------------------------------------


def direct(discriminator: Discriminator, images: torch.Tensor) -> torch.Tensor:
    """Logits (S, N, 10) of one batch for all members, noise off."""
    discriminator = copy.deepcopy(discriminator).eval()
    with torch.no_grad():
        return discriminator(images.expand(len(MEMBERS), *images.shape)).logits


def network_images(image_set: ImageSet, rows: np.ndarray, run: Run) -> torch.Tensor:
    return labelled_batches.to_network(image_set.images[rows], run.pixels, "cpu")


@pytest.mark.parametrize("case", ["dense", "conv"])
@pytest.mark.parametrize("batch_size", [7, 8, 14, 50])
def test_logits_do_not_depend_on_the_batches_of_the_test(case: str, batch_size: int):
    """14 test images in whole batches, a padded last one, and less than one batch: each image as by itself."""
    run = CASES[case]
    image_set = set_for(run)
    players = made_players(run, MEMBERS)
    expected = direct(players.discriminator, network_images(image_set, image_set.rows("test"), run))
    run = dataclasses.replace(run, batch_size=batch_size)
    found = semisupervised.logits_of(players.discriminator, image_set, run, COMPUTE, 3)
    assert found.shape == (3, 14, 10)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert players.discriminator.training, "training goes on with its noise"


def test_the_last_batch_of_a_minibatch_network_is_filled_with_the_first_test_images():
    run = CASES["minibatch digits"]
    image_set = set_for(run)
    discriminator = made_players(run, MEMBERS).discriminator
    assert any(isinstance(module, MinibatchDiscrimination) for module in discriminator.modules())
    order = numpy_stream(0, "order of test images").permutation(14)
    rows = image_set.rows("test")[order]
    batches = [rows[:8], np.concatenate([rows[8:], rows[:2]])]
    expected = torch.cat([direct(discriminator, network_images(image_set, b, run)) for b in batches], dim=1)[:, :14]
    found = semisupervised.logits_of(discriminator, image_set, run, COMPUTE, 3)[:, order]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    whole = direct(discriminator, network_images(image_set, rows, run))
    assert (whole - expected).abs().max() > 1e-3, "its logits do depend on the batch"


@pytest.mark.parametrize("case", ["dense", "minibatch digits"])
def test_logits_of_a_group_are_those_of_each_member(case: str):
    run = CASES[case]
    together = semisupervised.tested_logits(made_players(run, MEMBERS), set_for(run), run, COMPUTE, 3)
    for number, member in enumerate(MEMBERS):
        alone = semisupervised.tested_logits(made_players(run, [member]), set_for(run), run, COMPUTE, 1)
        np.testing.assert_allclose(together[number], alone[0], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@by_case
def test_networks_are_tested_with_the_parameter_average_and_train_on_without(case: str):
    run = CASES[case]
    image_set = set_for(run)
    state = after_steps(run, MEMBERS, 3)
    players, before = state.players, state_of(state)
    last = semisupervised.logits_of(players.discriminator, image_set, run, COMPUTE, 3)
    tested = semisupervised.tested_logits(players, image_set, run, COMPUTE, 3)
    rows = semisupervised.tested(players, image_set, run, COMPUTE, MEMBERS, epoch=9)
    after = state_of(state)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items()), "to the bit"
    averaged = copy.deepcopy(players.discriminator)
    if players.average is not None:
        with torch.no_grad():
            for p, mean in zip(averaged.parameters(), players.average.averages, strict=True):
                p.copy_(mean)
        assert np.abs(tested - last).max() > 1e-4
    assert np.array_equal(tested, semisupervised.logits_of(averaged, image_set, run, COMPUTE, 3))
    labels = image_set.labels(image_set.rows("test"))
    for number, (member, row) in enumerate(zip(MEMBERS, rows, strict=True)):
        expected: dict[str, float] = {"split": member.split, "seed": member.seed, "epoch": 9}
        for name, logits in (("error_percent", tested), ("error_percent_last", last)):
            wrong = sum(int(np.argmax(x)) != y for x, y in zip(logits[number], labels, strict=True))
            expected[name] = 100 * wrong / 14 if run.n_labels else np.nan  # no logit has been taught its class
        assert row == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("case", ["dense", "conv", "dense, all techniques"])
def test_samples_are_a_members_own_and_always_of_the_same_z(case: str):
    run = CASES[case]
    generator = made_players(run, MEMBERS).generator
    images = semisupervised.fixed_samples(generator, run, COMPUTE, MEMBERS)
    sides = (28, 28, 1) if "dense" in case else (32, 32, 3)
    assert images.shape == (3, 6, *sides)
    assert images.dtype == np.uint8
    assert np.array_equal(semisupervised.fixed_samples(generator, run, COMPUTE, MEMBERS), images)
    alone = semisupervised.fixed_samples(made_players(run, MEMBERS[1:2]).generator, run, COMPUTE, MEMBERS[1:2])
    assert np.abs(alone[0].astype(int) - images[1]).max() <= 1, "within rounding to a level"
    assert np.abs(images[0].astype(int) - images[1]).max() > 1
    z = draw_z(run.architecture, 6, [MEMBERS[2].stream("fixed z")])
    with torch.no_grad():
        x = made_players(run, MEMBERS[2:]).generator(z)[0].permute(0, 2, 3, 1).double().numpy()
    levels = np.clip(np.rint(x * run.pixels.divisor + run.pixels.offset), 0, 255)
    assert np.abs(levels - images[2]).max() <= 1


# ---- what a run leaves ----------------------------------------------------------------------------------------------


def test_all_that_a_run_leaves(tmp_path: Path):
    """3 epochs of 7 steps, a row of the history each fourth and after the last, tests after epochs 2 and 3."""
    run = made_semisup(at_once=3)
    image_set = set_for(run)
    trained = semisupervised.train(image_set, run, COMPUTE, tmp_path)
    members = [(0, 4), (0, 7), (1, 4), (1, 7)]
    assert [tuple(member) for member in run.members] == members
    assert [len(group) for group in run.groups] == [3, 1]
    assert (trained.steps, trained.images) == (21, 21 * 8 * 4)
    history = trained.history
    assert [*history.columns] == [*semisupervised.HISTORY, *semisupervised.LOSSES]
    steps = [4, 8, 12, 16, 20, 21]
    keys = [(split, seed, step) for step in steps for split, seed in members[:3]]
    keys += [(*members[3], step) for step in steps]
    assert [*history[["split", "seed", "step"]].itertuples(index=False, name=None)] == keys
    assert history["epoch"].tolist() == [epoch for epoch in (0, 1, 1, 2, 2, 2) for _ in range(3)] + [0, 1, 1, 2, 2, 2]
    assert history["learning_rate"].tolist() == [0.003] * 24, "the first epoch of the decay is at the full rate"
    assert history[list(semisupervised.LOSSES)].notna().all(axis=None)
    assert history["labelled_error_percent"].between(0, 100).all()
    tests = [(*member, epoch) for epoch in (2, 3) for member in members[:3]] + [(*members[3], e) for e in (2, 3)]
    assert [*trained.errors[["split", "seed", "epoch"]].itertuples(index=False, name=None)] == tests
    assert [*trained.errors.columns] == list(semisupervised.ERRORS)
    assert [*trained.health[["split", "seed", "epoch"]].itertuples(index=False, name=None)] == [
        (*member, 3) for member in members
    ]
    assert trained.logits.shape == (4, 14, 10)
    labels = image_set.labels(image_set.rows("test"))
    error = 100 * (trained.logits.argmax(2) != labels).mean(axis=1)
    last = trained.errors[trained.errors["epoch"] == 3]
    assert last["error_percent"].tolist() == pytest.approx(error.tolist()), "in the order of the members"
    assert trained.samples.shape == (4, 6, 28, 28, 1)
    check_labelled(trained.labelled, image_set)
    check_tensors(trained.tensors, run, members)
    assert len([*tmp_path.glob("*.safetensors")]) == 2, "a checkpoint for each group"


def check_labelled(table: pd.DataFrame, image_set: ImageSet) -> None:
    """Both splits, each once, with the keys of the images that the batches serve as labelled."""
    assert table.groupby("split").size().to_dict() == {0: 20, 1: 20}
    index = image_set.index.set_index("key")
    assert index.loc[table["key"], "label"].tolist() == table["label"].tolist()
    assert not (index.loc[table["key"], "split"] == "test").any()
    for split in (0, 1):
        rows = made_batches(made_semisup(), [Member(split, 9)]).labelled_rows[0]
        assert set(table.loc[table["split"] == split, "key"]) == set(image_set.index["key"].iloc[rows])


def check_tensors(tensors: dict[str, torch.Tensor], run: Run, members: list[tuple[int, int]]) -> None:
    """Each member's networks, as of one seed, and D's averaged parameters beside its own."""
    single = parameters_of(made_players(run, MEMBERS[:1]))
    for split, seed in members:
        own = {
            key.removeprefix(f"seed{seed}/split{split}/"): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"seed{seed}/split{split}/")
        }
        averaged = {f"discriminator_average/{key.split('/')[1]}" for key in single if key.startswith("discriminator/")}
        assert {*own} == {*single} | averaged
        for key, tensor in single.items():
            assert own[key].shape == tensor.shape
        parameter = "discriminator_average/to_logits.1.direction"
        assert not torch.equal(own[parameter], own[parameter.replace("_average", "")])
    assert len(tensors) == len(members) * (len(single) + sum(key.startswith("discriminator/") for key in single))


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_at_once_decides_no_more_than_rounding(tmp_path: Path, at_once: int):
    """Over the first steps: later, kinks make of rounding what they like."""
    run = dataclasses.replace(made_semisup(), constant_epochs=1, decay_epochs=0)
    expected = semisupervised.train(set_for(run), dataclasses.replace(run, at_once=3), COMPUTE, tmp_path / "a")
    found = semisupervised.train(set_for(run), dataclasses.replace(run, at_once=at_once), COMPUTE, tmp_path / "b")
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-2, atol=1e-3)
    assert {*found.tensors} == {*expected.tensors}
    assert np.abs(expected.logits[0] - expected.logits[1]).max() > 0.1
    keys = ["split", "seed", "step"]
    a, b = (each.history.sort_values(keys, ignore_index=True) for each in (found, expected))
    pd.testing.assert_frame_equal(a, b, rtol=1e-2, atol=1e-3)
    pd.testing.assert_frame_equal(found.labelled, expected.labelled)


def test_the_history_is_the_mean_of_its_interval(tmp_path: Path):
    run = made_semisup(techniques=made_techniques(generator_steps=3), constant_epochs=1, decay_epochs=0)
    fine, coarse = (
        semisupervised.train(set_for(run), dataclasses.replace(run, log_every_steps=n), COMPUTE, tmp_path / str(n))
        for n in (1, 5)
    )
    group = (fine.history["step"] - 1) // 5
    expected = fine.history.groupby(["split", "seed", group])[list(semisupervised.LOSSES)].mean()
    found = coarse.history.sort_values(["split", "seed", "step"])[list(semisupervised.LOSSES)]
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-9)


def test_labels_only_uses_no_unlabelled_image_and_starts_alike(tmp_path: Path):
    """Other unlabelled images change nothing; G stays as it was drawn; the rate does not decay."""
    run = made_semisup(labels_only_epochs=4, constant_epochs=1, decay_epochs=2)
    image_set = set_for(run)
    alone = semisupervised.train_labels_only(image_set, run, COMPUTE, tmp_path / "a")
    assert alone.steps == 4 * 7
    assert set(alone.history["learning_rate"]) == {0.003}
    assert alone.history["labelled_loss"].notna().all()
    assert alone.history[["unsupervised_loss", "generator_loss"]].isna().all(axis=None)
    assert alone.health.empty
    assert alone.errors["epoch"].unique().tolist() == [2, 4]
    assert alone.logits.shape == (4, 14, 10)
    start = parameters_of(made_players(run, run.members))
    for number, member in enumerate(run.members):
        for key in (key for key in start if key.startswith("generator/")):
            assert torch.equal(alone.tensors[f"seed{member.seed}/split{member.split}/{key}"][0], start[key][number])
    labelled = set(alone.labelled["key"])
    others = ~image_set.index["key"].isin(labelled) & (image_set.index["split"] != "test")
    changed = dataclasses.replace(image_set, images=image_set.images.copy())
    changed.images[others.to_numpy()] //= 2
    plain = dataclasses.replace(run, architecture=made_architecture(data_dependent=False))
    first, second = (
        semisupervised.train_labels_only(images, plain, COMPUTE, tmp_path / str(n)).logits
        for n, images in enumerate((image_set, changed))
    )
    assert np.array_equal(first, second)
    with_them = semisupervised.train(changed, plain, COMPUTE, tmp_path / "c").logits
    assert not np.array_equal(with_them, semisupervised.train(image_set, plain, COMPUTE, tmp_path / "d").logits)


def test_without_labels_there_are_no_labelled_losses(tmp_path: Path):
    trained = semisupervised.train(set_for(CASES["no labels"]), CASES["no labels"], COMPUTE, tmp_path)
    assert trained.history[["labelled_loss", "labelled_error_percent"]].isna().all(axis=None)
    assert trained.history[["unsupervised_loss", "generator_loss"]].notna().all(axis=None)
    assert trained.labelled.empty
    assert [*trained.labelled.columns] == ["split", "key", "label"]


def test_training_learns(tmp_path: Path):
    """Ten bands of brightness, two labels a class: far from chance, with and without the other images."""
    wide = made_architecture(discriminator_width=8, noise=False)
    run = made_semisup(wide, splits=[0], constant_epochs=15, labels_only_epochs=15)
    trained = semisupervised.train(set_for(run), run, COMPUTE, tmp_path)
    alone = semisupervised.train_labels_only(set_for(run), run, COMPUTE, tmp_path)
    for errors in (trained.errors, alone.errors):
        assert errors["error_percent"].iloc[-2:].max() < 45
    first, last = (trained.history["labelled_loss"].iloc[rows].mean() for rows in (slice(2), slice(-2, None)))
    assert last < 0.5 * first


def test_the_curve_is_mean_and_range_over_members():
    errors = pd.DataFrame(
        [(0, 0, 4, 3.0, 5.0), (0, 1, 4, 1.0, 6.0), (0, 0, 2, 8.0, 8.0), (0, 1, 2, 9.0, 9.0), (1, 0, 4, 5.0, 7.0)],
        columns=list(semisupervised.ERRORS),
    )
    curve = semisupervised.error_curve(errors)
    assert [*curve.columns] == ["epoch", "error_percent", "lowest", "highest", "error_percent_last"]
    assert curve.to_numpy().tolist() == [[2, 8.5, 8, 9, 8.5], [4, 3, 1, 5, 6]]


# ---- alarms ---------------------------------------------------------------------------------------------------------


def test_an_unsupervised_loss_near_0_is_told(capsys: pytest.CaptureFixture[str]):
    """Lesson 10: the mean since the last row, of that member alone."""
    state = GroupState(players=made_players(CASES["dense"], MEMBERS), step=1200)
    for losses in ([0.5, 0.0, 0.02], [0.5, 0.019, 0.002]):
        state.add(unsupervised_loss=torch.tensor(losses))
    state.log(MEMBERS, epoch=3, learning_rate=0.003)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: split 0, seed 7, step 1,200: the unsupervised loss is 0.0095; D has won and G learns nothing more"
    ]
    assert not state.sums
    assert not state.counts
    state.add(labelled_loss=torch.zeros(3))
    state.log(MEMBERS, epoch=3, learning_rate=0.003)
    assert not capsys.readouterr().err, "none was computed"
    state.add(unsupervised_loss=torch.tensor([0.5, 0.0, 0.0]))
    state.log(MEMBERS, epoch=3, learning_rate=0.003)
    assert re.findall("split 0, seed 7|split 1, seed 4", capsys.readouterr().err) == ["split 1, seed 4"], "once each"


def test_with_label_smoothing_the_alarm_is_measured_from_the_least_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """D(x) = 0.75 of every real image: half the entropy of that coin, 0.281, is as good as 0 without smoothing."""
    run = made_semisup(techniques=made_techniques(real_target=0.75), constant_epochs=1, decay_epochs=0)
    least = 0.5 * (-0.75 * np.log(0.75) - 0.25 * np.log(0.25))

    def step(state: GroupState, _run, _compute, batches, at: int, **_options) -> None:
        batches.batch(at)
        losses = dict.fromkeys(semisupervised.LOSSES, torch.ones(4))
        state.add(**losses | {"unsupervised_loss": torch.full((4,), least + above)})

    monkeypatch.setattr(semisupervised, "training_step", step)
    for above, told in ((0.0095, 4), (0.0105, 0)):
        semisupervised.train(set_for(run), run, COMPUTE, tmp_path / str(above))
        assert capsys.readouterr().err.count("D has won") == told


def test_a_healthy_run_raises_no_such_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    semisupervised.train(set_for(CASES["dense"]), CASES["dense"], COMPUTE, tmp_path)
    assert "D has won" not in capsys.readouterr().err


def test_collapsed_samples_are_told(capsys: pytest.CaptureFixture[str]):
    run = CASES["dense"]
    image_set = set_for(run)
    samples = np.stack([image_set.images[:6], np.zeros((6, 28, 28, 1), np.uint8), image_set.images[6:12]])
    rows = semisupervised.samples_health(samples, image_set, run, MEMBERS)
    assert [row["collapsed"] for row in rows] == [False, True, False]
    assert [(row["split"], row["seed"], row["epoch"]) for row in rows] == [(*member, 3) for member in MEMBERS]
    assert capsys.readouterr().err == "warning: split 0, seed 7: the samples have collapsed (diversity 0.000)\n"


@pytest.mark.parametrize("spoilt", ["generator", "discriminator"])
@pytest.mark.parametrize("labels_only", [False, True], ids=["both players", "labels only"])
def test_nan_stops_at_the_end_of_its_epoch_and_names_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str, labels_only: bool
):
    """Spoilt in the tenth step; the second epoch ends with the fourteenth, and no checkpoint holds it."""
    monkeypatch.setattr(checkpoint.CheckpointClock, "due", lambda _self: False)
    monkeypatch.setattr(semisupervised, "save", lambda *_: pytest.fail("a checkpoint of NaN"))
    step_of = semisupervised.training_step

    def step(state: GroupState, *arguments, **options) -> None:
        if state.step == 9:
            with torch.no_grad():
                next(getattr(state.players, spoilt).parameters()).view(-1)[0] = float("nan")
        step_of(state, *arguments, **options)

    monkeypatch.setattr(semisupervised, "training_step", step)
    run = dataclasses.replace(CASES["dense"], labels_only_epochs=3)
    train = semisupervised.train_labels_only if labels_only else semisupervised.train
    # labels only, nothing is computed with G: its weights are found bad when they are looked at
    at = 14 if labels_only and spoilt == "generator" else 10
    members = "split 0, seed 4, 7; split 1, seed 4, 7"
    with pytest.raises(InputError, match=rf"^training {members}.*: .* NaN or infinite in step {at}; .*{tmp_path}"):
        train(set_for(run), run, COMPUTE, tmp_path)


# ---- the same bytes -------------------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for kill -9."""


def outcome(trained: semisupervised.Trained, scratch: Path) -> dict[str, str]:
    """Hashes of all that a run leaves: tensors, tables, checkpoints."""
    tables = {"history": trained.history, "errors": trained.errors, "health": trained.health}
    tables |= {"labelled": trained.labelled}
    contents = {
        "tensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in trained.tensors.items()}),
        "arrays": trained.logits.tobytes() + trained.samples.tobytes(),
        "steps": str(trained.steps).encode(),
    }
    contents |= {name: table.to_csv(float_format="%.17g").encode() for name, table in tables.items()}
    contents |= {path.name: path.read_bytes() for path in scratch.glob("*.safetensors")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.mark.parametrize(
    ("case", "labels_only"),
    [("dense, all techniques", False), ("dense, all techniques", True), ("no labels", False)],
)
def test_twice_and_resumed_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, labels_only: bool
):
    """Broken off in both groups: in the middle of an epoch and of an interval of the log, and at an epoch's end."""
    run = dataclasses.replace(CASES[case], at_once=3, constant_epochs=1, labels_only_epochs=2 if labels_only else 0)
    train = semisupervised.train_labels_only if labels_only else semisupervised.train
    outcomes = [outcome(train(set_for(run), run, COMPUTE, tmp_path / str(n)), tmp_path / str(n)) for n in range(2)]
    assert outcomes[0] == outcomes[1]
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    kills, ran, step_of = [(3, 5), (3, 7), (1, 9)], [], semisupervised.training_step

    def breakable(state, run, compute, batches, step, **options) -> None:
        at = (len(batches.members), step)
        if kills and kills[0] == at:
            kills.pop(0)
            raise KilledError
        ran.append(at)
        step_of(state, run, compute, batches, step, **options)

    monkeypatch.setattr(semisupervised, "training_step", breakable)
    for _ in range(3):
        with pytest.raises(KilledError):
            train(set_for(run), run, COMPUTE, tmp_path / "broken")
    resumed = train(set_for(run), run, COMPUTE, tmp_path / "broken")
    assert ran == [(n, step) for n in (3, 1) for step in range(14)], "no step twice"
    assert outcome(resumed, tmp_path / "broken") == outcomes[0]
    assert resumed.images == 5 * 8, "of the last process"


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    run = CASES["dense"]
    semisupervised.train(set_for(run), run, COMPUTE, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    wide = dataclasses.replace(run, architecture=made_architecture(discriminator_width=5))
    with pytest.raises(InputError, match=rf"{file}: 'discriminator' is not this network"):
        semisupervised.train(set_for(run), wide, COMPUTE, tmp_path)
    historical = dataclasses.replace(run, techniques=made_techniques(historical_averaging=0.1))
    with pytest.raises(InputError, match=r"not a checkpoint of this training .*remove it and run the stage again"):
        semisupervised.train(set_for(run), historical, COMPUTE, tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        semisupervised.train(set_for(run), run, COMPUTE, tmp_path)


def test_as_many_networks_at_once_as_a_full_table_has(tmp_path: Path):
    """Ten seeds of each of ten splits: the checkpoint's name must stay one that a file may have."""
    seeds = list(range(10))
    run = made_semisup(made_architecture(noise=False), splits=seeds, seeds=seeds, at_once=100)
    run = dataclasses.replace(run, constant_epochs=1, decay_epochs=0)
    trained = semisupervised.train(set_for(run), run, COMPUTE, tmp_path)
    assert trained.logits.shape == (100, 14, 10)


# ---- params ---------------------------------------------------------------------------------------------------------


@functools.cache
def own_section() -> dict:
    return YAML(typ="safe").load(ROOT / "params.yaml")["semisup"]


def write_params(path: Path, **changes: object) -> None:
    """The project's own section with one run; a change is named by its place, such as techniques__real_target."""
    section = copy.deepcopy(own_section())
    run = section["runs"]["mnist-100"]
    for name, value in changes.items():
        *parts, last = name.split("__")
        place = section if last in section else run
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    section["runs"] = {"made": run}
    YAML().dump({"semisup": section}, path)


def load(tmp_path: Path, **changes: object) -> Run:
    write_params(tmp_path / "params.yaml", **changes)
    return params.load(tmp_path / "params.yaml", Run, shared="semisup", own="semisup.runs.made")


def test_a_run_is_read_from_the_params(tmp_path: Path):
    run = load(tmp_path, splits=[3, 1], seeds=[0, 5], at_once=3)
    assert isinstance(run.techniques, Techniques)
    assert (run.beta1, run.n_labels, run.techniques.generator_loss) == (0.5, 100, "squared_feature_matching")
    assert run.members == [Member(3, 0), Member(3, 5), Member(1, 0), Member(1, 5)]
    assert run.groups == [run.members[:3], run.members[3:]]
    assert run.epochs == run.constant_epochs + run.decay_epochs


RUN = "semisup.runs.made"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"techniques__generator_loss": "feature_matching"}, f"{RUN}.techniques.generator_loss"),
        ({"techniques__generator_steps": 0}, f"{RUN}.techniques.generator_steps"),
        ({"techniques__real_target": 0.0}, f"{RUN}.techniques.real_target"),
        ({"techniques__real_target": 1.1}, f"{RUN}.techniques.real_target"),
        ({"techniques__historical_averaging": -0.1}, f"{RUN}.techniques.historical_averaging"),
        ({"techniques__historical_averaging": float("inf")}, f"{RUN}.techniques.historical_averaging"),
        ({"techniques__parameter_average": 1.5}, f"{RUN}.techniques.parameter_average"),
        ({"techniques__parameter_average": -0.1}, f"{RUN}.techniques.parameter_average"),
        ({"techniques__real_target": None}, f"{RUN}.techniques: missing key 'real_target'"),
        ({"techniques__dropout": 0.5}, f"{RUN}.techniques: unknown key 'dropout'"),
        ({"seeds": [1, 2, 1]}, "seeds must differ from each other, found [1, 2, 1]"),
        ({"splits": [0, 0]}, "splits must differ from each other, found [0, 0]"),
        ({"seeds": []}, f"{RUN}.seeds"),
        ({"at_once": 0}, f"{RUN}.at_once"),
        ({"batch_size": 1}, f"{RUN}.batch_size"),
        ({"n_labels": 25}, "n_labels must be a multiple of the 10 classes, so that subsets are balanced; found 25"),
        ({"n_labels": -10}, f"{RUN}.n_labels"),
        ({"n_labels": 0}, "labels_only_epochs: a run with n_labels 0 has nothing to be trained on"),
        ({"constant_epochs": 0, "decay_epochs": 0}, "constant_epochs + decay_epochs must be at least 1, found 0"),
        ({"beta2": 0.0}, "semisup.beta2"),
        ({"n_samples": 1}, "semisup.n_samples"),
        ({"pixels__divisor": 0.0}, f"{RUN}.pixels.divisor"),
    ],
    ids=lambda value: ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_params_that_are_refused(tmp_path: Path, changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load(tmp_path, **changes)
    said = str(error.value)
    assert said.startswith(str(tmp_path / "params.yaml"))
    assert "\n" not in said, "one sentence"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            made_semisup(n_labels=70),
            r"^made: class 0 has 5 training images, 7 labels per class are asked for; lower ",
        ),
        (
            made_semisup(batch_size=57),
            r"^made: 56 training images, fewer than one batch of 57; lower batch_size to at ",
        ),
        (
            made_semisup(made_architecture("semisup_conv")),
            r"^made: images of 28 x 28 x 1, the networks semisup_conv take 32 x 32 x 3; name another dataset or arch",
        ),
    ],
    ids=["labels", "batch", "size"],
)
def test_sets_that_do_not_go_with_the_params_are_refused(tmp_path: Path, run: Run, message: str):
    with pytest.raises(InputError, match=message) as error:
        semisupervised.train(set_for(made_semisup()), run, COMPUTE, tmp_path)
    assert "\n" not in str(error.value)


def test_a_run_without_labels_needs_none_of_the_test_images(tmp_path: Path):
    run = dataclasses.replace(CASES["no labels"], constant_epochs=1, decay_epochs=0)
    image_set = set_for(run)
    image_set.index.loc[image_set.index["split"] == "test", "label"] = -1
    assert semisupervised.train(image_set, run, COMPUTE, tmp_path).steps == 7


def test_a_finished_group_leaves_no_network_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten groups of ten networks of the paper's size would not fit beside each other."""
    alive: list[weakref.ref[semisupervised.Players]] = []
    at_start = []
    initial_players = semisupervised.initial_players

    def watched(*arguments: object) -> semisupervised.Players:
        gc.collect()
        at_start.append(sum(ref() is not None for ref in alive))
        players = initial_players(*arguments)
        alive.append(weakref.ref(players))
        return players

    monkeypatch.setattr(semisupervised, "initial_players", watched)
    run = made_semisup(at_once=1, constant_epochs=1, decay_epochs=0)
    semisupervised.train(set_for(run), run, COMPUTE, tmp_path)
    assert at_start == [0, 0, 0, 0]


def test_test_images_without_a_class_are_refused_before_training(tmp_path: Path):
    run = made_semisup()
    image_set = set_for(run)
    image_set.index.loc[image_set.index["split"] == "test", "label"] = -1
    with pytest.raises(
        InputError, match=r"^made: labels of the test images from -1 to -1, the networks have classes 0 to 9"
    ):
        semisupervised.train(image_set, run, COMPUTE, tmp_path)


@pytest.mark.parametrize("pixels", [Pixels(offset=0.0, divisor=255.0), Pixels(offset=127.5, divisor=127.5)])
def test_pixels_are_those_of_the_params(pixels: Pixels):
    conv = pixels.offset > 0
    run = made_semisup(made_architecture("semisup_conv"), pixels=pixels) if conv else made_semisup(pixels=pixels)
    seen = made_batches(run, MEMBERS).batch(0).unlabelled
    assert seen.min().item() == pytest.approx((0 - pixels.offset) / pixels.divisor)
    assert seen.max().item() == pytest.approx((243 - pixels.offset) / pixels.divisor)


def test_labels_alone_are_tested_with_an_average_of_their_own_schedule(tmp_path: Path):
    """At the run's rate the average of a shorter schedule would still hold the initial parameters."""
    rates = []
    original = semisupervised.ParameterAverage

    class Told(original):
        def __init__(self, network, rate):
            rates.append(rate)
            super().__init__(network, rate)

    run = made_semisup(techniques=made_techniques(parameter_average=0.1), constant_epochs=4, labels_only_epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semisupervised, "ParameterAverage", Told)
        semisupervised.train_labels_only(set_for(run), run, COMPUTE, tmp_path)
    assert rates == [pytest.approx(0.1 * run.epochs / 2)]
