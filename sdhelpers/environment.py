"""A virtual environment with the pinned libraries, and a report on it. Imports only the standard library.

`python -m sdhelpers --setup ...` makes it in `.venv`; the doctor looks at whichever Python runs it.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from sdhelpers.paths import PYPROJECT, ROOT

CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
EXTRAS = ("tools", "test")
STAMP = "sdhelpers-lock"
PYTHONS = ((3, 11), (3, 13))
GB = 1e9

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
    return any(_version(name) is None for name in names)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `advice` is empty when all is well."""

    what: str
    found: str
    advice: str = ""
    essential: bool = True


def examine() -> Iterator[Finding]:
    """Everything that the doctor looks at, most basic first."""
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        check_python()
        yield Finding("Python", version)
    except SetupError as error:
        yield Finding("Python", version, str(error))
    yield from _examine_libraries()
    if dependencies_missing():
        return
    yield from _examine_hardware()
    yield from _examine_models()


def _examine_libraries() -> Iterator[Finding]:
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["tools"]:
        name, pin = requirement.split("==")
        installed = _version(name)
        if installed is None:
            yield Finding(name, "missing", f"run `python -m sdhelpers --setup doctor` or `pip install {requirement}`")
        elif installed.split("+")[0] != pin:
            advice = f"the notebooks were run with {pin}; on trouble `pip install {requirement}`"
            yield Finding(name, installed, advice, essential=False)
        else:
            yield Finding(name, installed)


def _examine_hardware() -> Iterator[Finding]:
    import psutil
    import torch

    from sdhelpers import device

    kind = device.best_device()
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{os.cpu_count()} CPU cores"
    yield Finding("device", f"{kind} ({name})")
    free = psutil.virtual_memory().available / GB
    yield Finding("free memory", f"{free:.1f} GB", "" if free > 2 else "the pocket tier wants 2 GB: close programs")
    disk = shutil.disk_usage(ROOT).free / GB
    yield Finding("free disk", f"{disk:.1f} GB", "" if disk > 1 else "notebooks need room for their outputs: free 1 GB")


def _examine_models() -> Iterator[Finding]:
    from sdhelpers import hub, models

    for name in models.REGISTRY:
        try:
            models.verify(models.POCKET / name)
            yield Finding(f"pocket model {name}", "complete, SHA-256 right")
        except hub.ModelError as error:
            yield Finding(f"pocket model {name}", "damaged", str(error))
    for name, model in models.REGISTRY.items():
        if model.full is None:
            continue
        found = f"{model.full.download / GB:.1f} GB to download once"
        try:
            hub.check_memory(model.full)
            hub.check_disk(model.full)
            yield Finding(f"full model {name}", f"{found}; fits here")
        except hub.ModelError as error:
            yield Finding(f"full model {name}", found, str(error), essential=False)


def report(findings: list[Finding]) -> str:
    """The findings as a table with OK or what to do."""
    wide = max(len(f.what) for f in findings)
    found = min(34, max(len(f.found) for f in findings))
    mark = {True: "✗", False: "!"}
    lines = [
        f"{f.what:<{wide}}  {f.found:<{found}}  {'OK' if not f.advice else f'{mark[f.essential]} {f.advice}'}"
        for f in findings
    ]
    return "\n".join(lines)
