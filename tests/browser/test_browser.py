"""A reader's way in a real browser.

JupyterLab, chapter 3, all cells, another seed, another picture; then a picture dropped on chapter 19's inspector;
and the page that `run --open` shows, without a network, with a flipbook: turned to its first, middle and last page,
played, and where no script may run; and a player of clips, its speed and its loop.
"""

import io
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from beside import COLOURS, pages
from jupyter_pages import run_all_cells, write_cell
from sdhelpers.book import chapters, store
from sdhelpers.book.page import page as export
from sdhelpers.generation import Settings
from sdhelpers.metadata import save_image
from sdhelpers.metadata.generation import generate_and_record, model_source
from sdhelpers.panels.flipbook import Flipbook
from sdhelpers.panels.player import Player
from sdhelpers.panels.sheet import GAP


def test_a_reader_runs_chapter_3_and_draws_with_another_seed(lab, browser, artefacts):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        walk(page, f"{lab}/lab/tree/{chapters.file_name(3)}", artefacts)
    finally:
        page.screenshot(path=artefacts / "jupyterlab.png")


def walk(page, address: str, artefacts: Path) -> None:
    """Run chapter 3 to its end, then draw with two seeds in the explorer."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook", timeout=120_000)
    run_all_cells(page)
    panel = page.locator(".sdhelpers-explorer").first
    panel.wait_for(timeout=900_000)
    page.wait_for_function(
        "() => document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status === 'idle'"
        " && document.querySelectorAll('.sdhelpers-explorer').length > 0",
        timeout=900_000,
    )
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    panel.scroll_into_view_if_needed()
    draw_with_seed(page, panel, 1)
    first = panel.locator("img").first.get_attribute("src")
    draw_with_seed(page, panel, 2)
    second = panel.locator("img").first.get_attribute("src")
    panel.screenshot(path=artefacts / "explorer.png")
    assert first != second, "another seed draws another picture"
    assert panel.locator("img").count() >= 3, "the picture and a strip of two"


def test_the_page_of_a_chapter_is_read_without_a_network(browser, tmp_path, artefacts):
    shutil.copy(chapters.path_of(4), tmp_path)
    address = chapters.to_html(tmp_path / chapters.file_name(4)).as_uri()
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    fractions = page.locator("mfrac")
    for fraction in fractions.all():
        above, below = (fraction.locator(f"> :nth-child({n})").bounding_box() for n in (1, 2))
        box = fraction.bounding_box()
        assert above["y"] + above["height"] <= below["y"] + 1, "numerator above denominator"
        assert 12 < box["height"] < 80 and 5 < box["width"] < 400  # two digits in a line have 14 and 7
    fractions.first.scroll_into_view_if_needed()
    page.screenshot(path=artefacts / "page.png")
    badge = page.get_by_alt_text("Open In Colab")
    assert fractions.count() >= 2 and badge.evaluate("image => image.complete && image.naturalWidth") > 50
    assert [url for url in asked if not url.startswith("data:")] == [address] and wrong == []
    context.close()


INSPECTOR = """
from diffusers import StableDiffusionPipeline
from sdhelpers import models
from sdhelpers.panels.inspector import MetadataInspector

pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
MetadataInspector(pipe)
"""


def test_a_reader_drops_a_picture_on_the_inspector(lab, browser, pipe, tmp_path, artefacts):
    image, data = generate_and_record(pipe, Settings("a cartoon of a cat", num_inference_steps=4), model_source("sd15"))
    picture = save_image(image, data, tmp_path / "cat.png")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        run_cell(page, lab, tmp_path / "notebooks" / "inspector.ipynb", INSPECTOR)
        zone = page.locator(".sdhelpers-drop-zone")
        zone.wait_for(timeout=120_000)
        drop(page, zone, picture)
        page.get_by_text("cat.png: PNG, 128 x 128 pixels").wait_for(timeout=30_000)
        page.get_by_role("button", name="Draw it again").click()
        page.get_by_text("Drawn again: not a pixel differs.").wait_for(timeout=60_000)
        zone.locator("input").set_input_files(tmp_path / "lab.log")
        page.get_by_text("lab.log: This is not a PNG").wait_for(timeout=30_000)
    finally:
        page.screenshot(path=artefacts / "inspector.png")


def run_cell(page, lab: str, path: Path, source: str) -> None:
    """Write a notebook of one cell into JupyterLab's folder, open it and run it."""
    write_cell(path, source)
    page.goto(f"{lab}/lab/tree/{path.name}")
    page.wait_for_selector(".jp-Notebook", timeout=120_000)
    run_all_cells(page)


