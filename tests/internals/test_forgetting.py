"""Forgetting windows on a generator that draws its window by one known map, and every part of it by its definition."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import no_rejects, open_set, write_set
from pipeline.internals import forgetting
from pipeline.internals.annotations import generator_sha256
from pipeline.internals.forgetting import (
    CLASSIFIER_COLUMNS,
    FORGETTING_COLUMNS,
    PICTURES,
    Before,
    Examples,
    ForgetWindows,
    Matched,
    TooFewWindowsError,
    cross_validated_accuracy,
    detected_windows,
    forget_windows,
    images_without,
    judged,
    map_weights,
    matched_negatives,
    mean_change,
    places_inside,
    random_maps,
    random_negatives,
    window_maps,
)
from pipeline.internals.frozen import FrozenGenerator, Reference, freeze, frozen_generator
from pipeline.internals.part_detector import Detector, Detectors, PartDetector, iou, network, write_detectors
from pipeline.models import store
from pipeline.models.build import ColourArchitecture, build_generator
from pipeline.models.dcgan import PAPER
from pipeline.models.layers import initialise
from stages import forget_windows as stage

COMPUTE = Compute(device="cpu", threads=1, precision="fp32")
ARCHITECTURE = ColourArchitecture(name="dcgan_64", z="uniform", z_dim=8, filters=2, variant=PAPER)
CONFIG = ForgetWindows(
    seed=0,
    n_labelled=24,
    negatives_per_positive=1.0,
    C=1.0,
    n_folds=4,
    matched=Matched(C=1.0, dropped_share=0.2),
    n_judged=20,
    n_random_draws=3,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**changes: object) -> ForgetWindows:
    return dataclasses.replace(CONFIG, **changes)


# ---- a generator that is understood ---------------------------------------------------------------------------------


class Planted(nn.Module):
    """z (B, 8) -> 10 maps of 8 x 8: map 3 draws a window where z says, map 7 a bed below; the others are busy."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        maps = 0.3 + 0.3 * torch.sin(7 * z[:, :1, None, None] + torch.arange(640.0).view(1, 10, 8, 8))
        maps[:, 3] = maps[:, 7] = 0.0
        for number, (x, y) in enumerate(zip(z[:, 1], z[:, 2], strict=True)):
            column, row = int(3 + 3 * x), int(1 + y)
            if float(z[number, 3]) > -0.8:  # nine in ten have a window
                maps[number, 3, row : row + 3, column : column + 3] = 1.0
            maps[number, 7, 6:, 1:6] = 1.0
        return maps


