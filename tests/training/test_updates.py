"""One update of each network against plain PyTorch written from the paper's tables, and what it must leave alone."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from made_runs import made_run
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.seeding import torch_stream
from pipeline.models.build import Architecture, MnistArchitecture, uniform_z
from pipeline.training.adversarial import Run, initial_networks
from pipeline.training.updates import Networks, update_discriminator, update_generator

FP32 = Compute(device="cpu", threads=1, precision="fp32")
BF16 = Compute(device="cpu", threads=1, precision="bf16")
DCGAN = MnistArchitecture(name="dcgan_mnist", z_dim=8, filters=4, hidden=16)
GAN = MnistArchitecture(name="gan_mnist", z_dim=8, filters=0, hidden=16)
RATE, L2 = 0.0002, 2.5e-5
Weights = list[torch.Tensor]


def run_of(architecture: Architecture, *, l2: float = L2, std: float = 0.1) -> Run:
    return made_run(architecture, learning_rate=RATE, initial_std=std, batch_size=12, l2=l2)


def example(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    real = torch.rand(n, 1, 28, 28, generator=torch_stream(2, "real"))
    labels = torch.eye(10)[torch.arange(n) % 10]
    return real, labels, uniform_z(n, 8, torch_stream(2, "z"))


def weights_of(network: nn.Module) -> Weights:
    return [weight.detach().clone() for weight in network.parameters()]


def unchanged(network: nn.Module, before: Weights) -> list[bool]:
    return [torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True)]


# ---- the same networks once more, from the tables, in contiguous fp32 -----------------------------------------------


def normal(x: torch.Tensor) -> torch.Tensor:
    axes = [0, *range(2, x.dim())]
    mean = x.mean(dim=axes, keepdim=True)
    variance = (x - mean).square().mean(dim=axes, keepdim=True)
    return (x - mean) / (variance + 1e-8).sqrt()


def plus(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if x.dim() == 4:
        y = y[:, :, None, None].repeat(1, 1, *x.shape[2:])
    return torch.cat([x, y], dim=1)


def plain_generator(weights: Weights, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = normal(plus(z, y) @ weights[0].t()).relu()
    x = normal(plus(x, y) @ weights[1].t()).relu()
    if len(weights) == 3:
        return torch.sigmoid(plus(x, y) @ weights[2].t()).view(len(z), 1, 28, 28)
    x = plus(x.view(len(z), -1, 7, 7), y)
    x = normal(F.conv_transpose2d(x, weights[2], stride=2, padding=2, output_padding=1)).relu()
    return torch.sigmoid(F.conv_transpose2d(plus(x, y), weights[3], stride=2, padding=2, output_padding=1))


def plain_discriminator(weights: Weights, images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if len(weights) == 3:
        x = F.leaky_relu(plus(images.flatten(1), y) @ weights[0].t(), 0.2)
        x = F.leaky_relu(normal(plus(x, y) @ weights[1].t()), 0.2)
        return plus(x, y) @ weights[2].t()
    x = F.leaky_relu(F.conv2d(plus(images, y), weights[0], stride=2, padding=2), 0.2)
    x = F.leaky_relu(normal(F.conv2d(plus(x, y), weights[1], stride=2, padding=2)), 0.2).flatten(1)
    x = F.leaky_relu(normal(plus(x, y) @ weights[2].t()), 0.2)
    return plus(x, y) @ weights[3].t()


def plain_update(which: str, networks: Networks, *, n_updates: int = 1) -> tuple[Weights, float, list[float]]:
    """Weights after updates by torch's plain Adam; loss and mean probabilities of the last one."""
    real, y, z = example()
    g, d = weights_of(networks.generator), weights_of(networks.discriminator)
    trained = [weight.requires_grad_() for weight in (d if which == "d" else g)]
    adam = torch.optim.Adam(trained, lr=RATE, betas=(0.5, 0.999), weight_decay=L2, foreach=False, fused=False)
    for _ in range(n_updates):
        fake = plain_generator(g, z, y)
        fake_logits = plain_discriminator(d, fake.detach() if which == "d" else fake, y)
        probabilities = [torch.sigmoid(fake_logits).mean().item()]
        if which == "d":
            real_logits = plain_discriminator(d, real, y)
            probabilities.insert(0, torch.sigmoid(real_logits).mean().item())
            loss = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
            loss = loss + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
        else:
            loss = F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return trained, loss.item(), probabilities


def assert_same_weights(now: torch.Tensor, plain: torch.Tensor) -> None:
    """Within 1e-6, half a per cent of one move; one weight in a thousand may have a gradient of rounding errors only,
    whose sign Adam makes a whole move of."""
    difference = (now - plain).abs()
    assert (difference > 1e-6).sum().item() <= now.numel() / 1000
    assert difference.max().item() < RATE


@pytest.mark.parametrize("architecture", [DCGAN, GAN], ids=["dcgan", "gan"])
@pytest.mark.parametrize("n_updates", [1, 3])
def test_discriminator_update_is_the_plain_one(architecture: Architecture, n_updates: int):
    networks = initial_networks(run_of(architecture), FP32, seed=0)
    start = weights_of(networks.discriminator)
    expected, loss, (p_real, p_fake) = plain_update("d", networks, n_updates=n_updates)
    real, labels, z = example()
    for _ in range(n_updates):
        numbers = update_discriminator(networks, real, z, labels, autocast=autocast(FP32))
    assert numbers.tolist() == pytest.approx([loss, p_real, p_fake], rel=1e-5)
    for now, then, plain in zip(networks.discriminator.parameters(), start, expected, strict=True):
        assert_same_weights(now, plain)
        assert (now - then).abs().median().item() > RATE / 2


