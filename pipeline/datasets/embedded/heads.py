"""Rendered heads on real photographs, with boxes and attributes: faces that OpenCV's detector finds.

A head is an ellipsoid turned by ``yaw``; its features are drawn in frontal coordinates on it, so that foreshortening
comes by itself. One unit is half the height of an average head; x grows to the right, y downwards, and (0, 0) is the
middle of the head. What the Haar cascade needs: dark eye sockets, a bright nose bridge between darker sides, a shadow
under the nose, and on dark skin nothing glaring.
"""

import colorsys
import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Lt

from pipeline.core.files import whole_directory
from pipeline.core.params import section
from pipeline.core.seeding import numpy_stream
from pipeline.datasets.embedded import photos
from pipeline.datasets.workers import parallel

WIDTH, HEIGHT = 480, 360
HEAD_PX = (80, 160)  # side of the truth box
BOX_UNITS = 1.62
MAX_YAW = 25.0  # degrees
QUALITY = 88
NOISE = 2.5  # grey levels, standard deviation
TASK = 32  # photos that a worker draws at a time
HEADS_SHARE = (0.3, 0.4, 0.3)  # of scenes with one, two, three
SMILE_SHARE = 0.5
GLASSES_SHARE = 0.3

# Astronaut and camera show a person, the coins embossed heads: left out. The rest is shared out so that no photograph
# serves both splits; the cat, which provokes false alarms, stays.
BACKGROUNDS = {
    "train": ("brick", "chelsea", "china", "coffee", "grass", "hubble", "ihc", "motorcycle", "retina"),
    "test": ("flower", "gravel", "moon", "rocket"),
}
WINDOWS_ONLY = {"train": ("page",), "test": ("text",)}  # too busy a ground for a person to stand before

SKIN = np.array(
    [(240, 206, 184), (226, 184, 154), (205, 156, 122), (172, 122, 88), (136, 92, 64), (108, 73, 53)], np.float32
)
HAIR_COLOURS = {
    "black": (34, 29, 28),
    "brown": (80, 53, 37),
    "chestnut": (124, 76, 46),
    "blond": (206, 172, 108),
    "red": (164, 76, 38),
    "grey": (158, 156, 154),
}
HAIR_STYLES = ("bald", "short", "parted", "fringe", "curly", "long")
IRIS = np.array([(70, 46, 30), (96, 68, 40), (84, 104, 62), (74, 106, 140)], np.float32)

# What a head covers, in units from its middle: nothing else of another head may come there.
SIDE, TOP, BOTTOM = 1.15, 1.38, 1.2
DEPTH = 0.95
EYE_X, EYE_Y = 0.33, -0.1
NOSE_Y, MOUTH_Y = 0.34, 0.6


@section
class RenderedHeads:
    """``fetch.faces``, rendered."""

    seed: int
    n_scenes: Annotated[int, Ge(1)]  # each with one to three heads
    n_without_face: Annotated[int, Ge(0)]
    test_share: Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head's place and its attributes, independent of each other."""

    x: float  # of its middle, pixels
    y: float
    size_px: float  # side of the truth box
    yaw: float  # degrees, positive to the right
    smile: bool
    glasses: bool
    hair: str
    hair_colour: str
    skin_tone: int

    @property
    def unit(self) -> float:
        """Pixels a unit."""
        return self.size_px / BOX_UNITS

    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels: a square about the face, which moves with yaw."""
        x = self.x + 0.495 * self.size_px * math.sin(math.radians(self.yaw))
        y = self.y + 0.12 * self.unit
        half = self.size_px / 2
        return x - half, y - half, x + half, y + half

    def covers(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of all of the head, in pixels; the truth box lies inside or beside it."""
        x1, y1, x2, y2 = self.box()
        return (
            min(x1, self.x - SIDE * self.unit),
            min(y1, self.y - TOP * self.unit),
            max(x2, self.x + SIDE * self.unit),
            max(y2, self.y + BOTTOM * self.unit),
        )


