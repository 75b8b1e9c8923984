"""Score the pocket Stable Diffusion: what it draws from captions that training never saw.

    python data/recipes/evaluate.py --images 256 --save

The judge (a classifier), pocket CLIP and the world's own drawings (fidelity.py) look at images from held-out
noun-style-place combinations, at 20 steps and guidance 7.5. `--save` writes the scores to the model card and a
contact sheet beside it.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm

from assemble import write_card
from fidelity import compare, drawn_back
from scenes_data import FRESH, fresh_scenes
from sdhelpers import world
from sdhelpers.device import seeded_generator
from sdhelpers.images import labelled_grid
from sdhelpers.measures import clip, pixels
from sdhelpers.measures.judge import Classifier, Verdict
from sdhelpers.models import POCKET
from sdhelpers.world import Description
from sdhelpers.world.captions import MOUNTS, RIDERS, held_out_descriptions, pick, write_caption

SHEETS = Path(__file__).resolve().parent / "sheets"
STEPS, GUIDANCE, BATCH = 20, 7.5, 16


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
        return cls(pipe, json.loads((folder / "card.json").read_text(encoding="utf-8"))["nouns"], **settings)

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


def share(flags) -> float:
    flags = list(flags)
    return round(sum(flags) / len(flags), 4)


def score_single(artist: Artist, judge: Classifier, scorer: clip.ClipScorer, count: int):
    tasks, captions = held_out_tasks(count, artist.nouns)
    images = artist(captions, list(range(count)), what="held-out captions")
    verdict = judge(images)
    right = {
        head: [a == b for a, b in zip(verdict.best(head), wanted)]
        for head, wanted in {
            "noun": [d.nouns[0] for d in tasks],
            "style": [d.style for d in tasks],
            "place": [d.place for d in tasks],
        }.items()
    }
    drawn = [world.draw(d, np.random.RandomState(FRESH + 50_000 + i)).image for i, d in enumerate(tasks)]
    scores = {f"{head} right, held-out captions": share(flags) for head, flags in right.items()}
    scores["CLIP score, generated"] = round(float(np.mean(scorer(images, captions))), 2)
    scores["CLIP score, drawn by the world"] = round(float(np.mean(scorer(drawn, captions))), 2)
    scores["Frechet distance in CLIP space"] = round(
        frechet(scorer.embed_images(images), scorer.embed_images(drawn)), 4
    )
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


@torch.inference_mode()
def decode_again(pipe: StableDiffusionPipeline, images: list) -> list:
    """What the VAE leaves of pictures: the best that any UNet could draw with it."""
    decoded = []
    for first in range(0, len(images), BATCH):
        pixels = pipe.image_processor.preprocess(images[first : first + BATCH]).to(pipe.vae.device)
        latents = pipe.vae.encode(pixels).latent_dist.mode()
        decoded += pipe.image_processor.postprocess(pipe.vae.decode(latents).sample)
    return decoded


def score_pairs(artist: Artist, judge: Classifier, count: int):
    tasks, captions = pair_tasks(count, artist.nouns)
    images = artist(captions, list(range(count)), what="two objects")
    verdict = judge(images)
    both = both_right(verdict, tasks)
    drawn = [world.draw(d, np.random.RandomState(FRESH + 70_000 + i)).image for i, d in enumerate(tasks)]
    decoded = decode_again(artist.pipe, drawn)
    relation = [found == d.relation for found, d in zip(verdict.best("relation"), tasks)]
    astronaut = artist(["an astronaut riding a horse"] * 10, list(range(10)), what="astronaut")
    seen = judge(astronaut)
    rides = [
        nouns == {"astronaut", "horse"} and relation == "riding"
        for nouns, relation in zip(seen.best_two_nouns(), seen.best("relation"))
    ]
    return (
        {
            "both nouns right, two objects": share(both),
            "both nouns right, two objects drawn by the world": share(both_right(judge(drawn), tasks)),
            "both nouns right, two objects drawn by the world, after the VAE": share(both_right(judge(decoded), tasks)),
            "relation right, two objects": share(relation),
            "an astronaut riding a horse, of 10 seeds": sum(rides),
        },
        (images, captions),
        astronaut,
    )


def score_words(artist: Artist, count: int):
    """What quality words change in the pixels, in the prompt and in the negative prompt."""
    _, captions = held_out_tasks(count, artist.nouns)
    seeds = list(range(1000, 1000 + count))

    def mean(measure, suffix: str = "", negative: str = "") -> float:
        images = artist([c + suffix for c in captions], seeds, negative, what=suffix or negative or "plain")
        return round(float(np.mean([measure(image) for image in images])), 4)

    return {
        "sharpness: plain / blurry / negative blurry": [
            mean(pixels.sharpness),
            mean(pixels.sharpness, ", blurry"),
            mean(pixels.sharpness, "", "blurry"),
        ],
        "saturation: plain / monochrome / negative monochrome / best quality": [
            mean(pixels.saturation),
            mean(pixels.saturation, ", monochrome"),
            mean(pixels.saturation, "", "monochrome"),
            mean(pixels.saturation, ", best quality"),
        ],
    }


def score_diversity(artist: Artist, scorer: clip.ClipScorer, captions: int = 8, seeds: int = 8) -> dict:
    """Mean pairwise distance of different seeds, as a part of that of drawn scenes with the same description."""
    tasks, texts = held_out_tasks(captions, artist.nouns)
    ratios = []
    for i, (task, text) in enumerate(zip(tasks, texts)):
        generated = artist([text] * seeds, list(range(100 * i, 100 * i + seeds)))
        drawn = [world.draw(task, np.random.RandomState(FRESH + 60_000 + 100 * i + j)).image for j in range(seeds)]
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
    distances = [pixels.difference(a, b) for i, a in enumerate(images) for b in images[:i]]
    return float(np.mean(distances))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="held-out captions to draw")
    parser.add_argument("--model", type=Path, default=POCKET / "sd15")
    parser.add_argument("--quick", action="store_true", help="only the held-out captions")
    parser.add_argument("--save", action="store_true", help="write the scores to the card, and the sheets")
    parser.add_argument("--sheet", type=Path, default=SHEETS, help="folder for the contact sheets")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    artist, judge, scorer = Artist.from_folder(options.model), Classifier(), clip.ClipScorer()
    scores, (images, captions, right), by_noun = score_single(artist, judge, scorer, options.images)
    options.sheet.mkdir(exist_ok=True, parents=True)
    labels = [("" if flag else "missed: ") + c for c, flag in zip(captions, right["noun"])]
    labelled_grid(images[:64], labels[:64], 8).save(options.sheet / "held_out.webp", quality=88)
    if not options.quick:
        pair_scores, (pairs, pair_captions), astronaut = score_pairs(artist, judge, max(60, options.images // 4))
        labelled_grid(pairs[:32], pair_captions[:32], 8).save(options.sheet / "two_objects.webp", quality=88)
        labelled_grid(astronaut, [f"seed {i}" for i in range(10)], 5).save(options.sheet / "astronaut.webp", quality=88)
        scores |= pair_scores | score_words(artist, 32)
        scores |= score_diversity(artist, scorer) | score_guidance(artist, scorer)
        scores |= drawn_back(artist.pipe, fresh_scenes(64, nouns=artist.nouns))
    scores = {
        "nouns": len(artist.nouns),
        "images": options.images,
        "steps": STEPS,
        "guidance scale": GUIDANCE,
        **scores,
    }
    print(json.dumps(scores, indent=1))
    print("nouns missed most:", {n: s for n, s in sorted(by_noun.items(), key=lambda item: item[1])[:25]})
    if options.save:
        card = json.loads((options.model / "card.json").read_text(encoding="utf-8"))
        notes = {"What it cannot draw": weak_points(by_noun, scores)}
        write_card(options.model, {**card, "scores": scores, "notes": notes})


if __name__ == "__main__":
    main()
