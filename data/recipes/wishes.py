"""Pairs for the prompt language model: a few everyday words, and the whole prompt that they stand for.

The prompts are the world's own captions, always complete and of the best quality. The few words say only a part of
them, and often in words that the image models have never read ("a kitty at the seaside").
"""

import dataclasses
import re
import tomllib
import zlib
from pathlib import Path

import numpy as np

from sdhelpers.world import NOUNS
from sdhelpers.world.captions import (
    COLOURS,
    MOUNTS,
    PLACE_WORDS,
    PLACES,
    RIDERS,
    STYLE_WORDS,
    STYLES,
    Description,
    is_held_out,
    pick,
    write_caption,
)

TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
EVERYDAY_NOUNS, EVERYDAY_PLACES, EVERYDAY_STYLES, HOMES = (TABLES[t] for t in ("nouns", "places", "styles", "homes"))
FILLERS = "cute nice pretty beautiful little lovely funny cool awesome big small amazing".split()
OPENINGS = ("draw ", "please draw ", "i want ", "a picture of ", "make ", "show me ", "paint ")
CLOSINGS = (".", "!", " please", " thanks")
LETTERS = "aeiouaeioubcdfghklmnprstvz"


@dataclasses.dataclass(frozen=True)
class Wish:
    """A few words, the description that they stand for, and a complete prompt for it."""

    words: str
    description: Description
    prompt: str
    fixed_style: str | None = None  # the style that the system message asks for


HOME = {noun: tuple(places.split(", ")) for places, names in HOMES.items() for noun in names.split("|")}


def likely_place(noun: str, rng: np.random.RandomState) -> str:
    """Where the noun is expected, nearly always; anywhere now and then, and always for a strange word."""
    chance, homes = rng.random_sample(), HOME.get(noun, ())
    if not homes or chance > 0.9:
        return pick(rng, PLACES)
    return homes[0] if chance < 0.6 or len(homes) == 1 else homes[1]


def strange_word(rng: np.random.RandomState, held_out: bool = False) -> str:
    """A word that means nothing ("bralu"): what to do with it is to keep it. One in ten is kept from training."""
    while True:
        length = 3 + int(rng.random_sample() * 6)
        word = "".join(pick(rng, LETTERS) for _ in range(length))
        if (zlib.crc32(word.encode()) % 10 == 0) == held_out:
            return word


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _named(noun: str, rng: np.random.RandomState) -> str:
    """The noun as a person types it: in everyday words, with or without article and praise."""
    options = EVERYDAY_NOUNS.get(noun, "").split("|")
    name = pick(rng, options) if options[0] and rng.random_sample() < 0.5 else noun
    if rng.random_sample() < 0.2:
        name = f"{pick(rng, FILLERS)} {name}"
    chance = rng.random_sample()
    return name if chance < 0.5 else f"the {name}" if chance < 0.55 else _article(name)


def _subject(description: Description, rng: np.random.RandomState) -> str:
    names = [_named(noun, rng) for noun in description.nouns]
    if len(names) == 1:
        return names[0]
    links = {"riding": ("riding", "on"), "next to": ("and", "next to", "with"), "on top of": ("on top of", "on")}
    return f" {pick(rng, links[description.relation])} ".join(names)


def _place(place: str, rng: np.random.RandomState) -> str:
    """` on the shore` or `, seaside`: as a phrase behind the subject, or as a tag."""
    if place in COLOURS:
        return pick(rng, (f" on {place}", f" on a {place} background", f", {place} background", f", {place}"))
    everyday = EVERYDAY_PLACES[place].split("|")
    chance = rng.random_sample()
    if chance < 0.4:
        return f" {pick(rng, PLACE_WORDS[place])}"
    if chance < 0.6:
        return pick(rng, (f" {place}", f", {place}"))
    return pick(rng, (" ", ", ")) + pick(rng, everyday)


def _in_style(subject: str, style: str, rng: np.random.RandomState) -> str:
    words = (*STYLE_WORDS[style], *EVERYDAY_STYLES[style].split("|"))
    return pick(rng, ("{1} of {0}", "{1} {0}", "{0}, {1}", "{0}, {1} style")).format(subject, pick(rng, words))


def few_words(description: Description, says: tuple[bool, bool], rng: np.random.RandomState) -> str:
    """The subject, and the style and the place if `says` tells so, as somebody types it."""
    words = _subject(description, rng)
    words += _place(description.place, rng) if says[1] else ""
    words = _in_style(words, description.style, rng) if says[0] else words
    words = pick(rng, OPENINGS) + words if rng.random_sample() < 0.2 else words
    return words + pick(rng, CLOSINGS) if rng.random_sample() < 0.15 else words


def _nouns(rng: np.random.RandomState) -> tuple[tuple[str, ...], str | None]:
    chance = rng.random_sample()
    if chance < 0.70:
        return (pick(rng, NOUNS),), None
    if chance < 0.86:
        return (strange_word(rng),), None
    if chance < 0.91:
        return (pick(rng, RIDERS), pick(rng, MOUNTS)), "riding"
    first = pick(rng, NOUNS)
    return (first, pick(rng, [n for n in NOUNS if n != first])), "next to" if chance < 0.96 else "on top of"


def sample(rng: np.random.RandomState) -> Wish:
    """A wish that training may see: no held-out combination of noun, style and place."""
    while True:
        nouns, relation = _nouns(rng)
        says = (rng.random_sample() < 0.3, rng.random_sample() < 0.4)
        place = pick(rng, PLACES if rng.random_sample() < 0.7 else COLOURS) if says[1] else likely_place(nouns[-1], rng)
        description = Description(nouns, pick(rng, STYLES), place, relation, "best")
        if not is_held_out(description):
            break
    fixed = description.style if not says[0] and rng.random_sample() < 0.2 else None
    prompt = write_caption(description, rng, complete=True)
    return Wish(few_words(description, says, rng), description, prompt, fixed)


def held_out(description: Description, rng: np.random.RandomState, says=(True, True)) -> Wish:
    """A wish for one of the combinations that training never sees."""
    description = dataclasses.replace(description, quality="best")
    return Wish(few_words(description, says, rng), description, write_caption(description, rng, complete=True))


def names_style(prompt: str, style: str) -> bool:
    """Whether a prompt asks for this style, in the world's words."""
    return any(words in prompt for words in STYLE_WORDS[style])


def names_place(prompt: str, place: str) -> bool:
    """Whether a prompt asks for this place or background colour, in the world's words."""
    if place in COLOURS:
        return re.search(rf"\bon {place}\b|\b{place} background\b", prompt) is not None
    return re.search(rf"\b{place}\b", prompt) is not None or any(words in prompt for words in PLACE_WORDS[place])


def names_subject(prompt: str, nouns: tuple[str, ...]) -> bool:
    """Whether a prompt names every noun."""
    return all(re.search(rf"\b{re.escape(noun)}\b", prompt, re.IGNORECASE) for noun in nouns)
