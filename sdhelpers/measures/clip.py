"""CLIP's agreement between images and texts. Built in chapter 3."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from sdhelpers import models
from sdhelpers.compat import as_tensor


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
        return torch.nn.functional.normalize(as_tensor(features), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [texts, width] in CLIP's common space."""
        tokens = self.processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
        features = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return torch.nn.functional.normalize(as_tensor(features), dim=-1)

    def __call__(self, images: Sequence[Image.Image], texts: str | Sequence[str]) -> list[float]:
        """One score an image, against one text for all or a text for each."""
        texts = [texts] * len(images) if isinstance(texts, str) else list(texts)
        if len(texts) != len(images):
            raise ValueError(f"Give one text or one for each image; got {len(images)} images and {len(texts)} texts.")
        return (100 * (self.embed_images(images) * self.embed_texts(texts)).sum(1)).tolist()
