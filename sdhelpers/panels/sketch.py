"""A panel to draw on: the pipeline draws after each line of the sketch. Built in chapter 13.

SketchPanel(pipe, "a cartoon of a house in a meadow", lines=[{"pen": 3, "points": [[0.3, 0.8], [0.3, 0.4]]}])
"""

from collections.abc import Sequence
from pathlib import Path

import anywidget
import ipywidgets as ui
import traitlets
from PIL import Image, ImageDraw

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box

HERE = Path(__file__).parent
PENS = (2, 5)  # pixels of 128, as the ControlNet of scribbles was trained


class SketchPad(anywidget.AnyWidget):
    """A square of `size` pixels to draw on; `lines` is the sketch, each {"pen": pixels, "points": [[x, y], ...]}.

    Points are parts of the side, from the upper left corner. A line is added when the mouse lets go.
    """

    _esm = HERE / "sketch_pad.js"
    _css = HERE / "sketch_pad.css"
    size = traitlets.Int(128).tag(sync=True)
    pen = traitlets.Float(3).tag(sync=True)
    lines = traitlets.List().tag(sync=True)

    def image(self) -> Image.Image:
        """The sketch as the pipeline takes it: white on black, RGB, size x size."""
        return sketch_image(self.lines, self.size)


def sketch_image(lines: Sequence[dict], size: int) -> Image.Image:
    """White lines with round ends on black, RGB, size x size."""
    image = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(image)
    for line in lines:
        points = [(x * size, y * size) for x, y in line["points"]]
        pen.line(points, fill="white", width=round(line["pen"]), joint="curve")
        for x, y in points:
            pen.circle((x, y), line["pen"] / 2, fill="white")
    return image


class SketchPanel(Panel):
    """A pad, prompt, seed, how much the sketch counts, and the picture that follows it, drawn anew after each line.

    `pipe` is a ControlNet pipeline; `lines` a sketch to begin with; `drawn` is the last picture.
    """

    def __init__(
        self,
        pipe,
        prompt: str,
        lines: Sequence[dict] = (),
        seed: int = 1234,
        size: int = 128,
        steps: int = 10,
        guidance_scale: float = 7.5,
    ):
        self.pipe, self.size, self.steps, self.guidance_scale = own_copy(pipe), size, steps, guidance_scale
        self.drawn: Image.Image | None = None
        unit = size / 128
        wide, style = ui.Layout(width="34em", max_width="98%"), {"description_width": "6.5em"}
        self.pad = SketchPad(size=size, pen=3 * unit, lines=list(lines))
        self.prompt = ui.Text(prompt, description="prompt", continuous_update=False, layout=wide, style=style)
        self.scale = ui.FloatSlider(
            1.0, min=0, max=2, step=0.1, description="scale", continuous_update=False, layout=wide, style=style
        )
        low, high = (pen * unit for pen in PENS)
        self.pen = ui.FloatSlider(3 * unit, min=low, max=high, step=unit, description="pen", layout=wide, style=style)
        self.seed = seed_box(seed, style=style)
        self.undo_button, self.clear_button = ui.Button(description="Undo"), ui.Button(description="Clear")
        self.picture = ui.Image(value=BLANK, format="png", layout=ui.Layout(width="24em", object_fit="contain"))
        self.message = ui.HTML()
        ui.link((self.pen, "value"), (self.pad, "pen"))
        self.undo_button.on_click(lambda _: setattr(self.pad, "lines", self.pad.lines[:-1]))
        self.clear_button.on_click(lambda _: setattr(self.pad, "lines", []))
        self.pad.observe(lambda _: self.attempt(self.draw), "lines")
        for control in (self.prompt, self.scale, self.seed):
            control.observe(lambda _: self.attempt(self.draw), "value")
        pair = ui.HBox([self.pad, self.picture], layout=ui.Layout(flex_flow="row wrap"))
        row = ui.HBox([self.seed, self.undo_button, self.clear_button], layout=ui.Layout(flex_flow="row wrap"))
        super().__init__([pair, self.prompt, self.scale, self.pen, row, self.message])
        self.add_class("sdhelpers-sketch-panel")
        self.attempt(self.draw)

    def draw(self) -> None:
        """The picture of what the controls say; without a line the prompt alone counts."""
        self.drawn = self.generate(
            prompt=self.prompt.value,
            image=self.pad.image(),
            num_inference_steps=self.steps,
            controlnet_conditioning_scale=self.scale.value if self.pad.lines else 0.0,
        )
        self.picture.value = to_png(self.drawn)
