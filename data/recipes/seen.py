"""What a frozen image tower sees in drawn pictures, kept once, so that no training of a captioner draws or looks again.

A picture's number gives it (talks.py). Kept in runs/NAME: `seen.npy` float16 [pictures, tokens, width], and
`truths.json`, what each picture holds. Two processes draw while the tower looks; broken off, it begins again.
"""

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
Tower = Callable[[torch.Tensor], torch.Tensor]  # pixels [n, 3, size, size] to what is kept [n, tokens, width]


class Pictures(Dataset):
    """Picture number i, as pixels and as what it holds."""

    def __init__(self, count: int, nouns: Sequence[str]):
        self.count, self.nouns = count, nouns

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, dict]:
        picture = talks.picture(number, self.nouns)
        return to_tensor(picture.image), talks.truth_of(picture)


class Kept(torch.nn.Module):
    """Stands where a frozen tower stood: what it gave is handed on, whichever layer is asked for."""

    def __init__(self, layers: int = 16):
        super().__init__()
        self.layers = layers

    def forward(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pixel_values, pixel_values[:, 0], (pixel_values,) * self.layers)


@torch.no_grad()
def look(folder: Path, count: int, nouns: Sequence[str], tower: Tower, workers: int = 2) -> None:
    """Draw and look, under a temporary name, then rename."""
    new = folder.with_name(folder.name + ".part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    loader = DataLoader(Pictures(count, nouns), BATCH, num_workers=workers, collate_fn=lambda rows: tuple(zip(*rows)))
    truths, kept = [], None
    for pixels, some in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16"):
            seen = tower(torch.stack(pixels)).float().numpy()
        if kept is None:
            kept = np.lib.format.open_memmap(new / "seen.npy", "w+", np.float16, (count, *seen.shape[1:]))
        kept[len(truths) : len(truths) + len(seen)] = seen
        truths += some
        if len(truths) % (100 * BATCH) == 0:
            print(f"{folder.name}: {len(truths)} of {count} pictures looked at", flush=True)
    kept.flush()
    (new / "truths.json").write_text(json.dumps(truths), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


class SeenTalks(Dataset):
    """Conversation number n: of one of `count` pictures, over and over in a new order, each time asked anew.

    `pictures` says how many of them are used, the first ones; 0 takes all.
    """

    def __init__(self, name: str, count: int, nouns: Sequence[str], tower: Tower, turns: int, pictures: int = 0):
        folder = places.RUNS / name
        if not folder.exists():
            look(folder, count, nouns, tower)
        self.seen = np.load(folder / "seen.npy", mmap_mode="r")
        self.truths = json.loads((folder / "truths.json").read_text(encoding="utf-8"))
        self.count, self.nouns, self.turns = pictures or len(self.truths), nouns, turns
        self.orders: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> talks.Talk:
        epoch, position = divmod(number, self.count)
        if epoch not in self.orders:
            self.orders = {epoch: np.random.RandomState(epoch).permutation(self.count)}
        index = self.orders[epoch][position]
        rng = np.random.RandomState((1_000_003 * number + 29) % 2**32)
        picture = talks.picture_from(self.truths[index])
        turns = tuple(itertools.islice(talks.questions_of(picture, rng, self.nouns), self.turns))
        return talks.Talk(torch.from_numpy(self.seen[index].astype(np.float32)), turns, self.truths[index])

    collate = staticmethod(list)
