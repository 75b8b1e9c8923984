"""What the setup cell of every chapter calls. Imports only the standard library.

In Google Colab and on Kaggle it installs the pinned libraries that a fresh runtime lacks, and leaves alone
what is there, apart from REPLACED. Elsewhere it installs nothing. `tests/support/colab_rehearsal.py` tries all of
this on the versions of a present Colab runtime.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sdhelpers.book.environment import SetupError, installed
from sdhelpers.paths import PYPROJECT, ROOT

# The only libraries that do not stay as the runtime has them, and why. All others stay: the runtime's own builds
# fit its GPU driver and its page, and numpy, pillow and matplotlib are loaded before the first cell runs.
REPLACED = {
    "peft": "0.20 stops at the notes (kasa_config) that 0.21 wrote into the LoRA files of this repository",
    "transformers": "from 5.6 on CLIPTextModel.text_model is gone, which clip_skip, long prompts and Compel need",
}
NEEDED_EVERYWHERE = ("torch", "diffusers", "transformers", "ipywidgets")


def is_hosted() -> bool:
    """Whether this is a runtime of Colab or Kaggle, which is fresh each time."""
    return "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def prepare() -> None:
    """See that the chapter's imports will work, and say only what is changed.

    Raises SetupError, one sentence, when libraries are missing, cannot be installed, or want a restart.
    """
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:  # for each Python that a chapter starts
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, paths)])
    absent = [name for name in NEEDED_EVERYWHERE if installed(name) is None]
    if is_hosted():
        install_missing()
    elif absent:
        raise SetupError(
            f"{sys.executable}, which runs this notebook, lacks {', '.join(absent)}: run `python -m sdhelpers "
            f"--setup lab` in {ROOT}, or choose the Python in its folder .venv as this notebook's kernel."
        )


def missing(requirements: list[str], version: Callable[[str], str | None]) -> dict[str, str]:
    """Of pins such as "compel==2.5.1" those to be installed, each with its reason; `version(name)` is what is here."""
    reasons = {}
    for requirement in requirements:
        name, pin = requirement.split("==")
        present = version(name)
        if present is None:
            reasons[requirement] = "is not here yet"
        elif name in REPLACED and present != pin:
            reasons[requirement] = f"instead of {present}: {REPLACED[name]}"
    return reasons


def install_missing() -> None:
    """Install what `missing` names and say so; whatever else the chapters import keeps its version."""
    import tomllib

    requirements = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = missing(requirements, installed)
    if not wanted:
        return
    print("Installing what the chapters need; the runtime's other libraries stay as they are.")
    for requirement, reason in wanted.items():
        print(f"  {requirement.replace('==', ' ')} {reason}", flush=True)
    names = [requirement.split("==")[0] for requirement in requirements if requirement not in wanted]
    if _install(list(wanted), [f"{name}=={installed(name)}" for name in names]):
        raise SetupError(
            "pip could not install these: look whether the runtime has a network (on Kaggle: Settings > Internet), "
            "choose Runtime > Disconnect and delete runtime, and start over."
        )
    importlib.invalidate_caches()
    stale = [name for name in REPLACED if name in sys.modules and any(r.startswith(f"{name}==") for r in wanted)]
    if stale:
        raise SetupError(
            f"The new {' and '.join(stale)} is installed, but the old one was already in use: choose "
            "Runtime > Restart session and run the cells from the top again."
        )


def _install(wanted: list[str], kept: list[str]) -> int:
    """Let pip install what is wanted and change nothing of what is kept; return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "kept.txt"
        constraints.write_text("\n".join(kept), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return subprocess.run([*pip, "--constraint", str(constraints), *wanted], check=False).returncode
