"""Each block against its definition: slow loops in float64, no library call that computes the same thing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.seeding import torch_stream
from pipeline.models.layers import ALIGNED_CHANNELS, BatchNorm, Down, Flatten, Linear, Reshape, Up, beside, initialise


def noise(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(7, name))


def small_integers(*shape: int, name: str) -> torch.Tensor:
    """float64 integers in -3..3: their sums of products are exact in any order."""
    return torch.randint(-3, 4, shape, generator=torch_stream(7, name)).double()


def with_weight(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
    layer.to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


# ---- batch norm -----------------------------------------------------------------------------------------------------


def normalised_slowly(x: np.ndarray, eps: float) -> np.ndarray:
    """Mean and biased variance of each channel over images and places, by a double loop in Python floats."""
    out = np.empty(x.shape, dtype=np.float64)
    for channel in range(x.shape[1]):
        values = [float(v) for v in x[:, channel].ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        for place, value in np.ndenumerate(x[:, channel]):
            out[(place[0], channel, *place[1:])] = (float(value) - mean) / math.sqrt(variance + eps)
    return out


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 3)], ids=["units", "maps"])
@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["plain", "variance as small as eps"])
def test_batch_norm_equals_a_double_loop(shape: tuple[int, ...], spread: float):
    x = spread * noise(*shape)
    expected = normalised_slowly(x.numpy(), eps=1e-8)
    np.testing.assert_allclose(BatchNorm()(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    other_eps = normalised_slowly(x.numpy(), eps=1e-5)
    assert (np.abs(expected - other_eps).max() > 0.1) == (spread < 1), "the small spread must tell 1e-8 from 1e-5"


def test_batch_norm_of_bf16_uses_the_larger_eps():
    x = (0.003 * noise(8, 4)).bfloat16()  # variance about 1e-5
    expected = normalised_slowly(x.float().numpy(), eps=1e-5)
    got = BatchNorm()(x)
    assert got.dtype == torch.bfloat16
    np.testing.assert_allclose(got.float().numpy(), expected, rtol=0.01, atol=0.01)
    assert np.abs(expected - normalised_slowly(x.float().numpy(), eps=1e-8)).max() > 0.1


def test_batch_norm_has_nothing_to_learn_and_keeps_nothing():
    layer = BatchNorm()
    x = noise(6, 4)
    first = layer(x)
    layer(5 + 3 * x)
    assert torch.equal(layer(x), first)
    layer.eval()
    assert torch.equal(layer(x), first), "evaluation uses the statistics of the batch as well"
    assert not list(layer.parameters())
    assert not list(layer.buffers())


# ---- convolutions ---------------------------------------------------------------------------------------------------


def down_slowly(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """out[o, i, j] = sum over c, u, v of x[c, 2i + u - 2, 2j + v - 2] * weight[o, c, u, v]."""
    n, _, height, width = x.shape
    out = np.zeros((n, len(weight), height // 2, width // 2))
    for image, o, i, j in np.ndindex(out.shape):
        for c, u, v in np.ndindex(weight.shape[1:]):
            row, column = 2 * i + u - 2, 2 * j + v - 2
            if 0 <= row < height and 0 <= column < width:
                out[image, o, i, j] += x[image, c, row, column] * weight[o, c, u, v]
    return out


def up_slowly(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Every input pixel scatters its weighted kernel around twice its place; what falls outside 2H x 2W is lost."""
    n, _, height, width = x.shape
    out = np.zeros((n, weight.shape[1], 2 * height, 2 * width))
    for image, c, i, j in np.ndindex(x.shape):
        for o, u, v in np.ndindex(weight.shape[1:]):
            row, column = 2 * i + u - 2, 2 * j + v - 2
            if 0 <= row < 2 * height and 0 <= column < 2 * width:
                out[image, o, row, column] += x[image, c, i, j] * weight[c, o, u, v]
    return out


def test_down_equals_a_slow_loop():
    x, weight = small_integers(2, 3, 6, 4, name="x"), small_integers(4, 3, 5, 5, name="w")
    got = with_weight(Down(3, 4), weight)(x)
    assert got.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(got.detach().numpy(), down_slowly(x.numpy(), weight.numpy()))


def test_up_equals_a_slow_scatter_loop_and_doubles_the_side():
    x, weight = small_integers(2, 3, 3, 2, name="x"), small_integers(3, 4, 5, 5, name="w")
    got = with_weight(Up(3, 4), weight)(x)
    assert got.shape == (2, 4, 6, 4)
    np.testing.assert_array_equal(got.detach().numpy(), up_slowly(x.numpy(), weight.numpy()))


