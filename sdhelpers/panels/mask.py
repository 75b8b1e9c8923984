"""A panel that tries masks made from words. Built in chapter 1."""

from collections.abc import Callable

import ipywidgets as ui
import numpy as np
import torch
from PIL import Image

from sdhelpers.images import to_png
from sdhelpers.measures.masks import overlay, to_mask
from sdhelpers.panels.base import Panel


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
