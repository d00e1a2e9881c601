"""The colour DCGANs, row by row, against the tables of paper and released arrays; their blocks against slow loops."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import dcgan, mnist
from pipeline.models.dcgan import PAPER, Variant, from_signed, to_signed
from pipeline.models.layers import (
    AffineBatchNorm,
    Convolution,
    Deconvolution,
    GlobalAverage,
    Linear,
    Maxout,
    MaxPool,
    Upsample,
    initialise,
)

# (weights; batch norm's width or None; activation; what leaves)
ROWS = {
    "generator_64": [
        ((16384, 100), 16384, "ReLU", (1024, 4, 4)),
        ((1024, 512, 5, 5), 512, "ReLU", (512, 8, 8)),
        ((512, 256, 5, 5), 256, "ReLU", (256, 16, 16)),
        ((256, 128, 5, 5), 128, "ReLU", (128, 32, 32)),
        ((128, 3, 5, 5), None, "Tanh", (3, 64, 64)),
    ],
    "discriminator_64": [
        ((128, 3, 5, 5), None, "LeakyReLU", (128, 32, 32)),
        ((256, 128, 5, 5), 256, "LeakyReLU", (256, 16, 16)),
        ((512, 256, 5, 5), 512, "LeakyReLU", (512, 8, 8)),
        ((1024, 512, 5, 5), 1024, "LeakyReLU", (1024, 4, 4)),
        ((1, 16384), None, None, (1,)),
    ],
    "generator_32": [
        ((8192, 256), 8192, "ReLU", (512, 4, 4)),
        ((512, 512, 3, 3), 512, "ReLU", (512, 8, 8)),
        ((512, 256, 3, 3), 256, "ReLU", (256, 8, 8)),
        ((256, 256, 3, 3), 256, "ReLU", (256, 16, 16)),
        ((256, 128, 3, 3), 128, "ReLU", (128, 16, 16)),
        ((128, 128, 3, 3), 128, "ReLU", (128, 32, 32)),
        ((128, 3, 3, 3), None, "Tanh", (3, 32, 32)),
    ],
    "discriminator_32": [
        ((128, 3, 3, 3), None, "LeakyReLU", (128, 32, 32)),
        ((128, 128, 3, 3), 128, "LeakyReLU", (128, 16, 16)),
        ((256, 128, 3, 3), 256, "LeakyReLU", (256, 16, 16)),
        ((256, 256, 3, 3), 256, "LeakyReLU", (256, 8, 8)),
        ((512, 256, 3, 3), 512, "LeakyReLU", (512, 8, 8)),
        ((512, 512, 3, 3), 512, "LeakyReLU", (512, 4, 4)),
        ((1, 8192), None, None, (1,)),
    ],
    "generator_svhn": [
        ((4096, 100), 4096, "ReLU", (256, 4, 4)),
        ((256, 128, 5, 5), 128, "ReLU", (128, 8, 8)),
        ((128, 64, 5, 5), 64, "ReLU", (64, 16, 16)),
        ((64, 3, 5, 5), None, "Tanh", (3, 32, 32)),
    ],
    "discriminator_svhn": [
        ((64, 3, 5, 5), None, "LeakyReLU", (64, 16, 16)),
        ((128, 64, 5, 5), 128, "LeakyReLU", (128, 8, 8)),
        ((256, 128, 5, 5), 256, "LeakyReLU", (256, 4, 4)),
        ((1, 4096), None, None, (1,)),
    ],
    "generator_128": [
        ((16384, 100), 16384, "ReLU", (1024, 4, 4)),
        ((1024, 512, 5, 5), 512, "ReLU", (512, 8, 8)),
        ((512, 256, 5, 5), 256, "ReLU", (256, 16, 16)),
        ((256, 128, 5, 5), 128, "ReLU", (128, 32, 32)),
        ((128, 64, 5, 5), 64, "ReLU", (64, 64, 64)),
        ((64, 3, 5, 5), None, "Tanh", (3, 128, 128)),
    ],
    "discriminator_128": [
        ((64, 3, 5, 5), None, "LeakyReLU", (64, 64, 64)),
        ((128, 64, 5, 5), 128, "LeakyReLU", (128, 32, 32)),
        ((256, 128, 5, 5), 256, "LeakyReLU", (256, 16, 16)),
        ((512, 256, 5, 5), 512, "LeakyReLU", (512, 8, 8)),
        ((1024, 512, 5, 5), 1024, "LeakyReLU", (1024, 4, 4)),
        ((1, 16384), None, None, (1,)),
    ],
}
COUNTS = {
    "generator_64": 18_885_760,
    "discriminator_64": 17_232_768,
    "generator_32": 6_690_688,
    "discriminator_32": 4_586_112,
    "generator_svhn": 1_446_976,
    "discriminator_svhn": 1_033_664,
    # 16384 x (100 + 2) + 25 x (1024 x 512 + 512 x 256 + 256 x 128 + 128 x 64 + 64 x 3) + 2 x (512 + 256 + 128 + 64)
    "generator_128": 19_085_888,
    # 25 x (64 x 3 + 128 x 64 + 256 x 128 + 512 x 256 + 1024 x 512) + 2 x (128 + 256 + 512 + 1024) + 16384
    "discriminator_128": 17_433_024,
}
Z_DIM = {"generator_64": 100, "generator_32": 256, "generator_svhn": 100, "generator_128": 100}
GENERATORS = list(Z_DIM)
DISCRIMINATORS = [name for name in ROWS if name not in Z_DIM]
ACTIVATIONS = ("ReLU", "LeakyReLU", "Maxout", "Tanh")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(7, name))


def small_integers(*shape: int, name: str) -> torch.Tensor:
    """float64 integers in -3..3: their sums of products are exact in any order."""
    return torch.randint(-3, 4, shape, generator=torch_stream(7, name)).double()


def varied(**changes: object) -> Variant:
    return dataclasses.replace(PAPER, **changes)


def side_of(name: str) -> int:
    return {"64": 64, "128": 128}.get(name.partition("_")[2], 32)


def inputs(name: str, n: int, z_dim: int = 6) -> torch.Tensor:
    shape = (n, z_dim) if name in GENERATORS else (n, 3, side_of(name), side_of(name))
    x = 2 * torch.rand(*shape, generator=torch_stream(3, name)) - 1
    return x if name in GENERATORS else x.contiguous(memory_format=torch.channels_last)


def small(name: str, variant: Variant = PAPER, std: float = 0.1) -> nn.Sequential:
    sizes = {"n": 4, "variant": variant} | ({"z_dim": 6} if name in GENERATORS else {})
    network = getattr(dcgan, name)(**sizes)
    initialise(network, std, torch_stream(5, name))
    return network


def at_full_width(name: str, variant: Variant = PAPER) -> tuple[nn.Sequential, torch.Tensor]:
    """The paper's widths and an input, without their memory."""
    with torch.device("meta"):
        network = getattr(dcgan, name)(variant=variant)
        shape = (2, Z_DIM[name]) if name in GENERATORS else (2, 3, side_of(name), side_of(name))
        return network, torch.empty(shape)


