"""What SDXL is told of a training picture beside its caption: how large the original was, and where it was cropped.

Podell et al., SDXL (2023, arXiv:2307.01952): instead of throwing small pictures away and hiding crops, tell the UNet of
them. In the world that is true of every picture: some are drawn, reduced to a small original and enlarged again, so
that they are soft; some show the scene from another corner than its own, so that its object lies further up and left,
or is cut off. Both follow from the scene's number, like everything else in the world.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from latents import GroundedLatents
from sdhelpers import world
from sdhelpers.world.scenes import LATENT

SMALLER, LARGER = 0.3, 0.15  # parts of the originals that are smaller and larger than the picture; the rest is as large
SMALLEST = 1 / 4  # of the picture's side
CROPPED = 0.35  # part of the pictures that begin below the scene's top; as many begin to the right of its left edge
FURTHEST = 3 / 8  # of the picture's side


@dataclasses.dataclass(frozen=True)
class Original:
    """A picture before it was brought to the size of training: its side in pixels, and where it was cropped."""

    size: int
    top: int
    left: int

    def time_ids(self, size: int) -> list[int]:
        """The six numbers that SDXL's UNet reads: original height and width, top and left, target height and width."""
        return [self.size, self.size, self.top, self.left, size, size]


def original(number: int, quality: str, size: int) -> Original:
    """What the original of scene `number` was, for a picture of `size`. A picture that says it is cropped stays."""
    rng = np.random.RandomState((3_000_017 * number + 41) % 2**32)
    chance, place = rng.random_sample(), rng.random_sample()
    side = size
    if chance < SMALLER:
        side = round(size * (SMALLEST + (1 - SMALLEST) * place))
    elif chance < SMALLER + LARGER:
        side = round(size * (1 + place))
    top, left = (_corner(rng, size) for _ in range(2))
    return Original(side, 0, 0) if quality == "cropped" else Original(side, top, left)


def _corner(rng: np.random.RandomState, size: int) -> int:
    """Where the picture begins, in pixels: mostly 0, else a whole number of latents."""
    cropped, place = rng.random_sample() < CROPPED, rng.random_sample()
    furthest = int(FURTHEST * size) // LATENT
    return LATENT * (1 + int(place * furthest)) if cropped else 0


def soften(image: Image.Image, side: int) -> Image.Image:
    """What is left of a picture whose original has only `side` pixels across; all of it where that is larger."""
    if side >= image.width:
        return image
    small = image.resize((side, side), Image.Resampling.LANCZOS)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def draw(number: int, nouns: Sequence[str], size: int) -> world.Scene:
    """Scene `number` as its original lets one see it, objects on whole latents."""
    rng = np.random.RandomState(number)
    description = world.describe(rng, nouns)
    known = original(number, description.quality, size)
    scene = world.draw(description, rng, size, latent_grid=True, window=(known.top, known.left))
    return dataclasses.replace(scene, image=soften(scene.image, known.size))


class OriginalLatents(GroundedLatents):
    """Latents of `encode --originals`: what `GroundedLatents` gives, with `time_ids` [6] after the caption."""

    @property
    def size(self) -> int:
        return LATENT * self.latents.shape[-1]

    def __getitem__(self, number: int):
        latents, caption, nouns, masks = super().__getitem__(number)
        return latents, caption, self.time_ids(self.index(number)), nouns, masks

    def original(self, index: int) -> Original:
        return original(int(self.arrays["numbers"][index]), self.descriptions[index].quality, self.size)

    def time_ids(self, index: int) -> torch.Tensor:
        return torch.tensor(self.original(index).time_ids(self.size), dtype=torch.float32)
