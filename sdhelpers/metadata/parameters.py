"""From generation data to the `parameters` text of other programs, and from theirs to what can be drawn here.

What is lost on the way is said: `understand(parameters).dropped`. Built in chapter 19.
"""

import math
import re
from dataclasses import dataclass

from sdhelpers.generation import Settings
from sdhelpers.metadata.a1111 import Parameters
from sdhelpers.metadata.png import MetadataError
from sdhelpers.metadata.record import GenerationData
from sdhelpers.prompts import PromptError, parse
from sdhelpers.schedulers import SCHEDULERS

SAMPLERS = {"PNDM": "PLMS"}  # where the web UI's name is another
LORA = re.compile(r" ?<lora:([^:<>\n]+):([^:<>\n]+)>")
SIGNS = re.compile(r"[()\[\]]|\b(?:AND|BREAK)\b")  # a prompt with these is read in different ways
IN_SETTINGS = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size"}
NOTES = {"Version", "Model hash", "Lora hashes", "TI hashes", "Hashes"}  # nothing to draw with


def to_parameters(data: GenerationData) -> Parameters:
    """The data as other programs expect them; adapters stand in the prompt, as `<lora:name:weight>`.

    Hashes are those that the web UI writes and sharing sites look up: ten digits of a checkpoint's SHA-256, twelve of
    the SHA-256 of a LoRA's tensors and of an embedding. What has none is left out.
    """
    s = data.settings
    sampler = s.scheduler.removesuffix(" Karras")
    tags = "".join(f" <lora:{a.name}:{a.weight:g}>" for a in data.adapters)
    lines = {
        "Steps": str(s.num_inference_steps),
        "Sampler": SAMPLERS.get(sampler, sampler),
        "Schedule type": "Karras" if s.scheduler != sampler else "",
        "CFG scale": f"{s.guidance_scale:.10g}",
        "Seed": str(s.seed),
        "Size": f"{s.width}x{s.height}",
        "Model hash": data.model.file_sha256[:10],
        "Model": data.model.name,
        "Clip skip": str(data.clip_skip + 1) if data.clip_skip else "",  # the web UI counts the last layer as 1
        "Emphasis": "None" if data.reading == "plain" and SIGNS.search(s.prompt + s.negative_prompt) else "",
        "RNG": "CPU",
        "Lora hashes": ", ".join(f"{a.name}: {a.tensors_sha256[:12]}" for a in data.adapters if a.tensors_sha256),
        "TI hashes": ", ".join(f"{e.token}: {e.sha256[:12]}" for e in data.embeddings),
        "Version": f"diffusers {data.made_with['diffusers']}",
    }
    return Parameters(s.prompt + tags, s.negative_prompt, {name: text for name, text in lines.items() if text})


@dataclass(frozen=True)
class Understood:
    """What can be drawn of another program's `parameters`, and in `dropped`, in words, what cannot."""

    settings: Settings
    reading: str
    clip_skip: int
    dropped: tuple[str, ...]


def understand(parameters: Parameters) -> Understood:
    """How to draw what a `parameters` text says, and what of it is lost. Raises MetadataError as to_settings does."""
    settings, fields = to_settings(parameters), parameters.fields
    dropped = [f"LoRA {name} at {weight}: load the file yourself" for name, weight in LORA.findall(parameters.prompt)]
    known = IN_SETTINGS | NOTES | {"Model", "Clip skip", "Emphasis", "RNG"}
    dropped += [f"{name}: {text}" for name, text in fields.items() if name not in known]
    if fields.get("Schedule type", "Karras") not in ("Karras", "Automatic"):
        dropped.append(f"Schedule type: {fields['Schedule type']}")
    if "Model" in fields:
        dropped.append(f"Model: {fields['Model']}; the pipeline that draws is yours to choose")
    if "TI hashes" in fields:
        dropped.append(f"embeddings {fields['TI hashes']}: load the files yourself")
    skip = fields.get("Clip skip", "1")
    if not re.fullmatch("[1-9]|1[0-2]", skip):
        dropped, skip = [*dropped, f"Clip skip: {skip}"], "1"
    if skip != "1":
        dropped.append("clip skip in the negative prompt: here it is given to the prompt alone")
    comfyui = fields.get("Version") == "ComfyUI"
    if not comfyui and fields.get("RNG") != "CPU":
        said = f"RNG: {fields['RNG']}" if "RNG" in fields else "RNG: CPU is not said"
        dropped.append(f"the noise: it was drawn as on a GPU ({said})")
    reading, lost = reading_of(settings, fields.get("Emphasis", "Original"), comfyui)
    return Understood(settings, reading, int(skip) - 1, (*dropped, *lost))


def reading_of(settings: Settings, emphasis: str, comfyui: bool) -> tuple[str, list[str]]:
    """The reading that comes nearest to the program's own, and what it misses."""
    prompts = settings.prompt, settings.negative_prompt
    if emphasis == "None":
        return "plain", []
    try:
        for prompt in prompts:
            parse(prompt)
    except PromptError as error:
        return "plain", [f"the prompt's signs, which are read as characters: {error}"]
    if not any(map(SIGNS.search, prompts)):
        return "weighted", []
    if comfyui:
        return "weighted", ["ComfyUI's way of weighting: the web UI's is taken"]
    return "weighted", [] if emphasis == "Original" else [f"Emphasis: {emphasis}"]


def to_settings(parameters: Parameters) -> Settings:
    """Settings from a `parameters` text, of whatever program; `understand` says also what they leave out.

    Raises MetadataError for what is missing or unknown.
    """
    found = parameters.fields
    names = {theirs: ours for ours, theirs in SAMPLERS.items()}
    sampler = found.get("Sampler", "").removesuffix(" Karras")
    is_karras = found.get("Sampler", "").endswith(" Karras") or found.get("Schedule type") == "Karras"
    scheduler = names.get(sampler, sampler) + (" Karras" if is_karras else "")
    if scheduler not in SCHEDULERS:
        raise MetadataError(f"The sampler {scheduler!r:.60} is not one of this book's.")
    try:
        width, height = map(int, found["Size"].split("x"))
        if not math.isfinite(float(found["CFG scale"])):
            raise ValueError("the CFG scale is not a number")
        return Settings(
            LORA.sub("", parameters.prompt),
            parameters.negative_prompt,
            # a processor's generator takes the lowest 32 bits, and ComfyUI's seeds have 64
            int(found["Seed"]) % 2**32 if found.get("Version") == "ComfyUI" else int(found["Seed"]),
            float(found["CFG scale"]),
            int(found["Steps"]),
            scheduler,
            width,
            height,
        ).check()
    except KeyError as error:
        raise MetadataError(f"The parameters do not say {error}.") from error
    except ValueError as error:
        raise MetadataError(f"The parameters cannot be used: {error}"[:300]) from error
