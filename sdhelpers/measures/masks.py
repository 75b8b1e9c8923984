"""Masks from words, their soft edges, and how well they fit. Built in chapter 1, used again in chapter 18."""

import numpy as np
import torch
from PIL import Image, ImageFilter

TINT = np.array([255, 0, 200], np.float32)


@torch.no_grad()
def text_probability(model, processor, image: Image.Image, text: str) -> torch.Tensor:
    """How probably each pixel shows what the text names, by CLIPSeg: [height, width] of the image, 0 to 1.

    Source: Lüddecke & Ecker, Image Segmentation Using Text and Image Prompts (2022). Built in chapter 1.
    """
    inputs = processor(text=[text], images=[image.convert("RGB")], return_tensors="pt").to(model.device)
    logits = model(**inputs).logits.float()  # [1, 256, 256]
    larger = torch.nn.functional.interpolate(logits[None], size=image.size[::-1], mode="bilinear")
    return larger.sigmoid()[0, 0].cpu()


def to_mask(probability: torch.Tensor, threshold: float = 0.5, feather: float = 0) -> Image.Image:
    """White where the probability exceeds the threshold, with an edge softened over `feather` pixels; mode "L"."""
    hard = Image.fromarray(np.uint8(255 * (probability.numpy() > threshold)))
    return hard.filter(ImageFilter.GaussianBlur(feather)) if feather else hard


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with the masked part tinted pink."""
    amount = np.asarray(mask, np.float32)[..., None] / 255 * 0.6
    pixels = np.asarray(image.convert("RGB"), np.float32)
    return Image.fromarray(np.uint8(np.rint(pixels * (1 - amount) + TINT * amount)))


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays: 0 (apart) to 1 (equal); 1 when both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0
