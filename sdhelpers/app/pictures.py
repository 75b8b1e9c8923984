"""Pictures that strangers send: looked at before they are decoded, and brought to the size that is drawn.

Built in chapter 20.
"""

import io
import warnings

from PIL import Image, ImageChops, ImageOps

from sdhelpers.measures.edges import edges

MOST_BYTES = 20 * 2**20
LARGEST_SIDE = 4096  # pixels of a picture that is sent; it is then made as small as what is drawn
KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]


class InputError(ValueError):
    """A request that cannot be drawn; the message is one sentence for whoever made it."""


def opened(content: bytes | None) -> Image.Image:
    """The picture in a file's bytes, RGBA, turned as its camera says. Raises InputError.

    The header says how many pixels would have to be decoded; a picture with too many is refused by it alone.
    """
    if not content:
        raise InputError("A picture is missing: choose or drop one first.")
    if len(content) > MOST_BYTES:
        raise InputError(f"The picture's file has {len(content):,} bytes; at most {MOST_BYTES:,} are read.")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=KINDS) as image:
            if max(image.size) > LARGEST_SIDE:
                size = f"{image.width} x {image.height}"
                raise InputError(f"The picture has {size} pixels; at most {LARGEST_SIDE} a side are read.")
            return ImageOps.exif_transpose(image).convert("RGBA")
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"The picture has too many pixels; at most {LARGEST_SIDE} a side are read.") from error
    except Exception as error:  # what a damaged file does to its decoder is of any kind
        kinds = "PNG, JPEG, WebP, GIF or BMP"
        raise InputError(f"The picture cannot be read: it is damaged, or it is no {kinds}.") from error


def on_white(image: Image.Image) -> Image.Image:
    """The picture without transparency, RGB."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture, in another size and shape. Raises InputError for one that is too narrow for it."""
    if min(image.size) * 16 < max(image.size):
        raise InputError(f"The picture is {image.width} x {image.height} pixels: too narrow to draw after.")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def fitted(content: bytes | None, size: tuple[int, int]) -> Image.Image:
    """A sent picture, RGB, in the size that is drawn."""
    return to_size(on_white(opened(content)), size)


def with_mask(content: bytes | None, layers: list[bytes], size: tuple[int, int]) -> dict[str, Image.Image]:
    """A sent picture, and as mask what is painted over it: white where any layer is not transparent."""
    image = opened(content)
    mask = Image.new("L", image.size)
    for layer in map(opened, layers):
        mask = ImageChops.lighter(mask, layer.getchannel("A").resize(image.size))
    mask = to_size(mask, size).point(lambda value: 255 * (value > 127))
    if not mask.getbbox():
        raise InputError("Nothing is painted over the picture: paint where it is to be drawn anew.")
    return {"image": to_size(on_white(image), size), "mask_image": mask}


def outlines(content: bytes | None, low: float, high: float, size: tuple[int, int]) -> Image.Image:
    """Canny's edges of a sent picture, white on black, RGB (chapter 13)."""
    found = edges(fitted(content, size), low, high)
    return Image.fromarray(found).convert("RGB")
