"""Contact sheets: layout, choice by seed, size of the file."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.core.store import no_rejects, open_set, write_set
from pipeline.reporting import sheets


def image_set(folder, n=30):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    index = pd.DataFrame({"key": [f"{row}" for row in range(n)], "split": "train", "label": -1, "source": "made"})
    write_set(folder / "set", images, index, no_rejects())
    return open_set(folder / "set")


def test_random_images_are_drawn_by_seed_without_replacement(tmp_path):
    opened = image_set(tmp_path)
    first = sheets.random_images(opened, sheets.Sheet(seed=1, n_images=10))
    levels = first[:, 0, 0, 0].tolist()
    assert levels == sorted(set(levels))
    assert len(levels) == 10
    np.testing.assert_array_equal(first, sheets.random_images(opened, sheets.Sheet(seed=1, n_images=10)))
    assert levels != sheets.random_images(opened, sheets.Sheet(seed=2, n_images=10))[:, 0, 0, 0].tolist()


def test_a_small_set_is_shown_whole(tmp_path):
    shown = sheets.random_images(image_set(tmp_path, n=3), sheets.Sheet(seed=1, n_images=10))
    assert shown[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_last_row_is_filled_up_with_white():
    sheet = sheets.contact_sheet(np.zeros((4, 2, 2, 3), dtype=np.uint8), columns=3)
    assert sheet.shape == (2 * 2 + 2, 3 * 2 + 2 * 2, 3)
    assert (sheet[:2, :2] == 0).all()
    assert (sheet[4:, :2] == 0).all()
    assert (sheet[4:, 4:] == 255).all()


def test_a_sheet_of_no_images_is_white(tmp_path):
    sheets.save_sheet(tmp_path / "sheet.png", np.zeros((0, 8, 8, 3), dtype=np.uint8))
    with Image.open(tmp_path / "sheet.png") as shown:
        assert shown.size == (10 * 8 + 9 * 2, 8)
        assert (np.asarray(shown) == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_do_not_compress_are_made_smaller(tmp_path, channels):
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 64, channels), dtype=np.uint8)
    sheets.save_sheet(tmp_path / "sheet.png", noise)
    assert (tmp_path / "sheet.png").stat().st_size <= sheets.MOST_BYTES
    with Image.open(tmp_path / "sheet.png") as shown:
        assert shown.mode == ("L" if channels == 1 else "RGB")
        side = (shown.width + 2) / 10 - 2
        assert side in sheets.SIDES
        assert (side < 64) == (channels == 3)  # a hundred grey ones just fit


def test_same_images_same_bytes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        sheets.save_sheet(tmp_path / name, images)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as shown:
        assert shown.size == (10 * 8 + 9 * 2, 8)
        np.testing.assert_array_equal(np.asarray(shown)[:, 10:18], images[1])


def test_more_images_than_a_picture_holds_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 24, 24, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"400 images do not fit .*lower sheet.n_images"):
        sheets.save_sheet(tmp_path / "sheet.png", noise)
    assert not list(tmp_path.iterdir())
