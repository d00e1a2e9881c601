"""The exact search against slow loops in Python integers, scikit-learn, and itself with other kernels or cuts."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.evaluation import neighbours
from pipeline.evaluation.neighbours import NeighbourSearch, error_percent, exact_kernel, mean_distance

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
KERNELS = [torch.int8, torch.float32]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on searches this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=KERNELS, ids=["int8", "fp32"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Each kernel in turn, whatever this processor would choose."""
    monkeypatch.setattr(neighbours, "exact_kernel", lambda _pixels, _device: request.param)
    return request.param


def images(name: str, n: int, *shape: int, levels: int = 256) -> np.ndarray:
    """uint8 (n, ...) of ``levels`` grey levels, 0 and 255 among them."""
    steps = numpy_stream(4, name).integers(0, levels, (n, *shape))
    return np.round(steps * 255 / (levels - 1)).astype(np.uint8)


def labels(n: int, name: str = "labels") -> np.ndarray:
    return numpy_stream(4, name).integers(0, 10, n)


def searched(queries: np.ndarray, candidates: np.ndarray, tags: np.ndarray) -> neighbours.Neighbours:
    search = NeighbourSearch(queries, COMPUTE)
    search.add(candidates, tags)
    return search.result()


def slowly(queries: np.ndarray, candidates: np.ndarray) -> list[tuple[int, int]]:
    """(squared distance, first index) by a double loop over Python integers."""
    found = []
    for query in queries.reshape(len(queries), -1).tolist():
        best = None
        for index, candidate in enumerate(candidates.reshape(len(candidates), -1).tolist()):
            distance = sum((a - b) ** 2 for a, b in zip(query, candidate, strict=True))
            if best is None or distance < best[0]:
                best = (distance, index)
        found.append(best)
    return found


def same(a: neighbours.Neighbours, b: neighbours.Neighbours) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("squared_distance", "index", "label"))


# ---- oracles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("pixels", [2, 7, 16])
def test_equals_a_slow_loop_with_many_ties(kernel: torch.dtype, levels: int, pixels: int):
    queries, candidates = images("q", 31, pixels, levels=levels), images("c", 90, pixels, levels=levels)
    tags = labels(90)
    expected = slowly(queries, candidates)
    got = searched(queries, candidates, tags)
    assert got.squared_distance.tolist() == [distance for distance, _ in expected]
    assert got.index.tolist() == [index for _, index in expected], "the first among equals"
    assert got.label.tolist() == [tags[index] for _, index in expected]
    if levels < 4:
        distances = ((queries[:, None].astype(int) - candidates[None].astype(int)) ** 2).sum(axis=2)
        assert ((distances == distances.min(axis=1, keepdims=True)).sum(axis=1) > 1).any(), "the data must have ties"


def test_images_of_one_pixel():
    """With the kernel of this machine's choice: torch's int8 product of one column is wrong."""
    queries, candidates = images("q", 31, 1, 1, 1), images("c", 90, 1, 1, 1)
    got = searched(queries, candidates, labels(90))
    assert [*zip(got.squared_distance.tolist(), got.index.tolist(), strict=True)] == slowly(queries, candidates)


def test_equals_scikit_learn(kernel: torch.dtype):
    """2,000 candidates of 8 x 8 pixels in 256 levels: no ties, so that every index is determined."""
    queries, candidates, tags = images("q", 300, 8, 8, 1), images("c", 2000, 8, 8, 1), labels(2000)
    got = searched(queries, candidates, tags)
    flat_queries, flat = (array.reshape(len(array), -1).astype(np.float64) for array in (queries, candidates))
    distance, index = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(flat).kneighbors(flat_queries)
    assert (distance[:, 1] > distance[:, 0] + 1e-6).all()
    np.testing.assert_array_equal(got.index, index[:, 0])
    np.testing.assert_allclose(np.sqrt(got.squared_distance), distance[:, 0], rtol=1e-9)
    classifier = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(flat, tags)
    np.testing.assert_array_equal(got.label, classifier.predict(flat_queries))
    true = labels(300, "true")
    accuracy = classifier.score(flat_queries, true)
    assert error_percent(got.label, true) == pytest.approx(100 * (1 - accuracy), rel=1e-12)
    assert mean_distance(got.squared_distance) == pytest.approx(distance[:, 0].mean() / 255, rel=1e-12)


