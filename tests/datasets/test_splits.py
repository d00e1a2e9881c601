"""Splits: sizes exact, classes shared out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.datasets.splits import labelled_subset, stratified_split, validation_rows

NAMES = ("train", "validation", "test")


def cut(total, shares):
    """Whole sizes in the given shares that add up to the total."""
    ends = np.round(np.cumsum(shares) / max(sum(shares), 1) * total).astype(int)
    ends[-1] = total
    return dict(zip(NAMES, np.diff(ends, prepend=0).tolist(), strict=False))


def counts(split, labels, sizes):
    """Examples by split and class."""
    return {
        name: np.array([np.sum((split == name) & (labels == label)) for label in np.unique(labels)]) for name in sizes
    }


SHARES = st.lists(st.integers(1, 9), min_size=1, max_size=3)
SEEDS = st.integers(0, 100)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), SHARES, SEEDS, st.booleans())
def test_sizes_are_exact(labels, shares, seed, stratified):
    sizes = cut(len(labels), shares)
    split = stratified_split(np.array(labels), sizes, seed=seed, stratified=stratified, where="params")
    assert split.shape == (len(labels),)
    assert {name: int(np.sum(split == name)) for name in sizes} == sizes


def off_proportion(n_of_classes, shares, seed):
    """By how many examples a class's part of a split is off its proportional share, at most."""
    labels = np.repeat(np.arange(len(n_of_classes)), n_of_classes)
    sizes = cut(len(labels), shares)
    split = stratified_split(labels, sizes, seed=seed, stratified=True, where="params")
    proportional = {name: np.array(n_of_classes) * size / len(labels) for name, size in sizes.items()}
    return max(np.abs(found - proportional[name]).max() for name, found in counts(split, labels, sizes).items())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), SHARES, SEEDS)
def test_shares_are_proportional_as_far_as_ranks_allow(n_of_classes, shares, seed):
    """Cutting n sorted mid-ranks is off by half an example a cut, and by what the ties of the other classes add."""
    classes, n = len(n_of_classes), sum(n_of_classes)
    assert off_proportion(n_of_classes, shares, seed) <= 1 + max(n_of_classes) * classes / n


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 10), SHARES, SEEDS)
def test_classes_of_equal_size_are_shared_within_one_example(n_of_class, classes, shares, seed):
    assert off_proportion([n_of_class] * classes, shares, seed) < 1


def test_divisible_classes_are_shared_exactly():
    labels = np.tile(np.arange(10), 50)
    sizes = {"train": 350, "validation": 50, "test": 100}
    found = counts(stratified_split(labels, sizes, seed=3, stratified=True, where="params"), labels, sizes)
    assert {name: values.tolist() for name, values in found.items()} == {
        "train": [35] * 10,
        "validation": [5] * 10,
        "test": [10] * 10,
    }
    plain = counts(stratified_split(labels, sizes, seed=3, stratified=False, where="params"), labels, sizes)
    assert plain["test"].tolist() != [10] * 10  # the check above can fail


def test_uneven_classes_are_cut_at_the_middle_of_their_ranks():
    labels, sizes = np.repeat(np.arange(3), [1, 9, 90]), {"train": 50, "test": 50}
    found = counts(stratified_split(labels, sizes, seed=3, stratified=True, where="params"), labels, sizes)
    assert {name: values.tolist() for name, values in found.items()} == {"train": [1, 4, 45], "test": [0, 5, 45]}


def test_mnists_own_class_sizes_are_shared_within_one_example():
    n_of_classes = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert off_proportion(n_of_classes, [5, 1], seed=42) <= 1


@pytest.mark.parametrize("stratified", [False, True])
def test_the_seed_decides_and_the_order_is_shuffled(stratified):
    labels = np.tile(np.arange(4), 25)
    sizes = {"train": 60, "test": 40}

    def split(seed):
        return stratified_split(labels, sizes, seed=seed, stratified=stratified, where="params").tolist()

    assert split(0) == split(0)
    assert split(0) != split(1)
    assert "test" in split(0)[:60]


def test_a_plain_split_does_not_look_at_the_labels():
    sizes = {"train": 60, "test": 40}
    first, second = (
        stratified_split(labels, sizes, seed=0, stratified=False, where="params")
        for labels in (np.tile(np.arange(4), 25), np.zeros(100, dtype=int))
    )
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("size", [39, 41])
def test_sizes_that_do_not_add_up(size):
    with pytest.raises(InputError, match=f"params, toy: {size} train \\+ 60 test = {size + 60} examples .* has 100"):
        stratified_split(
            np.zeros(100, dtype=int), {"train": size, "test": 60}, seed=0, stratified=False, where="params, toy"
        )


# labelled subsets

POOLS = st.lists(st.integers(0, 4), min_size=30, max_size=120).map(lambda found: np.array([*found, *range(5)]))


def subset(labels, per_class, seed=0, draw=0):
    return labelled_subset(labels, per_class, seed=seed, draw=draw, where="data/sets/toy")


def smallest_class(labels):
    return int(np.bincount(labels).min())


@settings(deadline=None, max_examples=60)
@given(POOLS, SEEDS, st.integers(0, 3), st.data())
def test_a_subset_is_balanced_and_has_no_row_twice(labels, seed, draw, data):
    per_class = data.draw(st.integers(1, smallest_class(labels)))
    rows = subset(labels, per_class, seed, draw)
    assert rows.dtype == np.int64
    assert np.all(np.diff(rows) > 0)  # ascending, none twice
    assert np.bincount(labels[rows]).tolist() == [per_class] * 5