@pytest.mark.parametrize("architecture", [DCGAN, GAN], ids=["dcgan", "gan"])
@pytest.mark.parametrize("n_updates", [1, 3])
def test_generator_update_is_the_plain_one(architecture: Architecture, n_updates: int):
    networks = initial_networks(run_of(architecture), FP32, seed=0)
    start = weights_of(networks.generator)
    expected, loss, _ = plain_update("g", networks, n_updates=n_updates)
    _, labels, z = example()
    for _ in range(n_updates):
        numbers = update_generator(networks, z, labels, autocast=autocast(FP32))
    assert numbers.shape == (1,)
    assert numbers.item() == pytest.approx(loss, rel=1e-5)
    for now, then, plain in zip(networks.generator.parameters(), start, expected, strict=True):
        assert_same_weights(now, plain)
        assert (now - then).abs().median().item() > RATE / 2


def test_discriminator_update_changes_the_discriminator_alone():
    networks = initial_networks(run_of(DCGAN), FP32, seed=0)
    g, d = weights_of(networks.generator), weights_of(networks.discriminator)
    real, labels, z = example()
    numbers = update_discriminator(networks, real, z, labels, autocast=autocast(FP32))
    assert all(unchanged(networks.generator, g))
    assert not any(unchanged(networks.discriminator, d))
    assert all(weight.grad is None for weight in networks.generator.parameters())
    assert not networks.generator_adam.state
    assert not numbers.requires_grad


def test_generator_update_changes_the_generator_alone():
    networks = initial_networks(run_of(DCGAN), FP32, seed=0)
    g, d = weights_of(networks.generator), weights_of(networks.discriminator)
    _, labels, z = example()
    numbers = update_generator(networks, z, labels, autocast=autocast(FP32))
    assert all(unchanged(networks.discriminator, d))
    assert not any(unchanged(networks.generator, g))
    assert all(weight.requires_grad for weight in networks.discriminator.parameters())
    assert all(weight.grad is None for weight in networks.discriminator.parameters())
    assert not networks.discriminator_adam.state
    assert not numbers.requires_grad


def test_gradients_do_not_pile_up():
    """A generator update between two discriminator updates leaves no trace in the second one's gradient."""
    real, labels, z = example()
    networks = initial_networks(dataclasses.replace(run_of(DCGAN), learning_rate=1e-30), FP32, seed=0)
    update_discriminator(networks, real, z, labels, autocast=autocast(FP32))
    first = [weight.grad.clone() for weight in networks.discriminator.parameters()]
    update_generator(networks, z, labels, autocast=autocast(FP32))
    update_discriminator(networks, real, z, labels, autocast=autocast(FP32))
    for weight, gradient in zip(networks.discriminator.parameters(), first, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-8)


def test_l2_is_added_to_the_gradient_before_adam():
    """z = 0 and y = 0 give G a gradient of exactly 0: what is left is Adam on l2 * w, at nearly its full rate.

    AdamW would move each weight by rate * l2 * w, four million times less.
    """
    networks = initial_networks(run_of(DCGAN, std=0.02), FP32, seed=0)
    start = weights_of(networks.generator)
    for _ in range(3):
        update_generator(networks, torch.zeros(12, 8), torch.zeros(12, 10), autocast=autocast(FP32))
    for now, then in zip(networks.generator.parameters(), start, strict=True):
        assert torch.count_nonzero(now.grad) == 0
        for place in range(0, then.numel(), max(1, then.numel() // 7)):
            w = then.flatten()[place].item()
            m = v = 0.0
            for step in (1, 2, 3):
                gradient = L2 * w
                m, v = 0.5 * m + 0.5 * gradient, 0.999 * v + 0.001 * gradient**2
                w -= RATE * (m / (1 - 0.5**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
            assert now.flatten()[place].item() == pytest.approx(w, abs=1e-8)
    moved = torch.cat(
        [(now - then).abs().flatten() for now, then in zip(networks.generator.parameters(), start, strict=True)]
    )
    assert moved.median().item() == pytest.approx(3 * RATE, rel=0.1)


def test_without_l2_and_gradient_nothing_moves():
    networks = initial_networks(run_of(DCGAN, l2=0.0), FP32, seed=0)
    start = weights_of(networks.generator)
    update_generator(networks, torch.zeros(12, 8), torch.zeros(12, 10), autocast=autocast(FP32))
    assert all(unchanged(networks.generator, start))


@pytest.mark.parametrize("which", ["d", "g"])
@pytest.mark.parametrize("architecture", [DCGAN, GAN], ids=["dcgan", "gan"])
def test_bf16_update_is_close_to_the_fp32_one(which: str, architecture: Architecture):
    """One update from equal states: loss within 2 %, gradients within 20 % in norm, weights within twice the rate.

    bf16 keeps 8 bits, so that a few rectifiers switch; and a first Adam step is the rate times the sign of the
    gradient: weights whose gradient is near zero may move the other way, 10 % of them at most.
    """
    real, labels, z = example()
    losses, gradients, moves = [], [], []
    for compute in (FP32, BF16):
        networks = initial_networks(run_of(architecture, std=0.2), compute, seed=0)
        network = networks.discriminator if which == "d" else networks.generator
        start = weights_of(network)
        if which == "d":
            losses.append(update_discriminator(networks, real, z, labels, autocast=autocast(compute))[0].item())
        else:
            losses.append(update_generator(networks, z, labels, autocast=autocast(compute)).item())
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in network.parameters())
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
        moves.append(torch.cat([(w.detach() - s).flatten() for w, s in zip(network.parameters(), start, strict=True)]))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert 0 < ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item() < 0.2
    assert (moves[1] - moves[0]).abs().max().item() < 2.001 * RATE
    assert (moves[1].sign() == moves[0].sign()).double().mean().item() > 0.9
