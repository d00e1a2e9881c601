"""Precision and recall of the hash: against a double loop over made codes, and on the real near-duplicates."""

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.datasets import dedup
from pipeline.evaluation import duplicates
from pipeline.evaluation.duplicates import (
    COLUMNS,
    DuplicateAccuracy,
    accuracy,
    choose,
    curve,
    distance_to,
    found_pairs,
    planted_truth,
    with_removals,
)
from pipeline.models import hash_autoencoder
from pipeline.models.hash_autoencoder import HashAutoencoder, initialise_autoencoder

WHERE = Path("made")
COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = DuplicateAccuracy(seed=0, max_radius=8, min_precision=0.9)


def made_index(n_groups: int = 10, n_alone: int = 12) -> pd.DataFrame:
    """Groups of an original, two altered versions and a mirrored copy, in mixed order; images of no group."""
    kinds = ["original", "jpeg75", "shift1", "mirror"]
    rows = [(number, kind) for number in range(n_groups) for kind in kinds] + [(-1, "")] * n_alone
    rows = [rows[row] for row in numpy_stream(0, "order").permutation(len(rows))]
    index = pd.DataFrame(rows, columns=["made_from", "alteration"])
    mirrored = index["alteration"] == "mirror"
    index["group"] = index["made_from"].where(~mirrored, -1)
    index["mirror_of"] = index["made_from"].where(mirrored, -1)
    index["key"] = [f"{row:03d}" for row in range(len(rows))]
    return index.assign(split="train", label=-1, source="made")


def made_codes(index: pd.DataFrame, moves: int = 3) -> np.ndarray:
    """uint8 (n, moves, 16): versions of one picture differ by a few bits, now and then other pictures too."""
    rng = numpy_stream(1, "codes")
    pictures = rng.integers(0, 256, (index["made_from"].max() + 2, 16), dtype=np.uint8)
    codes = np.stack([pictures[index["made_from"]]] * moves, axis=1)
    for row, kind in enumerate(index["alteration"]):
        if kind == "":
            codes[row] = rng.integers(0, 256, 16) if row % 3 else codes[row // 2, 0]
        for move in range(moves):
            bits = rng.choice(128, {"": 7, "original": 0, "mirror": 11}.get(kind, rng.integers(7)), replace=False)
            unpacked = np.unpackbits(codes[row, move])
            unpacked[bits] ^= 1
            codes[row, move] = np.packbits(unpacked)
    return codes


def distance(codes: np.ndarray, i: int, j: int) -> int:
    one, other = (min(int(np.unpackbits(c ^ codes[b, 0]).sum()) for c in codes[a]) for a, b in ((i, j), (j, i)))
    return min(one, other)


# ---- the truth ------------------------------------------------------------------------------------------------------


def test_truth_of_planted_groups():
    index = made_index()
    truth = planted_truth(index, 0)
    for row, (made_from, kind) in enumerate(zip(index["made_from"], index["alteration"], strict=True)):
        assert truth.group[row] == (-1 if kind == "mirror" else made_from)
        if kind in ("", "original"):
            assert truth.original[row] == -1
        else:
            original = truth.original[row]
            assert (index["made_from"][original], index["alteration"][original]) == (made_from, "original")
    for number in range(10):
        assert len({*truth.half[index["made_from"] == number]}) == 1, "a group and its mirrored copies stay together"
    originals = truth.half[index["alteration"] == "original"]
    alone = truth.half[index["alteration"] == ""]
    assert [(half == "tune").sum() for half in (originals, alone)] == [5, 6]
    assert not np.array_equal(planted_truth(index, 1).half, truth.half)


def test_mirrored_copies_named_within_the_group_and_a_lost_original():
    index = pd.DataFrame(
        {
            "group": [3, 3, 3, 8, 8, -1, -1],
            "alteration": ["hflip", "original", "blur1.5", "jpeg8", "gray", "distractor", "original"],
        }
    )
    truth = planted_truth(index, 0)
    assert truth.group.tolist() == [-1, 3, 3, 8, 8, -1, -1]
    assert truth.original.tolist() == [1, -1, 1, -1, -1, -1, -1]


# ---- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [1, 3])
@pytest.mark.parametrize("radius", [0, 2, 5, 8])
def test_pairs_and_distances_against_a_double_loop(radius, moves):
    codes = made_codes(made_index())[:, :moves]
    early, late, bits = found_pairs(codes, radius=radius, threads=1, where=WHERE)
    n = len(codes)
    expected = {(i, j, distance(codes, i, j)) for j in range(n) for i in range(j)}
    found = list(zip(early.tolist(), late.tolist(), bits.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == {pair for pair in expected if pair[2] <= radius}
    original = planted_truth(made_index(), 0).original
    to_original = distance_to(codes, original)
    for row, other in enumerate(original):
        assert to_original[row] == (129 if other < 0 else distance(codes, row, other))


def test_pairs_that_were_merged_on_the_way_are_the_same(monkeypatch):
    codes = made_codes(made_index())
    whole = found_pairs(codes, radius=8, threads=1, where=WHERE)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 1)
    for each, expected in zip(found_pairs(codes, radius=8, threads=1, where=WHERE), whole, strict=True):
        np.testing.assert_array_equal(each, expected)


def test_collapsed_codes_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 10)
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 100)
    codes = np.zeros((40, 9, 16), dtype=np.uint8)
    with pytest.raises(InputError, match="more than 100 pairs of 40 images within radius 8: the codes have collapsed"):
        found_pairs(codes, radius=8, threads=1, where=WHERE)


