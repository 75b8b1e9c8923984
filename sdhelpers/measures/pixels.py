"""What is measured on the pixels alone: saturation, contrast, sharpness, differences."""

import numpy as np
import torch
from PIL import Image


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
