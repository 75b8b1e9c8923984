"""What the claims measure: saturation, contrast, sharpness, differences, agreement with a text."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from sdhelpers import models


def saturation(image: Image.Image) -> float:
    """Mean distance between a pixel's strongest and weakest channel, 0 (grey) to 1 (pure colours)."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return float((pixels.max(2) - pixels.min(2)).mean())


def contrast(image: Image.Image) -> float:
    """Standard deviation of the grey values, 0 (flat) to 0.5 (half black, half white)."""
    return float((np.asarray(image.convert("L"), np.float32) / 255).std())


def sharpness(image: Image.Image) -> float:
    """Mean absolute Laplacian of the grey values, 0 (flat) upwards; blurring lowers it."""
    grey = np.asarray(image.convert("L"), np.float32) / 255
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(np.abs(laplacian).mean())


def difference(image: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two images of one size, 0 (equal) to 1. Raises ValueError for two sizes."""
    if image.size != other.size:
        raise ValueError(f"The images differ in size: {image.size} and {other.size}; resize one first.")
    a, b = (np.asarray(i.convert("RGB"), np.float32) / 255 for i in (image, other))
    return float(np.abs(a - b).mean())


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of tensors from -1 to 1; higher is closer, equal tensors give infinity."""
    error = ((image.clamp(-1, 1) - reference) ** 2).mean()
    return float(-10 * torch.log10(error / 4))


class ClipScorer:
    """CLIP's agreement between images and texts, as 100 times the cosine of their embeddings.

    Source: Hessel et al., CLIPScore (2021). With the pocket CLIP the scores are comparable with one
    another, not with those of the published CLIP.
    """

    def __init__(self, tier: str = "pocket"):
        folder = models.locate("clip", tier)
        self.model = CLIPModel.from_pretrained(folder).eval()
        self.processor = CLIPProcessor.from_pretrained(folder)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit vectors [images, width] in CLIP's common space."""
        pixels = self.processor(images=[i.convert("RGB") for i in images], return_tensors="pt").pixel_values
        features = self.model.get_image_features(pixel_values=pixels.float())
        return torch.nn.functional.normalize(_tensor(features), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [texts, width] in CLIP's common space."""
        tokens = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
        features = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return torch.nn.functional.normalize(_tensor(features), dim=-1)

    def __call__(self, images: Sequence[Image.Image], texts: str | Sequence[str]) -> list[float]:
        """One score an image, against one text for all or a text for each."""
        texts = [texts] * len(images) if isinstance(texts, str) else list(texts)
        if len(texts) != len(images):
            raise ValueError(f"Give one text or one for each image; got {len(images)} images and {len(texts)} texts.")
        return (100 * (self.embed_images(images) * self.embed_texts(texts)).sum(1)).tolist()


def _tensor(features) -> torch.Tensor:
    """Transformers 5 wraps the projected features in an output object."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output
