"""A sheet of pictures that a script in the output itself brings to life: what flipbook and before/after slider share.

It lives in the browser, so that a stored notebook's sheet needs no kernel: in JupyterLab, on nbviewer, in an exported
page. Where scripts are taken out, as on GitHub, the sheet itself is seen.
"""

import base64
import io
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

from PIL import Image

from sdhelpers.images import PLOT_COLOURS

COLUMNS = 6  # of the sheet
GAP = 4  # pixels between its pictures, as labelled_grid leaves them
WEBP_QUALITIES = (80, 65, 50, 35)
MOST_BYTES = 120_000  # a stored notebook holds the sheet; the first quality that needs less is taken


def alive(kind: str, name: str, told: dict, content: bytes, script: Path) -> str:
    """The HTML of an image, WebP, whose onload is the script; it finds in `data-NAME` what it is told.

    `told` has a "title" and the pictures' "labels".
    """
    attributes = {
        "class": f"sdhelpers-{kind}",
        "alt": f"{told['title']}: {', '.join(told['labels'])}",
        "style": "max-width:100%",
        f"data-{name}": json.dumps(told),
        "onload": script.read_text(encoding="utf-8"),
        "src": f"data:image/webp;base64,{base64.b64encode(content).decode()}",
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
