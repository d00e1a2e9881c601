"""Images between their forms."""

import numpy as np
import pytest
import torch

from pipeline.core.images import from_unit, grid, to_unit

LEVELS = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1)


def pictures(n, height=3, width=2, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def test_all_levels_survive():
    assert np.array_equal(from_unit(to_unit(LEVELS)), LEVELS)


def test_unit_range():
    unit = to_unit(LEVELS)
    assert unit.dtype == torch.float32
    assert (unit.min().item(), unit.max().item()) == (0.0, 1.0)
    assert unit.flatten()[51].item() == pytest.approx(0.2)


def test_axes_and_layout():
    stored = pictures(4, height=5, width=6)
    unit = to_unit(stored)
    assert unit.shape == (4, 3, 5, 6)
    assert unit.is_contiguous(memory_format=torch.channels_last)
    for n, row, column, channel in np.ndindex(stored.shape):
        assert unit[n, channel, row, column].item() == pytest.approx(stored[n, row, column, channel] / 255)
    back = from_unit(unit)
    assert (back.shape, back.dtype, back.flags.c_contiguous) == (stored.shape, np.uint8, True)
    assert np.array_equal(back, stored)


def test_the_stored_images_are_not_touched():
    stored = pictures(2)
    before = stored.copy()
    to_unit(stored).zero_()
    assert np.array_equal(stored, before)


def test_a_slice_or_a_read_only_map_is_taken():
    stored = pictures(4)
    assert np.array_equal(from_unit(to_unit(stored[::2, :, ::-1])), stored[::2, :, ::-1])


def test_rounded_to_the_nearest_level_and_clamped():
    values = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 7.0]).reshape(1, 1, 1, 6)
    assert from_unit(values).flatten().tolist() == [0, 0, 1, 254, 255, 255]


def test_the_networks_bf16_is_taken():
    values = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16).reshape(1, 1, 1, 3)
    assert from_unit(values).flatten().tolist() == [0, 128, 255]


def slow_grid(images, rows, columns, gap, fill):
    _, height, width, channels = images.shape
    tall, wide = rows * height + (rows - 1) * gap, columns * width + (columns - 1) * gap
    sheet = [[[fill] * channels for _ in range(wide)] for _ in range(tall)]
    for row in range(rows):
        for column in range(columns):
            for y in range(height):
                for x in range(width):
                    pixel = images[row * columns + column, y, x].tolist()
                    sheet[row * (height + gap) + y][column * (width + gap) + x] = pixel
    return np.array(sheet, dtype=np.uint8)


@pytest.mark.parametrize(
    ("rows", "columns", "gap", "fill"), [(1, 1, 0, 255), (2, 3, 0, 255), (3, 2, 1, 7), (1, 4, 2, 0)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_against_a_slow_loop(rows, columns, gap, fill, channels):
    images = pictures(rows * columns, channels=channels)
    sheet = grid(images, rows, columns, gap_px=gap, fill=fill)
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet, slow_grid(images, rows, columns, gap, fill))


@pytest.mark.parametrize("n", [0, 5, 7])
def test_grid_takes_exactly_its_number(n):
    with pytest.raises(ValueError, match=f"a 2 x 3 sheet takes 6 images, {n} were given"):
        grid(pictures(n), 2, 3)
