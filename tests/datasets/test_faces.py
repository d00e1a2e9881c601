"""Faces: boxes against OpenCV's own, every photo and detection accounted for, the same bytes however it is run."""

import hashlib
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.core.store import open_set
from pipeline.datasets import faces
from pipeline.datasets.archives import PhotoFolder
from pipeline.datasets.decode import Decoding
from pipeline.datasets.embedded.photos import photographs
from pipeline.datasets.faces import FaceDetector, Haar, YuNet, counts, iou, match, select, squared
from pipeline.datasets.in_place import listing_sha256
from pipeline.datasets.photo_tables import photo_tables, read_tables

DECODING = Decoding(max_pixels=1_000_000, max_aspect_ratio=20.0)
DETECTOR = FaceDetector(
    detector="haar",
    haar=Haar(cascade="frontalface_alt2", scale_factor=1.1, min_neighbours=5),
    yunet=YuNet(model=None, sha256=None, min_score=0.9),
    search_size=24,
    min_size=40,
    merge_iou=0.3,
    size=16,
)
NO_BOXES = np.zeros((0, 4))


def head(size_px, mirrored=False):
    """A real head; its face is the square from .21 to .79 of each side."""
    picture = cv2.resize(photographs()["astronaut"][30:200, 140:310], (size_px, size_px), interpolation=cv2.INTER_AREA)
    return picture[:, ::-1] if mirrored else picture


def photo(*heads, width=240, height=160):
    """Heads (x, y, size) on plain grey."""
    picture = np.full((height, width, 3), 120, dtype=np.uint8)
    for number, (x, y, size_px) in enumerate(heads):
        picture[y : y + size_px, x : x + size_px] = head(size_px, mirrored=number % 2 == 1)
    return picture


def true_box(x, y, size_px):
    return [x + 0.21 * size_px, y + 0.21 * size_px, x + 0.79 * size_px, y + 0.79 * size_px]


