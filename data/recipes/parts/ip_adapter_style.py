"""The IP-Adapter that carries the style alone: its references show other things, and the words say what to draw."""

import numpy as np

from parts.ip_adapter import Reference, where
from sdhelpers.world.captions import Description
from sdhelpers.world.questions import with_article


def thing_and_place(description: Description, rng: np.random.RandomState) -> str:
    """What to draw, and where."""
    return f"{with_article(description.nouns[0])} {where(description.place, rng)}"


def words(description: Description, caption: str, rng: np.random.RandomState) -> str:
    """Nothing, the thing alone, or the thing in its place; the style never."""
    chance = rng.random_sample()
    if chance < 0.2:
        return ""
    return with_article(description.nouns[0]) if chance < 0.4 else thing_and_place(description, rng)


STYLE = Reference("ip-adapter-style", ("style",), words, thing_and_place, lambda shown: [with_article(shown.style)])
RECIPE = STYLE.recipe()
