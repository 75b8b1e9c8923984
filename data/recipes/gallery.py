"""Draw the pictures that the README shows, and the world's own contact sheet.

    python data/recipes gallery readme          # eight prompts, seeds 0 to 7
    python data/recipes gallery world           # what training sees: 64 scenes, drawn by the world itself
    python data/recipes gallery page            # GALLERY.md round the sheets that `evaluate sd15` drew

Seeds are counted up from 0 and never picked by hand.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import places
import stages
from artist import Artist
from card import read_card
from sdhelpers import world
from sdhelpers.images import labelled_grid

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


def page(card: dict) -> str:
    """The gallery's Markdown (gallery_page.md) with the card's numbers."""
    scores = card["scores"]
    return (
        (places.RECIPES / "gallery_page.md")
        .read_text(encoding="utf-8")
        .format(
            steps=scores["steps"],
            guidance=scores["guidance scale"],
            images=scores["images"],
            **{head: scores[f"{head} right, held-out captions"] for head in ("noun", "style", "place")},
            both=scores["both nouns right, two objects"],
            limit=scores["both nouns right, two objects drawn by the world, after the VAE"],
            relation=scores["relation right, two objects"],
            astronaut=scores["an astronaut riding a horse, of 10 seeds"],
            weak=card["notes"]["What it cannot draw"],
        )
    )


def main(arguments: Sequence[str]) -> None:
    parser = stages.parser_of("gallery", __doc__)
    parser.add_argument("what", choices=[*COLUMNS, "page"])
    parser.add_argument("--model", type=Path, default=places.POCKET / "sd15")
    parser.add_argument("--out", type=Path, default=places.SHEETS)
    options = parser.parse_args(arguments)
    if options.what == "page":
        path = places.RECIPES / "GALLERY.md"
        path.write_text(page(read_card(options.model)), encoding="utf-8")
        print("Wrote", path)
        return
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
