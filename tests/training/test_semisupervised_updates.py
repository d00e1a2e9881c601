"""Each update against its definition, and members beside each other against each alone."""

import copy
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from made_semisup import (
    CASES,
    COMPUTE,
    MEMBERS,
    after_steps,
    made_batches,
    made_players,
    made_semisup,
    made_set,
    made_techniques,
    parameters_of,
    state_of,
)
from torch import nn

from pipeline.core.compute import autocast
from pipeline.models.improved import Discriminator, draw_z, image_shape, initialise_discriminator
from pipeline.models.improved_layers import VirtualBatchNorm, set_noise
from pipeline.training import labelled_batches, semisupervised
from pipeline.training.averaging import HistoricalAverage
from pipeline.training.labelled_batches import Member, SemisupervisedBatch, SemisupervisedBatches
from pipeline.training.semisupervised import GroupState, Run

by_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in double precision: what is left of a difference is rounding, and no kink lies in its way."""
    to_network = labelled_batches.to_network
    monkeypatch.setattr(
        torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(dtype=torch.get_default_dtype())
    )
    for module in (labelled_batches, semisupervised):
        monkeypatch.setattr(module, "to_network", lambda *arguments: to_network(*arguments).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---- the initial state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "labelled"), [("dense", False), ("minibatch digits", False), ("conv", True)])
def test_which_images_set_the_scales(monkeypatch: pytest.MonkeyPatch, case: str, labelled: bool):
    """MNIST: the first 500 training images; CIFAR-10 and SVHN: labelled ones, tiled to 500 (facts of section 7)."""
    run, seen = CASES[case], []
    channels, height, width = image_shape(run.architecture)
    image_set = made_set((height, width, channels), n=700)  # 560 to be trained on

    def initialise(a: object, discriminator: object, images: torch.Tensor, streams: object) -> None:
        seen.append(images)
        initialise_discriminator(a, discriminator, images, streams)

    monkeypatch.setattr(semisupervised, "initialise_discriminator", initialise)
    served = SemisupervisedBatches(
        image_set, members=MEMBERS[:1], n_labels=20, n_classes=10, batch_size=8, pixels=run.pixels, device="cpu"
    )
    semisupervised.initial_players(run, COMPUTE, MEMBERS[:1], served)
    (images,) = seen
    assert images.shape == (1, 500, channels, height, width)
    subset = labelled_batches.to_network(image_set.images[served.labelled_rows[0]], run.pixels, "cpu")
    known = {image.numpy().tobytes() for image in subset}
    found = [image.contiguous().numpy().tobytes() for image in images[0]]
    assert len(set(found)) == (20 if labelled else 500)
    assert (set(found) == known) == labelled


# ---- members beside each other --------------------------------------------------------------------------------------


@by_case
def test_the_initial_state_of_a_member_does_not_depend_on_its_group(case: str):
    """To the bit: parameters, fixed scales, the reference of virtual batch norm, averages."""
    run = CASES[case]
    together = state_of(GroupState(players=made_players(run, MEMBERS)))
    for group in ([MEMBERS[2]], [Member(3, 3), MEMBERS[1]], MEMBERS[::-1]):
        other = state_of(GroupState(players=made_players(run, group)))
        assert together.keys() == other.keys()
        for number, member in enumerate(MEMBERS):
            if member in group:
                for key, tensor in other.items():
                    assert torch.equal(tensor[group.index(member)], together[key][number]), key
    drawn = [key for key in together if key.endswith(("direction", "weight"))]
    assert drawn
    for key in drawn:
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(together[key][first], together[key][second]), f"{key}: two members are alike"


@by_case
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("labels_only", [False, True], ids=["both players", "labels only"])
def test_updates_of_a_group_are_those_of_each_member_alone(case: str, labels_only: bool):
    """Two steps from equal states; parameters, moments, averages and what is told of the losses."""
    run = CASES[case]
    if labels_only and not run.n_labels:
        return
    together = state_of(after_steps(run, MEMBERS, 2, labels_only=labels_only))
    start = state_of(GroupState(players=made_players(run, MEMBERS)))
    for number, member in enumerate(MEMBERS):
        alone = state_of(after_steps(run, [member], 2, labels_only=labels_only))
        assert alone.keys() == together.keys()
        for key, tensor in alone.items():
            torch.testing.assert_close(together[key][number : number + 1], tensor, rtol=1e-7, atol=1e-10, msg=key)
    assert any(key.startswith("sums/") for key in together)
    moved = {key for key, tensor in start.items() if (together[key] != tensor).any()}
    for name in ("generator", "discriminator"):
        drawn = {key for key in start if key.startswith(f"{name}/") and key.endswith(("direction", "weight"))}
        assert (drawn <= moved) == (name == "discriminator" or not labels_only)
        assert (not drawn & moved) == (name == "generator" and labels_only)


@pytest.mark.parametrize("case", ["dense, all techniques", "conv"])
def test_in_single_precision_too_a_group_is_its_members_within_rounding(case: str):
    """A hundredth of the way gone: near a kink of a unit, rounding is enlarged."""
    run = CASES[case]
    together = parameters_of(after_steps(run, MEMBERS, 1).players)
    start = parameters_of(made_players(run, MEMBERS))
    for number, member in enumerate(MEMBERS):
        alone = parameters_of(after_steps(run, [member], 1).players)
        for name in ("generator/", "discriminator/"):
            difference, way = (
                sum((a[key][i] - b[key][j]).double().square().sum().item() for key in start if key.startswith(name))
                for a, i, b, j in ((together, number, alone, 0), (together, number, start, number))
            )
            assert difference < 1e-4 * way


# ---- updates against their definitions ------------------------------------------------------------------------------


class SlowPlayer:
    """Adam with epsilon inside the root, historical averaging and a parameter average, as written in the papers."""

    def __init__(self, network: nn.Module, run: Run) -> None:
        self.network, self.run, self.t = network, run, 0
        self.parameters = list(network.parameters())
        self.m, self.v = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.past = [[p.detach().clone() for p in self.parameters]]
        self.average = [p.detach().clone() for p in self.parameters]

    def descend(self, loss: torch.Tensor) -> None:
        run, weight = self.run, self.run.techniques.historical_averaging
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.t += 1
        with torch.no_grad():
            for number, (p, of_loss) in enumerate(zip(self.parameters, gradients, strict=True)):
                mean = torch.stack([old[number] for old in self.past]).mean(0)
                g = (torch.zeros_like(p) if of_loss is None else of_loss) + weight * 2 * (p - mean)
                self.m[number] = run.beta1 * self.m[number] + (1 - run.beta1) * g
                self.v[number] = run.beta2 * self.v[number] + (1 - run.beta2) * g * g
                m_hat, v_hat = self.m[number] / (1 - run.beta1**self.t), self.v[number] / (1 - run.beta2**self.t)
                p.sub_(run.learning_rate * m_hat / (v_hat + run.adam_epsilon).sqrt())
        self.past.append([p.detach().clone() for p in self.parameters])
        rate = run.techniques.parameter_average
        self.average = [a + rate * (p.detach() - a) for a, p in zip(self.average, self.parameters, strict=True)]


def slow_judge(discriminator: Discriminator, *batches: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features and logits of each batch (B, C, H, W), the noise of all drawn at once below the features."""
    features = discriminator.to_features(torch.cat(batches).unsqueeze(0)).split([len(b) for b in batches], dim=1)
    return [(each[0], discriminator.to_logits(each)[0]) for each in features]


