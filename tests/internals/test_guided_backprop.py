"""Guided backpropagation against autograd with the masks written out, and responses and shares against slow loops."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from torch import nn

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, open_set, write_set
from pipeline.evaluation.features import RandomFeatures, map_rows, network_sha256, random_discriminator
from pipeline.internals import frozen, half_done
from pipeline.internals import guided_backprop as module
from pipeline.internals.frozen import Reference
from pipeline.internals.guided_backprop import (
    MEASURES,
    GuidedBackprop,
    Responses,
    box_shares,
    gradients,
    guided,
    guided_backprop,
    panel,
    pixel_gradients,
    receptive_field,
    searched_rows,
    side_by_side,
    strongest,
    top,
    untrained,
)
from pipeline.models import dcgan, store
from pipeline.models.build import ColourArchitecture
from pipeline.models.dcgan import PAPER, to_signed
from pipeline.models.layers import initialise
from stages import guided_backprop as guided_stage

FP32 = Compute(device="cpu", threads=1, precision="fp32")
REFERENCE = Reference(seed=0, n_images=8)
CONFIG = GuidedBackprop(seed=3, initial_std=0.02, n_images=9, n_features=2, n_shown=3, n_judged=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image_set(n: int = 12, side: int = 32, boxes: bool = True) -> ImageSet:
    """Noise, all of it for training but the last image; the boxes are anywhere, and some rooms have none."""
    images = numpy_stream(1, "images").integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    index = pd.DataFrame({"key": [f"image {i}" for i in range(n)], "split": "train", "label": -1, "source": "noise"})
    index.loc[n - 1, "split"] = "validation"
    if boxes:
        for number, part in enumerate(("bed", "window")):
            edges = np.sort(numpy_stream(2, part).uniform(0, side, (2, 2, n)), axis=0)
            for name, values in zip(("x1", "x2", "y1", "y2"), edges.swapaxes(0, 1).reshape(4, n), strict=True):
                index[f"{part}_{name}"] = values.astype(np.float32)
                index.loc[[0, number + 1], f"{part}_{name}"] = np.nan  # image 0 has neither
    return ImageSet(path=Path("sets/noise"), images=images, index=index)


def network(name: str = "discriminator_svhn", n: int = 2, **variant: object) -> nn.Sequential:
    """Frozen, with shifts, so that many units are negative."""
    discriminator = getattr(dcgan, name)(n=n, variant=dataclasses.replace(PAPER, **variant))
    initialise(discriminator, 0.15, torch_stream(0, name))
    with torch.no_grad():
        for key, parameter in discriminator.named_parameters():
            if key.endswith("shift"):
                parameter.normal_(0, 0.3, generator=torch_stream(0, key))
    side = 64 if name == "discriminator_64" else 32
    return frozen.freeze(discriminator, to_signed(image_set(side=side).images))


# ---- gradients ------------------------------------------------------------------------------------------------------


def guided_slowly(layers: nn.Sequential, pixels: torch.Tensor, feature: int, y: int, x: int) -> torch.Tensor:
    """One image (1, 3, H, W), unit by unit of the chain: every part's gradient by autograd, masked at each ReLU."""
    parts = [part for row in layers for part in row.children()]
    inputs = [pixels]
    for part in parts:
        inputs.append(part(inputs[-1]).detach())
    gradient = torch.zeros_like(inputs[-1])
    gradient[0, feature, y, x] = 1
    for part, before in zip(reversed(parts), reversed(inputs[:-1]), strict=True):
        if isinstance(part, nn.LeakyReLU | nn.ReLU):
            gradient = gradient * (before > 0) * (gradient > 0)
        else:
            leaf = before.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(part(leaf), leaf, gradient)
    return gradient


@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_gradients_against_masks_written_out(activation: str):
    layers = map_rows(network(activation=activation))
    pixels, units = to_signed(image_set().images), numpy_stream(4, "units").integers(0, (8, 4, 4), (12, 3))
    feature, y, x = torch.from_numpy(units).unbind(1)
    got = pixel_gradients(guided(layers), pixels, feature, y, x)
    slow = [guided_slowly(layers, pixels[i : i + 1], *map(int, unit)) for i, unit in enumerate(units)]
    torch.testing.assert_close(got, torch.cat(slow), rtol=1e-5, atol=1e-7)
    assert int((got.abs().amax(dim=(1, 2, 3)) > 0).sum()) >= 3, "not a comparison of zeros"
    plain = pixel_gradients(layers, pixels, feature, y, x)
    assert float((plain - got).abs().max()) > 0.01, "the masks change something"


