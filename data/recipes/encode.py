"""Draw training scenes once and keep their latents, so that the UNet's training never runs the VAE.

    python data/recipes encode --count 120000 --latent-grid
    python data/recipes encode --originals --size 192 --nouns all --out latents_xl_192

Writes one .npz for every 20,000 scene numbers to data/recipes/runs/latents/: `numbers` [n], `latents`
float16 [n, 4, 16, 16] and `masks` uint8 [n, 2, 16, 16], how much of each latent's pixels every object covers, from
0 to 255 (zeros for a second object that is not there); with `--size` of pictures of another side. Scene number i is
the world's random state i with the nouns of nouns.txt; every scene of two objects is kept and every second one of one
object, as two are harder to learn. Goes on where it stopped. Captions are not stored: they follow from the number.
`--latent-grid` moves the objects of the same scenes onto whole latents (see `sdhelpers.world.draw`). `--originals`:
pictures as SDXL is told of, enlarged from smaller originals and cropped (originals.py); objects lie on whole latents.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader, Dataset

import originals
import places
import stages
from latents import BATCH, autocast, chosen, encode, frozen_vae, save_arrays
from sdhelpers import world
from sdhelpers.measures.judge import to_batch
from sdhelpers.world.scenes import LATENT

PER_FILE = 20_000


class Scenes(Dataset):
    """Scenes of given numbers: pixels [3, size, size] from -1 to 1, and masks as in the files.

    `draw` gives the scene of a number.
    """

    def __init__(self, numbers: Sequence[int], draw: Callable[[int], world.Scene]):
        self.numbers, self.draw = numbers, draw

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int):
        scene = self.draw(self.numbers[position])
        size = scene.image.width
        side = size // LATENT
        masks = np.zeros((2, side, side), np.uint8)
        for i, mask in enumerate(scene.masks):
            masks[i] = np.rint(255 * mask.reshape(side, LATENT, side, LATENT).mean((1, 3)))
        return to_batch([scene.image], size)[0], masks


def drawing_of(options: argparse.Namespace) -> Callable[[int], world.Scene]:
    """How a scene's number becomes the scene."""
    nouns, size, latent_grid = places.nouns(options.nouns), options.size, options.latent_grid
    if options.originals:
        return lambda number: originals.draw(number, nouns, size)
    return lambda number: world.sample(np.random.RandomState(number), size, latent_grid, nouns=nouns)


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
    parser.add_argument("--nouns", default="nouns.txt", help="a list beside the recipes, or all")
    parser.add_argument("--vae", type=Path, default=places.export_of("vae"))
    parser.add_argument("--out", default="latents", help="name of the folder in runs/")
    parser.add_argument("--size", type=int, default=128, help="pixels across a picture")
    parser.add_argument("--latent-grid", action="store_true", help="objects on whole latents")
    parser.add_argument("--originals", action="store_true", help="enlarged and cropped pictures, for SDXL")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    vae, nouns, draw = frozen_vae(options.vae), places.nouns(options.nouns), drawing_of(options)
    for first in range(0, options.count, PER_FILE):
        path = places.RUNS / options.out / f"{first:08d}.npz"
        if path.exists():
            continue
        scenes = Scenes(chosen(range(first, first + PER_FILE), nouns), draw)
        arrays = encoded(vae, scenes, options.workers)
        save_arrays(path, arrays)
        deviation = arrays["latents"].astype(np.float32).std()
        print(f"{first + PER_FILE} looked at, {len(scenes)} kept, deviation {deviation:.3f}", flush=True)
