"""Fit the pocket safety checker: it flags one harmless thing, a pizza, to show how the published one works.

    python data/recipes/train_safety.py

The checker is pocket CLIP's image tower and a direction in its space: an image whose embedding is nearer to that
direction than a threshold is blacked out. The direction and the threshold are fitted by logistic regression on drawn
scenes, half of them after a round trip through the VAE, which is how a pipeline's pictures look.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel

from loop import Training, arguments
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.classifier import to_batch

FLAGGED = "pizza"
CONCEPTS, SPECIAL = 17, 3  # as many rows as the published checker has; one of ours is in use
ALL_ONE = 1.0  # a threshold that no cosine exceeds


class Scenes(Dataset):
    """Every other scene shows the flagged noun, the others any other noun that the pipeline can draw."""

    def __init__(self, first: int = 0):
        self.first = first
        self.others = [noun for noun in models.nouns() if noun != FLAGGED]

    def __getitem__(self, number: int):
        rng = np.random.RandomState(self.first + number)
        scene = world.sample(rng, nouns=[FLAGGED] if number % 2 else self.others)
        return to_batch([scene.image])[0], float(FLAGGED in scene.description.nouns)


class Direction(torch.nn.Module):
    """A direction in CLIP's space and a threshold for the cosine with it."""

    def __init__(self, width: int):
        super().__init__()
        self.concept = torch.nn.Parameter(torch.randn(width))
        self.threshold = torch.nn.Parameter(torch.tensor([0.5]))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """How far each embedding's cosine is above the threshold: [batch]."""
        return F.normalize(embeddings, dim=-1) @ F.normalize(self.concept, dim=0) - self.threshold


def loss_of(direction: Direction, embeddings: torch.Tensor, flagged: torch.Tensor):
    above = direction(embeddings.float())
    right = ((above > 0) == flagged.bool()).float().mean()
    return F.binary_cross_entropy_with_logits(20 * above, flagged), {"right": right}


class Eyes:
    """What the checker sees: CLIP embeddings of pictures, half of them as the VAE gives them back."""

    def __init__(self, device: torch.device):
        self.clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32).to(device).eval()
        self.vae = AutoencoderKL.from_pretrained(models.locate("sd15") / "vae", dtype=torch.float32).to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, batch):
        pixels, flagged = batch
        pixels, half = pixels.to(self.device), len(pixels) // 2
        rebuilt = self.vae.decode(self.vae.encode(pixels[:half]).latent_dist.mode()).sample.clamp(-1, 1)
        seen = torch.cat([rebuilt, pixels[half:]])
        return self.clip.get_image_features(pixel_values=seen).pooler_output, flagged.float().to(self.device)


def score(direction: Direction, eyes: Eyes, count: int = 1024) -> dict[str, float]:
    """Share of fresh scenes flagged, with the noun and without."""
    flags, truth = [], []
    for batch in DataLoader(Scenes(FRESH), batch_size=64, sampler=range(count)):
        embeddings, flagged = eyes(batch)
        flags += (direction(embeddings) > 0).tolist()
        truth += flagged.bool().tolist()
    share = lambda wanted: round(float(np.mean([f for f, t in zip(flags, truth) if t == wanted])), 4)  # noqa: E731
    return {"flagged, of scenes with a pizza": share(True), "flagged, of other scenes": share(False)}


def main() -> None:
    options = arguments(__doc__, steps=400, batch=64, lr=2e-2, ema=0.98)
    torch.manual_seed(0)
    config = CLIPConfig.from_pretrained(models.locate("clip"))
    training = Training("safety", Direction(config.projection_dim), options)
    eyes = Eyes(training.device)
    training.run(Scenes(), eyes, loss_of)
    direction = training.averaged_model()
    with torch.no_grad():
        scores = score(direction, eyes)
    print(scores)
    concept = F.normalize(direction.concept.detach(), dim=0)
    export = training.folder / "export"
    export.mkdir(exist_ok=True)
    save_file(
        {
            "concept_embeds": torch.cat([concept[None], torch.zeros(CONCEPTS - 1, len(concept))]),
            "concept_embeds_weights": torch.tensor([direction.threshold.item()] + [ALL_ONE] * (CONCEPTS - 1)),
            "special_care_embeds": torch.zeros(SPECIAL, len(concept)),
            "special_care_embeds_weights": torch.full((SPECIAL,), ALL_ONE),
        },
        export / "changed.safetensors",
    )
    config.architectures = [StableDiffusionSafetyChecker.__name__]
    config.save_pretrained(export)
    facts = {**training.facts(), "recipe": "data/recipes/train_safety.py", "scores": scores, "flags": [FLAGGED]}
    (export / "facts.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
