"""The prompt grammar: weights, nesting, escapes, BREAK, switches and alternation, read as the A1111 web UI does.

    tree = parse("a (cat:1.3) on a [beach:meadow:0.5]")

Source: the web UI's documentation (wiki, "Features"); the rules are in grammar.lark. Built in chapters 10 and 12.
"""

import dataclasses
import functools
import re
from fractions import Fraction
from importlib import resources

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedToken

EMPHASIS = 1.1  # what one pair of brackets multiplies by, or divides by
DEEPEST = 100  # brackets inside one another
LARGEST_WEIGHT = 1e6
LONGEST_NUMBER = 20
NUMBER = re.compile(r"\s*([+-]?[0-9.]*[0-9][0-9.]*)\s*")
NO_TEXT = re.compile(r"(?<!\w)AND(?!\w)|<(?:lora|lyco|hypernet):[^<>\n]*>")  # what the web UI takes out of a prompt


class PromptError(ValueError):
    """A prompt that cannot be read. `position` counts its characters from 1; None where no single one is to blame."""

    def __init__(self, message: str, position: int | None = None):
        super().__init__(message if position is None else f"Character {position}: {message}")
        self.reason, self.position = message, position


@dataclasses.dataclass(frozen=True)
class Text:
    """Words as they are, escapes resolved."""

    text: str


@dataclasses.dataclass(frozen=True)
class Break:
    """The rest of the chunk is filled with padding."""


@dataclasses.dataclass(frozen=True)
class Weighted:
    """`(parts)`, `[parts]` or `(parts:factor)`: all weights inside times `factor`."""

    parts: tuple["Node", ...]
    factor: float


@dataclasses.dataclass(frozen=True)
class Switch:
    """`[before:after:when]`: `after` follows `before` once a number of steps (int) or a share of them is done."""

    before: tuple["Node", ...]
    after: tuple["Node", ...]
    when: int | Fraction

    def step(self, steps: int) -> int:
        """How many of `steps` are drawn with `before`; a share is rounded down."""
        return self.when if isinstance(self.when, int) else int(self.when * steps)


@dataclasses.dataclass(frozen=True)
class Alternate:
    """`[a|b|c]`: one option a step, in turn."""

    options: tuple[tuple["Node", ...], ...]


Node = Text | Break | Weighted | Switch | Alternate


@dataclasses.dataclass(frozen=True)
class Inner:
    """A finished bracket on its way up: its node, and how many brackets deep it is."""

    node: Node
    depth: int


class Builder(Transformer):
    """Makes nodes while the parser reads, innermost brackets first; nothing here is recursive."""

    def start(self, children: list) -> tuple[Node, ...]:
        return to_nodes(children)

    def round(self, children: list) -> Inner:
        opening, content = children[0], children[1:-1]
        sections = split(content, "COLON")
        number = read_number(sections[-1]) if len(sections) > 1 else None
        if number is None:
            return wrap(opening, content, EMPHASIS)
        return wrap(opening, content[: -len(sections[-1]) - 1], weight(number, sections[-1][0]))

    def square(self, children: list) -> Inner:
        opening, content = children[0], children[1:-1]
        sections, options = split(content, "COLON"), split(content, "PIPE")
        number = read_number(sections[-1]) if len(sections) > 1 else None
        if number is None:
            if len(options) == 1:
                return wrap(opening, content, 1 / EMPHASIS)
            return Inner(Alternate(tuple(map(to_nodes, options))), depth(opening, content))
        if len(options) > 1 or len(sections) > 3:
            raise PromptError(
                r"this [ holds too many parts: write [from:to:when] or [a|b], one inside the other for both, "
                r"and \: or \| for the sign itself.",
                opening.start_pos + 1,
            )
        before, after = ([], *sections[:-1])[-2:]
        node = Switch(to_nodes(before), to_nodes(after), switch_point(number, sections[-1][0]))
        return Inner(node, depth(opening, content))

    def lone_round(self, children: list) -> Inner:
        opening, content = children[0], children[1:]
        sections = split(content, "COLON")
        if any(re.match(r"\s*[+-]?[0-9.]*[0-9]", leading_text(section)) for section in sections[1:]):
            raise unclosed(opening)
        return wrap(opening, content, EMPHASIS)

    def lone_square(self, children: list) -> Inner:
        opening, content = children[0], children[1:]
        if any(is_token(child, "COLON") or is_token(child, "PIPE") for child in content):
            raise unclosed(opening)
        return wrap(opening, content, 1 / EMPHASIS)


