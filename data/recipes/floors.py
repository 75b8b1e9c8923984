"""The least that a shipped model must reach: tests/models/floors.toml, one table a model, one row a score of its card.

"noun right, held-out captions" = { at_least = 0.88 }
"perplexity, held-out wishes" = { below = "perplexity, subject alone" }       # another score of the same card
"distinct, temperature 1.2" = { above = "1.3 * distinct, temperature 0.2" }   # a multiple of it
"sharpness: plain / blurry" = { of_the_first = [{ below = 0.7 }] }            # each further value, over the first
"style seen, weights 0, 0.5, 1" = { each = [{ at_most = 0.2 }, {}, { at_least = 0.5 }], rising = true }
"""

import operator
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from sdhelpers.paths import ROOT

FLOORS = ROOT / "tests" / "models" / "floors.toml"
COMPARE = {"at_least": operator.ge, "at_most": operator.le, "above": operator.gt, "below": operator.lt}
COMPARE["equals"] = operator.eq


def read_floors() -> dict[str, dict[str, Any]]:
    """The rows of every model."""
    return tomllib.loads(FLOORS.read_text(encoding="utf-8"))


def missed(rows: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    """A line for each bound that the scores do not keep, or whose score is missing; KeyError for an unknown bound."""
    lines = [f"{name} was not measured" for name in rows if name not in scores]
    for name, value, bounds in _values(rows, scores):
        for kind, bound in bounds.items():
            if not COMPARE[kind](value, _number(bound, scores)):
                lines.append(f"{name} is {value:.4g}, not {kind.replace('_', ' ')} {bound}")
    return lines


def _values(rows: dict[str, Any], scores: dict[str, Any]) -> Iterator[tuple[str, float, dict[str, Any]]]:
    for name, bounds in rows.items():
        if name not in scores:
            continue
        if "of_the_first" in bounds:
            first, *others = scores[name]
            pairs = zip(others, bounds["of_the_first"], strict=True)
            yield from ((f"{name}: a value over the first", other / first, each) for other, each in pairs)
        if "each" in bounds:
            yield from ((f"{name}: a value", *pair) for pair in zip(scores[name], bounds["each"], strict=True))
        if "rising" in bounds:
            steps = zip(scores[name], scores[name][1:])
            yield from ((f"{name}: a step", after - before, {"at_least": 0}) for before, after in steps)
        if not bounds.keys() & {"of_the_first", "each", "rising"}:
            yield name, scores[name], bounds


def _number(bound: float | str, scores: dict[str, Any]) -> float:
    factor, name = re.fullmatch(r"(?:([\d.]+) \* )?(.*)", str(bound)).groups()
    return float(factor or 1) * scores[name] if isinstance(bound, str) else bound
