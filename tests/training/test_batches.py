"""Batches: every image once an epoch, and the same batch for the same step whatever was asked before."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.store import ImageSet
from pipeline.models import dcgan
from pipeline.models.build import Architecture, ColourArchitecture, MnistArchitecture
from pipeline.training.batches import Batch, Batches, one_hot

MNIST = MnistArchitecture(name="dcgan_mnist", z_dim=5, filters=4, hidden=16)
SVHN = ColourArchitecture(name="dcgan_svhn", z="gaussian", z_dim=5, filters=4, variant=dcgan.PAPER)


def numbered_set(n: int, sides: tuple[int, int, int] = (28, 28, 1)) -> ImageSet:
    """``n`` training images that carry their number in two pixels, between as many images of another split."""
    number = np.arange(n)
    images = np.full((2 * n, *sides), 255, dtype=np.uint8)
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


def batches(n: int = 300, *, batch_size: int = 128, seed: int = 0, architecture: Architecture = MNIST) -> Batches:
    image_set = numbered_set(n, (28, 28, 1) if architecture is MNIST else (32, 32, 3))
    return Batches(image_set, "train", architecture, batch_size=batch_size, seed=seed, device="cpu")


def numbers(images: torch.Tensor) -> list[int]:
    """Of images in [0, 1]."""
    levels = (images * 255).round().long()
    return (100 * levels[:, 0, 0, 0] + levels[:, 0, 0, 1]).tolist()


def epoch(source: Batches, which: int) -> list[int]:
    steps = range(which * source.per_epoch, (which + 1) * source.per_epoch)
    return [number for step in steps for number in numbers(source.batch(step).images)]


def test_an_epoch_has_every_image_once_and_keeps_the_partial_batch():
    source = batches()
    assert source.per_epoch == 3
    assert [len(source.batch(step).images) for step in range(6)] == [128, 128, 44, 128, 128, 44]
    for which in (0, 1, 5):
        assert sorted(epoch(source, which)) == [*range(300)]


@pytest.mark.parametrize(("n", "expected"), [(256, [128, 128]), (128, [128]), (130, [128, 2])])
def test_number_of_batches(n: int, expected: list[int]):
    source = batches(n)
    assert source.per_epoch == len(expected)
    assert [len(source.batch(step).images) for step in range(source.per_epoch)] == expected


def test_paper_has_391_batches_of_50000_images():
    """50,000 images in batches of 128: 391, the last one of 80 (facts of the appendix)."""
    images = np.broadcast_to(np.uint8(0), (50_000, 28, 28, 1))
    index = pd.DataFrame({"key": "", "split": "train", "label": 0, "source": ""}, index=range(50_000))
    image_set = ImageSet(path=Path("made"), images=images, index=index)
    source = Batches(image_set, "train", MNIST, batch_size=128, seed=0, device="cpu")
    assert source.per_epoch == 391
    assert len(source.batch(390).images) == 80


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
        (labels,) = batch.condition
        assert labels.argmax(dim=1).tolist() == [(7 * number + 3) % 10 for number in numbers(batch.images)]
        assert torch.equal(labels.sum(dim=1), torch.ones(len(labels)))


def test_form_of_a_batch():
    batch = batches(20, batch_size=20).batch(0)
    (labels,) = batch.condition
    assert batch.images.shape == (20, 1, 28, 28)
    assert batch.images.dtype == labels.dtype == torch.float32
    assert labels.shape == (20, 10)
    assert batch.images.min() == 0
    assert batch.images.max().item() == pytest.approx(19 / 255)
    assert (batch.size, batch.mine) == (20, slice(0, 20))


def test_colour_images_are_signed_and_have_no_labels():
    batch = batches(20, batch_size=20, architecture=SVHN).batch(0)
    assert batch.images.shape == (20, 3, 32, 32)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.condition == ()
    assert batch.images.min() == -1
    assert batch.images.max().item() == pytest.approx(19 / 127.5 - 1)
    assert sorted(numbers((batch.images + 1) / 2)) == [*range(20)]


def test_one_hot():
    assert one_hot(np.array([2, 0]), 3, "cpu").tolist() == [[0, 0, 1], [1, 0, 0]]


# ---- shared by several processes ------------------------------------------------------------------------------------


def parts_of(monkeypatch: pytest.MonkeyPatch, world: int, step: int, n: int = 300) -> list[Batch]:
    """What each of ``world`` processes gets at a step."""
    monkeypatch.setenv("WORLD_SIZE", str(world))
    parts = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(batches(n).batch(step))
    return parts


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_parts_of_all_processes_are_the_whole_batch(monkeypatch: pytest.MonkeyPatch, world: int, step: int):
    """In order of rank; 300 images in batches of 128 leave a last one of 44, which 4 divides as well."""
    whole = batches().batch(step)
    parts = parts_of(monkeypatch, world, step)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.condition[0] for part in parts]), whole.condition[0])
    assert {part.size for part in parts} == {whole.size} == {len(whole.images)}
    rows = torch.arange(whole.size)
    assert torch.equal(torch.cat([rows[part.mine] for part in parts]), rows)
    assert len({len(part.images) for part in parts}) == 1


def test_processes_leave_out_what_does_not_divide(monkeypatch: pytest.MonkeyPatch):
    """A last batch of 47 images among 4: 11 each, and the last 3 of the order are nobody's."""
    whole = batches(303).batch(2)
    parts = parts_of(monkeypatch, 4, 2, n=303)
    assert (len(whole.images), [len(part.images) for part in parts]) == (47, [11] * 4)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images[:44])
    assert {part.size for part in parts} == {44}


