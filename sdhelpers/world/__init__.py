"""The picture-book world: drawn scenes with captions and the truth about every pixel.

    rng = numpy.random.RandomState(0)
    scene = world.sample(rng)          # scene.image, scene.caption, scene.masks, scene.depth, ...

The pocket models were trained on it, the chapters measure against it.
"""

from sdhelpers.world.captions import (
    COLOURS,
    NOUNS,
    PLACES,
    QUALITIES,
    RELATIONS,
    STYLES,
    Description,
    describe,
    is_held_out,
    write_caption,
)
from sdhelpers.world.scenes import Scene, draw, sample

__all__ = [
    "COLOURS",
    "NOUNS",
    "PLACES",
    "QUALITIES",
    "RELATIONS",
    "STYLES",
    "Description",
    "Scene",
    "describe",
    "draw",
    "is_held_out",
    "sample",
    "write_caption",
]
