"""A bedroom drawn in perspective: walls, floor, bed, window, lamp, door, pictures; with the boxes of window and bed.

A pinhole camera stands in a box-shaped room (x to the right, y up, z away from the camera, in metres). Surfaces are
grey textures, warped by the surface's homography and coloured by a table of 256 colours; the rest are polygons, painted
from far to near. Whatever is painted is painted on a map of parts too, so that a box says what is visible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import cv2
import numpy as np

from pipeline.datasets.embedded.room_textures import TEXTURE_PX, Bank, Colour, colour_of, ramp

MARGIN_PX = 3  # drawn all around the picture, so that a shifted copy shows what lies beyond the edge
SHAPES = ((341, 256), (384, 256), (256, 341), (288, 256))  # width, height
SHAPE_SHARES = (0.7, 0.12, 0.08, 0.1)
NOTHING, WINDOW, BED = 0, 1, 2  # the map of parts
NEAR = 0.25  # metres; what lies nearer to the camera is cut off
LIGHT_SCALE = 4  # light falls softly: its map has a quarter of the picture's sides
FRACTION_BITS = 4  # of coordinates handed to cv2.fillPoly
SIDE = {"left": -1.0, "right": 1.0}
TRIES = 12  # to find a place for the window within the centre square

Box = tuple[float, float, float, float]
FACTS = ("curtains", "door", "lamp", "lamp_on", "ceiling_lamp", "rug", "wardrobe", "chest", "plant")
NO_BOX: Box = (np.nan, np.nan, np.nan, np.nan)
Rng = np.random.Generator
Piece = tuple[float, Callable[[], None]]  # distance from the camera, and what paints it


@dataclass(frozen=True, kw_only=True)
class Room:
    """A drawn room: uint8 with a margin of MARGIN_PX all around what is shown.

    Attributes
    ----------
    canvas : uint8 (height + 2 MARGIN_PX, width + 2 MARGIN_PX, 3), RGB
    parts : uint8 (height + 2 MARGIN_PX, width + 2 MARGIN_PX): NOTHING, WINDOW or BED
    facts : what the room has, by column, whether or not the picture shows it
    """

    canvas: np.ndarray
    parts: np.ndarray
    facts: dict[str, Any]

    def picture(self, dx: int = 0, dy: int = 0) -> np.ndarray:
        """What is shown, with the content moved right by dx and down by dy pixels, up to MARGIN_PX either way."""
        return _shown(self.canvas, dx, dy)

    def box(self, part: int, dx: int = 0, dy: int = 0) -> Box:
        """x1, y1, x2, y2 of what is visible of a part, as edges of pixels; NaN if it is less than two pixels."""
        x, y, width, height = cv2.boundingRect((_shown(self.parts, dx, dy) == part).astype(np.uint8))
        if min(width, height) < 2:
            return NO_BOX
        return float(x), float(y), float(x + width), float(y + height)


def _shown(canvas: np.ndarray, dx: int, dy: int) -> np.ndarray:
    height, width = canvas.shape[0] - 2 * MARGIN_PX, canvas.shape[1] - 2 * MARGIN_PX
    top, left = MARGIN_PX - dy, MARGIN_PX - dx
    return np.ascontiguousarray(canvas[top : top + height, left : left + width])


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole: ``matrix @ (point - position)`` is (x w, y w, w), w being the depth."""

    position: np.ndarray
    matrix: np.ndarray

    @classmethod
    def aimed(
        cls, position: np.ndarray, target: np.ndarray, *, roll: float, focal_px: float, centre: tuple[float, float]
    ) -> Self:
        """A camera at ``position`` whose optical axis (pixel ``centre``) goes through ``target``."""
        forward = (target - position) / np.linalg.norm(target - position)
        level = np.array([forward[2], 0.0, -forward[0]]) / np.hypot(forward[0], forward[2])
        right = np.cos(roll) * level + np.sin(roll) * np.cross(forward, level)
        up = np.cross(forward, right)
        rows = [focal_px * right + centre[0] * forward, -focal_px * up + centre[1] * forward, forward]
        return cls(position=position, matrix=np.stack(rows))

    def project(self, corners: np.ndarray) -> np.ndarray:
        """Pixel coordinates (m, 2) of a polygon (n, 3), cut off at the near plane; empty if all of it lies nearer."""
        points = (corners - self.position) @ self.matrix.T
        if points[:, 2].min() < NEAR:
            points = _cut(points)
        return points[:, :2] / points[:, 2:]


def _cut(points: np.ndarray) -> np.ndarray:
    """The part of a polygon at depth NEAR and beyond (Sutherland and Hodgman)."""
    kept = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept).reshape(-1, 3)


