"""The ControlNet of a small copy: the picture itself, with its detail gone."""

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from parts.controlnet import Control
from sdhelpers import world


def smaller(image: Image.Image, times: int) -> Image.Image:
    """The picture reduced to a part of its side."""
    size = image.width // times
    return image.resize((size, size), Image.Resampling.BOX)


def enlarged(scene: world.Scene, times: int) -> np.ndarray:
    return np.asarray(smaller(scene.image, times).resize(scene.image.size, Image.Resampling.BICUBIC))


def picture(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """The picture reduced to a half, a third or a quarter of its side and enlarged again."""
    return enlarged(scene, rng.choice([2, 3, 4]))


def usual(scene: world.Scene) -> np.ndarray:
    """The same from a quarter."""
    return enlarged(scene, 4)


def kept(scene: world.Scene, image: Image.Image) -> float:
    """PSNR in decibels of the picture reduced to a quarter against the scene reduced likewise."""
    one, other = (np.asarray(smaller(i, 4), np.float64) for i in (scene.image, image))
    return float(peak_signal_noise_ratio(one, other, data_range=255))


RECIPE = Control(picture, usual, "PSNR of the reduced picture in dB", kept).recipe()
