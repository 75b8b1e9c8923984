"""Clips as latents: each is drawn and encoded when it is first asked for, and played from its end every second time."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

import places
from latents import EMPTY_CAPTIONS, autocast, encode_images, frozen_vae
from sdhelpers import models
from sdhelpers.world import clips
from sdhelpers.world.captions import write_caption

UNTOLD = 0.25  # part of the captions that do not say what moves


class ClipLatents(Dataset):
    """Scaled latents [frames, 4, 16, 16], caption, and the kind of motion that it tells, of clip number % `count`.

    `cameras`: only clips of these, and of what moves nothing is said. Latents are kept in runs/clips.
    """

    def __init__(self, count: int, frames: int, cameras: Sequence[str] = ()):
        self.count, self.frames, self.cameras, self.nouns = count, frames, tuple(cameras), models.nouns()
        self.vae = frozen_vae(models.locate("sd15") / "vae")

    def plan(self, clip: int):
        """Description, motion and camera, and the random numbers to draw it with."""
        rng = np.random.RandomState(70_000_000 + clip)
        description, motion, camera = clips.plan(rng, self.nouns)
        if self.cameras:
            motion, camera = "still", self.cameras[clip % len(self.cameras)]
        return description, motion, camera, rng

    def latents(self, clip: int) -> np.ndarray:
        kind = "-".join(self.cameras).replace(" ", "_") or "any"
        path = places.RUNS / "clips" / f"{kind}-{self.frames}" / f"{clip:06d}.npy"
        if not path.exists():
            with autocast(self.vae):
                found = encode_images(self.vae, clips.draw(*self.plan(clip), frames=self.frames).frames)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path.with_suffix(".part.npy"), found.astype(np.float16))
            os.replace(path.with_suffix(".part.npy"), path)
        return np.load(path).astype(np.float32)

    def __getitem__(self, number: int):
        description, motion, camera, _ = self.plan(number % self.count)
        latents, rng = self.latents(number % self.count), np.random.RandomState((3_000_017 * number + 5) % 2**32)
        if not self.cameras and rng.random_sample() < 0.5:
            latents, motion = latents[::-1].copy(), clips.BACKWARDS.get(motion, motion)
            camera = clips.BACKWARDS.get(camera, camera)
        return torch.from_numpy(latents), *self.caption(description, motion, camera, rng)

    def caption(self, description, motion: str, camera: str | None, rng: np.random.RandomState) -> tuple[str, str]:
        """A caption, and which kind of motion it tells of, or nothing."""
        if rng.random_sample() < EMPTY_CAPTIONS:
            return "", ""
        caption = write_caption(description, rng)
        if self.cameras or rng.random_sample() < UNTOLD:
            return caption, ""
        return f"{caption}, {clips.words_for(description.nouns[0], motion, camera, rng)}", camera or motion
