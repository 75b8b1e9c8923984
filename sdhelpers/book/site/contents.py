"""The site's first page: its prose from a file, and the chapters in the book's parts."""

import html
from pathlib import Path

from nbformat import NotebookNode

from sdhelpers.book import table
from sdhelpers.book.address import kept as repository_address
from sdhelpers.book.chapters import PARTS, TITLES, file_name


def thumbnails(stored: dict[int, NotebookNode]) -> dict[int, Path]:
    """The README's small picture of each chapter that has one."""
    places = {number: table.thumbnail(number, notebook) for number, notebook in stored.items()}
    newest = {number: place or Path() for number, place in places.items()}
    return {number: place for number, place in newest.items() if place.is_file()}


def page(prose: Path, stored: dict[int, NotebookNode]) -> str:
    """The page's Markdown: `prose` with the repository's address and the chapters in it."""
    text = prose.read_text(encoding="utf-8").replace("ADDRESS", repository_address())
    small = thumbnails(stored)
    return text.replace("<!-- chapters -->", "\n\n".join(_part(name, stored, small) for name in PARTS))


def _part(name: str, stored: dict[int, NotebookNode], small: dict[int, Path]) -> str:
    """A part's heading, its chapters as a list with pictures, and its lines of the navigation."""
    items = [_item(number, stored, small) for number in PARTS[name]]
    listed = [Path(file_name(number)).stem for number in PARTS[name] if number in stored]
    tree = ["```{toctree}", ":hidden:", f":caption: {name}", "", *listed, "```"] if listed else []
    return "\n".join([f"### {name}", "", '<ul class="chapters">', *items, "</ul>", "", *tree])


def _item(number: int, stored: dict[int, NotebookNode], small: dict[int, Path]) -> str:
    """One chapter of the list, as HTML."""
    title = f"{number} {html.escape(TITLES[number])}"
    if number not in stored:
        return f'<li class="unwritten"><span>{title}</span><small>not written yet</small></li>'
    picture = f'<img src="_static/{small[number].name}" width="320" height="160" alt="">' if number in small else ""
    link = f'<a href="{Path(file_name(number)).stem}.html">{picture}<span>{title}</span></a>'
    return f"<li>{link}<small>{table.took(stored[number])}</small></li>"
