"""The card of a model: how its parts were trained, its scores, and the SHA-256 of its files."""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdhelpers.models import sha256


def facts(
    part: str, options: argparse.Namespace, steps: int, samples: int, seconds: float, device: str
) -> dict[str, Any]:
    """What a card tells of one training."""
    before = earlier_facts(options.init, part) if options.init else None
    return {
        "steps": steps,
        "samples": samples,
        "minutes": round(seconds / 60, 1),
        "device": device,
        "date": time.strftime("%Y-%m-%d"),
        **({"learning_rate": options.lr, "batch": options.batch} if "lr" in options else {}),
        **({"earlier": before} if before else {}),
    }


def earlier_facts(folder: Path, part: str) -> dict[str, Any] | None:
    """How the weights in `folder` were trained: from its own facts, or from the card of what was assembled of them."""
    if (folder / "facts.json").exists():
        return json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    for card in (folder / "card.json", folder.parent / "card.json"):
        if card.exists():
            return json.loads(card.read_text(encoding="utf-8"))["parts"].get(part)
    return None


def share(flags: Iterable[bool]) -> float:
    """The part of the flags that is true, as a card tells it."""
    flags = list(flags)
    return round(sum(flags) / len(flags), 4)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the card's own."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("card.json", "README.md"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in paths}


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an assembled model; empty where none was assembled yet."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """card.json for programs and README.md for people, from the same facts."""
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text("\n".join(_readme(card)) + "\n", encoding="utf-8")


def all_scores(card: dict[str, Any]) -> dict[str, Any]:
    """The scores of the parts, each with its part's name before it, and those of the whole model."""
    of_parts = {part: fact.get("scores", {}) for part, fact in card["parts"].items()}
    named = {f"{part}: {key}": value for part, scores in of_parts.items() for key, value in scores.items()}
    return named | card.get("scores", {})


def _readme(card: dict[str, Any]) -> list[str]:
    lines = [f"# Pocket `{card['name']}`", "", card["about"], "", "## How it was trained", ""]
    lines += ["| part | recipe | steps | samples | minutes | device | date |", "|---|---|---|---|---|---|---|"]
    row = "| {} | `{recipe}` | {steps:,} | {samples:,} | {minutes:,} | {device} | {date} |"
    for part, fact in card["parts"].items():
        trainings = [fact]
        while "earlier" in trainings[0]:
            trainings.insert(0, trainings[0]["earlier"])
        for i, training in enumerate(trainings):
            lines.append(row.format(part if i == 0 else f"{part}, trained on", **training))
    lines += ["", "Data: the picture-book world that `sdhelpers.world` draws (drawings and licences: `data/drawings`)."]
    lines += ["", "## Scores", "", "| measure | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in all_scores(card).items()]
    if "nouns" in card:
        lines += ["", "## What it has learnt to draw", "", f"{len(card['nouns'])} nouns: {', '.join(card['nouns'])}."]
        lines += ["Any of the world's styles, places, colours and quality words goes with them."]
    for title, text in card.get("notes", {}).items():
        lines += ["", f"## {title}", "", text]
    lines += ["", "## Files", "", "| file | SHA-256 |", "|---|---|"]
    return lines + [f"| {name} | `{digest}` |" for name, digest in card["files"].items()]
