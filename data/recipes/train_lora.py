"""Train the LoRA files of chapter 8 on the assembled sd15, and write each in both file formats.

    python data/recipes/train_lora.py                       # all three, one after the other
    python data/recipes/train_lora.py --lora icon           # one of them

icon      the world's held-out style; attention of the UNet and of the text encoder
hedgehog  a held-out noun in the four styles; attention and convolutions of the UNet
detail    a slider (Gandikota et al., Concept Sliders, 2023): no new pictures, only sd15's own answers to
          "best quality, detailed" and to "blurry"; +1 goes towards the first, -1 towards the second

A LoRA belongs to the weights that it was trained on: train again whenever sd15 has changed.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from loop import Training, arguments
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch
from sdhelpers.world.drawings import HELD_OUT_STYLE
from train_unet import EMPTY_CAPTIONS, Conditioning, collate

SCENES = 600
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
CONVOLUTIONS = ["proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"]
BETTER, WORSE = ", best quality, detailed", ", blurry, low quality"
STRENGTH = 2.0  # how many times the difference of the two answers the slider's weight 1 is


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What makes one LoRA: its words, its layers, and what a scene of its training data is."""

    trigger: str
    does: str
    unet: LoraConfig
    scenes: dict  # what narrows world.describe
    text_encoder: LoraConfig | None = None


def config(rank: int, alpha: float, modules: list[str], **patterns: dict) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, init_lora_weights="gaussian", **patterns)


SMALLER = dict.fromkeys(["conv1", "conv2", "conv_shortcut"], 4)
RECIPES: dict[str, Callable[[], Recipe]] = {
    "icon": lambda: Recipe(
        trigger=HELD_OUT_STYLE,
        does="draws everything as a bold black icon, a style that sd15 has never seen",
        unet=config(8, 4, ATTENTION),
        text_encoder=config(4, 4, TEXT_ATTENTION),
        scenes={"nouns": models.nouns(), "styles": (HELD_OUT_STYLE,)},
    ),
    "hedgehog": lambda: Recipe(
        trigger="hedgehog",
        does="draws a hedgehog, an animal that sd15 has never seen",
        unet=config(8, 16, ATTENTION + CONVOLUTIONS, rank_pattern=SMALLER, alpha_pattern=SMALLER),
        scenes={"nouns": ("hedgehog",)},
    ),
    "detail": lambda: Recipe(
        trigger="",
        does="a slider without a word of its own: sharper and richer above 0, blurred below 0",
        unet=config(4, 1, ATTENTION),
        scenes={"nouns": models.nouns()},
    ),
}


class Adapted(torch.nn.Module):
    """UNet and text encoder side by side, frozen but for their LoRA layers."""

    def __init__(self, base: Path, recipe: Recipe):
        super().__init__()
        pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
        self.unet, self.text_encoder = pipe.unet.requires_grad_(False), pipe.text_encoder.requires_grad_(False)
        self.unet.add_adapter(recipe.unet)
        if recipe.text_encoder:
            self.text_encoder.add_adapter(recipe.text_encoder)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The predicted noise, [batch, 4, 16, 16]."""
        text_embeddings = self.text_encoder(ids).last_hidden_state
        return self.unet(noisy, timesteps, text_embeddings).sample


class Scenes(Dataset):
    """Latents of scenes of one object each, in a new order each time round; captions name all but one in ten."""

    def __init__(self, vocabulary: dict, vae: AutoencoderKL):
        self.descriptions, images = [], []
        seed = 0
        while len(images) < SCENES:
            rng = np.random.RandomState(seed)
            description = world.describe(rng, **vocabulary)
            seed += 1
            if len(description.nouns) == 1 and description.quality in ("plain", "best"):
                self.descriptions.append(description)
                images.append(world.draw(description, rng).image)
        self.latents = encode(vae, images)

    def __getitem__(self, number: int):
        epoch, position = divmod(number, SCENES)
        index = np.random.RandomState(epoch).permutation(SCENES)[position]
        wording = np.random.RandomState((1_000_003 * number + 17) % 2**32)
        empty = wording.random_sample() < EMPTY_CAPTIONS
        caption = "" if empty else world.write_caption(self.descriptions[index], wording, complete=True)
        return self.latents[index], caption


@torch.no_grad()
def encode(vae: AutoencoderKL, images: list) -> torch.Tensor:
    """The scaled latents of images, [n, 4, 16, 16]."""
    parts = [vae.encode(to_batch(images[i : i + 50])).latent_dist.mode() for i in range(0, len(images), 50)]
    return torch.cat(parts) * vae.config.scaling_factor


class Pictures(Conditioning):
    """Training on pictures: the noise in noisy latents, as for the UNet itself."""

    def tokens(self, captions: list[str]) -> torch.Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return ids.input_ids.to(self.device)

    def prepare(self, batch):
        noisy, noise, timesteps, _, weights = super().prepare(batch)
        return noisy, timesteps, self.tokens(batch[1]), noise, weights

    @staticmethod
    def loss_of(model, noisy, timesteps, ids, wanted, weights):
        each = (model(noisy, timesteps, ids).float() - wanted).square().mean((1, 2, 3))
        return (weights * each).mean(), {"plain_mse": each.mean()}


class Answers(Pictures):
    """Training on sd15's own answers: what is wanted is its answer, moved towards the better words or the worse."""

    def __init__(self, base: Path, device: torch.device):
        super().__init__(base / "tokenizer", base / "text_encoder", device)
        self.base = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32).to(device)
        self.base.to(memory_format=torch.channels_last).eval()

    def prepare(self, batch):
        noisy, timesteps, ids, _, weights = super().prepare(batch)
        captions = batch[1]
        texts = [*captions, *(c + BETTER for c in captions), *(c + WORSE for c in captions)]
        embeddings = self.text_encoder(self.tokens(texts)).last_hidden_state
        answers = self.base(noisy.repeat(3, 1, 1, 1), timesteps.repeat(3), embeddings).sample.float()
        plain, better, worse = answers.chunk(3)
        return noisy, timesteps, ids, plain, STRENGTH * (better - worse), weights

    @staticmethod
    def loss_of(model, noisy, timesteps, ids, plain, change, weights):
        sign = 1.0 if torch.rand(()) < 0.5 else -1.0
        model.unet.set_adapters("default", sign)
        return Pictures.loss_of(model, noisy, timesteps, ids, plain + sign * change, weights)


