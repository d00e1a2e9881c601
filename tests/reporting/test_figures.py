"""Figures from hand-made arrays: layout, numbers and bytes."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.reporting import drawing, figures


def write_sheet(path, wrong: int) -> None:
    labels = np.repeat(np.arange(10), 7)
    nearest = labels.copy()
    nearest[:wrong] = 9  # class 0 first
    images = np.zeros((70, 28, 28, 1), dtype=np.uint8)
    images[:, 6:22, 12 : 14 + wrong] = 255  # a stroke: noise would not compress as digits do
    np.savez(path, images=images, labels=labels, nearest_labels=nearest)


def write_curve(path, network: str, sizes: list[int]) -> None:
    rows = [(seed, network, n, 10.0 / i + seed) for seed in (0, 1) for i, n in enumerate(sizes, start=1)]
    pd.DataFrame(rows, columns=["seed", "network", "n_images", "error_percent"]).to_parquet(path)


@pytest.fixture
def sheets(tmp_path):
    for name, wrong in (("real", 0), ("gan_mnist", 7), ("dcgan_mnist", 3)):
        write_sheet(tmp_path / f"{name}.npz", wrong)
    return tmp_path


@pytest.fixture
def curves(tmp_path):
    write_curve(tmp_path / "real.parquet", "real", [3500])
    for name in ("gan_mnist", "dcgan_mnist"):
        write_curve(tmp_path / f"{name}.parquet", "generator", [1000, 10_000])
    return tmp_path


def test_fig9_counts_what_is_recognised(sheets):
    drawn = figures.dcgan_fig9(sheets)
    assert drawn.metrics["real"] == {"n_images": 70, "recognised_percent": 100.0}
    assert drawn.metrics["gan_mnist"]["recognised_percent"] == 90.0
    counts = drawn.numbers.set_index(["panel", "digit"])["recognised"]
    assert counts["gan_mnist", 0] == 0
    assert counts["dcgan_mnist", 0] == 4
    assert counts["dcgan_mnist", 1] == 7


def test_fig9_has_three_panels_of_ten_rows_by_seven(sheets):
    panels = figures.dcgan_fig9(sheets).figure.axes
    assert len(panels) == 3
    for panel in panels:
        assert panel.images[0].get_array().shape[:2] == (10 * 29 - 1, 7 * 29 - 1)


def test_error_over_n_is_the_mean_over_seeds(curves):
    drawn = figures.error_over_n(curves)
    assert drawn.metrics["gan_mnist"] == {"n_1000": 10.5, "n_10000": 5.5}
    assert drawn.numbers["dcgan"].tolist() == [10.5, 5.5]
    assert drawn.numbers["log10_n_images"].tolist() == [3.0, 4.0]


def test_curve_ignores_the_last_epoch():
    frame = pd.DataFrame(
        {
            "network": ["generator", "generator", "generator_last"],
            "n_images": [10, 10, 10],
            "error_percent": [1.0, 3.0, 99.0],
        }
    )
    curve = figures.curve_of(frame)
    assert curve["error_percent"].tolist() == [2.0]
    assert curve["spread"].tolist() == [pytest.approx(np.sqrt(2))]


def test_one_seed_has_no_deviation():
    frame = pd.DataFrame({"network": ["generator"], "n_images": [10], "error_percent": [1.0]})
    assert figures.curve_of(frame)["spread"].isna().all()


@pytest.mark.parametrize("name", ["dcgan_fig9", "error_over_n"])
def test_same_numbers_same_bytes_under_500_kb(name, sheets, curves, tmp_path):
    hashes = []
    for copy in ("a.png", "b.png"):
        drawing.save(figures.FIGURES[name](tmp_path).figure, tmp_path / copy)
        content = (tmp_path / copy).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 500_000
        assert b"Matplotlib" not in content, "no version in a tracked file"
        hashes.append(hashlib.sha256(content).hexdigest())
    assert hashes[0] == hashes[1]


def test_a_missing_sheet_is_named(tmp_path):
    with pytest.raises(InputError, match=r"real\.npz: missing; run dvc repro neighbours@real"):
        figures.dcgan_fig9(tmp_path)
