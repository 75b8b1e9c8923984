"""Google Colab: install the pinned libraries that a fresh runtime lacks, and leave the rest alone."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

# Colab's own builds fit its GPU driver, or are already loaded when a notebook starts; they stay.
KEPT = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "matplotlib",
    "ipywidgets",
    "jupyterlab",
    "notebook",
    "psutil",
    "tqdm",
)


def missing(requirements: list[str], version=metadata.version) -> list[str]:
    """The pins, apart from KEPT ones that are there in any version, that are not installed as pinned."""
    wanted = []
    for requirement in requirements:
        name, pin = requirement.split("==")
        try:
            installed = version(name)
        except metadata.PackageNotFoundError:
            installed = None
        if installed is None or (name not in KEPT and installed != pin):
            wanted.append(requirement)
    return wanted


def install_missing() -> None:
    """Install what `missing` names and say so. Raises RuntimeError when pip fails."""
    requirements = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = missing(requirements)
    if not wanted:
        print("Everything that the chapters need is installed.")
        return
    print("Installing", ", ".join(wanted))
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=False)
    if done.returncode:
        raise RuntimeError(
            "pip could not install these: choose Runtime > Disconnect and delete runtime, and start over."
        )
