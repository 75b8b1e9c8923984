"""The IP-Adapter that carries the object alone: its references are drawn in other styles, and the words say how."""

import numpy as np

from parts.ip_adapter import Reference, now_and_then, where
from sdhelpers.world.captions import STYLE_WORDS, Description, pick
from sdhelpers.world.questions import with_article


def style_and_place(description: Description, rng: np.random.RandomState) -> str:
    """How to draw, and where; what, the reference shows."""
    return f"{with_article(pick(rng, STYLE_WORDS[description.style]))} {where(description.place, rng)}"


def place(description: Description, rng: np.random.RandomState) -> str:
    """Where to draw it, in any style."""
    return where(description.place, rng)


OBJECT = Reference(
    "ip_adapter_object",
    "ip-adapter-object",
    ("noun",),
    now_and_then(place, style_and_place),
    style_and_place,
    lambda shown: [with_article(shown.nouns[0])],
)
RECIPE = OBJECT.recipe()
