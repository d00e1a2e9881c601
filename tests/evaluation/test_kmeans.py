"""K-means features against a slow loop over patches, and what whitening, quadrants and standardisation must give."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.core import params
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import ImageSet
from pipeline.evaluation import kmeans
from pipeline.evaluation.features import max_feature_units, open_features
from pipeline.evaluation.kmeans import (
    GRID,
    Dictionary,
    Encoder,
    KMeansFeatures,
    drawn_patches,
    kmeans_features,
    learnt_centroids,
    moments,
    normalised,
    on_grid,
    zca,
)

COMPUTE = Compute(device="cpu", threads=1, precision="auto")
CONFIG = KMeansFeatures(
    seed=0,
    n_maps=5,
    patch_size=3,
    n_patches=200,
    iterations=3,
    batch_size=50,
    normalisation_epsilon=10.0,
    whitening_epsilon=0.1,
    dtype="float32",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on images this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**changes: object) -> KMeansFeatures:
    return dataclasses.replace(CONFIG, **changes)


def image_set(n_train: int = 21, n_test: int = 6, height: int = 8, width: int = 8, channels: int = 3) -> ImageSet:
    """Smooth images, splits mixed."""
    n = n_train + n_test
    images = numpy_stream(1, "images").integers(0, 256, (n, height, width, channels))
    images = ((images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)) // 3).astype(np.uint8)
    split = np.array(["train"] * n_train + ["test"] * n_test)[numpy_stream(1, "split").permutation(n)]
    index = pd.DataFrame({"key": [f"image {i}" for i in range(n)], "split": split, "label": -1, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def some_dictionary(d: int, n_maps: int = 4) -> Dictionary:
    stream = numpy_stream(2, "dictionary")
    whitening = stream.normal(size=(d, d)).astype(np.float32)
    return Dictionary(
        mean=stream.normal(0, 0.1, d).astype(np.float32),
        whitening=(whitening + whitening.T) / 2,
        centroids=stream.normal(0, 5, (n_maps, d)).astype(np.float32),
    )


def written(out: Path, images: ImageSet, config: KMeansFeatures = CONFIG, scratch: Path | None = None) -> dict:
    kmeans_features(images, out, config=config, compute=COMPUTE, scratch=scratch or out.with_name(f"{out.name}.work"))
    return {split: np.array(open_features(out, split, images, None)) for split in ("train", "test")}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


# ---- definitions ----------------------------------------------------------------------------------------------------


def encoded_slowly(image: np.ndarray, dictionary: Dictionary, config: KMeansFeatures) -> np.ndarray:
    """One patch at a time, in float64, as MATLAB would: quadrant (2, 2), maps."""
    side = config.patch_size
    rows, columns = image.shape[0] - side + 1, image.shape[1] - side + 1
    sums = np.zeros((2, 2, len(dictionary.centroids)))
    for y in range(rows):
        for x in range(columns):
            patch = image[y : y + side, x : x + side].astype(np.float64).transpose(2, 0, 1).ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + config.normalisation_epsilon)
            patch = (patch - dictionary.mean) @ dictionary.whitening.astype(np.float64)
            z = np.array([np.sqrt(np.sum((patch - c) ** 2)) for c in dictionary.centroids.astype(np.float64)])
            # rows 1 to round(rows / 2) are the upper ones: 14 of 27
            sums[int(y >= np.floor(rows / 2 + 0.5)), int(x >= np.floor(columns / 2 + 0.5))] += np.maximum(
                z.mean() - z, 0
            )
    return sums.ravel()


@pytest.mark.parametrize(
    ("height", "width", "channels", "side"), [(32, 32, 3, 6), (9, 8, 3, 3), (8, 9, 1, 4), (4, 7, 2, 3)]
)
def test_features_of_images_are_those_of_a_slow_loop(height, width, channels, side):
    config, dictionary = changed(patch_size=side), some_dictionary(channels * side * side)
    images = image_set(1, 1, height, width, channels).images
    found = Encoder(dictionary, config, "cpu").encoded(images)
    assert found.dtype == np.float32
    expected = np.stack([encoded_slowly(image, dictionary, config) for image in images])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-3)


def test_27_places_are_14_upper_or_left_and_13_others():
    """Two centroids, one of them on every patch of a blank image: each place answers with half their distance."""
    dictionary = dataclasses.replace(
        some_dictionary(108),
        mean=np.zeros(108, np.float32),
        whitening=np.eye(108, dtype=np.float32),
        centroids=np.stack([np.zeros(108), np.full(108, 2.0)]).astype(np.float32),
    )
    blank = np.full((1, 32, 32, 3), 77, dtype=np.uint8)
    found = Encoder(dictionary, changed(patch_size=6), "cpu").encoded(blank).reshape(4, 2)
    answer = np.sqrt(108 * 4) / 2
    np.testing.assert_allclose(found[:, 0], np.array([14 * 14, 14 * 13, 13 * 14, 13 * 13]) * answer, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 1], 0)


def test_patches_are_normalised_one_by_one():
    patches = numpy_stream(3, "patches").integers(0, 256, (6, 12)).astype(np.float32)
    patches[2] = 200  # no contrast at all
    found = normalised(torch.from_numpy(patches.copy()), 10.0).numpy()
    for patch, result in zip(patches.astype(np.float64), found, strict=True):
        expected = (patch - patch.mean()) / np.sqrt(np.sum((patch - patch.mean()) ** 2) / 11 + 10)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_whitening_gives_a_covariance_of_identity_up_to_epsilon():
    stream = numpy_stream(4, "whitening")
    patches = (stream.normal(size=(4000, 6)) * [3, 2, 1, 1, 0.5, 0.3]) @ stream.normal(size=(6, 6)) + 5
    for epsilon in (1e-9, 0.1):
        mean, whitening, whitened = zca(patches, epsilon)
        np.testing.assert_allclose(whitening, whitening.T, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(whitened, (patches - mean) @ whitening, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-9)
        values = np.linalg.eigvalsh(np.cov(patches, rowvar=False))
        covariance = np.cov(whitened, rowvar=False)
        np.testing.assert_allclose(np.linalg.eigvalsh(covariance), values / (values + epsilon), rtol=1e-6)
        if epsilon < 1e-6:
            np.testing.assert_allclose(covariance, np.eye(6), atol=1e-6)


def test_patches_are_windows_of_training_images_from_every_place():
    """Pixels that tell the image, the row and the column."""
    images = image_set(12, 5, height=7, width=6)
    numbered = np.stack(np.broadcast_arrays(*np.ogrid[:17, :7, :6]), axis=3).astype(np.uint8)
    images = dataclasses.replace(images, images=numbered)
    patches = drawn_patches(images, changed(n_patches=3000)).reshape(-1, 3, 3, 3)
    image, top, left = patches[:, :, 0, 0].astype(int).T
    for patch, i, y, x in zip(patches, image, top, left, strict=True):
        np.testing.assert_array_equal(patch, numbered[i, y : y + 3, x : x + 3].transpose(2, 0, 1))
    places = set(zip(image.tolist(), top.tolist(), left.tolist(), strict=True))
    assert places == {(i, y, x) for i in images.rows("train").tolist() for y in range(5) for x in range(4)}


def test_centroids_are_the_means_of_clusters():
    stream = numpy_stream(5, "clusters")
    centres = np.array([[0, 0], [30, 0], [0, 30], [30, 30]], dtype=np.float32)
    points = (centres[stream.integers(0, 4, 2000)] + stream.normal(size=(2000, 2))).astype(np.float64)
    found = learnt_centroids(points, changed(n_maps=4, batch_size=200, iterations=5))
    assert found.dtype == np.float64
    nearest = np.linalg.norm(found[:, None] - centres, axis=2)
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2, 3]
    assert nearest.min(axis=1).max() < 0.5


LEARN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pipeline.evaluation.kmeans import learnt_dictionary
from test_kmeans import changed, image_set
config = changed(n_maps=200, patch_size=6, n_patches=4000, iterations=10, batch_size=500)
learnt_dictionary(image_set(60, 5, height=32, width=32), config, Path(sys.argv[1]))
"""