# ---- the curve ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [1, 3])
def test_curve_against_a_double_loop(moves):
    index = made_index(n_groups=8, n_alone=9)
    truth, codes = planted_truth(index, 0), made_codes(index)[:, :moves]
    apart = np.array([[distance(codes, i, j) for j in range(len(index))] for i in range(len(index))])
    pairs = found_pairs(codes, radius=8, threads=1, where=WHERE)
    table = curve(truth, pairs, distance_to(codes, truth.original), CONFIG)
    assert len(table) == 3 * 4 * 9
    false = 0
    for row in table.itertuples():
        true_pairs = false_pairs = n_queries = n_found = 0
        for late in range(len(index)):
            if row.half not in ("all", truth.half[late]):
                continue
            kind = index["alteration"][late]
            asked = kind == row.alteration or (row.alteration == "all" and kind in ("jpeg75", "shift1"))
            n_queries += asked
            n_found += asked and apart[late, truth.original[late]] <= row.radius
            for early in range(late):
                if row.alteration not in ("all", kind, index["alteration"][early]):
                    continue
                if apart[early, late] <= row.radius:
                    same = index["group"][early] == index["group"][late] != -1
                    true_pairs += same
                    false_pairs += not same
        assert (row.n_queries, row.n_found) == (n_queries, n_found)
        assert (row.true_pairs, row.false_pairs) == (true_pairs, false_pairs)
        assert row.recall == pytest.approx(n_found / n_queries)
        assert row.recall_low <= row.recall <= row.recall_high
        if true_pairs + false_pairs:
            assert row.precision == pytest.approx(true_pairs / (true_pairs + false_pairs))
            assert row.precision_low <= row.precision <= row.precision_high
        else:
            assert np.isnan([row.precision, row.precision_low, row.precision_high]).all()
        assert row.duplicate == (row.alteration != "mirror")
        false += false_pairs
    assert false > 0
    both = table.set_index(["half", "alteration", "radius"])[["true_pairs", "false_pairs"]]
    assert (both.loc["tune"] + both.loc["report"]).equals(both.loc["all"])


def row(half, offsets, radius, recall, precision, alteration="all", removed=100, wrongly=0):
    return {
        "half": half,
        "offsets": offsets,
        "radius": radius,
        "alteration": alteration,
        "recall": recall,
        "precision": precision,
        "n_removed": removed,
        "n_removed_wrongly": wrongly,
    }


def chosen(rows, **which):
    table = choose(pd.DataFrame(rows), 0.99)
    return {(r.offsets, r.radius) for r in table[table["chosen"]].itertuples()}, {
        (r.offsets, r.radius) for r in table[table["best"]].itertuples()
    }


def test_a_radius_that_removes_many_images_wrongly_is_not_chosen():
    """Pairs of one group dilute the false ones; one false pair may chain two groups."""
    rows = [row("tune", False, 1, 0.5, 1.0, wrongly=1), row("tune", False, 2, 0.9, 1.0, wrongly=2)]
    assert chosen(rows) == ({(False, 1)}, {(False, 1)})
    assert chosen([row("tune", False, 0, 0.5, 1.0, removed=0)])[1] == {(False, 0)}


