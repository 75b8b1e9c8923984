"""JupyterLab on a copy of the notebooks."""

import shutil

import pytest

from jupyter_pages import jupyter_lab
from sdhelpers.book import chapters


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks; yields its address."""
    folder = tmp_path / "notebooks"
    shutil.copytree(chapters.NOTEBOOKS, folder)
    with jupyter_lab(folder, tmp_path) as address:
        yield address
