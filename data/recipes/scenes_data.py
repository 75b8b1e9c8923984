"""The world as datasets: sample number i is drawn from random state i, so every run sees the same."""

import numpy as np
import torch
from torch.utils.data import Dataset

from sdhelpers import world

FRESH = 2_000_000_000  # evaluation draws from here on, far beyond what training ever reaches


class Images(Dataset):
    """Scenes as float tensors [3, size, size] from -1 to 1, whole or as a random crop around an object."""

    def __init__(self, crop: int = 0, size: int = 128):
        self.crop, self.size = crop, size

    def __getitem__(self, number: int) -> torch.Tensor:
        rng = np.random.RandomState(number)
        scene = world.sample(rng, self.size)
        pixels = np.asarray(scene.image, np.float32) / 127.5 - 1
        if self.crop:
            left, top, right, bottom = scene.boxes[0]
            room = scene.image.width - self.crop
            x = int(np.clip((left + right) / 2 - self.crop / 2 + (rng.random_sample() - 0.5) * 64, 0, room))
            y = int(np.clip((top + bottom) / 2 - self.crop / 2 + (rng.random_sample() - 0.5) * 64, 0, room))
            pixels = pixels[y : y + self.crop, x : x + self.crop]
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def fresh_scenes(count: int, first: int = FRESH, **vocabulary) -> list[world.Scene]:
    """Scenes that no training has seen."""
    return [world.sample(np.random.RandomState(first + i), **vocabulary) for i in range(count)]
