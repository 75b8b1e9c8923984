"""The pocket VAE: 128x128 pixels to 16x16x4 latents and back.

The loss is L1 on pixels and on their differences (for crisp edges), a mean square (for PSNR), and a
small KL term that keeps the latents near a unit normal. A quarter of the batches mirror the latents
and ask for the mirrored picture, which makes the latent space simpler for the UNet to learn.

`--decoder-only` trains on with the encoder frozen: the latents stay what they are, so a UNet trained on
them stays right, and only the pictures get crisper. With `--restorer UNET` besides, the decoder learns from latents
as they are when a picture has been generated.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.data import Dataset
from transformers import CLIPVisionModel

from conditioning import Conditioning
from export import save
from loop import Training
from recipe import Loss, Options, Recipe
from scenes_data import Images, fresh_scenes
from sdhelpers import models, world
from sdhelpers.images import to_tensor
from sdhelpers.measures.judge import to_batch
from sdhelpers.measures.pixels import psnr

LATENT_NOISE = 0.03  # of the latents' own deviation, for training the decoder alone
EARLIEST, LATEST = 20, 500  # time steps of the UNet's guesses
GUIDANCE = 3.0  # of those guesses: what the UNet draws best with
LARGEST_NOISE = 0.3  # of the latents' own deviation
PERCEPTUAL = 0.1
LAYERS = (1, 2, 4)  # of the image tower, whose states are compared


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def pixel_loss_of(decoded: torch.Tensor, target: torch.Tensor):
    l1, mse = F.l1_loss(decoded, target), F.mse_loss(decoded, target)
    edges = sum(F.l1_loss(a, b) for a, b in zip(differences(decoded), differences(target)))
    return l1 + 0.5 * edges + 4.0 * mse, {"psnr": -10 * torch.log10(mse.detach() / 4), "edges": edges}


class Autoencoding:
    """Pixels to latents and back, everything trained."""

    def __init__(self, training: Training):
        self.vae, self.device, self.kl = training.model, training.device, training.options.kl
        self.generator = torch.Generator().manual_seed(training.progress.step)

    def mirrored(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels on the device, and which of them are to be mirrored."""
        mirror = torch.rand(len(pixels), generator=self.generator) < 0.25
        return pixels.to(self.device, memory_format=torch.channels_last), mirror.to(self.device)

    def prepare(self, pixels: torch.Tensor):
        return *self.mirrored(pixels), torch.tensor(self.kl, device=self.device)

    @staticmethod
    def loss_of(vae: AutoencoderKL, pixels: torch.Tensor, mirror: torch.Tensor, kl_weight: torch.Tensor):
        posterior = vae.encode(pixels).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        latents, target = flipped(mirror, mean + std * torch.randn_like(mean), pixels)
        loss, metrics = pixel_loss_of(vae.decode(latents).sample.float(), target)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return loss + kl_weight * kl, {**metrics, "kl": kl}


class Decoding(Autoencoding):
    """The decoder alone: latents as a UNet makes them, nearly, never exactly, what the encoder would give."""

    def prepare(self, pixels: torch.Tensor):
        pixels, mirror = self.mirrored(pixels)
        latents = self.vae.encode(pixels).latent_dist.mode()
        latents = latents + LATENT_NOISE / self.vae.config.scaling_factor * torch.randn_like(latents)
        return flipped(mirror, latents, pixels)

    @staticmethod
    def loss_of(vae: AutoencoderKL, latents: torch.Tensor, target: torch.Tensor):
        return pixel_loss_of(vae.decode(latents).sample.float(), target)


