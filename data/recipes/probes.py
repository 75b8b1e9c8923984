"""What a model draws while it learns: a strip of pictures at each look, and all of them as one film."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers.utils import make_image_grid
from PIL import Image

from sdhelpers.images import labelled_grid

GROWTH = 10  # rows of growth.webp, or fewer
SHOWN = 6  # pictures of a look that are kept


def keep_strip(run: Path, step: int, images: Sequence[Image.Image]) -> None:
    """The first pictures of a look, into runs/NAME/probes."""
    folder = run / "probes"
    folder.mkdir(exist_ok=True)
    make_image_grid(list(images[:SHOWN]), 1, len(images[:SHOWN])).save(folder / f"{step:05d}.png")


def film_rows(run: Path) -> list[Path]:
    """The strips that the film shows, one a row: more of them from the beginning."""
    strips = sorted((run / "probes").glob("*.png"))
    places_in_time = {round(share * (len(strips) - 1)) for share in np.linspace(0, 1, GROWTH) ** 2}
    return [strips[i] for i in sorted(places_in_time)] if strips else []


def film(run: Path) -> None:
    """growth.webp of a run: what the probes drew, one row a step."""
    if rows := film_rows(run):
        sheet = labelled_grid([Image.open(row) for row in rows], [f"step {int(row.stem)}" for row in rows], 1)
        sheet.save(run / "growth.webp", quality=85)
