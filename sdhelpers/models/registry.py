"""The registry: one entry of registry.toml a model, in both tiers. Built in chapter 6."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

TIERS = ("pocket", "full")


class ModelError(RuntimeError):
    """A model that cannot be had; the message is one sentence for the reader."""


def check_tier(tier: str) -> str:
    """The tier itself, or ModelError when it is neither "pocket" nor "full"."""
    if tier not in TIERS:
        raise ModelError(f'tier must be "pocket" or "full", not {tier!r}.')
    return tier


@dataclasses.dataclass(frozen=True)
class HubModel:
    """A published model at a fixed revision. Sizes are in bytes."""

    repository: str
    revision: str
    files: tuple[str, ...]  # patterns of what is downloaded
    download: int  # bytes to download
    parameters: int  # of all the parts that run
    licence: str
    variant: str | None = None  # "fp16": half-precision files, half the download
    subfolder: str = ""  # where in the repository the model is
    sha256: str | None = None  # of a single file, where no revision is known
    working: int = 1_500_000_000  # bytes beside the weights while one image is made
    size: int = 512  # width and height in pixels that it was trained for
    guidance_scale: float = 7.5  # what it is drawn with as a rule

    def memory(self, bytes_per_number: int) -> int:
        """Bytes that loading and one image take; 2 bytes a number in half precision, 4 in single."""
        return self.parameters * bytes_per_number + self.working


@dataclasses.dataclass(frozen=True)
class Model:
    """One name of the chapters, in both tiers. `full` is None where only the pocket tier has it."""

    name: str
    loaded_by: str  # the library's class
    size: int  # width and height in pixels that the pocket model was trained for
    about: str  # what its card says of it
    parts: tuple[str, ...]  # the recipes that train the pocket model
    shares: dict[str, Any] | None = None  # what the pocket model takes from others, as compose.py reads it
    guidance_scale: float = 7.5  # what the pocket model draws best with, by measurement
    full: HubModel | None = None


def read_registry(path: Path) -> dict[str, Model]:
    """The models of a registry file by name."""
    models = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        full = entry.pop("full", None)
        published = full and HubModel(**{**full, "files": tuple(full["files"])})
        parts = tuple(entry.pop("parts", [name]))
        models[name] = Model(name, **entry, parts=parts, full=published)
    return models


REGISTRY = read_registry(Path(__file__).with_name("registry.toml"))


def entry(name: str) -> Model:
    """The registry's entry. Raises ModelError with the known names for an unknown one."""
    if name not in REGISTRY:
        raise ModelError(f"There is no model {name!r}; the registry knows {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def variant(name: str, tier: str = "pocket") -> str | None:
    """The `variant` argument that `from_pretrained` needs beside `locate`: "fp16" or None."""
    model = entry(name)
    return model.full.variant if check_tier(tier) == "full" and model.full else None


def default_size(name: str, tier: str = "pocket") -> int:
    """Width and height in pixels that the model was trained for."""
    model = entry(name)
    return model.full.size if check_tier(tier) == "full" and model.full else model.size


def default_guidance_scale(name: str, tier: str = "pocket") -> float:
    """The guidance scale that suits the model: the best by measurement for a pocket one, 7.5 for a published one."""
    model = entry(name)
    return model.full.guidance_scale if check_tier(tier) == "full" and model.full else model.guidance_scale
