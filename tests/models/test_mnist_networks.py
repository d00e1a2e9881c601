"""The MNIST networks, row by row, against the tables of DCGAN's appendix and of its permutation-invariant baseline."""

import inspect
import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.core.seeding import torch_stream
from pipeline.models import mnist
from pipeline.models.build import MnistArchitecture, build_discriminator, build_generator
from pipeline.models.layers import BatchNorm, Down, Linear, Reshape, Up, initialise

# (what enters, the labels included; weights; batch norm; activation; what leaves)
ROWS = {
    "dcgan_generator": [
        ((110,), (1024, 110), True, "ReLU", (1024,)),
        ((1034,), (6272, 1034), True, "ReLU", (128, 7, 7)),
        ((138, 7, 7), (138, 64, 5, 5), True, "ReLU", (64, 14, 14)),
        ((74, 14, 14), (74, 1, 5, 5), False, "Pixels", (1, 28, 28)),
    ],
    "dcgan_discriminator": [
        ((11, 28, 28), (64, 11, 5, 5), False, "LeakyReLU", (64, 14, 14)),
        ((74, 14, 14), (128, 74, 5, 5), True, "LeakyReLU", (6272,)),
        ((6282,), (1024, 6282), True, "LeakyReLU", (1024,)),
        ((1034,), (1, 1034), False, None, (1,)),
    ],
    "gan_generator": [
        ((110,), (1024, 110), True, "ReLU", (1024,)),
        ((1034,), (1024, 1034), True, "ReLU", (1024,)),
        ((1034,), (784, 1034), False, "Pixels", (1, 28, 28)),
    ],
    "gan_discriminator": [
        ((794,), (1024, 794), False, "LeakyReLU", (1024,)),
        ((1034,), (1024, 1034), True, "LeakyReLU", (1024,)),
        ((1034,), (1, 1034), False, None, (1,)),
    ],
}
GENERATORS = ["dcgan_generator", "gan_generator"]
DISCRIMINATORS = ["dcgan_discriminator", "gan_discriminator"]


