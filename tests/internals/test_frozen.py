"""Frozen networks: the same z, the same picture; statistics against their definition; the wrong model or set."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet
from pipeline.internals import frozen
from pipeline.internals.frozen import (
    FrozenBatchNorm,
    Reference,
    freeze,
    freeze_on_images,
    frozen_discriminator,
    frozen_generator,
    reference_images,
)
from pipeline.models import dcgan, store
from pipeline.models.build import ColourArchitecture, MnistArchitecture, build_discriminator, build_generator, uniform_z
from pipeline.models.dcgan import PAPER, from_signed, to_signed
from pipeline.models.layers import AffineBatchNorm, Convolution, initialise

FP32 = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=2, n_images=40)
ARCHITECTURE = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=2, variant=PAPER)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(side: int = 32) -> ImageSet:
    """Splits lie mixed, so that a row's number is not its place in the split."""
    images = numpy_stream(3, "images").integers(0, 256, (60, side, side, 3), dtype=np.uint8)
    split = np.array(["train"] * 50 + ["test"] * 10)[numpy_stream(3, "split").permutation(60)]
    index = pd.DataFrame({"key": [f"image {i}" for i in range(60)], "split": split, "label": -1, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def drawn(network: nn.Module, seed: int) -> nn.Sequential:
    """Weights, gains and shifts such that no part of a batch norm could be left out unseen."""
    assert isinstance(network, nn.Sequential)
    initialise(network, 0.15, torch_stream(seed, "network"))
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("shift"):
                parameter.normal_(0, 0.3, generator=torch_stream(seed, key))
    return network


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder of two seeds, of which the first counts."""
    tensors = {}
    for seed in (4, 9):
        tensors |= store.named_tensors(f"seed{seed}/generator", drawn(build_generator(ARCHITECTURE), seed))
        tensors |= store.named_tensors(f"seed{seed}/discriminator", drawn(build_discriminator(ARCHITECTURE), seed))
    run = {"params": {"architecture": dataclasses.asdict(ARCHITECTURE), "seeds": [9, 4]}}
    store.write_model(tmp_path / "model", tensors, run, {})
    return tmp_path / "model"


# ---- the same z, the same picture -----------------------------------------------------------------------------------


def test_the_same_z_gives_the_same_picture_in_any_batch_and_any_order(model: Path):
    generator = frozen_generator(model, REFERENCE, FP32)
    z = generator.draw_z(120, 0, "pictures")
    together = generator.images(z)
    assert together.shape == (120, 32, 32, 3)
    assert len(np.unique(together.reshape(120, -1), axis=0)) == 120
    order = numpy_stream(1, "order").permutation(120)
    np.testing.assert_array_equal(generator.images(z[order]), together[order])
    for n in (1, 7, 50, 51):
        np.testing.assert_array_equal(generator.images(z[:n]), together[:n])
    np.testing.assert_array_equal(generator.images(z[33:34].repeat(3, 1)), together[[33, 33, 33]])
    training = from_signed(drawn(build_generator(ARCHITECTURE), 4)(z[:7]).detach())
    assert (training != together[:7]).any(), "with the statistics of the batch it would be another picture"


def test_rows_apart_make_the_same_picture(model: Path):
    generator = frozen_generator(model, REFERENCE, FP32)
    z = generator.draw_z(53, 0, "pictures")
    for rows, shape in ((1, (53, 8, 4, 4)), (2, (53, 4, 8, 8)), (3, (53, 2, 16, 16))):
        maps = generator.maps(z, rows=rows)
        assert maps.shape == shape
        assert float(maps.min()) == 0, "behind the ReLU"
        np.testing.assert_array_equal(generator.images_from(maps, first_row=rows), generator.images(z))


def test_no_z_no_picture(model: Path):
    assert frozen_generator(model, REFERENCE, FP32).images(torch.empty(0, 5)).shape == (0, 32, 32, 3)


def test_draws_are_those_of_training(model: Path):
    generator = frozen_generator(model, REFERENCE, FP32)
    torch.testing.assert_close(generator.draw_z(6, 3, "deck", 1), uniform_z(6, 5, torch_stream(3, "deck", 1)))
    assert not torch.equal(generator.draw_z(6, 3, "deck", 0), generator.draw_z(6, 3, "deck", 1))


def test_the_same_model_twice(model: Path):
    z = torch.full((2, 5), 0.3)
    first, second = (frozen_generator(model, REFERENCE, FP32).images(z) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = frozen_generator(model, Reference(seed=3, n_images=40), FP32).images(z)
    assert (other != first).any(), "other z, other statistics"


def test_a_run_of_which_no_generator_was_released_is_named(tmp_path: Path):
    released = {"folder": "theirs", "generator": None, "discriminator": "*.npy", "sha256": None}
    run = {"params": {"architecture": dataclasses.asdict(ARCHITECTURE), "seeds": [0], "released": released}}
    tensors = store.named_tensors("seed0/discriminator", build_discriminator(ARCHITECTURE))
    store.write_model(tmp_path / "taken", tensors, run, {})
    with pytest.raises(InputError, match=r"taken: .* have no generator; name its files in the params \(released\.gen"):
        frozen_generator(tmp_path / "taken", REFERENCE, FP32)


# ---- statistics -----------------------------------------------------------------------------------------------------


def frozen_slowly(network: nn.Sequential, reference: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Batch norm by definition, in float64, with mean and biased variance of the reference's activations."""
    for part in (part for row in network for part in row.children()):
        if not isinstance(part, AffineBatchNorm):
            reference, x = part(reference), part(x)
            continue
        axes = [axis for axis in range(reference.dim()) if axis != 1]
        shape = [1, -1, *[1] * (reference.dim() - 2)]
        wide = reference.detach().double()
        mean = wide.mean(dim=axes).view(shape)
        variance = (wide - mean).square().mean(dim=axes).view(shape)
        gain, shift = (parameter.detach().double().view(shape) for parameter in (part.gain, part.shift))
        reference, x = (
            ((values.detach().double() - mean) / (variance + 1e-8).sqrt() * gain + shift).float()
            for values in (reference, x)
        )
    return x.detach()


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
@pytest.mark.parametrize("variant", [PAPER, dataclasses.replace(PAPER, batch_norm="all", hidden=3)])
def test_statistics_against_their_definition(kind: str, variant: dcgan.Variant):
    """On other inputs than the reference's, so that the statistics must be those of the reference."""
    architecture = dataclasses.replace(ARCHITECTURE, variant=variant)
    if kind == "generator":
        network = drawn(build_generator(architecture), 1)
        reference, x = uniform_z(40, 5, torch_stream(0, "reference")), uniform_z(3, 5, torch_stream(0, "x"))
    else:
        network = drawn(build_discriminator(architecture), 1)
        reference, x = to_signed(image_set().images[:40]), to_signed(image_set().images[57:])
    got = freeze(network, reference)(x)
    torch.testing.assert_close(got, frozen_slowly(network, reference, x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, AffineBatchNorm) for part in freeze(network, reference).modules())


def test_on_the_reference_itself_it_is_the_network_in_training():
    generator, z = drawn(build_generator(ARCHITECTURE), 1), uniform_z(40, 5, torch_stream(0, "z"))
    torch.testing.assert_close(freeze(generator, z)(z), generator(z), rtol=1e-4, atol=1e-5)
    discriminator, x = drawn(build_discriminator(ARCHITECTURE), 1), to_signed(image_set().images[:40])
    torch.testing.assert_close(freeze(discriminator, x)(x), discriminator(x), rtol=1e-4, atol=1e-5)


def test_freezing_leaves_the_network_as_it_is():
    generator, z = drawn(build_generator(ARCHITECTURE), 1), uniform_z(40, 5, torch_stream(0, "z"))
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    few = generator(z[:3])
    freeze(generator, z)
    for name, tensor in generator.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    torch.testing.assert_close(generator(z[:3]), few, rtol=0, atol=0)


def test_a_constant_channel_becomes_the_shift():
    norm = AffineBatchNorm(2)
    torch.nn.init.ones_(norm.gain)
    norm.shift = nn.Parameter(torch.tensor([0.5, -1.0]))
    fixed = FrozenBatchNorm(norm, torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0]))
    got = fixed(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.5, -1.0]]), rtol=1e-3, atol=1e-3)


