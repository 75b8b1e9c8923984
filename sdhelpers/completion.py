"""Pocket models that share weights with others: put together on first use, so that nothing is stored twice.

The card of such a model has an entry "shared":

    {"tensors": {"from": "clip", "rename": {"": "clip."}, "into": "model.safetensors"},
     "files": {"tokenizer.json": "clip/tokenizer.json"}}

`tensors`: all weights of a folder, renamed by the longest fitting beginning of their names (no fit: left out); those
in the model's own changed.safetensors come on top. `files`: what is copied, file or folder. Built in chapter 6.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from sdhelpers.hub import sha256

OWN = "changed.safetensors"
STAMP = "made_of.json"


def complete(folder: Path, pocket: Path, built: Path) -> Path:
    """The folder in `built` that holds the whole model of `folder`; made now if it is not there or not whole."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    target, made_of = built / folder.name, _hashes_made_of(card, pocket)
    if not _is_whole(target, made_of):
        built.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=built))
        try:
            _fill(new, folder, card, pocket)
            _write_stamp(new, made_of)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(new, target)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return target


def sources(card: dict) -> list[str]:
    """Names of the pocket models that a card shares with."""
    shared = card.get("shared", {})
    places = [shared["tensors"]["from"], *shared.get("files", {}).values()] if shared else []
    return sorted({place.split("/")[0] for place in places})


def _hashes_made_of(card: dict, pocket: Path) -> dict:
    """What the whole model follows from: the files' hashes on its own card and on those it shares with."""
    others = {name: json.loads((pocket / name / "card.json").read_text(encoding="utf-8")) for name in sources(card)}
    return {"own": card["files"], "shared": card["shared"], **{name: c["files"] for name, c in others.items()}}


def _is_whole(target: Path, made_of: dict) -> bool:
    try:
        stamp = json.loads((target / STAMP).read_text(encoding="utf-8"))
        return stamp["made_of"] == made_of and all(sha256(target / n) == h for n, h in stamp["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _fill(new: Path, folder: Path, card: dict, pocket: Path) -> None:
    shared = card["shared"]
    for name, place in shared.get("files", {}).items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (pocket / place).is_dir() else shutil.copy
        copy(pocket / place, new / name)
    for name in card["files"]:
        if name != OWN:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, new / name)
    wanted = shared["tensors"]
    tensors = {
        renamed: value
        for path in sorted((pocket / wanted["from"]).glob("*.safetensors"))
        for name, value in load_file(path).items()
        if (renamed := rename(name, wanted["rename"])) is not None
    }
    into = new / wanted["into"]
    into.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | load_file(folder / OWN), into, metadata={"format": "pt"})


def rename(name: str, beginnings: dict[str, str]) -> str | None:
    """A tensor's name with its longest fitting beginning exchanged, or None when none fits."""
    fitting = max((b for b in beginnings if name.startswith(b)), key=len, default=None)
    return None if fitting is None else beginnings[fitting] + name[len(fitting) :]


def _write_stamp(new: Path, made_of: dict) -> None:
    files = {p.relative_to(new).as_posix(): sha256(p) for p in sorted(new.rglob("*")) if p.is_file()}
    (new / STAMP).write_text(json.dumps({"made_of": made_of, "files": files}), encoding="utf-8")
