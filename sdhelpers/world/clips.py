"""Scenes that move: sixteen frames with the truth about every pixel's way. Built for chapter 14.

    clip = world.clips.sample(numpy.random.RandomState(0))    # clip.frames, clip.caption, clip.flow, ...

Either the object moves and the camera stands still, or the other way round, so that a caption says all. A picture is
drawn at twice its size in coordinates from 0 to 1; the camera sees a window of it, as an affine map.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from sdhelpers.world.captions import Description, describe, pick, write_caption
from sdhelpers.world.drawings import drawing
from sdhelpers.world.places import Place, draw_place
from sdhelpers.world.scenes import FLYING, SIZES, _base, _paste, _shadow

FRAMES = 16
OVERSAMPLING = 2
MOTIONS = {
    "left": ("moving to the left", "going left"),
    "right": ("moving to the right", "going right"),
    "jump": ("jumping", "jumping up and down"),
    "rise": ("rising", "moving up"),
    "fall": ("falling", "moving down"),
    "still": ("standing still", "not moving"),
}
FLYING_WORDS = {"left": "flying to the left", "right": "flying to the right", "still": "hovering"}
CAMERAS = {
    "zoom in": ("zoom in", "zooming in"),
    "zoom out": ("zoom out", "zooming out"),
    "pan left": ("pan left", "panning left"),
    "pan right": ("pan right", "panning right"),
    "tilt up": ("tilt up", "tilting up"),
    "tilt down": ("tilt down", "tilting down"),
    "roll clockwise": ("roll clockwise", "rolling clockwise"),
    "roll anticlockwise": ("roll anticlockwise", "rolling anticlockwise"),
}
BACKWARDS = {
    "left": "right",
    "rise": "fall",
    "zoom in": "zoom out",
    "pan left": "pan right",
    "tilt up": "tilt down",
    "roll clockwise": "roll anticlockwise",
}
BACKWARDS |= {there: here for here, there in BACKWARDS.items()}  # what a clip shows when it is played from its end
WINDOW = 0.74  # the camera's smallest part of the picture
ANGLE = 14.0  # degrees that a roll turns in all
REACH = 0.30  # of the picture that an object's way takes


@dataclasses.dataclass
class Clip:
    """Frames with their caption and their truth; arrays are [frames, size, size] or [frames - 1, size, size, 2]."""

    frames: list[Image.Image]
    caption: str
    description: Description
    motion: str  # one of MOTIONS
    camera: str | None  # one of CAMERAS
    masks: np.ndarray  # bool, the object's visible pixels
    flow: np.ndarray  # float32, how many pixels to the right and down each pixel goes until the next frame
    path: np.ndarray  # float64 [frames, 2], the object's middle in pixels, right and down


def progress(frames: int = FRAMES) -> np.ndarray:
    """From 0 to 1 in equal steps, [frames]: every frame moves as far as the one before."""
    return np.linspace(0.0, 1.0, frames)


def offsets(motion: str, frames: int = FRAMES) -> np.ndarray:
    """How far an object is from its middle place, [frames, 2], right and down as parts of the picture."""
    t = progress(frames)
    way = REACH * (t - 0.5)
    none = np.zeros_like(t)
    ways = {
        "left": (-way, none),
        "right": (way, none),
        "rise": (none, -way),
        "fall": (none, way),
        "jump": (none, -0.22 * np.abs(np.sin(2 * np.pi * t))),
        "still": (none, none),
    }
    return np.stack(ways[motion], axis=1)


def window(camera: str | None, t: float) -> np.ndarray:
    """The camera as a map [2, 3] from the frame's coordinates (0 to 1) to the picture's, at progress `t`.

    A camera that pans to the left shows more of the left: what it sees moves to the right.
    """
    side, centre, angle = 1.0, np.array([0.5, 0.5]), 0.0
    room = (1 - WINDOW) / 2
    if camera in ("zoom in", "zoom out"):
        done = t if camera == "zoom in" else 1 - t
        side = WINDOW**done  # each step enlarges by the same factor
    elif camera:
        side = WINDOW
        towards = {
            "pan left": (-1, 0),
            "pan right": (1, 0),
            "tilt up": (0, -1),
            "tilt down": (0, 1),
            "roll clockwise": (0, 0),
            "roll anticlockwise": (0, 0),
        }[camera]
        centre = centre + room * (2 * t - 1) * np.array(towards, float)
        if camera.startswith("roll"):
            angle = np.radians(ANGLE) * (t - 0.5) * (1 if camera == "roll clockwise" else -1)
    turned = side * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turned, centre - turned @ (0.5, 0.5)])


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] through an affine map [2, 3]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The affine map that undoes another."""
    turned = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turned, -turned @ matrix[:, 2]])


def grid(size: int) -> np.ndarray:
    """The middles of a frame's pixels from 0 to 1, [size, size, 2], right and down."""
    line = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(line, line), axis=-1)


