"""Tensors to images and back, grids, labelled strips."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

PLOT_COLOURS = 4096  # a plot has fewer, a picture more


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as float32 [3, height, width] from -1 to 1, the range that a VAE reads. Built in chapter 5."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_image(tensor: torch.Tensor) -> Image.Image:
    """A tensor [3, height, width] from -1 to 1 as an RGB image; values outside are clipped. Built in chapter 5."""
    pixels = (tensor.detach().float().cpu().permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(pixels.round().numpy().astype(np.uint8))


def labelled_grid(
    images: Sequence[Image.Image], labels: Sequence[str], columns: int | None = None, scale: float = 1.0
) -> Image.Image:
    """Images in rows of `columns`, each with a line of text below: the filmstrips of the chapters.

    All cells have the first image's size times `scale`; a label too long for its cell is wrapped.
    Raises ValueError when there are no images or not one label an image.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"A grid needs images and one label each; got {len(images)} and {len(labels)}.")
    columns = min(columns or len(images), len(images))
    width, height = (round(side * scale) for side in images[0].size)
    font = ImageFont.load_default(size=12)
    texts = [_wrap(label, width - 6, font) for label in labels]
    line = 15
    strip = line * max(len(lines) for lines in texts) + 4
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * (width + 4) + 4, rows * (height + strip + 4) + 4), "white")
    pen = ImageDraw.Draw(grid)
    for i, (image, lines) in enumerate(zip(images, texts)):
        left, top = 4 + i % columns * (width + 4), 4 + i // columns * (height + strip + 4)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        grid.paste(resized if image.size != (width, height) else image.convert("RGB"), (left, top))
        for j, text in enumerate(lines):
            pen.text((left + width // 2, top + height + 2 + line * j), text, fill=(40, 40, 40), font=font, anchor="ma")
    return grid


def _wrap(label: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a label at spaces into lines of at most `width` pixels where that is possible."""
    lines: list[str] = []
    for word in label.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def to_png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
