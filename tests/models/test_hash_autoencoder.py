"""The hash network: its size, what it sees, and codes that depend on the image alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.models import hash_autoencoder
from pipeline.models.hash_autoencoder import (
    OFFSETS,
    HashAutoencoder,
    downsampled,
    encode,
    initialise_autoencoder,
    inputs_of,
    read_autoencoder,
    shifted,
)
from pipeline.models.store import named_tensors, write_model

WHERE = Path("made")


def network(seed: int = 0) -> HashAutoencoder:
    made = HashAutoencoder()
    initialise_autoencoder(made, seed)
    return made


def images(n: int, side: int = 32, index: int = 0) -> np.ndarray:
    return numpy_stream(0, "images", index).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def bits(codes: np.ndarray) -> np.ndarray:
    return np.unpackbits(codes, axis=-1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(hash_autoencoder, "BLOCK", 64)


def test_number_of_parameters():
    """3072-128-3072 with biases (DCGAN, section 4.1)."""
    made = network()
    assert sum(p.numel() for p in made.parameters()) == 3072 * 128 + 128 + 128 * 3072 + 3072
    assert made(torch.zeros(5, 3072)).shape == (5, 3072)
    assert made.units(torch.randn(5, 3072, generator=torch.Generator().manual_seed(0))).min() == 0


def test_output_is_linear_and_code_is_rectified():
    made, x = network(), inputs_of(images(3), "cpu")
    by_hand = torch.clamp(x @ made.encoder.weight.T + made.encoder.bias, min=0)
    torch.testing.assert_close(made.units(x), by_hand)
    torch.testing.assert_close(made(x), by_hand @ made.decoder.weight.T + made.decoder.bias)
    assert made(x).min() < 0


def test_initial_weights_are_of_the_seed_and_within_the_bound():
    first, again, other = network(0), network(0), network(1)
    for name, weight in first.state_dict().items():
        bound = (3072 if name.startswith("encoder") else 128) ** -0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        assert torch.equal(weight, again.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])


def test_downsampling_is_the_mean_of_the_area():
    """2 x 2 means of 64 x 64 images, rounded; 32 x 32 as they are; other sizes as OpenCV's area interpolation."""
    made = images(4, 64)
    means = made.reshape(4, 32, 2, 32, 2, 3).astype(np.float64).mean(axis=(2, 4))
    assert np.abs(downsampled(made, WHERE) - means).max() <= 0.5
    assert np.array_equal(downsampled(images(4), WHERE), images(4))
    odd = images(2, 50)
    expected = [cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA) for image in odd]
    assert np.array_equal(downsampled(odd, WHERE), expected)


@pytest.mark.parametrize("shape", [(2, 28, 28, 3), (2, 32, 32, 1), (2, 64, 48, 3)])
def test_images_that_cannot_be_hashed(shape):
    message = f"made: images of {shape[1]} x {shape[2]} x {shape[3]}; the hash takes square RGB images of 32 pixels"
    with pytest.raises(InputError, match=message):
        downsampled(np.zeros(shape, dtype=np.uint8), WHERE)


def test_inputs_are_centred_per_image():
    small = images(3)
    small[1] = 77  # no contrast
    unit = small.reshape(3, -1) / 255
    expected = (unit - unit.mean(axis=1, keepdims=True)) / (unit.std(axis=1, keepdims=True) + 0.05)
    np.testing.assert_allclose(inputs_of(small, "cpu").numpy(), expected, atol=1e-5)
    assert np.abs(expected[0]).max() > 1


def test_shift_moves_the_image_and_replicates_the_edge():
    small = images(2)
    for dy, dx in OFFSETS:
        rows, columns = np.clip(np.arange(32) - dy, 0, 31), np.clip(np.arange(32) - dx, 0, 31)
        assert np.array_equal(shifted(small, (dy, dx)), small[:, rows][:, :, columns])
    assert OFFSETS[0] == (0, 0)
    assert sorted(OFFSETS) == [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_code_bits_are_units_above_the_threshold(threshold):
    made, small = network(), images(10)
    codes = encode(made, small, threshold=threshold, offsets=True)
    assert (codes.shape, codes.dtype) == ((10, 9, 16), np.uint8)
    for number, offset in enumerate(OFFSETS):
        units = made.units(inputs_of(shifted(small, offset), "cpu")).detach().numpy()
        sure = np.abs(units - threshold) > 1e-4
        sure |= units == 0
        assert np.array_equal(bits(codes[:, number])[sure], (units > threshold)[sure])
    assert np.array_equal(encode(made, small, threshold=threshold, offsets=False), codes[:, :1])
    assert 0 < bits(codes).mean() < 1


def test_equal_images_have_equal_codes_wherever_they_lie():
    made, small = network(), images(64)
    small[1:] = small[0]
    whole = encode(made, small, threshold=0.0, offsets=True)
    assert (whole == whole[0]).all()
    assert np.array_equal(encode(made, small[:1], threshold=0.0, offsets=True)[0], whole[0])


def test_a_block_that_is_too_large():
    with pytest.raises(ValueError, match="65 images in a block of at most 64"):
        encode(network(), images(65), threshold=0.0, offsets=False)


def test_network_of_a_model_folder(tmp_path):
    made = network(3)
    write_model(tmp_path / "model", named_tensors("seed3/autoencoder", made), {"params": {"seed": 3}}, {})
    found = read_autoencoder(tmp_path / "model", "cpu")
    for name, weight in made.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)
    write_model(tmp_path / "model", named_tensors("seed3/autoencoder", made), {"params": {"seed": 4}}, {})
    with pytest.raises(InputError, match="'seed4/autoencoder' is not this network"):
        read_autoencoder(tmp_path / "model", "cpu")