def test_the_dictionary_does_not_depend_on_the_kernels_of_blas(tmp_path):
    """OpenBLAS takes other kernels, whose sums have other last bits, on other processors of one instruction set.

    On these data five of the six differ once scikit-learn may reassign centroids.
    """
    found = {}
    for kernels in ("Haswell", "Sandybridge", "Nehalem"):  # each runs on the processors of those before it
        for threads in ("1", "2"):
            kept = tmp_path / f"{kernels}{threads}.npz"
            blas = {"OPENBLAS_CORETYPE": kernels, "OPENBLAS_NUM_THREADS": threads}
            environment = os.environ | blas | {"PYTHONPATH": str(Path(__file__).parent)}
            subprocess.run([sys.executable, "-c", LEARN, str(kept)], env=environment, check=True)
            found[kernels, threads] = kept.read_bytes()
    assert len(set(found.values())) == 1, found.keys()


def test_what_is_learnt_does_not_change_with_its_last_bits():
    """Near 0 float32's steps are small enough to tell apart what two processors compute."""
    stream = numpy_stream(7, "learnt")
    learnt = np.concatenate([stream.normal(0, scale, 100_000) for scale in (2, 1e-3, 1e-9)])
    other = learnt + stream.uniform(-1, 1, learnt.shape) * 5e-14
    assert np.any(learnt.astype(np.float32) != other.astype(np.float32))
    found = on_grid(learnt)
    assert found.dtype == np.float32
    assert found.tobytes() == on_grid(other).tobytes()
    assert np.abs(found - learnt).max() <= GRID / 2
    np.testing.assert_array_equal(found.astype(np.float64) % GRID, 0)


