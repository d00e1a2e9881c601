"""Neighbours on pixels against a slow loop in whole numbers and against scikit-learn."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from sklearn.neighbors import KNeighborsClassifier

from pipeline.core import compute, params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet, write_set
from pipeline.datasets.splits import labelled_subset
from pipeline.evaluation import pixel_neighbours as module
from pipeline.evaluation.pixel_neighbours import PixelNeighbours, pixel_neighbours, votes
from pipeline.evaluation.probes import Ledger
from stages import pixel_neighbours as pixel_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
CONFIG = PixelNeighbours(seed=5, labels_per_class=4, k=[1, 3, 9], draws_to_choose=5, draws_to_test=14)
SIZES = {"train": 60, "validation": 30, "test": 40}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on images this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(noise: float = 60.0) -> ImageSet:
    """Three classes of 4 x 4 colour images around their means; splits lie mixed."""
    split = np.repeat(list(SIZES), list(SIZES.values()))[numpy_stream(1, "split").permutation(130)]
    labels = numpy_stream(1, "labels").integers(0, 3, 130)
    means = numpy_stream(2, "means").uniform(80, 176, (3, 4, 4, 3))
    values = means[labels] + noise * numpy_stream(2, "noise").normal(size=(130, 4, 4, 3))
    keys = [f"image {i}" for i in range(130)]
    index = pd.DataFrame({"key": keys, "split": split, "label": labels, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=values.clip(0, 255).astype(np.uint8), index=index)


# ---- the vote -------------------------------------------------------------------------------------------------------


def votes_slowly(queries: np.ndarray, candidates: np.ndarray, labels: np.ndarray, numbers: list[int]) -> list:
    voted = []
    for k in numbers:
        of_k = []
        for query in queries.reshape(len(queries), -1).tolist():
            distances = [
                sum((a - b) ** 2 for a, b in zip(query, one, strict=True))
                for one in candidates.reshape(len(candidates), -1).tolist()
            ]
            nearest = sorted(range(len(distances)), key=lambda i: (distances[i], i))[:k]
            counts = [sum(labels[i] == label for i in nearest) for label in range(max(labels) + 1)]
            of_k.append(counts.index(max(counts)))
        voted.append(of_k)
    return voted


@pytest.mark.parametrize("levels", [2, 3, 256], ids=["many ties", "ties", "no ties"])
def test_the_vote_against_a_slow_loop(monkeypatch, levels: int):
    monkeypatch.setattr(module, "QUERY_BLOCK", 7)
    rng = numpy_stream(4, "levels", levels)
    queries, candidates = (rng.integers(0, levels, (n, 2, 2, 3), dtype=np.uint8) for n in (25, 30))
    labels = rng.integers(0, 4, 30)
    got = votes(queries, candidates, labels, [1, 2, 4, 9, 30], "cpu")
    np.testing.assert_array_equal(got, votes_slowly(queries, candidates, labels, [1, 2, 4, 9, 30]))


def test_distances_are_exact_at_the_size_of_colour_images():
    """One level of one of 3,072 pixels decides, among the largest distances that there are."""
    query = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    candidates = np.full((300, 32, 32, 3), 255, dtype=np.uint8)
    for nearer in (0, 123, 299):
        changed = candidates.copy()
        changed[nearer, 31, 7, 2] = 254
        assert votes(query, changed, np.arange(300), [1], "cpu")[0, 0] == nearer
    assert votes(query, candidates, np.arange(300)[::-1].copy(), [1], "cpu")[0, 0] == 299, "the first among equals"


# ---- the protocol ---------------------------------------------------------------------------------------------------


def run(scratch: Path, images: ImageSet | None = None) -> pd.DataFrame:
    return pixel_neighbours(images or image_set(), CONFIG, FP32, scratch)


def protocol_slowly() -> list[tuple]:
    images, found = image_set(), []
    x = {split: images.images[images.rows(split)].reshape(n, -1).astype(float) for split, n in SIZES.items()}
    y = {split: images.labels(images.rows(split)) for split in SIZES}

    def error(draw: int, k: int, judged: str) -> float:
        rows = labelled_subset(y["train"], 4, seed=5, where="", draw=draw)
        model = KNeighborsClassifier(k, algorithm="brute").fit(x["train"][rows], y["train"][rows])
        wrong = 100.0 * float(np.mean(model.predict(x[judged]) != y[judged]))
        found.append(("choose" if judged == "validation" else "test", 4, 12, float(k), draw, wrong, SIZES[judged]))
        return wrong

    means = np.mean([[error(draw, k, "validation") for k in CONFIG.k] for draw in range(5)], axis=0)
    k = CONFIG.k[int(means.argmin())]
    for draw in range(5, 19):
        error(draw, k, "test")
    return found


def test_the_protocol_against_a_loop_over_scikit_learn(tmp_path: Path):
    got, expected = run(tmp_path), protocol_slowly()
    columns = ["purpose", "labels_per_class", "n_labels", "setting", "draw", "error_percent", "n_images"]
    assert [*got.columns] == [*columns, "n_features", "max_feature_units"]
    pd.testing.assert_frame_equal(got[columns], pd.DataFrame(expected, columns=columns), rtol=1e-12)
    assert (got["n_features"] == 48).all()
    assert (got["max_feature_units"] == 0).all()
    assert got["error_percent"].between(5, 60).all()
    assert got.groupby("setting")["error_percent"].mean().nunique() == 3


def test_no_test_image_decides_k(tmp_path: Path):
    images, plain = image_set(), run(tmp_path / "a")
    other = dataclasses.replace(images, images=images.images.copy())
    test = images.rows("test")
    other.images[test] = other.images[test[::-1]]
    changed = run(tmp_path / "b", other)
    chosen, before = (table[table["purpose"] == "choose"] for table in (changed, plain))
    pd.testing.assert_frame_equal(chosen, before, check_exact=True)
    tested, before = (table[table["purpose"] == "test"] for table in (changed, plain))
    assert tested["setting"].tolist() == before["setting"].tolist()
    assert tested["error_percent"].mean() > before["error_percent"].mean() + 10


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path, monkeypatch):
    unbroken, original, killed = run(tmp_path / "a"), Ledger.add, 0

    def add(self: Ledger, unit: str, rows) -> None:
        original(self, unit, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "add", add)
    while True:
        try:
            resumed = run(tmp_path / "b")
            break
        except KeyboardInterrupt:
            killed += 1
    assert killed == 4
    for name, table in (("a", unbroken), ("b", resumed)):
        table.to_parquet(tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


# ---- refused --------------------------------------------------------------------------------------------------------


def test_sets_that_do_not_fit(tmp_path: Path):
    images = image_set()
    with pytest.raises(InputError, match=r"sets/noise: class \d has \d+ training images, 30 labels per class"):
        pixel_neighbours(images, dataclasses.replace(CONFIG, labels_per_class=30), FP32, tmp_path)
    with pytest.raises(InputError, match=r"13 neighbours among 12 labelled images; lower pixel_neighbours\.k to at"):
        pixel_neighbours(images, dataclasses.replace(CONFIG, k=[1, 13]), FP32, tmp_path)
    without = dataclasses.replace(images, index=images.index.replace({"split": {"validation": "extra"}}))
    with pytest.raises(InputError, match="no images in split 'validation'"):
        pixel_neighbours(without, CONFIG, FP32, tmp_path)
    unlabelled = dataclasses.replace(images, index=images.index.assign(label=-1))
    with pytest.raises(InputError, match="60 of 60 images in split 'train' have no label"):
        pixel_neighbours(unlabelled, CONFIG, FP32, tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"k": [3, 1]}, "k must ascend, found 3, 1"),
        ({"k": [0, 1]}, r"k\.0: value should be greater than or equal to 1"),
        ({"k": []}, "k: .*at least 1 item"),
        ({"k": [1.5]}, r"k\.0: .*integer"),
        ({"labels_per_class": 0}, "labels_per_class: value should be greater than or equal to 1"),
    ],
)
def test_params(tmp_path: Path, changes: dict, match: str):
    file = tmp_path / "params.yaml"
    YAML().dump({"pixel_neighbours": dataclasses.asdict(CONFIG)}, file)
    assert params.load(file, PixelNeighbours, own="pixel_neighbours") == CONFIG
    YAML().dump({"pixel_neighbours": dataclasses.asdict(CONFIG) | changes}, file)
    with pytest.raises(InputError, match=match):
        params.load(file, PixelNeighbours, own="pixel_neighbours")


def test_the_stage_writes_the_rows(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set()
    write_set(tmp_path / "set", images.images, images.index, pd.DataFrame({"key": [], "reason": []}))
    sections = {"pixel_neighbours": dataclasses.asdict(CONFIG), "compute": dataclasses.asdict(FP32)}
    YAML().dump(sections, tmp_path / "params.yaml")
    pixel_stage.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "pixels.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "pixels.parquet"), run(tmp_path / "again"))
    assert not [*(tmp_path / "scratch").iterdir()]
