"""One update of each colour network against plain PyTorch modules, written out from the tables of paper and arrays."""

import pytest
import torch
from made_runs import made_run
from torch import nn

from pipeline.core.compute import Compute, autocast
from pipeline.core.seeding import torch_stream
from pipeline.models import dcgan
from pipeline.models.build import ColourArchitecture
from pipeline.training.adversarial import Run, initial_networks
from pipeline.training.updates import Networks, gradient_norm, update_discriminator, update_generator

FP32 = Compute(device="cpu", threads=1, precision="fp32")
BF16 = Compute(device="cpu", threads=1, precision="bf16")
RATE, L2 = 0.0002, 2.5e-5
Z_DIM, N, IMAGES = 6, 2, 8
NAMES = ["dcgan_64", "dcgan_32", "dcgan_svhn"]


def run_of(name: str) -> Run:
    architecture = ColourArchitecture(name=name, z="uniform", z_dim=Z_DIM, filters=N, variant=dcgan.PAPER)
    return made_run(architecture, learning_rate=RATE, initial_std=0.1, updates="both", batch_size=IMAGES, l2=L2)


def example(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    side = 64 if name == "dcgan_64" else 32
    real = 2 * torch.rand(IMAGES, 3, side, side, generator=torch_stream(2, "real")) - 1
    return real, 2 * torch.rand(IMAGES, Z_DIM, generator=torch_stream(2, "z")) - 1


# ---- the same networks once more, as a user of PyTorch writes them --------------------------------------------------


def normal(n: int, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return kind(n, eps=1e-8, track_running_stats=False)


def projection(maps: int) -> list[nn.Module]:
    units = 16 * maps
    linear = nn.Linear(Z_DIM, units, bias=False)
    return [linear, normal(units, nn.BatchNorm1d), nn.ReLU(), nn.Unflatten(1, (maps, 4, 4))]


def wider(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=2, output_padding=1, bias=False)


def wider_3(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1, bias=False)


def same_3(n_in: int, n_out: int) -> nn.Module:
    return nn.ConvTranspose2d(n_in, n_out, 3, padding=1, bias=False)


def halved(n_in: int, n_out: int, kernel: int = 5) -> nn.Module:
    return nn.Conv2d(n_in, n_out, kernel, stride=2, padding=kernel // 2, bias=False)


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def relu(n: int) -> list[nn.Module]:
    return [normal(n), nn.ReLU()]


def normal_leaky(n: int) -> list[nn.Module]:
    return [normal(n), leaky()]


def last(maps: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(16 * maps, 1, bias=False)]


def plain_networks(name: str) -> tuple[nn.Sequential, nn.Sequential]:
    if name == "dcgan_64":
        return nn.Sequential(
            *projection(16),
            wider(16, 8),
            *relu(8),
            wider(8, 4),
            *relu(4),
            wider(4, 2),
            *relu(2),
            wider(2, 3),
            nn.Tanh(),
        ), nn.Sequential(
            *(halved(3, 2), leaky(), halved(2, 4), *normal_leaky(4), halved(4, 8), *normal_leaky(8)),
            *(halved(8, 16), *normal_leaky(16), *last(16)),
        )
    if name == "dcgan_32":
        return nn.Sequential(
            *(*projection(8), wider_3(8, 8), *relu(8), same_3(8, 4), *relu(4), wider_3(4, 4), *relu(4)),
            *(same_3(4, 2), *relu(2), wider_3(2, 2), *relu(2), same_3(2, 3), nn.Tanh()),
        ), nn.Sequential(
            *(nn.Conv2d(3, 2, 3, padding=1, bias=False), leaky(), halved(2, 2, 3), *normal_leaky(2)),
            *(nn.Conv2d(2, 4, 3, padding=1, bias=False), *normal_leaky(4), halved(4, 4, 3), *normal_leaky(4)),
            *(nn.Conv2d(4, 8, 3, padding=1, bias=False), *normal_leaky(8), halved(8, 8, 3), *normal_leaky(8)),
            *last(8),
        )
    return nn.Sequential(
        *projection(8), wider(8, 4), *relu(4), wider(4, 2), *relu(2), wider(2, 3), nn.Tanh()
    ), nn.Sequential(halved(3, 2), leaky(), halved(2, 4), *normal_leaky(4), halved(4, 8), *normal_leaky(8), *last(8))


def plain_copy(name: str, networks: Networks) -> tuple[nn.Sequential, nn.Sequential]:
    pair = plain_networks(name)
    for plain, ours in zip(pair, (networks.generator, networks.discriminator), strict=True):
        with torch.no_grad():
            for theirs, weight in zip(plain.parameters(), ours.parameters(), strict=True):
                assert theirs.shape == weight.shape
                theirs.copy_(weight)
    return pair


def plain_update(which: str, name: str, networks: Networks) -> tuple[nn.Module, list[float], float]:
    """The network after one step of plain Adam; the numbers of the update; the gradient's norm without the l2 term."""
    real, z = example(name)
    generator, discriminator = plain_copy(name, networks)
    network = discriminator if which == "d" else generator
    adam = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.5, 0.999), weight_decay=L2, foreach=False)
    loss_of, ones, zeros = nn.BCEWithLogitsLoss(), torch.ones(IMAGES, 1), torch.zeros(IMAGES, 1)
    fake = generator(z)
    if which == "d":
        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        loss = loss_of(real_logits, ones) + loss_of(fake_logits, zeros)
        numbers = [loss.item(), real_logits.sigmoid().mean().item(), fake_logits.sigmoid().mean().item()]
    else:
        loss = loss_of(discriminator(fake), ones)
        numbers = [loss.item()]
    loss.backward()
    norm = sum(weight.grad.double().square().sum().item() for weight in network.parameters()) ** 0.5
    adam.step()
    return network, numbers, norm


def our_update(which: str, name: str, networks: Networks, compute: Compute = FP32) -> torch.Tensor:
    real, z = example(name)
    if which == "d":
        return update_discriminator(networks, real, z, autocast=autocast(compute))
    return update_generator(networks, z, autocast=autocast(compute))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["d", "g"])
