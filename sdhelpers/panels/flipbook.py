"""Pictures that were made beforehand, turned over by a slider: `Flipbook(images, labels)`. Built in chapter 4.

The pages are turned in the browser, by a script inside the output itself, so that a stored notebook's book lives
without a kernel: in JupyterLab, on nbviewer, in an exported page. Where scripts are taken out, as on GitHub, the sheet
of all pages is seen.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sdhelpers.images import labelled_grid
from sdhelpers.panels.sheet import COLUMNS, GAP, alive, small_file

SCRIPT = Path(__file__).with_suffix(".js")
INTERVAL = 400  # milliseconds that a page stays while the book plays


class Flipbook:
    """One picture at a time with its label; a slider, called by `description`, and a play button turn the pages.

    On the sheet of all pages `columns` of them stand beside each other. Raises ValueError when there are no images or
    not one label an image.
    """

    def __init__(
        self,
        images: Sequence[Image.Image],
        labels: Sequence[str],
        description: str = "page",
        columns: int = COLUMNS,
    ):
        if not images or len(images) != len(labels):
            raise ValueError(f"A flipbook needs images and one label each; got {len(images)} and {len(labels)}.")
        columns = min(columns, len(images))
        sheet = labelled_grid(images, labels, columns)
        rows = -(-len(images) // columns)
        self.content = small_file(sheet)
        self.book = {
            "columns": columns,
            "count": len(images),
            "gap": GAP,
            "height": (sheet.height - GAP) // rows - GAP,
            "interval": INTERVAL,
            "labels": list(labels),
            "title": description,
            "width": (sheet.width - GAP) // columns - GAP,
        }

    def __repr__(self) -> str:
        return f"Flipbook of {self.book['count']} pages"

    def _repr_html_(self) -> str:
        """An image of all pages that makes a book of itself once it is loaded."""
        return alive("flipbook", "book", self.book, self.content, SCRIPT)