def slow_labelled_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of - log p(y | x), p by the softmax over the classes."""
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return torch.stack([-p[y].log() for p, y in zip(probabilities, labels, strict=True)]).mean()


def probability_of_real(logits: torch.Tensor) -> torch.Tensor:
    """D(x) = Z / (Z + 1)."""
    z = logits.exp().sum(1)
    return z / (z + 1)


def slow_unsupervised_loss(real: torch.Tensor, fake: torch.Tensor, target: float) -> torch.Tensor:
    """Half of the cross-entropy against the real images' target, half of that against 0."""
    of_real, of_fake = probability_of_real(real), probability_of_real(fake)
    on_real = -target * of_real.log() - (1 - target) * (1 - of_real).log()
    return 0.5 * on_real.sum() / len(real) - 0.5 * (1 - of_fake).log().sum() / len(fake)


def slow_generator_loss(real: torch.Tensor, fake: torch.Tensor, logits: torch.Tensor, name: str) -> torch.Tensor:
    """Features of matched and generated images (B, n), logits of the generated."""
    difference = real.detach().mean(0) - fake.mean(0)
    of_fake = probability_of_real(logits)
    return {
        "squared_feature_matching": (difference**2).mean(),
        "absolute_feature_matching": difference.abs().mean(),
        "minimax": (1 - of_fake).log().mean(),
        "non_saturating": -of_fake.log().mean(),
    }[name]


