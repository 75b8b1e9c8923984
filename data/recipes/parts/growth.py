"""The first hour of a UNet from nothing, for the film of chapter 21: what it draws while it learns, at every look.

The recipe of `unet` in small: its architecture, its noise, its weights of the error, ten nouns instead of forty, one
object a picture, no grounding. Time steps are spread evenly, as what is to be seen here is decided where the noise is
strong. Every `probe_every` steps the model as it stands draws held-out captions, always from the same noises; the judge
says in how many it finds the place, the style and the noun that were asked for. A strip of them is kept in
runs/NAME/probes; from these the film is made, runs/NAME/growth.webp, and what is told of it, growth.json: the history,
the captions, and the steps of the film's rows. The chapter reads copies of both, in sheets/way and in curves.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

import places
from artist import BATCH, GUIDANCE, heads_right, held_out_tasks
from card import share
from conditioning import Conditioning
from latents import Latents
from loop import Training
from probes import film, film_rows, keep_strip
from recipe import Options, Recipe
from sdhelpers import models
from sdhelpers.device import seeded_generator
from sdhelpers.measures.judge import Classifier

BASE = models.POCKET / "sd15"
PROBED, PROBE_STEPS = 32, 10  # pictures drawn for a probe, in so many steps


class OneObject(Latents):
    """The scenes of one object, of these nouns, that are neither blurred nor cropped."""

    def __init__(self, folder: Path, nouns: Sequence[str], learnt: Sequence[str]):
        super().__init__(folder, nouns)
        good = [
            len(d.nouns) == 1 and d.nouns[0] in learnt and d.quality in ("plain", "best") for d in self.descriptions
        ]
        self.latents = self.latents[np.array(good)]
        self.descriptions = [description for description, kept in zip(self.descriptions, good) if kept]


class Growing(Conditioning):
    """As for sd15, with even time steps; it looks at what the model draws."""

    even = 1.0

    def __init__(self, training: Training):
        options = training.options
        super().__init__(options.clip, options.clip, training.device)
        self.tasks, self.captions = held_out_tasks(PROBED, options.learnt.split(","))
        self.judge, self.run = Classifier(), training.folder
        self.vae = AutoencoderKL.from_pretrained(BASE / "vae").to(training.device)

    def probe(self, unet: UNet2DConditionModel, step: int) -> dict[str, float]:
        """Draw the captions from noises 0, 1, 2, ..., keep a few, and let the judge name them all."""
        images = self.draw(unet)
        keep_strip(self.run, step, images)
        return {head: share(flags) for head, flags in heads_right(self.judge(images), self.tasks).items()}

    def draw(self, unet: UNet2DConditionModel) -> list[Image.Image]:
        none = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        scheduler = DPMSolverMultistepScheduler.from_pretrained(BASE / "scheduler")
        parts = dict(vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, scheduler=scheduler)
        pipe = StableDiffusionPipeline(unet=unet, **parts, **none)
        pipe.set_progress_bar_config(disable=True)
        images = []
        for first in range(0, PROBED, BATCH):
            images += pipe(
                self.captions[first : first + BATCH],
                num_inference_steps=PROBE_STEPS,
                guidance_scale=GUIDANCE,
                generator=[seeded_generator(first + i) for i in range(BATCH)],
            ).images
        return images


def build(options: Options) -> UNet2DConditionModel:
    return UNet2DConditionModel(**options.architecture)


def data(options: Options) -> OneObject:
    return OneObject(places.RUNS / options.latents, places.words(options.nouns), options.learnt.split(","))


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> dict:
    """Nothing but the film, and what is told of it."""
    tell(folder.parent, options)
    return {}


def tell(run: Path, options: Options) -> None:
    """growth.webp and growth.json of a run as far as it has come."""
    film(run)
    history = json.loads((run / "history.json").read_text(encoding="utf-8"))
    captions = held_out_tasks(PROBED, options.learnt.split(","))[1]
    told = {"captions": captions, "film": [int(row.stem) for row in film_rows(run)], "history": history}
    (run / "growth.json").write_text(json.dumps(told, indent=0), encoding="utf-8")


RECIPE = Recipe(build, data, Growing, None, export)
