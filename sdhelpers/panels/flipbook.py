"""Pictures that were made beforehand, turned over by a slider: `Flipbook(images, labels)`. Built in chapter 4.

The pages are turned in the browser, by a script inside the output itself, so that a stored notebook's book lives
without a kernel: in JupyterLab, on nbviewer, in an exported page. Where scripts are taken out, as on GitHub, the sheet
of all pages is seen.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from PIL import Image

from sdhelpers.images import PLOT_COLOURS, labelled_grid

SCRIPT = Path(__file__).with_suffix(".js")
COLUMNS = 6  # of the sheet
GAP = 4  # pixels between its pages, as labelled_grid leaves them
INTERVAL = 400  # milliseconds that a page stays while the book plays
WEBP_QUALITIES = (80, 65, 50, 35)
MOST_BYTES = 120_000  # a stored notebook holds the sheet; the first quality that needs less is taken


class Flipbook:
    """One picture at a time with its label; a slider, called by `description`, and a play button turn the pages.

    Raises ValueError when there are no images or not one label an image.
    """

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[str], description: str = "page"):
        if not images or len(images) != len(labels):
            raise ValueError(f"A flipbook needs images and one label each; got {len(images)} and {len(labels)}.")
        columns = min(COLUMNS, len(images))
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
        attributes = {
            "class": "sdhelpers-flipbook",
            "alt": f"{self.book['title']}: {', '.join(self.book['labels'])}",
            "style": "max-width:100%",
            "data-book": json.dumps(self.book),
            "onload": SCRIPT.read_text(encoding="utf-8"),
            "src": f"data:image/webp;base64,{base64.b64encode(self.content).decode()}",
        }
        return f"<div><img {' '.join(f'{key}={quoteattr(value)}' for key, value in attributes.items())}></div>"


def small_file(sheet: Image.Image) -> bytes:
    """The sheet as a small WebP file: a plot exact but of few colours, pictures as good as MOST_BYTES allow."""
    if sheet.getcolors(PLOT_COLOURS):
        exact = to_webp(sheet.quantize(16, dither=Image.Dither.NONE).convert("RGB"), lossless=True, quality=100)
        if len(exact) <= MOST_BYTES:
            return exact
    made = (to_webp(sheet, quality=quality) for quality in WEBP_QUALITIES)
    return next((file for file in made if len(file) <= MOST_BYTES), None) or to_webp(sheet, quality=WEBP_QUALITIES[-1])


def to_webp(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", method=4, **options)
    return file.getvalue()
