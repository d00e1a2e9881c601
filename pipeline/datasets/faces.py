"""Photos -> OpenCV's face detector -> boxes -> square crops -> image set (DCGAN, section 4.2: the faces).

Every photo ends as one of three: it gives at least one face, or it has exactly one row among the rejects (it could not
be read, or no face was kept). Every detection ends as one of two: an image, or a row among the rejects. So

    photos     = photos in the index + rejects without a box
    detections = images              + rejects with a box
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.gan_data import data_folder
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.core.seeding import numpy_stream
from pipeline.core.store import check_set, write_arrays
from pipeline.datasets.archives import (
    PHOTO_SUFFIXES,
    Archive,
    Chunk,
    Item,
    LmdbChunk,
    LmdbImages,
    PhotoFolder,
    PhotoListing,
)
from pipeline.datasets.decode import Decoding, Rejected, decode
from pipeline.datasets.in_place import check_pins, content_folder, open_archive, read_record
from pipeline.datasets.photo_tables import BOX, PhotoTables, read_tables
from pipeline.datasets.workers import parallel

if TYPE_CHECKING:
    import cv2

MATCH_IOU = 0.5  # a detection is right if it overlaps a true box by this much: the usual convention
WEAK = 1  # groups of more windows than this are reported, if only among the rejects
GROUP_EPS = 0.2  # how like two windows must be to count as one face; detectMultiScale has it built in

NO_FACE = "no face found"
NONE_KEPT = "no face kept"
OVERLAPS = "overlaps a better one"
TOO_FEW = "too few windows agree"
TOO_LARGE = "larger than the photo"


@section
class Haar:
    """A cascade that OpenCV ships: windows from ``search_size`` up, each ``scale_factor`` larger than the last.

    A face is a group of *more than* ``min_neighbours`` like windows.
    """

    cascade: str
    scale_factor: Annotated[float, Gt(1)]
    min_neighbours: Annotated[int, Ge(1)]


@section
class YuNet:
    """A model file of ``cv2.FaceDetectorYN``, named relative to ``GAN_DATA``; null where there is none."""

    model: str | None
    sha256: str | None
    min_score: Annotated[float, Ge(0), Le(1)]


@section
class FaceDetector:
    """``detect_faces``: how faces are looked for, and which of them are kept.

    Attributes
    ----------
    search_size : smallest face that the detector looks for, in pixels of the photo
    min_size : smallest side of a box that is kept; what lies between the two is found and left out with its reason
    merge_iou : of two boxes that overlap by more, the one with the better score is kept
    size : side of the crops
    """

    detector: Literal["haar", "yunet"]
    haar: Haar
    yunet: YuNet
    search_size: Annotated[int, Ge(1)]
    min_size: Annotated[int, Ge(1)]
    merge_iou: Annotated[float, Gt(0), Le(1)]
    size: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class Faces:
    """What was found in one photo, best first.

    Attributes
    ----------
    boxes : int64 array, shape (n, 4)
        Squares x1, y1, x2, y2 in pixels of the upright photo; x2 and y2 are one past the last pixel.
    scores : float64 array, shape (n,)
        Haar: the number of windows that were grouped, which ``min_neighbours`` bounds (the weight of a cascade's last
        level, the other candidate, says nothing of how many agree). YuNet: its confidence, 0 to 1. Scores compare
        within one detector and one scale factor only.
    reasons : why a box is left out; "" for those that are kept
    """

    boxes: np.ndarray
    scores: np.ndarray
    reasons: tuple[str, ...]

    @property
    def kept(self) -> np.ndarray:
        """bool array, shape (n,)."""
        return np.array([not reason for reason in self.reasons], dtype=bool)


# One photo

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def find_faces(rgb: np.ndarray, params: FaceDetector) -> Faces:
    """Detect the faces of an upright RGB photo, uint8 (H, W, 3), and decide which are kept."""
    boxes, scores = open_detector(params)(rgb)
    height, width = rgb.shape[:2]
    return select(boxes, scores, width, height, params)


@functools.lru_cache(maxsize=4)
def open_detector(params: FaceDetector) -> Detector:
    """The detector: RGB uint8 (H, W, 3) -> boxes float64 (n, 4) as x1, y1, x2, y2 and scores float64 (n,).

    Raises
    ------
    InputError
        If OpenCV has no such cascade, or the model file is missing or not the pinned one.
    """
    return _haar(params.haar, params.search_size) if params.detector == "haar" else _yunet(params.yunet)


def _haar(params: Haar, search_size: int) -> Detector:
    import cv2

    cascade = open_cascade(params.cascade)

    def detect(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)  # as it is: equalising its histogram loses faces
        height, width = grey.shape
        windows = passed_windows(grey, cascade, params.scale_factor, search_size)
        boxes, neighbours = grouped(windows, params.min_neighbours, width, height)
        # A second grouping, because a lower threshold also changes which of two nested groups remains.
        weak, few = grouped(windows, WEAK, width, height)
        weak, few = weak[few <= params.min_neighbours], few[few <= params.min_neighbours]
        return np.concatenate([boxes, weak]), np.concatenate([neighbours, few])

    return detect


def passed_windows(
    grey: np.ndarray, cascade: "cv2.CascadeClassifier", scale_factor: float, search_size: int
) -> np.ndarray:
    """All windows that pass the cascade, before grouping: int64 (n, 4) x, y, side, side.

    OpenCV cuts them off at the photo's edges (rounding lets some stand out by a pixel), which it does only after
    grouping when it groups; so they are completed here. Only of a window cut at two edges the list of sides is needed.
    """
    found = cascade.detectMultiScale(grey, scale_factor, 0, minSize=(search_size, search_size))
    windows = np.asarray(found, dtype=np.int64).reshape(-1, 4).copy()
    side = windows[:, 2:].max(axis=1)
    at_corner = (windows[:, :2] + windows[:, 2:] == grey.shape[::-1]).all(axis=1)
    sides = window_sides(cascade, scale_factor, max(grey.shape))
    side[at_corner] = sides[np.searchsorted(sides, side[at_corner])]
    windows[:, 2:] = side[:, None]
    return windows


def window_sides(cascade: "cv2.CascadeClassifier", scale_factor: float, largest: int) -> np.ndarray:
    """Sides of the windows that OpenCV tries, ascending, up to the first that is at least ``largest``."""
    smallest = cascade.getOriginalWindowSize()[0]
    factor, sides = 1.0, [smallest]
    while sides[-1] < largest:
        factor *= scale_factor
        sides.append(int(np.rint(np.float32(smallest) * np.float32(factor))))  # OpenCV's rounding: half to even
    return np.array(sides, dtype=np.int64)


def grouped(windows: np.ndarray, min_neighbours: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``detectMultiScale2`` makes of the windows: boxes float64 (n, 4) x1, y1, x2, y2 and their neighbours."""
    import cv2

    found, neighbours = cv2.groupRectangles(windows.tolist(), min_neighbours, GROUP_EPS)
    boxes = np.clip(corners(found), 0, [width, height, width, height])
    return boxes, np.asarray(neighbours, dtype=np.float64).reshape(-1)


