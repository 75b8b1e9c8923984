"""What a recipe is: five functions that train one part of a model, in parts/NAME.py as `RECIPE`."""

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

import stages
from loop import Training

Options = argparse.Namespace


class Loss(Protocol):
    """How a batch becomes a loss (see Training.run); made once the training stands, for its device and model.

    It may have a method `probe`, too.
    """

    prepare: Callable[[Any], tuple[torch.Tensor, ...]]
    loss_of: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one part is trained; `options` are those of its stage (stages.py).

    What `build` fits in one go has neither data nor loss. A dataset may have a method `collate` that makes a batch of
    samples. `export` writes what is shipped, may alter the model, and gives what facts.json tells besides.
    """

    build: Callable[[Options], torch.nn.Module]
    data: Callable[[Options], Dataset] | None
    loss: Callable[[Training], Loss] | None
    score: Callable[[torch.nn.Module, Options], dict[str, Any]] | None
    export: Callable[[torch.nn.Module, Path, Options], dict[str, Any] | None]


def module(name: str) -> ModuleType:
    """The module of a part's recipe. Exits with one sentence when there is none of this name."""
    return importlib.import_module(f"parts.{stages.check(name, stages.names(), 'recipe')}")
