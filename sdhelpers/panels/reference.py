"""A panel for an IP-Adapter: a reference picture, how much it counts, what of it, and the words. Built in chapter 18.

ReferencePanel(pipe, {"a cat": cat, "a rocket": rocket}, "in the snow", {"object and style": [1.0]})
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets as ui
from PIL import Image, ImageOps

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box

SIDE = 256  # pixels at most of the reference as it is shown


def open_picture(path: str) -> Image.Image:
    """A picture file, turned as its camera says, RGB. Raises ValueError with a sentence for the reader."""
    try:
        return ImageOps.exif_transpose(Image.open(Path(path).expanduser())).convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} cannot be opened as a picture ({error}).") from None


class ReferencePanel(Panel):
    """A reference, prompt, scale and seed, and the picture that they make.

    `pipe` has one or more IP-Adapters loaded, `references` are pictures by name. `kinds` says for each choice of what
    the reference gives how much of the scale each adapter gets. `drawn` is the last picture.
    """

    sentences = (ValueError,)

    def __init__(
        self,
        pipe,
        references: Mapping[str, Image.Image],
        prompt: str,
        kinds: Mapping[str, Sequence[float]],
        seed: int = 1234,
        size: int = 128,
        steps: int = 10,
        guidance_scale: float = 7.5,
    ):
        self.pipe, self.size, self.steps, self.guidance_scale = own_copy(pipe), size, steps, guidance_scale
        self.references, self.kinds = dict(references), dict(kinds)
        self.drawn: Image.Image | None = None
        wide, style = ui.Layout(width="34em", max_width="98%"), {"description_width": "6.5em"}
        self.choice = ui.Dropdown(options=list(self.references), description="reference", layout=wide, style=style)
        self.path = ui.Text(
            placeholder="or the path of a picture of yours, then Enter",
            description="own picture",
            continuous_update=False,
            layout=wide,
            style=style,
        )
        self.kind = ui.ToggleButtons(options=list(self.kinds), description="gives its", style=style)
        self.prompt = ui.Text(prompt, description="prompt", continuous_update=False, layout=wide, style=style)
        self.scale = ui.FloatSlider(
            1.0, min=0, max=1.5, step=0.1, description="scale", continuous_update=False, layout=wide, style=style
        )
        self.seed = seed_box(seed, style=style)
        shape = ui.Layout(width="16em", height="16em", object_fit="contain")
        self.shown, self.picture = (ui.Image(value=BLANK, format="png", layout=shape) for _ in range(2))
        self.message = ui.HTML()
        for control in (self.choice, self.path, self.kind, self.prompt, self.scale, self.seed):
            control.observe(lambda _: self.attempt(self.draw), "value")
        pair = ui.HBox([self.shown, self.picture], layout=ui.Layout(flex_flow="row wrap"))
        kind = [self.kind] if len(self.kinds) > 1 else []
        super().__init__([pair, self.choice, self.path, *kind, self.prompt, self.scale, self.seed, self.message])
        self.add_class("sdhelpers-reference-panel")
        self.attempt(self.draw)

    def reference(self) -> Image.Image:
        """The picture of the reader's own where a path is given, else the chosen one."""
        path = self.path.value.strip()
        return open_picture(path) if path else self.references[self.choice.value]

    def draw(self) -> None:
        """The picture of what the controls say, beside its reference."""
        reference, shares = self.reference(), self.kinds[self.kind.value]
        small = reference.copy()
        small.thumbnail((SIDE, SIDE))
        self.shown.value = to_png(small)
        self.pipe.set_ip_adapter_scale([self.scale.value * share for share in shares])
        self.drawn = self.generate(
            prompt=self.prompt.value,
            ip_adapter_image=[reference] * len(shares),
            num_inference_steps=self.steps,
        )
        self.picture.value = to_png(self.drawn)
