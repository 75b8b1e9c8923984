"""The pocket SDXL's second text encoder: wider than the first, and with a projection that tells a whole caption.

SDXL reads a prompt twice (Podell et al. 2023, arXiv:2307.01952). Its first encoder is the one that pocket CLIP's text
tower is already; this is the second. It is trained as CLIP's text towers are, contrastively, against pocket CLIP's own
image tower, which stays as it is: only a linear layer of its own stands between, thrown away later like the
read-outs (`parts/clip.py`). The UNet listens to the last layer but one, so the read-outs ask that one as well.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from export import save
from loop import Training
from parts import clip
from parts.clip import LABELS, readout_loss
from recipe import Options, Recipe
from sdhelpers import models

PAD = "!"  # what SDXL's second tokenizer fills a prompt up with: the token of number 0
TEMPERATURE = 2.6592  # logarithm of what similarities are multiplied with at first, as in CLIP


def second_tokenizer(first: Path = models.POCKET / "sd15" / "tokenizer") -> CLIPTokenizer:
    """The first tokenizer with SDXL's other padding: zeros after the end, instead of the end again and again."""
    return CLIPTokenizer.from_pretrained(first, pad_token=PAD)


class CaptionedScenes(clip.CaptionedScenes):
    """Pictures, the second tokenizer's ids of their captions, and labels."""

    def __init__(self):
        self.tokenizer = second_tokenizer()

    def collate(self, samples):
        pixels, captions, labels = zip(*samples)
        return torch.stack(pixels), token_ids(self.tokenizer, captions), torch.stack(labels)


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Token ids [batch, length], as long as the longest caption."""
    return tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt").input_ids


class SecondTower(torch.nn.Module):
    """The text encoder with what is thrown away later: the image's projection and the read-outs."""

    def __init__(self, text: CLIPTextModelWithProjection, image_width: int):
        super().__init__()
        width, total = text.config.hidden_size, sum(LABELS.values())
        self.text = text
        self.image_projection = torch.nn.Linear(image_width, text.config.projection_dim, bias=False)
        self.logit_scale = torch.nn.Parameter(torch.tensor(TEMPERATURE))
        self.from_embedding = torch.nn.Linear(text.config.projection_dim, total)
        self.from_penultimate = torch.nn.Linear(width, total)

    def logits(self, text_embeds: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """[texts, images]: how well each text [., projection] fits each image [., width of the image tower]."""
        texts = F.normalize(text_embeds.float(), dim=-1)
        images = F.normalize(self.image_projection(image).float(), dim=-1)
        return self.logit_scale.exp().clamp(max=100) * texts @ images.T


def image_tower(folder: Path, device: torch.device) -> torch.nn.Module:
    """Pocket CLIP's image tower, frozen."""
    tower = CLIPModel.from_pretrained(folder, dtype=torch.float32).vision_model
    return tower.to(device).eval().requires_grad_(False)


class Contrast:
    """CLIP's contrastive loss against the frozen image tower, and the read-outs'."""

    def __init__(self, training: Training):
        self.device = training.device
        self.tower = image_tower(training.options.clip, training.device)

    def prepare(self, batch):
        """What the image tower sees of the pictures [batch, width], token ids [batch, length], labels [batch, 5]."""
        pixels, ids, labels = (part.to(self.device) for part in batch)
        return self.tower(pixel_values=pixels.float() / 127.5 - 1).pooler_output, ids, labels

    @staticmethod
    def loss_of(model: SecondTower, image: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor):
        out = model.text(input_ids=ids, output_hidden_states=True)
        logits = model.logits(out.text_embeds, image)
        which = torch.arange(len(logits), device=logits.device)
        contrastive = (F.cross_entropy(logits, which) + F.cross_entropy(logits.T, which)) / 2
        penultimate = out.hidden_states[-2][which, at_the_end(model.text, ids)]
        embedding = readout_loss(model.from_embedding(out.text_embeds), labels)
        penultimate = readout_loss(model.from_penultimate(penultimate), labels)
        right = (logits.argmax(1) == which).float().mean()
        told = {"contrastive": contrastive, "embedding": embedding, "penultimate": penultimate, "right": right}
        return contrastive + embedding + penultimate, told


def at_the_end(text: CLIPTextModelWithProjection, ids: torch.Tensor) -> torch.Tensor:
    """Where each caption ends [batch]: the first of the tokens that say so."""
    return (ids == text.config.eos_token_id).int().argmax(1)


def build(options: Options) -> SecondTower:
    width = CLIPConfig.from_pretrained(options.clip).vision_config.hidden_size
    if options.init:
        text = CLIPTextModelWithProjection.from_pretrained(options.init, dtype=torch.float32)
    else:
        text = CLIPTextModelWithProjection(CLIPTextConfig(**options.architecture))
    return SecondTower(text, width)


def score(model: SecondTower, options: Options) -> dict[str, float]:
    tower, tokenizer = image_tower(options.clip, torch.device("cpu")), second_tokenizer()

    def logits_of(pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        text_embeds = model.text(input_ids=token_ids(tokenizer, captions)).text_embeds
        return model.logits(text_embeds, tower(pixel_values=pixels).pooler_output).T

    return {"retrieval_among_32": round(clip.retrieval(logits_of), 4)}


def export(model: SecondTower, folder: Path, options: Options) -> None:
    clip.share_unused_rows(model.text, token_ids(second_tokenizer(), clip.used_words()).unique())
    save(model.text, folder)


RECIPE = Recipe(build, lambda options: CaptionedScenes(), Contrast, score, export)
