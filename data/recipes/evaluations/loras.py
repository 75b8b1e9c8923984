"""What the assembled LoRAs do at several weights, by the judge and by the pixels."""

import argparse

import numpy as np
from diffusers.utils import logging
from PIL import Image

from artist import GUIDANCE, STEPS, Artist
from card import share
from evaluations import Result
from sdhelpers import models
from sdhelpers.images import labelled_grid
from sdhelpers.measures import pixels
from sdhelpers.measures.judge import Classifier
from sdhelpers.world.drawings import HELD_OUT_STYLE, TRAINED_STYLES

IMAGES = 16  # prompts for each weight
NAMES = ("icon", "hedgehog", "detail")
PLACES = ("in a meadow", "at night", "on a beach", "in the snow", "in the desert", "on yellow", "on pink", "in a room")
THINGS = ("cat", "rocket", "car", "castle", "owl", "guitar", "duck", "house", "apple", "horse", "balloon", "penguin")


def drawn(artist: Artist, prompts: list[str], **weights: float) -> list[Image.Image]:
    """Pictures with the LoRAs at these weights, the others at 0; prompt number i always starts from noise i."""
    artist.pipe.set_adapters(list(NAMES), [weights.get(name, 0.0) for name in NAMES])
    return artist(prompts, list(range(len(prompts))), what=str(weights))


def score_icon(artist: Artist, judge: Classifier, count: int):
    nouns = [THINGS[i % len(THINGS)] for i in range(count)]
    prompts = [f"a {HELD_OUT_STYLE} of a {noun} {PLACES[i % len(PLACES)]}" for i, noun in enumerate(nouns)]
    pictures = {weight: drawn(artist, prompts, icon=weight) for weight in (0, 0.5, 1)}
    verdicts = {weight: judge(images) for weight, images in pictures.items()}
    styles = [share(s == HELD_OUT_STYLE for s in verdict.best("style")) for verdict in verdicts.values()]
    kept = share(a == b for a, b in zip(verdicts[1].best("noun"), nouns))
    return {"icon: the judge sees the style, weights 0, 0.5, 1": styles, "icon: noun right at weight 1": kept}, pictures


def score_hedgehog(artist: Artist, judge: Classifier, count: int):
    styles = [TRAINED_STYLES[i % len(TRAINED_STYLES)] for i in range(count)]
    prompts = [f"a {style} of a hedgehog {PLACES[i * 3 % len(PLACES)]}" for i, style in enumerate(styles)]
    pictures = {weight: drawn(artist, prompts, hedgehog=weight) for weight in (0, 0.5, 1)}
    verdicts = {weight: judge(images) for weight, images in pictures.items()}
    found = [share(n == "hedgehog" for n in verdict.best("noun")) for verdict in verdicts.values()]
    kept = share(a == b for a, b in zip(verdicts[1].best("style"), styles))
    scores = {"hedgehog: the judge sees one, weights 0, 0.5, 1": found, "hedgehog: style right at weight 1": kept}
    return scores, pictures


def score_both(artist: Artist, judge: Classifier, count: int):
    prompts = [f"a {HELD_OUT_STYLE} of a hedgehog {PLACES[i % len(PLACES)]}" for i in range(count)]
    images = drawn(artist, prompts, icon=1, hedgehog=1)
    verdict = judge(images)
    both = zip(verdict.best("noun"), verdict.best("style"))
    found = share(noun == "hedgehog" and style == HELD_OUT_STYLE for noun, style in both)
    return {"icon and hedgehog at 1: the judge sees both": found}, {"both": images}


def score_detail(artist: Artist, judge: Classifier, count: int):
    styles = [TRAINED_STYLES[i % len(TRAINED_STYLES)] for i in range(count)]
    nouns = [THINGS[i % len(THINGS)] for i in range(count)]
    prompts = [f"a {style} of a {noun} {PLACES[i % 5]}" for i, (style, noun) in enumerate(zip(styles, nouns))]
    pictures = {weight: drawn(artist, prompts, detail=weight) for weight in (-2, -1, 0, 1, 2)}
    sharp = [round(float(np.mean([pixels.sharpness(i) for i in images])), 4) for images in pictures.values()]
    right = [share(a == b for a, b in zip(judge(images).best("noun"), nouns)) for images in pictures.values()]
    return {"detail: sharpness, weights -2 to 2": sharp, "detail: noun right, weights -2 to 2": right}, pictures


def evaluate(options: argparse.Namespace) -> Result:
    logging.set_verbosity_error()
    artist, judge = Artist.from_folder(models.locate("sd15")), Classifier()
    for name in NAMES:
        artist.pipe.load_lora_weights(models.locate("loras"), weight_name=f"{name}.safetensors", adapter_name=name)
    scores, shown, labels = {"steps": STEPS, "guidance scale": GUIDANCE, "images": options.images}, [], []
    for title, score, count in (
        ("icon", score_icon, options.images),
        ("hedgehog", score_hedgehog, options.images),
        ("icon + hedgehog", score_both, options.images),
        ("detail", score_detail, options.images // 2),
    ):
        found, pictures = score(artist, judge, count)
        scores |= found
        for weight, images in pictures.items():
            shown += images[:8]
            labels += [f"{title} {weight}"] * len(images[:8])
    return Result(scores, {"loras.webp": labelled_grid(shown, labels, 8)})
