"""What moves in a clip, and which way, by an optical flow that knows nothing of its making. Built in chapter 14."""

import dataclasses
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from sdhelpers.world import clips

RIM = 8 / 128  # of the frame's width, which an object seldom reaches
STILL = 2.5 / 128  # of the frame that a pixel goes at most in a whole clip of a still camera
MOVING = 0.25 / 128  # of the frame that a moving object's pixels go at least from one frame to the next
LEAST = 6 / 128  # of the frame that an object goes at least in a whole clip that one calls moving


def flow(before: Image.Image, after: Image.Image) -> np.ndarray:
    """How many pixels to the right and down each pixel goes until the next frame, float32 [height, width, 2].

    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search (2016), as OpenCV has it.
    """
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(*(np.asarray(frame.convert("L")) for frame in (before, after)), None)


def flows(frames: Sequence[Image.Image]) -> np.ndarray:
    """From each frame to the next, [frames - 1, height, width, 2]."""
    return np.stack([flow(a, b) for a, b in itertools.pairwise(frames)])


def texture(frame: Image.Image) -> np.ndarray:
    """How much a flow can be trusted, [height, width]: how steep the picture is; a plain surface tells nothing."""
    grey = cv2.GaussianBlur(np.asarray(frame.convert("L"), np.float32), (0, 0), 1.5)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


@dataclasses.dataclass(frozen=True)
class Movement:
    """What a whole clip's pixels do together: ways in pixels, `zoom` a factor, `turn` in degrees clockwise."""

    right: float
    down: float
    zoom: float
    turn: float


def whole(frames: Sequence[Image.Image], found: np.ndarray | None = None) -> Movement:
    """The shift, enlargement and turn that fit all textured pixels best (weighted least squares, frame by frame)."""
    found = flows(frames) if found is None else found
    height, width = found.shape[1:3]
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    none, one = np.zeros(x.size), np.ones(x.size)
    ways = np.concatenate(
        [np.stack([one, none, x.ravel(), -y.ravel()], 1), np.stack([none, one, y.ravel(), x.ravel()], 1)]
    )
    total = np.zeros(4)
    for frame, step in zip(frames, found):
        weight = np.sqrt(np.tile(texture(frame).ravel(), 2))
        seen = np.concatenate([step[..., 0].ravel(), step[..., 1].ravel()])
        total += np.linalg.lstsq(ways * weight[:, None], seen * weight, rcond=None)[0]
    return Movement(total[0], total[1], float(np.exp(total[2])), float(np.degrees(total[3])))


def inside(frames: Sequence[Image.Image], found: np.ndarray | None = None) -> np.ndarray:
    """How far what moves goes between the frames, [frames - 1, 2], right and down; zeros where nothing does."""
    found = flows(frames) if found is None else found
    steps = []
    for frame, step in zip(frames, found):
        weight = texture(frame) * (np.linalg.norm(step, axis=-1) > MOVING * step.shape[1])
        steps.append((step * weight[..., None]).sum((0, 1)) / max(weight.sum(), 1e-6) if weight.sum() > 1 else (0, 0))
    return np.array(steps)


def camera_moves(frames: Sequence[Image.Image], found: np.ndarray | None = None) -> bool:
    """Whether the frame's rim (but for the bottom, where things stand) rather goes with the whole than it stays.

    A pixel's way is its flow through the whole clip: what only flickers comes back.
    """
    found = flows(frames) if found is None else found
    height, width = found.shape[1:3]
    margin = round(RIM * width)
    rim = np.ones((height, width), bool)
    rim[margin:, margin:-margin] = False
    way, weight = found.sum(0), np.mean([texture(frame) for frame in frames[:-1]], axis=0)
    from_the_whole = np.linalg.norm(way - ways_of(whole(frames, found), height, width), axis=-1)
    from_rest = np.linalg.norm(way, axis=-1)
    goes = (from_the_whole < from_rest) & (from_rest > STILL * width)
    return bool((weight * goes)[rim].sum() > weight[rim].sum() / 2)


def ways_of(movement: Movement, height: int, width: int) -> np.ndarray:
    """How far each pixel goes to the right and down in a movement of the whole, [height, width, 2]."""
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    larger, turned = np.log(movement.zoom), np.radians(movement.turn)
    return np.stack([movement.right + larger * x - turned * y, movement.down + larger * y + turned * x], axis=-1)


def named(frames: Sequence[Image.Image], camera: bool | None = None) -> str:
    """What moves, as the world names it: one of `world.clips.MOTIONS` or `CAMERAS`.

    `camera` says whether it is the camera, where that is known and only the direction is asked for. A camera's kind is
    the one of shift, enlargement and turn that is largest beside what the world's own cameras do.
    """
    found, width = flows(frames), frames[0].width
    if camera_moves(frames, found) if camera is None else camera:
        moved, way = whole(frames, found), (1 / clips.WINDOW - 1) * width
        shares = {
            ("pan left", "pan right"): moved.right / way,
            ("tilt up", "tilt down"): moved.down / way,
            ("zoom in", "zoom out"): np.log(moved.zoom) / -np.log(clips.WINDOW),
            ("roll anticlockwise", "roll clockwise"): moved.turn / clips.ANGLE,
        }
        (positive, negative), share = max(shares.items(), key=lambda item: abs(item[1]))
        return positive if share > 0 else negative
    steps = inside(frames, found)
    right, down = steps.sum(0)
    up_and_down = min(steps[:, 1].clip(min=0).sum(), (-steps[:, 1]).clip(min=0).sum())
    if up_and_down > LEAST * width and up_and_down > abs(right):
        return "jump"
    if max(abs(right), abs(down)) < LEAST * width:
        return "still"
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "fall" if down > 0 else "rise"