def test_the_forward_pass_is_that_of_the_network():
    layers, pixels = map_rows(network()), to_signed(image_set().images)
    torch.testing.assert_close(guided(layers)(pixels), layers(pixels), rtol=0, atol=0)


def test_without_relus_it_is_the_plain_gradient():
    rows = [[part for part in row.children() if not isinstance(part, nn.LeakyReLU)] for row in map_rows(network())]
    layers = nn.Sequential(*[nn.Sequential(*parts) for parts in rows])
    pixels, unit = to_signed(image_set().images[:2]), torch.tensor([1, 2])
    got = pixel_gradients(guided(layers), pixels, unit, unit, unit)
    torch.testing.assert_close(got, pixel_gradients(layers, pixels, unit, unit, unit), rtol=0, atol=0)
    bumped = pixels.clone()
    bumped[0, 2, 9, 11] += 1  # linear: a step as long as one likes
    change = (layers(bumped) - layers(pixels))[0, 1, 1, 1]
    assert float(change) == pytest.approx(float(got[0, 2, 9, 11]), rel=1e-3)


# ---- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant", "size", "step"),
    [
        ("discriminator_64", {}, 61, 16),  # DCGAN, Figure 5
        ("discriminator_svhn", {}, 29, 8),
        ("discriminator_32", {}, 29, 8),
        ("discriminator_svhn", {"resampling": "pooling"}, 36, 8),
    ],
)
def test_receptive_fields(name: str, variant: dict, size: int, step: int):
    field = receptive_field(map_rows(network(name, n=1, **variant)))
    assert (field.size, field.step) == (size, step)


@pytest.mark.parametrize(("name", "resampling"), [("discriminator_64", "strides"), ("discriminator_svhn", "pooling")])
def test_the_receptive_field_is_where_gradients_are(name: str, resampling: str):
    """Of a linear network of positive weights every pixel of the field counts, and none outside."""
    layers = map_rows(network(name, n=1, resampling=resampling))
    side = 64 if name == "discriminator_64" else 32
    parts = [part for row in layers for part in row.children() if not isinstance(part, nn.LeakyReLU)]
    for part in parts:
        for parameter in part.parameters():
            parameter.data = parameter.data.abs() + 0.1
    linear, field = nn.Sequential(nn.Sequential(*parts)), receptive_field(layers)
    averaging = nn.Sequential(*[_Average() if type(part).__name__ == "MaxPool" else part for part in parts])
    for y, x in ((0, 0), (1, 2), (3, 1), (3, 3)):
        index = [torch.tensor([value]) for value in (0, y, x)]
        found = pixel_gradients(averaging, torch.zeros(1, 3, side, side), *index)[0].abs().sum(0).numpy() > 0
        expected = np.zeros((side, side), bool)
        top, left = (int(field.start(np.array(place))) for place in (y, x))
        expected[max(top, 0) : top + field.size, max(left, 0) : left + field.size] = True
        np.testing.assert_array_equal(found, expected)
    assert receptive_field(linear) == field


class _Average(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2)


def test_the_centre_is_the_middle_of_the_field():
    field = receptive_field(map_rows(network("discriminator_64", n=1)))
    assert field.start(np.arange(4)).tolist() == [-30, -14, 2, 18]
    assert field.centre(np.arange(4)).tolist() == [0, 16, 32, 48]


# ---- strong responses -----------------------------------------------------------------------------------------------


