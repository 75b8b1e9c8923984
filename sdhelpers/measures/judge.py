"""The judge: a small ResNet that names the nouns, style, place, relation and quality of a world image.

It is trained on drawn scenes only, never on generated ones, and it is not part of any pipeline. The
chapters and the evaluation use it to measure what a model has drawn.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ResNetForImageClassification

from sdhelpers import models
from sdhelpers.world import captions, drawings

HEADS: dict[str, tuple[str, ...]] = {
    "noun": drawings.TRAINED_NOUNS + drawings.HELD_OUT_NOUNS,
    "style": (*drawings.TRAINED_STYLES, drawings.HELD_OUT_STYLE),
    "place": captions.PLACES + captions.COLOURS,
    "relation": ("alone", *captions.RELATIONS),
    "quality": captions.QUALITIES,
    "upper": drawings.TRAINED_NOUNS + drawings.HELD_OUT_NOUNS,
}


def split_heads(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cut [batch, labels] into one [batch, classes] a head, in the order of HEADS."""
    parts = torch.split(logits, [len(labels) for labels in HEADS.values()], dim=1)
    return dict(zip(HEADS, parts))


def to_batch(images: Sequence[Image.Image], size: int = 128) -> torch.Tensor:
    """Images of any size as float32 [batch, 3, size, size] from -1 to 1."""
    arrays = [np.asarray(i.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)) for i in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Probabilities for every label of every head, over a batch."""

    probabilities: dict[str, torch.Tensor]

    def best(self, head: str) -> list[str]:
        """The most probable label of each image."""
        return [HEADS[head][i] for i in self.probabilities[head].argmax(1).tolist()]

    def best_two_nouns(self) -> list[set[str]]:
        """The two most probable nouns of each image."""
        top = self.probabilities["noun"].topk(2, dim=1).indices.tolist()
        return [{HEADS["noun"][i] for i in pair} for pair in top]

    def of(self, head: str, label: str) -> torch.Tensor:
        """The probability of one label in each image: [batch]."""
        return self.probabilities[head][:, HEADS[head].index(label)]


class Classifier:
    """The trained judge. `Classifier()` loads the one that the repository ships."""

    def __init__(self, folder: Path | None = None):
        folder = folder or models.locate("classifier")
        self.model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Verdict:
        """Judge images of the world; they are resized to 128x128."""
        logits = self.model(pixel_values=to_batch(images)).logits
        return Verdict({head: part.softmax(1) for head, part in split_heads(logits).items()})