def leaving(network: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """What leaves each row."""
    found: list[torch.Tensor] = []
    hooks = [row.register_forward_hook(lambda _row, _args, out: found.append(out)) for row in network]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def kinds_of(row: nn.Sequential) -> list[str]:
    return [type(part).__name__ for part in row]


# ---- the tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table(name: str):
    network, x = at_full_width(name)
    rows = ROWS[name]
    assert [tuple(out.shape[1:]) for out in leaving(network, x)] == [row[3] for row in rows]
    for layer, (weights, width, activation, _) in zip(network, rows, strict=True):
        kinds = kinds_of(layer)
        shapes = {key.rpartition(".")[2]: tuple(value.shape) for key, value in layer.named_parameters()}
        expected = {"weight": weights} | ({"gain": (width,), "shift": (width,)} if width else {})
        assert shapes == expected, "one product, no biases, batch norm's gain and shift where the table has it"
        assert [kind for kind in kinds if kind in ACTIVATIONS] == ([activation] if activation else [])
        if width:
            assert kinds[1:3] == ["AffineBatchNorm", activation], "between the product and the activation"
        if len(weights) == 4:
            assert kinds[0] == ("Deconvolution" if name in GENERATORS else "Convolution")
        elif name in GENERATORS:
            assert kinds == ["Linear", "AffineBatchNorm", "ReLU", "Reshape"], "batch norm per unit, before the reshape"
        else:
            assert kinds == ["Flatten", "Logits"]


@pytest.mark.parametrize("name", ROWS)
def test_parameter_counts(name: str):
    network, _ = at_full_width(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]
    assert not list(network.buffers()), "no running statistics"


@pytest.mark.parametrize("name", ROWS)
def test_comments_beside_the_rows_tell_the_truth(name: str):
    function: Callable[..., nn.Module] = getattr(dcgan, name)
    comments = re.findall(r"^ {8}\w+\(.*\),  # (.+)$", inspect.getsource(function), re.MULTILINE)
    assert [tuple(map(int, comment.split(" x "))) for comment in comments] == [row[3] for row in ROWS[name]]


@pytest.mark.parametrize("name", ROWS)
def test_width_and_z_dim_are_passed_on(name: str):
    """At width 4 and z 6, every size of the table shrinks alike, but for pixels, kernels and the logit."""
    shrink = 4 / (64 if name.endswith(("svhn", "128")) else 128)
    for layer, (weights, *_) in zip(small(name), ROWS[name], strict=True):
        expected = [size if size <= 5 else round(size * shrink) for size in weights]
        if name in GENERATORS and len(weights) == 2:
            expected[1] = 6
        assert list(next(p.shape for key, p in layer.named_parameters() if key.endswith("weight"))) == expected


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_slope_of_the_leaky_units(name: str):
    slopes = [part.negative_slope for part in small(name).modules() if isinstance(part, nn.LeakyReLU)]
    assert slopes == [0.2] * (len(ROWS[name]) - 1)


def test_receptive_field_of_a_unit_of_layer_4_is_61_x_61():
    """Without batch norm, which ties every place to every other. Unit (2, 2) lies where the field is not cut off."""
    network = small("discriminator_64", varied(batch_norm="none"), std=1.0)
    x = inputs("discriminator_64", 1).requires_grad_()
    network[:4](x)[0, :, 2, 2].sum().backward()
    rows, columns = (x.grad.abs().sum(dim=(0, 1)) != 0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 62, 2, 62)


# ---- what the networks do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_outputs_are_fp32_in_their_range(name: str, bf16: bool):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = small(name)(inputs(name, 4))
    assert out.dtype == torch.float32
    if name in GENERATORS:
        assert out.shape == (4, 3, side_of(name), side_of(name))
        assert -1 < out.min() < -0.1
        assert 0.1 < out.max() < 1
    else:
        assert out.shape == (4, 1)
        assert out.min() < 0 or out.max() > 1, "logits, not probabilities"


@pytest.mark.parametrize("name", ROWS)
def test_bf16_is_close_to_fp32(name: str):
    network, x = small(name), inputs(name, 8)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x)
    apart = ((rounded - exact).norm() / exact.norm()).item()
    assert 1e-4 < apart < 0.08


