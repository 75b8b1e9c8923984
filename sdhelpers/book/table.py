"""The README's table of chapters: a picture of each, what it took when it was stored, and its badge."""

import base64
import hashlib
import io
import os
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image, ImageOps

from sdhelpers.paths import NOTEBOOKS

THUMBNAILS = NOTEBOOKS / "thumbnails"
SIZE = (320, 160)  # pixels; the README shows half of that
MEASURED = re.compile(r"([\d.]+) seconds and ([\d.]+) GB")  # in the line that storing a chapter writes


def picture_of(notebook: NotebookNode) -> bytes | None:
    """A stored picture as its file's bytes: that of the cell tagged `thumbnail`, else the largest; None without any."""
    tagged = [c for c in notebook.cells if "thumbnail" in c.metadata.get("tags", [])]
    outputs = [o for c in tagged or notebook.cells for o in c.get("outputs", [])]
    found = [o.data[kind] for o in outputs for kind in ("image/jpeg", "image/png") if kind in o.get("data", {})]
    return base64.b64decode(max(found, key=len)) if found else None


def thumbnail(chapter: int, notebook: NotebookNode) -> Path | None:
    """The place of a chapter's small picture, named by what it was made from, so that it is never written twice."""
    picture = picture_of(notebook)
    return picture and THUMBNAILS / f"{chapter:02d}-{hashlib.sha256(picture).hexdigest()[:8]}.webp"


def draw_thumbnail(path: Path, picture: bytes) -> None:
    """Write the upper left of the picture, small, in the place of the chapter's former one."""
    path.parent.mkdir(exist_ok=True)
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    small = ImageOps.fit(whole, SIZE, Image.Resampling.LANCZOS, centering=(0, 0))
    small.save(path.with_suffix(".part"), "WEBP", quality=80)
    for former in path.parent.glob(f"{path.name[:2]}-*.webp"):
        former.unlink()
    os.replace(path.with_suffix(".part"), path)


def took(notebook: NotebookNode) -> str:
    """Seconds and memory as the title cell has them, or nothing."""
    measured = MEASURED.search("\n".join(c.source for c in notebook.cells if "title" in c.metadata.get("tags", [])))
    return f"{measured[1]} s, {measured[2]} GB" if measured else ""


def row(chapter: int, title: str, path: Path, badge: str) -> str:
    """A written chapter's line of the table."""
    notebook = nbformat.read(path, as_version=4)
    small = thumbnail(chapter, notebook)
    seen = f'<img src="notebooks/thumbnails/{small.name}" height="80" alt="">' if small else ""
    return f"| {chapter} | {seen} | [{title}](notebooks/{path.name}) | {took(notebook)} | {badge} |"
