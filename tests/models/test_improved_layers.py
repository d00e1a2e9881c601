"""Each block of Improved GAN against its definition, in slow loops; seeds side by side against each alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import layers
from pipeline.models.improved_layers import (
    WEIGHT_NORM_EPS,
    Deconvolution,
    Dropout,
    GaussianNoise,
    GeneratorBatchNorm,
    Linear,
    MinibatchDiscrimination,
    Noise,
    SquaredNorm,
    VirtualBatchNorm,
    WeightNorm,
    WeightNormConvolution,
    WeightNormDeconvolution,
    WeightNormLinear,
    WithReference,
    apart,
    closeness,
    joint_closeness,
    keep_weights,
    nearest_distances,
    quantiles,
    set_noise,
    side_by_side,
)
from pipeline.training.adam import RootAdam

S = 3


def draw(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(7, name), dtype=torch.float64)


def streams(n_seeds: int = S, name: str = "initial", first: int = 0) -> list[torch.Generator]:
    return [torch_stream(first + seed, name) for seed in range(n_seeds)]


def randomised(layer: nn.Module) -> nn.Module:
    """Every parameter and buffer drawn in float64, seed by seed, so that nothing is 0 or 1 by accident."""
    layer.double()
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            tensor.copy_(
                draw(*tensor.shape, name=name).abs() + 0.2 if "scale" in name else draw(*tensor.shape, name=name)
            )
    return layer


def slice_of(layer: nn.Module, alone: nn.Module, seed: int) -> nn.Module:
    """The layer of one seed, its values those of a seed in a layer of several."""
    alone.to(next(iter(layer.state_dict().values())).dtype if layer.state_dict() else torch.float64)
    alone.load_state_dict({name: tensor[seed : seed + 1] for name, tensor in layer.state_dict().items()})
    return alone


# ---- seeds side by side ---------------------------------------------------------------------------------------------

MAPS = (5, 4, 6, 6)  # B, C, H, W
UNITS = (5, 4)
BLOCKS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda n: Linear(n, 4, 3), UNITS),
    "deconvolution": (lambda n: Deconvolution(n, 4, 3), MAPS),
    "weight norm linear": (lambda n: WeightNormLinear(n, 4, 3, trained_scale=True), UNITS),
    "weight norm convolution": (
        lambda n: WeightNormConvolution(n, 4, 3, kernel=3, stride=2, padding=1, trained_scale=False),
        MAPS,
    ),
    "weight norm deconvolution": (lambda n: WeightNormDeconvolution(n, 4, 3, trained_scale=True), MAPS),
    "batch norm of units": (lambda n: GeneratorBatchNorm(n, 4), UNITS),
    "batch norm of maps": (lambda n: GeneratorBatchNorm(n, 4), MAPS),
    "noise": (lambda n: GaussianNoise(0.5), MAPS),
    "dropout": (lambda n: Dropout(0.4), UNITS),
    "minibatch discrimination": (lambda n: MinibatchDiscrimination(n, 4, 3, 2), UNITS),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_each_seed_computes_as_it_does_alone(block: str):
    """Values, and the gradients of input and parameters; those of other seeds stay 0."""
    make, shape = BLOCKS[block]
    layer = randomised(make(S))
    set_noise(layer, streams(S, "noise"))
    x = draw(S, *shape).requires_grad_()
    together = layer(x)
    for seed in range(S):
        alone = slice_of(layer, make(1), seed)
        set_noise(alone, streams(1, "noise", first=seed))
        own = x.detach()[seed : seed + 1].requires_grad_()
        y = alone(own)
        torch.testing.assert_close(together[seed : seed + 1], y)
        weight = draw(*y.shape, name="weight")
        gradients = torch.autograd.grad((y * weight).sum(), [own, *alone.parameters()])
        batched = torch.autograd.grad((together[seed] * weight[0]).sum(), [x, *layer.parameters()], retain_graph=True)
        for expected, got in zip(gradients, batched, strict=True):
            torch.testing.assert_close(got[seed : seed + 1], expected)
            others = [s for s in range(S) if s != seed]
            assert not got[others].any(), "the loss of one seed reaches another"


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4)])
def test_side_by_side_and_apart_are_inverse_views(shape: tuple[int, ...]):
    x = draw(5, 4, *shape[1:])  # (B, S * C, ...) with S = C = 2
    seeds = apart(x, 2)
    assert seeds.shape == (2, 5, 2, *shape[1:])
    assert torch.equal(seeds[1, 3, 0], x[3, 2])
    back = side_by_side(seeds)
    assert torch.equal(back, x)
    assert back.data_ptr() == x.data_ptr(), "no copy between one convolution and the next"


def test_no_copy_between_convolutions_in_channels_last():
    x = draw(5, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    back = side_by_side(apart(x, 3))
    assert back.data_ptr() == x.data_ptr()
    assert back.is_contiguous(memory_format=torch.channels_last)
    copied = side_by_side(apart(x.contiguous(), 3))
    assert copied.is_contiguous(memory_format=torch.channels_last), "also of maps that came in another order"
    assert torch.equal(copied, x)


# ---- weight norm against loops --------------------------------------------------------------------------------------


def normed(direction: np.ndarray, scale: float) -> np.ndarray:
    """G v / ||v||, the norm of one unit's whole direction."""
    return scale * direction / math.sqrt(math.fsum(direction.ravel() ** 2) + 1e-6)