def drop(page, zone, path: Path) -> None:
    """Let a file fall on an element, as the browser tells it of a real one."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [path.name, list(path.read_bytes())],
    )
    zone.dispatch_event("drop", {"dataTransfer": transfer})


SKETCH = """
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from sdhelpers import models
from sdhelpers.panels.sketch import SketchPanel

net = ControlNetModel.from_pretrained(models.locate("controlnet-scribble"))
pipe = StableDiffusionControlNetPipeline.from_pretrained(models.locate("sd15"), controlnet=net, safety_checker=None)
SketchPanel(pipe, "a cartoon of a house in a meadow", guidance_scale=3)
"""


HOUSE = (
    [(0.3, 0.85), (0.3, 0.5), (0.7, 0.5), (0.7, 0.85), (0.3, 0.85)],
    [(0.25, 0.5), (0.5, 0.2), (0.75, 0.5)],
)


def test_a_reader_draws_with_the_mouse_and_the_picture_follows(lab, browser, tmp_path, artefacts):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        run_cell(page, lab, tmp_path / "notebooks" / "sketch.ipynb", SKETCH)
        panel = page.locator(".sdhelpers-sketch-panel")
        pad = panel.locator("canvas")
        pad.wait_for(timeout=120_000)
        empty = picture_of(panel)
        for line in (
            [(0.3, 0.85), (0.3, 0.5), (0.7, 0.5), (0.7, 0.85), (0.3, 0.85)],
            [(0.25, 0.5), (0.5, 0.2), (0.75, 0.5)],
        ):
            before = picture_of(panel)
            drag(page, pad, line)
            until(page, lambda before=before: picture_of(panel) != before, "a new picture after the line")
        drawn = picture_of(panel)
        assert pad.evaluate("canvas => canvas.getContext('2d').getImageData(64, 26, 1, 1).data[0]") > 200, "the roof"
        panel.get_by_role("button", name="Clear").click()
        until(page, lambda: picture_of(panel) == empty, "without lines the first picture again")
        assert drawn != empty and "Error" not in panel.inner_text()
    finally:
        page.screenshot(path=artefacts / "sketch.png")


def picture_of(panel) -> str:
    """The pixels of the panel's picture; its address is another one after each drawing, whatever is drawn."""
    return panel.locator("img").first.evaluate(
        """image => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )


def drag(page, pad, line: list[tuple[float, float]]) -> None:
    """Draw a line with the mouse, its points as parts of the pad's side."""
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def until(page, holds, what: str) -> None:
    """Wait up to a minute for something to become true."""
    for _ in range(240):
        if holds():
            return
        page.wait_for_timeout(250)
    raise AssertionError(f"not within a minute: {what}")


def draw_with_seed(page, panel, seed: int) -> None:
    """Type a seed, click Generate, wait for the new picture."""
    before = panel.locator("img").first.get_attribute("src")
    box = panel.locator("input[type=number]").first
    box.fill(str(seed))
    box.press("Enter")
    panel.get_by_role("button", name="Generate").click()
    for _ in range(240):
        if panel.locator("img").first.get_attribute("src") != before:
            return
        page.wait_for_timeout(250)
    raise AssertionError("no new picture within a minute")


# The flipbook, which turns its pages without a kernel


@pytest.fixture
def stored(tmp_path):
    """The exported page of a stored notebook with two books."""
    books = [Flipbook(pages(), COLOURS, "colour"), Flipbook(pages(["cyan"]), ["the only one"])]
    outputs = [new_output("execute_result", {"text/html": b._repr_html_(), "text/plain": repr(b)}) for b in books]
    notebook = new_notebook(cells=[new_code_cell("Flipbook(images, labels)", outputs=[output]) for output in outputs])
    notebook = store.clean(notebook)
    assert [cell.outputs[0].data["text/html"] for cell in notebook.cells] == [book._repr_html_() for book in books]
    nbformat.write(notebook, tmp_path / "books.ipynb")
    file = tmp_path / "books.html"
    file.write_text(export(tmp_path / "books.ipynb"), encoding="utf-8")
    return file.as_uri()


def colour_of(book) -> tuple[int, ...]:
    """The middle of what is seen."""
    seen = Image.open(io.BytesIO(book.screenshot())).convert("RGB")
    return seen.getpixel((seen.width // 2, seen.height // 2 - 10))


def near(colour: tuple[int, ...], name: str) -> bool:
    wanted = Image.new("RGB", (1, 1), name).getpixel((0, 0))
    return max(abs(a - b) for a, b in zip(colour, wanted)) < 10


@pytest.fixture
def opened(browser, stored):
    """The page without a kernel and without a network; errors in its scripts are fatal."""
    context = browser.new_context(offline=True)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(stored)
    tab.locator("input[type=range]").first.wait_for()
    yield tab
    context.close()
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


def test_where_no_script_may_run_all_pages_are_seen(browser, stored):
    tab = browser.new_context(offline=True, java_script_enabled=False).new_page()
    tab.goto(stored)
    assert tab.locator("input[type=range]").count() == 0
    seen = Image.open(io.BytesIO(tab.locator("img.sdhelpers-flipbook").first.screenshot())).convert("RGB")
    places = [(GAP + i % 6 * (60 + GAP) + 30, GAP + i // 6 * (seen.height - GAP) // 2 + 20) for i in range(7)]
    assert all(near(seen.getpixel(place), name) for place, name in zip(places, COLOURS))
    assert "red, green" in tab.locator("img.sdhelpers-flipbook").first.get_attribute("alt")


# The player, a flipbook with a speed and a loop


@pytest.fixture
def playing(browser, tmp_path):
    """An exported page with a player of two clips, without a kernel and without a network."""
    player = Player([pages(COLOURS[:3], (64, 64)), pages(COLOURS[3:6], (64, 64))], ["one", "other"], 20)
    output = new_output("execute_result", {"text/html": player._repr_html_(), "text/plain": repr(player)})
    notebook = store.clean(new_notebook(cells=[new_code_cell("Player(clips, labels)", outputs=[output])]))
    nbformat.write(notebook, tmp_path / "player.ipynb")
    file = tmp_path / "player.html"
    file.write_text(export(tmp_path / "player.ipynb"), encoding="utf-8")
    context = browser.new_context(offline=True)
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(file.as_uri())
    tab.get_by_label("frame", exact=True).wait_for()
    yield tab
    context.close()
    assert errors == []


def colours_side_by_side(tab) -> list[tuple[int, ...]]:
    """The middles of the two clips as they are seen."""
    shown = tab.locator("div:has(> img.sdhelpers-flipbook)").first
    seen = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
    return [seen.getpixel((GAP + left + 32, GAP + 32)) for left in (0, 64 + GAP)]


def test_a_player_stands_still_until_it_is_played(playing):
    playing.wait_for_timeout(300)
    assert playing.get_by_label("frame", exact=True).input_value() == "0"
    assert playing.get_by_title("play").inner_text() == "▶"


def test_both_clips_of_a_player_show_the_same_frame(playing):
    for number in (2, 1):
        playing.get_by_label("frame", exact=True).fill(str(number))
        for colour, name in zip(colours_side_by_side(playing), (COLOURS[number], COLOURS[3 + number])):
            assert near(colour, name)


def test_a_player_plays_over_and_over_until_the_loop_is_off(playing):
    slider, play = playing.get_by_label("frame", exact=True), playing.get_by_title("play")
    slider.fill("1")
    play.click()
    playing.wait_for_function("() => document.querySelector('input[type=range]').value === '0'")
    assert play.inner_text() != "▶", "after the last frame comes the first"
    playing.get_by_label("loop").uncheck()
    playing.wait_for_function("() => document.querySelector('button[title=play]').textContent === '▶'")
    assert slider.input_value() == "2", "without the loop it ends with the last frame"


def test_the_speed_of_a_player_can_be_changed_while_it_plays(playing):
    pace = playing.get_by_label("frames a second")
    assert (pace.get_attribute("min"), pace.get_attribute("max"), pace.input_value()) == ("1", "24", "20")
    playing.get_by_title("play").click()
    pace.fill("1")
    assert playing.get_by_text("1 a second", exact=True).count() == 1
    playing.wait_for_timeout(100)
    before = playing.get_by_label("frame", exact=True).input_value()
    playing.wait_for_timeout(400)
    assert playing.get_by_label("frame", exact=True).input_value() == before, "a frame stays for a second"
    assert playing.get_by_title("play").inner_text() != "▶"
