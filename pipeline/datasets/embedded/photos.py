"""Real photographs that ship inside scikit-image and scikit-learn; their windows and patches as classes."""

import functools
import importlib.util
import itertools
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, MultipleOf

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream

# name -> package and file. Read as files: the functions of skimage.data download what the package does not hold.
FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "cell": ("skimage", "data/cell.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "page": ("skimage", "data/page.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "text": ("skimage", "data/text.png"),
}


def photographs() -> dict[str, np.ndarray]:
    """All photographs by name, sorted: RGB uint8 (H, W, 3), read-only; grey ones have three equal channels.

    Raises
    ------
    InputError
        If an installed package does not hold one of the files.
    """
    return {name: _photograph(name) for name in sorted(FILES)}


@functools.cache
def _photograph(name: str) -> np.ndarray:
    from PIL import Image

    package, file = FILES[name]
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        place = path or f"package {package}"
        message = f"{place}: the photograph '{name}' is not there; install the pinned packages (constraints.txt)"
        raise InputError(message)
    with Image.open(path) as image:
        photo = np.array(image.convert("RGB"))
    photo.setflags(write=False)
    return photo


# Windows: an ImageFolder

# page and text are too low to be cut into windows, cell is one spot on a flat ground
WINDOW_CLASSES = tuple(name for name in FILES if name not in ("cell", "page", "text"))
SHORT_SIDE_PX = (140, 200)
LONGEST_ASPECT = 1.6
TRAIN_SHARE = 0.72  # of the photo's longer side; the windows of val/ lie in the rest
FLAT = 10.0  # grey levels: windows and patches with a smaller standard deviation show nothing, another is drawn
ATTEMPTS = 30


@section
class PhotoWindows:
    """``fetch.imagenet``, rendered: windows of real photographs, one class a photo."""

    seed: int
    n_train: Annotated[int, Ge(1)]
    n_validation: Annotated[int, Ge(0)]


def write_photo_windows(out: Path, windows: PhotoWindows) -> None:
    """Write an ImageFolder: ``train/<photo>/<number>.JPEG`` and ``val/...``, from disjoint parts of each photograph.

    Short sides of 140 to 200 px, aspects up to 1.6 either way; grey photographs give one-channel JPEGs.
    """
    with whole_directory(out) as partial:
        for split, n in (("train", windows.n_train), ("val", windows.n_validation)):
            for index in range(n):
                name = WINDOW_CLASSES[index % len(WINDOW_CLASSES)]
                rng = numpy_stream(windows.seed, f"photo windows/{split}", index)
                folder = partial / split / name
                folder.mkdir(parents=True, exist_ok=True)
                content = jpeg(_window(_part(_at_most_512(name), split), rng), quality=90)
                (folder / f"{index // len(WINDOW_CLASSES):05d}.JPEG").write_bytes(content)


@functools.cache
def _at_most_512(name: str) -> np.ndarray:
    return _shrunk(_photograph(name))


def _shrunk(photo: np.ndarray) -> np.ndarray:
    """The photograph with a short side of at most 512 px: a piece of a larger one shows little."""
    short = min(photo.shape[:2])
    return photo if short <= 512 else resize(photo, *(round(side * 512 / short) for side in photo.shape[1::-1]))


def _part(photo: np.ndarray, split: str) -> np.ndarray:
    upright = photo.shape[0] > photo.shape[1]
    along = photo if upright else photo.transpose(1, 0, 2)
    border = round(TRAIN_SHARE * along.shape[0])
    part = along[:border] if split == "train" else along[border:]
    return part if upright else part.transpose(1, 0, 2)


