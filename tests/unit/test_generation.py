"""One function draws with every kind of pipeline; what a kind does not take is refused in words."""

import dataclasses

import numpy as np
import pytest
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from sdhelpers import models, world
from sdhelpers.generation import Settings, SettingsError, generate
from sdhelpers.measures.pixels import difference
from sdhelpers.prompts import encode

SETTINGS = Settings("a cartoon of a cat on a beach", seed=7, num_inference_steps=4)


def of_kind(kind, pipe, **parts):
    made = kind(**pipe.components | parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return world.sample(np.random.RandomState(3)).image


def test_img2img_follows_its_image_by_the_strength(pipe, scene):
    img2img = of_kind(StableDiffusionImg2ImgPipeline, pipe)
    near, far = (generate(img2img, SETTINGS, image=scene, strength=strength) for strength in (0.3, 1.0))
    assert near.size == scene.size and difference(near, scene) < difference(far, scene)


def test_inpainting_paints_inside_the_mask(scene):
    pipe = StableDiffusionInpaintPipeline.from_pretrained(models.locate("inpainting"))
    pipe.set_progress_bar_config(disable=True)
    mask = Image.new("L", scene.size)
    mask.paste(255, (32, 32, 96, 96))
    painted = generate(pipe, SETTINGS, image=scene, mask_image=mask)
    inside, outside = (np.abs(np.asarray(painted, float) - np.asarray(scene, float))[part].mean() for part in (
        np.asarray(mask) > 0, np.asarray(mask) == 0))  # fmt: skip
    assert inside > outside


def test_a_controlnet_that_has_learnt_nothing_changes_nothing(pipe, scene):
    fresh = ControlNetModel.from_unet(pipe.unet)  # its last convolutions are zero
    controlled = of_kind(StableDiffusionControlNetPipeline, pipe, controlnet=fresh)
    with_control = generate(controlled, SETTINGS, image=scene, controlnet_conditioning_scale=0.5)
    assert np.array_equal(with_control, generate(pipe, SETTINGS))


def test_the_callback_stops_every_kind(pipe, scene):
    steps = []
    img2img = of_kind(StableDiffusionImg2ImgPipeline, pipe)
    generate(img2img, SETTINGS, lambda done, total: steps.append((done, total)) or done < 2, image=scene, strength=0.75)
    assert steps == [(1, 3), (2, 3)]


def test_what_a_pipeline_does_not_take_is_refused(pipe, scene):
    with pytest.raises(SettingsError, match="StableDiffusionPipeline takes no mask_image, strength: leave it out"):
        generate(pipe, SETTINGS, mask_image=scene, strength=0.5)


def test_embeddings_take_the_prompts_place_and_a_callback_is_called(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, sorted(tensors)))
        return tensors

    words = encode(pipe, SETTINGS.prompt, SETTINGS.negative_prompt)
    inputs = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    other = dataclasses.replace(SETTINGS, prompt="a dog", negative_prompt="blurry")
    assert np.array_equal(generate(pipe, other, **words, **inputs), generate(pipe, SETTINGS))
    assert seen == [(step, ["prompt_embeds"]) for step in range(4)]
