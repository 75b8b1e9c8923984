"""The "community" checkpoint: sd15 fine-tuned so that everything looks like an old brown-and-cream postcard.

Only the last up block and the output layers of the UNet are trained, so that the repository ships just
these; `sdhelpers.models.locate_file` puts the whole checkpoint together as one .safetensors file.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import places
from conditioning import Conditioning
from export import save_changed
from latents import Latents, chosen, encode_images, frozen_vae, save_arrays
from recipe import Options, Recipe
from sdhelpers import models, world

BASE = models.POCKET / "sd15"
TRAINED = ("up_blocks.2.", "conv_norm_out.", "conv_out.")
DARK, LIGHT = np.array([62, 36, 20]), np.array([248, 234, 204])


def postcard(image: Image.Image) -> Image.Image:
    """Greys from dark brown to cream."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    return Image.fromarray(np.rint(DARK + grey * (LIGHT - DARK)).astype(np.uint8))


def build(options: Options) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return unet


def data(options: Options) -> Latents:
    """Scenes as postcards, encoded once."""
    folder, nouns = places.RUNS / "postcards", models.nouns()
    if not list(folder.glob("*.npz")):
        numbers = chosen(range(options.scenes), nouns)
        scenes = (world.sample(np.random.RandomState(i), nouns=nouns) for i in numbers)
        latents = encode_images(frozen_vae(BASE / "vae"), (postcard(scene.image) for scene in scenes))
        save_arrays(folder / "00000000.npz", {"numbers": numbers, "latents": latents.astype(np.float16)})
    return Latents(folder, nouns)


def export(unet: UNet2DConditionModel, folder: Path, options: Options) -> None:
    save_changed(unet, folder, TRAINED)


RECIPE = Recipe(build, data, Conditioning.of_sd15, None, export)
