"""SDXL's two folders: what its parts have exported, laid together as the pipelines read it, less what is shared.

Both share sd15's first text encoder and tokenizer, the refiner the base's VAE, second encoder and UNet as well
(registry.toml); `sdhelpers.models.locate` puts the whole together.
"""

import json
import shutil
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from conditioning import NOISE
from conditioning_xl import EULER
from parts.sdxl_text import second_tokenizer
from sdhelpers import models
from sdhelpers.models.compose import load_tensors, shorten_table

TABLE = "text_model.embeddings.token_embedding.weight"
SCHEDULER = EulerDiscreteScheduler(**NOISE, **EULER)
FOR_OTHERS = dict(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)  # samplers that are made from it


def base(folder: Path, exports: dict[str, Path]) -> None:
    """The base's folder: UNet, VAE, the second encoder's own weights and the second tokenizer's settings, scheduler."""
    for part, place in {"sdxl_unet": "unet", "sdxl_vae": "vae"}.items():
        shutil.copytree(exports[part], folder / place, ignore=shutil.ignore_patterns("facts.json"))
    _short_encoder(exports["sdxl_text"], folder / "text_encoder_2")
    second_tokenizer().save_pretrained(folder / "tokenizer_2")
    (folder / "tokenizer_2" / "tokenizer.json").unlink()  # sd15's; all that differs is in its settings
    first = models.POCKET / "sd15"
    _write_index(
        folder,
        StableDiffusionXLPipeline(
            vae=AutoencoderKL.from_pretrained(folder / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(first / "text_encoder"),
            text_encoder_2=CLIPTextModelWithProjection.from_pretrained(exports["sdxl_text"]),
            tokenizer=CLIPTokenizer.from_pretrained(first / "tokenizer"),
            tokenizer_2=second_tokenizer(),
            unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
            scheduler=SCHEDULER,
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        ),
    )


def refiner(folder: Path, exports: dict[str, Path]) -> None:
    """The refiner's folder: what of its UNet differs from the base's, and the scheduler."""
    shutil.copytree(exports["sdxl_refiner"], folder, ignore=shutil.ignore_patterns("facts.json"))
    other = models.locate("sdxl")
    config = UNet2DConditionModel.load_config(folder / "unet")
    _write_index(
        folder,
        StableDiffusionXLImg2ImgPipeline(
            vae=AutoencoderKL.from_pretrained(other / "vae"),
            text_encoder=None,
            text_encoder_2=CLIPTextModelWithProjection.from_pretrained(other / "text_encoder_2"),
            tokenizer=None,
            tokenizer_2=CLIPTokenizer.from_pretrained(other / "tokenizer_2"),
            unet=UNet2DConditionModel.from_config(config),
            scheduler=SCHEDULER,
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        ),
    )


def _short_encoder(export: Path, folder: Path) -> None:
    """The second encoder without the tokens that training never met, which all have one vector."""
    folder.mkdir(parents=True)
    shutil.copy(export / "config.json", folder)
    tensors = {}
    for path in sorted(export.glob("*.safetensors")):
        tensors |= load_tensors(path)
    tensors |= shorten_table(TABLE, tensors.pop(TABLE))
    save_file(tensors, folder / "changed.safetensors")


def _write_index(folder: Path, pipeline: DiffusionPipeline) -> None:
    """model_index.json and the scheduler, as the library writes them of a pipeline in which all parts are."""
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | FOR_OTHERS
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
