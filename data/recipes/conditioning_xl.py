"""What the trainings of SDXL's UNets share: captions through two text encoders, and what is told beside them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from conditioning import NOISE, Conditioning, weighted_error
from loop import Training
from parts.sdxl_text import second_tokenizer
from sdhelpers import models

EULER = dict(steps_offset=1, timestep_spacing="leading")  # as in the published file
ZEROED = 0.7  # part of the empty captions that become zeros, as the pipeline makes of a negative prompt not given
ONE_ALONE = 0.1  # part of the captions that one of the two encoders alone gets to read, so that neither is ignored


class SecondConditioning(Conditioning):
    """The refiner's: captions through the second encoder, its pooled embedding, and numbers about the picture."""

    def __init__(self, second: Path, device: torch.device):
        folder = models.POCKET / "sd15"
        super().__init__(folder / "tokenizer", folder / "text_encoder", device)
        self.second_tokenizer = second_tokenizer(folder / "tokenizer")
        encoder = CLIPTextModelWithProjection.from_pretrained(second, dtype=torch.float32)
        self.second_encoder = encoder.to(device).eval().requires_grad_(False)

    @classmethod
    def of(cls, training: Training):
        """With the second encoder that the training's options name."""
        return cls(training.options.text, training.device)

    def prepare(self, batch):
        """A batch of latents, captions and `time_ids` [batch, ids] as what `loss_of` takes."""
        latents, captions, time_ids = batch
        text_embeddings, pooled = self.embed(captions)
        *noised, weights = self.noised(latents)
        return *noised, text_embeddings, weights, pooled, time_ids.to(self.device)

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings [batch, 77, 192], of the layer before the last, and one for the caption [batch, 192]."""
        ids = self.second_tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        out = self.second_encoder(ids.to(self.device), output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds

    @staticmethod
    def loss_of(unet, noisy, noise, timesteps, text_embeddings, weights, pooled, time_ids):
        """Mean square error of the predicted noise, weighted as `time_steps` says."""
        told = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = unet(noisy, timesteps, text_embeddings, added_cond_kwargs=told).sample
        return weighted_error(predicted, noise, weights)


class PairedConditioning(SecondConditioning):
    """The base's: both encoders' token embeddings side by side [batch, 77, 128 + 192], the second's pooled one."""

    def prepare(self, batch):
        latents, captions, time_ids = batch
        noisy, noise, timesteps, texts, weights, pooled, time_ids = super().prepare((latents, captions, time_ids))
        empty = torch.tensor([not caption for caption in captions], device=self.device)
        kept = 1 - (empty & (torch.rand(len(captions), device=self.device) < ZEROED)).float()
        return noisy, noise, timesteps, texts * kept[:, None, None], weights, pooled * kept[:, None], time_ids

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both encoders' embeddings; of some captions one of them reads nothing."""
        alone = torch.rand(len(captions)).tolist()
        first = ["" if chance < ONE_ALONE / 2 else caption for caption, chance in zip(captions, alone)]
        second = ["" if chance > 1 - ONE_ALONE / 2 else caption for caption, chance in zip(captions, alone)]
        return self.both(first, second)

    @torch.no_grad()
    def both(self, first: Sequence[str], second: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings [batch, 77, 320] of what each encoder reads, and the second's pooled ones [batch, 192]."""
        hidden = self.text_encoder(self.tokens(first), output_hidden_states=True).hidden_states[-2]
        texts, pooled = super().embed(second)
        return torch.cat([hidden, texts], dim=-1), pooled

    def pipeline(self, unet: UNet2DConditionModel, vae: AutoencoderKL | None) -> StableDiffusionXLPipeline:
        """The library's pipeline with these encoders."""
        pipe = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.second_encoder,
            tokenizer=self.tokenizer,
            tokenizer_2=self.second_tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(**NOISE, **EULER),
            add_watermarker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe
