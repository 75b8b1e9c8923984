"""A notebook made ready for the site, piece by piece."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sdhelpers.book import chapters
from sdhelpers.book.address import kept
from sdhelpers.book.links import badge
from sdhelpers.book.page import PANEL_NOTE
from sdhelpers.book.site.chapter import anchor, for_the_site, headings, picture_text, prose

EVERY = set(chapters.TITLES)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a](../README.md#chapters)", "[a](index.md#Chapters)"),
        ("[a](../data/recipes/README.md#what)", f"[a]({kept()}/blob/main/data/recipes/README.md#what)"),
        ("[a](../data/recipes)", f"[a]({kept()}/tree/main/data/recipes)"),
        ("[a](03_generating_images.ipynb#Guidance-scale)", "[a](03_generating_images.ipynb#Guidance-scale)"),
        ("[a](16_sdxl.ipynb), and [b](15_image_descriptions.ipynb#X)", "a, and b"),
        ("[a](#Here) and [b](https://arxiv.org/abs/1)", "[a](#Here) and [b](https://arxiv.org/abs/1)"),
    ],
)
def test_links_stay_in_the_site_or_go_to_the_repository(written, shown):
    assert prose(written, EVERY - {15, 16}) == shown


def test_headings_in_code_are_none():
    assert headings("## One\n\n```\n# not this\n```\n\n### Two: (a) \n") == ["One", "Two: (a)"]
    assert anchor("Two: (a)") == "Two:-(a)"


def test_solutions_and_setup_are_folded_and_the_badge_is_local():
    cells = [
        new_markdown_cell(f"# 3 X\n\n{badge(3)}", metadata={"tags": ["title"]}),
        new_code_cell("import os", metadata={"tags": ["setup"]}),
        new_code_cell("1", metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}}),
        new_markdown_cell("navigation", metadata={"tags": ["navigation"]}),
    ]
    notebook = new_notebook(cells=cells)
    title, setup, solution = for_the_site(3, notebook, EVERY).cells
    assert "colab_badge.svg" in title.source and "https://colab.research.google.com/assets" not in title.source
    assert "hide-input" in setup.metadata.tags and "hide-cell" in solution.metadata.tags
    assert solution.metadata.mystnb["code_prompt_show"] == "Show the solution"
    assert len(notebook.cells) == 4 and "hide-cell" not in notebook.cells[2].metadata.tags, "the notebook is as before"


def test_claims_and_panels_have_marks_instead_of_colours():
    claim = {"claim": "a < b", "value": 1, "comparison": "<", "reference": 2, "holds": True}
    data = {"text/plain": "✓ a < b: 1 < 2", "text/html": "<div>", "application/vnd.sdhelpers.claim+json": claim}
    outputs = [new_output("display_data", data), new_output("display_data", {"text/html": PANEL_NOTE})]
    (cell,) = for_the_site(3, new_notebook(cells=[new_code_cell("x", outputs=outputs)]), EVERY).cells
    assert cell.outputs[0].data == {"text/html": '<p class="claim holds">✓ a &lt; b: 1 &lt; 2</p>'}
    assert cell.outputs[1].data["text/html"].startswith('<p class="panel">')


def test_a_picture_is_called_by_its_section_and_the_words_written_on_it():
    text = picture_text('x = "not this"\ngrid([a, b], ["scaled back", "raw"], mode="RGB")', "Latents")
    assert text == "Picture made by the code above, in the section “Latents”: scaled back, raw, RGB"
    assert picture_text("%matplotlib inline", "Latents").endswith("“Latents”")
