"""Every formula of the chapters can be drawn by KaTeX (Colab) and MathJax (JupyterLab, GitHub), and survives HTML."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from sdhelpers.book import chapters

ENGINES = Path(__file__).parent / "formulas"
FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$\n]+?)\$", re.DOTALL)


def formulas(path: Path) -> list[dict]:
    """Every formula of a notebook's prose, as {tex, display}."""
    prose = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    found = []
    for text in prose:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for match in FORMULA.finditer(text):
            display = match["display"] is not None
            found.append({"tex": (match["display"] if display else match["inline"]).strip(), "display": display})
    return found


def with_formulas() -> list:
    return [pytest.param(path, id=path.stem) for path in chapters.existing().values() if formulas(path)]


@pytest.fixture(scope="session")
def engines() -> Path:
    """The folder of check.mjs, with both engines installed from npm by the lock file."""
    if not shutil.which("npm"):
        if os.environ.get("CI"):
            pytest.fail("CI must have Node.js with npm.")
        pytest.skip("no Node.js here: install it to check the formulas")
    if not (ENGINES / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=ENGINES, check=True, capture_output=True)
    return ENGINES


def failures(engines: Path, found: list[dict]) -> list[dict]:
    done = subprocess.run(
        ["node", "check.mjs"], cwd=engines, input=json.dumps(found), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", with_formulas())
def test_both_engines_draw_every_formula(engines, path):
    assert failures(engines, formulas(path)) == []


@pytest.mark.parametrize("tex", [r"\frac{1}{", r"\nosuchmacro", "x_1_2"])
def test_a_broken_formula_is_found_by_both(engines, tex):
    assert {f["engine"] for f in failures(engines, [{"tex": tex, "display": True}])} == {"KaTeX", "MathJax"}


@pytest.mark.parametrize("path", with_formulas())
def test_every_formula_survives_the_conversion_to_html(path, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    page = html.unescape(chapters.to_html(copy).read_text(encoding="utf-8"))
    lost = [f["tex"] for f in formulas(path) if f["tex"] not in page]
    assert lost == [], "Markdown has changed these"


@pytest.mark.parametrize("path", with_formulas())
def test_display_formulas_stand_on_lines_of_their_own(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for line in cell.source.split("\n"):
                assert line.count("$$") in (0, 2), line
                if "$$" in line:
                    assert line.startswith("$$") and line.rstrip().endswith("$$"), line