@pytest.mark.parametrize("levels", [2, 256])
def test_both_kernels_agree_over_several_blocks(monkeypatch: pytest.MonkeyPatch, levels: int):
    """More queries and candidates than a block holds, neither a multiple of it."""
    queries, candidates = images("q", 1203, 5, 5, 1, levels=levels), images("c", 9001, 5, 5, 1, levels=levels)
    found = []
    for kernel in KERNELS:
        monkeypatch.setattr(neighbours, "exact_kernel", lambda _pixels, _device, kernel=kernel: kernel)
        found.append(searched(queries, candidates, labels(9001)))
    assert same(*found)
    assert len(queries) % neighbours.QUERY_BLOCK
    assert len(candidates) > 2 * neighbours.CANDIDATE_BLOCK
    distances = (queries[::97, None].astype(int) - candidates[None].astype(int)).reshape(-1, 9001, 25)
    np.testing.assert_array_equal(found[0].index[::97], (distances**2).sum(axis=2).argmin(axis=1))


def test_extreme_values_are_exact(kernel: torch.dtype):
    """1,024 pixels of 0 and 255: the largest sums there are, in which one level of one pixel must still count."""
    black, white = np.zeros((1, 1024), dtype=np.uint8), np.full((1, 1024), 255, dtype=np.uint8)
    nearly_white, nearly_black = white.copy(), black.copy()
    nearly_white[0, 1023], nearly_black[0, 0] = 254, 1
    queries = np.concatenate([black, white, nearly_white, nearly_black])
    expected = [1024 * 255**2, 0, 1, 1023 * 255**2 + 254**2]
    assert searched(queries, white, np.array([3])).squared_distance.tolist() == expected
    got = searched(queries, np.concatenate([white, nearly_white]), np.array([3, 5]))
    assert got.squared_distance.tolist() == [1023 * 255**2 + 254**2, 0, 0, 1022 * 255**2 + 2 * 254**2]
    assert got.label.tolist() == [5, 3, 5, 5]
    checkered = np.where(np.arange(1024) % 2, 255, 0).astype(np.uint8)[None]
    assert searched(checkered, 255 - checkered, np.array([0])).squared_distance.tolist() == [1024 * 255**2]


def test_the_nearest_of_images_is_itself(kernel: torch.dtype):
    digits = images("c", 700, 28, 28, 1)
    got = searched(digits[50:60], digits, np.arange(700))
    assert got.squared_distance.tolist() == [0] * 10
    assert got.index.tolist() == got.label.tolist() == [*range(50, 60)]


# ---- the stream -----------------------------------------------------------------------------------------------------

QUERIES, CANDIDATES, TAGS = images("q", 21, 6, levels=3), images("c", 240, 6, levels=3), labels(240)


@given(ends=st.lists(st.integers(1, 239), max_size=12, unique=True).map(sorted), saved=st.integers(0, 12))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_cut_of_the_stream_changes_nothing(ends: list[int], saved: int):
    """Any parts, and a save and restore after any of them."""
    search = NeighbourSearch(QUERIES, COMPUTE)
    for number, (start, end) in enumerate(zip([0, *ends], [*ends, 240], strict=True)):
        search.add(CANDIDATES[start:end], TAGS[start:end])
        assert search.seen == end
        if number == saved:
            state = search.state()
            search = NeighbourSearch(QUERIES, COMPUTE)
            search.restore(state)
    assert same(search.result(), searched(QUERIES, CANDIDATES, TAGS))


@pytest.mark.parametrize(("query_block", "candidate_block"), [(1, 1), (5, 7), (21, 240), (1000, 1000)])
def test_the_size_of_the_blocks_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, query_block: int, candidate_block: int
):
    expected = searched(QUERIES, CANDIDATES, TAGS)
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", query_block)
    monkeypatch.setattr(neighbours, "CANDIDATE_BLOCK", candidate_block)
    assert same(searched(QUERIES, CANDIDATES, TAGS), expected)


def test_state_is_a_copy_and_restores_all():
    search = NeighbourSearch(QUERIES, COMPUTE)
    search.add(CANDIDATES[:100], TAGS[:100])
    state, then = search.state(), search.result()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    search.add(CANDIDATES[100:], TAGS[100:])
    assert not same(search.result(), then)
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    resumed = NeighbourSearch(QUERIES, COMPUTE)
    resumed.restore(state)
    assert resumed.seen == 100
    assert same(resumed.result(), then)
    resumed.add(CANDIDATES[100:], TAGS[100:])
    assert same(resumed.result(), search.result())


