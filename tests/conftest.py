"""What the tests share: a marker for each folder, loaded models, and quiet libraries."""

import os
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock, ReadWriteLock
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes tells of the computer and of what else runs on it.
before = settings.get_profile(settings.get_current_profile_name())  # in CI the one whose examples are always the same
settings.register_profile("any computer", before, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any computer")

SERVED = ("app", "site")  # what is built or served there is made once for the whole folder


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several workers the tests of a file, or of a folder that serves something, stay on one; chapters do not."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            if test.startswith("test_chapter["):
                return nodeid
            return Path(path).parent.name if Path(path).parent.name in SERVED else path

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test marked `alone` waits until no other one runs, and no other one begins before it has ended."""
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    place = Path(tempfile.gettempdir()) / f"sdhelpers-{os.environ['PYTEST_XDIST_TESTRUNUID']}"
    room = ReadWriteLock(f"{place}-room")
    with FileLock(f"{place}-door"):  # who waits for the room holds the door, so that nobody slips past
        held = room.acquire_write() if alone else room.acquire_read()
    with held:
        return (yield)


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
