"""A pipeline that draws captions with the evaluations' settings, and the tasks that it is given."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from card import read_card
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.device import seeded_generator
from sdhelpers.measures.judge import Verdict
from sdhelpers.world import Description
from sdhelpers.world.captions import MOUNTS, RIDERS, held_out_descriptions, pick, write_caption

STEPS, BATCH = 20, 16
GUIDANCE = models.default_guidance_scale("sd15")


@dataclasses.dataclass
class Artist:
    """A pipeline with the evaluation's settings."""

    pipe: StableDiffusionPipeline
    nouns: list[str]
    steps: int = STEPS
    guidance_scale: float = GUIDANCE
    other: dict = dataclasses.field(default_factory=dict)  # what else the pipeline is called with

    @classmethod
    def from_folder(cls, folder: Path, unet: Path | None = None, **settings) -> "Artist":
        parts = {"unet": UNet2DConditionModel.from_pretrained(unet, dtype=torch.float32)} if unet else {}
        pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **parts)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, read_card(folder)["nouns"], **settings)

    def __call__(self, captions: list[str], seeds: list[int], negative: str = "", what: str = "") -> list:
        images = []
        for i in tqdm(range(0, len(captions), BATCH), desc=what, mininterval=10):
            batch = captions[i : i + BATCH]
            generators = [seeded_generator(seed) for seed in seeds[i : i + BATCH]]
            images += self.pipe(
                batch,
                negative_prompt=[negative] * len(batch),
                generator=generators,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                **self.other,
            ).images
        return images


def heads_right(verdict: Verdict, tasks: list[Description]) -> dict[str, list[bool]]:
    """For noun, style and place, which pictures of one object show what their tasks asked for."""
    wanted = {"noun": [d.nouns[0] for d in tasks], "style": [d.style for d in tasks], "place": [d.place for d in tasks]}
    return {head: [a == b for a, b in zip(verdict.best(head), names)] for head, names in wanted.items()}


def drawn_by_the_world(tasks: list[Description], first: int) -> list[Image.Image]:
    """A drawn scene for each task, the i-th from random state FRESH + first + i."""
    return [world.draw(task, np.random.RandomState(FRESH + first + i)).image for i, task in enumerate(tasks)]


@torch.inference_mode()
def decode_again(pipe: StableDiffusionPipeline, images: list) -> list:
    """What the VAE leaves of pictures: the best that any UNet could draw with it."""
    decoded = []
    for first in range(0, len(images), BATCH):
        pixels = pipe.image_processor.preprocess(images[first : first + BATCH]).to(pipe.vae.device)
        latents = pipe.vae.encode(pixels).latent_dist.mode()
        decoded += pipe.image_processor.postprocess(pipe.vae.decode(latents).sample)
    return decoded


def held_out_tasks(count: int, nouns: list[str]) -> tuple[list[Description], list[str]]:
    """`count` held-out descriptions of these nouns, each combination before any comes twice, with full captions."""
    every = [d for d in held_out_descriptions() if d.nouns[0] in nouns]
    order = np.random.RandomState(FRESH % 2**32)
    shuffled = sorted(every, key=lambda _: order.random_sample())
    chosen = [shuffled[i % len(shuffled)] for i in range(count)]
    return chosen, [write_caption(d, order, complete=True) for d in chosen]


def pair_tasks(count: int, nouns: list[str]) -> tuple[list[Description], list[str]]:
    """Two objects and a relation, over the three relations in turn."""
    rng = np.random.RandomState(7)
    tasks = []
    for i in range(count):
        relation = world.RELATIONS[i % 3]
        if relation == "riding":
            pair = (pick(rng, [n for n in RIDERS if n in nouns]), pick(rng, [n for n in MOUNTS if n in nouns]))
        else:
            first = pick(rng, nouns)
            pair = (first, pick(rng, [n for n in nouns if n != first]))
        tasks.append(Description(pair, pick(rng, world.STYLES), pick(rng, world.PLACES + world.COLOURS), relation))
    return tasks, [write_caption(d, rng, complete=True) for d in tasks]