def test_a_result_is_kept_while_the_search_goes_on():
    """Rows of a curve are read at several sizes of one search."""
    search = NeighbourSearch(QUERIES, COMPUTE)
    search.add(CANDIDATES[:100], TAGS[:100])
    first = search.result()
    copy = {name: getattr(first, name).copy() for name in ("squared_distance", "index", "label")}
    search.add(CANDIDATES[100:], TAGS[100:])
    for name, array in copy.items():
        np.testing.assert_array_equal(getattr(first, name), array)


def test_inputs_are_not_changed():
    queries, candidates, tags = QUERIES.copy(), CANDIDATES.copy(), TAGS.copy()
    searched(queries, candidates, tags)
    assert np.array_equal(queries, QUERIES)
    assert np.array_equal(candidates, CANDIDATES)
    assert np.array_equal(tags, TAGS)


def test_views_and_small_integer_labels_are_taken():
    wide = np.ascontiguousarray(CANDIDATES[:, ::-1])[:, ::-1]
    assert not wide.flags.c_contiguous
    assert same(searched(QUERIES, wide, TAGS.astype(np.uint8)), searched(QUERIES, CANDIDATES, TAGS))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.int64, np.bool_])
def test_only_uint8_is_searched(dtype: type):
    with pytest.raises(InputError, match=r"exact for uint8 images; the queries are"):
        NeighbourSearch(QUERIES.astype(dtype), COMPUTE)
    with pytest.raises(InputError, match=r"candidates must be uint8 images of 6 pixels"):
        NeighbourSearch(QUERIES, COMPUTE).add(CANDIDATES.astype(dtype), TAGS)


def test_pixels_and_labels_must_fit():
    search = NeighbourSearch(QUERIES, COMPUTE)
    with pytest.raises(InputError, match=r"6 pixels with one label each; found uint8, 5 pixels"):
        search.add(CANDIDATES[:, :5], TAGS)
    with pytest.raises(InputError, match=r"found uint8, 6 pixels, 240 images and 239 labels"):
        search.add(CANDIDATES, TAGS[1:])
    assert search.seen == 0


def test_no_result_before_the_first_candidate():
    search = NeighbourSearch(QUERIES, COMPUTE)
    with pytest.raises(ValueError, match="no candidate"):
        search.result()
    search.add(CANDIDATES[:1], TAGS[:1])
    assert search.result().index.tolist() == [0] * 21


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_vnni": True}, torch.int8),
        ({"amx_int8": True}, torch.int8),
        ({"avx512_vnni": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_choice_of_the_kernel(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert exact_kernel(1024, "cpu") == expected
    assert exact_kernel(1024, "cuda") == torch.float32
    if expected == torch.int8:
        assert exact_kernel(3072, "cpu") == torch.int8
    else:
        with pytest.raises(InputError, match=r"1025 pixels: the fp32 search is exact up to 1024"):
            exact_kernel(1025, "cpu")
    with pytest.raises(InputError, match=r"1025 pixels"):
        exact_kernel(1025, "cuda")


def test_larger_images_are_exact_in_int8(monkeypatch: pytest.MonkeyPatch):
    """3,072 pixels, the size of a CIFAR-10 image."""
    monkeypatch.setattr(neighbours, "exact_kernel", lambda _pixels, _device: torch.int8)
    queries, candidates = images("q", 3, 32, 32, 3, levels=2), images("c", 5, 32, 32, 3, levels=2)
    got = searched(queries, candidates, np.arange(5))
    assert [*zip(got.squared_distance.tolist(), got.index.tolist(), strict=True)] == slowly(queries, candidates)
    extremes = searched(np.zeros((1, 3072), np.uint8), np.full((1, 3072), 255, np.uint8), np.array([1]))
    assert extremes.squared_distance.tolist() == [3072 * 255**2]


# ---- what is reported -----------------------------------------------------------------------------------------------


def test_error_and_distance():
    assert error_percent(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 25.0
    assert error_percent(np.array([1]), np.array([1])) == 0.0
    assert mean_distance(np.array([0, 255**2, 4 * 255**2], dtype=np.int32)) == pytest.approx(1.0, rel=1e-15)
