"""The build: every chapter is there, and what goes wrong is said and leaves the former site alone."""

import re
import sys

import nbformat
import pytest

from sdhelpers import __main__ as command_line
from sdhelpers.book import chapters
from sdhelpers.book import site as book_site
from sdhelpers.paths import ROOT

STEPS = sys.modules["sdhelpers.book.site.build"]  # the module; the package's `build` is its function


@pytest.fixture
def former(tmp_path):
    """A site that was built before."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "index.html").write_text("before", encoding="utf-8")
    return place


def test_every_chapter_has_its_page_and_every_unwritten_one_is_named(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    for number, title in chapters.TITLES.items():
        page = site / chapters.file_name(number).replace(".ipynb", ".html")
        assert page.exists() == (number in chapters.existing())
        assert (f'href="{page.name}"' in first) == page.exists()
        assert f"<span>{number} {title}</span>" in first


def test_the_parts_hold_each_chapter_once():
    assert [number for part in chapters.PARTS.values() for number in part] == list(chapters.TITLES)


def test_the_navigation_has_the_parts_and_their_chapters_in_order(site):
    text = (site / "glossary.html").read_text(encoding="utf-8")
    navigation = text[text.index('<nav class="bd-links') :]
    navigation = navigation[: navigation.index("</nav>")]
    named = re.findall(r'caption-text">([^<]+)<|href="(\d\d)_', navigation)
    expected = []
    for part, numbers in chapters.PARTS.items():
        written = [("", f"{number:02d}") for number in numbers if number in chapters.existing()]
        expected += [(part, ""), *written] if written else []
    assert named[: len(expected)] == expected


def test_without_its_extra_the_command_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(STEPS, "installed", lambda name: None if name == "myst-nb" else "1")
    assert command_line.main(["site"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "myst-nb, not installed" in said and "sphinx-copybutton" not in said
    assert f'run in {ROOT} `python -m pip install --constraint .ci/constraints.txt --editable ".[site]"`' in said


def test_a_dead_link_is_named_and_leaves_the_former_site(former, tmp_path, monkeypatch):
    path = tmp_path / chapters.file_name(2)
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 2 X\n\n[there](#No-such-heading)")])
    nbformat.write(broken, path)
    monkeypatch.setattr(chapters, "existing", lambda: {2: path})
    with pytest.raises(book_site.SiteError, match=r"(?s)not built.*02_setting\S*:\d+.*No-such-heading"):
        book_site.build(former)
    assert (former / "index.html").read_text(encoding="utf-8") == "before"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".site")] == []


def test_a_new_site_takes_the_place_of_the_former_one(former):
    (former / "old.html").touch()
    book_site.build(former, only={2})
    assert (former / "02_setting_up_the_environment.html").exists() and not (former / "old.html").exists()
    assert "<title>" in (former / "index.html").read_text(encoding="utf-8")
