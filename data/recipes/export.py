"""What a training leaves in its folder: weights in float16, and facts.json with how they came about."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recipe import Recipe

SHARD = "14MB"


def save(model: torch.nn.Module, folder: Path, options: argparse.Namespace | None = None) -> None:
    """A library's model as its `from_pretrained` loads it, in files of at most `SHARD`."""
    model.half().save_pretrained(folder, max_shard_size=SHARD)


def save_changed(model: torch.nn.Module, folder: Path, beginnings: str | tuple[str, ...]) -> None:
    """Only the tensors whose names begin so: the others are shared with another model (sdhelpers.models.compose)."""
    changed = {k: v.half().contiguous() for k, v in model.state_dict().items() if k.startswith(beginnings)}
    save_file(changed, folder / "changed.safetensors")


def finish(
    name: str, recipe: Recipe, model: torch.nn.Module, folder: Path, facts: dict[str, Any], options: argparse.Namespace
) -> None:
    """Score a trained model, export it, and write facts.json beside it: the end of every training."""
    scores = recipe.score(model, options) if recipe.score else {}
    if scores:
        print(json.dumps(scores, indent=1))
    folder.mkdir(parents=True, exist_ok=True)
    more = recipe.export(model, folder, options) or {}
    told = {**facts, "recipe": f"data/recipes/parts/{name}.py", **({"scores": scores} if scores else {}), **more}
    (folder / "facts.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
