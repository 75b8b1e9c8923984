"""Draw the pictures that the README shows, and the world's own contact sheet.

    python data/recipes/gallery.py readme          # eight prompts, seeds 0 to 7
    python data/recipes/gallery.py world           # what training sees: 64 scenes, drawn by the world itself

Seeds are counted up from 0 and never picked by hand. The gallery of 64 held-out captions (seeds 0 to 63) is the sheet
held_out.webp, which evaluate.py draws.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from evaluate import SHEETS, Artist
from sdhelpers import world
from sdhelpers.images import labelled_grid
from sdhelpers.models import POCKET

README = [
    "a cartoon of a cat on a beach",
    "a 3d render of a rocket at night",
    "a flat illustration of a castle in a meadow",
    "a line drawing of a horse in the snow",
    "a cartoon of an owl in a forest",
    "a 3d render of an elephant in the desert",
    "a flat illustration of a sailboat on the sea",
    "a cartoon of an astronaut riding a horse",
]
COLUMNS = {"readme": 4, "world": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COLUMNS)
    parser.add_argument("--model", type=Path, default=POCKET / "sd15")
    parser.add_argument("--out", type=Path, default=SHEETS)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    if options.what == "world":
        scenes = [world.sample(np.random.RandomState(i)) for i in range(64)]
        images, captions = [s.image for s in scenes], [s.caption for s in scenes]
    else:
        artist = Artist.from_folder(options.model)
        captions = README
        images = artist(captions, list(range(len(captions))), what=options.what)
    labels = [f"{i}: {caption}" for i, caption in enumerate(captions)]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.what}.webp"
    scale = 1.5 if options.what == "readme" else 1
    labelled_grid(images, labels, COLUMNS[options.what], scale).save(path, quality=88)
    print("Wrote", path)


if __name__ == "__main__":
    main()
