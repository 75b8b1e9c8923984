"""The pocket SDXL's base UNet: the noise in 24x24x4 latents, told of both encoders, of sizes and of crops.

SDXL's own plan in small (Podell et al. 2023, arXiv:2307.01952): no attention where the latents are finest, deeper
transformers below, heads of one width, linear projections, and `text_time` embeddings of the pooled caption and of six
numbers. `--init` with sd15's UNet begins with what that has learnt, wherever there is a place for it; its attention
then listens to the new text embeddings through the linear map that explains its own ones best. As for sd15, each
noun's cross-attention is asked to lie on its object, and little noise counts. Needs the second text encoder, and the
latents of the new VAE (`encode --originals`), first of 128 pixels, then of 192.
"""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

import places
from artist import heads_right, held_out_tasks
from card import share
from conditioning_xl import PairedConditioning
from export import save
from latents import frozen_vae
from loop import Training
from originals import OriginalLatents
from parts.unet import Grounding
from probes import film, keep_strip
from recipe import Options, Recipe
from sdhelpers import world
from sdhelpers.device import seeded_generator
from sdhelpers.measures.judge import Classifier

PROBED, PROBE_STEPS, GUIDANCE = 12, 12, 3.0  # pictures of a look, in so many steps
FITTED = 200  # captions from which sd15's embeddings are explained
RIDGE = 1e-4  # keeps that map small where a few captions tell nothing
DROPPED = ("down_blocks.0.attentions.", "up_blocks.2.attentions.")  # of sd15: SDXL's finest level has no attention


class LevelGrounding(Grounding):
    """Asks the level above the last, which sees 12x12 pixels of attention in pictures of 192, 8x8 in those of 128."""

    sides = (12, 8)


class Drawing(LevelGrounding):
    """What the training asks, and from time to time a look at what is drawn of some captions that it never sees."""

    def __init__(self, training: Training):
        options = training.options
        super().__init__(training.model, PairedConditioning.of(training))
        self.run, self.size = training.folder, options.size
        self.vae = frozen_vae(options.vae)
        self.tasks, self.captions = held_out_tasks(PROBED, places.nouns(options.nouns))

    def probe(self, unet: UNet2DConditionModel, step: int) -> dict[str, float]:
        """Draw them, keep a few, and ask the judge for the nouns."""
        images = self.conditioning.pipeline(unet, self.vae)(
            self.captions,
            height=self.size,
            width=self.size,
            num_inference_steps=PROBE_STEPS,
            guidance_scale=GUIDANCE,
            generator=[seeded_generator(i) for i in range(len(self.captions))],
        ).images
        keep_strip(self.run, step, images)
        return {"noun_right": share(heads_right(Classifier()(images), self.tasks)["noun"])}


@torch.no_grad()
def explained(conditioning: PairedConditioning) -> tuple[torch.Tensor, torch.Tensor]:
    """The map [128, 320] and offset [128] that take both encoders' embeddings nearest to those that sd15 reads."""
    scenes = range(FITTED)
    captions = [world.write_caption(world.describe(rng), rng) for rng in map(np.random.RandomState, scenes)]
    given, _ = conditioning.both(captions, captions)
    wanted = conditioning.text_encoder(conditioning.tokens(captions)).last_hidden_state
    given, wanted = given.flatten(0, 1), wanted.flatten(0, 1)
    middle, target = given.mean(0), wanted.mean(0)
    squares, products = (given - middle).T @ (given - middle), (given - middle).T @ (wanted - target)
    matrix = torch.linalg.solve(squares + RIDGE * squares.trace() / len(squares) * torch.eye(len(squares)), products).T
    return matrix, target - matrix @ middle


def as_linear(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution before or after a transformer as SDXL's linear projection."""
    return weight[:, :, 0, 0] if re.search(r"proj_(in|out)\.weight$", name) and weight.ndim == 4 else weight


@torch.no_grad()
def learnt_by_sd15(sd15: UNet2DConditionModel, matrix: torch.Tensor, offset: torch.Tensor) -> dict[str, torch.Tensor]:
    """sd15's weights as SDXL's UNet takes them; its attention reads `matrix @ embedding + offset`.

    What the offset adds to all keys alike no softmax notices; to the values it adds what goes into the output's bias.
    """
    before = sd15.state_dict()
    weights = {k: as_linear(k, v.clone()) for k, v in before.items() if not k.startswith(DROPPED)}
    for name in [name for name in weights if name.endswith("attn2.to_v.weight")]:
        attention = name.removesuffix("to_v.weight")
        weights[f"{attention}to_out.0.bias"] += weights[f"{attention}to_out.0.weight"] @ weights[name] @ offset
        for part in ("to_k", "to_v"):
            weights[f"{attention}{part}.weight"] = weights[f"{attention}{part}.weight"] @ matrix
    return weights


def speaks(name: str, lacking: Collection[str]) -> bool:
    """Whether a parameter is the last one of what is new, by which it adds to what was there."""
    if ".transformer_blocks." in name and re.sub(r"transformer_blocks\..*", "proj_out.weight", name) not in lacking:
        return bool(re.search(r"\.(attn[12]\.to_out\.0|ff\.net\.2)\.", name))
    return bool(re.search(r"(add_embedding\.linear_2|proj_out)\.", name))


@torch.no_grad()
def begin(
    sd15: UNet2DConditionModel, architecture: dict, matrix: torch.Tensor, offset: torch.Tensor
) -> UNet2DConditionModel:
    """SDXL's UNet with what sd15's has learnt; layers that are new add nothing until they are trained."""
    unet = UNet2DConditionModel(**architecture)
    lacking, unknown = unet.load_state_dict(learnt_by_sd15(sd15, matrix, offset), strict=False)
    if unknown:
        raise SystemExit(f"sd15's UNet does not fit this architecture: {unknown[0]} has no place there.")
    for name in lacking:
        if speaks(name, lacking):
            unet.get_parameter(name).zero_()
    return unet


def build(options: Options) -> UNet2DConditionModel:
    if not options.init:
        return UNet2DConditionModel(**options.architecture)
    before = UNet2DConditionModel.from_pretrained(options.init, dtype=torch.float32)
    if before.config.addition_embed_type == "text_time":
        return before
    conditioning = PairedConditioning(options.text, torch.device("cpu"))
    return begin(before, options.architecture, *explained(conditioning))


def data(options: Options) -> OriginalLatents:
    return OriginalLatents(places.RUNS / options.latents, places.nouns(options.nouns))


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> dict:
    save(unet, folder)
    film(folder.parent)
    return {"nouns": places.nouns(options.nouns)}


RECIPE = Recipe(build, data, Drawing, None, export)
