"""A virtual environment with the pinned libraries, made by
`python -m sdhelpers --setup ...` in `.venv`. Imports only the standard library.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from sdhelpers.paths import PYPROJECT, ROOT

CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
EXTRAS = ("tools", "test", "site")
STAMP = "sdhelpers-lock"
PYTHONS = ((3, 11), (3, 13))

# A processor of the large kind computes like a laptop with AVX2 alone when the libraries are told to use no more:
# oneDNN (convolutions, and products of 16-bit numbers, which then have no instructions of their own), MKL (products
# of 32-bit numbers) and PyTorch's own loops. They listen on Intel's and AMD's processors, and only at their start.
LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def folder() -> Path:
    """Where the environment is: SDHELPERS_VENV, or `.venv` in the project."""
    return Path(os.environ.get("SDHELPERS_VENV") or ROOT / ".venv")


def python_of(environment: Path) -> Path:
    """The interpreter inside an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def lock_digest() -> str:
    """Changes when the pins do: a hash of pyproject.toml, the constraints, the Python version and the checkout's place.

    The environment holds this checkout's own path, so that one shared by two checkouts is made again.
    """
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for path in (PYPROJECT, CONSTRAINTS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_python(version: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raise SetupError for a Python that the pinned libraries do not support."""
    if not PYTHONS[0] <= tuple(version) <= PYTHONS[1]:
        low, high = (".".join(map(str, v)) for v in PYTHONS)
        raise SetupError(
            f"Python {low} to {high} is needed and this is {version[0]}.{version[1]}: install one of "
            f"them and start the command with it, for example python{high} -m sdhelpers."
        )


def stamp(environment: Path) -> tuple[str, str]:
    """The pins that an environment was completely made from, and PyTorch's build; empty when it was not."""
    path = environment / STAMP
    if not (python_of(environment).exists() and path.exists()):
        return "", ""
    digest, _, build = path.read_text(encoding="utf-8").strip().partition(" ")
    return digest, build


def is_ready(environment: Path, build: str | None = None) -> bool:
    """Whether the environment was completely made from today's pins, and has PyTorch's `build` if one is named."""
    digest, made = stamp(environment)
    return digest == lock_digest() and build in (None, made)


def has_nvidia() -> bool:
    """Whether NVIDIA's driver is installed."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def what_comes(build: str, system: str = sys.platform, nvidia: bool | None = None) -> str:
    """What will be downloaded, and the smaller way where there is one.

    Measured on x86-64: 3.4 and 6.5 GB on Linux (3.0 and 5.1 of it PyTorch with what it needs for GPUs), 0.5 GB
    to download on Windows. The others are what is left of these with a PyTorch of Windows' size.
    """
    if build == "cpu":
        return "about 0.6 GB to download, 2 GB on the disk."
    if build:
        return f"PyTorch's build {build!r}: up to 3.4 GB to download, 6.5 GB on the disk."
    if system != "linux":
        return "about 0.5 GB to download, 2 GB on the disk."
    text = "about 3.4 GB to download, 6.5 GB on the disk, most of it for NVIDIA GPUs."
    if has_nvidia() if nvidia is None else nvidia:
        return text
    return (
        f"{text}\nThis computer has none: PyTorch's processor build does the same here with about 0.6 GB to download. "
        "For it stop this with Ctrl-C and write `--setup --torch cpu` in the command."
    )


def install_commands(environment: Path, build: str, uv: str | None) -> list[list[str]]:
    """What installs the libraries: one command after the other is tried until one succeeds.

    PyTorch's other builds lie on PyTorch's own server, and uv knows where; `make` fetches uv where it lacks.
    What another build brought along goes (`--exact`). That server could not be reached where this was
    written: the command line is tested, a whole installation with `--torch` is not.
    """
    python = str(python_of(environment))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    project = [*quiet, "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[{','.join(EXTRAS)}]"]
    if build:
        start = [uv] if uv else [python, "-m", "uv"]
        change = ["--exact", "--reinstall-package", "torch", "--reinstall-package", "torchvision"]
        return [[*start, "pip", "install", "--python", python, "--torch-backend", build, *change, *project]]
    fast = [[uv, "pip", "install", "--python", python, *project]] if uv else []
    return [*fast, [*pip, *project]]


def make(environment: Path, build: str | None = None) -> None:
    """Make or update the environment; a break leaves no stamp, so that the next call starts over.

    `build` is PyTorch's as uv's `--torch-backend` names it (cpu, auto, cu130 ...), "" the one on PyPI, and
    None the one that is there already.
    """
    if is_ready(environment, build):
        return
    check_python()
    build = stamp(environment)[1] if build is None else build
    print(f"Setting up {environment}, once, in some minutes: {what_comes(build)}", flush=True)
    (environment / STAMP).unlink(missing_ok=True)
    try:
        venv.create(environment, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError as error:
        raise SetupError(
            "This Python cannot make an environment with pip: install what it lacks (on Debian and Ubuntu "
            "`sudo apt install python3-venv`), and run the same command again."
        ) from error
    uv = shutil.which("uv")
    if build and not uv:
        subprocess.run([str(python_of(environment)), "-m", "pip", "install", "--quiet", "uv"], check=False)
    if not any(subprocess.run(c, check=False).returncode == 0 for c in install_commands(environment, build, uv)):
        raise SetupError(
            "The libraries could not be installed (the installer's own message is above): check the network and the "
            "free disk, and run the same command again" + (", or without --torch." if build else ".")
        )
    (environment / STAMP).write_text(f"{lock_digest()} {build}", encoding="utf-8")


def dependencies_missing() -> bool:
    """Whether the running Python lacks what the chapters import."""
    names = ("torch", "diffusers", "transformers", "papermill", "ipywidgets")
    return any(installed(name) is None for name in names)


def installed(name: str) -> str | None:
    """The installed version of a package, None when it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