def arrays(layer: nn.Module, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state = layer.state_dict()
    return tuple(state[name][seed].numpy() for name in ("direction", "scale", "bias"))


@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["plain", "norm as small as eps"])
def test_weight_norm_linear_equals_a_slow_loop(size: float):
    layer = randomised(WeightNormLinear(S, 4, 2, trained_scale=False))
    with torch.no_grad():
        layer.direction.mul_(size)
    x = draw(S, 3, 4)
    got = layer(x).detach().numpy()
    for s, b, o in np.ndindex(S, 3, 2):
        direction, scale, bias = arrays(layer, s)
        w = normed(direction[:, o], scale[o])
        expected = math.fsum(float(a * c) for a, c in zip(x[s, b], w, strict=True)) + bias[o]
        assert got[s, b, o] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (3, 1, 0), (1, 1, 0), (3, 1, 3)])
def test_weight_norm_convolution_equals_a_slow_loop(kernel: int, stride: int, padding: int):
    layer = randomised(
        WeightNormConvolution(2, 2, 3, kernel=kernel, stride=stride, padding=padding, trained_scale=False)
    )
    x = draw(2, 2, 2, 4, 4)
    got = layer(x).detach().numpy()
    side = (4 + 2 * padding - kernel) // stride + 1
    assert got.shape == (2, 2, 3, side, side)
    for s, b, o, i, j in np.ndindex(got.shape):
        direction, scale, bias = arrays(layer, s)
        w, terms = normed(direction[o], scale[o]), [float(bias[o])]
        for c, u, v in np.ndindex(w.shape):
            row, column = stride * i + u - padding, stride * j + v - padding
            if 0 <= row < 4 and 0 <= column < 4:
                terms.append(float(x[s, b, c, row, column]) * w[c, u, v])
        assert got[s, b, o, i, j] == pytest.approx(math.fsum(terms), rel=1e-9, abs=1e-12)


