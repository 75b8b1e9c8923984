"""The ControlNet of depth: the world's own, near is white."""

import numpy as np

from parts.controlnet import Control
from sdhelpers import world


def picture(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """The scene's depth in 256 greys."""
    return np.rint(255 * scene.depth).astype(np.uint8)


RECIPE = Control(picture).recipe()