def write_heads(out: Path, heads: RenderedHeads) -> None:
    """Write ``photos/000000.jpg`` ..., ``photos.parquet`` and ``boxes.parquet``.

    First the scenes, then the windows of photographs without a face; of each kind ``test_share`` is of split ``test``,
    on photographs of its own.
    """
    rows: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    n = heads.n_scenes + heads.n_without_face
    tasks = [range(first, min(first + TASK, n)) for first in range(0, n, TASK)]
    with whole_directory(out) as partial:
        (partial / "photos").mkdir()
        for number, photo in enumerate(itertools.chain(*parallel(functools.partial(_photos, heads), tasks))):
            name = f"photos/{number:06d}.jpg"
            (partial / name).write_bytes(photo.content)
            rows.append({"photo": name, "split": photo.split, "labelled": True, "collection": photo.collection})
            boxes += [{"photo": name, "head": index} | _truth(head) for index, head in enumerate(photo.heads)]
        pd.DataFrame(rows).to_parquet(partial / "photos.parquet", index=False)
        pd.DataFrame(boxes).to_parquet(partial / "boxes.parquet", index=False)


def _truth(head: Head) -> dict[str, object]:
    x1, y1, x2, y2 = head.box()
    return {
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "smile": head.smile,
        "glasses": head.glasses,
        "hair": head.hair,
        "hair_colour": head.hair_colour,
        "yaw": head.yaw,
        "skin_tone": head.skin_tone,
        "size_px": head.size_px,
    }


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A JPEG and what is on it."""

    content: bytes
    split: str
    collection: str
    heads: list[Head]


def _photos(heads: RenderedHeads, numbers: range) -> list[Photo]:
    return [
        scene(heads, number) if number < heads.n_scenes else without_face(heads, number - heads.n_scenes)
        for number in numbers
    ]


def scene(heads: RenderedHeads, index: int) -> Photo:
    """One to three heads before a photograph."""
    rng = numpy_stream(heads.seed, "rendered heads", index)
    split = split_of(index, heads.test_share)
    image = _background(rng, BACKGROUNDS[split])
    found = place_heads(rng)
    for head in found:
        draw(image, head, rng)
    return Photo(content=_finish(image, rng), split=split, collection="rendered heads", heads=found)


def without_face(heads: RenderedHeads, index: int) -> Photo:
    """A window of a photograph on which there is no face."""
    rng = numpy_stream(heads.seed, "photographs without a face", index)
    split = split_of(index, heads.test_share)
    image = _background(rng, BACKGROUNDS[split] + WINDOWS_ONLY[split])
    return Photo(content=_finish(image, rng), split=split, collection="photographs without a face", heads=[])


def split_of(index: int, test_share: float) -> str:
    """``test`` for every 1/share-th index, so that any number of photos has its share."""
    return "test" if math.floor((index + 1) * test_share) > math.floor(index * test_share) else "train"


def _background(rng: np.random.Generator, names: tuple[str, ...]) -> np.ndarray:
    """float32 (360, 480, 3) in 0..255: a window of one of the photographs, mirrored or not."""
    photo = photos.photographs()[names[rng.integers(len(names))]]
    scale = min(photo.shape[0] / HEIGHT, photo.shape[1] / WIDTH) * rng.uniform(0.6, 1)
    height, width = int(scale * HEIGHT), int(scale * WIDTH)
    top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
    window = photos.resize(photo[top : top + height, left : left + width], WIDTH, HEIGHT)
    return (window[:, ::-1] if rng.random() < 0.5 else window).astype(np.float32)


def _finish(image: np.ndarray, rng: np.random.Generator) -> bytes:
    noise = _noise()
    top, left = rng.integers(noise.shape[0] - HEIGHT + 1), rng.integers(noise.shape[1] - WIDTH + 1)
    image = image + noise[top : top + HEIGHT, left : left + WIDTH]
    return photos.jpeg(np.clip(image + 0.5, 0, 255).astype(np.uint8), QUALITY)


@functools.cache
def _noise() -> np.ndarray:
    """Sensor noise for windows at random places: 500,000 normal numbers anew for each photo would cost 5 ms."""
    rng = numpy_stream(0, "sensor noise")
    return rng.normal(0, NOISE, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)


def place_heads(rng: np.random.Generator) -> list[Head]:
    """One to three heads inside the image and apart, the one whose chin is lowest last: it stands in front.

    Places and sizes alone are drawn again until they fit, so that attributes keep their shares.
    """
    wanted = [_head(rng) for _ in range(int(rng.choice(3, p=HEADS_SHARE)) + 1)]
    while True:
        found: list[Head] = []
        for _ in range(60):
            head = dataclasses.replace(
                wanted[len(found)], x=rng.uniform(0, WIDTH), y=rng.uniform(0, HEIGHT), size_px=rng.uniform(*HEAD_PX)
            )
            x1, y1, x2, y2 = head.covers()
            inside = x1 >= 0 and y1 >= 0 and x2 <= WIDTH and y2 <= HEIGHT
            if inside and all(_apart(head.covers(), other.covers()) for other in found):
                found.append(head)
            if len(found) == len(wanted):
                return sorted(found, key=lambda head: head.y + BOTTOM * head.unit)


def _head(rng: np.random.Generator) -> Head:
    hair = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
    return Head(
        x=0,
        y=0,
        size_px=0,
        yaw=rng.uniform(-MAX_YAW, MAX_YAW),
        smile=bool(rng.random() < SMILE_SHARE),
        glasses=bool(rng.random() < GLASSES_SHARE),
        hair=hair,
        hair_colour="none" if hair == "bald" else list(HAIR_COLOURS)[rng.integers(len(HAIR_COLOURS))],
        skin_tone=int(rng.integers(len(SKIN))),
    )


def _apart(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


# Drawing


def draw(image: np.ndarray, head: Head, rng: np.random.Generator) -> None:
    """Draw a head with neck and shoulders into ``image`` (float32 H x W x 3, 0..255)."""
    import cv2

    face = _Face(head, rng)
    _back_hair(image, face)
    _shoulders(image, face, rng)
    # Head and neck on a layer of their own (colour times alpha, alpha), blurred together.
    layer = np.zeros((*face.shape, 4), np.float32)
    _neck(layer, face)
    _skin(layer, face, rng)
    if head.glasses:
        _glasses(layer, face, rng)
    _front_hair(layer, face)
    layer = cv2.GaussianBlur(layer, (0, 0), head.size_px * rng.uniform(0.003, 0.007))
    place = image[face.window]
    y, x = face.inside
    place *= 1 - layer[y, x, 3:]
    place += layer[y, x, :3]


class _Face:
    """Coordinates of a head's pixels, and its looks that more than one part needs."""

    def __init__(self, head: Head, rng: np.random.Generator) -> None:
        self.head = head
        self.unit = head.unit
        left, top = math.floor(head.x - 1.25 * self.unit), math.floor(head.y - 1.4 * self.unit)
        self.shape = math.ceil(3.1 * self.unit), math.ceil(2.5 * self.unit)
        # pixel centres, in units
        self.x = ((np.arange(self.shape[1], dtype=np.float32) + (left + 0.5 - head.x)) / self.unit)[None]
        self.y = ((np.arange(self.shape[0], dtype=np.float32) + (top + 0.5 - head.y)) / self.unit)[:, None]
        rows = slice(max(0, top), min(HEIGHT, top + self.shape[0]))
        columns = slice(max(0, left), min(WIDTH, left + self.shape[1]))
        self.window = rows, columns
        self.inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        self.sin, self.cos = math.sin(math.radians(head.yaw)), math.cos(math.radians(head.yaw))
        self.half_width = rng.uniform(0.75, 0.82)
        self.half_height = rng.uniform(1.04, 1.12)
        self.jaw = rng.uniform(0.1, 0.24)
        self.skin = np.clip(SKIN[head.skin_tone] * rng.uniform(0.94, 1.05) + rng.uniform(-5, 5, 3), 25, 250).astype(
            np.float32
        )
        self.brightness = float(self.skin.mean() / SKIN[0].mean())
        colour = HAIR_COLOURS.get(head.hair_colour, (60, 45, 36))
        self.hair = (np.array(colour) * rng.uniform(0.85, 1.1)).astype(np.float32)
        self.strands = np.convolve(rng.normal(0, 1, 515), [0.25, 0.5, 0.5, 0.25], "valid").astype(np.float32)
        angle = rng.uniform(-1.1, 1.1)
        self.light = np.array([0.55 * math.sin(angle), rng.uniform(-0.6, -0.15), 1])
        self.light /= np.linalg.norm(self.light)
        self.ambient = rng.uniform(0.55, 0.72) + 0.12 * (1 - self.brightness)
        self.parting = 1 if rng.random() < 0.5 else -1
        self._meet_ellipsoid()

    def _meet_ellipsoid(self) -> None:
        """Where the ray through each pixel meets the turned head: frontal coordinate, coverage, light."""
        x, y, sin, cos = self.x, self.y, self.sin, self.cos
        width = self.half_width * (1 - self.jaw * np.clip(y / self.half_height, 0, 1) ** 2)
        # the nearer root of a z^2 + b z + c = 0
        level = 1 - np.abs(y / self.half_height) ** 2.2
        a = sin**2 / width**2 + cos**2 / DEPTH**2
        b = 2 * sin * cos * x * (1 / DEPTH**2 - 1 / width**2)
        c = x**2 * (cos**2 / width**2 + sin**2 / DEPTH**2) - np.clip(level, 0, None)
        z = (np.sqrt(np.clip(b**2 - 4 * a * c, 0, None)) - b) / (2 * a)
        depth = x * sin + z * cos
        self.front = x * cos - z * sin
        silhouette = np.sqrt((width * cos) ** 2 + (DEPTH * sin) ** 2)
        slope = np.hypot(2 * x / silhouette**2, 2.2 * np.abs(y) ** 1.2 / self.half_height**2.2) + 1e-3
        self.cover = self.smooth((level - (x / silhouette) ** 2) / slope)
        # Lambert's law, and a little less light from what turns away
        nx, ny, nz = self.front / width**2, y / self.half_height**2, depth / DEPTH**2
        length = np.sqrt(nx**2 + ny**2 + nz**2) + 1e-6
        nx, nz = nx * cos + nz * sin, nz * cos - nx * sin
        lx, ly, lz = (float(value) for value in self.light)
        lit = np.clip((nx * lx + ny * ly + nz * lz) / length, 0, None)
        self.shade = (self.ambient + (1 - self.ambient) * 1.12 * lit) * (0.82 + 0.18 * np.clip(nz / length, 0, 1))

    def smooth(self, distance: np.ndarray, soft: float = 0) -> np.ndarray:
        """Coverage of a pixel at a signed distance (units, positive inside) from an edge ``soft`` units wide."""
        return np.clip(distance * (1 / (soft + 1 / self.unit)) + 0.5, 0, 1)

    def rows(self, first: float, last: float) -> slice:
        """The canvas rows from ``first`` to ``last`` units."""
        limits = np.searchsorted(self.y[:, 0], (first, last))
        return slice(int(limits[0]), int(limits[1]))