def test_removals_against_a_walk_through_the_chains():
    index = made_index(n_groups=8, n_alone=9)
    truth, codes = planted_truth(index, 0), made_codes(index)[:, :1]
    pairs = found_pairs(codes, radius=8, threads=1, where=WHERE)
    table = with_removals(curve(truth, pairs, distance_to(codes, truth.original), CONFIG), truth, pairs)
    wrongly = 0
    for radius in range(9):
        keeper = list(range(len(index)))
        for _ in index.index:  # until nothing changes, a chain being at most as long as the set
            for early, late, distance in zip(*pairs, strict=True):
                if distance <= radius:
                    keeper[early] = keeper[late] = min(keeper[early], keeper[late])
        gone = [row for row, first in enumerate(keeper) if first != row]
        wrong = [row for row in gone if index["group"][row] != index["group"][keeper[row]] or index["group"][row] < 0]
        found = table[(table["radius"] == radius) & (table["alteration"] == "all")].set_index("half")
        assert (found.loc["all", "n_removed"], found.loc["all", "n_removed_wrongly"]) == (len(gone), len(wrong))
        assert found.loc["tune", "n_removed"] + found.loc["report", "n_removed"] == len(gone)
        wrongly += len(wrong)
    assert wrongly > 0
    assert table.loc[table["alteration"] != "all", "n_removed"].isna().all()


def test_radius_is_chosen_on_the_tuning_half():
    rows = [
        row("tune", False, 0, 0.2, 1.0),
        row("tune", False, 1, 0.6, 0.99),
        row("tune", False, 2, 0.6, 1.0),
        row("tune", False, 3, 0.9, 0.98),
        row("report", False, 3, 1.0, 1.0),
        row("tune", True, 0, float("nan"), float("nan")),
        row("tune", True, 4, 0.7, 0.995),
        row("report", True, 4, 0.1, 0.1),
        row("tune", True, 5, 1.0, 1.0, alteration="jpeg75"),
    ]
    assert chosen(rows) == ({(False, 1), (True, 4)}, {(True, 4)})
    assert chosen([r for r in rows if r["offsets"] is False or r["radius"] == 0]) == ({(False, 1)}, {(False, 1)})
    assert chosen([row("tune", False, 1, 1.0, 0.5)]) == (set(), set())
    equal = [row("tune", offsets, 3, 0.5, 1.0) for offsets in (True, False)]
    assert chosen(equal)[1] == {(False, 3)}


# ---- the whole ------------------------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch) -> HashAutoencoder:
    monkeypatch.setattr(hash_autoencoder, "BLOCK", 32)
    monkeypatch.setattr(dedup, "BLOCK", 32)
    made = HashAutoencoder()
    initialise_autoencoder(made, 0)
    return made


def made_set(index: pd.DataFrame) -> ImageSet:
    """Versions of a picture are equal, mirrored copies mirrored."""
    pictures = numpy_stream(0, "pictures").integers(0, 256, (2 * len(index), 32, 32, 3), dtype=np.uint8)
    images = pictures[index["made_from"].where(index["made_from"] >= 0, len(index) + index.index)]
    mirrored = index["alteration"].to_numpy() == "mirror"
    images[mirrored] = images[mirrored, :, ::-1]
    return ImageSet(path=WHERE, images=images, index=index)


def test_accuracy_of_equal_images(tmp_path, network):
    table = accuracy(made_set(made_index()), network, CONFIG, threshold=0.0, compute=COMPUTE, scratch=tmp_path)
    assert table.dtypes.astype(str).to_dict() == COLUMNS
    assert len(table) == 2 * 3 * 4 * 9
    exact = table[(table["radius"] == 0) & (table["half"] == "all")].set_index(["offsets", "alteration"])
    for offsets in (False, True):
        assert exact.loc[(offsets, "all"), ["n_queries", "n_found"]].tolist() == [20, 20]
        assert exact.loc[(offsets, "all"), ["true_pairs", "false_pairs"]].tolist() == [30, 0]
        assert exact.loc[(offsets, "mirror"), ["n_queries", "n_found"]].tolist() == [10, 0]
    assert set(table.loc[table["chosen"], "radius"]) == {0}
    assert set(table.loc[table["best"], "offsets"]) == {False}
    (tmp_path / "codes.npy").unlink()
    again = accuracy(made_set(made_index()), network, CONFIG, threshold=0.0, compute=COMPUTE, scratch=tmp_path)
    assert again.equals(table)


