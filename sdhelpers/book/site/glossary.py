"""The glossary English-Japanese: each term of `glossary.json` with a link to the section that builds it."""

import html
import json
import re
from pathlib import Path

from nbformat import NotebookNode

from sdhelpers.book.chapters import TITLES, file_name
from sdhelpers.book.site.chapter import anchor, headings

TERMS = Path(__file__).with_name("glossary.json")
TABLE = """```{list-table}
:header-rows: 1
:class: glossary

* - English
  - <span lang="ja">日本語</span>
  - <span lang="ja">意味</span>
  - <span lang="ja">章</span> · section
"""


def terms() -> list[dict]:
    """The terms in alphabetical order: en, ja, meaning, chapter, heading, and a reading in kana where one is needed."""
    return sorted(json.loads(TERMS.read_text(encoding="utf-8")), key=lambda term: term["en"].casefold())


def page(prose: Path, stored: dict[int, NotebookNode]) -> str:
    """The page's Markdown: `prose` with the terms in it; a section that is not there (yet) has no link."""
    there = {number: _sections(notebook) for number, notebook in stored.items()}
    rows = "".join(_row(term, there) for term in terms())
    return prose.read_text(encoding="utf-8").replace("<!-- terms -->", f"{TABLE}{rows}```")


def _sections(notebook: NotebookNode) -> set[str]:
    return {heading for cell in notebook.cells if cell.cell_type == "markdown" for heading in headings(cell.source)}


def _row(term: dict, there: dict[int, set[str]]) -> str:
    """A term's four cells; its English has an anchor of its own."""
    name = re.sub(r"[^a-z0-9]+", "-", term["en"].lower()).strip("-")
    japanese = html.escape(term["ja"]) + (f"<small>{html.escape(term['reading'])}</small>" if "reading" in term else "")
    cells = (
        f'<span id="term-{name}">{html.escape(term["en"])}</span>',
        f'<span lang="ja">{japanese}</span>',
        f'<span lang="ja">{html.escape(term["meaning"])}</span>',
        _where(term["chapter"], term["heading"], there),
    )
    return "* - " + "\n  - ".join(cells) + "\n"


def _where(chapter: int, heading: str, there: dict[int, set[str]]) -> str:
    """A link to the section; to the chapter where the section has another name; only words where it is not written."""
    if chapter not in there:
        return f"{chapter} {TITLES[chapter]}"
    known = heading in there[chapter]
    target = file_name(chapter) + (f"#{anchor(heading)}" if known else "")
    return f"[{chapter} · {heading if known else TITLES[chapter]}](<{target}>)"
