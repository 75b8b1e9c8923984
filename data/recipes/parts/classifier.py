"""The judge that the evaluation and the chapters ask what a picture shows.

A ResNet with six heads over the world's words; it sees every combination, the held-out ones too, two objects in
every second scene and more. Half of the pictures go through the VAE and back, the others are softened, so that a
VAE's blur does not count as a mistake of the UNet. It never sees what a UNet has drawn.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification

from export import save
from latents import frozen_vae, through
from loop import Training
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import world
from sdhelpers.measures.judge import HEADS, Verdict, split_heads, to_batch

NOUNS, STYLES = HEADS["noun"], HEADS["style"]


def targets(description: world.Description) -> torch.Tensor:
    """One row of target probabilities over all labels; an all-zero part counts for nothing."""
    row = {head: torch.zeros(len(labels)) for head, labels in HEADS.items()}
    for noun in description.nouns:
        row["noun"][NOUNS.index(noun)] = 1 / len(description.nouns)
    for head in ("style", "place", "quality"):
        row[head][HEADS[head].index(getattr(description, head))] = 1
    row["relation"][HEADS["relation"].index(description.relation or "alone")] = 1
    if description.relation in ("on top of", "riding"):
        row["upper"][NOUNS.index(description.nouns[0])] = 1
    return torch.cat(list(row.values()))


def scene(number: int) -> world.Scene:
    """A scene of any words; every second number has two objects for certain."""
    rng = np.random.RandomState(number)
    description = world.describe(rng, NOUNS, STYLES, held_out=True)
    while number % 2 and len(description.nouns) == 1:
        description = world.describe(rng, NOUNS, STYLES, held_out=True)
    return world.draw(description, rng)


class LabelledScenes(Dataset):
    def __getitem__(self, number: int):
        drawn = scene(number)
        return to_batch([drawn.image])[0], targets(drawn.description)


class Judging:
    """Pictures as a VAE or a soft brush leaves them, with a little noise, and the cross-entropy of every head."""

    def __init__(self, training: Training):
        self.device, self.vae = training.device, frozen_vae(training.options.vae)

    def prepare(self, batch):
        pixels, target = (part.to(self.device) for part in batch)
        soft = F.avg_pool2d(F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), 3, 1), 3, 1)
        amount = torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
        half = len(pixels) // 2  # odd and even numbers, so one object and two, are in both halves
        decoded = through(self.vae, pixels[:half]).float()
        pixels = torch.cat([decoded, torch.lerp(pixels, soft, amount)[half:]])
        pixels = pixels + 0.03 * torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * torch.randn_like(pixels)
        return pixels.to(memory_format=torch.channels_last), target

    @staticmethod
    def loss_of(model, pixels: torch.Tensor, target: torch.Tensor):
        parts, goals = split_heads(model(pixel_values=pixels).logits.float()), split_heads(target)
        losses = {head: -(goals[head] * F.log_softmax(parts[head], 1)).sum(1).mean() for head in HEADS}
        right = (parts["noun"].argmax(1) == goals["noun"].argmax(1)).float().mean()
        return sum(losses.values()), {"noun_right": right, "style": losses["style"], "place": losses["place"]}


@torch.no_grad()
def shares_right(model, vae: AutoencoderKL | None = None, count: int = 3000) -> dict[str, float]:
    """Share of fresh scenes named rightly: each head where there is one object, both nouns where there are two."""
    right = {head: [] for head in ("noun", "style", "place", "quality", "both nouns")}
    for first in range(FRESH, FRESH + count, 64):
        scenes = [scene(number) for number in range(first, first + 64)]
        pixels = to_batch([s.image for s in scenes])
        parts = split_heads(model(pixel_values=through(vae, pixels) if vae else pixels).logits)
        verdict = Verdict({head: part.softmax(1) for head, part in parts.items()})
        for i, (description, nouns) in enumerate(zip((s.description for s in scenes), verdict.best_two_nouns())):
            if len(description.nouns) == 2:
                right["both nouns"].append(nouns == set(description.nouns))
                continue
            for head in ("noun", "style", "place", "quality"):
                wanted = description.nouns[0] if head == "noun" else getattr(description, head)
                right[head].append(verdict.best(head)[i] == wanted)
    return {head: round(sum(flags) / len(flags), 4) for head, flags in right.items()}


def build(options: Options) -> ResNetForImageClassification:
    if options.init:
        return ResNetForImageClassification.from_pretrained(options.init, dtype=torch.float32)
    labels = [f"{head}: {label}" for head, names in HEADS.items() for label in names]
    numbers = {label: i for i, label in enumerate(labels)}
    config = ResNetConfig(**options.architecture, id2label=dict(enumerate(labels)), label2id=numbers)
    return ResNetForImageClassification(config)


def score(model: ResNetForImageClassification, options: Options) -> dict[str, float]:
    decoded = shares_right(model, frozen_vae(options.vae).to("cpu"))
    return {**shares_right(model), **{f"{head}, after the VAE": right for head, right in decoded.items()}}


RECIPE = Recipe(build, lambda options: LabelledScenes(), Judging, score, save)
