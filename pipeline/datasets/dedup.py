"""Near-duplicate removal by autoencoder hash (DCGAN, section 4.1): codes, groups, and the set of their first images.

Equal codes are the paper's rule. A Hamming radius, and queries moved by one pixel in eight directions, find the
re-encoded, brightened and cropped copies that equality misses; groups are then the connected components.
"""

import io
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Interval

from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet, check_set
from pipeline.models.hash_autoencoder import (
    BLOCK,
    CODE_BYTES,
    OFFSETS,
    UNITS,
    HashAutoencoder,
    downsampled,
    encode,
)

SPLIT = "train"  # only these images are deduplicated; those of other splits are passed through
HASHED_RADIUS = 3  # up to here a hash index finds all pairs; beyond, each query is compared with each code
ALL_PAIRS_LIMIT = 100_000  # codes; 10^10 comparisons take seconds, those of 3 million images hours
SHEET_PAIRS = 100
COPY_BYTES = 2**25  # images are copied in blocks of this size, whatever the size of the set
PENDING_PAIRS = 4_000_000


@section
class Dedup:
    """``dedup`` in params.yaml. The last three limits stop the stage: such codes do not tell images apart."""

    seed: int  # of the sheet of collisions
    threshold: Annotated[float, Ge(0)]
    radius: Annotated[int, Interval(ge=0, lt=UNITS)]
    offsets: bool
    max_constant_units: Annotated[float, Interval(ge=0, le=1)]
    min_distinct_codes: Annotated[float, Interval(ge=0, le=1)]
    max_group_share: Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class CodeHealth:
    """What collapsed codes show: units that are the same for all images, few distinct codes, codes without a bit."""

    n_images: int
    distinct_codes: int
    all_zero_share: float
    dead_units: int
    constant_units: int  # dead, or set for all images


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was removed.

    Attributes
    ----------
    results : a row a number: quantity, value. ``groups_of_<n>`` is the histogram of group sizes; the rows on false
        positives are there only if the images come with their truth
    collisions : ``images`` (uint8, 2 m x H x W x C), random removed images, each before the one kept for it; ``keys``
    """

    results: pd.DataFrame
    collisions: dict[str, np.ndarray]


# ---- codes ----------------------------------------------------------------------------------------------------------


def encode_rows(
    image_set: ImageSet, rows: np.ndarray, network: HashAutoencoder, *, threshold: float, offsets: bool, scratch: Path
) -> np.ndarray:
    """Codes of the given rows, uint8 (n, 1 or 9, 16); a killed run goes on from the codes that ``scratch`` holds."""
    path = scratch / "codes.npy"

    def make(start: int, stop: int) -> np.ndarray:
        small = downsampled(image_set.images[rows[start:stop]], image_set.path)
        return encode(network, small, threshold=threshold, offsets=offsets)

    fill_array(path, (len(rows), len(OFFSETS) if offsets else 1, CODE_BYTES), BLOCK, make, "hashing")
    return np.load(path)


def fill_array(
    path: Path, shape: tuple[int, ...], block: int, make: Callable[[int, int], np.ndarray], what: str
) -> None:
    """Write a uint8 ``.npy`` file block by block, in memory that does not grow; its length says how far it got.

    Parameters
    ----------
    make : (start, stop) -> rows start..stop of the array; called in order, from the first block that is not whole
    """
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    header, row_bytes = head.getvalue(), math.prod(shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        begun = file.read(len(header)) == header
        rows = (path.stat().st_size - len(header)) // row_bytes if begun else 0
        done = rows if rows >= shape[0] else rows // block * block
        file.truncate(len(header) + done * row_bytes if begun else 0)
        if not begun:
            file.write(header)
        with Progress(what, total=shape[0], unit="images", done=done) as progress:
            for start in range(done, shape[0], block):
                stop = min(start + block, shape[0])
                file.write(np.ascontiguousarray(make(start, stop), dtype=np.uint8).data)
                progress.advance(stop - start)


def code_health(codes: np.ndarray, first: np.ndarray) -> CodeHealth:
    """Look at codes (n, 16) and what :func:`equal_codes` says of them."""
    on, zero = np.zeros(UNITS, dtype=np.int64), 0
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        on += np.unpackbits(block, axis=1).sum(axis=0, dtype=np.int64)
        zero += int(np.count_nonzero(~block.any(axis=1)))
    return CodeHealth(
        n_images=len(codes),
        distinct_codes=int(np.count_nonzero(first == np.arange(len(first)))),
        all_zero_share=zero / len(codes),
        dead_units=int(np.count_nonzero(on == 0)),
        constant_units=int(np.count_nonzero((on == 0) | (on == len(codes)))),
    )


def check_health(health: CodeHealth, config: Dedup, where: Path) -> None:
    """Refuse codes that have collapsed.

    Raises
    ------
    InputError
        If too many units are constant, or too few codes distinct.
    """
    found = (
        f"{where}: the {health.n_images:,} codes have {health.constant_units} of {UNITS} units constant, "
        f"{health.distinct_codes:,} distinct values and {health.all_zero_share:.1%} all-zero codes"
    )
    if health.constant_units > config.max_constant_units * UNITS:
        limit = f"at most {config.max_constant_units:.0%} constant units (dedup.max_constant_units)"
    elif health.distinct_codes < config.min_distinct_codes * health.n_images:
        limit = f"at least {config.min_distinct_codes:.0%} distinct codes (dedup.min_distinct_codes)"
    else:
        return
    message = (
        f"{found}; expected {limit}: the codes have collapsed and would remove distinct images; train the hash model "
        "longer or on more varied images, or lower dedup.threshold"
    )
    raise InputError(message)


# ---- groups ---------------------------------------------------------------------------------------------------------


def equal_codes(codes: np.ndarray) -> np.ndarray:
    """Row of the first equal code, for each code, in linear time: hash tables over either word, then over the pair.

    Parameters
    ----------
    codes : uint8, shape (n, 16)

    Returns
    -------
    int64 array, shape (n,)
        A row that is the first of its code has its own number.
    """
    words = np.ascontiguousarray(codes).view(np.uint64)
    label = pd.factorize(words[:, 0])[0]
    other = pd.factorize(words[:, 1])[0]
    label *= other.max(initial=0) + 1  # of both at most n values, so the pair's number stays far below 2^63
    label += other
    del other
    return _first_rows(pd.factorize(label)[0])


def _first_rows(label: np.ndarray) -> np.ndarray:
    """Row of the first occurrence of each row's label; labels are numbered in the order in which they appear."""
    return np.flatnonzero(np.diff(np.maximum.accumulate(label), prepend=-1))[label]