def _over(layer: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Put ``colour`` (3,) or (h, w, 3) over a premultiplied layer."""
    alpha = alpha[..., None]
    layer *= 1 - alpha
    layer[..., :3] += alpha * colour
    layer[..., 3:] += alpha


def _mix(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Put ``colour`` over an image without alpha, in place."""
    image += (colour - image) * alpha[..., None]


def _bump(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(np.square(x) * np.float32(-0.5 / sigma**2))


def _shoulders(image: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    import cv2

    head, unit = face.head, face.unit
    cloth = 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.15, 0.8), rng.uniform(0.25, 0.85)))
    t = np.linspace(0, 1, 24)
    slope = np.stack([0.36 + 1.2 * t, 1.22 + 0.5 * t**0.8 * (0.35 + 0.65 * t)], axis=1)  # neck to shoulder
    right = np.concatenate([slope, [[1.66, 2.1], [1.72, 9.0]]])
    outline = np.concatenate([right, right[::-1] * (-1, 1)])
    top = max(0, math.floor(head.y + 1.15 * unit))
    left, end = max(0, math.floor(head.x - 1.8 * unit)), min(WIDTH, math.ceil(head.x + 1.8 * unit))
    if top >= HEIGHT:
        return
    mask = np.zeros((HEIGHT - top, end - left), np.uint8)
    points = (outline * unit + (head.x - left, head.y - top)) * 16
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA, 4)
    x = (np.arange(left, end, dtype=np.float32) + (0.5 - head.x)) / unit
    y = (np.arange(top, HEIGHT, dtype=np.float32) + (0.5 - head.y))[:, None] / unit
    folds = 1.0 - 0.3 * (x / 1.7) ** 2 + 0.12 * float(face.light[0]) * x
    shade = folds * np.clip(0.75 + 0.35 * (y - 1.2), 0.75, 1)
    colour = shade[..., None] * cloth.astype(np.float32)
    _mix(image[top:, left:end], colour, mask.astype(np.float32) / 255)


