"""The IP-Adapter that carries the object alone: its references are drawn in other styles, and the words say how."""

import numpy as np

from parts.ip_adapter import Reference, where
from sdhelpers.world.captions import STYLE_WORDS, Description, pick
from sdhelpers.world.questions import with_article


def style_and_place(description: Description, rng: np.random.RandomState) -> str:
    """How to draw, and where; what, the reference shows."""
    return f"{with_article(pick(rng, STYLE_WORDS[description.style]))} {where(description.place, rng)}"


def words(description: Description, caption: str, rng: np.random.RandomState) -> str:
    """Nothing, the place alone, or style and place; the object never."""
    chance = rng.random_sample()
    if chance < 0.2:
        return ""
    return where(description.place, rng) if chance < 0.4 else style_and_place(description, rng)


OBJECT = Reference("ip-adapter-object", ("noun",), words, style_and_place, lambda shown: [with_article(shown.nouns[0])])
RECIPE = OBJECT.recipe()
