"""The files of the app: pictures that know how they were drawn, and such files read back.

A picture from words is kept as chapter 19 keeps it. One that was drawn after another picture cannot be drawn again
from settings alone: its file holds, in one more text, the task and the pictures that went in. Built in chapter 20.
"""

import base64
import binascii
import dataclasses
import io
import json
import os
import secrets
import time
from pathlib import Path

from PIL import Image

from sdhelpers.app import pictures
from sdhelpers.app.pictures import InputError
from sdhelpers.app.requests import TASKS, Limits, Request, read_settings
from sdhelpers.images import to_png
from sdhelpers.metadata import png, read_stream, save_image, to_parameters
from sdhelpers.metadata.a1111 import write_parameters
from sdhelpers.metadata.files import ImageFile
from sdhelpers.metadata.generation import find_files
from sdhelpers.metadata.record import GenerationData, from_json, to_json

KEYWORD = "sdhelpers app"
FORMAT = 1
FIELDS = {"format", "task", "amount", "images", "data"}
THEIRS = {"strength": "Denoising strength", "controlnet_conditioning_scale": "ControlNet weight"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a file says; `task` and `data` are None where nothing in it can be drawn again."""

    found: ImageFile
    picture: Image.Image
    task: str | None = None
    data: GenerationData | None = None
    amount: float = 0.0
    images: dict[str, bytes] = dataclasses.field(default_factory=dict)


def keep(picture: Image.Image, data: GenerationData, request: Request, folder: Path) -> Path:
    """Write a picture with all that is needed to draw it again, first under a temporary name.

    The name is ours alone, and nobody can guess it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{request.settings.seed}-{secrets.token_hex(8)}.png"
    if request.task == "text":
        return save_image(picture, data, path)
    content = png.with_texts(to_png(picture), texts_of(data, request))
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def texts_of(data: GenerationData, request: Request) -> dict[str, str]:
    """The texts of a picture that was drawn after others. Raises MetadataError when they would be too long."""
    parameters = to_parameters(data)
    parameters.fields[THEIRS[TASKS[request.task].amount]] = f"{request.amount:g}"
    images = {name: base64.b64encode(to_png(image)).decode() for name, image in request.images.items()}
    values = {"format": FORMAT, "task": request.task, "amount": request.amount, "images": images}
    texts = {"parameters": write_parameters(parameters), KEYWORD: json.dumps(values | {"data": to_json(data)})}
    if sum(map(len, texts.values())) > png.LARGEST_TEXT:
        raise png.MetadataError("The pictures that this one was drawn after are too large to be kept with it.")
    return texts


def read_file(content: bytes) -> Reading:
    """What an image file says. Raises InputError or MetadataError, each one sentence."""
    picture = pictures.on_white(pictures.opened(content))
    found = read_stream(io.BytesIO(content))
    if KEYWORD in found.texts:
        return Reading(found, picture, **of_app(found.texts[KEYWORD]))
    return Reading(found, picture, "text" if found.data else None, found.data)


def of_app(text: str) -> dict:
    """What stands in the text of our own keyword, its pictures as bytes of files. Raises InputError."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != FIELDS or values["format"] != FORMAT:
            raise ValueError("not our fields")
        task, images = values["task"], values["images"]
        if task not in TASKS or set(images) != set(TASKS[task].images) or not isinstance(values["data"], str):
            raise ValueError("not our tasks")
        contents = {name: base64.b64decode(image, validate=True) for name, image in images.items()}
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise InputError("The file says in a way that cannot be read what it was drawn after.") from error
    return {"task": task, "data": from_json(values["data"]), "amount": values["amount"], "images": contents}


def request_of(reading: Reading, limits: Limits, loras: dict[str, Path]) -> Request:
    """The request that draws a file's picture again, checked as any other.

    Raises InputError, and MetadataError when a LoRA is missing here.
    """
    data = reading.data
    if data is None or reading.task is None:
        raise InputError("The file does not hold what is needed to draw it again.")
    if data.reading != "plain" or data.clip_skip or data.embeddings:
        raise InputError("Weighted prompts, clip skip and embeddings are not drawn here: take chapter 19's inspector.")
    files, _ = find_files(data, list(loras.values()))
    weights = {f"lora_{name}": 0.0 for name in limits.loras} | {f"lora_{p.stem}": w for p, w in files.items()}
    values = dataclasses.asdict(data.settings) | weights | {TASKS[reading.task].amount: reading.amount}
    request = read_settings(reading.task, values, limits)
    images = {name: pictures.on_white(pictures.opened(content)) for name, content in reading.images.items()}
    if any(image.size != (data.settings.width, data.settings.height) for image in images.values()):
        raise InputError("The pictures in the file have another size than the one that was drawn after them.")
    if "mask_image" in images:
        images["mask_image"] = images["mask_image"].convert("L")
    return dataclasses.replace(request, loras={p.stem: w for p, w in files.items()}, images=images)
