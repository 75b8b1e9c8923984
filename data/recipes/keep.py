"""Keep a training on its way in the repository, at a third of its size: what differs from a shipped folder.

    python data/recipes keep data/recipes/runs/unet2/export --like data/pocket/sd15/unet    # writes kept/unet2.npz
    python data/recipes keep data/recipes/kept/unet2.npz --like data/pocket/sd15/unet       # writes runs/unet2/kept

Differences are rounded to whole numbers from -31 to 31 with one scale a row, tensors that the shipped folder lacks to
float16. Good to go on from (`--init data/recipes/runs/unet2/kept`), not to be shipped.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from places import RECIPES, RUNS

LEVELS = 31
SCALE = "scale of "  # before a tensor's name: its rows' scales


def tensors_in(folder: Path) -> dict[str, np.ndarray]:
    """All weights of a folder, float32."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
    return found


def shrink(tensors: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The differences as int8 with a float32 scale a row; tensors that `like` lacks as float16."""
    kept = {}
    for name, tensor in tensors.items():
        if name not in like:
            kept[name] = tensor.astype(np.float16)
            continue
        rows = (tensor - like[name]).reshape(len(tensor) if tensor.ndim > 1 else 1, -1)
        scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / LEVELS
        kept[name], kept[SCALE + name] = np.rint(rows / scale).astype(np.int8), scale
    return kept


def restore(kept: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors again, in float16."""
    whole = {}
    for name in (name for name in kept if not name.startswith(SCALE)):
        tensor = kept[name]
        if SCALE + name in kept:
            tensor = like[name] + (tensor * kept[SCALE + name]).reshape(like[name].shape)
        whole[name] = tensor.astype(np.float16)
    return whole


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "python data/recipes keep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("place", type=Path, help="an exported folder, or a kept .npz")
    parser.add_argument("--like", type=Path, required=True, help="the shipped folder that it began with")
    options = parser.parse_args(arguments)
    like = tensors_in(options.like)
    if options.place.suffix == ".npz":
        folder = RUNS / options.place.stem / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(options.place) as kept:
            whole = restore(dict(kept), like)
        save_file(whole, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        for name in ("config.json", "facts.json"):
            shutil.copy(options.place.with_name(f"{options.place.stem}.{name}"), folder / name)
        print(f"{folder}: go on with --init {folder}")
        return
    target = RECIPES / "kept" / f"{options.place.resolve().parent.name}.npz"
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".part.npz")
    np.savez_compressed(temporary, **shrink(tensors_in(options.place), like))
    os.replace(temporary, target)
    for name in ("config.json", "facts.json"):
        shutil.copy(options.place / name, target.with_name(f"{target.stem}.{name}"))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
