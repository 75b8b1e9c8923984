"""Generation data: everything that decides an image's pixels, taken from the call that made it.

    image, data = generate_and_record(pipe, settings, model_source("sd15", tier))
    again = redraw(load_pipeline(data), data)

One Settings object goes to the pipeline and into the record, so that the two cannot differ. What comes from
a file is input from a stranger: every field is checked before anything is drawn. Built in chapter 19.
"""

import dataclasses
import hashlib
import json
import math
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from sdhelpers import models
from sdhelpers.device import best_device
from sdhelpers.generation import Settings, SettingsError, generate
from sdhelpers.metadata.png import MetadataError
from sdhelpers.models import TIERS, ModelError, sha256
from sdhelpers.schedulers import SCHEDULERS

FORMAT = 1
LIBRARIES = ("torch", "diffusers", "transformers", "peft")
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


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA file: its name without the ending, its weight, and its SHA-256."""

    name: str
    weight: float
    sha256: str


@dataclasses.dataclass(frozen=True)
class GenerationData:
    """What is needed to make an image again, and to know that it came out the same."""

    settings: Settings
    model: ModelSource
    scheduler: dict[str, Any]  # every option of the scheduler, not only those that differ from its defaults
    adapters: tuple[Adapter, ...]
    made_with: dict[str, str]  # versions, device, number format, threads
    pixels: str  # SHA-256


def model_source(name: str, tier: str = "pocket") -> ModelSource:
    """Where a model of the registry comes from, with its revision. Raises ModelError for an unknown one."""
    full = models.entry(name).full
    if models.check_tier(tier) == "full" and full:
        return ModelSource(name, tier, full.sha256 or full.revision)
    card = json.loads((models.locate(name, tier) / "card.json").read_text(encoding="utf-8"))
    listed = "".join(f"{file} {digest}\n" for file, digest in sorted(card["files"].items()))
    return ModelSource(name, tier, card.get("single_file_sha256") or hashlib.sha256(listed.encode()).hexdigest())


def pixel_hash(image: Image.Image) -> str:
    """The SHA-256 of size and RGB values: equal for two images exactly when not a pixel differs."""
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.convert("RGB").tobytes()).hexdigest()


def load_adapters(pipe, files: dict[Path, float]) -> tuple[Adapter, ...]:
    """Load LoRA files with their weights, in place of those that the pipeline has; say what was loaded."""
    pipe.unload_lora_weights()
    adapters = tuple(Adapter(path.stem, float(weight), sha256(path)) for path, weight in files.items())
    for path in files:
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=module_name(path.stem))
    if adapters:
        pipe.set_adapters([module_name(a.name) for a in adapters], [a.weight for a in adapters])
    return adapters


def module_name(name: str) -> str:
    """A file's name as PEFT may use it for a module: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def generate_and_record(
    pipe, settings: Settings, model: ModelSource, adapters: tuple[Adapter, ...] = ()
) -> tuple[Image.Image, GenerationData]:
    """An image, and the data that make it again. `adapters` is what load_adapters gave for this pipeline.

    Raises MetadataError when the pipeline has other adapters than those, and SettingsError for bad settings.
    """
    active = set(pipe.get_active_adapters())
    if active != {module_name(a.name) for a in adapters}:
        raise MetadataError(f"The pipeline has the adapters {sorted(active)}, which are not the ones to be recorded.")
    image = generate(pipe, settings)
    data = GenerationData(
        settings=settings,
        model=model,
        scheduler={key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")},
        adapters=adapters,
        made_with=conditions(pipe),
        pixels=pixel_hash(image),
    )
    return image, check(data)


def conditions(pipe) -> dict[str, str]:
    """What else has a say in the last bits of a pixel: versions, device, number format, threads."""
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "python": platform.python_version(),
        **versions,
        "device": pipe.device.type,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }


def load_pipeline(data: GenerationData):
    """The pipeline that the data name, on the best device. Raises ModelError when its model is another version here."""
    here = model_source(data.model.name, data.model.tier)
    if here != data.model:
        raise ModelError(f"The image was made with another version of {data.model.name} than the one that is here.")
    dtype = getattr(torch, data.made_with["dtype"])
    options = dict(dtype=dtype, safety_checker=None)
    maker, _, way = models.entry(data.model.name).loaded_by.partition(".")
    loader = getattr(diffusers, maker)
    if way == "from_single_file":
        path = models.locate_file(data.model.name, data.model.tier)
        pipe = loader.from_single_file(path, config=str(models.locate("sd15", data.model.tier)), **options)
    else:
        folder = models.locate(data.model.name, data.model.tier)
        pipe = loader.from_pretrained(folder, variant=models.variant(data.model.name, data.model.tier), **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(best_device())


def redraw(pipe, data: GenerationData, adapters: list[Path] | None = None) -> Image.Image:
    """The image again, with the scheduler's options and the number of threads that it was made with.

    `adapters` are the files to look for the data's adapters in, whatever they are called. Raises MetadataError
    when one is missing or the options do not fit their scheduler.
    """
    check(data)
    load_adapters(pipe, find_adapters(data, adapters or []))
    scheduler, threads = getattr(diffusers, SCHEDULERS[data.settings.scheduler][0]), torch.get_num_threads()
    torch.set_num_threads(int(data.made_with["threads"]))
    try:
        pipe.scheduler = scheduler.from_config(data.scheduler)
        return generate(pipe, data.settings)
    except (ValueError, TypeError, NotImplementedError, KeyError, OverflowError) as error:
        raise MetadataError(f"The image cannot be made from these data: {error}") from error
    finally:
        torch.set_num_threads(threads)
        pipe.unload_lora_weights()


def find_adapters(data: GenerationData, files: list[Path]) -> dict[Path, float]:
    """The file of each adapter, known by its SHA-256. Raises MetadataError with the names of the missing ones."""
    have = {sha256(path): path for path in files}
    missing = [a.name for a in data.adapters if a.sha256 not in have]
    if missing:
        raise MetadataError(f"The image was made with {', '.join(missing)}, and no file given here is that adapter.")
    return {have[a.sha256]: a.weight for a in data.adapters}


def what_differs(pipe, data: GenerationData) -> list[str]:
    """The conditions here that are not those of the image, in words: why its last bits may differ."""
    here = conditions(pipe) | {"threads": data.made_with["threads"]}  # redraw sets these itself
    return [f"{key}: {then} then, {here[key]} here" for key, then in data.made_with.items() if here[key] != then]


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
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise MetadataError(f"The generation data are not of format {FORMAT}: a newer version may have written them.")
    _fields(GenerationData, values)
    scheduler, adapters, made_with = values["scheduler"], values["adapters"], values["made_with"]
    if not (isinstance(scheduler, dict) and isinstance(adapters, list) and isinstance(made_with, dict)):
        raise MetadataError("The generation data's scheduler, adapters or made_with are of the wrong kind.")
    return check(
        GenerationData(
            settings=_build(Settings, values["settings"]),
            model=_build(ModelSource, values["model"]),
            scheduler={k: float(v) if v in ("inf", "-inf") else v for k, v in scheduler.items()},
            adapters=tuple(_build(Adapter, a) for a in adapters),
            made_with=made_with,
            pixels=values["pixels"],
        )
    )


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