def scattered(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Every input pixel scatters its weighted kernel around twice its place; what falls outside 2H x 2W is lost."""
    n, _, height, width = x.shape
    out = np.zeros((n, weight.shape[1], 2 * height, 2 * width))
    for image, c, i, j in np.ndindex(x.shape):
        for o, u, v in np.ndindex(weight.shape[1:]):
            row, column = 2 * i + u - 2, 2 * j + v - 2
            if 0 <= row < 2 * height and 0 <= column < 2 * width:
                out[image, o, row, column] += x[image, c, i, j] * weight[c, o, u, v]
    return out


def test_deconvolutions_equal_a_slow_scatter_loop_and_double_the_side():
    plain = randomised(Deconvolution(2, 2, 3))
    with_norm = randomised(WeightNormDeconvolution(2, 2, 3, trained_scale=True))
    x = draw(2, 2, 2, 3, 2)
    got, got_normed = plain(x).detach().numpy(), with_norm(x).detach().numpy()
    assert got.shape == got_normed.shape == (2, 2, 3, 6, 4)
    for s in range(2):
        np.testing.assert_allclose(got[s], scattered(x[s].numpy(), plain.weight[s].detach().numpy()), atol=1e-12)
        direction, scale, bias = arrays(with_norm, s)
        weight = np.stack([normed(direction[:, o], scale[o]) for o in range(3)], axis=1)
        expected = scattered(x[s].numpy(), weight) + bias[:, None, None]
        np.testing.assert_allclose(got_normed[s], expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_deconvolution_multiplies_the_side_by_its_stride(stride: int):
    layer = randomised(Deconvolution(1, 2, 3, kernel=3, stride=stride))
    assert layer(draw(1, 2, 2, 5, 4)).shape == (1, 2, 3, 5 * stride, 4 * stride)


def test_the_length_of_a_direction_does_not_matter():
    """Nor does the loss have a gradient along it: what weight norm is for."""
    layer = randomised(WeightNormLinear(S, 4, 2, trained_scale=True))
    x = draw(S, 3, 4)
    y = layer(x)
    (gradient,) = torch.autograd.grad((y * draw(*y.shape, name="weight")).sum(), layer.direction)
    along = (gradient * layer.direction.detach()).sum(1)
    assert gradient.abs().max() > 0.1
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-5)
    with torch.no_grad():
        layer.direction.mul_(7)
    torch.testing.assert_close(layer(x), y, rtol=1e-5, atol=1e-5)


def test_weight_norm_gradients_agree_with_differences():
    linear = randomised(WeightNormLinear(2, 3, 2, trained_scale=True))
    names = [name for name, _ in linear.named_parameters()]
    assert names == ["direction", "scale", "bias"]
    x = draw(2, 4, 3)

    def output(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(linear, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, tuple(linear.parameters()))


@pytest.mark.parametrize("axes", [(1,), (2, 3, 4), (1, 3, 4)], ids=str)
def test_squared_norm_equals_that_of_autograd(axes: tuple[int, ...]):
    v = draw(2, 3, 2, *([2, 2] if len(axes) > 1 else [])).requires_grad_()
    norm, plain = SquaredNorm.apply(v, axes), v.square().sum(axes)
    torch.testing.assert_close(norm, plain)
    weight = draw(*plain.shape, name="weight")
    (got,), (expected,) = (torch.autograd.grad((each * weight).sum(), v) for each in (norm, plain))
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(lambda v: SquaredNorm.apply(v, axes), (v,))


@pytest.mark.parametrize("block", [name for name in BLOCKS if "weight norm" in name])
def test_weight_norm_can_be_taken_off(block: str):
    """w = g v; and data set scale and bias of that too."""
    make, shape = BLOCKS[block]
    layer, x = randomised(make(S)), draw(S, *shape)
    assert isinstance(layer, WeightNorm)
    y = layer(x)
    layer.normed = False
    plain = layer(x)
    scale, bias = (t.detach().view(S, 1, 3, *[1] * (plain.dim() - 3)) for t in (layer.scale, layer.bias))
    size = (layer.direction.detach().square().sum(layer.summed) + 1e-6).sqrt().view_as(scale)
    torch.testing.assert_close((plain - bias) / size, y - bias)
    assert (size - 1).abs().min() > 1e-3
    with torch.no_grad():
        layer.scale.mul_(2)
    torch.testing.assert_close(layer(x) - bias, 2 * (plain - bias))
    mean, std = moments(layer.data_dependent(x, 0.1))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    torch.testing.assert_close(std, torch.full_like(std, 0.1), rtol=1e-9, atol=0)
    torch.testing.assert_close(moments(layer(x)), (mean, std), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", [WeightNormLinear, WeightNormDeconvolution])
def test_a_scale_is_trained_only_where_asked(kind: type, trained: bool):
    layer = kind(S, 4, 3, trained_scale=trained)
    assert ("scale" in dict(layer.named_parameters())) == trained
    assert layer.state_dict()["scale"].shape == (S, 3), "saved in any case"


@pytest.mark.parametrize("block", [name for name in BLOCKS if "weight norm" in name or name == "linear"])
def test_bf16_gives_the_fp32_result_within_its_rounding(block: str):
    make, shape = BLOCKS[block]
    layer = randomised(make(S)).float()
    x = draw(S, *shape).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), layer(x), rtol=0.05, atol=0.1)


# ---- data-dependent initialisation ----------------------------------------------------------------------------------

NORMED = {name: (make, (40, *shape[1:])) for name, (make, shape) in BLOCKS.items() if "weight norm" in name}


def moments(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased standard deviation of each seed and channel, (S, C) each, over batch and places."""
    flat = y.detach().transpose(1, 2).flatten(2)
    return flat.mean(2), flat.std(2, correction=0)


@pytest.mark.parametrize("block", NORMED)
@pytest.mark.parametrize("init_std", [1.0, 0.1])
def test_data_set_mean_and_standard_deviation_of_every_channel(block: str, init_std: float):
    make, shape = NORMED[block]
    layer, x = randomised(make(S)), 2 + draw(S, *shape)
    before, _ = moments(layer(x))
    assert before.abs().min() > 1e-3
    returned = layer.data_dependent(x, init_std)
    assert not returned.requires_grad
    torch.testing.assert_close(layer(x).detach(), returned)
    mean, std = moments(returned)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    torch.testing.assert_close(std, torch.full_like(std, init_std), rtol=1e-9, atol=0)


def test_data_set_scale_and_bias_as_the_definition_says():
    layer, x = randomised(WeightNormLinear(S, 4, 2, trained_scale=False)), draw(S, 9, 4)
    with torch.no_grad():
        layer.scale.fill_(1.0)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.data_dependent(x, 0.1)
    for s, o in np.ndindex(S, 2):
        w = normed(state["direction"][s, :, o].numpy(), 1.0)
        values = [math.fsum(float(a) * c for a, c in zip(row, w, strict=True)) for row in x[s]]
        m = math.fsum(values) / 9
        std = math.sqrt(math.fsum((v - m) ** 2 for v in values) / 9)
        assert layer.scale[s, o].item() == pytest.approx(0.1 / std, rel=1e-9)
        assert layer.bias[s, o].item() == pytest.approx(-m * 0.1 / std, rel=1e-9)
    assert torch.equal(layer.direction.detach(), state["direction"])


@pytest.mark.parametrize("block", NORMED)
def test_at_submission_all_channels_of_a_seed_shared_one_standard_deviation(block: str):
    make, shape = NORMED[block]
    layer, x = randomised(make(S)), draw(S, *shape)
    _, before = moments(layer(x))
    mean, std = moments(layer.data_dependent(x, 1.0, per_channel=False))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    torch.testing.assert_close(std.square().mean(1), torch.ones(S, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(std / std[:, :1], before / before[:, :1], rtol=1e-9, atol=0)
    assert (std - 1).abs().max() > 0.05


def test_data_dependent_initialisation_is_that_of_each_seed_alone_and_can_be_repeated():
    layer, x = randomised(WeightNormConvolution(S, 2, 3, kernel=3, trained_scale=True)), draw(S, 6, 2, 5, 5)
    alone = [slice_of(layer, WeightNormConvolution(1, 2, 3, kernel=3, trained_scale=True), s) for s in range(S)]
    y = layer.data_dependent(x, 1.0)
    for seed, own in enumerate(alone):
        torch.testing.assert_close(own.data_dependent(x[seed : seed + 1], 1.0), y[seed : seed + 1])
        torch.testing.assert_close(own.scale, layer.scale[seed : seed + 1])
    kept = layer.scale.detach().clone()
    layer.data_dependent(x, 1.0)
    torch.testing.assert_close(layer.scale.detach(), kept, rtol=1e-9, atol=0)


@pytest.mark.parametrize("examples", ["one", "equal"])
def test_examples_that_do_not_differ_are_refused(examples: str):
    layer = WeightNormLinear(1, 4, 2, trained_scale=False)
    layer.initialise(0.05, streams(1))
    x = torch.ones(1, 1 if examples == "one" else 5, 4)
    with pytest.raises(InputError, match=r"from [15] examples: a unit is the same"):
        layer.data_dependent(x, 1.0)
    assert (layer.scale == 1).all(), "nothing was set"


# ---- initial weights ------------------------------------------------------------------------------------------------


def test_initial_weights_are_drawn_per_seed():
    for make in (
        lambda n: Linear(n, 60, 50),
        lambda n: Deconvolution(n, 12, 10),
        lambda n: WeightNormLinear(n, 60, 50, trained_scale=True),
        lambda n: MinibatchDiscrimination(n, 60, 10, 5),
    ):
        layer, alone = make(S), make(1)
        layer.initialise(0.05, streams())
        alone.initialise(0.05, streams(1, first=2))
        weight = next(iter(layer.parameters())).detach()
        assert torch.equal(weight[2:], next(iter(alone.parameters())).detach())
        assert not torch.equal(weight[0], weight[1])
        n = weight.numel()
        assert weight.mean().item() == pytest.approx(0, abs=4 * 0.05 / math.sqrt(n))
        assert weight.std().item() == pytest.approx(0.05, rel=4 / math.sqrt(2 * n))
        within = (weight.abs() < 0.05).double().mean().item()
        assert within == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.02), "normal, not uniform"
        with pytest.raises(ValueError, match="3 seeds need as many random streams, found 2"):
            layer.initialise(0.05, streams(2))


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (Linear(S, 60, 50), 60 + 50),
        (Deconvolution(S, 12, 10), (12 + 10) * 25),
        (WeightNormLinear(S, 60, 50, trained_scale=True), 60 + 50),
        (WeightNormConvolution(S, 12, 10, kernel=3, trained_scale=True), (12 + 10) * 9),
    ],
    ids=["linear", "deconvolution", "weight norm linear", "weight norm convolution"],
)
def test_glorot_is_uniform_with_the_variance_of_both_fans(layer: nn.Module, fans: int):
    layer.initialise("glorot", streams())
    weight, limit = next(iter(layer.parameters())).detach(), math.sqrt(6 / fans)
    assert weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert weight.abs().max().item() <= limit
    assert weight.var().item() == pytest.approx(2 / fans, rel=0.1)