# ---- refused --------------------------------------------------------------------------------------------------------


def test_a_last_batch_of_one_image_is_refused():
    with pytest.raises(InputError, match="made: 257 images leave a last batch of one image at batch_size 128"):
        batches(257)


def test_a_last_batch_of_one_image_a_process_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"259 images leave a last batch of 3 images .*\(4 are needed\)"):
        batches(259)
    assert batches(260).per_epoch == 3


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(InputError, match=r"made: 127 images, fewer than one batch of 128; .* at most 127"):
        batches(127)
    assert batches(128).per_epoch == 1


@pytest.mark.parametrize(("architecture", "found"), [(MNIST, (32, 32, 3)), (SVHN, (28, 28, 1)), (SVHN, (64, 64, 3))])
def test_images_of_another_size_are_refused(architecture: Architecture, found: tuple[int, int, int]):
    expected = "28 x 28 x 1" if architecture is MNIST else "32 x 32 x 3"
    message = f"made: images of {' x '.join(map(str, found))}, the networks {architecture.name} take {expected}"
    with pytest.raises(InputError, match=message):
        Batches(numbered_set(20, found), "train", architecture, batch_size=20, seed=0, device="cpu")


@pytest.mark.parametrize(("wrong", "said"), [(-1, "-1..9"), (10, "0..10")])
def test_labels_that_the_networks_do_not_know_are_refused(wrong: int, said: str):
    image_set = numbered_set(20)
    image_set.index.loc[6, "label"] = wrong  # an image of the split
    with pytest.raises(InputError, match=f"needs labels 0..9, found {said}"):
        Batches(image_set, "train", MNIST, batch_size=20, seed=0, device="cpu")


def test_networks_without_labels_take_any():
    image_set = numbered_set(20, (32, 32, 3))
    image_set.index["label"] = -1
    assert Batches(image_set, "train", SVHN, batch_size=20, seed=0, device="cpu").batch(0).condition == ()


def test_labels_of_other_splits_do_not_matter():
    image_set = numbered_set(20)
    image_set.index.loc[7, "label"] = -1
    assert Batches(image_set, "train", MNIST, batch_size=20, seed=0, device="cpu").per_epoch == 1
