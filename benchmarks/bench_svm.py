"""Linear L2-SVM of ten classes against scikit-learn's ``LinearSVC`` at the same objective value; peak memory beside it.

``python -m benchmarks.bench_svm`` makes the features of 10,000 images (28,672 each, float16) in a temporary folder;
LinearSVC takes minutes and about 12 GB for them. With --alone it is left out.
"""

import argparse
import resource
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from pipeline.core.compute import Compute
from pipeline.core.seeding import numpy_stream
from pipeline.evaluation.linear_svm import LinearL2SVM

COMPUTE = Compute(device="cpu", threads=2, precision="auto")
CLASSES = 10
TEST = 2000
FACTORS = 1000
CLASS_SPREAD = 0.09  # about a quarter of the test rows are misclassified
CHUNK = 500
EQUAL = 1e-3  # of the objective
PEER_TOLERANCES = [0.3, 0.2, 0.1, 0.03, 0.01, 1e-3]  # the first that reaches the objective counts, and it alone


def features(out: Path, n: int, d: int) -> tuple[np.memmap, np.ndarray]:
    """float16 (n, d) like pooled activations, and labels.

    Factors of falling variance, shared by all columns, give the correlations and carry the classes; two noisy copies,
    the larger of each pair and LeakyReLU stand for max-pooling. The spectrum falls as that of a random discriminator's
    features of CIFAR-10 does: the first direction is the mean and holds most of it.
    """
    rng = numpy_stream(0, "benchmark_svm")
    mix = rng.standard_normal((FACTORS, d), dtype=np.float32)
    mix *= (1 + np.arange(FACTORS, dtype=np.float32)[:, None]) ** -0.6
    mix /= np.sqrt((mix**2).sum(axis=0))
    offset = 0.3 + 0.7 * rng.standard_normal(d, dtype=np.float32)
    centers = CLASS_SPREAD * rng.standard_normal((CLASSES, FACTORS), dtype=np.float32)
    labels = rng.integers(0, CLASSES, n)
    stored = np.lib.format.open_memmap(out, mode="w+", dtype=np.float16, shape=(n, d))
    for start in range(0, n, CHUNK):
        chunk = labels[start : start + CHUNK]
        factors = centers[chunk] + rng.standard_normal((len(chunk), FACTORS), dtype=np.float32)
        copies = rng.standard_normal((2, len(chunk), d), dtype=np.float32)
        pooled = factors @ mix + offset + 0.5 * copies.max(axis=0)
        stored[start : start + CHUNK] = np.where(pooled > 0, pooled, 0.2 * pooled)
    stored.flush()
    return stored, labels


def objective(coef: np.ndarray, intercept: np.ndarray, C: float, X: np.ndarray, y: np.ndarray) -> float:  # noqa: N803
    """Sum over classes, float64, by its definition."""
    losses = 0.0
    for start in range(0, len(X), CHUNK):
        scores = X[start : start + CHUNK].astype(np.float64) @ coef.T + intercept
        signs = np.where(y[start : start + CHUNK, None] == np.arange(CLASSES), 1.0, -1.0)
        losses += float((np.maximum(0, 1 - signs * scores) ** 2).sum())
    return 0.5 * float((coef**2).sum() + (intercept**2).sum()) + C * losses


def resident() -> int:
    """Bytes of this process that are neither shared nor a file's: pages of the memory map do not count (on Linux)."""
    if not Path("/proc/self/status").is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class PeakMemory:
    """Context that samples :func:`resident`: what was held at most beyond what was held on entry."""

    def __enter__(self) -> "PeakMemory":
        self.before, self.peak = resident(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, resident() - self.before)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def peer(X: np.ndarray, y: np.ndarray, C: float, goal: float, tols: list[float]) -> tuple[float, float]:  # noqa: N803
    """Seconds and objective of the loosest LinearSVC that reaches the goal."""
    seconds, reached = 0.0, float("inf")
    for tol in tols:
        model = LinearSVC(C=C, tol=tol, dual=len(X) < X.shape[1], max_iter=3000)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        seconds = time.perf_counter() - started
        reached = objective(model.coef_, np.asarray(model.intercept_), C, X, y)
        print(f"  LinearSVC, tol {tol:g}: {seconds:.1f} s, objective {reached / goal - 1:+.1e} of ours", flush=True)
        if reached <= goal * (1 + EQUAL):
            break
    return seconds, reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=28_672)
    parser.add_argument("--C", type=float, default=1e-4)
    parser.add_argument("--alone", action="store_true", help="without LinearSVC")
    parser.add_argument("--peer-tol", type=float, nargs="+", default=PEER_TOLERANCES, help="tolerances to try in turn")
    parser.add_argument("--threads", type=int, default=COMPUTE.threads, help="of ours; LinearSVC has one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n, d, C = arguments.rows, arguments.columns, arguments.C  # noqa: N806
    with tempfile.TemporaryDirectory() as folder:
        stored, labels = features(Path(folder) / "features.npy", n + TEST, d)
        X, y = stored[:n], labels[:n]  # noqa: N806
        LinearL2SVM(C=C).fit(X[:64], y[:64])  # first calls choose kernels
        seconds: dict[str, float] = {}
        model = LinearL2SVM()
        memory = 0.0
        for name, tol in (("at 1e-3", EQUAL), ("by default", LinearL2SVM().tol)):
            with PeakMemory() as used:
                started = time.perf_counter()
                model = LinearL2SVM(C=C, tol=tol).fit(X, y)
                seconds[name] = time.perf_counter() - started
            memory = max(memory, 1 + used.peak / X.nbytes)
            wrong = float(np.mean(model.predict(stored[n:]) != labels[n:]))
            goal = objective(model.coef_, np.asarray(model.intercept_), C, X, y)
            print(
                f"  ours, tol {tol:g}: {seconds[name]:.1f} s, {model.n_iter_} Newton steps, objective {goal:.6f}, "
                f"gap {(model.duality_gap_ / model.objective_).max():.1e}, test error {100 * wrong:.1f} %",
                flush=True,
            )
        text = f"L2-SVM, {n:,} x {d:,} {X.dtype}, {CLASSES} classes, C = {C:g}, {arguments.threads} threads: "
        text += f"ours {seconds['at 1e-3']:.1f} s ({seconds['by default']:.1f} s by default)"
        if not arguments.alone:
            theirs, reached = peer(X.astype(np.float64), y, C, goal, arguments.peer_tol)
            text += (
                f", LinearSVC {theirs:.1f} s for an objective {reached / goal - 1:+.1e} of ours, "
                f"ratio {theirs / seconds['at 1e-3']:.1f} (target >= 5)"
            )
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        print(f"{text}; memory {memory:.2f} x the features (target <= 1.3), process peak {whole:.1f} GB")
        assert memory <= 1.3 or n * d < 10_000 * 28_672, "the fit took more than 1.3 times the features"


if __name__ == "__main__":
    main()