def open_cascade(name: str) -> "cv2.CascadeClassifier":
    """A frontal or other cascade by its name between ``haarcascade_`` and ``.xml``."""
    import cv2
    import cv2.data

    folder = Path(cv2.data.haarcascades)
    file = folder / f"haarcascade_{name}.xml"
    if not file.is_file():
        names = sorted(path.stem.removeprefix("haarcascade_") for path in folder.glob("haarcascade_*.xml"))
        message = f"params, detect_faces.haar.cascade: OpenCV ships no cascade '{name}'; expected {', '.join(names)}"
        raise InputError(message)
    return cv2.CascadeClassifier(str(file))


def corners(found: object) -> np.ndarray:
    """OpenCV's x, y, width, height (an empty tuple if there is none) -> float64 (n, 4) x1, y1, x2, y2."""
    boxes = np.asarray(found, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _yunet(params: YuNet) -> Detector:
    import cv2

    detector = cv2.FaceDetectorYN.create(str(yunet_file(params)), "", (0, 0), score_threshold=params.min_score)

    def detect(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = rgb.shape[:2]
        detector.setInputSize((width, height))
        _, found = detector.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))  # None where there is no face
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)
        return corners(rows[:, :4]), rows[:, -1]  # between them the ten coordinates of eyes, nose and mouth

    return detect