def jpeg(picture, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


LARGE, OTHER, SMALL = (10, 20, 100), (130, 40, 100), (20, 40, 60)


def write_photos(folder):
    """Seven photos, two of which cannot be read."""
    contents = {
        "a/both.jpg": jpeg(photo(LARGE, OTHER)),
        "a/one.jpg": jpeg(photo(OTHER)),
        "a/nobody.jpg": jpeg(photo()),
        "b/small.jpg": jpeg(photo(SMALL)),
        "b/text.jpg": b"not a picture",
        "b/cut.jpg": jpeg(photo(LARGE))[:2000],
        "c.jpg": jpeg(photo(LARGE), mode="L"),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return sorted(contents)


def write_tables(raw, names, boxes=None):
    split = ["train" if number % 2 else "test" for number in range(len(names))]
    photos = pd.DataFrame({"photo": names, "split": split, "labelled": True, "collection": "made"})
    photos.to_parquet(raw / "photos.parquet")
    if boxes is not None:
        boxes.to_parquet(raw / "boxes.parquet")


BOXES = {
    ("a/both.jpg", 0): (*true_box(*OTHER), True, 5.0, 3),
    ("a/both.jpg", 1): (*true_box(*LARGE), False, -5.0, 4),
    ("a/nobody.jpg", 0): (1.0, 1.0, 50.0, 50.0, False, 0.0, 5),
    ("b/small.jpg", 0): (*true_box(*SMALL), True, 9.0, 0),
}
TRUTH = pd.DataFrame(
    [(name, *values) for (name, _), values in BOXES.items()],
    columns=["photo", "x1", "y1", "x2", "y2", "glasses", "yaw", "skin_tone"],
)


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    monkeypatch.setenv("GAN_WORKERS", "1")
    monkeypatch.delenv("GAN_DATA", raising=False)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in a worker; more would find the same in another order
    yield
    cv2.setNumThreads(threads)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_tables(folder, write_photos(folder), TRUTH)
    return folder


def detect(raw, out=None, params=DETECTOR, scratch=None):
    out = out or raw.parent / "set"
    faces.detect_faces(raw, out, scratch or raw.parent / "scratch", params, DECODING)
    return open_set(out), pd.read_parquet(out / "rejects.parquet")


def content_of(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# boxes


def test_boxes_become_squares_about_their_centres():
    boxes = [[10, 10, 20, 20], [0, 0, 10, 20], [5.4, 1, 15, 4], [-7, 3, -3, 13]]
    assert squared(np.array(boxes)).tolist() == [[10, 10, 20, 20], [-5, 0, 15, 20], [5, -2, 15, 8], [-10, 3, 0, 13]]
    assert squared(NO_BOXES).shape == (0, 4)


box = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(box, box)
def test_iou_by_counting_pixels(a, b):
    sets = [set(itertools.product(range(x1, x2), range(y1, y2))) for x1, y1, x2, y2 in (a, b)]
    expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert iou(np.array([a, b]), np.array([b]))[:, 0].tolist() == pytest.approx([expected, 1.0])


def most_pairs(overlap):
    """Size of the largest one-to-one matching, by trying all."""
    n, m = overlap.shape
    if n > m:
        return most_pairs(overlap.T)
    return max(
        (sum(overlap[i, j] >= 0.5 for i, j in enumerate(p)) for p in itertools.permutations(range(m), n)), default=0
    )


@settings(max_examples=200)
@given(st.lists(box, max_size=4), st.lists(box, max_size=4))
def test_matching_is_one_to_one_and_maximal(boxes, truth):
    boxes, truth = np.array(boxes).reshape(-1, 4), np.array(truth).reshape(-1, 4)
    found, overlap = match(boxes, truth), iou(boxes, truth)
    hits = found[found >= 0]
    assert len(set(hits.tolist())) == len(hits)
    assert (overlap[found >= 0, hits] >= 0.5).all()
    free = np.setdiff1d(np.arange(len(truth)), hits)
    assert not (overlap[found < 0][:, free] >= 0.5).any()
    most = most_pairs(overlap)
    assert most / 2 <= len(hits) <= most
    if not (np.triu(iou(truth, truth), 1) > 0).any() and not (overlap == 0.5).any():
        assert len(hits) == most  # true boxes that do not overlap leave no choice


def test_the_better_detection_has_the_first_choice():
    truth = np.array([[0, 0, 10, 10], [3, 0, 13, 10]])
    between, left = [1, 0, 11, 10], [-4, 0, 6, 10]
    assert match(np.array([between, truth[1]]), truth).tolist() == [0, 1]
    assert match(np.array([truth[0], between]), truth).tolist() == [0, 1]
    assert match(np.array([left]), truth).tolist() == [-1]
    assert match(np.array([[0, 0, 10, 5]]), truth).tolist() == [0]  # exactly one half counts
    assert match(NO_BOXES, truth).tolist() == []
    assert match(truth, NO_BOXES).tolist() == [-1, -1]


def test_what_is_left_out_and_why():
    boxes = [
        [0, 0, 60, 60],
        [5, 0, 65, 60],
        [100, 0, 130, 30],
        [100, 50, 150, 100],
        [0, 0, 300, 300],
        [70, 0, 69.6, 99],
    ]
    found = select(np.array(boxes), np.array([9.0, 20, 30, 5, 40, 6]), 200, 110, DETECTOR)
    assert found.scores.tolist() == [40, 30, 20, 9, 6, 5]
    assert found.reasons == (faces.TOO_LARGE, "smaller than 40 px", "", faces.OVERLAPS, "", faces.TOO_FEW)
    assert found.boxes.tolist()[4] == [20, 0, 119, 99]
    assert found.kept.tolist() == [False, False, True, False, True, False]


def test_a_square_that_leaves_the_photo_is_shifted_inside():
    boxes = [[-10, 5, 40, 45], [170, 70, 210, 130], [60, 0, 170, 100]]
    found = select(np.array(boxes), np.array([9.0, 8, 7]), 200, 110, replace(DETECTOR, merge_iou=1.0))
    assert found.boxes.tolist() == [[0, 0, 50, 50], [140, 50, 200, 110], [60, 0, 170, 110]]
    assert found.reasons == ("", "", "")


@settings(max_examples=100)
@given(st.lists(st.tuples(box, st.integers(1, 9)), max_size=6), st.randoms(use_true_random=False))
def test_properties_of_what_is_kept(found, random):
    params = replace(DETECTOR, min_size=4, haar=replace(DETECTOR.haar, min_neighbours=3))
    boxes = np.array([box for box, _ in found]).reshape(-1, 4)
    scores = np.array([score for _, score in found], dtype=np.float64)
    result = select(boxes, scores, 14, 12, params)
    assert len(result.boxes) == len(result.scores) == len(result.reasons) == len(found)
    kept = result.boxes[result.kept]
    side = kept[:, 2] - kept[:, 0]
    assert (side == kept[:, 3] - kept[:, 1]).all()
    assert (side >= 4).all()
    assert (result.scores[result.kept] > 3).all()
    assert (kept >= 0).all()
    assert (kept <= [14, 12, 14, 12]).all()
    assert (np.triu(iou(kept, kept), 1) <= 0.3).all()
    order = random.sample(range(len(found)), len(found))
    shuffled = select(boxes[order], scores[order], 14, 12, params)
    assert (shuffled.boxes == result.boxes).all()
    assert shuffled.reasons == result.reasons


# the detector


@pytest.mark.parametrize("scale_factor", [1.05, 1.1, 1.3])
def test_grouping_apart_gives_what_opencv_gives(scale_factor):
    """Also at the photo's edges, where OpenCV cuts windows off, but only after grouping."""
    cascade = faces.open_cascade("frontalface_alt2")
    pictures = [photo(LARGE, OTHER, width=232), photo(SMALL, width=100, height=100), head(100)[12:87, 20:80]]
    pictures += [head(100)[10:80, 20:82], head(140)[28:112, 28:112], photo(width=60, height=60)]
    cut = 0
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        windows = faces.passed_windows(grey, cascade, scale_factor, 20)
        cut += int((windows[:, :2] + windows[:, 2:] > [width, height]).any(axis=1).sum())
        for size, neighbours in itertools.product((20, 32, 50), (1, 2, 5, 8)):
            found, scores = cascade.detectMultiScale2(grey, scale_factor, neighbours, minSize=(size, size))
            boxes, ours = faces.grouped(windows[windows[:, 2] >= size], neighbours, width, height)
            assert boxes.tolist() == faces.corners(found).tolist()
            assert ours.tolist() == np.ravel(scores).tolist()
    assert cut or scale_factor > 1.05


def test_faces_of_a_photo():
    found = faces.find_faces(photo(LARGE, OTHER), DETECTOR)
    kept = found.boxes[found.kept]
    assert len(kept) == 2
    assert match(kept, np.array([true_box(*LARGE), true_box(*OTHER)])).min() >= 0
    assert (found.scores[found.kept] > 5).all()


def test_weak_detections_are_reported_not_kept():
    strict = replace(DETECTOR, haar=replace(DETECTOR.haar, min_neighbours=1000))
    found = faces.find_faces(photo(LARGE), strict)
    assert not found.kept.any()
    assert faces.TOO_FEW in found.reasons


def test_an_unknown_cascade():
    faces.open_detector.cache_clear()
    with pytest.raises(InputError) as caught:
        faces.open_detector(replace(DETECTOR, haar=replace(DETECTOR.haar, cascade="front")))
    assert "OpenCV ships no cascade 'front'; expected eye, " in str(caught.value)
    assert "frontalface_alt2" in str(caught.value)


class FakeYuNet:
    """Finds what it is told, and remembers how it was asked."""

    rows = None
    asked = ()

    @classmethod
    def create(cls, model, config, size, **options):
        cls.asked = (model, config, size, options)
        return cls()

    def setInputSize(self, size):  # noqa: N802 - OpenCV's name
        self.size = size

    def detect(self, bgr):
        assert self.size == bgr.shape[1::-1]
        assert bgr[0, 0].tolist() == [1, 2, 3]
        return 1, self.rows


@pytest.fixture
def yunet(tmp_path, monkeypatch):
    (tmp_path / "data/models").mkdir(parents=True)
    (tmp_path / "data/models/yunet.onnx").write_bytes(b"a model")
    monkeypatch.setenv("GAN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cv2, "FaceDetectorYN", FakeYuNet)
    pin = hashlib.sha256(b"a model").hexdigest()
    faces.open_detector.cache_clear()
    yield replace(DETECTOR, detector="yunet", yunet=YuNet(model="models/yunet.onnx", sha256=pin, min_score=0.8))
    faces.open_detector.cache_clear()


def test_yunet(yunet, monkeypatch, tmp_path):
    marks = [0.0] * 10
    rows = np.array([[30, 20, 40, 60, *marks, 0.85], [-10, 5, 40, 50, *marks, 0.95], [100, 50, 20, 30, *marks, 0.9]])
    monkeypatch.setattr(FakeYuNet, "rows", rows.astype(np.float32))
    picture = np.full((120, 160, 3), (3, 2, 1), dtype=np.uint8)
    found = faces.find_faces(picture, yunet)
    assert FakeYuNet.asked == (str(tmp_path / "data/models/yunet.onnx"), "", (0, 0), {"score_threshold": 0.8})
    assert found.boxes.tolist() == [[0, 5, 50, 55], [95, 50, 125, 80], [20, 20, 80, 80]]
    assert found.scores == pytest.approx([0.95, 0.9, 0.85])
    assert found.reasons == ("", "smaller than 40 px", "")
    monkeypatch.setattr(FakeYuNet, "rows", None)
    assert faces.find_faces(picture, yunet).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": None}, "params, detect_faces.yunet: the detector is yunet, but model and sha256 are not both given"),
        ({"sha256": None}, "not both given"),
        ({"model": "models/none.onnx"}, "models/none.onnx; put the model there"),
        ({"sha256": "0" * 64}, f"params pin {'0' * 64}"),
    ],
)
def test_a_model_that_is_not_there(yunet, change, expected):
    with pytest.raises(InputError) as caught:
        faces.open_detector(replace(yunet, yunet=replace(yunet.yunet, **change)))
    assert expected in str(caught.value)


def test_a_model_without_gan_data(yunet, monkeypatch):
    monkeypatch.delenv("GAN_DATA")
    with pytest.raises(InputError, match=r"models/yunet\.onnx is looked for under GAN_DATA, which is not set"):
        faces.open_detector(yunet)


# photos to image set


def test_every_photo_and_every_detection_is_accounted_for(raw):
    write_tables(raw, [*sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.jpg")), "gone.jpg"], TRUTH)
    image_set, rejects = detect(raw)
    index = image_set.index
    assert image_set.images.shape == (4, 16, 16, 3)
    assert index["key"].tolist() == ["a/both.jpg#0", "a/both.jpg#1", "a/one.jpg#0", "c.jpg#0"]
    assert index["source"].tolist() == ["a/both.jpg", "a/both.jpg", "a/one.jpg", "c.jpg"]
    assert index["split"].tolist() == ["test", "test", "test", "test"]
    assert index["label"].tolist() == [-1] * 4
    of_photos = rejects[rejects["x1"].isna()].set_index("key")["reason"]
    assert of_photos.drop(["b/cut.jpg"]).to_dict() == {
        "a/nobody.jpg": faces.NO_FACE,
        "b/small.jpg": faces.NONE_KEPT,
        "b/text.jpg": "not a JPEG, PNG or WebP image",
        "gone.jpg": "cannot be read: No such file or directory",
    }
    assert of_photos["b/cut.jpg"].startswith("truncated or damaged")
    found = counts(index, rejects)
    assert found.photos == 8 == found.photos_with_a_face + found.photos_without + found.photos_unreadable
    assert (found.photos_with_a_face, found.photos_without, found.photos_unreadable) == (3, 2, 3)
    assert found.detections == found.kept + sum(found.left_out.values()) > 4
    assert found.left_out["smaller than 40 px"] >= 1
    keys = [*index["key"], *rejects["key"]]
    assert len(set(keys)) == len(keys)
    assert not (set(index["source"]) & set(of_photos.index))
    assert rejects["split"].isin(["train", "test"]).all()


def test_crops_are_cut_out_of_the_upright_photo(raw):
    image_set, _ = detect(raw)
    index = image_set.index
    row = index.iloc[2]
    picture = np.asarray(Image.open(raw / row["source"]))
    assert (row["photo_width"], row["photo_height"]) == (240, 160)
    part = picture[row["y1"] : row["y2"], row["x1"] : row["x2"]]
    assert part.shape[0] == part.shape[1] >= 40
    expected = cv2.resize(part, (16, 16), interpolation=cv2.INTER_AREA)
    assert (image_set.images[2] == expected).all()
    assert [index[name].dtype for name in faces.BOX] == [np.int32] * 4
    grey = image_set.images[3]
    assert (grey[..., 0] == grey[..., 2]).all()


def test_crops_may_be_enlarged(raw):
    image_set, _ = detect(raw, params=replace(DETECTOR, size=128))
    assert image_set.images.shape == (4, 128, 128, 3)
    row = image_set.index.iloc[2]
    part = np.asarray(Image.open(raw / row["source"]))[row["y1"] : row["y2"], row["x1"] : row["x2"]]
    small = cv2.resize(image_set.images[2], part.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - part).mean() < 4


def test_truth_is_joined(raw):
    index, rejects = detect(raw)[0].index, pd.read_parquet(raw.parent / "set/rejects.parquet")
    both = index[index["source"] == "a/both.jpg"].sort_values("x1")
    assert both["head"].tolist() == [1, 0]
    assert both["yaw"].tolist() == [-5.0, 5.0]
    assert both["glasses"].tolist() == [False, True]
    assert both["skin_tone"].tolist() == [4, 3]
    others = index[index["source"] != "a/both.jpg"]
    assert others["head"].tolist() == [-1, -1]
    assert others[["yaw", "glasses", "skin_tone"]].isna().all(axis=None)
    small = rejects[(rejects["photo"] == "b/small.jpg") & rejects["x1"].notna()]
    assert 0 in small["head"].tolist()  # a true face, but too small


def test_heads_keep_their_numbers(raw):
    boxes = TRUTH.assign(head=[9, 4, 0, 7]).iloc[::-1]
    boxes.to_parquet(raw / "boxes.parquet")
    index = detect(raw)[0].index
    both = index[index["source"] == "a/both.jpg"].sort_values("x1")
    assert both["head"].tolist() == [4, 9]
    assert both["yaw"].tolist() == [-5.0, 5.0]


def test_without_true_boxes(raw):
    (raw / "boxes.parquet").unlink()
    image_set, rejects = detect(raw)
    assert len(image_set.index) == 4
    assert "head" not in image_set.index
    assert "head" not in rejects


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_honoured(tmp_path, orientation):
    """The same picture, stored turned: the same box in the upright photo."""
    picture = photo(OTHER)
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "turned.jpg").write_bytes(jpeg(np.rot90(picture, turns), exif=exif))
    index = detect(raw)[0].index
    assert len(index) == 1
    assert iou(index[faces.BOX].to_numpy(), np.array([true_box(*OTHER)])).item() > 0.8
    assert (index["photo_width"].item(), index["photo_height"].item()) == (240, 160)


def test_the_same_bytes_for_any_number_of_workers_and_after_a_crash(raw, monkeypatch):
    detect(raw)
    expected = content_of(raw.parent / "set")
    monkeypatch.setenv("GAN_WORKERS", "2")
    detect(raw, raw.parent / "set2", scratch=raw.parent / "scratch2")
    assert content_of(raw.parent / "set2") == expected
    monkeypatch.setenv("GAN_WORKERS", "1")
    done = []
    detect_chunk = faces._detect_chunk

    def dies(task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task.out.name)
        return detect_chunk(task)

    monkeypatch.setattr(faces, "_detect_chunk", dies)
    with pytest.raises(KeyboardInterrupt):
        detect(raw, raw.parent / "set3", scratch=raw.parent / "scratch3")
    assert not (raw.parent / "set3").exists()

    def goes_on(task):
        assert task.out.name not in done
        return detect_chunk(task)

    monkeypatch.setattr(faces, "_detect_chunk", goes_on)
    detect(raw, raw.parent / "set3", scratch=raw.parent / "scratch3")
    assert content_of(raw.parent / "set3") == expected


def test_a_folder_without_tables_and_an_lmdb_give_the_same_faces(tmp_path):
    import lmdb

    folder, base = tmp_path / "raw", tmp_path / "lmdb_raw"
    write_photos(folder)
    (folder / "notes.txt").write_text("not a photo")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    (base / "photos_lmdb").mkdir(parents=True)
    with (
        lmdb.open(str(base / "photos_lmdb"), map_size=1 << 20) as environment,
        environment.begin(write=True) as entries,
    ):
        for name in names:
            entries.put(name.encode(), (folder / name).read_bytes())
    of_folder, rejects = detect(folder, tmp_path / "one")
    of_lmdb, others = detect(base, tmp_path / "two", scratch=tmp_path / "scratch2")
    assert (of_folder.images == of_lmdb.images).all()
    pd.testing.assert_frame_equal(of_folder.index, of_lmdb.index)
    pd.testing.assert_frame_equal(rejects, others)
    assert set(of_folder.index["split"]) == {"train"}
    crops = [faces.rejected_crops(raw, rejects, n=9, seed=0, size=16, decoding=DECODING) for raw in (folder, base)]
    assert len(crops[0]) >= 1
    assert (crops[0] == crops[1]).all()


@pytest.fixture
def in_place(tmp_path, monkeypatch):
    folder = tmp_path / "data/people"
    write_photos(folder)
    monkeypatch.setenv("GAN_DATA", str(tmp_path / "data"))
    chunks = PhotoFolder(folder=folder).chunks()
    raw = tmp_path / "raw"
    raw.mkdir()
    record = {"layout": "photos", "n_images": 7, "sha256": listing_sha256(chunks)}
    (raw / "in_place.json").write_text(json.dumps({"folder": "people", "parts": {".": record}}))
    return raw


@pytest.mark.parametrize("listed", [False, True])
def test_photos_left_in_place_are_the_pinned_ones(in_place, listed):
    folder = in_place.parent / "data/people"
    if listed:
        write_tables(in_place, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")))
    assert len(detect(in_place)[0].index) == 4
    before = (folder / "c.jpg").read_bytes()
    (folder / "c.jpg").write_bytes(jpeg(photo(OTHER)))
    with pytest.raises(InputError, match="not what counts as the set"):
        detect(in_place, scratch=in_place.parent / "again")
    (folder / "c.jpg").unlink()
    with pytest.raises(InputError, match=r"6 images, .* pins 7; restore the data"):
        detect(in_place, scratch=in_place.parent / "again")
    (folder / "c.jpg").write_bytes(before)
    assert len(detect(in_place, scratch=in_place.parent / "again")[0].index) == 4


def test_sheets_of_crops(tmp_path):
    raw = tmp_path / "raw"
    write_photos(raw)
    (raw / "b/small, too.jpg").write_bytes(jpeg(np.roll(photo(SMALL), 100, axis=1)))
    _, rejects = detect(raw)
    boxes = rejects[rejects["x1"].notna()]
    crops = faces.rejected_crops(raw, rejects, 100, seed=0, size=16, decoding=DECODING)
    assert crops.shape == (len(boxes), 16, 16, 3)
    assert set(boxes["photo"]) == {"b/small.jpg", "b/small, too.jpg"}
    for crop, row in zip(crops, boxes.to_dict("records"), strict=True):
        picture = np.asarray(Image.open(raw / row["photo"]).convert("RGB"))
        assert (crop == faces.crop(picture, np.array([row[name] for name in ("x1", "y1", "x2", "y2")]), 16)).all()


def test_a_better_one_that_was_left_out_takes_no_head_from_a_kept_one():
    near, far = [10.0, 10.0, 50.0, 50.0], [12.0, 12.0, 52.0, 52.0]
    truth = pd.DataFrame([("a", 5, *near)], columns=["photo", "head", *faces.BOX])
    rows = pd.DataFrame(
        [("a", *near, 0.9, "too small"), ("a", *far, 0.5, "")], columns=["photo", *faces.BOX, "score", "reason"]
    )
    assert faces._heads(rows, truth).tolist() == [5, 5]


def test_a_crop_that_leaves_the_photo_is_filled_up():
    picture = np.zeros((10, 20, 3), dtype=np.uint8)
    crop = faces.crop(picture, np.array([-4, -2, 12, 14]), 16)
    inside = np.zeros((16, 16), dtype=bool)
    inside[2:12, 4:16] = True
    assert (crop[inside] == 0).all()
    assert (crop[~inside] == 128).all()
    assert (faces.crop(picture, np.array([-30, 0, -10, 20]), 16) == 128).all()


# bad input


def refusal(raw, **options):
    with pytest.raises(InputError) as caught:
        detect(raw, **options)
    assert not (raw.parent / "set").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(raw, name, change):
    table = pd.read_parquet(raw / name)
    change(table).to_parquet(raw / name)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("photos.parquet", lambda t: t.drop(columns="split"), "photos.parquet: no column split; expected photo, split"),
        ("photos.parquet", lambda t: t.iloc[:0], "names no photos"),
        ("photos.parquet", lambda t: pd.concat([t, t.iloc[:1]]), "names the photo a/both.jpg twice"),
        ("photos.parquet", lambda t: t.assign(split="half"), "has split 'half'; expected train or test"),
        ("photos.parquet", lambda t: t.assign(labelled="yes"), "column labelled is of type"),
        ("photos.parquet", lambda t: t.iloc[1:], "box of the photo a/both.jpg, which photos.parquet does not name"),
        ("boxes.parquet", lambda t: t.drop(columns="x2"), "boxes.parquet: no column x2"),
        ("boxes.parquet", lambda t: t.assign(photo="who.jpg"), "box of the photo who.jpg, which photos.parquet does"),
        ("boxes.parquet", lambda t: t.assign(x2=t["x1"]), "expected x1 < x2 and y1 < y2"),
        ("boxes.parquet", lambda t: t.assign(y1=np.nan), "row 0 (photo a/both.jpg) is the box"),
        ("boxes.parquet", lambda t: t.assign(head=7), "head 7 of the photo a/both.jpg is there twice"),
    ],
)
def test_tables_that_do_not_fit_together(raw, name, change, expected):
    changed(raw, name, change)
    assert expected in refusal(raw)


def test_damaged_and_missing_tables(raw):
    content = (raw / "boxes.parquet").read_bytes()
    (raw / "boxes.parquet").write_bytes(content[:-9])
    assert f"{raw / 'boxes.parquet'}: not a whole parquet file" in refusal(raw)
    (raw / "boxes.parquet").write_bytes(content)
    (raw / "photos.parquet").unlink()
    assert "boxes.parquet without photos.parquet" in refusal(raw)


def test_no_photos_and_no_faces(tmp_path):
    raw = tmp_path / "raw"
    assert f"{raw}: no such folder" in refusal(raw)
    raw.mkdir()
    assert f"{raw}: no photos; expected files ending in .jpg, " in refusal(raw)
    (raw / "nobody.jpg").write_bytes(jpeg(photo()))
    (raw / "text.jpg").write_text("not a picture")
    message = refusal(raw)
    assert "no face is kept (1 no face found, 1 not a JPEG, PNG or WebP image)" in message


def test_a_listing_that_leads_out_of_the_folder(raw):
    (raw.parent / "secret.jpg").write_bytes(jpeg(photo(LARGE)))
    write_tables(raw, ["../secret.jpg", "a/one.jpg", "/etc/passwd"])
    (raw / "boxes.parquet").unlink()
    _, rejects = detect(raw)
    expected = {"../secret.jpg": "leads out of the folder", "/etc/passwd": "leads out of the folder"}
    assert rejects[rejects["x1"].isna()].set_index("key")["reason"].to_dict() == expected


def test_an_lmdb_and_a_listing(raw):
    (raw / "photos_lmdb").mkdir()
    (raw / "photos_lmdb/data.mdb").write_bytes(b"")
    assert "photos.parquet lists files, but the photos are in the LMDB" in refusal(raw)
    (raw / "more_lmdb").mkdir()
    (raw / "more_lmdb/data.mdb").write_bytes(b"")
    assert "2 LMDBs (more_lmdb, photos_lmdb); one is expected" in refusal(raw)


# tables of real collections

LISTING = """file,true_faces,true_boxes_x1_y1_x2_y2,altered
x/a.jpg,2,"1,2,30,40 50.5,2,70,20","yes, a bit"
x/b.jpg,1,"1,2,3,4",
x/c.jpg,,,
y/d.jpg,0,,
y/e.jpg,0,,
"""


def test_tables_of_a_collection(tmp_path):
    (tmp_path / "index.csv").write_text(LISTING)
    photos, boxes = photo_tables(tmp_path, seed=3)
    assert photos["photo"].tolist() == ["x/a.jpg", "x/b.jpg", "x/c.jpg", "y/d.jpg", "y/e.jpg"]
    assert photos["labelled"].tolist() == [True, True, False, True, True]
    assert photos["collection"].tolist() == ["x", "x", "x", "y", "y"]
    assert photos["split"].tolist()[2] == "train"
    assert sorted(photos["split"][:2]) == sorted(photos["split"][3:]) == ["test", "train"]  # each collection is parted
    assert boxes.to_numpy().tolist() == [
        ["x/a.jpg", 0, 1.0, 2.0, 30.0, 40.0],
        ["x/a.jpg", 1, 50.5, 2.0, 70.0, 20.0],
        ["x/b.jpg", 0, 1.0, 2.0, 3.0, 4.0],
    ]
    splits = {tuple(photo_tables(tmp_path, seed=seed)[0]["split"]) for seed in range(20)}
    assert len(splits) == 4


def test_tables_of_a_plain_folder(tmp_path):
    write_photos(tmp_path)
    photos, boxes = photo_tables(tmp_path, seed=0)
    assert len(photos) == 7
    assert not photos["labelled"].any()
    assert set(photos["split"]) == {"train"}
    assert len(boxes) == 0
    photos.to_parquet(tmp_path / "photos.parquet")
    boxes.to_parquet(tmp_path / "boxes.parquet")
    assert len(read_tables(tmp_path).photos) == 7


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('x/f.jpg,2,"1,2,3,4",', "2 true faces but 1 boxes"),
        ('x/f.jpg,1,"1,2,3",', "1 true faces but 1 boxes '1,2,3'; expected as many of 4 numbers"),
        ('x/f.jpg,some,"1,2,3,4",', "true_faces 'some'"),
        ('x/f.jpg,1,"3,2,1,4",', "expected x1 < x2"),
        ("x/a.jpg,0,,", "names the photo x/a.jpg twice"),
    ],
)
def test_a_listing_that_does_not_add_up(tmp_path, line, expected):
    (tmp_path / "index.csv").write_text(LISTING + line + "\n")
    with pytest.raises(InputError) as caught:
        photo_tables(tmp_path, seed=0)
    assert str(caught.value).startswith(f"{tmp_path / 'index.csv'}: ")
    assert expected in str(caught.value)


