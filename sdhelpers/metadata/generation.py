"""An image with its generation data, taken from the call that made it, and the image made again from them.

    image, data = generate_and_record(pipe, settings, model_source("sd15", tier), reading="weighted", clip_skip=1)
    again = redraw(load_pipeline(data), data)

Beside the settings these are: how the prompt is read, the model, the scheduler's options, LoRAs, embeddings, and the
program itself. One Settings object goes to the pipeline and into the record, so that the two cannot differ. Built in
chapter 19.
"""

import hashlib
import json
import platform
import re
from importlib.metadata import version
from pathlib import Path

import diffusers
import torch
from PIL import Image

from sdhelpers import models
from sdhelpers.device import best_device
from sdhelpers.files.embedding import load_embedding
from sdhelpers.generation import Settings, generate
from sdhelpers.metadata.png import MetadataError
from sdhelpers.metadata.record import (
    READINGS,
    Adapter,
    Embedding,
    GenerationData,
    ModelSource,
    check,
    from_json,
    to_json,
)
from sdhelpers.models import ModelError, sha256
from sdhelpers.prompts import ScheduledPrompt
from sdhelpers.schedulers import SCHEDULERS, build_scheduler

__all__ = ["from_json", "to_json"]  # of sdhelpers.metadata.record, for those who look for them here
LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def model_source(name: str, tier: str = "pocket") -> ModelSource:
    """Where a model of the registry comes from, with its revision. Raises ModelError for an unknown one."""
    full = models.entry(name).full
    if models.check_tier(tier) == "full" and full:
        return ModelSource(name, tier, full.sha256 or full.revision, full.sha256 or "")
    card = json.loads((models.locate(name, tier) / "card.json").read_text(encoding="utf-8"))
    listed = "".join(f"{file} {digest}\n" for file, digest in sorted(card["files"].items()))
    file = card.get("single_file_sha256", "")
    return ModelSource(name, tier, file or hashlib.sha256(listed.encode()).hexdigest(), file)


def pixel_hash(image: Image.Image) -> str:
    """The SHA-256 of size and RGB values: equal for two images exactly when not a pixel differs."""
    return hashlib.sha256(f"{image.width}x{image.height}".encode() + image.convert("RGB").tobytes()).hexdigest()


def load_adapters(pipe, files: dict[Path, float]) -> tuple[Adapter, ...]:
    """Load LoRA files with their weights, in place of those that the pipeline has; say what was loaded."""
    pipe.unload_lora_weights()
    adapters = tuple(Adapter(p.stem, float(weight), sha256(p), tensors_sha256(p)) for p, weight in files.items())
    for path in files:
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=module_name(path.stem))
    if adapters:
        pipe.set_adapters([module_name(a.name) for a in adapters], [a.weight for a in adapters])
    return adapters


def tensors_sha256(path: Path) -> str:
    """The SHA-256 of a safetensors file behind its header; "" for a file of another kind."""
    if path.suffix.lower() != ".safetensors":
        return ""
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_embeddings(pipe, files: dict[Path, str]) -> tuple[Embedding, ...]:
    """Load textual-inversion files, each with its word, in place of those that the pipeline has; say what was loaded.

    Raises EmbeddingError for a file that cannot be used, or that holds several words.
    """
    unload_embeddings(pipe)
    for path, token in files.items():
        load_embedding(pipe, path, token)
    return tuple(Embedding(token, sha256(path)) for path, token in files.items())


def tokens_of(pipe) -> set[str]:
    """The words that the pipeline knows by textual inversion; one of several vectors is named once."""
    tokenizer = pipe.tokenizer
    added = {str(token) for token in tokenizer.get_added_vocab()} - set(tokenizer.all_special_tokens)
    return {token for token in added if re.sub(r"_[0-9]+$", "", token) not in added - {token}}


def unload_embeddings(pipe) -> None:
    """Take such words out again; without any the library would build the tokenizer anew for nothing."""
    if tokens_of(pipe):
        pipe.unload_textual_inversion()


