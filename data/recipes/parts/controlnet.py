"""What the ControlNet recipes share: a copy of sd15's encoder that sees a picture, trained beside the frozen sd15.

Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models (2023, arXiv:2302.05543), with the library's
own class: the copy's outputs pass convolutions that begin at zero and are added to sd15's skip connections. Pictures
of the control come from the world's truth about the scene whose latents are noised. Recorded beside the
loss, which hardly shows when the copy begins to be heard: the norm of those convolutions, and how well the edges of a
few pictures, drawn while it learns, agree with their scenes' (`probe_every`); the pictures stay in runs/NAME/probes.

Four whole copies of the encoder would be too heavy for the repository. What training changes in a matrix is kept as
two factors of rank `--rank` (its largest singular values), everything else as it is; runs/NAME/whole keeps all.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

import places
from conditioning import Conditioning
from controlled import BASE, Measure, as_image, draw, edge_f1, mean, obedience, pipeline, plain_scenes
from latents import Latents
from loop import Training
from probes import film, keep_strip
from recipe import Options, Recipe
from sdhelpers import models, world

UNTOLD = 0.3  # part of the captions that are left out besides, so that the control must say it
PROBED, PROBE_STEPS = 16, 10  # scenes drawn for a probe, in so many steps


@dataclasses.dataclass(frozen=True)
class Control:
    """One kind of control: its picture of a scene, uint8 [height, width] or [height, width, 3].

    `picture` varies as readers vary it and is what training sees, `usual` the one that is scored, by `measures`.
    """

    picture: Callable[[world.Scene, np.random.RandomState], np.ndarray]
    usual: Callable[[world.Scene], np.ndarray]
    measures: dict[str, Measure]

    def recipe(self) -> Recipe:
        return Recipe(build, self.data, lambda training: Controlled(training, self.usual), self.score, export)

    def score(self, controlnet: ControlNetModel, options: Options) -> dict:
        return obedience(controlnet, self.usual, self.measures, options.images)

    def data(self, options: Options) -> "ControlledLatents":
        return ControlledLatents(places.RUNS / options.latents, models.nouns(), self.picture)


class ControlledLatents(Latents):
    """What `Latents` gives, with the control [3, 128, 128] from 0 to 1, drawn anew from the scene's number."""

    def __init__(self, folder: Path, nouns: Sequence[str], picture: Callable):
        super().__init__(folder, nouns)
        self.nouns, self.picture = nouns, picture

    def __getitem__(self, number: int):
        latents, caption = super().__getitem__(number)
        rng = np.random.RandomState((2_000_003 * number + 29) % 2**32)
        scene_number = self.arrays["numbers"][self.index(number)]
        scene = world.sample(np.random.RandomState(scene_number), nouns=self.nouns, latent_grid=True)
        caption = "" if rng.random_sample() < UNTOLD else caption
        return latents, caption, control_tensor(self.picture(scene, rng))


def control_tensor(picture: np.ndarray) -> torch.Tensor:
    """A control as the pipeline makes it of an image: [3, height, width] from 0 to 1."""
    colours = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    return torch.from_numpy(colours.astype(np.float32) / 255).permute(2, 0, 1)


class Controlled(Conditioning):
    """As for sd15, whose UNet is frozen here and told by the ControlNet what the control shows.

    All time steps are spread evenly: a layout is settled where the noise is strong, and sd15's own training looks there
    too rarely for it.
    """

    even = 1.0

    def __init__(self, training: Training, usual: Callable):
        super().__init__(BASE / "tokenizer", BASE / "text_encoder", training.device)
        unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
        self.unet = unet.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.scenes = plain_scenes(PROBED)
        self.controls = [as_image(usual(scene)) for scene in self.scenes]
        self.run = training.folder

    def prepare(self, batch):
        latents, captions, controls = batch
        return *super().prepare((latents, captions)), controls.to(self.device, memory_format=torch.channels_last)

    def loss_of(self, controlnet, noisy, noise, timesteps, text_embeddings, weights, controls):
        down, mid = controlnet(noisy, timesteps, text_embeddings, controls, return_dict=False)
        predicted = self.unet(
            noisy, timesteps, text_embeddings, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample.float()
        each = (predicted - noise).square().mean((1, 2, 3))
        norm = norm_of_zero_convolutions(controlnet)
        return (weights * each).mean(), {"plain_mse": each.mean(), "zero_convolutions": norm}

    def probe(self, controlnet: ControlNetModel, step: int) -> dict[str, float]:
        """Draw the probe's scenes from their controls and captions, keep a few, and measure their edges."""
        captions = [scene.caption for scene in self.scenes]
        images = draw(pipeline(controlnet, self.unet), captions, self.controls, PROBE_STEPS)
        keep_strip(self.run, step, images)
        return {"edge_f1": mean(edge_f1, self.scenes, images)}


def norm_of_zero_convolutions(controlnet: ControlNetModel) -> torch.Tensor:
    """Root of the sum of squares of all weights that began at zero and whose outputs reach sd15."""
    convolutions = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    return torch.stack([c.weight.detach().float().square().sum() for c in convolutions]).sum().sqrt()


def build(options: Options) -> ControlNetModel:
    if options.init:
        return ControlNetModel.from_pretrained(options.init, dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=tuple(map(int, options.embedding.split(",")))
    )


def low_rank(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [out, rank] and [rank, in, ...] of a matrix, or of a convolution's weights as one: its best fit."""
    u, s, v = torch.linalg.svd(difference.flatten(1).double(), full_matrices=False)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    return up.float(), down.float().view(-1, *difference.shape[1:])


def changes(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], rank: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What `after` has that `before` lacks, or that is small, as it is; and the factors of what differs elsewhere."""
    changed, factors = {}, {}
    for name, tensor in after.items():
        tensor = tensor.float().cpu()
        known = name in before and before[name].shape == tensor.shape
        if known and tensor.ndim > 1 and min(tensor.flatten(1).shape) > 2 * rank:
            factors[f"{name}.up"], factors[f"{name}.down"] = low_rank(tensor - before[name], rank)
        else:
            changed[name] = tensor
    return changed, factors


def export(controlnet: ControlNetModel, folder: Path, options: Options) -> dict:
    """The full one into runs/NAME/whole; here the factors of what differs from sd15, and what sd15 lacks."""
    controlnet.save_pretrained(folder.parent / "whole")
    film(folder.parent)
    before = UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32).state_dict()
    changed, factors = changes(before, controlnet.state_dict(), options.rank)
    for file, tensors in (("changed", changed), ("low_rank", factors)):
        save_file({k: v.half().contiguous() for k, v in tensors.items()}, folder / f"{file}.safetensors")
    controlnet.save_config(folder)
    return {"rank": options.rank}
