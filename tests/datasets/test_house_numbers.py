"""Digits over patches in SVHN's layout: labels, contrast, disjoint halves, same bytes."""

import numpy as np
import pytest
from scipy.io import loadmat

from pipeline.core.errors import InputError
from pipeline.datasets.embedded import house_numbers
from pipeline.datasets.embedded.house_numbers import HouseNumbers

NUMBERS = HouseNumbers(seed=3, n_train=120, n_test=60, test_share=0.2)


@pytest.fixture(scope="module")
def pools():
    return house_numbers.digit_pools(NUMBERS)


@pytest.fixture(scope="module")
def written(tmp_path_factory, pools):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house_numbers, "digit_pools", lambda numbers: pools)  # reading them takes a second
        out = tmp_path_factory.mktemp("numbers") / "out"
        house_numbers.write_house_numbers(out, NUMBERS)
        again = out.with_name("again")
        house_numbers.write_house_numbers(again, NUMBERS)
    return out, again


@pytest.mark.parametrize(("split", "n"), [("train", 120), ("test", 60)])
def test_layout_of_svhn(written, pools, split, n):
    found = loadmat(written[0] / f"{split}_32x32.mat")
    assert {key for key in found if not key.startswith("__")} == {"X", "y"}
    assert (found["X"].dtype, found["X"].shape) == (np.uint8, (32, 32, 3, n))
    assert (found["y"].dtype, found["y"].shape) == (np.uint8, (n, 1))
    digits = pools[split][1][:n]
    assert found["y"].ravel().tolist() == [10 if digit == 0 else digit for digit in digits]
    assert set(found["y"].ravel()) == set(range(1, 11))


def test_pixels_in_the_order_of_the_axes(written, pools):
    images, _ = house_numbers.draw_numbers(pools["test"], "test", 60, NUMBERS.seed)
    found = loadmat(written[0] / "test_32x32.mat")["X"]
    for index in (0, 59):
        assert np.array_equal(found[..., index], images[index])


def test_same_bytes_again(written):
    for name in ("train_32x32.mat", "test_32x32.mat"):
        content = (written[0] / name).read_bytes()
        assert content == (written[1] / name).read_bytes()
        assert content[:116].decode("ascii").strip() == "MATLAB 5.0 MAT-file, written without a date"


def test_train_and_test_share_no_digit(pools):
    train, test = ({digit.tobytes() for digit in pools[split][0]} for split in ("train", "test"))
    assert not train & test
    assert {split: np.bincount(labels).tolist() for split, (_, labels) in pools.items()} == {
        "train": [400] * 10,
        "test": [100] * 10,
    }
    assert len(set(pools["train"][1][:50])) == 10  # in random order


def test_images_of_a_split_use_its_own_digits_and_patches(pools, monkeypatch):
    asked = []
    cells = house_numbers.photos.cells
    monkeypatch.setattr(house_numbers.photos, "cells", lambda photo, split: asked.append(split) or cells(photo, split))
    house_numbers.draw_numbers(pools["test"], "test", 2, 1)
    assert set(asked) == {"test"}


def test_digits_stand_out_from_the_ground(pools):
    """Grey levels of the drawn digit against those around it, for every image."""
    digits, _ = pools["train"]
    ground = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3)).astype(np.uint8) // 2
    blank = np.zeros((2, 28, 28), np.uint8)
    blank[:, 3:25, 3:6] = 255
    differences = []
    for index in range(200):
        rng = np.random.default_rng(index)
        cover = house_numbers._number(digits[index], blank, np.random.default_rng(index))
        image = house_numbers._image(digits[index], blank, ground[index] + np.uint8(index % 128), rng)
        grey = image.astype(float) @ house_numbers.LUMA
        differences.append(abs(grey[cover > 0.9].mean() - grey[cover == 0].mean()))
    assert min(differences) > 45


def test_digits_are_large_and_near_the_middle(pools):
    nothing = np.zeros((28, 28), np.uint8)
    nothing[14, 14] = 255
    for index in range(60):
        rng = np.random.default_rng(index)
        digit = house_numbers._enlarged(pools["train"][0][index], int(rng.integers(20, 27)))
        assert 20 <= digit.shape[0] <= 26
        assert 3 <= digit.shape[1] <= 22
        assert (digit.min(), digit.max()) >= (0, 0.9)
        cover = house_numbers._number(pools["train"][0][index], np.stack([nothing] * 2), rng)
        rows, columns = np.nonzero(cover[:, 6:26] > 0.3)
        assert 19 <= np.ptp(rows) + 1 <= 27  # a neighbour may stand one pixel lower or higher
        assert (rows.min() + rows.max()) / 2 == pytest.approx(15.5, abs=3)
        assert np.abs(columns - 9.5).min() < 1


def test_what_reaches_beyond_the_sides_is_cut():
    cover = np.zeros((32, 32), np.float32)
    digit = np.full((20, 10), 0.5, np.float32)
    house_numbers._place(cover, digit, -4, 20)
    house_numbers._place(cover, digit, 40, 0)
    assert cover.sum() == pytest.approx(0.5 * 6 * 12)
    assert cover[20:, :6].min() == 0.5


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_that_leaves_no_digits(share):
    numbers = HouseNumbers(seed=1, n_train=1, n_test=1, test_share=share)
    with pytest.raises(InputError, match=r"test_share of the house numbers: .* leaves a split without any"):
        house_numbers.digit_pools(numbers)