def test_an_update_is_the_plain_one(name: str, which: str):
    """Within 1e-6, half a per cent of one move, and one weight in a thousand within a move (see ``test_updates``)."""
    networks = initial_networks(run_of(name), FP32, seed=0)
    ours = networks.discriminator if which == "d" else networks.generator
    other = networks.generator if which == "d" else networks.discriminator
    start, still = ([weight.detach().clone() for weight in net.parameters()] for net in (ours, other))
    plain, expected, norm = plain_update(which, name, networks)
    numbers = our_update(which, name, networks)
    assert numbers.tolist() == pytest.approx(expected, rel=1e-5)
    assert gradient_norm(ours).item() == pytest.approx(norm, rel=1e-5)
    for now, then, wanted in zip(ours.parameters(), start, plain.parameters(), strict=True):
        difference = (now - wanted).abs()
        assert (difference > 1e-6).sum().item() <= now.numel() / 1000
        assert difference.max().item() < RATE
        assert (now - then).abs().median().item() > RATE / 2
    assert all(torch.equal(now, then) for now, then in zip(other.parameters(), still, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["d", "g"])
def test_a_bf16_update_is_close_to_the_fp32_one(name: str, which: str):
    """From equal states: loss within 3 %, and the gradient points the same way (bf16 keeps 8 bits)."""
    losses, gradients = [], []
    for compute in (FP32, BF16):
        networks = initial_networks(run_of(name), compute, seed=0)
        losses.append(our_update(which, name, networks, compute)[0].item())
        network = networks.discriminator if which == "d" else networks.generator
        assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in network.parameters())
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert 0.9 < cosine < 1 - 1e-9