@settings(deadline=None, max_examples=30)
@given(POOLS, SEEDS, st.sampled_from([np.uint8, np.int8, np.int32, np.uint64, np.float64]))
def test_a_subset_repeats_whatever_the_type_of_the_labels(labels, seed, dtype):
    per_class = smallest_class(labels)
    assert np.array_equal(subset(labels, per_class, seed), subset(labels.astype(dtype), per_class, seed))


@settings(deadline=None, max_examples=60)
@given(POOLS, SEEDS, st.integers(0, 3), st.data())
def test_subsets_of_one_draw_are_nested(labels, seed, draw, data):
    small, large = sorted(data.draw(st.integers(1, smallest_class(labels))) for _ in range(2))
    assert set(subset(labels, small, seed, draw)) <= set(subset(labels, large, seed, draw))


@settings(deadline=None, max_examples=60)
@given(POOLS, st.randoms(use_true_random=False), SEEDS)
def test_what_is_drawn_of_a_class_depends_on_its_number_of_examples_only(labels, random, seed):
    """The k-th example of a class is drawn or not, wherever the examples lie among those of other classes."""
    order = list(range(len(labels)))
    random.shuffle(order)
    per_class = smallest_class(labels)
    for one in range(5):
        ranks = [
            np.searchsorted(np.flatnonzero(pool == one), rows[pool[rows] == one]).tolist()
            for pool in (labels, labels[order], np.append(labels[order], [(one + 1) % 5, -1]))
            for rows in (subset(pool, per_class, seed),)
        ]
        assert ranks[0] == ranks[1] == ranks[2]


def test_seeds_and_draws_are_independent():
    labels = np.tile(np.arange(10), 100)
    found = [set(subset(labels, 50, seed, draw)) for seed in range(3) for draw in range(3)]
    for one, other in itertools.combinations(found, 2):
        assert 195 < len(one & other) < 305  # half of the rows are in both by chance: 250 +- 11


def test_classes_are_drawn_by_streams_of_their_own():
    """Else the k-th examples of all classes would be drawn together."""
    labels = np.repeat(np.arange(10), 100)
    ranks = [frozenset(rows % 100) for rows in np.split(subset(labels, 20), 10)]
    assert len(set(ranks)) == 10


def test_every_example_is_drawn_equally_often():
    labels = np.repeat(np.arange(3), [10, 20, 40])
    times = np.bincount(np.concatenate([subset(labels, 5, draw=draw) for draw in range(2000)]), minlength=70)
    for label, share in enumerate([5 / 10, 5 / 20, 5 / 40]):
        spread = np.sqrt(2000 * share * (1 - share))
        assert np.abs(times[labels == label] - 2000 * share).max() < 4.5 * spread
    assert times[labels == 0].std() > 0


def test_images_without_a_label_are_never_drawn():
    labels = np.array([-1, 0, -1, 1, 0, -1, 1])
    assert subset(labels, 2).tolist() == [1, 3, 4, 6]


def test_a_subset_of_the_whole_set():
    assert subset(np.array([2, 0, 1]), 1).tolist() == [0, 1, 2]


def test_a_class_with_too_few():
    labels = np.repeat(np.arange(10), [200] * 7 + [96] + [200] * 2)
    with pytest.raises(InputError) as caught:
        subset(labels, 100)
    assert str(caught.value) == (
        "data/sets/toy: class 7 has 96 training images, 100 labels per class are asked for; lower them to at most 96"
    )
    assert len(subset(labels, 96)) == 960


def test_a_class_with_none():
    with pytest.raises(InputError, match=r"class 1 has 0 training images, 2 labels .*no subset of this set can be bal"):
        subset(np.array([0, 0, 2, 2]), 2)


@pytest.mark.parametrize(("labels", "per_class"), [([0, 1], 0), ([0, 1], -1), ([-1, -1], 1), ([], 1)])
def test_no_subset_at_all(labels, per_class):
    with pytest.raises(InputError, match=f"data/sets/toy: {per_class} labels per class are asked for, "):
        subset(np.array(labels, dtype=int), per_class)


# validation


@settings(deadline=None, max_examples=60)
@given(POOLS, SEEDS, st.booleans(), st.data())
def test_validation_rows_and_the_pool_make_up_the_set(labels, seed, stratified, data):
    size = data.draw(st.integers(1, len(labels) - 1))
    rows = validation_rows(labels, size, seed=seed, stratified=stratified, where="params")
    pool = np.delete(np.arange(len(labels)), rows)
    assert rows.dtype == np.int64
    assert len(rows) == size
    assert np.all(np.diff(rows) > 0)
    assert sorted([*rows, *pool]) == list(range(len(labels)))


def test_validation_rows_are_stratified_when_asked():
    labels = np.repeat(np.arange(10), 70)
    found = [
        np.bincount(labels[validation_rows(labels, 100, seed=1, stratified=stratified, where="params")]).tolist()
        for stratified in (True, False)
    ]
    assert found[0] == [10] * 10
    assert found[1] != [10] * 10


def test_the_seed_decides_the_validation_rows():
    def rows(seed):
        labels = np.zeros(100, dtype=int)
        return validation_rows(labels, 30, seed=seed, stratified=False, where="params").tolist()

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    assert rows(0) != list(range(30))


@pytest.mark.parametrize("size", [-1, 0, 100, 101])
def test_a_validation_set_that_leaves_nothing(size):
    with pytest.raises(InputError, match=f"params: {size} validation images .* has 100; ask for 1 to 99"):
        validation_rows(np.zeros(100, dtype=int), size, seed=0, stratified=False, where="params")
