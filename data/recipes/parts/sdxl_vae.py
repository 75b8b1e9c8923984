"""The pocket SDXL's own VAE: pictures of 192x192 pixels to 24x24x4 latents that bear what a UNet gets wrong.

It begins with sd15's weights. That VAE's latents are brittle: noise of a fifth of their deviation costs 5.5 dB and
looks like the blotches of generated pictures, and a decoder alone cannot mend it, as the detail hides in small
differences. So here encoder and decoder learn together, with noise of up to `LARGEST_NOISE` on half of the latents,
measured by each channel's own deviation so that none can grow out of it. A quarter of the pictures are mirrored as
latents, as in sd15's recipe, and a quarter of the batches reduced to a half (Kouzelis et al., EQ-VAE, 2025,
arXiv:2502.09509): what is done to the latents is then done to the picture, so that a UNet meets one thing in two sizes
as one pattern in two sizes.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch.utils.data import Dataset

from export import save
from parts.vae import Autoencoding, even_out_channels, flipped, pixel_loss_of, reconstruction_psnr
from recipe import Options, Recipe
from scenes_data import Images

LARGEST_NOISE = 0.4  # of a channel's own deviation
NOISY, HALVED = 0.5, 0.25  # parts of the latents that get noise, and of the batches that are reduced
SCORED = 96  # pictures


class RobustAutoencoding(Autoencoding):
    """Pixels to latents and back, with noise between, sometimes mirrored and sometimes in half the size."""

    def coin(self, chance: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < chance

    def prepare(self, pixels: torch.Tensor):
        """Pixels, which of them are mirrored, how much noise each gets [batch], and the weight of the KL term."""
        pixels, mirror, kl = super().prepare(pixels)
        strength = LARGEST_NOISE * torch.rand(len(pixels), generator=self.generator)
        noisy = torch.rand(len(pixels), generator=self.generator) < NOISY
        return pixels, mirror, (strength * noisy).to(self.device), kl

    def loss_of(self, vae: AutoencoderKL, pixels, mirror, strength, kl_weight):
        posterior = vae.encode(pixels).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        latents = with_noise(mean + std * torch.randn_like(mean), mean, strength)
        latents, target = flipped(mirror, latents, pixels)
        if self.coin(HALVED):
            latents, target = F.avg_pool2d(latents, 2), F.avg_pool2d(target, 2)
        loss, metrics = pixel_loss_of(vae.decode(latents).sample.float(), target)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return loss + kl_weight * kl, {**metrics, "kl": kl}


def with_noise(latents: torch.Tensor, mean: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Latents [n, 4, height, width] with noise of `strength` [n] deviations of each channel of `mean`."""
    deviation = mean.detach().std((0, 2, 3), keepdim=True)
    return latents + strength[:, None, None, None] * deviation * torch.randn_like(latents)


def build(options: Options) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(options.init, dtype=torch.float32)
    vae.register_to_config(sample_size=options.size)
    return vae


def data(options: Options) -> Dataset:
    return Images(options.crop, options.size)


def score(vae: AutoencoderKL, options: Options) -> dict[str, float]:
    """PSNR of whole pictures, of the same from noisy latents, and of pictures of sd15's size."""
    return {
        f"psnr_db of {options.size} pixels": round(reconstruction_psnr(vae, SCORED, options.size), 2),
        "psnr_db, latents with noise of 0.2": round(reconstruction_psnr(vae, SCORED, options.size, 0.2), 2),
        "psnr_db of 128 pixels": round(reconstruction_psnr(vae, SCORED), 2),
    }


def export(vae: AutoencoderKL, folder: Path, options: Options) -> None:
    even_out_channels(vae, size=options.size)
    save(vae, folder)


RECIPE = Recipe(build, data, RobustAutoencoding, score, export)
