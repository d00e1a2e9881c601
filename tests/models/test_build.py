"""From an architecture's name to networks, pixels and back: each network gives and takes images of its own form."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.models import dcgan, store
from pipeline.models.build import (
    Architecture,
    ColourArchitecture,
    MnistArchitecture,
    build_discriminator,
    build_generator,
    conditioned,
    draw_z,
    from_network,
    read_architecture,
    sides,
    to_network,
    trained_discriminator,
)
from pipeline.models.layers import initialise

VARIANT = {"batch_norm": "all", "resampling": "pooling", "hidden": 3, "global_average": True, "activation": "maxout"}
ARCHITECTURES: list[Architecture] = [
    MnistArchitecture(name="dcgan_mnist", z_dim=5, filters=2, hidden=8),
    MnistArchitecture(name="gan_mnist", z_dim=5, filters=0, hidden=8),
    MnistArchitecture(name="dcgan_mnist_affine", z_dim=5, filters=2, hidden=8),
    MnistArchitecture(name="gan_mnist_affine", z_dim=5, filters=0, hidden=8),
    ColourArchitecture(name="dcgan_64", z="uniform", z_dim=5, filters=2, variant=dcgan.PAPER),
    ColourArchitecture(name="dcgan_32", z="uniform", z_dim=5, filters=2, variant=dcgan.PAPER),
    ColourArchitecture(name="dcgan_svhn", z="gaussian", z_dim=5, filters=2, variant=dcgan.PAPER),
    ColourArchitecture(name="dcgan_svhn_linear", z="gaussian", z_dim=5, filters=2, variant=dcgan.PAPER),
    ColourArchitecture(name="dcgan_128", z="uniform", z_dim=5, filters=2, variant=dcgan.PAPER),
    ColourArchitecture(name="dcgan_32", z="gaussian", z_dim=7, filters=3, variant=dcgan.Variant(**VARIANT)),
]
LOWEST = {True: 0, False: -1}  # with labels: digits, in [0, 1]
by_name = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)


@by_name
def test_both_networks_fit_the_form_of_their_images(architecture: Architecture):
    generator, discriminator = build_generator(architecture), build_discriminator(architecture)
    for network in (generator, discriminator):
        initialise(network, 0.1, torch_stream(0, "initial"))
    labels = (torch.eye(10)[:4],) if conditioned(architecture) else ()
    images = generator(draw_z(architecture, 4, torch_stream(0, "z")), *labels)
    assert discriminator(images, *labels).shape == (4, 1)
    h, w, channels = sides(architecture)
    assert images.shape == (4, channels, h, w)
    if not architecture.name.endswith("linear"):  # that one is not bounded
        assert LOWEST[conditioned(architecture)] <= images.min() < images.max() <= 1
    assert from_network(architecture, images.detach()).shape == (4, h, w, channels)


@by_name
def test_pixels_there_and_back(architecture: Architecture):
    """All 256 levels come back, the lowest and highest are the ends of the generator's range."""
    images = numpy_stream(0, "images").integers(0, 256, (3, *sides(architecture)), dtype=np.uint8)
    images[0].reshape(-1)[:256] = np.arange(256)
    tensor = to_network(architecture, images, "cpu")
    assert (tensor.min(), tensor.max()) == (LOWEST[conditioned(architecture)], 1)
    assert np.array_equal(from_network(architecture, tensor), images)


@by_name
def test_an_architecture_comes_back_from_a_model_folder(tmp_path: Path, architecture: Architecture):
    fields = vars(architecture)
    stored = json.loads(json.dumps({key: value for key, value in fields.items() if key != "variant"}))
    if isinstance(architecture, ColourArchitecture):
        stored["variant"] = vars(architecture.variant)
    store.write_model(tmp_path / "model", {}, {"params": {"architecture": stored, "seeds": [0]}}, {})
    assert read_architecture(tmp_path / "model") == architecture


def test_the_discriminator_of_the_first_seed_and_of_this_network_only(tmp_path: Path):
    architecture = ARCHITECTURES[4]
    tensors = {}
    for seed in (3, 11):
        network = build_discriminator(architecture)
        initialise(network, 0.1, torch_stream(seed, "initial"))
        tensors |= store.named_tensors(f"seed{seed}/discriminator", network)
    stored = {key: value for key, value in vars(architecture).items() if key != "variant"}
    stored["variant"] = vars(dcgan.PAPER)
    run = {"params": {"architecture": stored, "seeds": [11, 3]}}
    store.write_model(tmp_path / "model", tensors, run, {})
    read = trained_discriminator(tmp_path / "model").state_dict()
    assert all(torch.equal(read[name], tensors[f"seed3/discriminator/{name}"]) for name in read)
    stored["filters"] = 4
    store.write_model(tmp_path / "other", tensors, run, {})
    with pytest.raises(InputError, match="'seed3/discriminator' is not this network"):
        trained_discriminator(tmp_path / "other")
    with pytest.raises(InputError, match=r"nowhere/run\.json: missing"):
        trained_discriminator(tmp_path / "nowhere")
