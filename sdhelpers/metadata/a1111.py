"""The `parameters` text that AUTOMATIC1111's web UI made common: written and read.

    a cat on a beach
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 1234, Size: 128x128, Model: sd15

First the prompt, which may have several lines; then, if there is one, the negative prompt; the last line
holds the settings, and a value with a comma, a colon, a quotation mark or a line break stands between
quotation marks as JSON writes it. Built in chapter 19 from files and their documented behaviour.
"""

import json
import re
from dataclasses import dataclass, field

NEGATIVE = "Negative prompt:"
FEWEST_FIELDS = 3  # a last line with fewer is taken for a part of the prompt
FIELD = re.compile(r'\s*(\w[\w /().-]{0,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
NEEDS_QUOTES = re.compile(r'[,:"\n\r]|^\s|\s$')


@dataclass(frozen=True)
class Parameters:
    """What a `parameters` text says. `fields` are the last line's, under its own names, in its order."""

    prompt: str
    negative_prompt: str = ""
    fields: dict[str, str] = field(default_factory=dict)


def quote(value: str) -> str:
    """The value as it stands in the last line."""
    return json.dumps(value, ensure_ascii=False) if NEEDS_QUOTES.search(value) else value


def unquote(value: str) -> str:
    """The value that was written; one that begins like a quotation and is none stays as it is."""
    if not value.startswith('"'):
        return value.strip()
    try:
        text = json.loads(value, strict=False)
        text.encode()  # half a surrogate pair cannot be written anywhere
        return text
    except ValueError:
        return value


def write_parameters(parameters: Parameters) -> str:
    """The text. The format has no way to write a prompt with a line that begins with `Negative prompt:`."""
    lines = [parameters.prompt] if parameters.prompt else []
    if parameters.negative_prompt:
        lines.append(f"{NEGATIVE} {parameters.negative_prompt}")
    lines.append(", ".join(f"{name}: {quote(value)}" for name, value in parameters.fields.items()))
    return "\n".join(lines)


def read_parameters(text: str) -> Parameters:
    """What the text says. Any text can be read: without a last line of settings all of it is prompt."""
    *lines, last = text.strip().split("\n")
    fields = {name: unquote(value) for name, value in FIELD.findall(last)}
    if len(fields) < FEWEST_FIELDS:
        lines, fields = [*lines, last], {}
    start = next((i for i, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(NEGATIVE)
    return Parameters("\n".join(lines[:start]).strip(), negative.strip(), fields)
