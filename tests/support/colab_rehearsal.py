"""Rehearse Google Colab: its library versions, its module pretended, an empty folder, and the chapters in it.

    python tests/support/colab_rehearsal.py                     chapters 3, 8 and 19, and all panels
    python tests/support/colab_rehearsal.py --chapters 12 --no-panels

Needs uv, git and the network (some 3 GB the first time; UV_TORCH_BACKEND=cpu makes it less). What is cloned
is the last commit of this checkout. Of Colab only `google.colab` is pretended; Papermill is the
one of the Python that starts this, and only the kernel is the rehearsal's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from listed_claims import EXPECTED, problems
from sdhelpers.book import chapters, colab, links

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VERSIONS = HERE / "colab-versions.txt"
KERNEL = "colab-rehearsal"
# `anywidget` asks the module for the switch that lets widgets of others onto Colab's page.
PRETENDED = {
    "sitecustomize.py": "import google.colab.output\n",
    "google/colab/__init__.py": "",
    "google/colab/output.py": (
        "class _widgets:\n    _installed_url = None\n\n\ndef enable_custom_widget_manager():\n    pass\n"
    ),
}


class RehearsalError(RuntimeError):
    """Something that a reader in Colab would meet."""


def uv(*arguments: str, **options) -> str:
    """Run uv and return what it prints. Raises RehearsalError when it is missing or fails."""
    if shutil.which("uv") is None:
        raise RehearsalError("uv is needed to build the environment: `pip install uv`, then start this again.")
    done = subprocess.run(["uv", *arguments], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RehearsalError(f"`uv {' '.join(arguments)}` failed; its own message is above.")
    return done.stdout


def build(folder: Path, version: str) -> Path:
    """An environment of exactly Colab's versions, whatever an earlier rehearsal put into it; return its Python."""
    environment, lock = folder / "environment", folder / "lock.txt"
    uv("venv", "--quiet", "--allow-existing", "--python", version, str(environment))
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with_pip = f"{VERSIONS.read_text(encoding='utf-8')}\npip\n"
    options = ("--quiet", "--no-build", "--python", str(python))
    uv("pip", "compile", *options, "--output-file", str(lock), "-", input=with_pip)
    uv("pip", "sync", *options, str(lock))
    return python


def installed(python: Path) -> dict[str, str]:
    """Every package of an environment with its version."""
    listed = json.loads(uv("pip", "list", "--quiet", "--format", "json", "--python", str(python)))
    return {package["name"]: package["version"] for package in listed}


def pretend(folder: Path, python: Path) -> dict[str, str]:
    """Write the pretended module and the kernel; return the environment variables that both need.

    Git is told to take the repository's address for this checkout, so that the setup cell's own command
    line runs as it is.
    """
    stub, kernel = folder / "pretended", folder / "jupyter" / "kernels" / KERNEL
    for name, text in PRETENDED.items():
        (stub / name).parent.mkdir(parents=True, exist_ok=True)
        (stub / name).write_text(text, encoding="utf-8")
    kernel.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Colab rehearsal", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return {
        "PYTHONPATH": str(stub),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "HF_HUB_OFFLINE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": links.repository_address(),
    }


def setup_cell() -> str:
    """The source of the chapters' setup cell."""
    notebook = nbformat.read(chapters.path_of(3), as_version=4)
    return next(cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))


def execute(notebook: nbformat.NotebookNode, content: Path, name: str) -> nbformat.NotebookNode:
    """Run a notebook in the folder `content`. Raises RehearsalError for a cell that fails."""
    source, target = content.parent / f"{name}.source.ipynb", content.parent / f"{name}.ipynb"
    nbformat.write(notebook, source)
    try:
        papermill.execute_notebook(source, target, cwd=content, kernel_name=KERNEL, progress_bar=False)
    except PapermillExecutionError as error:
        raise RehearsalError(f"{name} stopped:\n{error}") from error
    return nbformat.read(target, as_version=4)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


def rehearse_setup(content: Path, python: Path) -> None:
    """The setup cell in an empty folder, and again: it replaces what it says, keeps the rest, then is silent."""
    before = installed(python)
    cells = [nbformat.v4.new_code_cell(setup_cell()) for _ in range(2)]
    first, second = execute(nbformat.v4.new_notebook(cells=cells), content, "setup").cells
    print(printed(first))
    if printed(second):
        raise RehearsalError(f"The second time the setup cell should say nothing, and says {printed(second)}")
    after = installed(python)
    changed = {name: f"{old} -> {after.get(name)}" for name, old in before.items() if after.get(name) != old}
    new = {name: version for name, version in after.items() if name not in before}
    print(f"Replaced: {changed}\nNew: {new}", flush=True)
    if unexplained := sorted(set(changed) - set(colab.REPLACED)):
        raise RehearsalError(f"Replaced without a reason in sdhelpers/book/colab.py: {', '.join(unexplained)}")
    if subprocess.run([python, "-m", "pip", "check"]).returncode:
        raise RehearsalError("The libraries do not go together any more; see above.")


def rehearse_chapter(chapter: int, content: Path) -> None:
    """A chapter from start to end, its claims those that the tests expect."""
    started = time.perf_counter()
    path = content / "companion" / "notebooks" / chapters.path_of(chapter).name
    executed = execute(nbformat.read(path, as_version=4), content, f"chapter {chapter}")
    if wrong := problems(executed, EXPECTED[str(chapter)]):
        raise RehearsalError(f"Chapter {chapter}: {'; '.join(wrong)}")
    claims = len(EXPECTED[str(chapter)])
    print(f"Chapter {chapter}: {claims} claims hold, {time.perf_counter() - started:.0f} seconds", flush=True)


def rehearse_panels(content: Path) -> None:
    """Every panel at its ends, in a kernel after the setup cell."""
    support = str(content / "companion" / "tests" / "support")
    check = f"sys.path.insert(0, {support!r})\nimport colab_panels\n\ncolab_panels.check_all()"
    cells = [nbformat.v4.new_code_cell(source) for source in (setup_cell(), check)]
    print(printed(execute(nbformat.v4.new_notebook(cells=cells), content, "panels").cells[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Rehearse Google Colab on this computer.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdhelpers" / "colab"
    parser.add_argument("--folder", type=Path, default=cache, help="where the environment and the results go")
    parser.add_argument("--python", default="3.13", help="Colab's Python, or another that is here")
    parser.add_argument("--chapters", type=int, nargs="*", default=[3, 8, 19])
    parser.add_argument("--no-panels", dest="panels", action="store_false")
    options = parser.parse_args()
    folder = options.folder.resolve()
    content = folder / "content"
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir(parents=True)
    try:
        python = build(folder, options.python)
        os.environ.update(pretend(folder, python))
        rehearse_setup(content, python)
        for chapter in options.chapters:
            rehearse_chapter(chapter, content)
        if options.panels:
            rehearse_panels(content)
    except RehearsalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
