"""What a prompt says at each step: switches and alternations resolved, weights multiplied out.

    readings(parse("a [cat|dog]"), 4)  # the same as cat, dog, cat, dog

Built in chapter 12; the reading of a prompt that never changes in chapter 10.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from sdhelpers.prompts.grammar import LARGEST_WEIGHT, Alternate, Break, Node, PromptError, Switch, Text, Weighted, parse
from sdhelpers.prompts.pasted import parse_pasted


class Piece(NamedTuple):
    """Words, and the weight that all of them have."""

    text: str
    weight: float


Reading = tuple[tuple[Piece, ...], ...]  # what stands between the BREAKs, in pieces of one weight


def changes(tree: tuple[Node, ...]) -> bool:
    """Whether a prompt says something else at different steps."""
    inner = (node.parts for node in tree if isinstance(node, Weighted))
    return any(isinstance(node, Switch | Alternate) for node in tree) or any(map(changes, inner))


def read_prompt(prompt: str, tolerant: bool = False) -> Reading:
    """The reading of a prompt that is the same at every step. Raises PromptError for one that changes.

    With `tolerant`, brackets may overlap or stay open, as they do in prompts that come from elsewhere.
    """
    tree = parse_pasted(prompt) if tolerant else parse(prompt)
    if changes(tree):
        raise PromptError("this prompt changes from step to step: use it as a scheduled prompt (chapter 12).")
    return reading(tree, 1, 1)


def read_schedule(prompt: str, steps: int, tolerant: bool = False) -> list[Reading]:
    """One reading for each step that will really be run; `tolerant` as for `read_prompt`. Raises PromptError."""
    if steps < 1:
        raise PromptError(f"A schedule needs at least one step, not {steps}.")
    tree = parse_pasted(prompt) if tolerant else parse(prompt)
    if not changes(tree):
        return [reading(tree, 1, steps)] * steps
    same = functools.cache(lambda found: found)  # equal readings are kept once
    return [same(reading(tree, step, steps)) for step in range(1, steps + 1)]


def reading(tree: tuple[Node, ...], step: int, steps: int) -> Reading:
    """What a tree says at one step (1 is the first) of `steps`; neighbours of one weight are joined."""
    segments: list[list[Piece]] = [[]]
    for piece in walk(tree, step, steps, 1.0):
        last = segments[-1]
        if piece is None:
            segments.append([])
        elif last and last[-1].weight == piece.weight:
            last[-1] = Piece(last[-1].text + piece.text, piece.weight)
        else:
            last.append(piece)
    return tuple(map(tuple, segments))


def walk(tree: tuple[Node, ...], step: int, steps: int, weight: float) -> Iterator[Piece | None]:
    """The pieces of a tree from left to right; None stands for BREAK."""
    if abs(weight) > LARGEST_WEIGHT:
        raise PromptError(f"The weights of nested brackets multiply to {weight:g}, which is too large.")
    for node in tree:
        match node:
            case Text(text):
                yield Piece(text, weight)
            case Break():
                yield None
            case Weighted(parts, factor):
                yield from walk(parts, step, steps, weight * factor)
            case Switch(before, after, _):
                yield from walk(before if step <= node.step(steps) else after, step, steps, weight)
            case Alternate(options):
                yield from walk(options[(step - 1) % len(options)], step, steps, weight)


def write_reading(segments: Reading) -> str:
    """A reading as a prompt again, every weight written out: `a (cat:1.21) BREAK (sea:0.909)`."""
    return " BREAK ".join("".join(map(write_piece, pieces)).strip() for pieces in segments)


def write_piece(piece: Piece) -> str:
    text = re.sub(r"([()\[\]\\])", r"\\\1", piece.text)
    return text if piece.weight == 1 else f"({text}:{piece.weight:.3g})"
