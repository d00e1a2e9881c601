"""The part detector: boxes and cells against slow loops, what spoils and erases a picture, and what is learnt."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.core import compute
from pipeline.core.compute import Compute
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream, torch_stream
from pipeline.core.store import ImageSet, no_rejects, write_set
from pipeline.internals import part_detector
from pipeline.internals.part_detector import (
    CELL,
    EDGES,
    PARTS,
    ROLES,
    Detector,
    Detectors,
    PartDetector,
    accuracy,
    blurred,
    cells_inside,
    check_images,
    chosen_thresholds,
    erased,
    found_boxes,
    has_boxes,
    iou,
    network,
    no_accuracy,
    read_detectors,
    split_rows,
    spoilt,
    train_detector,
    train_detectors,
    true_boxes,
    write_detectors,
)
from stages import part_detector as stage

COMPUTE = Compute(device="cpu", threads=1, precision="auto")
CONFIG = PartDetector(
    seed=0,
    filters=3,
    steps=60,
    batch_size=16,
    learning_rate=0.02,
    erased_share=0.3,
    tuning_share=0.2,
    min_cells=2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**changes: object) -> PartDetector:
    return dataclasses.replace(CONFIG, **changes)


def rooms(n: int = 120, side: int = 32) -> ImageSet:
    """Walls of any colour; a white window in the upper half of most, a black bed in the lower half of most."""
    stream = numpy_stream(5, "rooms")
    images = np.empty((n, side, side, 3), dtype=np.uint8)
    images[:] = stream.integers(90, 160, (n, 1, 1, 3))
    table = {
        f"{part}_{edge}": np.full(n, np.nan, dtype=np.float32) for part in PARTS for edge in ("x1", "y1", "x2", "y2")
    }
    half = side // 2
    for number in range(n):
        for part, top, colour in (("window", 0, 255), ("bed", half, 0)):
            if stream.random() < 0.85:
                width, height = stream.integers(8, 15, 2)
                x, y = stream.integers(0, side - width + 1), top + stream.integers(0, half - height + 1)
                images[number, y : y + height, x : x + width] = colour
                for edge, value in zip(("x1", "y1", "x2", "y2"), (x, y, x + width, y + height), strict=True):
                    table[f"{part}_{edge}"][number] = value
    split = np.where(np.arange(n) % 4 == 3, "validation", "train")
    index = pd.DataFrame(
        {"key": [f"room {i}" for i in range(n)], "split": split, "label": -1, "source": "made", **table}
    )
    return ImageSet(path=Path("sets/rooms"), images=images, index=index)


@pytest.fixture(scope="module")
def trained() -> tuple[ImageSet, Detector, pd.DataFrame]:
    torch.set_num_threads(1)
    image_set = rooms()
    return image_set, *train_detectors(image_set, CONFIG, COMPUTE)


# ---- boxes ----------------------------------------------------------------------------------------------------------


def test_a_cell_is_inside_if_its_centre_is():
    stream = numpy_stream(0, "boxes")
    corners = np.sort(stream.uniform(0, 40, (50, 2, 2)), axis=1).transpose(0, 2, 1)  # box, axis, edge
    boxes = np.concatenate([corners[..., 0], corners[..., 1]], axis=1)
    found = cells_inside(boxes, 6, 9, 4.5)
    assert found.shape == (50, 6, 9)
    for box, cells in zip(boxes, found, strict=True):
        for row in range(6):
            for column in range(9):
                x, y = 4.5 * column + 2.25, 4.5 * row + 2.25
                assert cells[row, column] == (box[0] <= x < box[2] and box[1] <= y < box[3])


def test_a_centre_on_the_edge_belongs_to_the_box_on_its_right():
    left, right = np.array([[0, 0, 6, 8]]), np.array([[6, 0, 8, 8]])
    assert cells_inside(left, 2, 2, 4)[0].tolist() == [[True, False]] * 2
    assert cells_inside(right, 2, 2, 4)[0].tolist() == [[False, True]] * 2


def test_no_box_has_no_cell():
    assert not cells_inside(np.full((2, 4), np.nan), 4, 4, 4).any()
    assert cells_inside(np.empty((0, 4)), 4, 4, 4).shape == (0, 4, 4)


def test_overlap_of_boxes():
    box = np.array([[0.0, 0.0, 4.0, 2.0]])
    for other, expected in (
        ([0, 0, 4, 2], 1.0),
        ([2, 0, 6, 2], 4 / 12),
        ([1, 1, 3, 2], 2 / 8),
        ([4, 0, 8, 2], 0.0),
        ([5, 5, 9, 9], 0.0),
        ([np.nan] * 4, 0.0),
    ):
        found = iou(box, np.array([other], dtype=np.float64))
        assert found == pytest.approx([expected])
        assert iou(np.array([other], dtype=np.float64), box) == pytest.approx(found)


def test_the_largest_connected_group_is_the_detection():
    cells = np.zeros((4, 5, 6), dtype=np.float32)
    cells[0, 0, 0:2] = 0.9  # two cells, first
    cells[0, 2:4, 3:5] = 0.6  # four cells: this one
    cells[0, 4, 5] = 1.0  # touches it by a corner only
    cells[1, 1, 1:3] = 0.6  # too small
    cells[2, 0, 0:3], cells[2, 4, 3:6] = 0.7, 0.8  # equal sizes: the first
    cells[3] = 0.5  # not above the threshold
    found = found_boxes(cells, 0.5, min_cells=3)
    assert found[0].tolist() == [3 * CELL, 2 * CELL, 5 * CELL, 4 * CELL]
    assert found[2].tolist() == [0, 0, 3 * CELL, CELL]
    assert np.isnan(found[[1, 3]]).all()
    assert found_boxes(cells[:0], 0.5, 3).shape == (0, 4)


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_an_erased_part_goes_over_from_its_left_to_its_right():
    image = np.zeros((6, 10, 3), dtype=np.uint8)
    image[:, :] = np.arange(10, dtype=np.uint8)[None, :, None] * 10
    image[2:4, 3:6] = 255
    picture = erased(image, np.array([3.2, 2.0, 5.8, 4.0]))
    expected = np.arange(10) * 10
    expected[2:7] = np.linspace(10, 70, 5).astype(int)  # a pixel of margin on each side
    np.testing.assert_array_equal(picture[2, :, 0], expected)
    assert (image[2:4, 3:6] == 255).all()  # the image itself stays
    np.testing.assert_array_equal(picture[0], image[0])  # above the margin of one pixel
    np.testing.assert_array_equal(picture[5], image[5])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 2, 5, 5], 7),  # at the left edge: what is right of it
        ([5, 2, 8, 5], 7),  # at the right edge: what is left of it
        ([0, 3, 8, 8], 9),  # as wide as the picture: what is above it
        ([0, 0, 8, 5], 5),  # and at the upper edge: what is below it
    ],
)
def test_a_part_at_the_edge_is_filled_from_the_other_side(box, expected):
    image = np.full((8, 8, 3), 7, dtype=np.uint8)
    image[:2], image[6:] = 9, 5
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    picture = erased(image, np.array(box, dtype=np.float64))
    assert not (picture == 255).any()
    assert picture[(y1 + y2) // 2, (x1 + x2) // 2, 0] == expected


def test_nothing_can_be_painted_over_a_part_that_fills_the_picture():
    image = np.full((8, 8, 3), 7, dtype=np.uint8)
    np.testing.assert_array_equal(erased(image, np.array([0.0, 0.0, 8.0, 8.0])), image)


def test_blur_is_a_gaussian_and_keeps_a_flat_picture():
    x = torch.zeros(3, 2, 40, 44)
    x[:, :, 20, 22] = 1.0
    y = blurred(x, torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(y[0], x[0])
    for number, sigma in ((1, 1.0), (2, 2.0)):
        weights = np.array([math.exp(-(d**2) / (2 * sigma**2)) for d in range(-9, 10)])
        weights /= weights.sum()
        np.testing.assert_allclose(y[number, 0, 20, 13:32], weights[9] * weights, rtol=1e-3, atol=2e-6)
        assert y[number].sum() == pytest.approx(2.0, abs=1e-4)
    flat = torch.full((2, 3, 8, 8), 0.25)
    torch.testing.assert_close(blurred(flat, torch.tensor([0.5, 2.0])), flat)


def test_spoilt_pictures_repeat_stay_in_range_and_some_stay_as_they_are():
    x = torch.rand(200, 3, 16, 16, generator=torch_stream(0, "x")) * 2 - 1
    y = spoilt(x, torch_stream(1, "spoilt"))
    assert torch.equal(y, spoilt(x, torch_stream(1, "spoilt")))
    assert -1.0 <= float(y.min()) < float(y.max()) <= 1.0
    kept = (y - x).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 20 <= int(kept.sum()) <= 64  # 40 expected; four standard deviations are 23


# ---- network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 64), (16, 40)])
def test_the_network_gives_a_cell_of_four_pixels_two_logits(height, width):
    assert network(2)(torch.zeros(2, 3, height, width)).shape == (2, 2, height // CELL, width // CELL)


def test_cells_stand_where_the_pixels_do():
    """The order of sub-pixels: a bright pixel changes logits around its own place, not around a mirrored one."""
    detector = network(2)
    part_detector._initialise(detector, torch_stream(0, "weights"))
    for row in detector[3:6]:
        for part in row.modules():
            if isinstance(part, nn.Conv2d):  # only the centres, so that a cell sees little beside its own pixels
                part.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    detector.eval()
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, 6:9, 46:49] = 1.0
    with torch.no_grad():
        change = (detector(x) - detector(torch.zeros(1, 3, 64, 64))).abs().sum(dim=(0, 1))
    y, x_ = (int(v) for v in np.unravel_index(int(change.argmax()), change.shape))
    assert abs(CELL * y + 2 - 7) <= 8
    assert abs(CELL * x_ + 2 - 47) <= 8


# ---- training -------------------------------------------------------------------------------------------------------


def test_thresholds_are_chosen_on_images_that_are_not_trained_on():
    image_set = rooms(40)
    fitted, tuned = split_rows(image_set, CONFIG)
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, tuned])), image_set.rows("train"))
    assert len(tuned) == 6
    again = split_rows(image_set, changed(seed=1))[1]
    assert again.tolist() != tuned.tolist()


def test_targets_follow_boxes_through_erasing_and_mirroring(monkeypatch):
    monkeypatch.setattr(part_detector, "spoilt", lambda x, _: x)
    image_set = rooms(40)
    truth = part_detector.Truth(image_set, image_set.rows("train"))
    erased_windows = mirrored = 0
    for step in range(6):
        x, y = truth.batch(step, changed(erased_share=0.5))
        assert x.shape == (16, 3, 32, 32)
        assert y.shape == (16, 2, 8, 8)
        middles = x[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)[..., 1:3, 1:3]  # the four pixels about a cell's centre
        lightest, darkest = middles.amax(dim=(3, 4)), middles.amin(dim=(3, 4))
        assert (lightest[y[:, 0] == 1] == 1).all()
        assert (darkest[y[:, 1] == 1] == -1).all()
        assert (darkest[y[:, 0] == 0] < 1).all()  # all four in a window: so would the centre be
        assert (lightest[y[:, 1] == 0] > -1).all()
        erased_windows += int((y[:, 0].sum(dim=(1, 2)) == 0).sum())
    plain = [image_set.images[row] for row in image_set.rows("train")]
    x, _ = truth.batch(0, changed(erased_share=0.0))
    images = ((x.permute(0, 2, 3, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    for image in images:
        same = any(np.array_equal(image, other) for other in plain)
        turned = any(np.array_equal(image[:, ::-1], other) for other in plain)
        assert same or turned
        mirrored += turned and not same
    assert 20 < erased_windows < 80  # of 96, more than half
    assert 0 < mirrored < 16


def test_what_they_learn_is_found_on_other_images(trained):
    image_set, detectors, history = trained
    table = accuracy(detectors, image_set)
    assert list(zip(table["detector"], table["part"], strict=True)) == [
        (role, part) for role in ROLES for part in PARTS
    ]
    assert (table["n_images"] == 30).all()
    assert (table[["precision", "recall"]] > 0.5).to_numpy().all()
    assert (table["mean_iou"] > 0.4).all()
    assert (table["n_found_without"] / table["n_without"] < table["n_found"] / table["n_true"]).all()
    for role in ROLES:
        losses = history[history["detector"] == role]
        assert losses["step"].tolist() == [20, 40, 60]
        assert losses["loss"].iloc[-1] < losses["loss"].iloc[0]


def test_the_two_detectors_are_not_the_same(trained):
    _, detectors, _ = trained
    a, b = (detector.network.state_dict() for detector in (detectors.labeller, detectors.counter))
    assert not torch.equal(a["0.0.weight"], b["0.0.weight"])


def test_accuracy_counts_as_by_hand(trained):
    """Four images: a window found, one with an overlap just under a half, one missed, and none where one is found."""
    image_set, _, _ = trained
    rows = image_set.rows("validation")[:4]
    boxes = np.array([[8.0, 8, 24, 24], [8, 8, 24, 24], [8, 8, 24, 24], [np.nan] * 4])
    found = np.array([[8.0, 8, 24, 24], [8, 8, 24, 15.9], [np.nan] * 4, [0, 0, 8, 8]])
    index = image_set.index.iloc[rows].assign(
        split="validation", **{f"window_{e}": boxes[:, k] for k, e in enumerate(EDGES)}
    )
    index = pd.concat([index, index.assign(split="train")], ignore_index=True)
    images = image_set.images[[*rows, *rows]]

    class Says(Detector):
        """Finds those windows in the images as they are, and in erased ones only the first."""

        def __init__(self) -> None:
            self.calls = 0

        def detect(self, images: np.ndarray) -> dict[str, np.ndarray]:
            self.calls += 1
            windows = found if self.calls == 1 else np.where(np.arange(4)[:, None] == 0, found, np.nan)
            return {"window": windows, "bed": np.full((4, 4), np.nan)}

    table = accuracy(
        Detectors(labeller=Says(), counter=Says()), dataclasses.replace(image_set, images=images, index=index)
    )
    window = table[(table["detector"] == "counter") & (table["part"] == "window")].iloc[0]
    counts = window[["n_images", "n_true", "n_found", "n_right", "n_without", "n_found_without"]]
    assert counts.tolist() == [4, 3, 3, 1, 4, 1]
    overlap = 16 * 7.9 / 256
    assert window[["precision", "recall", "mean_iou"]].tolist() == pytest.approx([1 / 3, 1 / 3, (1 + overlap) / 3])


def test_a_detection_does_not_depend_on_the_images_beside_it(trained):
    image_set, detectors, _ = trained
    detector, images = detectors.counter, image_set.images[:7]
    together = detector.detect(images)
    for number in range(7):
        alone = detector.detect(images[number : number + 1])
        for part in PARTS:
            np.testing.assert_array_equal(alone[part][0], together[part][number])


def test_training_repeats_and_a_seed_changes_it(trained):
    image_set, _, _ = trained
    short = changed(steps=3)
    states = [
        train_detector(image_set, config, COMPUTE)[0].network.state_dict()
        for config in (short, short, dataclasses.replace(short, seed=1))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_threshold_is_chosen_that_erased_parts_stay_below(monkeypatch):
    """A detector that sees parts at 0.6 where there is one, and at 0.4 (window) or 0.3 (bed) where one was."""
    image_set = rooms(40)
    rows = image_set.rows("train")
    truth = {part: true_boxes(image_set, rows, part) for part in PARTS}

    def seen(_: nn.Module, images: np.ndarray, __: str) -> np.ndarray:
        cells = np.zeros((len(images), len(PARTS), 8, 8), dtype=np.float32)
        for number, part in enumerate(PARTS):
            known = np.isfinite(truth[part][:, 0])
            if len(images) != len(rows) + known.sum():
                continue
            inside = cells_inside(truth[part], 8, 8, CELL)
            cells[:, number] = np.concatenate([0.6 * inside, (0.4, 0.3)[number] * inside[known]])
        return cells

    monkeypatch.setattr(part_detector, "probabilities", seen)
    chosen = chosen_thresholds(nn.Sequential(), image_set, rows, 1, "cpu")
    # cells must lie above a threshold, so 0.4 and 0.3 themselves are the lowest good ones
    assert chosen == {"window": pytest.approx(0.4), "bed": pytest.approx(0.3)}


# ---- stage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", [True, False])
def test_the_stage_writes_a_folder_and_its_accuracy(tmp_path, monkeypatch, boxes):
    monkeypatch.setattr(compute, "set_up", lambda _: None)  # it sets the whole process up
    image_set = rooms(16)
    index = image_set.index if boxes else image_set.index[["key", "split", "label", "source"]]
    write_set(tmp_path / "set", image_set.images, index, no_rejects())
    sections = {"part_detector": dataclasses.asdict(changed(steps=2))}
    params = {"compute": dataclasses.asdict(COMPUTE), "internals": sections}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    stage.main(tmp_path / "params.yaml", tmp_path / "set", tmp_path / "model", tmp_path / "accuracy.parquet")
    assert (read_detectors(tmp_path / "model", COMPUTE) is not None) == boxes
    table = pd.read_parquet(tmp_path / "accuracy.parquet")
    assert table["part"].tolist() == (2 * list(PARTS) if boxes else [])
    assert list(table.columns) == list(part_detector.COLUMNS)


# ---- model folder and bad input -------------------------------------------------------------------------------------


def test_detectors_come_back_from_their_folder(trained, tmp_path):
    image_set, detectors, history = trained
    write_detectors(tmp_path / "detector", image_set, CONFIG, COMPUTE, (detectors, history))
    again = read_detectors(tmp_path / "detector", COMPUTE)
    assert again is not None
    images = image_set.images[:20]
    for role in ROLES:
        before, after = getattr(detectors, role), getattr(again, role)
        assert (after.thresholds, after.min_cells) == (before.thresholds, before.min_cells)
        for part in PARTS:
            np.testing.assert_array_equal(after.detect(images)[part], before.detect(images)[part])
    first = {file.name: file.read_bytes() for file in (tmp_path / "detector").iterdir()}
    assert set(first) == {"networks.safetensors", "run.json", "history.parquet"}
    write_detectors(tmp_path / "again", image_set, CONFIG, COMPUTE, (again, history))
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == first


def test_a_set_without_boxes_gives_a_folder_that_says_so(tmp_path):
    image_set = rooms(8)
    bare = dataclasses.replace(image_set, index=image_set.index[["key", "split", "label", "source"]])
    assert has_boxes(image_set)
    assert not has_boxes(bare)
    write_detectors(tmp_path / "detector", bare, CONFIG, COMPUTE, None)
    run = json.loads((tmp_path / "detector" / "run.json").read_text())
    assert run["trained"] is False
    assert "rooms" in run["note"]
    assert read_detectors(tmp_path / "detector", COMPUTE) is None
    assert list(no_accuracy().columns) == list(part_detector.COLUMNS)
    assert len(no_accuracy()) == 0


def test_the_tables_have_the_same_types_with_and_without_rows(trained):
    image_set, detectors, _ = trained
    assert accuracy(detectors, image_set).dtypes.astype(str).tolist() == no_accuracy().dtypes.astype(str).tolist()


def test_another_models_folder_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "run.json").write_text('{"params": {}}')
    with pytest.raises(InputError, match="whether part detectors were trained"):
        read_detectors(tmp_path / "model", COMPUTE)


@pytest.mark.parametrize("shape", [(30, 32, 3), (32, 28, 3), (32, 32, 1)])
def test_images_of_another_size_are_refused(shape):
    image_set = dataclasses.replace(rooms(8), images=np.zeros((8, *shape), dtype=np.uint8))
    with pytest.raises(InputError, match=f"images of {shape[0]} x {shape[1]} x {shape[2]}"):
        check_images(image_set)


def test_too_few_training_images_are_refused():
    with pytest.raises(InputError, match="3 training images"):
        split_rows(rooms(4), changed(tuning_share=0.1))
