"""The ControlNet of a small copy: the picture itself, with its detail gone."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from artist import BATCH
from controlled import Measure, mean, pipeline, plain_scenes
from parts.controlnet import Control
from recipe import Options
from scenes_data import FRESH
from sdhelpers import world
from sdhelpers.device import seeded_generator
from sdhelpers.measures.pixels import sharpness

STRENGTH, STEPS = 0.2, 10  # of img2img, and steps that are taken


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
    """Fresh scenes from a quarter and from a half of the side: what is kept of the small picture, the sharpness gained.

    As chapter 11 enlarges, by img2img without guidance, with the net and without it, and from noise alone.
    """
    scenes = plain_scenes(options.images, FRESH + 500_000)
    pipe = StableDiffusionControlNetImg2ImgPipeline(**pipeline(controlnet).components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    scores: dict[str, float] = {"images": len(scenes)}
    for times in (4, 2):
        begun = [Image.fromarray(enlarged(scene, times)) for scene in scenes]
        for name, strength, scale in (
            ("", STRENGTH, 1.0),
            (", without the net", STRENGTH, 0.0),
            (", from noise", 1.0, 1.0),
        ):
            images = drawn_from(pipe, scenes, begun, strength, scale)
            scores[f"x{times}{name}: PSNR of the picture reduced again"] = mean(kept(times), scenes, images)
            scores[f"x{times}{name}: sharpness gained"] = mean(gained(times), scenes, images)
    return scores


def drawn_from(
    pipe, scenes: Sequence[world.Scene], begun: Sequence[Image.Image], strength: float, scale: float
) -> list:
    """A picture for each scene, from its enlarged copy, seed i for the i-th; STEPS steps are really taken."""
    images = []
    for first in range(0, len(scenes), BATCH):
        here = slice(first, first + BATCH)
        images += pipe(
            [scene.caption for scene in scenes[here]],
            image=begun[here],
            control_image=begun[here],
            strength=strength,
            num_inference_steps=round(STEPS / strength),
            guidance_scale=1.0,
            controlnet_conditioning_scale=scale,
            generator=[seeded_generator(first + i) for i in range(len(begun[here]))],
        ).images
    return images


RECIPE = dataclasses.replace(Control(picture, usual, {}).recipe(), score=score)
