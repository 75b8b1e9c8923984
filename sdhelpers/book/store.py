"""A chapter executed, cleaned and put back with its outputs, small enough for a repository."""

import base64
import io
import os
import re
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode
from PIL import Image

from sdhelpers.book import expectations
from sdhelpers.book.chapters import Execution, path_of, run
from sdhelpers.book.page import is_progress_bar, without_widgets
from sdhelpers.images import PLOT_COLOURS

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


def clean(notebook: NotebookNode) -> NotebookNode:
    """What is stored: outputs without widget state, times or Papermill's traces; counts from 1; solutions folded."""
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
    )
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")})
        cell.metadata.get("jupyter", {}).pop("outputs_hidden", None)
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata.jupyter = NotebookNode(source_hidden=True, outputs_hidden=True)
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


def store_chapter(chapter: int, out: Path) -> Path:
    """Run a chapter and put the executed, cleaned notebook in the place of the one in `notebooks/`."""
    execution = run(chapter, out)
    notebook = clean(nbformat.read(execution.path, as_version=4))
    note_measurement(notebook, execution)
    expectations.update(chapter, notebook)
    return write_notebook(notebook, path_of(chapter))


def write_notebook(notebook: NotebookNode, path: Path) -> Path:
    """Write under a temporary name, then rename, so that a break never leaves half a notebook."""
    nbformat.validate(notebook)
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
    return path
