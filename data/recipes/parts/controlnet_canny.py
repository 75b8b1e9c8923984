"""The ControlNet of edges: Canny's, with thresholds that vary, as readers vary them."""

import numpy as np

from controlled import edge_f1
from parts.controlnet import Control
from sdhelpers import world
from sdhelpers.measures.edges import HIGH, LOW, edges


def picture(scene: world.Scene, rng: np.random.RandomState) -> np.ndarray:
    """White edges on black; the thresholds are half to one and a half times the usual ones."""
    factor = 0.5 + rng.random_sample()
    return 255 * edges(scene.image, round(LOW * factor), round(HIGH * factor)).astype(np.uint8)


def usual(scene: world.Scene) -> np.ndarray:
    """The same with the usual thresholds."""
    return 255 * edges(scene.image).astype(np.uint8)


RECIPE = Control(picture, usual, {"edge F1": edge_f1}).recipe()
