"""The shipped files against the SHA-256 on their cards, once a process. Built in chapter 6."""

import functools
import json
from pathlib import Path

from sdhelpers import paths
from sdhelpers.models.hub import sha256
from sdhelpers.models.registry import ModelError


@functools.cache
def verify(folder: Path) -> Path:
    """Check every file of a shipped model against its card's SHA-256, once a process; return the folder."""
    _in_checkout()
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        files = dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{_short(folder)} has no readable card.json: restore it with `git checkout -- data/pocket`."
        ) from error
    for name, digest in files.items():
        problem = _file_problem(folder / name, digest)
        if problem:
            raise ModelError(f"{_short(folder / name)} {problem}: restore it with `git checkout -- data/pocket`.")
    return folder


def _in_checkout() -> None:
    try:
        paths.checkout()
    except paths.CheckoutError as error:
        raise ModelError(str(error)) from error


def _file_problem(path: Path, digest: str) -> str | None:
    """What is wrong with a shipped file, in a few words, or None."""
    if not path.is_file():
        return "is missing"
    if path.suffix == ".safetensors" and path.stat().st_size < 1000:
        return "is not a weights file"
    if sha256(path) != digest:
        return "is damaged or was changed (its SHA-256 is not the one on the model card)"
    return None


def _short(path: Path) -> str:
    return path.relative_to(paths.ROOT).as_posix() if path.is_relative_to(paths.ROOT) else path.name
