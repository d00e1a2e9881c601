"""Splits: sizes exact, classes shared out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.datasets.splits import stratified_split

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


# strict: as soon as the bug is mended, this mark goes
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
