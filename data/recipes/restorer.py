"""The decoder as restorer: pictures from latents as a UNet makes them, which are never quite an encoder's.

A third of each batch are true latents, a third true latents with noise, a third the UNet's own guess of the clean
latents, from a noise level between t = 20 and 500. The encoder is frozen, so everything that was trained on its latents
stays right. Beside the pixels' own losses, the image tower of pocket CLIP compares what it sees in both pictures,
as a mean square alone makes every doubt a blur. (Not the judge: it must not be trained for.)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.data import Dataset
from transformers import CLIPVisionModel

from sdhelpers import world
from sdhelpers.measures.judge import to_batch
from train_unet import Conditioning
from train_vae import pixel_loss_of

EARLIEST, LATEST = 20, 500  # time steps of the UNet's guesses
LARGEST_NOISE = 0.3  # of the latents' own deviation
PERCEPTUAL = 0.1
LAYERS = (1, 2, 4)  # of the image tower, whose states are compared


class CaptionedScenes(Dataset):
    """Scene number i as pixels [3, 128, 128] from -1 to 1, with its caption."""

    def __init__(self, nouns: Sequence[str]):
        self.nouns = nouns

    def __getitem__(self, number: int):
        scene = world.sample(np.random.RandomState(number), nouns=self.nouns)
        return to_batch([scene.image])[0], scene.caption


def collate_captioned(samples):
    pixels, captions = zip(*samples)
    return torch.stack(pixels), list(captions)


class Restorer:
    """Latents that a decoder meets, and a loss that asks for the pictures they came from."""

    def __init__(self, vae: AutoencoderKL, unet: str, clip: Path, device: torch.device):
        self.vae = vae
        unet = UNet2DConditionModel.from_pretrained(unet, dtype=torch.float32)
        tower = CLIPVisionModel.from_pretrained(clip, dtype=torch.float32)
        self.unet, self.tower = (part.to(device).eval().requires_grad_(False) for part in (unet, tower))
        self.conditioning = Conditioning(clip, clip, device)

    def prepare(self, batch):
        """Latents as the decoder takes them, and the pictures."""
        pixels, captions = batch
        pixels = pixels.to(self.conditioning.device, memory_format=torch.channels_last)
        latents = self.vae.encode(pixels).latent_dist.mode().float() * self.vae.config.scaling_factor
        first, second = len(latents) // 3, 2 * len(latents) // 3
        strength = LARGEST_NOISE * torch.rand(second - first, 1, 1, 1, device=latents.device)
        noisy = latents[first:second] + strength * torch.randn_like(latents[first:second])
        guessed = self.guess(latents[second:], captions[second:])
        return torch.cat([latents[:first], noisy, guessed]) / self.vae.config.scaling_factor, pixels

    @torch.no_grad()
    def guess(self, latents: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """The UNet's guess of clean scaled latents, from a random noise level."""
        timesteps = torch.randint(EARLIEST, LATEST, (len(latents),), device=latents.device)
        noise = torch.randn_like(latents)
        noisy = self.conditioning.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, self.conditioning.embed(captions)).sample.float()
        alpha_bar = self.conditioning.scheduler.alphas_cumprod.to(latents.device)[timesteps][:, None, None, None]
        return (noisy - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()

    def loss_of(self, vae: AutoencoderKL, latents: torch.Tensor, target: torch.Tensor):
        decoded = vae.decode(latents).sample.float()
        loss, metrics = pixel_loss_of(decoded, target)
        perceptual = self.unlikeness(decoded, target)
        return loss + PERCEPTUAL * perceptual, {**metrics, "perceptual": perceptual}

    def unlikeness(self, decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """One less the cosine of what the image tower makes of each patch, summed over `LAYERS`."""
        states, wanted = (
            self.tower(pixel_values=images, output_hidden_states=True).hidden_states for images in (decoded, target)
        )
        return sum(1 - F.cosine_similarity(states[i].float(), wanted[i].float(), dim=-1).mean() for i in LAYERS)
