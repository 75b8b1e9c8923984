"""The picture-book world: drawn scenes with captions and the truth about every pixel.

    rng = numpy.random.RandomState(0)
    scene = world.sample(rng)          # scene.image, scene.caption, scene.masks, scene.depth, ...

The pocket models were trained on it, the chapters measure against it. Its modules `clips` and `crowds` make scenes that
move and scenes to be counted, `questions` what may be asked of them.
"""

from sdhelpers.world import drawings
from sdhelpers.world.captions import (
    COLOURS,
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


def __getattr__(name: str) -> tuple[str, ...]:
    """NOUNS, the hundred that training sees; the drawings' index is read when they are asked for."""
    if name != "NOUNS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return drawings.TRAINED_NOUNS
