"""The inpainting UNet: does the masked part become what the words ask for, and does the rest stay?

Fresh scenes of one object; half of the tasks give the object another place (everything but the object is masked),
half put another object into its place (a box around the old one is masked). 20 steps, guidance 3: at 7.5 the colours
overshoot, and the painted box stands out. A box is pasted back with soft edges, as it
shows the same background inside and outside.
"""

import argparse
import dataclasses

import numpy as np
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image, ImageFilter
from tqdm import tqdm

from artist import BATCH, STEPS
from card import share
from evaluations import Result
from parts.inpainting import box_around, grow
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.measures.judge import Classifier
from sdhelpers.world.captions import pick, write_caption

IMAGES = 128
GUIDANCE = models.default_guidance_scale("inpainting")
MARGIN = 6  # pixels that the box is larger than the object, on each side
FEATHER = 3  # pixels of a box's edge that fade into the old picture


@dataclasses.dataclass
class Task:
    """A scene, what to paint anew (bool [128, 128]), the words for the result, what they mean, and the soft edge."""

    scene: world.Scene
    mask: np.ndarray
    caption: str
    wanted: world.Description
    feather: int


def tasks(count: int) -> list[Task]:
    """`count` tasks, a new place and a new object in turn."""
    made, number = [], FRESH + 300_000
    while len(made) < count:
        rng, number = np.random.RandomState(number), number + 1
        scene = world.sample(rng, nouns=models.nouns())
        old = scene.description
        if len(old.nouns) != 1 or old.quality not in ("plain", "best") or not scene.masks[0].any():
            continue
        if len(made) % 2 == 0:
            place = pick(rng, [place for place in world.PLACES if place != old.place])
            wanted, mask, feather = dataclasses.replace(old, place=place), ~grow(scene.masks[0], 1), 0
        else:
            noun = pick(rng, [noun for noun in models.nouns() if noun not in old.nouns])
            wanted, mask = dataclasses.replace(old, nouns=(noun,)), box_around(scene.masks[0], MARGIN)
            feather = FEATHER
        made.append(Task(scene, mask, write_caption(wanted, rng, complete=True), wanted, feather))
    return made


def paint(pipe: StableDiffusionInpaintPipeline, jobs: list[Task]) -> list[Image.Image]:
    """The pipeline's own pictures, the kept part not pasted back; seed i for task i."""
    images = []
    for first in tqdm(range(0, len(jobs), BATCH), desc="inpainting", mininterval=10):
        batch = jobs[first : first + BATCH]
        images += pipe(
            [job.caption for job in batch],
            image=[job.scene.image for job in batch],
            mask_image=[Image.fromarray(job.mask) for job in batch],
            width=128,
            height=128,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[seeded_generator(first + i) for i in range(len(batch))],
        ).images
    return images


def paste_back(job: Task, image: Image.Image) -> Image.Image:
    """The picture with the kept pixels put back as they were, and the mask's edge faded over `job.feather` pixels."""
    inner = (
        Image.fromarray(grow(job.mask, -job.feather)).convert("L").filter(ImageFilter.GaussianBlur(job.feather / 1.5))
    )
    weight = np.asarray(inner) * job.mask
    return Image.composite(image, job.scene.image, Image.fromarray(weight.astype(np.uint8)))


def apart(job: Task, image: Image.Image) -> np.ndarray:
    """How far each pixel of the painted picture is from the old one, from 0 to 1: [128, 128]."""
    return np.abs(np.asarray(image, np.float32) - np.asarray(job.scene.image, np.float32)).mean(-1) / 255


def seam(job: Task, image: Image.Image) -> float:
    """How far the painted picture is from the old one just inside a box, where both should show the old background.

    The median over a frame 3 pixels wide, which lies outside the old object; from 0 to 1.
    """
    return float(np.median(apart(job, image)[job.mask & ~grow(job.mask, -3)]))


def evaluate(options: argparse.Namespace) -> Result:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(models.locate("inpainting"))
    pipe.set_progress_bar_config(disable=True)
    jobs = tasks(options.images)
    painted = paint(pipe, jobs)
    verdict = Classifier()([paste_back(job, image) for job, image in zip(jobs, painted)])
    places = [a == job.wanted.place for a, job in zip(verdict.best("place"), jobs)]
    nouns = [a == job.wanted.nouns[0] for a, job in zip(verdict.best("noun"), jobs)]
    kept = [apart(job, image)[~job.mask].mean() for job, image in zip(jobs, painted)]
    seams = [seam(job, image) for job, image in list(zip(jobs, painted))[1::2]]
    scores = {
        "images": options.images,
        "new place asked for: place right": share(places[::2]),
        "new place asked for: object still right": share(nouns[::2]),
        "new object asked for: object right": share(nouns[1::2]),
        "new object asked for: place still right": share(places[1::2]),
        "new object asked for: difference just inside the box": round(float(np.mean(seams)), 4),
        "mean difference in the kept part, before it is pasted back": round(float(np.mean(kept)), 4),
    }
    shown = [image for job, new in zip(jobs[:24], painted) for image in (job.scene.image, paste_back(job, new))]
    labels = [text for i, job in enumerate(jobs[:24]) for text in ("before", f"{i}: {job.caption}")]
    return Result(scores, {"inpainting.webp": labelled_grid(shown, labels, 8)})
