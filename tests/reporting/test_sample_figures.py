"""Samples during training: first and last epoch, in a picture that Git can hold."""

import hashlib

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.reporting import drawing, sample_figures
from pipeline.reporting.rows import NOT_RUN
from pipeline.reporting.sample_figures import training_samples


def write(folder, name, *, epochs=(1, 5, 10), n_images=30, side=8, noise=False):
    """Every image of an epoch has the epoch's number as its level, or is noise."""
    shape = (len(epochs), n_images, side, side, 3)
    levels = np.broadcast_to(np.array(epochs, dtype=np.uint8).reshape(-1, 1, 1, 1, 1), shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8) if noise else levels
    np.savez(folder / f"{name}.npz", images=images, epochs=np.array(epochs, dtype=np.int64))
    return folder


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def test_first_and_last_epoch_of_each_run(tmp_path):
    write(tmp_path, "dcgan_svhn", epochs=(1, 2))
    write(tmp_path, "dcgan_lsun")
    write(tmp_path, "another")
    drawn = training_samples(tmp_path)
    titles = [axis.get_title() for axis in drawn.figure.axes]
    assert titles == [
        "dcgan_lsun after epoch 1", "dcgan_lsun after epoch 10 (last)",
        "dcgan_svhn after epoch 1", "dcgan_svhn after epoch 2 (last)",
    ]  # fmt: skip
    assert [shown(axis)[0, 0].tolist() for axis in drawn.figure.axes[:2]] == [[1] * 3, [10] * 3]
    assert shown(drawn.figure.axes[0]).shape == (5 * 9 - 1, 5 * 9 - 1, 3)
    assert drawn.metrics == {
        "dcgan_lsun": {"n_epochs": 3, "first_epoch": 1, "last_epoch": 10, "n_images": 30, "side_px": 8},
        "dcgan_svhn": {"n_epochs": 2, "first_epoch": 1, "last_epoch": 2, "n_images": 30, "side_px": 8},
    }
    assert drawn.numbers["run"].tolist() == ["dcgan_lsun", "dcgan_svhn"]


def test_one_epoch_is_shown_once_and_few_images_are_filled_up_with_white(tmp_path):
    drawn = training_samples(write(tmp_path, "dcgan_faces", epochs=(3,), n_images=7))
    assert [len(axis.images) for axis in drawn.figure.axes] == [1, 0]
    assert drawn.figure.axes[0].get_title() == "dcgan_faces after epoch 3 (last)"
    sheet = shown(drawn.figure.axes[0])
    assert sheet[9, 9].tolist() == [3] * 3  # the seventh
    assert sheet[9, 18].tolist() == [255] * 3


def test_released_networks_have_no_samples(tmp_path):
    write(tmp_path, "dcgan_svhn", epochs=(1, 2))
    np.savez(tmp_path / "dcgan_imagenet.npz", images=np.zeros((0, 9, 8, 8, 3), np.uint8), epochs=np.zeros(0, np.int64))
    assert list(training_samples(tmp_path).metrics) == ["dcgan_svhn"]
    (tmp_path / "dcgan_svhn.npz").unlink()
    assert training_samples(tmp_path).metrics == {"n_results": 0}


def test_nothing_trained_is_said(tmp_path):
    drawn = training_samples(tmp_path)
    assert drawn.figure.axes[0].texts[0].get_text() == NOT_RUN
    assert drawn.metrics == {"n_results": 0}


def test_images_that_do_not_compress_are_made_smaller(tmp_path):
    write(tmp_path, "dcgan_lsun", epochs=(1, 2), side=64, noise=True)
    figure = training_samples(tmp_path).figure
    drawing.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size <= sample_figures.MOST_BYTES
    assert shown(figure.axes[0]).shape[0] in {5 * (side + 1) - 1 for side, _ in sample_figures.SIZES[1:]}
    _, colours = next(size for size in sample_figures.SIZES if 5 * (size[0] + 1) - 1 == shown(figure.axes[0]).shape[0])
    assert len(np.unique(shown(figure.axes[0]).reshape(-1, 3), axis=0)) <= colours


def test_the_smallest_size_holds_five_runs_of_noise(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 25, 64, 64, 3), dtype=np.uint8), np.array([1, 2])
    samples = dict.fromkeys(sample_figures.RUNS, noise)
    figure = sample_figures._draw(samples, *sample_figures.SIZES[-1])
    assert sample_figures._size(figure) <= sample_figures.MOST_BYTES
    assert sample_figures._size(sample_figures._draw(samples, *sample_figures.SIZES[0])) > sample_figures.MOST_BYTES


def test_same_samples_same_bytes(tmp_path):
    write(tmp_path, "dcgan_cifar10", noise=True)
    hashes = set()
    for copy in ("a.png", "b.png"):
        drawing.save(training_samples(tmp_path).figure, tmp_path / copy)
        hashes.add(hashlib.sha256((tmp_path / copy).read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("images", "epochs"),
    [((2, 3, 8, 8), (1, 2)), ((2, 3, 8, 8, 3), (1,)), ((2, 3, 8, 8, 1), (1, 2))],
)
def test_arrays_of_another_shape_are_refused(tmp_path, images, epochs):
    np.savez(tmp_path / "dcgan_lsun.npz", images=np.zeros(images, np.uint8), epochs=np.array(epochs, np.int64))
    with pytest.raises(InputError, match=r"dcgan_lsun\.npz: found epochs .*, images .*expected images \(n_epochs"):
        training_samples(tmp_path)
