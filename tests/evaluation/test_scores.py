"""Scores against their definitions: known inputs, slow double loops, torch-fidelity on the same numbers."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.evaluation import scores
from pipeline.evaluation.scores import (
    NeighbourMeasures,
    class_score,
    frechet_distance,
    image_divergence,
    kernel_distance,
    neighbour_measures,
)


def normal(name, *shape):
    return numpy_stream(0, f"scores {name}").normal(size=shape)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def logits_of(n=203, k=11):
    return 3 * normal("logits", n, k)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, the last one short."""
    monkeypatch.setattr(scores, "BLOCK", 16)


# The class score


def slow_scores(p, n_splits):
    n, k = p.shape
    found = []
    for split in range(n_splits):
        rows = range(split * n // n_splits, (split + 1) * n // n_splits)
        total = 0.0
        for i in rows:
            for y in range(k):
                p_y = sum(p[j, y] for j in rows) / len(rows)
                total += p[i, y] * np.log(p[i, y] / p_y) if p[i, y] > 0 else 0.0
        found.append(np.exp(total / len(rows)))
    return found


@pytest.mark.parametrize("n_splits", [1, 2, 5])
@pytest.mark.usefixtures("small_blocks")
def test_class_score_by_loops(n_splits):
    p = softmax(logits_of(37, 4))
    p[3] = [0, 0.25, 0.75, 0]
    np.testing.assert_allclose(class_score(p, n_splits), slow_scores(p, n_splits), rtol=1e-12)


@pytest.mark.parametrize("n_classes", [1, 2, 10, 1008])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_as_many_one_hot_rows_of_each_class_score_the_number_of_classes(n_classes, dtype):
    p = np.tile(np.eye(n_classes, dtype=dtype), (4, 1))
    np.testing.assert_allclose(class_score(p, 4), np.full(4, n_classes), rtol=1e-12)


def test_equal_rows_score_1():
    np.testing.assert_allclose(class_score(np.tile([0.7, 0.2, 0.1, 0.0], (50, 1))), np.ones(10), rtol=1e-12)


@pytest.mark.parametrize(("shuffle", "n_splits"), [(False, 10), (True, 10), (True, 3)])
def test_class_score_is_that_of_torch_fidelity(shuffle, n_splits):
    """Which shuffles by itself, with this generator; 203 images do not divide by 10 or 3."""
    logits = logits_of()
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=n_splits, shuffle=shuffle, rng_seed=2020)
    order = np.random.RandomState(2020).permutation(len(logits)) if shuffle else np.arange(len(logits))
    found = class_score(softmax(logits)[order], n_splits)
    assert (found.mean(), found.std(ddof=0)) == pytest.approx(
        (theirs["inception_score_mean"], theirs["inception_score_std"]),
        rel=1e-10,
    )


def test_samples_in_the_order_of_their_classes_score_too_low():
    """Ten classes, ten splits: sorted, a split holds one class and scores 1; shuffled, nearly 10."""
    p = np.eye(10)[np.repeat(np.arange(10), 100)]
    assert class_score(p) == pytest.approx(np.ones(10))
    shuffled = class_score(p[numpy_stream(0, "shuffle").permutation(len(p))])
    assert shuffled.min() > 9
    assert class_score(p, 1) == pytest.approx(10)


def test_a_split_has_its_own_marginal():
    p = np.repeat([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], 2, axis=0)
    assert class_score(p, 3) == pytest.approx(np.ones(3))
    assert class_score(p, 1) == pytest.approx(2 ** (2 / 3))


@pytest.mark.usefixtures("small_blocks")
def test_image_divergence():
    p = softmax(logits_of(37, 4))
    p[5] = [0, 1, 0, 0]
    marginal = p.mean(axis=0)
    by_loops = [sum(x * np.log(x / q) for x, q in zip(row, marginal, strict=True) if x > 0) for row in p]
    found = image_divergence(p)
    assert found == pytest.approx(by_loops, rel=1e-12)
    assert np.exp(found.mean()) == pytest.approx(class_score(p, 1)[0], rel=1e-12)


def test_certain_images_of_rare_classes_rank_first():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    assert np.argsort(-image_divergence(p)).tolist()[0] == 2
    assert image_divergence(np.full((3, 5), 0.2)) == pytest.approx(np.zeros(3), abs=1e-15)
    assert image_divergence(np.full((3, 7), 1 / 7)).min() >= 0


