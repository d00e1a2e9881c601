"""Pictures laid out pixel by pixel: tiles, words and plots on one canvas, in so few colours that Git can hold them.

A canvas is an int32 array (H, W). From 0 on a value is a colour 0xRRGGBB of an image, with ``PLOTTED`` added if it
belongs to a plot; below 0 it is one of the greys of paper and words. Tiles, plots and words thus never compete for a
place in the palette, and a canvas is put together like any array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.seeding import numpy_stream
from pipeline.reporting.drawing import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

MOST_BYTES = 480_000  # a picture in Git stays under 500 KB
GAP_PX, PART_GAP_PX, MARGIN_PX = 2, 10, 12  # between tiles, between parts of a picture, around it
DPI, PLOT_PX = 100, 500  # of plots: dots an inch, and the width below which there is no room for axes
N_GREYS = 8  # of paper and words
N_COLOURS = 256 - N_GREYS  # of images and plots
N_PLOT_COLOURS = 24  # kept from the images where there is a plot
FEWER = (1.0, 0.75, 0.5, 0.375, 0.25)  # shares of the colours that are tried, and then of the size of a tile
FITTED_PX = 40_000  # pixels that a palette is fitted to; all 800,000 of a large picture take 20 s
PAPER = -1
PLOTTED = 1 << 24

Canvas = np.ndarray
Align = Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """A finished picture; ``scale`` and ``n_colours`` (of its tiles) are what fitted into a file."""

    picture: "Image"
    scale: float
    n_colours: int

    def size(self) -> Metrics:
        """Of the file, for the figure's metrics."""
        return {"scale": self.scale, "n_colours": self.n_colours}


def fitted(layout: Callable[[float], Canvas], *, scale: int, fit_to: np.ndarray | None = None) -> Mosaic:
    """The picture of ``layout(scale)``, with fewer colours and then with smaller tiles if its file is too large.

    Parameters
    ----------
    layout : takes how many times its tiles are enlarged; below 1 they are made smaller
    fit_to : uint8 (..., H, W, 3), images to all of whose pixels the palette is fitted, slowly; else to
        ``FITTED_PX`` of the canvas, drawn from a fixed stream

    Raises
    ------
    InputError
        If it is too large even in a quarter of the colours and of the size.
    """
    for smaller in _scales(scale):
        canvas = layout(smaller)
        room = N_COLOURS - (N_PLOT_COLOURS if (canvas >= PLOTTED).any() else 0)
        for share in FEWER:
            picture, n_colours = _picture(canvas, int(share * room), fit_to)
            if len(_png(picture)) <= MOST_BYTES:
                return Mosaic(picture=picture, scale=smaller, n_colours=n_colours)
    height, width = layout(scale).shape
    message = f"a picture of {width} x {height} pixels does not fit a file of {MOST_BYTES:,} bytes; show fewer images"
    raise InputError(message)


def _scales(scale: int) -> list[float]:
    """The scale asked for, every smaller whole one, then parts of 1."""
    return [*range(scale, 0, -1), *FEWER[1:]]


def tiles(images: np.ndarray, *, columns: int, rows: int | None = None, scale: float = 1) -> Canvas:
    """Lay uint8 images (N, H, W, 3) out row by row; places without an image stay paper.

    Enlarged by repetition of pixels, never by interpolation; made smaller by averaging areas.
    """
    rows = -(-len(images) // columns) if rows is None else rows
    shown = _codes(_resized(images[: rows * columns], scale))
    height, width = shown.shape[1:]
    padded = np.full((rows * columns, height + GAP_PX, width + GAP_PX), PAPER, dtype=np.int32)
    padded[: len(shown), :height, :width] = shown
    sheet = padded.reshape(rows, columns, height + GAP_PX, width + GAP_PX).transpose(0, 2, 1, 3)
    return sheet.reshape(rows * (height + GAP_PX), columns * (width + GAP_PX))[: -GAP_PX or None, : -GAP_PX or None]


def _resized(images: np.ndarray, scale: float) -> np.ndarray:
    if scale >= 1:
        assert scale == int(scale)
        return images.repeat(int(scale), axis=1).repeat(int(scale), axis=2)
    import cv2

    height, width = (max(1, round(scale * side)) for side in images.shape[1:3])
    small = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small) if small else np.empty((0, height, width, 3), dtype=np.uint8)


