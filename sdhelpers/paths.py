"""Where the repository is: the one place that derives it. Imports only the standard library.

The package reads the notebooks, the models and the drawings from the checkout that it lies in. A wheel
holds none of these: there `checkout` says so.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PYPROJECT = ROOT / "pyproject.toml"
POCKET = ROOT / "data" / "pocket"
OUTPUTS = ROOT / "outputs"

MISSING = (
    "This sdhelpers was installed without its repository, so the notebooks, models and drawings are missing: "
    "clone the repository and start `python -m sdhelpers` in its folder (on the PYTHONPATH, or installed "
    "with `pip install --editable .`, it works from any folder)."
)


class CheckoutError(RuntimeError):
    """The package does not lie in a checkout of the repository; the message says what to do."""


def checkout() -> Path:
    """The repository's root. Raises CheckoutError when the package lies elsewhere, as from a wheel."""
    if not (PYPROJECT.is_file() and NOTEBOOKS.is_dir()):
        raise CheckoutError(MISSING)
    return ROOT


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename, so that a break leaves the old file; line ends stay as they are."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