def test_moments_are_in_float64():
    features = (numpy_stream(6, "features").normal(size=(50, 3)) * [1, 5, 0] + [1e4, 0, 3]).astype(np.float32)
    mean, deviation = moments(features)
    wide = features.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(wide.var(axis=0, ddof=1) + 0.01), rtol=1e-5)
    assert deviation[2] == pytest.approx(0.1)


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_features_are_standardised_by_the_training_images(tmp_path):
    images = image_set()
    found = written(tmp_path / "out", images)
    with np.load(tmp_path / "out.work" / "dictionary.npz") as arrays:
        dictionary = Dictionary(**arrays)
    raw = {s: Encoder(dictionary, CONFIG, "cpu").encoded(images.images[images.rows(s)]) for s in found}
    mean, variance = raw["train"].mean(axis=0), raw["train"].astype(np.float64).var(axis=0, ddof=1)
    for split, features in found.items():
        assert features.shape == (len(images.rows(split)), 4 * CONFIG.n_maps)
        np.testing.assert_allclose(features, (raw[split] - mean) / np.sqrt(variance + 0.01), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["train"].mean(axis=0), 0, atol=1e-4)
    assert np.abs(found["test"].mean(axis=0)).max() > 0.05
    record = json.loads((tmp_path / "out" / "features.json").read_text())
    assert record["n_features"] == 20
    assert record["precision"] == "fp32"
    assert max_feature_units(tmp_path / "out") == 5


