"""What the LoRA recipes share: layers beside the assembled sd15, pictures to learn from, and both file formats.

A LoRA belongs to the weights that it was trained on: train again whenever sd15 has changed.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conditioning import Conditioning
from latents import CaptionedLatents, encode_images, frozen_vae
from recipe import Options, Recipe
from sdhelpers import models, world

SCENES = 600
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]


def config(rank: int, alpha: float, modules: list[str] | str, **patterns: dict) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, init_lora_weights="gaussian", **patterns)


class Pictures(Conditioning):
    """Training on pictures: the noise in noisy latents, as for the UNet itself."""

    def prepare(self, batch):
        noisy, noise, timesteps, _, weights = super().prepare(batch)
        return noisy, timesteps, self.tokens(batch[1]), noise, weights

    @staticmethod
    def loss_of(model, noisy, timesteps, ids, wanted, weights):
        each = (model(noisy, timesteps, ids).float() - wanted).square().mean((1, 2, 3))
        return (weights * each).mean(), {"plain_mse": each.mean()}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What makes one LoRA: its words, its layers, and what a scene of its training data is."""

    name: str
    trigger: str
    does: str
    unet: LoraConfig
    text_encoder: LoraConfig | None = None
    nouns: Sequence[str] | None = None  # those that sd15 knows
    styles: Sequence[str] = world.STYLES
    teacher: type[Pictures] = Pictures

    def recipe(self) -> Recipe:
        return Recipe(self.build, self.data, self.teacher.of_sd15, None, self.export)

    def build(self, options: Options) -> "Adapted":
        logging.set_verbosity_error()
        return Adapted(models.locate("sd15"), self)

    def data(self, options: Options) -> CaptionedLatents:
        """Scenes of one object each; captions leave nothing out."""
        descriptions, images, seed = [], [], 0
        while len(images) < SCENES:
            rng = np.random.RandomState(seed)
            description = world.describe(rng, self.nouns or models.nouns(), self.styles)
            seed += 1
            if len(description.nouns) == 1 and description.quality in ("plain", "best"):
                descriptions.append(description)
                images.append(world.draw(description, rng).image)
        latents = encode_images(frozen_vae(models.locate("sd15") / "vae"), images)
        return CaptionedLatents(latents, descriptions, complete=True)

    def export(self, model: "Adapted", folder: Path, options: Options) -> None:
        """Write NAME.safetensors (Diffusers) and NAME_kohya.safetensors with the same numbers."""
        parts = {"unet": model.unet} | ({"text_encoder": model.text_encoder} if self.text_encoder else {})
        layers = {
            part: {key: value.half().contiguous() for key, value in get_peft_model_state_dict(module).items()}
            for part, module in parts.items()
        }
        path = folder / f"{self.name}.safetensors"
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=layers["unet"],
            text_encoder_lora_layers=layers.get("text_encoder"),
            weight_name=path.name,
            **_collate_lora_metadata(parts),
        )
        about = {"format": "pt", "trigger": self.trigger, "does": self.does, "base": "pocket sd15"}
        settings = json.dumps(settings_of(path, parts), sort_keys=True)
        save_file(load_file(path), path, metadata={**about, LORA_ADAPTER_METADATA_KEY: settings})
        kohya = to_kohya(layers["unet"], "lora_unet", model.unet)
        kohya |= to_kohya(layers.get("text_encoder", {}), "lora_te", model.text_encoder)
        save_file(kohya, folder / f"{self.name}_kohya.safetensors", metadata=about)


def settings_of(path: Path, parts: dict[str, torch.nn.Module]) -> dict:
    """PEFT's settings in a LoRA file, the same whoever wrote it: lists in order, no place on a disk."""
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()[LORA_ADAPTER_METADATA_KEY])
    settings = {key: sorted(value) if isinstance(value, list) else value for key, value in settings.items()}
    return settings | {f"{part}.base_model_name_or_path": None for part in parts}


class Adapted(torch.nn.Module):
    """UNet and text encoder side by side, frozen but for their LoRA layers."""

    def __init__(self, base: Path, adapter: Adapter):
        super().__init__()
        pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
        self.unet, self.text_encoder = pipe.unet.requires_grad_(False), pipe.text_encoder.requires_grad_(False)
        self.unet.add_adapter(adapter.unet)
        if adapter.text_encoder:
            self.text_encoder.add_adapter(adapter.text_encoder)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The predicted noise, [batch, 4, 16, 16]."""
        text_embeddings = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy, timesteps, text_embeddings).sample


def to_kohya(layers: dict[str, torch.Tensor], prefix: str, adapted: torch.nn.Module) -> dict[str, torch.Tensor]:
    """PEFT's names in Kohya's: dots become underscores, A is down, B is up, and each layer keeps its alpha."""
    tensors = {}
    for key, value in layers.items():
        path, _, half = key.removesuffix(".weight").rpartition(".lora_")
        name = f"{prefix}_{path.replace('.', '_')}"
        tensors[f"{name}.lora_{'down' if half == 'A' else 'up'}.weight"] = value
        tensors[f"{name}.alpha"] = torch.tensor(float(adapted.get_submodule(path).lora_alpha["default"]))
    return tensors
