"""Fine-tune sd15 into the inpainting UNet: nine channels in, so that it sees the mask and what is kept.

    python data/recipes/train_inpainting.py

As in the published stable-diffusion-inpainting, the first convolution also reads the mask (1 channel) and the
latents of the picture with the masked part emptied (4 channels). Masks hide the background, a box around an object,
the object's outline, or a part of the picture. The blocks of TRAINED learn, the others stay sd15's, so that the
repository ships only the former. After a change of sd15, give what was learnt with the sd15 before:

    python data/recipes/train_inpainting.py --init OLD/inpainting/unet --init-base OLD/sd15/unet --steps 2500
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from scipy.ndimage import binary_dilation, binary_erosion
from torch.utils.data import DataLoader, Dataset

from encode_latents import chosen
from loop import RUNS, Training, arguments, precision
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch
from train_unet import Conditioning, Latents

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


@torch.inference_mode()
def encode(vae: AutoencoderKL, numbers: list[int]) -> dict[str, np.ndarray]:
    """Scaled latents of the scenes, their masks at 16x16, and the latents of what the masks leave."""

    def latents_of(pixels: torch.Tensor) -> np.ndarray:
        pixels = pixels.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision() == "bf16"):
            latents = vae.encode(pixels).latent_dist.mode().float()
        return (latents * vae.config.scaling_factor).half().numpy()

    parts = {"numbers": np.repeat(numbers, VARIANTS), "latents": [], "masks": [], "kept": []}
    for pixels, masks in DataLoader(Masked(numbers), batch_size=50):
        parts["latents"].append(np.repeat(latents_of(pixels), VARIANTS, axis=0))
        masked = (pixels[:, None] * (masks[:, :, None] < 0.5)).flatten(0, 1)
        parts["kept"].append(latents_of(masked))
        parts["masks"].append(F.interpolate(masks, size=16).flatten(0, 1)[:, None].numpy() > 0.5)
    return {key: value if key == "numbers" else np.concatenate(value) for key, value in parts.items()}


class MaskedLatents(Latents):
    """What `Latents` gives, with the mask and the kept part's latents."""

    def __getitem__(self, number: int):
        index = self.index(number)
        condition = np.concatenate([self.arrays[name][index].astype(np.float32) for name in ("masks", "kept")])
        return *super().__getitem__(number), torch.from_numpy(condition)


def collate(samples):
    latents, captions, conditions = zip(*samples)
    return torch.stack(latents), list(captions), torch.stack(conditions)


def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights):
    """As for sd15, but what is painted again counts more than what is kept."""
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
    new sd15 need not learn inpainting from nothing.
    """
    wide, learnt, start = nine_channels(unet), inpainting.state_dict(), nine_channels(base).state_dict()
    tensors = wide.state_dict()
    wide.load_state_dict({k: v + learnt[k] - start[k] if k.startswith(TRAINED) else v for k, v in tensors.items()})
    return wide


def main() -> None:
    options = arguments(__doc__, steps=5_000, batch=32, lr=6e-4, ema=0.997, scenes=36_000, init_base="")
    base = models.POCKET / "sd15"
    path = RUNS / "masked" / "scenes.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        vae = AutoencoderKL.from_pretrained(base / "vae", dtype=torch.float32).eval()
        arrays = encode(vae.to(memory_format=torch.channels_last), chosen(range(options.scenes), models.nouns()))
        np.savez(path.with_suffix(".part.npz"), **arrays)
        path.with_suffix(".part.npz").rename(path)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32)
    if options.init and options.init_base:
        of_before = UNet2DConditionModel.from_pretrained(options.init_base, dtype=torch.float32)
        unet = carried_over(unet, UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32), of_before)
    elif options.init:
        unet = UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)
    else:
        unet = nine_channels(unet)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    training = Training("inpainting", unet, options)
    conditioning = Conditioning(base / "tokenizer", base / "text_encoder", training.device)

    def prepare(batch):
        latents, captions, conditions = batch
        noisy, *rest = conditioning.prepare((latents, captions))
        return torch.cat([noisy, conditions.to(training.device)], dim=1), *rest

    training.run(MaskedLatents(path.parent, models.nouns()), prepare, loss_of, collate)
    changed = {k: v for k, v in training.averaged_model().state_dict().items() if k.startswith(TRAINED)}
    export = training.folder / "export"
    (export / "unet").mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in changed.items()}, export / "changed.safetensors")
    unet.save_config(export / "unet")
    facts = {**training.facts(), "recipe": "data/recipes/train_inpainting.py"}
    (export / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
