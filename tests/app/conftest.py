"""The app with one studio for all tests, served on this computer, and a browser."""

import os
from pathlib import Path

import pytest
from PIL import Image

from jupyter_pages import CHROMIUM, FLAGS


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    from sdhelpers.app.studio import Studio

    studio = Studio(folder=tmp_path_factory.mktemp("drawn"))
    yield studio
    studio.close()


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
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        path = CHROMIUM or p.chromium.executable_path
        if not Path(path).exists():
            if os.environ.get("CI"):
                pytest.fail("CI must have a browser: install chromium.")
            pytest.skip("no Chromium here: install chromium, or run `playwright install chromium`")
        webgl = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # the image editor paints with it
        browser = p.chromium.launch(executable_path=path, args=[f for f in FLAGS if f != "--disable-gpu"] + webgl)
        yield browser
        browser.close()


@pytest.fixture
def artefacts(tmp_path) -> Path:
    """The folder for screenshots: CI keeps it."""
    folder = Path(os.environ.get("SDHELPERS_ARTEFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
