"""A field in a panel that takes a file: dropped on it, or chosen after a click.

ipywidgets has a button for files and nothing to drop one on; this is the missing part. Used in chapter 19.
"""

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

MOST_BYTES = 8_000_000  # Jupyter's connection to the browser takes ten million bytes a message
HERE = Path(__file__).parent


class DropZone(anywidget.AnyWidget):
    """Calls `received(name, content)` with each file; `content` is None when the file is larger than `most_bytes`."""

    _esm = HERE / "drop_zone.js"
    _css = HERE / "drop_zone.css"
    accept = traitlets.Unicode().tag(sync=True)
    description = traitlets.Unicode("drop a file here, or click").tag(sync=True)
    most_bytes = traitlets.Int(MOST_BYTES).tag(sync=True)

    def __init__(self, received: Callable[[str, bytes | None], None], **traits):
        super().__init__(**traits)
        self.received = received
        self.on_msg(self._on_message)

    def _on_message(self, _, message: dict, buffers: list) -> None:
        self.received(message["name"], bytes(buffers[0]) if buffers else None)