def of_first(batch: SemisupervisedBatch) -> list[torch.Tensor]:
    return [images[0] for images in (*batch.labelled, batch.unlabelled)]


def slow_step(players: list[SlowPlayer], run: Run, member: Member, batch: SemisupervisedBatch, step: int) -> dict:
    """D once, G as often as asked, of one member; what each loss was."""
    generator, discriminator, t = players[0].network, players[1].network, run.techniques
    assert isinstance(discriminator, Discriminator)

    def fakes(what: str, index: int) -> torch.Tensor:
        return generator(draw_z(run.architecture, run.batch_size, [member.stream(what, index)]))[0]

    set_noise(discriminator, [member.stream("noise for D", step)])
    *labelled, (_, real), (_, fake) = slow_judge(discriminator, *of_first(batch), fakes("z for D", step).detach())
    unsupervised = slow_unsupervised_loss(real, fake, t.real_target)
    classes = [slow_labelled_loss(logits, y[0]) for (_, logits), y in zip(labelled, batch.labels, strict=True)]
    players[1].descend(sum(classes, unsupervised))
    generator_losses = []
    for nth in range(t.generator_steps):
        at = step * t.generator_steps + nth
        set_noise(discriminator, [member.stream("noise for G", at)])
        images, target = fakes("z for G", at), torch.zeros(1, 1)
        if t.generator_loss.endswith("matching"):
            target = discriminator.to_features(batch.matched)[0]
        ((features, logits),) = slow_judge(discriminator, images)
        loss = slow_generator_loss(target, features, logits, t.generator_loss)
        players[0].descend(loss)
        generator_losses.append(loss.item())
    told = {"unsupervised_loss": unsupervised.item(), "generator_loss": sum(generator_losses)}
    return told | ({"labelled_loss": classes[0].item()} if classes else {})