def flipped(which: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of each tensor, the samples that `which` [n] says are mirrored."""
    return tuple(torch.where(which[:, None, None, None], tensor.flip(-1), tensor) for tensor in tensors)


class CaptionedScenes(Dataset):
    """Scene number i as pixels [3, 128, 128] from -1 to 1, with its caption."""

    def __init__(self, nouns: Sequence[str]):
        self.nouns = nouns

    def __getitem__(self, number: int):
        scene = world.sample(np.random.RandomState(number), nouns=self.nouns)
        return to_batch([scene.image])[0], scene.caption


class Restorer:
    """Latents as a UNet makes them, which are never quite an encoder's, and a loss that asks for their pictures.

    A third of each batch are true latents, a third true latents with noise, a third as the UNet draws them
    back from a noise level between t = 20 and 500. Beside the pixels' own losses, the image tower of pocket CLIP
    compares what it sees in both pictures, as a mean square alone makes every doubt a blur. (Not the judge: it must
    not be trained for.)
    """

    def __init__(self, vae: AutoencoderKL, unet: Path, clip: Path, device: torch.device):
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
        """Scaled latents drawn back from a random noise level in two guided steps of DDIM, as a picture is drawn."""
        texts = self.conditioning.embed([""] * len(captions) + list(captions))
        timesteps = torch.randint(EARLIEST, LATEST, (len(latents),), device=latents.device)
        noise, clean = torch.randn_like(latents), latents
        for level in (timesteps, timesteps // 2):
            noisy = self.conditioning.scheduler.add_noise(clean, noise, level)
            empty, full = self.unet(torch.cat([noisy] * 2), torch.cat([level] * 2), texts).sample.float().chunk(2)
            noise = empty + GUIDANCE * (full - empty)
            alpha_bar = self.conditioning.scheduler.alphas_cumprod.to(latents.device)[level][:, None, None, None]
            clean = (noisy - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        return clean

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


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, count: int = 512, size: int = 128, noise: float = 0.0) -> float:
    """Mean over fresh scenes of each image's PSNR in dB, latents taken at the posterior's mean.

    With `noise` of so many of the latents' own deviation added before they are decoded.
    """
    scores, generator = [], torch.Generator().manual_seed(0)
    for scene in fresh_scenes(count, size=size):
        pixels = to_tensor(scene.image)[None]
        latents = vae.encode(pixels).latent_dist.mode()
        latents = latents + noise * latents.std() * torch.randn(latents.shape, generator=generator)
        scores.append(psnr(vae.decode(latents).sample, pixels))
    return sum(scores) / len(scores)


@torch.no_grad()
def even_out_channels(vae: AutoencoderKL, count: int = 512, size: int = 128) -> None:
    """Give all latent channels mean 0 and one deviation, and set `scaling_factor` to one over that.

    A UNet learns best from latents of unit variance in every channel. The change is folded into the two
    1x1 convolutions around the latents, so pictures are decoded exactly as before.
    """
    scenes = fresh_scenes(count, size=size)
    latents = torch.cat([vae.encode(to_tensor(scene.image)[None]).latent_dist.mode() for scene in scenes])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = std.log().mean().exp()
    gain = common / std
    channels = len(gain)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias.add_(after.weight[:, :, 0, 0] @ mean)
    after.weight.div_(gain[None, :, None, None])
    before.weight[:channels].mul_(gain[:, None, None, None])
    before.bias[:channels].sub_(mean).mul_(gain)
    before.bias[channels:].add_(2 * gain.log())
    vae.register_to_config(scaling_factor=round(float(1 / common), 5))


def build(options: Options) -> AutoencoderKL:
    if options.restorer and (options.crop or not options.decoder_only):
        raise SystemExit("--restorer needs whole pictures and a frozen encoder: add --decoder-only --crop 0.")
    if options.init:
        vae = AutoencoderKL.from_pretrained(options.init, dtype=torch.float32)
    else:
        vae = AutoencoderKL(**options.architecture)
    if options.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    return vae


def data(options: Options) -> Dataset:
    return CaptionedScenes(models.nouns()) if options.restorer else Images(options.crop)


def loss(training: Training) -> Loss:
    options = training.options
    if options.restorer:
        if not Path(options.restorer).is_dir():
            raise SystemExit(f"{options.restorer} is not there: train the UNet before it, or give another --restorer.")
        return Restorer(training.model, options.restorer, models.POCKET / "clip", training.device)
    return Decoding(training) if options.decoder_only else Autoencoding(training)


def score(vae: AutoencoderKL, options: Options) -> dict[str, float]:
    return {"psnr_db": round(reconstruction_psnr(vae), 2)}


def export(vae: AutoencoderKL, folder: Path, options: Options) -> None:
    if not options.decoder_only:  # the latents of a frozen encoder stay what they are
        even_out_channels(vae)
    save(vae, folder)


RECIPE = Recipe(build, data, loss, score, export)
