"""The 128 x 128 networks of Improved GAN, row by row, against the authors' table; their blocks against slow loops."""

import inspect
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import imagenet128
from pipeline.models.imagenet128 import (
    Architecture,
    CrossBatchNorm,
    InputNoise,
    MapsVirtualBatchNorm,
    MinibatchFeatures,
    build_generator,
    discriminator,
    draw_inputs,
    initialise,
    input_sizes,
)
from pipeline.models.improved_layers import VirtualBatchNorm, WithReference, set_noise
from pipeline.models.layers import AffineBatchNorm

PAPER = Architecture(
    z_dim=8192,
    generator_width=64,
    noise_maps=[64, 64, 32, 16, 8, 8],
    reference_batch=16,
    discriminator_width=64,
    input_noise=0.1,
    n_kernels=300,
    kernel_dim=50,
)
TINY = Architecture(
    z_dim=5,
    generator_width=2,
    noise_maps=[2, 1, 0, 1, 1, 1],
    reference_batch=3,
    discriminator_width=2,
    input_noise=0.1,
    n_kernels=4,
    kernel_dim=3,
)
# (weights; norm's width or None; stride or None; what leaves the row, without the noise maps)
GENERATOR = [
    ((8192, 8192), 512, None, (512, 4, 4)),
    ((576, 256, 5, 5), 256, 2, (256, 8, 8)),
    ((320, 128, 5, 5), 128, 2, (128, 16, 16)),
    ((160, 64, 5, 5), 64, 2, (64, 32, 32)),
    ((80, 64, 5, 5), 64, 2, (64, 64, 64)),
    ((72, 64, 5, 5), 64, 2, (64, 128, 128)),
    ((72, 3, 5, 5), None, 1, (3, 128, 128)),
]
DISCRIMINATOR = [
    (None, None, None, (3, 128, 128)),
    ((64, 3, 3, 3), 64, 2, (64, 64, 64)),
    ((128, 64, 3, 3), 128, 2, (128, 32, 32)),
    ((256, 128, 3, 3), 256, 2, (256, 16, 16)),
    ((256, 256, 3, 3), 256, 1, (256, 16, 16)),
    ((256, 256, 3, 3), 256, 1, (256, 16, 16)),
    ((512, 256, 3, 3), 512, 2, (512, 8, 8)),
    ((512, 512, 3, 3), 512, 2, (512, 4, 4)),
    ((2560, 8192), 2560, None, (2560,)),
    ((2560, 300, 50), None, None, (3160,)),
    ((1001, 3160), None, None, (1001,)),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(7, name), dtype=torch.float64)


def drawn_generator(a: Architecture = TINY, std: float = 0.1) -> nn.Module:
    network = build_generator(a)
    initialise(network, std, torch_stream(5, "generator"))
    return network


def drawn_discriminator(a: Architecture = TINY, n_classes: int = 3) -> nn.Sequential:
    network = discriminator(a, n_classes)
    initialise(network, 0.1, torch_stream(5, "discriminator"))
    set_noise(network, [torch_stream(5, "noise")])
    return network


