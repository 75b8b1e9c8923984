"""What Gradio hands on of a file that was sent: the bytes of an upload, of a picture, of a painting in layers.

Gradio has looked that each path lies in its folder of uploads. Built in chapter 20.
"""

from pathlib import Path
from typing import Any

from sdhelpers.app.pictures import MOST_BYTES, InputError


def content_of(file: Any) -> bytes | None:
    """The bytes of a sent file, or None where none was sent. Raises InputError for one that is too large or gone."""
    if file is None or isinstance(file, bytes):
        return file
    try:
        path = Path(file["path"])
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"The file has {size:,} bytes; at most {MOST_BYTES:,} are read.")
        return path.read_bytes()
    except (OSError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("The file is not there any more: choose it again.") from error


def as_bytes(values: dict[str, Any], editor=None) -> dict[str, Any]:
    """The values with `image` as bytes, from an image editor also `layers`, those painted over it.

    A browser sends an editor's pictures beforehand, under a number; the editor keeps them until they are asked for.
    """
    if "image" not in values:
        return values
    if editor is None:
        return values | {"image": content_of(values["image"])}
    sent = values["image"] or {}
    if number := sent.get("id"):
        blobs = editor.blob_storage.pop(number, None)
        sent = {"background": blobs.background, "layers": blobs.layers} if blobs else {}
    layers = [content_of(layer) for layer in sent.get("layers") or [] if layer]
    return values | {"image": content_of(sent.get("background")), "layers": layers}
