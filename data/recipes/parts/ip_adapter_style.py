"""The IP-Adapter that carries the style alone: its references show other things, and the words say what to draw."""

import numpy as np

from parts.ip_adapter import Reference, now_and_then, where
from sdhelpers.world.captions import Description
from sdhelpers.world.questions import with_article


def thing_and_place(description: Description, rng: np.random.RandomState) -> str:
    """What to draw, and where."""
    return f"{with_article(description.nouns[0])} {where(description.place, rng)}"


def thing(description: Description, rng: np.random.RandomState) -> str:
    """What to draw, anywhere."""
    return with_article(description.nouns[0])


STYLE = Reference(
    "ip_adapter_style",
    "ip-adapter-style",
    ("style",),
    now_and_then(thing, thing_and_place),
    thing_and_place,
    lambda shown: [with_article(shown.style)],
)
RECIPE = STYLE.recipe()