def leaving(rows: list[nn.Module], network: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Shapes of what leaves each row, without the batch."""
    found: list[tuple[int, ...]] = []
    hooks = [row.register_forward_hook(lambda _row, _args, out: found.append(tuple(out.shape[1:]))) for row in rows]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


# ---- the tables -----------------------------------------------------------------------------------------------------


def full(which: str) -> tuple[nn.Module, list[nn.Module], torch.Tensor]:
    """A network at the authors' widths, its rows and an input, without their memory."""
    with torch.device("meta"):
        if which == "generator":
            network = build_generator(PAPER)
            assert isinstance(network, WithReference)
            assert isinstance(network.network, imagenet128.Generator)
            return network, [*network.network.rows], torch.empty(2, sum(input_sizes(PAPER)))
        network = discriminator(PAPER, 1000).eval()  # noise is off
        return network, [*network], torch.empty(4, 3, 128, 128)


@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_every_row_of_the_table(which: str):
    network, rows, x = full(which)
    table = GENERATOR if which == "generator" else DISCRIMINATOR
    assert leaving(rows, network, x) == [row[3] for row in table]
    for row, (weights, width, stride, _) in zip(rows, table, strict=True):
        shapes = {name.rpartition(".")[2]: tuple(p.shape) for name, p in row.named_parameters()}
        assert shapes.get("weight") == weights
        assert shapes.get("gain") == shapes.get("shift") == (None if width is None else (width,))
        transposed = weights is not None and len(weights) == 4 and which == "generator"
        if weights is None or len(weights) == 3:  # noise; minibatch features, whose bias would cancel
            assert "bias" not in shapes
        else:
            assert shapes["bias"] == (weights[1] if transposed else weights[0],)
        strides = [p.stride for p in row.modules() if isinstance(p, nn.Conv2d | nn.ConvTranspose2d)]
        assert strides == ([] if stride is None else [(stride, stride)])
        kinds = [type(part).__name__ for part in row.modules()]
        if width is not None:
            assert kinds[-2:] == (
                ["MapsVirtualBatchNorm", "ReLU"] if which == "generator" else ["CrossBatchNorm", "LeakyReLU"]
            )
    slopes = {part.negative_slope for part in network.modules() if isinstance(part, nn.LeakyReLU)}
    assert slopes == (set() if which == "generator" else {0.2})


def test_parameter_counts():
    """Counted by hand: weights + biases + gains and shifts of each row of the authors' table."""
    of_g = 8192 * 8192 + 8192 + 2 * 512
    of_g += 576 * 256 * 25 + 256 + 2 * 256
    of_g += 320 * 128 * 25 + 128 + 2 * 128
    of_g += 160 * 64 * 25 + 64 + 2 * 64
    of_g += 80 * 64 * 25 + 64 + 2 * 64
    of_g += 72 * 64 * 25 + 64 + 2 * 64
    of_g += 72 * 3 * 25 + 3
    of_d = 3 * 64 * 9 + 64 * 128 * 9 + 128 * 256 * 9 + 2 * 256 * 256 * 9 + 256 * 512 * 9 + 512 * 512 * 9
    of_d += 3 * (64 + 128 + 3 * 256 + 2 * 512)
    of_d += 8192 * 2560 + 3 * 2560
    of_d += 2560 * 300 * 50
    of_d += 3160 * 1001 + 1001
    for which, expected in (("generator", of_g), ("discriminator", of_d)):
        network, *_ = full(which)
        found = sum(parameter.numel() for parameter in network.parameters())
        assert found == expected, which
        assert f"{found:,}" in (imagenet128.__doc__ or "")


@pytest.mark.parametrize(("name", "table"), [("generator", GENERATOR), ("discriminator", DISCRIMINATOR)])
def test_comments_beside_the_rows_tell_the_truth(name: str, table: list):
    comments = re.findall(r"^ {8}\*?\w+\(.*\),  # (.+)$", inspect.getsource(getattr(imagenet128, name)), re.MULTILINE)
    assert [tuple(map(int, comment.split(" x "))) for comment in comments] == [row[3] for row in table]


def test_inputs_are_z_and_the_noise_maps_of_six_stages():
    maps = [64 * 16, 64 * 64, 32 * 256, 16 * 1024, 8 * 4096, 8 * 16384]
    assert input_sizes(PAPER) == [8192, *maps]
    inputs = draw_inputs(TINY, 50, torch_stream(0, "z"))
    assert inputs.shape == (50, 5 + 2 * 16 + 1 * 64 + 0 + 1024 + 4096 + 16384)
    assert inputs.dtype == torch.float32
    assert -1 <= inputs.min() < -0.999
    assert 0.999 < inputs.max() < 1
    assert inputs.double().std().item() == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert torch.equal(inputs, draw_inputs(TINY, 50, torch_stream(0, "z")))
    assert not torch.equal(inputs, draw_inputs(TINY, 50, torch_stream(0, "z", 1)))


def test_switches_leave_parts_out():
    assert not any(
        isinstance(part, VirtualBatchNorm) for part in build_generator(replace(TINY, reference_batch=0)).modules()
    )
    plain = build_generator(replace(TINY, reference_batch=0))
    assert sum(isinstance(part, AffineBatchNorm) for part in plain.modules()) == 6
    without = discriminator(replace(TINY, n_kernels=0), 3)
    assert not any(isinstance(part, MinibatchFeatures) for part in without)
    assert without[-1].in_features == 80
    assert discriminator(TINY, 3)[-1].in_features == 88


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("reference_batch: 1", "reference_batch: one example has no batch statistics; write 0"),
        ("discriminator_width: 3", "discriminator_width: value should be a multiple of 2, found 3"),
        ("noise_maps: [1, 1]", "noise_maps: .* at least 6 items"),
        ("n_kernels: -1", "n_kernels: value should be greater than or equal to 0, found -1"),
    ],
)
def test_bad_architectures_are_refused(tmp_path: Path, changes: str, said: str):
    values = {name: getattr(TINY, name) for name in Architecture.__dataclass_fields__}
    key, _, value = changes.partition(": ")
    lines = [f"  {name}: {value if name == key else found}" for name, found in values.items()]
    (tmp_path / "params.yaml").write_text("a:\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=said):
        params.load(tmp_path / "params.yaml", Architecture, own="a")


# ---- G --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_images_in_range_and_the_same_for_the_same_inputs(bf16: bool):
    network, x = drawn_generator(), draw_inputs(TINY, 4, torch_stream(0, "z"))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        images, again = network(x), drawn_generator()(x)
    assert images.shape == (4, 3, 128, 128)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -0.1 < 0.1 < images.max() <= 1
    assert torch.equal(images, again)


def test_an_image_does_not_depend_on_its_batch_mates():
    """Nor does a gradient reach one example from another; with batch norm both do."""
    x = draw_inputs(TINY, 4, torch_stream(0, "z")).double()
    for a, independent in ((TINY, True), (replace(TINY, reference_batch=0), False)):
        network = drawn_generator(a).double()
        with torch.no_grad():
            apart = (network(x)[:1] - network(torch.cat([x[:1], x[2:] * 0.5]))[:1]).abs().max().item()
        assert (apart < 1e-12) == independent
        mine = x.clone().requires_grad_()
        network(mine)[0].sum().backward()
        assert mine.grad is not None
        assert (mine.grad[1:].abs().max().item() == 0) == independent
        assert mine.grad[0].abs().max().item() > 0


def test_every_noise_map_reaches_the_image_of_its_example():
    network, x = drawn_generator().double(), draw_inputs(TINY, 2, torch_stream(0, "z")).double().requires_grad_()
    network(x)[1].square().sum().backward()
    assert x.grad is not None
    for part in x.grad[1].split(input_sizes(TINY)):
        assert (part != 0).double().mean().item() > 0.9 or not part.numel()


def test_noise_maps_lie_behind_the_maps_place_by_place():
    maps = draw(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    noise = draw(2, 2 * 4 * 5, name="noise")
    both = imagenet128.with_noise(maps, noise)
    assert torch.equal(both[:, :3], maps)
    for b, k, i, j in itertools.product(range(2), range(2), range(4), range(5)):
        assert both[b, 3 + k, i, j] == noise[b, (i * 5 + j) * 2 + k]
    assert both.is_contiguous(memory_format=torch.channels_last)


def test_the_reference_is_fixed_with_its_noise_and_decides_the_image():
    network, other = drawn_generator(), drawn_generator()
    assert isinstance(network, WithReference)
    assert isinstance(other, WithReference)
    assert network.state_dict()["reference"].shape == (3, sum(input_sizes(TINY)))
    assert -1 <= network.reference.min() < -0.99 < 0.99 < network.reference.max() < 1
    assert not network.reference.requires_grad
    x = draw_inputs(TINY, 2, torch_stream(0, "z"))
    with torch.no_grad():
        other.reference[:, TINY.z_dim :] *= 0.1  # only the noise maps
        assert (network(x) - other(x)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 4])
def test_virtual_batch_norm_of_maps_is_virtual_batch_norm(n: int):
    """Values and gradients; with the reference and nothing else too."""
    for examples in (0, 3):
        found, expected = MapsVirtualBatchNorm(5), VirtualBatchNorm(5)
        for layer in (found, expected):
            layer.n_reference = n
            layer.double()
            with torch.no_grad():
                layer.gain.copy_(draw(5, name="gain"))
                layer.shift.copy_(draw(5, name="shift"))
        x = (3 * draw(n + examples, 5, 3, 2) + 1).requires_grad_()
        y, plain = found(x), expected(x)
        torch.testing.assert_close(y, plain)
        weight = draw(*y.shape, name="weight")
        gradients = [
            torch.autograd.grad((out * weight).sum(), [x, layer.gain, layer.shift])
            for layer, out in ((found, y), (expected, plain))
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_virtual_batch_norm_of_maps_without_its_reference_is_refused():
    with pytest.raises(ValueError, match="needs its reference batch first: 0 examples, found a batch of 2"):
        MapsVirtualBatchNorm(1)(draw(2, 1, 2, 2))


def test_gradient_of_the_moments_agrees_with_differences():
    x = draw(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(imagenet128.Moments.apply, x)
    mean, variance = imagenet128.moments(x)
    np.testing.assert_allclose(mean.detach(), x.detach().numpy().mean((2, 3)))
    np.testing.assert_allclose(variance.detach(), x.detach().numpy().var((2, 3)))


# ---- D --------------------------------------------------------------------------------------------------------------


def cross_normalised_slowly(x: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
    n, c = len(x) // 2, x.shape[1] // 2
    out = np.empty_like(x)
    for channel in range(x.shape[1]):
        half = x[:n, channel] if channel < c else x[n:, channel]
        values = [float(v) for v in half.ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        for place, value in np.ndenumerate(x[:, channel]):
            out[(place[0], channel, *place[1:])] = (
                gain[channel] * (value - mean) / math.sqrt(variance + 1e-5) + shift[channel]
            )
    return out


@pytest.mark.parametrize("shape", [(4, 6), (6, 4, 3, 2)], ids=["units", "maps"])
@pytest.mark.parametrize("spread", [1.0, 0.003], ids=["plain", "variance as small as eps"])
def test_cross_batch_norm_equals_a_slow_loop(shape: tuple[int, ...], spread: float):
    layer = CrossBatchNorm(shape[1]).double()
    with torch.no_grad():
        layer.gain.copy_(draw(shape[1], name="gain"))
        layer.shift.copy_(draw(shape[1], name="shift"))
    x = spread * draw(*shape)
    x[shape[0] // 2 :] += spread  # the halves differ
    expected = cross_normalised_slowly(x.numpy(), layer.gain.detach().numpy(), layer.shift.detach().numpy())
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (x / spread).requires_grad_())


def test_a_difference_between_the_halves_stays_visible():
    """What batch norm of each half alone would hide: real and fake that differ by a constant only."""
    x = draw(8, 4, 5, 5)
    x[4:] = x[:4] + 2
    y = CrossBatchNorm(4).double()(x).detach()
    assert (y[4:] - y[:4]).min().item() > 1.5
    real_first, fake_last = y[:4, :2], y[4:, 2:]
    assert real_first.mean((0, 2, 3)).abs().max().item() < 1e-12
    assert fake_last.mean((0, 2, 3)).abs().max().item() < 1e-12


def test_minibatch_features_equal_a_slow_loop():
    layer, x = MinibatchFeatures(5, 3, 2).double(), draw(6, 5)
    with torch.no_grad():
        layer.weight.copy_(0.5 * draw(5, 3, 2, name="T"))
    m = np.einsum("ia,abc->ibc", x.numpy(), layer.weight.detach().numpy())
    expected = np.zeros((6, 6))
    for i, b, half in itertools.product(range(6), range(3), range(2)):
        others = [j for j in range(3 * half, 3 * half + 3) if j != i]
        expected[i, 3 * half + b] = np.mean([math.exp(-np.abs(m[i, b] - m[j, b]).sum()) for j in others])
    out = layer(x).detach()
    assert torch.equal(out[:, :5], x)
    np.testing.assert_allclose(out[:, 5:].numpy(), expected, rtol=1e-9)


def test_logits_are_fp32_and_depend_on_the_whole_joint_batch():
    network = drawn_discriminator().eval()
    x = draw(6, 3, 128, 128).float().tanh()
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x)
        x[5] *= 0.2
        changed = network(x)
    assert exact.shape == (6, 4)
    assert exact.dtype == rounded.dtype == torch.float32
    assert 1e-5 < ((rounded - exact).norm() / exact.norm()).item() < 0.15
    assert (changed - exact)[0].abs().max().item() > 1e-6


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("kernels", [0, 4])
def test_a_joint_batch_without_two_halves_is_refused(n: int, kernels: int):
    with pytest.raises(ValueError, match=f"two halves of equal size, of at least 2 examples each; found {n}"):
        drawn_discriminator(replace(TINY, n_kernels=kernels))(torch.zeros(n, 3, 128, 128))


def test_noise_on_the_images_comes_from_its_stream_and_only_in_training():
    layer, x = InputNoise(0.1), torch.zeros(4, 3, 128, 128)
    set_noise(layer, [torch_stream(1, "noise")])
    first, second = layer(x), layer(x)
    assert first.double().std().item() == pytest.approx(0.1, rel=0.01)
    assert not torch.equal(first, second)
    set_noise(layer, [torch_stream(1, "noise")])
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)


# ---- initial parameters ---------------------------------------------------------------------------------------------


def test_initial_parameters():
    generator, d = drawn_generator(replace(TINY, generator_width=16), 0.02), drawn_discriminator()
    last = dict(generator.named_parameters())
    weight, bias = last.pop("network.rows.6.0.weight"), last.pop("network.rows.6.0.bias")
    assert (bias == -0.45).all()
    assert weight.detach().double().std().item() == pytest.approx(0.075, rel=0.1)
    for name, parameter in [*last.items(), *d.named_parameters()]:
        kind, values = name.rpartition(".")[2], parameter.detach().double()
        if kind in ("bias", "shift"):
            assert (values == 0).all(), name
        elif kind == "gain":
            assert (values - 1).abs().max().item() < 0.1
            assert (values != 1).any()
        else:
            std = 0.02 if name in last else 0.1
            assert values.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * values.numel())), name
    again = drawn_generator(replace(TINY, generator_width=16), 0.02).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in generator.state_dict().items())