@dataclass(frozen=True)
class Panel:
    """A flat rectangle in the room: a corner and its two sides, in metres."""

    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def corners(self) -> np.ndarray:
        """(4, 3), around the rectangle."""
        points = np.empty((4, 3))
        points[0] = self.origin
        points[1] = self.origin + self.u
        points[2] = points[1] + self.v
        points[3] = self.origin + self.v
        return points

    def part(self, u1: float, v1: float, u2: float, v2: float) -> "Panel":
        """The part between the given shares (0..1) of the two sides."""
        return Panel(self.origin + u1 * self.u + v1 * self.v, (u2 - u1) * self.u, (v2 - v1) * self.v)

    def outline(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) of points (n, 2) that are given as shares of the two sides."""
        return self.origin + points[:, :1] * self.u + points[:, 1:] * self.v


class Painter:
    """Paints panels and polygons, seen by a camera, on a picture and on the map of parts."""

    def __init__(self, camera: Camera, width: int, height: int) -> None:
        self.camera = camera
        self.image: np.ndarray = np.zeros((height, width, 3), dtype=np.uint8)
        self.parts: np.ndarray = np.zeros((height, width), dtype=np.uint8)
        self.light: np.ndarray = np.ones((-(-height // LIGHT_SCALE), -(-width // LIGHT_SCALE), 3), dtype=np.float32)

    def polygon(self, corners: np.ndarray, colour: Colour, part: int = NOTHING) -> None:
        """One colour, smooth edges."""
        points = self.camera.project(corners)
        if len(points):
            outline = [_fixed(points)]
            cv2.fillPoly(self.image, outline, colour.tolist(), cv2.LINE_AA, FRACTION_BITS)
            cv2.fillPoly(self.parts, outline, part, cv2.LINE_8, FRACTION_BITS)

    def panel(self, panel: Panel, colour: Colour, part: int = NOTHING) -> None:
        """One colour."""
        self.polygon(panel.corners(), colour, part)

    def textured(
        self,
        panel: Panel,
        texture: np.ndarray,
        colours: np.ndarray,
        *,
        px_per_m: float,
        start: tuple[float, float] = (0.0, 0.0),
        part: int = NOTHING,
    ) -> None:
        """A grey texture in the colours of a ramp; ``start`` is the texture's pixel at the panel's origin."""
        longest = max(np.linalg.norm(panel.u), np.linalg.norm(panel.v))
        px_per_m = min(px_per_m, (TEXTURE_PX - 1 - max(start)) / float(longest))  # a texture ends there
        to_texture = np.array([[px_per_m, 0.0, start[0]], [0.0, px_per_m, start[1]], [0.0, 0.0, 1.0]])
        self._warp(panel, texture, to_texture, part, colours=colours)

    def pasted(self, panel: Panel, picture: np.ndarray, part: int = NOTHING) -> None:
        """A whole RGB picture; the panel's origin is its upper left corner, v goes down."""
        sides = np.linalg.norm(panel.u), np.linalg.norm(panel.v)
        scale = np.diag([(picture.shape[1] - 1) / sides[0], (picture.shape[0] - 1) / sides[1], 1.0])
        self._warp(panel, picture, scale, part)

    def _warp(
        self, panel: Panel, texture: np.ndarray, to_texture: np.ndarray, part: int, colours: np.ndarray | None = None
    ) -> None:
        points = self.camera.project(panel.corners())
        if not len(points):
            return
        height, width = self.parts.shape
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        x1, y1 = int(max(left - 1, 0)), int(max(top - 1, 0))
        x2, y2 = int(min(right + 2, width)), int(min(bottom + 2, height))
        if x1 >= x2 or y1 >= y2:
            return
        axes = [
            panel.u / np.linalg.norm(panel.u),
            panel.v / np.linalg.norm(panel.v),
            panel.origin - self.camera.position,
        ]
        to_image = self.camera.matrix @ np.stack(axes, axis=1)
        if abs(np.linalg.det(to_image)) < 1e-6:  # seen edge on
            return
        corner = np.array([[1.0, 0.0, x1], [0.0, 1.0, y1], [0.0, 0.0, 1.0]])
        whole = to_texture @ np.linalg.inv(to_image) @ corner
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpPerspective(texture, whole, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if colours is not None:
            warped = cv2.applyColorMap(warped, colours)
        mask = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed(points - (x1, y1))], 255, cv2.LINE_8, FRACTION_BITS)
        cv2.copyTo(warped, mask, self.image[y1:y2, x1:x2])
        cv2.fillPoly(self.parts, [_fixed(points)], part, cv2.LINE_8, FRACTION_BITS)

    def shade(self, corners: np.ndarray, factor: float | Colour) -> None:
        """Multiply the map of light within a polygon."""
        points = self.camera.project(corners)
        if len(points):
            mask = np.zeros(self.light.shape[:2], dtype=np.uint8)
            cv2.fillPoly(mask, [_fixed(points / LIGHT_SCALE)], 1, cv2.LINE_8, FRACTION_BITS)
            self.light[mask > 0] *= np.asarray(factor, dtype=np.float32)

    def darken_line(self, points: np.ndarray, factor: float) -> None:
        """Set the map of light along a line of pixels (n, 2); it is softened later."""
        if len(points):
            line = [_fixed(points / LIGHT_SCALE)]
            cv2.polylines(self.light, line, False, (factor,) * 3, 2, cv2.LINE_8, FRACTION_BITS)

    def glow(self, centre: np.ndarray, radius_px: float, colour: Colour, strength: float) -> None:
        """Add a soft pool of light around a point of the room."""
        found = self.camera.project(centre[None])
        if len(found):
            height, width = self.light.shape[:2]
            x, y = found[0] / LIGHT_SCALE
            falloff_x = ((np.arange(width) - x) * LIGHT_SCALE / radius_px) ** 2
            falloff_y = ((np.arange(height) - y) * LIGHT_SCALE / radius_px) ** 2
            pool = 1.0 / (1.0 + falloff_y[:, None] + falloff_x[None]) ** 1.5
            self.light += (strength * pool[..., None] * (colour / 255.0)).astype(np.float32)

    def let_light_fall(self, soften_px: float) -> None:
        """Multiply what was painted so far by the map of light, and begin a new map."""
        if soften_px:
            self.light = cv2.GaussianBlur(self.light, (0, 0), soften_px / LIGHT_SCALE)
        levels = np.clip(self.light * 100.0, 0, 255).astype(np.uint8)  # up to 2.55 times as bright
        height, width = self.parts.shape
        cv2.multiply(self.image, cv2.resize(levels, (width, height)), self.image, scale=0.01)
        self.light = np.ones_like(self.light)


def _fixed(points: np.ndarray) -> np.ndarray:
    # far outside the picture the exact place does not matter, but large numbers would overflow
    points = np.minimum(np.maximum(points, -8000.0), 8000.0)
    return np.rint(points * (1 << FRACTION_BITS)).astype(np.int32)


# --------------------------------------------------------------------------------------------------------- the scene


@dataclass(frozen=True)
class Space:
    """The room's box: x in -width/2..width/2, y in 0..height, z up to depth; a side's brightness by its name."""

    width: float
    height: float
    depth: float
    bright: dict[str, float]

    def wall(self, name: str) -> Panel:
        """The wall from its upper left corner, as seen from within: u to the right, v down."""
        w, h, d, front = self.width / 2, self.height, self.depth, -1.0
        down = np.array([0.0, -h, 0.0])
        if name == "back":
            return Panel(np.array([-w, h, d]), np.array([2 * w, 0.0, 0.0]), down)
        if name == "left":
            return Panel(np.array([-w, h, front]), np.array([0.0, 0.0, d - front]), down)
        return Panel(np.array([w, h, d]), np.array([0.0, 0.0, front - d]), down)

    def on_wall(self, name: str, along: float, bottom: float, wide: float, tall: float) -> Panel:
        """A rectangle on a wall: ``along`` is the x (back) or z (sides) of its middle; the corner is the upper left."""
        top, gap = bottom + tall, 0.01
        down = np.array([0.0, -tall, 0.0])
        if name == "back":
            return Panel(np.array([along - wide / 2, top, self.depth - gap]), np.array([wide, 0.0, 0.0]), down)
        x = SIDE[name] * (self.width / 2 - gap)
        turn = -SIDE[name]  # the left wall runs away from the camera, the right one towards it
        return Panel(np.array([x, top, along - turn * wide / 2]), np.array([0.0, 0.0, turn * wide]), down)


