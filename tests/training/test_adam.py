"""Adam with epsilon inside the root, against a slow loop over single numbers."""

import math

import pytest
import torch

from pipeline.core.seeding import torch_stream
from pipeline.training.adam import RootAdam
from pipeline.training.checkpoint import adam_tensors, restore_adam

RATE, BETA1, BETA2, EPSILON = 3e-3, 0.5, 0.999, 1e-8


def made(values: torch.Tensor) -> tuple[torch.nn.Parameter, RootAdam]:
    parameter = torch.nn.Parameter(values.clone())
    return parameter, RootAdam([parameter], learning_rate=RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)


def gradient(step: int, shape: tuple[int, ...], size: float) -> torch.Tensor:
    return size * torch.randn(*shape, generator=torch_stream(9, "gradient", step), dtype=torch.float64)


def slow_adam(start: float, gradients: list[float], *, inside: bool) -> float:
    p, m, v = start, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
        p -= RATE * m_hat / (math.sqrt(v_hat + EPSILON) if inside else math.sqrt(v_hat) + EPSILON)
    return p


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [1e-7, 1e-4, 1e-2, 1.0], ids=lambda size: f"gradients of {size:g}")
def test_steps_equal_a_slow_loop(size: float, dtype: torch.dtype, tolerance: float):
    """The way that each number went, also with gradients far below, at and above the root of epsilon."""
    start = torch.zeros(2, 3, dtype=dtype)
    parameter, adam = made(start)
    gradients = [gradient(step, (2, 3), size) for step in range(20)]
    for g in gradients:
        parameter.grad = g.to(dtype)
        adam.step()
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        series = [float(g[tuple(place)]) for g in gradients]
        expected = slow_adam(0.0, series, inside=True)
        assert float(parameter.detach()[tuple(place)]) == pytest.approx(expected, rel=tolerance)
        other = slow_adam(0.0, series, inside=False)
        assert (abs(expected - other) > 0.1 * abs(other)) == (size <= 1e-4), "small gradients tell the two apart"


def test_a_tiny_gradient_gives_a_tiny_step():
    """At 1e-6 of gradient the root is that of epsilon, 1e-4: a hundredth of the rate, not the whole."""
    parameter, adam = made(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    adam.step()
    assert parameter.item() == pytest.approx(-RATE * 1e-6 / math.sqrt(1e-12 + 1e-8), rel=1e-9)


def test_seeds_side_by_side_step_as_alone():
    start = torch.randn(3, 4, generator=torch_stream(9, "start"))
    together, adam = made(start)
    alone = [made(start[s : s + 1]) for s in range(3)]
    for step in range(5):
        g = gradient(step, (3, 4), 1e-3).float()
        together.grad = g
        adam.step()
        for seed, (parameter, own) in enumerate(alone):
            parameter.grad = g[seed : seed + 1].clone()
            own.step()
    # not to the bit: vectors and their remainders are rounded differently
    torch.testing.assert_close(together.detach(), torch.cat([p.detach() for p, _ in alone]), rtol=1e-6, atol=1e-7)


def test_a_parameter_without_a_gradient_rests():
    used, rests = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    adam = RootAdam([used, rests], learning_rate=RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
    used.grad = torch.ones(2)
    adam.step()
    assert (used < 1).all()
    assert (rests == 1).all()
    assert (adam.state[rests]["exp_avg_sq"] == 0).all(), "and gathers no epsilon"


def test_the_rate_can_be_changed():
    parameter, adam = made(torch.zeros(1, dtype=torch.float64))
    adam.param_groups[0]["lr"] = 0.5
    parameter.grad = torch.ones(1, dtype=torch.float64)
    adam.step()
    assert parameter.item() == pytest.approx(-0.5, rel=1e-6)


def test_restored_from_a_checkpoint_it_goes_on_to_the_bit():
    start = torch.randn(3, 4, generator=torch_stream(9, "start"))
    parameter, adam = made(start)
    for step in range(3):
        parameter.grad = gradient(step, (3, 4), 1e-3).float()
        adam.step()
    resumed, fresh = made(parameter.detach())
    restore_adam(fresh, {name: t.clone() for name, t in adam_tensors("adam", adam).items()}, "adam")
    for step in range(3, 6):
        parameter.grad = gradient(step, (3, 4), 1e-3).float()
        resumed.grad = gradient(step, (3, 4), 1e-3).float()
        adam.step()
        fresh.step()
    assert torch.equal(parameter, resumed)
