"""Improved GAN's networks, row by row, against the tables of the authors' code; a seed of a batch against it alone."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.seeding import torch_stream
from pipeline.models import improved
from pipeline.models.improved import (
    Architecture,
    Crop,
    Discriminator,
    MinibatchArchitecture,
    SemisupArchitecture,
    build_discriminator,
    build_generator,
    draw_z,
    image_shape,
    initialise_discriminator,
    initialise_generator,
    settings_of,
)
from pipeline.models.improved_layers import (
    Deconvolution,
    Dropout,
    GaussianNoise,
    GeneratorBatchNorm,
    Linear,
    MinibatchDiscrimination,
    Noise,
    VirtualBatchNorm,
    WeightNorm,
    WeightNormConvolution,
    WeightNormLinear,
    at_least_fp32,
    set_noise,
)

UP = [(512, 4, 4), (256, 8, 8), (128, 16, 16)]
DOWN = [
    *[(96, 32, 32), (96, 32, 32), (96, 16, 16), (96, 16, 16)],
    *[(192, 16, 16), (192, 16, 16), (192, 8, 8), (192, 8, 8)],
    *[(192, 6, 6), (192, 6, 6), (192, 6, 6), (192,)],
]
# what leaves each row: of G, of D up to the features, of D from there
ROWS = {
    "semisup_mnist": (
        [(500,), (500,), (1, 28, 28)],
        [(784,), (784,), *[(n,) for n in (1000, 1000, 500, 500, 250, 250, 250, 250, 250)]],
        [(250,), (10,)],
    ),
    "semisup_conv": ([*UP, (3, 32, 32)], [(3, 32, 32), *DOWN], [(10,)]),
    "minibatch_conv": ([*UP, (3, 32, 32)], [(3, 32, 32), *DOWN], [(292,), (10,)]),
    "minibatch_mnist": ([*UP, (1, 28, 28)], [(1, 28, 28), *DOWN], [(292,), (10,)]),
}
# of D, in order: Gaussian noise and its std, dropout and its probability
NOISE = {
    "semisup_mnist": [("noise", 0.3), *[("noise", 0.5)] * 5],
    "semisup_conv": [("dropout", 0.2), ("dropout", 0.5), ("dropout", 0.5)],
    "minibatch_conv": [("noise", 0.2), ("dropout", 0.5), ("dropout", 0.5)],
    "minibatch_mnist": [("noise", 0.2), ("dropout", 0.5), ("dropout", 0.5)],
}
# (kernel, stride, padding) of D's convolutions
CONVOLUTIONS = [(3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 0), (1, 1, 0), (1, 1, 0)]
COUNTS = {
    "semisup_mnist": (694_568, 1_538_770),
    "semisup_conv": (4_933_382, 1_406_804),
    # 100 x 5 directions of 192 and their scales, 100 offsets, 10 x 100 weights more than above
    "minibatch_conv": (4_933_382, 1_406_804 + 192 * 500 + 500 + 100 + 1_000),
    # one channel of pixels instead of three: kernels, and G's scale and bias of each channel
    "minibatch_mnist": (4_933_382 - 2 * (128 * 25 + 2), 1_504_404 - 2 * 9 * 96),
}
FULL_WIDTHS = {"semisup_mnist": (500, 250)} | dict.fromkeys(
    ["semisup_conv", "minibatch_conv", "minibatch_mnist"], (128, 96)
)
NAMES = list(ROWS)
by_name = pytest.mark.parametrize("name", NAMES)
SEEDS = [4, 7, 9]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def architecture(name: str, *, full: bool = False, **changes: object) -> Architecture:
    widths = FULL_WIDTHS[name] if full else (4, 4)
    fields = {"name": name, "preset": "current", "z_dim": 100 if full else 6}
    fields |= {"generator_width": widths[0], "discriminator_width": widths[1]}
    fields |= {"weight_norm": True, "data_dependent": True, "noise": True, "reference_batch": 0}
    if name.startswith("minibatch"):
        kernels = (100, 5) if full else (3, 2)
        return MinibatchArchitecture(**fields | {"n_kernels": kernels[0], "kernel_dim": kernels[1]} | changes)
    return SemisupArchitecture(**fields | changes)


def streams(seeds: list[int], name: str) -> list[torch.Generator]:
    return [torch_stream(seed, name) for seed in seeds]


def images_of(a: Architecture, seeds: list[int], n: int, name: str = "images") -> torch.Tensor:
    """Pictures in the range of G's output that are neither alike nor flat."""
    x = torch.stack([torch.rand(n, *image_shape(a), generator=stream) for stream in streams(seeds, name)])
    x = x * torch.linspace(0.5, 1.0, n).view(1, n, 1, 1, 1)
    return x if image_shape(a)[0] == 1 else 2 * x - 1


def initialised(a: Architecture, seeds: list[int], n: int = 12) -> tuple[nn.Sequential, Discriminator]:
    generator, discriminator = build_generator(a, len(seeds)), build_discriminator(a, len(seeds))
    initialise_generator(a, generator, streams(seeds, "g"), n_z=n)
    initialise_discriminator(a, discriminator, images_of(a, seeds, n), streams(seeds, "d"))
    return generator, discriminator


