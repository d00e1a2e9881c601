"""Diversity against a slow double loop, and collapse: found where it is, not found where it is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.training.health import COLLAPSED, check_finite, diversity, nearest_other, sample_health, some_real


def noise(n: int = 40, name: str = "noise") -> np.ndarray:
    return numpy_stream(3, name).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)


def heaps(n_heaps: int, n: int = 40) -> np.ndarray:
    """Images of a few kinds, each image a grey level or two away from its kind."""
    kinds = noise(n_heaps, "kinds").astype(np.int64)[np.arange(n) % n_heaps]
    moved = kinds + numpy_stream(3, "moved").integers(-2, 3, kinds.shape)
    return moved.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("images", [noise(7), noise(2), heaps(3, 12), noise(12, "even")], ids=["7", "2", "heaps", "12"])
def test_nearest_other_is_the_slow_loop(images: np.ndarray):
    """Of an even number of images the lower one of the two in the middle, as torch's median."""
    nearest = []
    for i, a in enumerate(images):
        distances = [np.sqrt(((a.astype(float) - b.astype(float)) ** 2).sum()) for j, b in enumerate(images) if j != i]
        nearest.append(min(distances))
    assert nearest_other(images) == pytest.approx(sorted(nearest)[(len(images) - 1) // 2], rel=1e-6)


def test_diversity_is_a_share_of_that_of_real_images():
    assert diversity(noise(), noise()) == 1
    assert diversity(noise(name="fake"), noise()) == pytest.approx(1, abs=0.1)
    half = (noise(name="fake") // 2).astype(np.uint8)
    assert diversity(half, noise()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("n_heaps", [1, 2, 5])
def test_a_few_modes_have_collapsed(n_heaps: int):
    """Although images of five modes lie far from each other on average."""
    assert diversity(heaps(n_heaps), noise()) < COLLAPSED / 2


def test_one_image_has_collapsed():
    assert diversity(np.repeat(noise(1), 40, axis=0), noise()) == 0


@pytest.mark.parametrize("real", [noise(), noise() // 3 + 80], ids=["noise", "faint noise"])
def test_varied_images_have_not_collapsed(real: np.ndarray):
    assert diversity(noise(name="fake"), real) > 2 * COLLAPSED
    assert diversity(heaps(40), real) > 2 * COLLAPSED, "forty modes among forty images"


def test_equal_real_images_divide_nothing_by_zero():
    assert np.isfinite(diversity(noise(), np.zeros((40, 6, 5, 3), dtype=np.uint8)))


def test_real_images_beside_samples_are_of_the_training_split_and_follow_the_seed():
    splits = np.where(np.arange(40) % 2 == 0, "train", "test")
    index = pd.DataFrame({"key": "", "split": splits, "label": -1, "source": ""})
    image_set = ImageSet(path=Path("made"), images=noise(), index=index)
    keys = [image.tobytes() for image in noise()]
    first, again, other = ([keys.index(i.tobytes()) for i in some_real(image_set, 12, seed=s)] for s in (0, 0, 1))
    assert first == again == sorted(set(first)), "each once, in the order of the set"
    assert len(first) == 12
    assert all(row % 2 == 0 for row in first)
    assert other != first


def test_a_collapse_is_said_by_the_first_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    real, collapsed = noise(), noise(name="fake") // 16  # distances of a sixteenth
    share = diversity(collapsed, real)
    assert sample_health(real, real, of="seed 3") == {"diversity": 1, "collapsed": False}
    for rank, said in (("1", ""), ("0", f"warning: seed 3: the samples have collapsed (diversity {share:.3f})\n")):
        monkeypatch.setenv("RANK", rank)
        assert sample_health(collapsed, real, of="seed 3") == {"diversity": share, "collapsed": True}
        assert capsys.readouterr() == ("", said)


def test_a_bad_step_is_named():
    check_finite(0, run="training, seed 3", kept=Path("here"))
    message = (
        r"training, seed 3: .* NaN or infinite in step 1,234; .* \(here\)\. Train anew .* learning_rate of this run"
    )
    with pytest.raises(InputError, match=message):
        check_finite(1234, run="training, seed 3", kept=Path("here"))
