"""Samples, their nearest training images and the distances to them, against slow loops; the stage twice."""

import dataclasses
from collections.abc import Iterator
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
from pipeline.core.store import ImageSet, write_set
from pipeline.internals import half_done
from pipeline.internals import samples as module
from pipeline.internals.frozen import FrozenGenerator, Reference, freeze, freeze_on_images
from pipeline.internals.samples import (
    Float64Search,
    PixelSearch,
    Samples,
    distances,
    first_samples,
    held_out_split,
    memorisation_check,
    picture_features,
    sample_blocks,
)
from pipeline.models import store
from pipeline.models.build import ColourArchitecture, build_discriminator, build_generator, draw_z
from pipeline.models.dcgan import PAPER, to_signed
from pipeline.models.layers import initialise
from stages import samples as samples_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=0, n_images=20)
ARCHITECTURE = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=2, variant=PAPER)
CONFIG = Samples(seed=1, n_shown=6, n_nearest=4, n_held_out=3, n_images=7, n_samples=[5, 20, 33])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> Iterator[None]:
    """Threads cost more than they give on networks this small; blocks that end amid what is asked for."""
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "TRAINING_BLOCK", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(held_out: str = "validation") -> ImageSet:
    images = numpy_stream(3, "images").integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    split = np.array(["train"] * 21 + [held_out] * 9)[numpy_stream(3, "split").permutation(30)]
    index = pd.DataFrame({"key": [f"image {i}" for i in range(30)], "split": split, "label": -1, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def drawn(network: nn.Module, seed: int) -> nn.Sequential:
    assert isinstance(network, nn.Sequential)
    initialise(network, 0.15, torch_stream(seed, "network"))
    return network


@pytest.fixture
def generator() -> FrozenGenerator:
    z = draw_z(ARCHITECTURE, 20, torch_stream(0, "reference"))
    return FrozenGenerator(
        rows=freeze(drawn(build_generator(ARCHITECTURE), 4), z),
        architecture=ARCHITECTURE,
        reference=REFERENCE,
        device="cpu",
    )


@pytest.fixture
def discriminator() -> nn.Sequential:
    return freeze_on_images(drawn(build_discriminator(ARCHITECTURE), 4), image_set(), REFERENCE, FP32)


# ---- the stream of samples ------------------------------------------------------------------------------------------


def test_samples_are_the_first_of_one_stream(generator: FrozenGenerator):
    blocks = list(sample_blocks(generator, 1, 23))
    assert [len(block) for block in blocks] == [10, 10, 3]
    whole = np.concatenate(blocks)
    assert len(np.unique(whole.reshape(23, -1), axis=0)) == 23
    for n in (1, 10, 14):
        np.testing.assert_array_equal(first_samples(generator, 1, n), whole[:n])
    expected = generator.images(draw_z(ARCHITECTURE, 10, torch_stream(1, "samples", 1)))
    np.testing.assert_array_equal(whole[10:20], expected)
    assert (first_samples(generator, 2, 1) != whole[:1]).any()


# ---- pixels ---------------------------------------------------------------------------------------------------------


def nearest_slowly(queries: np.ndarray, candidates: np.ndarray) -> tuple[list[int], list[int]]:
    table = [[int(np.square(q.astype(int) - x.astype(int)).sum()) for x in candidates] for q in queries]
    return [min(row) for row in table], [row.index(min(row)) for row in table]


@pytest.mark.parametrize("exact_bytes", [True, False], ids=["as the machine has it", "no exact kernel"])
@pytest.mark.parametrize("levels", [2, 256], ids=["ties", "no ties"])
def test_the_search_against_a_slow_loop(monkeypatch, exact_bytes: bool, levels: int):
    if not exact_bytes:
        monkeypatch.setattr(module, "_has_exact_kernel", lambda *_: False)
    stream = numpy_stream(0, "levels", levels)
    queries, candidates = (stream.integers(0, levels, (n, 2, 2, 3), dtype=np.uint8) for n in (6, 40))
    search = PixelSearch(queries, FP32)
    search.add(candidates[:13])
    early = search.result()
    search.add(candidates[13:])
    for found, among in ((early, candidates[:13]), (search.result(), candidates)):
        slow = nearest_slowly(queries, among)
        assert (found.squared_distance.tolist(), found.index.tolist()) == slow


@pytest.mark.parametrize("exact_bytes", [True, False])
def test_the_search_is_exact_at_the_size_of_faces(monkeypatch, exact_bytes: bool):
    """One level of one of 12,288 pixels decides, among the largest distances that there are."""
    if not exact_bytes:
        monkeypatch.setattr(module, "_has_exact_kernel", lambda *_: False)
    elif not module._has_exact_kernel(np.zeros((1, 64, 64, 3), np.uint8), FP32):
        pytest.skip("this processor has no byte products, and the other case is what it does")
    candidates = np.full((20, 64, 64, 3), 255, dtype=np.uint8)
    candidates[17, 63, 5, 1] = 254
    search = PixelSearch(np.zeros((2, 64, 64, 3), dtype=np.uint8), FP32)
    search.add(candidates)
    assert search.result().index.tolist() == [17, 17]
    assert search.result().squared_distance.tolist() == [12288 * 255**2 - 509] * 2


def test_the_search_of_numbers_against_a_slow_loop():
    stream = numpy_stream(0, "numbers")
    queries, candidates = (torch.from_numpy(stream.normal(3, 1, (n, 5))) for n in (6, 40))
    queries[2] = candidates[30]
    search = Float64Search(queries)
    search.add(candidates[:13])
    search.add(candidates[13:])
    slow = (queries[:, None] - candidates).square().sum(dim=2).min(dim=1)
    found = search.result()
    assert found.index.tolist() == slow.indices.tolist()
    np.testing.assert_allclose(found.squared_distance, slow.values, rtol=1e-9, atol=1e-13)
    assert (found.squared_distance >= 0).all()


def test_the_norms_of_the_queries_are_summed_once(monkeypatch):
    squared_norms, summed = module.squared_norms, []
    monkeypatch.setattr(module, "squared_norms", lambda x: summed.append(len(x)) or squared_norms(x))
    search = Float64Search(torch.ones(7, 3, dtype=torch.float64))
    for _ in range(3):
        search.add(torch.zeros(2, 3, dtype=torch.float64))
    assert summed == [7, 2, 2, 2]


def test_a_machine_without_byte_products_falls_back(monkeypatch):
    def none(pixels: int, device: str) -> torch.dtype:
        message = "no kernel"
        raise InputError(message)

    monkeypatch.setattr(module, "exact_kernel", none)
    assert not module._has_exact_kernel(np.zeros((1, 64, 64, 3), np.uint8), FP32)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_distances_against_a_slow_loop(generator: FrozenGenerator, held_out: str):
    near = generator.images(generator.draw_z(30, 9, "images"))  # the same sample is the nearest to all noise
    images = dataclasses.replace(image_set(held_out), images=near)
    got = distances(generator, images, CONFIG, FP32)
    assert got.columns.tolist() == ["split", "n_samples", "n_images", "mean_distance"]
    assert got["n_samples"].tolist() == [5, 5, 20, 20, 33, 33]
    assert got["split"].tolist() == ["train", held_out] * 3
    assert got["n_images"].tolist() == [7] * 6
    made = first_samples(generator, 1, 33)
    for row in got.itertuples():
        queries = images.images[module.drawn_rows(images, row.split, 7, 1)]
        squares, _ = nearest_slowly(queries, made[: row.n_samples])
        assert row.mean_distance == pytest.approx(np.mean([np.sqrt(square) / 255 for square in squares]), rel=1e-9)
    assert got["mean_distance"].nunique() == 6, "more samples come nearer, to the images of either split"


def test_fewer_images_than_asked_for_and_no_held_out_ones(generator: FrozenGenerator):
    images = image_set()
    many = distances(generator, images, dataclasses.replace(CONFIG, n_images=500), FP32)
    assert many["n_images"].tolist() == [21, 9] * 3
    images.index["split"] = "train"
    assert held_out_split(images) is None
    alone = distances(generator, images, CONFIG, FP32)
    assert alone["split"].tolist() == ["train"] * 3


class KilledError(Exception):
    """Stands for kill -9."""


def killed_at(monkeypatch, place: str, n_calls: int) -> None:
    """Everything found is kept at once, and the ``n_calls``-th call of a method of the searches kills the process."""
    monkeypatch.setattr(half_done, "SECONDS_BETWEEN", 0.0)
    calls, method = [], getattr(PixelSearch, place)

    def counted(self, candidates):
        calls.append(len(candidates))
        if len(calls) == n_calls:
            raise KilledError
        return method(self, candidates)

    monkeypatch.setattr(PixelSearch, place, counted)


@pytest.mark.parametrize("n_calls", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("exact_bytes", [True, False])
def test_distances_go_on_where_they_were_killed(generator, tmp_path, monkeypatch, n_calls, exact_bytes):
    monkeypatch.setattr(module, "_has_exact_kernel", lambda *_: exact_bytes)
    unbroken = distances(generator, image_set(), CONFIG, FP32)
    with monkeypatch.context() as patch:
        killed_at(patch, "add", n_calls)
        with pytest.raises(KilledError):
            distances(generator, image_set(), CONFIG, FP32, tmp_path)
    made = []
    images = generator.images
    monkeypatch.setattr(FrozenGenerator, "images", lambda _, z: made.append(len(z)) or images(z))
    pd.testing.assert_frame_equal(distances(generator, image_set(), CONFIG, FP32, tmp_path), unbroken)
    # parts end at 5, 10, 20, 30 and 33 of blocks of 10: what a whole block gave is not made again
    assert sum(made) == 33 - {1: 0, 2: 0, 3: 10, 4: 20, 5: 30}[n_calls]


# ---- the nearest training images ------------------------------------------------------------------------------------


def test_nearest_training_images_against_a_slow_loop(generator: FrozenGenerator, discriminator: nn.Sequential):
    images, shown = image_set(), first_samples(generator, 1, 4)
    got = memorisation_check(shown, images, discriminator, CONFIG, FP32)
    assert got.table.columns.tolist() == ["what", "number", "space", "key", "distance"]
    assert got.table["what"].tolist() == (["sample"] * 4 + ["held_out"] * 3) * 2
    assert got.table["number"].tolist() == [0, 1, 2, 3, 0, 1, 2] * 2
    assert got.table["space"].tolist() == ["features"] * 7 + ["pixels"] * 7
    others = images.images[module.drawn_rows(images, "validation", 3, 1)]
    queries, training = np.concatenate([shown, others]), images.rows("train")
    layers = discriminator[:-1]
    forms = {
        "features": lambda picture: picture_features(layers, picture[None], "cpu")[0].numpy(),
        "pixels": lambda picture: picture.astype(float).ravel() / 255,
    }
    for space, form in forms.items():
        rows = got.table[got.table["space"] == space]
        for query, key, distance in zip(queries, rows["key"], rows["distance"], strict=True):
            slow = [np.linalg.norm(form(query) - form(images.images[row])) for row in training]
            assert key == f"image {training[int(np.argmin(slow))]}"
            assert distance == pytest.approx(min(slow), rel=1e-5)
    assert got.sheet.shape == (12, 32, 32, 3)
    np.testing.assert_array_equal(got.sheet[:4], shown)
    for place, key in enumerate([*got.table["key"][:4], *got.table["key"][7:11]]):
        np.testing.assert_array_equal(got.sheet[4 + place], images.images[int(key.split()[1])])


@pytest.mark.parametrize("exact_bytes", [True, False])
def test_the_check_goes_on_where_it_was_killed(discriminator, tmp_path, monkeypatch, exact_bytes):
    monkeypatch.setattr(module, "_has_exact_kernel", lambda *_: exact_bytes)
    images = image_set()
    unbroken = memorisation_check(images.images[:4], images, discriminator, CONFIG, FP32)
    with monkeypatch.context() as patch:
        killed_at(patch, "add", 3)  # of blocks of 8, 8 and 5
        with pytest.raises(KilledError):
            memorisation_check(images.images[:4], images, discriminator, CONFIG, FP32, tmp_path)
    looked_at, features = [], picture_features
    monkeypatch.setattr(
        module, "picture_features", lambda layers, part, on: looked_at.append(len(part)) or features(layers, part, on)
    )
    resumed = memorisation_check(images.images[:4], images, discriminator, CONFIG, FP32, tmp_path)
    assert looked_at == [7, 5], "the queries, and the last block"
    pd.testing.assert_frame_equal(resumed.table, unbroken.table)
    np.testing.assert_array_equal(resumed.sheet, unbroken.sheet)


def test_a_copy_is_found(discriminator: nn.Sequential):
    images = image_set()
    copied = images.rows("train")[[20, 3]]
    table = memorisation_check(images.images[copied], images, discriminator, CONFIG, FP32).table
    for space in ("features", "pixels"):
        found = table[(table["what"] == "sample") & (table["space"] == space)]
        assert found["key"].tolist() == [f"image {row}" for row in copied]
        np.testing.assert_allclose(found["distance"], 0, atol=1e-3)
        assert (table[(table["what"] == "held_out") & (table["space"] == space)]["distance"] > 1).all()


def test_without_held_out_images(discriminator: nn.Sequential):
    images = image_set()
    images.index["split"] = "train"
    table = memorisation_check(images.images[:2], images, discriminator, CONFIG, FP32).table
    assert table["what"].tolist() == ["sample"] * 4


def test_features_of_pictures_are_every_layers_largest_of_4_x_4_cells(discriminator: nn.Sequential):
    pictures = image_set().images[:2]
    got = picture_features(discriminator[:-1], pictures, "cpu").numpy()
    x, columns = to_signed(pictures), []
    with torch.no_grad():
        for row in discriminator[:-1]:
            x = row(x)
            cell = x.shape[2] // 4
            columns += [
                x[:, c, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell].amax(dim=(1, 2)).numpy()
                for c in range(x.shape[1])
                for i in range(4)
                for j in range(4)
            ]
    np.testing.assert_allclose(got, np.stack(columns, axis=1), rtol=1e-5, atol=1e-6)


def test_numbers_of_samples_that_do_not_ascend_are_refused():
    for numbers in ([], [5, 5], [9, 3]):
        with pytest.raises(ValueError, match="n_samples must ascend"):
            dataclasses.replace(CONFIG, n_samples=numbers)


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_the_stage_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set()
    write_set(tmp_path / "set", images.images, images.index, pd.DataFrame({"key": [], "reason": []}))
    tensors = store.named_tensors("seed0/generator", drawn(build_generator(ARCHITECTURE), 4))
    tensors |= store.named_tensors("seed0/discriminator", drawn(build_discriminator(ARCHITECTURE), 4))
    run = {"params": {"architecture": dataclasses.asdict(ARCHITECTURE), "seeds": [0]}}
    store.write_model(tmp_path / "model", tensors, run, {})
    sections = {"compute": dataclasses.asdict(FP32)}
    sections["internals"] = {"reference": dataclasses.asdict(REFERENCE), "samples": dataclasses.asdict(CONFIG)}
    YAML().dump(sections, tmp_path / "params.yaml")
    names = ("samples.npz", "distances.parquet", "nearest.parquet", "sheet.npz")
    for turn in ("a", "b"):
        outs = [tmp_path / turn / name for name in names]
        samples_stage.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "model", *outs)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with np.load(tmp_path / "a" / "samples.npz") as content:
        assert content["images"].shape == (6, 32, 32, 3)
    with np.load(tmp_path / "a" / "sheet.npz") as content:
        assert content["images"].shape == (12, 32, 32, 3)
    assert len(pd.read_parquet(tmp_path / "a" / "distances.parquet")) == 6
    assert len(pd.read_parquet(tmp_path / "a" / "nearest.parquet")) == 14