def at_full_width(name: str, n_seeds: int = 1) -> tuple[nn.Sequential, Discriminator]:
    """The authors' widths, without their memory."""
    a = architecture(name, full=True)
    with torch.device("meta"):
        return build_generator(a, n_seeds).eval(), build_discriminator(a, n_seeds).eval()


def leaving(network: nn.Module, rows: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """What leaves the rows when x enters the network."""
    found: list[torch.Tensor] = []
    hooks = [row.register_forward_hook(lambda _row, _args, out: found.append(out)) for row in rows]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def parts(network: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, kinds)]


def is_trained(layer: nn.Module, name: str) -> bool:
    return name in dict(layer.named_parameters())


# ---- the tables -----------------------------------------------------------------------------------------------------


@by_name
def test_every_row_of_the_tables(name: str):
    generator, discriminator = at_full_width(name, n_seeds=2)
    of_g, to_features, to_logits = ROWS[name]
    z = torch.empty(2, 3, 100, device="meta")
    images = torch.empty(2, 3, *image_shape(architecture(name)), device="meta")
    for network, rows, x, shapes in (
        (generator, list(generator), z, of_g),
        (discriminator, list(discriminator.to_features), images, to_features),
        (discriminator, list(discriminator.to_logits), images, to_logits),
    ):
        assert [tuple(out.shape) for out in leaving(network, rows, x)] == [(2, 3, *shape) for shape in shapes]


@by_name
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_parameter_counts(name: str, n_seeds: int):
    """Those of the fact sheet, for every seed."""
    found = tuple(sum(p.numel() for p in network.parameters()) for network in at_full_width(name, n_seeds))
    assert found == tuple(n_seeds * count for count in COUNTS[name])


def test_parameter_count_of_the_narrower_discriminator_for_svhn():
    with torch.device("meta"):
        discriminator = build_discriminator(architecture("semisup_conv", full=True, discriminator_width=64), 1)
    assert sum(p.numel() for p in discriminator.parameters()) == 626_580


@by_name
def test_scales_are_trained_in_the_output_layers_only(name: str):
    for network in at_full_width(name):
        layers = parts(network, WeightNorm)
        assert [is_trained(layer, "scale") for layer in layers] == [False] * (len(layers) - 1) + [True]
        assert all(is_trained(layer, "direction") and is_trained(layer, "bias") for layer in layers)
        for layer in parts(network, Linear, Deconvolution, GeneratorBatchNorm):
            assert len(list(layer.parameters())) == 1, "weights without bias, a shift without gain"


@by_name
def test_layers_inside_the_rows(name: str):
    generator, discriminator = at_full_width(name)
    kinds = [[type(part).__name__ for part in row] for row in generator]
    if name == "semisup_mnist":
        assert kinds[:2] == [["Linear", "GeneratorBatchNorm", "Softplus"]] * 2
        assert kinds[2][:2] == ["WeightNormLinear", "Pixels"]
    else:
        assert kinds[0] == ["Linear", "GeneratorBatchNorm", "ReLU", "Unflatten"], "batch norm per unit"
        assert kinds[1:3] == [["Deconvolution", "GeneratorBatchNorm", "ReLU"]] * 2
        assert kinds[3] == ["WeightNormDeconvolution", *(["Tanh"] if name.endswith("conv") else ["Crop", "Pixels"])]
    hidden = [row for row in discriminator.to_features if isinstance(row, nn.Sequential)]
    activation = nn.ReLU if name == "semisup_mnist" else nn.LeakyReLU
    assert len(hidden) == (5 if name == "semisup_mnist" else 9)
    assert all(isinstance(row[0], WeightNorm) and isinstance(row[1], activation) and len(row) == 2 for row in hidden)


@by_name
def test_noise_and_dropout_in_order(name: str):
    _, discriminator = at_full_width(name)
    found = [
        ("noise" if isinstance(part, GaussianNoise) else "dropout", part.amount)
        for part in parts(discriminator, GaussianNoise, Dropout)
    ]
    assert found == NOISE[name]


@pytest.mark.parametrize("name", NAMES[1:])
def test_kernels_strides_and_paddings(name: str):
    _, discriminator = at_full_width(name)
    found = [(c.direction.shape[-1], c.stride, c.padding) for c in parts(discriminator, WeightNormConvolution)]
    first = (3, 1, 3 if name == "minibatch_mnist" else 1)
    assert found == [first, *CONVOLUTIONS[1:]]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        ("mnist_generator", ROWS["semisup_mnist"][0]),
        ("conv_generator", ROWS["semisup_conv"][0]),
        ("mnist_conv_generator", ROWS["minibatch_mnist"][0]),
        ("mnist_discriminator", ROWS["semisup_mnist"][1] + ROWS["semisup_mnist"][2]),
        ("conv_features", ROWS["semisup_conv"][1]),
        ("conv_discriminator", ROWS["semisup_conv"][2]),
        ("minibatch_discriminator", ROWS["minibatch_conv"][2]),
        ("mnist_minibatch_discriminator", ROWS["minibatch_mnist"][2]),
    ],
)
def test_comments_beside_the_rows_tell_the_truth(function: str, shapes: list[tuple[int, ...]]):
    source = inspect.getsource(getattr(improved, function))
    comments = re.findall(r"^ {8,12}\*?[\w.]+(?:\(.*\))?,  # (.+)$", source, re.MULTILINE)
    assert [tuple(map(int, comment.split(" x "))) for comment in comments] == shapes


