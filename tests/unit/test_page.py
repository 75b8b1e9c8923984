"""The page that `run --open` shows: every formula is MathML, and nothing is loaded from anywhere."""

import re
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sdhelpers.book import chapters, links, page

MATHML = "{http://www.w3.org/1998/Math/MathML}"
WRITTEN = [pytest.param(path, id=path.stem) for path in chapters.existing().values()]


def page_of(tmp_path, *cells) -> BeautifulSoup:
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "some.ipynb")
    return BeautifulSoup(page.page(tmp_path / "some.ipynb"), "html.parser")


def loads(soup: BeautifulSoup) -> list[str]:
    """Every address that a browser fetches by itself; links to click are none."""
    found = [e["src"] for e in soup.select("[src]")] + [e["href"] for e in soup.select("link[href]")]
    css = " ".join(e.get_text() for e in soup.select("style")) + " ".join(e["style"] for e in soup.select("[style]"))
    found += re.findall(r"""url\(\s*["']?([^"')]+)""", css) + re.findall(r"@import\s+([^;]+)", css)
    found += re.findall(r"https?://[^\s\"']+", " ".join(e.get_text() for e in soup.select("script")))
    return [address for address in found if not address.startswith("data:")]


def raw_formulas(soup: BeautifulSoup) -> list[str]:
    """Dollars around TeX that a reader would see outside of code."""
    for element in soup.select("math, code, pre, .highlight, style, script, svg"):
        element.decompose()
    return re.findall(r"\$[^$]*[\\_^][^$]*\$", soup.get_text())


@pytest.mark.parametrize("path", WRITTEN)
def test_a_chapters_page_loads_nothing_and_every_formula_of_it_is_drawn(path):
    text = page.page(path)
    soup = BeautifulSoup(text, "html.parser")
    assert loads(soup) == []
    assert [c.get_text() for c in soup.select("code.formula")] == [], "the converter does not know these"
    assert raw_formulas(soup) == []


def test_a_solution_is_folded_with_what_it_gives(tmp_path):
    solution = new_code_cell("6 * 7", metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}})
    solution.outputs = [new_output("stream", name="stdout", text="forty-two")]
    soup = page_of(tmp_path, new_code_cell("1 + 1"), solution)
    (folded,) = soup.select("details:not([open])")
    assert "forty-two" in folded.get_text() and "7" in folded.get_text() and "1 + 1" not in folded.get_text()


def test_a_fraction_is_a_fraction():
    math = ElementTree.fromstring(page.mathml(r"\frac{a}{1 - b_t}", "block"))
    assert math.get("display") == "block"
    above, below = math.find(f".//{MATHML}mfrac")
    assert "".join(above.itertext()) == "a" and "".join(below.itertext()).replace(" ", "") == "1−bt"
    assert math.find(f".//{MATHML}annotation").text == r"\frac{a}{1 - b_t}"


@pytest.mark.parametrize(
    "tex", [r"\text{where } a < b", r"a \& b", r"\arg\min_v f(v)", r"x'", r"\begin{pmatrix}a & b\\c & d\end{pmatrix}"]
)
def test_formulas_with_signs_that_html_uses_are_well_formed(tex):
    assert ElementTree.fromstring(page.mathml(tex, "inline")).find(f".//{MATHML}annotation").text == tex


@pytest.mark.parametrize("tex", [r"\frac{1}{", r"\nosuchmacro", "x_1_2", r"\left( a"])
def test_a_formula_that_cannot_be_converted_is_found(tex):
    with pytest.raises(page.FormulaError, match=re.escape(tex)):
        page.mathml(tex, "inline")


def test_formulas_are_converted_in_cells_and_outputs_and_left_in_code(tmp_path):
    text = "See $a_1$ and\n\n$$\\frac{b}{c}$$\n\nbut not `$d_1$` nor\n\n```\n$$e_1$$\n```"
    outputs = [
        new_output("display_data", {"text/markdown": "An output: $f_1$"}),
        new_output("display_data", {"text/latex": "$$g_1$$", "text/plain": "<Math>"}),
    ]
    soup = page_of(tmp_path, new_markdown_cell(text), new_code_cell("h = '$h_1$'", outputs=outputs))
    assert [a.get_text() for a in soup.select("math annotation")] == ["a_1", r"\frac{b}{c}", "f_1", "g_1"]
    assert [m["display"] for m in soup.select("math")] == ["inline", "block", "inline", "block"]
    assert "$d_1$" in soup.get_text() and "$$e_1$$" in soup.get_text() and "$h_1$" in soup.get_text()


def test_a_formula_that_cannot_be_converted_is_shown_as_code_and_found_by_the_test_of_the_chapters(tmp_path):
    soup = page_of(tmp_path, new_markdown_cell(r"This $\nosuchmacro < 1$ is broken."))
    assert [c.get_text() for c in soup.select("code.formula")] == [r"\nosuchmacro < 1"]


def test_what_a_page_loads_is_found(tmp_path):
    html = (
        '<img src="https://example.org/a.png"><script src="b.js"></script>'
        "<style>@import c.css; p {background: url(d.png)}</style>"
    )
    soup = page_of(
        tmp_path, new_markdown_cell("x"), new_code_cell("x", outputs=[new_output("display_data", {"text/html": html})])
    )
    assert sorted(loads(soup)) == ["b.js", "c.css", "d.png", "https://example.org/a.png"]


def test_panels_leave_a_note_and_progress_bars_nothing(tmp_path):
    view = {"model_id": "1", "version_major": 2, "version_minor": 0}
    outputs = [
        new_output("display_data", {page.WIDGET_MIME: view, "text/plain": text})
        for text in ("Loading weights:   0%|          | 0/68 [00:00<?, ?it/s]", "VBox(children=())")
    ]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=outputs)])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    nbformat.write(notebook, tmp_path / "some.ipynb")
    soup = BeautifulSoup(page.page(tmp_path / "some.ipynb"), "html.parser")
    assert loads(soup) == [] and not soup.select("script")
    assert [o.get_text(strip=True) for o in soup.select(".jp-OutputArea-output")] == [
        "An interactive panel stands here when the notebook runs."
    ]


def test_the_badge_is_a_file_of_the_repository(tmp_path):
    soup = page_of(tmp_path, new_markdown_cell(links.badge(3)))
    assert soup.select_one("img")["src"] == page.data_address(page.COLAB_FILE, "image/svg+xml")
    assert ElementTree.parse(page.COLAB_FILE).getroot().tag.endswith("svg")
