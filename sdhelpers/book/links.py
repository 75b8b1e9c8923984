"""Badges, navigation, clone addresses and the README's table, all written from the chapters that exist."""

import re
from pathlib import Path

import nbformat

from sdhelpers.book import table
from sdhelpers.book.address import kept as repository_address
from sdhelpers.book.chapters import TITLES, existing, file_name
from sdhelpers.book.page import COLAB_PICTURE
from sdhelpers.book.store import write_notebook
from sdhelpers.paths import ROOT, write_text


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
    lines = ["| | | chapter | on two cores | |", "|---|---|---|---|---|"]
    for number, title in TITLES.items():
        blank = f"| {number} | | {title} | | not written yet |"
        lines.append(table.row(number, title, written[number], badge(number)) if number in written else blank)
    return "\n".join(lines)


def draw_thumbnails() -> list[Path]:
    """Draw the README's pictures of the chapters that have changed; return them."""
    changed = []
    for number, path in existing().items():
        notebook = nbformat.read(path, as_version=4)
        small = table.thumbnail(number, notebook)
        if small and not small.exists():
            table.draw_thumbnail(small, table.picture_of(notebook))
            changed.append(small)
    return changed


def relink() -> list[Path]:
    """Rewrite badges, clone addresses, navigation, the README's table and its pictures; return what changed."""
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
            changed.append(write_notebook(notebook, path))
    changed += draw_thumbnails()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    between = f"<!-- chapters -->\n{chapter_table()}\n<!-- end of chapters -->"
    new = re.sub(r"<!-- chapters -->.*<!-- end of chapters -->", lambda _: between, text, flags=re.DOTALL)
    if new != text:
        write_text(readme, new)
        changed.append(readme)
    return changed
