"""Pictures that were made beforehand, turned over by a slider: `Flipbook(images, labels)`. Built in chapter 4."""

from collections.abc import Sequence

import ipywidgets as ui
from PIL import Image

from sdhelpers.panel import to_png


class Flipbook(ui.VBox):
    """One picture at a time with its label; a slider and a play button turn the pages.

    Raises ValueError when there are no images or not one label an image.
    """

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[str], description: str = "page"):
        if not images or len(images) != len(labels):
            raise ValueError(f"A flipbook needs images and one label each; got {len(images)} and {len(labels)}.")
        self._pages = [to_png(image.convert("RGB")) for image in images]
        self._labels = list(labels)
        last = len(images) - 1
        self.page = ui.IntSlider(0, min=0, max=last, description=description, readout=False)
        self.play = ui.Play(value=0, min=0, max=last, interval=400)
        ui.jslink((self.play, "value"), (self.page, "value"))
        self.picture, self.label = ui.Image(format="png", layout=ui.Layout(max_width="40em")), ui.Label()
        self.picture.layout.align_self = "flex-start"
        self.page.observe(lambda change: self._turn(change["new"]), "value")
        self._turn(0)
        super().__init__([ui.HBox([self.play, self.page, self.label]), self.picture])
        self.add_class("sdhelpers-flipbook")

    def _turn(self, page: int) -> None:
        self.picture.value, self.label.value = self._pages[page], self._labels[page]
