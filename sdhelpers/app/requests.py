"""What a request asks for: checked in one place, with one sentence for whatever is wrong.

    request = read_request("text", {"prompt": "a cartoon of a cat", "seed": 7, ...}, Limits(loras=("icon",)))

What arrives is JSON and files from strangers: no number is believed, and no picture decoded before its size is known.
Nothing in here knows Gradio, nor draws. Built in chapter 20.
"""

import dataclasses
import math
from typing import Any

from PIL import Image

from sdhelpers.app import pictures
from sdhelpers.app.pictures import InputError
from sdhelpers.generation import LARGEST_SEED, Settings
from sdhelpers.schedulers import SCHEDULERS

LONGEST_PROMPT = 2000  # characters; the model reads 77 tokens, some 300 characters
SMALLEST_SIDE = 64
GUIDANCE = (0, 30)
WEIGHTS = (-2, 2)
THRESHOLDS = (0, 500)


@dataclasses.dataclass(frozen=True)
class Task:
    """What one of the tabs draws: its model's name, the number that it adds to the settings, the pictures it wants."""

    model: str
    amount: str = ""
    most: float = 0.0
    images: tuple[str, ...] = ()


TASKS = {
    "text": Task("sd15"),
    "img2img": Task("sd15", "strength", 1.0, ("image",)),
    "inpaint": Task("inpainting", "strength", 1.0, ("image", "mask_image")),
    "control": Task("sd15", "controlnet_conditioning_scale", 2.0, ("image",)),
}
NAMES = {
    "prompt": "prompt",
    "negative_prompt": "negative prompt",
    "seed": "seed",
    "num_inference_steps": "number of steps",
    "guidance_scale": "guidance scale",
    "width": "width",
    "height": "height",
    "strength": "strength",
    "controlnet_conditioning_scale": "control's scale",
    "low": "low threshold",
    "high": "high threshold",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What this app draws at most, and the LoRAs it has."""

    largest_side: int = 512
    most_steps: int = 100
    loras: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """A picture that can be drawn: `images` are what the pipeline takes, in the settings' size."""

    task: str
    settings: Settings
    loras: dict[str, float] = dataclasses.field(default_factory=dict)  # those with a weight
    amount: float = 0.0
    images: dict[str, Image.Image] = dataclasses.field(default_factory=dict)

    def inputs(self) -> dict[str, Any]:
        """What the pipeline takes besides the settings, under its own names."""
        name = TASKS[self.task].amount
        return dict(self.images) | ({name: self.amount} if name else {})


def read_request(task: str, values: dict[str, Any], limits: Limits) -> Request:
    """The request that these values make; raises InputError with one sentence.

    `values` has the settings by their names, `lora_NAME` for each LoRA, the task's amount, and as bytes of files
    `image`, for inpainting also `layers`, those painted over it; for control `low` and `high`, Canny's thresholds.
    """
    request = read_settings(task, values, limits)
    size = request.settings.width, request.settings.height
    if task == "inpaint":
        images = pictures.with_mask(values.get("image"), values.get("layers") or [], size)
    elif task == "control":
        low, high = (number(values, name, *THRESHOLDS) for name in ("low", "high"))
        if low > high:
            raise InputError(f"The low threshold, {low:g}, is above the high one, {high:g}.")
        images = {"image": pictures.outlines(values.get("image"), low, high, size)}
    else:
        images = {name: pictures.fitted(values.get(name), size) for name in TASKS[task].images}
    return dataclasses.replace(request, images=images)


def read_settings(task: str, values: dict[str, Any], limits: Limits) -> Request:
    """The request without its pictures. Raises InputError."""
    if task not in TASKS:
        raise InputError(f"There is no task {shown(task)}; choose from {', '.join(TASKS)}.")
    settings = Settings(
        prompt=text(values, "prompt"),
        negative_prompt=text(values, "negative_prompt"),
        seed=whole(values, "seed", 0, LARGEST_SEED),
        guidance_scale=number(values, "guidance_scale", *GUIDANCE),
        num_inference_steps=whole(values, "num_inference_steps", 1, limits.most_steps),
        scheduler=choice(values, "scheduler", SCHEDULERS),
        width=whole(values, "width", SMALLEST_SIDE, limits.largest_side, 8),
        height=whole(values, "height", SMALLEST_SIDE, limits.largest_side, 8),
    )
    weights = {name: number(values, f"lora_{name}", *WEIGHTS) for name in limits.loras}
    amount = number(values, TASKS[task].amount, 0, TASKS[task].most) if TASKS[task].amount else 0.0
    if TASKS[task].amount == "strength" and int(settings.num_inference_steps * amount) < 1:
        raise InputError(
            f"Of {settings.num_inference_steps} steps a strength of {amount:g} leaves none: raise one of the two."
        )
    return Request(task, settings, {name: weight for name, weight in weights.items() if weight}, amount)


def shown(value: Any) -> str:
    """A value as it stands in a sentence: short, whatever it is."""
    try:
        said = repr(value)
    except Exception:  # a whole number of many thousand digits, for one
        return "this"
    return said if len(said) <= 40 else f"{said[:37]}..."


def called(name: str) -> str:
    """What a value is called in a sentence."""
    return NAMES.get(name) or (f"weight of {name.removeprefix('lora_')}" if name.startswith("lora_") else name)


def text(values: dict[str, Any], name: str) -> str:
    """A text that is not too long and that a file can keep. Raises InputError."""
    value = values.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"The {called(name)} must be a text, not {shown(value)}.")
    if len(value) > LONGEST_PROMPT:
        raise InputError(f"The {called(name)} has {len(value):,} characters; at most {LONGEST_PROMPT:,} are read.")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"The {called(name)} holds a character that no file can keep.")
    return value


def number(values: dict[str, Any], name: str, low: float, high: float) -> float:
    """A finite number within limits. Raises InputError."""
    value = values.get(name)
    wanted = f"The {called(name)} must be a number from {low:g} to {high:g}"
    if value is None:
        raise InputError(f"{wanted}; it is missing.")
    right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN fails too
    if not right:
        raise InputError(f"{wanted}, not {shown(value)}.")
    return float(value)


def whole(values: dict[str, Any], name: str, low: int, high: int, step: int = 1) -> int:
    """A whole number within limits, a multiple of `step`. Raises InputError."""
    value = number(values, name, low, high)
    if value != math.floor(value) or value % step:
        kind = "a whole number" if step == 1 else f"a multiple of {step}"
        raise InputError(f"The {called(name)} must be {kind}, not {shown(value)}.")
    return int(value)


def choice(values: dict[str, Any], name: str, choices) -> str:
    """One of some names, never anything that is looked up elsewhere. Raises InputError."""
    value = values.get(name)
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"There is no {called(name)} {shown(value)}; choose from {', '.join(choices)}.")
    return value
