"""What the pocket SDXL draws from captions that training never saw, and whether its conditions do what they say.

The judge and the world's own drawings (fidelity.py) look at images from held-out noun-style-place combinations, at 20
steps and the registry's guidance scale; then the same captions and seeds are drawn again, told of a small and of a
large original and of a crop, and with the refiner's help, where that is assembled.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image

from artist import BATCH, STEPS, decode_again, heads_right, held_out_tasks, pair_tasks
from card import share
from evaluations import Result
from evaluations.sd15 import both_right
from fidelity import compare, place_of
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import best_device, seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.measures.judge import Classifier
from sdhelpers.measures.pixels import difference, sharpness
from sdhelpers.models import ModelError

IMAGES = 256  # held-out captions to draw
FEW = 32  # of them that are drawn again, told otherwise
SMALL, LARGE = 1 / 3, 2  # originals, of the picture's side
LEFTS = (0, 1 / 12, 1 / 6, 1 / 4)  # crops, of the picture's side
REFINED_FROM = 0.8  # part of the steps that are the base's
COARSE = 24  # pixels across of what is compared when the layout is


def evaluate(options: argparse.Namespace) -> Result:
    pipe, judge = loaded(StableDiffusionXLPipeline, "sdxl"), Classifier()
    tasks, captions = held_out_tasks(options.images, list(world.NOUNS))
    images = draw(pipe, captions)
    right = heads_right(judge(images), tasks)
    side = images[0].width
    drawn = [world.draw(t, np.random.RandomState(FRESH + 50_000 + i), side).image for i, t in enumerate(tasks)]
    scores = {"images": options.images, "steps": STEPS, "guidance scale": guidance()}
    scores |= {f"{head} right, held-out captions": share(flags) for head, flags in right.items()}
    scores |= compare(images, decode_again(pipe, drawn), tasks, list(world.NOUNS))
    scores |= pairs(pipe, judge, max(FEW, options.images // 4))
    few = min(FEW, options.images)
    scores |= told_of_sizes(pipe, captions[:few], side) | told_of_crops(pipe, captions[:few], tasks[:few], side)
    scores |= refined(pipe, captions[:few], images[:few])
    labels = [("" if flag else "missed: ") + caption for caption, flag in zip(captions, right["noun"])]
    return Result(scores, {"sdxl.webp": labelled_grid(images[:64], labels[:64], 8)})


def guidance() -> float:
    return models.default_guidance_scale("sdxl")


def loaded(pipeline: type, name: str):
    """A pocket pipeline on the best device."""
    pipe = pipeline.from_pretrained(models.locate(name), dtype=torch.float32).to(best_device())
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, captions: Sequence[str], **told) -> list:
    """A picture (or what `told` asks for) for each caption, seed i for the i-th."""
    images = []
    for first in range(0, len(captions), BATCH):
        batch = list(captions[first : first + BATCH])
        generators = [seeded_generator(first + i) for i in range(len(batch))]
        settings = dict(num_inference_steps=STEPS, guidance_scale=guidance(), generator=generators)
        images += list(pipe(batch, **settings, **told).images)
    return images


def pairs(pipe: StableDiffusionXLPipeline, judge: Classifier, count: int) -> dict[str, float]:
    tasks, captions = pair_tasks(count, list(world.NOUNS))
    verdict = judge(draw(pipe, captions))
    relation = [found == task.relation for found, task in zip(verdict.best("relation"), tasks)]
    both = share(both_right(verdict, tasks))
    return {"both nouns right, two objects": both, "relation right, two objects": share(relation)}


def told_of_sizes(pipe: StableDiffusionXLPipeline, captions: Sequence[str], side: int) -> dict[str, list[float]]:
    """Sharpness of the same pictures, told of originals of three sizes."""
    originals = [(round(part * side),) * 2 for part in (SMALL, 1, LARGE)]
    values = [np.mean([sharpness(image) for image in draw(pipe, captions, original_size=size)]) for size in originals]
    return {"sharpness: told of a small / an equal / a large original": [round(float(value), 4) for value in values]}


def told_of_crops(
    pipe: StableDiffusionXLPipeline, captions: Sequence[str], tasks: Sequence[world.Description], side: int
) -> dict[str, float]:
    """How far the same pictures' objects go to the left when the crop does, in pixels a pixel, and the correlation."""
    lefts = [round(part * side) // 8 * 8 for part in LEFTS]
    found = [draw(pipe, captions, crops_coords_top_left=(0, left)) for left in lefts]
    places = np.array([[place_of(i, t.nouns[0], t.style)[0] for i, t in zip(images, tasks)] for images in found])
    moved = places[:1] - places  # [lefts, captions]
    told = np.repeat(np.array(lefts, float)[:, None], len(captions), axis=1)
    slope = np.polyfit(told.ravel(), moved.ravel(), 1)[0]
    correlation = np.corrcoef(told.ravel(), moved.ravel())[0, 1]
    return {
        "place against crop, correlation": round(float(correlation), 3),
        "place against crop, pixels a pixel": round(float(slope), 3),
    }


def refined(pipe: StableDiffusionXLPipeline, captions: Sequence[str], images: list) -> dict[str, float]:
    """What the refiner changes of the same pictures when it draws the last steps; nothing where there is none."""
    try:
        refiner = loaded(StableDiffusionXLImg2ImgPipeline, "sdxl-refiner")
    except (ModelError, OSError):
        return {}
    latents = torch.stack(draw(pipe, captions, denoising_end=REFINED_FROM, output_type="latent"))
    finished = []
    for first in range(0, len(captions), BATCH):
        here = slice(first, first + BATCH)
        settings = dict(num_inference_steps=STEPS, guidance_scale=guidance(), denoising_start=REFINED_FROM)
        finished += refiner(list(captions[here]), image=latents[here], **settings).images
    sharper = np.mean([sharpness(image) for image in finished]) / np.mean([sharpness(image) for image in images])
    coarse = [[image.resize((COARSE, COARSE), Image.Resampling.BOX) for image in some] for some in (finished, images)]
    return {
        "sharpness, refined, of that of the base alone": round(float(sharper), 3),
        "low frequencies, refined and not": round(float(np.mean([difference(*two) for two in zip(*coarse)])), 4),
        "low frequencies, two different pictures": round(
            float(np.mean([difference(a, b) for a, b in zip(coarse[1], coarse[1][1:])])), 4
        ),
    }
