"""Two pictures of one thing, one over the other: `BeforeAfter(images, labels)`. Built in chapter 11.

A slider moves the line between them, two menus choose which ones are shown. All of that happens in the browser, as in
a flipbook, so that it lives without a kernel; where scripts are taken out, the sheet of all pictures is seen.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sdhelpers.images import labelled_grid
from sdhelpers.panels.sheet import COLUMNS, GAP, alive, small_file

SCRIPT = Path(__file__).with_suffix(".js")


class BeforeAfter:
    """The first picture on the left of a movable line and the second on the right of it, each `scale` times as large.

    Of more than two any two can be chosen. Raises ValueError for fewer than two, without one label an image, and for
    images of several sizes.
    """

    def __init__(
        self,
        images: Sequence[Image.Image],
        labels: Sequence[str],
        description: str = "before and after",
        scale: int = 2,
    ):
        if len(images) < 2 or len(images) != len(labels):
            raise ValueError(f"Give two images or more and one label each; got {len(images)} and {len(labels)}.")
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            raise ValueError(f"The images have several sizes, {sizes}: resize them to one first.")
        columns = min(COLUMNS, len(images))
        sheet = labelled_grid(images, labels, columns)
        width, height = images[0].size
        self.content = small_file(sheet)
        self.pair = {
            "columns": columns,
            "gap": GAP,
            "height": height,
            "labels": list(labels),
            "row": (sheet.height - GAP) // -(-len(images) // columns),
            "scale": scale,
            "title": description,
            "width": width,
        }

    def __repr__(self) -> str:
        return f"BeforeAfter of {', '.join(self.pair['labels'])}"

    def _repr_html_(self) -> str:
        """An image of all pictures that makes a slider of itself once it is loaded."""
        return alive("before-after", "pair", self.pair, self.content, SCRIPT)
