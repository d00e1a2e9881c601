"""Rendered bedrooms: LSUN's layout, boxes that are where the window is, copies that are what the truth says."""

import dataclasses
import hashlib
import io
import os
import subprocess
import sys

import lmdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core import params
from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import alterations, rooms
from pipeline.datasets.embedded.room_drawing import BED, WINDOW, Painter, draw_room
from pipeline.datasets.embedded.room_textures import bank
from pipeline.datasets.embedded.rooms import RenderedRooms, entries, write_lmdb, write_rooms

SMALL = RenderedRooms(seed=7, n_train=30, n_validation=4, n_planted=14, n_mirrored=4)
FILES = ["bedroom_train_lmdb/data.mdb", "bedroom_val_lmdb/data.mdb", "truth.parquet"]
BOXES = [f"{part}_{edge}" for part in ("window", "bed") for edge in ("x1", "y1", "x2", "y2")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small set, rendered in this process."""
    out = tmp_path_factory.mktemp("rooms") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_WORKERS", "1")
        write_rooms(out, SMALL)
    return out


@pytest.fixture(scope="module")
def truth(written):
    return pd.read_parquet(written / "truth.parquet").set_index("key")


@pytest.fixture(scope="module")
def pictures(written):
    return {
        key: np.array(Image.open(io.BytesIO(value)).convert("RGB"))
        for folder in ("bedroom_train_lmdb", "bedroom_val_lmdb")
        for key, value in read(written / folder)
    }


@pytest.fixture(scope="module")
def drawn():
    return [rooms.draw(1, "train", number) for number in range(60)]


def read(folder):
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return [(bytes(key).decode("ascii"), bytes(value)) for key, value in transaction.cursor()]


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def checksums(out):
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES}


def pairs(truth, alteration):
    """(key of the original, key of the copy), at least one."""
    originals = truth[truth["alteration"] == "original"].reset_index().set_index("group")["key"]
    group = "mirror_of" if alteration == "mirror" else "group"
    copies = truth[truth["alteration"] == alteration]
    assert len(copies)
    return [(originals[getattr(row, group)], row.Index) for row in copies.itertuples()]


def difference(a, b):
    return np.abs(a.astype(float) - b.astype(float)).mean()


# the archive


def test_layout_of_lsun(written):
    assert files(written) == FILES  # no lock.mdb
    for folder, count in (("bedroom_train_lmdb", 30 + 14 + 4), ("bedroom_val_lmdb", 4)):
        found = read(written / folder)
        assert len(found) == count
        for key, value in found:
            assert len(key) == 40
            assert set(key) <= set("0123456789abcdef")
            image = Image.open(io.BytesIO(value))
            assert image.format in ("WEBP", "JPEG")
            assert min(image.size) == 256
            assert image.mode == "RGB"


def test_jpeg75_is_kept_as_jpeg(written, truth):
    kinds = {key: Image.open(io.BytesIO(value)).format for key, value in read(written / "bedroom_train_lmdb")}
    jpegs = {key for key, kind in kinds.items() if kind == "JPEG"}
    assert jpegs == set(truth.index[truth["alteration"] == "jpeg75"])


def test_truth_has_a_row_an_image(written, truth, pictures):
    assert truth.index.is_unique
    assert truth.index.tolist() == sorted(pictures)
    assert set(truth[BOXES].dtypes) == {np.dtype(np.float32)}
    assert truth["group"].dtype == truth["mirror_of"].dtype == np.int64
    assert not truth.drop(columns=BOXES).isna().to_numpy().any()
    for part in ("window", "bed"):
        box = truth[[f"{part}_{edge}" for edge in ("x1", "y1", "x2", "y2")]].to_numpy()
        none = np.isnan(box).any(axis=1)
        assert (np.isnan(box).all(axis=1) == none).all()
        size = np.array([pictures[key].shape[1::-1] for key in truth.index])
        assert (box[~none, :2] >= 0).all()
        assert (box[~none, 2:] <= size[~none]).all()
        assert (box[~none, 2:] - box[~none, :2] >= 1).all()


def test_groups_of_the_truth(truth):
    grouped = truth[truth["group"] >= 0]
    assert len(grouped) == SMALL.n_groups + SMALL.n_planted
    for _, members in grouped.groupby("group"):
        names = members["alteration"].tolist()
        assert names.count("original") == 1
        assert len(set(names)) == len(names) in (2, 3)
        assert (members["wall_red"] == members["wall_red"].iloc[0]).all()  # the same room
    assert set(grouped["alteration"]) == {"original", *alterations.PLANTED}
    assert (grouped["mirror_of"] == -1).all()
    mirrored = truth[truth["alteration"] == "mirror"]
    assert sorted(mirrored["mirror_of"]) == list(range(SMALL.n_mirrored))
    assert (mirrored["group"] == -1).all()
    assert (truth.loc[truth["alteration"] == "", ["group", "mirror_of"]] == -1).to_numpy().all()


def test_other_process_other_number_of_workers_same_bytes(written, tmp_path, project_env):
    """With two workers, in a process whose fresh memory is filled with noise (glibc): nothing of it may be written."""
    code = (
        "from pathlib import Path; from pipeline.datasets.embedded.rooms import *; "
        f"write_rooms(Path('again'), {SMALL!r})"
    )
    env = project_env | {"GAN_WORKERS": "2", "MALLOC_PERTURB_": "165", "PYTHONHASHSEED": "3"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=120)
    assert files(tmp_path / "again") == FILES
    assert checksums(tmp_path / "again") == checksums(written)


def test_a_room_does_not_depend_on_how_many_there_are(written, truth):
    fewer = RenderedRooms(seed=7, n_train=12, n_validation=2, n_planted=0, n_mirrored=0)
    stored = dict(read(written / "bedroom_train_lmdb")) | dict(read(written / "bedroom_val_lmdb"))
    for entry in entries(fewer):
        if entry.number < 4:
            content, row = rooms.render(7, entry)
            assert content == stored[entry.key]
            assert {name: row[name] for name in BOXES} == pytest.approx(
                truth.loc[entry.key, BOXES].to_dict(), nan_ok=True
            )


def test_another_seed_other_rooms(pictures):
    other = rooms.draw(8, "train", 0).picture()
    mine = rooms.draw(7, "train", 0).picture()
    assert other.shape != mine.shape or difference(other, mine) > 10
    key = hashlib.sha1(b"train/0").hexdigest()
    assert difference(mine, pictures[key]) < 5


def test_a_failure_leaves_the_earlier_set(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")
    monkeypatch.setattr(rooms, "render", lambda seed, entry: 1 // 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/earlier").write_text("earlier")
    with pytest.raises(ZeroDivisionError):
        write_rooms(tmp_path / "out", SMALL)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["earlier", "out"]


@pytest.mark.parametrize("sizes", [[1], [0, 1, 100, 2000, 4080, 4081, 5000, 1 << 20], [3] * 2000, [20_000] * 50])
def test_lmdb_holds_what_was_put_in(tmp_path, sizes):
    rng = numpy_stream(0, "lmdb")
    contents = [(f"{number:040x}", rng.bytes(size)) for number, size in enumerate(sizes)]
    write_lmdb(tmp_path / "a", contents)
    write_lmdb(tmp_path / "b", contents)
    assert read(tmp_path / "a") == contents
    file = tmp_path / "a/data.mdb"
    assert os.listdir(tmp_path / "a") == ["data.mdb"]  # noqa: PTH208
    assert file.read_bytes() == (tmp_path / "b/data.mdb").read_bytes()
    assert file.stat().st_size < sum(size + 5000 for size in sizes) + 50_000  # not the whole map


def test_lmdb_refuses_a_key_twice(tmp_path):
    with pytest.raises(AssertionError, match="twice"):
        write_lmdb(tmp_path / "a", [("a", b"1"), ("a", b"2")])


# copies


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_shifted_copies(truth, pictures, distance):
    for original, copy in pairs(truth, f"shift{distance}"):
        best = {}
        for dx in range(-4, 5):
            for dy in range(-4, 5):
                moved = alterations.shift(pictures[original], dx, dy)[4:-4, 4:-4]
                best[dx, dy] = difference(moved, pictures[copy][4:-4, 4:-4])
        dx, dy = min(best, key=best.get)
        assert max(abs(dx), abs(dy)) == distance
        assert {abs(dx), abs(dy)} <= {0, distance}
        before, after = truth.loc[original, BOXES], truth.loc[copy, BOXES]
        if before["window_x1"] > 5 and before["window_x2"] < pictures[original].shape[1] - 5:
            moved = (after - before)[["window_x1", "window_y1", "window_x2", "window_y2"]]
            assert moved.tolist() == [dx, dy, dx, dy]


@pytest.mark.parametrize(("name", "factor"), [("brightness+5", 1.05), ("brightness-5", 0.95)])
def test_brighter_and_darker_copies(truth, pictures, name, factor):
    for original, copy in pairs(truth, name):
        dark = pictures[original].max(axis=2) < 230  # not clipped
        ratio = pictures[copy][dark].mean() / pictures[original][dark].mean()
        assert ratio == pytest.approx(factor, abs=0.01)
        assert truth.loc[original, BOXES].equals(truth.loc[copy, BOXES])


def test_cropped_copies(truth, pictures):
    for original, copy in pairs(truth, "crop2"):
        expected = alterations.enlarge_middle(pictures[original], 0.98)
        assert difference(expected, pictures[copy]) < 5
        assert difference(expected, pictures[copy]) < difference(pictures[original], pictures[copy])
        width = pictures[original].shape[1]
        before, after = truth.loc[original], truth.loc[copy]
        if not np.isnan(before["window_x1"]):
            for edge in ("window_x1", "window_x2"):
                assert after[edge] - width / 2 == pytest.approx((before[edge] - width / 2) / 0.98, abs=1.0)


def test_mirrored_rooms(truth, pictures):
    for original, copy in pairs(truth, "mirror"):
        assert difference(pictures[original][:, ::-1], pictures[copy]) < 5
        width = pictures[original].shape[1]
        before, after = truth.loc[original], truth.loc[copy]
        turned = {"left": "right", "right": "left"}
        for part in ("window", "bed"):
            if not np.isnan(before[f"{part}_x1"]):
                assert after[f"{part}_x1"] == width - before[f"{part}_x2"]
                assert after[f"{part}_x2"] == width - before[f"{part}_x1"]
                assert after[f"{part}_y1"] == before[f"{part}_y1"]
        for fact in ("bed_head", "window_wall"):
            assert after[fact] == turned.get(before[fact], before[fact])


# what is drawn


def test_the_window_is_where_its_box_says():
    """The same room twice, with black and with white views: what differs is the glass."""
    textures = bank(1)
    none, checked = 0, 0
    for number in range(40):
        pictures, boxes = [], []
        for level in (0, 255):
            plain = [np.full_like(view, level) for view in textures.views]
            night = [np.full_like(view, level) for view in textures.night_views]
            room = draw_room(
                numpy_stream(1, "room", number), dataclasses.replace(textures, views=plain, night_views=night)
            )
            pictures.append(room.picture().astype(int))
            boxes.append(room.box(WINDOW))
        rows, columns = np.nonzero(np.abs(pictures[0] - pictures[1]).max(axis=2) > 20)
        if np.isnan(boxes[0][0]):
            none += 1
            assert not len(rows)
            continue
        assert boxes[0] == boxes[1]
        x1, y1, x2, y2 = boxes[0]
        assert x1 <= columns.min() + 1
        assert columns.max() <= x2
        assert y1 <= rows.min() + 1
        assert rows.max() <= y2
        glass = (columns.max() + 1 - columns.min()) * (rows.max() + 1 - rows.min())
        if glass > 0.5 * (x2 - x1) * (y2 - y1):  # less where a blind, a headboard or a lamp stands before the glass
            checked += 1
    assert none >= 1
    assert checked >= 30


def test_a_box_is_what_is_visible_of_a_part(drawn):
    for room in drawn[:10]:
        for part in (WINDOW, BED):
            for dx, dy in ((0, 0), (3, -2)):
                height, width = room.picture().shape[:2]
                rows, columns = np.nonzero(room.parts[3 - dy : 3 - dy + height, 3 - dx : 3 - dx + width] == part)
                expected = [np.nan] * 4
                if len(rows):
                    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert list(room.box(part, dx, dy)) == pytest.approx(expected, nan_ok=True)


def test_most_rooms_have_window_and_bed_within_the_centre_square(drawn):
    inside = 0
    for room in drawn:
        height, width = room.picture().shape[:2]
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        x1, y1, x2, y2 = room.box(WINDOW)
        inside += x1 >= left and x2 <= left + side and y1 >= top and y2 <= top + side
    with_bed = sum(not np.isnan(room.box(BED)[0]) for room in drawn)
    assert 0.75 * len(drawn) <= inside < len(drawn)  # some have none
    assert 0.8 * len(drawn) <= with_bed < len(drawn)


def test_rooms_differ(drawn):
    import cv2

    small = np.stack([cv2.resize(room.picture(), (32, 32), interpolation=cv2.INTER_AREA) for room in drawn])
    flat = small.reshape(len(small), -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T
    assert np.median(alike[np.triu_indices(len(flat), 1)]) < 0.6
    assert (alike - np.eye(len(flat))).max() < 0.97
    assert small.mean(axis=(1, 2, 3)).std() > 15  # light and dark ones
    for fact in ("night", "curtains", "door", "lamp", "lamp_on", "ceiling_lamp", "rug", "wardrobe", "chest", "plant"):
        assert 0 < sum(room.facts[fact] for room in drawn) < len(drawn), fact
    assert {room.facts["bed_head"] for room in drawn} == {"back", "left", "right", "none"}


def test_projection_and_near_plane():
    room = rooms.draw(1, "train", 0)
    camera = _camera()
    # straight ahead, 2 m away, 1 m to the right and 0.5 m up: 100 px a metre at that distance
    assert camera.project(np.array([[1.0, 1.5, 2.0]]))[0] == pytest.approx([150 + 100, 100 - 50])
    behind = camera.project(np.array([[0.0, 0, -1.0], [1, 0, -1], [1, 1, -2]]))
    assert len(behind) == 0
    crossing = camera.project(np.array([[-1.0, 0, -3.0], [1, 0, -3], [1, 0, 3], [-1, 0, 3]]))
    assert len(crossing) == 4
    assert np.isfinite(crossing).all()
    assert crossing[:, 1].max() == pytest.approx(100 + 200 * 1.0 / 0.25)  # the floor, cut off at 0.25 m
    assert room.canvas.shape[:2] == room.parts.shape


def test_painted_polygons_are_on_the_map_of_parts():
    painter = Painter(_camera(), 300, 200)
    square = np.array([[-0.5, 0.5, 2.0], [0.5, 0.5, 2.0], [0.5, 1.5, 2.0], [-0.5, 1.5, 2.0]])
    painter.polygon(square, np.array([10.0, 20, 300]), WINDOW)
    rows, columns = np.nonzero(painter.parts == WINDOW)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (100, 200, 50, 150)
    assert painter.image[100, 150].tolist() == [10, 20, 255]
    painter.polygon(square + np.array([0.5, 0, 0]), np.array([1.0, 1, 1]))
    assert np.nonzero(painter.parts == WINDOW)[1].max() == 149


def _camera():
    from pipeline.datasets.embedded.room_drawing import Camera

    return Camera.aimed(
        np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 5.0]), roll=0.0, focal_px=200.0, centre=(150.0, 100.0)
    )


# params


@settings(max_examples=50, deadline=None)
@given(
    n_train=st.integers(1, 60), planted=st.integers(0, 60), mirrored=st.integers(0, 60), validation=st.integers(1, 5)
)
def test_numbers_of_entries(n_train, planted, mirrored, validation):
    numbers = {"n_train": n_train, "n_validation": validation, "n_planted": planted, "n_mirrored": mirrored}
    n_groups = sum(1 for copy in range(planted) if copy == 0 or copy % 5)  # each fifth copy joins a group that exists
    try:
        asked = RenderedRooms(seed=0, **numbers)
    except ValueError:
        assert n_groups > n_train or mirrored > n_groups
        return
    assert asked.n_groups == n_groups
    made = entries(asked)
    assert len({entry.key for entry in made}) == len(made) == sum(numbers.values())
    assert made == sorted(made, key=lambda entry: (entry.split, entry.key))
    groups = [entry.group for entry in made if entry.group >= 0]
    assert sorted(set(groups)) == list(range(asked.n_groups))
    assert len(groups) == asked.n_groups + planted
    assert all(groups.count(group) in (2, 3) for group in set(groups))
    rooms_of = {entry.group: set() for entry in made}
    for entry in made:
        rooms_of[entry.group].add(entry.room)
    assert all(len(rooms_of[group]) == 1 for group in rooms_of if group >= 0)
    assert {entry.split for entry in made if entry.alteration} <= {"train"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("n_planted: 1000", "n_planted 1000 takes 801 originals, n_train is 100; lower it"),
        ("n_mirrored: 50", "n_mirrored 50: only the 17 originals of planted copies are mirrored"),
        ("n_train: 0", "greater than or equal to 1, found 0"),
    ],
)
def test_params_that_do_not_fit_together(tmp_path, change, said):
    values = {"seed": 0, "n_train": 100, "n_validation": 10, "n_planted": 20, "n_mirrored": 5}
    name, value = change.split(": ")
    lines = [f"  {key}: {value if key == name else old}\n" for key, old in values.items()]
    (tmp_path / "params.yaml").write_text("lsun:\n" + "".join(lines))
    with pytest.raises(InputError) as caught:
        params.load(tmp_path / "params.yaml", RenderedRooms, own="lsun")
    assert said in str(caught.value)
