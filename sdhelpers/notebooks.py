"""Find, run, store and link the chapters' notebooks."""

import base64
import dataclasses
import io
import os
import re
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from sdhelpers import expectations
from sdhelpers.address import kept as repository_address
from sdhelpers.page import COLAB_PICTURE, is_progress_bar, page, without_widgets
from sdhelpers.paths import NOTEBOOKS, ROOT, checkout

PLOT_COLOURS = 4096  # a plot has fewer, a picture more

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


MEASURED = re.compile(r"^\*Measured[^*]*\*$", re.MULTILINE)


def note_measurement(notebook: NotebookNode, execution: Execution) -> None:
    """Write time and memory into the line of the title cell that begins with *Measured."""
    line = (
        f"*Measured on {psutil.cpu_count()} processor cores without a GPU: {execution.seconds:.0f} seconds and "
        f"{execution.peak_memory / 1e9:.1f} GB of memory for the whole chapter.*"
    )
    for cell in notebook.cells:
        if "title" in cell.metadata.get("tags", []):
            cell.source = MEASURED.sub(line, cell.source)


def to_html(notebook: Path) -> Path:
    """An executed notebook as one HTML page beside it; return the page."""
    target = notebook.with_suffix(".html")
    _write_text(target, page(notebook))
    return target


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename; line ends stay as they are."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def clean(notebook: NotebookNode) -> NotebookNode:
    """What is stored: outputs without widget state, run times or Papermill's traces; counts from 1."""
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
    )
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")})
        cell.metadata.get("jupyter", {}).pop("outputs_hidden", None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [_clean_output(o, count) for o in cell.outputs if not _is_noise(o)]
    return notebook


def _is_noise(output: NotebookNode) -> bool:
    """What only mattered while it ran: warnings, and the progress bars that the libraries show as widgets."""
    if output.output_type == "stream":
        return output.name == "stderr"
    return is_progress_bar(output.get("data", {}))


def _clean_output(output: NotebookNode, count: int) -> NotebookNode:
    output.pop("transient", None)
    if output.output_type == "execute_result":
        output.execution_count = count
    if "data" in output:
        output.data = without_widgets(output.data)
    if "image/png" in output.get("data", {}):
        shrink_picture(output.data)
    return output


def shrink_picture(data: NotebookNode) -> None:
    """Keep one small copy of an output's picture: a PNG of few colours for a plot, else a JPEG."""
    image = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
    data.pop("image/jpeg", None)
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", quality=75, optimize=True)
    image.quantize(128, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    is_plot = image.getcolors(PLOT_COLOURS) and png.tell() < 1.5 * jpeg.tell()
    data["image/png" if is_plot else "image/jpeg"] = base64.b64encode((png if is_plot else jpeg).getvalue()).decode()


def store(chapter: int, out: Path) -> Path:
    """Run a chapter and put the executed, cleaned notebook in the place of the one in `notebooks/`."""
    execution = run(chapter, out)
    notebook = clean(nbformat.read(execution.path, as_version=4))
    note_measurement(notebook, execution)
    expectations.update(chapter, notebook)
    return write(notebook, path_of(chapter))


def write(notebook: NotebookNode, path: Path) -> Path:
    """Write under a temporary name, then rename, so that a break never leaves half a notebook."""
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
    return path


def badge(chapter: int) -> str:
    """The Markdown of a chapter's "Open in Colab" badge."""
    repository = re.sub(r"^https://github\.com/", "", repository_address())
    link = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{file_name(chapter)}"
    return f"[![Open In Colab]({COLAB_PICTURE})]({link})"


def navigation(chapter: int) -> str:
    """Previous, contents and next as one line of Markdown; chapters that are not written yet have no link."""

    def link(number: int, arrow: str) -> str:
        name = f"{number} {TITLES[number]}"
        return arrow.format(f"[{name}]({file_name(number)})" if number in existing() else f"{name} (not written yet)")

    parts = [link(chapter - 1, "← {}")] if chapter > 1 else []
    parts.append("[Contents](../README.md#chapters)")
    parts += [link(chapter + 1, "{} →")] if chapter < len(TITLES) else []
    return " | ".join(parts)


BADGE = re.compile(r"\[!\[Open In Colab\]\([^)]*\)\]\([^)]*\)")
CLONE = re.compile(r"https://github\.com/[\w.-]+/[\w.-]*[\w-]")


def chapter_table() -> str:
    """The README's table of all twenty-two chapters."""
    written = existing()
    lines = ["| | chapter | |", "|---|---|---|"]
    for number, title in TITLES.items():
        linked = f"[{title}](notebooks/{file_name(number)})" if number in written else title
        lines.append(f"| {number} | {linked} | {badge(number) if number in written else 'not written yet'} |")
    return "\n".join(lines)


def relink() -> list[Path]:
    """Rewrite every badge, clone address, navigation line and the README's table; return what changed."""
    changed = []
    for number, path in existing().items():
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        for cell in notebook.cells:
            tags = cell.metadata.get("tags", [])
            if "navigation" in tags:
                cell.source = navigation(number)
            elif "title" in tags:
                cell.source = BADGE.sub(badge(number), cell.source)
            elif "setup" in tags:
                cell.source = CLONE.sub(repository_address(), cell.source)
        if nbformat.writes(notebook) != before:
            changed.append(write(notebook, path))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = f"<!-- chapters -->\n{chapter_table()}\n<!-- end of chapters -->"
    new = re.sub(r"<!-- chapters -->.*<!-- end of chapters -->", lambda _: table, text, flags=re.DOTALL)
    if new != text:
        _write_text(readme, new)
        changed.append(readme)
    return changed
