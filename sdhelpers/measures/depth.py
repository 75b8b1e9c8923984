"""How near each pixel of a picture is, as an estimator finds it, and is the order right? Built in chapter 13."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from sdhelpers import models

PAIRS = 4000  # of pixels that are compared


class DepthEstimator:
    """Finds depth in pictures whose truth nobody knows, trained on the world's; the published one on photographs."""

    def __init__(self, tier: str = "pocket"):
        folder = models.locate("depth-estimator", tier)
        self.model = AutoModelForDepthEstimation.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Of each image [height, width], the larger the nearer; the pocket model's are from 0 far to 1 near."""
        inputs = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        found = self.model(**inputs).predicted_depth[:, None].float()  # [n, 1, h, w]
        return [
            torch.nn.functional.interpolate(f[None], size=image.size[::-1], mode="bilinear")[0, 0].numpy()
            for f, image in zip(found, images)
        ]


def order_right(found: np.ndarray, truth: np.ndarray, least: float = 0.1) -> float:
    """Of pairs of pixels whose true depths [height, width] differ by `least` or more, the part in the right order.

    A half is luck; 1 when no pair differs so much. Source: Chen et al., Single-Image Depth Perception in the Wild
    (2016), which asks people for the order of two points since nobody knows a photograph's distances.
    """
    rng = np.random.RandomState(0)
    one, other = (rng.randint(0, truth.size, PAIRS) for _ in range(2))
    apart = truth.ravel()[one] - truth.ravel()[other]
    told = np.abs(apart) >= least
    said = found.ravel()[one] - found.ravel()[other]
    return float((np.sign(said) == np.sign(apart))[told].mean()) if told.any() else 1.0
