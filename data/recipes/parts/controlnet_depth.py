"""The ControlNet of depth: the world's own, near is white."""

import dataclasses
import functools

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image

from controlled import both_obeyed, edge_f1, obedience, outlines_found
from parts import controlnet_canny
from parts.controlnet import Control
from recipe import Options
from sdhelpers import models, world
from sdhelpers.measures.depth import DepthEstimator, order_right


def picture(scene: world.Scene, rng: np.random.RandomState | None = None) -> np.ndarray:
    """The scene's depth in 256 greys; nothing of it is chance."""
    return np.rint(255 * scene.depth).astype(np.uint8)


estimator = functools.cache(DepthEstimator)


def order_kept(scene: world.Scene, image: Image.Image) -> float:
    """Part of the pairs of pixels that the estimator finds in the scene's order of near and far."""
    return order_right(estimator()([image])[0], scene.depth)


MEASURES = {"outlines found": outlines_found, "order of depths right": order_kept}


def score(controlnet: ControlNetModel, options: Options) -> dict[str, float]:
    """How well it obeys, and what it and the net of edges lose when both draw one picture (half as many pictures)."""
    scores = obedience(controlnet, picture, MEASURES, options.images)
    edges = ControlNetModel.from_pretrained(models.locate("controlnet-canny"), dtype=torch.float32)
    nets, pictures = (controlnet, edges.to(controlnet.device).eval()), (picture, controlnet_canny.usual)
    asked = {"order of depths right": order_kept, "edge F1": edge_f1}
    return scores | both_obeyed(nets, pictures, asked, max(1, options.images // 2))


RECIPE = dataclasses.replace(Control(picture, picture, MEASURES).recipe(), score=score)