def yunet_file(params: YuNet) -> Path:
    """The model file, verified.

    Raises
    ------
    InputError
        If the params name none, or it is missing, or it is not the pinned one.
    """
    where = "params, detect_faces.yunet"
    if params.model is None or params.sha256 is None:
        message = f"{where}: the detector is yunet, but model and sha256 are not both given; give them, or take haar"
        raise InputError(message)
    folder = data_folder()
    if folder is None:
        message = f"{where}.model: {params.model} is looked for under GAN_DATA, which is not set; set it, or take haar"
        raise InputError(message)
    file = folder / params.model
    if not file.is_file():
        message = f"{where}.model: no file {file}; put the model there, or write detector: haar"
        raise InputError(message)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != params.sha256:
        message = f"{where}: sha256 of {file} is {found}, params pin {params.sha256}; not the model that is meant"
        raise InputError(message)
    return file


def select(boxes: np.ndarray, scores: np.ndarray, width: int, height: int, params: FaceDetector) -> Faces:
    """Square the boxes, put them inside the photo, leave out the small ones and those that overlap a better one.

    Parameters
    ----------
    boxes : float array, shape (n, 4)
    scores : float array, shape (n,)
    width, height : of the upright photo
    """
    square = squared(boxes)
    side = square[:, 2] - square[:, 0]
    # ties: the larger, then the upper left, so that the order never depends on the detector's threads
    order = np.lexsort((square[:, 0], square[:, 1], -side, -scores))
    square, side, scores = square[order], side[order], scores[order]
    fits = side <= min(width, height)
    for axis, extent in ((0, width), (1, height)):
        first = np.clip(square[:, axis], 0, np.maximum(extent - side, 0))
        square[fits, axis], square[fits, axis + 2] = first[fits], (first + side)[fits]
    reasons: list[str] = []
    better: list[int] = []  # the kept ones so far
    for index, box in enumerate(square):
        if not fits[index]:
            reasons.append(TOO_LARGE)
        elif side[index] < params.min_size:
            reasons.append(f"smaller than {params.min_size} px")
        elif better and iou(box[None], square[better]).max() > params.merge_iou:
            reasons.append(OVERLAPS)
        elif params.detector == "haar" and scores[index] <= params.haar.min_neighbours:
            reasons.append(TOO_FEW)
        else:
            reasons.append("")
            better.append(index)
    return Faces(boxes=square, scores=scores, reasons=tuple(reasons))


def squared(boxes: np.ndarray) -> np.ndarray:
    """Squares about the same centres, as wide as the longer side: int64 (n, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    side = np.floor((boxes[:, 2:] - boxes[:, :2]).max(axis=1) + 0.5)[:, None]
    first = np.floor((boxes[:, :2] + boxes[:, 2:] - side) / 2 + 0.5)
    return np.concatenate([first, first + side], axis=1).astype(np.int64)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs of boxes: (n, 4), (m, 4) -> float64 (n, m)."""
    a, b = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a, b))
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = overlap.clip(min=0).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    return shared / (area_a[:, None] + area_b[None, :] - shared)


