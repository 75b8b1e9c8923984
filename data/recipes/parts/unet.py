"""The pocket UNet: the noise in 16x16x4 latents, given a time step and 77 token embeddings.

Stable Diffusion 1.5's own recipe in small: scaled-linear betas from 0.00085 to 0.012 over 1000 steps,
epsilon prediction, one caption in ten left empty, the text tower frozen. Most time steps fall where the picture
is decided, weights by the signal-to-noise ratio and averaged weights make it converge sooner. So that two objects
do not run together, each noun's cross-attention is asked to lie on its own object (the token loss of TokenCompose,
Wang et al. 2024). Needs the latents (`python data/recipes encode`) and pocket CLIP. Learns the nouns of nouns.txt,
which may be fewer than the world has.

`--init FOLDER` goes on from given weights; where their last up block has no attention yet, it is put in so that
nothing changes at first.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

import places
from conditioning import Conditioning
from export import save
from latents import GroundedLatents
from loop import Training
from recipe import Options, Recipe

GROUNDING = 0.02  # how much the attention's place counts beside the noise
GROUNDED_SIDES = (16, 8)  # attention of so many pixels a side is asked


class WatchedAttention:
    """Cross-attention by hand, which keeps its probabilities: [batch, heads, pixels, tokens]."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, temb=None):
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key = heads(attn.to_q(hidden_states)), heads(attn.to_k(encoder_hidden_states))
        self.probabilities = (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)
        mixed = self.probabilities @ heads(attn.to_v(encoder_hidden_states)).to(self.probabilities)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


class Grounding:
    """Asks each noun's cross-attention to lie on the noun's own object (Wang et al. 2024, TokenCompose).

    Except in the first block, which cannot know yet what is where.
    """

    sides = GROUNDED_SIDES

    def __init__(self, unet: UNet2DConditionModel, conditioning: Conditioning):
        self.conditioning = conditioning
        self.watched = []
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.set_processor(WatchedAttention())
                if not name.startswith("down_blocks.0"):
                    self.watched.append(module.processor)

    def prepare(self, batch):
        """What the conditioning gives, with each noun's tokens [batch, 2, 77] and masks [batch, 2, side, side].

        The batch: what the conditioning takes, latents and captions first; the nouns; the masks.
        """
        *given, nouns, masks = batch
        captions = given[1]
        tokens = torch.zeros(len(captions), 2, 77)
        for i, caption in enumerate(captions):
            for j, noun in enumerate(nouns[i]):
                found = re.search(rf"\b{noun}\b", caption)  # whole words: a car is not in a cartoon
                if found:
                    before, within = self._count(caption[: found.start()]), self._count(noun)
                    tokens[i, j, 1 + before : 1 + before + within] = 1 / within
        device = self.conditioning.device
        return *self.conditioning.prepare(tuple(given)), tokens.to(device), masks.to(device)

    def _count(self, text: str) -> int:
        return len(self.conditioning.tokenizer(text).input_ids) - 2

    def loss_of(self, unet, *tensors):
        """The loss of the noise, and the square of each noun's share of attention that lies beside its object."""
        *given, tokens, masks = tensors
        loss, metrics = self.conditioning.loss_of(unet, *given)
        counted = (tokens.sum(-1) > 0) & (masks.sum((-1, -2)) > 0)  # [batch, 2]
        pixels = {side: (F.adaptive_max_pool2d(masks, side) > 0).flatten(2).float() for side in self.sides}
        beside = []
        for attention in self.watched:
            probabilities = attention.probabilities  # [batch, heads, pixels, tokens]
            side = math.isqrt(probabilities.shape[2])
            if side in self.sides:
                places = torch.einsum("bpt,bnt->bnp", probabilities.float().sum(1), tokens)
                beside.append(1 - (places * pixels[side]).sum(-1) / places.sum(-1).clamp(min=1e-6))
        beside = torch.stack(beside)[:, counted]
        return loss + GROUNDING * (beside**2).mean(), {**metrics, "attention_beside": beside.mean()}


def begin(folder: Path, up_block_types: Sequence[str]) -> UNet2DConditionModel:
    """The weights in `folder`; attention that `up_block_types` has and they lack adds nothing until it is trained."""
    before = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
    unet = UNet2DConditionModel.from_config({**before.config, "up_block_types": list(up_block_types)})
    lacking, unknown = unet.load_state_dict(before.state_dict(), strict=False)
    if unknown or not all(".attentions." in name for name in lacking):
        raise SystemExit(f"{folder} does not fit this recipe's UNet: give --init a UNet that it exported.")
    for name, module in unet.named_modules():
        if f"{name}.proj_out.weight" in lacking:
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    return unet


def build(options: Options) -> UNet2DConditionModel:
    if options.init:
        return begin(options.init, options.architecture["up_block_types"])
    return UNet2DConditionModel(**options.architecture)


def data(options: Options) -> GroundedLatents:
    return GroundedLatents(places.RUNS / options.latents, places.words(options.nouns))


def loss(training: Training) -> Grounding:
    clip = training.options.clip
    return Grounding(training.model, Conditioning(clip, clip, training.device))


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> dict:
    save(unet, folder)
    return {"nouns": places.words(options.nouns)}


RECIPE = Recipe(build, data, loss, None, export)