def to_kohya(layers: dict[str, torch.Tensor], prefix: str, adapted: torch.nn.Module) -> dict[str, torch.Tensor]:
    """PEFT's names in Kohya's: dots become underscores, A is down, B is up, and each layer keeps its alpha."""
    tensors = {}
    for key, value in layers.items():
        path, _, half = key.removesuffix(".weight").rpartition(".lora_")
        name = f"{prefix}_{path.replace('.', '_')}"
        tensors[f"{name}.lora_{'down' if half == 'A' else 'up'}.weight"] = value
        tensors[f"{name}.alpha"] = torch.tensor(float(adapted.get_submodule(path).lora_alpha["default"]))
    return tensors


def export(model: Adapted, recipe: Recipe, name: str, folder: Path) -> None:
    """Write NAME.safetensors (Diffusers) and NAME_kohya.safetensors with the same numbers."""
    parts = {"unet": model.unet} | ({"text_encoder": model.text_encoder} if recipe.text_encoder else {})
    layers = {
        part: {key: value.half().contiguous() for key, value in get_peft_model_state_dict(module).items()}
        for part, module in parts.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers.get("text_encoder"),
        weight_name=f"{name}.safetensors",
        **_collate_lora_metadata(parts),
    )
    about = {"trigger": recipe.trigger, "does": recipe.does, "base": "pocket sd15"}
    path = folder / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()[LORA_ADAPTER_METADATA_KEY])
    settings = {key: sorted(value) if isinstance(value, list) else value for key, value in settings.items()}
    settings |= {f"{part}.base_model_name_or_path": None for part in parts}
    metadata = {"format": "pt", **about, LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)}
    save_file(load_file(path), path, metadata=metadata)
    kohya = to_kohya(layers["unet"], "lora_unet", model.unet)
    kohya |= to_kohya(layers.get("text_encoder", {}), "lora_te", model.text_encoder)
    save_file(kohya, folder / f"{name}_kohya.safetensors", metadata={"format": "pt", **about})


def train(name: str, options: argparse.Namespace) -> None:
    recipe, base = RECIPES[name](), models.locate("sd15")
    batch = options.batch // 2 if name == "detail" else options.batch  # sd15 has to answer three times there
    options = argparse.Namespace(**vars(options) | {"run": f"lora_{name}", "batch": batch})
    torch.manual_seed(0)
    training = Training(options.run, Adapted(base, recipe), options)
    vae = AutoencoderKL.from_pretrained(base / "vae", dtype=torch.float32).eval()
    scenes = Scenes(recipe.scenes, vae)
    if name == "detail":
        teacher = Answers(base, training.device)
    else:
        teacher = Pictures(base / "tokenizer", base / "text_encoder", training.device)
    training.run(scenes, teacher.prepare, teacher.loss_of, collate)
    folder = training.folder / "export"
    export(training.averaged_model(), recipe, name, folder)
    facts = {**training.facts(), "recipe": "data/recipes/train_lora.py"}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def main() -> None:
    options = arguments(__doc__, steps=560, batch=24, lr=3e-3, ema=0.98, lora="all")
    logging.set_verbosity_error()
    for name in RECIPES if options.lora == "all" else [options.lora]:
        train(name, options)


if __name__ == "__main__":
    main()
