"""Fresh scenes drawn again from their controls by the frozen sd15 with a ControlNet, and how well that obeys."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from artist import BATCH, GUIDANCE, STEPS, decode_again, drawn_by_the_world
from card import share
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import seeded_generator
from sdhelpers.measures.edges import agreement, edges, recall
from sdhelpers.measures.judge import Classifier

BASE = models.POCKET / "sd15"
Measure = Callable[[world.Scene, Image.Image], float]


def pipeline(controlnet: ControlNetModel, unet: UNet2DConditionModel | None = None):
    """sd15's pipeline with this ControlNet, on its device; `unet` where one is in memory already."""
    parts = dict(
        vae=AutoencoderKL.from_pretrained(BASE / "vae", dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(BASE / "tokenizer"),
        unet=unet or UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(BASE / "scheduler"),
    )
    none = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, **none).to(controlnet.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, captions: Sequence[str], controls: Sequence, steps: int = STEPS, **arguments) -> list[Image.Image]:
    """A picture for each caption and its control (of several nets: its list of controls), seed i for the i-th."""
    images = []
    for first in range(0, len(captions), BATCH):
        here = slice(first, first + BATCH)
        images += pipe(
            list(captions[here]),
            list(controls[here]),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[seeded_generator(first + i) for i in range(len(captions[here]))],
            **arguments,
        ).images
    return images


def plain_scenes(count: int, first: int = FRESH) -> list[world.Scene]:
    """Scenes that no training has seen, neither blurred nor cropped, of nouns that sd15 knows."""
    nouns, found = models.nouns(), []
    while len(found) < count:
        scene = world.sample(np.random.RandomState(first), nouns=nouns, latent_grid=True)
        found += [scene] if scene.description.quality in ("plain", "best") else []
        first += 1
    return found


def as_image(picture: np.ndarray) -> Image.Image:
    """A control as readers give it to the pipeline, RGB."""
    return Image.fromarray(picture).convert("RGB")


def edge_f1(scene: world.Scene, image: Image.Image) -> float:
    """How well a picture's edges agree with its scene's, 0 to 1."""
    return agreement(edges(image), edges(scene.image))


def outlines_found(scene: world.Scene, image: Image.Image, tolerance: int = 2) -> float:
    """Part of the objects' outlines that has an edge of the picture within so many pixels, 0 to 1."""
    return recall(edges(image), scene.edges, tolerance)


def mean(measure: Measure, scenes: Sequence[world.Scene], images: Sequence[Image.Image]) -> float:
    return round(float(np.mean([measure(scene, image) for scene, image in zip(scenes, images)])), 4)


def obedience(
    controlnet: ControlNetModel,
    usual: Callable[[world.Scene], np.ndarray],
    measures: dict[str, Measure],
    count: int,
) -> dict[str, float]:
    """Scores of a ControlNet over `count` fresh scenes by some measures, at scale 1 and at 0.

    Beside them what would be luck, another drawing by the world of the same words; the ceiling, the scene itself
    after the VAE; the same without any words; and whether the picture still shows the noun of its caption.
    """
    scenes = plain_scenes(count, FRESH + 500_000)
    captions, controls = [s.caption for s in scenes], [as_image(usual(s)) for s in scenes]
    pipe, few = pipeline(controlnet), max(1, count // 4)
    obeying = draw(pipe, captions, controls)
    pictures = {
        "scale 1": obeying,
        "scale 1, no words": draw(pipe, [""] * few, controls[:few]),
        "scale 0": draw(pipe, captions[:few], controls[:few], controlnet_conditioning_scale=0.0),
        "another drawing of the same words": drawn_by_the_world([s.description for s in scenes[:few]], 800_000),
        "the scene after the VAE": decode_again(pipe, [scene.image for scene in scenes[:few]]),
    }
    scores = {
        f"{name}, {what}": mean(measure, scenes, images)
        for name, measure in measures.items()
        for what, images in pictures.items()
    }
    singles = [i for i, scene in enumerate(scenes) if len(scene.description.nouns) == 1]
    seen = Classifier()([obeying[i] for i in singles]).best("noun")
    right = share([noun == scenes[i].description.nouns[0] for noun, i in zip(seen, singles)])
    return {"images": count, **scores, "noun right, scale 1": right}


def both_obeyed(
    nets: Sequence[ControlNetModel],
    usual: Sequence[Callable[[world.Scene], np.ndarray]],
    measures: dict[str, Measure],
    count: int,
    scale: float = 0.5,
) -> dict[str, float]:
    """What each of two ControlNets loses when they share a picture at this scale each, over `count` fresh scenes.

    `measures` has one for each net, in their order: taken where both are heard, and where its net is alone at scale 1.
    """
    scenes = plain_scenes(count, FRESH + 500_000)
    captions, controls = [s.caption for s in scenes], [[as_image(picture(s)) for picture in usual] for s in scenes]
    shared = draw(pipeline(MultiControlNetModel(nets)), captions, controls, controlnet_conditioning_scale=[scale] * 2)
    scores = {}
    for i, (name, measure) in enumerate(measures.items()):
        alone = mean(measure, scenes, draw(pipeline(nets[i]), captions, [pair[i] for pair in controls]))
        together = mean(measure, scenes, shared)
        scores[f"{name}, this net alone"], scores[f"{name}, two nets at {scale}"] = alone, together
        scores[f"{name}, lost to the other net"] = round(alone - together, 4)
    return scores