def match(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Give each detection, in the order given (best first), the free true box that it overlaps most.

    Parameters
    ----------
    boxes : array, shape (n, 4)
    truth : array, shape (m, 4)

    Returns
    -------
    int64 array, shape (n,)
        Row in ``truth``, each at most once; -1 where no free box is overlapped by ``MATCH_IOU``.
    """
    overlap = iou(boxes, truth)
    found = np.full(len(overlap), -1, dtype=np.int64)
    if not overlap.shape[1]:
        return found
    for index, row in enumerate(overlap):
        best = int(row.argmax())
        if row[best] >= MATCH_IOU:
            found[index] = best
            overlap[:, best] = -1
    return found


def crop(rgb: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """A square box of a photo as size x size pixels; mid-grey where it leaves the photo."""
    import cv2

    x1, y1, x2, y2 = (int(value) for value in box)
    height, width = rgb.shape[:2]
    part = rgb[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:  # only a box that was left out
        inside, part = part, np.full((y2 - y1, x2 - x1, 3), 128, dtype=np.uint8)
        top, left = max(-y1, 0), max(-x1, 0)
        part[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    method = cv2.INTER_AREA if x2 - x1 >= size else cv2.INTER_CUBIC
    return cv2.resize(part, (size, size), interpolation=method)


# Photos, wherever they lie


def photo_archive(raw: Path, keys: Sequence[str] | None) -> Archive:
    """The photos of a raw folder: those that ``keys`` name, or all of its folder or LMDB.

    Raises
    ------
    InputError
        If a folder is missing, there are several LMDBs or parts, or keys are named and there is an LMDB.
    """
    place = content_folder(raw)
    if keys is None:
        record = read_record(raw)
        if record is None:
            found = _lmdb_folder(place)
            return LmdbImages(folder=found) if found else PhotoFolder(folder=place)
        if len(record["parts"]) != 1:
            message = (
                f"{raw}: the photos have {len(record['parts'])} parts ({', '.join(record['parts'])}); one is expected"
            )
            raise InputError(message)
        ((name, part),) = record["parts"].items()
        return open_archive(place / name, part["layout"])
    found = _lmdb_folder(place)
    if found:
        message = f"{raw}: photos.parquet lists files, but the photos are in the LMDB {found}; remove one of the two"
        raise InputError(message)
    return PhotoListing(folder=place, keys=tuple(keys))


def _lmdb_folder(place: Path) -> Path | None:
    found = [file.parent for file in (place / "data.mdb", *sorted(place.glob("*/data.mdb"))) if file.is_file()]
    if len(found) > 1:
        message = f"{place}: {len(found)} LMDBs ({', '.join(path.name for path in found)}); one is expected"
        raise InputError(message)
    return found[0] if found else None


def decoded(item: Item, decoding: Decoding) -> np.ndarray:
    """The upright photo, RGB uint8 (H, W, 3).

    Raises
    ------
    Rejected
        With the reason why there is none.
    """
    if item.content is None:
        raise Rejected(item.reason)
    return decode(item.content, decoding).rgb


# All photos


def detect_faces(raw: Path, out: Path, scratch_folder: Path, params: FaceDetector, decoding: Decoding) -> None:
    """Photos -> image set N x size x size x 3 of faces, labels -1.

    The index adds ``x1, y1, x2, y2`` (int32, upright photo), ``score``, ``photo_width``, ``photo_height`` and, where
    true boxes are known, ``head`` (number of the true box in the photo that the face matches, -1 = none) with that
    head's attributes. The rejects add ``split``, ``photo`` and, for detections, box and score. A detection's key is
    ``photo#k``, k counting the detections of the photo from the best; a photo's key is its name.

    Parameters
    ----------
    scratch_folder : finished chunks of photos wait here, for a run that was killed to go on with

    Raises
    ------
    InputError
        If there are no photos, tables do not fit together, the detector is not there, or no face at all is kept.
    """
    tables = read_tables(raw)
    names = None if tables.photos is None else tables.photos["photo"].tolist()
    chunks = photo_archive(raw, names).chunks()
    if not chunks:
        message = f"{raw}: no photos; expected files ending in {', '.join(PHOTO_SUFFIXES)}, an LMDB or a listing"
        raise InputError(message)
    open_detector(params)  # what is wrong with it is said once, here
    check_pins(raw)
    files = [scratch_folder / f"{number:07d}.npz" for number in range(len(chunks))]
    tasks = [
        _Task(chunk=chunk, params=params, decoding=decoding, out=file)
        for chunk, file in zip(chunks, files, strict=True)
        if not file.is_file()
    ]
    total, left = sum(chunk.n for chunk in chunks), sum(task.chunk.n for task in tasks)
    with Progress("face detection", total=total, unit="photos", done=total - left) as progress:
        for n_photos in parallel(_detect_chunk, tasks):
            progress.advance(n_photos)
    _assemble(out, files, tables, params)


@dataclass(frozen=True, kw_only=True)
class _Task:
    chunk: Chunk
    params: FaceDetector
    decoding: Decoding
    out: Path


def _detect_chunk(task: _Task) -> int:
    """Write the crops and the table of some photos: a row a detection, and a row a photo of which nothing is kept."""
    crops: list[np.ndarray] = []
    rows: list[tuple] = []
    for item in task.chunk.items():
        photo = item.key
        try:
            rgb = decoded(item, task.decoding)
        except Rejected as rejected:
            rows.append((photo, photo, str(rejected), *NO_BOX))
            continue
        faces = find_faces(rgb, task.params)
        height, width = rgb.shape[:2]
        for number, (box, score, reason) in enumerate(zip(faces.boxes, faces.scores, faces.reasons, strict=True)):
            rows.append((f"{photo}#{number}", photo, reason, *box, score, width, height))
            if not reason:
                crops.append(crop(rgb, box, task.params.size))
        if not faces.kept.any():
            rows.append((photo, photo, NONE_KEPT if len(faces.boxes) else NO_FACE, *NO_BOX))
    columns = dict(zip(ROW, zip(*rows, strict=True), strict=True))
    size = task.params.size
    arrays: dict[str, np.ndarray] = {name: np.array(values, dtype=ROW[name]) for name, values in columns.items()}
    arrays["crops"] = np.array(crops, dtype=np.uint8).reshape(-1, size, size, 3)
    write_arrays(task.out, **arrays)
    return task.chunk.n


ROW = {"key": np.str_, "photo": np.str_, "reason": np.str_}
ROW |= dict.fromkeys(BOX, np.int32) | {"score": np.float64, "photo_width": np.int32, "photo_height": np.int32}
NO_BOX = (-1, -1, -1, -1, np.nan, -1, -1)


def _assemble(out: Path, files: list[Path], tables: PhotoTables, params: FaceDetector) -> None:
    parts = [_read_rows(file) for file in files]
    rows = pd.concat(parts, ignore_index=True)
    split = "train" if tables.photos is None else rows["photo"].map(tables.photos.set_index("photo")["split"])
    rows = rows.assign(split=split).astype({"split": "str"})
    is_box = rows["score"].notna()
    if tables.boxes is not None:
        rows = rows.assign(head=_heads(rows, tables.boxes))
    kept = rows[is_box & (rows["reason"] == "")]
    left_out = rows[~is_box | (rows["reason"] != "")]
    if not len(kept):
        why = ", ".join(f"{n} {reason}" for reason, n in left_out["reason"].value_counts().items())
        message = f"{out}: no face is kept ({why}); look at the photos, or lower detect_faces.min_size"
        raise InputError(message)
    index = pd.DataFrame({"key": kept["key"], "split": kept["split"], "label": -1, "source": kept["photo"]})
    index = index.join(kept[[*BOX, "score", "photo_width", "photo_height"]]).reset_index(drop=True)
    if tables.boxes is not None:
        index = index.join(_attributes(kept, tables.boxes))
    rejects = left_out[["key", "reason", "split", "photo", *BOX, "score", *(["head"] if "head" in rows else [])]]
    rejects = rejects.astype(dict.fromkeys(BOX, "Int32")).reset_index(drop=True)
    rejects.loc[rejects["score"].isna(), BOX] = pd.NA
    shape = (len(index), params.size, params.size, 3)
    with whole_directory(out) as partial:
        images = np.lib.format.open_memmap(partial / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        first = 0
        for file in files:
            with np.load(file, allow_pickle=False) as chunk:
                crops = chunk["crops"]
            images[first : first + len(crops)] = crops
            first += len(crops)
        images.flush()
        check_set(out, images, index)
        index.to_parquet(partial / "index.parquet", index=False)
        rejects.to_parquet(partial / "rejects.parquet", index=False)


def _read_rows(file: Path) -> pd.DataFrame:
    with np.load(file, allow_pickle=False) as chunk:
        return pd.DataFrame({name: chunk[name] for name in ROW}).astype({"key": "str", "photo": "str", "reason": "str"})


def _heads(rows: pd.DataFrame, boxes: pd.DataFrame) -> np.ndarray:
    """Number of the true box that each detection matches, -1 for none.

    Those that were kept and those left out are matched each by themselves: a better one that was left out takes no head
    from a kept one, and both may have the same.
    """
    heads = np.full(len(rows), -1, dtype=np.int64)
    truth = {str(photo): table for photo, table in boxes.groupby("photo")}
    found = rows[rows["photo"].isin(truth) & rows["score"].notna()]
    for (photo, _), table in found.groupby(["photo", found["reason"] == ""]):
        known = truth[str(photo)]
        matched = match(table[BOX].to_numpy(), known[BOX].to_numpy())
        heads[table.index] = np.where(matched >= 0, known["head"].to_numpy()[matched], -1)
    return heads


def _attributes(kept: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """``head`` and what is known of it; missing where a face matches none."""
    known = boxes.drop(columns=BOX)
    for name in known.columns.difference(["photo", "head"]):  # types that can say "missing"
        if pd.api.types.is_bool_dtype(known[name]):
            known[name] = known[name].astype("boolean")
        elif pd.api.types.is_integer_dtype(known[name]):
            known[name] = known[name].astype("Int64")
    joined = kept[["photo", "head"]].merge(known, on=["photo", "head"], how="left", validate="many_to_one")
    return joined.drop(columns="photo")


# What became of them


@dataclass(frozen=True, kw_only=True)
class FaceCounts:
    """Photos and detections; each of the two is the sum of what follows it."""

    photos: int
    photos_with_a_face: int
    photos_without: int
    photos_unreadable: int
    detections: int
    kept: int
    left_out: dict[str, int]


def counts(index: pd.DataFrame, rejects: pd.DataFrame) -> FaceCounts:
    """Count the photos and detections behind a set of faces, by what became of them."""
    of_photos = rejects[rejects["x1"].isna()]
    of_boxes = rejects[rejects["x1"].notna()]
    without = of_photos["reason"].isin([NO_FACE, NONE_KEPT])
    return FaceCounts(
        photos=index["source"].nunique() + len(of_photos),
        photos_with_a_face=index["source"].nunique(),
        photos_without=int(without.sum()),
        photos_unreadable=int((~without).sum()),
        detections=len(index) + len(of_boxes),
        kept=len(index),
        left_out={str(reason): int(n) for reason, n in of_boxes["reason"].value_counts().sort_index().items()},
    )


def rejected_crops(raw: Path, rejects: pd.DataFrame, n: int, seed: int, *, size: int, decoding: Decoding) -> np.ndarray:
    """Cut up to ``n`` of the detections that were left out again, at random: uint8 (n, size, size, 3).

    Mid-grey where a box leaves its photo.
    """
    boxes = rejects[rejects["x1"].notna()]
    order = np.sort(numpy_stream(seed, "faces/left out").permutation(len(boxes))[:n])
    crops = np.zeros((len(order), size, size, 3), dtype=np.uint8)
    for number, row in enumerate(order):
        photo, *box = boxes[["photo", *BOX]].iloc[row]
        crops[number] = crop(decoded(_photo(raw, str(photo)), decoding), np.array(box, dtype=np.int64), size)
    return crops


def _photo(raw: Path, key: str) -> Item:
    place = content_folder(raw)
    if not (raw / "photos.parquet").is_file():
        archive = photo_archive(raw, None)
        if isinstance(archive, LmdbImages):
            return next(LmdbChunk(folder=archive.folder, first=key.encode(), skip=0, n=1).items())
        place = getattr(archive, "folder", place)
    return next(PhotoListing(folder=place, keys=(key,)).chunks()[0].items())
