"""Train the judge that the evaluation and the chapters ask what a picture shows.

    python data/recipes/train_classifier.py

A ResNet with six heads over the world's words; it sees every combination, the held-out ones too, two objects in
every second scene and more. Half of the pictures go through the VAE and back, the others are softened, so that a
VAE's blur does not count as a mistake of the UNet. It never sees what a UNet has drawn.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification

from loop import RUNS, Training, arguments
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


def loss_of(model, pixels: torch.Tensor, target: torch.Tensor):
    parts, goals = split_heads(model(pixel_values=pixels).logits.float()), split_heads(target)
    losses = {head: -(goals[head] * F.log_softmax(parts[head], 1)).sum(1).mean() for head in HEADS}
    right = (parts["noun"].argmax(1) == goals["noun"].argmax(1)).float().mean()
    return sum(losses.values()), {"noun_right": right, "style": losses["style"], "place": losses["place"]}


def through(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """What is left of the pictures after encoding and decoding; both [n, 3, size, size] from -1 to 1."""
    pixels = pixels.to(memory_format=torch.channels_last)
    return vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)


@torch.no_grad()
def score(model, vae: AutoencoderKL | None = None, count: int = 3000) -> dict[str, float]:
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


def main() -> None:
    options = arguments(__doc__, steps=6000, batch=64, lr=2e-3, vae=str(RUNS / "vae" / "export"))
    labels = [f"{head}: {label}" for head, names in HEADS.items() for label in names]
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[48, 96, 192, 256],
        depths=[1, 2, 2, 1],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    if options.init:
        model = ResNetForImageClassification.from_pretrained(options.init, dtype=torch.float32)
    else:
        model = ResNetForImageClassification(config)
    training = Training("classifier", model, options)
    vae = AutoencoderKL.from_pretrained(options.vae, dtype=torch.float32).eval()
    vae.to(training.device, memory_format=torch.channels_last)

    def prepare(batch):
        pixels, target = (part.to(training.device) for part in batch)
        soft = F.avg_pool2d(F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), 3, 1), 3, 1)
        amount = torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
        half = len(pixels) // 2  # odd and even numbers, so one object and two, are in both halves
        decoded = through(vae, pixels[:half]).float()
        pixels = torch.cat([decoded, torch.lerp(pixels, soft, amount)[half:]])
        pixels = pixels + 0.03 * torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * torch.randn_like(pixels)
        return pixels.to(memory_format=torch.channels_last), target

    training.run(LabelledScenes(), prepare, loss_of)
    model = training.averaged_model()
    decoded = {f"{head}, after the VAE": right for head, right in score(model, vae.to("cpu")).items()}
    scores = {**score(model), **decoded}
    print(scores)
    model.half().save_pretrained(training.folder / "export")
    facts = {**training.facts(), "recipe": "data/recipes/train_classifier.py", "scores": scores}
    (training.folder / "export" / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
