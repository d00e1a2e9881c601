"""Face detection, decoding and cropping by several processes, against the plain single-process OpenCV loop.

``python -m benchmarks.bench_faces`` takes rendered heads where ``data/embedded/raw/faces`` has them, else the real
photos of ``$GAN_DATA/faces``. The loop is timed twice: with OpenCV on one thread, and with its own threads, which share
out the windows of one photo. Both give the same boxes as ours.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import cv2.data
import numpy as np
import pandas as pd

from pipeline.core.errors import InputError
from pipeline.datasets.archives import PhotoFolder
from pipeline.datasets.decode import Decoding
from pipeline.datasets.faces import BOX, OVERLAPS, FaceDetector, Haar, YuNet, detect_faces
from pipeline.datasets.workers import worker_count

ROUNDS = 3
THREADS = cv2.getNumThreads()
EMBEDDED = Path("data/embedded/raw/faces")
DECODING = Decoding(max_pixels=100_000_000, max_aspect_ratio=20.0)
DETECTOR = FaceDetector(
    detector="haar",
    haar=Haar(cascade="frontalface_alt2", scale_factor=1.1, min_neighbours=5),
    yunet=YuNet(model=None, sha256=None, min_score=0.9),
    search_size=48,
    min_size=48,
    merge_iou=0.3,
    size=64,
)


def photos(n: int) -> tuple[Path, list[str], str]:
    """Their folder, their names and what they are."""
    for folder, what in (
        (EMBEDDED, "rendered heads"),
        (Path(os.environ.get("GAN_DATA", ".")) / "faces", "real photos"),
    ):
        if folder.is_dir():
            names = [item.key for chunk in PhotoFolder(folder=folder).chunks() for item in chunk.items()]
            return folder, names[:: max(1, len(names) // n)][:n], what
    message = f"no photos: neither {EMBEDDED} (dvc repro fetch@faces) nor $GAN_DATA/faces is there"
    raise InputError(message)


def plain_loop(folder: Path, names: list[str]) -> set[tuple]:
    """What a user would write; returns photo, x1, y1, x2, y2 of each face. The crops are made and kept in memory."""
    cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml")
    found, crops = set(), []
    for name in names:
        bgr = cv2.imread(str(folder / name))
        assert bgr is not None, name
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        for x, y, width, height in cascade.detectMultiScale(grey, 1.1, 5, minSize=(48, 48)):
            face = cv2.resize(bgr[y : y + height, x : x + width], (64, 64), interpolation=cv2.INTER_AREA)
            crops.append(cv2.cvtColor(face, cv2.COLOR_BGR2RGB))
            found.add((name, int(x), int(y), int(x + width), int(y + height)))
    np.stack(crops)
    return found


def boxes_of(out: Path) -> set[tuple]:
    """The boxes that the plain loop finds, too: those kept, and those that overlap a better one."""
    index, rejects = pd.read_parquet(out / "index.parquet"), pd.read_parquet(out / "rejects.parquet")
    overlapping = rejects[(rejects["reason"] == OVERLAPS) & (rejects["score"] > DETECTOR.haar.min_neighbours)]
    rows = pd.concat([index.rename(columns={"source": "photo"})[["photo", *BOX]], overlapping[["photo", *BOX]]])
    return set(rows.astype(dict.fromkeys(BOX, int)).itertuples(index=False, name=None))


def speed(n_photos: int) -> None:
    folder, names, what = photos(n_photos)
    seconds: dict[str, list[float]] = {"ours": [], "one thread": [], "its own threads": []}
    found, peer = set(), set()
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw"
        raw.mkdir()
        for part in sorted(folder.iterdir()):
            if part.is_dir():
                (raw / part.name).symlink_to(part.resolve())
        listing = {"photo": names, "split": "train", "labelled": False, "collection": ""}
        pd.DataFrame(listing, index=range(len(names))).to_parquet(raw / "photos.parquet")
        for number in range(-1, ROUNDS):  # the first starts the worker processes and is not counted
            started = time.perf_counter()
            detect_faces(raw, Path(temporary) / "set", Path(temporary) / f"chunks{number}", DETECTOR, DECODING)
            seconds["ours"] += [time.perf_counter() - started] if number >= 0 else []
            for threads, name in ((1, "one thread"), (THREADS, "its own threads")):
                if number >= 0:
                    cv2.setNumThreads(threads)
                    started = time.perf_counter()
                    peer = plain_loop(folder, names)
                    seconds[name].append(time.perf_counter() - started)
        found = boxes_of(Path(temporary) / "set")
    # a box that OpenCV cut off at the edge of the photo is no square, and is made one here
    square = {box for box in peer if box[3] - box[1] == box[4] - box[2]}
    assert square <= found, "the plain loop finds other boxes"
    assert len(found) == len(peer), "the plain loop finds another number of boxes"
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"face detection, {len(names)} photos ({what}), {worker_count()} processes: "
        f"ours {median['ours']:.2f} s ({len(names) / median['ours']:.1f} photos/s), {len(found)} boxes; "
        f"plain loop with OpenCV on one thread {median['one thread']:.2f} s, "
        f"ratio {median['one thread'] / median['ours']:.2f} (target >= 1.8 on 2 cores); "
        f"with OpenCV's own {THREADS} threads {median['its own threads']:.2f} s, "
        f"ratio {median['its own threads'] / median['ours']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=300)
    try:
        speed(parser.parse_args().photos)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
