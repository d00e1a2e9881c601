"""Groups of equal 128-bit codes among 3 million, against a dict of bytes and ``numpy.unique``: seconds and peak memory.

``python -m benchmarks.bench_grouping``; each way runs in a process of its own, with the libraries that it needs.
"""

import argparse
import hashlib
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

CODE_BYTES = 16
PLANTED = 0.09  # of the images, as the paper removed


def planted_codes(n: int) -> np.ndarray:
    """uint8 (n, 16): random codes, of which 9 % are copies of others; group sizes vary."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (n, CODE_BYTES), dtype=np.uint8)
    copies = rng.choice(n, int(PLANTED * n), replace=False)
    codes[copies] = codes[rng.integers(0, n, len(copies))]
    return codes


def ours(codes: np.ndarray) -> np.ndarray:
    from pipeline.datasets.dedup import equal_codes

    return equal_codes(codes)


def with_dict(codes: np.ndarray) -> np.ndarray:
    seen: dict[bytes, int] = {}
    content = codes.tobytes()
    return np.array(
        [seen.setdefault(content[row * CODE_BYTES : (row + 1) * CODE_BYTES], row) for row in range(len(codes))]
    )


def with_unique(codes: np.ndarray) -> np.ndarray:
    whole = codes.view(np.dtype((np.void, CODE_BYTES)))[:, 0]
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return first[inverse]


def with_unique_rows(codes: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(codes.view(np.uint64), axis=0, return_index=True, return_inverse=True)
    return first[inverse]


def near(codes: np.ndarray) -> np.ndarray:
    from pipeline.datasets.dedup import groups

    return groups(codes[:, None], radius=3, threads=2, where=Path("benchmark"))


WAYS = {
    "ours": ours,
    "dict of bytes": with_dict,
    "numpy.unique, void": with_unique,
    "numpy.unique, axis 0": with_unique_rows,
}


def measure(way: str, n: int) -> tuple[float, float, int, str]:
    """Seconds, peak memory of the process in GB, images in groups after the first, and a digest of the groups."""
    codes = planted_codes(n)
    function = near if way == "near" else WAYS[way]
    function(codes[:1000])  # first calls load libraries
    started = time.perf_counter()
    first = function(codes)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    digest = hashlib.sha256(first.astype(np.int64).tobytes()).hexdigest()
    return seconds, peak, int((first != np.arange(n)).sum()), digest


def alone(way: str, n: int) -> tuple[float, float, int, str]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, way, n).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=3_000_000)
    parser.add_argument("--near", action="store_true", help="groups within 3 bits by the hash index, instead")
    arguments = parser.parse_args()
    if arguments.near:
        seconds, peak, copies, _ = alone("near", arguments.codes)
        print(f"near codes, radius 3, {arguments.codes:,}: {seconds:.1f} s, peak {peak:.2f} GB, {copies:,} copies")
        return
    found = {way: alone(way, arguments.codes) for way in WAYS}
    assert len({digest for *_, digest in found.values()}) == 1, "the ways disagree"
    seconds, peak, copies, _ = found["ours"]
    peers = "; ".join(f"{way} {s:.2f} s, {p:.2f} GB, ratio {s / seconds:.1f}" for way, (s, p, *_) in found.items())
    print(f"equal codes, {arguments.codes:,} with {copies:,} copies: {peers} (target: <= 10 s, < 1 GB)")
    assert peak < 1, "grouping took a gigabyte or more"


if __name__ == "__main__":
    main()