def _window(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = part.shape[:2]
    short = int(rng.integers(SHORT_SIDE_PX[0], SHORT_SIDE_PX[1] + 1))
    aspect = LONGEST_ASPECT ** rng.uniform(-1, 1)  # width / height
    shape = np.array([short * max(1, 1 / aspect), short * max(1, aspect)])
    largest = min(height / shape[0], width / shape[1])
    smallest = min(largest, max(0.45 * largest, 0.7))  # seldom more than a little enlarged
    found = [_cut(part, shape * rng.uniform(smallest, largest), rng)]
    while _variation(found[-1]) < FLAT and len(found) < ATTEMPTS:
        found.append(_cut(part, shape * rng.uniform(smallest, largest), rng))
    return resize(max(found, key=_variation), round(shape[1]), round(shape[0]))


def _cut(image: np.ndarray, shape: Sequence[float] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece (height, width) at a random place."""
    height, width = (min(round(float(side)), limit) for side, limit in zip(shape, image.shape[:2], strict=True))
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def _variation(image: np.ndarray) -> float:
    """Standard deviation over the image of its most varied channel, from every fourth pixel."""
    return float(image[::4, ::4].std(axis=(0, 1)).max())


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """By area where it shrinks; enlarging by area would give blocks."""
    import cv2

    shrinks = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode RGB uint8; an image without colour gets one channel only."""
    import cv2

    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    content = cv2.imencode(
        ".jpg",
        np.ascontiguousarray(image[..., 0] if grey else image[..., ::-1]),
        [cv2.IMWRITE_JPEG_QUALITY, quality],
    )[1]
    return content.tobytes()


# Patches: ten classes in CIFAR-10's layout

PATCH_CLASSES = (
    "astronaut",
    "chelsea",
    "china",
    "coffee",
    "flower",
    "hubble",
    "ihc",
    "motorcycle",
    "retina",
    "rocket",
)
PATCH_PX = (48, 96)  # in the photograph, then 32
CELL_PX = 100


@section
class PhotoPatches:
    """``fetch.cifar10``, rendered: 32 x 32 patches of ten photographs."""

    seed: int
    n_train: Annotated[int, Ge(50), MultipleOf(50)]  # five files, ten classes
    n_test: Annotated[int, Ge(10), MultipleOf(10)]


def write_photo_patches(out: Path, patches: PhotoPatches) -> None:
    """Write ``cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}``, classes equally often."""
    names = [f"data_batch_{number}" for number in range(1, 6)]
    train = _patches("train", patches.n_train, patches.seed)
    test = _patches("test", patches.n_test, patches.seed)
    per_file = patches.n_train // 5
    with whole_directory(out) as partial:
        folder = partial / "cifar-10-batches-py"
        folder.mkdir()
        for number, name in enumerate(names):
            part = slice(number * per_file, (number + 1) * per_file)
            label = f"training batch {number + 1} of 5"
            data, labels, filenames = train
            (folder / name).write_bytes(_batch(label, data[part], labels[part], filenames[part]))
        (folder / "test_batch").write_bytes(_batch("testing batch 1 of 1", *test))
        meta = {"num_cases_per_batch": per_file, "label_names": list(PATCH_CLASSES), "num_vis": 32 * 32 * 3}
        (folder / "batches.meta").write_bytes(python2_pickle(meta))


def cells(photo: np.ndarray, split: str) -> list[np.ndarray]:
    """The cells of a grid over a photograph (short side at most 512 px) that belong to ``train`` or ``test``.

    Each cell is at least 100 px wide and high; about one in five is ``test``, spread evenly.
    """
    photo = _shrunk(photo)
    rows = np.linspace(0, photo.shape[0], photo.shape[0] // CELL_PX + 1).astype(int)
    columns = np.linspace(0, photo.shape[1], photo.shape[1] // CELL_PX + 1).astype(int)
    return [
        photo[top:bottom, left:right]
        for row, (top, bottom) in enumerate(itertools.pairwise(rows))
        for column, (left, right) in enumerate(itertools.pairwise(columns))
        if ((2 * row + column) % 5 == 0) == (split == "test")
    ]


def patch(choices: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A 32 x 32 patch of one of the cells, mirrored or not."""
    side = int(rng.integers(PATCH_PX[0], PATCH_PX[1] + 1))
    found = [_cut(choices[int(rng.integers(len(choices)))], (side, side), rng)]
    while _variation(found[-1]) < FLAT and len(found) < ATTEMPTS:
        found.append(_cut(choices[int(rng.integers(len(choices)))], (side, side), rng))
    small = resize(max(found, key=_variation), 32, 32)
    return small[:, ::-1] if rng.random() < 0.5 else small


def _patches(split: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """uint8 (n, 3072) channel-first, labels, file names."""
    choices = [cells(_photograph(name), split) for name in PATCH_CLASSES]
    labels = numpy_stream(seed, f"photo patches/{split}/labels").permutation(np.arange(n) % len(PATCH_CLASSES))
    data = np.empty((n, 3, 32, 32), np.uint8)
    for index, label in enumerate(labels.tolist()):
        rng = numpy_stream(seed, f"photo patches/{split}", index)
        data[index] = patch(choices[label], rng).transpose(2, 0, 1)
    names = [f"{PATCH_CLASSES[label]}_{split}_{index:06d}.png" for index, label in enumerate(labels.tolist())]
    return data.reshape(n, -1), labels, names


def _batch(label: str, data: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> bytes:
    return python2_pickle({"batch_label": label, "labels": labels.tolist(), "data": data, "filenames": list(names)})


def python2_pickle(value: dict[str, object]) -> bytes:
    """Pickle as the official CIFAR-10 files are: protocol 2 with Python 2's byte strings.

    They load under ``encoding="latin1"`` (text keys: torchvision) and ``encoding="bytes"`` (the authors' page) alike,
    which nothing that Python 3 pickles does; and the bytes depend on no version of NumPy.
    """
    return pickle.PROTO + b"\x02" + _opcodes(value) + pickle.STOP


def _opcodes(value: object) -> bytes:
    match value:
        case dict():
            items = b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items())
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
        case list():
            return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_opcodes, value)) + pickle.APPENDS
        case str():
            return _bytestring(value.encode("ascii"))
        case int():
            return pickle.BININT + struct.pack("<i", value)
        case np.ndarray() if value.dtype == np.uint8 and value.ndim == 2:
            reconstruct = (
                pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n" + pickle.GLOBAL + b"numpy\nndarray\n"
                + _opcodes(0) + pickle.TUPLE1 + _bytestring(b"b") + pickle.TUPLE3 + pickle.REDUCE
            )  # fmt: skip
            dtype = (
                pickle.GLOBAL + b"numpy\ndtype\n"
                + _bytestring(b"u1") + _opcodes(0) + _opcodes(1) + pickle.TUPLE3 + pickle.REDUCE
            )  # fmt: skip
            shape = _opcodes(value.shape[0]) + _opcodes(value.shape[1]) + pickle.TUPLE2
            state = _opcodes(1) + shape + dtype + pickle.NEWFALSE + _bytestring(value.tobytes())
            return reconstruct + pickle.MARK + state + pickle.TUPLE + pickle.BUILD
    message = f"no recipe for {type(value).__name__}"
    raise TypeError(message)


def _bytestring(content: bytes) -> bytes:
    if len(content) < 256:
        return pickle.SHORT_BINSTRING + bytes([len(content)]) + content
    return pickle.BINSTRING + struct.pack("<i", len(content)) + content