def flow_of(before: np.ndarray, after: np.ndarray, mask: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Pixels' ways from window `before` to `after`, [size, size, 2]; `moved` is the way of what is in `mask`."""
    size = len(mask)
    points = grid(size)
    seen = mapped(before, points) + mask[..., None] * moved
    return ((mapped(inverse(after), seen) - points) * size).astype(np.float32)


class _Stage:
    """A place and an object in it, drawn large, to be looked at by the camera."""

    def __init__(self, description: Description, size: int, rng: np.random.RandomState):
        self.size, self.side = size, OVERSAMPLING * size
        self.noun = description.nouns[0]
        self.place: Place = draw_place(description.place, rng, self.side)
        self.pixels = drawing(self.noun, description.style, round(pick(rng, SIZES[:3]) * self.side))
        self.base = _base(self.place, self.noun, self.side, rng)
        self.colour = 1.12 if description.quality == "best" else 0.88 + 0.06 * rng.random_sample()

    def draw(self, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The picture, the object's mask, and its middle (right and down, 0 to 1)."""
        height, width = self.pixels.shape[:2]
        x, y = np.rint(offset * self.side).astype(int)
        left, top = self.side // 2 - width // 2 + x, self.base - height + y
        canvas = self.place.pixels.astype(np.uint16)
        if self.place.water is None and self.noun not in FLYING:
            tall = max(6, round(0.16 * width))
            _paste(canvas, _shadow(width, tall), left, self.base - round(0.62 * tall))  # it stays on the ground
        mask = _paste(canvas, self.pixels, left, top)
        if self.place.water is not None:
            mask &= ~_paste(canvas, self.place.water, 0, 0)
        middle = np.array([left + width / 2, top + height / 2]) / self.side
        return canvas.astype(np.uint8), mask, middle

    def seen(self, pixels: np.ndarray, view: np.ndarray, resample: Image.Resampling) -> Image.Image:
        """What the camera sees, at the picture's full resolution."""
        to_picture = np.column_stack([view[:, :2], view[:, 2] * self.side]).flatten()
        return Image.fromarray(pixels).transform((self.side,) * 2, Image.Transform.AFFINE, to_picture, resample)


def draw(
    description: Description,
    motion: str,
    camera: str | None,
    rng: np.random.RandomState,
    size: int = 128,
    frames: int = FRAMES,
) -> Clip:
    """Draw a description of one object that moves. The same arguments and random state give the same pixels.

    Raises ValueError for a motion or a camera that the world does not have, or for two objects.
    """
    if motion not in MOTIONS or camera not in (None, *CAMERAS):
        raise ValueError(
            f"There is no {motion!r} with camera {camera!r}; see sdhelpers.world.clips.MOTIONS and CAMERAS."
        )
    if len(description.nouns) != 1:
        raise ValueError("A clip has one object: give a description with one noun.")
    stage, way, views = (
        _Stage(description, size, rng),
        offsets(motion, frames),
        [window(camera, t) for t in progress(frames)],
    )
    images, masks, path = [], [], []
    for offset, view in zip(way, views):
        pixels, mask, middle = stage.draw(offset)
        image = stage.seen(pixels, view, Image.Resampling.BICUBIC).reduce(OVERSAMPLING)
        images.append(ImageEnhance.Color(image).enhance(stage.colour))
        small = stage.seen(np.uint8(255 * mask), view, Image.Resampling.BILINEAR).reduce(OVERSAMPLING)
        masks.append(np.asarray(small) >= 128)
        path.append(mapped(inverse(view), middle) * size)
    moved = np.diff(np.rint(way * stage.side), axis=0) / stage.side
    flow = [flow_of(a, b, mask, step) for a, b, mask, step in zip(views, views[1:], masks, moved)]
    caption = (
        f"{write_caption(description, rng, complete=True)}, {words_for(description.nouns[0], motion, camera, rng)}"
    )
    return Clip(images, caption, description, motion, camera, np.stack(masks), np.stack(flow), np.stack(path))


def words_for(noun: str, motion: str, camera: str | None, rng: np.random.RandomState) -> str:
    """What moves, in words."""
    if camera:
        return pick(rng, CAMERAS[camera])
    said = pick(rng, MOTIONS[motion])
    return FLYING_WORDS.get(motion, said) if noun in FLYING else said


def plan(rng: np.random.RandomState, nouns: Sequence[str] | None = None) -> tuple[Description, str, str | None]:
    """What a random clip that training may see holds: half of them a moving object, half a moving camera."""
    while True:
        description = describe(rng, nouns)
        if len(description.nouns) == 1 and description.quality in ("plain", "best"):
            break
    moves = rng.random_sample() < 0.5
    motion = pick(rng, tuple(MOTIONS)) if moves else "still"
    return description, motion, None if moves else pick(rng, tuple(CAMERAS))


def sample(
    rng: np.random.RandomState, size: int = 128, frames: int = FRAMES, nouns: Sequence[str] | None = None
) -> Clip:
    """A random clip as `plan` chooses it."""
    return draw(*plan(rng, nouns), rng, size, frames)