def _neck(layer: np.ndarray, face: _Face) -> None:
    rows = face.rows(0.5, 1.7)
    x, y = face.x, face.y[rows]
    half = 0.36 + 0.1 * np.clip(y - 1.1, 0, 1) ** 2
    end = 1.36 + 0.22 * (1 - np.clip(x / 0.42, -1, 1) ** 2)  # a round collar
    alpha = face.smooth(half - np.abs(x)) * face.smooth(end - y)
    shadow = 0.58 + 0.3 * np.clip((y - 1.05) / 0.4, 0, 1)
    shade = shadow * (1 - 0.3 * (x / 0.4) ** 2 + 0.25 * float(face.light[0]) * x)
    _over(layer[rows], np.clip(shade, 0.2, 1.1)[..., None] * face.skin, alpha)


def _skin(layer: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    _ears(layer, face)
    colour = _relief(face, rng)[..., None] * face.skin
    _blush(colour, face)
    _brows(colour, face, rng)
    _eyes(colour, face, rng)
    _mouth(colour, face, rng)
    _over(layer, np.clip(colour, 0, 255), face.cover)


def _relief(face: _Face, rng: np.random.Generator) -> np.ndarray:
    """Sockets, nose, cheeks and chin as light and shadow."""
    front, y, shade = face.front, face.y, face.shade.copy()
    side = np.abs(front)

    def press(x: np.ndarray, at: float, sigma_x: float, sigma_y: float, amount: float) -> None:
        rows = face.rows(at - 3 * sigma_y, at + 3 * sigma_y)
        shade[rows] *= 1 + amount * _bump(x[rows], sigma_x) * _bump(y[rows] - at, sigma_y)

    socket = rng.uniform(0.32, 0.4)
    press(side - EYE_X, EYE_Y - 0.04, 0.17, 0.12, -socket)
    press(side - 0.15, EYE_Y - 0.02, 0.06, 0.1, -0.12)  # inner corners
    bridge = face.rows(-0.38, 0.34)
    along = face.smooth(y[bridge] + 0.26, 0.16) * face.smooth(0.3 - y[bridge], 0.1)
    nose_width = 0.055 + 0.03 * np.clip((y[bridge] + 0.1) / 0.4, 0, 1)
    ridge = np.exp(-0.5 * (front[bridge] / nose_width) ** 2)
    flank = np.exp(-0.5 * ((side[bridge] - 2.4 * nose_width) / nose_width) ** 2)
    shade[bridge] *= 1 + along * (0.2 * ridge - 0.17 * flank)
    press(front, NOSE_Y - 0.08, 0.075, 0.06, 0.14)  # tip
    press(side - 0.15, NOSE_Y - 0.04, 0.03, 0.05, -0.2)  # wings
    press(front, NOSE_Y + 0.045, 0.12, 0.038, -0.42)
    press(side - 0.07, NOSE_Y + 0.01, 0.03, 0.018, -0.4)  # nostrils
    press(front, MOUTH_Y - 0.13, 0.035, 0.06, -0.08)  # philtrum
    press(front, MOUTH_Y + 0.19, 0.15, 0.035, -0.2)
    press(front, MOUTH_Y + 0.31, 0.13, 0.07, 0.08)  # chin
    press(side - 0.46, 0.2, 0.15, 0.12, 0.08 if not face.head.smile else 0.13)
    fold = face.rows(NOSE_Y - 0.06, MOUTH_Y + 0.08)
    away = side[fold] - (0.2 + (0.75 if face.head.smile else 0.45) * (y[fold] - NOSE_Y + 0.06))
    depth = 0.2 if face.head.smile else 0.06
    shade[fold] *= 1 - depth * _bump(away, 0.028) * np.sin(
        np.pi * np.clip((y[fold] - NOSE_Y + 0.06) / (MOUTH_Y - NOSE_Y + 0.14), 0, 1)
    )
    return shade


def _blush(colour: np.ndarray, face: _Face) -> None:
    rows = face.rows(-0.1, 0.6)
    amount = 0.1 * _bump(np.abs(face.front[rows]) - 0.45, 0.16) * _bump(face.y[rows] - 0.26, 0.13)
    colour[rows, :, 1:] *= 1 - amount[..., None]


def _brows(colour: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    rows = face.rows(-0.5, -0.2)
    t = (np.abs(face.front[rows]) - EYE_X - 0.01) / 0.22
    middle = EYE_Y - 0.2 - rng.uniform(0.02, 0.06) * (1 - t**2) - 0.012 * t
    thick = rng.uniform(0.026, 0.036) * (1 - 0.3 * t)
    alpha = np.exp(-0.5 * ((face.y[rows] - middle) / thick) ** 2) * face.smooth(1 - np.abs(t), 0.25)
    brow = np.minimum(face.hair * 0.62, face.skin * 0.55)
    _mix(colour[rows], brow, rng.uniform(0.65, 0.85) * alpha)


def _eyes(colour: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    rows = face.rows(EYE_Y - 0.16, EYE_Y + 0.16)
    y, part = face.y[rows], colour[rows]
    side = np.abs(face.front[rows])
    t = (side - EYE_X) / 0.14
    arch = np.clip(1 - t**2, 0, None)
    upper = EYE_Y - rng.uniform(0.052, 0.066) * arch - 0.012 * t
    lower = EYE_Y + (0.026 if face.head.smile else 0.042) * arch - 0.012 * t
    opening = face.smooth(y - upper) * face.smooth(lower - y) * face.smooth(0.14 * (1 - np.abs(t)))
    dim = 0.4 + 0.52 * face.brightness  # scaled to the skin: a glaring white eye is not found on dark skin
    _mix(part, np.array([238, 232, 226], np.float32) * np.float32(dim), opening)
    radius = np.hypot(side - EYE_X, y - EYE_Y + 0.012)
    iris = IRIS[rng.integers(len(IRIS))] * np.float32(0.55 + 0.4 * face.brightness)
    _mix(part, iris, opening * face.smooth(0.062 - radius))
    _mix(part, iris * 0.15, opening * face.smooth(0.03 - radius))
    glint = face.smooth(
        0.013 - np.hypot(face.front[rows] - np.sign(face.front[rows]) * EYE_X - 0.018, y - EYE_Y + 0.035)
    )
    _mix(part, np.float32(dim) * np.array([255, 255, 255], np.float32), 0.8 * opening * glint)
    within = face.smooth(0.155 - np.abs(side - EYE_X), 0.02)
    _mix(part, face.skin * 0.18, 0.85 * within * np.exp(-0.5 * ((y - upper) / 0.014) ** 2))
    _mix(part, face.skin * 0.4, 0.4 * within * np.exp(-0.5 * ((y - lower) / 0.012) ** 2))
    _mix(part, face.skin * 0.45, 0.35 * within * np.exp(-0.5 * ((y - upper + 0.05) / 0.012) ** 2))  # crease


def _mouth(colour: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    smile = face.head.smile
    rows = face.rows(MOUTH_Y - 0.2, MOUTH_Y + 0.24)
    y, part, front = face.y[rows], colour[rows], face.front[rows]
    half = rng.uniform(0.31, 0.35) if smile else rng.uniform(0.22, 0.26)
    t = np.clip(front / half, -1.2, 1.2)
    arch = np.clip(1 - t**2, 0, None)
    line = MOUTH_Y + (0.1 * (arch - 0.62) if smile else 0.02 * (arch - 0.5))  # a smile lifts the corners
    gap = rng.uniform(0.07, 0.1) * arch if smile else 0 * arch
    upper = line - (0.035 if smile else 0.05) * np.sqrt(arch) * (1 - 0.25 * _bump(front, 0.04))
    lower = line + gap + (0.05 if smile else 0.068) * np.sqrt(arch)
    inside = face.smooth(half * (1 - np.abs(t)), 0.01)
    lips = face.skin * np.array([0.86, 0.56, 0.55], np.float32) + np.array([8, 0, 2], np.float32)
    _mix(part, lips, 0.92 * inside * face.smooth(y - upper, 0.01) * face.smooth(lower - y, 0.01))
    shine = _bump(y - line - gap - 0.03, 0.012) * _bump(front, 0.09)
    _mix(part, lips * 1.35, 0.5 * inside * shine)
    if smile:
        opening = inside * face.smooth(y - line) * face.smooth(line + gap - y)
        _mix(part, np.array([70, 22, 22], np.float32), opening)
        teeth = face.smooth(line + 0.8 * gap - y) * face.smooth(0.86 - np.abs(t), 0.1)
        _mix(part, np.array([240, 236, 226], np.float32) * np.float32(0.4 + 0.56 * face.brightness), opening * teeth)
    else:
        _mix(part, lips * 0.35, 0.8 * inside * np.exp(-0.5 * ((y - line) / 0.012) ** 2))
    corner = np.hypot((np.abs(front) - half) / 0.03, (y - line) / 0.025)
    _mix(part, face.skin * 0.5, 0.4 * np.exp(-0.5 * corner**2))


def _ears(layer: np.ndarray, face: _Face) -> None:
    """Behind the head's outline, so that the one turned away goes out of sight."""
    rows = face.rows(-0.4, 0.4)
    for end in (-1, 1):
        middle = end * (face.half_width + 0.03) * face.cos - 0.16 * face.sin
        r = np.hypot((face.x - middle) / 0.12, (face.y[rows] - 0.02) / 0.22)
        shade = np.clip(0.86 - 0.35 * _bump(r - 0.35, 0.22), 0, 1)
        _over(layer[rows], shade[..., None] * face.skin, face.smooth((1 - r) * 0.13))


def _glasses(layer: np.ndarray, face: _Face, rng: np.random.Generator) -> None:
    rows = face.rows(EYE_Y - 0.3, EYE_Y + 0.32)
    y, side = face.y[rows], np.abs(face.front[rows])
    half_x, half_y = rng.uniform(0.2, 0.225), rng.uniform(0.14, 0.17)
    power = rng.uniform(2.2, 4)
    r = (np.abs((side - EYE_X) / half_x) ** power + np.abs((y - EYE_Y - 0.02) / half_y) ** power) ** (1 / power)
    thick = rng.uniform(0.02, 0.03)
    rim = face.smooth(thick / 2 - np.abs(r - 1) * 0.5 * (half_x + half_y))
    bar = face.smooth(thick / 2 - np.abs(y - EYE_Y + 0.03 + 0.03 * (1 - (side / 0.12) ** 2) * (side < 0.12)))
    between = bar * face.smooth(EYE_X - half_x - side)
    temple = bar * face.smooth(side - EYE_X - half_x)
    frame = np.array([(34, 30, 32), (74, 44, 30), (52, 58, 78), (78, 68, 64)][rng.integers(4)], np.float32)
    frame *= np.float32(0.5 + 0.5 * face.brightness)
    cover = face.cover[rows]
    glare = 0.05 * face.brightness * face.smooth(1 - r, 0.1) * (0.5 + 0.5 * np.sin(6 * (face.x - y)))
    _over(layer[rows], np.array([255, 255, 255], np.float32), cover * glare)
    _over(layer[rows], frame, cover * np.maximum(np.maximum(rim, 0.7 * between), temple))


# Hair: a shell behind the head, and what lies on it above the hairline

SHELL = {"short": 0.05, "parted": 0.08, "fringe": 0.09, "curly": 0.17, "long": 0.1}  # how far it stands out
LENGTH = {"short": -0.1, "parted": 0.02, "fringe": 0.5, "curly": 0.2, "long": 1.3}  # how far down it goes


def _hair_colour(face: _Face, x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Strands that run from the crown down, with a band of light."""
    curly = face.head.hair == "curly"
    along = x / spread * 60 + (6 * np.sin(14 * y + 5 * x) if curly else 3 * y)
    strand = face.strands[np.clip(along + 256, 0, 510).astype(np.int32)]
    if curly:
        strand = strand + face.strands[np.clip(60 * y + 5 * np.sin(13 * x) + 256, 0, 510).astype(np.int32)]
    shade = 0.9 + 0.13 * strand + 0.3 * _bump(y + 0.9, 0.16) - 0.28 * (x / spread) ** 2
    shade *= 1 + 0.3 * float(face.light[0]) * x
    return np.clip(shade, 0.35, 1.5)[..., None] * face.hair


def _back_hair(image: np.ndarray, face: _Face) -> None:
    style = face.head.hair
    if style == "bald":
        return
    out, end = SHELL[style], LENGTH[style]
    x = face.x[:, face.inside[1]] + 0.12 * face.sin  # the back of the head turns the other way
    y = face.y[face.inside[0]]
    if style == "curly":
        wave = np.arctan2(x, -y) * 9
        x = x * (1 + 0.035 * np.sin(2 * wave) + 0.02 * np.sin(3 * wave + 1))
    half = math.hypot(face.half_width * face.cos, DEPTH * face.sin) + out
    top = face.half_height + out
    long = end > 1
    below = 1 - 0.06 * np.clip(y / 1.3, 0, 1) if long else np.sqrt(np.clip(1 - (np.clip(y, 0, 1) / 1.25) ** 2, 0.1, 1))
    spread = half * np.where(y < 0, np.sqrt(np.clip(1 - (np.clip(y, -2, 0) / top) ** 2, 1e-4, 1)), below)
    # distances as from an ellipse above, from the sides below
    inside = np.where(y < 0, (1 - (x / half) ** 2 - (y / top) ** 2) * half / 2, spread - np.abs(x))
    ends = end - 0.25 * np.abs(x / half) ** 4 * long
    alpha = face.smooth(inside) * face.smooth(ends - y, 0.08)
    colour = _hair_colour(face, x, y, np.maximum(spread, 0.15)) * (0.8 if long else 1)
    _mix(image[face.window], colour, alpha)


def _front_hair(layer: np.ndarray, face: _Face) -> None:
    style = face.head.hair
    if style == "bald":
        return
    end = min(LENGTH[style], 1.1)
    rows = face.rows(-1.3, end + 0.1)
    y, front = face.y[rows], face.front[rows]
    line = _hairline(face, front / face.half_width)
    alpha = face.smooth(np.minimum(line, end) - y, 0.035) * face.cover[rows]
    spread = np.maximum(face.half_width * np.sqrt(np.clip(1 - (y / (face.half_height + 0.05)) ** 2, 0.03, 1)), 0.15)
    _over(layer[rows], _hair_colour(face, front, y, spread), alpha)


def _hairline(face: _Face, t: np.ndarray) -> np.ndarray:
    """Height (y) of the hairline at ``t``, the frontal coordinate: 0 in the middle, -1 and 1 at the ears."""
    side = np.abs(t)
    jagged = face.strands[np.clip(t * 44 + 256, 0, 510).astype(np.int32)]
    match face.head.hair:
        case "short":
            return -0.66 + 1.5 * np.clip(side - 0.55, 0, 1) ** 1.2 + 0.02 * jagged
        case "parted":
            slant = face.parting * (t - 0.35)
            return -0.62 + 0.2 * np.clip(slant, -1, 1) ** 2 + 0.9 * np.clip(side - 0.6, 0, 1) + 0.18 * face.parting * t
        case "fringe":
            return -0.46 + 0.03 * jagged + 3.0 * np.clip(side - 0.72, 0, 1)
        case "curly":
            return -0.58 + 0.04 * np.sin(17 * t) + 2.4 * np.clip(side - 0.74, 0, 1)
        case _:
            return -0.8 + 0.5 * side**1.3 + 9 * np.clip(side - 0.83, 0, 1)