def test_initialising_resets_what_data_set():
    layer, x = WeightNormLinear(S, 4, 2, trained_scale=False), draw(S, 9, 4).float()
    layer.initialise(0.1, streams())
    layer.data_dependent(1 + x, 1.0)
    assert (layer.scale != 1).all()
    layer.initialise(0.1, streams())
    assert (layer.scale == 1).all()
    assert (layer.bias == 0).all()


# ---- generator batch norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 2, 3)], ids=["units", "maps"])
@pytest.mark.parametrize("spread", [1.0, 1e-3], ids=["plain", "variance as small as eps"])
def test_generator_batch_norm_equals_a_slow_loop(shape: tuple[int, ...], spread: float):
    layer, x = randomised(GeneratorBatchNorm(S, 2)), 3 + spread * draw(S, *shape)
    got = layer(x).detach()
    for s, c in np.ndindex(S, 2):
        values = [float(v) for v in x[s, :, c].flatten()]
        m = math.fsum(values) / len(values)
        variance = math.fsum((v - m) ** 2 for v in values) / len(values)
        expected = [(v - m) / math.sqrt(variance + 1e-6) + layer.shift[s, c].item() for v in values]
        assert got[s, :, c].flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_generator_batch_norm_has_a_shift_only_and_keeps_nothing():
    layer, x = GeneratorBatchNorm(S, 4), draw(S, 6, 4).float()
    assert [name for name, _ in layer.named_parameters()] == ["shift"]
    assert not list(layer.buffers())
    first = layer(x)
    layer(5 + 3 * x)
    assert torch.equal(layer.eval()(x), first), "sampling uses the statistics of the batch as well"
    got = layer(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), first, rtol=0.02, atol=0.02)


# ---- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [GaussianNoise(0.5), Dropout(0.5), GaussianNoise(0), Dropout(0)], ids=str)
def test_noise_is_off_in_evaluation_and_at_zero(layer: nn.Module):
    x = draw(2, 3, 4)
    assert torch.equal(layer.eval()(x), x), "and needs no generator"
    layer.train()
    if layer.amount == 0:
        assert torch.equal(layer(x), x)
        return
    with pytest.raises(ValueError, match="2 seeds need as many random streams, found 0"):
        layer(x)


def test_gaussian_noise_has_its_standard_deviation_and_is_fresh_each_time():
    layer = GaussianNoise(0.3)
    set_noise(layer, streams(2, "noise"))
    x = draw(2, 100, 50)
    first, second = layer(x) - x, layer(x) - x
    for noise in (first, second):
        assert noise.mean().item() == pytest.approx(0, abs=4 * 0.3 / 100)
        assert noise.std().item() == pytest.approx(0.3, rel=4 / math.sqrt(2e4))
    for a, b in ((first, second), (first[:1], first[1:])):
        assert abs((a * b).mean().item()) < 4 * 0.09 / 70, "independent of call and seed"


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_keeps_the_mean(p: float):
    layer = Dropout(p)
    set_noise(layer, streams(2, "noise"))
    x = draw(2, 10, 10, 10, 10)
    y = layer(x)
    dropped = y == 0
    assert dropped.double().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2e4))
    rounded = round(p * 2**16) / 2**16  # what is kept is divided by the probability that is in force
    torch.testing.assert_close(y[~dropped], (x / (1 - rounded))[~dropped])
    whole = dropped.flatten(3).double().mean(3)
    assert ((whole > 0) & (whole < 1)).all(), "element by element, not whole maps"


def test_gaussian_noise_takes_each_of_65536_equally_likely_values():
    """The middles, in probability, of as many parts of N(0, std^2)."""
    values = quantiles(0.3, torch.float64, torch.device("cpu"))
    assert values.shape == (2**16,)
    for level in (0, 1, 7, 2**15, 2**16 - 1):
        share = 0.5 * math.erfc(-values[level].item() / 0.3 / math.sqrt(2))
        assert share == pytest.approx((level + 0.5) / 2**16, rel=1e-9)
    torch.testing.assert_close(values, -values.flip(0), rtol=1e-6, atol=1e-12)
    assert values.square().mean().item() == pytest.approx(0.09, rel=2e-4)
    assert values.max().item() == pytest.approx(4.3 * 0.3, rel=0.01)
    layer, x = GaussianNoise(0.3), torch.zeros(S, 4, 5, dtype=torch.float64)
    set_noise(layer, streams(S, "noise"))
    assert torch.isin(layer(x), values).all()
    assert quantiles(0.3, torch.bfloat16, torch.device("cpu")).dtype == torch.bfloat16