@by_name
def test_widths_are_passed_on(name: str):
    """At widths of 4 the rows of the tables shrink alike, but for pixels, classes and kernels."""
    generator, discriminator = initialised(architecture(name), [0])
    widths = FULL_WIDTHS[name]
    of_g, to_features, _ = ROWS[name]
    z = draw_z(architecture(name), 2, streams([0], "z"))
    images = images_of(architecture(name), [0], 2)
    for network, rows, x, shapes, width in (
        (generator, list(generator)[:-1], z, of_g[:-1], widths[0]),
        (discriminator, list(discriminator.to_features)[2:], images, to_features[2:], widths[1]),
    ):
        expected = [(1, 2, shape[0] * 4 // width, *shape[1:]) for shape in shapes]
        assert [tuple(out.shape) for out in leaving(network, rows, x)] == expected
    assert generator[0][0].weight.shape[1] == 6, "z_dim"


# ---- what the networks do -------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_outputs_are_fp32_in_their_range(name: str, bf16: bool):
    a = architecture(name)
    generator, discriminator = initialised(a, SEEDS)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        images = generator(draw_z(a, 5, streams(SEEDS, "z")))
        features, logits = discriminator(images)
    assert images.shape == (3, 5, *image_shape(a))
    assert logits.shape == (3, 5, 10)
    assert features.shape == (3, 5, 4 if name == "semisup_mnist" else 8)
    assert {images.dtype, features.dtype, logits.dtype} == {torch.float32}
    low = -1 if name.endswith("conv") else 0
    assert low < images.min() < images.max() < 1
    assert logits.min() < 0 < logits.max(), "logits, not probabilities"


@by_name
def test_bf16_is_close_to_fp32(name: str):
    a = architecture(name)
    generator, discriminator = initialised(a, SEEDS)
    z, images = draw_z(a, 8, streams(SEEDS, "z")), images_of(a, SEEDS, 8)
    discriminator.eval()
    with torch.no_grad():
        exact = [generator(z), *discriminator(images)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = [generator(z), *discriminator(images)]
    for wanted, found in zip(exact, rounded, strict=True):
        assert 1e-5 < ((found - wanted).norm() / wanted.norm()).item() < 0.1


@by_name
def test_features_are_what_the_last_rows_see_without_their_noise(name: str):
    """MNIST: the last hidden layer after its ReLU and before its noise; conv: after the pooling."""
    a = architecture(name)
    _, discriminator = initialised(a, SEEDS)
    set_noise(discriminator, streams(SEEDS, "noise"))
    x = images_of(a, SEEDS, 5)
    last = discriminator.to_features[-1]
    seen: list[torch.Tensor] = []
    last.register_forward_hook(lambda _row, _args, out: seen.append(out))
    entering: list[torch.Tensor] = []
    discriminator.to_logits[-1].register_forward_pre_hook(lambda _row, args: entering.append(args[0]))
    features, _ = discriminator(x)
    assert torch.equal(features, seen[0])
    if name == "semisup_mnist":
        assert features.min() == 0, "after the ReLU"
        noise = (entering[0] - features).std().item()
        assert noise == pytest.approx(0.5, rel=0.3), "before the noise"
    elif name == "semisup_conv":
        assert torch.equal(entering[0], features)
    else:
        torch.testing.assert_close(entering[0][..., :8], features, rtol=0, atol=0)
    discriminator.eval()
    features, logits = discriminator(x)
    torch.testing.assert_close(discriminator.to_logits(features), logits, rtol=0, atol=0)


@by_name
def test_noise_is_drawn_anew_in_training_and_is_off_in_evaluation(name: str):
    a = architecture(name)
    _, discriminator = initialised(a, SEEDS)
    x = images_of(a, SEEDS, 5)
    set_noise(discriminator, streams(SEEDS, "noise"))
    with torch.no_grad():
        first, second = discriminator(x).logits, discriminator(x).logits
        set_noise(discriminator, streams(SEEDS, "noise"))
        again = discriminator(x).logits
        discriminator.eval()
        left = streams(SEEDS, "noise")
        before = [stream.get_state() for stream in left]
        set_noise(discriminator, left)
        quiet = [discriminator(x).logits for _ in range(2)]
    assert (first - second).abs().amin(dim=(1, 2)).min() > 0, "independent draws for each pass and seed"
    assert torch.equal(first, again), "the same draws from the same streams"
    assert torch.equal(quiet[0], quiet[1])
    assert (first - quiet[0]).abs().max() > 1e-3
    assert all(torch.equal(stream.get_state(), state) for stream, state in zip(left, before, strict=True))


@by_name
def test_only_minibatch_discrimination_lets_an_output_depend_on_its_batch(name: str):
    a = architecture(name)
    _, discriminator = initialised(a, [0], n=20)
    discriminator.eval()
    x = images_of(a, [0], 6)
    x[0, 1] = x[0, 0]
    with torch.no_grad():
        whole, part = discriminator(x), discriminator(x[:, ::2])
    torch.testing.assert_close(whole.features[:, ::2], part.features)
    apart = (whole.logits[:, ::2] - part.logits).abs().max().item()
    assert (apart > 1e-3) if name.startswith("minibatch") else (apart < 1e-5)


def test_without_kernels_there_is_no_minibatch_layer():
    """Row "-MBF" of Table 3: the network of feature matching but for the noise at its entry."""
    a = architecture("minibatch_conv", n_kernels=0)
    _, discriminator = initialised(a, [0], n=20)
    discriminator.eval()
    x = images_of(a, [0], 6)
    with torch.no_grad():
        whole, part = discriminator(x), discriminator(x[:, ::2])
    torch.testing.assert_close(whole.logits[:, ::2], part.logits)
    full = build_discriminator(architecture("minibatch_conv", full=True, n_kernels=0), 1)
    assert sum(weight.numel() for weight in full.parameters()) == 1_406_804


@by_name
def test_the_generator_normalises_by_its_batch_in_evaluation_too(name: str):
    """Lesson 8: with default buffers evaluation mode would remove the normalisation."""
    a = architecture(name)
    generator, _ = initialised(a, SEEDS)
    z = draw_z(a, 6, streams(SEEDS, "z"))
    with torch.no_grad():
        training = generator(z)
        generator.eval()
        assert torch.equal(generator(z), training)
        normed = leaving(generator, parts(generator, GeneratorBatchNorm), z)
    assert len(normed) == (2 if name == "semisup_mnist" else 3)
    for x in normed:
        places = [1, *range(3, x.dim())]
        std, mean = torch.std_mean(x, dim=places, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
        assert (std > 0.9).double().mean() > 0.9
        assert std.max() < 1.001


def test_mnist_images_of_a_convolutional_generator_are_the_central_ones():
    x = torch.arange(32.0 * 32).view(1, 1, 1, 32, 32)
    cropped = Crop(margin=2)(x)
    assert cropped.shape == (1, 1, 1, 28, 28)
    assert cropped[0, 0, 0, 0, 0] == 2 * 32 + 2
    assert cropped[0, 0, 0, -1, -1] == 29 * 32 + 29


@by_name
def test_an_update_moves_every_parameter(name: str):
    a = architecture(name)
    generator, discriminator = initialised(a, SEEDS)
    x, z = images_of(a, SEEDS, 8), draw_z(a, 8, streams(SEEDS, "z"))

    def discriminator_loss() -> torch.Tensor:
        real, fake = discriminator(x).logits.logsumexp(-1), discriminator(generator(z)).logits.logsumexp(-1)
        labelled = F.cross_entropy(discriminator(x).logits.flatten(0, 1), torch.arange(24) % 10)
        return labelled + F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss() -> torch.Tensor:
        means = [discriminator(batch).features.mean(dim=1) for batch in (x, generator(z))]
        return (means[0] - means[1]).square().mean()

    for network, loss in ((discriminator, discriminator_loss), (generator, generator_loss)):
        before = {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
        fixed = {key: buffer.clone() for key, buffer in network.named_buffers()}
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        adam.zero_grad()
        loss().backward()
        adam.step()
        for key, parameter in network.named_parameters():
            assert torch.isfinite(parameter).all(), key
            assert (parameter.detach() != before[key]).flatten(1).any(dim=1).all(), f"{key} of every seed"
        assert all(torch.equal(buffer, fixed[key]) for key, buffer in network.named_buffers())


# ---- seeds ----------------------------------------------------------------------------------------------------------


def per_seed_losses(generator: nn.Sequential, discriminator: Discriminator, x: torch.Tensor, z: torch.Tensor):
    """(S,): something that every parameter of both networks takes part in."""
    real, fake = discriminator(x), discriminator(generator(z))
    matching = (real.features.mean(dim=1) - fake.features.mean(dim=1)).square().mean(dim=1)
    return F.softplus(fake.logits.logsumexp(-1)).mean(dim=1) - real.logits[..., 3].mean(dim=1) + matching


def check_within_rounding(together: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> None:
    """Slice 1 of three against the same seed alone: the largest difference, relative to the largest value."""
    assert list(together) == list(alone)
    for key, tensor in alone.items():
        assert (len(together[key]), len(tensor)) == (3, 1), key
        scale = tensor.abs().max().item()
        tolerance = 1e-3 if "gradient" in key else 1e-4  # small differences of sums; seeds differ by far more
        assert (together[key][1] - tensor[0]).abs().max().item() <= tolerance * scale, key
        if together[key].dim() > 2 or "loss" in key:
            assert (together[key][0] - tensor[0]).abs().max().item() > 1e-3 * scale, f"{key}: the seeds are alike"


@by_name
@pytest.mark.parametrize("preset", ["current", "c0"])
def test_a_seed_starts_alone_as_it_starts_in_a_batch(name: str, preset: str):
    a = architecture(name, preset=preset)
    for together, alone in zip(initialised(a, SEEDS), initialised(a, SEEDS[1:2]), strict=True):
        check_within_rounding(together.state_dict(), alone.state_dict())


def without_kinks(network: nn.Module) -> None:
    """Smooth activations: where rounding turns the sign of a unit, the gradient of the real ones jumps."""
    for row in parts(network, nn.Sequential):
        for key, part in row.named_children():
            if isinstance(part, nn.ReLU | nn.LeakyReLU):
                setattr(row, key, nn.Softplus())


@by_name
@pytest.mark.parametrize("smooth", [False, True], ids=["outputs", "gradients"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_seed_alone_equals_the_same_seed_in_a_batch(
    name: str, training: bool, smooth: bool, monkeypatch: pytest.MonkeyPatch
):
    """From the same state: images, features, logits; and, without kinks, every gradient.

    Gradients in double precision: the L1 distances of a minibatch layer keep their kinks, near which examples lie.
    """
    monkeypatch.setattr(torch.Tensor, "float", at_least_fp32)
    a = architecture(name)
    batch = initialised(a, SEEDS)
    single = build_generator(a, 1), build_discriminator(a, 1)
    for network, other in zip(batch, single, strict=True):
        other.load_state_dict({key: tensor[1:2] for key, tensor in network.state_dict().items()})
    found = []
    for seeds, networks in ((SEEDS, batch), (SEEDS[1:2], single)):
        generator, discriminator = networks
        discriminator.train(training)
        for network in networks if smooth else ():
            without_kinks(network)
            network.double()
        set_noise(discriminator, streams(seeds, "noise"))
        x, z = images_of(a, seeds, 6, "other images"), draw_z(a, 6, streams(seeds, "z"))
        if smooth:
            x, z = x.double(), z.double()
        losses = per_seed_losses(generator, discriminator, x, z)
        tensors = {"losses": losses, "images": generator(z), **discriminator(x)._asdict()}
        if smooth:
            losses.sum().backward()
            for part, network in zip("GD", networks, strict=True):
                tensors |= {f"gradient of {part}, {key}": p.grad for key, p in network.named_parameters()}
        found.append({key: tensor.detach() for key, tensor in tensors.items()})
    check_within_rounding(*found)


@by_name
def test_gradients_of_a_seed_do_not_reach_another(name: str):
    a = architecture(name)
    generator, discriminator = initialised(a, SEEDS)
    set_noise(discriminator, streams(SEEDS, "noise"))
    x = images_of(a, SEEDS, 6, "other images").requires_grad_()
    z = draw_z(a, 6, streams(SEEDS, "z")).requires_grad_()
    per_seed_losses(generator, discriminator, x, z)[1].backward()
    reached = [*generator.named_parameters(), *discriminator.named_parameters(), ("x", x), ("z", z)]
    for key, tensor in reached:
        assert tensor.grad is not None, key
        assert not tensor.grad[[0, 2]].any(), key
        assert tensor.grad[1].any(), key


def test_z_of_a_seed_is_its_own_and_uniform():
    a = architecture("semisup_mnist")
    z = draw_z(a, 2000, streams(SEEDS, "z"))
    assert z.shape == (3, 2000, 6)
    assert z.dtype == torch.float32
    assert torch.equal(draw_z(a, 2000, streams(SEEDS[1:2], "z"))[0], z[1])
    assert 0 <= z.min() < 0.001
    assert 0.999 < z.max() < 1
    assert (z.mean(dim=(1, 2)) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / 12000)


# ---- initialisation -------------------------------------------------------------------------------------------------


def initialised_with_its_noise(
    a: Architecture, n: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Sequential, torch.Tensor, Discriminator, torch.Tensor]:
    """Both networks, and the z and images that initialised them; D's noise is about to be drawn as it was there."""
    states: list[torch.Tensor] = []

    def remember(network: nn.Module, generators: list[torch.Generator]) -> None:
        states.extend(generator.get_state() for generator in generators)
        set_noise(network, generators)

    monkeypatch.setattr(improved, "set_noise", remember)
    zs: list[torch.Tensor] = []
    hook = Linear.forward

    def keep(self: Linear, x: torch.Tensor) -> torch.Tensor:
        zs.append(x)
        return hook(self, x)

    monkeypatch.setattr(Linear, "forward", keep)
    generator, discriminator = initialised(a, SEEDS, n)
    monkeypatch.undo()
    noise = [torch.Generator() for _ in SEEDS]
    for stream, state in zip(noise, states, strict=True):
        stream.set_state(state)
    set_noise(discriminator, noise)
    return generator, zs[0] if zs else torch.empty(0), discriminator, images_of(a, SEEDS, n)


def check_moments(x: torch.Tensor, std: float, *, per_channel: bool) -> None:
    """Before the activation: mean 0 in every channel, and the std asked for in every channel or over them all."""
    x = x.double()
    places = [1, *range(3, x.dim())]
    mean = x.mean(dim=places)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4 * std)
    found = x.square().mean(dim=places if per_channel else [*places, 2]).sqrt()
    torch.testing.assert_close(found, torch.full_like(found, std), rtol=1e-3, atol=0)


@by_name
@pytest.mark.parametrize("preset", ["current", "c0"])
def test_the_initial_batch_is_normalised_in_every_layer(name: str, preset: str, monkeypatch: pytest.MonkeyPatch):
    """With the noise on that was on: mean 0, std 1 before each activation of D, and the output's std before it."""
    a = architecture(name, preset=preset)
    generator, z, discriminator, images = initialised_with_its_noise(a, 40, monkeypatch)
    per_channel = preset == "current" or name == "semisup_mnist"
    output_std = 1.0 if preset == "c0" or name == "semisup_mnist" else 0.1
    layers = parts(discriminator, WeightNorm)
    found = leaving(discriminator, layers, images)
    assert len(found) == (6 if name == "semisup_mnist" else 10)
    for x in found[:-1]:
        check_moments(x, 1.0, per_channel=per_channel)
    check_moments(found[-1], output_std, per_channel=per_channel)
    if name != "semisup_mnist":
        assert z.shape == (3, 40, 6)
        check_moments(*leaving(generator, [generator[-1][0]], z), output_std, per_channel=per_channel)
    if not per_channel:
        channels = found[0].double().std(dim=(1, 3, 4))
        assert (channels.amax(dim=1) / channels.amin(dim=1)).min() > 1.01, (
            "one std a layer leaves those of channels apart"
        )


@pytest.mark.parametrize("name", NAMES[2:])
def test_minibatch_features_start_with_mean_zero(name: str, monkeypatch: pytest.MonkeyPatch):
    a = architecture(name)
    _, _, discriminator, images = initialised_with_its_noise(a, 20, monkeypatch)
    (x,) = leaving(discriminator, parts(discriminator, MinibatchDiscrimination), images)
    added = x[..., 8:]
    torch.testing.assert_close(added.mean(dim=1), torch.zeros(3, 3), rtol=0, atol=1e-4)
    assert added.std(dim=1).min() > 1e-4


@by_name
def test_the_images_of_each_seed_are_its_own(name: str):
    """Other images for seed 1 change what was set in seed 1 alone."""
    a = architecture(name)
    images = images_of(a, SEEDS, 12)
    states = []
    for batch in (images, images + torch.tensor([0.0, 0.1, 0.0]).view(3, 1, 1, 1, 1)):
        discriminator = build_discriminator(a, 3)
        initialise_discriminator(a, discriminator, batch, streams(SEEDS, "d"))
        assert discriminator.training
        states.append({key: tensor.clone() for key, tensor in discriminator.state_dict().items()})
    first = next(key for key in states[0] if key.endswith(".bias"))
    assert torch.equal(states[0][first][[0, 2]], states[1][first][[0, 2]])
    assert not torch.equal(states[0][first][1], states[1][first][1])


def test_directions_are_drawn_with_the_std_of_the_authors():
    def stds(network: nn.Module) -> list[float]:
        return [layer.direction.std().item() for layer in parts(network, WeightNorm)]

    wide = {"generator_width": 64, "discriminator_width": 32}
    mnist, conv = (initialised(architecture(name, **wide), [0]) for name in ("semisup_mnist", "semisup_conv"))
    assert stds(mnist[1]) == pytest.approx([0.1] * 6, rel=0.15)
    assert stds(conv[1]) == pytest.approx([0.05] * 10, rel=0.15)
    assert stds(conv[0]) == pytest.approx([0.05], rel=0.15)
    plain = [layer.weight.std().item() for layer in parts(conv[0], Linear, Deconvolution)]
    assert plain == pytest.approx([0.05] * 3, rel=0.15)


def test_the_mnist_generator_is_drawn_by_glorot_and_not_set_by_data():
    generator, _ = initialised(architecture("semisup_mnist", generator_width=40), [0])
    weights = [*[layer.weight for layer in parts(generator, Linear)], parts(generator, WeightNormLinear)[0].direction]
    for weight, units in zip(weights, (6 + 40, 40 + 40, 40 + 784), strict=True):
        limit = math.sqrt(6 / units)
        assert weight.abs().max().item() == pytest.approx(limit, rel=0.05)
        assert weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)
    output = parts(generator, WeightNormLinear)[0]
    assert torch.equal(output.scale, torch.ones_like(output.scale))
    assert not output.bias.any()


# ---- techniques switched on and off ---------------------------------------------------------------------------------


@by_name
def test_without_weight_norm_the_length_of_a_direction_counts(name: str):
    """Switched off, the same layers with the same parameters are plain; with data-dependent scales all the same."""
    states, moved = [], []
    for weight_norm in (True, False):
        networks = initialised(architecture(name, weight_norm=weight_norm), SEEDS)
        states.append([(key, tensor.shape) for network in networks for key, tensor in network.state_dict().items()])
        for network in networks:
            assert {layer.normed for layer in parts(network, WeightNorm)} == {weight_norm}
        discriminator = networks[1].eval()
        x = images_of(architecture(name), SEEDS, 5)
        with torch.no_grad():
            before = discriminator(x).logits
            for layer in parts(discriminator, WeightNorm):
                layer.direction.mul_(2)
            moved.append((discriminator(x).logits - before).abs().max().item())
    assert states[0] == states[1]
    assert moved[0] < 1e-3 < 0.1 < moved[1]


@by_name
def test_without_weight_norm_the_initial_batch_is_normalised_too(name: str, monkeypatch: pytest.MonkeyPatch):
    a = architecture(name, weight_norm=False)
    _, _, discriminator, images = initialised_with_its_noise(a, 40, monkeypatch)
    for x in leaving(discriminator, parts(discriminator, WeightNorm), images)[:-1]:
        check_moments(x, 1.0, per_channel=True)


@by_name
def test_without_data_scales_are_1_and_biases_0(name: str):
    """The directions are drawn alike; a minibatch layer keeps its initial scale and offset too."""
    by_data, plain = (initialised(architecture(name, data_dependent=on), SEEDS) for on in (True, False))
    for set_by_data, network in zip(by_data, plain, strict=True):
        for layer, other in zip(parts(network, WeightNorm), parts(set_by_data, WeightNorm), strict=True):
            assert torch.equal(layer.direction, other.direction)
            assert (layer.scale == 1).all()
            assert (layer.bias == 0).all()
    assert all(bool((layer.scale != 1).any()) for layer in parts(by_data[1], WeightNorm))
    for layer in parts(plain[1], MinibatchDiscrimination):
        assert (layer.log_scale == 0).all()
        assert (layer.offset == -1).all()
    assert plain[1].training
    assert len(next(iter(parts(plain[1], Noise))).noise) == len(SEEDS), "its noise comes from the streams"


@by_name
def test_without_noise_training_is_as_evaluation(name: str):
    a = architecture(name, noise=False)
    _, discriminator = initialised(a, SEEDS)
    assert [layer.amount for layer in parts(discriminator, Noise)] == [0.0] * len(NOISE[name])
    x = images_of(a, SEEDS, 5)
    with torch.no_grad():
        training = discriminator(x).logits
        assert torch.equal(discriminator.eval()(x).logits, training)


@by_name
def test_virtual_batch_norm_takes_the_place_of_batch_norm_in_the_generator(name: str):
    """An image no longer depends on the others of its batch; each seed has its own fixed reference."""
    a = architecture(name, reference_batch=5)
    generator, discriminator = initialised(a, SEEDS)
    assert not parts(generator, GeneratorBatchNorm)
    assert not parts(discriminator, VirtualBatchNorm), "in G only (section 3.5)"
    norms = parts(generator, VirtualBatchNorm)
    assert len(norms) == (2 if name == "semisup_mnist" else 3)
    assert {norm.n_reference for norm in norms} == {5}
    assert all((norm.gain - 1).abs().max() > 0 for norm in norms)
    reference = dict(generator.named_buffers())["reference"]
    assert reference.shape == (3, 5, 6)
    assert 0 <= reference.min() < reference.max() < 1, "z like any other"
    z = draw_z(a, 6, streams(SEEDS, "z"))
    with torch.no_grad():
        whole, part = generator(z), generator(z[:, ::2])
        mates = (initialised(architecture(name), SEEDS)[0](z)[:, ::2] - part).abs().max()
        assert torch.equal(generator.eval()(z), whole)
    assert whole.shape == (3, 6, *image_shape(a))
    torch.testing.assert_close(whole[:, ::2], part, rtol=1e-4, atol=1e-5)
    assert mates > 1e-3, "another network than with batch norm"
    together, alone = (initialised(a, seeds)[0].state_dict() for seeds in (SEEDS, SEEDS[1:2]))
    check_within_rounding(together, alone)


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_reference_sets_the_scale_of_the_output_layer(name: str, monkeypatch: pytest.MonkeyPatch):
    """The z of the data-dependent step is the reference batch, whatever ``n_z`` is."""
    generator, *_ = initialised_with_its_noise(architecture(name, reference_batch=9), 4, monkeypatch)
    (output,) = parts(generator, WeightNorm)
    found = leaving(generator.network, [output], generator.reference)
    check_moments(found[0], 0.1, per_channel=True)


# ---- several batches in one pass ------------------------------------------------------------------------------------


@by_name
def test_batches_that_are_judged_together_are_judged_as_each_alone(name: str):
    """Of different sizes too; a minibatch layer compares an image with those of its own batch only."""
    a = architecture(name)
    _, discriminator = initialised(a, SEEDS)
    discriminator.eval()
    batches = [images_of(a, SEEDS, n, f"batch of {n}") for n in (5, 2, 7)]
    with torch.no_grad():
        judged = discriminator.judge(*batches)
        for together, batch in zip(judged, batches, strict=True):
            for got, expected in zip(together, discriminator(batch), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        merged = discriminator(torch.cat(batches, dim=1)).logits.split([5, 2, 7], dim=1)
        apart = (merged[0] - judged[0].logits).abs().max().item()
    assert (apart > 1e-3) if name.startswith("minibatch") else (apart < 1e-5)


@by_name
def test_features_alone_are_those_of_a_judgement(name: str):
    a = architecture(name)
    _, discriminator = initialised(a, SEEDS)
    x, found = images_of(a, SEEDS, 5), []
    for judge in (discriminator.features, lambda images: discriminator(images).features):
        set_noise(discriminator, streams(SEEDS, "noise"))
        found.append(judge(x))
    assert torch.equal(*found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator.features(x).dtype == torch.float32


# ---- presets and params ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "slope"), [("current", 0.2), ("c0", 0.1)])
@pytest.mark.parametrize("name", NAMES[1:])
def test_slope_of_the_leaky_units(name: str, preset: str, slope: float):
    discriminator = build_discriminator(architecture(name, preset=preset), 1)
    assert [part.negative_slope for part in parts(discriminator, nn.LeakyReLU)] == [slope] * 9


@pytest.mark.parametrize("name", NAMES[2:])
def test_minibatch_directions_by_preset(name: str):
    """Drawn from N(0, 0.05) now, from N(0, 0.1) at submission; nothing else differs in the draws."""
    drawn = {}
    for preset in ("current", "c0"):
        _, discriminator = initialised(architecture(name, preset=preset, n_kernels=40, kernel_dim=5), [0])
        (layer,) = parts(discriminator, MinibatchDiscrimination)
        drawn[preset] = layer.direction.detach(), discriminator.to_features[1][0].direction.detach()
    assert drawn["current"][0].std().item() == pytest.approx(0.05, rel=0.1)
    torch.testing.assert_close(drawn["c0"][0], 2 * drawn["current"][0])
    assert torch.equal(drawn["c0"][1], drawn["current"][1])


def test_what_c0_changes_and_that_it_changes_nothing_for_feature_matching_on_mnist():
    current, c0 = (settings_of(architecture("semisup_conv", preset=preset)) for preset in ("current", "c0"))
    assert dataclasses.astuple(current) == (0.2, 0.1, True, 0.05)
    assert dataclasses.astuple(c0) == (0.1, 1.0, False, 0.1)
    states = []
    for preset in ("current", "c0"):
        networks = initialised(architecture("semisup_mnist", preset=preset), SEEDS)
        states.append([tensor for network in networks for tensor in network.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@params.section
class Holder:
    architecture: Architecture


LINES = {
    "name": "minibatch_conv",
    "preset": "c0",
    "z_dim": "100",
    "generator_width": "128",
    "discriminator_width": "96",
    "n_kernels": "100",
    "kernel_dim": "5",
    "weight_norm": "true",
    "data_dependent": "true",
    "noise": "true",
    "reference_batch": "0",
}


def load(tmp_path: Path, lines: dict[str, str]) -> Architecture:
    path = tmp_path / "params.yaml"
    text = "".join(f"    {key}: {value}\n" for key, value in lines.items())
    path.write_text(f"run:\n  architecture:\n{text}", encoding="utf-8")
    return params.load(path, Holder, "run").architecture


def test_an_architecture_is_read_from_the_params(tmp_path: Path):
    assert load(tmp_path, LINES) == architecture("minibatch_conv", full=True, preset="c0")
    semisup = {key: value for key, value in LINES.items() if not key.startswith("kernel") and key != "n_kernels"}
    assert load(tmp_path, semisup | {"name": "semisup_conv"}) == architecture("semisup_conv", full=True, preset="c0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "semisup_conv"}, "architecture: unknown key 'n_kernels'"),
        ({"name": "semisup_cifar"}, "architecture.name: expected"),
        ({"preset": "C0"}, "architecture.preset"),
        ({"generator_width": "0"}, "architecture.generator_width"),
        ({"kernel_dim": "0"}, "architecture.kernel_dim"),
        ({"z_dim": "1.5"}, "architecture.z_dim"),
        ({"weight_norm": "1"}, "architecture.weight_norm"),
        ({"data_dependent": "maybe"}, "architecture.data_dependent"),
        ({"noise": "0.3"}, "architecture.noise"),
        ({"reference_batch": "-1"}, "architecture.reference_batch"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_architectures_that_are_refused(tmp_path: Path, changes: dict[str, str], message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        load(tmp_path, LINES | changes)


@by_name
def test_networks_are_built_from_their_section(name: str):
    a = architecture(name, generator_width=6, discriminator_width=5, z_dim=3)
    generator, discriminator = build_generator(a, 2), build_discriminator(a, 2)
    assert generator[0][0].weight.shape[:2] == (2, 3)
    assert parts(discriminator, WeightNormLinear)[-1].scale.shape == (2, 10)
    functions: dict[str, Callable[..., nn.Module]] = improved.GENERATORS
    assert set(functions) == set(NAMES)