@pytest.mark.parametrize("variant", [PAPER, varied(resampling="pooling")], ids=["strides", "pooling"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", ["generator_64", "discriminator_64", "generator_32", "discriminator_32", "generator_128"]
)
def test_maps_stay_in_channels_last_order(name: str, bf16: bool, variant: Variant):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        maps = [out for out in leaving(small(name, variant), inputs(name, 3)) if out.dim() == 4]
    assert len(maps) == len(ROWS[name]) - (name in DISCRIMINATORS)
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in maps)
    inner = maps[:-1] if name in GENERATORS else maps
    assert {out.dtype for out in inner} == {torch.bfloat16 if bf16 else torch.float32}


@pytest.mark.parametrize("name", ROWS)
def test_every_layer_but_the_edges_normalises_by_the_batch(name: str):
    """After batch norm, every channel (unit, on the projection) of this batch has mean ``shift`` and std ``gain``."""
    network, normed = small(name), []
    for part in network.modules():
        if isinstance(part, AffineBatchNorm):
            part.register_forward_hook(lambda part, _args, out: normed.append((part, out.double())))
    network.eval()  # changes nothing: there are no running statistics
    with torch.no_grad():
        network(inputs(name, 16))
    assert len(normed) == sum(row[1] is not None for row in ROWS[name])
    for part, out in normed:
        places = [dim for dim in range(out.dim()) if dim != 1]
        std, mean = torch.std_mean(out, dim=places, correction=0)
        torch.testing.assert_close(mean, part.shift.double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(std, part.gain.double().abs(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("pair", ["64", "32", "svhn", "128"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm": "all"},
        {"batch_norm": "none"},
        {"resampling": "pooling"},
        {"hidden": 8},
        {"global_average": True},
        {"activation": "relu"},
        {"activation": "maxout"},
        {"resampling": "pooling", "hidden": 8, "global_average": True, "activation": "maxout", "batch_norm": "all"},
    ],
    ids=["paper", "norm all", "norm none", "pooling", "hidden", "average", "relu", "maxout", "everything"],
)
def test_an_update_moves_every_parameter(pair: str, changes: dict[str, object]):
    variant, name = varied(**changes), f"generator_{pair}"
    generator, discriminator = small(name, variant), small(f"discriminator_{pair}", variant)
    z, real = inputs(name, 4), inputs(f"discriminator_{pair}", 4)
    for network, loss in (
        (
            discriminator,
            lambda: F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(generator(z))).mean(),
        ),
        (generator, lambda: F.softplus(-discriminator(generator(z))).mean()),
    ):
        before = [parameter.detach().clone() for parameter in network.parameters()]
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        adam.zero_grad()
        loss().backward()
        adam.step()
        assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
        for (key, now), then in zip(network.named_parameters(), before, strict=True):
            assert (now.detach() != then).double().mean() > 0.3, key


# ---- variants -------------------------------------------------------------------------------------------------------

EVERY_CHANGE = [
    varied(batch_norm="all"),
    varied(batch_norm="none"),
    varied(resampling="pooling"),
    varied(hidden=1024),
    varied(global_average=True),
    varied(activation="relu"),
    varied(activation="maxout"),
]


@pytest.mark.parametrize("variant", EVERY_CHANGE, ids=repr)
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_variant_leave_the_shapes_of_the_table(name: str, variant: Variant):
    network, x = at_full_width(name, variant)
    assert [tuple(out.shape[1:]) for out in leaving(network, x)] == [row[3] for row in ROWS[name]]


@pytest.mark.parametrize("name", ROWS)
def test_batch_norm_everywhere_or_nowhere(name: str):
    def normed(kind: str) -> list[bool]:
        return ["AffineBatchNorm" in kinds_of(row) for row in small(name, varied(batch_norm=kind))]

    table = [row[1] is not None for row in ROWS[name]]
    edge = len(table) - 1 if name in GENERATORS else 0
    assert normed("default") == table
    assert normed("none") == [False] * len(table)
    assert normed("all") == [has or n == edge for n, has in enumerate(table)]


@pytest.mark.parametrize("name", ROWS)
def test_pooling_in_place_of_strides(name: str):
    network = small(name, varied(resampling="pooling"))
    parts = list(network.modules())
    assert not any(isinstance(part, Deconvolution) for part in parts)
    assert {part.stride for part in parts if isinstance(part, Convolution)} == {1}
    halvings = {"64": 4, "32": 3, "svhn": 3, "128": 5}[name.partition("_")[2]]
    resampling = [part for part in parts if isinstance(part, Upsample if name in GENERATORS else MaxPool)]
    assert len(resampling) == halvings
    for row in network:
        kinds = kinds_of(row)
        assert "MaxPool" not in kinds[:-1], "the maximum is taken after the activation"
        assert "Upsample" not in kinds[1:]


@pytest.mark.parametrize("name", ROWS)
def test_a_fully_connected_hidden_layer(name: str):
    network = small(name, varied(hidden=8))
    row = network[0] if name in GENERATORS else network[-1]
    units = 4 * {"64": 8, "32": 4, "svhn": 4, "128": 16}[name.partition("_")[2]] * 16
    shapes = [tuple(part.weight.shape) for part in row if isinstance(part, Linear)]
    assert shapes == ([(8, 6), (units, 8)] if name in GENERATORS else [(8, units), (1, 8)])
    kinds = [kind for kind in kinds_of(row) if kind not in ("Flatten", "Reshape", "Logits")]
    assert kinds[:3] == ["Linear", "AffineBatchNorm", "ReLU" if name in GENERATORS else "LeakyReLU"]
    both = small(name, varied(hidden=8, activation="maxout"))
    assert [len(row) for row in network] == [len(row) for row in both]


def test_global_average_in_place_of_flattening():
    network = small("discriminator_64", varied(global_average=True))
    assert kinds_of(network[-1]) == ["GlobalAverage", "Logits"]
    assert network[-1][1].weight.shape == (1, 32)
    maps = noise(2, 32, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(network[-1](maps), maps.mean(dim=(2, 3)) @ network[-1][1].weight.T)


def test_activations_of_d():
    def of(activation: str) -> list[str]:
        network = small("discriminator_svhn", varied(activation=activation))
        return [kind for row in network for kind in kinds_of(row) if kind in ACTIVATIONS]

    assert of("leaky_relu") == ["LeakyReLU"] * 3
    assert of("relu") == ["ReLU"] * 3
    assert of("maxout") == ["Maxout"] * 3
    maxout = small("discriminator_svhn", varied(activation="maxout"))
    assert [p.shape[0] for key, p in maxout.named_parameters() if key.endswith("0.weight")] == [8, 16, 32]
    for name in GENERATORS:
        rows = zip(small(name), small(name, varied(activation="maxout")), strict=True)
        assert all(kinds_of(a) == kinds_of(b) for a, b in rows), "G keeps ReLU"


def test_variants_are_strict_params(tmp_path):
    file = tmp_path / "params.yaml"
    text = "v: {batch_norm: default, resampling: strides, hidden: 0, global_average: false, activation: leaky_relu}\n"
    file.write_text(text)
    assert params.load(file, Variant, own="v") == PAPER
    for wrong in (("leaky_relu", "tanh"), ("hidden: 0", "hidden: -1"), ("strides", "dilation"), ("default", "some")):
        file.write_text(text.replace(*wrong))
        with pytest.raises(InputError, match=r"params\.yaml, v"):
            params.load(file, Variant, own="v")


# ---- images ---------------------------------------------------------------------------------------------------------


def test_images_become_numbers_between_minus_1_and_1_and_come_back():
    images = np.arange(256, dtype=np.uint8).reshape(2, 8, 8, 2).repeat(2, axis=3)[..., :3]
    signed = to_signed(images)
    assert signed.shape == (2, 3, 8, 8)
    assert signed.dtype == torch.float32
    assert signed.is_contiguous(memory_format=torch.channels_last)
    expected = images.astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(signed.numpy(), expected, atol=2e-7)
    assert signed.min() == -1
    np.testing.assert_array_equal(from_signed(signed), images)
    np.testing.assert_array_equal(from_signed(torch.full((1, 3, 2, 2), 1.0)), np.full((1, 2, 2, 3), 255))


def test_from_signed_leaves_its_input_alone():
    images = noise(1, 3, 2, 2).tanh()
    before = images.clone()
    from_signed(images)
    assert torch.equal(images, before)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def normalised_slowly(x: np.ndarray, gain: np.ndarray, shift: np.ndarray, eps: float) -> np.ndarray:
    """gain * (x - mean) / sqrt(biased variance + eps) + shift, by a double loop in Python floats."""
    out = np.empty(x.shape, dtype=np.float64)
    for channel in range(x.shape[1]):
        values = [float(v) for v in x[:, channel].ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        for place, value in np.ndenumerate(x[:, channel]):
            normal = (float(value) - mean) / math.sqrt(variance + eps)
            out[(place[0], channel, *place[1:])] = gain[channel] * normal + shift[channel]
    return out


def affine(n: int) -> tuple[AffineBatchNorm, np.ndarray, np.ndarray]:
    layer, gain, shift = AffineBatchNorm(n), 1 + noise(n, name="gain"), noise(n, name="shift")
    with torch.no_grad():
        layer.gain.copy_(gain)
        layer.shift.copy_(shift)
    return layer, gain.double().numpy(), shift.double().numpy()


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 3)], ids=["units", "maps"])
@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["plain", "variance as small as eps"])
def test_batch_norm_equals_a_double_loop(shape: tuple[int, ...], spread: float):
    layer, gain, shift = affine(shape[1])
    x = spread * noise(*shape)
    expected = normalised_slowly(x.numpy(), gain, shift, eps=1e-8)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    apart = np.abs(expected - normalised_slowly(x.numpy(), gain, shift, eps=1e-5)).max()
    assert (apart > 0.1) == (spread < 1), "the small spread must tell 1e-8 from 1e-5"


