"""Stable Diffusion 1.5 and XL in their true shapes without their weights, to measure speed and memory with.

What a model takes does not depend on its weights' values, so random ones do: nothing is downloaded. Sizes are
those of the published configurations. Built in chapter 7.
"""

import contextlib
from collections.abc import Iterator

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdhelpers import models
from sdhelpers.compat import FakeTensorMode
from sdhelpers.device import seeded_generator

UNETS = {
    "sd15": {
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def parts(name: str) -> dict[str, torch.nn.Module]:
    """The neural networks of "sd15" or "sdxl"; under `torch.device("meta")` they take no room."""
    built = {
        "unet": UNet2DConditionModel(**UNETS[name]),
        "vae": AutoencoderKL(**VAE, sample_size=8 * UNETS[name]["sample_size"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
    }
    if name == "sdxl":
        built["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G))
    return {key: part.eval().requires_grad_(False) for key, part in built.items()}


def fill(part: torch.nn.Module, dtype: torch.dtype, device: str, block: torch.Tensor) -> torch.nn.Module:
    """Give a part from the meta device weights: matrices that keep the size of what passes through, made of `block`.

    `block` holds uniform numbers from -1 to 1; repeating them takes a tenth of the time of drawing a billion.
    """
    part = part.to(dtype).to_empty(device=device)
    for key, weight in part.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if key.endswith("bias") else 1.0)
        else:
            bound = (3 / weight[0].numel()) ** 0.5
            repeated = (block * bound).repeat(-(-weight.numel() // block.numel()))[: weight.numel()]
            weight.copy_(repeated.view(weight.shape))
    for positions in part.buffers():  # CLIP's [1, 77]
        positions.copy_(torch.arange(positions.numel())[None])
    return part


def pipeline(name: str, dtype: torch.dtype, device: str) -> DiffusionPipeline:
    """A whole pipeline with random weights, always the same ones, made on `device`.

    The tokenizer is the pocket model's, which is CLIP's own.
    """
    with torch.device("meta"):
        empty = parts(name)
    block = torch.rand(1_000_003, generator=seeded_generator(0)) * 2 - 1  # a prime: no two rows are equal
    filled = {key: fill(part, dtype, device, block.to(device, dtype)) for key, part in empty.items()}
    tokenizer = AutoTokenizer.from_pretrained(models.locate("sd15") / "tokenizer")
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE)
    if name == "sdxl":
        return StableDiffusionXLPipeline(
            **filled, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
        )
    return StableDiffusionPipeline(
        **filled,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@contextlib.contextmanager
def pretended(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, tensors have a shape, a type and a size in bytes but no content, and nothing is computed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def unet_inputs(unet: UNet2DConditionModel, size: int, batch: int) -> dict:
    """Arguments of one guided call for `batch` pictures of `size` pixels: each is asked twice."""
    config, asked = unet.config, 2 * batch
    inputs = {
        "sample": torch.randn(asked, config.in_channels, size // 8, size // 8),
        "timestep": 1,
        "encoder_hidden_states": torch.randn(asked, 77, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(asked, width), "time_ids": torch.randn(asked, 6)}
    return inputs


def step_flops(unet_config: dict, size: int) -> int:
    """Floating-point operations of one guided step of one picture, counted on a pretended UNet."""
    with pretended():
        unet = UNet2DConditionModel.from_config(unet_config)
        with FlopCounterMode(display=False) as counter:
            unet(**unet_inputs(unet, size, 1))
    return counter.get_total_flops()
