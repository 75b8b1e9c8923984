"""Scenes of one to four objects, to be counted. Built for chapter 15; the pictures' own models never see them.

crowd = world.crowds.sample(numpy.random.RandomState(0))    # crowd.image, crowd.nouns, crowd.masks
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdhelpers.world import drawings
from sdhelpers.world.captions import COLOURS, PLACES, STYLES, pick
from sdhelpers.world.drawings import drawing
from sdhelpers.world.places import draw_place
from sdhelpers.world.scenes import FLYING, _finish, _paste, _shadow

MOST = 4
SIDES = {1: 0.46, 2: 0.40, 3: 0.34, 4: 0.30}  # an object's longer side, as a part of the image
SLOTS = {
    1: ((0.5, 0.9),),
    2: ((0.27, 0.9), (0.73, 0.9)),
    3: ((0.2, 0.92), (0.5, 0.72), (0.8, 0.92)),
    4: ((0.22, 0.62), (0.7, 0.58), (0.3, 0.95), (0.78, 0.95)),
}  # the middle of an object's lower edge, right and down


@dataclasses.dataclass
class Crowd:
    """An image and what stands in it, one noun and one mask (bool, [size, size]) for each object."""

    image: Image.Image
    nouns: tuple[str, ...]
    style: str
    place: str  # one of PLACES, or one of COLOURS for a plain background
    masks: list[np.ndarray]


def choose(rng: np.random.RandomState, nouns: Sequence[str]) -> tuple[str, ...]:
    """One to four nouns: all alike, or two kinds of them."""
    count = 1 + int(rng.random_sample() * MOST)
    first = pick(rng, nouns)
    if count == 1 or rng.random_sample() < 0.6:
        return (first,) * count
    second = pick(rng, [noun for noun in nouns if noun != first])
    of_the_first = 1 + int(rng.random_sample() * (count - 1))
    return (first,) * of_the_first + (second,) * (count - of_the_first)


def draw(nouns: Sequence[str], style: str, place: str, rng: np.random.RandomState, size: int = 128) -> Crowd:
    """Draw so many objects, each whole and in a place of its own. The same random state gives the same pixels.

    Raises ValueError for more than four, and for a noun, style or place that the world does not have.
    """
    count = len(nouns)
    if not 1 <= count <= MOST:
        raise ValueError(f"A crowd has one to {MOST} objects, not {count}.")
    ground = draw_place(place, rng, size)
    canvas, masks = ground.pixels.astype(np.uint16), []
    order = np.argsort([rng.random_sample() for _ in nouns])
    for (x, y), noun in sorted(zip((SLOTS[count][i] for i in order), nouns), key=lambda slot: slot[0][1]):
        x, y = (value + 0.04 * (rng.random_sample() - 0.5) for value in (x, y))
        pixels = drawing(noun, style, round(SIDES[count] * size * (0.92 + 0.16 * rng.random_sample())))
        height, width = pixels.shape[:2]
        left, top = round(x * size) - width // 2, min(size - height, round(y * size) - height)
        if noun not in FLYING and ground.water is None:
            tall = max(4, round(0.16 * width))
            _paste(canvas, _shadow(width, tall), left, top + height - round(0.62 * tall))
        masks.append((noun, _paste(canvas, pixels, left, top)))
    image = _finish(canvas.astype(np.uint8), "plain", rng)
    return Crowd(image, tuple(noun for noun, _ in masks), style, place, [mask for _, mask in masks])


def sample(rng: np.random.RandomState, size: int = 128, nouns: Sequence[str] | None = None) -> Crowd:
    """A random crowd, of the world's own nouns unless others are given."""
    chosen = choose(rng, drawings.TRAINED_NOUNS if nouns is None else nouns)
    place = pick(rng, PLACES if rng.random_sample() < 0.5 else COLOURS)
    return draw(chosen, pick(rng, STYLES), place, rng, size)