def test_photos_that_the_listing_does_not_name_are_not_passed_over(tmp_path):
    (tmp_path / "index.csv").write_text(LISTING)
    for name in ("x/a.jpg", "y/z.jpg", "w.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    with pytest.raises(InputError, match=r"index\.csv: does not name 2 of the photos in the folder, such as w\.jpg"):
        photo_tables(tmp_path, seed=0)


def test_a_listing_without_its_columns(tmp_path):
    (tmp_path / "index.csv").write_text("photo,faces\na.jpg,1\n")
    with pytest.raises(InputError, match="no column file, true_faces, true_boxes_x1_y1_x2_y2"):
        photo_tables(tmp_path, seed=0)
    (tmp_path / "index.csv").write_bytes(b"file\n\xff\xfe.jpg\n")
    with pytest.raises(InputError, match="not a CSV table in UTF-8"):
        photo_tables(tmp_path, seed=0)


@pytest.fixture
def real_faces(request):
    request.getfixturevalue("monkeypatch").undo()  # one_worker took GAN_DATA away
    from pipeline.core.gan_data import data_folder

    folder = data_folder()
    assert folder is not None
    return folder / "faces"


@pytest.mark.real_data
def test_the_real_collection(real_faces):
    photos, boxes = photo_tables(real_faces, seed=0)
    labelled = photos[photos["labelled"]]
    with_faces = labelled["photo"].isin(boxes["photo"])
    assert (len(photos), len(boxes)) == (269, 213)
    assert (int(with_faces.sum()), int((~with_faces).sum()), int((~photos["labelled"]).sum())) == (55, 123, 91)
    assert int((boxes["x2"] - boxes["x1"] >= 64).sum()) == 45
    halves = labelled.assign(with_faces=with_faces).groupby("split")["with_faces"].agg(["sum", "size"])
    assert halves.loc["test"].tolist() == [27, 89]
    assert halves.loc["train"].tolist() == [28, 89]
    of_half = boxes.merge(photos, on="photo")["split"].value_counts()
    assert abs(of_half["train"] - of_half["test"]) < 20
    assert all((real_faces / Path(name)).is_file() for name in photos["photo"])