def test_all_16_bit_levels_are_drawn_alike():
    """Four numbers a word of 64 bits, the words of seed s from generator s alone; a last one may be used in part."""
    layer = Noise(1.0)
    for n in (1, 4, 5, 4003):
        set_noise(layer, streams(S, "noise"))
        bits = layer._bits(torch.empty(S, n))
        assert bits.shape == (S, n)
        for seed in range(S):
            words = torch.empty(-(-n // 4), dtype=torch.int64)
            words.random_(-(2**63), None, generator=streams(1, "noise", first=seed)[0])
            parts = [(word >> 16 * part & 0xFFFF) ^ 0x8000 for word in words.tolist() for part in range(4)]
            assert bits[seed].tolist() == parts[:n]
    set_noise(layer, streams(1, "noise"))
    bits = layer._bits(torch.empty(1, 2**20))
    assert bits.min() == 0
    assert bits.max() == 2**16 - 1
    counts = torch.bincount(bits.flatten() >> 8, minlength=256).double()
    chi_square = ((counts - 4096) ** 2 / 4096).sum().item()
    assert chi_square == pytest.approx(255, abs=5 * math.sqrt(2 * 255)), "the first 8 bits are uniform"
    pairs = torch.bincount((bits.view(-1, 4)[:, :2] >> 12).mul(torch.tensor([16, 1])).sum(1), minlength=256).double()
    chi_square = ((pairs - 1024) ** 2 / 1024).sum().item()
    assert chi_square == pytest.approx(255, abs=5 * math.sqrt(2 * 255)), "numbers of one word are independent"


@pytest.mark.parametrize(("p", "dropped"), [(0.5, 2**15), (0.2, 13_107), (1e-6, 0), (1 / 2**16, 1)])
def test_dropout_leaves_out_what_lies_below_its_threshold(p: float, dropped: int):
    layer, x = Dropout(p), 1 + draw(S, 50, 40).abs()
    set_noise(layer, streams(S, "noise"))
    bits = Noise._bits(layer, x)
    set_noise(layer, streams(S, "noise"))
    expected = torch.where(bits < dropped, 0, x / (1 - dropped / 2**16))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=0)


def test_bits_of_maps_lie_in_the_order_of_channels_last():
    """Places first, channels last, so that noise and maps go through the cache alike."""
    layer, found = Noise(1.0), []
    for shape in ((S, 2 * 4 * 5 * 3), (S, 2, 3, 4, 5)):
        set_noise(layer, streams(S, "noise"))
        found.append(layer._bits(torch.empty(shape)))
    assert found[1].shape == (S, 2, 3, 4, 5)
    assert torch.equal(found[0].view(S, 2, 4, 5, 3), found[1].permute(0, 1, 3, 4, 2))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_impossible_dropout_is_refused(p: float):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Dropout(p)


@pytest.mark.parametrize("layer", [GaussianNoise(0.5), Dropout(0.5)], ids=str)
def test_noise_repeats_with_its_generators_in_every_precision(layer: nn.Module):
    nested = nn.Sequential(nn.Identity(), nn.Sequential(layer))
    x = draw(S, 4, 5).float()
    set_noise(nested, streams(S, "noise"))
    first = nested(x)
    set_noise(nested, streams(S, "noise"))
    assert torch.equal(nested(x), first)
    set_noise(nested, streams(S, "noise"))
    reduced = nested(x.bfloat16())
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), first, rtol=0.02, atol=0.05)


def test_noise_does_not_depend_on_the_layout_in_memory():
    """Maps come out of a convolution as views (S, B, ...) of (B, S * C, ...)."""
    layer, x = GaussianNoise(0.5), draw(S, 4, 2, 3, 3)
    set_noise(layer, streams(S, "noise"))
    first = layer(x)
    set_noise(layer, streams(S, "noise"))
    assert torch.equal(layer(apart(side_by_side(x).contiguous(), S)), first)


# ---- minibatch discrimination ---------------------------------------------------------------------------------------


def slow_closeness(m: np.ndarray, others: Callable[[int], list[int]]) -> np.ndarray:
    """(B, n_kernels, kernel_dim) -> sums over the given others of i."""
    out = np.zeros(m.shape[:2])
    for i, b in np.ndindex(*m.shape[:2]):
        out[i, b] = math.fsum(math.exp(-math.fsum(abs(m[i, b] - m[j, b]))) for j in others(i))
    return out


def test_closeness_equals_a_slow_loop():
    m = 0.5 * draw(2, S, 5, 3, 2)
    got = closeness(m)
    assert got.shape == (2, S, 5, 3)
    for a, s in np.ndindex(2, S):
        expected = slow_closeness(m[a, s].numpy(), lambda i: [j for j in range(5) if j != i])
        np.testing.assert_allclose(got[a, s].numpy(), expected, rtol=1e-12)


def test_closeness_has_the_gradient_of_the_plain_formula():
    m = (0.5 * draw(S, 5, 3, 2)).requires_grad_()
    weight = draw(S, 5, 3, name="weight")

    def plain(m: torch.Tensor) -> torch.Tensor:
        distances = (m.unsqueeze(1) - m.unsqueeze(2)).abs().sum(-1)  # (S, B, B, n_kernels)
        return (distances.neg().exp() * (1 - torch.eye(5))[..., None]).sum(2)

    (got,) = torch.autograd.grad((closeness(m) * weight).sum(), m)
    (expected,) = torch.autograd.grad((plain(m) * weight).sum(), m)
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(closeness, (m[:1, :4].detach().requires_grad_(),))


