"""Samples during training: a picture a run, pixel by pixel, that Git can hold."""

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.reporting import drawing
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.mosaic import GAP_PX
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.sample_figures import MARGIN_PX, RUNS, SQUARE, TITLE_PX, samples

MOST_BYTES = 500_000  # of a picture in Git
MOST_SHIFT = 40  # levels of 255 that the palette may move a channel by


def levels(shape, epochs):
    """Every image of an epoch has the epoch's number as its level."""
    return np.broadcast_to(np.array(epochs, dtype=np.uint8).reshape(-1, 1, 1, 1, 1), shape)


def noise(shape, _epochs):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def scenes(shape, _epochs):
    """Smooth shading between two colours of the same hue, an edge, a bright spot and grain: much as photographs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : shape[2], 0 : shape[3]] / shape[2]
    found = np.empty(shape)
    for image in found.reshape(-1, *shape[2:]):
        dark, light = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
        slope, place = rng.uniform(-1, 1, 2), rng.uniform(0.2, 0.8, 2)
        shade = np.clip(0.5 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + 0.3 * (x > place[0]), 0, 1)
        shade = np.maximum(shade, np.exp(-60 * ((x - place[0]) ** 2 + (y - place[1]) ** 2)))
        image[:] = dark + shade[..., np.newaxis] * (light - dark) + rng.normal(0, 4, (*shade.shape, 1))
    return np.clip(found, 0, 255).astype(np.uint8)


def write(folder, name, *, epochs=(1, 5, 10), n_images=30, side=8, content=levels):
    images = content((len(epochs), n_images, side, side, 3), epochs)
    np.savez(folder / f"{name}.npz", images=images, epochs=np.array(epochs, dtype=np.int64))
    return images


def saved(tmp_path, name):
    """The picture as a reader of the PNG sees it: uint8 (H, W, 3), and its path."""
    path = tmp_path / "figure.png"
    drawing.save(samples(tmp_path, run=name).figure, path)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        return np.asarray(picture.convert("RGB")), path


def enlarged(picture, number, panel, side, scale):
    """Image ``number`` of the left (0) or right (1) square, as it lies in the picture."""
    step = side * scale + GAP_PX
    width = 2 * MARGIN_PX + SQUARE * step - GAP_PX
    top, left = TITLE_PX + number // SQUARE * step, panel * width + MARGIN_PX + number % SQUARE * step
    return picture[top : top + side * scale, left : left + side * scale]


def test_there_is_a_figure_a_run():
    assert [name for name in FIGURES if name.startswith("samples_")] == [f"samples_{run}" for run in RUNS]


@pytest.mark.parametrize("run", RUNS)
def test_each_figure_is_that_of_its_run(tmp_path, run):
    for number, name in enumerate(RUNS):
        write(tmp_path, name, epochs=(1, 20 + number))
    drawn = FIGURES[f"samples_{run}"](tmp_path)
    assert drawn.numbers["run"].tolist() == [run]
    assert drawn.metrics == {
        "n_epochs": 2, "first_epoch": 1, "last_epoch": 20 + RUNS.index(run), "n_images": 25, "side_px": 8, "scale": 16,
        "n_colours": 2,
    }  # fmt: skip


def test_first_epoch_left_and_last_epoch_right(tmp_path):
    write(tmp_path, "dcgan_lsun")
    picture, _ = saved(tmp_path, "dcgan_lsun")
    for number in (0, 12, 24):
        assert (enlarged(picture, number, 0, 8, 16) == 1).all()
        assert (enlarged(picture, number, 1, 8, 16) == 10).all()
    assert picture[:TITLE_PX].min() == 0, "the titles are black"


@pytest.mark.parametrize(("side", "scale"), [(64, 2), (32, 4), (28, 4)])
def test_a_pixel_is_a_square_of_pixels_and_moves_little(tmp_path, side, scale):
    images = write(tmp_path, "dcgan_lsun", epochs=(1, 2, 3), side=side, content=scenes)
    picture, path = saved(tmp_path, "dcgan_lsun")
    shift = 0
    for panel, epoch in enumerate((0, 2)):
        for number in range(SQUARE**2):
            shown = enlarged(picture, number, panel, side, scale)
            small = shown[::scale, ::scale]
            np.testing.assert_array_equal(shown, small.repeat(scale, axis=0).repeat(scale, axis=1))
            shift = max(shift, int(np.abs(small.astype(int) - images[epoch, number]).max()))
    assert 0 < shift <= MOST_SHIFT
    assert path.stat().st_size < MOST_BYTES
    drawn = samples(tmp_path, run="dcgan_lsun")
    assert (drawn.metrics["side_px"], drawn.metrics["scale"], drawn.metrics["n_colours"]) == (side, scale, 248)


def test_paper_and_titles_are_grey_whatever_the_images_are(tmp_path):
    write(tmp_path, "dcgan_lsun", side=32, content=noise)
    picture, _ = saved(tmp_path, "dcgan_lsun")
    assert (picture[:TITLE_PX] == picture[:TITLE_PX, :, :1]).all()
    assert (picture[-MARGIN_PX:] == 255).all()
    gap = picture[TITLE_PX + 128 : TITLE_PX + 128 + GAP_PX]
    assert (gap == 255).all()


@pytest.mark.parametrize("side", [32, 64])
def test_noise_fits_git(tmp_path, side):
    write(tmp_path, "dcgan_faces", epochs=(1, 2), side=side, content=noise)
    _, path = saved(tmp_path, "dcgan_faces")
    assert path.stat().st_size < MOST_BYTES


def test_one_epoch_is_shown_once_and_few_images_are_filled_up_with_white(tmp_path):
    write(tmp_path, "dcgan_faces", epochs=(3,), n_images=7)
    picture, _ = saved(tmp_path, "dcgan_faces")
    assert picture.shape[1] == SQUARE * (128 + GAP_PX) - GAP_PX + 2 * MARGIN_PX
    assert (enlarged(picture, 6, 0, 8, 16) == 3).all()
    assert (enlarged(picture, 7, 0, 8, 16) == 255).all()
    assert samples(tmp_path, run="dcgan_faces").metrics["n_images"] == 7


def test_without_samples_the_picture_says_so(tmp_path):
    np.savez(tmp_path / "dcgan_imagenet.npz", images=np.zeros((0, 9, 8, 8, 3), np.uint8), epochs=np.zeros(0, np.int64))
    write(tmp_path, "dcgan_svhn", epochs=(1, 2))
    for name in ("dcgan_imagenet", "dcgan_lsun"):  # released networks, and a run that is missing
        drawn = samples(tmp_path, run=name)
        assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
        assert drawn.metrics == {"n_results": 0}
        assert list(drawn.numbers.columns) == list(samples(tmp_path, run="dcgan_svhn").numbers.columns)


def test_same_samples_same_bytes(tmp_path):
    write(tmp_path, "dcgan_cifar10", content=noise)
    first, second = (saved(tmp_path, "dcgan_cifar10")[1].read_bytes() for _ in range(2))
    assert first == second
    assert b"tEXt" not in first


@pytest.mark.parametrize(
    ("images", "epochs"),
    [((2, 3, 8, 8), (1, 2)), ((2, 3, 8, 8, 3), (1,)), ((2, 3, 8, 8, 1), (1, 2))],
)
def test_arrays_of_another_shape_are_refused(tmp_path, images, epochs):
    np.savez(tmp_path / "dcgan_lsun.npz", images=np.zeros(images, np.uint8), epochs=np.array(epochs, np.int64))
    with pytest.raises(InputError, match=r"dcgan_lsun\.npz: found epochs .*, images .*expected images \(n_epochs"):
        samples(tmp_path, run="dcgan_lsun")
