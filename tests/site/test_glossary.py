"""The glossary: its terms are whole, in order, and each is built where it says."""

import re

import nbformat

from sdhelpers.book import chapters
from sdhelpers.book.site import glossary
from sdhelpers.book.site.chapter import headings

KANA = re.compile(r"[ぁ-ゟ゠-ヿ一-鿿]")


def test_every_term_has_what_the_page_shows():
    terms = glossary.terms()
    for term in terms:
        assert term.keys() - {"reading"} == {"en", "ja", "meaning", "chapter", "heading"}, term
        assert KANA.search(term["meaning"]) and term["meaning"].endswith("。"), term
        assert all(text == text.strip() != "" for text in term.values() if isinstance(text, str)), term
        assert term["chapter"] in chapters.TITLES
    names = [term["en"].casefold() for term in terms]
    assert names == sorted(set(names)), "each term once"


def test_every_term_leads_to_a_heading_of_its_chapter():
    there = {}
    for number, path in chapters.existing().items():
        prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        there[number] = {heading for source in prose for heading in headings(source)}
    terms = [term for term in glossary.terms() if term["chapter"] in there]
    moved = [term["en"] for term in terms if term["heading"] not in there[term["chapter"]]]
    assert moved == [], "these headings have other names now"


def test_the_page_links_every_term(pages):
    terms = glossary.terms()
    built = [term for term in terms if term["chapter"] in chapters.existing()]
    anchors = {name for name in pages["glossary.html"].anchors if name.startswith("term-")}
    assert len(anchors) == len(terms)
    links = [link for link in pages["glossary.html"].links if re.match(r"\d\d_\w+\.html#", link)]
    assert len(links) >= len(built)
