"""The open-licensed drawings that the world is made of, cut from the sheets in data/drawings."""

import functools
import json
from typing import Any

import numpy as np
from PIL import Image

from sdhelpers.paths import checkout

TRAINED_STYLES = ("3d render", "flat illustration", "line drawing", "cartoon")
HELD_OUT_STYLE = "bold black icon"  # the "community style" of LoRA and textual inversion


@functools.cache
def index() -> dict[str, Any]:
    """What data/drawings/index.json says, read when it is asked for: nouns, held-out nouns, and how a sheet is cut."""
    return json.loads((checkout() / "data" / "drawings" / "index.json").read_text(encoding="utf-8"))


def __getattr__(name: str) -> tuple[str, ...]:
    """TRAINED_NOUNS and HELD_OUT_NOUNS, from the index."""
    if name not in ("TRAINED_NOUNS", "HELD_OUT_NOUNS"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return tuple(index()["nouns" if name == "TRAINED_NOUNS" else "held_out_nouns"])


@functools.cache
def _sheet(style: str) -> Image.Image:
    """The style's whole sheet, with colours already multiplied by alpha."""
    path = checkout() / "data" / "drawings" / f"{style.replace(' ', '-')}.webp"
    if not path.exists():
        known = ", ".join((*TRAINED_STYLES, HELD_OUT_STYLE))
        raise ValueError(f"There is no style {style!r}; the world has {known}.")
    return Image.open(path).convert("RGBA").convert("RGBa")


@functools.lru_cache(maxsize=4096)
def drawing(noun: str, style: str, size: int) -> np.ndarray:
    """One drawing, trimmed to what is visible: uint8 [height, width, 4], colours times alpha.

    `size` is the longer side in pixels (the drawings themselves have 200, so more is enlarged).
    Raises ValueError for a noun or a style that the world does not have.
    """
    names = index()["nouns"] + index()["held_out_nouns"]
    if noun not in names:
        raise ValueError(f"There is no drawing of {noun!r}; see sdhelpers.world.NOUNS.")
    cell, columns = index()["cell"], index()["columns"]
    left, top = names.index(noun) % columns * cell, names.index(noun) // columns * cell
    picture = _sheet(style).crop((left, top, left + cell, top + cell))
    picture = picture.crop(picture.getchannel("a").getbbox())
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(shape, Image.Resampling.LANCZOS)
    pixels = np.array(picture)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # Lanczos may overshoot alpha
    pixels.flags.writeable = False
    return pixels
