"""Pocket models that share weights with others: put together on first use, so that nothing is stored twice.

The card of such a model has an entry "shared", and registry.toml the same as "shares":

    {"tensors": [{"from": "clip", "rename": {"": "clip."}, "into": "model.safetensors"}],
     "files": {"tokenizer.json": "clip/tokenizer.json"}}

`tensors`: one source or a list of them; of each all weights of a folder, renamed by the longest fitting beginning of
their names (no fit: left out), into a file. Several may go into one file, as a vision tower and a language model into
BLIP-2's, or into several, as for a pipeline. What the model has of its own comes on top of each such file, in this
order; a source names its file there, or that for all:

    "changed" (changed.safetensors where none is named)   tensors that are new or stand in the place of others
    "added"                                               differences, each added to the tensor of its name
    "low_rank"                                            NAME.up [out, rank] and NAME.down [rank, in, ...] of a tensor
                                                          NAME: their product is added to it

A table of which most rows are alike, as token embeddings are where training met few tokens, may lie in any of these
files in short, as `shorten_table` writes it: NAME.rows, NAME.numbers (of these rows), NAME.others and NAME.count.

`files`: what is copied, file or folder.

Several programs may ask for one model at the same time: one puts it together, the others wait. A folder's name
ends in a digest of what it is made of, so that new weights get a folder of their own, and a program that still
reads the old one (Windows does not let go of such files) is in nobody's way. Built in chapter 6.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sdhelpers.models.hub import sha256
from sdhelpers.models.registry import ModelError

OWN = "changed.safetensors"
STAMP = "made_of.json"
PATIENCE = 600  # seconds to wait for another program that puts the same model together; it takes some twenty


def complete(folder: Path, pocket: Path, built: Path) -> Path:
    """The folder in `built` that holds the whole model of `folder`; made now if it is not there or not whole."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    parts = [folder, *(pocket / place for place in _places(card))]
    made_of = _hashes_made_of(card, pocket)
    return put_together(folder.name, made_of, built, size(*parts), lambda new: _fill(new, folder, card, pocket))


def put_together(name: str, made_of: dict, built: Path, needed: int, fill: Callable[[Path], object]) -> Path:
    """The folder of `name` in `built` that `fill` has filled, in this program or in another, once for each `made_of`.

    Raises ModelError when it cannot be made; `needed` is the room in bytes that it takes at most.
    """
    target = built / f"{name}-{hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]}"
    if _is_whole(target, made_of):
        return target
    try:
        built.mkdir(parents=True, exist_ok=True)
        with FileLock(built / f"{name}.lock", timeout=PATIENCE):
            if not _is_whole(target, made_of):  # another program may have made it meanwhile
                _clear(name, built)
                _check_room(name, built, needed)
                _make(target, made_of, fill)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{name!r} could not be put together in {built} ({_reason(error)}): see that {needed / 1e6:.0f} MB are "
            f"free there, that you may write there, and that no other program holds it, then run the cell again."
        ) from error
    return target


def _clear(name: str, built: Path) -> None:
    """Remove what a program that was killed has left, and what was made of earlier weights; under the lock."""
    earlier = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}}|\.\w+\.part|\.safetensors)?")
    for path in built.iterdir():
        if earlier.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _check_room(name: str, built: Path, needed: int) -> None:
    free = shutil.disk_usage(built).free
    if free < needed:
        raise ModelError(
            f"{name!r} is put together in {built}, which takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are "
            f"free there: free some disk and run the cell again."
        )


