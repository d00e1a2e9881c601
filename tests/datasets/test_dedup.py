"""Deduplication: groups against slow loops, the set that is written, its counts, resumption, collapsed codes."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet, no_rejects, open_set, write_arrays, write_set
from pipeline.datasets import dedup
from pipeline.datasets.dedup import (
    CodeHealth,
    Components,
    Dedup,
    check_health,
    code_health,
    deduplicate,
    encode_rows,
    equal_codes,
    false_positives,
    fill_array,
    groups,
    interval_95,
    near_pairs,
)
from pipeline.models import hash_autoencoder
from pipeline.models.hash_autoencoder import HashAutoencoder, initialise_autoencoder

WHERE = Path("made")
COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = Dedup(
    seed=0,
    threshold=0.0,
    radius=0,
    offsets=False,
    max_constant_units=0.5,
    min_distinct_codes=0.3,
    max_group_share=0.5,
)


def random_codes(n: int, index: int = 0) -> np.ndarray:
    return numpy_stream(0, "codes", index).integers(0, 256, (n, 16), dtype=np.uint8)


def clustered_codes(n: int, moves: int = 1) -> np.ndarray:
    """uint8 (n, moves, 16): most are another code with up to six flipped bits, so that radii and chains matter."""
    rng = numpy_stream(1, "codes")
    codes = random_codes(n)
    for row in range(n // 4, n):
        codes[row] = flipped(codes[rng.integers(row)], rng.choice(128, rng.integers(7), replace=False))
    moved = np.stack([codes] * moves, axis=1)
    for row in range(n):
        for move in range(1, moves):
            moved[row, move] = flipped(codes[rng.integers(n)], rng.choice(128, rng.integers(5, 25), replace=False))
    return moved


def flipped(code: np.ndarray, bits: np.ndarray) -> np.ndarray:
    unpacked = np.unpackbits(code)
    unpacked[bits] ^= 1
    return np.packbits(unpacked)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a ^ b).sum())


def slow_groups(codes: np.ndarray, radius: int) -> list[int]:
    """Flood fill over a double loop."""
    n = len(codes)
    near = [
        {
            j
            for j in range(n)
            if min(distance(c, codes[j, 0]) for c in codes[i]) <= radius
            or min(distance(c, codes[i, 0]) for c in codes[j]) <= radius
        }
        for i in range(n)
    ]
    first = [-1] * n
    for start in range(n):
        waiting = [start] if first[start] < 0 else []
        while waiting:
            row = waiting.pop()
            if first[row] < 0:
                first[row] = start
                waiting += near[row]
    return first


# ---- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 5000])
def test_equal_codes_against_a_dict(n):
    codes = random_codes(n)
    codes[n // 2 :] = codes[numpy_stream(0, "copies").integers(0, max(n, 1), n - n // 2)]
    codes[: n // 4, 8:] = 0  # words that many rows share
    codes[n // 8 : n // 3, :8] = 255
    seen: dict[bytes, int] = {}
    expected = [seen.setdefault(code.tobytes(), row) for row, code in enumerate(codes)]
    found = equal_codes(codes)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert n < 5000 or 100 < len(seen) < 4900


def test_equal_codes_of_all_equal_and_of_a_strided_array():
    assert equal_codes(np.zeros((7, 16), dtype=np.uint8)).tolist() == [0] * 7
    moved = clustered_codes(50, moves=3)
    assert np.array_equal(equal_codes(moved[:, 0]), equal_codes(moved[:, 0].copy()))


@pytest.mark.parametrize("moves", [1, 3])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 6])
def test_groups_against_a_double_loop(radius, moves, monkeypatch):
    monkeypatch.setattr(dedup, "PENDING_PAIRS", 37)  # merged in several parts
    codes = clustered_codes(70, moves)
    found = groups(codes, radius=radius, threads=1, where=WHERE)
    expected = slow_groups(codes, radius)
    assert found.tolist() == expected
    assert 1 < len(set(expected)) < 70


def test_an_image_equal_to_another_is_still_looked_up_moved():
    """Images of equal codes may differ once moved: here only the second one's moved code is the third one's."""
    same, third, *others = random_codes(4)
    codes = np.array([[same, others[0]], [same, third], [third, others[1]]])
    assert groups(codes, radius=0, threads=1, where=WHERE).tolist() == [0, 0, 0]


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 9])
def test_near_pairs_against_a_double_loop(radius):
    codes = clustered_codes(60, moves=2)
    queries = np.arange(5, 60, 2)
    found = set()
    for query, candidate, bits in near_pairs(codes, queries, codes[:40, 0], radius=radius, threads=1, where=WHERE):
        found |= set(zip(query.tolist(), candidate.tolist(), bits.tolist(), strict=True))
    expected = {
        (q, c, distance(codes[q, move], codes[c, 0])) for q in queries.tolist() for c in range(40) for move in (0, 1)
    }
    assert found == {(q, c, bits) for q, c, bits in expected if bits <= radius}
    assert found


def test_all_pairs_of_a_large_set_are_refused(monkeypatch):
    monkeypatch.setattr(dedup, "ALL_PAIRS_LIMIT", 50)
    codes = random_codes(51)[:, None]
    with pytest.raises(InputError, match=r"made: radius 4 compares all pairs of 51 codes; expected at most 50.* to 3"):
        groups(codes, radius=4, threads=1, where=WHERE)
    assert len(groups(codes, radius=3, threads=1, where=WHERE)) == 51
    assert len(groups(codes[:50], radius=4, threads=1, where=WHERE)) == 50


def test_components_without_edges():
    first = np.array([0, 1, 0, 3])
    assert Components(first).first().tolist() == [0, 1, 0, 3]
    components = Components(first)
    components.join(np.array([2]), np.array([3]))
    assert components.first().tolist() == [0, 1, 0, 0]


# ---- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 3, 128, 130, 150, 200, 227, 228])
def test_an_array_that_was_cut_short_is_completed(tmp_path, cut):
    """The file is 128 bytes of header and 10 rows of 10 bytes; blocks have 3 rows."""
    rows, made = random_codes(10)[:, :10], []

    def make(start, stop):
        made.append((start, stop))
        return rows[start:stop]

    fill_array(tmp_path / "new/a.npy", (10, 10), 3, make, "filling")
    assert np.array_equal(np.load(tmp_path / "new/a.npy"), rows)
    assert made == [(0, 3), (3, 6), (6, 9), (9, 10)]
    content = (tmp_path / "new/a.npy").read_bytes()
    assert len(content) == 228
    (tmp_path / "b.npy").write_bytes(content[:cut])
    made.clear()
    fill_array(tmp_path / "b.npy", (10, 10), 3, make, "filling")
    assert (tmp_path / "b.npy").read_bytes() == content
    assert made == [(start, min(start + 3, 10)) for start in range(0, 10, 3) if (cut - 128) // 10 < min(start + 3, 10)]


def test_an_array_of_another_shape_is_made_anew(tmp_path):
    for shape in ((4, 2, 3), (5, 2, 3), (0, 2, 3)):
        fill_array(tmp_path / "a.npy", shape, 2, lambda a, b: np.full((b - a, 2, 3), b), "filling")
        assert np.load(tmp_path / "a.npy").shape == shape


# ---- health ---------------------------------------------------------------------------------------------------------


def test_health_counts_units_and_codes():
    unpacked = numpy_stream(0, "bits").integers(0, 2, (5000, 128), dtype=np.uint8)
    unpacked[:, :5] = 0
    unpacked[:, 5:7] = 1
    unpacked[10:20] = unpacked[3]
    unpacked[:50, 5:] = 0
    codes = np.packbits(unpacked, axis=1)
    health = code_health(codes, equal_codes(codes))
    assert health == CodeHealth(n_images=5000, distinct_codes=4951, all_zero_share=0.01, dead_units=5, constant_units=5)
    alive = code_health(codes[50:], equal_codes(codes[50:]))
    assert (alive.dead_units, alive.constant_units, alive.all_zero_share) == (5, 7, 0)


HEALTHY = CodeHealth(n_images=1000, distinct_codes=300, all_zero_share=0.0, dead_units=10, constant_units=64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"constant_units": 65}, "expected at most 50% constant units (dedup.max_constant_units)"),
        ({"distinct_codes": 299}, "expected at least 30% distinct codes (dedup.min_distinct_codes)"),
    ],
)
def test_collapsed_codes_stop(change, says):
    check_health(HEALTHY, CONFIG, WHERE)
    with pytest.raises(InputError) as caught:
        check_health(dataclasses.replace(HEALTHY, **change), CONFIG, WHERE)
    assert says in str(caught.value)
    assert "made: the 1,000 codes have" in str(caught.value)
    assert "have collapsed" in str(caught.value)


# ---- the set --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks are filled up before they are hashed; whole ones would take most of the time."""
    monkeypatch.setattr(hash_autoencoder, "BLOCK", 32)
    monkeypatch.setattr(dedup, "BLOCK", 32)