@pytest.mark.parametrize("function", [class_score, image_divergence])
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.5, 0.5, 0.01], r"row 20 of the probabilities sums to 1\.01; expected 1 within 0\.001; give the softmax"),
        ([0.5, 0.49, 0.0], r"row 20 of the probabilities sums to 0\.99; "),
        ([1.2, -0.2, 0.0], r"row 20 of the probabilities holds a value that is negative or not finite"),
        ([np.nan, 0.5, 0.5], r"row 20 of the probabilities holds a value that is negative or not finite"),
        ([np.inf, 0.0, 0.0], r"row 20 of the probabilities holds a value that is negative or not finite"),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_rows_that_are_no_probabilities(function, row, said):
    p = np.full((30, 3), 1 / 3)
    p[20] = row
    with pytest.raises(InputError, match=said):
        function(p)


@pytest.mark.parametrize(("total", "is_refused"), [(1.0009, False), (1.0011, True), (0.9991, False), (0.9989, True)])
def test_tolerance_of_a_row_sum(total, is_refused):
    p = np.full((4, 2), total / 2)
    if is_refused:
        with pytest.raises(InputError, match="sums to"):
            image_divergence(p)
    else:
        image_divergence(p)


def test_a_softmax_stored_as_float16_is_accepted():
    p = softmax(normal("half", 200, 1008))
    assert class_score(p.astype(np.float16)) == pytest.approx(class_score(p), rel=2e-3)


@pytest.mark.parametrize(("n", "n_splits"), [(9, 10), (4, 0), (3, -1)])
def test_fewer_images_than_splits(n, n_splits):
    with pytest.raises(InputError, match=rf"{n} images cannot be cut into {n_splits} splits; .*more images"):
        class_score(np.full((n, 2), 0.5), n_splits)


def test_as_many_images_as_splits():
    assert class_score(np.full((10, 2), 0.5), 10) == pytest.approx(np.ones(10))


@pytest.mark.parametrize("p", [np.full(4, 0.25), np.eye(3, dtype=np.int64), np.empty((0, 3)), np.empty((3, 0))])
def test_arrays_that_are_no_probabilities(p):
    with pytest.raises(InputError, match=r"expected floating-point numbers \(images, classes\), at least one"):
        image_divergence(p)


# Distances


def features(name, n, d=6, shift=0.0):
    return (normal(name, n, d) @ normal("mix", d, d) + shift).astype(np.float32)


