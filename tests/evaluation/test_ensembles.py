"""Ensembles of classifiers against slow loops, limits, and members that do not belong together."""

import math

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.evaluation.ensembles import (
    averaged_logits,
    averaged_probabilities,
    ensemble_error,
    first_of_each_split,
    member_errors,
    split_errors,
    splits_of,
)

N_TEST, CLASSES = 40, 10
MEMBERS = np.array([(split, seed) for split in (3, 1) for seed in (7, 8, 9)])


def made(n_members, *, scale=2.0, seed=0):
    """Logits and labels: each member is right a little more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, N_TEST)
    logits = rng.normal(0, scale, (n_members, N_TEST, CLASSES)).astype(np.float32)
    logits[:, np.arange(N_TEST), labels] += scale
    return logits, labels


def slow_probabilities(logits):
    """The mean of softmax, number by number."""
    n_members, n_images, n_classes = logits.shape
    means = np.zeros((n_images, n_classes))
    for i in range(n_images):
        for of_member in logits:
            total = sum(math.exp(x) for x in of_member[i].tolist())
            for c in range(n_classes):
                means[i, c] += math.exp(float(of_member[i, c])) / total / n_members
    return means


def slow_error(scores, labels):
    wrong = 0
    for of_image, label in zip(scores.tolist(), labels.tolist(), strict=True):
        wrong += of_image.index(max(of_image)) != label
    return wrong / len(labels)


def one_hot(*classes):
    """A member's logits: certain of these classes, one an image."""
    return 50.0 * np.eye(CLASSES)[list(classes)]


# ---- definitions ----------------------------------------------------------------------------------------------------


def test_error_of_each_member():
    logits, labels = made(5)
    errors = member_errors(logits, labels)
    assert errors.tolist() == pytest.approx([slow_error(of_member, labels) for of_member in logits])
    assert 0 < errors.min() < errors.max() < 1
    assert errors.dtype == np.float64


def test_error_counts_images():
    labels = np.array([4, 5, 6, 7])
    logits = np.stack([one_hot(4, 5, 6, 7), one_hot(4, 5, 6, 0), one_hot(0, 0, 0, 0)])
    assert member_errors(logits, labels).tolist() == [0.0, 0.25, 1.0]


def test_the_first_of_equal_logits_is_the_class():
    assert member_errors(np.zeros((1, 2, CLASSES)), np.array([0, 1])).tolist() == [0.5]


def test_averaged_probabilities_against_a_slow_loop():
    logits, _ = made(4)
    found = averaged_probabilities(logits)
    assert found == pytest.approx(slow_probabilities(logits), rel=1e-12)
    assert found.sum(axis=1) == pytest.approx(np.ones(N_TEST), rel=1e-12)


def test_averaged_logits_against_a_slow_loop():
    logits, _ = made(3)
    expected = [[sum(float(m[i, c]) for m in logits) / 3 for c in range(CLASSES)] for i in range(N_TEST)]
    assert averaged_logits(logits) == pytest.approx(np.array(expected), rel=1e-12)


