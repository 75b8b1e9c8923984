"""What a scene holds, and the many ways to say it.

A `Description` is the truth in words; `write_caption` words it freely. Random choices take only
`RandomState.random_sample`, whose stream NumPy keeps unchanged, so that a seed gives the same
caption in every version.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from sdhelpers.world import drawings
from sdhelpers.world.drawings import TRAINED_STYLES

STYLES = TRAINED_STYLES
PLACES = ("beach", "forest", "night", "snow", "city", "desert", "sea", "meadow", "mountains", "room")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray", "white")
RELATIONS = ("next to", "on top of", "riding")
QUALITIES = ("plain", "best", "blurry", "noisy", "monochrome", "washed out", "cropped")

RIDERS = (
    "astronaut",
    "cat",
    "dog",
    "rabbit",
    "mouse",
    "monkey",
    "gorilla",
    "penguin",
    "owl",
    "duck",
    "snowman",
    "teddy bear",
)
MOUNTS = (
    "horse",
    "cow",
    "pig",
    "sheep",
    "goat",
    "elephant",
    "giraffe",
    "zebra",
    "tiger",
    "camel",
    "turtle",
    "whale",
    "dolphin",
    "bicycle",
    "motorcycle",
    "tractor",
)

STYLE_WORDS = {
    "3d render": ("3d render", "3d model"),
    "flat illustration": ("flat illustration", "flat vector"),
    "line drawing": ("line drawing", "ink drawing"),
    "cartoon": ("cartoon", "comic"),
    "bold black icon": ("bold black icon", "black pictogram"),
}
PLACE_WORDS = {
    "beach": ("on a beach", "at the beach"),
    "forest": ("in a forest", "in the woods"),
    "night": ("at night", "under the night sky"),
    "snow": ("in the snow", "on a snowy day"),
    "city": ("in a city", "on a city street"),
    "desert": ("in the desert", "in a desert"),
    "sea": ("on the sea", "in the sea"),
    "meadow": ("in a meadow", "on a green meadow"),
    "mountains": ("in the mountains", "in front of mountains"),
    "room": ("in a room", "indoors"),
}
QUALITY_WORDS = {
    "best": ("best quality, detailed", "best quality", "high quality, detailed", "sharp, detailed"),
    "blurry": ("blurry", "blurry, out of focus", "blurry, low quality"),
    "noisy": ("noisy", "grainy, noisy", "noisy, low quality"),
    "monochrome": ("monochrome", "black and white", "monochrome, grayscale"),
    "washed out": ("washed out", "washed out, low contrast", "faded, low quality"),
    "cropped": ("cropped", "cropped, cut off", "close-up, cropped"),
}


@dataclasses.dataclass(frozen=True)
class Description:
    """What a scene holds: one or two nouns, their relation, a style, a place or colour, a quality."""

    nouns: tuple[str, ...]
    style: str
    place: str  # one of PLACES, or one of COLOURS for a plain background
    relation: str | None = None
    quality: str = "plain"


def pick(rng: np.random.RandomState, options: Sequence):
    """One of `options`, by a single `random_sample`."""
    return options[int(rng.random_sample() * len(options))]


def pick_quality(rng: np.random.RandomState) -> str:
    """Half plain, a third best, the rest spread over what can go wrong."""
    chance = rng.random_sample()
    if chance < 0.52:
        return "plain"
    return "best" if chance < 0.85 else pick(rng, QUALITIES[2:])


def pick_nouns(rng: np.random.RandomState, nouns: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """One noun (three times in four), or two with the relation between them."""
    chance = rng.random_sample()
    if chance < 0.75 or len(nouns) < 2:
        return (pick(rng, nouns),), None
    riders = [noun for noun in RIDERS if noun in nouns]
    mounts = [noun for noun in MOUNTS if noun in nouns]
    if chance < 0.84 and riders and mounts:
        return (pick(rng, riders), pick(rng, mounts)), "riding"
    first = pick(rng, nouns)
    second = pick(rng, [noun for noun in nouns if noun != first])
    return (first, second), "next to" if chance < 0.93 else "on top of"


def describe(
    rng: np.random.RandomState,
    nouns: Sequence[str] | None = None,
    styles: Sequence[str] = STYLES,
    held_out: bool = False,
) -> Description:
    """A random description, of the world's own nouns unless others are given.

    Held-out combinations come only with `held_out`: training must not see them.
    """
    nouns = drawings.TRAINED_NOUNS if nouns is None else nouns
    while True:
        chosen, relation = pick_nouns(rng, nouns)
        place = pick(rng, PLACES if rng.random_sample() < 0.65 else COLOURS)
        description = Description(chosen, pick(rng, styles), place, relation, pick_quality(rng))
        if held_out or not is_held_out(description):
            return description


def is_held_out(description: Description) -> bool:
    """Whether training must never see it: one in 25 noun-style-place combinations, by a fixed hash."""
    return any(
        hashlib.sha256(f"{noun}|{description.style}|{description.place}".encode()).digest()[0] < 10
        for noun in description.nouns
    )


def held_out_descriptions() -> list[Description]:
    """Every single-object combination that training never sees, in a fixed order."""
    every = (Description((n,), s, p) for n in drawings.TRAINED_NOUNS for s in STYLES for p in PLACES + COLOURS)
    return [description for description in every if is_held_out(description)]


def _article(noun: str) -> str:
    if noun in ("scissors", "cherries", "grapes"):
        return noun
    vowel = noun[0] in "aeio" or noun == "umbrella"
    return f"{'an' if vowel else 'a'} {noun}"


def _place_words(place: str, rng: np.random.RandomState) -> tuple[str, str]:
    """The place as a phrase that follows the object, and as a tag of its own."""
    if place in PLACE_WORDS:
        return pick(rng, PLACE_WORDS[place]), place
    return pick(rng, (f"on {_article(place)} background", f"on {place}")), f"{place} background"


def write_caption(description: Description, rng: np.random.RandomState, complete: bool = False) -> str:
    """Word a description: order, synonyms and what is left unsaid vary.

    With `complete` the style and the place are always named, as the evaluation needs; otherwise each
    is left out one time in eight. A flaw is always said; "best" is said too, "plain" never is.
    """
    subject = f" {description.relation} ".join(_article(noun) for noun in description.nouns)
    style = pick(rng, STYLE_WORDS[description.style])
    phrase, tag = _place_words(description.place, rng)
    silent = rng.random_sample()
    if not complete and silent < 0.125:
        style = ""
    elif not complete and silent < 0.25:
        phrase = tag = ""
    form = rng.random_sample()
    if form < 0.4 and style:
        text = f"{_article(style)} of {subject} {phrase}"
    elif form < 0.2:
        text = f"a picture of {subject} {phrase}"
    elif form < 0.8:
        text = f"{subject} {phrase}, {style}"
    else:
        text = f"{style}, {subject}, {tag}"
    if description.quality != "plain":
        words = pick(rng, QUALITY_WORDS[description.quality])
        text = f"{words}, {text}" if rng.random_sample() < 0.3 else f"{text}, {words}"
    parts = (" ".join(part.split()) for part in text.split(","))
    return ", ".join(part for part in parts if part)