def _codes(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> int32 (...), 0xRRGGBB."""
    wide = pixels.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _pixels(codes: np.ndarray) -> np.ndarray:
    """int32 (...) -> uint8 (..., 3)."""
    return np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)


def words(text: str, *, width: int, height: int | None = None, size: int = 14) -> Canvas:
    """A strip of text in lines that fit its width, in the middle of its height (by default, as high as its lines)."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)  # Pillow's own, the same everywhere
    lines = [line for paragraph in text.split("\n") for line in _wrapped(paragraph, width, font.getlength)]
    line_px = round(1.4 * size)
    height = line_px * len(lines) + 4 if height is None else height
    strip = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        y = height / 2 + (number - (len(lines) - 1) / 2) * line_px
        draw.text((width / 2, y), line, fill=0, font=font, anchor="mm")
    return _greys(np.asarray(strip))


def _wrapped(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _greys(levels: np.ndarray) -> Canvas:
    """uint8 levels -> the nearest greys: ``PAPER`` is white, ``-N_GREYS`` black."""
    return np.rint(levels / 255 * (N_GREYS - 1)).astype(np.int32) - N_GREYS


def inches(width: int) -> float:
    """Width of a plot that goes with tiles of ``width`` pixels."""
    return max(width, PLOT_PX) / DPI


def plotted(figure: "Figure") -> Canvas:
    """What matplotlib draws, at ``DPI`` pixels an inch; its greys are those of the words."""
    figure.set_dpi(DPI)
    canvas = figure.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # pyright: ignore[reportAttributeAccessIssue] - Agg's
    grey = (pixels == pixels[..., :1]).all(axis=-1)
    return np.where(grey, _greys(pixels[..., 0]), _codes(pixels) + PLOTTED)


def beside(*canvases: Canvas, gap_px: int = 0, align: Align = "start") -> Canvas:
    """Canvases from left to right, lower ones filled up with paper; ``start`` aligns them at the top."""
    height = max(len(canvas) for canvas in canvases)
    gap = np.full((height, gap_px), PAPER, dtype=np.int32)
    parts = [gap]
    for canvas in canvases:
        missing = height - len(canvas)
        above = {"start": 0, "middle": missing // 2, "end": missing}[align]
        parts += [framed(canvas, top=above, bottom=missing - above), gap]
    return np.hstack(parts[1:-1])


def below(*canvases: Canvas, gap_px: int = 0, align: Align = "start") -> Canvas:
    """Canvases from top to bottom, narrower ones filled up with paper; ``start`` aligns them on the left."""
    return beside(*(canvas.T for canvas in canvases), gap_px=gap_px, align=align).T


def framed(canvas: Canvas, *, top: int = 0, right: int = 0, bottom: int = 0, left: int = 0) -> Canvas:
    """Paper on the sides of a canvas."""
    return np.pad(canvas, ((top, bottom), (left, right)), constant_values=PAPER)


def titled(title: str, *parts: Canvas, size: int = 16) -> Canvas:
    """The title over the parts, one below the other, with a margin on every side."""
    body = below(*parts, gap_px=PART_GAP_PX)
    head = words(title, width=body.shape[1], size=size)
    return framed(below(head, body, gap_px=GAP_PX), top=6, right=MARGIN_PX, bottom=MARGIN_PX, left=MARGIN_PX)


def _picture(canvas: Canvas, n_colours: int, fit_to: np.ndarray | None) -> tuple["Image", int]:
    """The canvas as an image with a palette, and how many colours its tiles have.

    In the palette: the tiles' colours, the plots', and the greys at its end.
    """
    from PIL import Image

    tile, plot = (canvas >= 0) & (canvas < PLOTTED), canvas >= PLOTTED
    wanted = _some(canvas[tile]) if fit_to is None else _codes(fit_to).reshape(-1)
    of_tiles, tile_colours = _reduced(canvas[tile], wanted, n_colours)
    of_plots, plot_colours = _reduced(canvas[plot] - PLOTTED, _some(canvas[plot] - PLOTTED), N_PLOT_COLOURS)
    indices = canvas + 256  # right for the greys
    indices[tile] = of_tiles
    indices[plot] = of_plots + len(tile_colours)
    colours = np.concatenate([tile_colours, plot_colours])
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = colours
    palette[N_COLOURS:] = np.linspace(0, 255, N_GREYS).round()[:, np.newaxis]
    picture = Image.fromarray(indices.astype(np.uint8)).convert("L")
    picture.putpalette(palette.tobytes())
    return picture, len(tile_colours)


def _some(codes: np.ndarray) -> np.ndarray:
    """At most ``FITTED_PX`` of them, from a fixed stream."""
    if len(codes) <= FITTED_PX:
        return codes
    return codes[numpy_stream(0, "palette").integers(0, len(codes), FITTED_PX)]


def _reduced(codes: np.ndarray, wanted: np.ndarray, n_colours: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each code the index of its colour, and the colours, uint8 (n, 3), at most ``n_colours`` that suit ``wanted``.

    Maximum coverage keeps rare colours, one round of k-means brings the frequent ones near; nothing is dithered.
    """
    from PIL import Image

    if not len(codes):
        return np.empty(0, dtype=np.int32), np.empty((0, 3), dtype=np.uint8)
    strip = Image.fromarray(_pixels(wanted)[:, np.newaxis])
    quantised = strip.quantize(n_colours, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    found = np.asarray(quantised).reshape(-1)
    colours = np.array(quantised.getpalette(), dtype=np.uint8).reshape(-1, 3)[: int(found.max()) + 1]
    known, first = np.unique(wanted, return_index=True)
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    if (known[place] == codes).all():
        return found[first][place], colours
    return _nearest(codes, colours), colours


def _nearest(codes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Index of the nearest colour, looked up at 64 levels a channel."""
    levels = np.arange(64, dtype=np.float32) * 4 + 2
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(64, 64**2, 3)
    ours = colours.astype(np.float32)
    table = np.stack([((ours**2).sum(axis=1) - 2 * some @ ours.T).argmin(axis=1) for some in cells]).reshape(-1)
    return table[(codes >> 18 & 63) << 12 | (codes >> 10 & 63) << 6 | codes >> 2 & 63]


def _png(picture: "Image") -> bytes:
    content = BytesIO()
    picture.save(content, format="PNG", optimize=True)  # as drawing.save does
    return content.getvalue()
