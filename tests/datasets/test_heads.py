"""Rendered heads: boxes, attributes, disjoint photographs, what the detector finds, same bytes."""

import dataclasses
import itertools

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.embedded import heads
from pipeline.datasets.embedded.heads import Head, RenderedHeads

SMALL = RenderedHeads(seed=5, n_scenes=40, n_without_face=12, test_share=0.25)
HEAD = Head(
    x=240.0,
    y=170.0,
    size_px=120.0,
    yaw=0.0,
    smile=False,
    glasses=False,
    hair="short",
    hair_colour="black",
    skin_tone=1,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_WORKERS", "1")
        out = tmp_path_factory.mktemp("heads") / "out"
        heads.write_heads(out, SMALL)
    return out


@pytest.fixture(scope="module")
def placed():
    return [heads.place_heads(np.random.default_rng(index)) for index in range(1200)]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawn(head, seed=0, ground=128):
    image = np.full((heads.HEIGHT, heads.WIDTH, 3), ground, np.float32)
    heads.draw(image, head, np.random.default_rng(seed))
    return image


def overlap(one, other):
    """IoU, by the definition."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (both - shared)


# files


def test_files_and_columns(written):
    photos = pd.read_parquet(written / "photos.parquet")
    boxes = pd.read_parquet(written / "boxes.parquet")
    assert photos["photo"].tolist() == [f"photos/{number:06d}.jpg" for number in range(52)]
    assert sorted(f"photos/{path.name}" for path in (written / "photos").iterdir()) == photos["photo"].tolist()
    assert photos["labelled"].all()
    assert photos["collection"].tolist() == ["rendered heads"] * 40 + ["photographs without a face"] * 12
    assert photos.groupby("collection")["split"].apply(lambda s: (s == "test").sum()).tolist() == [3, 10]
    for content in contents(written / "photos").values():
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (360, 480, 3)
    assert list(boxes.columns) == [
        "photo", "head", "x1", "y1", "x2", "y2",
        "smile", "glasses", "hair", "hair_colour", "yaw", "skin_tone", "size_px",
    ]  # fmt: skip
    kinds = {column: boxes[column].dtype.kind for column in boxes.columns}
    assert {kinds[column] for column in ("x1", "y1", "x2", "y2", "yaw", "size_px")} == {"f"}
    assert kinds["smile"] == kinds["glasses"] == "b"
    assert kinds["skin_tone"] == kinds["head"] == "i"
    assert set(boxes["photo"]) == set(photos["photo"][:40])  # every scene has a head, no window has one
    for _, mine in boxes.groupby("photo"):
        assert mine["head"].tolist() == list(range(len(mine)))
        assert len(mine) <= 3


def test_same_bytes_whatever_the_number_of_workers(written, tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "2")
    monkeypatch.setattr(heads, "TASK", 9)
    heads.write_heads(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(written)


def test_another_seed_gives_other_photos(written):
    other = dataclasses.replace(SMALL, seed=6)
    assert heads.scene(other, 0).content != heads.scene(SMALL, 0).content == contents(written)["photos/000000.jpg"]


# places and attributes


def test_boxes_are_squares_inside_the_image_and_apart(placed):
    for found in placed:
        assert 1 <= len(found) <= 3
        for head in found:
            x1, y1, x2, y2 = head.box()
            assert x2 - x1 == pytest.approx(head.size_px)
            assert y2 - y1 == pytest.approx(head.size_px)
            assert 80 <= head.size_px <= 160
            assert x1 >= 0
            assert y1 >= 0
            assert x2 <= 480
            assert y2 <= 360
        for one, other in itertools.combinations(found, 2):
            assert overlap(one.covers(), other.covers()) == 0
        chins = [head.y + heads.BOTTOM * head.unit for head in found]
        assert chins == sorted(chins)  # no shoulders before a face


def test_attributes_have_their_shares_and_do_not_depend_on_each_other(placed):
    table = pd.DataFrame([dataclasses.asdict(head) for found in placed for head in found])
    assert len(table) == pytest.approx(2 * len(placed), rel=0.06)
    assert table["smile"].mean() == pytest.approx(0.5, abs=0.04)
    assert table["glasses"].mean() == pytest.approx(0.3, abs=0.04)
    assert np.allclose(table["hair"].value_counts(normalize=True).reindex(heads.HAIR_STYLES), 1 / 6, atol=0.035)
    assert np.allclose(table["skin_tone"].value_counts(normalize=True).reindex(range(6)), 1 / 6, atol=0.035)
    assert ((table["hair"] == "bald") == (table["hair_colour"] == "none")).all()
    shares = np.histogram(table["yaw"], bins=5, range=(-25, 25))[0] / len(table)
    assert np.allclose(shares, 0.2, atol=0.035)
    table["bald"] = table["hair"] == "bald"
    table["turned"] = table["yaw"].abs()
    numbers = table[["smile", "glasses", "bald", "yaw", "turned", "skin_tone", "size_px"]].astype(float)
    assert np.abs(np.triu(numbers.corr().to_numpy(), 1)).max() < 0.08


def test_splits_use_photographs_of_their_own():
    train, test = ({*heads.BACKGROUNDS[split], *heads.WINDOWS_ONLY[split]} for split in ("train", "test"))
    assert not train & test
    assert not {"astronaut", "camera", "coins"} & (train | test)
    assert train | test <= set(heads.photos.FILES)


@pytest.mark.parametrize("index", range(8))
def test_a_photo_of_a_split_takes_its_photographs(monkeypatch, index):
    allowed = heads.photos.photographs()
    split = heads.split_of(index, SMALL.test_share)
    mine = {*heads.BACKGROUNDS[split], *heads.WINDOWS_ONLY[split]}
    monkeypatch.setattr(heads.photos, "photographs", lambda: {name: allowed[name] for name in mine})
    assert heads.scene(SMALL, index).split == split
    assert heads.without_face(SMALL, index).split == split


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_every_number_of_photos_has_its_share(share):
    splits = [heads.split_of(index, share) for index in range(200)]
    for n in range(1, 201):
        assert splits[:n].count("test") == pytest.approx(share * n, abs=1)


# drawing


@pytest.mark.parametrize("hair", heads.HAIR_STYLES)
@pytest.mark.parametrize("yaw", [-25.0, 0.0, 25.0])
def test_a_head_stays_within_what_it_covers(hair, yaw):
    head = dataclasses.replace(HEAD, hair=hair, yaw=yaw)
    for seed in range(3):
        changed = np.abs(drawn(head, seed) - 128).max(axis=2) > 2
        x1, y1, x2, y2 = head.covers()
        above_chin = changed[: int(y2)]
        rows, columns = np.nonzero(above_chin[: int(head.y + 1.1 * head.unit)])
        assert rows.min() >= y1 - 2
        assert columns.min() >= x1 - 2
        assert columns.max() <= x2 + 2
        bx1, by1, bx2, by2 = (int(value) for value in head.box())
        assert changed[by1:by2, bx1:bx2].mean() > 0.7  # the truth box is on the face


def test_a_head_at_the_edge_of_the_image_is_the_same_head_cut():
    whole = drawn(HEAD)
    moved = drawn(dataclasses.replace(HEAD, x=HEAD.x - 230, y=HEAD.y + 150))
    assert np.abs(moved[150:, :250] - whole[:210, 230:]).max() < 0.6


def region(image, head, x1, y1, x2, y2):
    """Mean grey level of a part of a frontal head, in its units."""
    rows = slice(round(head.y + y1 * head.unit), round(head.y + y2 * head.unit))
    columns = slice(round(head.x + x1 * head.unit), round(head.x + x2 * head.unit))
    return float(image[rows, columns].mean())


@pytest.mark.parametrize("tone", range(6))
def test_light_and_shadow_that_the_detector_looks_for(tone):
    head = dataclasses.replace(HEAD, skin_tone=tone, hair="bald", hair_colour="none")
    image = drawn(head)
    cheeks = (region(image, head, -0.55, 0.1, -0.35, 0.25) + region(image, head, 0.35, 0.1, 0.55, 0.25)) / 2
    eyes = (region(image, head, -0.45, -0.2, -0.2, 0) + region(image, head, 0.2, -0.2, 0.45, 0)) / 2
    bridge = region(image, head, -0.04, -0.1, 0.04, 0.2)
    flanks = (region(image, head, -0.2, -0.1, -0.13, 0.2) + region(image, head, 0.13, -0.1, 0.2, 0.2)) / 2
    under = region(image, head, -0.1, 0.36, 0.1, 0.41)
    assert eyes < 0.85 * cheeks
    assert bridge > 1.15 * flanks
    assert under < 0.8 * bridge


def test_skin_gets_darker_with_the_tone():
    levels = [region(drawn(dataclasses.replace(HEAD, skin_tone=tone)), HEAD, -0.5, 0.1, 0.5, 0.3) for tone in range(6)]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"smile": True}, (-0.4, 0.4, 0.4, 0.85)),
        ({"glasses": True}, (-0.65, -0.35, 0.65, 0.15)),
        ({"hair": "fringe"}, (-0.6, -0.7, 0.6, -0.3)),
        ({"hair": "long"}, (-1.1, 0.0, 1.1, 1.2)),
    ],
)
def test_an_attribute_changes_its_part_of_the_face_most(change, place):
    """Same random numbers where they are drawn alike; compared over heads with other looks."""
    base, other = (
        np.mean([drawn(head, seed) for seed in range(12)], axis=0)
        for head in (HEAD, dataclasses.replace(HEAD, **change))
    )
    difference = np.abs(base - other)[: int(HEAD.y + 1.15 * HEAD.unit)]
    inside = region(difference, HEAD, *place)
    assert inside > 2
    assert inside > 1.5 * difference[difference > 0.5].mean() * (difference > 0.5).mean()


def test_yaw_turns_the_features_and_its_box_alike():
    """Darkest column of the eyes' band follows the box."""
    centres = []
    for yaw in (-20.0, 0.0, 20.0):
        head = dataclasses.replace(HEAD, yaw=yaw, hair="bald", hair_colour="none", skin_tone=0)
        image = np.mean([drawn(head, seed, ground=255) for seed in range(4)], axis=(0, 3))
        band = image[round(head.y + 0.36 * head.unit) : round(head.y + 0.41 * head.unit)].mean(axis=0)  # under the nose
        x1, _, x2, _ = (round(value) for value in head.box())
        nose = x1 + 20 + np.argmin(band[x1 + 20 : x2 - 20])
        centres.append((nose, (x1 + x2) / 2))
    noses, boxes = np.array(centres).T
    assert np.all(np.diff(noses) > 15)
    assert np.allclose(noses, boxes, atol=8)


# the detector


def test_the_detector_finds_the_heads_and_little_else():
    """A small sample: the stage reports recall and precision over the whole set, by group."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    found = right = wrong = 0
    photos = [heads.scene(SMALL, index) for index in range(30)] + [
        heads.without_face(SMALL, index) for index in range(8)
    ]
    for photo in photos:
        grey = cv2.imdecode(np.frombuffer(photo.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        boxes = [
            (x, y, x + width, y + height)
            for x, y, width, height in cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(60, 60))
        ]
        truth = [head.box() for head in photo.heads]
        hits = sum(any(overlap(box, other) >= 0.5 for other in boxes) for box in truth)
        found += len(truth)
        right += hits
        wrong += len(boxes) - hits
    assert found > 40
    assert right / found >= 0.93
    assert right / (right + wrong) >= 0.95


def test_noise_is_that_of_a_sensor():
    noise = heads._noise()
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(2.5, rel=0.01)
