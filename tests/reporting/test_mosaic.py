"""Pictures laid out pixel by pixel: where tiles lie, what words and plots become, and that every file fits Git."""

import numpy as np
import pytest
from made_results import numbered, scenes
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.reporting import drawing, mosaic
from pipeline.reporting.drawing import canvas
from pipeline.reporting.mosaic import GAP_PX, PAPER, PLOTTED


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def read(picture, path):
    """What a reader of the PNG sees: uint8 (H, W, 3)."""
    drawing.save(picture, path)
    with Image.open(path) as saved:
        return np.asarray(saved.convert("RGB"))


def test_tiles_lie_row_by_row_with_gaps_of_paper():
    images = noise(5, 3, 4)
    sheet = mosaic.tiles(images, columns=3)
    assert sheet.shape == (2 * 3 + GAP_PX, 3 * 4 + 2 * GAP_PX)
    for number, image in enumerate(images):
        top, left = number // 3 * (3 + GAP_PX), number % 3 * (4 + GAP_PX)
        tile = sheet[top : top + 3, left : left + 4]
        np.testing.assert_array_equal(np.stack([tile >> 16, tile >> 8 & 255, tile & 255], axis=-1), image)
    assert (sheet[3 : 3 + GAP_PX] == PAPER).all()
    assert (sheet[:, 4 : 4 + GAP_PX] == PAPER).all()
    assert (sheet[-3:, -4:] == PAPER).all(), "the sixth place is empty"


def test_a_tile_is_enlarged_by_repetition():
    images = noise(2, 3, 3)
    large = mosaic.tiles(images, columns=2, scale=2)[:6, :6]
    np.testing.assert_array_equal(large, mosaic.tiles(images, columns=2)[:3, :3].repeat(2, axis=0).repeat(2, axis=1))


def test_a_smaller_tile_has_the_mean_of_an_area():
    images = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    images[0, :2, :2] = [[[10, 0, 0], [30, 0, 0]], [[50, 0, 0], [70, 0, 0]]]
    np.testing.assert_array_equal(mosaic.tiles(images, columns=1, scale=0.5), [[40 << 16, 0], [0, 0]])


def test_no_images_are_paper():
    none = np.empty((0, 8, 8, 3), dtype=np.uint8)
    for scale in (2, 0.5):
        sheet = mosaic.tiles(none, columns=2, rows=1, scale=scale)
        assert sheet.size
        assert (sheet == PAPER).all()


@pytest.mark.parametrize(("align", "rows"), [("start", [0, 1]), ("middle", [1, 2]), ("end", [3, 4])])
def test_parts_stand_beside_and_below_each_other(align, rows):
    high, low = np.full((5, 2), 7, dtype=np.int32), np.full((2, 3), 9, dtype=np.int32)
    both = mosaic.beside(high, low, gap_px=4, align=align)
    assert both.shape == (5, 2 + 4 + 3)
    assert (both[:, :2] == 7).all()
    assert (both[:, 2:6] == PAPER).all()
    assert np.flatnonzero((both[:, 6:] == 9).all(axis=1)).tolist() == rows
    assert (both == PAPER).sum() == both.size - 10 - 6
    np.testing.assert_array_equal(mosaic.below(high.T, low.T, gap_px=4, align=align), both.T)


def test_words_are_grey_and_broken_to_fit():
    one = mosaic.words("some words", width=200)
    assert {PAPER, -mosaic.N_GREYS} <= set(np.unique(one)) <= set(range(-mosaic.N_GREYS, 0))
    narrow = mosaic.words("some words", width=50)
    assert len(narrow) > len(one)
    np.testing.assert_array_equal(narrow, mosaic.words("some\nwords", width=50))
    assert mosaic.words("some words", width=50, height=90).shape == (90, 50)


