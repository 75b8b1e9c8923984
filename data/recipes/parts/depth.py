"""The depth estimator: from a picture to how near each of its pixels is, for pictures whose truth nobody knows.

Ranftl et al., Vision Transformers for Dense Prediction (2021, arXiv:2103.13413), the library's own class in miniature.
It learns from the world's depth, 0 far to 1 near. Half of the pictures go through the VAE and back, so that what sd15
draws is read as well as what the world draws. It never sees what a UNet has drawn.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from export import save
from latents import frozen_vae, through
from loop import Training
from recipe import Options, Recipe
from scenes_data import FRESH
from sdhelpers import world
from sdhelpers.measures.depth import order_right
from sdhelpers.measures.judge import to_batch

SIZE = 128


class Depths(Dataset):
    """Scene number i: pixels [3, 128, 128] from -1 to 1, and depth [128, 128]; every second one has two objects."""

    def __getitem__(self, number: int):
        rng = np.random.RandomState(number)
        description = world.describe(rng, held_out=True)
        while number % 2 and len(description.nouns) < 2:
            description = world.describe(rng, held_out=True)
        scene = world.draw(description, rng)
        return to_batch([scene.image])[0], torch.from_numpy(np.ascontiguousarray(scene.depth))


class Estimating:
    """The mean error of the depth, and of its steps from pixel to pixel, so that outlines are sharp."""

    def __init__(self, training: Training):
        self.device, self.vae = training.device, frozen_vae(training.options.vae)

    def prepare(self, batch):
        pixels, depth = (part.to(self.device) for part in batch)
        half = len(pixels) // 2
        pixels = torch.cat([through(self.vae, pixels[:half]).float(), pixels[half:]])
        return pixels.to(memory_format=torch.channels_last), depth

    @staticmethod
    def loss_of(model, pixels, depth):
        found = model(pixel_values=pixels).predicted_depth.float()
        error = (found - depth).abs().mean()
        steps = sum(F.l1_loss(found.diff(dim=d), depth.diff(dim=d)) for d in (1, 2))
        return error + 2 * steps, {"error": error, "steps": steps}


def build(options: Options) -> DPTForDepthEstimation:
    if options.init:
        return DPTForDepthEstimation.from_pretrained(options.init, dtype=torch.float32)
    model = DPTForDepthEstimation(DPTConfig(**options.architecture))
    # The answer goes through a ReLU: a head that starts below zero would have no gradient, and stay there.
    torch.nn.init.constant_(model.head.head[-2].bias, 0.5)
    return model


@torch.no_grad()
def score(model: DPTForDepthEstimation, options: Options, count: int = 512) -> dict[str, float]:
    """Fresh scenes after the VAE: mean error of the depth, and the part of pairs of pixels in the right order.

    Beside the order what would be luck, another scene's true depth.
    """
    vae = frozen_vae(options.vae).to("cpu")
    errors, right, luck = [], [], []
    for first in range(FRESH + 900_000, FRESH + 900_000 + count, 32):
        scenes = [world.sample(np.random.RandomState(number)) for number in range(first, first + 32)]
        found = model(pixel_values=through(vae, to_batch([s.image for s in scenes]))).predicted_depth.numpy()
        errors += [np.abs(f - s.depth).mean() for f, s in zip(found, scenes)]
        right += [order_right(f, s.depth) for f, s in zip(found, scenes)]
        luck += [order_right(other.depth, s.depth) for other, s in zip(scenes[1:], scenes)]
    means = {"mean error": errors, "order right": right, "order right, another scene's depth": luck}
    return {name: round(float(np.mean(values)), 4) for name, values in means.items()}


def export(model: DPTForDepthEstimation, folder, options: Options) -> None:
    """The model, and the processor that readers give pictures to."""
    save(model, folder)
    size = {"height": SIZE, "width": SIZE}
    DPTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_pad=False).save_pretrained(folder)


RECIPE = Recipe(build, lambda options: Depths(), Estimating, score, export)
