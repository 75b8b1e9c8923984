"""Scenes as latents: pictures encoded once, so that no training of a UNet runs the VAE, and latents as datasets."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.utils.data import Dataset

from loop import precision
from sdhelpers import world
from sdhelpers.device import best_device
from sdhelpers.measures.judge import to_batch

EMPTY_CAPTIONS = 0.1
BATCH = 50


def frozen_vae(folder: Path) -> AutoencoderKL:
    """A trained VAE on the best device, to encode or decode with."""
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    return vae.to(best_device(), memory_format=torch.channels_last)


def autocast(vae: AutoencoderKL) -> torch.autocast:
    """Half precision where that is faster, for what need not be exact."""
    return torch.autocast(vae.device.type, torch.bfloat16, enabled=precision() == "bf16")


def through(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """What is left of the pictures after encoding and decoding; both [n, 3, size, size] from -1 to 1."""
    pixels = pixels.to(memory_format=torch.channels_last)
    return vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Scaled latents [n, 4, size / 8, size / 8], float32 on the CPU, of pixels [n, 3, size, size] from -1 to 1."""
    pixels = pixels.to(vae.device, memory_format=torch.channels_last)
    return vae.encode(pixels).latent_dist.mode().float().cpu() * vae.config.scaling_factor


def encode_images(vae: AutoencoderKL, images: Iterable[Image.Image]) -> np.ndarray:
    """Scaled latents [n, 4, 16, 16], float32, of images of 128x128 pixels."""
    images, parts = iter(images), []
    while batch := list(itertools.islice(images, BATCH)):
        parts.append(encode(vae, to_batch(batch)))
    return torch.cat(parts).numpy()


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write under a temporary name, which `Latents` does not read, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".part.npz"), **arrays)
    os.replace(path.with_suffix(".part.npz"), path)


def chosen(numbers: range, nouns: Sequence[str]) -> list[int]:
    """Those of the scene numbers that training takes: all of two objects, every second one of one object."""
    objects = [len(world.describe(np.random.RandomState(i), nouns).nouns) for i in numbers]
    return [number for number, count in zip(numbers, objects) if count == 2 or number % 2]


class CaptionedLatents(Dataset):
    """Latents by number, over and over in a new order each time; each time round with a new caption.

    `complete`: captions that leave nothing out. One in ten is empty.
    """

    def __init__(self, latents: np.ndarray, descriptions: list[world.Description], complete: bool = False):
        self.latents, self.descriptions, self.complete = latents, descriptions, complete
        self.orders: dict[int, np.ndarray] = {}

    def index(self, number: int) -> int:
        """Which of the scenes sample `number` is."""
        epoch, position = divmod(number, len(self.descriptions))
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(len(self.descriptions))}
        return self.orders[epoch][position]

    def __getitem__(self, number: int):
        index = self.index(number)
        wording = np.random.RandomState((1_000_003 * number + 17) % 2**32)
        empty = wording.random_sample() < EMPTY_CAPTIONS
        caption = "" if empty else self.caption(index, wording)
        return torch.from_numpy(self.latents[index].astype(np.float32)), caption

    def caption(self, index: int, wording: np.random.RandomState) -> str:
        return world.write_caption(self.descriptions[index], wording, complete=self.complete)


class Latents(CaptionedLatents):
    """The latents of all files of a folder.

    The files' scene numbers must have been drawn with the same `nouns`, in the same order.
    """

    def __init__(self, folder: Path, nouns: Sequence[str]):
        files = sorted(p for p in folder.glob("*.npz") if ".part" not in p.name)
        if not files:
            raise SystemExit(f"{folder} holds no latents: run `python data/recipes encode` first.")
        parts = [np.load(path) for path in files]
        self.arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].files}
        descriptions = [world.describe(np.random.RandomState(i), nouns) for i in self.arrays["numbers"]]
        super().__init__(self.arrays["latents"], descriptions)


class GroundedLatents(Latents):
    """What `Latents` gives, with the nouns and what they cover: masks [2, side, side] from 0 to 1."""

    def __getitem__(self, number: int):
        index = self.index(number)
        masks = torch.from_numpy(self.arrays["masks"][index].astype(np.float32) / 255)
        return *super().__getitem__(number), self.descriptions[index].nouns, masks
