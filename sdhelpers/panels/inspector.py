"""The inspector: a panel that shows what a dropped image file says about itself, and draws it again.

    MetadataInspector(pipe)

Built in chapter 19.
"""

import dataclasses
import html
import io

import ipywidgets as ui
from PIL import Image

from sdhelpers.images import to_png
from sdhelpers.metadata.files import WRITERS, ImageFile, disagreements, read_stream
from sdhelpers.metadata.generation import model_source, pixel_hash, redraw
from sdhelpers.metadata.parameters import understand
from sdhelpers.metadata.png import MetadataError
from sdhelpers.models import ModelError
from sdhelpers.panels.base import BLANK, Panel, own_copy
from sdhelpers.panels.drop_zone import MOST_BYTES, DropZone

MOST_PIXELS = 50_000_000


class MetadataInspector(Panel):
    """A field for files, the picture, its settings, texts and chunks, and a button that draws it again with `pipe`.

    `found` is what the last file said, or None after one that could not be read; `again` the image drawn.
    """

    def __init__(self, pipe):
        self.pipe = own_copy(pipe)
        self.found: ImageFile | None = None
        self.again: Image.Image | None = None
        self.files = DropZone(self.show, accept=",".join(WRITERS), description="drop an image file here, or click")
        self.draw_button = ui.Button(description="Draw it again", disabled=True)
        self.message, self.details = ui.HTML(), ui.HTML()
        size = ui.Layout(width="14em", height="14em", object_fit="contain")
        self.picture, self.second = (ui.Image(value=BLANK, format="png", layout=size) for _ in range(2))
        self.draw_button.on_click(lambda _: self.draw_again())
        buttons = ui.HBox([self.files, self.draw_button], layout=ui.Layout(align_items="center"))
        pictures = ui.HBox([self.picture, self.second])
        super().__init__([buttons, self.message, pictures, self.details])

    def show(self, name: str, content: bytes | None) -> None:
        """Show a file's contents; an unreadable one, or None for one too large, is an orange sentence in the panel."""
        self.found, self.again, self.draw_button.disabled = None, None, True
        self.picture.value, self.second.value, self.details.value = BLANK, BLANK, ""
        if content is None:
            return self.say(f"{name}: more than {MOST_BYTES / 1e6:.0f} MB; read it with `read_image` instead.")
        try:
            found = read_stream(io.BytesIO(content))
            if found.width * found.height > MOST_PIXELS:
                raise MetadataError(f"It has {found.width} x {found.height} pixels, too many to show.")
            with Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP"]) as image:
                picture = image.convert("RGB")
        except MetadataError as error:
            return self.say(f"{name}: {error}")
        except (OSError, SyntaxError, ValueError) as error:
            return self.say(f"{name}: its picture cannot be decoded ({error}).")
        same_pixels = bool(found.data) and pixel_hash(picture) == found.data.pixels
        picture.thumbnail((512, 512))
        self.picture.value = to_png(picture)
        self.found, self.draw_button.disabled = found, found.data is None
        self.message.value = f"<b>{html.escape(name)}</b>: {found.format}, {found.width} x {found.height} pixels"
        self.details.value = as_html(found, same_pixels)
        return None

    def draw_again(self) -> None:
        """Make the image from its data, and say whether a pixel differs from those that were recorded."""
        data = self.found.data
        try:
            if model_source(data.model.name, data.model.tier) != data.model:
                raise MetadataError(f"It was made with another version of {data.model.name} than is here.")
            self.again = redraw(self.pipe, data)
        except (MetadataError, ModelError) as error:
            return self.say(str(error))
        self.second.value = to_png(self.again)
        same = pixel_hash(self.again) == data.pixels
        self.message.value = "Drawn again: " + (
            "not a pixel differs." if same else "the pixels are not those recorded."
        )
        return None


def as_html(found: ImageFile, same_pixels: bool) -> str:
    """What a file says, as tables; every text in it is escaped, for it comes from strangers."""
    parts = []
    if found.data:
        data = found.data
        pixels = "as recorded" if same_pixels else "not those recorded: edited, or compressed with losses"
        adapters = ", ".join(f"{a.name} at {a.weight:g}" for a in data.adapters) or "none"
        rows = dataclasses.asdict(data.settings) | {
            "reading": data.reading,
            "clip skip": data.clip_skip,
            "model": f"{data.model.name} ({data.model.tier}), {data.model.revision[:10]}",
            "adapters": adapters,
            "embeddings": ", ".join(e.token for e in data.embeddings) or "none",
            **data.made_with,
            "pixels": pixels,
        }
        parts.append(table("settings", rows))
    elif found.parameters:
        prompts = {"prompt": found.parameters.prompt, "negative prompt": found.parameters.negative_prompt}
        parts.append(table("parameters", prompts | found.parameters.fields))
        parts.append(f"<p>{html.escape(what_is_dropped(found))}</p>")
    else:
        parts.append("<p>No generation data.</p>")
    if wrong := disagreements(found):
        parts.append(f"<p>The two copies disagree: {html.escape('; '.join(wrong))}.</p>")
    if found.chunks:
        kinds = [f"{c.kind.decode()} {c.length:,}" for c in found.chunks[:20]]
        more = ", ..." if len(found.chunks) > 20 else ""
        parts.append(f"<p>Chunks and their bytes: {', '.join(kinds)}{more}</p>")
    return "".join(parts)


def what_is_dropped(found: ImageFile) -> str:
    """What of another program's parameters this book cannot draw, or why nothing of them can be drawn."""
    try:
        dropped = understand(found.parameters).dropped
    except MetadataError as error:
        return str(error)
    return f"Not drawn from these: {'; '.join(dropped)}." if dropped else ""


def table(title: str, rows: dict) -> str:
    """Two columns of escaped text; long values are cut."""
    lines = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(f'{value}'[:500])}</td></tr>"
        for key, value in rows.items()
    )
    return f"<b>{title}</b><table style='font-size:85%;line-height:1.3'>{lines}</table>"
