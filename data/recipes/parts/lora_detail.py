"""The LoRA `detail`: a slider (Gandikota et al., Concept Sliders, 2023).

No new pictures, only sd15's own answers to "best quality, detailed" and to "blurry"; +1 goes towards the first, -1
towards the second.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from parts.lora import ATTENTION, Adapter, Pictures, config
from sdhelpers import models

BETTER, WORSE = ", best quality, detailed", ", blurry, low quality"
STRENGTH = 2.0  # how many times the difference of the two answers the slider's weight 1 is


class Answers(Pictures):
    """What is wanted is sd15's own answer, moved towards the better words or the worse."""

    def __init__(self, tokenizer: Path, text_encoder: Path, device: torch.device):
        super().__init__(tokenizer, text_encoder, device)
        unet = UNet2DConditionModel.from_pretrained(models.locate("sd15") / "unet", dtype=torch.float32)
        self.base = unet.to(device, memory_format=torch.channels_last).eval()

    def prepare(self, batch):
        noisy, timesteps, ids, _, weights = super().prepare(batch)
        captions = batch[1]
        texts = [*captions, *(c + BETTER for c in captions), *(c + WORSE for c in captions)]
        embeddings = self.embed(texts)
        answers = self.base(noisy.repeat(3, 1, 1, 1), timesteps.repeat(3), embeddings).sample.float()
        plain, better, worse = answers.chunk(3)
        return noisy, timesteps, ids, plain, STRENGTH * (better - worse), weights

    @staticmethod
    def loss_of(model, noisy, timesteps, ids, plain, change, weights):
        sign = 1.0 if torch.rand(()) < 0.5 else -1.0
        model.unet.set_adapters("default", sign)
        return Pictures.loss_of(model, noisy, timesteps, ids, plain + sign * change, weights)


RECIPE = Adapter(
    name="detail",
    trigger="",
    does="a slider without a word of its own: sharper and richer above 0, blurred below 0",
    unet=config(4, 1, ATTENTION),
    teacher=Answers,
).recipe()
