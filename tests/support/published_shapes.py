"""Stable Diffusion 1.5 in its true shapes, with weights that nobody trained."""

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sdhelpers import models

# The configuration that the published Stable Diffusion 1.5 has.
UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    cross_attention_dim=768,
    attention_head_dim=8,
)
VAE = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    sample_size=512,
    scaling_factor=0.18215,
)
TEXT = dict(
    vocab_size=49_408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    projection_dim=768,
)

VIT_H = dict(  # the image tower of the published IP-Adapter
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    image_size=224,
    projection_dim=1024,
)
DEPTH_ANYTHING_SMALL = dict(
    backbone_config=dict(
        model_type="dinov2",
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        image_size=518,
        patch_size=14,
        out_features=["stage3", "stage6", "stage9", "stage12"],
        reshape_hidden_states=False,
    ),
    reassemble_hidden_size=384,
    fusion_hidden_size=64,
    neck_hidden_sizes=[48, 96, 192, 384],
)


def true_sd15(device: str) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's own shapes; on the device "meta" they hold no numbers."""
    with torch.device(device):
        parts = dict(
            unet=UNet2DConditionModel(**UNET),
            vae=AutoencoderKL(**VAE),
            text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        )
    tokenizer = StableDiffusionPipeline.from_pretrained(models.locate("sd15")).tokenizer
    return StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        feature_extractor=None,
        safety_checker=None,
        requires_safety_checker=False,
    )
