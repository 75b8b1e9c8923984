"""Edges of a picture, and how well two pictures' edges agree. Built in chapter 13."""

import cv2
import numpy as np
from PIL import Image

LOW, HIGH = 100, 200  # Canny's thresholds, as controlnet_aux has them


def edges(image: Image.Image, low: int = LOW, high: int = HIGH) -> np.ndarray:
    """Canny's edges, bool [height, width]. Source: Canny, A Computational Approach to Edge Detection (1986)."""
    return cv2.Canny(np.asarray(image.convert("RGB")), low, high) > 0


def agreement(found: np.ndarray, wanted: np.ndarray, tolerance: int = 1) -> float:
    """F1 of two edge maps, 0 to 1: an edge pixel is right when the other map has one within `tolerance` pixels.

    1 when both are empty, 0 when only one of them is.
    """
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precise, complete = recall(wanted, found, tolerance), recall(found, wanted, tolerance)
    return 2 * precise * complete / (precise + complete) if precise + complete else 0.0


def recall(found: np.ndarray, wanted: np.ndarray, tolerance: int = 1) -> float:
    """Part of the wanted edge pixels, 0 to 1, with a found one within `tolerance` pixels; 1 when none is wanted."""
    return float(wanted[_near(found, tolerance)].sum() / wanted.sum()) if wanted.any() else 1.0


def _near(edge_map: np.ndarray, tolerance: int) -> np.ndarray:
    """All pixels within so many of an edge, in each direction."""
    side = 2 * tolerance + 1
    return cv2.dilate(edge_map.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
