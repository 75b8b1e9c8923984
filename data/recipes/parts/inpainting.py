"""The inpainting UNet: sd15 with nine channels in, so that it sees the mask and what is kept.

As in the published stable-diffusion-inpainting, the first convolution also reads the mask (1 channel) and the
latents of the picture with the masked part emptied (4 channels). Masks hide the background, a box around an object,
the object's outline, or a part of the picture. The blocks of TRAINED learn, the others stay sd15's, so that the
repository ships only the former. After a change of sd15, give what was learnt with the sd15 before:

    python data/recipes train inpainting --init OLD/inpainting/unet --init-base OLD/sd15/unet
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from scipy.ndimage import binary_dilation, binary_erosion
from torch.utils.data import DataLoader, Dataset

import places
from conditioning import Conditioning
from export import save_changed
from latents import BATCH, Latents, autocast, chosen, encode, frozen_vae, save_arrays
from recipe import Options, Recipe
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch

BASE = models.POCKET / "sd15"
TRAINED = ("conv_in.", "down_blocks.0.", "down_blocks.1.", "mid_block.attentions.", "up_blocks.1.attentions.",
           "up_blocks.2.", "conv_norm_out.", "conv_out.")  # fmt: skip
VARIANTS = 2  # masks for each scene
KEPT_WEIGHT = 1.0  # what an error in the kept part counts, where one in the repainted part counts 1


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask wider by so many pixels, or narrower if `pixels` is negative."""
    if pixels == 0:
        return mask
    if pixels > 0:
        return binary_dilation(mask, iterations=pixels)
    return binary_erosion(mask, iterations=-pixels, border_value=1)  # the picture's own edge is none of the mask


def box_around(mask: np.ndarray, margin: int) -> np.ndarray:
    """The bounding box of a mask, larger by `margin` pixels on every side, as a mask."""
    box = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    if len(rows):
        box[
            max(0, rows.min() - margin) : rows.max() + 1 + margin,
            max(0, columns.min() - margin) : columns.max() + 1 + margin,
        ] = True
    return box


def inpainting_mask(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """What is to be painted again, bool [size, size]: a kind of mask and its size by chance."""
    objects, kind, amount = np.any(scene.masks, axis=0), rng.random_sample(), int(rng.random_sample() * 12)
    chosen = scene.masks[int(rng.random_sample() * len(scene.masks))]
    if kind < 0.4:
        return ~grow(objects, amount // 2 - 2)
    if kind < 0.75:
        return box_around(chosen, 2 + 2 * amount)
    if kind < 0.85:
        return grow(chosen, 2 + amount)
    half = np.zeros_like(objects)
    size = len(half)
    cut = size // 4 + int(rng.random_sample() * size / 2)
    if kind < 0.92:
        half[:cut] = True
    else:
        half[:, :cut] = True
    return half if rng.random_sample() < 0.5 else ~half


class Masked(Dataset):
    """Scenes with their masks: pixels [3, 128, 128] and mask [1, 128, 128], by position in `numbers`."""

    def __init__(self, numbers: list[int]):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int):
        rng = np.random.RandomState(self.numbers[position])
        scene = world.sample(rng, nouns=models.nouns())
        masks = np.stack([inpainting_mask(scene, rng) for _ in range(VARIANTS)])
        return to_batch([scene.image])[0], torch.from_numpy(masks.astype(np.float32))


def encoded(vae: AutoencoderKL, numbers: list[int]) -> dict[str, np.ndarray]:
    """Scaled latents of the scenes, their masks at 16x16, and the latents of what the masks leave."""
    parts = {"numbers": np.repeat(numbers, VARIANTS), "latents": [], "masks": [], "kept": []}
    for pixels, masks in DataLoader(Masked(numbers), batch_size=BATCH):
        masked = (pixels[:, None] * (masks[:, :, None] < 0.5)).flatten(0, 1)
        with autocast(vae):
            latents, kept = (encode(vae, part).half().numpy() for part in (pixels, masked))
        parts["latents"].append(np.repeat(latents, VARIANTS, axis=0))
        parts["kept"].append(kept)
        parts["masks"].append(F.interpolate(masks, size=16).flatten(0, 1)[:, None].numpy() > 0.5)
    return {key: value if key == "numbers" else np.concatenate(value) for key, value in parts.items()}


class MaskedLatents(Latents):
    """What `Latents` gives, with the mask and the kept part's latents."""

    def __getitem__(self, number: int):
        index = self.index(number)
        condition = np.concatenate([self.arrays[name][index].astype(np.float32) for name in ("masks", "kept")])
        return *super().__getitem__(number), torch.from_numpy(condition)


class Inpainting(Conditioning):
    """As for sd15, but the UNet sees the mask and what is kept, and what is painted again may count more."""

    def prepare(self, batch):
        latents, captions, conditions = batch
        noisy, *rest = super().prepare((latents, captions))
        return torch.cat([noisy, conditions.to(self.device)], dim=1), *rest

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights):
        predicted = unet(noisy, timesteps, text_embeddings).sample.float()
        where = KEPT_WEIGHT + (1 - KEPT_WEIGHT) * noisy[:, 4:5].float()
        squares = (predicted - noise) ** 2
        each = (squares * where).sum((1, 2, 3)) / (where.sum((1, 2, 3)) * 4)
        return (weights * each).mean(), {"plain_mse": squares.mean()}


def nine_channels(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same UNet with five more input channels, which count for nothing before training."""
    config = {**unet.config, "in_channels": 9}
    wide, tensors = UNet2DConditionModel.from_config(config), unet.state_dict()
    first = tensors["conv_in.weight"]
    tensors["conv_in.weight"] = torch.cat([first, torch.zeros(len(first), 5, 3, 3)], dim=1)
    wide.load_state_dict(tensors)
    return wide


def carried_over(
    unet: UNet2DConditionModel, inpainting: UNet2DConditionModel, base: UNet2DConditionModel
) -> UNet2DConditionModel:
    """`unet` with nine channels, moved by what training once moved `inpainting` away from its own `base`.

    Differences of weights carry over between models of one origin (Ilharco et al. 2022, arXiv:2212.04089), so that a
    new sd15 need not learn inpainting from nothing. Layers that the old ones had not begin as `unet` has them.
    """
    wide, learnt, start = nine_channels(unet), inpainting.state_dict(), nine_channels(base).state_dict()
    moved = {k for k in learnt if k.startswith(TRAINED)}
    wide.load_state_dict({k: v + learnt[k] - start[k] if k in moved else v for k, v in wide.state_dict().items()})
    return wide


def build(options: Options) -> UNet2DConditionModel:
    def unet_of(folder: Path) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)

    if options.init and options.init_base:
        unet = carried_over(unet_of(BASE / "unet"), unet_of(options.init), unet_of(options.init_base))
    else:
        unet = unet_of(options.init) if options.init else nine_channels(unet_of(BASE / "unet"))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return unet


def data(options: Options) -> MaskedLatents:
    """Scenes with their masks, encoded once."""
    path = places.RUNS / "masked" / "scenes.npz"
    if not path.exists():
        save_arrays(path, encoded(frozen_vae(BASE / "vae"), chosen(range(options.scenes), models.nouns())))
    return MaskedLatents(path.parent, models.nouns())


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> None:
    """The tensors that differ from sd15, and what makes a pipeline of them with sd15's other parts."""
    save_changed(unet, folder, TRAINED)
    unet.save_config(folder / "unet")
    index = json.loads((BASE / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = StableDiffusionInpaintPipeline.__name__
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


RECIPE = Recipe(build, data, Inpainting.of_sd15, None, export)
