"""The ControlNet of depth: the world's own, near is white."""

import functools

import numpy as np
from PIL import Image

from controlled import outlines_found
from parts.controlnet import Control
from sdhelpers import world
from sdhelpers.measures.depth import DepthEstimator, order_right


def picture(scene: world.Scene, rng: np.random.RandomState | None = None) -> np.ndarray:
    """The scene's depth in 256 greys; nothing of it is chance."""
    return np.rint(255 * scene.depth).astype(np.uint8)


estimator = functools.cache(DepthEstimator)


def order_kept(scene: world.Scene, image: Image.Image) -> float:
    """Part of the pairs of pixels that the estimator finds in the scene's order of near and far."""
    return order_right(estimator()([image])[0], scene.depth)


RECIPE = Control(picture, picture, {"outlines found": outlines_found, "order of depths right": order_kept}).recipe()