def test_closeness_at_its_limits():
    equal = draw(1, 1, 3, 2).expand(S, 6, 3, 2)
    torch.testing.assert_close(closeness(equal), torch.full((S, 6, 3), 5.0, dtype=torch.float64))
    assert (closeness(draw(S, 1, 3, 2)) == 0).all(), "alone in its batch"
    far = 1e4 * torch.arange(6.0).view(1, 6, 1, 1).expand(S, 6, 3, 2)
    assert (closeness(far) == 0).all()
    clusters = torch.tensor([0.0, 1e4, 0.0, 1e4, 0.0]).view(1, 5, 1, 1).expand(1, 5, 3, 2)
    assert closeness(clusters)[0, :, 0].tolist() == pytest.approx([2, 1, 2, 1, 2])
    for m in (equal, far):
        values = m.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(closeness(values).sum(), values)
        assert (gradient == 0).all(), "finite, and balanced"


def test_closeness_follows_the_order_of_examples():
    m, order = draw(S, 5, 3, 2), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(closeness(m)[:, order], closeness(m[:, order]))


def test_closeness_is_computed_in_fp32():
    m = draw(S, 5, 3, 2).bfloat16()
    assert closeness(m).dtype == torch.float32
    torch.testing.assert_close(closeness(m), closeness(m.float()))


def test_nearest_distances_equal_a_slow_loop():
    m = draw(S, 5, 3, 2)
    got = nearest_distances(m)
    for s, i, b in np.ndindex(S, 5, 3):
        distances = [math.fsum((m[s, i, b] - m[s, j, b]).abs().tolist()) for j in range(5) if j != i]
        assert got[s, i, b].item() == pytest.approx(min(distances), rel=1e-12)


def test_joint_closeness_is_the_mean_over_the_others_of_each_half():
    m = 0.5 * draw(2, 6, 3, 2)
    got = joint_closeness(m)
    assert got.shape == (2, 6, 6)
    for s in range(2):
        for first, half in ((0, range(3)), (3, range(3, 6))):
            sums = slow_closeness(m[s].numpy(), lambda i, half=half: [j for j in half if j != i])
            counts = np.array([[2 if i in half else 3] for i in range(6)])
            np.testing.assert_allclose(got[s, :, first : first + 3].numpy(), sums / counts, rtol=1e-12)
    assert torch.autograd.gradcheck(joint_closeness, (m[:1].clone().requires_grad_(),))


def test_joint_closeness_at_its_limits():
    torch.testing.assert_close(joint_closeness(torch.zeros(4, 3, 2)), torch.ones(4, 6))
    halves = 1e4 * torch.tensor([0.0, 0.0, 1.0, 1.0]).view(4, 1, 1).expand(4, 3, 2)
    expected = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2).repeat_interleave(3, dim=1)
    torch.testing.assert_close(joint_closeness(halves), expected)


@pytest.mark.parametrize("n", [2, 5])
def test_a_joint_batch_without_two_halves_is_refused(n: int):
    with pytest.raises(ValueError, match=f"two halves of equal size, of at least 2 examples each; found {n}"):
        joint_closeness(torch.zeros(n, 3, 2))


def projected(layer: MinibatchDiscrimination, x: torch.Tensor, seed: int) -> np.ndarray:
    """M of one seed: each column of T has the norm exp(log_scale)."""
    theta, log_scale = (t[seed].detach().numpy() for t in (layer.direction, layer.log_scale))
    t = theta / np.sqrt((theta**2).sum(axis=0)) * np.exp(log_scale)
    return np.einsum("ia,abc->ibc", x[seed].numpy(), t)


def test_minibatch_discrimination_appends_the_closeness():
    layer, x = randomised(MinibatchDiscrimination(S, 4, 3, 2)), draw(S, 5, 4)
    y = layer(x)
    assert y.shape == (S, 5, 4 + 3)
    assert torch.equal(y[..., :4], x)
    for s in range(S):
        m = projected(layer, x, s)
        expected = slow_closeness(m, lambda i: [j for j in range(5) if j != i]) + layer.offset[s].detach().numpy()
        np.testing.assert_allclose(y[s, :, 4:].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_minibatch_discrimination_takes_its_distances_in_fp32_under_autocast():
    layer, x = randomised(MinibatchDiscrimination(S, 4, 3, 2)).float(), draw(S, 5, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, reduced = layer(x), layer(x.bfloat16())
    assert torch.equal(got, layer(x))
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), layer(x.bfloat16().float()), rtol=2**-8, atol=1e-6)


def test_minibatch_discrimination_has_the_authors_sizes_and_start():
    layer = MinibatchDiscrimination(1)
    layer.initialise(0.05, streams(1))
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"direction": (1, 192, 100, 5), "log_scale": (1, 100, 5), "offset": (1, 100)}
    assert (layer.log_scale == 0).all()
    assert (layer.offset == -1).all()
    assert layer(torch.zeros(1, 2, 192)).shape == (1, 2, 292)


