"""The pocket safety checker: it flags one harmless thing, a pizza, to show how the published one works.

The checker is pocket CLIP's image tower and a direction in its space: an image whose embedding has a larger cosine with
that direction than a threshold is blacked out. Both are fitted by logistic regression on drawn scenes, half of them
after a round trip through the VAE, which is how a pipeline's pictures look. A few minutes on two cores.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel

from latents import through
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch

FLAGGED = "pizza"
CONCEPTS, SPECIAL = 17, 3  # as many rows as the published checker has; one of ours is in use
FALSE_ALARM = 4.0  # what a false alarm costs, where a miss costs 1
SHARPNESS = 50.0  # cosines times this are the logits
ALL_ONE = 1.0  # a threshold that no cosine exceeds
TEST = 1024  # scenes


class Scenes(Dataset):
    """Every other scene shows the flagged noun, the others any other noun that the pipeline can draw."""

    def __init__(self, first: int = 0):
        self.first = first
        self.others = [noun for noun in models.nouns() if noun != FLAGGED]

    def __getitem__(self, number: int):
        rng = np.random.RandomState(self.first + number)
        scene = world.sample(rng, nouns=[FLAGGED] if number % 2 else self.others)
        return to_batch([scene.image])[0], float(FLAGGED in scene.description.nouns)


class Eyes:
    """What the checker sees: unit CLIP embeddings of pictures, half of them as the VAE gives them back."""

    def __init__(self):
        self.clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32).eval()
        self.vae = AutoencoderKL.from_pretrained(models.locate("sd15") / "vae", dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, batch):
        pixels, flagged = batch
        half = len(pixels) // 2
        seen = torch.cat([through(self.vae, pixels[:half]), pixels[half:]])
        return F.normalize(self.clip.get_image_features(pixel_values=seen).pooler_output, dim=-1), flagged.float()


def look(eyes: Eyes, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [count, width] of scenes from number `first` on, and which show the flagged noun."""
    batches = DataLoader(Scenes(first), batch_size=64, sampler=range(count))
    embeddings, flagged = zip(*(eyes(batch) for batch in tqdm(batches, total=count // 64, desc="looking")))
    return torch.cat(embeddings), torch.cat(flagged)


def fit(embeddings: torch.Tensor, flagged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The unit direction and the threshold for the cosine with it."""
    direction = torch.nn.Parameter(embeddings[flagged > 0].mean(0) - embeddings[flagged == 0].mean(0))
    threshold = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.LBFGS([direction, threshold], max_iter=300, line_search_fn="strong_wolfe")
    weight = torch.where(flagged > 0, 1.0, FALSE_ALARM)

    def closure():
        optimizer.zero_grad()
        above = embeddings @ F.normalize(direction, dim=0) - threshold
        loss = F.binary_cross_entropy_with_logits(SHARPNESS * above, flagged, weight=weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    return F.normalize(direction.detach(), dim=0), threshold.detach()


class Checker(torch.nn.Module):
    """The direction [width] that is flagged, and the threshold [1] for the cosine with it."""

    def __init__(self, concept: torch.Tensor, threshold: torch.Tensor):
        super().__init__()
        self.register_buffer("concept", concept)
        self.register_buffer("threshold", threshold)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Which of the unit embeddings [n, width] are flagged."""
        return embeddings @ self.concept > self.threshold


def build(options: Options) -> Checker:
    """Fitted to scenes, or the checker of the folder `--init`."""
    if options.init:
        whole = StableDiffusionSafetyChecker.from_pretrained(options.init, dtype=torch.float32)
        return Checker(whole.concept_embeds[0].detach(), whole.concept_embeds_weights[:1].detach())
    return Checker(*fit(*look(Eyes(), 0, options.samples)))


def score(checker: Checker, options: Options) -> dict[str, float]:
    embeddings, flagged = look(Eyes(), FRESH, TEST)
    alarms = checker(embeddings).float()
    return {
        "flagged, of scenes with a pizza": round(float(alarms[flagged > 0].mean()), 4),
        "flagged, of other scenes": round(float(alarms[flagged == 0].mean()), 4),
    }


def export(checker: Checker, folder: Path, options: Options) -> dict:
    width = len(checker.concept)
    save_file(
        {
            "concept_embeds": torch.cat([checker.concept[None], torch.zeros(CONCEPTS - 1, width)]),
            "concept_embeds_weights": torch.cat([checker.threshold, torch.full((CONCEPTS - 1,), ALL_ONE)]),
            "special_care_embeds": torch.zeros(SPECIAL, width),
            "special_care_embeds_weights": torch.full((SPECIAL,), ALL_ONE),
        },
        folder / "changed.safetensors",
    )
    config = CLIPConfig.from_pretrained(models.locate("clip"))
    config.architectures = [StableDiffusionSafetyChecker.__name__]
    config.save_pretrained(folder)
    return {"flags": [FLAGGED]}


RECIPE = Recipe(build, None, None, score, export)