@pytest.fixture
def network() -> HashAutoencoder:
    made = HashAutoencoder()
    initialise_autoencoder(made, 0)
    return made


SOURCE_OF = {5: 2, 9: 2, 20: 11, 12: 10}  # planted: row -> the row that it is a copy of; 12 and 20 are of `validation`


def made_set(folder: Path, side: int = 64) -> ImageSet:
    """24 random images, some equal; every fourth row is of `validation`."""
    images = numpy_stream(0, "images").integers(0, 256, (24, side, side, 3), dtype=np.uint8)
    for copy, source in SOURCE_OF.items():
        images[copy] = images[source]
    split = np.where(np.arange(24) % 4 == 0, "validation", "train")
    index = pd.DataFrame({"key": [f"lsun/{i:02d}" for i in range(24)], "split": split, "label": -1, "source": "made"})
    index = index.assign(group=[{2: 0, 5: 0, 9: 7}.get(i, -1) for i in range(24)], width=256)
    write_set(folder, images, index, no_rejects())
    return open_set(folder)


def run(image_set, network, tmp_path, config=CONFIG):
    return deduplicate(image_set, network, config, COMPUTE, tmp_path / "scratch", tmp_path / "out")


def values(removal) -> dict[str, float]:
    assert list(removal.results.columns) == ["quantity", "value"]
    assert removal.results["quantity"].is_unique
    return dict(zip(removal.results["quantity"], removal.results["value"], strict=True))


