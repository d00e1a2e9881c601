"""Textures of the rendered rooms: wallpaper, floors, fabrics, curtains, what is seen through windows, art."""

import colorsys
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from pipeline.core.seeding import numpy_stream

TEXTURE_PX = 1024  # a texture is repeated up to this size once, as warping is slow across a wrapped border

Colour = np.ndarray  # float64 (3,), RGB, 0..255


@dataclass(frozen=True)
class Bank:
    """Textures that all rooms share: grey (TEXTURE_PX, TEXTURE_PX), coloured by each room; views and art are RGB."""

    walls: list[np.ndarray]
    floors: list[np.ndarray]
    fabrics: list[np.ndarray]
    curtains: list[np.ndarray]
    views: list[np.ndarray]
    night_views: list[np.ndarray]
    art: list[np.ndarray]
    noise: np.ndarray


@cache
def bank(seed: int) -> Bank:
    """The textures of a seed, made once a process."""
    rng = numpy_stream(seed, "room textures")
    return Bank(
        walls=[_repeated(texture) for texture in _wallpapers(rng)],
        floors=[_repeated(texture) for texture in _floors(rng)],
        fabrics=[_repeated(texture) for texture in _fabrics(rng)],
        curtains=[_repeated(_folds(rng, count)) for count in (5, 7, 9, 12)],
        views=[_view(rng, night=False) for _ in range(48)],
        night_views=[_view(rng, night=True) for _ in range(16)],
        art=[_art(rng) for _ in range(64)],
        noise=_levels(rng.normal(128.0, 24.0, size=(448, 448, 3))),
    )


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _repeated(texture: np.ndarray) -> np.ndarray:
    times = [-(-TEXTURE_PX // side) for side in texture.shape]
    return np.ascontiguousarray(np.tile(texture, times)[:TEXTURE_PX, :TEXTURE_PX])


def _soft_noise(rng: np.random.Generator, height: int, width: int, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Periodic Gaussian noise of unit variance, smoothed by sigma pixels."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.exp(-2 * np.pi**2 * ((sigma_y * fy) ** 2 + (sigma_x * fx) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * smooth, s=(height, width))
    return (noise - noise.mean()) / noise.std()


def _wallpapers(rng: np.random.Generator) -> list[np.ndarray]:
    n = 128
    y, x = np.mgrid[:n, :n]
    grain = 8 * _soft_noise(rng, n, n, 1, 1)
    blotches = _soft_noise(rng, n, n, 9, 9)
    ornaments = _soft_noise(rng, n, n, 4, 4)
    ornaments = ornaments + ornaments[:, ::-1]  # mirrored, as printed wallpaper is
    patterns = [
        40 + 14 * blotches,
        60 + 25 * blotches,
        np.where(x // 16 % 2, 190, 40),
        np.where(x // 32 % 2, 220, 60),
        np.where(x % 32 < 5, 230, 70),
        np.where(x % 64 < 44, 70, np.where(x % 64 < 54, 240, 160)),
        np.where((x // 32 + y // 32) % 2, 90, 170),
        np.where(np.abs((x % 32) - 16) + np.abs((y % 32) - 16) < 9, 220, 70),
        np.where(((x % 32) - 16) ** 2 + ((y % 32) - 16) ** 2 < 36, 230, 60),
        np.where(((x + 32 * (y // 32 % 2)) % 64 - 32) ** 2 + ((y % 32) - 16) ** 2 < 60, 230, 60),
        np.where(ornaments > 0.8, 220, np.where(ornaments < -1.0, 130, 60)),
        np.where((y % 16 < 2) | ((x + 16 * (y // 16 % 2)) % 32 < 2), 235, 90 + 40 * ((x // 32 * 7 + y // 16 * 5) % 3)),
        np.where(y % 32 < 3, 20, 150),
        np.where(x % 32 < 3, 20, 150),
        np.where((np.abs((x % 64) - 32) + y) % 32 < 12, 200, 60),
    ]
    return [_levels(pattern + grain) for pattern in patterns]


def _floors(rng: np.random.Generator) -> list[np.ndarray]:
    n = 256
    y, x = np.mgrid[:n, :n]
    floors = []
    for width, contrast in ((16, 26), (32, 40), (21, 55)):
        board = x // width
        start = rng.integers(n, size=n)[board]
        piece = (y + start) % n // (n // 2)
        shade = rng.normal(size=(n, 2))[board, piece]
        seam = ((x % width) < 1) | ((y + start) % (n // 2) < 1)
        floors.append(np.where(seam, 20, 140 + contrast * shade + 20 * _soft_noise(rng, n, n, 12, 1)))
    block = (x // 32 + y // 32) % 2
    strip = np.where(block, x, y) // 8
    floors.append(130 + 45 * rng.normal(size=(n,))[strip + 32 * block] + 10 * _soft_noise(rng, n, n, 1, 1))
    floors.append(np.where((x % 64 < 2) | (y % 64 < 2), 30, 170 + 20 * _soft_noise(rng, n, n, 6, 6)))
    floors.append(np.where((x // 64 + y // 64) % 2, 220, 40) + 8 * _soft_noise(rng, n, n, 4, 4))
    floors.append(120 + 45 * _soft_noise(rng, n, n, 1, 1))
    floors.append(120 + 30 * _soft_noise(rng, n, n, 1, 1) + 30 * _soft_noise(rng, n, n, 10, 10))
    return [_levels(floor) for floor in floors]


def _fabrics(rng: np.random.Generator) -> list[np.ndarray]:
    n = 128
    y, x = np.mgrid[:n, :n]
    blobs = _soft_noise(rng, n, n, 5, 5)
    patterns = [
        np.full((n, n), 120.0),
        np.full((n, n), 150.0),
        np.where(x // 16 % 2, 230, 40),
        np.where(x // 32 % 2, 220, 50),
        np.where(y // 16 % 2, 230, 40),
        np.where(y // 32 % 2, 220, 60),
        np.where(y % 64 < 40, 60, np.where(y % 64 < 50, 230, 150)),
        np.where((x // 32 + y // 32) % 2, 215, 50),
        np.where((x // 16 + y // 16) % 2, 215, 50),
        60.0 + 85 * (x // 16 % 2) + 85 * (y // 16 % 2),
        60.0 + 85 * (x // 32 % 2) + 85 * (y // 32 % 2),
        np.where(((x % 32) - 16) ** 2 + ((y % 32) - 16) ** 2 < 64, 235, 60),
        np.where((np.abs((x % 64) - 32) + y) % 32 < 14, 220, 50),
        np.where(blobs > 0.7, 235, np.where(blobs < -0.9, 20, 110)),
        *(rng.uniform(10, 245, size=(8, 8)).repeat(16, axis=0).repeat(16, axis=1) for _ in range(4)),
        *(rng.uniform(10, 245, size=(4, 4)).repeat(32, axis=0).repeat(32, axis=1) for _ in range(4)),
        *(rng.uniform(10, 245, size=(8, 1)).repeat(16, axis=0).repeat(n, axis=1) for _ in range(4)),
    ]
    return [_levels(pattern + 14 * _soft_noise(rng, n, n, 7, 3)) for pattern in patterns]


def _folds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vertical folds of a curtain."""
    x = np.arange(128) / 128
    wave = np.sin(2 * np.pi * count * x + 1.5 * np.sin(2 * np.pi * x + rng.uniform(0, 6)))
    return _levels(np.broadcast_to(150 + 75 * wave, (128, 128)) + 6 * _soft_noise(rng, 128, 128, 8, 1))


def _view(rng: np.random.Generator, *, night: bool) -> np.ndarray:
    """What is seen through a window: sky and hills, trees, houses or the sea; RGB (96, 128, 3)."""
    view = _sky(rng, 96, 128, night=night)
    _VIEWS[int(rng.choice(len(_VIEWS), p=[0.3, 0.25, 0.25, 0.1, 0.1]))](view, rng, 0.25 if night else 1.0)
    return cv2.GaussianBlur(_levels(view), (0, 0), 0.8)


def _sky(rng: np.random.Generator, height: int, width: int, *, night: bool) -> np.ndarray:
    if night:
        top = colour_of(rng, (0.58, 0.72), (0.5, 0.9), (0.03, 0.15))
        low = colour_of(rng, (0.6, 0.9), (0.3, 0.7), (0.1, 0.4))
    elif rng.random() < 0.25:  # evening
        top = colour_of(rng, (0.55, 0.72), (0.2, 0.5), (0.5, 0.9))
        low = colour_of(rng, (0.04, 0.14), (0.3, 0.7), (0.9, 1.0))
    else:
        top = colour_of(rng, (0.53, 0.62), (0.1, 0.7), (0.8, 1.0))
        low = colour_of(rng, (0.5, 0.62), (0.0, 0.2), (0.9, 1.0))
    down = np.linspace(0, 1, height)[:, None, None]
    sky = np.broadcast_to(top + (low - top) * down, (height, width, 3)).copy()
    if not night:
        clouds = np.clip(_soft_noise(rng, height, width, 5, 14) - 0.3, 0, 1)[..., None] * rng.uniform(0, 0.9)
        return sky + (250.0 - sky) * clouds
    for _ in range(rng.integers(0, 30)):  # stars
        sky[rng.integers(height // 2), rng.integers(width)] = 220
    if rng.random() < 0.5:
        moon = int(rng.integers(width)), int(rng.integers(10, 40))
        cv2.circle(sky, moon, int(rng.integers(4, 9)), (235, 235, 215), -1)
    return sky


def _hills(view: np.ndarray, rng: np.random.Generator, light: float) -> None:
    height, width = view.shape[:2]
    base, x = rng.uniform(40, 70), np.arange(width)
    for layer in range(3):
        ridge = base + 10 * layer + rng.uniform(3, 14) * np.sin(x / rng.uniform(9, 30) + rng.uniform(0, 6))
        below = np.arange(height)[:, None] > ridge[None]
        view[below] = light * colour_of(rng, (0.2, 0.45), (0.2, 0.7), (0.3, 0.7))


def _trees(view: np.ndarray, rng: np.random.Generator, light: float) -> None:
    view[int(rng.integers(60, 80)) :] = light * colour_of(rng, (0.2, 0.35), (0.4, 0.8), (0.3, 0.6))
    for _ in range(rng.integers(4, 25)):
        centre = (int(rng.integers(view.shape[1])), int(rng.integers(35, 80)))
        colour = light * colour_of(rng, (0.17, 0.42), (0.4, 0.9), (0.2, 0.6))
        cv2.circle(view, centre, int(rng.integers(5, 18)), colour.tolist(), -1)


def _houses(view: np.ndarray, rng: np.random.Generator, light: float) -> None:
    height, width = view.shape[:2]
    pane = (240, 215, 120) if light < 1.0 else (70, 80, 95)
    for _ in range(rng.integers(4, 12)):
        left, top, wide = int(rng.integers(-10, width)), int(rng.integers(20, 75)), int(rng.integers(12, 36))
        colour = light * colour_of(rng, (0.0, 1.0), (0.05, 0.4), (0.3, 0.9))
        cv2.rectangle(view, (left, top), (left + wide, height), colour.tolist(), -1)
        for row in range(top + 4, height, 9):
            for column in range(left + 3, left + wide - 4, 8):
                if rng.random() < 0.6:
                    cv2.rectangle(view, (column, row), (column + 3, row + 4), pane, -1)


def _sea(view: np.ndarray, rng: np.random.Generator, light: float) -> None:
    view[int(rng.integers(45, 70)) :] = light * colour_of(rng, (0.48, 0.62), (0.4, 0.8), (0.4, 0.8))


def _nothing_but_sky(view: np.ndarray, rng: np.random.Generator, light: float) -> None:
    del view, rng, light


_VIEWS = (_hills, _trees, _houses, _sea, _nothing_but_sky)


def _art(rng: np.random.Generator) -> np.ndarray:
    """A picture for the wall: bands, discs, or clouds of colour; RGB (64, 64, 3)."""
    n = 64
    picture = np.broadcast_to(colour_of(rng, (0, 1), (0, 0.7), (0.2, 1.0)), (n, n, 3)).copy()
    kind = rng.choice(["bands", "discs", "clouds", "blocks"])
    if kind == "clouds":
        for channel in range(3):
            picture[..., channel] += 60 * _soft_noise(rng, n, n, 8, 8)
    for _ in range(rng.integers(2, 9)):
        colour = colour_of(rng, (0, 1), (0.1, 0.9), (0.1, 1.0)).tolist()
        a, b = rng.integers(0, n, size=2), rng.integers(4, 40, size=2)
        if kind == "bands":
            cv2.rectangle(picture, (0, int(a[1])), (n, int(a[1] + b[1] // 2)), colour, -1)
        elif kind == "discs":
            cv2.circle(picture, (int(a[0]), int(a[1])), int(b[0] // 2 + 2), colour, -1)
        elif kind == "blocks":
            cv2.rectangle(picture, (int(a[0]), int(a[1])), (int(a[0] + b[0]), int(a[1] + b[1])), colour, -1)
    return _levels(picture)


def colour_of(rng: np.random.Generator, hue: tuple, saturation: tuple, value: tuple) -> Colour:
    """A colour of the given ranges of hue, saturation and value, each in 0..1."""
    h, s, v = rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value)
    return 255.0 * np.array(colorsys.hsv_to_rgb(h, s, v))


def ramp(low: Colour, high: Colour, shade: float = 1.0) -> np.ndarray:
    """256 colours from ``low`` to ``high``, as cv2.applyColorMap takes them."""
    steps = np.linspace(0, 1, 256)[:, None]
    return _levels(shade * (low + (high - low) * steps))[:, None]
