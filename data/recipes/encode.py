"""Draw training scenes once and keep their latents, so that the UNet's training never runs the VAE.

    python data/recipes encode --count 120000 --latent-grid

Writes one .npz for every 20,000 scene numbers to data/recipes/runs/latents/: `numbers` [n], `latents`
float16 [n, 4, 16, 16] and `masks` uint8 [n, 2, 16, 16], how much of each latent's pixels every object covers, from
0 to 255 (zeros for a second object that is not there). Scene number i is the world's random
state i with the nouns of nouns.txt; every scene of two objects is kept and every second one of one object, as
two are harder to learn. Goes on where it stopped. Captions are not stored: they follow from the number.
`--latent-grid` moves the objects of the same scenes onto whole latents (see `sdhelpers.world.draw`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset

import places
import stages
from latents import BATCH, autocast, chosen, encode, frozen_vae, save_arrays
from sdhelpers import world
from sdhelpers.measures.judge import to_batch

PER_FILE = 20_000
SIDE = 16  # latents across a picture


class Scenes(Dataset):
    """Scenes of given numbers: pixels [3, 128, 128] from -1 to 1, and masks [2, 16, 16] as in the files."""

    def __init__(self, numbers: Sequence[int], nouns: Sequence[str], latent_grid: bool = False):
        self.numbers, self.nouns, self.latent_grid = numbers, nouns, latent_grid

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int):
        rng = np.random.RandomState(self.numbers[position])
        scene = world.sample(rng, nouns=self.nouns, latent_grid=self.latent_grid)
        masks = np.zeros((2, SIDE, SIDE), np.uint8)
        for i, mask in enumerate(scene.masks):
            masks[i] = np.rint(255 * mask.reshape(SIDE, len(mask) // SIDE, SIDE, -1).mean((1, 3)))
        return to_batch([scene.image])[0], masks


def encoded(vae: AutoencoderKL, scenes: Scenes, workers: int) -> dict[str, np.ndarray]:
    """Numbers, scaled latents and masks of these scenes."""
    parts = {"latents": [], "masks": []}
    for pixels, masks in DataLoader(scenes, batch_size=BATCH, num_workers=workers):
        with autocast(vae):
            parts["latents"].append(encode(vae, pixels).numpy().astype(np.float16))
        parts["masks"].append(masks.numpy())
    return {"numbers": np.array(scenes.numbers), **{name: np.concatenate(part) for name, part in parts.items()}}


def main(arguments: Sequence[str]) -> None:
    parser = stages.parser_of("encode", __doc__)
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--nouns", default="nouns.txt")
    parser.add_argument("--vae", type=Path, default=places.export_of("vae"))
    parser.add_argument("--out", default="latents", help="name of the folder in runs/")
    parser.add_argument("--latent-grid", action="store_true", help="objects on whole latents")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    vae, nouns = frozen_vae(options.vae), places.words(options.nouns)
    for first in range(0, options.count, PER_FILE):
        path = places.RUNS / options.out / f"{first:08d}.npz"
        if path.exists():
            continue
        scenes = Scenes(chosen(range(first, first + PER_FILE), nouns), nouns, options.latent_grid)
        arrays = encoded(vae, scenes, options.workers)
        save_arrays(path, arrays)
        deviation = arrays["latents"].astype(np.float32).std()
        print(f"{first + PER_FILE} looked at, {len(scenes)} kept, deviation {deviation:.3f}", flush=True)
