"""Exact 1-nearest neighbour of 10,000 digits among 50,000, against faiss ``IndexFlatL2``; with --memory, peak memory.

``python -m benchmarks.bench_neighbours`` takes real test digits where ``GAN_DATA`` names them, else made ones.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.core.compute import Compute
from pipeline.core.seeding import numpy_stream
from pipeline.datasets import idx
from pipeline.evaluation.neighbours import Neighbours, NeighbourSearch

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
ROUNDS = 3
PIXELS = 784
CHUNK = 4000


def made_digits(n: int, index: int) -> np.ndarray:
    """uint8 (n, 784) like MNIST's: about a fifth of the pixels are ink, most of it dark."""
    rng = numpy_stream(0, "benchmark", index)
    ink = rng.random((n, PIXELS), dtype=np.float32) < 0.19
    return np.where(ink, rng.integers(1, 256, (n, PIXELS), dtype=np.uint8) | 0x80, 0).astype(np.uint8)


def digits(n_queries: int, n_candidates: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Queries, candidates, and what they are."""
    raw = Path(os.environ.get("GAN_DATA", "")) / "MNIST" / "raw"
    files = [raw / "t10k-images-idx3-ubyte", raw / "train-images-idx3-ubyte"]
    if os.environ.get("GAN_DATA") and all(file.is_file() for file in files):
        queries, candidates = (idx.decode(idx.read_bytes(file), file).reshape(-1, PIXELS) for file in files)
        return queries[:n_queries], candidates[:n_candidates], "real digits"
    return made_digits(n_queries, 0), made_digits(n_candidates, 1), "made digits"


def ours(queries: np.ndarray, candidates: np.ndarray, labels: np.ndarray) -> Neighbours:
    search = NeighbourSearch(queries, COMPUTE)
    for start in range(0, len(candidates), CHUNK):
        search.add(candidates[start : start + CHUNK], labels[start : start + CHUNK])
    return search.result()


def squared_distances(queries: np.ndarray, candidates: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Exactly, in integers, of each query to the candidate that was named."""
    difference = queries.astype(np.int32) - candidates[index].astype(np.int32)
    return (difference**2).sum(axis=1)


def speed(n_queries: int, n_candidates: int) -> None:
    import faiss  # pyright: ignore[reportMissingImports] - it has no types

    faiss.omp_set_num_threads(COMPUTE.threads)
    queries, candidates, what = digits(n_queries, n_candidates)
    labels = np.zeros(len(candidates), dtype=np.int64)
    float_queries, float_candidates = queries.astype(np.float32), candidates.astype(np.float32)
    found, peer = ours(queries, candidates[:CHUNK], labels[:CHUNK]), np.empty(0)  # first calls choose kernels
    seconds: dict[str, list[float]] = {"ours": [], "faiss": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = ours(queries, candidates, labels)
        seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        index = faiss.IndexFlatL2(PIXELS)
        index.add(float_candidates)
        _, peer = index.search(float_queries, 1)
        seconds["faiss"].append(time.perf_counter() - started)
    distance = squared_distances(queries, candidates, found.index)
    peer_distance = squared_distances(queries, candidates, peer[:, 0])
    assert np.array_equal(distance, found.squared_distance), "our distance is not the distance of our index"
    assert (distance <= peer_distance).all(), "faiss found a nearer neighbour"
    other, nearer = int((found.index != peer[:, 0]).sum()), int((distance < peer_distance).sum())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = len(queries) * len(candidates) / 1e9
    print(
        f"1-nearest neighbour, {len(queries):,} x {len(candidates):,} x {PIXELS}, {what}, {COMPUTE.threads} threads: "
        f"ours {median['ours']:.2f} s ({pairs / median['ours']:.3f} G pairs/s), "
        f"faiss {median['faiss']:.2f} s ({pairs / median['faiss']:.3f} G pairs/s), "
        f"ratio {median['faiss'] / median['ours']:.2f} (target >= 2.5); "
        f"{other} indices differ (equally near), {nearer} of ours are nearer, none farther"
    )


def memory(n_queries: int, n_candidates: int) -> None:
    """Peak memory of a search over a stream; chunks are drawn as they are needed."""
    queries = made_digits(n_queries, 0)
    search = NeighbourSearch(queries, COMPUTE)
    labels = np.zeros(CHUNK, dtype=np.int64)
    pool = made_digits(CHUNK + 997, 1)
    started = time.perf_counter()
    for start in range(0, n_candidates, CHUNK):
        first = (start // CHUNK) % 997  # a moving window and a shift of the pixels: drawing must not outweigh searching
        chunk = np.roll(pool[first : first + CHUNK], start // CHUNK, axis=1)[: n_candidates - start]
        search.add(chunk, labels[: len(chunk)])
    seconds = time.perf_counter() - started
    assert search.result().index.max() < search.seen == n_candidates
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(
        f"memory, {n_queries:,} x {n_candidates:,} x {PIXELS} streamed: peak {peak:.3f} GB (target < 1 GB), "
        f"{seconds:.1f} s ({n_queries * n_candidates / seconds / 1e9:.3f} G pairs/s)"
    )
    assert peak < 1, "the search took a gigabyte or more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure peak memory, not speed")
    parser.add_argument("--queries", type=int, help="default 10,000; 1,000 with --memory")
    parser.add_argument(
        "--candidates", type=int, help="default 50,000; 1,000,000 with --memory (the paper: 10,000,000)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(COMPUTE.threads)
    if arguments.memory:
        memory(arguments.queries or 1_000, arguments.candidates or 1_000_000)
    else:
        speed(arguments.queries or 10_000, arguments.candidates or 50_000)


if __name__ == "__main__":
    main()
