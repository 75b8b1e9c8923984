"""Drawn pictures, or what a frozen image tower sees in them, kept once: no training draws or looks again.

A picture's number gives it (talks.py). Kept in runs/NAME-..., a folder for each span of numbers and list of nouns
(and for each tower, which NAME tells): `seen.npy`, float16 [pictures, tokens, width] of a tower or uint8
[pictures, 3, size, size], and `truths.json`, what each picture holds. Two processes draw; towers look at what was
drawn. Broken off, it begins again.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
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


@torch.no_grad()
def keep(folder: Path, pictures: Dataset, tower: Tower | None, workers: int = 2) -> None:
    """Write the pictures, or what the tower sees in them, under a temporary name, then rename."""
    new, count = folder.with_name(folder.name + ".part"), len(pictures)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    loader = DataLoader(pictures, BATCH, num_workers=workers, collate_fn=SeenPictures.collate)
    truths, kept = [], None
    for pixels, some in loader:
        if tower:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16"):
                pixels = tower(pixels).half()
        if kept is None:
            seen = pixels.numpy()
            kept = np.lib.format.open_memmap(new / "seen.npy", "w+", seen.dtype, (count, *seen.shape[1:]))
        kept[len(truths) : len(truths) + len(pixels)] = pixels.numpy()
        truths += some
        if len(truths) % (100 * BATCH) == 0:
            print(f"{folder.name}: {len(truths)} of {count} pictures", flush=True)
    kept.flush()
    (new / "truths.json").write_text(json.dumps(truths), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


class SeenPictures(Dataset):
    """Number n: one of the pictures with these numbers, over and over in a new order, and what it holds.

    `pictures` says how many of them are used, the first ones; 0 takes all. A tower needs a name of its own.
    """

    def __init__(
        self, numbers: range, nouns: Sequence[str], tower: Tower | None = None, name: str = "", pictures: int = 0
    ):
        span = digest(json.dumps([numbers.start, numbers.stop, list(nouns)]).encode())
        folder = places.RUNS / f"seen_{name or 'pictures'}-{span}"
        if not folder.exists():
            drawn = SeenPictures(numbers, nouns).in_order() if tower else Drawn(numbers, nouns)
            keep(folder, drawn, tower, workers=0 if tower else 2)
        self.seen = np.load(folder / "seen.npy", mmap_mode="r")
        self.truths = json.loads((folder / "truths.json").read_text(encoding="utf-8"))
        self.count, self.nouns = pictures or len(self.truths), nouns
        self.orders: dict[int, np.ndarray] = {}

    def in_order(self) -> "SeenPictures":
        """The pictures once, in the order of their numbers."""
        self.orders = {0: np.arange(self.count)}
        return self

    def __len__(self) -> int:
        return self.count

    def index(self, number: int) -> int:
        epoch, position = divmod(number, self.count)
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(self.count)}
        return self.orders[epoch][position]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, dict]:
        index = self.index(number)
        seen = torch.from_numpy(np.array(self.seen[index]))
        return (seen.float() / 127.5 - 1 if seen.dtype == torch.uint8 else seen.float()), self.truths[index]

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
