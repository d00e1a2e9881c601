"""Discriminator features against slow loops and whole-batch definitions, on networks a few maps wide."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, open_set, write_set
from pipeline.evaluation import features as module
from pipeline.evaluation.features import (
    Features,
    Moments,
    RandomFeatures,
    Statistics,
    batch_statistics,
    discriminator_features,
    map_rows,
    max_feature_units,
    network_sha256,
    open_features,
    random_discriminator,
    with_fixed_statistics,
    write_features,
)
from pipeline.models import dcgan, store
from pipeline.models.build import ColourArchitecture
from pipeline.models.dcgan import PAPER, Variant
from pipeline.models.layers import AffineBatchNorm, initialise
from stages import features as features_stage
from stages import random_features as random_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
BF16 = Compute(device="cpu", threads=1, precision="bf16")
CONFIG = Features(dtype="float32", batch_size=4, statistics_batch_size=3)
TINY = ["discriminator_32", "discriminator_svhn"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(n_train: int = 7, n_test: int = 3, side: int = 32, channels: int = 3) -> ImageSet:
    """Splits lie mixed, so that a row's number is not its place in the split."""
    n = n_train + n_test
    images = numpy_stream(3, "images").integers(0, 256, (n, side, side, channels), dtype=np.uint8)
    split = np.array(["train"] * n_train + ["test"] * n_test)[numpy_stream(3, "split").permutation(n)]
    index = pd.DataFrame({"key": [f"image {i}" for i in range(n)], "split": split, "label": -1, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def network(name: str, seed: int = 0, variant: Variant = PAPER, n: int = 2) -> nn.Sequential:
    discriminator = getattr(dcgan, name)(n=n, variant=variant)
    initialise(discriminator, 0.15, torch_stream(seed, name))
    with torch.no_grad():
        for key, parameter in discriminator.named_parameters():
            if key.endswith("shift"):
                parameter.normal_(0, 0.3, generator=torch_stream(seed, key))
    return discriminator


def varied(**changes: object) -> Variant:
    return dataclasses.replace(PAPER, **changes)


def statistics_of(discriminator: nn.Sequential, images: ImageSet, batch_size: int = 3) -> Statistics:
    return batch_statistics(discriminator, images, images.rows("train"), batch_size=batch_size, compute=FP32)


def extract(*arguments: object, **named: object) -> int:
    """A run that nobody interrupted."""
    with tempfile.TemporaryDirectory() as scratch:
        return module.extract(*arguments, scratch=Path(scratch), **named)


def extracted(out: Path, discriminator: nn.Sequential, images: ImageSet, split: str = "test", compute: Compute = FP32,
              **changes: object) -> np.ndarray:  # fmt: skip
    statistics = statistics_of(discriminator, images)
    config = dataclasses.replace(CONFIG, **changes)
    extract(discriminator, statistics, images, ["train", "test"], out, config=config, compute=compute)
    return np.array(open_features(out, split, images, network_sha256(discriminator)))


# ---- slow loops -----------------------------------------------------------------------------------------------------


def convolved_slowly(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """float64 (c, h, w) -> (o, h / stride, w / stride), zeros around the image."""
    pad, kernel = weight.shape[-1] // 2, weight.shape[-1]
    around = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = np.empty((len(weight), x.shape[1] // stride, x.shape[2] // stride))
    for o, i, j in np.ndindex(out.shape):
        window = around[:, stride * i : stride * i + kernel, stride * j : stride * j + kernel]
        out[o, i, j] = np.sum(window * weight[o])
    return out


def pooled_slowly(maps: np.ndarray) -> list[float]:
    """The largest of each of 4 x 4 cells, map by map, row by row."""
    size = maps.shape[1] // 4
    return [
        max(one[i * size + u, j * size + v] for u in range(size) for v in range(size))
        for one in maps
        for i in range(4)
        for j in range(4)
    ]


def features_slowly(discriminator: nn.Sequential, image: np.ndarray, moments: list[tuple]) -> np.ndarray:
    """One image at a time: convolve, normalise by constants, leak, pool."""
    x = image.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
    found: list[float] = []
    waiting = list(moments)
    for row in list(discriminator)[:-1]:
        x = convolved_slowly(x, row[0].weight.detach().double().numpy(), row[0].stride)
        if isinstance(row[1], AffineBatchNorm):
            mean, variance = waiting.pop(0)
            gain, shift = row[1].gain.detach().double().numpy(), row[1].shift.detach().double().numpy()
            for c in range(len(x)):
                x[c] = gain[c] * (x[c] - mean[c]) / np.sqrt(variance[c] + 1e-8) + shift[c]
        x = np.where(x > 0, x, 0.2 * x)
        found += pooled_slowly(x)
    return np.array(found)


def statistics_slowly(discriminator: nn.Sequential, images: np.ndarray, batch_size: int) -> list[tuple]:
    """Whole batches in float64: each layer is normalised by its own batch, and the moments of batches are averaged."""
    of_batches = []
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size].astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
        found = []
        for row in list(discriminator)[:-1]:
            weight = row[0].weight.detach().double().numpy()
            x = np.stack([convolved_slowly(image, weight, row[0].stride) for image in x])
            if isinstance(row[1], AffineBatchNorm):
                mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3), ddof=0)
                found.append((mean, variance))
                gain, shift = (row[1].gain.detach().double().numpy(), row[1].shift.detach().double().numpy())
                mean, scale, shift = (v[:, None, None] for v in (mean, gain / np.sqrt(variance + 1e-8), shift))
                x = (x - mean) * scale + shift
            x = np.where(x > 0, x, 0.2 * x)
        of_batches.append(found)
    return [
        (np.mean([m for m, _ in layer], axis=0), np.mean([v for _, v in layer], axis=0))
        for layer in zip(*of_batches, strict=True)
    ]


@pytest.mark.parametrize("name", TINY)
def test_statistics_are_means_over_batches_of_means_and_biased_variances(name: str):
    discriminator, images = network(name), image_set()
    rows = images.rows("train")
    got = batch_statistics(discriminator, images, rows, batch_size=3, compute=FP32)  # 3 + 3 + 1 images
    expected = statistics_slowly(discriminator, images.images[rows], 3)
    assert len(got) == len(expected) == sum(isinstance(part, AffineBatchNorm) for part in discriminator.modules())
    for moments, (mean, variance) in zip(got, expected, strict=True):
        assert moments.mean.dtype == moments.variance.dtype == np.float64
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moments.variance, variance, rtol=1e-4)
    whole = statistics_slowly(discriminator, images.images[rows], 7)
    assert np.abs(whole[-1][1] / expected[-1][1] - 1).max() > 0.01, "batches of another size have other statistics"


@pytest.mark.parametrize("name", TINY)
def test_features_equal_a_slow_loop_over_single_images(tmp_path: Path, name: str):
    discriminator, images = network(name), image_set()
    statistics = statistics_of(discriminator, images)
    extract(discriminator, statistics, images, ["test"], tmp_path / "f", config=CONFIG, compute=FP32)
    got = open_features(tmp_path / "f", "test", images, network_sha256(discriminator))
    moments = [(m.mean, m.variance) for m in statistics]
    expected = [features_slowly(discriminator, images.images[row], moments) for row in images.rows("test")]
    np.testing.assert_allclose(got, np.array(expected), rtol=1e-3, atol=2e-5)


def test_the_smaller_eps_matters(tmp_path: Path):
    """A layer whose variance is as small as eps: fixed statistics take the eps of the precision."""
    discriminator = network("discriminator_svhn")
    zero = tuple(Moments(mean=np.zeros(n), variance=np.zeros(n)) for n in (4, 8))
    for dtype, eps in ((torch.float32, 1e-8), (torch.bfloat16, 1e-5)):
        fixed = with_fixed_statistics(discriminator, zero, dtype)
        norm, weight = discriminator[1][1], discriminator[1][0].weight.detach()
        expected = (norm.gain.detach()[:, None, None, None] * weight / eps**0.5).to(dtype)
        torch.testing.assert_close(fixed[1][0].weight, expected)
        assert fixed[1][0].weight.dtype == fixed[1][0].bias.dtype == dtype
    assert fixed[0][0].bias is None, "the first layer has no batch norm"


# ---- counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("discriminator_32", 28_672), ("discriminator_svhn", 7_168)])
def test_counts_at_the_papers_width(tmp_path: Path, name: str, count: int):
    discriminator, images = network(name, n=128 if name.endswith("32") else 64), image_set(n_train=2, n_test=1)
    statistics = statistics_of(discriminator, images)
    n = extract(discriminator, statistics, images, ["test"], tmp_path / "f", config=CONFIG, compute=FP32)
    assert n == count
    assert open_features(tmp_path / "f", "test", images, network_sha256(discriminator)).shape == (1, count)


def test_the_64_x_64_network_has_features_too(tmp_path: Path):
    assert extracted(tmp_path / "f", network("discriminator_64"), image_set(side=64)).shape == (
        3,
        (2 + 4 + 8 + 16) * 16,
    )


def test_a_prefix_of_the_layers_gives_the_features_of_those_layers(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    whole = extracted(tmp_path / "whole", discriminator, images)
    first = extracted(tmp_path / "first", discriminator[:4], images)
    assert first.shape == (3, (2 + 2 + 4 + 4) * 16)
    np.testing.assert_array_equal(first, whole[:, : first.shape[1]])


VARIANTS = [
    varied(batch_norm="none"),
    varied(batch_norm="all"),
    varied(resampling="pooling"),
    varied(hidden=8),
    varied(global_average=True),
    varied(activation="relu"),
    varied(activation="maxout"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=repr)
def test_every_variant_has_features(tmp_path: Path, variant: Variant):
    """With the statistics of one batch, fixed statistics give what batch statistics give on that very batch."""
    discriminator, images = network("discriminator_svhn", variant=variant), image_set()
    rows, found = images.rows("train"), []
    statistics = batch_statistics(discriminator, images, rows, batch_size=len(rows), compute=FP32)
    extract(discriminator, statistics, images, ["train"], tmp_path / "f", config=CONFIG, compute=FP32)
    with torch.no_grad():
        x = dcgan.to_signed(images.images[rows])
        for row in map_rows(discriminator):
            x = row(x)
            found.append(torch.nn.functional.adaptive_max_pool2d(x, 4).flatten(1))
    got = open_features(tmp_path / "f", "train", images, network_sha256(discriminator))
    np.testing.assert_allclose(got, torch.cat(found, dim=1).numpy(), rtol=1e-3, atol=1e-4)


# ---- properties -----------------------------------------------------------------------------------------------------


def test_batch_size_changes_a_feature_by_rounding_at_most(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    found = [extracted(tmp_path / str(size), discriminator, images, "train", batch_size=size) for size in (1, 2, 3, 50)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)
    assert found[0].std() > 0.1


def test_an_images_features_do_not_depend_on_its_mates(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    statistics = statistics_of(discriminator, images)
    black = dataclasses.replace(images, images=images.images.copy())
    kept = images.rows("train")[2]
    black.images[np.arange(len(black.images)) != kept] = 0
    for name, each in (("mixed", images), ("black", black)):
        extract(discriminator, statistics, each, ["train"], tmp_path / name, config=CONFIG, compute=FP32)
    mixed, alone = (np.load(tmp_path / name / "train.npy") for name in ("mixed", "black"))
    np.testing.assert_allclose(mixed[2], alone[2], rtol=1e-5, atol=1e-6)
    assert np.abs(mixed[3] - alone[3]).max() > 0.1


def test_rows_are_those_of_the_split_in_its_order(tmp_path: Path):
    discriminator, images = network("discriminator_svhn"), image_set()
    statistics = statistics_of(discriminator, images)
    everything = dataclasses.replace(images, index=images.index.assign(split="all"))
    for name, each, splits in (("all", everything, ["all"]), ("parts", images, ["train", "test"])):
        extract(discriminator, statistics, each, splits, tmp_path / name, config=CONFIG, compute=FP32)
    whole = np.load(tmp_path / "all" / "all.npy")
    for split in ("train", "test"):
        part = np.load(tmp_path / "parts" / f"{split}.npy")
        np.testing.assert_allclose(part, whole[images.rows(split)], rtol=1e-4, atol=1e-5)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    for name in ("a", "b"):
        extracted(tmp_path / name, discriminator, images, compute=BF16)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["features.json", "test.npy", "train.npy"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_file_is_what_numpy_would_save(tmp_path: Path, dtype: str):
    got = extracted(tmp_path / "f", network("discriminator_svhn"), image_set(), dtype=dtype)
    assert got.dtype == np.dtype(dtype)
    np.save(tmp_path / "again.npy", got)
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "f" / "test.npy").read_bytes()


def test_float16_and_bf16_only_round(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    exact = extracted(tmp_path / "a", discriminator, images)
    half = extracted(tmp_path / "b", discriminator, images, dtype="float16")
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    rough = extracted(tmp_path / "c", discriminator, images, compute=BF16)
    assert 1e-4 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.03


def test_bf16_statistics_are_close(tmp_path: Path):
    discriminator, images = network("discriminator_32"), image_set()
    exact = statistics_of(discriminator, images)
    rough = batch_statistics(discriminator, images, images.rows("train"), batch_size=3, compute=BF16)
    for a, b in zip(exact, rough, strict=True):
        assert np.abs(b.mean - a.mean).max() < 0.02 * np.sqrt(a.variance).max()
        np.testing.assert_allclose(b.variance, a.variance, rtol=0.03)
        assert not np.array_equal(b.variance, a.variance), "bf16 was not in force"


def test_the_order_of_rows_decides_the_batches():
    """A set sorted by class needs shuffled rows: the caller's order is taken."""
    discriminator, images = network("discriminator_svhn"), image_set()
    rows = images.rows("train")
    first, again, other = (
        batch_statistics(discriminator, images, order, batch_size=3, compute=FP32) for order in (rows, rows, rows[::-1])
    )
    assert all(np.array_equal(a.variance, b.variance) for a, b in zip(first, again, strict=True))
    assert not any(np.allclose(a.variance, b.variance, rtol=1e-6) for a, b in zip(first, other, strict=True))


def test_the_network_is_left_as_it_was(tmp_path: Path):
    discriminator = network("discriminator_32")
    before = {key: value.clone() for key, value in discriminator.state_dict().items()}
    extracted(tmp_path / "f", discriminator, image_set())
    assert all(torch.equal(value, before[key]) for key, value in discriminator.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in discriminator.parameters())
    discriminator(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert not any(part.inplace for part in discriminator.modules() if isinstance(part, nn.LeakyReLU))


class Watched:
    """Images that say how many were asked for at once."""

    def __init__(self, images: np.ndarray) -> None:
        self._images, self.shape, self.asked = images, images.shape, []

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.asked.append(len(rows))
        return self._images[rows]


def test_only_one_batch_is_read_at_a_time(tmp_path: Path):
    plain, discriminator = image_set(), network("discriminator_svhn")
    images = dataclasses.replace(plain, images=Watched(plain.images))
    statistics = statistics_of(discriminator, images)
    assert images.images.asked == [3, 3, 1]
    extract(discriminator, statistics, images, ["train", "test"], tmp_path / "f", config=CONFIG, compute=FP32)
    assert images.images.asked[3:] == [4, 3, 3]


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path: Path) -> Path:
    extracted(tmp_path / "f", network("discriminator_svhn"), image_set())
    return tmp_path / "f"


@pytest.mark.parametrize(
    "other",
    [
        network("discriminator_svhn", seed=1),
        network("discriminator_svhn", n=4),
        network("discriminator_32"),
        network("discriminator_svhn", variant=varied(activation="relu")),
        network("discriminator_svhn")[:2],
    ],
    ids=["seed", "width", "architecture", "activation", "prefix"],
)
def test_features_of_another_network(features: Path, other: nn.Sequential):
    with pytest.raises(InputError, match=r"features of another network: made with sha256 [0-9a-f]{16}, expected"):
        open_features(features, "test", image_set(), network_sha256(other))


def test_the_logit_is_no_part_of_the_features(features: Path):
    """A D whose last row differs gives the same features."""
    discriminator = network("discriminator_svhn")
    with torch.no_grad():
        discriminator[-1][1].weight.mul_(2)
    assert open_features(features, "test", image_set(), network_sha256(discriminator)).shape == (3, 224)
    assert network_sha256(discriminator) == network_sha256(map_rows(discriminator))


def test_features_of_other_images(features: Path):
    images, discriminator = image_set(), network("discriminator_svhn")
    with pytest.raises(InputError, match=r"test\.npy: features of other images: 3 images .* expected 4"):
        open_features(features, "test", image_set(n_train=6, n_test=4), network_sha256(discriminator))
    renamed = dataclasses.replace(images, index=images.index.assign(key=images.index["key"] + "!"))
    with pytest.raises(InputError, match="features of other images: 3 images with keys"):
        open_features(features, "test", renamed, network_sha256(discriminator))
    more = dataclasses.replace(images, index=images.index.assign(split=images.index["split"].replace("test", "new")))
    with pytest.raises(InputError, match="no features of split 'new'; found test, train"):
        open_features(features, "new", more, network_sha256(discriminator))


@pytest.mark.parametrize("kept", [0, 20, 500, -1], ids=["empty", "in the header", "500 bytes", "one short"])
def test_a_truncated_file(features: Path, kept: int):
    path = features / "test.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"test\.npy: not a whole NumPy array"):
        open_features(features, "test", image_set(), network_sha256(network("discriminator_svhn")))


def test_a_file_of_another_shape_or_type_or_none_at_all(features: Path):
    path = features / "test.npy"
    for array, found in (
        (np.zeros((3, 9), np.float32), r"float32 \(3, 9\)"),
        (np.zeros((3, 224)), r"float64 \(3, 224\)"),
    ):
        np.save(path, array)
        with pytest.raises(InputError, match=rf"test\.npy: expected float32 \(3, 224\), found {found}"):
            open_features(features, "test", image_set(), network_sha256(network("discriminator_svhn")))
    path.unlink()
    with pytest.raises(InputError, match=r"test\.npy: not a whole NumPy array"):
        open_features(features, "test", image_set(), network_sha256(network("discriminator_svhn")))


@pytest.mark.parametrize(("text", "match"), [(None, "missing; run"), ("{", "not valid JSON"), ("[]", "not a record"),
                                             ('{"network": "x"}', "not a record of features")])  # fmt: skip
def test_a_damaged_record(features: Path, text: str | None, match: str):
    path = features / "features.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=rf"features\.json: {match}"):
        open_features(features, "test", image_set(), network_sha256(network("discriminator_svhn")))


def test_the_record(features: Path):
    record = json.loads((features / "features.json").read_text())
    assert record["network"] == network_sha256(network("discriminator_svhn"))
    assert {split: images["n"] for split, images in record["images"].items()} == {"train": 7, "test": 3}
    assert (record["n_features"], record["dtype"], record["precision"]) == (224, "float32", "fp32")
    assert record["max_feature_units"] == max_feature_units(features) == 8


def test_images_that_do_not_fit(tmp_path: Path):
    discriminator = network("discriminator_32")
    for images, match in (
        (image_set(channels=1), "images of 1 channels, the network takes 3"),
        (image_set(side=28), "images of 28 x 28; the network halves the side 3 times .* a multiple of 32"),
        (image_set(side=16), "images of 16 x 16"),
    ):
        with pytest.raises(InputError, match=match):
            statistics_of(discriminator, images)
        statistics = statistics_of(discriminator, image_set())
        with pytest.raises(InputError, match=match):
            extract(discriminator, statistics, images, ["test"], tmp_path / "f", config=CONFIG, compute=FP32)
    assert not [*tmp_path.iterdir()]
    pooling = network("discriminator_32", variant=varied(resampling="pooling"))
    with pytest.raises(InputError, match="halves the side 3 times"):
        statistics_of(pooling, image_set(side=16))


def test_statistics_of_another_network(tmp_path: Path):
    images = image_set()
    statistics = statistics_of(network("discriminator_svhn"), images)
    with pytest.raises(ValueError, match=r"statistics of \[4, 8\] channels .* have \[2, 4, 4, 8, 8\]"):
        extract(network("discriminator_32"), statistics, images, ["test"], tmp_path / "f", config=CONFIG, compute=FP32)


def test_features_that_are_not_finite_replace_nothing(features: Path):
    images, discriminator = image_set(), network("discriminator_svhn")
    before = (features / "test.npy").read_bytes()
    with torch.no_grad():
        discriminator[2][1].gain.mul_(1e6)
    statistics = statistics_of(discriminator, images)

    def extract_as(dtype: str) -> None:
        config = dataclasses.replace(CONFIG, dtype=dtype)
        extract(discriminator, statistics, images, ["train", "test"], features, config=config, compute=FP32)

    with pytest.raises(InputError, match=r"split 'train': .* not finite in float16; choose dtype float32"):
        extract_as("float16")
    with torch.no_grad():
        discriminator[2][1].gain[0] = float("nan")
    with pytest.raises(InputError, match=r"not finite in float32; look for NaN"):
        extract_as("float32")
    assert (features / "test.npy").read_bytes() == before
    assert [path.name for path in features.parent.iterdir()] == ["f"]


def test_a_network_without_maps():
    with pytest.raises(ValueError, match="begins with a convolution"):
        map_rows(dcgan.generator_svhn(n=2))


# ---- folders of features, whatever made them ------------------------------------------------------------------------

RECORD = {"network": "5" * 64, "max_feature_units": 3, "maps": 7}


def of_keys(images: ImageSet, *, size: int, asked: list[int], dies_after: int = -1) -> Callable:
    """A maker of features that are easy to tell: batches of ``size``; killed after so many."""

    def batches_of(rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            if len(asked) == dies_after:
                raise KeyboardInterrupt
            batch = rows[start : start + size]
            asked.append(len(batch))
            yield np.stack([batch, batch + 0.5, -batch], axis=1)

    return batches_of


def write(out: Path, images: ImageSet, batches_of: Callable, scratch: Path, dtype: str = "float16") -> None:
    splits = ["test", "train"]
    write_features(out, images, splits, batches_of, n_features=3, dtype=dtype, record=RECORD, scratch=scratch)


def test_another_maker_writes_the_same_kind_of_folder(tmp_path: Path):
    images, asked = image_set(), []
    write(tmp_path / "f", images, of_keys(images, size=2, asked=asked), tmp_path / "s")
    assert asked == [2, 1, 2, 2, 2, 1], "each split from its own first row"
    for split in ("train", "test"):
        rows, got = images.rows(split), open_features(tmp_path / "f", split, images, "5" * 64)
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, np.stack([rows, rows + 0.5, -rows], axis=1))
    record = json.loads((tmp_path / "f" / "features.json").read_text())
    assert record.items() >= {**RECORD, "n_features": 3, "dtype": "float16"}.items()
    assert open_features(tmp_path / "f", "test", images, None).shape == (3, 3), "of any network"
    with pytest.raises(InputError, match="features of another network: made with sha256 5555555555555555"):
        open_features(tmp_path / "f", "test", images, "6" * 64)


@pytest.mark.parametrize("dies_after", range(7))
@pytest.mark.parametrize("torn", [False, True], ids=["between batches", "within a batch"])
def test_a_killed_run_goes_on_after_its_last_batch(tmp_path: Path, dies_after: int, torn: bool):
    images, asked = image_set(), []
    write(tmp_path / "unbroken", images, of_keys(images, size=2, asked=[]), tmp_path / "s0")
    if dies_after < 6:
        broken = of_keys(images, size=2, asked=asked, dies_after=dies_after)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "f", images, broken, tmp_path / "s")
        assert not (tmp_path / "f").exists()
        if torn:
            for name in ("test.npy", "train.npy"):
                with (tmp_path / "s" / name).open("ab") as file:
                    file.write(b"half a row")
    again: list[int] = []
    write(tmp_path / "f", images, of_keys(images, size=2, asked=again), tmp_path / "s")
    assert asked + again == [2, 1, 2, 2, 2, 1], "no batch is made twice"
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["features.json", "test.npy", "train.npy"]
    for path in (tmp_path / "unbroken").iterdir():
        assert path.read_bytes() == (tmp_path / "f" / path.name).read_bytes()


def test_rows_that_a_crash_lost_are_made_again(tmp_path: Path):
    """The count of rows reached the disk, the rows did not."""
    images = image_set()
    write(tmp_path / "unbroken", images, of_keys(images, size=2, asked=[]), tmp_path / "s0")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "f", images, of_keys(images, size=2, asked=[], dies_after=4), tmp_path / "s")
    lost = tmp_path / "s" / "train.npy"
    lost.write_bytes(lost.read_bytes()[:-1])
    write(tmp_path / "f", images, of_keys(images, size=2, asked=[]), tmp_path / "s")
    for path in (tmp_path / "unbroken").iterdir():
        assert path.read_bytes() == (tmp_path / "f" / path.name).read_bytes()


def test_a_maker_that_breaks_the_contract(tmp_path: Path):
    images = image_set()

    def writes(batches_of: Callable, record: dict) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            out, shape = tmp_path / "f", {"n_features": 3, "dtype": "float16"}
            write_features(out, images, ["test"], batches_of, **shape, record=record, scratch=Path(scratch))

    good = of_keys(images, size=2, asked=[])
    with pytest.raises(ValueError, match="needs network and max_feature_units, found maps, network"):
        writes(good, {"network": "5" * 64, "maps": 7})
    with pytest.raises(ValueError, match="features of 2 images for the 3 of split 'test'"):
        writes(lambda rows: good(rows[:2]), RECORD)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(m, 3\)"):
        writes(lambda rows: (batch[:, :2] for batch in good(rows)), RECORD)
    with pytest.raises(
        InputError, match=r"split 'test': features that are not finite in float16; choose dtype float32"
    ):
        writes(lambda rows: (batch * 1e6 for batch in good(rows)), RECORD)
    with pytest.raises(InputError, match="no images in split 'extra'; found test, train"):
        write_features(tmp_path / "f", images, ["extra"], good, n_features=3, dtype="float16", record=RECORD,
                       scratch=tmp_path / "s")  # fmt: skip
    assert not (tmp_path / "f").exists()


def test_features_of_every_split_with_statistics_of_shuffled_training_images(tmp_path: Path, monkeypatch):
    discriminator, images = network("discriminator_svhn"), image_set(n_train=40)
    asked: list[np.ndarray] = []

    def watched(*arguments, **named) -> Statistics:
        asked.append(arguments[2])
        return batch_statistics(*arguments, **named)

    monkeypatch.setattr(module, "batch_statistics", watched)
    for name in ("a", "b"):
        discriminator_features(discriminator, images, tmp_path / name, config=CONFIG, compute=FP32,
                               scratch=tmp_path / "scratch")  # fmt: skip
        for path in (tmp_path / name).iterdir():
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    (order,) = asked  # the second run found the statistics in the scratch folder
    assert sorted(order) == sorted(images.rows("train"))
    assert not np.array_equal(order, images.rows("train"))
    expected = tmp_path / "expected"
    statistics = batch_statistics(discriminator, images, order, batch_size=3, compute=FP32)
    extract(discriminator, statistics, images, ["test", "train"], expected, config=CONFIG, compute=FP32)
    for path in expected.iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_a_network_without_batch_norm_has_no_statistics(tmp_path: Path):
    discriminator, images = network("discriminator_svhn", variant=varied(batch_norm="none")), image_set()
    discriminator_features(discriminator, images, tmp_path / "f", config=CONFIG, compute=FP32, scratch=tmp_path / "s")
    assert open_features(tmp_path / "f", "train", images, network_sha256(discriminator)).shape == (7, 224)


def test_a_random_discriminator_is_one_before_its_first_update():
    architecture = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=24, variant=PAPER)
    first, again, other, wide = (
        random_discriminator(architecture, RandomFeatures(seed=seed, initial_std=std))
        for seed, std in ((0, 0.02), (0, 0.02), (1, 0.02), (0, 0.2))
    )
    weight, shift = first[1][0].weight.detach(), first[1][1].shift.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(wide[1][0].weight.detach().std()) == pytest.approx(0.2, rel=0.05)
    assert float(shift.abs().max()) == 0
    assert network_sha256(first) == network_sha256(again) != network_sha256(other)


# ---- the stages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Path:
    """A set, a model whose second seed is no part of this, and params."""
    monkeypatch.setenv("GAN_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set()
    write_set(tmp_path / "set", images.images, images.index, pd.DataFrame({"key": [], "reason": []}))
    architecture = {
        "name": "dcgan_svhn",
        "z": "uniform",
        "z_dim": 5,
        "filters": 2,
        "variant": dataclasses.asdict(PAPER),
    }
    tensors = {}
    for seed in (4, 9):
        tensors |= store.named_tensors(f"seed{seed}/discriminator", network("discriminator_svhn", seed=seed))
    store.write_model(tmp_path / "model", tensors, {"params": {"architecture": architecture, "seeds": [4, 9]}}, {})
    sections = {
        "features": dataclasses.asdict(CONFIG),
        "random_features": {"seed": 6, "initial_std": 0.1},
        "train": {"runs": {"dcgan_svhn": {"architecture": architecture}}},
        "compute": dataclasses.asdict(FP32),
    }
    YAML().dump(sections, tmp_path / "params.yaml")
    return tmp_path


def test_the_stages_write_features_of_a_trained_and_of_a_random_discriminator(world: Path):
    images = open_set(world / "set")
    architecture = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=2, variant=PAPER)
    features_stage.main(world / "params.yaml", world / "set", world / "model", world / "trained")
    random_stage.main(world / "params.yaml", "dcgan_svhn", world / "set", world / "random")
    for name, discriminator in (
        ("trained", network("discriminator_svhn", seed=4)),
        ("random", random_discriminator(architecture, RandomFeatures(seed=6, initial_std=0.1))),
    ):
        expected = world / f"expected {name}"
        arguments = {"config": CONFIG, "compute": FP32, "scratch": world / "scratch" / name}
        discriminator_features(discriminator, images, expected, **arguments)
        for path in expected.iterdir():
            assert path.read_bytes() == (world / name / path.name).read_bytes()
    left = [path.name for path in (world / "scratch").iterdir() if path.name not in ("trained", "random")]
    assert not left, "the scratch folders go away"


def test_a_run_without_colour_networks_has_no_random_discriminator(world: Path):
    with pytest.raises(InputError, match=r"train\.runs\.dcgan_mnist\.architecture: no key 'dcgan_mnist'"):
        random_stage.main(world / "params.yaml", "dcgan_mnist", world / "set", world / "random")