def _make(target: Path, made_of: dict, fill: Callable[[Path], object]) -> None:
    """Fill a folder under another name, then rename it."""
    new = Path(tempfile.mkdtemp(prefix=f"{target.name.rpartition('-')[0]}.", suffix=".part", dir=target.parent))
    try:
        fill(new)
        _write_stamp(new, made_of)
        os.replace(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _reason(error: Exception) -> str:
    """What the system said, in its few words; copying a folder gives a list, of which the first is enough."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return getattr(error, "strerror", None) or str(error)


def size(*places: Path) -> int:
    """Bytes of all files in these places, each a file or a folder."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def sources(card: dict) -> list[str]:
    """Names of the pocket models that a card shares with."""
    return sorted({place.split("/")[0] for place in _places(card)})


def _places(card: dict) -> list[str]:
    """Files and folders of other models that a card's model is made of."""
    files = card.get("shared", {}).get("files", {}).values()
    return [*(source["from"] for source in _tensor_sources(card)), *files]


def _tensor_sources(card: dict) -> list[dict]:
    """The entries of "tensors", of which a card may have one alone."""
    found = card.get("shared", {}).get("tensors", [])
    return found if isinstance(found, list) else [found]


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
    """Copy the files, then write the tensors' files, of the sources first and of the model's own on top."""
    whole: dict[str, dict[str, torch.Tensor]] = {}
    own: dict[tuple[str, str, str], None] = {}  # kind, the model's own file, the file that it belongs to; in order
    for source in _tensor_sources(card):
        tensors = whole.setdefault(source["into"], {})
        for path in sorted((pocket / source["from"]).glob("*.safetensors")):
            named = {rename(name, source["rename"]): tensor for name, tensor in load_tensors(path).items()}
            tensors |= {name: tensor for name, tensor in named.items() if name is not None}
        for kind in CHANGES:
            file = source.get(kind, OWN if kind == "changed" else None)
            if file in card["files"]:
                own[kind, file, source["into"]] = None
    for kind, file, into in sorted(own, key=lambda change: list(CHANGES).index(change[0])):
        CHANGES[kind](whole[into], load_tensors(folder / file))
    for name, place in card["shared"].get("files", {}).items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (pocket / place).is_dir() else shutil.copy
        copy(pocket / place, new / name)
    for name in card["files"]:
        if name not in {file for _, file, _ in own}:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, new / name)
    for into, tensors in whole.items():
        (new / into).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, new / into, metadata={"format": "pt"})


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, its short tables at full length."""
    tensors = load_file(path)
    for name in [key.removesuffix(".count") for key in tensors if key.endswith(".count")]:
        rows, numbers, others, count = (
            tensors.pop(f"{name}.{part}") for part in ("rows", "numbers", "others", "count")
        )
        tensors[name] = others.repeat(int(count), 1)
        tensors[name][numbers.long()] = rows
    return tensors


def shorten_table(name: str, table: torch.Tensor) -> dict[str, torch.Tensor]:
    """A table [count, width] without the many rows that are alike, as `load_tensors` reads it."""
    alike, times = torch.unique(table, dim=0, return_counts=True)
    others = alike[times.argmax()][None]
    numbers = (table != others).any(1).nonzero()[:, 0]
    return {
        f"{name}.rows": table[numbers],
        f"{name}.numbers": numbers.int(),
        f"{name}.others": others,
        f"{name}.count": torch.tensor([len(table)]),
    }


def _add(tensors: dict[str, torch.Tensor], differences: dict[str, torch.Tensor]) -> None:
    for name, difference in differences.items():
        whole = _tensor(tensors, name, "a difference")
        tensors[name] = (whole.float() + difference.float()).to(whole.dtype)


def _add_low_rank(tensors: dict[str, torch.Tensor], factors: dict[str, torch.Tensor]) -> None:
    for name in sorted({factor.rpartition(".")[0] for factor in factors}):
        whole = _tensor(tensors, name, "a low-rank update")
        update = factors[f"{name}.up"].flatten(1).float() @ factors[f"{name}.down"].flatten(1).float()
        tensors[name] = (whole.float() + update.view(whole.shape)).to(whole.dtype)


def _tensor(tensors: dict[str, torch.Tensor], name: str, of: str) -> torch.Tensor:
    if name not in tensors:
        raise ModelError(f"There is {of} for {name}, which no model that is shared with has: assemble the model again.")
    return tensors[name]


CHANGES: dict[str, Callable[[dict, dict], None]] = {"changed": dict.update, "added": _add, "low_rank": _add_low_rank}


def rename(name: str, beginnings: dict[str, str]) -> str | None:
    """A tensor's name with its longest fitting beginning exchanged, or None when none fits."""
    fitting = max((b for b in beginnings if name.startswith(b)), key=len, default=None)
    return None if fitting is None else beginnings[fitting] + name[len(fitting) :]


def _write_stamp(new: Path, made_of: dict) -> None:
    files = {p.relative_to(new).as_posix(): sha256(p) for p in sorted(new.rglob("*")) if p.is_file()}
    (new / STAMP).write_text(json.dumps({"made_of": made_of, "files": files}), encoding="utf-8")
