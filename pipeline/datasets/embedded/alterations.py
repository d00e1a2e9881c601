"""The ways in which a near-duplicate differs from its original; each a pure function of uint8 RGB (H, W, 3).

The names are those of the near-duplicate set of real photographs; there "crop20" leaves out 20 % of the area, at a
random place. The copies planted among the rendered rooms are altered less ("crop2": 2 % of each side).
"""

import io
from collections.abc import Callable

import numpy as np

ORIGINAL, MIRRORED = "original", "hflip"
JPEG_QUALITIES = {"jpeg75": 75, "jpeg30": 30, "jpeg15": 15, "jpeg8": 8}
STORED_QUALITY = 92  # of the JPEG in which any other altered picture is kept


def jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """Encode as JPEG, colours at half resolution as usual."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality)
    return file.getvalue()


def recompress(rgb: np.ndarray, quality: int) -> np.ndarray:
    """Encode as JPEG and decode again."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(jpeg(rgb, quality))).convert("RGB"))


def shift(rgb: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Move the content right by dx and down by dy pixels; the edge is repeated where nothing is known."""
    height, width = rgb.shape[:2]
    rows = np.clip(np.arange(height) - dy, 0, height - 1)
    columns = np.clip(np.arange(width) - dx, 0, width - 1)
    return rgb[rows[:, None], columns[None]]


def crop_rectangle(
    width: int, height: int, keep: float, rng: np.random.Generator | None = None
) -> tuple[int, int, int, int]:
    """x, y, width, height of a part of a picture, with the share ``keep`` of each side; the middle without ``rng``."""
    new_width, new_height = max(1, int(width * keep)), max(1, int(height * keep))
    free_x, free_y = width - new_width, height - new_height
    if rng is None:
        return free_x // 2, free_y // 2, new_width, new_height
    return int(rng.integers(free_x + 1)), int(rng.integers(free_y + 1)), new_width, new_height


def crop(rgb: np.ndarray, keep: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """A part of the picture, as :func:`crop_rectangle`; smaller than before."""
    x, y, width, height = crop_rectangle(rgb.shape[1], rgb.shape[0], keep, rng)
    return rgb[y : y + height, x : x + width].copy()


def enlarge_middle(rgb: np.ndarray, keep: float) -> np.ndarray:
    """The middle, with the share ``keep`` of each side, brought back to the old size."""
    import cv2

    return cv2.resize(crop(rgb, keep), (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR)


def scale(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Shrink both sides, by area interpolation."""
    import cv2

    size = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def mirror(rgb: np.ndarray) -> np.ndarray:
    """Exchange left and right."""
    return rgb[:, ::-1].copy()


def rotate(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Turn anticlockwise about the middle; the size stays, the corners become black."""
    import cv2

    height, width = rgb.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(rgb, turn, (width, height), flags=cv2.INTER_LINEAR)


def blur(rgb: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels."""
    import cv2

    return cv2.GaussianBlur(rgb, (0, 0), sigma)


def noise(rgb: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise, sigma in grey levels."""
    return _levels(rgb + rng.normal(0.0, sigma, size=rgb.shape))


def brightness(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Multiply; what gets too bright is clipped."""
    return _levels(rgb * factor)


def contrast(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Bring all values nearer to (or farther from) the picture's mean grey."""
    mean = grey(rgb)[..., 0].mean()
    return _levels(mean + factor * (rgb - mean))


def gamma(rgb: np.ndarray, exponent: float) -> np.ndarray:
    """255 (v / 255) ** exponent: brighter below 1."""
    table = _levels(255.0 * (np.arange(256) / 255.0) ** exponent)
    return table[rgb]


def grey(rgb: np.ndarray) -> np.ndarray:
    """The luminance (BT.601) in all three channels."""
    return np.repeat(_levels(rgb @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2)


def text(rgb: np.ndarray, words: str = "sample text 123") -> np.ndarray:
    """White words on a black bar in the lower left corner, a twelfth of the height."""
    import cv2

    written = rgb.copy()
    bar = max(8, rgb.shape[0] // 12)
    size = bar / 32  # of the font, whose letters are about 22 pixels high at size 1
    (wide, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    bottom = rgb.shape[0] - bar // 3
    cv2.rectangle(written, (bar // 3, bottom - bar), (bar + wide, bottom), (0, 0, 0), -1)
    place = (2 * bar // 3, bottom - bar // 4)
    cv2.putText(written, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
    return written


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _any_shift(distance: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    def altered(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return shift(rgb, *shift_by(distance, rng))

    return altered


def shift_by(distance: int, rng: np.random.Generator) -> tuple[int, int]:
    """(dx, dy): ``distance`` pixels in one of the eight directions."""
    directions = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    dx, dy = directions[rng.integers(len(directions))]
    return distance * dx, distance * dy


SHIFTS = {"shift1": 1, "shift2": 2, "shift3": 3}
KEEP_OF_CROP2 = 0.98

ALTERATIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    # of the set of real near-duplicates
    ORIGINAL: lambda rgb, _: rgb.copy(),
    "jpeg75": lambda rgb, _: recompress(rgb, 75),
    "jpeg30": lambda rgb, _: recompress(rgb, 30),
    "jpeg15": lambda rgb, _: recompress(rgb, 15),
    "jpeg8": lambda rgb, _: recompress(rgb, 8),
    "scale50": lambda rgb, _: scale(rgb, 0.5),
    "noise8": lambda rgb, rng: noise(rgb, 8.0, rng),
    "blur1.5": lambda rgb, _: blur(rgb, 1.5),
    "contrast70": lambda rgb, _: contrast(rgb, 0.7),
    "gamma07": lambda rgb, _: gamma(rgb, 0.7),
    "bright130": lambda rgb, _: brightness(rgb, 1.3),
    "crop05": lambda rgb, rng: crop(rgb, 0.95**0.5, rng),
    "crop10": lambda rgb, rng: crop(rgb, 0.90**0.5, rng),
    "crop20": lambda rgb, rng: crop(rgb, 0.80**0.5, rng),
    "crop40": lambda rgb, rng: crop(rgb, 0.60**0.5, rng),
    "text": lambda rgb, _: text(rgb),
    "rot3": lambda rgb, _: rotate(rgb, 3.0),
    "gray": lambda rgb, _: grey(rgb),
    MIRRORED: lambda rgb, _: mirror(rgb),
    # planted among the rendered rooms
    "shift1": _any_shift(1),
    "shift2": _any_shift(2),
    "shift3": _any_shift(3),
    "brightness+5": lambda rgb, _: brightness(rgb, 1.05),
    "brightness-5": lambda rgb, _: brightness(rgb, 0.95),
    "crop2": lambda rgb, _: enlarge_middle(rgb, KEEP_OF_CROP2),
    "mirror": lambda rgb, _: mirror(rgb),
}
REAL = tuple(ALTERATIONS)[:19]  # the versions of each photograph of the real set, in its order
PLANTED = ("jpeg75", "shift1", "shift2", "shift3", "brightness+5", "brightness-5", "crop2")


def encoded(name: str, rgb: np.ndarray, rng: np.random.Generator) -> bytes:
    """The altered picture as JPEG; one that is altered by compression is compressed once."""
    if name in JPEG_QUALITIES:
        return jpeg(rgb, JPEG_QUALITIES[name])
    return jpeg(ALTERATIONS[name](rgb, rng), STORED_QUALITY)
