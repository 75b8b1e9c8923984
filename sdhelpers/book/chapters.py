"""The twenty-two chapters: their titles, their notebooks, and how one is executed."""

import dataclasses
import re
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from sdhelpers.book.page import page
from sdhelpers.paths import NOTEBOOKS, checkout, write_text

TITLES = {
    1: "Introducing Stable Diffusion",
    2: "Setting up the environment",
    3: "Generating images",
    4: "The theory behind diffusion models",
    5: "How Stable Diffusion works",
    6: "Using Stable Diffusion models",
    7: "Performance and VRAM",
    8: "LoRA",
    9: "Textual inversion",
    10: "The 77-token limit and prompt weighting",
    11: "Restoration and super-resolution",
    12: "Scheduled prompts",
    13: "ControlNet",
    14: "Video",
    15: "Image descriptions",
    16: "SDXL",
    17: "Better prompts",
    18: "Editing and style transfer",
    19: "Keeping generation data",
    20: "User interfaces",
    21: "Training",
    22: "Beyond Stable Diffusion",
}

# The book's four parts.
PARTS = {
    "A whirlwind of Stable Diffusion": range(1, 6),
    "Improving Diffusers with custom features": range(6, 11),
    "Advanced topics": range(11, 17),
    "Building Stable Diffusion into an application": range(17, 23),
}


class ChapterError(RuntimeError):
    """A chapter that cannot be found or run; the message says what to do."""


def file_name(chapter: int) -> str:
    """03_generating_images.ipynb for 3."""
    return f"{chapter:02d}_{re.sub('[^a-z0-9]+', '_', TITLES[chapter].lower())}.ipynb"


def existing() -> dict[int, Path]:
    """The chapters that are written: number to path, in order."""
    return {n: NOTEBOOKS / file_name(n) for n in TITLES if (NOTEBOOKS / file_name(n)).exists()}


def path_of(chapter: int) -> Path:
    """The notebook of a chapter. Raises ChapterError when there is none yet."""
    checkout()
    written = existing()
    if chapter not in written:
        numbers = ", ".join(map(str, written))
        raise ChapterError(f"There is no notebook for chapter {chapter}; these exist: {numbers}.")
    return written[chapter]


def parameter_names(notebook: NotebookNode) -> set[str]:
    """What the cell tagged `parameters` assigns."""
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return set(re.findall(r"^(\w+)\s*=", "\n".join(c.source for c in cells), re.MULTILINE))


@dataclasses.dataclass(frozen=True)
class Execution:
    """An executed notebook and what it took."""

    path: Path
    seconds: float
    peak_memory: int  # bytes of the kernel and whatever it started


class _MemoryWatch(threading.Thread):
    """Looks at the memory of this process's children twice a second and keeps the highest sum."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            now = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    now += child.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, now)


def run(chapter: int, out: Path, parameters: dict | None = None, progress: bool = True) -> Execution:
    """Execute a chapter with Papermill into the folder `out`.

    After an error the notebook is there as far as it came. Raises ChapterError with the failing cell, or
    for a parameter that the chapter does not have.
    """
    source, parameters = path_of(chapter), parameters or {}
    known = parameter_names(nbformat.read(source, as_version=4))
    unknown = sorted(set(parameters) - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise ChapterError(f"Chapter {chapter} has no parameter {', '.join(unknown)}; it has {names}.")
    out.mkdir(parents=True, exist_ok=True)
    target, started, watch = out / source.name, time.perf_counter(), _MemoryWatch()
    watch.start()
    try:
        papermill.execute_notebook(
            source, target, parameters, cwd=NOTEBOOKS, kernel_name="python3", progress_bar=progress, log_output=False
        )
    except PapermillExecutionError as error:
        raise ChapterError(
            f"Chapter {chapter} stopped in cell {error.exec_count} with {error.ename}: {error.evalue}\n\n"
            f"{error.source.strip()}\n\nThe notebook as far as it came: {target}"
        ) from error
    finally:
        watch.done.set()
    return Execution(target, time.perf_counter() - started, watch.peak)


def to_html(notebook: Path) -> Path:
    """An executed notebook as one HTML page beside it; return the page."""
    target = notebook.with_suffix(".html")
    write_text(target, page(notebook))
    return target
