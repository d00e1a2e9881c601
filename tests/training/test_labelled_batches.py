"""Batches of several networks at once: whole epochs, tiled labels, balanced subsets, the alarm of lesson 10."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.store import ImageSet
from pipeline.datasets.splits import labelled_subset
from pipeline.training.labelled_batches import (
    Member,
    Pixels,
    SemisupervisedBatch,
    SemisupervisedBatches,
    draw_labelled,
    from_network,
    to_network,
    training_rows,
)

MEMBERS = [Member(0, 4), Member(0, 7), Member(1, 4)]
SIZE = 8
AS_THEY_ARE = Pixels(offset=0.0, divisor=1.0)


def numbered_set(n: int = 125, *, validation: bool = True, n_classes: int = 10) -> ImageSet:
    """Images of one pixel that is the image's row. Of 125 images 25 are of the test: 100 remain, 12 batches of 8."""
    rows = np.arange(n)
    splits = np.where(rows % 5 == 1, "test", np.where((rows % 5 == 4) & validation, "validation", "train"))
    labels = np.where(splits == "test", rows, np.cumsum(splits != "test")) % n_classes
    index = pd.DataFrame({"key": rows.astype(str), "split": splits, "label": labels, "source": "made"})
    return ImageSet(path=Path("made"), images=rows.astype(np.uint8).reshape(n, 1, 1, 1), index=index)


def made(
    image_set: ImageSet | None = None, members: list[Member] = MEMBERS, n_labels: int = 20, batch_size: int = SIZE
) -> SemisupervisedBatches:
    return SemisupervisedBatches(
        image_set or numbered_set(),
        members=members,
        n_labels=n_labels,
        n_classes=10,
        batch_size=batch_size,
        pixels=AS_THEY_ARE,
        device="cpu",
    )


def rows_of(images: torch.Tensor) -> np.ndarray:
    """(S, B, 1, 1, 1) -> rows of the set (S, B)."""
    return images.flatten(1).to(torch.int64).numpy()


def epoch_of(batches: SemisupervisedBatches, epoch: int) -> dict[str, np.ndarray]:
    """Rows and labels (S, per_epoch * B) of a whole epoch."""
    steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
    served = [batches.batch(step) for step in steps]
    found = {what: np.hstack([rows_of(getattr(b, what)) for b in served]) for what in ("unlabelled", "matched")}
    if served[0].labelled:
        found["labelled"] = np.hstack([rows_of(b.labelled[0]) for b in served])
        found["labels"] = np.hstack([b.labels[0].numpy() for b in served])
    return found


def same(a: SemisupervisedBatch, b: SemisupervisedBatch) -> bool:
    pairs = zip(
        (*a.labelled, *a.labels, a.unlabelled, a.matched),
        (*b.labelled, *b.labels, b.unlabelled, b.matched),
        strict=True,
    )
    return all(torch.equal(one, other) for one, other in pairs)


# ---- all images, without labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["unlabelled", "matched"])
def test_an_epoch_is_a_permutation_of_train_and_validation_without_the_remainder(what: str):
    image_set, batches = numbered_set(), made()
    expected = np.flatnonzero(image_set.index["split"] != "test")
    assert batches.per_epoch == 12
    everything = set()
    for epoch in range(5):
        for rows in epoch_of(batches, epoch)[what]:
            assert len(rows) == len(set(rows)) == 96
            assert np.isin(rows, expected).all(), "no test image"
            assert (np.diff(rows) < 0).sum() > 20, "shuffled"
            everything |= set(rows)
    assert everything == set(expected), "another remainder each time"


def test_both_orders_those_of_epochs_and_those_of_members_differ():
    batches = made()
    orders = [
        rows for epoch in range(2) for what in ("unlabelled", "matched") for rows in epoch_of(batches, epoch)[what]
    ]
    for first, rows in enumerate(orders):
        for other in orders[first + 1 :]:
            assert (rows == other).mean() < 0.1


def test_without_validation_images_those_of_train_are_all():
    image_set = numbered_set(validation=False)
    assert training_rows(image_set).tolist() == np.flatnonzero(image_set.index["split"] == "train").tolist()
    assert set(training_rows(numbered_set())) == set(training_rows(image_set)), "validation rows are among them"
    assert (np.diff(training_rows(numbered_set())) > 0).all()


def test_a_set_of_one_batch_is_served_whole():
    batches = made(batch_size=100)
    assert batches.per_epoch == 1
    assert sorted(rows_of(batches.batch(3).unlabelled)[0]) == training_rows(numbered_set()).tolist()


# ---- labelled images ------------------------------------------------------------------------------------------------


