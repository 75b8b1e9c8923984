"""Every link of the site leads somewhere, and nothing is loaded from outside."""

import os
import re
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

from sdhelpers.book import chapters
from sdhelpers.book.address import kept
from sdhelpers.paths import ROOT
from site_pages import fetched_by_styles

FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$[^$\n]+?\$", re.DOTALL)


def test_every_link_within_the_site_has_its_page_and_its_anchor(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(link)
            if re.match(r"[a-z]+:", address):
                continue
            target = os.path.normpath(unquote(address)) if address else name
            known = pages[target].anchors if target in pages else set()
            if not (site / target).is_file() or (anchor and target in pages and unquote(anchor) not in known):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_links_into_the_repository_name_files_that_are_there(pages):
    own = re.compile(re.escape(kept()) + r"/(?:blob|tree)/main/([^#]+)")
    found = {match[1] for page in pages.values() for link in page.links if (match := own.match(link))}
    assert found and [path for path in sorted(found) if not (ROOT / path).exists()] == []


def test_no_link_leads_to_a_notebook_file_or_out_of_the_site(pages):
    wrong = [link for page in pages.values() for link in page.links if re.search(r"^(?!https?:).*\.ipynb|^\.\./", link)]
    assert wrong == []


def test_scripts_styles_fonts_and_pictures_are_all_in_the_site(site, pages):
    absent = []
    for name, page in pages.items():
        absent += [f"{name}: {load}" for load in page.loads if not (site / re.sub(r"[?#].*", "", load)).is_file()]
    for style in site.rglob("*.css"):
        files = [re.sub(r"[?#].*", "", load) for load in fetched_by_styles(style)]
        absent += [f"{style.name}: {file}" for file in files if not (style.parent / file).is_file()]
    assert absent == []


def test_every_picture_has_a_text(pages):
    assert {name: page.pictures_without_text for name, page in pages.items() if page.pictures_without_text} == {}


@pytest.mark.parametrize("number", chapters.existing())
def test_a_chapter_has_its_badge_its_command_its_claims_and_its_formulas(number, site, pages):
    path = chapters.existing()[number]
    cells = nbformat.read(path, as_version=4).cells
    name = path.with_suffix(".html").name
    text = (site / name).read_text(encoding="utf-8")
    assert any(link.startswith("https://colab.") and link.endswith(path.name) for link in pages[name].links)
    assert f"sdhelpers lab {number}</span>" in re.sub(r'</span>\s*<span class="pre">', " ", text)
    assert '<details lang="ja">' in text
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    claims = [output for output in outputs if "application/vnd.sdhelpers.claim+json" in output.get("data", {})]
    assert text.count('<p class="claim holds">') == len(claims) > 0
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    formulas = FORMULA.findall(re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.DOTALL))
    assert pages[name].formulas == len(formulas)