def inputs(name: str, n: int = 4, z_dim: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch_stream(3, name)
    shape = (n, z_dim) if name in GENERATORS else (n, 1, 28, 28)
    x = torch.rand(*shape, generator=stream)
    return (2 * x - 1 if name in GENERATORS else x), torch.eye(10)[torch.arange(n) % 10]


def small(name: str) -> nn.Module:
    sizes = {"hidden": 16} | ({"n": 4} if "dcgan" in name else {}) | ({"z_dim": 6} if name in GENERATORS else {})
    network = getattr(mnist, name)(**sizes)
    initialise(network, 0.2, torch_stream(5, name))
    return network


def small_inputs(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs(name, z_dim=6)


def traced(name: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], nn.Module]:
    """Shapes that enter and leave each row of the network, at the paper's widths."""
    network = getattr(mnist, name)()
    initialise(network, 0.02, torch_stream(5, name))
    entering: list[tuple[int, ...]] = []
    leaving: list[tuple[int, ...]] = []
    for layer in network.layers:
        layer.register_forward_pre_hook(lambda _layer, args: entering.append(tuple(args[0].shape[1:])))
        layer.register_forward_hook(lambda _layer, _args, out: leaving.append(tuple(out.shape[1:])))
    with torch.no_grad():
        network(*inputs(name))
    return entering, leaving, network


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table(name: str):
    rows = ROWS[name]
    entering, leaving, network = traced(name)
    assert entering == [row[0] for row in rows]
    assert leaving == [row[4] for row in rows]
    assert [tuple(weight.shape) for weight in network.parameters()] == [row[1] for row in rows]
    for layer, (_, shape, has_batch_norm, activation, _) in zip(network.layers, rows, strict=True):
        kinds = [type(part).__name__ for part in layer] if isinstance(layer, nn.Sequential) else [type(layer).__name__]
        assert ("BatchNorm" in kinds) == has_batch_norm
        order = [kind for kind in kinds if kind in ("ReLU", "LeakyReLU", "Pixels")]
        assert order == ([activation] if activation else [])
        if has_batch_norm:
            assert kinds[1:3] == ["BatchNorm", activation], "batch norm comes between the product and the activation"
        product = layer[0] if isinstance(layer, nn.Sequential) else layer
        kind = Linear if len(shape) == 2 else Up if "generator" in name else Down
        assert isinstance(product, (kind, mnist.Logits))


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_slope_of_the_leaky_units(name: str):
    leaky = [part for part in getattr(mnist, name)().modules() if isinstance(part, nn.LeakyReLU)]
    assert [part.negative_slope for part in leaky] == [0.2] * (3 if name == "dcgan_discriminator" else 2)


@pytest.mark.parametrize(("name", "count"), [("dcgan_generator", 6_820_538), ("dcgan_discriminator", 6_688_202)])
def test_parameter_counts(name: str, count: int):
    network = getattr(mnist, name)()
    assert len(list(network.parameters())) == 4
    assert sum(weight.numel() for weight in network.parameters()) == count


@pytest.mark.parametrize("name", ROWS)
def test_weights_are_all_there_is_to_a_network(name: str):
    network = getattr(mnist, name)()
    assert [key.rpartition(".")[2] for key in network.state_dict()] == ["weight"] * len(ROWS[name])
    assert not list(network.buffers())


@pytest.mark.parametrize("name", ROWS)
def test_affine_networks_are_the_same_rows_with_a_gain_and_a_shift(name: str):
    """At gain 1 and shift 0 they give what the networks without give; otherwise they do not."""
    sizes = {"hidden": 16} | ({"n": 4} if "dcgan" in name else {}) | ({"z_dim": 6} if name in GENERATORS else {})
    network, plain = getattr(mnist, name)(**sizes, affine=True), small(name)
    names = [key.rpartition(".")[2] for key in network.state_dict()]
    assert names.count("gain") == names.count("shift") == sum(row[2] for row in ROWS[name])
    assert names.count("weight") == len(ROWS[name])
    weights = iter(plain.parameters())
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            kind = key.rpartition(".")[2]
            parameter.copy_(next(weights) if kind == "weight" else torch.tensor(1.0 if kind == "gain" else 0.0))
        x, y = small_inputs(name)
        expected = plain(x, y)
        assert torch.equal(network(x, y), expected)
        for key, parameter in network.named_parameters():
            if key.endswith("shift"):
                parameter.add_(0.5)
        assert (network(x, y) - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ROWS)
def test_comments_beside_the_rows_tell_the_truth(name: str):
    function: Callable[..., nn.Module] = getattr(mnist, name)
    comments = re.findall(r"^\s+(?:nn\.Sequential|Logits)\(.*\),  # (.+)$", inspect.getsource(function), re.MULTILINE)
    network = function()
    flattened: list[tuple[int, ...]] = []
    for part in network.modules():
        if type(part).__name__ == "Flatten":
            part.register_forward_hook(lambda _part, args, _out: flattened.append(tuple(args[0].shape[1:])))
    leaving: list[tuple[int, ...]] = []
    for layer in network.layers:
        layer.register_forward_hook(lambda _layer, _args, out: leaving.append(tuple(out.shape[1:])))
    initialise(network, 0.02, torch_stream(5, name))
    with torch.no_grad():
        network(*inputs(name))
    assert len(comments) == len(leaving) == len(ROWS[name])
    for comment, shape in zip(comments, leaving, strict=True):
        maps, _, units = comment.partition(" = ")
        said = tuple(int(size) for size in maps.split(" x "))
        if units:  # maps, then what they become when flattened
            assert flattened == [said]
            assert shape == (int(units),)
        elif len(said) == 1:
            assert math.prod(shape) == said[0]
        else:
            assert shape == said


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_generators_give_fp32_pixels_between_0_and_1(name: str, precision: torch.dtype):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        images = small(name)(*small_inputs(name))
    assert images.shape == (4, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 < images.min() < 0.45
    assert 0.55 < images.max() < 1


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_discriminators_give_fp32_logits(name: str, precision: torch.dtype):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = small(name)(*small_inputs(name))
    assert logits.shape == (4, 1)
    assert logits.dtype == torch.float32
    assert logits.min() < 0 or logits.max() > 1, "logits, not probabilities"


def test_gan_discriminator_does_not_know_where_a_pixel_lies():
    """Pixels and the columns of the first weight permuted alike: the same logits. Pixels alone: other logits."""
    network = small("gan_discriminator")
    x, y = small_inputs("gan_discriminator")
    order = torch.randperm(784, generator=torch_stream(3, "order"))
    shuffled = x.flatten(1)[:, order].reshape(x.shape)
    with torch.no_grad():
        logits, of_shuffled = network(x, y), network(shuffled, y)
        weight = next(network.parameters())
        weight[:, :784] = weight[:, :784][:, order].clone()
        torch.testing.assert_close(network(shuffled, y), logits, rtol=1e-4, atol=1e-4)
    assert (of_shuffled - logits).abs().max() > 0.01


@pytest.mark.parametrize("name", ROWS)
def test_the_label_enters_every_layer(name: str):
    """Cut the label out of all layers but one: the output still follows it."""
    x, y = small_inputs(name)
    other = y.roll(3, dims=1)
    for kept in range(len(ROWS[name])):
        network = small(name)
        with torch.no_grad():
            for number, weight in enumerate(network.parameters()):
                if number == kept:
                    continue
                if weight.dim() == 4 and "generator" in name:
                    weight[-10:] = 0
                else:
                    weight[:, -10:] = 0
            changed = (network(x, y) - network(x, other)).abs().max()
        assert changed > 1e-4, f"row {kept}"


@pytest.mark.parametrize("name", ROWS)
def test_the_output_depends_on_the_batch_mates(name: str):
    network = small(name)
    x, y = small_inputs(name)
    mates = x.clone()
    mates[1:] = x[1:].flip(0) * 0.3
    with torch.no_grad():
        together, elsewhere = network(x, y)[0], network(mates, y)[0]
        order = torch.tensor([0, 3, 1, 2])
        reordered = network(x[order], y[order])[0]
    assert (together - elsewhere).abs().max() > 1e-3
    torch.testing.assert_close(reordered, together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "filters"), [("dcgan_mnist", 64), ("gan_mnist", 0)])
def test_build_gives_the_networks_of_the_architecture(name: str, filters: int):
    architecture = MnistArchitecture(name=name, z_dim=100, filters=filters, hidden=1024)
    prefix = name.removesuffix("mnist")
    for network, rows in (
        (build_generator(architecture), ROWS[f"{prefix}generator"]),
        (build_discriminator(architecture), ROWS[f"{prefix}discriminator"]),
    ):
        assert [tuple(weight.shape) for weight in network.parameters()] == [row[1] for row in rows]


def test_build_passes_every_width_on():
    architecture = MnistArchitecture(name="dcgan_mnist", z_dim=6, filters=4, hidden=16)
    shapes = [tuple(weight.shape) for weight in build_generator(architecture).parameters()]
    assert shapes == [(16, 16), (392, 26), (18, 4, 5, 5), (14, 1, 5, 5)]
    assert any(isinstance(part, Reshape) for part in build_generator(architecture).modules())
    shapes = [tuple(weight.shape) for weight in build_discriminator(architecture).parameters()]
    assert shapes == [(4, 11, 5, 5), (8, 14, 5, 5), (16, 402), (1, 26)]
    fully_connected = MnistArchitecture(name="gan_mnist", z_dim=6, filters=0, hidden=16)
    shapes = [tuple(weight.shape) for weight in build_generator(fully_connected).parameters()]
    assert shapes == [(16, 16), (16, 26), (784, 26)]
    assert not any(isinstance(part, BatchNorm) for part in build_generator(fully_connected).layers[-1].modules())