# ---- discriminators -------------------------------------------------------------------------------------------------


def test_the_reference_images_are_training_images_drawn_once():
    images = image_set()
    for n, expected in ((40, 40), (50, 50), (80, 50)):
        got = reference_images(images, Reference(seed=2, n_images=n)).reshape(expected, -1)
        rows = [int(np.flatnonzero((images.images.reshape(60, -1) == one).all(axis=1))[0]) for one in got]
        assert rows == sorted(set(rows)), "none twice, in the order of the set"
        assert set(rows) <= set(images.rows("train"))
    other = reference_images(images, Reference(seed=3, n_images=40))
    assert (other != reference_images(images, REFERENCE)).any()


def test_the_discriminator_has_the_statistics_of_those_images(model: Path):
    images = image_set()
    network, reference = drawn(build_discriminator(ARCHITECTURE), 4), to_signed(reference_images(images, REFERENCE))
    got = frozen_discriminator(model, images, REFERENCE, FP32)
    assert len(got) == 4
    assert [isinstance(next(row.children()), Convolution) for row in got] == [True] * 3 + [False]
    x = to_signed(images.images[:5])
    torch.testing.assert_close(got(x), frozen_slowly(network, reference, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got(x)[:1], got(x[:1]), rtol=1e-5, atol=1e-6)
    same = freeze_on_images(drawn(build_discriminator(ARCHITECTURE), 4), images, REFERENCE, FP32)
    torch.testing.assert_close(same(x), got(x), rtol=0, atol=0)


# ---- bad input ------------------------------------------------------------------------------------------------------


def refused(model: Path, match: str, images: ImageSet | None = None) -> None:
    for make in (
        lambda: frozen_generator(model, REFERENCE, FP32),
        lambda: frozen_discriminator(model, images or image_set(), REFERENCE, FP32),
    ):
        with pytest.raises(InputError, match=match) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_network_for_digits_is_refused(tmp_path: Path):
    architecture = MnistArchitecture(name="dcgan_mnist", z_dim=4, filters=1, hidden=3)
    tensors = store.named_tensors("seed0/generator", build_generator(architecture))
    run = {"params": {"architecture": dataclasses.asdict(architecture), "seeds": [0]}}
    store.write_model(tmp_path / "mnist", tensors, run, {})
    refused(tmp_path / "mnist", r"mnist: found a dcgan_mnist; expected a network for colour images .* in dvc\.yaml")


def test_no_model_is_refused(tmp_path: Path):
    refused(tmp_path / "none", r"none/run\.json: missing; run the stage that makes this model")


def test_tensors_of_another_width_are_refused(model: Path, tmp_path: Path):
    run = store.read_run(model)
    run["params"]["architecture"]["filters"] = 3
    tensors = store.read_tensors(model / store.NETWORKS_FILE)
    store.write_model(tmp_path / "wide", tensors, run, {})
    refused(tmp_path / "wide", r"wide: 'seed4/\w+' is not this network .* another architecture or width")


def test_images_of_another_size_are_refused(model: Path):
    expected = r"sets/noise: images of 28 x 28 x 3, but .*model has a dcgan_svhn for 32 x 32 x 3; give the set"
    with pytest.raises(InputError, match=expected):
        frozen_discriminator(model, image_set(side=28), REFERENCE, FP32)


def test_every_batch_has_one_shape(model: Path, monkeypatch):
    """A batch of another shape may be summed in another order: the last is filled up."""
    shapes, generator = [], frozen_generator(model, REFERENCE, FP32)
    handle = generator.rows[0].register_forward_hook(lambda _row, args, _y: shapes.append(args[0].shape[0]))
    monkeypatch.setattr(frozen, "BATCH", 4)
    generator.images(generator.draw_z(9, 0, "z"))
    handle.remove()
    assert shapes == [4, 4, 4]
