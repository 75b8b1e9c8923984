"""Draw the pictures that the README shows, and the world's own contact sheet.

    python data/recipes/gallery.py readme          # eight prompts, seeds 0 to 7
    python data/recipes/gallery.py world           # what training sees: 64 scenes, drawn by the world itself
    python data/recipes/gallery.py page            # GALLERY.md round the sheets that evaluate.py drew

Seeds are counted up from 0 and never picked by hand.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from evaluate import SHEETS, Artist
from loop import RECIPES
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
PAGE = """# What the pocket Stable Diffusion draws

Captions and seeds are counted up, never picked by hand; {steps} steps, guidance scale {guidance}. The numbers are the
card's (`data/pocket/sd15`), measured on {images:,} pictures by a classifier that has only seen drawn scenes.

## 64 captions that training never saw, seeds 0 to 63

Right: noun {noun:.1%}, style {style:.1%}, place {place:.1%}. "Missed" marks the pictures whose noun the classifier does
not see.

![64 pictures under their captions](sheets/held_out.webp)

## Two objects, seeds 0 to 31

Both nouns right: {both:.1%}, where the classifier finds both in {limit:.1%} of scenes that the world itself has drawn
and the VAE encoded and decoded; relation right: {relation:.1%}.

![32 pictures of two objects](sheets/two_objects.webp)

## "an astronaut riding a horse", seeds 0 to 9

{astronaut} of 10 are that.

![10 pictures of an astronaut riding a horse](sheets/astronaut.webp)

## What it learnt from: 64 scenes of the world

![64 drawn scenes](sheets/world.webp)

## What it cannot draw

{weak}
"""


def page(card: dict) -> str:
    """The gallery's Markdown, with the card's numbers."""
    scores = card["scores"]
    return PAGE.format(
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*COLUMNS, "page"])
    parser.add_argument("--model", type=Path, default=POCKET / "sd15")
    parser.add_argument("--out", type=Path, default=SHEETS)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    if options.what == "page":
        path = RECIPES / "GALLERY.md"
        path.write_text(page(json.loads((options.model / "card.json").read_text(encoding="utf-8"))), encoding="utf-8")
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


if __name__ == "__main__":
    main()