def module_name(name: str) -> str:
    """A file's name as PEFT may use it for a module: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def draw(pipe, settings: Settings, reading: str = "plain", clip_skip: int = 0) -> Image.Image:
    """generate, with the prompt read in one of the READINGS.

    Raises PromptError for a prompt that cannot be read, and SettingsError for bad settings.
    """
    settings.check()
    if reading not in READINGS:
        raise MetadataError(f"A prompt can be read {' or '.join(READINGS)}, not {reading!r:.60}.")
    if reading == "plain":
        return generate(pipe, settings, **({"clip_skip": clip_skip} if clip_skip else {}))
    pipe.scheduler = build_scheduler(settings.scheduler, pipe.scheduler.config)  # some take more steps than asked for
    steps, skip = settings.num_inference_steps, clip_skip or None
    words = ScheduledPrompt(pipe, settings.prompt, steps, settings.negative_prompt, clip_skip=skip)
    step = {"callback_on_step_end": words, "callback_on_step_end_tensor_inputs": words.tensor_inputs}
    return generate(pipe, settings, **words.first, **step)


def generate_and_record(
    pipe,
    settings: Settings,
    model: ModelSource,
    adapters: tuple[Adapter, ...] = (),
    embeddings: tuple[Embedding, ...] = (),
    reading: str = "plain",
    clip_skip: int = 0,
) -> tuple[Image.Image, GenerationData]:
    """An image, and the data that make it again.

    `adapters` and `embeddings` are what load_adapters and load_embeddings gave for this pipeline. Raises
    MetadataError when the pipeline has others, another weight or another model, SettingsError for bad settings,
    PromptError for a bad prompt.
    """
    refuse_another_model(pipe, model)
    active = set(pipe.get_active_adapters())
    if active != {module_name(a.name) for a in adapters}:
        raise MetadataError(f"The pipeline has the adapters {sorted(active)}, which are not the ones to be recorded.")
    for a in adapters:
        if any(abs(weight - a.weight) > 1e-6 for weight in weights_of(pipe, module_name(a.name))):
            raise MetadataError(
                f"{a.name} has another weight in the pipeline than {a.weight:g}, which was to be recorded."
            )
    if (tokens := tokens_of(pipe)) != {e.token for e in embeddings}:
        raise MetadataError(f"The pipeline has the embeddings {sorted(tokens)}, which are not the ones to be recorded.")
    image = draw(pipe, settings, reading, clip_skip)
    data = GenerationData(
        settings=settings,
        reading=reading,
        clip_skip=clip_skip,
        model=model,
        scheduler={key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")},
        adapters=adapters,
        embeddings=embeddings,
        made_with=conditions(pipe),
        pixels=pixel_hash(image),
    )
    return image, check(data)


def refuse_another_model(pipe, model: ModelSource) -> None:
    """Raise MetadataError when the pipeline came from another folder than the model's (one from a file has none)."""
    loaded = pipe.config.get("_name_or_path")
    if not loaded or not Path(loaded).is_dir():
        return
    if Path(loaded).resolve() != models.locate(model.name, model.tier).resolve():
        raise MetadataError(f"The pipeline was loaded from the folder {Path(loaded).name}, which is not {model.name}.")


def weights_of(pipe, name: str) -> set[float]:
    """The weights that an adapter has in the UNet's layers now; set_adapters gives all of them one."""
    layers = [m for m in pipe.unet.modules() if name in getattr(m, "scaling", ()) and name in getattr(m, "r", ())]
    return {round(m.scaling[name] * m.r[name] / m.lora_alpha[name], 9) for m in layers if not m.use_rslora.get(name)}


def conditions(pipe) -> dict[str, str]:
    """What else has a say in the last bits of a pixel: versions, computer, device, number format, threads."""
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else "none",
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


def redraw(pipe, data: GenerationData, files: list[Path] | None = None) -> Image.Image:
    """The image again, with the scheduler's options and the number of threads that it was made with.

    `files` are those to look for the data's LoRAs and embeddings in, whatever they are called. Raises MetadataError
    when one is missing, or when the data do not fit together.
    """
    check(data)
    adapters, embeddings = find_files(data, files or [])
    scheduler, threads = getattr(diffusers, SCHEDULERS[data.settings.scheduler][0]), torch.get_num_threads()
    torch.set_num_threads(int(data.made_with["threads"]))
    try:
        load_adapters(pipe, adapters)
        load_embeddings(pipe, embeddings)
        pipe.scheduler = scheduler.from_config(data.scheduler)
        return draw(pipe, data.settings, data.reading, data.clip_skip)
    except (ValueError, TypeError, NotImplementedError, KeyError, IndexError, OverflowError) as error:
        raise MetadataError(f"The image cannot be made from these data: {error}") from error
    finally:
        torch.set_num_threads(threads)
        pipe.unload_lora_weights()
        unload_embeddings(pipe)


def find_files(data: GenerationData, files: list[Path]) -> tuple[dict[Path, float], dict[Path, str]]:
    """The files of the LoRAs with their weights and of the embeddings with their words, known by their SHA-256.

    Raises MetadataError with the names of the missing ones.
    """
    have = {sha256(path): path for path in files}
    wanted = [(a.name, a.sha256) for a in data.adapters] + [(e.token, e.sha256) for e in data.embeddings]
    if missing := [name for name, digest in wanted if digest not in have]:
        raise MetadataError(f"The image was made with {', '.join(missing)}, and no file given here is that one.")
    adapters = {have[a.sha256]: a.weight for a in data.adapters}
    return adapters, {have[e.sha256]: e.token for e in data.embeddings}


def what_differs(pipe, data: GenerationData) -> list[str]:
    """The conditions here that are not those of the image, in words: why its last bits may differ."""
    here = conditions(pipe) | {"threads": data.made_with["threads"]}  # redraw sets these itself
    pairs = {key: (then, here.get(key, "unknown")) for key, then in data.made_with.items()}
    return [f"{key}: {then} then, {now} here" for key, (then, now) in pairs.items() if now != then]
