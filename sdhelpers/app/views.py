"""What the page shows of a drawing, as HTML: how far it is, what it will be, what came of it. Built in chapter 20."""

import base64
import html

from PIL import Image

from sdhelpers.app.guide import link
from sdhelpers.images import to_png

SHOWN = 320  # pixels of the larger side on the page
NOTHING_YET = f"<p>Nothing is drawn yet. What is seen on the way: {link('preview')}.</p>"
STOPPED = "<p>Stopped: nothing was saved.</p>"


def picture(image: Image.Image, alt: str, rough: bool = False) -> str:
    """An image inside the page itself, so that no file is written for it."""
    data = base64.b64encode(to_png(image)).decode()
    side = "width" if image.width >= image.height else "height"
    style = "image-rendering:pixelated;" if rough else ""
    return f'<img src="data:image/png;base64,{data}" alt="{alt}" style="{side}:{SHOWN}px;{style}">'


def on_the_way(done: int, total: int, image: Image.Image) -> str:
    """A bar, the number of the step and the preview."""
    return (
        f'<p><progress value="{done}" max="{total}"></progress> step {done} of {total}</p>'
        f"{picture(image, 'preview', rough=True)}"
    )


def finished(image: Image.Image, said: str) -> str:
    """The picture and a line below."""
    return f"{picture(image, 'the picture')}<p>{html.escape(said)}</p>"
