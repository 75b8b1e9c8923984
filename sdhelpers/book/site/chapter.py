"""A stored notebook as the site shows it: links stay in the site, solutions are folded, pictures have a text."""

import ast
import copy
import html
import re

from nbformat import NotebookNode

from sdhelpers.book.address import kept as repository_address
from sdhelpers.book.chapters import TITLES, file_name
from sdhelpers.book.links import BADGE, badge
from sdhelpers.book.page import COLAB_PICTURE, PANEL_NOTE
from sdhelpers.claims import MIME as CLAIM
from sdhelpers.paths import ROOT

BADGE_NAME = "colab_badge.svg"
UPWARDS = re.compile(r"\]\(\.\./(?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
TO_A_CHAPTER = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<number>\d\d)_\w+\.ipynb(?:#[^)\s]*)?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FOLDED = "*(The solution is folded away above this line: click the three dots.)*"
LONGEST_ALT = 300  # signs


def for_the_site(chapter: int, notebook: NotebookNode, written: set[int]) -> NotebookNode:
    """A copy of the notebook for Sphinx; of the other chapters those that are `written` are linked."""
    notebook = copy.deepcopy(notebook)
    notebook.cells = [cell for cell in notebook.cells if "navigation" not in cell.metadata.get("tags", [])]
    section = TITLES[chapter]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = (headings(cell.source) or [section])[-1]
            cell.source = prose(cell.source, written)
        elif cell.cell_type == "code":
            _show_code(cell, section)
        if "title" in cell.metadata.get("tags", []):
            cell.source = BADGE.sub(lambda _: ways_to_run(chapter), cell.source)
    return notebook


def headings(source: str) -> list[str]:
    """The headings of a Markdown text, in order, without their marks."""
    return HEADING.findall(FENCE.sub("", source))


def anchor(heading: str) -> str:
    """What JupyterLab, and so every link in the notebooks, calls a heading; conf.py names it to Sphinx."""
    return heading.replace(" ", "-")


def prose(source: str, written: set[int]) -> str:
    """Markdown whose links stay in the site, or go to the repository's page where the site has no such thing."""
    source = UPWARDS.sub(lambda m: f"]({_upwards(m['path'], m['anchor'] or '')})", source)
    source = TO_A_CHAPTER.sub(lambda m: m[0] if int(m["number"]) in written else m["text"], source)
    return source.replace(FOLDED, "*(The solution is folded away above this line.)*")


def _upwards(path: str, anchor: str) -> str:
    if path == "README.md" and anchor == "#chapters":
        return "index.md#Chapters"
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{repository_address()}/{kind}/main/{path}{anchor}"


def ways_to_run(chapter: int) -> str:
    """The badge, from a file of the site, and the other ways to a running chapter: Markdown of one line."""
    source = f"{repository_address()}/blob/main/notebooks/{file_name(chapter)}"
    colab = badge(chapter).replace(COLAB_PICTURE, BADGE_NAME)
    command = f"`python3 -m sdhelpers lab {chapter}`"
    return f"{colab} Open in JupyterLab: {command} ([start](index.md#Start)). [On GitHub]({source})."


def _show_code(cell: NotebookNode, section: str) -> None:
    """Fold what a reader may want to skip, and prepare the outputs."""
    tags = cell.metadata.get("tags", [])
    shown = {"image": {"alt": picture_text(cell.source, section)}}
    if "solution" in tags:
        tags = [*tags, "hide-cell"]
        shown |= {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    elif "setup" in tags:
        tags = [*tags, "hide-input"]
        shown |= {"code_prompt_show": "Show the setup", "code_prompt_hide": "Hide the setup"}
    cell.metadata = NotebookNode(tags=tags, mystnb=shown)
    for output in cell.outputs:
        if "data" in output:
            output.data = _show(output.data)


def _show(data: NotebookNode) -> NotebookNode:
    """An output's data with our own marks instead of colours of its own, which would be unreadable on black."""
    if CLAIM in data:
        state = "holds" if data[CLAIM]["holds"] else "fails"
        return NotebookNode({"text/html": f'<p class="claim {state}">{html.escape(data["text/plain"])}</p>'})
    if data.get("text/html") == PANEL_NOTE:
        return NotebookNode({"text/html": f'<p class="panel">{PANEL_NOTE}</p>'})
    return data


def picture_text(source: str, section: str) -> str:
    """What stands for a picture that is not seen: its section, and the texts that the cell's last line writes on it."""
    try:
        last = ast.parse(source).body[-1]
    except (SyntaxError, IndexError):
        texts = []
    else:
        found = [n.value for n in ast.walk(last) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        texts = [text.strip() for text in found if " " in text.strip() or text.strip().isalpha()]
    text = f"Picture made by the code above, in the section “{section}”"
    return f"{text}: {', '.join(texts)}"[:LONGEST_ALT] if texts else text