def test_batch_norm_of_bf16_uses_the_larger_eps():
    layer, gain, shift = affine(4)
    x = (0.003 * noise(8, 4)).bfloat16()  # variance about 1e-5
    got = layer(x)
    assert got.dtype == torch.bfloat16
    expected = normalised_slowly(x.float().numpy(), gain, shift, eps=1e-5)
    np.testing.assert_allclose(got.detach().float().numpy(), expected, rtol=0.01, atol=0.02)
    assert np.abs(expected - normalised_slowly(x.float().numpy(), gain, shift, eps=1e-8)).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("offset", "spread"), [(0.3, 1.0), (5.0, 0.1), (0.0, 1e-3)])
def test_moments_are_means_and_biased_variances(dtype: torch.dtype, offset: float, spread: float):
    layer, _, _ = affine(3)
    x = (offset + spread * noise(4, 3, 2, 2)).to(dtype)
    with torch.no_grad():
        y, mean, variance = layer.with_moments(x)
        assert torch.equal(y, layer(x))
    assert y.dtype == dtype
    assert mean.dtype == variance.dtype == torch.float32
    values = x.double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(mean.numpy(), values.mean(axis=1), rtol=1e-5, atol=1e-6 * spread)
    np.testing.assert_allclose(variance.numpy(), values.var(axis=1, ddof=0), rtol=1e-4, atol=1e-11)