class Paint(nn.Module):
    """Maps -> RGB in [-1, 1]: the window white and red, the bed white and blue, on grey; the others hardly show."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.interpolate(maps, size=(64, 64), mode="nearest")
        wall = 0.01 * maps.sum(dim=1) - 0.1
        return torch.stack([wall + maps[:, 3], wall, wall + maps[:, 7]], dim=1).clamp(-1, 1)


class Colours(Detector):
    """The boxes around what is red and what is blue."""

    def __init__(self) -> None:
        pass

    def detect(self, images: np.ndarray) -> dict[str, np.ndarray]:
        boxes = {part: np.full((len(images), 4), np.nan) for part in ("window", "bed")}
        for number, image in enumerate(images):
            for part, channel in (("window", 0), ("bed", 2)):
                y, x = np.nonzero(image[..., channel] > image[..., 1].astype(int) + 60)
                if len(x):
                    boxes[part][number] = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        return boxes


def planted() -> FrozenGenerator:
    rows = nn.Sequential(nn.Identity(), Planted(), nn.Upsample(scale_factor=2), Paint())
    return FrozenGenerator(rows=rows, architecture=ARCHITECTURE, reference=Reference(seed=3, n_images=2), device="cpu")


BOTH = Detectors(labeller=Colours(), counter=Colours())


@pytest.fixture(scope="module")
def found() -> forgetting.Forgetting:
    return forget_windows(planted(), None, BOTH, CONFIG)


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_the_map_that_draws_windows_is_found_and_forgotten(found):
    for _, table in found.forgetting.groupby("layer"):
        rows = {dropped: of_kind.iloc[0] for dropped, of_kind in table.groupby("dropped")}
        before = rows["none"]
        assert before["windows"] == before["windows_kept"] > 10
        assert before["beds"] == before["beds_kept"] == 20
        assert before["pixel_change"] == 0.0
        for rule in ("windows", "strongest"):
            after = rows[rule]
            assert (after["windows"], after["windows_kept"]) == (0, 0)
            assert (after["beds"], after["beds_kept"]) == (20, 20)
            assert after["pixel_change"] > 0.005
        controls = table[table["dropped"] == "random_strongest"]
        assert set(controls["n_dropped"]) == {2}
        assert controls["windows"].max() == before["windows"]


class Blind(Detector):
    """Sees nothing anywhere."""

    def __init__(self) -> None:
        pass

    def detect(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {part: np.full((len(images), 4), np.nan) for part in ("window", "bed")}


def test_one_detector_says_where_windows_are_and_another_counts(found):
    unlike = forget_windows(planted(), None, Detectors(labeller=Colours(), counter=Blind()), CONFIG)
    pd.testing.assert_frame_equal(unlike.classifier, found.classifier)
    assert (unlike.forgetting[["windows", "beds", "windows_kept", "beds_kept"]] == 0).all(axis=None)
    assert len(forget_windows(planted(), None, Detectors(labeller=Blind(), counter=Colours()), CONFIG).classifier) == 0


def test_exactly_the_maps_of_a_row_are_dropped(found):
    generator = planted()
    z = generator.draw_z(20, 0, "judged z")
    boxes = detected_windows(Colours(), generator.images(generator.deck(24)))
    before, rows = generator.images(z), iter(found.forgetting.itertuples())
    first = z[forgetting._shown(Colours(), before)]
    for number in forgetting.LAYERS:
        layer = forgetting.classified(generator, generator.deck(24), boxes, number, CONFIG)
        for dropped, draw, which in forgetting.droppings(layer, CONFIG):
            row = next(rows)
            assert (row.dropped, row.draw, row.n_dropped) == (dropped, draw, len(which))
            after = images_without(generator, generator.maps(z, rows=number), which, rows=number)
            assert row.pixel_change == pytest.approx(mean_change(before, after))
        if layer.name == "8x8":
            for name, like in (("random", layer.windows), ("random_strongest", layer.strongest)):
                which = random_maps(layer.n_maps, len(like), CONFIG.seed, 0)
                expected = images_without(generator, generator.maps(first, rows=number), which, rows=number)
                np.testing.assert_array_equal(found.pictures[name], expected)
    assert next(rows, None) is None


def test_the_tables_have_all_rows_in_order(found):
    assert list(found.forgetting.columns) == list(FORGETTING_COLUMNS)
    rows = [(row.layer, row.dropped, row.draw) for row in found.forgetting.itertuples()]
    fixed = [("none", 0), ("windows", 0), ("strongest", 0)]
    fixed += [(kind, draw) for kind in ("random", "random_strongest") for draw in range(3)]
    assert rows == [(layer, *what) for layer in ("8x8", "16x16") for what in fixed]
    assert (found.forgetting["n_maps"] == 10).all()
    assert (found.forgetting["n_images"] == 20).all()
    for layer, of_layer in found.forgetting.groupby("layer"):
        n_dropped = of_layer.groupby("dropped")["n_dropped"].unique()
        assert n_dropped["random"].tolist() == n_dropped["windows"].tolist()
        classifier = found.classifier[found.classifier["layer"] == layer].set_index("negatives")
        assert n_dropped["windows"].tolist() == [classifier.loc["random", "n_positive_weights"]]


def test_the_classifiers_say_what_they_saw(found):
    generator = planted()
    boxes = detected_windows(Colours(), generator.images(generator.draw_z(24, 3, "deck")))
    assert list(found.classifier.columns) == list(CLASSIFIER_COLUMNS)
    assert found.classifier[["layer", "negatives"]].to_numpy().tolist() == [
        [layer, negatives] for layer in ("8x8", "16x16") for negatives in ("random", "matched")
    ]
    assert (found.classifier["n_boxes"] == len(boxes)).all()
    assert (found.classifier["n_positive"] == found.classifier["n_negative"]).all()
    # windows are whole cells of 8 x 8, so that each has nine of them and thirty-six of 16 x 16
    by_layer = found.classifier[found.classifier["negatives"] == "random"].set_index("layer")["n_positive"]
    areas = sum((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1]) for box in boxes.values()) / 64
    assert (by_layer["8x8"], by_layer["16x16"]) == (areas, 4 * areas)
    assert (found.classifier["accuracy"] > 0.95).all()


def test_pictures_are_of_the_same_z(found):
    assert tuple(found.pictures) == PICTURES
    for images in found.pictures.values():
        assert images.shape == (10, 64, 64, 3)
        assert images.dtype == np.uint8
    kept = Colours().detect(found.pictures["kept"])
    assert np.isfinite(kept["window"]).all()  # the first ten that have one
    for name in ("dropped", "dropped_16x16", "strongest"):
        after = Colours().detect(found.pictures[name])
        assert np.isnan(after["window"]).all()
        np.testing.assert_array_equal(after["bed"], kept["bed"])
    generator = planted()
    images = generator.images(generator.draw_z(20, 0, "judged z"))
    first = np.flatnonzero(np.isfinite(Colours().detect(images)["window"][:, 0]))[:10]
    np.testing.assert_array_equal(found.pictures["kept"], images[first])


def test_the_same_again_gives_the_same(found):
    again = forget_windows(planted(), None, BOTH, CONFIG)
    pd.testing.assert_frame_equal(again.forgetting, found.forgetting)
    pd.testing.assert_frame_equal(again.classifier, found.classifier)
    assert all(np.array_equal(again.pictures[name], found.pictures[name]) for name in PICTURES)


def test_boxes_drawn_by_a_person_go_before_the_detector():
    boxes = {number: np.array([[8.0, 8.0, 32.0, 24.0], [40.0, 8.0, 48.0, 16.0]]) for number in (2, 5, 7)}
    found = forget_windows(planted(), boxes, BOTH, CONFIG)
    assert (found.classifier["n_boxes"] == 6).all()
    row = found.classifier.iloc[0]
    assert row["n_positive"] == 3 * (6 + 1)
    assert len(found.forgetting) == 18


def test_without_detector_there_are_pictures_and_classifiers_only():
    boxes = {number: np.array([[8.0, 8.0, 32.0, 24.0]]) for number in (2, 5, 7)}
    found = forget_windows(planted(), boxes, None, CONFIG)
    assert list(found.forgetting.columns) == list(FORGETTING_COLUMNS)
    assert len(found.forgetting) == 0
    assert len(found.classifier) == 4
    generator = planted()
    np.testing.assert_array_equal(found.pictures["kept"], generator.images(generator.draw_z(20, 0, "judged z"))[:10])


def test_with_neither_boxes_nor_detector_all_is_empty(found):
    nothing = forget_windows(planted(), None, None, CONFIG)
    assert {images.shape for images in nothing.pictures.values()} == {(0, 64, 64, 3)}
    assert len(nothing.forgetting) == len(nothing.classifier) == 0
    for name in ("forgetting", "classifier"):
        assert getattr(nothing, name).dtypes.astype(str).tolist() == getattr(found, name).dtypes.astype(str).tolist()


def test_a_generator_without_windows_is_noted_and_a_person_who_draws_too_few_is_refused(capsys):
    class Blind(Colours):
        def detect(self, images):
            return {part: np.full_like(boxes, np.nan) for part, boxes in super().detect(images).items()}

    found = forget_windows(planted(), None, Detectors(labeller=Blind(), counter=Colours()), CONFIG)
    assert len(found.forgetting) == len(found.classifier) == len(found.pictures["kept"]) == 0
    assert "note: windows: 0 of" in capsys.readouterr().err
    with pytest.raises(TooFewWindowsError, match="mark more windows"):
        forget_windows(planted(), {0: np.array([[0.0, 0.0, 20.0, 30.0]])}, BOTH, CONFIG)


# ---- examples -------------------------------------------------------------------------------------------------------


def some_maps(n: int = 6, n_maps: int = 3, side: int = 4) -> np.ndarray:
    """Every value another one, so that it tells where it comes from."""
    return np.arange(n * n_maps * side * side, dtype=np.float32).reshape(n, n_maps, side, side)


BOXES = {
    1: np.array([[0.0, 0.0, 20.0, 30.0]]),
    4: np.array([[20.0, 0.0, 64.0, 9.0], [0.0, 40.0, 10.0, 64.0], [33.0, 33.0, 34.0, 34.0]]),
}


def places(maps: np.ndarray, activations: np.ndarray) -> list[tuple[int, int, int]]:
    """Image, row and column that activations of ``some_maps`` come from."""
    where = [np.argwhere(maps[:, 0] == value[0])[0] for value in activations]
    for (image, y, x), value in zip(where, activations, strict=True):
        np.testing.assert_array_equal(maps[image, :, y, x], value)
    return [tuple(place) for place in where]


def test_random_negatives_are_places_outside_of_the_images_with_boxes():
    maps = some_maps()
    inside = places_inside(BOXES, 6, 4, 64)
    # cells of 16 px with centres 8, 24, 40, 56
    expected = [(1, 0, 0), (1, 1, 0), (4, 0, 1), (4, 0, 2), (4, 0, 3), (4, 2, 0), (4, 3, 0)]
    assert [tuple(place) for place in np.argwhere(inside)] == expected
    found = random_negatives(maps, BOXES, inside, CONFIG)
    where = places(maps, found.activations)
    assert where[:7] == expected
    assert found.inside.tolist() == [True] * 7 + [False] * 7
    assert len(set(where)) == 14
    assert {image for image, _, _ in where} == {1, 4}
    assert found.image.tolist() == [image for image, _, _ in where]
    more = random_negatives(maps, BOXES, inside, changed(negatives_per_positive=2.0))
    assert int((~more.inside).sum()) == 14
    everything = random_negatives(maps, BOXES, inside, changed(negatives_per_positive=100.0))
    assert len(set(places(maps, everything.activations))) == 32


def test_matched_negatives_are_the_same_places_of_other_images():
    maps, inside = some_maps(), places_inside(BOXES, 6, 4, 64)
    inside[:, 0, 0] = True  # here all have a window
    found = matched_negatives(maps, inside, seed=0)
    where = places(maps, found.activations)
    positive, negative = where[: len(where) // 2], where[len(where) // 2 :]
    assert positive == [(1, 1, 0), (4, 0, 1), (4, 0, 2), (4, 0, 3), (4, 2, 0), (4, 3, 0)]
    for (image, y, x), (other, other_y, other_x) in zip(positive, negative, strict=True):
        assert (other_y, other_x) == (y, x)
        assert other != image
        assert not inside[other, y, x]
    assert found.inside.tolist() == [True] * 6 + [False] * 6
    others = {int(matched_negatives(maps, inside, seed).image[6]) for seed in range(40)}
    assert others == {0, 2, 3, 4, 5}  # any but the image itself


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        ({}, 0),
        ({1: np.array([[0.0, 0.0, 20.0, 20.0]])}, 1),
        ({1: np.array([[0.0, 0.0, 20.0, 20.0]]), 2: np.array([[10.0, 10.0, 20.0, 20.0]])}, 1),  # holds no centre
        ({1: np.array([[0.0, 0.0, 20.0, 20.0]]), 2: np.array([[0.0, 0.0, 64.0, 64.0]])}, 1),  # holds all of them
    ],
)
def test_too_few_windows_are_refused(boxes, found):
    with pytest.raises(InputError, match=f"{found} of 6 labelled samples .* 4 x 4 maps .* at least 2"):
        places_inside(boxes, 6, 4, 64)


def test_windows_at_the_same_places_everywhere_have_no_match():
    inside = np.zeros((6, 4, 4), dtype=bool)
    inside[:, 1:3, 1] = True
    with pytest.raises(InputError, match="same places of all 6"):
        matched_negatives(some_maps(), inside, seed=0)


# ---- classifier -----------------------------------------------------------------------------------------------------


def noisy_examples(n: int = 200) -> Examples:
    """Map 0 is higher inside, map 1 lower, map 2 noise."""
    stream = numpy_stream(0, "noisy")
    inside = np.arange(n) % 2 == 0
    activations = stream.normal(size=(n, 3)) + np.outer(inside, [1.0, -1.0, 0.0])
    return Examples(activations=activations, inside=inside, image=np.arange(n) // 20)


def test_weights_minimise_the_regularised_loss():
    found, c = noisy_examples(), 0.1
    weights = map_weights(found, c)
    assert weights[0] > 0 > weights[1]
    sign = np.where(found.inside, 1.0, -1.0)
    intercept = 0.0
    for _ in range(2000):  # the intercept of least loss, as it is not returned
        margin = sign * (found.activations @ weights + intercept)
        intercept += 0.01 * float(np.sum(sign / (1 + np.exp(margin)))) / len(sign) * 50
    margin = sign * (found.activations @ weights + intercept)
    gradient = weights - c * ((sign / (1 + np.exp(margin))) @ found.activations)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_accuracy_is_of_images_that_a_regression_has_not_seen():
    found = noisy_examples()
    assert 0.7 < cross_validated_accuracy(found, 1.0, 5) < 0.9
    # each image has a map of its own that tells inside from outside there: useless for others
    private = np.zeros((200, 10))
    private[np.arange(200), found.image] = np.where(found.inside, 1.0, -1.0)
    memorised = dataclasses.replace(found, activations=private)
    assert (np.sign(private.sum(axis=1)) > 0).tolist() == found.inside.tolist()
    assert cross_validated_accuracy(memorised, 1.0, 10) == pytest.approx(0.5, abs=0.01)


def test_accuracy_is_unknown_where_one_kind_is_left():
    found = Examples(
        activations=np.array([[1.0], [2.0], [0.0], [0.5]]),
        inside=np.array([True, True, False, False]),
        image=np.array([0, 0, 1, 1]),
    )
    assert np.isnan(cross_validated_accuracy(found, 1.0, 5))


def test_dropped_are_the_maps_of_positive_weight_or_the_strongest_of_them():
    weights = np.array([0.2, -1.0, 0.0, 3.0, 0.1, 2.0])
    assert window_maps(weights).tolist() == [0, 3, 4, 5]
    assert window_maps(weights, 2).tolist() == [3, 5]
    assert window_maps(weights, 6).tolist() == [0, 3, 4, 5]
    assert window_maps(-np.abs(weights), 3).tolist() == []


# ---- dropping and judging -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> FrozenGenerator:
    """A DCGAN with random weights."""
    rows = build_generator(ARCHITECTURE)
    assert isinstance(rows, nn.Sequential)
    initialise(rows, 0.2, torch_stream(0, "generator"))
    z = torch.rand(30, 8, generator=torch_stream(0, "z")) * 2 - 1
    return FrozenGenerator(
        rows=freeze(rows, z), architecture=ARCHITECTURE, reference=Reference(seed=3, n_images=2), device="cpu"
    )


@pytest.mark.parametrize("rows", forgetting.LAYERS)
def test_dropped_maps_are_those_that_the_rest_does_not_see(real, rows):
    z = real.draw_z(4, 0, "z")
    maps = real.maps(z, rows=rows)
    before = maps.clone()
    np.testing.assert_array_equal(images_without(real, maps, np.empty(0, dtype=np.int64), rows=rows), real.images(z))
    changed_images = images_without(real, maps, np.array([0, 2]), rows=rows)
    assert torch.equal(maps, before)
    assert not np.array_equal(changed_images, real.images(z))
    maps[:, [0, 2]] = torch.rand(4, 2, *maps.shape[2:], generator=torch_stream(1, "other"))
    np.testing.assert_array_equal(images_without(real, maps, np.array([0, 2]), rows=rows), changed_images)


def test_layers_are_those_of_8_and_16_pixels(real):
    assert [real.maps(real.draw_z(1, 0, "z"), rows=rows).shape[1:] for rows in forgetting.LAYERS] == [
        (8, 8, 8),
        (4, 16, 16),
    ]


def test_random_maps_are_drawn_without_replacement_and_differ_between_draws():
    draws = [random_maps(64, 20, 0, draw) for draw in range(50)]
    for draw in draws:
        assert len(set(draw.tolist())) == 20
        assert draw.tolist() == sorted(draw.tolist())
        assert 0 <= draw[0] <= draw[-1] < 64
    counts = np.bincount(np.concatenate(draws), minlength=64)
    assert 3 <= counts.min() <= counts.max() <= 29  # 15.6 expected, four standard deviations are 13
    assert random_maps(64, 20, 0, 7).tolist() == draws[7].tolist()
    assert random_maps(64, 20, 1, 7).tolist() != draws[7].tolist()


def test_kept_windows_are_the_old_ones():
    generator = planted()
    images = generator.images(generator.draw_z(12, 0, "z"))
    parts = Colours().detect(images)
    moved = np.roll(images, 40, axis=2)
    row = judged(Colours(), Before(images=images, parts=parts), moved)
    after = Colours().detect(moved)
    for part in ("window", "bed"):
        assert row[f"{part}s"] == np.isfinite(after[part][:, 0]).sum()
        assert row[f"{part}s_kept"] == (iou(parts[part], after[part]) >= 0.1).sum()
    assert row["windows_kept"] != row["windows"]


def test_change_of_pixels():
    stream = numpy_stream(0, "pixels")
    a, b = stream.integers(0, 256, (2, 3, 5, 4, 3), dtype=np.uint8)
    assert mean_change(a, b) == pytest.approx(np.abs(a / 255 - b / 255).mean())
    assert mean_change(np.zeros_like(a), np.full_like(a, 255)) == 1.0


# ---- stage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stage reads: params, an image set, a generator, no annotations. It leaves the process as it was."""
    monkeypatch.setattr(compute, "set_up", lambda _: None)
    section = dataclasses.asdict(CONFIG) | {"n_labelled": 12}
    params = {"compute": dataclasses.asdict(COMPUTE), "internals": {"reference": {"seed": 0, "n_images": 8}}}
    params["internals"]["forget_windows"] = section
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    index = pd.DataFrame({"key": ["a"], "split": "train", "label": -1, "source": "made"})
    write_set(tmp_path / "set", np.zeros((1, 64, 64, 3), dtype=np.uint8), index, no_rejects())
    generator = build_generator(ARCHITECTURE)
    initialise(generator, 0.2, torch_stream(0, "generator"))
    tensors = store.named_tensors("seed0/generator", generator)
    run = {"params": {"seeds": [0], "architecture": dataclasses.asdict(ARCHITECTURE)}}
    store.write_model(tmp_path / "model", tensors, run, {})
    (tmp_path / "boxes.json").write_text("{}")
    return tmp_path


