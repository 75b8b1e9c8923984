"""Score the inpainting UNet: does the masked part become what the words ask for, and does the rest stay?

    python data/recipes/evaluate_inpainting.py --images 128 --save

Fresh scenes of one object; half of the tasks give the object another place (everything but the object is masked),
half put another object into its place (a box around the old one is masked). 20 steps, guidance 7.5. `--save` writes the
scores to the model card and a contact sheet beside the others.
"""

import argparse
import dataclasses
import json

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from tqdm import tqdm

from assemble import write_card
from evaluate import BATCH, GUIDANCE, SHEETS, STEPS, share
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.classifier import Classifier
from sdhelpers.device import seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.world.captions import pick, write_caption
from train_inpainting import box_around, grow

MARGIN = 6  # pixels that the box is larger than the object, on each side


@dataclasses.dataclass
class Task:
    """A scene, what to paint anew (bool [128, 128]), the words for the result, and what they describe."""

    scene: world.Scene
    mask: np.ndarray
    caption: str
    wanted: world.Description


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
            wanted, mask = dataclasses.replace(old, place=place), ~grow(scene.masks[0], 1)
        else:
            noun = pick(rng, [noun for noun in models.nouns() if noun not in old.nouns])
            wanted, mask = dataclasses.replace(old, nouns=(noun,)), box_around(scene.masks[0], MARGIN)
        made.append(Task(scene, mask, write_caption(wanted, rng, complete=True), wanted))
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
    """The picture with the kept pixels put back as they were."""
    return Image.composite(image, job.scene.image, Image.fromarray(job.mask))


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
        "mean difference in the kept part, before it is pasted back": round(float(np.mean(kept)), 4),
    }
    print(json.dumps(scores, indent=1))
    shown = [image for job, new in zip(jobs[:24], painted) for image in (job.scene.image, paste_back(job, new))]
    labels = [text for i, job in enumerate(jobs[:24]) for text in ("before", f"{i}: {job.caption}")]
    if options.save:
        labelled_grid(shown, labels, 8).save(SHEETS / "inpainting.webp", quality=88)
        card = json.loads((models.POCKET / "inpainting" / "card.json").read_text())
        write_card(models.POCKET / "inpainting", {**card, "scores": scores})


if __name__ == "__main__":
    main()
