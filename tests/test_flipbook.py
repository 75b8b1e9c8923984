"""The flipbook in a real browser: turned to its first, middle and last page, played, and where no script may run."""

import io

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from test_browser import browser  # noqa: F401

from sdhelpers import notebooks, page
from sdhelpers.flipbook import GAP, MOST_BYTES, Flipbook

COLOURS = ["red", "green", "blue", "black", "yellow", "purple", "orange"]  # more than a row of the sheet


def pages(colours=COLOURS, size=(60, 40)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in colours]


@pytest.fixture
def stored(tmp_path):
    """The exported page of a stored notebook with two books."""
    books = [Flipbook(pages(), COLOURS, "colour"), Flipbook(pages(["cyan"]), ["the only one"])]
    outputs = [new_output("execute_result", {"text/html": b._repr_html_(), "text/plain": repr(b)}) for b in books]
    notebook = new_notebook(cells=[new_code_cell("Flipbook(images, labels)", outputs=[output]) for output in outputs])
    notebook = notebooks.clean(notebook)
    assert [cell.outputs[0].data["text/html"] for cell in notebook.cells] == [book._repr_html_() for book in books]
    nbformat.write(notebook, tmp_path / "books.ipynb")
    file = tmp_path / "books.html"
    file.write_text(page.page(tmp_path / "books.ipynb"), encoding="utf-8")
    return file.as_uri()


def colour_of(book) -> tuple[int, ...]:
    """The middle of what is seen."""
    seen = Image.open(io.BytesIO(book.screenshot())).convert("RGB")
    return seen.getpixel((seen.width // 2, seen.height // 2 - 10))


def near(colour: tuple[int, ...], name: str) -> bool:
    wanted = Image.new("RGB", (1, 1), name).getpixel((0, 0))
    return max(abs(a - b) for a, b in zip(colour, wanted)) < 10


@pytest.fixture
def opened(browser, stored):  # noqa: F811
    """The page without a kernel and without a network; errors in its scripts are fatal."""
    tab = browser.new_context(offline=True).new_page()
    errors = []
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(stored)
    tab.locator("input[type=range]").first.wait_for()
    yield tab
    assert errors == []


def test_the_slider_turns_the_pages_without_a_kernel(opened):
    slider, shown = opened.get_by_label("colour"), opened.locator("div:has(> img.sdhelpers-flipbook)").first
    assert (slider.get_attribute("min"), slider.get_attribute("max"), slider.input_value()) == ("0", "6", "0")
    for number in (0, 1, 5, 6, 3):
        slider.fill(str(number))
        assert near(colour_of(shown), COLOURS[number])
        assert slider.get_attribute("aria-valuetext") == COLOURS[number]
    slider.press("End")
    slider.press("ArrowRight")
    assert slider.input_value() == "6" and near(colour_of(shown), "orange")


def test_two_books_on_a_page_do_not_turn_each_other(opened):
    opened.get_by_label("colour").fill("4")
    other = opened.locator("div:has(> img.sdhelpers-flipbook)").nth(1)
    assert near(colour_of(other), "cyan") and opened.get_by_label("page").get_attribute("max") == "0"


def test_it_plays_to_its_end_and_begins_again(opened):
    slider, play = opened.get_by_label("colour"), opened.get_by_title("play").first
    slider.fill("4")
    play.click()
    assert play.inner_text() != "▶"
    opened.wait_for_function("() => document.querySelector('input[type=range]').value === '6'")
    opened.wait_for_function("() => document.querySelector('button[title=play]').textContent === '▶'")
    play.click()
    assert slider.input_value() == "0" and play.inner_text() != "▶"
    slider.fill("2")
    assert play.inner_text() == "▶", "who takes the slider stops the play"


def test_a_narrow_window_gets_a_smaller_page(opened):
    shown = opened.locator("div:has(> img.sdhelpers-flipbook)").first
    wide = shown.bounding_box()
    shown.evaluate("(element) => { element.parentElement.style.width = '30px' }")
    narrow = shown.bounding_box()
    assert narrow["width"] == 30 and abs(narrow["height"] / narrow["width"] - wide["height"] / wide["width"]) < 0.05
    opened.get_by_label("colour").fill("6")
    assert near(colour_of(shown), "orange")


def test_where_no_script_may_run_all_pages_are_seen(browser, stored):  # noqa: F811
    tab = browser.new_context(offline=True, java_script_enabled=False).new_page()
    tab.goto(stored)
    assert tab.locator("input[type=range]").count() == 0
    seen = Image.open(io.BytesIO(tab.locator("img.sdhelpers-flipbook").first.screenshot())).convert("RGB")
    places = [(GAP + i % 6 * (60 + GAP) + 30, GAP + i // 6 * (seen.height - GAP) // 2 + 20) for i in range(7)]
    assert all(near(seen.getpixel(place), name) for place, name in zip(places, COLOURS))
    assert "red, green" in tab.locator("img.sdhelpers-flipbook").first.get_attribute("alt")


def test_the_sheet_is_small():
    noise = [Image.effect_noise((200, 200), 80).convert("RGB") for _ in range(20)]
    flat = Flipbook(pages(size=(200, 200)), COLOURS)
    assert len(flat.content) < 10_000
    assert len(Flipbook(noise, [str(i) for i in range(20)]).content) < 3 * MOST_BYTES
    smooth = [Image.linear_gradient("L").convert("RGB").rotate(i) for i in range(20)]
    assert len(Flipbook(smooth, [str(i) for i in range(20)]).content) <= MOST_BYTES


def test_texts_cannot_become_html():
    said = Flipbook(pages(["red"]), ['"><script>alert(1)</script>'], '"><b>')._repr_html_()
    assert "<script>" not in said and "<b>" not in said


@pytest.mark.parametrize("images,labels", [([], []), (pages(), ["one"])])
def test_pages_without_labels_are_refused(images, labels):
    with pytest.raises(ValueError, match="one label each"):
        Flipbook(images, labels)
