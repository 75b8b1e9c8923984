"""Fine-tune sd15 into the "community" checkpoint: everything looks like an old brown-and-cream postcard.

    python data/recipes/train_community.py

Only the last up block and the output layers of the UNet are trained, so that the repository ships just
these; `sdhelpers.models.locate_file` puts the whole checkpoint together as one .safetensors file.
"""

import json
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from encode_latents import chosen
from loop import RUNS, Training, arguments
from sdhelpers import models, world
from sdhelpers.measures.judge import to_batch
from train_unet import Conditioning, Latents, collate

TRAINED = ("up_blocks.2.", "conv_norm_out.", "conv_out.")
DARK, LIGHT = np.array([62, 36, 20]), np.array([248, 234, 204])


def postcard(image: Image.Image) -> Image.Image:
    """Greys from dark brown to cream."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    return Image.fromarray(np.rint(DARK + grey * (LIGHT - DARK)).astype(np.uint8))


@torch.inference_mode()
def encode_postcards(vae: AutoencoderKL, numbers: list[int], nouns: Sequence[str]) -> np.ndarray:
    """The scaled latents of these scenes as postcards."""
    parts = []
    for first in range(0, len(numbers), 50):
        scenes = [world.sample(np.random.RandomState(i), nouns=nouns) for i in numbers[first : first + 50]]
        pixels = to_batch([postcard(scene.image) for scene in scenes])
        parts.append((vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor).half().numpy())
    return np.concatenate(parts)


def main() -> None:
    options = arguments(__doc__, steps=600, batch=32, lr=1e-3, ema=0.99, scenes=6_000)
    base = models.POCKET / "sd15"
    folder = RUNS / "postcards"
    if not list(folder.glob("*.npz")):
        folder.mkdir(parents=True, exist_ok=True)
        vae = AutoencoderKL.from_pretrained(base / "vae", dtype=torch.float32).eval()
        numbers = chosen(range(options.scenes), models.nouns())
        np.savez(folder / "00000000.npz", numbers=numbers, latents=encode_postcards(vae, numbers, models.nouns()))
    unet = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.float32)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    training = Training("community", unet, options)
    conditioning = Conditioning(base / "tokenizer", base / "text_encoder", training.device)
    training.run(Latents(folder, models.nouns()), conditioning.prepare, conditioning.loss_of, collate)
    changed = training.averaged_model().state_dict()
    export = training.folder / "export"
    export.mkdir(exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in changed.items() if k.startswith(TRAINED)}, export / "changed.safetensors"
    )
    facts = {**training.facts(), "recipe": "data/recipes/train_community.py"}
    (export / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
