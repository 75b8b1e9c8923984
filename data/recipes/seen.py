"""Drawn pictures, or what a frozen image tower sees in them, kept once: no training draws or looks again.

A picture's number gives it (talks.py). Kept in runs/NAME-..., a folder for each span of numbers and list of nouns
(and for each tower, which NAME tells): `seen.npy`, float16 [pictures, tokens, width] of a tower or uint8
[pictures, 3, size, size], and `truths.json`, what each picture holds. Two processes draw; towers look at what was
drawn. Broken off, it begins again. A hundred thousand pictures take 4.9 GB, a tower's vectors of them
2.5 GB; the folders may be deleted when a training is over.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers.modeling_outputs import BaseModelOutputWithPooling

import places
import talks
from loop import precision
from sdhelpers.images import to_tensor

BATCH = 64
Tower = Callable[[torch.Tensor], torch.Tensor]  # pixels [n, 3, size, size] from -1 to 1 to what is kept of them


def digest(content: bytes) -> str:
    """A few signs that stand for a content: another tower, or other nouns, must not meet what was kept before."""
    return hashlib.sha256(content).hexdigest()[:8]


class Drawn(Dataset):
    """The pictures with these numbers, as bytes [3, size, size] and as what they hold."""

    def __init__(self, numbers: range, nouns: Sequence[str]):
        self.numbers, self.nouns = numbers, nouns

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        picture = talks.picture(self.numbers[index], self.nouns)
        pixels = (to_tensor(picture.image) + 1) * 127.5
        return pixels.round().clamp(0, 255).to(torch.uint8), talks.truth_of(picture)


class Kept(torch.nn.Module):
    """Stands where a frozen tower stood: what it gave is handed on, whichever layer is asked for."""

    def __init__(self, layers: int = 16):
        super().__init__()
        self.layers = layers

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pixel_values, pixel_values[:, 0], (pixel_values,) * self.layers)


Batches = Iterable[tuple[torch.Tensor, list[dict]]]  # what is kept of some pictures [n, ...], and what they hold


def keep(folder: Path, count: int, batches: Batches) -> None:
    """Write what is to be kept of `count` pictures under a temporary name, then rename."""
    new = folder.with_name(folder.name + ".part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    truths, kept = [], None
    for seen, some in batches:
        if kept is None:
            kept = np.lib.format.open_memmap(new / "seen.npy", "w+", seen.numpy().dtype, (count, *seen.shape[1:]))
        kept[len(truths) : len(truths) + len(seen)] = seen.numpy()
        truths += some
        if len(truths) % (100 * BATCH) == 0:
            print(f"{folder.name}: {len(truths)} of {count} pictures", flush=True)
    kept.flush()
    (new / "truths.json").write_text(json.dumps(truths), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


def pixels_of(kept: np.ndarray) -> torch.Tensor:
    """Bytes [..., 3, size, size] as pixels from -1 to 1."""
    return torch.from_numpy(np.array(kept)).float() / 127.5 - 1


class SeenPictures(Dataset):
    """Number n: one of the pictures with these numbers, over and over in a new order, and what it holds.

    `pictures` says how many of them are used, the first ones; 0 takes all. A tower needs a name of its own.
    """

    def __init__(
        self,
        numbers: range,
        nouns: Sequence[str],
        tower: Tower | None = None,
        name: str = "pictures",
        pictures: int = 0,
    ):
        span = digest(json.dumps([numbers.start, numbers.stop, list(nouns)]).encode())
        folder = places.RUNS / f"seen_{name}-{span}"
        if not folder.exists():
            if tower:
                batches = SeenPictures(numbers, nouns).through(tower)
            else:
                batches = DataLoader(Drawn(numbers, nouns), BATCH, num_workers=2, collate_fn=self.collate)
            keep(folder, len(numbers), batches)
        self.seen = np.load(folder / "seen.npy", mmap_mode="r")
        self.truths = json.loads((folder / "truths.json").read_text(encoding="utf-8"))
        self.count, self.nouns = pictures or len(self.truths), nouns
        self.orders: dict[int, np.ndarray] = {}

    @torch.no_grad()
    def through(self, tower: Tower) -> Batches:
        """What a tower sees in the pictures, in the order of their numbers, as float16."""
        for first in range(0, len(self.truths), BATCH):
            some = slice(first, first + BATCH)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16"):
                seen = tower(pixels_of(self.seen[some]))
            yield seen.half(), self.truths[some]

    def index(self, number: int) -> int:
        epoch, position = divmod(number, self.count)
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(self.count)}
        return self.orders[epoch][position]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, dict]:
        index = self.index(number)
        seen = self.seen[index]
        pixels = pixels_of(seen) if seen.dtype == np.uint8 else torch.from_numpy(np.array(seen)).float()
        return pixels, self.truths[index]

    @staticmethod
    def collate(rows: list) -> tuple[torch.Tensor, list[dict]]:
        seen, truths = zip(*rows)
        return torch.stack(seen), list(truths)


class SeenTalks(SeenPictures):
    """Conversation number n about one of these pictures, each time asked anew, at most `turns` questions."""

    def __init__(self, numbers: range, nouns: Sequence[str], tower: Tower, name: str, turns: int, pictures: int = 0):
        super().__init__(numbers, nouns, tower, name, pictures)
        self.turns = turns

    def __getitem__(self, number: int) -> talks.Talk:
        seen, truth = super().__getitem__(number)
        rng = np.random.RandomState((1_000_003 * number + 29) % 2**32)
        picture = talks.picture_from(truth)
        turns = tuple(itertools.islice(talks.questions_of(picture, rng, self.nouns), self.turns))
        return talks.Talk(seen, turns, truth)

    collate = staticmethod(list)
