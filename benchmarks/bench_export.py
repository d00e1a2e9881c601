"""LSUN export and ImageNet crops against the loops that a user would write, in one process; with --growth, a table.

``python -m benchmarks.bench_export`` takes real bedrooms and photos where ``GAN_DATA`` names them, else made ones.
"""

import argparse
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import lmdb
import numpy as np
from PIL import Image

from pipeline.core.store import open_set
from pipeline.datasets.archives import ImageFolder, LmdbImages
from pipeline.datasets.decode import Decoding
from pipeline.datasets.export import Export, Part, export
from pipeline.datasets.workers import worker_count

ROUNDS = 3
LIMITS = Decoding(max_pixels=100_000_000, max_aspect_ratio=25.0)


def made_photos(n: int, short_side: int) -> list[bytes]:
    """JPEGs of smooth colours with some noise, about as large as photographs of that size."""
    photos = []
    for number in range(n):
        rng = np.random.default_rng(number)
        size = (short_side * 4 // 3, short_side)
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 6, picture.shape)
        photos.append(as_kind(Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)), "JPEG"))
    return photos


def as_kind(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return buffer.getvalue()


def bedrooms() -> tuple[list[bytes], str]:
    """Encoded rooms, and what they are."""
    folder = Path(os.environ.get("GAN_DATA", "")) / "lsun" / "bedroom_train_lmdb"
    if os.environ.get("GAN_DATA") and folder.is_dir():
        items = (item for chunk in LmdbImages(folder=folder).chunks() for item in chunk.items())
        return [item.content for item in items if item.content is not None], "real bedrooms"
    return made_photos(200, 256), "made pictures"


def photos() -> tuple[list[bytes], str]:
    folder = Path(os.environ.get("GAN_DATA", "")) / "imagenet" / "train"
    if os.environ.get("GAN_DATA") and folder.is_dir():
        items = (item for chunk in ImageFolder(folder=folder).chunks() for item in chunk.items())
        return [item.content for item in items if item.content is not None], "real ImageNet photos"
    return made_photos(200, 375), "made pictures"


def write_lmdb(folder: Path, contents: list[bytes], n: int) -> Path:
    """A database of n images: the contents again and again under new keys."""
    with lmdb.open(str(folder), map_size=1 << 36, sync=False) as environment:
        numbered = enumerate(islice(cycle(contents), n))
        while batch := list(islice(numbered, 1000)):
            with environment.begin(write=True) as transaction:
                for number, content in batch:
                    transaction.put(f"{number:08d}".encode(), content)
    return folder


def write_folder(folder: Path, contents: list[bytes], n: int) -> Path:
    """An ImageFolder of n photos in ten classes."""
    for number, content in enumerate(islice(cycle(contents), n)):
        path = folder / f"n{number % 10:02d}" / f"{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def lmdb_contents(folder: Path) -> Iterator[bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        yield from (bytes(content) for _, content in transaction.cursor())


def folder_contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*/*")):
        yield path.read_bytes()


def sides(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Size after resizing, and where the center crop begins."""
    scale = size / min(width, height)
    width, height = max(size, round(width * scale)), max(size, round(height * scale))
    return width, height, (width - size) // 2, (height - size) // 2


def with_pillow(content: bytes, size: int) -> np.ndarray:
    """As torchvision's Resize and CenterCrop do."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height, left, top = sides(*image.size, size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def with_opencv(content: bytes, size: int) -> np.ndarray:
    """Takes a truncated JPEG for a whole one."""
    image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    width, height, left, top = sides(image.shape[1], image.shape[0], size)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image[top : top + size, left : left + size], cv2.COLOR_BGR2RGB)


def plain_loop(contents: Iterable[bytes], out: Path, size: int, crop: Callable[[bytes, int], np.ndarray]) -> np.ndarray:
    np.save(out, np.stack([crop(content, size) for content in contents]))
    return np.load(out, mmap_mode="r")


def ours(part: Part, out: Path, size: int) -> np.ndarray:
    folder = out.with_name(f"{out.name}-scratch")
    shutil.rmtree(folder, ignore_errors=True)
    export([part], out, folder, Export(size=size, limit=None, decoding=LIMITS))
    shutil.rmtree(folder)
    return open_set(out).images


def compare(work: Path, what: str, path: Path, size: int, target: float) -> None:
    is_folder = (path / "n00").is_dir()
    part = Part(archive=(ImageFolder if is_folder else LmdbImages)(folder=path), split="train", source="train")
    read = folder_contents if is_folder else lmdb_contents
    peers = {"Pillow": with_pillow, "OpenCV": with_opencv}
    found = ours(part, work / "ours", size)  # the first call starts the workers
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    difference: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, crop in peers.items():
            started = time.perf_counter()
            peer = plain_loop(read(path), work / "peer.npy", size, crop)
            seconds[name].append(time.perf_counter() - started)
            assert found.shape == peer.shape
            difference[name] = float(np.abs(found.astype(np.int16) - peer).mean())
            assert difference[name] < 6, "the two do not show the same pictures"
        started = time.perf_counter()
        found = ours(part, work / "ours", size)
        seconds["ours"].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{what}, {len(found):,} images to {size} x {size}, {worker_count()} workers: "
        f"ours {len(found) / median['ours']:,.0f} images/s; "
        + "; ".join(
            f"{name} loop {len(found) / median[name]:,.0f}, ratio {median[name] / median['ours']:.2f}, "
            f"mean difference {difference[name]:.1f} of 255"
            for name in peers
        )
        + f" (target >= {target} against Pillow)",
        flush=True,
    )


def speed(n: int) -> None:
    rooms, what = bedrooms()
    webp = [as_kind(Image.open(io.BytesIO(content)), "WEBP") for content in rooms]
    pictures, of = photos()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        compare(work, f"LSUN export, JPEG, {what}", write_lmdb(work / "jpeg", rooms, n), 64, 3)
        compare(work, f"LSUN export, WebP, {what}", write_lmdb(work / "webp", webp, n), 64, 1.8)
        folder = write_folder(work / "photos", pictures, n)
        compare(work, f"ImageNet crops, {of}", folder, 32, 3)
        compare(work, f"ImageNet crops, {of}", folder, 128, 1.8)


def growth(sizes: list[int]) -> None:
    """Each size in a process of its own, for its peak of memory."""
    rooms, what = bedrooms()
    print(f"LSUN export of {what}, repeated under new keys, to 64 x 64, {worker_count()} workers")
    print("| images | seconds | images/s | peak memory, main process | peak memory, a worker |\n|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        for n in sizes:
            folder = write_lmdb(Path(name) / f"lmdb{n}", rooms, n)
            command = [sys.executable, "-m", "benchmarks.bench_export", "--one", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.strip(), flush=True)
            shutil.rmtree(folder)


def one(folder: Path) -> None:
    """A row of the table of growth."""
    from joblib.externals.loky import get_reusable_executor

    part = Part(archive=LmdbImages(folder=folder), split="train", source="train")
    started = time.perf_counter()
    n = len(ours(part, folder / "out", 64))
    seconds = time.perf_counter() - started
    get_reusable_executor().shutdown(wait=True)  # a child's peak is known when it has ended
    unit = 1 if sys.platform == "darwin" else 1024
    main_peak, worker_peak = (
        resource.getrusage(who).ru_maxrss * unit / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"| {n:,} | {seconds:.1f} | {n / seconds:,.0f} | {main_peak:.0f} MB | {worker_peak:.0f} MB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="images of each comparison")
    parser.add_argument("--growth", action="store_true", help="time and peak memory at 1,000 and 10,000 images")
    parser.add_argument("--large", action="store_true", help="with --growth: 100,000 images too (1.4 GB on the disk)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
    elif arguments.growth:
        growth([1_000, 10_000, *([100_000] if arguments.large else [])])
    else:
        speed(arguments.images)


if __name__ == "__main__":
    main()