def test_a_plot_keeps_its_colours_whatever_the_tiles_are(tmp_path):
    figure, (axis,) = canvas(columns=1, size=(2.0, 1.0))
    axis.set_axis_off()
    axis.axhspan(0, 1, color=(0.0, 1.0, 0.0))
    plot = mosaic.plotted(figure)
    assert plot.shape == (100, 200)
    assert (plot == PLOTTED + 0x00FF00).any()
    assert (plot == PAPER).any()
    greys = np.repeat(np.arange(256, dtype=np.uint8), 48).reshape(1, 64, 64, 3)
    made = mosaic.fitted(lambda scale: mosaic.below(mosaic.tiles(greys, columns=1, scale=scale), plot), scale=1)
    seen = read(made.picture, tmp_path / "figure.png")
    assert (seen[64:] == [0, 255, 0]).all(axis=-1).any()
    assert made.n_colours == mosaic.N_COLOURS - mosaic.N_PLOT_COLOURS


def test_few_colours_are_kept_exactly(tmp_path):
    images = numbered(200, 4)
    made = mosaic.fitted(lambda scale: mosaic.tiles(images, columns=20, scale=scale), scale=3)
    assert (made.scale, made.n_colours) == (3, 200)
    seen = read(made.picture, tmp_path / "figure.png")
    for number in (0, 1, 57, 199):
        top, left = number // 20 * (12 + GAP_PX), number % 20 * (12 + GAP_PX)
        assert (seen[top : top + 12, left : left + 12] == images[number, 0, 0]).all()


@pytest.mark.parametrize("whole", [False, True])
def test_many_colours_move_little(tmp_path, whole):
    images = scenes(20, 64, seed=1)  # more pixels than a palette is fitted to
    assert images[..., 0].size > mosaic.FITTED_PX
    made = mosaic.fitted(
        lambda scale: mosaic.tiles(images, columns=5, scale=scale), scale=1, fit_to=images if whole else None
    )
    seen = read(made.picture, tmp_path / "figure.png")
    shown = seen[: 64 * 4 + 3 * GAP_PX].reshape(-1, seen.shape[1], 3)[:64, :64].astype(float)
    error = np.sqrt(((shown - images[0]) ** 2).mean())
    assert 0 < error < 12


@pytest.mark.parametrize(
    ("most", "scale", "n_colours"),
    [(4500, 2, 248), (4000, 2, 186), (3300, 2, 62), (2000, 0.75, 248), (1200, 0.375, 248)],
)
def test_what_is_too_large_loses_colours_first_and_size_then(monkeypatch, tmp_path, most, scale, n_colours):
    images = noise(6, 16, 16)
    monkeypatch.setattr(mosaic, "MOST_BYTES", most)
    made = mosaic.fitted(lambda scale: mosaic.tiles(images, columns=3, scale=scale), scale=2)
    drawing.save(made.picture, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size <= most
    assert (made.scale, made.n_colours) == (scale, pytest.approx(n_colours, abs=40)), "small tiles have few pixels"


def test_what_never_fits_is_refused(monkeypatch):
    monkeypatch.setattr(mosaic, "MOST_BYTES", 300)
    images = noise(6, 16, 16)
    with pytest.raises(InputError, match=r"52 x 34 pixels does not fit a file of 300 bytes; show fewer images"):
        mosaic.fitted(lambda scale: mosaic.tiles(images, columns=3, scale=scale), scale=1)


def test_the_largest_picture_fits_even_if_it_is_noise(tmp_path):
    images = noise(196, 64, 64)  # Figure 10
    made = mosaic.fitted(lambda scale: mosaic.titled("noise", mosaic.tiles(images, columns=14, scale=scale)), scale=1)
    read(made.picture, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size < 500_000
    assert made.scale == 0.75


def test_same_canvas_same_bytes(tmp_path):
    images = scenes(12, 64)
    for name in ("a.png", "b.png"):
        read(
            mosaic.fitted(lambda scale: mosaic.tiles(images, columns=4, scale=scale), scale=1).picture, tmp_path / name
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in (tmp_path / "a.png").read_bytes()