def test_no_test_image_changes_what_is_learnt(tmp_path):
    images = image_set()
    pixels = images.images.copy()
    pixels[images.rows("test")] = 255 - pixels[images.rows("test")]
    one, other = (
        written(tmp_path / "one", images),
        written(tmp_path / "other", dataclasses.replace(images, images=pixels)),
    )
    np.testing.assert_array_equal(one["train"], other["train"])
    assert not np.array_equal(one["test"], other["test"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_dictionary(tmp_path):
    for name, config in {"one": CONFIG, "same": CONFIG, "other": changed(seed=1)}.items():
        written(tmp_path / name, image_set(), config)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "same")
    networks = {json.loads((tmp_path / name / "features.json").read_text())["network"] for name in ("one", "other")}
    assert len(networks) == 2


def test_float16_is_the_same_rounded(tmp_path):
    wide, narrow = (
        written(tmp_path / "wide", image_set()),
        written(tmp_path / "out", image_set(), changed(dtype="float16")),
    )
    for split in wide:
        assert narrow[split].dtype == np.float16
        np.testing.assert_array_equal(wide[split].astype(np.float16), narrow[split])


@pytest.mark.parametrize(("batch_images", "threads"), [(1, 1), (5, 1), (16, 2)])
def test_batches_and_threads_change_rounding_only(tmp_path, monkeypatch, batch_images, threads):
    images = image_set()
    expected = written(tmp_path / "usual", images)
    monkeypatch.setattr(kmeans, "BATCH_IMAGES", batch_images)
    torch.set_num_threads(threads)
    # the same dictionary: what is compared is the encoding
    (tmp_path / "work").mkdir()
    (tmp_path / "usual.work" / "dictionary.npz").rename(tmp_path / "work" / "dictionary.npz")
    found = written(tmp_path / "out", images, scratch=tmp_path / "work")
    for split in expected:
        np.testing.assert_allclose(found[split], expected[split], rtol=1e-3, atol=1e-3)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("calls", [0, 1, 4, 6])
def test_a_resumed_run_ends_in_the_same_bytes(tmp_path, monkeypatch, calls):
    """27 images in batches of 4: 2 of the test images, 6 of the training images."""
    monkeypatch.setattr(kmeans, "BATCH_IMAGES", 4)
    images = image_set()
    written(tmp_path / "unbroken", images)
    real, seen = Encoder.encoded, []

    def counted(self, some):
        if len(seen) == calls:
            raise KilledError
        seen.append(len(some))
        return real(self, some)

    monkeypatch.setattr(Encoder, "encoded", counted)
    with pytest.raises(KilledError):
        written(tmp_path / "out", images, scratch=tmp_path / "work")
    assert not (tmp_path / "out").exists()
    calls = 99
    monkeypatch.setattr(kmeans, "learnt_centroids", None)  # they are there
    written(tmp_path / "out", images, scratch=tmp_path / "work")
    assert sum(seen) == 27
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unbroken")


@pytest.mark.parametrize("calls", [5, 13, 17])
def test_a_run_killed_after_the_raw_features_resumes(tmp_path, monkeypatch, calls):
    """Twice 6 blocks of training images for the moments, then 2 of test and 6 of training images are standardised."""
    images, seen = image_set(), []

    def blocks(features):
        for start in range(0, len(features), 4):
            if len(seen) == calls:
                raise KilledError
            seen.append(1)
            yield features[start : start + 4]

    wanted, calls = calls, 99
    monkeypatch.setattr(kmeans, "_blocks", blocks)
    written(tmp_path / "unbroken", images)
    assert len(seen) == 20
    seen.clear()
    calls = wanted
    with pytest.raises(KilledError):
        written(tmp_path / "out", images, scratch=tmp_path / "work")
    calls = 99
    monkeypatch.setattr(Encoder, "encoded", None)  # not again
    written(tmp_path / "out", images, scratch=tmp_path / "work")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "unbroken")


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_images_as_small_as_a_patch_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"sets/noise: images of 3 x 8; .* at least 4 pixels a side"):
        written(tmp_path / "out", image_set(height=3))


def test_a_set_without_training_images_is_refused(tmp_path):
    images = image_set()
    images.index["split"] = images.index["split"].replace("train", "extra")
    with pytest.raises(InputError, match="no images in split 'train'; found extra, test"):
        written(tmp_path / "out", images)


def test_more_centroids_than_patches_are_refused(tmp_path):
    values = dataclasses.asdict(CONFIG) | {"n_maps": 201}
    (tmp_path / "params.yaml").write_text(json.dumps({"kmeans": values}))
    with pytest.raises(InputError, match=r"kmeans: n_maps 201 .* n_patches 200; raise n_patches"):
        params.load(tmp_path / "params.yaml", KMeansFeatures, own="kmeans")
