"""The doctor: a report on this computer, each line OK or what to do. Imports only the standard library at first."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator

from sdhelpers.book.environment import SetupError, check_python, dependencies_missing, installed
from sdhelpers.paths import PYPROJECT, ROOT

GB = 1e9


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
        here = installed(name)
        if here is None:
            yield Finding(name, "missing", f"run `python -m sdhelpers --setup doctor` or `pip install {requirement}`")
        elif here.split("+")[0] != pin:
            advice = f"the notebooks were run with {pin}; on trouble `pip install {requirement}`"
            yield Finding(name, here, advice, essential=False)
        else:
            yield Finding(name, here)


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
    from sdhelpers import models
    from sdhelpers.models import hub

    for name in models.REGISTRY:
        try:
            models.verify(models.POCKET / name)
            yield Finding(f"pocket model {name}", "complete, SHA-256 right")
        except models.ModelError as error:
            yield Finding(f"pocket model {name}", "damaged", str(error))
    for name, model in models.REGISTRY.items():
        if model.full is None:
            continue
        found = f"{model.full.download / GB:.1f} GB to download once"
        try:
            hub.check_memory(model.full)
            hub.check_disk(model.full)
            yield Finding(f"full model {name}", f"{found}; fits here")
        except models.ModelError as error:
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
