"""Score the inpainting UNet: does the masked part become what the words ask for, and does the rest stay?

    python data/recipes/evaluate_inpainting.py --images 128 --save

Fresh scenes of one object; half of the tasks give the object another place (everything but the object is masked),
half put another object into its place (a box around the old one is masked). 20 steps, guidance 3: at 7.5 the colours
overshoot, and with nothing to keep from them the painted box stands out. A box is pasted back with soft edges, as it
shows the same background inside and outside. `--save` writes the scores to the model card and a contact sheet.
"""

import argparse
import dataclasses
import json

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image, ImageFilter
from tqdm import tqdm

from assemble import write_card
from evaluate import BATCH, SHEETS, STEPS, share
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.measures.judge import Classifier
from sdhelpers.world.captions import pick, write_caption
from train_inpainting import box_around, grow

GUIDANCE = 3.0
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


def seam(job: Task, image: Image.Image) -> float:
    """How far the painted picture is from the old one just inside a box, where both should show the old background.

    The median over a frame 3 pixels wide, which lies outside the old object; from 0 to 1.
    """
    frame = job.mask & ~grow(job.mask, -3)
    apart = np.abs(np.asarray(image, np.float32) - np.asarray(job.scene.image, np.float32)).mean(-1)
    return float(np.median(apart[frame]) / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--save", action="store_true", help="write the scores to the card, and the sheet")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(models.locate("inpainting"))
    pipe.set_progress_bar_config(disable=True)
    jobs = tasks(options.images)
    painted = paint(pipe, jobs)
    verdict = Classifier()([paste_back(job, image) for job, image in zip(jobs, painted)])
    places = [a == job.wanted.place for a, job in zip(verdict.best("place"), jobs)]
    nouns = [a == job.wanted.nouns[0] for a, job in zip(verdict.best("noun"), jobs)]
    kept = [
        float(np.abs(np.asarray(image, np.float32) - np.asarray(job.scene.image, np.float32))[~job.mask].mean() / 255)
        for job, image in zip(jobs, painted)
    ]
    scores = {
        "images": options.images,
        "new place asked for: place right": share(places[::2]),
        "new place asked for: object still right": share(nouns[::2]),
        "new object asked for: object right": share(nouns[1::2]),
        "new object asked for: place still right": share(places[1::2]),
        "new object asked for: difference just inside the box": round(
            float(np.mean([seam(job, image) for job, image in list(zip(jobs, painted))[1::2]])), 4
        ),
        "mean difference in the kept part, before it is pasted back": round(float(np.mean(kept)), 4),
    }
    print(json.dumps(scores, indent=1))
    shown = [image for job, new in zip(jobs[:24], painted) for image in (job.scene.image, paste_back(job, new))]
    labels = [text for i, job in enumerate(jobs[:24]) for text in ("before", f"{i}: {job.caption}")]
    if options.save:
        labelled_grid(shown, labels, 8).save(SHEETS / "inpainting.webp", quality=88)
        card = json.loads((models.POCKET / "inpainting" / "card.json").read_text(encoding="utf-8"))
        write_card(models.POCKET / "inpainting", {**card, "scores": scores})


if __name__ == "__main__":
    main()
