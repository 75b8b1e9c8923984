"""Pocket CLIPSeg: from an image and a few words to the mask of what the words name.

As in the paper (Lüddecke & Ecker 2022) the CLIP underneath stays as it is, read at a higher resolution than it was
trained for; only the small decoder learns. Prompts are a noun of the scene, its background, or (for an empty mask)
a noun that is not there. The repository ships the decoder alone; `sdhelpers.models.locate` adds pocket CLIP.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import (
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizerFast,
    ViTImageProcessor,
)

from export import save_changed
from loop import Training
from recipe import Options, Recipe
from scenes_data import fresh_scenes
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch
from sdhelpers.world.captions import pick

INPUT = 256  # pixels that the vision tower sees: 16 x 16 patches
BACKGROUND = ("the background", "background")
WORDINGS = ("a {}", "the {}", "{}", "a picture of a {}")


def prompt_and_mask(scene: world.Scene, rng: np.random.RandomState) -> tuple[str, np.ndarray]:
    """Words and the mask [size, size] that they mean in this scene; `rng` chooses which."""
    nouns, chance = scene.description.nouns, rng.random_sample()
    if chance < 0.25:
        return pick(rng, BACKGROUND), ~np.any(scene.masks, axis=0)
    wording = pick(rng, WORDINGS)
    if chance < 0.35:
        absent = pick(rng, [noun for noun in world.NOUNS if noun not in nouns])
        return wording.format(absent), np.zeros_like(scene.masks[0])
    chosen = int(rng.random_sample() * len(nouns))
    return wording.format(nouns[chosen]), scene.masks[chosen]


class Prompted(Dataset):
    """Scene number i with a prompt: pixels [3, 128, 128] from -1 to 1, the words, the mask as 0 and 1."""

    def __getitem__(self, number: int):
        rng = np.random.RandomState(number)
        description = world.describe(rng)
        while number % 2 and len(description.nouns) < 2:  # to tell two objects apart is the harder half
            description = world.describe(rng)
        scene = world.draw(description, rng)
        words, mask = prompt_and_mask(scene, rng)
        return to_batch([scene.image])[0], words, torch.from_numpy(mask.astype(np.float32))


def build(options: Options) -> CLIPSegForImageSegmentation:
    """CLIPSeg around pocket CLIP, the decoder not trained yet, or the model of the folder `--init`."""
    if options.init:
        model = CLIPSegForImageSegmentation.from_pretrained(options.init, dtype=torch.float32)
        model.clip.requires_grad_(False)
        return model
    clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32)
    config = CLIPSegConfig(
        text_config=clip.config.text_config.to_dict(),
        vision_config=clip.config.vision_config.to_dict(),
        projection_dim=clip.config.projection_dim,
        **options.architecture,
    )
    model = CLIPSegForImageSegmentation(config)
    model.clip.load_state_dict(clip.state_dict())
    model.clip.requires_grad_(False)
    return model


def processor() -> CLIPSegProcessor:
    """Images to 256 x 256 from -1 to 1, words to tokens."""
    images = ViTImageProcessor(size={"height": INPUT, "width": INPUT}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return CLIPSegProcessor(images, CLIPTokenizerFast.from_pretrained(models.locate("clip")))


class Segmenting:
    """Binary cross-entropy and the Dice loss, which counts a small object as much as a large one."""

    def __init__(self, training: Training):
        self.device, self.tokenizer = training.device, processor().tokenizer

    def prepare(self, batch):
        pixels, words, masks = batch
        tokens = self.tokenizer(words, padding=True, return_tensors="pt").to(self.device)
        larger = F.interpolate(pixels.to(self.device), size=INPUT, mode="bilinear")
        return larger, tokens.input_ids, tokens.attention_mask, masks.to(self.device)

    @staticmethod
    def loss_of(model, pixels: torch.Tensor, tokens: torch.Tensor, attention_mask: torch.Tensor, masks: torch.Tensor):
        logits = model(input_ids=tokens, attention_mask=attention_mask, pixel_values=pixels).logits.float()
        logits = F.interpolate(logits[:, None], size=masks.shape[-2:], mode="bilinear")[:, 0]
        entropy = F.binary_cross_entropy_with_logits(logits, masks)
        overlap, total = (logits.sigmoid() * masks).sum((1, 2)), (logits.sigmoid() + masks).sum((1, 2))
        dice = 1 - ((2 * overlap + 50) / (total + 50)).mean()
        return entropy + 0.5 * dice, {"cross_entropy": entropy, "dice": dice}


@torch.no_grad()
def score(model: CLIPSegForImageSegmentation, options: Options) -> dict[str, float]:
    """Mean intersection over union on fresh scenes: every object, single ones, one of two, the background."""
    process = processor()
    values: dict[str, list[float]] = {"every noun": [], "noun": [], "one noun of two": [], "the background": []}
    for scene in fresh_scenes(512):
        nouns = scene.description.nouns
        prompts = [f"a {noun}" for noun in nouns] + ["the background"]
        masks = [*scene.masks, ~np.any(scene.masks, axis=0)]
        inputs = process(text=prompts, images=[scene.image] * len(prompts), padding=True, return_tensors="pt")
        logits = model(**inputs).logits
        logits = F.interpolate(logits[:, None], size=masks[0].shape, mode="bilinear")[:, 0]
        names = ["noun" if len(nouns) == 1 else "one noun of two"] * len(nouns) + ["the background"]
        for name, found, mask in zip(names, logits.numpy() > 0, masks):
            if mask.sum() >= 30:
                overlap = float((found & mask).sum() / (found | mask).sum())
                values[name].append(overlap)
                if name != "the background":
                    values["every noun"].append(overlap)
    return {f"mean IoU, {name}": round(float(np.mean(ious)), 4) for name, ious in values.items()}


def export(model: CLIPSegForImageSegmentation, folder: Path, options: Options) -> None:
    model.config.save_pretrained(folder)
    processor().image_processor.save_pretrained(folder)
    save_changed(model, folder, "decoder.")


RECIPE = Recipe(build, lambda options: Prompted(), Segmenting, score, export)
