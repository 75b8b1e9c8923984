"""The app with one studio for all tests, served on this computer."""

import os
from pathlib import Path

import pytest
from PIL import Image

from jupyter_pages import WITH_WEBGL


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    from sdhelpers.app.studio import Studio

    studio = Studio(folder=tmp_path_factory.mktemp("drawn"))
    yield studio
    studio.close()


@pytest.fixture
def wide(studio):
    """Another studio that draws three pictures at once with the same weights."""
    from sdhelpers.app.studio import Studio

    wide = Studio(folder=studio.folder, at_once=3)
    wide._pipelines = studio._pipelines
    yield wide
    wide.close()


@pytest.fixture(scope="session")
def page(studio, tmp_path_factory):
    """The app, served; `page.local_url` is its address."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    from sdhelpers.app.server import start

    page = start(studio)
    yield page
    page.close()
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """A picture of the world, 128 x 128."""
    import numpy as np

    from sdhelpers import world

    return world.sample(np.random.RandomState(3)).image


@pytest.fixture(scope="session")
def scene_file(scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scene.png"
    scene.save(path)
    return path


@pytest.fixture
def browser_flags() -> list[str]:
    return WITH_WEBGL  # the image editor paints with it
