"""The walk: its line, its steps against a slow loop, and the animation's bytes."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import nn

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, write_set
from pipeline.internals import walk as module
from pipeline.internals.frozen import FrozenGenerator, Reference, freeze, freeze_on_images
from pipeline.internals.samples import picture_features
from pipeline.internals.walk import Walk, frames, polyline, save_animation, steps
from pipeline.models import store
from pipeline.models.build import ColourArchitecture, build_discriminator, build_generator, draw_z
from pipeline.models.dcgan import PAPER
from pipeline.models.layers import initialise
from stages import walk as walk_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=0, n_images=20)
ARCHITECTURE = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=2, variant=PAPER)
CONFIG = Walk(seed=1, n_points=4, frames_per_segment=3, n_random_pairs=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set() -> ImageSet:
    images = numpy_stream(3, "images").integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    index = pd.DataFrame({"key": [f"image {i}" for i in range(20)], "split": "train", "label": -1, "source": "noise"})
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def drawn(network: nn.Module) -> nn.Sequential:
    assert isinstance(network, nn.Sequential)
    initialise(network, 0.15, torch_stream(4, "network"))
    return network


@pytest.fixture
def generator() -> FrozenGenerator:
    z = draw_z(ARCHITECTURE, 20, torch_stream(0, "reference"))
    return FrozenGenerator(
        rows=freeze(drawn(build_generator(ARCHITECTURE)), z),
        architecture=ARCHITECTURE,
        reference=REFERENCE,
        device="cpu",
    )


# ---- the line -------------------------------------------------------------------------------------------------------


def test_the_line_is_open_and_has_equal_steps_without_repeating_a_point():
    points = draw_z(ARCHITECTURE, 4, torch_stream(0, "points"))
    line = polyline(points, 10)
    assert line.shape == (30, 5)
    for segment in range(3):
        for k in range(10):
            expected = points[segment] + k / 10 * (points[segment + 1] - points[segment])
            torch.testing.assert_close(line[10 * segment + k], expected)
    assert not any(torch.allclose(z, points[3]) for z in line), "the last point is not reached"
    assert len(torch.unique(line, dim=0)) == 30


def test_the_papers_figure_has_100_frames():
    assert polyline(torch.zeros(11, 100), 10).shape == (100, 100)


def test_frames_are_pictures_of_the_line_through_seeded_points(generator: FrozenGenerator):
    got = frames(generator, CONFIG)
    assert got.shape == (9, 32, 32, 3)
    points = draw_z(ARCHITECTURE, 4, torch_stream(1, "walk"))
    np.testing.assert_array_equal(got[::3], generator.images(points[:3]))
    np.testing.assert_array_equal(got[4:5], generator.images(points[1:2] + (points[2:3] - points[1:2]) / 3))
    assert (frames(generator, dataclasses.replace(CONFIG, seed=2)) != got).any()


# ---- steps ----------------------------------------------------------------------------------------------------------


def test_steps_against_a_slow_loop(generator: FrozenGenerator):
    discriminator = freeze_on_images(drawn(build_discriminator(ARCHITECTURE)), image_set(), REFERENCE, FP32)
    walked = frames(generator, CONFIG)
    got = steps(walked, generator, discriminator, CONFIG)
    assert got.columns.tolist() == ["kind", "number", "segment", "distance", "pixel_distance"]
    assert got["kind"].tolist() == ["step"] * 8 + ["random"] * 5
    assert got["number"].tolist() == [*range(8), *range(5)]
    assert got["segment"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2] + [-1] * 5
    assert got.dtypes[["number", "segment"]].tolist() == [np.int64, np.int64]
    pairs = generator.images(draw_z(ARCHITECTURE, 10, torch_stream(1, "walk pairs")))
    expected = [(walked[i], walked[i + 1]) for i in range(8)] + [(pairs[2 * i], pairs[2 * i + 1]) for i in range(5)]
    for row, (a, b) in zip(got.itertuples(), expected, strict=True):
        of_a, of_b = (picture_features(discriminator[:-1], one[None], "cpu")[0].numpy() for one in (a, b))
        assert row.distance == pytest.approx(np.sqrt(np.square(of_a - of_b).sum()), rel=1e-4)
        slow = sum((int(p) - int(q)) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)) ** 0.5 / 255
        assert row.pixel_distance == pytest.approx(slow, rel=1e-9)


# ---- the animation --------------------------------------------------------------------------------------------------


def shades(n: int = 6, noise: int = 0) -> np.ndarray:
    """Frames that are easy to tell after lossy coding."""
    plain = np.linspace(20, 235, n).astype(np.int64)[:, None, None, None] + np.zeros((1, 32, 32, 3), np.int64)
    return (plain + numpy_stream(0, "noise").integers(-noise, noise + 1, plain.shape)).clip(0, 255).astype(np.uint8)


def test_the_animation_goes_there_and_back_for_ever(tmp_path: Path):
    save_animation(tmp_path / "walk.webp", shades())
    with Image.open(tmp_path / "walk.webp") as picture:
        assert (picture.format, picture.size, picture.n_frames) == ("WEBP", (64, 64), 10)
        assert picture.info["loop"] == 0
        levels = []
        for i in range(10):
            picture.seek(i)
            levels.append(float(np.asarray(picture.convert("RGB")).mean()))
    there = shades()[:, 0, 0, 0].tolist()
    assert levels == pytest.approx(there + there[-2:0:-1], abs=3)


def test_the_animations_bytes_repeat(tmp_path: Path):
    for name in ("a", "b"):
        save_animation(tmp_path / name, shades(noise=60))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_animation_is_made_small_enough(tmp_path: Path, monkeypatch):
    noisy = shades(noise=60)
    sizes = [len(module._webp(np.concatenate([noisy, noisy[-2:0:-1]]), quality)) for quality in module.QUALITIES]
    assert sizes == sorted(sizes, reverse=True)
    monkeypatch.setattr(module, "MOST_BYTES", sizes[3])
    save_animation(tmp_path / "walk.webp", noisy)
    assert (tmp_path / "walk.webp").stat().st_size == sizes[3]
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"none\.webp: 6 frames do not fit .* 100 bytes; lower internals\.walk"):
        save_animation(tmp_path / "none.webp", noisy)
    assert [path.name for path in tmp_path.iterdir()] == ["walk.webp"]


def test_two_frames_need_no_way_back(tmp_path: Path):
    save_animation(tmp_path / "walk.webp", shades(n=2))
    with Image.open(io.BytesIO((tmp_path / "walk.webp").read_bytes())) as picture:
        assert picture.n_frames == 2


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_the_stage_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set()
    write_set(tmp_path / "set", images.images, images.index, pd.DataFrame({"key": [], "reason": []}))
    tensors = store.named_tensors("seed0/generator", drawn(build_generator(ARCHITECTURE)))
    tensors |= store.named_tensors("seed0/discriminator", drawn(build_discriminator(ARCHITECTURE)))
    run = {"params": {"architecture": dataclasses.asdict(ARCHITECTURE), "seeds": [0]}}
    store.write_model(tmp_path / "model", tensors, run, {})
    sections = {"compute": dataclasses.asdict(FP32)}
    sections["internals"] = {"reference": dataclasses.asdict(REFERENCE), "walk": dataclasses.asdict(CONFIG)}
    YAML().dump(sections, tmp_path / "params.yaml")
    names = ("walk.npz", "walk.parquet", "walk.webp")
    for turn in ("a", "b"):
        outs = [tmp_path / turn / name for name in names]
        walk_stage.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "model", *outs)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with np.load(tmp_path / "a" / "walk.npz") as content:
        assert content["frames"].shape == (9, 32, 32, 3)
    assert len(pd.read_parquet(tmp_path / "a" / "walk.parquet")) == 13
