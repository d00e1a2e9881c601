"""Historical averaging (in the cost) and averaged parameters (for testing): definitions, gradients, restoring."""

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.training.averaging import HistoricalAverage, ParameterAverage


def made_network(name: str = "network") -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(generator=torch_stream(5, name))
    return network


def walk(network: nn.Module, step: int) -> None:
    """Stand-in for a training step."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=torch_stream(5, "step", step), dtype=p.dtype))


def values(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


# ---- historical averaging -------------------------------------------------------------------------------------------


def test_the_penalty_is_the_squared_distance_from_the_mean_of_all_past_parameters():
    network = made_network()
    history, past = HistoricalAverage(network.parameters()), [values(network)]
    for step in range(6):
        expected = 0.0
        for number, now in enumerate(values(network)):
            mean = sum(old[number] for old in past) / len(past)
            expected += float(((now - mean) ** 2).sum())
        assert history.penalty().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert (expected > 0.1) == (step > 0)
        if step:
            history.update()
            past.append(values(network))
        walk(network, step)


def test_the_mean_is_a_constant_of_the_gradient():
    """2 (theta - mean), where a mean that counted theta itself would leave less."""
    network = made_network()
    history = HistoricalAverage(network.parameters())
    for step in range(3):
        walk(network, step)
        history.update()
    means = [mean.clone() for mean in history.means]
    gradients = torch.autograd.grad(history.penalty(), list(network.parameters()))
    for gradient, now, mean in zip(gradients, values(network), means, strict=True):
        torch.testing.assert_close(gradient, 2 * (now - mean))
        assert gradient.abs().max() > 0.1
    assert all(not mean.requires_grad for mean in history.means)


def test_a_network_at_rest_is_not_penalised():
    network = made_network()
    history = HistoricalAverage(network.parameters())
    for _ in range(4):
        history.update()
        assert history.penalty().item() == pytest.approx(0, abs=1e-24)


def test_historical_averaging_ends_the_orbit_of_the_minimax_game():
    """min over x, max over y of x y (section 3.3): plain steps go round and outwards, penalised ones come in."""

    def distance(weight: float) -> float:
        x, y = (torch.tensor([1.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
        histories = [HistoricalAverage([player]) for player in (x, y)]
        for _ in range(2000):
            product = (x * y).sum()
            (dx,) = torch.autograd.grad(product + weight * histories[0].penalty(), x)
            (dy,) = torch.autograd.grad(-(x * y).sum() + weight * histories[1].penalty(), y)
            with torch.no_grad():
                x.sub_(0.02 * dx)
                y.sub_(0.02 * dy)
            for history in histories:
                history.update()
        return float((x**2 + y**2).sum().sqrt().detach())

    start = 2**0.5
    # each plain step multiplies the distance by sqrt(1 + 0.02^2)
    assert distance(0.0) == pytest.approx(start * (1 + 0.02**2) ** 1000, rel=1e-6)
    assert distance(0.1) < 0.2 * start


def test_batched_seeds_have_their_own_penalties():
    """The sum's gradient with respect to a seed's slice is that of the seed alone."""
    theta = torch.randn(3, 4, generator=torch_stream(5, "theta"), dtype=torch.float64).requires_grad_()
    together = HistoricalAverage([theta])
    alone = [HistoricalAverage([theta.detach()[s : s + 1].requires_grad_()]) for s in range(3)]
    with torch.no_grad():
        theta.add_(torch.arange(12.0).reshape(3, 4))
    (gradient,) = torch.autograd.grad(together.penalty(), theta)
    for seed, history in enumerate(alone):
        moved = history._parameters[0]
        (own,) = torch.autograd.grad(history.penalty(), moved)
        torch.testing.assert_close(gradient[seed : seed + 1], own)


# ---- averaged parameters --------------------------------------------------------------------------------------------


def test_the_average_starts_from_the_initialised_parameters_and_forgets_at_its_rate():
    network = made_network()
    average, rate = ParameterAverage(network, rate=0.25), 0.25
    expected = values(network)
    for mean, start in zip(average.averages, expected, strict=True):
        assert torch.equal(mean, start), "not from 0"
    for step in range(5):
        walk(network, step)
        average.update()
        expected = [a + rate * (p - a) for a, p in zip(expected, values(network), strict=True)]
    for mean, value in zip(average.averages, expected, strict=True):
        torch.testing.assert_close(mean, value)


def test_a_rate_of_one_follows_the_parameters():
    network = made_network()
    average = ParameterAverage(network, rate=1.0)
    walk(network, 0)
    average.update()
    for mean, now in zip(average.averages, values(network), strict=True):
        torch.testing.assert_close(mean, now)


def test_testing_with_the_average_leaves_training_as_it_was():
    network = made_network()
    average = ParameterAverage(network, rate=0.1)
    for step in range(3):
        walk(network, step)
        average.update()
    before, x = values(network), torch.ones(2, 3, dtype=torch.float64)
    trained = network(x)
    with average.in_place():
        inside = values(network)
        tested = network(x)
    for mean, value in zip(average.averages, inside, strict=True):
        assert torch.equal(mean, value)
    for old, now in zip(before, values(network), strict=True):
        assert torch.equal(old, now)
    assert (tested - trained).abs().max() > 0.1
    with pytest.raises(KeyError), average.in_place():
        raise KeyError
    for old, now in zip(before, values(network), strict=True):
        assert torch.equal(old, now), "also after an error"


def test_frozen_parameters_are_not_averaged():
    network = made_network()
    network[0].requires_grad_(requires_grad=False)
    assert [a.shape for a in ParameterAverage(network, rate=0.1).averages] == [(2, 4), (2,)]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float):
    with pytest.raises(InputError, match=r"rate .* above 0 and at most 1"):
        ParameterAverage(made_network(), rate=rate)


def make_historical(network: nn.Module) -> HistoricalAverage:
    return HistoricalAverage(network.parameters())


def make_average(network: nn.Module) -> ParameterAverage:
    return ParameterAverage(network, rate=0.3)


@pytest.mark.parametrize("make", [make_historical, make_average])
def test_restored_and_unbroken_go_on_alike(make):
    network = made_network()
    unbroken = make(network)
    for step in range(3):
        walk(network, step)
        unbroken.update()
    kept = {name: t.clone() for name, t in unbroken.tensors("average").items()}
    resumed = make(network)
    resumed.restore(kept, "average")
    for step in range(3, 6):
        walk(network, step)
        unbroken.update()
        resumed.update()
    again, expected = resumed.tensors("average"), unbroken.tensors("average")
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert any(not torch.equal(kept[name], expected[name]) for name in expected)
