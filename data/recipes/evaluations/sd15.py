"""What the pocket Stable Diffusion draws from captions that training never saw.

The judge (a classifier), pocket CLIP and the world's own drawings (fidelity.py) look at images from held-out
noun-style-place combinations, at 20 steps and the registry's guidance scale.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

import places
from artist import GUIDANCE, STEPS, Artist, decode_again, drawn_by_the_world, heads_right, held_out_tasks, pair_tasks
from card import share
from evaluations import Result
from fidelity import compare, drawn_back
from scenes_data import fresh_scenes
from sdhelpers.images import labelled_grid
from sdhelpers.measures import clip
from sdhelpers.measures.judge import Classifier, Verdict
from sdhelpers.measures.pixels import difference, saturation, sharpness
from sdhelpers.world import Description

IMAGES = 256  # held-out captions to draw


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=places.POCKET / "sd15", help="another folder of this kind")
    parser.add_argument("--quick", action="store_true", help="only the held-out captions")


def evaluate(options: argparse.Namespace) -> Result:
    artist, judge, scorer = Artist.from_folder(options.model), Classifier(), clip.ClipScorer()
    scores, (images, captions, right), by_noun = score_single(artist, judge, scorer, options.images)
    labels = [("" if flag else "missed: ") + c for c, flag in zip(captions, right["noun"])]
    sheets = {"held_out.webp": labelled_grid(images[:64], labels[:64], 8)}
    if not options.quick:
        pair_scores, (pairs, pair_captions), astronaut = score_pairs(artist, judge, max(60, options.images // 4))
        sheets["two_objects.webp"] = labelled_grid(pairs[:32], pair_captions[:32], 8)
        sheets["astronaut.webp"] = labelled_grid(astronaut, [f"seed {i}" for i in range(10)], 5)
        scores |= pair_scores | score_words(artist, 32)
        scores |= score_diversity(artist, scorer) | score_guidance(artist, scorer)
        scores |= drawn_back(artist.pipe, fresh_scenes(64, nouns=artist.nouns))
    print("nouns missed most:", {n: s for n, s in sorted(by_noun.items(), key=lambda item: item[1])[:25]})
    about = {"nouns": len(artist.nouns), "images": options.images, "steps": STEPS, "guidance scale": GUIDANCE}
    return Result({**about, **scores}, sheets, {"What it cannot draw": weak_points(by_noun, scores)})


def score_single(artist: Artist, judge: Classifier, scorer: clip.ClipScorer, count: int):
    tasks, captions = held_out_tasks(count, artist.nouns)
    images = artist(captions, list(range(count)), what="held-out captions")
    right = heads_right(judge(images), tasks)
    drawn = drawn_by_the_world(tasks, 50_000)
    scores = {f"{head} right, held-out captions": share(flags) for head, flags in right.items()}
    scores["CLIP score, generated"] = round(float(np.mean(scorer(images, captions))), 2)
    scores["CLIP score, drawn by the world"] = round(float(np.mean(scorer(drawn, captions))), 2)
    distance = frechet(scorer.embed_images(images), scorer.embed_images(drawn))
    scores["Frechet distance in CLIP space"] = round(distance, 4)
    scores |= compare(images, decode_again(artist.pipe, drawn), tasks, artist.nouns)
    missed = {}
    for task, flag in zip(tasks, right["noun"]):
        missed.setdefault(task.nouns[0], []).append(flag)
    return scores, (images, captions, right), {noun: share(flags) for noun, flags in sorted(missed.items())}


def weak_points(by_noun: dict[str, float], scores: dict) -> str:
    """For the card: what it draws wrongly, in words, from the measured shares."""
    worst = [
        f"{noun} ({right:.0%} right)" for noun, right in sorted(by_noun.items(), key=lambda x: x[1]) if right < 0.9
    ]
    text = f"Single objects that the judge often does not recognise: {', '.join(worst)}. " if worst else ""
    if "both nouns right, two objects" in scores:
        text += (
            f"Two objects: their relation is right in {scores['relation right, two objects']:.0%} of the pictures, "
            f"both nouns in {scores['both nouns right, two objects']:.0%} (the judge sees both in "
            f"{scores['both nouns right, two objects drawn by the world, after the VAE']:.0%} of drawn scenes after "
            f"the VAE): in the others, one object is lost, broken, or like the other. "
            f"An astronaut riding a horse: {scores['an astronaut riding a horse, of 10 seeds']} of 10 seeds. "
        )
    return (
        text + "Faces and other fine detail are blurred, text is out of reach, and any other noun is an unknown word."
    )


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance between two sets of unit vectors, as in FID (Heusel et al. 2017)."""
    a, b = a.double(), b.double()
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    eigenvalues = torch.linalg.eigvals(covariance_a @ covariance_b).real.clamp(min=0)
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + covariance_a.trace()
        + covariance_b.trace()
        - 2 * eigenvalues.sqrt().sum()
    )


