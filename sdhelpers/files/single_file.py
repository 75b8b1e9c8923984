"""Diffusers folder to one .safetensors file in Stable Diffusion's original key layout.

The way forth (single file to Diffusers) is the library's `from_single_file`; the way back is in no
package. Keys as in CompVis' latent-diffusion code. Built in chapter 6.
"""

import os
import re
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(key: str, layers_per_block: int, with_attention: set[str]) -> str:
    """The original name of a UNet tensor; `with_attention` holds the names of blocks that have attentions."""
    per_block = layers_per_block + 1
    head, _, rest = key.partition(".resnets.")
    if rest:
        number, name, *tail = rest.split(".")
        return ".".join([unet_place(head, "resnets", int(number), per_block), RESNET[name], *tail])
    if match := re.match(r"((?:down|up)_blocks\.\d+)\.attentions\.(\d+)\.(.+)", key):
        return f"{unet_place(match[1], 'attentions', int(match[2]), per_block)}.{match[3]}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", key):
        return f"input_blocks.{(int(match[1]) + 1) * per_block}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)", key):
        position = 2 if f"up_blocks.{match[1]}" in with_attention else 1
        return f"output_blocks.{int(match[1]) * per_block + layers_per_block}.{position}.conv.{match[2]}"
    for ours, original in UNET_ENDS.items():
        if key.startswith(ours + "."):
            return original + key[len(ours) :]
    raise KeyError(f"No original name is known for the UNet tensor {key}.")


def unet_place(block: str, kind: str, number: int, per_block: int) -> str:
    """Where a resnet or an attention of a block stands in the original numbering."""
    if block == "mid_block":
        return UNET_ENDS[f"mid_block.{kind}.{number}"]
    side, index = block.split(".")
    position = int(index) * per_block + number
    place = f"input_blocks.{position + 1}" if side == "down_blocks" else f"output_blocks.{position}"
    return f"{place}.{0 if kind == 'resnets' else 1}"


def vae_key(key: str, blocks: int) -> str:
    """The original name of a VAE tensor; the decoder counted its blocks from the other end."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    up = lambda m: f"up.{blocks - 1 - int(m[1])}."  # noqa: E731
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: up(m) + "block.", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: up(m) + "upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for ours, original in VAE_ATTENTION.items():
        key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{original}.")
    return key


def to_original_layout(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """All weights of a Stable Diffusion 1.x pipeline under the original names, in float16."""
    unet, vae = pipe.unet, pipe.vae
    with_attention = {k.split(".attentions.")[0] for k in unet.state_dict() if ".attentions." in k}
    tensors = {}
    for key, value in unet.state_dict().items():
        name = unet_key(key, unet.config.layers_per_block, with_attention)
        tensors[f"model.diffusion_model.{name}"] = value
    for key, value in vae.state_dict().items():
        name = vae_key(key, len(vae.config.block_out_channels))
        was_conv = "mid.attn_1" in name and "norm" not in name and value.ndim == 2
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if was_conv else value
    for key, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.{key}"] = value
    return {key: value.to(torch.float16).contiguous() for key, value in tensors.items()}


def save_single_file(pipe: StableDiffusionPipeline, path: Path) -> Path:
    """Write the pipeline as one .safetensors file (first under a name of its own); return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", suffix=".part", dir=path.parent) as folder:
        temporary = Path(folder) / path.name  # a name of its own: two programs may write the same file at once
        save_file(to_original_layout(pipe), temporary, metadata={"format": "pt"})
        os.replace(temporary, path)
    return path
