"""Alterations of pictures: each against its definition; none touches its input."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.core.gan_data import data_folder
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import alterations
from pipeline.datasets.embedded.alterations import ALTERATIONS


def picture(height=45, width=60, seed=0):
    """Smooth colours with some detail, as a photograph has."""
    y, x = np.mgrid[:height, :width]
    rng = numpy_stream(seed, "picture")
    base = np.stack([120 + 60 * np.sin(x / 9), 90 + y * 1.5, 140 + 50 * np.cos((x + y) / 7)], axis=-1)
    return np.clip(np.rint(base + rng.normal(0, 3, base.shape)), 0, 255).astype(np.uint8)


def difference(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


@pytest.mark.parametrize("name", ALTERATIONS)
@pytest.mark.parametrize("size", [(45, 60), (7, 5), (1, 1)])
def test_new_uint8_rgb_and_the_input_as_it_was(name, size):
    rgb = picture(*size)
    before = rgb.copy()
    rgb.setflags(write=False)
    altered = ALTERATIONS[name](rgb, numpy_stream(0, name))
    assert altered.dtype == np.uint8
    assert altered.ndim == 3
    assert altered.shape[2] == 3
    assert not np.shares_memory(altered, rgb)
    assert (rgb == before).all()
    again = ALTERATIONS[name](rgb, numpy_stream(0, name))
    assert (altered == again).all()


@pytest.mark.parametrize("name", sorted(set(ALTERATIONS) - {"original"}))
def test_every_alteration_alters(name):
    rgb = picture()
    altered = ALTERATIONS[name](rgb, numpy_stream(0, name))
    assert altered.shape != rgb.shape or (altered != rgb).any()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, -2), (-3, 2), (8, 8)])
def test_shift_against_a_loop(dx, dy):
    rgb = picture(6, 7)
    shifted = alterations.shift(rgb, dx, dy)
    for y in range(6):
        for x in range(7):
            from_y, from_x = min(max(y - dy, 0), 5), min(max(x - dx, 0), 6)
            assert (shifted[y, x] == rgb[from_y, from_x]).all()


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_named_shifts_go_in_all_eight_directions(distance):
    found = {alterations.shift_by(distance, numpy_stream(0, "direction", number)) for number in range(100)}
    steps = (-distance, 0, distance)
    assert found == {(dx, dy) for dx in steps for dy in steps} - {(0, 0)}
    rgb, rng = picture(), numpy_stream(3, "shift")
    expected = alterations.shift(rgb, *alterations.shift_by(distance, numpy_stream(3, "shift")))
    assert (ALTERATIONS[f"shift{distance}"](rgb, rng) == expected).all()


@pytest.mark.parametrize(("name", "area"), [("crop05", 0.95), ("crop10", 0.9), ("crop20", 0.8), ("crop40", 0.6)])
def test_crop_keeps_that_share_of_the_area_at_any_place(name, area):
    rgb = np.zeros((192, 256, 3), dtype=np.uint8)
    rgb[..., 0], rgb[..., 1] = np.arange(192)[:, None], np.arange(256)[None]
    places = []
    for number in range(60):
        cropped = ALTERATIONS[name](rgb, numpy_stream(0, name, number))
        height, width = cropped.shape[:2]
        assert height * width / (192 * 256) == pytest.approx(area, abs=0.012)
        assert width / height == pytest.approx(256 / 192, rel=0.012)
        top, left = (int(value) for value in cropped[0, 0, :2])
        assert (cropped == rgb[top : top + height, left : left + width]).all()
        places.append((top / (192 - height), left / (256 - width)))
    assert np.mean(places, axis=0) == pytest.approx([0.5, 0.5], abs=0.15)
    assert np.min(places) < 0.15
    assert np.max(places) > 0.85


def test_crop2_has_the_old_size_and_two_per_cent_less_of_each_side():
    ramp = np.repeat(np.rint(np.linspace(0, 255, 256)).astype(np.uint8)[None, :, None], 3, axis=2).repeat(200, axis=0)
    altered = ALTERATIONS["crop2"](ramp, numpy_stream(0, "crop2"))
    assert altered.shape == ramp.shape
    first, last = int(altered[0, 0, 0]), int(altered[0, -1, 0])
    assert last - first == pytest.approx(0.98 * 255, abs=2)
    assert first + last == pytest.approx(255, abs=2)  # the middle stays in the middle


def test_mirror_twice_is_the_picture():
    rgb = picture()
    once = alterations.mirror(rgb)
    assert (once[:, 0] == rgb[:, -1]).all()
    assert (alterations.mirror(once) == rgb).all()
    assert (ALTERATIONS["mirror"](rgb, numpy_stream(0, "")) == ALTERATIONS["hflip"](rgb, numpy_stream(0, ""))).all()


def test_scale_is_the_mean_of_blocks():
    rgb = picture(40, 60)
    small = ALTERATIONS["scale50"](rgb, numpy_stream(0, ""))
    assert small.shape == (20, 30, 3)
    blocks = rgb.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5


def test_brightness_gamma_and_grey_against_plain_python():
    rgb = picture(5, 6)
    weights = (0.299, 0.587, 0.114)
    for y in range(5):
        for x in range(6):
            values = [float(value) for value in rgb[y, x]]
            grey = sum(weight * value for weight, value in zip(weights, values, strict=True))
            for channel, value in enumerate(values):
                place = y, x, channel
                assert alterations.brightness(rgb, 1.3)[place] == min(255, round(value * 1.3))
                assert alterations.gamma(rgb, 0.7)[place] == pytest.approx(255 * (value / 255) ** 0.7, abs=0.51)
                assert alterations.grey(rgb)[place] == pytest.approx(grey, abs=0.51)


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it():
    rgb = picture()
    altered = ALTERATIONS["contrast70"](rgb, numpy_stream(0, ""))
    mean = alterations.grey(rgb)[..., 0].mean()
    assert np.abs((altered - mean) - 0.7 * (rgb - mean)).max() <= 0.51


def test_rotation_turns_anticlockwise_about_the_middle():
    rgb = np.full((101, 101, 3), 100, dtype=np.uint8)
    rgb[48:53, 88:93] = 250  # 40 px right of the middle
    turned = ALTERATIONS["rot3"](rgb, numpy_stream(0, ""))
    rows, columns = np.nonzero(turned[..., 0] > 200)
    assert rows.mean() == pytest.approx(50 - 40 * np.sin(np.radians(3)), abs=0.3)  # further up
    assert columns.mean() == pytest.approx(50 + 40 * np.cos(np.radians(3)), abs=0.3)
    assert (turned[0, 0] == 0).all()


def test_blur_and_noise_by_their_sigma():
    point = np.zeros((41, 41, 3), dtype=np.uint8)
    point[20, 20] = 255
    share = ALTERATIONS["blur1.5"](point, numpy_stream(0, ""))[20, :, 0].astype(float)
    spread = np.sqrt((share * (np.arange(41) - 20) ** 2).sum() / share.sum())
    assert spread == pytest.approx(1.5, abs=0.15)
    grey = np.full((80, 80, 3), 128, dtype=np.uint8)
    noisy = ALTERATIONS["noise8"](grey, numpy_stream(0, "noise"))
    assert noisy.std() == pytest.approx(8.0, rel=0.05)
    assert noisy.mean() == pytest.approx(128.0, abs=0.3)
    assert (noisy != ALTERATIONS["noise8"](grey, numpy_stream(1, "noise"))).any()


def test_text_stands_in_the_lower_left_corner():
    rgb = picture(192, 256)
    rows, columns = np.nonzero((ALTERATIONS["text"](rgb, numpy_stream(0, "")) != rgb).any(axis=2))
    assert rows.min() > 160
    assert columns.max() < 160
    assert len(rows) > 500


def test_stronger_compression_leaves_fewer_bytes_and_larger_errors():
    rgb = picture(96, 128)
    names = ["jpeg75", "jpeg30", "jpeg15", "jpeg8"]
    contents = [alterations.encoded(name, rgb, numpy_stream(0, name)) for name in names]
    errors = [difference(rgb, ALTERATIONS[name](rgb, numpy_stream(0, name))) for name in names]
    assert [len(content) for content in contents] == sorted({len(content) for content in contents}, reverse=True)
    assert errors == sorted(set(errors))
    for name, content in zip(names, contents, strict=True):  # compressed once, not twice
        assert (np.array(Image.open(io.BytesIO(content))) == ALTERATIONS[name](rgb, numpy_stream(0, name))).all()


def test_other_versions_are_stored_nearly_unchanged():
    rgb = picture(96, 128)
    for name in ("original", "crop20", "hflip"):
        stored = np.array(Image.open(io.BytesIO(alterations.encoded(name, rgb, numpy_stream(0, name)))))
        assert difference(stored, ALTERATIONS[name](rgb, numpy_stream(0, name))) < 4


def test_planted_copies_are_altered_less_than_those_of_the_real_set():
    assert len(alterations.REAL) == 19
    assert set(alterations.PLANTED) <= set(ALTERATIONS)
    assert set(alterations.SHIFTS) <= set(alterations.PLANTED)
    assert "mirror" not in alterations.PLANTED  # no duplicate: a hard negative


@pytest.mark.real_data
def test_versions_of_the_real_set():
    """Same names as the real near-duplicates; applied to its originals they give nearly its pictures."""
    folder = data_folder() / "neardup"
    truth = pd.read_csv(folder / "ground_truth.csv")
    assert set(truth["transform"]) - {"distractor"} == set(alterations.REAL)
    stored = {}
    for row in truth[truth["group"].isin([0, 11])].itertuples():
        stored[row.group, row.transform] = np.array(Image.open(folder / "images" / row.file).convert("RGB"))
    for group in (0, 11):
        for name in alterations.REAL:
            altered = ALTERATIONS[name](stored[group, "original"], numpy_stream(0, name))
            assert altered.shape == stored[group, name].shape, name
            if not name.startswith("crop"):  # elsewhere
                assert difference(altered, stored[group, name]) < 15, (group, name)