def is_token(child: Token | Inner, kind: str) -> bool:
    return isinstance(child, Token) and child.type == kind


def split(content: list, kind: str) -> list[list]:
    """The content between the tokens of one kind: always one list more than there are such tokens."""
    sections: list[list] = [[]]
    for child in content:
        if is_token(child, kind):
            sections.append([])
        else:
            sections[-1].append(child)
    return sections


def leading_text(section: list) -> str:
    """The words that a section begins with, or nothing."""
    return str(section[0]) if section and is_token(section[0], "TEXT") else ""


def read_number(section: list) -> str | None:
    """The digits of a section that is a number and nothing else. Raises PromptError for one like 1.2.3."""
    found = NUMBER.fullmatch(section[0]) if len(section) == 1 and is_token(section[0], "TEXT") else None
    if not found:
        return None
    digits = found[1]
    if digits.count(".") > 1 or len(digits) > LONGEST_NUMBER:
        raise PromptError(f"{digits[:LONGEST_NUMBER]} is not a number that can be used.", section[0].start_pos + 1)
    return digits


def weight(digits: str, token: Token) -> float:
    """The number of `(word:1.5)`."""
    factor = float(digits)
    if abs(factor) > LARGEST_WEIGHT:
        raise PromptError(f"the weight {digits} is too large.", token.start_pos + 1)
    return factor


def switch_point(digits: str, token: Token) -> int | Fraction:
    """The number of `[from:to:when]`: with a decimal point a share of the steps, else a number of steps."""
    when = Fraction(digits) if "." in digits else int(digits)
    if when < 0:
        raise PromptError(f"the switch cannot come before the first step, at {digits}.", token.start_pos + 1)
    if isinstance(when, Fraction) and when > 1:
        raise PromptError(
            f"a switch with a decimal point is a share of the steps, from 0 to 1, not {digits}.", token.start_pos + 1
        )
    return when


def wrap(opening: Token, content: list, factor: float) -> Inner:
    return Inner(Weighted(to_nodes(content), factor), depth(opening, content))


def depth(opening: Token, content: list) -> int:
    """How many brackets deep a bracket with this content is. Raises PromptError when that is too deep."""
    deepest = 1 + max((child.depth for child in content if isinstance(child, Inner)), default=0)
    if deepest > DEEPEST:
        raise PromptError(f"more than {DEEPEST} brackets stand inside one another here.", opening.start_pos + 1)
    return deepest


def unclosed(opening: Token) -> PromptError:
    return PromptError(
        rf"this {opening} is never closed: close it, or write \{opening} for the sign itself.", opening.start_pos + 1
    )


def to_nodes(children: list) -> tuple[Node, ...]:
    """Tokens and finished brackets as nodes; neighbouring words become one Text."""
    nodes: list[Node] = []
    words: list[str] = []
    for child in [*children, None]:
        if isinstance(child, Token) and child.type != "BREAK":
            words.append(child[1:] if child.type == "ESCAPED" else str(child))
            continue
        if words:
            nodes.append(Text("".join(words)))
            words = []
        if child is not None:
            nodes.append(child.node if isinstance(child, Inner) else Break())
    return tuple(nodes)


@functools.cache
def parser() -> Lark:
    rules = resources.files(__package__).joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(rules, parser="lalr", lexer="basic", transformer=Builder(), maybe_placeholders=False)


def refuse_what_is_no_text(prompt: str) -> None:
    """Raise PromptError for `AND` and for tags like `<lora:name:0.8>`, which are no words for the text encoder."""
    found = NO_TEXT.search(prompt)
    if found and found[0] == "AND":
        raise PromptError(
            "AND joins prompts that are guided one by one, which the vectors of one prompt cannot say: "
            "write `and` for the word, or blend the prompts (chapter 12).",
            found.start() + 1,
        )
    if found:
        raise PromptError(
            f"{found[0][:40]} names a file and is no text: take it out of the prompt and load the file (chapter 8).",
            found.start() + 1,
        )


def parse(prompt: str) -> tuple[Node, ...]:
    """The tree of a prompt. Raises PromptError, with the position and one sentence, for one that cannot be read."""
    refuse_what_is_no_text(prompt)
    try:
        return parser().parse(prompt)
    except UnexpectedToken as error:
        other = "(" if error.token == "]" else "["
        raise PromptError(
            f"this {error.token} stands inside a {other} that is still open: brackets must not overlap.",
            error.token.start_pos + 1,
        ) from None
