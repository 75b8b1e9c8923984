"""Draw training scenes once and keep their latents, so that the UNet's training never runs the VAE.

    python data/recipes/encode_latents.py --count 120000

Writes one .npz for every 20,000 scene numbers to data/recipes/runs/latents/: `numbers` [n] and `latents`
float16 [n, 4, 16, 16]. Scene number i is the world's random state i; only scenes whose nouns are all in
nouns.txt are kept. Goes on where it stopped. Captions are not stored: they follow from the number.
"""

import argparse
import os

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Subset

from loop import RECIPES, RUNS, precision
from scenes_data import Images
from sdhelpers import world

PER_FILE = 20_000


def drawable(numbers: range, nouns: set[str]) -> list[int]:
    """Those of the scene numbers whose nouns are all known."""
    return [i for i in numbers if set(world.describe(np.random.RandomState(i)).nouns) <= nouns]


def encode(vae: AutoencoderKL, numbers: list[int], accelerator: Accelerator, workers: int) -> np.ndarray:
    """The scaled latents of these scenes, [n, 4, 16, 16]."""
    scenes = DataLoader(Subset(Images(), numbers), batch_size=50, num_workers=workers)
    parts = []
    for pixels in scenes:
        pixels = pixels.to(accelerator.device, memory_format=torch.channels_last)
        with torch.inference_mode(), accelerator.autocast():
            mean = vae.encode(pixels).latent_dist.mode()
        parts.append((mean.float() * vae.config.scaling_factor).cpu().numpy().astype(np.float16))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--nouns", default="nouns.txt")
    parser.add_argument("--vae", default=RUNS / "vae" / "export")
    parser.add_argument("--out", default="latents", help="name of the folder in runs/")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    accelerator = Accelerator(mixed_precision=precision())
    vae = AutoencoderKL.from_pretrained(options.vae, dtype=torch.float32)
    vae = vae.to(accelerator.device, memory_format=torch.channels_last).eval()
    nouns = set((RECIPES / options.nouns).read_text().split("\n")[:-1])
    folder = RUNS / options.out
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, options.count, PER_FILE):
        path = folder / f"{first:08d}.npz"
        if path.exists():
            continue
        numbers = drawable(range(first, first + PER_FILE), nouns)
        latents = encode(vae, numbers, accelerator, options.workers)
        np.savez(path.with_suffix(".part.npz"), numbers=numbers, latents=latents)
        os.replace(path.with_suffix(".part.npz"), path)
        print(
            f"{first + PER_FILE} looked at, {len(numbers)} kept, deviation {latents.astype(np.float32).std():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
