"""The ControlNet of depth: the world's own, near is white."""

import numpy as np

from controlled import outlines_found
from parts.controlnet import Control
from sdhelpers import world


def picture(scene: world.Scene, rng: np.random.RandomState | None = None) -> np.ndarray:
    """The scene's depth in 256 greys; nothing of it is chance."""
    return np.rint(255 * scene.depth).astype(np.uint8)


RECIPE = Control(picture, picture, "outlines found", outlines_found).recipe()
