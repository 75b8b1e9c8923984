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

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
PYTHONS = ((3, 11), (3, 13))
GB = 1e9


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def folder() -> Path:
    """Where the environment is: SDHELPERS_VENV, or `.venv` in the project."""
    return Path(os.environ.get("SDHELPERS_VENV") or ROOT / ".venv")


def python_of(environment: Path) -> Path:
    """The interpreter inside an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def lock_digest() -> str:
    """Changes when the pins do: a hash of pyproject.toml, the constraints and the Python version."""
    digest = hashlib.sha256(str(sys.version_info[:2]).encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
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


def is_ready(environment: Path) -> bool:
    """Whether the environment was completely made from today's pins."""
    stamp = environment / "sdhelpers-lock"
    return python_of(environment).exists() and stamp.exists() and stamp.read_text() == lock_digest()


def make(environment: Path) -> None:
    """Make or update the environment; a break leaves no stamp, so that the next call starts over."""
    if is_ready(environment):
        return
    check_python()
    print(f"Setting up {environment} (on Linux about 6 GB, some minutes) ...", flush=True)
    (environment / "sdhelpers-lock").unlink(missing_ok=True)
    venv.create(environment, with_pip=True, upgrade_deps=False)
    install = [
        str(python_of(environment)),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
        "--constraint",
        str(CONSTRAINTS),
        "--editable",
        f"{ROOT}[test]",
    ]
    if subprocess.run(install, check=False).returncode:
        raise SetupError(
            "pip could not install the libraries (its own message is above): check the network and "
            "the free disk, and run the same command again."
        )
    (environment / "sdhelpers-lock").write_text(lock_digest())


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

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"]:
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
