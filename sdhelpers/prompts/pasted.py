r"""Prompts pasted from elsewhere: brackets that overlap or stay open are put right before the grammar reads them.

    mend("a (red [old) castle]")  # "a (red [old])[ castle]"
    mend("a (castle:1.5")  # "a (castle:1.5)"

The rule: a closing bracket closes the last open one of its kind, whatever else is open, and what is never closed is
closed at the end. A bracket that overlaps another is cut in two. Built in chapter 10.
"""

import dataclasses
import re

from sdhelpers.prompts.grammar import DEEPEST, Node, PromptError, parse

SIGNS = re.compile(r"\\[()\[\]\\:|]|[()\[\]]|[^()\[\]\\]+|\\")
CLOSING = {"(": ")", "[": "]"}
WEIGHT = re.compile(r":\s*[+-]?[0-9.]*[0-9][0-9.]*\s*\Z")


@dataclasses.dataclass(eq=False)
class Bracket:
    """An opening bracket, and what closes it: for `(word:1.5)` that is `:1.5)`."""

    sign: str
    end: str


def mend(prompt: str) -> str:
    """The same prompt with every bracket closed and none overlapping another; what was in order stays as it was.

    Raises PromptError where more than a hundred brackets are open at once.
    """
    signs, brackets = pair(SIGNS.findall(prompt))
    mended: list[str] = []
    opened: list[Bracket] = []
    for sign, bracket in zip(signs, brackets):
        if bracket is None:  # words, or a closing bracket that has nothing to close, which is a plain sign
            mended.append(sign)
        elif sign in CLOSING:
            opened.append(bracket)
            mended.append(sign)
        else:
            crossed = opened[opened.index(bracket) + 1 :]
            if bracket.end != sign:
                mended[-1] = mended[-1].removesuffix(bracket.end[:-1])
            mended += [inner.end for inner in reversed(crossed)] + [bracket.end] + [inner.sign for inner in crossed]
            opened.remove(bracket)
    return "".join(mended)


def pair(signs: list[str]) -> tuple[list[str], list[Bracket | None]]:
    """The signs with the closing brackets that are missing at their end, and the bracket that each opens or closes."""
    brackets: list[Bracket | None] = []
    opened: list[Bracket] = []
    for i, sign in enumerate(signs):
        bracket = next((b for b in reversed(opened) if CLOSING[b.sign] == sign), None)
        if bracket:
            opened.remove(bracket)
            weight = WEIGHT.search(signs[i - 1]) if sign == ")" else None
            bracket.end = (weight[0] if weight else "") + sign
        elif sign in CLOSING:
            bracket = Bracket(sign, CLOSING[sign])
            opened.append(bracket)
            if len(opened) > DEEPEST:
                place = sum(map(len, signs[:i])) + 1
                raise PromptError(f"more than {DEEPEST} brackets stand inside one another here.", place)
        brackets.append(bracket)
    if not opened:
        return signs, brackets
    if signs[-1] == "\\":
        signs = [*signs[:-1], r"\\"]  # lest it escape the bracket that now follows it
    return pair(signs + [CLOSING[bracket.sign] for bracket in reversed(opened)])


def parse_pasted(prompt: str) -> tuple[Node, ...]:
    """The tree of a prompt whose brackets may overlap or stay open. Raises PromptError for other mistakes."""
    mended = mend(prompt)
    try:
        return parse(mended)
    except PromptError as error:
        if mended == prompt:
            raise
        reason = error.reason  # the place is one in the mended prompt, which nobody has seen
        raise PromptError(reason[:1].upper() + reason[1:]) from None
