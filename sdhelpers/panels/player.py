"""Clips that play in the page: `Player(clips, labels)`. Built in chapter 14.

A flipbook with a slider for the speed and a box for playing over and over, and it lives in the browser as a flipbook
does. It stands still until a reader plays it. Several clips play side by side, frame by frame together.
"""

from collections.abc import Sequence

from PIL import Image

from sdhelpers.images import labelled_grid
from sdhelpers.panels.flipbook import Flipbook
from sdhelpers.panels.sheet import COLUMNS

FASTEST = 24  # frames per second
WIDEST = 1600  # pixels of the sheet; wide pages stand in fewer columns


class Player(Flipbook):
    """Clips side by side, each with its label below; one play button, speed and slider, called by `description`.

    Raises ValueError when there are no clips, when they have several lengths or sizes, when there is not one label a
    clip, or for a speed that is not from 1 to 24 frames per second.
    """

    def __init__(
        self,
        clips: Sequence[Sequence[Image.Image]],
        labels: Sequence[str] | None = None,
        frames_per_second: int = 8,
        description: str = "frame",
    ):
        labels = [""] * len(clips) if labels is None else labels
        if not clips or not clips[0] or len(clips) != len(labels):
            raise ValueError(f"A player needs clips and one label each; got {len(clips)} and {len(labels)}.")
        kinds = {(len(clip), *frame.size) for clip in clips for frame in clip}
        if len(kinds) > 1:
            shown = ", ".join(f"{count} frames of {width} x {height}" for count, width, height in sorted(kinds))
            raise ValueError(f"Clips side by side must be equally long and large; these are {shown}.")
        if not 1 <= frames_per_second <= FASTEST:
            raise ValueError(f"Choose a speed from 1 to {FASTEST} frames per second, not {frames_per_second}.")
        named = len(clips) > 1 or any(labels)
        pages = [labelled_grid(frames, labels) if named else frames[0] for frames in zip(*clips)]
        columns = max(1, min(COLUMNS, WIDEST // pages[0].width))
        super().__init__(pages, [str(number + 1) for number in range(len(pages))], description, columns)
        self.book |= {"fastest": FASTEST, "speed": frames_per_second}
        self.clips = [label or f"clip {number + 1}" for number, label in enumerate(labels)]

    def __repr__(self) -> str:
        return f"Player of {', '.join(self.clips)}: {self.book['count']} frames"
