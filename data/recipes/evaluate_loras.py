"""Measure what the assembled LoRAs do at several weights, on the judge and on the pixels.

    python data/recipes/evaluate_loras.py --save

Writes the scores to the card of `loras` and a contact sheet to sheets/loras.webp.
"""

import argparse
import json

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image

from assemble import write_card
from evaluate import GUIDANCE, SHEETS, STEPS, share
from sdhelpers import models
from sdhelpers.device import seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.measures import pixels
from sdhelpers.measures.judge import Classifier
from sdhelpers.world.drawings import HELD_OUT_STYLE, TRAINED_STYLES

NAMES = ("icon", "hedgehog", "detail")
PLACES = ("in a meadow", "at night", "on a beach", "in the snow", "in the desert", "on yellow", "on pink", "in a room")
THINGS = ("cat", "rocket", "car", "castle", "owl", "guitar", "duck", "house", "apple", "horse", "balloon", "penguin")


class Artist:
    """Draws prompts with the three LoRAs at given weights; prompt number i always starts from noise i."""

    def __init__(self) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
        self.pipe.set_progress_bar_config(disable=True)
        for name in NAMES:
            self.pipe.load_lora_weights(models.locate("loras"), weight_name=f"{name}.safetensors", adapter_name=name)

    def __call__(self, prompts: list[str], **weights: float) -> list[Image.Image]:
        self.pipe.set_adapters(list(NAMES), [weights.get(name, 0.0) for name in NAMES])
        images = []
        for first in range(0, len(prompts), 8):
            part = prompts[first : first + 8]
            generators = [seeded_generator(first + i) for i in range(len(part))]
            images += self.pipe(part, generator=generators, num_inference_steps=STEPS, guidance_scale=GUIDANCE).images
            print(f"{weights}: {len(images)}", flush=True)
        return images


def score_icon(artist: Artist, judge: Classifier, count: int):
    nouns = [THINGS[i % len(THINGS)] for i in range(count)]
    prompts = [f"a {HELD_OUT_STYLE} of a {noun} {PLACES[i % len(PLACES)]}" for i, noun in enumerate(nouns)]
    drawn = {weight: artist(prompts, icon=weight) for weight in (0, 0.5, 1)}
    verdicts = {weight: judge(images) for weight, images in drawn.items()}
    styles = [share(s == HELD_OUT_STYLE for s in verdict.best("style")) for verdict in verdicts.values()]
    kept = share(a == b for a, b in zip(verdicts[1].best("noun"), nouns))
    return {"icon: the judge sees the style, weights 0, 0.5, 1": styles, "icon: noun right at weight 1": kept}, drawn


def score_hedgehog(artist: Artist, judge: Classifier, count: int):
    styles = [TRAINED_STYLES[i % len(TRAINED_STYLES)] for i in range(count)]
    prompts = [f"a {style} of a hedgehog {PLACES[i * 3 % len(PLACES)]}" for i, style in enumerate(styles)]
    drawn = {weight: artist(prompts, hedgehog=weight) for weight in (0, 0.5, 1)}
    verdicts = {weight: judge(images) for weight, images in drawn.items()}
    found = [share(n == "hedgehog" for n in verdict.best("noun")) for verdict in verdicts.values()]
    kept = share(a == b for a, b in zip(verdicts[1].best("style"), styles))
    scores = {"hedgehog: the judge sees one, weights 0, 0.5, 1": found, "hedgehog: style right at weight 1": kept}
    return scores, drawn


def score_both(artist: Artist, judge: Classifier, count: int):
    prompts = [f"a {HELD_OUT_STYLE} of a hedgehog {PLACES[i % len(PLACES)]}" for i in range(count)]
    images = artist(prompts, icon=1, hedgehog=1)
    verdict = judge(images)
    both = zip(verdict.best("noun"), verdict.best("style"))
    found = share(noun == "hedgehog" and style == HELD_OUT_STYLE for noun, style in both)
    return {"icon and hedgehog at 1: the judge sees both": found}, {"both": images}


def score_detail(artist: Artist, judge: Classifier, count: int):
    styles = [TRAINED_STYLES[i % len(TRAINED_STYLES)] for i in range(count)]
    nouns = [THINGS[i % len(THINGS)] for i in range(count)]
    prompts = [f"a {style} of a {noun} {PLACES[i % 5]}" for i, (style, noun) in enumerate(zip(styles, nouns))]
    drawn = {weight: artist(prompts, detail=weight) for weight in (-2, -1, 0, 1, 2)}
    sharp = [round(float(np.mean([pixels.sharpness(i) for i in images])), 4) for images in drawn.values()]
    right = [share(a == b for a, b in zip(judge(images).best("noun"), nouns)) for images in drawn.values()]
    return {"detail: sharpness, weights -2 to 2": sharp, "detail: noun right, weights -2 to 2": right}, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="prompts for each weight")
    parser.add_argument("--save", action="store_true", help="write the scores to the card, and the sheet")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    logging.set_verbosity_error()
    artist, judge = Artist(), Classifier()
    scores, pictures, labels = {"steps": STEPS, "guidance scale": GUIDANCE, "images": options.images}, [], []
    for title, score in zip(
        ("icon", "hedgehog", "icon + hedgehog", "detail"), (score_icon, score_hedgehog, score_both, score_detail)
    ):
        found, drawn = score(artist, judge, options.images if score is not score_detail else options.images // 2)
        scores |= found
        for weight, images in drawn.items():
            pictures += images[:8]
            labels += [f"{title} {weight}"] * len(images[:8])
    print(json.dumps(scores, indent=1))
    sheet = labelled_grid(pictures, labels, 8)
    if options.save:
        sheet.save(SHEETS / "loras.webp", quality=85)
        folder = models.POCKET / "loras"
        write_card(folder, {**json.loads((folder / "card.json").read_text(encoding="utf-8")), "scores": scores})


if __name__ == "__main__":
    main()
