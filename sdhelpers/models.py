"""Where the models are: one registry for the pocket tier (in this repository) and the full tier (on the hub).

    path = models.locate("sd15", tier)
    pipe = StableDiffusionPipeline.from_pretrained(path, variant=models.variant("sd15", tier), dtype=dtype)

`locate` gives a folder that is complete and unaltered, or raises ModelError with one sentence that says
what to do. Nothing is downloaded before it is known that it fits. Built in chapters 3 and 6.
"""

import dataclasses
import functools
import json
from pathlib import Path

from sdhelpers import paths, published
from sdhelpers.completion import complete, put_together, size, sources
from sdhelpers.hub import HubModel, ModelError, check_tier, download, sha256

ROOT, POCKET = paths.ROOT, paths.POCKET
BUILT = paths.OUTPUTS / "models"


@dataclasses.dataclass(frozen=True)
class Model:
    """One name of the chapters, in both tiers. `full` is None where only the pocket tier has it."""

    name: str
    loaded_by: str  # the library's class
    size: int  # width and height in pixels that it was trained for
    full: HubModel | None = None
    full_size: int = 512


REGISTRY = {
    model.name: model
    for model in (
        Model("sd15", "StableDiffusionPipeline", 128, published.SD15, 512),
        Model("inpainting", "StableDiffusionInpaintPipeline", 128, published.INPAINTING, 512),
        Model("community", "StableDiffusionPipeline.from_single_file", 128, published.DREAMSHAPER, 512),
        Model("safety-checker", "StableDiffusionSafetyChecker", 128, published.SAFETY_CHECKER, 224),
        Model("clip", "CLIPModel", 128, published.CLIP, 224),
        Model("clipseg", "CLIPSegForImageSegmentation", 128, published.CLIPSEG, 352),
        Model("loras", "load_lora_weights", 128),
        Model("prompter", "AutoModelForCausalLM", 128, published.PROMPTER),
        Model("classifier", "ResNetForImageClassification", 128),
    )
}


def entry(name: str) -> Model:
    """The registry's entry. Raises ModelError with the known names for an unknown one."""
    if name not in REGISTRY:
        raise ModelError(f"There is no model {name!r}; the registry knows {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def locate(name: str, tier: str = "pocket") -> Path:
    """The folder of a model, ready for `from_pretrained`: checked, and for `full` downloaded if it fits."""
    model = entry(name)
    if check_tier(tier) == "pocket":
        return _whole(verify(POCKET / name))
    if model.full is None:
        raise ModelError(f'{name!r} exists in the pocket tier only: use tier = "pocket" for it.')
    return download(model.full) / model.full.subfolder


def _whole(folder: Path) -> Path:
    """The checked folder itself, or the whole model made of it where it shares weights with others."""
    shares = sources(json.loads((folder / "card.json").read_text(encoding="utf-8")))
    for name in shares:
        verify(POCKET / name)
    return complete(folder, POCKET, BUILT) if shares else folder


def locate_file(name: str, tier: str = "pocket") -> Path:
    """A checkpoint as one .safetensors file in the original layout, ready for `from_single_file`.

    The pocket tier ships only the tensors that differ from sd15; the whole file is put together from both
    on first use (60 MB in outputs/models).
    """
    folder = locate(name, tier)
    if tier == "full":
        return folder / entry(name).full.files[0]
    sd15 = locate("sd15")
    cards = [json.loads((place / "card.json").read_text(encoding="utf-8")) for place in (folder, sd15)]
    made_of = {"file": cards[0]["single_file_sha256"], "files": [card["files"] for card in cards]}
    file = f"{name}.safetensors"
    needed = size(folder, sd15)
    return put_together(name, made_of, BUILT, needed, lambda new: build_single_file(folder, new / file)) / file


def build_single_file(folder: Path, path: Path) -> Path:
    """sd15 with some of the UNet's tensors exchanged, as one file."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    from sdhelpers.single_file import save_single_file

    pipe = StableDiffusionPipeline.from_pretrained(locate("sd15"))
    pipe.unet.load_state_dict(load_file(folder / "changed.safetensors"), strict=False)
    return save_single_file(pipe, path)


def variant(name: str, tier: str = "pocket") -> str | None:
    """The `variant` argument that `from_pretrained` needs beside `locate`: "fp16" or None."""
    model = entry(name)
    return model.full.variant if check_tier(tier) == "full" and model.full else None


def default_size(name: str, tier: str = "pocket") -> int:
    """Width and height in pixels that the model was trained for."""
    return entry(name).full_size if check_tier(tier) == "full" else entry(name).size


def nouns() -> list[str]:
    """The nouns that the pocket sd15 has learnt to draw, from its card; the world may have more."""
    return json.loads((verify(POCKET / "sd15") / "card.json").read_text(encoding="utf-8"))["nouns"]


@functools.cache
def verify(folder: Path) -> Path:
    """Check every file of a shipped model against its card's SHA-256, once a process; return the folder."""
    _in_checkout()
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        files = dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{_short(folder)} has no readable card.json: restore it with `git checkout -- data/pocket`."
        ) from error
    for name, digest in files.items():
        problem = _file_problem(folder / name, digest)
        if problem:
            raise ModelError(f"{_short(folder / name)} {problem}: restore it with `git checkout -- data/pocket`.")
    return folder


def _in_checkout() -> None:
    try:
        paths.checkout()
    except paths.CheckoutError as error:
        raise ModelError(str(error)) from error


def _file_problem(path: Path, digest: str) -> str | None:
    """What is wrong with a shipped file, in a few words, or None."""
    if not path.is_file():
        return "is missing"
    if path.suffix == ".safetensors" and path.stat().st_size < 1000:
        return "is not a weights file"
    if sha256(path) != digest:
        return "is damaged or was changed (its SHA-256 is not the one on the model card)"
    return None


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
