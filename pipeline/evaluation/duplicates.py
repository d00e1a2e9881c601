"""How well the hash finds planted near-duplicates: precision and recall over the Hamming radius, by alteration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Interval

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.datasets.dedup import Components, encode_rows, interval_95, near_pairs
from pipeline.models.hash_autoencoder import UNITS, HashAutoencoder

ORIGINAL = "original"
MIRRORED = ("mirror", "hflip")  # look alike, and are no duplicates: finding one is an error
TRUTH_COLUMNS = ("group", "alteration")
HALVES = ("tune", "report")
ALL = "all"
PAIRS_AT_ONCE = 2**22  # that wait to be merged, of 16 bytes each
MOST_PAIRS = 2**26  # 1 GB; collapsed codes put every image near every other
COLUMNS = {
    "half": "str",  # all; or of the groups: tune (where the radius is chosen), report
    "offsets": "bool",  # whether each image is also looked up moved by one pixel
    "radius": "int64",
    "alteration": "str",  # all (of those that make duplicates), or one of them
    "duplicate": "bool",  # False: mirrored copies, of which none should be found
    "n_queries": "int64",  # altered images
    "n_found": "int64",  # of them, within the radius of their original
    "recall": "float64",
    "recall_low": "float64",
    "recall_high": "float64",
    "true_pairs": "int64",  # pairs found of one group; for an alteration, pairs that contain such an image
    "false_pairs": "int64",
    "precision": "float64",
    "precision_low": "float64",
    "precision_high": "float64",
    "n_removed": "Int64",  # by deduplication at this radius, in rows for all alterations: groups are chains of pairs
    "n_removed_wrongly": "Int64",  # of them, those whose kept image is of another group
    "chosen": "bool",  # the radius with the largest recall at min_precision on `tune`, with or without offsets
    "best": "bool",  # of the two, the one with the larger recall on `tune`
}


@section
class DuplicateAccuracy:
    """``duplicate_accuracy`` in params.yaml."""

    seed: int
    max_radius: Annotated[int, Interval(ge=0, lt=UNITS)]
    min_precision: Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What was planted; all arrays have a value for each image.

    Attributes
    ----------
    group : int64, number of the near-duplicates' group; -1 = alone, and mirrored copies
    original : int64, row of the unaltered image that this one was made from; -1 = none, or in no image set
    alteration : object, name of the alteration
    half : object, ``tune`` or ``report``: groups, and images of none, divided at random
    """

    group: np.ndarray
    original: np.ndarray
    alteration: np.ndarray
    half: np.ndarray


def accuracy(
    image_set: ImageSet,
    network: HashAutoencoder,
    config: DuplicateAccuracy,
    *,
    threshold: float,
    compute: Compute,
    scratch: Path,
) -> pd.DataFrame:
    """Compare what the hash finds in a set with the planted truth.

    Every image is a query among the images before it. Its distance to one of them is the number of differing bits; with
    offsets, the smallest over either of the two moved by up to one pixel, as in deduplication. A pair counts in the
    half of its later image, so that both halves together make up all pairs. Intervals are 95 % and exact for
    independent trials; versions of one picture are not quite that.

    Returns
    -------
    DataFrame
        Columns ``COLUMNS``; no row if the index has no columns ``group`` and ``alteration``.

    Raises
    ------
    InputError
        If the set has more images than all pairs can be compared of, or the codes have collapsed.
    """
    if any(column not in image_set.index.columns for column in TRUTH_COLUMNS):
        return _frame([])
    truth = planted_truth(image_set.index, config.seed)
    rows = np.arange(len(image_set.index))
    codes = encode_rows(image_set, rows, network, threshold=threshold, offsets=True, scratch=scratch)
    tables = []
    for offsets in (False, True):
        used = codes if offsets else codes[:, :1]
        pairs = found_pairs(used, radius=config.max_radius, threads=compute.threads, where=image_set.path)
        table = curve(truth, pairs, distance_to(used, truth.original), config)
        tables.append(with_removals(table, truth, pairs).assign(offsets=offsets))
    return _frame([choose(pd.concat(tables, ignore_index=True), config.min_precision)])


