"""The losses against binary cross-entropy by its definition, in float64."""

import math

import pytest
import torch

from pipeline.core.seeding import torch_stream
from pipeline.training.losses import discriminator_loss, generator_loss


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def cross_entropy(logits: list[float], target: int) -> float:
    """Mean of - t log p - (1 - t) log (1 - p)."""
    return -math.fsum(math.log(probability(x) if target else 1 - probability(x)) for x in logits) / len(logits)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_losses_are_binary_cross_entropies(spread: float, dtype: torch.dtype, tolerance: float):
    real, fake = spread * torch.randn(2, 50, 1, generator=torch_stream(1, "logits"), dtype=torch.float64)
    real_list, fake_list = real.flatten().tolist(), fake.flatten().tolist()
    expected = cross_entropy(real_list, 1) + cross_entropy(fake_list, 0)
    assert discriminator_loss(real.to(dtype), fake.to(dtype)).item() == pytest.approx(expected, rel=tolerance)
    assert generator_loss(fake.to(dtype)).item() == pytest.approx(cross_entropy(fake_list, 1), rel=tolerance)


def test_an_undecided_discriminator():
    """p = 1/2 everywhere: 2 log 2 for D, without the factor 1/2, and log 2 for G."""
    zero = torch.zeros(7, 1)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert generator_loss(zero).item() == pytest.approx(math.log(2), rel=1e-6)


def test_real_and_fake_are_averaged_apart():
    """The mean of each half, whatever their sizes."""
    loss = discriminator_loss(torch.zeros(2, 1), torch.full((6, 1), 3.0)).item()
    assert loss == pytest.approx(math.log(2) + math.log(1 + math.exp(3)), rel=1e-6)


@pytest.mark.parametrize("size", [1e4, 3e4])
def test_extreme_logits_stay_finite(size: float):
    real = torch.tensor([[-size], [size]], requires_grad=True)
    fake = torch.tensor([[-size], [size]], requires_grad=True)
    loss = discriminator_loss(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(size, rel=1e-6)  # half of the logits are wrong by `size`, twice
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.flatten().tolist() == pytest.approx([-0.5, 0])
    assert fake.grad.flatten().tolist() == pytest.approx([0, 0.5])
    assert generator_loss(fake).item() == pytest.approx(size / 2, rel=1e-6)


def test_generator_loss_does_not_saturate():
    """Where D is sure of a fake, the gradient of - log D is 1; that of log(1 - D) would vanish."""
    fake = torch.tensor([[-30.0]], requires_grad=True)
    generator_loss(fake).backward()
    assert fake.grad is not None
    assert fake.grad.item() == pytest.approx(-1.0)
