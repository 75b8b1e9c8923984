"""What the tests of both captioners share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from parts import captioner_tower


def untaught_tower(folder: Path) -> Path:
    """An export of the tower's recipe before it has learnt anything: pocket CLIP's tower."""
    options = argparse.Namespace(init=None, nouns="nouns.txt", rank=2)
    captioner_tower.export(captioner_tower.build(options), folder, options)
    return folder


def small_options(new_folder: Callable[[str], Path], architecture: dict, **more) -> argparse.Namespace:
    """What a captioner's recipe is told, of this architecture and with an untaught tower in a folder of its own."""
    tower = untaught_tower(new_folder("tower"))
    return argparse.Namespace(init=None, run=None, nouns="nouns.txt", tower=tower, architecture=architecture, **more)
