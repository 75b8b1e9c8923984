"""Where the recipes keep what they make."""

from pathlib import Path

from sdhelpers import paths, world

RECIPES = Path(__file__).resolve().parent
POCKET = paths.POCKET  # the assembled models
RUNS = RECIPES / "runs"  # checkpoints, curves and exports of every training; never committed
CURVES = RECIPES / "curves"  # of what was assembled
SHEETS = RECIPES / "sheets"  # contact sheets of what was evaluated


def export_of(run: str) -> Path:
    """The folder in which a run leaves what is assembled."""
    return RUNS / run / "export"


def words(file: str) -> list[str]:
    """The lines of a list that lies beside the recipes, such as nouns.txt."""
    return (RECIPES / file).read_text(encoding="utf-8").split("\n")[:-1]


def nouns(file: str) -> list[str]:
    """The nouns of a list that lies beside the recipes, or "all" that the world has."""
    return list(world.NOUNS) if file == "all" else words(file)
