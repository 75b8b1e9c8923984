"""A panel with a slider for each LoRA that is loaded into a pipeline, beside the picture without any.

    LoraPanel(pipe, ["icon", "hedgehog"], "a hedgehog in a meadow")

Built in chapter 8.
"""

from collections.abc import Sequence

import ipywidgets as ui
from PIL import Image

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box

STRONGEST = 2.0


class LoraPanel(Panel):
    """Prompt, seed, a weight from -2 to 2 for each adapter, and two pictures from one noise: all weights 0, and these.

    `weights` is what the sliders say, `drawn` the pair of pictures that is shown.
    """

    def __init__(
        self,
        pipe,
        adapters: Sequence[str],
        prompt: str,
        seed: int = 1234,
        size: int = 128,
        steps: int = 20,
        guidance_scale: float = 7.5,
    ):
        self.pipe, self.size, self.steps, self.guidance_scale = own_copy(pipe), size, steps, guidance_scale
        self.drawn: tuple[Image.Image, Image.Image] | None = None
        self._base: tuple[tuple[str, int], Image.Image] | None = None
        wide, style = ui.Layout(width="34em", max_width="98%"), {"description_width": "6.5em"}
        self.prompt = ui.Text(prompt, description="prompt", layout=wide, style=style)
        self.sliders = {
            name: ui.FloatSlider(
                0.0, min=-STRONGEST, max=STRONGEST, step=0.1, description=name, layout=wide, style=style
            )
            for name in adapters
        }
        self.seed = seed_box(seed, style=style)
        self.draw_button = ui.Button(description="Draw", button_style="primary")
        self.zero_button = ui.Button(description="All to 0")
        self.pictures = [ui.Image(value=BLANK, format="png", layout=ui.Layout(width="16em")) for _ in range(2)]
        self.message = ui.HTML()
        self.draw_button.on_click(lambda _: self.attempt(self.draw, self.draw_button))
        self.zero_button.on_click(lambda _: self.reset())
        titles = ("without", "with these weights")
        shown = [ui.VBox([ui.Label(title), picture]) for title, picture in zip(titles, self.pictures)]
        row = ui.HBox([self.seed, self.draw_button, self.zero_button], layout=ui.Layout(flex_flow="row wrap"))
        pair = ui.HBox(shown, layout=ui.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, *self.sliders.values(), row, self.message, pair])
        self.add_class("sdhelpers-lora-panel")

    @property
    def weights(self) -> dict[str, float]:
        return {name: slider.value for name, slider in self.sliders.items()}

    def reset(self) -> None:
        """All sliders to 0; nothing is drawn."""
        for slider in self.sliders.values():
            slider.value = 0.0

    def draw(self) -> None:
        """Draw both pictures; the one without is drawn again only for another prompt or seed."""
        now = (self.prompt.value, self.seed.value)
        if self._base is None or self._base[0] != now:
            self._base = (now, self._picture(dict.fromkeys(self.sliders, 0.0)))
        self.drawn = (self._base[1], self._picture(self.weights))
        for widget, picture in zip(self.pictures, self.drawn):
            widget.value = to_png(picture)

    def _picture(self, weights: dict[str, float]) -> Image.Image:
        self.pipe.set_adapters(list(weights), list(weights.values()))
        return self.generate(prompt=self.prompt.value, num_inference_steps=self.steps)