@pytest.mark.usefixtures("small_blocks")
def test_frechet_distance_is_that_of_torch_fidelity():
    real, fake = features("real", 90), features("fake", 70, shift=1.0)
    theirs = [fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (real, fake)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_known_distributions():
    """Diagonal covariances: sum of (m - m')^2 + (s - s')^2."""
    corners = np.array([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    scale = np.sqrt(4 / 3)  # variance of the corners, divided by n - 1
    found = frechet_distance(corners, np.array([3.0, 0.5]) * corners + [10.0, 0.0])
    assert found == pytest.approx(100 + scale**2 * ((3 - 1) ** 2 + (0.5 - 1) ** 2), rel=1e-12)


@pytest.mark.parametrize("n", [5, 200])
def test_frechet_distance_of_equal_sets_is_0(n):
    """Also where there are fewer images than features and the covariance is singular."""
    same = features("same", n, 20)
    assert 0.0 <= frechet_distance(same, same[::-1]) < 1e-4


def test_far_from_the_origin_nothing_cancels():
    real, fake = features("real", 90).astype(np.float64), features("fake", 70).astype(np.float64)
    assert frechet_distance(real + 1e6, fake + 1e6) == pytest.approx(frechet_distance(real, fake), rel=1e-6)


def slow_kernel_distance(x, y):
    def k(a, b):
        return (sum(i * j for i, j in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m = len(x)
    within = sum(k(z[i], z[j]) for z in (x, y) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_kernel_distance_by_loops_and_by_torch_fidelity():
    """A subset as large as the set: whatever order it is drawn in, the distance is one."""
    real, fake = features("real", 13).astype(np.float64), features("fake", 13, shift=0.5).astype(np.float64)
    found = kernel_distance(real, fake, seed=0, n_subsets=2, subset_size=13)
    assert found == pytest.approx(slow_kernel_distance(real, fake), rel=1e-9)
    tensors = torch.from_numpy(real), torch.from_numpy(fake)
    theirs = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=13, verbose=False)
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kernel_distance_of_subsets():
    """The mean over the subsets is near the distance of the whole sets, and the seed decides which they are."""
    real, fake = normal("real", 300, 6), normal("fake", 300, 6) + 0.5
    whole = kernel_distance(real, fake, seed=0, n_subsets=1, subset_size=300)
    many = [kernel_distance(real, fake, seed=seed, n_subsets=100, subset_size=100) for seed in (0, 0, 1)]
    assert many[0] == many[1] != many[2]
    assert many == pytest.approx([whole] * 3, rel=0.1)
    one = [kernel_distance(real, fake, seed=0, n_subsets=n, subset_size=50) for n in (1, 2)]
    assert one[0] != one[1]


def test_kernel_distance_is_0_on_average_for_one_distribution():
    real, fake = normal("real 0", 2000, 4), normal("fake 0", 2000, 4)
    same = kernel_distance(real, fake, seed=0, n_subsets=50, subset_size=200)
    other = kernel_distance(real, fake + 0.5, seed=0, n_subsets=50, subset_size=200)
    assert abs(same) < 0.05 < 0.5 < other


def test_float16_features_are_computed_with_in_float64():
    """(a.b / D + 1)^3 overflows float16 here."""
    real, fake = (20 * features(name, 50) for name in ("real", "fake"))
    halves = real.astype(np.float16), fake.astype(np.float16)
    exact = halves[0].astype(np.float64), halves[1].astype(np.float64)
    settings = {"seed": 0, "n_subsets": 3, "subset_size": 20}
    assert kernel_distance(*halves, **settings) == pytest.approx(kernel_distance(*exact, **settings), rel=1e-12)
    assert frechet_distance(*halves) == pytest.approx(frechet_distance(*exact), rel=1e-12)
    assert neighbour_measures(*halves) == neighbour_measures(*exact)


@pytest.mark.parametrize(("n_subsets", "subset_size"), [(0, 10), (1, 1)])
def test_subsets_that_have_no_distance(n_subsets, subset_size):
    with pytest.raises(InputError, match=f"{n_subsets} subsets of {subset_size} images for the kernel distance"):
        kernel_distance(features("a", 20), features("b", 20), seed=0, n_subsets=n_subsets, subset_size=subset_size)


# Precision, recall, density, coverage


def slow_measures(real, fake, k):
    """The definitions: closed balls to the k-th nearest other point."""

    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    def inside(a, b, r):
        return np.linalg.norm(a - b) <= r * (1 + 1e-9)

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, j) for j in range(len(fake))]
    in_real = [[inside(real[i], fake[j], real_radii[i]) for j in range(len(fake))] for i in range(len(real))]
    in_fake = [[inside(real[i], fake[j], fake_radii[j]) for j in range(len(fake))] for i in range(len(real))]
    return NeighbourMeasures(
        precision=sum(any(row[j] for row in in_real) for j in range(len(fake))) / len(fake),
        recall=sum(any(row) for row in in_fake) / len(real),
        density=sum(map(sum, in_real)) / (k * len(fake)),
        coverage=sum(any(row) for row in in_real) / len(real),
    )


def approx(measures):
    return pytest.approx(
        (measures.precision, measures.recall, measures.density, measures.coverage), rel=1e-12, abs=1e-12
    )


def values(measures):
    return measures.precision, measures.recall, measures.density, measures.coverage


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.usefixtures("small_blocks")
def test_neighbour_measures_by_loops(k):
    real, fake = features("real", 40, 3), 0.6 * features("fake", 51, 3, shift=1.0)
    expected = slow_measures(real.astype(np.float64), fake.astype(np.float64), k)
    found = neighbour_measures(real, fake, k)
    assert values(found) == approx(expected)
    assert len({round(value, 3) for value in values(found)}) == 4
    assert min(values(found)) > 0


def test_precision_and_recall_are_those_of_torch_fidelity():
    real, fake = features("real", 200, 3), features("fake", 150, 3, shift=0.7)
    precision, recall = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), neighborhood=5)
    found = neighbour_measures(real, fake)
    assert (found.precision, found.recall) == pytest.approx((precision, recall), rel=1e-6)
    assert 0.1 < found.precision < found.recall - 0.01 or 0.1 < found.recall < found.precision - 0.01


@pytest.mark.usefixtures("small_blocks")
def test_equal_sets():
    """Every point and its five neighbours lie in its own closed ball, the fifth on its border: six fives.

    In another order, a distance and the radius that it equals come out of other blocks and differ by rounding.
    """
    same = 10 + normal("same", 131, 300)
    for other in (same, same[numpy_stream(0, "order").permutation(len(same))]):
        found = neighbour_measures(same, other)
        assert values(found) == pytest.approx((1.0, 1.0, 6 / 5, 1.0), rel=1e-12)


def test_sets_far_apart():
    found = neighbour_measures(features("real", 30), features("fake", 30, shift=1000.0))
    assert values(found) == (0.0, 0.0, 0.0, 0.0)


def test_a_generator_of_one_image_has_precision_but_little_coverage():
    real = features("real", 200)
    fake = np.repeat(real[:1], 50, axis=0)
    found = neighbour_measures(real, fake)
    assert found.precision == 1.0
    assert found.recall == pytest.approx(1 / 200)
    assert found.coverage < 0.2


def test_density_and_coverage_of_two_samples_of_one_distribution():
    """Naeem et al. 2020, lemma 2: expected coverage is 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), density 1."""
    n = m = 1500
    found = neighbour_measures(normal("one", n, 3), normal("other", m, 3))
    expected = 1 - np.prod([(n - i) / (m + n - i) for i in range(1, 6)])
    assert found.density == pytest.approx(1.0, abs=0.05)
    assert found.coverage == pytest.approx(expected, abs=0.03)


# Bad features, memory

CALLS = {
    "frechet": frechet_distance,
    "kernel": lambda real, fake: kernel_distance(real, fake, seed=0, n_subsets=1, subset_size=4),
    "neighbours": neighbour_measures,
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
@pytest.mark.parametrize(("shape", "other"), [((9, 3), (9, 4)), ((9,), (9,)), ((9, 0), (9, 0)), ((9, 3, 1), (9, 3, 1))])
def test_shapes_that_do_not_fit(call, shape, other):
    with pytest.raises(InputError, match=r"expected \(images, features\) with as many features"):
        call(np.zeros(shape), np.zeros(other))


@each_call
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.usefixtures("small_blocks")
def test_features_that_are_not_finite(call, value):
    fake = features("fake", 40)
    fake[33, 2] = value
    with pytest.raises(InputError, match="features of the generated image 33 are not finite"):
        call(features("real", 40), fake)


@each_call
def test_integers_are_no_features(call):
    with pytest.raises(InputError, match="features of the real images are uint8; expected floating-point"):
        call(np.zeros((9, 3), dtype=np.uint8), np.zeros((9, 3)))


@pytest.mark.parametrize(("name", "least"), [("frechet", 2), ("kernel", 4), ("neighbours", 6)])
def test_too_few_images(name, least):
    enough, few = features("a", least), features("b", least - 1)
    CALLS[name](enough, enough[::-1])
    with pytest.raises(InputError, match=f"{least - 1} generated images; .* needs at least {least}; score more"):
        CALLS[name](enough, few)
    with pytest.raises(InputError, match=f"{least - 1} real images"):
        CALLS[name](few, enough)


def test_no_neighbours_asked_for():
    with pytest.raises(InputError, match="k = 0 neighbours; expected at least 1"):
        neighbour_measures(features("a", 9), features("b", 9), k=0)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_memory_does_not_grow_with_the_images(tmp_path, monkeypatch, dtype):
    """Memory maps, opened for reading only; whole in float64 each would take 8 MB."""
    monkeypatch.setattr(scores, "BLOCK", 128)
    n, d = 4000, 256
    np.save(tmp_path / "f.npy", normal("map", n, d).astype(dtype))
    np.save(tmp_path / "p.npy", softmax(normal("map", n, d)).astype(dtype))
    mapped, p = (np.load(tmp_path / name, mmap_mode="r") for name in ("f.npy", "p.npy"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = [
            peak_bytes(lambda: class_score(p, 1)),
            peak_bytes(lambda: image_divergence(p)),
            peak_bytes(lambda: kernel_distance(mapped, mapped, seed=0, n_subsets=2, subset_size=100)),
            peak_bytes(lambda: neighbour_measures(mapped[:1500], mapped[2500:])),
        ]
        frechet = peak_bytes(lambda: frechet_distance(mapped, mapped))
    assert max(small) < 2_500_000, small
    assert frechet < 8 * (8 * d * d) + 2_500_000, frechet  # a few covariances, and blocks
