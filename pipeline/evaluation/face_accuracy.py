"""Recall and precision of the face detector on photos whose true boxes are known, and the settings that suit them.

The settings are chosen on one half of the photos (split ``train``) and reported on the other (``test``).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Len

from pipeline.core.errors import InputError
from pipeline.core.files import whole_file
from pipeline.core.params import section
from pipeline.core.progress import Progress
from pipeline.datasets.archives import Chunk
from pipeline.datasets.decode import Decoding, Rejected
from pipeline.datasets.faces import (
    FaceDetector,
    decoded,
    find_faces,
    grouped,
    match,
    open_cascade,
    open_detector,
    passed_windows,
    photo_archive,
    select,
)
from pipeline.datasets.in_place import check_pins
from pipeline.datasets.photo_tables import BOX, SPLITS, read_tables
from pipeline.datasets.workers import parallel
from pipeline.evaluation.intervals import wilson

WIDTHS_PX = (0.0, 32.0, 64.0, 128.0, np.inf)
YAWS_DEG = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, np.inf)
WHOLE_PHOTOS = ("all", "photos with faces")  # groups in which what was found and what is right are the same faces
READ = -1  # in place of a setting: the photo could be read


@section
class FaceSweep:
    """``face_accuracy``: the settings of the cascade that are tried; ``max_photos`` limits the photos (null = all)."""

    scale_factors: Annotated[list[Annotated[float, Gt(1)]], Len(min_length=1)]
    min_neighbours: Annotated[list[Annotated[int, Ge(1)]], Len(min_length=1)]
    min_sizes: Annotated[list[Annotated[int, Ge(1)]], Len(min_length=1)]
    max_photos: Annotated[int, Ge(2)] | None


def face_accuracy(
    raw: Path, scratch_folder: Path, detector: FaceDetector, sweep: FaceSweep, decoding: Decoding
) -> pd.DataFrame:
    """Measure the configured detector and every setting of the sweep.

    Only photos whose boxes are complete count (``labelled``). Both halves are measured with every setting; the one
    with the best F1 on ``train`` is ``chosen`` (equal ones: the fastest, that is the largest scale factor, then the
    largest smallest window, then the most neighbours).

    Returns
    -------
    DataFrame
        One row for each half, setting and group: ``half, setting, detector, scale_factor, min_neighbours, search_size,
        min_size, configured, chosen, group, n_photos, n_true, n_found, recall, recall_low, recall_high, n_detected,
        n_right, precision, precision_low, precision_high, f1``. Groups: all; photos with and without faces; faces by
        width (of the true box for recall, of the detected one for precision) and at least ``min_size`` wide; by yaw,
        glasses and skin tone where those are known (detections have none, so there is no precision). Intervals are
        Wilson's at 95 %; faces of one photo are counted as if they were independent. A share of nothing is NaN.
        Without rows if no photo is labelled.

    Raises
    ------
    InputError
        If only one half of the labelled photos has true boxes.
    """
    photos, boxes = labelled_photos(raw, sweep.max_photos)
    if not len(photos):
        return _as_result(pd.DataFrame(columns=list(COLUMNS)))
    open_detector(detector)
    check_pins(raw)
    settings = [detector, *sweep_settings(detector, sweep)]
    chunks = photo_archive(raw, photos["photo"].tolist()).chunks()
    truth = {str(photo): table[BOX].to_numpy(dtype=np.float64) for photo, table in boxes.groupby("photo")}
    files = [scratch_folder / f"{number:07d}.parquet" for number in range(len(chunks))]
    tasks = [
        _Task(chunk=chunk, truth=truth, settings=tuple(settings), decoding=decoding, out=file)
        for chunk, file in zip(chunks, files, strict=True)
        if not file.is_file()
    ]
    left = sum(task.chunk.n for task in tasks)
    with Progress("face accuracy", total=len(photos), unit="photos", done=len(photos) - left) as progress:
        for n_photos in parallel(_measure_chunk, tasks):
            progress.advance(n_photos)
    found = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    read = boxes["photo"].isin(found["photo"][found["setting"] == READ])
    for half in SPLITS:
        if not read[boxes["photo"].map(photos.set_index("photo")["split"]) == half].any():
            message = (
                f"{raw}: none of the photos of split '{half}' that have a true box could be read; look at the photos, "
                "and at the section decoding of the params"
            )
            raise InputError(message)
    return _summary(photos, boxes, found, settings)


def labelled_photos(raw: Path, max_photos: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photos that count and their true boxes; at most ``max_photos``, spread evenly over both halves."""
    tables = read_tables(raw)
    if tables.photos is None or tables.boxes is None:
        return pd.DataFrame({"photo": [], "split": []}), pd.DataFrame({"photo": []})
    photos = tables.photos[tables.photos["labelled"]]
    if max_photos is not None:
        halves = [photos[photos["split"] == split] for split in SPLITS]
        photos = pd.concat([half.iloc[_spread(len(half), max_photos // 2)] for half in halves]).sort_values("photo")
    boxes = tables.boxes[tables.boxes["photo"].isin(photos["photo"])].reset_index(drop=True)
    split = boxes["photo"].map(photos.set_index("photo")["split"])
    for half in SPLITS:
        if len(photos) and not (split == half).any():
            message = (
                f"{raw}: no true box in the photos of split '{half}'; both halves need some (max_photos too small?)"
            )
            raise InputError(message)
    return photos.reset_index(drop=True), boxes


def _spread(n: int, wanted: int) -> np.ndarray:
    return np.arange(n) if wanted >= n else np.arange(wanted) * n // wanted


def sweep_settings(detector: FaceDetector, sweep: FaceSweep) -> list[FaceDetector]:
    """Every combination, the fastest first; faces are both looked for and kept from ``min_size`` up."""
    return [
        replace(
            detector,
            detector="haar",
            haar=replace(detector.haar, scale_factor=scale_factor, min_neighbours=min_neighbours),
            search_size=size,
            min_size=size,
        )
        for scale_factor in sorted(set(sweep.scale_factors), reverse=True)
        for size in sorted(set(sweep.min_sizes), reverse=True)
        for min_neighbours in sorted(set(sweep.min_neighbours), reverse=True)
    ]


# All settings on one photo


@dataclass(frozen=True, kw_only=True)
class _Task:
    chunk: Chunk
    truth: dict[str, np.ndarray]
    settings: tuple[FaceDetector, ...]
    decoding: Decoding
    out: Path


def _measure_chunk(task: _Task) -> int:
    """Write a row a kept detection: setting, photo, its width and the row of the true box it matches (-1 = none)."""
    configured, *others = task.settings
    rows: list[tuple[int, str, int, int]] = []
    for item in task.chunk.items():
        try:
            rgb = decoded(item, task.decoding)
        except Rejected:
            continue
        truth = task.truth.get(item.key, np.zeros((0, 4)))
        rows.append((READ, item.key, 0, -1))
        faces = find_faces(rgb, configured)
        kept = [faces.boxes[faces.kept], *swept_faces(rgb, others)]
        for setting, boxes in enumerate(kept):
            heads = match(boxes, truth)
            rows += [
                (setting, item.key, int(box[2] - box[0]), int(head)) for box, head in zip(boxes, heads, strict=True)
            ]
    table = pd.DataFrame(rows, columns=["setting", "photo", "width", "head"])
    with whole_file(task.out) as partial:
        table.astype({"photo": "str"}).to_parquet(partial, index=False)
    return task.chunk.n


def swept_faces(rgb: np.ndarray, settings: list[FaceDetector]) -> Iterator[np.ndarray]:
    """Boxes that :func:`~pipeline.datasets.faces.find_faces` keeps, for many settings of one cascade.

    The windows that pass the cascade are looked for once a scale factor; grouping them is cheap.
    """
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    smallest = min((setting.search_size for setting in settings), default=0)
    windows: dict[tuple[str, float], np.ndarray] = {}
    for setting in settings:
        key = (setting.haar.cascade, setting.haar.scale_factor)
        if key not in windows:
            windows[key] = passed_windows(grey, open_cascade(setting.haar.cascade), setting.haar.scale_factor, smallest)
        large = windows[key][windows[key][:, 2] >= setting.search_size]
        boxes, neighbours = grouped(large, setting.haar.min_neighbours, width, height)
        faces = select(boxes, neighbours, width, height, setting)
        yield faces.boxes[faces.kept]


# Counting


def _summary(
    photos: pd.DataFrame, boxes: pd.DataFrame, found: pd.DataFrame, settings: list[FaceDetector]
) -> pd.DataFrame:
    read = set(found["photo"][found["setting"] == READ])
    photos = photos[photos["photo"].isin(read)]
    half_of = photos.set_index("photo")["split"]
    # what a detection matched is its place among its photo's boxes
    boxes = boxes.assign(place=boxes.groupby("photo").cumcount(), width=boxes["x2"] - boxes["x1"])
    boxes = boxes[boxes["photo"].isin(read)]
    boxes = boxes.assign(half=boxes["photo"].map(half_of))
    found = found[found["setting"] != READ]
    found = found.assign(half=found["photo"].map(half_of), with_faces=found["photo"].isin(boxes["photo"]))
    rows = []
    for half in SPLITS:
        true = boxes[boxes["half"] == half]
        n_photos = int((half_of == half).sum())
        for number, setting in enumerate(settings):
            detected = found[(found["half"] == half) & (found["setting"] == number)]
            hits = detected[detected["head"] >= 0]
            is_found = pd.MultiIndex.from_frame(true[["photo", "place"]]).isin(
                pd.MultiIndex.from_frame(hits[["photo", "head"]])
            )
            for group, of_true, of_detected in _groups(true, detected, setting.min_size):
                right = None if of_detected is None else int((of_detected & (detected["head"] >= 0)).sum())
                n_detected = None if of_detected is None else int(of_detected.sum())
                counted = _counts(int(of_true.sum()), int((of_true & is_found).sum()), n_detected, right)
                if group in WHOLE_PHOTOS and n_detected is not None:
                    counted["f1"] = 2 * counted["n_found"] / (counted["n_true"] + n_detected)
                rows.append(
                    {"half": half, "number": number, "group": group, "n_photos": n_photos} | _named(setting) | counted
                )
    table = pd.DataFrame(rows)
    tuned = table[(table["half"] == "train") & (table["group"] == WHOLE_PHOTOS[0]) & (table["number"] > 0)]
    chosen = tuned["number"].to_numpy()[tuned["f1"].to_numpy().argmax()]  # the first of equals
    table = table.assign(configured=table["number"] == 0, chosen=table["number"] == chosen)
    return _as_result(table)


COLUMNS = (
    *("half", "setting", "detector", "scale_factor", "min_neighbours", "search_size", "min_size", "configured"),
    *("chosen", "group", "n_photos", "n_true", "n_found", "recall", "recall_low", "recall_high"),
    *("n_detected", "n_right", "precision", "precision_low", "precision_high", "f1"),
)


def _as_result(table: pd.DataFrame) -> pd.DataFrame:
    types = dict.fromkeys(("half", "setting", "detector", "group"), "str")
    types |= dict.fromkeys(("min_neighbours", "search_size", "min_size", "n_photos", "n_true", "n_found"), "int64")
    types |= {"configured": "bool", "chosen": "bool", "n_detected": "Int64", "n_right": "Int64"}
    return table[list(COLUMNS)].astype(dict.fromkeys(COLUMNS, "float64") | types)


def _named(setting: FaceDetector) -> dict[str, Any]:
    haar = setting.haar
    name = f"{haar.cascade} {haar.scale_factor:g} / {haar.min_neighbours}" if setting.detector == "haar" else "yunet"
    sizes = f"{setting.search_size} px" if setting.detector == "haar" else "any size"
    return {
        "setting": f"{name}, from {sizes}, kept from {setting.min_size} px",
        "detector": setting.detector,
        "scale_factor": haar.scale_factor,
        "min_neighbours": haar.min_neighbours,
        "search_size": setting.search_size,
        "min_size": setting.min_size,
    }


def _groups(
    true: pd.DataFrame, detected: pd.DataFrame, min_size: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, which true boxes and which detections belong (None: detections cannot be told apart by it)."""
    every, any_width = np.ones(len(true), dtype=bool), np.ones(len(detected), dtype=bool)
    with_faces = detected["with_faces"].to_numpy(dtype=bool)
    everything, boxed = WHOLE_PHOTOS
    yield everything, every, any_width
    yield boxed, every, with_faces
    yield "photos without faces", ~every, ~with_faces
    width, found_width = true["width"].to_numpy(), detected["width"].to_numpy()
    yield f"width >= {min_size} px", width >= min_size, None
    for low, high in itertools.pairwise(WIDTHS_PX):
        yield f"width {_span(low, high)} px", _within(width, low, high), _within(found_width, low, high)
    if "yaw" in true:
        yaw = true["yaw"].abs().to_numpy(dtype=np.float64)
        for low, high in itertools.pairwise(YAWS_DEG):
            yield f"yaw {_span(low, high)} degrees", _within(yaw, low, high), None
    if "glasses" in true:
        glasses = true["glasses"].to_numpy(dtype=bool)
        yield "with glasses", glasses, None
        yield "without glasses", ~glasses, None
    if "skin_tone" in true:
        tones = true["skin_tone"].to_numpy()
        for tone in sorted(set(tones.tolist())):
            yield f"skin tone {tone}", tones == tone, None


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


def _span(low: float, high: float) -> str:
    return f"{low:g} and more" if np.isinf(high) else f"{low:g} to {high:g}"


def _counts(n_true: int, n_found: int, n_detected: int | None, n_right: int | None) -> dict[str, Any]:
    recall_low, recall_high = wilson(n_found, n_true)
    precision_low, precision_high = wilson(n_right or 0, n_detected or 0)
    return {
        "n_true": n_true,
        "n_found": n_found,
        "recall": n_found / n_true if n_true else np.nan,
        "recall_low": recall_low,
        "recall_high": recall_high,
        "n_detected": n_detected,
        "n_right": n_right,
        "precision": n_right / n_detected if n_right is not None and n_detected else np.nan,
        "precision_low": precision_low,
        "precision_high": precision_high,
        "f1": np.nan,
    }