def test_the_strongest_responses_against_a_slow_loop(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    layers, images = map_rows(network()), image_set()
    rows = np.array([1, 2, 3, 5, 6, 7, 8, 9, 10])
    got = strongest(layers, images, rows, 3, "cpu")
    with torch.no_grad():
        maps = layers(to_signed(images.images[rows])).numpy()
    assert got.row.shape == (8, 3)
    for feature in range(8):
        peaks = sorted(((float(maps[i, feature].max()), i) for i in range(len(rows))), key=lambda p: (-p[0], p[1]))
        for rank, (value, i) in enumerate(peaks[:3]):
            y, x = np.unravel_index(maps[i, feature].argmax(), (4, 4))
            at = tuple(int(part[feature, rank]) for part in (got.row, got.y, got.x))
            assert at == (rows[i], y, x)
            assert float(got.value[feature, rank]) == pytest.approx(value, rel=1e-5)


def test_of_equal_images_the_earlier_one(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    images = image_set()
    same = dataclasses.replace(images, images=np.broadcast_to(images.images[:1], images.images.shape).copy())
    got = strongest(map_rows(network()), same, np.arange(1, 10), 4, "cpu")
    assert got.row.tolist() == [[1, 2, 3, 4]] * 8


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("n_calls", [1, 2, 3])
def test_the_search_goes_on_where_it_was_killed(tmp_path, monkeypatch, n_calls):
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(half_done, "SECONDS_BETWEEN", 0.0)
    layers, images, rows = map_rows(network()), image_set(), np.arange(1, 11)  # batches of 4, 4 and 2
    unbroken = strongest(layers, images, rows, 3, "cpu")
    seen = []

    def count(_layers, arguments):
        seen.append(len(arguments[0]))
        if len(seen) == n_calls:
            raise KilledError

    hook = layers.register_forward_pre_hook(count)
    with pytest.raises(KilledError):
        strongest(layers, images, rows, 3, "cpu", tmp_path / "trained.safetensors")
    hook.remove()
    again = []
    layers.register_forward_pre_hook(lambda _layers, arguments: again.append(len(arguments[0])))
    resumed = strongest(layers, images, rows, 3, "cpu", tmp_path / "trained.safetensors")
    assert again == [4, 4, 2][n_calls - 1 :], "what a batch gave is not searched again"
    for name in ("value", "row", "y", "x"):
        assert torch.equal(getattr(resumed, name), getattr(unbroken, name))


def test_fewer_images_than_asked_for():
    assert strongest(map_rows(network()), image_set(), np.array([4, 2]), 5, "cpu").row.shape == (8, 2)


# ---- the panels -----------------------------------------------------------------------------------------------------


def some_responses(n_features: int = 3, n: int = 2) -> Responses:
    found = strongest(map_rows(network()), image_set(), np.arange(1, 11), n + 1, "cpu")
    return top(found, n, n_features=n_features)


def test_the_top_of_responses():
    found = strongest(map_rows(network()), image_set(), np.arange(1, 11), 4, "cpu")
    for name in ("value", "row", "y", "x"):
        assert torch.equal(getattr(top(found, 2), name), getattr(found, name)[:, :2])
        assert torch.equal(getattr(top(found, 3, n_features=5), name), getattr(found, name)[:5, :3])


def test_panels_show_the_fields_scaled_by_row():
    layers, images, responses = map_rows(network()), image_set(), some_responses()
    got, field = panel(layers, images, responses, "cpu"), receptive_field(layers)
    assert got.shape == (3, 2, 29, 29, 3)
    assert got.dtype == np.uint8
    found = np.concatenate([g for _, g in gradients(layers, images, responses, "cpu")]).reshape(3, 2, 32, 32, 3)
    for feature in range(3):
        largest = np.abs(found[feature]).max()
        assert largest > 0
        for rank in range(2):
            top, left = (int(field.start(int(part[feature, rank]))) for part in (responses.y, responses.x))
            for i in range(29):
                for j in range(29):
                    inside = 0 <= top + i < 32 and 0 <= left + j < 32
                    value = found[feature, rank, top + i, left + j] / largest if inside else np.zeros(3)
                    np.testing.assert_array_equal(got[feature, rank, i, j], np.rint(128 + 127 * value))
        assert {1, 255} & set(got[feature].ravel().tolist()), "the largest gradient is black or white"


def test_a_unit_without_gradient_is_grey():
    layers = map_rows(network())
    dead = nn.Sequential(*layers[:-1], nn.Sequential(*layers[-1].children(), _Nothing()))
    assert (panel(dead, image_set(), some_responses(), "cpu") == 128).all()


class _Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0


def test_panels_side_by_side_are_parted_by_a_white_border():
    random, trained = numpy_stream(5, "panels").integers(0, 200, (2, 3, 4, 7, 7, 3), dtype=np.uint8)
    before = random.copy()
    sheet = side_by_side(random, trained).reshape(3, 8, 7, 7, 3)
    np.testing.assert_array_equal(sheet[:, :3], random[:, :3])
    np.testing.assert_array_equal(sheet[:, 3, :, :5], random[:, 3, :, :5])
    assert (sheet[:, 3, :, 5:] == 255).all()
    np.testing.assert_array_equal(sheet[:, 4:], trained)
    np.testing.assert_array_equal(random, before)


# ---- boxes ----------------------------------------------------------------------------------------------------------


def masks_slowly(images: ImageSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    masks = {}
    for part in ("bed", "window"):
        boxes = images.index[[f"{part}_{edge}" for edge in ("x1", "y1", "x2", "y2")]].to_numpy(dtype=float)[rows]
        masks[part] = np.array(
            [
                [[x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2 for x in range(32)] for y in range(32)]
                for x1, y1, x2, y2 in boxes
            ]
        )
    return masks | {"boxes": masks["bed"] | masks["window"]}


def test_shares_against_a_slow_loop(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 5)
    layers, images, responses = map_rows(network()), image_set(), some_responses(n_features=4, n=3)
    table = box_shares(layers, images, responses, "cpu")
    assert table.columns.tolist() == ["feature", "n_top", *MEASURES]
    assert table["n_top"].tolist() == [3] * 4
    found = np.concatenate([g for _, g in gradients(layers, images, responses, "cpu")])
    energy = np.square(found).sum(axis=3)
    rows, y, x = (part.flatten().numpy() for part in (responses.row, responses.y, responses.x))
    masks = masks_slowly(images, rows)
    assert masks["bed"].any()
    assert masks["window"].any()
    centre, own, excess = ({name: [] for name in masks} for _ in range(3))
    for i in range(12):
        others = [energy[j] / energy[j].sum() for j in range(12) if j != i and (y[j], x[j]) == (y[i], x[i])]
        for name, mask in masks.items():
            centre[name].append(float(mask[i, 8 * y[i], 8 * x[i]]))  # of discriminator_svhn, as of every D here
            own[name].append(float(energy[i][mask[i]].sum() / energy[i].sum()))
            excess[name].append(own[name][-1] - np.mean(others, axis=0)[mask[i]].sum() if others else np.nan)
    for name in masks:
        for measure, values in (("centre", centre), ("energy", own), ("excess", excess)):
            expected = pd.DataFrame(np.reshape(values[name], (4, 3))).mean(axis=1)  # without NaN
            np.testing.assert_allclose(table[f"{measure}_in_{name}"], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table["area_of_boxes"], masks["boxes"].mean(axis=(1, 2)).reshape(4, 3).mean(axis=1))
    assert np.isfinite(table["excess_in_boxes"]).any()


def test_energy_that_is_all_in_the_box_or_none_of_it():
    layers, images, responses = map_rows(network()), image_set(), some_responses(n_features=8, n=4)
    for part, (x1, x2) in {"bed": (0.0, 32.0), "window": (40.0, 50.0)}.items():
        for edge, value in zip(("x1", "y1", "x2", "y2"), (x1, 0.0, x2, 32.0), strict=True):
            images.index[f"{part}_{edge}"] = value
    table = box_shares(layers, images, responses, "cpu")
    np.testing.assert_allclose(table[["energy_in_bed", "energy_in_boxes", "centre_in_bed", "area_of_boxes"]], 1)
    np.testing.assert_array_equal(table[["energy_in_window", "centre_in_window"]], 0)
    excess = table["excess_in_boxes"].dropna()
    assert len(excess)
    np.testing.assert_allclose(excess, 0, atol=1e-12)


def test_responses_without_energy_are_left_out():
    layers = map_rows(network())
    dead = nn.Sequential(*layers[:-1], nn.Sequential(*layers[-1].children(), _Nothing()))
    table = box_shares(dead, image_set(), some_responses(), "cpu")
    assert table.filter(regex="energy|excess").isna().all(axis=None)
    assert table.filter(regex="centre|area").notna().all(axis=None)


def test_a_set_without_boxes():
    table = box_shares(map_rows(network()), image_set(boxes=False), some_responses(), "cpu")
    assert table["n_top"].tolist() == [0, 0, 0]
    assert table[list(MEASURES)].isna().all(axis=None)


def test_searched_images_have_a_box_where_boxes_are_known():
    few = dataclasses.replace(CONFIG, n_images=10)
    rows = searched_rows(image_set(), few)
    assert rows.tolist() == list(range(1, 11)), "not image 0, which has none, nor the last, which is held out"
    drawn = searched_rows(image_set(), CONFIG)
    assert len(drawn) == 9
    assert set(drawn) < set(rows)
    assert searched_rows(image_set(boxes=False), dataclasses.replace(CONFIG, n_images=50)).tolist() == list(range(11))
    images = image_set()
    images.index.loc[images.index["split"] == "train", ["bed_x1", "window_x1"]] = np.nan
    with pytest.raises(InputError, match=r"sets/noise: none of the 11 training images has a box of a bed or a window"):
        searched_rows(images, CONFIG)


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_panels_and_table_of_two_networks():
    images, rows = image_set(), np.arange(1, 10)
    architecture = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=2, variant=PAPER)
    random = frozen.freeze_on_images(untrained(architecture, CONFIG, depth=4), images, REFERENCE, FP32)
    networks = {"trained": network(), "random": random}
    panels, table = guided_backprop(networks, images, rows, CONFIG, "cpu")
    assert table.columns.tolist() == ["network", "feature", "n_top", *MEASURES]
    assert table["network"].tolist() == ["trained"] * 8 + ["random"] * 8
    assert table["feature"].tolist() == [*range(8)] * 2
    assert {name: tiles.shape for name, tiles in panels.items()} == dict.fromkeys(networks, (2, 3, 29, 29, 3))
    for name, discriminator in networks.items():
        layers = map_rows(discriminator)
        found = strongest(layers, images, rows, 4, "cpu")
        np.testing.assert_array_equal(panels[name], panel(layers, images, top(found, 3, n_features=2), "cpu"))
        mine = table[table["network"] == name].drop(columns="network").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, box_shares(layers, images, found, "cpu"))
    again, same = guided_backprop(networks, images, rows, CONFIG, "cpu")
    pd.testing.assert_frame_equal(table, same, check_exact=True)
    for name, tiles in panels.items():
        np.testing.assert_array_equal(tiles, again[name])
    assert (panels["trained"] != panels["random"]).any()
    without, empty = guided_backprop(networks, image_set(boxes=False), rows, CONFIG, "cpu")
    assert without["trained"].shape == (2, 3, 29, 29, 3)
    assert empty["energy_in_boxes"].isna().all()


def test_the_random_network_is_that_of_the_random_features():
    architecture = ColourArchitecture(name="dcgan_32", z="uniform", z_dim=5, filters=2, variant=PAPER)
    expected = random_discriminator(architecture, RandomFeatures(seed=3, initial_std=0.02))
    assert network_sha256(untrained(architecture, CONFIG, depth=7)) == network_sha256(expected)
    assert len(untrained(architecture, CONFIG, depth=7)) == 7
    assert len(untrained(architecture, CONFIG, depth=4)) == 4, "as deep as a released network of four rows"


def test_more_responses_than_images_are_refused():
    with pytest.raises(ValueError, match=r"n_shown 3 and n_judged 10 .* n_images 9; raise n_images"):
        dataclasses.replace(CONFIG, n_judged=10)


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 2], ids=["whole", "released rows only"])
def test_the_stage_compares_with_the_models_architecture_and_repeats_its_bytes(
    tmp_path: Path, monkeypatch, rows: int | None
):
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it would change this very process
    images = image_set()
    write_set(tmp_path / "set", images.images, images.index, pd.DataFrame({"key": [], "reason": []}))
    variant = dataclasses.replace(PAPER, activation="relu")
    architecture = ColourArchitecture(name="dcgan_svhn", z="uniform", z_dim=5, filters=3, variant=variant)
    discriminator = dcgan.discriminator_svhn(n=3, variant=variant)[:rows]
    initialise(discriminator, 0.15, torch_stream(0, "trained"))
    run = {"params": {"architecture": dataclasses.asdict(architecture), "seeds": [0]}, "discriminator_rows": rows}
    store.write_model(tmp_path / "model", store.named_tensors("seed0/discriminator", discriminator), run, {})
    sections = {
        "compute": dataclasses.asdict(FP32),
        "internals": {"reference": dataclasses.asdict(REFERENCE), "guided_backprop": dataclasses.asdict(CONFIG)},
    }
    YAML().dump(sections, tmp_path / "params.yaml")
    for turn in ("a", "b"):
        outs = [tmp_path / turn / name for name in ("fig5.npz", "fig5.parquet", "sheet.npz")]
        guided_stage.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "model", *outs)
    for name in ("fig5.npz", "fig5.parquet", "sheet.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    size, n_features, depth = {None: (29, 12, 4), 2: (13, 6, 2)}[rows]
    opened = open_set(tmp_path / "set")
    random = frozen.freeze_on_images(untrained(architecture, CONFIG, depth=depth), opened, REFERENCE, FP32)
    expected, _ = guided_backprop({"random": random}, opened, searched_rows(opened, CONFIG), CONFIG, "cpu")
    with np.load(tmp_path / "a" / "fig5.npz") as content:
        assert sorted(content.files) == ["random", "trained"]
        assert content["random"].shape == content["trained"].shape == (2, 3, size, size, 3)
        np.testing.assert_array_equal(content["random"], expected["random"])
        assert (content["random"] != content["trained"]).any()
        sheet = side_by_side(content["random"], content["trained"])
    with np.load(tmp_path / "a" / "sheet.npz") as content:
        np.testing.assert_array_equal(content["images"], sheet)
    table = pd.read_parquet(tmp_path / "a" / "fig5.parquet")
    assert table["network"].tolist() == ["trained"] * n_features + ["random"] * n_features
