"""The classifier that images are scored with: its layers, what it gives, and that it judges each image by itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.compute import Compute, autocast
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.models.classifier import Classifier, ClassifierNetwork, initialise_classifier, read_classifier
from pipeline.models.dcgan import to_signed
from pipeline.models.store import named_tensors, write_model

FP32 = Compute(device="cpu", threads=1, precision="fp32")
RECORD = {"params": {"width": 4, "seed": 3}, "n_classes": 5, "n_test": 20, "test_accuracy_percent": 85.0}


def network(seed: int = 0, width: int = 4, n_classes: int = 5) -> ClassifierNetwork:
    """With running averages that are not those of a fresh network."""
    made = ClassifierNetwork(width, n_classes)
    initialise_classifier(made, torch_stream(seed, "network"))
    with torch.no_grad():
        for _ in range(3):
            made(to_signed(images(16, seed)))
    return made


def images(n: int, index: int = 0) -> np.ndarray:
    return numpy_stream(0, "images", index).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def judged(made: ClassifierNetwork, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return Classifier(made, RECORD, autocast(FP32)).judge(batch)


def test_rows_of_the_table():
    """Maps and side of every row, as its comment says, for w = 4."""
    x, found = torch.zeros(2, 3, 32, 32), []
    for row in network().maps:
        x = row(x)
        found.append(tuple(x.shape[1:]))
    assert found == [(4, 32, 32), (8, 16, 16), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32, 4, 4)]


@pytest.mark.parametrize("w", [1, 8])
def test_number_of_parameters(w: int):
    """Kernels of 3 x 3 without bias, a gain and a shift a map, the output with bias."""
    pairs = [(3, w), (w, 2 * w), (2 * w, 2 * w), (2 * w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)] + [(8 * w, 8 * w)] * 2
    expected = sum(9 * n_in * n_out + 2 * n_out for n_in, n_out in pairs) + 8 * w * 10 + 10
    assert sum(p.numel() for p in ClassifierNetwork(w, 10).parameters()) == expected


def test_features_are_the_means_of_the_last_maps_and_logits_their_product():
    made, x = network().eval(), to_signed(images(3))
    features, logits = made(x)
    maps = made.maps(x)
    assert features.shape == (3, 32)
    assert features.min() >= 0
    for image in range(3):
        for unit in range(32):
            mean = sum(maps[image, unit, row, column].item() for row in range(4) for column in range(4)) / 16
            assert features[image, unit].item() == pytest.approx(mean, rel=1e-5, abs=1e-7)
    weight, bias = made.output.weight, made.output.bias
    torch.testing.assert_close(logits, features @ weight.T + bias)


def test_a_residual_adds_to_what_enters_it():
    made = network().eval()
    block, x = made.maps[2], torch.rand(2, 8, 16, 16, generator=torch_stream(0, "x"))
    torch.testing.assert_close(block(x) - x, block.rows(x), atol=1e-5, rtol=1e-5)
    assert block.rows(x).abs().max() > 0.1


def test_features_and_logits_are_fp32_under_autocast():
    made, x = network().eval(), to_signed(images(4))
    plain = made(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = made(x)
    assert (rounded.features.dtype, rounded.logits.dtype) == (torch.float32, torch.float32)
    # the logits are an fp32 product of the features, not one in bf16
    torch.testing.assert_close(rounded.logits, torch.nn.functional.linear(rounded.features, *made.output.parameters()))
    error = (rounded.features - plain.features).abs().max()
    assert 0 < error < 0.03 * plain.features.abs().max()


def test_an_image_is_judged_by_itself():
    """By running averages: its mates change nothing; by batch statistics, in training, they would."""
    made, batch = network(), images(6)
    features, p = judged(made, batch)
    for first, last in ((0, 1), (2, 5)):
        some = judged(made, batch[first:last])
        np.testing.assert_allclose(some[0], features[first:last], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(some[1], p[first:last], rtol=1e-4, atol=1e-6)
    made.train()
    alone = made(to_signed(batch[:2])).features
    assert (alone - made(to_signed(batch)).features[:2]).abs().max() > 0.01


def test_probabilities_are_a_softmax():
    made, batch = network(), images(4)
    features, p = judged(made, batch)
    assert (features.shape, p.shape, features.dtype, p.dtype) == ((4, 32), (4, 5), np.float32, np.float32)
    logits = made(to_signed(batch)).logits.detach().double().numpy()
    np.testing.assert_allclose(p, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), rtol=1e-5)
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-6
    assert p.std(axis=0).max() > 1e-3


def test_initial_weights():
    """Standard deviation sqrt(2 / (9 n_in)) of kernels, sqrt(1 / n_in) of the output; no bias; another seed differs."""
    made = ClassifierNetwork(16, 10)
    initialise_classifier(made, torch_stream(0, "a"))
    kernel = made.maps[5].rows[0][0].weight  # 128 -> 128
    assert kernel.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert made.output.weight.std().item() == pytest.approx((1 / 128) ** 0.5, rel=0.05)
    assert not made.output.bias.any()
    same, other = ClassifierNetwork(16, 10), ClassifierNetwork(16, 10)
    initialise_classifier(same, torch_stream(0, "a"))
    initialise_classifier(other, torch_stream(1, "a"))
    assert torch.equal(kernel, same.maps[5].rows[0][0].weight)
    assert not torch.equal(kernel, other.maps[5].rows[0][0].weight)


def test_written_and_read(tmp_path: Path):
    """Running averages are kept, too: without them the judgement would be another."""
    made, batch = network(), images(3)
    write_model(tmp_path / "model", named_tensors("seed3/classifier", made), RECORD, {})
    found = read_classifier(tmp_path / "model", "cpu", autocast(FP32))
    assert (found.accuracy_percent, found.n_test, found.n_features, found.n_classes) == (85.0, 20, 32, 5)
    assert found.image_shape == (32, 32, 3)
    for one, other in zip(found.judge(batch), judged(made, batch), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_models_that_are_no_classifier(tmp_path: Path):
    model, tensors = tmp_path / "model", named_tensors("seed3/classifier", network())
    with pytest.raises(InputError, match=r"run\.json: missing; run the stage that makes this model"):
        read_classifier(model, "cpu", autocast(FP32))
    for record in ({"params": {"seed": 3}}, {"params": {"width": 4, "seed": 3}}, RECORD | {"n_test": None}):
        write_model(model, tensors, record, {})
        with pytest.raises(InputError, match="not the record of a classifier; name a model"):
            read_classifier(model, "cpu", autocast(FP32))
    write_model(model, tensors, RECORD | {"params": {"width": 6, "seed": 3}}, {})
    with pytest.raises(InputError, match="'seed3/classifier' is not this network"):
        read_classifier(model, "cpu", autocast(FP32))


def test_bf16_only_rounds():
    made, batch = network(), images(2)
    bf16 = dataclasses.replace(FP32, precision="bf16")
    features, p = Classifier(made, RECORD, autocast(bf16)).judge(batch)
    assert (features.dtype, p.dtype) == (np.float32, np.float32)
    assert np.abs(p - judged(made, batch)[1]).max() < 0.05