def run_stage(project: Path) -> dict[str, Any]:
    names = ("pictures.npz", "forgetting.parquet", "classifier.parquet")
    inputs = [project / name for name in ("params.yaml", "set", "model", "detector", "boxes.json")]
    stage.main(*inputs, *(project / name for name in names))
    with np.load(project / names[0]) as file:
        pictures = dict(file)
    return {"pictures": pictures, **{name[:-8]: pd.read_parquet(project / name) for name in names[1:]}}


def detector_folder(project: Path, *, trained: bool) -> None:
    config = PartDetector(
        seed=0,
        filters=1,
        steps=1,
        batch_size=2,
        learning_rate=0.1,
        erased_share=0.0,
        tuning_share=0.5,
        min_cells=1,
    )
    image_set = open_set(project / "set")
    labeller, counter = (
        Detector(network=network(1), thresholds={"window": 0.5, "bed": 0.5}, min_cells=1, device="cpu")
        for _ in range(2)
    )
    history = pd.DataFrame({"detector": ["counter"], "step": [1], "loss": [0.5]})
    made = (Detectors(labeller=labeller, counter=counter), history) if trained else None
    write_detectors(project / "detector", image_set, config, COMPUTE, made)


def test_the_stage_writes_nothing_much_where_nothing_is_known(project):
    detector_folder(project, trained=False)
    out = run_stage(project)
    assert len(out["forgetting"]) == len(out["classifier"]) == 0
    assert {images.shape for images in out["pictures"].values()} == {(0, 64, 64, 3)}


def test_the_stage_takes_boxes_that_a_person_drew(project):
    detector_folder(project, trained=True)
    generator = frozen_generator(project / "model", Reference(seed=0, n_images=8), COMPUTE)
    boxes = {str(number): [[4, 4, 40, 30]] for number in (1, 3, 8)}
    content = {"network": generator_sha256(generator), "annotator": "a1", "n_images": 12, "boxes": boxes}
    (project / "boxes.json").write_text(json.dumps(content))
    out = run_stage(project)
    assert (out["classifier"]["n_boxes"] == 3).all()
    assert len(out["forgetting"]) == 18
    assert set(out["pictures"]) == set(PICTURES)
    assert {images.shape for images in out["pictures"].values()} == {(10, 64, 64, 3)}


def test_a_model_of_another_architecture_is_refused(project):
    detector_folder(project, trained=False)
    index = pd.DataFrame({"key": ["a"], "split": "train", "label": -1, "source": "made"})
    write_set(project / "set", np.zeros((1, 32, 32, 3), dtype=np.uint8), index, no_rejects())
    with pytest.raises(InputError, match=r"images of 32 x 32 x 3, but .* has a dcgan_64"):
        run_stage(project)
