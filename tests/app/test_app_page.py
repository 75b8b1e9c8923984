"""A reader draws in a real browser: watches the steps, stops, paints a mask, reads a file back, follows a link."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from app_pages import draw, put
from sdhelpers.app.pictures import opened
from sdhelpers.metadata import read_image


@pytest.fixture
def tab(browser, page):
    """The app's page; what its scripts complain of, and what it asks of others, is fatal."""
    context = browser.new_context(viewport={"width": 1300, "height": 1400}, accept_downloads=True)
    tab, wrong, asked = context.new_page(), [], []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.local_url)
    tab.locator("#draw-text").wait_for(timeout=60_000)
    yield tab
    context.close()
    elsewhere = [url for url in asked if not url.startswith((page.local_url, "data:", "blob:"))]
    assert wrong == [] and elsewhere == []


def drawn(tab) -> Image.Image:
    """The picture that is seen."""
    source = tab.locator("#seen img").get_attribute("src")
    return opened(bytes(tab.evaluate("async s => [...new Uint8Array(await (await fetch(s)).arrayBuffer())]", source)))


def newest(studio):
    return max(studio.folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)


def test_a_reader_draws_watches_stops_and_draws_again(tab, studio, artefacts):
    put(tab, "prompt", "a cartoon of a penguin in the snow")
    put(tab, "seed", 5)
    put(tab, "num_inference_steps", 12)
    tab.locator("#draw-text").click()
    tab.get_by_text(re.compile("step [0-9]+ of 12")).wait_for(timeout=60_000)
    tab.locator("#seen img[alt=preview]").wait_for()
    tab.screenshot(path=artefacts / "app-on-the-way.png")
    tab.locator("#seen img[alt='the picture']").wait_for(timeout=60_000)
    tab.locator("#gallery img").first.wait_for(timeout=20_000)
    tab.screenshot(path=artefacts / "app-drawn.png")
    found = read_image(newest(studio))
    assert found.data.settings.prompt == "a cartoon of a penguin in the snow" and found.data.settings.seed == 5
    assert np.array_equal(np.asarray(drawn(tab).convert("RGB")), np.asarray(Image.open(newest(studio)).convert("RGB")))
    before = set(studio.folder.glob("*"))
    put(tab, "num_inference_steps", 100)
    put(tab, "width", 256)
    tab.locator("#draw-text").click()
    tab.get_by_text(re.compile("step [0-9]+ of 100")).wait_for(timeout=60_000)
    tab.get_by_role("button", name="Stop", exact=True).click()
    tab.get_by_text("Stopped: nothing was saved.").wait_for(timeout=10_000)
    tab.wait_for_timeout(2000)
    assert tab.locator("#seen").inner_text().strip() == "Stopped: nothing was saved."
    assert set(studio.folder.glob("*")) == before


def test_the_dice_change_the_seed_and_an_example_fills_the_fields(tab):
    seed = tab.locator("#seed input")
    before = seed.input_value()
    tab.get_by_role("button", name="Another seed").click()
    tab.wait_for_function("before => document.querySelector('#seed input').value !== before", arg=before)
    tab.get_by_text("a cartoon of a cat on a beach").first.click()
    tab.wait_for_function("() => document.querySelector('#prompt textarea').value === 'a cartoon of a cat on a beach'")
    assert seed.input_value() == "7"


def test_a_mistake_is_one_sentence_on_the_page(tab):
    put(tab, "prompt", "a cat " * 17_000)
    tab.locator("#draw-text").click()
    tab.get_by_text("The prompt has 102,000 characters; at most 2,000 are read.").wait_for(timeout=20_000)


def test_a_mask_is_painted_with_the_mouse(tab, studio, artefacts):
    put(tab, "prompt", "a cartoon of a house in a meadow")
    put(tab, "num_inference_steps", 6)
    draw(tab, "text")
    first = np.asarray(drawn(tab).convert("RGB"), int)
    tab.get_by_role("tab", name="Inpainting").click()
    tab.locator("#last-inpaint").click()
    canvas = tab.locator("#editor canvas").first
    canvas.wait_for(timeout=20_000)
    tab.wait_for_timeout(2000)  # the canvas takes the picture's size
    tab.locator("#editor").scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 30, y)
    tab.mouse.down()
    for shift in range(-30, 31, 6):
        tab.mouse.move(x + shift, y + shift / 2, steps=3)
    tab.mouse.up()
    tab.wait_for_timeout(1500)
    tab.screenshot(path=artefacts / "app-mask.png")
    put(tab, "prompt", "a cartoon of a rocket in a meadow")
    draw(tab, "inpaint")
    tab.screenshot(path=artefacts / "app-inpainted.png")
    assert tab.locator("#seen img").bounding_box()["y"] >= 0, "what is drawn is in view beside the mask"
    from sdhelpers.app.files import read_file

    reading = read_file(newest(studio).read_bytes())
    mask = np.asarray(Image.open(io.BytesIO(reading.images["mask_image"])))
    kept = np.asarray(Image.open(io.BytesIO(reading.images["image"])), int)
    assert np.abs(kept - first).max() <= 3, "the picture that was painted on is the one that was drawn"
    assert 0 < (mask == 255).mean() < 0.5
    painted = np.asarray(drawn(tab).convert("RGB"), int)
    change = np.abs(painted - first).mean(-1)
    assert change[mask == 255].mean() > 1.5 * change[mask == 0].mean()


def test_a_file_is_read_back_and_its_control_leads_to_the_chapter(tab, studio, artefacts):
    draw(tab, "text")
    path = newest(studio)
    tab.get_by_role("tab", name="A file").click()
    tab.locator("#file input[type=file]").set_input_files(path)
    tab.locator("#said").get_by_text("DPM++ 2M").first.wait_for(timeout=20_000)
    tab.locator("#draw-again").click()
    tab.get_by_text("Drawn again: not a pixel differs.").wait_for(timeout=60_000)
    tab.screenshot(path=artefacts / "app-file.png")
    with tab.context.expect_page() as opening:
        tab.get_by_role("link", name="chapter 3: Guidance scale").click()
    chapter = opening.value
    chapter.wait_for_load_state()
    heading = chapter.locator("[id='Guidance-scale']")
    assert heading.is_visible() and -1 <= heading.bounding_box()["y"] < 1000  # rounded