def test_the_first_of_each_group_is_kept(tmp_path, network):
    image_set = made_set(tmp_path / "set")
    removal = run(image_set, network, tmp_path)
    out, rejects = open_set(tmp_path / "out"), pd.read_parquet(tmp_path / "out/rejects.parquet")
    kept = [i for i in range(24) if i not in (5, 9)]  # equal images of `validation`, and across splits, stay
    assert out.index["key"].tolist() == [f"lsun/{i:02d}" for i in kept]
    assert np.array_equal(out.images, image_set.images[kept])
    assert (tmp_path / "out/images.npy").read_bytes() == _saved(image_set.images[kept], tmp_path)
    assert list(out.index.columns) == [*image_set.index.columns, "group_size"]
    assert out.index["group_size"].tolist() == [3 if i == 2 else 1 for i in kept]
    assert out.index.drop(columns="group_size").equals(image_set.index.iloc[kept].reset_index(drop=True))
    assert rejects.to_dict("list") == {
        "key": ["lsun/05", "lsun/09"],
        "reason": ["near-duplicate of lsun/02"] * 2,
        "group_key": ["lsun/02"] * 2,
    }
    assert len(image_set.index) == len(out.index) + len(rejects)
    found = values(removal)
    assert found["n_in"] == found["n_kept"] + found["n_removed"] == 18
    assert found["n_out"] == found["n_kept"] + found["n_passed_through"] == 22
    assert (found["n_groups"], found["largest_group"], found["distinct_codes"]) == (1, 3, 16)
    assert {name: value for name, value in found.items() if name.startswith("groups_of")} == {
        "groups_of_1": 15,
        "groups_of_3": 1,
    }
    assert (found["n_judged"], found["n_false"], found["false_positive_percent"]) == (2, 1, 50)
    assert {path.name for path in tmp_path.iterdir()} <= {"set", "out", "scratch", "saved.npy"}


