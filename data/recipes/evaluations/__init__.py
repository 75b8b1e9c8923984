"""Evaluations of whole models: one module a model, with `IMAGES` and `evaluate`."""

import dataclasses
from typing import Any

from PIL import Image


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found: scores and notes for the card, contact sheets by file name."""

    scores: dict[str, Any]
    sheets: dict[str, Image.Image] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
