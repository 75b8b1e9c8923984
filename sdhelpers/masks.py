"""Masks from words, soft edges, and a panel to try both. Built in chapter 1, used again in chapter 18."""

from collections.abc import Callable

import ipywidgets as ui
import numpy as np
import torch
from PIL import Image, ImageFilter

from sdhelpers.panel import Panel, to_png

TINT = np.array([255, 0, 200], np.float32)


@torch.no_grad()
def text_probability(model, processor, image: Image.Image, text: str) -> torch.Tensor:
    """How probably each pixel shows what the text names, by CLIPSeg: [height, width] of the image, 0 to 1.

    Source: Lüddecke & Ecker, Image Segmentation Using Text and Image Prompts (2022). Built in chapter 1.
    """
    inputs = processor(text=[text], images=[image.convert("RGB")], return_tensors="pt").to(model.device)
    logits = model(**inputs).logits.float()  # [1, 256, 256]
    larger = torch.nn.functional.interpolate(logits[None], size=image.size[::-1], mode="bilinear")
    return larger.sigmoid()[0, 0].cpu()


def to_mask(probability: torch.Tensor, threshold: float = 0.5, feather: float = 0) -> Image.Image:
    """White where the probability exceeds the threshold, with an edge softened over `feather` pixels; mode "L"."""
    hard = Image.fromarray(np.uint8(255 * (probability.numpy() > threshold)))
    return hard.filter(ImageFilter.GaussianBlur(feather)) if feather else hard


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with the masked part tinted pink."""
    amount = np.asarray(mask, np.float32)[..., None] / 255 * 0.6
    pixels = np.asarray(image.convert("RGB"), np.float32)
    return Image.fromarray(np.uint8(np.rint(pixels * (1 - amount) + TINT * amount)))


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays: 0 (apart) to 1 (equal); 1 when both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


class MaskPanel(Panel):
    """A picture with the part tinted that some words name; threshold and soft edge as sliders.

    `probability_of(words)` gives [height, width] from 0 to 1. `mask` is what the controls say now.
    """

    sentences = (ValueError,)

    def __init__(self, image: Image.Image, probability_of: Callable[[str], torch.Tensor], words: str):
        self.image, self.probability_of = image, probability_of
        style = {"description_width": "6em"}
        self.words = ui.Text(words, description="words", continuous_update=False, style=style)
        self.threshold = ui.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", style=style)
        self.feather = ui.FloatSlider(0, min=0, max=8, step=0.5, description="soft edge", style=style)
        self.picture = ui.Image(format="png", layout=ui.Layout(width="18em", height="18em", object_fit="contain"))
        self.message = ui.HTML()
        for control in (self.words, self.threshold, self.feather):
            control.observe(lambda change: self.draw(), "value")
        super().__init__([ui.HBox([ui.VBox([self.words, self.threshold, self.feather]), self.picture]), self.message])
        self.add_class("sdhelpers-masks")
        self.draw()

    def draw(self) -> None:
        """Tint what the controls say; an error is shown in the panel."""
        try:
            words = self.words.value.strip()
            if not words:
                raise ValueError("Write what is to be masked, for example: the background.")
            self.mask = to_mask(self.probability_of(words), self.threshold.value, self.feather.value)
        except Exception as error:
            return self.say_error(error)
        share = np.asarray(self.mask, np.float32).mean() / 255
        self.picture.value = to_png(overlay(self.image, self.mask))
        self.message.value = f"<span>{share:.0%} of the pixels are masked.</span>"
        return None