def groups(codes: np.ndarray, *, radius: int, threads: int, where: Path) -> np.ndarray:
    """Group images whose codes are within ``radius`` bits, directly or through others.

    Parameters
    ----------
    codes : uint8, shape (n, k, 16)
        ``codes[:, 0]`` of the image, the others of the image moved. An image is near another if any of the codes of
        either is near the unmoved code of the other.

    Returns
    -------
    int64 array, shape (n,)
        Row of the first image of each image's group.

    Raises
    ------
    InputError
        If the radius needs all pairs of more codes than can be compared.
    """
    first = equal_codes(codes[:, 0])
    if radius == 0 and codes.shape[1] == 1:
        return first
    distinct = np.flatnonzero(first == np.arange(len(first)))
    queries = distinct if codes.shape[1] == 1 else np.arange(len(codes))  # equal images may differ once moved
    components = Components(first)
    for query, candidate, _ in near_pairs(
        codes, queries, codes[distinct, 0], radius=radius, threads=threads, where=where
    ):
        components.join(query, distinct[candidate])
    return components.first()


class Components:
    """Connected components of a graph whose edges arrive in blocks; each is known by its lowest node."""

    def __init__(self, first: np.ndarray) -> None:
        self._first = first
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_pending = 0

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add edges between the nodes a and b, int64 arrays of one length."""
        self._pending.append((a, b))
        self._n_pending += len(a)
        if self._n_pending >= PENDING_PAIRS:
            self._merge()

    def first(self) -> np.ndarray:
        """Lowest node of each node's component."""
        self._merge()
        return self._first

    def _merge(self) -> None:
        if not self._pending:
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a, b = (self._first[np.concatenate(side)] for side in zip(*self._pending, strict=True))
        self._pending, self._n_pending = [], 0
        n = len(self._first)
        edges = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(n, n))
        _, label = connected_components(edges, directed=False)
        self._first = _first_rows(pd.factorize(label)[0])[self._first]


