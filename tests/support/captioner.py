"""What the tests of both captioners share."""

import argparse
from pathlib import Path

from parts import captioner_tower


def untaught_tower(folder: Path) -> Path:
    """An export of the tower's recipe before it has learnt anything: pocket CLIP's tower."""
    options = argparse.Namespace(init=None, nouns="nouns.txt", rank=2)
    captioner_tower.export(captioner_tower.build(options), folder, options)
    return folder