def draw_room(rng: Rng, textures: Bank) -> Room:
    """Draw a bedroom from a random stream."""
    return _Drawing(rng, textures).room()


class _Drawing:
    """One room in the making. Every draw comes from ``rng``, in the order of the code."""

    def __init__(self, rng: Rng, textures: Bank) -> None:
        self.rng, self.textures = rng, textures
        self.width, self.height = SHAPES[rng.choice(len(SHAPES), p=SHAPE_SHARES)]
        self.night = bool(rng.random() < 0.22)
        self.has_bed, self.has_window = bool(rng.random() < 0.95), bool(rng.random() < 0.93)
        self.lit_from = "left" if rng.random() < 0.5 else "right"
        for _ in range(TRIES):
            self.lay_out()
            if self.well_framed():
                break
        self.choose_colours()
        self.glows: list[tuple[np.ndarray, float]] = []
        self.facts: dict[str, Any] = dict.fromkeys(FACTS, False) | {"pictures": 0, "pillows": 0}

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    # where things are

    def lay_out(self) -> None:
        """Choose the room, the places of bed and window, and the camera, which looks at about the middle of both."""
        dark_side = "right" if self.lit_from == "left" else "left"
        bright = {"back": self.between(0.75, 1.0), "floor": self.between(0.8, 1.05), "ceiling": self.between(0.9, 1.1)}
        bright |= {self.lit_from: self.between(0.55, 0.85), dark_side: self.between(0.85, 1.1)}
        space = Space(self.between(3.0, 5.2), self.between(2.2, 3.0), self.between(3.0, 5.0), bright)
        self.space = space

        self.bed_wide, self.bed_long = self.between(0.95, 1.9), self.between(1.8, 2.1)
        self.head = str(self.rng.choice(["back", "left", "right"], p=[0.56, 0.22, 0.22]))
        if self.head == "back":
            free = space.width / 2 - self.bed_wide / 2 - 0.05
            self.bed_at = np.array([self.between(-free, free), 0.0, space.depth])
            self.lengthwise, self.across = np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])
        else:
            from_back = self.between(0.0, max(0.05, space.depth - 2.4 - self.bed_wide))
            z = space.depth - self.bed_wide / 2 - from_back - 0.03
            self.bed_at = np.array([SIDE[self.head] * space.width / 2, 0.0, z])
            self.lengthwise, self.across = np.array([-SIDE[self.head], 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
        self.bed_top = self.between(0.42, 0.65)

        self.window_wall = str(self.rng.choice(["back", "left", "right"], p=[0.82, 0.09, 0.09]))
        wide, tall = self.between(0.9, 2.2), self.between(0.9, 1.6)
        bottom = self.between(0.75, 1.1)
        tall = min(tall, space.height - bottom - 0.2)
        if self.window_wall == "back":
            free = space.width / 2 - wide / 2 - 0.15
            along = self.between(-free, free)
        else:
            along = self.between(space.depth - 1.6, space.depth - 0.2) - wide / 2
        self.window = space.on_wall(self.window_wall, along, bottom, wide, tall)

        interest = []
        if self.has_bed:
            interest.append(self.bed_at + 0.5 * self.bed_long * self.lengthwise + np.array([0.0, self.bed_top, 0.0]))
        if self.has_window:
            interest += [self.window.corners().mean(axis=0)] * 2
        if not interest:
            interest.append(np.array([0.0, 1.2, space.depth]))
        position = np.array([self.between(-0.35, 0.35) * space.width, self.between(0.95, 2.0), self.between(-0.9, 0.3)])
        target = np.mean(interest, axis=0) + self.rng.normal(0.0, (0.3, 0.15, 0.0))
        target[2] = space.depth
        self.camera = Camera.aimed(
            position,
            target,
            roll=float(self.rng.normal(0.0, 0.012)),
            focal_px=min(self.width, self.height) * self.between(0.95, 1.75),
            centre=(self.width / 2 - 0.5 + MARGIN_PX, self.height / 2 - 0.5 + MARGIN_PX),
        )

    def well_framed(self) -> bool:
        """Whether the window lies within the centre square, large enough, and the bed's middle in the picture."""
        side = min(self.width, self.height)
        left, top = MARGIN_PX + (self.width - side) / 2, MARGIN_PX + (self.height - side) / 2
        if self.has_bed:
            middle = self.bed_at + 0.4 * self.bed_long * self.lengthwise + np.array([0.0, self.bed_top, 0.0])
            found = self.camera.project(middle[None])
            if not len(found) or not (np.all(found > (left, top)) and np.all(found < (left + side, top + side))):
                return False
        if self.has_window:
            frame = self.camera.project(self.window.corners())
            if len(frame) != 4:  # partly beside or behind the camera
                return False
            low, high = frame.min(axis=0), frame.max(axis=0)
            inside = np.all(low > (left + 4, top + 4)) and np.all(high < (left + side - 4, top + side - 4))
            return bool(inside and (high - low).min() > 0.12 * side)
        return True

    def choose_colours(self) -> None:
        rng = self.rng
        vivid = 0.75 if self.chance(0.3) else 0.35
        hues = (0.03, 0.17) if self.chance(0.35) else (0.0, 1.0)  # cream and beige are common
        self.wall = colour_of(rng, hues, (0.0, vivid), (0.35, 1.0))
        self.wall_ink = self.wall * self.between(0.55, 1.15) if self.chance(0.6) else self.any_colour(vivid, 0.3)
        self.wood = colour_of(rng, (0.03, 0.11), (0.15, 0.75), (0.15, 0.85))
        self.trim = colour_of(rng, (0.05, 0.15), (0.0, 0.2), (0.75, 1.0)) if self.chance(0.7) else self.wood
        self.frame = self.trim if self.chance(0.6) else self.any_colour(0.5, 0.1)
        self.linen = colour_of(rng, (0.0, 1.0), (0.0, 0.15), (0.8, 1.0))

    def any_colour(self, saturation: float = 0.8, darkest: float = 0.15) -> Colour:
        return colour_of(self.rng, (0.0, 1.0), (0.05, saturation), (darkest, 1.0))

    # how it is painted

    def room(self) -> Room:
        size = self.width + 2 * MARGIN_PX, self.height + 2 * MARGIN_PX
        self.painter = Painter(self.camera, *size)
        self.paint_shell()
        self.paint_rug()
        taken = [self.span(self.window)] if self.has_window and self.window_wall == "back" else []
        self.paint_door(taken)
        self.paint_pictures(taken)
        self.cast_shadows()
        if self.has_window:
            self.paint_window()
        pieces = self.side_pieces()
        if self.has_bed:
            pieces.append((self.depth_of(self.bed_at + 0.5 * self.bed_long * self.lengthwise), self.paint_bed))
            pieces += self.bedside_pieces()
        for _, paint in sorted(pieces, key=lambda piece: -piece[0]):
            paint()
        self.paint_ceiling_lamp()
        self.finish()
        facts = {
            "wall_red": round(self.wall[0]),
            "wall_green": round(self.wall[1]),
            "wall_blue": round(self.wall[2]),
            "night": self.night,
            "bed_head": self.head if self.has_bed else "none",
            "window_wall": self.window_wall if self.has_window else "none",
        }
        return Room(canvas=self.painter.image, parts=self.painter.parts, facts=facts | self.facts)

    def depth_of(self, point: np.ndarray) -> float:
        return float(np.linalg.norm((point - self.camera.position)[[0, 2]]))

    @staticmethod
    def span(panel: Panel) -> tuple[float, float]:
        return float(panel.origin[0]), float(panel.origin[0] + panel.u[0])

    def paint_shell(self) -> None:
        """Walls, ceiling and floor, skirting and edges."""
        painter, space, rng = self.painter, self.space, self.rng
        paper = self.textures.walls[rng.integers(len(self.textures.walls))]
        other = self.textures.walls[0] if self.chance(0.3) else paper  # one wall papered, the others plain
        per_metre = self.between(70, 190)
        ceiling = colour_of(rng, (0.0, 1.0), (0.0, 0.12), (0.8, 1.0)) * space.bright["ceiling"]
        w, h, d = space.width / 2, space.height, space.depth
        painter.polygon(np.array([[-w, h, -1], [w, h, -1], [w, h, d], [-w, h, d]]), ceiling)
        for name in ("left", "right", "back"):
            texture = paper if name == "back" else other
            start = tuple(rng.uniform(0, 128, size=2))
            colours = ramp(self.wall, self.wall_ink, space.bright[name])
            painter.textured(space.wall(name), texture, colours, px_per_m=per_metre, start=start)
        floor = self.textures.floors[rng.integers(len(self.textures.floors))]
        light = self.wood if self.chance(0.7) else self.any_colour(0.4)
        colours = ramp(light * self.between(0.35, 0.7), light * 1.3, space.bright["floor"])
        ground = Panel(np.array([-w, 0, -1.0]), np.array([2 * w, 0, 0]), np.array([0, 0, d + 1.0]))
        if self.chance(0.5):  # boards that run across
            ground = Panel(ground.origin, ground.v, ground.u)
        painter.textured(ground, floor, colours, px_per_m=self.between(90, 170), start=tuple(rng.uniform(0, 128, 2)))
        panelled = self.between(0.7, 1.2) if self.chance(0.2) else 0.0
        panelling, cornice = self.any_colour(0.5, 0.3), self.chance(0.4)
        skirting, edge = self.between(0.06, 0.16), self.between(0.04, 0.14)
        for name in ("left", "right", "back"):
            wall, bright = space.wall(name), space.bright[name]
            if panelled:
                painter.panel(wall.part(0, 1 - panelled / h, 1, 1), panelling * bright)
            if cornice:
                painter.panel(wall.part(0, 0, 1, edge / h), self.trim * bright)
            painter.panel(wall.part(0, 1 - skirting / h, 1, 1), self.trim * bright * 0.9)

    def paint_rug(self) -> None:
        self.facts["rug"] = rug = self.chance(0.5)
        if not rug:
            return
        space, rng = self.space, self.rng
        wide, long = self.between(1.0, 2.4), self.between(0.8, 1.8)
        x, z = self.between(-0.5, 0.5) * (space.width - wide), self.between(0.4, max(0.5, space.depth - long - 0.2))
        low, high = self.any_colour(), self.any_colour(0.6, 0.4)
        level = 0.01
        if self.chance(0.3):  # round
            turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
            for size, colour in ((1.0, low), (0.8, high), (0.45, low)):
                offsets = np.stack([wide / 2 * np.cos(turn), 0 * turn, long / 2 * np.sin(turn)], axis=1)
                self.painter.polygon(np.array([x, level, z + long / 2]) + size * offsets, colour)
            return
        rug_panel = Panel(np.array([x - wide / 2, level, z]), np.array([wide, 0, 0]), np.array([0, 0, long]))
        self.painter.panel(rug_panel, high)
        fabric = self.textures.fabrics[rng.integers(2, len(self.textures.fabrics))]
        inner = rug_panel.part(0.08, 0.1, 0.92, 0.9)
        self.painter.textured(inner, fabric, ramp(low, high), px_per_m=self.between(80, 220))

    def free_place(self, taken: list[tuple[float, float]], wide: float, gap: float) -> float | None:
        """An x on the back wall for something ``wide`` that overlaps nothing taken; it is then taken, too."""
        free = self.space.width / 2 - wide / 2 - 0.1
        for _ in range(4):
            x = self.between(-free, free)
            if all(x + wide / 2 + gap < low or x - wide / 2 - gap > high for low, high in taken):
                taken.append((x - wide / 2, x + wide / 2))
                return x
        return None

    def paint_door(self, taken: list[tuple[float, float]]) -> None:
        space = self.space
        colour, wide, tall = self.any_colour(0.6, 0.3) if self.chance(0.4) else self.trim, self.between(0.75, 0.95), 2.0
        wall = str(self.rng.choice(["back", "left", "right"]))
        knob = 0.1 if self.chance(0.5) else 0.9
        panels = [(0.15, 0.08, 0.85, 0.45), (0.15, 0.55, 0.85, 0.92)]
        if self.chance(0.4):
            panels = [
                (0.12, 0.06, 0.45, 0.5),
                (0.55, 0.06, 0.88, 0.5),
                (0.12, 0.58, 0.45, 0.94),
                (0.55, 0.58, 0.88, 0.94),
            ]
        along: float | None = self.between(0.8, space.depth - 0.7)
        if wall == "back":
            along = self.free_place(taken, wide, 0.12)
        self.facts["door"] = door = along is not None and self.chance(0.5)
        if not door or along is None:
            return
        colour = colour * space.bright[wall]
        panel = space.on_wall(wall, along, 0.0, wide, tall)
        self.painter.panel(panel.part(-0.08, -0.04, 1.08, 1), self.trim * 0.9)
        self.painter.panel(panel, colour)
        for part in panels:
            self.painter.panel(panel.part(*part), colour * 0.82)
        self.painter.panel(panel.part(knob - 0.04, 0.5, knob + 0.04, 0.55), np.array([200.0, 180, 110]))

    def paint_pictures(self, taken: list[tuple[float, float]]) -> None:
        """Framed pictures on the back wall, where it is free, and on the side walls."""
        space, count = self.space, 0
        framing = self.any_colour(0.6, 0.0)
        for _ in range(self.rng.integers(0, 5)):
            wall = str(self.rng.choice(["back", "left", "right"], p=[0.6, 0.2, 0.2]))
            wide, tall = self.between(0.25, 0.9), self.between(0.25, 0.8)
            bottom = self.between(1.2, max(1.25, space.height - tall - 0.25))
            mount = self.between(0.0, 0.16)
            art = self.textures.art[self.rng.integers(len(self.textures.art))]
            along: float | None = self.between(0.9, space.depth - 0.5)
            if wall == "back":
                along = self.free_place(taken, wide, 0.06)
            if along is None:
                continue
            count += 1
            panel = space.on_wall(wall, along, bottom, wide, tall)
            self.painter.panel(panel.part(0.03, 0.05, 1.06, 1.08), self.wall * 0.5)  # its shadow
            self.painter.panel(panel, framing)
            self.painter.panel(panel.part(0.07, 0.07, 0.93, 0.93), np.array([240.0, 238, 230]))
            self.painter.pasted(panel.part(0.07 + mount, 0.07 + mount, 0.93 - mount, 0.93 - mount), art)
        self.facts["pictures"] = count

    def cast_shadows(self) -> None:
        """Darker corners, shadows below the furniture, light that falls in; on all that was painted so far."""
        painter, space = self.painter, self.space
        w, h, d = space.width / 2, space.height, space.depth
        back = np.array([[-w, 0, d], [-w, h, d], [w, h, d], [w, 0, d]], dtype=float)
        front = back - np.array([0, 0, d - 0.2])
        for corner in range(4):
            for end in (back[(corner + 1) % 4], front[corner]):
                line = painter.camera.project(np.stack([back[corner], end, end]))
                painter.darken_line(line, 0.78)
        if self.has_bed:
            ground = Panel(
                self.bed_at - (self.bed_wide / 2 + 0.15) * self.across,
                (self.bed_wide + 0.3) * self.across,
                (self.bed_long + 0.15) * self.lengthwise,
            )
            painter.shade(ground.corners(), self.between(0.3, 0.55))
        if self.has_window and not self.night:
            self.let_the_sun_in()
        painter.let_light_fall(soften_px=6)

    def let_the_sun_in(self) -> None:
        wall = self.window_wall
        sky = colour_of(self.rng, (0.08, 0.14), (0.0, 0.3), (1.0, 1.0))
        self.painter.glow(self.window.corners().mean(axis=0), self.between(80, 180), sky, self.between(0.1, 0.4))
        if self.chance(0.35):  # a patch of sunlight on the floor: far corners first, as the window's upper edge
            inward = np.array([0.0, 0.0, -1.0]) if wall == "back" else np.array([-SIDE[wall], 0.0, 0.0])
            far, slant = self.between(1.6, 2.6), self.between(-0.4, 0.4) * self.window.u
            reach = far * np.array([1.0, 1.0, 0.35, 0.35])[:, None]
            below = self.window.corners() * np.array([1.0, 0.0, 1.0])
            self.painter.shade(below + reach * (inward + slant), np.array([1.6, 1.5, 1.25]))

    def paint_window(self) -> None:
        """Frame, view, bars, blind and curtains."""
        painter, rng, space = self.painter, self.rng, self.space
        window, bright = self.window, space.bright[self.window_wall]
        frame = self.frame * bright
        views = self.textures.night_views if self.night else self.textures.views
        view = views[rng.integers(len(views))]
        if self.chance(0.5):
            view = view[:, ::-1]
        part = self.between(0.5, 1.0)
        left = int(self.between(0, 1 - part) * view.shape[1])
        view = np.ascontiguousarray(view[:, left : left + int(part * view.shape[1])])
        if not self.night:
            view = cv2.convertScaleAbs(view, alpha=self.between(0.85, 1.25))
        border = self.between(0.04, 0.09)
        wide, tall = float(np.linalg.norm(window.u)), float(np.linalg.norm(window.v))
        bx, by = border / wide, border / tall
        painter.panel(window, frame, WINDOW)
        painter.pasted(window.part(bx, by, 1 - bx, 1 - by), view, WINDOW)
        columns, rows = int(rng.choice([1, 2, 2, 3])), int(rng.choice([1, 2, 2, 3]))
        bar = self.between(0.015, 0.035)
        for column in range(1, columns):
            at = column / columns
            painter.panel(window.part(at - bar / wide, by, at + bar / wide, 1 - by), frame * 0.93, WINDOW)
        for row in range(1, rows):
            at = row / rows
            painter.panel(window.part(bx, at - bar / tall, 1 - bx, at + bar / tall), frame * 0.93, WINDOW)
        if self.chance(0.15):  # a blind, partly down
            down, slat = self.between(0.2, 0.7), self.any_colour(0.3, 0.6)
            for row in range(int(rng.integers(5, 12))):
                top = by + row * 0.07
                if top > down:
                    break
                painter.panel(window.part(bx, top, 1 - bx, top + 0.05), slat * (1 - 0.1 * (row % 2)), WINDOW)
        sill = window.part(-0.04, 1.0, 1.04, 1.0 + 0.05 / tall)
        painter.panel(sill, self.frame * bright * 0.85)
        self.facts["curtains"] = curtains = self.chance(0.6)
        if not curtains:
            return
        low, high = self.any_colour(0.7, 0.2), self.any_colour(0.3, 0.5)
        if self.chance(0.7):
            high = low * 1.5 + 20
        folds = self.textures.curtains[rng.integers(len(self.textures.curtains))]
        bottom = 1.1 if self.chance(0.5) else (window.origin[1] - 0.05) / tall
        over, inner = self.between(0.1, 0.3) / wide, self.between(0.02, 0.28)
        top = -self.between(0.05, 0.18) / tall
        sides = [(-over, inner), (1 - inner, 1 + over)]
        if self.chance(0.15):
            sides = sides[:1] if self.chance(0.5) else sides[1:]
        for begin, end in sides:
            panel = window.part(begin, top, end, bottom)
            per_metre = self.between(120, 330)
            painter.textured(panel, folds, ramp(low, high, bright), px_per_m=per_metre)
        rod = window.part(-over - 0.06, top - 0.03, 1 + over + 0.06, top + 0.01)
        painter.panel(rod, self.wood * 0.6 if self.chance(0.5) else self.linen * 0.8)

    # furniture

    def block(self, origin: np.ndarray, a: np.ndarray, b: np.ndarray, tall: float) -> dict[str, tuple[Panel, float]]:
        """The sides of an upright box that the camera sees, with their brightness; ``a`` and ``b`` lie in the floor."""
        up = np.array([0.0, tall, 0.0])
        faces = {
            "a-": (Panel(origin, b, up), -a),
            "a+": (Panel(origin + a, b, up), a),
            "b-": (Panel(origin, a, up), -b),
            "b+": (Panel(origin + b, a, up), b),
            "top": (Panel(origin + up, a, b), up),
        }
        seen = {}
        for name, (panel, normal) in faces.items():
            if normal @ (self.camera.position - panel.origin) > 0:
                seen[name] = (panel, self.brightness(normal))
        return seen

    def brightness(self, normal: np.ndarray) -> float:
        if normal[1] > 0:
            return self.space.bright["floor"]
        if abs(normal[0]) > abs(normal[2]):
            return self.space.bright["right" if normal[0] < 0 else "left"] * 0.9
        return self.space.bright["back"] * 0.85

    def paint_block(
        self, origin: np.ndarray, a: np.ndarray, b: np.ndarray, tall: float, colour: Colour, part: int = NOTHING
    ) -> dict[str, tuple[Panel, float]]:
        seen = self.block(origin, a, b, tall)
        for panel, bright in seen.values():
            self.painter.panel(panel, colour * bright, part)
        return seen

    def paint_bed(self) -> None:
        """Headboard, frame, mattress, blanket and pillows, all of them the part BED."""
        wide, long = self.bed_wide, self.bed_long
        along, across, up = self.lengthwise, self.across, np.array([0.0, 1.0, 0.0])
        corner = self.bed_at - wide / 2 * across
        upholstered = self.chance(0.4)
        board_colour = self.any_colour(0.6, 0.15) if upholstered else self.wood
        self.paint_headboard(corner, board_colour, upholstered=upholstered)
        base, drop = self.between(0.1, 0.32), self.between(0.08, 0.3)
        if self.chance(0.6):
            self.paint_block(corner, long * along, wide * across, base, self.wood * 0.8, BED)
        else:
            for end in (0.04, 0.96):
                for side in (0.04, 0.96):
                    leg = corner + end * long * along + side * wide * across - 0.03 * (along + across)
                    self.paint_block(leg, 0.06 * along, 0.06 * across, base, self.wood * 0.5, BED)
        self.paint_block(corner + base * up, long * along, wide * across, self.bed_top - base, self.linen, BED)
        self.paint_blanket(corner, drop)
        self.paint_pillows(corner)
        if self.chance(0.2):
            foot = corner + (long - 0.02) * along - 0.03 * across
            self.paint_block(
                foot, 0.07 * along, (wide + 0.06) * across, self.bed_top + self.between(0.0, 0.25), self.wood, BED
            )
        self.facts["pillows"] = self.pillows

    def paint_headboard(self, corner: np.ndarray, colour: Colour, *, upholstered: bool) -> None:
        along, across, wide = self.lengthwise, self.across, self.bed_wide
        kind = str(self.rng.choice(["plain", "arched", "slats", "none"], p=[0.4, 0.2, 0.25, 0.15]))
        tall = self.between(0.75, 1.25)
        if kind == "none":
            return
        origin = corner - 0.04 * across
        if kind == "slats":
            for share in np.linspace(0.0, 0.96, int(self.rng.integers(5, 11))):
                self.paint_block(origin + share * wide * across, 0.06 * along, 0.05 * across, tall, colour, BED)
            rail = origin + np.array([0.0, tall - 0.08, 0.0])
            self.paint_block(rail, 0.07 * along, (wide + 0.08) * across, 0.09, colour * 0.9, BED)
            return
        face = Panel(origin + 0.06 * along, (wide + 0.08) * across, np.array([0.0, tall, 0.0]))
        if kind == "arched":
            turn = np.linspace(np.pi, 0, 16)
            arch = np.stack([0.5 + 0.5 * np.cos(turn), 0.75 + 0.25 * np.sin(turn)], axis=1)
            points = np.concatenate([[[0.0, 0.0]], arch, [[1.0, 0.0]]])
            shaded = colour * self.brightness(along)
            self.painter.polygon(face.outline(points), shaded * 0.8, BED)
            inner = (points - (0.5, 0.0)) * (0.9, 0.93) + (0.5, 0.0)
            self.painter.polygon(face.outline(inner), shaded, BED)
            return
        self.paint_block(origin, 0.06 * along, (wide + 0.08) * across, tall, colour, BED)
        shaded = colour * self.brightness(along)
        pieces = int(self.rng.integers(2, 6))
        for piece in range(pieces):
            inset = face.part((piece + 0.06) / pieces, 0.1, (piece + 0.94) / pieces, 0.95)
            self.painter.panel(inset, shaded * (1.12 if upholstered else 0.88), BED)

    def paint_blanket(self, corner: np.ndarray, drop: float) -> None:
        rng, along, across = self.rng, self.lengthwise, self.across
        low, high = self.any_colour(0.9), self.any_colour(0.5, 0.4)
        fabric = self.textures.fabrics[rng.integers(len(self.textures.fabrics))]
        begin, per_metre, out = self.between(0.15, 0.55) * self.bed_long, self.between(60, 260), 0.03
        origin = corner + begin * along - out * across + np.array([0.0, drop, 0.0])
        length, wide, tall = self.bed_long - begin + out, self.bed_wide + 2 * out, self.bed_top + 0.03 - drop
        start = tuple(rng.uniform(0, 128, size=2))
        for panel, bright in self.block(origin, length * along, wide * across, tall).values():
            self.painter.textured(panel, fabric, ramp(low, high, bright), px_per_m=per_metre, start=start, part=BED)
        top = Panel(origin + np.array([0.0, tall + 0.005, 0.0]), length * along, wide * across)
        if self.chance(0.5):  # folded back
            fold = self.linen * self.space.bright["floor"] * 0.95
            self.painter.panel(top.part(0.0, 0.0, self.between(0.08, 0.2), 1.0), fold, BED)
        if self.chance(0.25):  # a throw at the foot
            throw = top.part(self.between(0.45, 0.65), -0.005, self.between(0.75, 1.0), 1.005)
            cloth = self.textures.fabrics[rng.integers(len(self.textures.fabrics))]
            colours = ramp(self.any_colour(0.9), self.any_colour(), self.space.bright["floor"])
            self.painter.textured(throw, cloth, colours, px_per_m=140, part=BED)

    def paint_pillows(self, corner: np.ndarray) -> None:
        along, across = self.lengthwise, self.across
        self.pillows = 1 + (self.bed_wide > 1.25) if self.chance(0.75) else int(self.rng.integers(1, 4))
        colour = self.linen if self.chance(0.6) else self.any_colour(0.8, 0.4)
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        rounded = np.sign(circle) * np.abs(circle) ** 0.5  # nearly a rectangle
        half_long, half_wide = self.between(0.16, 0.24), min(0.38, 0.44 * self.bed_wide / self.pillows)
        bright = self.space.bright["floor"]
        for pillow in range(self.pillows):
            middle = corner + (half_long + 0.08) * along + (pillow + 0.5) / self.pillows * self.bed_wide * across
            for level, size, shade in ((0.01, 1.04, 0.62), (0.05, 1.0, 0.84), (0.11, 0.88, 0.97), (0.14, 0.6, 1.04)):
                outline = size * (rounded[:, :1] * half_long * along + rounded[:, 1:] * half_wide * across)
                height = np.array([0.0, self.bed_top + level, 0.0])
                self.painter.polygon(middle + height + outline, colour * shade * bright, BED)

    def bedside_pieces(self) -> list[Piece]:
        """Bedside tables left and right of the head, where there is room, one of them with a lamp."""
        pieces, lamp = [], self.chance(0.75)
        colour = self.wood if self.chance(0.6) else self.any_colour(0.5, 0.2)
        wide, tall, deep = self.between(0.35, 0.5), self.between(0.4, 0.65), self.between(0.3, 0.42)
        for side in (-1.0, 1.0) if self.chance(0.5) else (1.0, -1.0):
            if not self.chance(0.7):
                continue
            middle = self.bed_at + side * (self.bed_wide / 2 + 0.08 + wide / 2) * self.across
            reach = np.abs(middle) + wide / 2 * np.abs(self.across)
            if reach[0] > self.space.width / 2 + 0.01 or reach[2] > self.space.depth + 0.01:
                continue
            origin = middle - wide / 2 * self.across + 0.02 * self.lengthwise
            sides = deep * self.lengthwise, wide * self.across
            pieces.append((self.depth_of(middle), partial(self.paint_bedside, origin, sides, tall, colour, lamp=lamp)))
            lamp = False
        return pieces

    def paint_bedside(
        self, origin: np.ndarray, sides: tuple[np.ndarray, np.ndarray], tall: float, colour: Colour, *, lamp: bool
    ) -> None:
        seen = self.paint_block(origin, *sides, tall, colour)
        if "a+" in seen:
            front, bright = seen["a+"]
            for drawer in (0.1, 0.55):
                self.painter.panel(front.part(0.08, drawer, 0.92, drawer + 0.38), colour * bright * 0.8)
        if lamp:
            self.paint_lamp(origin + sides[0] / 2 + sides[1] / 2 + np.array([0.0, tall, 0.0]))

    def paint_lamp(self, foot: np.ndarray) -> None:
        tall, lit = self.between(0.3, 0.6), self.chance(0.85 if self.night else 0.4)
        self.facts["lamp"], self.facts["lamp_on"] = True, lit
        right = np.array([1.0, 0.0, 0.0])
        face = Panel(foot - 0.15 * right, 0.3 * right, np.array([0.0, tall, 0.0]))
        metal = self.wood * 0.7
        self.painter.panel(face.part(0.3, 0.0, 0.7, 0.06), metal)
        self.painter.panel(face.part(0.45, 0.0, 0.55, 0.6), metal)
        points = np.array([[0.0, 0.5], [0.22, 1.0], [0.78, 1.0], [1.0, 0.5]])
        colour = np.array([255.0, 236, 190]) if lit else self.any_colour(0.5, 0.5)
        self.painter.polygon(face.outline(points), colour)
        if lit:
            self.glows.append((foot + np.array([0.0, 0.75 * tall, 0.0]), self.between(22, 60)))

    def side_pieces(self) -> list[Piece]:
        """A wardrobe, a chest of drawers, a plant: by a side wall that has neither the bed's head nor the window."""
        space, pieces = self.space, []
        for name in ("wardrobe", "chest", "plant"):
            side = "left" if self.chance(0.5) else "right"
            foot = np.array([SIDE[side] * space.width / 2, 0.0, self.between(1.4, space.depth - 0.5)])
            colour = self.wood if self.chance(0.5) else self.any_colour(0.5, 0.2)
            free = not (self.has_bed and self.head == side) and not (self.has_window and self.window_wall == side)
            if self.has_bed and self.head == "back":
                reach = abs(foot[0] - self.bed_at[0]) - self.bed_wide / 2
                free = free and (reach > 0.7 or foot[2] < space.depth - self.bed_long - 0.6)
            if not self.chance(0.3) or not free:
                continue
            self.facts[name] = True
            inward = np.array([-SIDE[side], 0.0, 0.0])
            if name == "plant":
                paint = partial(self.paint_plant, foot + 0.35 * inward)
            else:
                paint = partial(self.paint_cupboard, foot, inward, colour, drawers=name == "chest")
            pieces.append((self.depth_of(foot), paint))
        return pieces

    def paint_cupboard(self, foot: np.ndarray, inward: np.ndarray, colour: Colour, *, drawers: bool) -> None:
        wide, deep = self.between(0.8, 1.4), self.between(0.4, 0.6)
        tall = self.between(0.7, 1.05) if drawers else self.between(1.7, 2.1)
        along = np.array([0.0, 0.0, 1.0])
        seen = self.paint_block(foot - wide / 2 * along, deep * inward, wide * along, tall, colour)
        rows, columns = (int(self.rng.integers(3, 5)), 1) if drawers else (1, int(self.rng.integers(2, 4)))
        for name in ("a+", "b-"):
            if name not in seen:
                continue
            face, bright = seen[name]
            if name == "b-":
                self.painter.panel(face.part(0.06, 0.04, 0.94, 0.96), colour * bright * 1.06)
                continue
            for row in range(rows):
                for column in range(columns):
                    door = face.part(
                        (column + 0.06) / columns, (row + 0.07) / rows, (column + 0.94) / columns, (row + 0.93) / rows
                    )
                    self.painter.panel(door, colour * bright * 0.85)
                    self.painter.panel(
                        door.part(0.44, 0.45, 0.56, 0.55 if drawers else 0.5), np.array([190.0, 180, 150])
                    )

    def paint_plant(self, foot: np.ndarray) -> None:
        right, up = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
        pot = Panel(foot - 0.16 * right, 0.32 * right, 0.32 * up)
        narrow_below = np.array([[0.15, 0.0], [0.0, 1.0], [1.0, 1.0], [0.85, 0.0]])
        self.painter.polygon(pot.outline(narrow_below), colour_of(self.rng, (0.0, 0.12), (0.2, 0.7), (0.4, 0.9)))
        stem, tall, count = foot + 0.3 * up, self.between(0.5, 1.2), int(self.rng.integers(7, 15))
        for leaf in range(count):
            lean = np.pi * (0.12 + 0.76 * ((leaf * 0.618) % 1.0))
            length = tall * (0.65 + 0.35 * ((leaf * 0.382) % 1.0))
            tip = stem + length * (np.cos(lean) * right + np.sin(lean) * up)
            width = 0.05 * (np.sin(lean) * right - np.cos(lean) * up)
            middle = 0.55 * stem + 0.45 * tip
            green = np.array([40.0 + 30 * (leaf % 3), 90 + 25 * (leaf % 4), 45])
            self.painter.polygon(np.stack([stem, middle + width, tip, middle - width]), green)

    def paint_ceiling_lamp(self) -> None:
        self.facts["ceiling_lamp"] = lamp = self.chance(0.25)
        if not lamp:
            return
        space, right = self.space, np.array([1.0, 0.0, 0.0])
        lit = self.chance(0.5)
        top = np.array([self.between(-0.25, 0.25) * space.width, space.height, self.between(0.45, 0.8) * space.depth])
        cord, size = self.between(0.15, 0.5), self.between(0.14, 0.28)
        self.painter.panel(
            Panel(top - 0.008 * right, 0.016 * right, np.array([0.0, -cord, 0.0])), np.array([40.0, 38, 36])
        )
        face = Panel(
            top - size * right + np.array([0.0, -cord - size, 0.0]), 2 * size * right, np.array([0.0, size, 0.0])
        )
        colour = np.array([255.0, 244, 214]) if lit else self.any_colour(0.5, 0.3)
        self.painter.polygon(face.outline(np.array([[0.0, 0.0], [0.3, 1.0], [0.7, 1.0], [1.0, 0.0]])), colour)
        if lit:
            self.glows.append((top + np.array([0.0, -cord - size, 0.0]), self.between(40, 110)))

    def finish(self) -> None:
        """Light of lamps, colour of the light, vignette, sensor noise."""
        painter, rng = self.painter, self.rng
        height, width = painter.light.shape[:2]
        exposure = self.between(0.5, 0.85) if self.night else self.between(0.8, 1.25)
        hue, strongest = ((0.06, 0.12), 0.28) if self.chance(0.6) else ((0.55, 0.65), 0.2)  # warm or cool
        tint = colour_of(rng, hue, (0.0, strongest), (1.0, 1.0))
        x, y = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
        slope, tilt, vignette = self.between(-0.2, 0.2), self.between(-0.12, 0.12), self.between(0.02, 0.2)
        fall = 1 + slope * x + tilt * y - vignette * (x * x + y * y)
        painter.light[:] = (exposure * fall)[..., None] * (tint / 255.0)
        for centre, radius in self.glows:
            painter.glow(centre, radius * self.width / 300, np.array([255.0, 205, 130]), 0.9 if self.night else 0.45)
        painter.let_light_fall(soften_px=0)
        noise, (height, width) = self.textures.noise, painter.parts.shape
        top, left = rng.integers(noise.shape[0] - height), rng.integers(noise.shape[1] - width)
        grain = noise[top : top + height, left : left + width]
        amount = self.between(0.03, 0.12)
        soft = cv2.GaussianBlur(painter.image, (3, 3), self.between(0.4, 0.8))
        painter.image = cv2.addWeighted(soft, 1.0, grain, amount, -128.0 * amount)