def planted_truth(index: pd.DataFrame, seed: int) -> Truth:
    """Read the truth columns of an index: ``group``, ``alteration`` and, where there is one, ``mirror_of``."""
    alteration = index["alteration"].astype("str").to_numpy(dtype=object)
    mirrored = np.isin(alteration, MIRRORED)
    group = index["group"].to_numpy(dtype=np.int64)
    made_from = group.copy()  # the group of the picture shown, mirrored or not
    if "mirror_of" in index.columns:
        mirror_of = index["mirror_of"].to_numpy(dtype=np.int64)
        made_from = np.where(mirror_of >= 0, mirror_of, made_from)
        mirrored |= mirror_of >= 0
    originals = np.flatnonzero((alteration == ORIGINAL) & (group >= 0) & ~mirrored)
    row_of = dict(zip(group[originals][::-1].tolist(), originals[::-1].tolist(), strict=True))
    altered = (made_from >= 0) & (alteration != ORIGINAL)
    original = np.array(
        [row_of.get(number, -1) if is_altered else -1 for number, is_altered in zip(made_from, altered, strict=True)],
        dtype=np.int64,
    )
    return Truth(
        group=np.where(mirrored, -1, group), original=original, alteration=alteration, half=_halves(made_from, seed)
    )


def _halves(made_from: np.ndarray, seed: int) -> np.ndarray:
    """Divide the groups, and the images of no group, into two halves each."""
    rng = numpy_stream(seed, "halves")
    half = np.full(len(made_from), HALVES[1], dtype=object)
    numbers = rng.permutation(np.unique(made_from[made_from >= 0]))
    half[np.isin(made_from, numbers[: len(numbers) // 2])] = HALVES[0]
    alone = rng.permutation(np.flatnonzero(made_from < 0))
    half[alone[: len(alone) // 2]] = HALVES[0]
    return half


def found_pairs(
    codes: np.ndarray, *, radius: int, threads: int, where: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images within ``radius``: earlier row, later row, distance; each pair once."""
    n = len(codes)
    # the first of either list is what was merged so far: each pair once
    keys, distances = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for query, candidate, distance in near_pairs(
        codes, np.arange(n), codes[:, 0], radius=radius, threads=threads, where=where
    ):
        other = query != candidate
        early, late = np.minimum(query, candidate)[other], np.maximum(query, candidate)[other]
        keys.append(early * n + late)
        distances.append(distance[other])
        if sum(map(len, keys[1:])) > max(PAIRS_AT_ONCE, len(keys[0])):
            keys, distances = _each_pair_once(keys, distances)
            if len(keys[0]) > MOST_PAIRS:
                message = (
                    f"{where}: more than {MOST_PAIRS:,} pairs of {n:,} images within radius {radius}: the codes have "
                    "collapsed; train the hash model longer, or lower dedup.threshold or duplicate_accuracy.max_radius"
                )
                raise InputError(message)
    (key,), (distance,) = _each_pair_once(keys, distances)
    return key // n, key % n, distance


def _each_pair_once(keys: list[np.ndarray], distances: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Join blocks of pairs; of one that was found several times the smallest distance stays."""
    key, distance = np.concatenate(keys), np.concatenate(distances)
    order = np.lexsort((distance, key))  # the smallest distance of a pair comes first
    key, distance = key[order], distance[order]
    fresh = np.diff(key, prepend=-1) > 0
    return [key[fresh]], [distance[fresh]]


def distance_to(codes: np.ndarray, original: np.ndarray) -> np.ndarray:
    """int64 (n,): distance of each image to its original, over the moves of either; ``UNITS + 1`` without one."""
    distance = np.full(len(codes), UNITS + 1, dtype=np.int64)
    for row in np.flatnonzero(original >= 0):
        mine, its = codes[row], codes[original[row]]
        both_ways = np.concatenate([mine ^ its[0], its ^ mine[0]])
        distance[row] = np.bitwise_count(both_ways).sum(axis=1, dtype=np.int64).min()
    return distance


def curve(
    truth: Truth, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], to_original: np.ndarray, config: DuplicateAccuracy
) -> pd.DataFrame:
    """Count queries and pairs found, for each radius, half and alteration."""
    early, late, distance = pairs
    same = (truth.group[early] == truth.group[late]) & (truth.group[late] >= 0)
    query = truth.original >= 0
    negative = query & (truth.group < 0)
    names = [ALL, *sorted(set(truth.alteration[query]))]
    rows = []
    for half in (ALL, *HALVES):
        in_half = np.ones(len(query), dtype=bool) if half == ALL else truth.half == half
        for name in names:
            mine = np.ones(len(query), dtype=bool) if name == ALL else truth.alteration == name
            asked = query & mine & in_half & (~negative if name == ALL else True)
            pair = in_half[late] & (mine[early] | mine[late])
            for radius in range(config.max_radius + 1):
                near = pair & (distance <= radius)
                rows.append(
                    {
                        "half": half,
                        "radius": radius,
                        "alteration": name,
                        "duplicate": name == ALL or not negative[query & mine].all(),
                        "n_queries": int(asked.sum()),
                        "n_found": int((to_original[asked] <= radius).sum()),
                        "true_pairs": int((near & same).sum()),
                        "false_pairs": int((near & ~same).sum()),
                    }
                )
    table = pd.DataFrame(rows)
    for share, part, whole in (
        ("recall", table["n_found"], table["n_queries"]),
        ("precision", table["true_pairs"], table["true_pairs"] + table["false_pairs"]),
    ):
        table[share] = part / whole.where(whole > 0)
        table[f"{share}_low"], table[f"{share}_high"] = interval_95(part.to_numpy(), whole.to_numpy())
    return table


def with_removals(table: pd.DataFrame, truth: Truth, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> pd.DataFrame:
    """Add how many images deduplication removes, and how many of them wrongly: one false pair may join two groups.

    All images are deduplicated together; an image counts in its own half.
    """
    early, late, distance = pairs
    n = len(truth.group)
    removed, wrongly = (pd.array([pd.NA] * len(table), dtype="Int64") for _ in range(2))
    for radius in sorted(set(table["radius"])):
        components = Components(np.arange(n))
        near = distance <= radius
        components.join(early[near], late[near])
        keeper = components.first()
        gone = keeper != np.arange(n)
        wrong = gone & ((truth.group != truth.group[keeper]) | (truth.group < 0))
        for half in (ALL, *HALVES):
            in_half = np.ones(n, dtype=bool) if half == ALL else truth.half == half
            row = (table["radius"] == radius) & (table["half"] == half) & (table["alteration"] == ALL)
            removed[row.to_numpy()] = int((gone & in_half).sum())
            wrongly[row.to_numpy()] = int((wrong & in_half).sum())
    return table.assign(n_removed=removed, n_removed_wrongly=wrongly)


def choose(table: pd.DataFrame, min_precision: float) -> pd.DataFrame:
    """Mark the radius to use, with and without offsets, and the better of the two, by what ``tune`` shows alone.

    The largest recall at no less than ``min_precision``, both of the pairs and of the images removed; the smallest
    radius, and no offsets, among equals. Nothing is marked if no radius reaches that precision.
    """
    tune = table[(table["half"] == HALVES[0]) & (table["alteration"] == ALL)]
    rightly = 1 - (tune["n_removed_wrongly"] / tune["n_removed"].where(tune["n_removed"] > 0)).fillna(0.0)
    fit = tune[(tune["precision"] >= min_precision) & (rightly >= min_precision)].sort_values(
        ["recall", "offsets", "radius"], ascending=[False, True, True]
    )
    settings = list(fit.drop_duplicates("offsets")[["offsets", "radius"]].itertuples(index=False, name=None))
    mine = pd.Series(list(zip(table["offsets"], table["radius"], strict=True)), index=table.index)
    return table.assign(chosen=mine.isin(settings), best=mine.isin(settings[:1]))


def _frame(tables: list[pd.DataFrame]) -> pd.DataFrame:
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    if not tables:
        return empty
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)].astype(COLUMNS)
