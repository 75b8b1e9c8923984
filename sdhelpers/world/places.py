"""Backgrounds drawn by code: ten places and ten plain colours, at any size."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sdhelpers.world.captions import COLOURS

Colour = tuple[int, int, int]
OVERSAMPLING = 2

COLOUR_VALUES: dict[str, Colour] = {
    "red": (216, 48, 52),
    "orange": (244, 144, 48),
    "yellow": (250, 214, 72),
    "green": (72, 176, 92),
    "blue": (72, 132, 220),
    "purple": (142, 84, 184),
    "pink": (244, 150, 194),
    "brown": (134, 92, 62),
    "gray": (142, 142, 144),
    "white": (246, 246, 244),
}


@dataclasses.dataclass
class Place:
    """A drawn background and what a scene needs to know to stand something on it."""

    pixels: np.ndarray  # uint8 [size, size, 3]
    horizon: float | None  # height of the ground's far edge, 0 top to 1 bottom; None: no ground
    water: np.ndarray | None  # uint8 [size, size, 4] in front of what floats, else None


class Canvas:
    """A square to draw on in coordinates from 0 to 1; colours vary a little with the random state."""

    def __init__(self, size: int, rng: np.random.RandomState):
        self.size, self.rng = size, rng
        self.image = Image.new("RGB", (size * OVERSAMPLING,) * 2)
        self.pen = ImageDraw.Draw(self.image)
        self.tint = [round(self.between(-9, 9)) for _ in range(3)]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random_sample()

    def colour(self, colour: Colour) -> Colour:
        return tuple(min(255, max(0, c + t)) for c, t in zip(colour, self.tint))

    def _pixels(self, points) -> list[tuple[float, float]]:
        scale = self.image.width
        return [(x * scale, y * scale) for x, y in points]

    def gradient(self, top: Colour, bottom: Colour, y0: float = 0.0, y1: float = 1.0) -> None:
        """Fill the band from y0 to y1 with a vertical blend of two colours."""
        first, last = round(y0 * self.image.height), round(y1 * self.image.height)
        ramp = np.linspace(self.colour(top), self.colour(bottom), max(1, last - first))
        band = Image.fromarray(np.rint(ramp).astype(np.uint8)[:, None, :])
        self.image.paste(band.resize((self.image.width, band.height)), (0, first))

    def polygon(self, points, colour: Colour) -> None:
        self.pen.polygon(self._pixels(points), fill=self.colour(colour))

    def disc(self, x: float, y: float, radius: float, colour: Colour, flatten: float = 1.0) -> None:
        corners = self._pixels([(x - radius, y - radius * flatten), (x + radius, y + radius * flatten)])
        self.pen.ellipse([*corners[0], *corners[1]], fill=self.colour(colour))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        corners = self._pixels([(left, top), (right, bottom)])
        self.pen.rectangle([*corners[0], *corners[1]], fill=self.colour(colour))

    def hills(self, y: float, height: float, waves: float, colour: Colour, shift: float | None = None) -> None:
        """A rolling edge around height y, filled down to the bottom."""
        shift = self.between(0, 1) if shift is None else shift
        edge = [(i / 16, y - height * np.sin(2 * np.pi * (waves * i / 16 + shift))) for i in range(17)]
        self.polygon([(0, 1), *edge, (1, 1)], colour)

    def pixels(self) -> np.ndarray:
        return np.asarray(self.image.reduce(OVERSAMPLING))


def _beach(c: Canvas) -> float:
    c.gradient((112, 190, 238), (206, 234, 246), 0, 0.5)
    if c.rng.random_sample() < 0.7:
        c.disc(c.between(0.12, 0.88), c.between(0.1, 0.2), 0.075, (255, 232, 120))
    c.gradient((38, 142, 190), (84, 186, 208), 0.46, 0.72)
    c.hills(0.645, 0.02, 1.0, (232, 246, 246))
    c.hills(0.67, 0.02, 1.0, (240, 214, 156), c.between(0.0, 0.15))
    return 0.68


def _pine(c: Canvas, x: float, base: float, height: float, colour: Colour) -> None:
    c.polygon([(x - 0.32 * height, base), (x, base - height), (x + 0.32 * height, base)], colour)


def _forest(c: Canvas) -> float:
    c.gradient((150, 206, 206), (206, 234, 214), 0, 0.66)
    for i in range(7):
        _pine(c, (i + c.between(0.2, 0.8)) / 7, 0.66, c.between(0.36, 0.5), (70, 138, 104))
    for i in range(6):
        _pine(c, (i + c.between(0.1, 0.9)) / 6, 0.7, c.between(0.26, 0.4), (36, 98, 70))
    c.gradient((96, 160, 78), (74, 134, 62), 0.66, 1)
    return 0.67


def _night(c: Canvas) -> float:
    c.gradient((12, 16, 52), (46, 54, 110), 0, 0.82)
    for i in range(10):
        c.disc((i + c.between(0, 1)) / 10, c.between(0.03, 0.55), c.between(0.008, 0.013), (250, 246, 214))
    if c.rng.random_sample() < 0.8:
        c.disc(c.between(0.12, 0.88), c.between(0.12, 0.22), 0.085, (248, 240, 200))
    c.hills(0.74, 0.03, c.between(0.7, 1.2), (24, 34, 62))
    return 0.72


def _snow(c: Canvas) -> float:
    c.gradient((156, 180, 208), (216, 226, 236), 0, 0.72)
    for i in range(4):
        _pine(c, (i + c.between(0.1, 0.9)) / 4, 0.66, c.between(0.16, 0.28), (112, 146, 156))
    c.hills(0.66, 0.03, c.between(0.6, 1.1), (246, 249, 253))
    for i in range(14):
        c.disc((i + c.between(0, 1)) / 14, c.between(0.03, 0.62), 0.011, (255, 255, 255))
    return 0.68


def _city(c: Canvas) -> float:
    c.gradient((246, 178, 132), (252, 222, 180), 0, 0.7)
    left = -0.02
    while left < 1.0:
        width, top = c.between(0.13, 0.2), c.between(0.16, 0.46)
        shade = round(c.between(-14, 14))
        c.box(left, top, left + width - 0.012, 0.72, (92 + shade, 96 + shade, 128 + shade))
        columns = 2 if width < 0.165 else 3
        for row in range(int((0.66 - top) / 0.085)):
            for column in range(columns):
                x = left + width * (column + 0.65) / (columns + 0.45)
                lit = c.rng.random_sample() < 0.7
                c.box(
                    x - 0.014,
                    top + 0.035 + 0.085 * row,
                    x + 0.014,
                    top + 0.073 + 0.085 * row,
                    (252, 226, 138) if lit else (70, 74, 104),
                )
        left += width
    c.gradient((126, 126, 134), (98, 98, 106), 0.7, 1)
    c.box(0, 0.7, 1, 0.725, (176, 176, 180))
    return 0.72


def _desert(c: Canvas) -> float:
    c.gradient((250, 188, 112), (253, 226, 170), 0, 0.7)
    if c.rng.random_sample() < 0.7:
        c.disc(c.between(0.12, 0.88), c.between(0.12, 0.24), 0.08, (255, 244, 202))
    c.hills(0.6, 0.05, c.between(0.8, 1.2), (226, 156, 88))
    c.hills(0.7, 0.035, c.between(0.5, 0.9), (236, 176, 104))
    return 0.7


def _sea(c: Canvas) -> float:
    c.gradient((130, 196, 240), (214, 236, 248), 0, 0.5)
    for _ in range(2):
        _cloud(c, c.between(0.1, 0.9), c.between(0.1, 0.28))
    c.gradient((40, 128, 196), (22, 92, 160), 0.48, 1)
    for i in range(3):
        c.hills(0.58 + 0.07 * i, 0.012, 3.0, (52 - 6 * i, 140 - 9 * i, 204 - 8 * i))
    return 0.66


def _cloud(c: Canvas, x: float, y: float) -> None:
    for dx, radius in ((-0.08, 0.045), (0.0, 0.065), (0.08, 0.045)):
        c.disc(x + dx, y, radius, (252, 253, 255), flatten=0.8)


def _meadow(c: Canvas) -> float:
    c.gradient((108, 186, 244), (204, 232, 250), 0, 0.66)
    for _ in range(2):
        _cloud(c, c.between(0.1, 0.9), c.between(0.1, 0.3))
    c.hills(0.58, 0.04, c.between(0.6, 1.0), (140, 200, 92))
    c.hills(0.66, 0.03, c.between(0.6, 1.0), (112, 184, 72))
    for i in range(8):
        petals = ((250, 250, 250), (252, 220, 96), (240, 130, 160))[int(c.between(0, 3))]
        c.disc((i + c.between(0, 1)) / 8, c.between(0.74, 0.97), 0.015, petals)
    return 0.68


def _mountains(c: Canvas) -> float:
    c.gradient((150, 200, 240), (226, 238, 248), 0, 0.7)
    for i in range(3):
        x, top, half = (i + c.between(0.25, 0.75)) / 3, c.between(0.16, 0.34), c.between(0.26, 0.36)
        slope = (0.68 - top) / half
        c.polygon([(x - half, 0.68), (x, top), (x + half, 0.68)], (116, 126, 152))
        c.polygon([(x, top), (x + half, 0.68), (x + 0.1 * half, 0.68)], (96, 106, 134))
        c.polygon(
            [(x - 0.1 / slope, top + 0.1), (x, top), (x + 0.1 / slope, top + 0.1), (x, top + 0.13)], (248, 250, 253)
        )
    c.hills(0.68, 0.02, c.between(0.7, 1.2), (106, 156, 92))
    return 0.68


def _room(c: Canvas) -> float:
    walls = ((222, 206, 184), (196, 214, 218), (226, 198, 196))
    c.gradient(walls[int(c.between(0, 3))], walls[int(c.between(0, 3))], 0, 0.72)
    x = c.between(0.18, 0.82)
    c.box(x - 0.15, 0.1, x + 0.15, 0.44, (252, 250, 246))
    c.box(x - 0.13, 0.12, x + 0.13, 0.42, (150, 206, 242))
    c.box(x - 0.01, 0.12, x + 0.01, 0.42, (252, 250, 246))
    c.box(x - 0.13, 0.26, x + 0.13, 0.28, (252, 250, 246))
    c.gradient((176, 122, 78), (150, 100, 62), 0.72, 1)
    c.box(0, 0.705, 1, 0.735, (248, 242, 232))
    for y in (0.82, 0.91):
        c.box(0, y, 1, y + 0.01, (132, 86, 52))
    return 0.74


def _waves(size: int, rng: np.random.RandomState) -> np.ndarray:
    """The strip of water in front of whatever floats."""
    mask = Canvas(size, rng)
    mask.tint = [0, 0, 0]
    mask.hills(0.84, 0.014, 3.0, (255, 255, 255))
    alpha = mask.pixels()[..., :1]
    colour = np.broadcast_to(np.array([30, 108, 178], np.uint16), (size, size, 3))
    return np.dstack([(colour * alpha // 255).astype(np.uint8), alpha])


SCENERY: dict[str, Callable[[Canvas], float]] = {
    "beach": _beach,
    "forest": _forest,
    "night": _night,
    "snow": _snow,
    "city": _city,
    "desert": _desert,
    "sea": _sea,
    "meadow": _meadow,
    "mountains": _mountains,
    "room": _room,
}


def draw_place(name: str, rng: np.random.RandomState, size: int = 128) -> Place:
    """Draw one of the ten places or a plain colour. Raises ValueError for any other name."""
    if name in COLOURS:
        canvas = Canvas(size, rng)
        lighter = tuple(min(255, c + 12) for c in COLOUR_VALUES[name])
        canvas.gradient(lighter, COLOUR_VALUES[name])
        return Place(canvas.pixels(), None, None)
    if name not in SCENERY:
        raise ValueError(f"There is no place {name!r}; the world has {', '.join(SCENERY)} and plain colours.")
    canvas = Canvas(size, rng)
    horizon = SCENERY[name](canvas)
    return Place(canvas.pixels(), horizon, _waves(size, rng) if name == "sea" else None)