@pytest.mark.parametrize("missing", [["group"], ["alteration"], ["group", "alteration", "mirror_of"]])
def test_a_set_without_truth_has_no_row(tmp_path, network, missing):
    image_set = made_set(made_index())
    bare = ImageSet(path=WHERE, images=image_set.images, index=image_set.index.drop(columns=missing))
    table = accuracy(bare, network, CONFIG, threshold=0.0, compute=COMPUTE, scratch=tmp_path)
    assert len(table) == 0
    assert table.dtypes.astype(str).to_dict() == COLUMNS


def test_truth_without_a_single_group(tmp_path, network):
    image_set = made_set(made_index(n_groups=0, n_alone=5))
    table = accuracy(image_set, network, CONFIG, threshold=0.0, compute=COMPUTE, scratch=tmp_path)
    assert set(table["alteration"]) == {"all"}
    assert (table["n_queries"].sum(), table["chosen"].any()) == (0, False)


# ---- real images ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_table(tmp_path_factory):
    """Two epochs on 10,000 CIFAR-10 images, and the 30 groups x 19 versions with 150 distractors."""
    import cv2

    from pipeline.training import hash_model

    here, gan_data = tmp_path_factory.mktemp("real"), Path(os.environ["GAN_DATA"])
    with (gan_data / "cifar-10-batches-py/data_batch_1").open("rb") as file:
        images = pickle.load(file, encoding="bytes")[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    index = pd.DataFrame({"key": "", "split": "train", "label": -1, "source": ""}, index=range(len(images)))
    config = hash_model.HashModel(
        dataset="cifar10",
        split="train",
        seed=0,
        masking=0.2,
        dropout=0.5,
        learning_rate=0.001,
        batch_size=128,
        epochs=2,
    )
    trained = hash_model.train(ImageSet(path=WHERE, images=images, index=index), config, COMPUTE, here / "train")
    network = HashAutoencoder()
    network.load_state_dict({name.removeprefix("seed0/autoencoder/"): t for name, t in trained.tensors.items()})
    with (gan_data / "neardup/ground_truth.csv").open(newline="") as file:
        truth = pd.DataFrame(csv.DictReader(file))
    images = [
        cv2.resize(
            cv2.imread(str(gan_data / "neardup/images" / name))[:, :, ::-1], (64, 64), interpolation=cv2.INTER_AREA
        )
        for name in truth["file"]
    ]
    index = pd.DataFrame(
        {
            "key": truth["file"],
            "split": "train",
            "label": -1,
            "source": "neardup",
            "group": truth["group"].astype("int64").clip(lower=-1),
            "alteration": truth["transform"],
        }
    )
    image_set = ImageSet(path=WHERE, images=np.stack(images), index=index)
    return accuracy(
        image_set,
        network,
        duplicates.DuplicateAccuracy(seed=0, max_radius=8, min_precision=0.99),
        threshold=0.0,
        compute=COMPUTE,
        scratch=here / "codes",
    )


@pytest.mark.real_data
def test_real_near_duplicates(real_table):
    table = real_table[real_table["half"] == "all"].set_index(["offsets", "radius", "alteration"])
    assert table.loc[(False, 6, "all"), "n_queries"] == 30 * 17
    for easy in ("jpeg75", "scale50", "noise8", "contrast70", "blur1.5"):
        assert table.loc[(False, 6, easy), "recall"] > 0.9
    for hard in ("crop40", "hflip"):
        assert table.loc[(True, 6, hard), "recall"] < 0.2
    assert not table.loc[(True, 6, "hflip"), "duplicate"]
    assert table.loc[(True, 6, "crop05"), "recall"] > table.loc[(False, 6, "crop05"), "recall"] + 0.1
    for radius in range(7):
        assert table.loc[(False, radius, "all"), "precision"] > 0.99
        assert table.loc[(True, radius, "all"), "recall"] >= table.loc[(False, radius, "all"), "recall"]
    best = real_table[real_table["best"] & (real_table["half"] == "report") & (real_table["alteration"] == "all")]
    assert best["precision"].item() > 0.98
    assert best["recall"].item() > 0.6
