"""The stream of labelled samples: batch i is the same whatever came before it, every class equally often."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.compute import Compute
from pipeline.core.seeding import torch_stream
from pipeline.evaluation.generate import Samples, balanced_labels, sample_batches
from pipeline.models import mnist
from pipeline.models.layers import initialise

FP32 = Compute(device="cpu", threads=1, precision="fp32")
BF16 = Compute(device="cpu", threads=1, precision="bf16")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator() -> nn.Module:
    network = mnist.dcgan_generator(z_dim=6, n=4, hidden=16)
    initialise(network, 0.2, torch_stream(5, "generator"))
    return network


def batches(first: int, last: int, **changes: object) -> list[Samples]:
    settings = {"z_dim": 6, "seed": 0, "stream": "neighbours", "batch_size": 20, "compute": FP32} | changes
    return [*sample_batches(generator(), first=first, last=last, **settings)]


def test_a_batch_is_the_same_whatever_came_before_it():
    whole = batches(0, 6)
    assert len(whole) == 6
    for first, last in ((0, 2), (2, 5), (5, 6), (4, 4)):
        part = batches(first, last)
        assert len(part) == last - first
        for number, samples in enumerate(part, start=first):
            np.testing.assert_array_equal(samples.images, whole[number].images)
            np.testing.assert_array_equal(samples.labels, whole[number].labels)


def test_batches_seeds_and_streams_differ():
    streams = [batches(0, 2), batches(0, 2, seed=1), batches(0, 2, stream="validation")]
    images = [samples.images for stream in streams for samples in stream]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert np.mean(a != b) > 0.5


def test_form_of_a_batch():
    (samples,) = batches(0, 1)
    assert samples.images.shape == (20, 28, 28, 1)
    assert samples.images.dtype == np.uint8
    assert samples.images.flags.c_contiguous
    assert samples.images.min() < 100
    assert samples.images.max() > 155
    assert samples.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("n", [10, 50, 500])
def test_labels_are_balanced_and_mixed(n: int):
    labels = balanced_labels(n)
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [n // 10] * 10
    assert all(sorted(labels[start : start + 10]) == [*range(10)] for start in range(0, n, 10))


@pytest.mark.parametrize("compute", [FP32, BF16], ids=["fp32", "bf16"])
def test_images_are_the_generators_on_the_streams_z(compute: Compute):
    """z uniform in [-1, 1) from stream (seed, name, batch), the batch's own labels, rounded to 256 levels."""
    (samples,) = batches(3, 4, compute=compute)
    z = 2 * torch.rand(20, 6, generator=torch_stream(0, "neighbours", 3)) - 1
    with torch.no_grad():
        expected = generator()(z, torch.eye(10)[torch.arange(20) % 10])[:, 0].double().numpy() * 255
    apart = np.abs(samples.images[..., 0] - expected)
    if compute.precision == "fp32":
        assert apart.max() < 0.51
    else:
        assert apart.max() > 0.51, "bf16 was not in force"
        assert apart.mean() < 4


def test_the_generator_is_left_as_it_was():
    network = generator()
    before = [weight.clone() for weight in network.parameters()]
    settings = {"z_dim": 6, "seed": 0, "stream": "x", "batch_size": 20, "compute": FP32}
    [*sample_batches(network, first=0, last=2, **settings)]
    assert all(torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    images = network(torch.zeros(10, 6), torch.eye(10))
    images.sum().backward()  # training goes on after a validation in the middle
    assert all(weight.grad is not None for weight in network.parameters())