@by_case
@pytest.mark.usefixtures("double")
def test_steps_equal_slow_ones(case: str):
    """Three steps of both players: from the definitions of the losses, of Adam and of both averages."""
    run, member = CASES[case], MEMBERS[1]
    batches = made_batches(run, [member])
    state = GroupState(players=made_players(run, [member]))
    networks = copy.deepcopy([state.players.generator, state.players.discriminator])
    players = [SlowPlayer(network, run) for network in networks]
    for step in range(3):
        told = slow_step(players, run, member, batches.batch(step), step)
        semisupervised.training_step(state, run, COMPUTE, batches, step)
        sums = {name: total.item() for name, total in state.sums.items()}
        assert {name: sums[name] for name in told} == pytest.approx(told, rel=1e-9, abs=1e-12)
        state.sums.clear()
        for player, network in zip(players, (state.players.generator, state.players.discriminator), strict=True):
            for (key, found), expected in zip(network.named_parameters(), player.parameters, strict=True):
                torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-7, atol=1e-9, msg=key)
    average = state.players.average
    assert (average is None) == (run.techniques.parameter_average == 0)
    for found, expected in zip(average.averages if average else [], players[1].average if average else [], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("double")
def test_labels_only_steps_equal_slow_ones():
    run, member = CASES["dense, all techniques"], MEMBERS[1]
    batches = made_batches(run, [member])
    state = GroupState(players=made_players(run, [member]))
    discriminator = copy.deepcopy(state.players.discriminator)
    player = SlowPlayer(discriminator, run)
    for step in range(3):
        batch = batches.batch(step)
        set_noise(discriminator, [member.stream("noise for D", step)])
        ((_, logits),) = slow_judge(discriminator, batch.labelled[0][0])
        loss = slow_labelled_loss(logits, batch.labels[0][0])
        player.descend(loss)
        semisupervised.training_step(state, run, COMPUTE, batches, step, labels_only=True)
        assert state.sums["labelled_loss"].item() == pytest.approx(loss.item(), rel=1e-9)
        wrong = (logits.argmax(1) != batch.labels[0][0]).sum().item()
        assert state.sums["labelled_error_percent"].item() == pytest.approx(100 * wrong / run.batch_size)
        state.sums.clear()
    for found, expected in zip(state.players.discriminator.parameters(), player.parameters, strict=True):
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-7, atol=1e-9)
    assert state.players.average is not None
    for found, expected in zip(state.players.average.averages, player.average, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@by_case
def test_an_update_leaves_the_other_player_alone(case: str):
    """Its parameters to the bit; and no gradient is left with D that its next update would add to."""
    run, context = CASES[case], autocast(COMPUTE)
    players = made_players(run, MEMBERS)
    batch = made_batches(run, MEMBERS).batch(0)
    z = draw_z(run.architecture, run.batch_size, semisupervised.streams(MEMBERS, "z"))
    set_noise(players.discriminator, semisupervised.streams(MEMBERS, "noise"))

    def changed(update: Callable[..., dict[str, torch.Tensor]], *arguments: object) -> tuple[set[str], dict]:
        before = parameters_of(players)
        told = update(players, *arguments, run.techniques, context)
        assert {tuple(value.shape) for value in told.values()} == {(3,)}
        return {key.split("/")[0] for key, t in parameters_of(players).items() if not torch.equal(t, before[key])}, told

    what, told = changed(semisupervised.update_discriminator, batch, z)
    assert what == {"discriminator"}
    labelled = ["labelled_loss", "labelled_error_percent"] if run.n_labels else []
    assert [*told] == ["unsupervised_loss", *labelled]
    kept = [None if p.grad is None else p.grad.clone() for p in players.discriminator.parameters()]
    what, told = changed(semisupervised.update_generator, batch.matched, z)
    assert what == {"generator"}
    assert [*told] == ["generator_loss"]
    for p, before in zip(players.discriminator.parameters(), kept, strict=True):
        assert p.requires_grad
        assert before is None if p.grad is None else torch.equal(p.grad, before)
    if run.n_labels:
        what, told = changed(semisupervised.update_classifier, batch)
        assert what == {"discriminator"}
        assert [*told] == labelled


def test_real_and_generated_images_get_independent_noise_in_feature_matching():
    """Of equal images the features differ by their noise alone, and the loss is not 0."""
    run = CASES["dense"]
    players = made_players(run, MEMBERS)
    batch = made_batches(run, MEMBERS).batch(0)

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, _z: torch.Tensor) -> torch.Tensor:
            return batch.matched + self.shift

    players.generator = Same()
    players.generator_adam = semisupervised.adam_of(players.generator, run)
    found = []
    for noise in (True, False):
        if not noise:
            players.discriminator.eval()
        set_noise(players.discriminator, semisupervised.streams(MEMBERS, "noise"))
        with torch.no_grad():
            players.generator.shift.zero_()
        arguments = (batch.matched, torch.empty(0), run.techniques, autocast(COMPUTE))
        found.append(semisupervised.update_generator(players, *arguments)["generator_loss"])
    assert found[0].min() > 1e-4
    assert found[1].tolist() == [0.0] * 3


def test_each_technique_changes_an_update():
    """Switched on alone, at the second step: the first knows no past."""
    plain = made_semisup(techniques=made_techniques(generator_loss="minimax", parameter_average=0.0))
    expected = parameters_of(after_steps(plain, MEMBERS, 2).players)
    for change in (
        {"generator_loss": "non_saturating"},
        {"generator_loss": "squared_feature_matching"},
        {"generator_steps": 2},
        {"real_target": 0.9},
        {"historical_averaging": 0.5},
    ):
        run = dataclasses.replace(plain, techniques=dataclasses.replace(plain.techniques, **change))
        found = parameters_of(after_steps(run, MEMBERS, 2).players)
        assert any(not torch.equal(found[key], tensor) for key, tensor in expected.items()), change
    averaged = dataclasses.replace(plain, techniques=dataclasses.replace(plain.techniques, parameter_average=0.5))
    found = parameters_of(after_steps(averaged, MEMBERS, 2).players)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), "training never sees that average"


def test_each_player_has_its_own_averages():
    players = made_players(CASES["conv"], MEMBERS)
    assert set(players.histories) == {"generator", "discriminator"}
    assert all(isinstance(history, HistoricalAverage) for history in players.histories.values())
    assert made_players(CASES["dense"], MEMBERS).histories == {}
    assert made_players(CASES["dense, plain"], MEMBERS).average is None
    generator = made_players(CASES["dense, all techniques"], MEMBERS).generator
    assert any(isinstance(module, VirtualBatchNorm) for module in generator.modules())
