"""How close generated pictures come to the world's drawings: a judge that was never trained.

Used by `evaluate sd15` for the card and by `sweep` for comparisons. The world has exactly one drawing for a noun and a
style, so a perfect picture contains it, pixel by pixel. For every picture, the drawing of the right noun is laid over
it at every place and in every size that the world uses, and the smallest mean square difference under the drawing is
kept; of all nouns' drawings, the one that fits best says what the picture shows. Drawn scenes after the VAE are the
best that any UNet could do.

Two more numbers tell where a UNet loses it: how well it draws back true latents from a little noise, and how far
its guess of the clean latents is off at that noise.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from card import share
from sdhelpers import world
from sdhelpers.images import to_tensor
from sdhelpers.measures.pixels import psnr, sharpness
from sdhelpers.world import Description
from sdhelpers.world.drawings import drawing
from sdhelpers.world.scenes import SIZES

OPAQUE = 0.9  # alpha from which a drawing's pixel counts; the soft edge shows what is behind, too
OVERHANG = 8  # a drawing may stand out of the picture by one part in so many of its side
SATURATION = 0.91  # the world draws plain pictures with 0.88 to 0.94 of the drawings' own
GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
ENOUGH = 0.85  # part of a drawing that must lie within the picture


def sizes(side: int) -> list[int]:
    """Longer sides, in pixels, of an only object in a picture of this side: the world's own and those between."""
    between = [(a + b) / 2 for a, b in itertools.pairwise(SIZES)]
    around = [2 * SIZES[0] - between[0], 2 * SIZES[-1] - between[-1]]
    return sorted({round(part * side) for part in (*SIZES, *between, *around)})


