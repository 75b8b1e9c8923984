"""The ControlNet of a small copy: the picture itself, with its detail gone."""

import dataclasses
import functools

import numpy as np
from diffusers import ControlNetModel
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from controlled import Measure, obedience
from parts.controlnet import Control
from recipe import Options
from sdhelpers import world
from sdhelpers.measures.pixels import sharpness


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
    """The same from a half."""
    return enlarged(scene, 2)


def kept(times: int) -> Measure:
    """PSNR in decibels of the picture reduced to such a part of its side against the scene reduced likewise."""

    def measure(scene: world.Scene, image: Image.Image) -> float:
        one, other = (np.asarray(smaller(i, times), np.float64) for i in (scene.image, image))
        return float(peak_signal_noise_ratio(one, other, data_range=255))

    return measure


def gained(times: int) -> Measure:
    """How many times as sharp as the enlarged control a picture is."""

    def measure(scene: world.Scene, image: Image.Image) -> float:
        return sharpness(image) / sharpness(Image.fromarray(enlarged(scene, times)))

    return measure


def score(controlnet: ControlNetModel, options: Options) -> dict:
    """From a half and from a quarter of the side: what is kept of the small picture, and the sharpness gained."""
    scores = {}
    for times in (2, 4):
        measures = {"PSNR of the picture reduced again": kept(times), "sharpness gained": gained(times)}
        found = obedience(controlnet, functools.partial(enlarged, times=times), measures, options.images)
        scores |= {"images": found.pop("images")} | {f"x{times}: {key}": value for key, value in found.items()}
    return scores


RECIPE = dataclasses.replace(Control(picture, usual, {}).recipe(), score=score)
