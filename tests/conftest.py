"""What the tests share: a marker for each folder, loaded models, and quiet libraries."""

import os
from pathlib import Path

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


def pytest_collection_modifyitems(items):
    """Every test has its folder's name as a marker: `-m unit`, `-m "not chapters and not browser"`."""
    for item in items:
        item.add_marker(Path(item.path).parent.name)


@pytest.fixture
def fresh(pipe):
    """The pocket pipeline with a tokenizer and a text encoder of its own."""
    from beside import of_its_own

    return of_its_own(pipe)


@pytest.fixture
def plain(pipe):
    """The pocket pipeline, and its weights put back bit for bit afterwards, whatever a test did."""
    parts = ("unet", "text_encoder")
    before = {part: {k: v.clone() for k, v in getattr(pipe, part).state_dict().items()} for part in parts}
    yield pipe
    pipe.unload_lora_weights()
    for part, state in before.items():
        getattr(pipe, part).load_state_dict(state)


@pytest.fixture(scope="session")
def writer():
    """The prompt language model, loaded once."""
    from sdhelpers.prompts.language_model import Prompter

    return Prompter()


@pytest.fixture
def browser_flags() -> list[str]:
    """What Chromium is started with; a folder of tests may want others."""
    from jupyter_pages import FLAGS

    return FLAGS


@pytest.fixture
def browser(browser_flags):
    """A real browser: CI must have one, elsewhere its tests are skipped without it."""
    from jupyter_pages import CHROMIUM

    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        path = CHROMIUM or p.chromium.executable_path
        if not Path(path).exists():
            if os.environ.get("CI"):
                pytest.fail("CI must have a browser: install chromium.")
            pytest.skip("no Chromium here: install chromium, or run `playwright install chromium`")
        browser = p.chromium.launch(executable_path=path, args=browser_flags)
        yield browser
        browser.close()


@pytest.fixture
def artefacts(tmp_path) -> Path:
    """The folder for screenshots: CI keeps it."""
    folder = Path(os.environ.get("SDHELPERS_ARTEFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