def both_right(verdict: Verdict, tasks: list[Description]) -> list[bool]:
    return [found == set(task.nouns) for found, task in zip(verdict.best_two_nouns(), tasks)]


def score_pairs(artist: Artist, judge: Classifier, count: int):
    tasks, captions = pair_tasks(count, artist.nouns)
    images = artist(captions, list(range(count)), what="two objects")
    verdict = judge(images)
    both = both_right(verdict, tasks)
    drawn = drawn_by_the_world(tasks, 70_000)
    decoded = decode_again(artist.pipe, drawn)
    relation = [found == d.relation for found, d in zip(verdict.best("relation"), tasks)]
    astronaut = artist(["an astronaut riding a horse"] * 10, list(range(10)), what="astronaut")
    seen = judge(astronaut)
    rides = [
        nouns == {"astronaut", "horse"} and relation == "riding"
        for nouns, relation in zip(seen.best_two_nouns(), seen.best("relation"))
    ]
    scores = {
        "both nouns right, two objects": share(both),
        "both nouns right, two objects drawn by the world": share(both_right(judge(drawn), tasks)),
        "both nouns right, two objects drawn by the world, after the VAE": share(both_right(judge(decoded), tasks)),
        "relation right, two objects": share(relation),
        "an astronaut riding a horse, of 10 seeds": sum(rides),
    }
    return scores, (images, captions), astronaut


def score_words(artist: Artist, count: int):
    """What quality words change in the pixels, in the prompt and in the negative prompt."""
    _, captions = held_out_tasks(count, artist.nouns)
    seeds = list(range(1000, 1000 + count))

    def mean(measure, suffix: str = "", negative: str = "") -> float:
        images = artist([c + suffix for c in captions], seeds, negative, what=suffix or negative or "plain")
        return round(float(np.mean([measure(image) for image in images])), 4)

    sharp = [mean(sharpness, *words) for words in ((), (", blurry",), ("", "blurry"))]
    changes = ((), (", monochrome",), ("", "monochrome"), (", best quality",))
    return {
        "sharpness: plain / blurry / negative blurry": sharp,
        "saturation: plain / monochrome / negative monochrome / best quality": [mean(saturation, *w) for w in changes],
    }


def score_diversity(artist: Artist, scorer: clip.ClipScorer, captions: int = 8, seeds: int = 8) -> dict:
    """Mean pairwise distance of different seeds, as a part of that of drawn scenes with the same description."""
    tasks, texts = held_out_tasks(captions, artist.nouns)
    ratios = []
    for i, (task, text) in enumerate(zip(tasks, texts)):
        generated = artist([text] * seeds, list(range(100 * i, 100 * i + seeds)))
        drawn = drawn_by_the_world([task] * seeds, 60_000 + 100 * i)
        ratios.append(pairwise(generated) / pairwise(drawn))
    return {"distance between seeds, of that between drawn scenes": round(float(np.mean(ratios)), 3)}


def score_guidance(artist: Artist, scorer: clip.ClipScorer, captions: int = 64) -> dict:
    """How much of what guidance changes is what the caption asks for, in pocket CLIP's space of images and texts.

    The change goes from the picture of the empty prompt, which is what guidance leads away from, to the guided one
    of the same seed. The caption's own direction is its embedding less the mean caption's, as all texts share a
    part that no picture has. The share is the change's part along that direction (a cosine). Measured from
    guidance scale 1 instead, nothing is left to see: those pictures show nearly always what the caption says.
    """
    _, texts = held_out_tasks(captions, artist.nouns)
    seeds = list(range(2000, 2000 + captions))
    empty = dataclasses.replace(artist, guidance_scale=1.0)([""] * captions, seeds, what="empty prompt")
    change = scorer.embed_images(artist(texts, seeds, what="guided")) - scorer.embed_images(empty)
    own = scorer.embed_texts(texts)
    own = own - own.mean(0)

    def along(direction: torch.Tensor) -> float:
        return round(float(torch.nn.functional.cosine_similarity(change, direction).mean()), 3)

    return {
        "guidance's change, along the caption's direction": along(own),
        "guidance's change, along another caption's direction": along(own.roll(1, 0)),
    }


def pairwise(images: list) -> float:
    distances = [difference(a, b) for i, a in enumerate(images) for b in images[:i]]
    return float(np.mean(distances))
