"""Batches: every image once an epoch, and the same batch for the same step whatever was asked before."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.store import ImageSet
from pipeline.training.batches import Batches, one_hot


def numbered_set(n: int, side: int = 2) -> ImageSet:
    """``n`` training images that carry their number in two pixels, between as many images of another split."""
    number = np.arange(n)
    images = np.full((2 * n, side, side, 1), 255, dtype=np.uint8)
    images[::2] = 0
    images[::2, 0, 0, 0], images[::2, 0, 1, 0] = number // 100, number % 100
    index = pd.DataFrame(
        {
            "key": [f"{i:05d}" for i in range(2 * n)],
            "split": ["train", "test"] * n,
            "label": np.repeat((7 * number + 3) % 10, 2),
            "source": "made",
        }
    )
    return ImageSet(path=Path("made"), images=images, index=index)


def batches(n: int = 300, *, batch_size: int = 128, seed: int = 0) -> Batches:
    return Batches(numbered_set(n), "train", classes=10, batch_size=batch_size, seed=seed, device="cpu")


def numbers(images: torch.Tensor) -> list[int]:
    levels = (images * 255).round().long()
    return (100 * levels[:, 0, 0, 0] + levels[:, 0, 0, 1]).tolist()


def epoch(source: Batches, which: int) -> list[int]:
    steps = range(which * source.per_epoch, (which + 1) * source.per_epoch)
    return [number for step in steps for number in numbers(source.batch(step).images)]


def test_an_epoch_has_every_image_once_and_keeps_the_partial_batch():
    source = batches()
    assert source.per_epoch == 3
    assert [len(source.batch(step).labels) for step in range(6)] == [128, 128, 44, 128, 128, 44]
    for which in (0, 1, 5):
        assert sorted(epoch(source, which)) == [*range(300)]


@pytest.mark.parametrize(("n", "expected"), [(256, [128, 128]), (100, [100]), (130, [128, 2])])
def test_number_of_batches(n: int, expected: list[int]):
    source = batches(n)
    assert source.per_epoch == len(expected)
    assert [len(source.batch(step).images) for step in range(source.per_epoch)] == expected


def test_paper_has_391_batches_of_50000_images():
    """50,000 images in batches of 128: 391, the last one of 80 (facts of the appendix)."""
    images = np.zeros((50_000, 1, 1, 1), dtype=np.uint8)
    index = pd.DataFrame({"key": "", "split": "train", "label": 0, "source": ""}, index=range(50_000))
    image_set = ImageSet(path=Path("made"), images=images, index=index)
    source = Batches(image_set, "train", classes=10, batch_size=128, seed=0, device="cpu")
    assert source.per_epoch == 391
    assert len(source.batch(390).labels) == 80


def test_a_batch_does_not_depend_on_what_was_asked_before():
    in_order, jumping, single = batches(), batches(), batches()
    expected = [numbers(in_order.batch(step).images) for step in range(9)]
    for step in (8, 0, 4, 3, 8, 2, 7):
        assert numbers(jumping.batch(step).images) == expected[step]
    assert numbers(single.batch(7).images) == expected[7]


def test_epochs_and_seeds_differ_and_repeat():
    first, other = batches(seed=0), batches(seed=1)
    orders = [epoch(first, 0), epoch(first, 1), epoch(other, 0), epoch(other, 1), [*range(300)]]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert sum(x == y for x, y in zip(a, b, strict=True)) < 20  # 1 by chance
    assert epoch(batches(seed=1), 1) == orders[3]


def test_labels_belong_to_their_images():
    source = batches()
    for step in range(2 * source.per_epoch):
        batch = source.batch(step)
        assert batch.labels.argmax(dim=1).tolist() == [(7 * number + 3) % 10 for number in numbers(batch.images)]
        assert torch.equal(batch.labels.sum(dim=1), torch.ones(len(batch.labels)))


def test_form_of_a_batch():
    batch = batches(20, batch_size=20).batch(0)
    assert batch.images.shape == (20, 1, 2, 2)
    assert batch.images.dtype == batch.labels.dtype == torch.float32
    assert batch.labels.shape == (20, 10)
    assert batch.images.min() == 0
    assert batch.images.max().item() == pytest.approx(19 / 255)


def test_one_hot():
    assert one_hot(np.array([2, 0]), 3, "cpu").tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_last_batch_of_one_image_is_refused():
    with pytest.raises(InputError, match="257 images in split 'train' leave a last batch of one image"):
        batches(257)
