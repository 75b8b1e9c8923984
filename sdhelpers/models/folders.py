"""Where a model's folder is: in this repository, made from several, or in the hub's cache. Built in chapter 6."""

import json
from pathlib import Path

from sdhelpers.models.compose import complete, put_together, size, sources
from sdhelpers.models.hub import download
from sdhelpers.models.integrity import verify
from sdhelpers.models.registry import ModelError, check_tier, entry
from sdhelpers.paths import OUTPUTS, POCKET

BUILT = OUTPUTS / "models"


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

    from sdhelpers.files.single_file import save_single_file

    pipe = StableDiffusionPipeline.from_pretrained(locate("sd15"))
    pipe.unet.load_state_dict(load_file(folder / "changed.safetensors"), strict=False)
    return save_single_file(pipe, path)


def nouns() -> list[str]:
    """The nouns that the pocket sd15 has learnt to draw, from its card; the world may have more."""
    return json.loads((verify(POCKET / "sd15") / "card.json").read_text(encoding="utf-8"))["nouns"]
