"""What every training of a noise predictor shares: time steps, noise, embeddings of captions, and weighted errors."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from transformers import CLIPTextModel, CLIPTokenizer

from loop import Training
from sdhelpers import models

NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
GAMMA = 5.0
EVEN = 0.3  # part of a batch whose time steps are spread evenly; the rest is drawn by its signal-to-noise ratio
LOG_SNR = (1.2, 1.8)  # mean and deviation of the logarithm of that ratio
LARGEST_WEIGHT = 20.0


class Conditioning:
    """The frozen half of the training: texts to embeddings, latents to noisy latents, errors to a loss."""

    def __init__(self, tokenizer: Path, text_encoder: Path, device: torch.device):
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.text_encoder = CLIPTextModel.from_pretrained(text_encoder, dtype=torch.float32).to(device).eval()
        self.scheduler = DDPMScheduler(**NOISE)
        self.snr = compute_snr(self.scheduler, torch.arange(NOISE["num_train_timesteps"])).to(device)
        self.device = device

    @classmethod
    def of_sd15(cls, training: Training) -> "Conditioning":
        """With the tokenizer and the text encoder of the assembled sd15."""
        return cls(models.POCKET / "sd15" / "tokenizer", models.POCKET / "sd15" / "text_encoder", training.device)

    def prepare(self, batch):
        """A batch of latents and captions as what `loss_of` takes."""
        latents, captions = batch
        text_embeddings = self.embed(captions)
        *noised, weights = self.noised(latents)
        return *noised, text_embeddings, weights

    def noised(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy latents, their noise, time steps [batch] and what each one's error counts [batch]."""
        latents = latents.to(self.device, memory_format=torch.channels_last)
        noise = torch.randn_like(latents)
        timesteps, weights = self.time_steps(len(latents))
        return self.scheduler.add_noise(latents, noise, timesteps), noise, timesteps, weights

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        """Token ids [batch, 77]."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return ids.input_ids.to(self.device)

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Token embeddings [batch, 77, 128]."""
        return self.text_encoder(self.tokens(captions)).last_hidden_state

    even: float = EVEN

    def time_steps(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Time steps for a batch, and what each one's error counts.

        The first `even` part lies evenly over all steps: where the signal is the stronger part, min-SNR weights
        (Hang et al. 2023); where the noise is, plain epsilon weights all but forget the question of what the picture
        shows as a whole, so they grow by 1/sqrt(SNR). The others have log SNR as `LOG_SNR` says, with the weights
        of a loss on the velocity, 1 + 1/SNR: the smaller the noise, the better it must be known.
        """
        even = even_part(count, self.even)
        spread = self._evenly(even)
        steps = len(self.snr)
        snr = self.snr[(spread * steps).long()]
        weights = snr.clamp(max=GAMMA) / snr * snr.clamp(max=1).rsqrt()
        mean, deviation = LOG_SNR
        wanted = mean + deviation * torch.special.ndtri(self._evenly(count - even).clamp(1e-4, 1 - 1e-4))
        drawn = (steps - torch.searchsorted(self.snr.log().flip(0).contiguous(), wanted)).clamp(0, steps - 1)
        drawn_weights = (1 + 1 / self.snr[drawn]).clamp(max=LARGEST_WEIGHT)
        return torch.cat([(spread * steps).long(), drawn]), torch.cat([weights, drawn_weights])

    def _evenly(self, count: int) -> torch.Tensor:
        """Numbers from 0 to 1, evenly spaced from a random first."""
        spread = torch.rand((), device=self.device) + torch.arange(count, device=self.device) / max(1, count)
        return spread % 1

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights):
        """Mean square error of the predicted noise, weighted as `time_steps` says."""
        return weighted_error(unet(noisy, timesteps, text_embeddings).sample, noise, weights)


def weighted_error(predicted: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor):
    """Mean square error of the predicted noise, weighted, and the plain one of the evenly spread time steps."""
    each = F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
    return (weights * each).mean(), {"plain_mse": each[: even_part(len(each))].mean()}


def even_part(count: int, share: float = EVEN) -> int:
    """How many of a batch have evenly spread time steps; they come first."""
    return max(1, round(share * count))