class Template:
    """A drawing as what `smallest_errors` needs: its transforms on a canvas a quarter larger than the picture."""

    def __init__(self, noun: str, style: str, size: int, side: int):
        pixels = torch.from_numpy(drawing(noun, style, size) / np.float32(255)).permute(2, 0, 1)
        covered = (pixels[3:] > OPAQUE).float()
        colours = covered * pixels[:3] / pixels[3:].clamp(min=OPAQUE)  # they come multiplied by alpha
        colours = SATURATION * colours + (1 - SATURATION) * (colours * GREY).sum(0, keepdim=True)
        canvas = (side * 5 // 4,) * 2
        self.transforms = torch.fft.rfft2(torch.cat([covered, -2 * colours]), s=canvas).conj()
        inside = torch.fft.rfft2(torch.ones(side, side), s=canvas)
        own = torch.cat([colours.square().sum(0, keepdim=True), covered])
        own = torch.fft.irfft2(inside * torch.fft.rfft2(own, s=canvas).conj(), s=canvas)
        self.squares, self.area = own
        height, width = self.shape = covered.shape[1:]
        edge, places = side // OVERHANG, torch.arange(canvas[0])
        places = torch.where(places >= canvas[0] - edge, places - canvas[0], places)
        within = [(places >= -edge) & (places <= side - length + edge) for length in (height, width)]
        self.allowed = within[0][:, None] & within[1] & (self.area > ENOUGH * covered.sum())

    def smallest_errors(self, transforms: torch.Tensor) -> torch.Tensor:
        """For each of the pictures, given as `transforms_of` gives them, the error at the best place."""
        return self.errors(transforms).amin((1, 2)).clamp(min=0)

    def errors(self, transforms: torch.Tensor) -> torch.Tensor:
        """The same at every place of the drawing's upper left corner, beyond the canvas' end for one less than 0."""
        sums = torch.fft.irfft2((transforms * self.transforms).sum(1), s=self.area.shape) + self.squares
        return (sums / (3 * self.area.clamp(min=1))).masked_fill(~self.allowed, torch.inf)


def transforms_of(images: Sequence[Image.Image], side: int) -> torch.Tensor:
    """Pictures reduced to `side`, as transforms of their squares and their three colours: [n, 4, ...]."""
    reduced = [image.convert("RGB").resize((side, side), Image.Resampling.BOX) for image in images]
    pixels = torch.from_numpy(np.stack(reduced) / np.float32(255)).permute(0, 3, 1, 2)
    parts = torch.cat([pixels.square().sum(1, keepdim=True), pixels], 1)
    return torch.fft.rfft2(parts, s=(side * 5 // 4,) * 2)


def smallest_errors(images: Sequence[Image.Image], noun: str, style: str, side: int = 128) -> torch.Tensor:
    """For each picture, the mean square error (of colours from 0 to 1) where this noun's drawing fits best."""
    return _best_fits(transforms_of(images, side), noun, style, side)


def place_of(image: Image.Image, noun: str, style: str, side: int = 128) -> tuple[float, float]:
    """The middle of this noun's drawing where it fits a picture best: x and y in pixels of the picture."""
    transforms, best = transforms_of([image], side), (torch.inf, 0.0, 0.0)
    for size in sizes(side):
        template = Template(noun, style, size, side)
        errors = template.errors(transforms)[0]
        rows, columns = errors.shape
        y, x = divmod(int(errors.argmin()), columns)
        y, x = (place - count if place > side else place for place, count in ((y, rows), (x, columns)))
        height, width = template.shape
        best = min(best, (float(errors.min()), x + width / 2, y + height / 2))
    return best[1] * image.width / side, best[2] * image.height / side


def _best_fits(transforms: torch.Tensor, noun: str, style: str, side: int) -> torch.Tensor:
    return torch.stack([Template(noun, style, s, side).smallest_errors(transforms) for s in sizes(side)]).amin(0)


def best_nouns(
    images: Sequence[Image.Image], styles: Sequence[str], nouns: Sequence[str], side: int = 128
) -> list[str]:
    """Which of `nouns`, drawn in the picture's style, fits each picture best."""
    found = [""] * len(images)
    for style in set(styles):
        which = [i for i, other in enumerate(styles) if other == style]
        transforms = transforms_of([images[i] for i in which], side)
        errors = torch.stack([_best_fits(transforms, noun, style, side) for noun in nouns])
        for i, best in zip(which, errors.argmin(0)):
            found[i] = nouns[best]
    return found


def errors_of(images: Sequence[Image.Image], tasks: Sequence[Description]) -> list[float]:
    """For each picture of one object, the root of the error of its own noun's drawing."""
    errors = [0.0] * len(images)
    for noun, style in {(task.nouns[0], task.style) for task in tasks}:
        which = [i for i, task in enumerate(tasks) if (task.nouns[0], task.style) == (noun, style)]
        for i, error in zip(which, smallest_errors([images[i] for i in which], noun, style)):
            errors[i] = float(error.sqrt())
    return errors


def compare(
    images: Sequence[Image.Image], ceiling: Sequence[Image.Image], tasks: Sequence[Description], nouns: Sequence[str]
) -> dict[str, float]:
    """Generated pictures of one object each beside `ceiling`, drawn scenes of the same tasks after the VAE."""
    styles, wanted = [task.style for task in tasks], [task.nouns[0] for task in tasks]
    right = [a == b for a, b in zip(best_nouns(images, styles, nouns), wanted)]
    highest = [a == b for a, b in zip(best_nouns(ceiling, styles, nouns), wanted)]
    error, least = np.mean(errors_of(images, tasks)), np.mean(errors_of(ceiling, tasks))
    sharp, sharpest = (np.mean([sharpness(image) for image in some]) for some in (images, ceiling))
    of_style = {
        f"noun right by the drawings, {style}": share(flag for flag, s in zip(right, styles) if s == style)
        for style in sorted(set(styles))
    }
    return {
        "noun right by the drawings": share(right),
        **of_style,
        "noun right by the drawings, drawn scenes after the VAE": share(highest),
        "drawing's error": round(float(error), 4),
        "drawing's error, of that in drawn scenes after the VAE": round(float(error / least), 3),
        "sharpness, of that of drawn scenes after the VAE": round(float(sharp / sharpest), 3),
    }


@torch.inference_mode()
def drawn_back(pipe: StableDiffusionPipeline, scenes: Sequence[world.Scene], steps: int = 10) -> dict[str, float]:
    """PSNR of true latents that are noised to t and drawn back without guidance, and how far the first guess is off."""
    pixels = torch.stack([to_tensor(scene.image) for scene in scenes])
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    texts, _ = pipe.encode_prompt([scene.caption for scene in scenes], "cpu", 1, False)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    alpha_bar = pipe.scheduler.alphas_cumprod

    def decibels(latents: torch.Tensor) -> float:
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        return round(float(np.mean([psnr(a, b) for a, b in zip(images, pixels)])), 2)

    scores = {"VAE alone, dB": decibels(latents)}
    for t in (100, 500):
        x = alpha_bar[t].sqrt() * latents + (1 - alpha_bar[t]).sqrt() * noise
        way = [round(t * left / steps) for left in range(steps, -1, -1)]
        for now, then in itertools.pairwise(way):  # DDIM; the last guess of the clean latents is the result
            predicted = pipe.unet(x, now, texts).sample
            clean = (x - (1 - alpha_bar[now]).sqrt() * predicted) / alpha_bar[now].sqrt()
            if now == t:
                scores[f"clean guess at t = {t}, rms"] = round(float((clean - latents).square().mean().sqrt()), 4)
            x = alpha_bar[then].sqrt() * clean + (1 - alpha_bar[then]).sqrt() * predicted
        scores[f"back from t = {t}, dB"] = decibels(clean)
    return scores