def test_data_put_the_nearest_at_two_and_centre_the_features():
    layer, x = randomised(MinibatchDiscrimination(S, 4, 3, 2)), 3 * draw(S, 20, 4)
    kept = layer.log_scale.detach().clone()
    y = layer.data_dependent(x)
    torch.testing.assert_close(y, layer(x).detach())
    torch.testing.assert_close(y[..., 4:].mean(1), torch.zeros(S, 3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert y[..., 4:].std(1).min() > 0.01
    for s, b in np.ndindex(S, 3):
        m = projected(layer, x, s)[:, b]
        nearest = [min(abs(m[i] - m[j]).sum() for j in range(20) if j != i) for i in range(20)]
        assert np.mean(nearest) == pytest.approx(2, rel=1e-9)
    change = layer.log_scale.detach() - kept
    torch.testing.assert_close(change[..., 0], change[..., 1]), "one factor for each kernel"


@pytest.mark.parametrize(("n", "message"), [(1, "from one example"), (3, "from 3 examples: all have an equal")])
def test_data_that_set_no_distance_are_refused(n: int, message: str):
    layer = MinibatchDiscrimination(1, 4, 3, 2)
    layer.initialise(0.05, streams(1))
    with pytest.raises(InputError, match=message):
        layer.data_dependent(torch.ones(1, n, 4))
    assert (layer.log_scale == 0).all()


# ---- virtual batch norm ---------------------------------------------------------------------------------------------

N = 4  # reference


def virtual(n: int, n_reference: int = N) -> VirtualBatchNorm:
    layer = randomised(VirtualBatchNorm(n))
    layer.n_reference = n_reference
    return layer


@pytest.mark.parametrize("places", [(), (2, 3)], ids=["units", "maps"])
@pytest.mark.parametrize("spread", [1.0, 1e-3], ids=["plain", "variance as small as eps"])
def test_virtual_batch_norm_equals_a_slow_loop(places: tuple[int, ...], spread: float):
    layer, x = virtual(2), 0.5 + spread * draw(N + 3, 2, *places)
    got = layer(x).detach()
    for i, c in np.ndindex(N + 3, 2):
        reference, own = ([float(v) for v in t.flatten()] for t in (x[:N, c], x[i, c]))
        mean, square = (math.fsum(v**p for v in reference) / len(reference) for p in (1, 2))
        if i >= N:
            own_mean, own_square = (math.fsum(v**p for v in own) / len(own) for p in (1, 2))
            mean, square = own_mean / (N + 1) + mean * N / (N + 1), own_square / (N + 1) + square * N / (N + 1)
        std = math.sqrt(square - mean**2 + 1e-5)
        expected = [layer.gain[c].item() * (v - mean) / std + layer.shift[c].item() for v in own]
        assert got[i, c].flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def little_generator(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """z -> units -> maps, with the blocks of ``dcgan.py``."""
    network = nn.Sequential(
        nn.Sequential(layers.Linear(3, 16), norm(16), nn.ReLU(), layers.Reshape(4, 2, 2)),
        nn.Sequential(layers.Deconvolution(4, 4, kernel=5, stride=2), norm(4), nn.ReLU()),
        layers.Deconvolution(4, 1, kernel=5, stride=2),
    )
    layers.initialise(network, 0.3, torch_stream(7, "network"))
    return network.double()


def test_an_example_does_not_depend_on_its_batch_mates():
    network = WithReference(little_generator(VirtualBatchNorm), draw(N, 3, name="reference"))
    z = draw(5, 3)
    among = network(z)
    assert among.shape == (5, 1, 8, 8)
    others = network(torch.cat([z[:1], 10 * draw(6, 3, name="mates")]))
    alone = network(z[:1])
    assert among[0].std() > 0.01
    torch.testing.assert_close(others[:1], among[:1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone, among[:1], rtol=1e-12, atol=1e-12)
    plain = little_generator(layers.AffineBatchNorm)
    mates = torch.cat([z[:1], 10 * draw(4, 3, name="mates")])
    assert (plain(z)[0] - plain(mates)[0]).abs().max() > 0.01, "plain batch norm must fail this test"


def test_no_gradient_goes_from_one_example_to_another():
    network = WithReference(little_generator(VirtualBatchNorm), draw(N, 3, name="reference"))
    z = draw(5, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(network(z)[2].square().sum(), z)
    assert (gradient.abs().sum(1) > 0).tolist() == [False, False, True, False, False]


def test_the_reference_goes_through_the_network_as_it_is_now():
    network = WithReference(little_generator(VirtualBatchNorm), draw(N, 3, name="reference"))
    z = draw(2, 3)
    before = network(z)
    assert "reference" in network.state_dict()
    assert "reference" not in dict(network.named_parameters())
    with torch.no_grad():
        network.reference.mul_(2)
    assert (network(z) - before).abs().max() > 1e-3, "another reference, other images"


def test_the_reference_counts_as_n_and_the_example_as_one():
    """With many copies of a reference the example's own weight vanishes."""
    x, reference = 5 + draw(1, 2, 3, 3), draw(4, 2, 3, 3, name="reference")
    few = virtual(2, 4)(torch.cat([reference, x]))[-1]
    many = virtual(2, 4000)(torch.cat([reference.repeat(1000, 1, 1, 1), x]))[-1]
    layer = virtual(2)
    variance, mean = torch.var_mean(reference, dim=(0, 2, 3), correction=0)
    c = (slice(None), None, None)
    limit = layer.gain[c] * (x[0] - mean[c]) / (variance + 1e-5).sqrt()[c] + layer.shift[c]
    torch.testing.assert_close(many, limit, rtol=0.02, atol=0.02)
    assert (few - limit).abs().max() > 0.5


def test_virtual_batch_norm_in_bf16_takes_its_statistics_in_fp32():
    layer, x = virtual(2).float(), (3 + draw(N + 2, 2, 3, 3)).float()
    got = layer(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), layer(x.bfloat16().float()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("places", [(), (2, 3)], ids=["units", "maps"])
def test_virtual_batch_norm_of_several_seeds_is_that_of_each_alone(places: tuple[int, ...]):
    """Against the plain layer, which has no axis of seeds: values, and all gradients."""
    layer = randomised(VirtualBatchNorm(2, n_seeds=S))
    layer.n_reference = N
    x = (0.5 + draw(S, N + 3, 2, *places)).requires_grad_()
    weight = draw(S, N + 3, 2, *places, name="weight")
    together = layer(x)
    for seed in range(S):
        alone = VirtualBatchNorm(2).double()
        alone.n_reference = N
        alone.load_state_dict({name: tensor[seed] for name, tensor in layer.state_dict().items()})
        own = x.detach()[seed].requires_grad_()
        y = alone(own)
        torch.testing.assert_close(together[seed], y)
        expected = torch.autograd.grad((y * weight[seed]).sum(), [own, *alone.parameters()])
        got = torch.autograd.grad((together[seed] * weight[seed]).sum(), [x, *layer.parameters()], retain_graph=True)
        for batched, single in zip(got, expected, strict=True):
            torch.testing.assert_close(batched[seed], single)
            assert not batched[[s for s in range(S) if s != seed]].any(), "the loss of one seed reaches another"


def test_gains_of_several_seeds_are_drawn_and_shifts_are_0():
    layer, alone = VirtualBatchNorm(5000, n_seeds=2), VirtualBatchNorm(5000, n_seeds=1)
    layer.initialise(streams(2))
    alone.initialise(streams(1, first=1))
    assert torch.equal(layer.gain[1], alone.gain[0])
    assert not torch.equal(layer.gain[1], layer.gain[0])
    assert layer.gain.mean().item() == pytest.approx(1, abs=4 * 0.02 / 100)
    assert layer.gain.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(2e4))
    assert (layer.shift == 0).all()
    with pytest.raises(ValueError, match="2 seeds need as many random streams, found 1"):
        layer.initialise(streams(1))


def seeds_generator(n_seeds: int) -> WithReference:
    """z (S, B, 3) -> units -> maps of each seed; its reference too is each seed's own."""
    network = nn.Sequential(
        nn.Sequential(Linear(n_seeds, 3, 16), VirtualBatchNorm(16, n_seeds), nn.ReLU(), nn.Unflatten(2, (4, 2, 2))),
        nn.Sequential(Deconvolution(n_seeds, 4, 4), VirtualBatchNorm(4, n_seeds), nn.ReLU()),
        Deconvolution(n_seeds, 4, 1),
    )
    return WithReference(network, torch.zeros(n_seeds, N, 3))


def test_several_seeds_with_their_own_reference():
    network = randomised(seeds_generator(S))
    assert network.reference.shape == (S, N, 3)
    assert network.reference.std() > 0.1, "it is part of the state"
    z = draw(S, 5, 3)
    together = network(z)
    assert together.shape == (S, 5, 1, 8, 8)
    for seed in range(S):
        alone = slice_of(network, seeds_generator(1), seed)
        torch.testing.assert_close(alone(z[seed : seed + 1]), together[seed : seed + 1])
    others = network(torch.cat([z[:, :1], 10 * draw(S, 6, 3, name="mates")], dim=1))
    torch.testing.assert_close(others[:, 0], together[:, 0], rtol=1e-12, atol=1e-12)
    assert together[:, 0].std() > 0.01
    with torch.no_grad():
        network.reference[1].mul_(2)
    moved = (network(z) - together).abs().amax(dim=(1, 2, 3, 4)) > 1e-3
    assert moved.tolist() == [False, True, False]


def test_virtual_batch_norm_without_its_reference_is_refused():
    with pytest.raises(ValueError, match="reference batch first: 0 examples, found a batch of 6"):
        VirtualBatchNorm(2)(torch.zeros(6, 2))
    with pytest.raises(ValueError, match="4 examples, found a batch of 3"):
        virtual(2)(torch.zeros(3, 2))
    with pytest.raises(InputError, match="this one has none"):
        WithReference(little_generator(layers.AffineBatchNorm), torch.zeros(4, 3))


# ---- what weight-normed products keep -------------------------------------------------------------------------------


def made_linear(keeps: bool) -> WeightNormLinear:
    layer = WeightNormLinear(2, 5, 3, trained_scale=True)
    layer.initialise(0.1, [torch_stream(0, "kept"), torch_stream(1, "kept")])
    if keeps:
        keep_weights(layer)
    return layer


@pytest.mark.parametrize("update", ["adam", "sgd", "copy", "load"])
def test_kept_weights_are_made_anew_after_every_change(update):
    """Fused Adam changes parameters without raising autograd's version of them, which the layers go by."""
    kept, fresh = made_linear(keeps=True), made_linear(keeps=False)
    x = draw(2, 4, 5, name="kept x").float()
    for layer in (kept, fresh):
        before = layer(x).detach().clone()
        assert torch.equal(layer(x), before)
        if update in ("adam", "sgd"):
            settings = {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-8}
            adam = RootAdam(layer.parameters(), **settings)
            optimiser = adam if update == "adam" else torch.optim.SGD(layer.parameters(), lr=0.1)
            layer(x).square().sum().backward()
            optimiser.step()
        elif update == "copy":
            with torch.no_grad():
                layer.direction.copy_(draw(2, 5, 3, name="other").float())
        else:
            layer.load_state_dict({name: 0.5 + value for name, value in layer.state_dict().items()})
        assert not torch.equal(layer(x), before)
    assert torch.equal(kept(x), fresh(x))


def test_the_gradient_of_a_normed_product_is_that_of_its_definition():
    layer = made_linear(keeps=False).double()
    x = draw(2, 4, 5, name="gradient x").requires_grad_()

    def by_definition(x, direction, scale, bias):
        norm = (direction.square().sum(1, keepdim=True) + WEIGHT_NORM_EPS).sqrt()
        return torch.bmm(x, direction / norm) * scale.unsqueeze(1) + bias.unsqueeze(1)

    inputs = [x, layer.direction, layer.scale, layer.bias]
    weights = draw(2, 4, 3, name="of the output")
    expected = torch.autograd.grad((by_definition(*inputs) * weights).sum(), inputs)
    found = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