def test_averaged_logits_are_the_geometric_mean_of_the_probabilities():
    logits, _ = made(4)
    each = np.stack([averaged_probabilities(of_member[np.newaxis]) for of_member in logits])
    geometric = np.exp(np.log(each).mean(axis=0))
    expected = geometric / geometric.sum(axis=1, keepdims=True)
    assert averaged_probabilities(averaged_logits(logits)[np.newaxis]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("combine", [averaged_probabilities, averaged_logits])
def test_ensemble_error_is_that_of_the_combined_scores(combine):
    logits, labels = made(3)
    slow = slow_probabilities(logits) if combine is averaged_probabilities else logits.astype(float).sum(axis=0)
    error = ensemble_error(logits, labels, MEMBERS[:3], combine)
    assert error == pytest.approx(slow_error(slow, labels))
    assert error < member_errors(logits, labels).min(), "independent errors, of which an ensemble has fewer"


def test_the_two_ways_of_combining_differ():
    """One member is sure, the other two are not so sure of something else."""
    logits = np.zeros((3, 1, CLASSES))
    logits[0, 0, :2] = 12.0, 0.0
    logits[1:, 0, :2] = -2.0, 3.0
    labels = np.array([1])
    members = MEMBERS[:3]
    assert ensemble_error(logits, labels, members) == 0.0  # 2 x 0.71 against 1 + 2 x 0.005
    assert ensemble_error(logits, labels, members, averaged_logits) == 1.0  # 2 x 3 against 12 - 2 x 2


# ---- properties and limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", [averaged_probabilities, averaged_logits])
def test_one_member_and_equal_members_are_that_member(combine):
    logits, labels = made(1)
    single = member_errors(logits, labels)[0]
    assert ensemble_error(logits, labels, MEMBERS[:1], combine) == single
    assert ensemble_error(np.repeat(logits, 3, axis=0), labels, MEMBERS[:3], combine) == single


def test_the_order_of_the_members_changes_rounding_only():
    logits, _ = made(4)
    for combine in (averaged_probabilities, averaged_logits):
        assert combine(logits[::-1]) == pytest.approx(combine(logits), rel=1e-12)


def test_a_number_added_to_all_logits_of_an_image_changes_no_probability():
    logits, _ = made(3)
    shifts = np.random.default_rng(1).normal(0, 5, (3, N_TEST, 1))
    assert averaged_probabilities(logits + shifts) == pytest.approx(averaged_probabilities(logits), rel=1e-9)


def test_large_logits_do_not_overflow():
    logits = np.array([[[1e4, 0.0], [-1e4, 0.0]], [[-1e4, 0.0], [-1e4, 0.0]]], dtype=np.float32)
    assert averaged_probabilities(logits).tolist() == [[0.5, 0.5], [0.0, 1.0]]


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_seeds_of_each_split_are_an_ensemble_in_the_order_of_the_members():
    logits, labels = made(6)
    expected = [ensemble_error(part, labels, MEMBERS[:3]) for part in (logits[:3], logits[3:])]
    assert split_errors(logits, labels, MEMBERS).tolist() == expected
    assert expected[0] != expected[1]
    mixed = [3, 0, 4, 1, 5, 2]  # split 1 first, seeds of the two in turn
    assert split_errors(logits[mixed], labels, MEMBERS[mixed]).tolist() == pytest.approx(expected[::-1])


def test_splits_in_their_order_and_the_first_seed_of_each():
    assert splits_of(MEMBERS) == [3, 1]
    assert first_of_each_split(MEMBERS).tolist() == [0, 3]
    assert first_of_each_split(MEMBERS[[0, 3, 1, 4]]).tolist() == [0, 1]


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_members_of_several_splits_are_no_ensemble():
    logits, labels = made(6)
    with pytest.raises(InputError, match="are of the splits 1, 3; expected members of one split"):
        ensemble_error(logits, labels, MEMBERS)


def test_an_ensemble_of_nobody():
    logits, labels = made(2)
    for refused in (
        lambda: member_errors(logits[:0], labels),
        lambda: ensemble_error(logits[:0], labels, MEMBERS[:0]),
        lambda: split_errors(logits[:0], labels, MEMBERS[:0]),
    ):
        with pytest.raises(InputError, match="no member; expected the logits of at least one network"):
            refused()


@pytest.mark.parametrize("members", [MEMBERS[:3], MEMBERS[:2, 0], MEMBERS[:2].T[:1]])
def test_members_that_are_not_those_of_the_logits(members):
    logits, labels = made(2)
    with pytest.raises(InputError, match=r"beside the logits of 2 networks; expected \(2, 2\)"):
        split_errors(logits, labels, members)


def test_one_network_twice():
    logits, labels = made(2)
    with pytest.raises(InputError, match="stands twice"):
        ensemble_error(logits, labels, MEMBERS[[0, 0]])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((2, 5, CLASSES)), np.zeros(4, dtype=int)),
        (np.zeros((2, 5)), np.zeros(5, dtype=int)),
        (np.zeros((2, 5, CLASSES)), np.zeros((5, 1), dtype=int)),
        (np.zeros((2, 0, CLASSES)), np.zeros(0, dtype=int)),
    ],
)
def test_shapes_that_do_not_fit(logits, labels):
    with pytest.raises(InputError, match=r"expected \(members, images, classes\) and \(images,\)"):
        member_errors(logits, labels)


@pytest.mark.parametrize(("label", "told"), [(-1, "from -1 to 0"), (CLASSES, "from 0 to 10")])
def test_labels_that_are_no_class(label, told):
    with pytest.raises(InputError, match=f"labels {told}; expected 0 to 9"):
        member_errors(np.zeros((1, 2, CLASSES)), np.array([0, label]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_name_the_member(bad):
    logits, labels = made(3)
    logits[1, 5, 2] = bad
    with pytest.raises(InputError, match=r"member 1 \(counted from 0\) are not all finite"):
        split_errors(logits, labels, MEMBERS[:3])