def near_pairs(
    codes: np.ndarray, queries: np.ndarray, candidates: np.ndarray, *, radius: int, threads: int, where: Path
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of (query row, candidate number, distance) of all pairs within ``radius``, equal rows included.

    Parameters
    ----------
    codes : uint8, shape (n, k, 16)
    queries : int64, rows of ``codes``; all k codes of a row are looked up, so that a pair may come up to k times
    candidates : uint8, shape (m, 16)

    Raises
    ------
    InputError
        If all pairs are needed of more than ``ALL_PAIRS_LIMIT`` codes.
    """
    hashed = radius <= HASHED_RADIUS
    if not hashed and max(len(queries), len(candidates)) > ALL_PAIRS_LIMIT:
        message = (
            f"{where}: radius {radius} compares all pairs of {max(len(queries), len(candidates)):,} codes; expected at "
            f"most {ALL_PAIRS_LIMIT:,}, beyond which that takes hours; lower the radius to {HASHED_RADIUS}, up to "
            "which a hash index finds the pairs"
        )
        raise InputError(message)
    import faiss  # pyright: ignore[reportMissingImports]

    faiss.omp_set_num_threads(threads)
    if hashed:
        # of radius + 1 parts of a code at least one is free of the differing bits, so equal parts find every pair
        index = faiss.IndexBinaryMultiHash(UNITS, radius + 1, min(UNITS // (radius + 1), 64))
        block = 2**16
    else:
        index = faiss.IndexBinaryFlat(UNITS)
        block = max(16, 2**23 // max(len(candidates), 1))  # were all pairs near, a block would still fit
    index.add(np.ascontiguousarray(candidates))
    with Progress("searching", total=len(queries), unit="images") as progress:
        for start in range(0, len(queries), block):
            rows = queries[start : start + block]
            for move in range(codes.shape[1]):
                limits, distance, found = index.range_search(np.ascontiguousarray(codes[rows, move]), radius + 1)
                query = np.repeat(rows, np.diff(limits.astype(np.int64)))
                yield query, found.astype(np.int64), distance.astype(np.int64)
            progress.advance(len(rows))


# ---- the set --------------------------------------------------------------------------------------------------------


def deduplicate(
    image_set: ImageSet, network: HashAutoencoder, config: Dedup, compute: Compute, scratch: Path, out: Path
) -> Removal:
    """Write the set without near-duplicates: the first image of each group, in the order of the rows.

    Only the train split is deduplicated; the images of other splits are passed through, so that a score on them means
    the same before and after. The index gets a column ``group_size`` (1 for images alone, and in other splits). The
    rejects are the images removed: key, reason, group_key (the key of the image that was kept).

    Raises
    ------
    InputError
        If the codes have collapsed, a group is larger than the params allow, or the radius needs too many comparisons.
    """
    train = image_set.rows(SPLIT)
    codes = encode_rows(image_set, train, network, threshold=config.threshold, offsets=config.offsets, scratch=scratch)
    health = code_health(codes[:, 0], equal_codes(codes[:, 0]))
    check_health(health, config, image_set.path)
    first = groups(codes, radius=config.radius, threads=compute.threads, where=image_set.path)
    sizes = np.bincount(first, minlength=len(first))
    _check_largest(sizes, config, image_set)
    keeper = np.arange(len(image_set.index))  # for each row of the set, the row that stands for it
    keeper[train] = train[first]
    group_size = np.ones(len(image_set.index), dtype=np.int64)
    group_size[train] = sizes
    kept = np.flatnonzero(keeper == np.arange(len(keeper)))
    removed = np.flatnonzero(keeper != np.arange(len(keeper)))
    index = image_set.index.assign(group_size=group_size).iloc[kept].reset_index(drop=True)
    _write(out, image_set, kept, index, _rejects(image_set, removed, keeper[removed]), scratch)
    quantities = {
        "n_in": len(train),
        "n_removed": len(removed),
        "n_kept": len(train) - len(removed),
        "n_passed_through": len(keeper) - len(train),
        "n_out": len(kept),
        "n_groups": int(np.count_nonzero(sizes > 1)),
        "largest_group": int(sizes.max()),
        "distinct_codes": health.distinct_codes,
        "all_zero_share": health.all_zero_share,
        "dead_units": health.dead_units,
        "constant_units": health.constant_units,
    } | false_positives(image_set.index, removed, keeper[removed])
    shown = _sample(removed, config.seed)
    return Removal(results=_results(quantities, sizes), collisions=_collisions(image_set, shown, keeper[shown]))


def _check_largest(sizes: np.ndarray, config: Dedup, image_set: ImageSet) -> None:
    largest = int(sizes.max())
    if largest > max(2, config.max_group_share * len(sizes)):  # a pair is no chain, however small the set
        key = image_set.index["key"].iloc[image_set.rows(SPLIT)[int(sizes.argmax())]]
        message = (
            f"{image_set.path}: the group of '{key}' has {largest:,} of {len(sizes):,} images; expected at most "
            f"{config.max_group_share:.1%} (dedup.max_group_share): distinct images are chained through ones between "
            "them; lower dedup.radius, or raise the share if they are duplicates"
        )
        raise InputError(message)


def _rejects(image_set: ImageSet, removed: np.ndarray, keepers: np.ndarray) -> pd.DataFrame:
    keys = image_set.index["key"].astype("str").to_numpy()
    return pd.DataFrame(
        {
            "key": pd.Series(keys[removed], dtype="str"),
            "reason": pd.Series([f"near-duplicate of {key}" for key in keys[keepers]], dtype="str"),
            "group_key": pd.Series(keys[keepers], dtype="str"),
        }
    )


def _write(
    out: Path, image_set: ImageSet, kept: np.ndarray, index: pd.DataFrame, rejects: pd.DataFrame, scratch: Path
) -> None:
    """Write the set; the images are gathered in ``scratch``, so that a killed run need not copy them twice."""
    images, gathered = image_set.images, scratch / "images.npy"
    block = max(1, COPY_BYTES // max(1, math.prod(images.shape[1:])))
    with whole_directory(out) as partial:
        fill_array(
            gathered,
            (len(kept), *images.shape[1:]),
            block,
            lambda start, stop: images[kept[start:stop]],
            "copying",
        )
        check_set(out, np.load(gathered, mmap_mode="r"), index)
        index.to_parquet(partial / "index.parquet", index=False)
        rejects.to_parquet(partial / "rejects.parquet", index=False)
        shutil.move(gathered, partial / "images.npy")


def _results(quantities: dict[str, float], sizes: np.ndarray) -> pd.DataFrame:
    histogram = np.bincount(sizes[sizes > 0])
    quantities |= {f"groups_of_{size}": histogram[size] for size in np.flatnonzero(histogram)}
    return pd.DataFrame(
        {
            "quantity": pd.Series([*quantities], dtype="str"),
            "value": np.array([*quantities.values()], dtype=np.float64),
        }
    )


# ---- how many were no duplicates ------------------------------------------------------------------------------------


def false_positives(index: pd.DataFrame, removed: np.ndarray, keepers: np.ndarray) -> dict[str, float]:
    """Share of removed images that are no duplicate of the image kept for them, in per cent, with its 95 % interval.

    By the planted truth, column ``group`` of the index. Nothing without one, or without removals: then a person judges
    the sheet of collisions.
    """
    if "group" not in index.columns or not len(removed):
        return {}
    group = index["group"].to_numpy(dtype=np.int64)
    n_false = int(np.count_nonzero((group[removed] != group[keepers]) | (group[removed] < 0)))
    low, high = interval_95(np.array([n_false]), np.array([len(removed)]))
    return {
        "n_judged": len(removed),
        "n_false": n_false,
        "false_positive_percent": 100 * n_false / len(removed),
        "false_positive_percent_low": 100 * float(low[0]),
        "false_positive_percent_high": 100 * float(high[0]),
    }


def interval_95(successes: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's exact interval of a share, from 0 to 1; NaN where n is 0."""
    from scipy.special import betaincinv

    k, n = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 0.025), 0.0)
        high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 0.975), 1.0)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def _sample(removed: np.ndarray, seed: int) -> np.ndarray:
    if len(removed) <= SHEET_PAIRS:
        return removed
    return np.sort(numpy_stream(seed, "collisions").choice(removed, SHEET_PAIRS, replace=False))


def _collisions(image_set: ImageSet, removed: np.ndarray, keepers: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.stack([removed, keepers], axis=1).ravel()
    keys = image_set.index["key"].astype("str").to_numpy()
    return {"images": np.ascontiguousarray(image_set.images[rows]), "keys": np.array(keys[rows], dtype=np.str_)}
