"""Generation data: everything that decides an image's pixels, as one object, as JSON, and checked.

What comes from a file is input from a stranger: every field is checked before anything is drawn. Built in chapter 19.
"""

import dataclasses
import json
import math
import re
from typing import Any

from sdhelpers.generation import Settings, SettingsError
from sdhelpers.metadata.png import MetadataError
from sdhelpers.models import TIERS
from sdhelpers.schedulers import SCHEDULERS

FORMAT = 2
READINGS = {
    "plain": "the pipeline's own: what is behind the 77th token is cut off, brackets are characters",
    "weighted": "the web UI's: chunks of 75 tokens, weights that keep the mean, BREAK, words that change by step",
}
MOST_CLIP_SKIP = 11  # the text encoder of Stable Diffusion 1 has twelve layers
LARGEST_SIDE = 2048
LARGEST_NUMBER = 10_000  # in a scheduler's options
LONGEST_LIST = 1000  # likewise
LONGEST_PROMPT = 20_000  # characters
DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model by its name in the registry, and the one version of it that was used."""

    name: str
    tier: str
    revision: str  # a commit of the hub, or the SHA-256 of the files
    file_sha256: str = ""  # of a checkpoint in one file, by which sharing sites know it; a folder has none


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA file: its name without the ending, its weight, and its SHA-256.

    `tensors_sha256` leaves out the header of a safetensors file: it stays when somebody edits the description in
    there, and it is what the web UI and sharing sites call a LoRA's hash.
    """

    name: str
    weight: float
    sha256: str
    tensors_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A textual-inversion file: the word that stands for it in the prompt, and its SHA-256."""

    token: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class GenerationData:
    """What is needed to make an image again, and to know that it came out the same."""

    settings: Settings
    reading: str  # of READINGS: how the prompts become what the UNet hears
    clip_skip: int  # how many of the text encoder's last layers are left out
    model: ModelSource
    scheduler: dict[str, Any]  # every option of the scheduler, not only those that differ from its defaults
    adapters: tuple[Adapter, ...]
    embeddings: tuple[Embedding, ...]
    made_with: dict[str, str]  # versions, device, number format, threads
    pixels: str  # SHA-256


def to_json(data: GenerationData) -> str:
    """The data as JSON in ASCII; infinite options of a scheduler are written as "inf" and "-inf"."""
    values = {"format": FORMAT, **dataclasses.asdict(data)}
    options = data.scheduler.items()
    values["scheduler"] = {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in options}
    return json.dumps(values, allow_nan=False)


def from_json(text: str) -> GenerationData:
    """The data that to_json wrote. Raises MetadataError for anything else, with the field that is wrong."""
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise MetadataError("The generation data are not JSON that can be used.") from error
    values = of_format_2(values) if isinstance(values, dict) and values.get("format") == 1 else values
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise MetadataError(f"The generation data are not of format {FORMAT}: a newer version may have written them.")
    _fields(GenerationData, values)
    kinds = dict(reading=str, clip_skip=int, scheduler=dict, adapters=list, embeddings=list, made_with=dict)
    if wrong := [name for name, kind in kinds.items() if type(values[name]) is not kind]:
        raise MetadataError(f"The generation data's {' and '.join(wrong)} are of the wrong kind.")
    return check(
        GenerationData(
            settings=_build(Settings, values["settings"]),
            reading=values["reading"],
            clip_skip=values["clip_skip"],
            model=_build(ModelSource, values["model"]),
            scheduler={k: float(v) if v in ("inf", "-inf") else v for k, v in values["scheduler"].items()},
            adapters=tuple(_build(Adapter, a) for a in values["adapters"]),
            embeddings=tuple(_build(Embedding, e) for e in values["embeddings"]),
            made_with=values["made_with"],
            pixels=values["pixels"],
        )
    )


def of_format_2(values: dict) -> dict:
    """Data of format 1, which knew plain prompts only, with what format 2 has besides. What is odd stays as it is."""

    def with_default(entry: Any, name: str) -> Any:
        return {name: ""} | entry if isinstance(entry, dict) else entry

    added = {"format": 2, "reading": "plain", "clip_skip": 0, "embeddings": []}
    values = values | added
    if "model" in values:
        values["model"] = with_default(values["model"], "file_sha256")
    if isinstance(values.get("adapters"), list):
        values["adapters"] = [with_default(a, "tensors_sha256") for a in values["adapters"]]
    return values


def _fields(cls, values: Any) -> dict[str, type]:
    """Names and types of a dataclass's fields, once `values` is seen to have these and no others."""
    expected = {f.name: f.type for f in dataclasses.fields(cls)}
    if not isinstance(values, dict) or set(values) != set(expected):
        wrong = sorted(set(values) ^ set(expected)) if isinstance(values, dict) else [cls.__name__]
        raise MetadataError(f"The generation data have missing or unknown fields: {', '.join(wrong)[:200]}.")
    return expected


def _build(cls, values: Any):
    """A dataclass of plain fields from a dictionary, each of the right type (a whole number may be a float's)."""
    expected = _fields(cls, values)
    for name, kind in expected.items():
        if kind is float and type(values[name]) is int and abs(values[name]) <= LARGEST_NUMBER:
            values = values | {name: float(values[name])}
        if type(values[name]) is not kind:
            raise MetadataError(f"In the generation data {name} should be {kind.__name__}, not {values[name]!r:.60}.")
    return cls(**values)


def check(data: GenerationData) -> GenerationData:
    """The data themselves, or MetadataError when they ask for something absurd or unknown."""
    settings, made_with = data.settings, data.made_with
    try:
        settings.check()
    except SettingsError as error:
        raise MetadataError(f"The generation data cannot be used. {error}") from error
    numbers = [v for value in data.scheduler.values() for v in (value if isinstance(value, list) else [value])]
    problems = {
        "the size": max(settings.width, settings.height) > LARGEST_SIDE,
        "the guidance scale": not abs(settings.guidance_scale) <= 1000,
        "the prompt": len(settings.prompt) + len(settings.negative_prompt) > LONGEST_PROMPT,
        "the reading": data.reading not in READINGS,
        "the clip skip": not 0 <= data.clip_skip <= MOST_CLIP_SKIP,
        "the scheduler": settings.scheduler not in SCHEDULERS,
        "the scheduler's options": len(numbers) > LONGEST_LIST or not all(map(_harmless, numbers)),
        "the tier": data.model.tier not in TIERS,
        "an adapter's weight": not all(abs(a.weight) <= 1000 for a in data.adapters),
        "the number format": made_with.get("dtype") not in DTYPES,
        "the number of threads": not re.fullmatch("[1-9][0-9]{0,2}", str(made_with.get("threads"))),
        "the conditions": not all(isinstance(text, str) for text in made_with.values()),
        "the pixels' hash": not re.fullmatch("[0-9a-f]{64}", str(data.pixels)),
    }
    if wrong := [name for name, is_wrong in problems.items() if is_wrong]:
        raise MetadataError(f"In the generation data {' and '.join(wrong)} cannot be right.")
    return data


def _harmless(value: Any) -> bool:
    """Whether a scheduler's option is a word, a switch, infinite, or a number of moderate size."""
    if isinstance(value, int | float):
        return math.isinf(value) or abs(value) <= LARGEST_NUMBER
    return value is None or (isinstance(value, str) and len(value) < 100)
