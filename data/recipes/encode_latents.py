"""Draw training scenes once and keep their latents, so that the UNet's training never runs the VAE.

    python data/recipes/encode_latents.py --count 120000

Writes one .npz for every 20,000 scene numbers to data/recipes/runs/latents/: `numbers` [n], `latents`
float16 [n, 4, 16, 16] and `boxes` float16 [n, 2, 4], where each object is as parts of the picture's side
(left, top, right, bottom; zeros for a second object that is not there). Scene number i is the world's random
state i with the nouns of nouns.txt; every scene of two objects is kept and every second one of one object, as
two are harder to learn. Goes on where it stopped. Captions are not stored: they follow from the number.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset

from loop import RECIPES, RUNS, precision
from sdhelpers import world
from sdhelpers.classifier import to_batch

PER_FILE = 20_000


def chosen(numbers: range, nouns: Sequence[str]) -> list[int]:
    """Those of the scene numbers that training takes: all of two objects, every second one of one object."""
    objects = [len(world.describe(np.random.RandomState(i), nouns).nouns) for i in numbers]
    return [number for number, count in zip(numbers, objects) if count == 2 or number % 2]


class Scenes(Dataset):
    """Scenes of given numbers: pixels [3, 128, 128] from -1 to 1, and boxes [2, 4] as in the files."""

    def __init__(self, numbers: Sequence[int], nouns: Sequence[str]):
        self.numbers, self.nouns = numbers, nouns

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int):
        scene = world.sample(np.random.RandomState(self.numbers[position]), nouns=self.nouns)
        boxes = torch.zeros(2, 4)
        boxes[: len(scene.boxes)] = torch.tensor(scene.boxes) / scene.image.width
        return to_batch([scene.image])[0], boxes


@torch.inference_mode()
def encode(vae: AutoencoderKL, scenes: Scenes, accelerator: Accelerator, workers: int) -> dict[str, np.ndarray]:
    """Scaled latents and boxes of these scenes."""
    parts = {"latents": [], "boxes": []}
    for pixels, boxes in DataLoader(scenes, batch_size=50, num_workers=workers):
        pixels = pixels.to(accelerator.device, memory_format=torch.channels_last)
        with accelerator.autocast():
            mean = vae.encode(pixels).latent_dist.mode()
        parts["latents"].append((mean.float() * vae.config.scaling_factor).cpu().numpy().astype(np.float16))
        parts["boxes"].append(boxes.numpy().astype(np.float16))
    return {"numbers": np.array(scenes.numbers), **{name: np.concatenate(part) for name, part in parts.items()}}


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
    nouns = (RECIPES / options.nouns).read_text(encoding="utf-8").split("\n")[:-1]
    folder = RUNS / options.out
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, options.count, PER_FILE):
        path = folder / f"{first:08d}.npz"
        if path.exists():
            continue
        scenes = Scenes(chosen(range(first, first + PER_FILE), nouns), nouns)
        arrays = encode(vae, scenes, accelerator, options.workers)
        np.savez(path.with_suffix(".part.npz"), **arrays)
        os.replace(path.with_suffix(".part.npz"), path)
        deviation = arrays["latents"].astype(np.float32).std()
        print(f"{first + PER_FILE} looked at, {len(scenes)} kept, deviation {deviation:.3f}", flush=True)


if __name__ == "__main__":
    main()