def test_a_channel_without_variance_has_none():
    layer, _, _ = affine(2)
    _, mean, variance = layer.with_moments(torch.full((4, 2, 3, 3), 2.5))
    assert mean.tolist() == [2.5, 2.5]
    assert variance.tolist() == pytest.approx([0, 0], abs=1e-14)


def convolved_slowly(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """out[o, i, j] = sum over c, u, v of x[c, s i + u - p, s j + v - p] * weight[o, c, u, v], p = k // 2."""
    n, _, height, width = x.shape
    pad = weight.shape[-1] // 2
    out = np.zeros((n, len(weight), height // stride, width // stride))
    for image, o, i, j in np.ndindex(out.shape):
        for c, u, v in np.ndindex(weight.shape[1:]):
            row, column = stride * i + u - pad, stride * j + v - pad
            if 0 <= row < height and 0 <= column < width:
                out[image, o, i, j] += x[image, c, row, column] * weight[o, c, u, v]
    return out


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_convolution_equals_a_slow_loop_and_deconvolution_is_its_transpose(kernel: int, stride: int):
    x, weight = small_integers(2, 3, 4, 8, name="x"), small_integers(2, 3, kernel, kernel, name="w")
    down = Convolution(3, 2, kernel=kernel, stride=stride).double()
    up = Deconvolution(2, 3, kernel=kernel, stride=stride).double()
    y = small_integers(2, 2, 4 // stride, 8 // stride, name="y")
    with torch.no_grad():
        down.weight.copy_(weight)
        up.weight.copy_(weight)
        np.testing.assert_array_equal(down(x).numpy(), convolved_slowly(x.numpy(), weight.numpy(), stride))
        assert up(y).shape == x.shape, "exactly stride times the side"
        assert (down(x) * y).sum().item() == (x * up(y)).sum().item() != 0


def test_max_pool_and_its_gradient():
    x = noise(2, 3, 4, 6).requires_grad_()
    got, expected = MaxPool()(x), F.max_pool2d(x, 2)
    assert torch.equal(got, expected)
    weights = noise(2, 3, 2, 3, name="weights")
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (got, expected)]
    assert torch.equal(*gradients)


def test_upsampling_repeats_every_place():
    x = noise(2, 3, 2, 3)
    assert torch.equal(Upsample()(x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_maxout_and_global_average():
    for x in (noise(2, 6), noise(2, 6, 2, 2)):
        got = Maxout()(x)
        assert got.shape == (2, 3, *x.shape[2:])
        for channel in range(3):
            assert torch.equal(got[:, channel], torch.maximum(x[:, channel], x[:, channel + 3]))
    maps = noise(2, 3, 4, 4).bfloat16()
    average = GlobalAverage()(maps)
    assert average.dtype == torch.float32
    np.testing.assert_allclose(average.numpy(), maps.double().mean(dim=(2, 3)).numpy(), rtol=1e-5, atol=1e-6)


# ---- initial parameters ---------------------------------------------------------------------------------------------


def test_the_output_without_tanh_is_what_tanh_is_taken_of():
    bounded, linear = dcgan.generator_svhn(z_dim=5, n=2), dcgan.generator_svhn_linear(z_dim=5, n=2)
    for network in (bounded, linear):
        initialise(network, 1.0, torch_stream(1, "initial"))  # wide: beyond what tanh lets through
    z = torch.randn(3, 5, generator=torch_stream(2, "z"))
    with torch.no_grad():
        pixels = linear(z)
        assert pixels.dtype == torch.float32
        assert pixels.abs().max() > 1.5
        torch.testing.assert_close(torch.tanh(pixels), bounded(z))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(z).dtype == torch.float32


def test_initial_weights_gains_and_shifts():
    network = dcgan.generator_svhn(n=16)
    initialise(network, 0.02, torch_stream(1, "initial"))
    parameters = dict(network.named_parameters())
    drawn = {"weight": (0.0, []), "gain": (1.0, [])}
    for name, parameter in parameters.items():
        kind = name.rpartition(".")[2]
        if kind == "shift":
            assert (parameter == 0).all()
        else:
            drawn[kind][1].append(parameter.detach().flatten())
    for mean, parts in drawn.values():
        values = torch.cat(parts).double()
        n = len(values)
        assert values.mean().item() == pytest.approx(mean, abs=4 * 0.02 / math.sqrt(n))
        assert values.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(2 * n))
        within = ((values - mean).abs() < 0.02).double().mean().item()
        assert within == pytest.approx(math.erf(math.sqrt(0.5)), abs=2 / math.sqrt(n)), "normal, not uniform"
    again, other = dcgan.generator_svhn(n=16), dcgan.generator_svhn(n=16)
    initialise(again, 0.02, torch_stream(1, "initial"))
    initialise(other, 0.02, torch_stream(2, "initial"))
    assert all(torch.equal(value, parameters[name]) for name, value in again.named_parameters())
    assert not torch.equal(other[0][0].weight, network[0][0].weight)


def test_networks_without_gains_are_drawn_as_ever():
    """Every parameter from one stream, in order: published models of the MNIST networks depend on it."""
    network = mnist.dcgan_generator(z_dim=6, n=4, hidden=16)
    initialise(network, 0.02, torch_stream(1, "initial"))
    stream = torch_stream(1, "initial")
    for parameter in network.parameters():
        assert torch.equal(parameter, torch.empty(parameter.shape).normal_(0.0, 0.02, generator=stream))