def _saved(images, tmp_path) -> bytes:
    with (tmp_path / "saved.npy").open("wb") as file:
        np.save(file, images)
    return (tmp_path / "saved.npy").read_bytes()


def test_collisions_show_each_removed_image_before_the_kept_one(tmp_path, network):
    image_set = made_set(tmp_path / "set")
    removal = run(image_set, network, tmp_path)
    assert removal.collisions["keys"].tolist() == ["lsun/05", "lsun/02", "lsun/09", "lsun/02"]
    assert np.array_equal(removal.collisions["images"], image_set.images[[5, 2, 9, 2]])
    for number in (1, 2):
        write_arrays(tmp_path / f"{number}.npz", **removal.collisions)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
    with np.load(tmp_path / "1.npz", allow_pickle=False) as content:
        assert sorted(content) == ["images", "keys"]
        assert content["keys"].tolist() == removal.collisions["keys"].tolist()


def test_a_hundred_collisions_are_drawn_by_seed():
    removed = np.arange(0, 1000, 3)
    one, again, other = (dedup._sample(removed, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(one) == len(set(one.tolist()) & set(removed.tolist())) == 100
    assert one.tolist() == sorted(one)
    assert dedup._sample(removed[:100], 0).tolist() == removed[:100].tolist()


def test_nothing_to_remove(tmp_path, network):
    image_set = made_set(tmp_path / "set")
    image_set.index["split"] = ["train"] * 3 + ["validation"] * 21
    removal = run(image_set, network, tmp_path)
    assert len(open_set(tmp_path / "out").index) == 24
    rejects = pd.read_parquet(tmp_path / "out/rejects.parquet")
    assert (len(rejects), list(rejects.columns)) == (0, ["key", "reason", "group_key"])
    assert removal.collisions["images"].shape == (0, 64, 64, 3)
    assert values(removal)["n_removed"] == 0
    assert "false_positive_percent" not in values(removal)


@pytest.mark.parametrize("offsets", [False, True])
def test_a_shifted_copy_is_found_with_offsets_alone(tmp_path, network, offsets):
    image_set = made_set(tmp_path / "set", side=32)
    images = np.array(image_set.images)
    images[21] = np.roll(images[22], 1, axis=1)
    images[21, :, 0] = images[22, :, 0]  # exactly the edge-replicated shift
    image_set = dataclasses.replace(image_set, images=images)
    run(image_set, network, tmp_path, dataclasses.replace(CONFIG, offsets=offsets))
    rejects = pd.read_parquet(tmp_path / "out/rejects.parquet")
    assert rejects["key"].tolist() == ["lsun/05", "lsun/09", *["lsun/22"][: int(offsets)]]


def test_a_larger_radius_removes_no_fewer(tmp_path, network):
    image_set = made_set(tmp_path / "set")
    noise = numpy_stream(0, "noise").integers(0, 40, image_set.images.shape[1:])
    images = np.array(image_set.images)
    images[23] = np.clip(images[22].astype(int) + noise, 0, 255)
    image_set = dataclasses.replace(image_set, images=images)
    removed = []
    for radius in (0, 3, 12):
        run(image_set, network, tmp_path / str(radius), dataclasses.replace(CONFIG, radius=radius))
        removed.append({*pd.read_parquet(tmp_path / str(radius) / "out/rejects.parquet")["key"]})
    assert removed[0] <= removed[1] <= removed[2]
    assert removed[0] == {"lsun/05", "lsun/09"}
    assert "lsun/23" in removed[2]


def test_chained_groups_stop(tmp_path, network):
    image_set = made_set(tmp_path / "set")
    with pytest.raises(InputError, match=r"the group of 'lsun/02' has 3 of 18 images; expected at most 10.0%"):
        run(image_set, network, tmp_path, dataclasses.replace(CONFIG, max_group_share=0.1))
    assert not (tmp_path / "out").exists()


def test_a_pair_is_no_chain_however_small_the_set(tmp_path, network):
    image_set, config = made_set(tmp_path / "set"), dataclasses.replace(CONFIG, max_group_share=0.05)
    image_set.index["split"] = ["train"] * 9 + ["validation"] + ["train"] + ["validation"] * 13  # without row 9
    assert values(run(image_set, network, tmp_path / "pair", config))["largest_group"] == 2
    image_set.index["split"] = ["train"] * 10 + ["validation"] * 14
    with pytest.raises(InputError, match=r"the group of 'lsun/02' has 3 of 10 images"):
        run(image_set, network, tmp_path / "three", config)


def test_collapsed_codes_write_nothing(tmp_path, network):
    network.encoder.weight.data[2:] = 0
    network.encoder.bias.data[2:] = -1
    with pytest.raises(InputError, match=r"have 126 of 128 units constant, [1-4] distinct values"):
        run(made_set(tmp_path / "set"), network, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("function", ["encode", "groups", "check_set"])
def test_interrupted_equals_unbroken(tmp_path, network, monkeypatch, function):
    """Broken in the middle of hashing, between the steps, and after the images were gathered."""
    monkeypatch.setattr(dedup, "BLOCK", 5)
    monkeypatch.setattr(dedup, "COPY_BYTES", 3 * 64 * 64 * 3)
    image_set = made_set(tmp_path / "set")
    unbroken = run(image_set, network, tmp_path / "a")
    original, calls = getattr(dedup, function), []

    def broken(*args, **kwargs):
        calls.append(1)
        if len(calls) == (3 if function == "encode" else 1):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patched.setattr(dedup, function, broken)
        run(image_set, network, tmp_path / "b")
    assert not (tmp_path / "b/out").exists()
    calls.clear()
    encode = dedup.encode
    monkeypatch.setattr(dedup, "encode", lambda *a, **k: (calls.append(1), encode(*a, **k))[1])
    resumed = run(image_set, network, tmp_path / "b")
    assert len(calls) == (2 if function == "encode" else 0), "codes that were computed are not computed again"
    assert resumed.results.equals(unbroken.results)
    for name in ("images.npy", "index.parquet", "rejects.parquet"):
        assert (tmp_path / "b/out" / name).read_bytes() == (tmp_path / "a/out" / name).read_bytes()


def test_blocks_do_not_change_codes(tmp_path, network, monkeypatch):
    image_set = made_set(tmp_path / "set")
    rows = np.array([3, 1, 20, 7, 8])
    one = encode_rows(image_set, rows, network, threshold=0.0, offsets=True, scratch=tmp_path / "a")
    monkeypatch.setattr(dedup, "BLOCK", 2)
    other = encode_rows(image_set, rows, network, threshold=0.0, offsets=True, scratch=tmp_path / "b")
    assert np.array_equal(one, other)
    assert one.shape == (5, 9, 16)


# ---- false positives ------------------------------------------------------------------------------------------------


def test_false_positives_by_hand():
    index = pd.DataFrame({"group": [4, 4, 4, 5, -1, -1]})
    removed, keepers = np.array([1, 2, 3, 5]), np.array([0, 0, 0, 4])
    found = false_positives(index, removed, keepers)
    assert (found["n_judged"], found["n_false"], found["false_positive_percent"]) == (4, 2, 50)
    exact = scipy.stats.binomtest(2, 4).proportion_ci(0.95, method="exact")
    assert found["false_positive_percent_low"] == pytest.approx(100 * exact.low)
    assert found["false_positive_percent_high"] == pytest.approx(100 * exact.high)
    assert false_positives(index.drop(columns="group"), removed, keepers) == {}
    assert false_positives(index, removed[:0], keepers[:0]) == {}


def test_interval_is_the_exact_one():
    k, n = np.array([0, 1, 5, 10, 3, 0]), np.array([10, 10, 10, 10, 2000, 0])
    low, high = interval_95(k, n)
    for number in range(5):
        exact = scipy.stats.binomtest(int(k[number]), int(n[number])).proportion_ci(0.95, method="exact")
        assert (low[number], high[number]) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert np.isnan([low[5], high[5]]).all()
