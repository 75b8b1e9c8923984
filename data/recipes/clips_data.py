"""Clips as latents: each is drawn and encoded when it is first asked for, and played forwards or from its end."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

import places
from latents import EMPTY_CAPTIONS, autocast, encode_images, frozen_vae
from sdhelpers import models
from sdhelpers.world import clips
from sdhelpers.world.captions import pick, write_caption

UNTOLD = 0.1  # part of the captions that do not say what moves


class ClipLatents(Dataset):
    """Scaled latents [frames, 4, 16, 16], caption, and the kind of motion that it tells, of one of `count` clips.

    `lesson` says which kinds of motion the n-th sample may show, each as often as another. Latents are kept in
    runs/clips.
    """

    def __init__(self, count: int, frames: int, lesson: Callable[[int], Sequence[str]], untold: float = UNTOLD):
        self.count, self.frames, self.lesson, self.untold = count, frames, lesson, untold
        self.nouns, self.vae = models.nouns(), frozen_vae(models.locate("sd15") / "vae")
        self.showing: dict[str, list[tuple[int, bool]]] = {}  # clips that show a kind of motion, and if from the end
        for clip in range(count):
            _, motion, camera, _ = self.plan(clip)
            kind = camera or motion
            self.showing.setdefault(kind, []).append((clip, False))
            self.showing.setdefault(clips.BACKWARDS.get(kind, kind), []).append((clip, True))

    def plan(self, clip: int):
        """Description, motion and camera, and the random numbers to draw it with."""
        rng = np.random.RandomState(70_000_000 + clip)
        return *clips.plan(rng, self.nouns), rng

    def latents(self, clip: int) -> np.ndarray:
        path = places.RUNS / "clips" / f"any-{self.frames}" / f"{clip:06d}.npy"
        if not path.exists():
            with autocast(self.vae):
                found = encode_images(self.vae, clips.draw(*self.plan(clip), frames=self.frames).frames)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path.with_suffix(".part.npy"), found.astype(np.float16))
            os.replace(path.with_suffix(".part.npy"), path)
        return np.load(path).astype(np.float32)

    def __getitem__(self, number: int):
        rng = np.random.RandomState((3_000_017 * number + 5) % 2**32)
        kind = pick(rng, [kind for kind in self.lesson(number) if kind in self.showing])
        clip, backwards = pick(rng, self.showing[kind])
        description, motion, camera, _ = self.plan(clip)
        latents = self.latents(clip)[:: -1 if backwards else 1].copy()
        motion, camera = (motion, kind) if camera else (kind, None)
        return torch.from_numpy(latents), *self.caption(description, motion, camera, rng)

    def caption(self, description, motion: str, camera: str | None, rng: np.random.RandomState) -> tuple[str, str]:
        """A caption, and which kind of motion it tells of, or nothing."""
        if rng.random_sample() < EMPTY_CAPTIONS:
            return "", ""
        caption = write_caption(description, rng)
        if rng.random_sample() < self.untold:
            return caption, ""
        return f"{caption}, {clips.words_for(description.nouns[0], motion, camera, rng)}", camera or motion
