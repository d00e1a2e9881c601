"""The stand-in for the real near-duplicates: windows that do not overlap, each in all versions, and distractors."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import alterations, near_duplicates
from pipeline.datasets.embedded.near_duplicates import NearDuplicates, distinct_windows, write_near_duplicates

SMALL = NearDuplicates(seed=5, n_groups=2, n_distractors=3)


@pytest.fixture
def photos(monkeypatch):
    """Two made-up photographs, of 3 x 2 and 1 x 1 windows, and one without anything on it."""
    rng = numpy_stream(0, "photos")

    def blocks(height, width):
        coarse = rng.integers(0, 256, size=(-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
        return coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]

    made = {
        "busy": blocks(210, 400),
        "flat": np.full((300, 300, 3), 90, dtype=np.uint8),
        "small": blocks(96, 128),
        "too_small": blocks(95, 500),
        "page": blocks(300, 300),  # one of those left out
    }
    monkeypatch.setattr(near_duplicates, "photographs", lambda: made)
    return made


def contents(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def decoded(content):
    return np.array(Image.open(io.BytesIO(content)))


def test_layout_and_truth(tmp_path, photos):
    write_near_duplicates(tmp_path / "out", SMALL)
    found = contents(tmp_path / "out")
    truth = pd.read_parquet(tmp_path / "out/truth.parquet")
    assert truth.columns.tolist() == ["key", "group", "alteration"]
    assert truth["group"].dtype == np.int64
    assert truth["key"].tolist() == sorted(truth["key"])
    assert {f"images/{key}" for key in truth["key"]} | {"truth.parquet"} == set(found)
    assert len(truth) == 2 * 19 + 3
    for group in (0, 1):
        mine = truth[truth["group"] == group]
        assert sorted(mine["alteration"]) == sorted(alterations.REAL)
        assert all(key == f"g{group:03d}_{name}.jpg" for key, name in zip(mine["key"], mine["alteration"], strict=True))
    distractors = truth[truth["group"] == -1]
    assert distractors["alteration"].tolist() == ["distractor"] * 3
    assert distractors["key"].tolist() == ["d000.jpg", "d001.jpg", "d002.jpg"]
    assert all(content.startswith(b"\xff\xd8\xff") for name, content in found.items() if name.endswith(".jpg"))


def test_versions_show_the_window_of_their_group(tmp_path, photos):
    write_near_duplicates(tmp_path / "out", SMALL)
    found = contents(tmp_path / "out")
    windows = distinct_windows(SMALL.seed)
    for group in (0, 1):
        original = decoded(found[f"images/g{group:03d}_original.jpg"])
        assert original.shape == (192, 256, 3)
        errors = [np.abs(original.astype(float) - window).mean() for window in windows]
        assert np.argmin(errors) == group
        flipped = decoded(found[f"images/g{group:03d}_hflip.jpg"])
        assert np.abs(flipped[:, ::-1].astype(float) - windows[group]).mean() < 2 * min(errors)
        assert decoded(found[f"images/g{group:03d}_scale50.jpg"]).shape == (96, 128, 3)


def test_the_same_seed_the_same_bytes(tmp_path, photos):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_near_duplicates(tmp_path / name, NearDuplicates(seed=seed, n_groups=1, n_distractors=2))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_windows_share_no_pixel():
    marked = np.zeros((300, 400, 3), dtype=np.uint8)
    marked[..., 0], marked[..., 1] = np.arange(300)[:, None] % 256, np.arange(400)[None] % 256
    marked[..., 2] = (np.arange(300) // 256)[:, None] + 2 * (np.arange(400) // 256)[None]
    places = set()
    for seed in range(5):
        cells = near_duplicates._cells(marked, numpy_stream(seed, "cells"))
        assert len(cells) == 9
        assert {cell.shape for cell in cells} == {(96, 128, 3)}
        pixels = np.concatenate([cell.reshape(-1, 3) for cell in cells])
        assert len(np.unique(pixels, axis=0)) == 9 * 96 * 128
        places.add(tuple(cells[0][0, 0]))
    assert len(places) > 1


def test_windows_without_anything_on_them_are_left_out(photos):
    windows = distinct_windows(0)
    assert len(windows) == 6 + 1  # of "busy" and "small"
    assert all(window.std() > 20 for window in windows)


def test_real_photographs_have_enough_windows():
    windows = distinct_windows(0)
    assert len(windows) >= 150
    assert {window.shape for window in windows} == {(192, 256, 3)}
    small = np.stack([window[::16, ::16].mean(axis=2).ravel() for window in windows])
    small = small - small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    alike = small @ small.T - np.eye(len(small))
    assert alike.max() < 0.97


def test_more_windows_than_there_are(tmp_path, photos):
    with pytest.raises(InputError) as caught:
        write_near_duplicates(tmp_path / "out", NearDuplicates(seed=0, n_groups=5, n_distractors=3))
    assert "n_groups + n_distractors = 8, the photographs" in str(caught.value)
    assert "have 7 windows" in str(caught.value)
    assert not (tmp_path / "out").exists()