def test_labelled_images_are_tiled_each_tile_permuted_anew():
    batches = made()
    for epoch in range(2):
        for rows, labels, mine in zip(
            *(epoch_of(batches, epoch)[k] for k in ("labelled", "labels")), batches.labelled_rows, strict=True
        ):
            tiles = [rows[first : first + 20] for first in range(0, 96, 20)]
            assert [len(tile) for tile in tiles] == [20, 20, 20, 20, 16]
            for tile in tiles[:-1]:
                assert sorted(tile) == mine.tolist()
            assert len(set(tiles[-1])) == 16
            assert len({tuple(tile[:16]) for tile in tiles}) == 5, "no two tiles alike"
            assert labels.tolist() == numbered_set().labels(rows).tolist()
    first, second = (epoch_of(batches, epoch)["labelled"] for epoch in range(2))
    assert (first != second).any(axis=1).all()
    assert (first[0] != first[1]).mean() > 0.5, "two seeds of a split: the same images, each its own order"


def test_subsets_are_balanced_nested_and_of_the_split():
    image_set = numbered_set()
    larger: set[int] = set(training_rows(image_set))
    for n_labels in (100, 50, 20, 10):
        found = made(n_labels=n_labels).labelled_rows
        assert found.shape == (3, n_labels)
        for rows in found:
            assert np.bincount(image_set.labels(rows), minlength=10).tolist() == [n_labels // 10] * 10
            assert (np.diff(rows) > 0).all()
        assert np.array_equal(found[0], found[1]), "the seeds of a split share its labels"
        assert set(found[0]) <= larger, "those of few labels are among those of many"
        assert n_labels == 100 or not np.array_equal(found[0], found[2]), "splits differ"
        larger = set(found[0])
    pool = training_rows(image_set)
    expected = pool[labelled_subset(image_set.labels(pool), 5, seed=1, where="test")]
    assert draw_labelled(image_set, 1, 50, 10).tolist() == expected.tolist()


def test_without_labels_there_is_nothing_labelled():
    batches = made(n_labels=0)
    assert batches.labelled_rows.shape == (3, 0)
    batch = batches.batch(0)
    assert (batch.labelled, batch.labels) == ((), ())
    assert same(batch, made(n_labels=0).batch(0))
    assert torch.equal(batch.unlabelled, made().batch(0).unlabelled), "labels change nothing else"
    epoch_of(batches, 1)
    batches.check_labelled_seen()


def test_more_labels_than_places_in_an_epoch():
    batches = made(n_labels=100)
    rows = epoch_of(batches, 0)["labelled"]
    assert all(len(set(mine)) == 96 for mine in rows)
    batches.check_labelled_seen()


# ---- a step's batch -------------------------------------------------------------------------------------------------


def test_a_batch_does_not_depend_on_what_was_asked_before():
    batches, fresh = made(), made()
    expected = [fresh.batch(step) for step in range(36)]
    for step in (30, 2, 3, 17, 17, 35, 0, 12):
        assert same(batches.batch(step), expected[step])
        assert same(made().batch(step), expected[step])
    batches.first(5, member=1, labelled=True)
    assert same(batches.batch(13), expected[13])
    assert not same(expected[0], expected[12])


def test_a_member_is_served_the_same_whichever_others_are_beside_it():
    together = [made().batch(step) for step in (0, 14)]
    for number, member in enumerate(MEMBERS):
        for beside, shift in (([member], 0), ([Member(5, 5), member], 1)):
            alone = [made(members=beside).batch(step) for step in (0, 14)]
            for batch, own in zip(together, alone, strict=True):
                for what in ("unlabelled", "matched"):
                    assert torch.equal(getattr(batch, what)[number], getattr(own, what)[shift])
                assert torch.equal(batch.labelled[0][number], own.labelled[0][shift])
                assert torch.equal(batch.labels[0][number], own.labels[0][shift])


def test_shapes_and_types():
    batch = made().batch(0)
    for images in (batch.unlabelled, batch.matched, *batch.labelled):
        assert images.shape == (3, 8, 1, 1, 1)
        assert images.dtype == torch.float32
    assert batch.labels[0].shape == (3, 8)
    assert batch.labels[0].dtype == torch.int64


@pytest.mark.parametrize("labelled", [True, False])
def test_the_first_images_are_those_of_the_first_epoch(labelled: bool):
    batches = made()
    epoch = epoch_of(batches, 0)["labelled" if labelled else "unlabelled"]
    for number in range(3):
        for served in (batches, made()):
            first = served.first(30, member=number, labelled=labelled)
            assert first.shape == (1, 30, 1, 1, 1)
            assert rows_of(first)[0].tolist() == epoch[number, :30].tolist()
    assert batches.first(500, member=0, labelled=labelled).shape[1] == 96, "fewer where there are no more"


# ---- the alarm ------------------------------------------------------------------------------------------------------


def test_the_alarm_is_silent_when_the_labelled_images_were_served():
    batches = made()
    for epoch in range(3):
        epoch_of(batches, epoch)
        batches.check_labelled_seen()


def test_too_few_labelled_images_raise_the_alarm():
    batches = made()
    batches.batch(0)
    batches._orders["labelled"][1] = 0
    for step in range(1, 12):
        batches.batch(step)
    with pytest.raises(AssertionError, match=r"epoch 0: \[20 +\d+ 20\] distinct ones of the subsets, not 20"):
        batches.check_labelled_seen()


def test_fresh_labelled_images_in_each_batch_raise_the_alarm():
    """The accident of a port: every batch has 20 labelled images, and not the same ones."""
    batches, image_set = made(), numbered_set()
    for step in range(12):
        batches.labelled_rows = np.stack([draw_labelled(image_set, step, 20, 10) for _ in MEMBERS])
        batches.batch(step)
    with pytest.raises(AssertionError, match=r"epoch 0: .* distinct ones of the subsets, not 20"):
        batches.check_labelled_seen()


def test_as_many_labelled_images_of_another_subset_raise_the_alarm():
    batches, image_set = made(), numbered_set()
    batches.labelled_rows = np.stack([draw_labelled(image_set, 99, 20, 10) for _ in MEMBERS])
    epoch_of(batches, 0)
    with pytest.raises(AssertionError, match="distinct ones of the subsets"):
        batches.check_labelled_seen()


def test_an_epoch_that_was_resumed_in_the_middle_tells_nothing():
    batches = made()
    batches.first(20, member=0, labelled=True)
    served = np.hstack([rows_of(batches.batch(step).labelled[0]) for step in (22, 23)])
    assert all(len(set(rows)) < 20 for rows in served)
    batches.check_labelled_seen()
    epoch_of(batches, 2)
    batches.check_labelled_seen()


# ---- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "divisor"), [(0.0, 255.0), (127.5, 128.0), (127.5, 127.5)])
def test_pixels_to_the_network_and_back(offset: float, divisor: float):
    pixels, levels = Pixels(offset=offset, divisor=divisor), np.arange(256, dtype=np.uint8)
    images = np.stack([levels.reshape(16, 16), levels[::-1].reshape(16, 16)], axis=-1)[None]
    x = to_network(images, pixels, "cpu")
    assert x.shape == (1, 2, 16, 16)
    assert x.dtype == torch.float32
    for level in (0, 1, 100, 255):
        assert x[0, 0, level // 16, level % 16].item() == pytest.approx((level - offset) / divisor, rel=1e-6)
    assert np.array_equal(from_network(x, pixels), images)
    assert np.array_equal(from_network(x.double() + 0.4 / divisor, pixels), images), "to the nearest level"
    beyond = from_network(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1), pixels)
    assert beyond.flatten().tolist() == [0, 255]


# ---- streams and bad input ------------------------------------------------------------------------------------------


def test_streams_differ_by_split_seed_purpose_and_index():
    def drawn(member: Member, what: str, index: int) -> float:
        return torch.rand(1, generator=member.stream(what, index), dtype=torch.float64).item()

    keys = [(Member(a, b), what, index) for a in (0, 1) for b in (0, 1) for what in ("z", "noise") for index in (0, 1)]
    assert len({drawn(*key) for key in keys}) == 16
    assert drawn(*keys[5]) == drawn(*keys[5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 101},
            "made: 100 training images, fewer than one batch of 101; lower batch_size to at most 100",
        ),
        ({"n_labels": 25}, "made: 25 labels do not divide by 10 classes, so no subset is balanced; ask for 20 or 30"),
        (
            {"n_labels": 110},
            "made: class 0 has 10 training images, 11 labels per class are asked for; lower them to at most 10",
        ),
        (
            {"image_set": numbered_set(n_classes=7)},
            "made: the networks have logits for 10 classes, the labels are of 7; name another dataset",
        ),
        (
            {"image_set": numbered_set(n_classes=12)},
            "made: the networks have logits for 10 classes, the labels are of 12; name another dataset",
        ),
    ],
    ids=["batch", "multiple of 10", "class", "few classes", "many classes"],
)
def test_what_cannot_be_served_is_refused(changes: dict, message: str):
    with pytest.raises(InputError) as error:
        made(**changes)
    assert str(error.value) == message


def test_images_to_match_features_with_are_left_out_where_none_are_matched():
    whole, without = made().batch(5), made().batch(5, matching=False)
    assert without.matched.numel() == 0 < whole.matched.numel()
    assert torch.equal(without.unlabelled, whole.unlabelled)
    assert torch.equal(without.labelled[0], whole.labelled[0])


def test_with_labels_only_the_labelled_images_are_the_same_and_there_are_no_others():
    whole, alone = made().batch(5), made().batch(5, labels_only=True)
    assert torch.equal(alone.labelled[0], whole.labelled[0])
    assert torch.equal(alone.labels[0], whole.labels[0])
    assert alone.unlabelled.numel() == alone.matched.numel() == 0 < whole.unlabelled.numel()
