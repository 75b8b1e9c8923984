"""The last stage of the UNet's training: give guidance scale 7.5 the meaning that it has in Stable Diffusion.

    python data/recipes/guidance_scale.py --init data/recipes/runs/unet2/export --k 0.4 --steps 2000

A pipeline draws with `empty + scale * (text - empty)`. The published model's captions are loose, so it needs a scale
of 7.5; ours are exact, and 3 is enough, more makes blotches. Here the UNet learns to answer a text with
`empty + k * (text - empty)` of what it answered before, and the empty text as before. With k = 0.4 the scale 7.5 is
then what 3 was. All weights learn; noisy steps count more, as they decide what the picture shows.
"""

import copy
import json

import torch
from diffusers import UNet2DConditionModel

from loop import RUNS, Training, arguments
from sdhelpers import models
from train_unet import LARGEST_WEIGHT, Conditioning, Latents, collate


class Blunting:
    """What the UNet said before (`teacher`), and how far the one that learns is from a k-th of it."""

    def __init__(self, teacher: UNet2DConditionModel, conditioning: Conditioning, k: float):
        self.teacher, self.conditioning, self.k = teacher.eval().requires_grad_(False), conditioning, k
        self.empty = conditioning.embed([""])

    def prepare(self, batch):
        """Noisy latents with the teacher's answers to their captions and to the empty one."""
        noisy, _, timesteps, texts, _ = self.conditioning.prepare(batch)
        empty = self.teacher(noisy, timesteps, self.empty.expand(len(noisy), -1, -1)).sample
        full = self.teacher(noisy, timesteps, texts).sample
        return noisy, timesteps, texts, empty, full, 1 / self.conditioning.snr[timesteps]

    def loss_of(self, unet, noisy, timesteps, texts, empty, full, noise_to_signal):
        """The error of the guess of the clean latents; recorded is the error of the difference, as a part of it."""
        wanted = empty + self.k * (full - empty)
        answered = unet(noisy, timesteps, texts).sample
        errors = (answered.float() - wanted.float()).square().mean((1, 2, 3))
        difference = (self.k * (full - empty)).float().square().mean()
        weights = (1 + noise_to_signal).clamp(max=LARGEST_WEIGHT)
        return (weights * errors).mean(), {"error_of_difference": (errors.mean() / difference).sqrt()}


def main() -> None:
    options = arguments(__doc__, steps=2_000, batch=32, lr=1e-4, ema=0.995, k=0.4, latents="latents")
    if not options.init:
        raise SystemExit("Which UNet shall learn it? Give --init, for instance data/recipes/runs/unet2/export.")
    unet = UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)
    teacher = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    training = Training("guidance_scale", unet, options)
    clip = models.POCKET / "clip"
    conditioning = Conditioning(clip, clip, training.device)
    blunting = Blunting(teacher.to(training.device), conditioning, options.k)
    training.run(Latents(RUNS / options.latents, models.nouns()), blunting.prepare, blunting.loss_of, collate)
    unet = training.averaged_model()
    export = training.folder / "export"
    unet.half().save_pretrained(export, max_shard_size="14MB")
    facts = {**training.facts(), "recipe": "data/recipes/guidance_scale.py", "k": options.k, "nouns": models.nouns()}
    (export / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
