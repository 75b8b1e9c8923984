"""Every private or unsettled name of another library that the companion needs, each with why.

`tests/unit/test_compat.py` looks whether it is still there: when a library moves one, that test fails before a
chapter does, and this file is the one to change.
"""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["FakeTensorMode", "as_tensor", "final_norm", "run_device", "stop"]

# FakeTensorMode: the tensors of torch.compile, which have a shape and no content. The public way, the meta device,
# refuses operations that look at numbers, and full-size models are only counted, not run (chapter 7).


def stop(pipe) -> None:
    """End a drawing after its present step. Diffusers documents `pipe._interrupt` for callbacks and has no setter."""
    pipe._interrupt = True


def run_device(pipe) -> torch.device:
    """Where a pipeline computes: with offloading not `pipe.device`, which then is where the weights wait."""
    return pipe._execution_device


def final_norm(text_encoder) -> torch.nn.Module:
    """The last layer norm of CLIP's text tower, for `clip_skip`; Transformers 5.6 took `text_model` away."""
    return text_encoder.text_model.final_layer_norm


def as_tensor(features) -> torch.Tensor:
    """What CLIP's `get_image_features` and `get_text_features` give: since Transformers 5 inside an output object."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output
