"""The ControlNet of a small copy: the picture itself, with its detail gone."""

import numpy as np
from PIL import Image

from parts.controlnet import Control
from sdhelpers import world


def picture(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """The picture reduced to a half, a third or a quarter of its side and enlarged again."""
    size = scene.image.width // rng.choice([2, 3, 4])
    small = scene.image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small.resize(scene.image.size, Image.Resampling.BICUBIC))


RECIPE = Control(picture).recipe()
