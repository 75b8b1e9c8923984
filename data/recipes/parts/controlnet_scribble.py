"""The ControlNet of scribbles: the objects' outlines with a thick, unsteady pen."""

import cv2
import numpy as np

from controlled import outlines_found
from parts.controlnet import Control
from sdhelpers import world


def picture(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """White outlines on black, two to five pixels wide, bent by up to two pixels, with gaps."""
    lines = scene.edges.astype(np.float32)
    height, width = lines.shape
    bends = [cv2.resize(rng.uniform(-2, 2, (5, 5)).astype(np.float32), (width, height)) for _ in range(2)]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    lines = cv2.remap(lines, x + bends[0], y + bends[1], cv2.INTER_LINEAR)
    kept = cv2.resize(rng.random_sample((16, 16)).astype(np.float32), (width, height)) > 0.2 * rng.random_sample()
    pen = rng.randint(2, 6)
    return 255 * cv2.dilate((kept & (lines > 0.3)).astype(np.uint8), np.ones((pen, pen), np.uint8))


def usual(scene: world.Scene) -> np.ndarray:
    """The same, always by one and the same hand."""
    return picture(scene, np.random.RandomState(0))


RECIPE = Control(picture, usual, {"outlines found": outlines_found}).recipe()
