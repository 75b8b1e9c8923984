"""An executed notebook as one HTML page that loads nothing: formulas as MathML, pictures inside.

nbconvert's own page fetches MathJax, require.js and the widgets' code from content networks, so that offline
its formulas are dollars and backslashes.
"""

import base64
import html
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert_to_element
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

COLAB_PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB_FILE = Path(__file__).with_name("colab_badge.svg")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PANEL_NOTE = "<em>An interactive panel stands here when the notebook runs.</em>"
PROGRESS_BAR = re.compile(r"\d+%\|")  # how tqdm's bars begin
ARG = re.compile(r"\\arg(?![A-Za-z])")  # the one operator of TeX's that the converter lacks

# nbconvert's page without the parts that load something.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
math { font-size: 1.1em; }
math[display="block"] { margin: 1em 0; }
.jp-InputArea-editor { overflow-x: auto; }
details.solution { margin: 1em; }
</style>
{%- endblock -%}
{%- block codecell -%}
{%- if "solution" in cell.metadata.get("tags", []) -%}
<details class="solution"><summary>Solution</summary>{{ super() }}</details>
{%- else -%}
{{ super() }}
{%- endif -%}
{%- endblock codecell -%}
"""


class FormulaError(ValueError):
    """A formula that cannot be converted; the message names it."""


def mathml(tex: str, display: str) -> str:
    """A formula as MathML with its TeX as annotation; `display` is "block" or "inline".

    Raises FormulaError for TeX that is broken or that the converter does not know: it would show raw.
    """
    try:
        math = convert_to_element(ARG.sub(r"\\operatorname{arg}", tex), display=display)
    except Exception as error:  # the converter has many exceptions, and lets IndexError and the like through
        raise FormulaError(f"This formula cannot be converted ({type(error).__name__}): {tex}") from error
    for element in math.iter():
        element.text = html.unescape(element.text) if element.text else element.text
        if "\\" in (element.text or ""):
            raise FormulaError(f"The converter does not know {element.text}: {tex}")
    semantics = ElementTree.Element("semantics")
    semantics.extend(list(math))
    ElementTree.SubElement(semantics, "annotation", encoding="application/x-tex").text = tex.strip()
    math[:] = [semantics]
    return ElementTree.tostring(math, encoding="unicode")


def data_address(path: Path, kind: str) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class _Renderer(IPythonRenderer):
    """Markdown with its formulas as MathML; one that cannot be converted stays as TeX, in type for code."""

    def block_math(self, body: str) -> str:
        return self._formula(body, "block")

    def inline_math(self, body: str) -> str:
        return self._formula(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self._formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def _formula(self, tex: str, display: str) -> str:
        try:
            return mathml(tex, display)
        except FormulaError:
            return f'<code class="formula">{html.escape(tex)}</code>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if url == COLAB_PICTURE:
            url = data_address(COLAB_FILE, "image/svg+xml")
        return super().image(text, url, title)


class PageExporter(HTMLExporter):
    """nbconvert's page with our Markdown; made with TEMPLATE it is self-contained."""

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        folder = context["resources"]["metadata"].get("path", "")
        renderer = _Renderer(escape=False, attachments=attachments, embed_images=True, path=folder)
        return MarkdownWithMath(renderer=renderer).render(source)


def is_progress_bar(data: NotebookNode) -> bool:
    """Whether an output is a bar that the libraries show as a widget."""
    return WIDGET_MIME in data and bool(PROGRESS_BAR.search(data.get("text/plain", "")))


def without_widgets(data: NotebookNode) -> NotebookNode:
    """An output's data, with a note in the place of a panel that only a running notebook can show."""
    return (
        NotebookNode({"text/html": PANEL_NOTE, "text/plain": "An interactive panel."}) if WIDGET_MIME in data else data
    )


def page(path: Path) -> str:
    """The HTML of an executed notebook."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        cell.outputs = [o for o in cell.outputs if not is_progress_bar(o.get("data", {}))]
        for output in (o for o in cell.outputs if "data" in o):
            output.data = without_widgets(output.data)
            if "text/latex" in output.data:
                output.data.setdefault("text/markdown", output.data.pop("text/latex"))
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    body, _ = PageExporter(raw_template=TEMPLATE).from_notebook_node(notebook, resources)
    return body
