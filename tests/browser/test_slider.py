"""The before/after slider in an exported page, without a kernel and without a network."""

import io

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from beside import COLOURS, pages
from sdhelpers.book import store
from sdhelpers.book.page import page as export
from sdhelpers.panels.before_after import BeforeAfter


@pytest.fixture
def stored(tmp_path):
    """The exported page of a stored notebook with one slider for all colours."""
    pair = BeforeAfter(pages(size=(64, 64)), COLOURS, "colours")
    output = new_output("execute_result", {"text/html": pair._repr_html_(), "text/plain": repr(pair)})
    notebook = store.clean(new_notebook(cells=[new_code_cell("BeforeAfter(images, labels)", outputs=[output])]))
    nbformat.write(notebook, tmp_path / "pair.ipynb")
    file = tmp_path / "pair.html"
    file.write_text(export(tmp_path / "pair.ipynb"), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def opened(browser, stored):
    """The page; errors in its scripts are fatal."""
    context = browser.new_context(offline=True)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(stored)
    tab.locator("input[type=range]").wait_for()
    yield tab
    context.close()
    assert errors == []


def shown(tab) -> list[str]:
    """The names of the colours at a quarter and at three quarters of the width."""
    seen = Image.open(io.BytesIO(tab.get_by_role("img", name="colours: ").screenshot())).convert("RGB")
    assert abs(seen.width - 128) <= 1 and abs(seen.height - 128) <= 1
    named = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}
    found = []
    for x in (32, 96):
        colour = seen.getpixel((x, 64))
        found.append(min(named, key=lambda one: sum(abs(a - b) for a, b in zip(one, colour))))
    return [named[colour] for colour in found]


def test_the_line_moves_between_two_pictures(opened):
    slider = opened.get_by_label("colours", exact=True)
    assert shown(opened) == COLOURS[:2]
    slider.fill("100")
    assert shown(opened) == [COLOURS[0]] * 2
    slider.fill("0")
    assert shown(opened) == [COLOURS[1]] * 2
    assert COLOURS[0] in slider.get_attribute("aria-valuetext")


def test_the_mouse_drags_the_line(opened):
    box = opened.get_by_role("img", name="colours: ").bounding_box()
    opened.mouse.move(box["x"] + 64, box["y"] + 64)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 120, box["y"] + 64)
    opened.mouse.up()
    assert shown(opened) == [COLOURS[0]] * 2


def test_any_two_can_be_chosen(opened):
    opened.get_by_label("colours: left").select_option(COLOURS[-1])
    opened.get_by_label("colours: right").select_option(COLOURS[3])
    assert shown(opened) == [COLOURS[-1], COLOURS[3]]


def test_where_no_script_may_run_all_pictures_are_seen(browser, stored):
    tab = browser.new_context(offline=True, java_script_enabled=False).new_page()
    tab.goto(stored)
    assert tab.locator("input[type=range]").count() == 0
    assert tab.locator("img.sdhelpers-before-after").bounding_box()["width"] > 6 * 64
