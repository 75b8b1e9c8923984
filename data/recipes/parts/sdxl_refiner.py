"""The pocket SDXL's refiner: the base's UNet, taught the last two hundred time steps alone.

As published (Podell et al. 2023, arXiv:2307.01952): it listens to the second encoder only, and is told a score of the
picture's looks instead of its target size. It begins with the base's weights wherever they fit: of the cross-attention
what reads the second encoder, of the time ids what both are told. What the pictures are worth is known in the world:
the best quality 7, a plain picture 6, blurred ones 2, and less the smaller the original was; half of the captions
leave the quality out, so that the score must tell it.

What training changes in a matrix is kept as two factors of rank `--rank`, as for the ControlNets; runs/NAME/whole
keeps all.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import places
from conditioning_xl import SecondConditioning
from originals import OriginalLatents
from parts.controlnet import changes
from recipe import Options, Recipe
from sdhelpers import world

FIRST_STEP = 200  # noise beyond this time step is the base's
WORTH = {"best": 7.0, "plain": 6.0, "monochrome": 4.5, "cropped": 4.5, "washed out": 3.0, "noisy": 2.5, "blurry": 2.0}
SMALL = 3.0  # what the smallest possible original would cost
UNSAID = 0.5  # part of the captions without a word on the quality


class LastSteps(SecondConditioning):
    """Noise of the last time steps only, all of them alike."""

    def time_steps(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        timesteps = (self._evenly(count) * FIRST_STEP).long()
        return timesteps, torch.ones(count, device=self.device)


class ScoredLatents(OriginalLatents):
    """Latents, captions, and the five numbers that the refiner is told: original height and width, top, left, score."""

    def __getitem__(self, number: int):
        latents, caption, time_ids, _, _ = super().__getitem__(number)
        return latents, caption, time_ids

    def caption(self, index: int, wording: np.random.RandomState) -> str:
        described = self.descriptions[index]
        if wording.random_sample() < UNSAID:
            described = dataclasses.replace(described, quality="plain")
        return world.write_caption(described, wording)

    def time_ids(self, index: int) -> torch.Tensor:
        known = self.original(index)
        score = aesthetic_score(self.descriptions[index].quality, known.size / self.size)
        return torch.tensor([known.size, known.size, known.top, known.left, score], dtype=torch.float32)


def aesthetic_score(quality: str, size: float) -> float:
    """What a picture is worth whose original had `size` times its side; the pipeline asks for 6, and 2.5 to avoid."""
    return max(1.0, WORTH[quality] - SMALL * max(0.0, 1 - size))


def refiner_config(base: dict, width: int) -> dict:
    """The base's configuration with another text, `width` wide, and five numbers instead of six."""
    ids = base["addition_time_embed_dim"]
    return {
        **base,
        "cross_attention_dim": width,
        "projection_class_embeddings_input_dim": base["projection_class_embeddings_input_dim"] - ids,
    }


@torch.no_grad()
def begin(base: UNet2DConditionModel, width: int) -> UNet2DConditionModel:
    """The base's UNet as a refiner, whose text embeddings are the last `width` numbers of the base's.

    The `text_time` layer reads the pooled embedding first, then what is told: of that, the target's height and width
    are left out, and the score, which nothing was learnt of, is not heard at first.
    """
    unet = UNet2DConditionModel.from_config(refiner_config(dict(base.config), width))
    told = base.config.addition_time_embed_dim
    weights = base.state_dict()
    for name, tensor in weights.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weights[name] = tensor[:, -width:]
        if name == "add_embedding.linear_1.weight":
            weights[name] = torch.cat([tensor[:, : -2 * told], torch.zeros(len(tensor), told)], dim=1)
    unet.load_state_dict(weights)
    return unet


def build(options: Options) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)
    if unet.config.cross_attention_dim == options.width:
        return unet
    return begin(unet, options.width)


def data(options: Options) -> ScoredLatents:
    return ScoredLatents(places.RUNS / options.latents, places.nouns(options.nouns))


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> dict:
    """The whole one into runs/NAME/whole; here its configuration, and what differs from the base: factors, and rest."""
    unet.save_pretrained(folder.parent / "whole")
    before = UNet2DConditionModel.from_pretrained(options.base, dtype=torch.float32).state_dict()
    changed, factors = changes(before, unet.state_dict(), options.rank)
    for file, tensors in (("changed", changed), ("low_rank", factors)):
        save_file({k: v.half().contiguous() for k, v in tensors.items()}, folder / f"{file}.safetensors")
    (folder / "unet").mkdir(exist_ok=True)
    unet.save_config(folder / "unet")
    return {"rank": options.rank}


RECIPE = Recipe(build, data, LastSteps.of, None, export)