@pytest.mark.parametrize("side", [1, 4, 7, 14])
def test_up_is_the_transpose_of_down(side: int):
    """<Down x, y> = <x, Up y> with one and the same weight: what "fractionally strided" means, at every size."""
    weight = small_integers(3, 2, 5, 5, name="w")
    down, up = with_weight(Down(2, 3), weight), with_weight(Up(3, 2), weight)
    x, y = small_integers(1, 2, 2 * side, 2 * side, name="x"), small_integers(1, 3, side, side, name="y")
    assert (down(x) * y).sum().item() == (x * up(y)).sum().item() != 0


def test_linear_is_a_product_without_bias():
    x, weight = small_integers(3, 4, name="x"), small_integers(2, 4, name="w")
    layer = with_weight(Linear(4, 2), weight)
    expected = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in weight] for row in x]
    np.testing.assert_array_equal(layer(x).detach().numpy(), np.array(expected))
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_reshape_and_flatten_are_inverse_and_channel_by_channel():
    x = torch.arange(2 * 12.0).reshape(2, 12)
    maps = Reshape(3, 2, 2)(x)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert maps[1, 2, 1, 0] == 12 + 2 * 4 + 1 * 2 + 0
    assert torch.equal(Flatten()(maps), x)


# ---- zero channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "weight"), [(Down, (4, 3, 5, 5)), (Up, (3, 4, 5, 5))], ids=["down", "up"])
def test_zero_channels_change_nothing(layer: type, weight: tuple[int, ...]):
    convolution = with_weight(layer(3, 4), small_integers(*weight, name="w"))
    x = small_integers(2, 3, 4, 4, name="x")
    padded = torch.cat([x, torch.zeros(2, 13, 4, 4, dtype=torch.float64)], dim=1)
    plain, spared = convolution(x), convolution(padded)
    assert torch.equal(plain, spared)
    (plain_gradient,) = torch.autograd.grad(plain.square().sum(), convolution.weight)
    (spared_gradient,) = torch.autograd.grad(spared.square().sum(), convolution.weight)
    assert spared_gradient.shape == weight
    assert torch.equal(plain_gradient, spared_gradient)


@pytest.mark.parametrize(("layer", "weight"), [(Down, (4, 13, 5, 5)), (Up, (13, 4, 5, 5))], ids=["down", "up"])
def test_padded_bf16_maps_give_the_unpadded_result(layer: type, weight: tuple[int, ...]):
    """In bf16 both roundings of one exact sum differ by at most one unit in the last place, 2^-8 of the value."""
    convolution = with_weight(layer(13, 4), noise(*weight, name="w"))
    x, y = noise(2, 3, 6, 6).bfloat16(), torch.eye(10)[[3, 8]]
    padded = beside(x, y)
    assert padded.shape[1] == ALIGNED_CHANNELS
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spared, plain = convolution(padded), convolution(padded[:, :13])
    assert spared.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(spared.float(), plain.float(), rtol=2**-7, atol=1e-2)
    exact = convolution.double()(padded[:, :13].double())  # differs by the rounding of the weights
    torch.testing.assert_close(spared.double(), exact, rtol=0.02, atol=0.3)


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_labels_stand_beside_units():
    x, y = noise(2, 5), torch.eye(10)[[4, 0]]
    got = beside(x, y)
    assert got.shape == (2, 15)
    assert torch.equal(got[:, :5], x)
    assert torch.equal(got[:, 5:], y)


@pytest.mark.parametrize("channels", [1, 4, 6, 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_stand_beside_maps_as_constant_planes(channels: int, dtype: torch.dtype):
    x, y = noise(3, channels, 4, 2).to(dtype), torch.eye(10)[[9, 0, 5]]
    got = beside(x, y)
    spare = 0 if dtype == torch.float32 else -(channels + 10) % 16
    assert got.shape == (3, channels + 10 + spare, 4, 2)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got[:, :channels], x)
    for image, label in enumerate((9, 0, 5)):
        for plane in range(10 + spare):
            assert (got[image, channels + plane] == (1.0 if plane == label else 0.0)).all()


# ---- initial weights ------------------------------------------------------------------------------------------------


def test_initial_weights_are_normal_and_repeat():
    def drawn(seed: int, std: float) -> nn.Module:
        network = nn.Sequential(Linear(300, 200), Up(20, 60))
        initialise(network, std, torch_stream(seed, "initial"))
        return network

    first, again, other, wider = drawn(1, 0.02), drawn(1, 0.02), drawn(2, 0.02), drawn(1, 0.04)
    for weight in first.parameters():
        n = weight.numel()
        assert weight.mean().item() == pytest.approx(0, abs=4 * 0.02 / math.sqrt(n))
        assert weight.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(2 * n))
        within = (weight.abs() < 0.02).double().mean().item()
        assert within == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01), "normal, not uniform"
    for a, b, c, d in zip(*(net.parameters() for net in (first, again, other, wider)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        torch.testing.assert_close(2 * a, d)
