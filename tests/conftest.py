"""What the tests share: one loaded pipeline, and quiet libraries."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def pipe():
    """The pocket Stable Diffusion, loaded once; tests that change a part of it put it back."""
    from diffusers import StableDiffusionPipeline

    from sdhelpers import models

    pipeline = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
