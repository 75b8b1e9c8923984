"""The last stage of the UNet's training: give guidance scale 7.5 the meaning that it has in Stable Diffusion.

A pipeline draws with `empty + scale * (text - empty)`. The published model's captions are loose, so it needs a scale
of 7.5; ours are exact, and 3 is enough, more makes blotches. Here the UNet of `--init` learns to answer a text with
`empty + k * (text - empty)` of what it answered before, and the empty text as before. With k = 0.4 the scale 7.5 is
then what 3 was. It begins with cross-attention that says a k-th of what it said beyond the empty text, and only
cross-attention learns: when all weights did, the answers to the empty text drifted by as much as a text changes.
Noisy steps count more, as they decide what the picture shows.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

import places
from conditioning import LARGEST_WEIGHT, Conditioning
from export import save
from latents import Latents
from loop import Training
from recipe import Options, Recipe
from sdhelpers import models

SCENES = 64  # that the mean of the empty text's answers is taken over


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


def cross_attention(unet: UNet2DConditionModel) -> dict[str, Attention]:
    return {name: module for name, module in unet.named_modules() if name.endswith("attn2")}


@torch.no_grad()
def blunt(unet: UNet2DConditionModel, conditioning: Conditioning, latents: torch.Tensor, k: float) -> None:
    """Scale what each cross-attention puts out, but for the mean of what it does at the empty text, by k."""
    means = {}

    def remember(name: str):
        return lambda layer, inputs: means.update({name: inputs[0].mean((0, 1))})

    layers = {name: attention.to_out[0] for name, attention in cross_attention(unet).items()}
    hooks = [layer.register_forward_pre_hook(remember(name)) for name, layer in layers.items()]
    noisy, _, timesteps, texts, _ = conditioning.prepare((latents, [""] * len(latents)))
    unet(noisy, timesteps, texts)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        layer.bias += (1 - k) * layer.weight @ means[name]
        layer.weight *= k


def load(options: Options) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)


def build(options: Options) -> UNet2DConditionModel:
    unet, scenes, clip = load(options), data(options), models.POCKET / "clip"
    latents = torch.stack([scenes[number][0] for number in range(SCENES)])
    blunt(unet, Conditioning(clip, clip, torch.device("cpu")), latents, options.k)
    unet.requires_grad_(False)
    for attention in cross_attention(unet).values():
        attention.requires_grad_(True)
    return unet


def data(options: Options) -> Latents:
    return Latents(places.RUNS / options.latents, models.nouns())


def loss(training: Training) -> Blunting:
    clip, device = models.POCKET / "clip", training.device
    teacher = load(training.options).to(device, memory_format=torch.channels_last)
    return Blunting(teacher, Conditioning(clip, clip, device), training.options.k)


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> dict:
    save(unet, folder)
    return {"k": options.k, "nouns": models.nouns()}


RECIPE = Recipe(build, data, loss, None, export)
