"""A real browser, and JupyterLab on a copy of the notebooks."""

import os
import shutil
from pathlib import Path

import pytest

from jupyter_pages import CHROMIUM, FLAGS, jupyter_lab
from sdhelpers.book import chapters


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        path = CHROMIUM or p.chromium.executable_path
        if not Path(path).exists():
            if os.environ.get("CI"):
                pytest.fail("CI must have a browser: install chromium.")
            pytest.skip("no Chromium here: install chromium, or run `playwright install chromium`")
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks; yields its address."""
    folder = tmp_path / "notebooks"
    shutil.copytree(chapters.NOTEBOOKS, folder)
    with jupyter_lab(folder, tmp_path) as address:
        yield address


@pytest.fixture
def artefacts(tmp_path) -> Path:
    """The folder for screenshots: CI keeps it."""
    folder = Path(os.environ.get("SDHELPERS_ARTEFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
