"""Questions about drawn scenes, with the answers that the world knows. Built for chapter 15.

questions = world.questions.about(scene, rng)       # or about a crowd: text, answer, kind of each
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sdhelpers.world import drawings
from sdhelpers.world.captions import COLOURS, pick
from sdhelpers.world.crowds import Crowd
from sdhelpers.world.scenes import Scene

NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {"mouse": "mice", "snowman": "snowmen"} | {n: n for n in ("sheep", "fish", "scissors", "cherries", "grapes")}
KINDS = ("noun", "style", "place", "colour", "relation", "count", "existence")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked and the one right answer, both as plain words; `kind` is one of KINDS."""

    kind: str
    text: str
    answer: str


def plural(noun: str) -> str:
    """Several of them: butterflies, buses, owls."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def with_article(noun: str) -> str:
    """A noun as one asks for it: an owl, a car, grapes."""
    if PLURALS.get(noun) == noun and noun.endswith("s"):
        return noun
    return f"{'an' if noun[0] in 'aeio' or noun == 'umbrella' else 'a'} {noun}"


def about(picture: Scene | Crowd, rng: np.random.RandomState, nouns: Sequence[str] | None = None) -> list[Question]:
    """Every kind of question that this picture answers, one of each, in an order by chance.

    "Is there ...?" asks as often for what is not there, of `nouns` (the world's own unless others are given).
    """
    known = drawings.TRAINED_NOUNS if nouns is None else nouns
    if isinstance(picture, Crowd):
        asked = [*_of_the_whole(picture.style, picture.place), *_counts(picture.nouns, rng)]
        there = picture.nouns
    else:
        description = picture.description
        there = description.nouns
        asked = _of_the_whole(description.style, description.place)
        asked += _of_two(there, description.relation) if description.relation else _of_one(there[0])
    asked.append(_existence(there, known, rng))
    return [asked[i] for i in np.argsort([rng.random_sample() for _ in asked])]


def _of_the_whole(style: str, place: str) -> list[Question]:
    where = Question("colour", "what colour is the background?", place) if place in COLOURS else None
    return [
        Question("style", "which style is it?", style),
        where or Question("place", "where is it?", place),
    ]


def _of_one(noun: str) -> list[Question]:
    return [Question("noun", "what is in the picture?", noun)]


def _of_two(nouns: Sequence[str], relation: str) -> list[Question]:
    """Of two objects each is asked for by the other."""
    first, second = nouns
    if relation == "next to":
        return [Question("relation", f"what is next to the {second}?", first)]
    over, under = ("riding", "ridden") if relation == "riding" else ("on top", "below")
    return [Question("relation", f"what is {over}?", first), Question("relation", f"what is {under}?", second)]


def _counts(nouns: Sequence[str], rng: np.random.RandomState) -> list[Question]:
    """How many of one kind that is there."""
    noun = pick(rng, sorted(set(nouns)))
    return [Question("count", f"how many {plural(noun)} are there?", NUMBERS[Counter(nouns)[noun]])]


def _existence(there: Sequence[str], known: Sequence[str], rng: np.random.RandomState) -> Question:
    is_there = rng.random_sample() < 0.5
    noun = pick(rng, there if is_there else [noun for noun in known if noun not in there])
    return Question("existence", f"is there {with_article(noun)}?", "yes" if is_there else "no")
