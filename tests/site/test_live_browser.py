"""The live page in a real browser, served as GitHub Pages serves it: without the headers that threads need."""

import time
from pathlib import Path

import axe_playwright_python
import numpy as np
import pytest

from sdhelpers.book.site import serve
from sdhelpers.book.site.build import drawing_parts
from sdhelpers.generation import Settings, generate

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
CAT = Settings("a 3d render of a cat on a beach", "blurry", seed=7)
ADDRESS = "draw.html?prompt=a+3d+render+of+a+cat+on+a+beach&negative=blurry&seed=7"
PIXELS = """() => {
  const canvas = document.getElementById("live-picture");
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""
DRAWN = "() => document.body.dataset.seconds"


def press_draw(tab) -> float:
    """Draw and wait for the picture; the seconds from the click on."""
    tab.evaluate("() => delete document.body.dataset.seconds")
    started = time.perf_counter()
    tab.click("#live-draw")
    tab.wait_for_function(DRAWN)
    return time.perf_counter() - started


def picture(tab) -> np.ndarray:
    """What the page has drawn, [128, 128, 3]."""
    return np.array(tab.evaluate(PIXELS), dtype=float).reshape(128, 128, 4)[..., :3]


def grave(tab) -> list:
    """What axe finds serious or critical."""
    tab.add_script_tag(path=AXE)
    found = tab.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    serious = [violation for violation in found if violation["impact"] in ("serious", "critical")]
    return [(violation["id"], [node["html"][:150] for node in violation["nodes"]]) for violation in serious]


@pytest.fixture
def opened(browser, site, serving):
    """The page, open and able to draw, in a browser that has never seen it; what fails in it is an error."""
    if not (site / "_static" / "live").exists():
        pytest.skip("this site cannot draw: " + drawing_parts()[1])
    wrong = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(240_000)
    tab = context.new_page()
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(f"{serving(site, serve.PlainHandler)}/{ADDRESS}")
    tab.wait_for_function("() => document.body.dataset.live === 'able'")
    yield tab
    context.close()
    assert wrong == []


def test_the_page_draws_what_the_notebooks_draw(opened, pipe, record_property):
    tab = opened
    started = time.perf_counter()
    tab.reload()
    tab.wait_for_function("() => document.body.dataset.live === 'able'")
    assert "MB and draw" in tab.inner_text("#live-draw"), "the size is shown before anything is loaded"
    cold = time.perf_counter() - started + press_draw(tab)
    expected = np.asarray(generate(pipe, CAT), dtype=float)
    apart = np.abs(picture(tab) - expected)
    assert apart.mean() < 0.05 and apart.max() <= 2, "grey levels of 255"
    assert tab.evaluate("() => crossOriginIsolated") and int(tab.evaluate("() => document.body.dataset.threads")) >= 2

    the_words_are_clicked(tab)
    assert grave(tab) == []
    warm = press_draw(tab)
    assert np.abs(picture(tab) - expected).max() <= 2, "the same again"
    tab.select_option("[name=scheduler]", "DDIM")
    tab.fill("[name=steps]", "5")
    press_draw(tab)
    ddim = Settings(CAT.prompt, CAT.negative_prompt, CAT.seed, num_inference_steps=5, scheduler="DDIM")
    assert np.abs(picture(tab) - np.asarray(generate(pipe, ddim), dtype=float)).mean() < 0.05
    assert "steps=5" in tab.url and "scheduler=DDIM" in tab.url
    it_stops(tab)
    a_phone_at_night_can_read_it(tab)
    for name, seconds in (("live_cold_seconds", cold), ("live_warm_seconds", warm)):
        record_property(name, round(seconds, 1))
        print(name, round(seconds, 1))


def the_words_are_clicked(tab) -> None:
    """A word's shade is lifted where it is read: the cat's in the middle, where the cat is, more than at the top."""
    shades = {}
    for word in ("cat", "on"):
        tab.locator("#live-words").get_by_role("button", name=word, exact=True).click()
        shades[word] = np.array(tab.evaluate(PIXELS.replace("live-picture", "live-shade"))[3::4]).reshape(16, 16)
    assert shades["cat"][6:13, 4:12].mean() < shades["cat"][:3].mean()
    assert not np.array_equal(*shades.values())
    assert tab.locator("#live-words [aria-pressed=true]").count() == 1
    assert tab.locator("#live-maps canvas").count() == 10, "a map for each word: CLIP reads 3d as two"


def it_stops(tab) -> None:
    """A drawing of many steps ends early, and the next can begin."""
    tab.fill("[name=steps]", "100")
    tab.click("#live-draw")
    tab.wait_for_function("() => document.getElementById('live-status').textContent.startsWith('Step 2 ')")
    tab.click("#live-stop")
    tab.wait_for_function("() => document.getElementById('live-status').textContent.startsWith('Stopped')")
    assert tab.locator("#live-draw").is_enabled() and not tab.locator("#live-stop").is_enabled()


def a_phone_at_night_can_read_it(tab) -> None:
    """The page with all that was drawn, narrow and dark."""
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_timeout(500)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert grave(tab) == []


def test_what_cannot_be_drawn_is_said_in_a_sentence(opened):
    for name, value, sentence in (
        ("seed", "", "The seed is a whole number"),
        ("steps", "0", "The steps are a whole number"),
        ("guidance", "31", "The guidance is a number"),
    ):
        good = opened.input_value(f"[name={name}]")
        opened.fill(f"[name={name}]", value)
        opened.click("#live-draw")
        assert opened.inner_text("#live-note").startswith(sentence)
        assert opened.locator(f"[name={name}]").get_attribute("aria-invalid") == "true"
        opened.fill(f"[name={name}]", good)
    opened.fill("[name=prompt]", "a cat " * 40)
    opened.fill("[name=steps]", "1")
    press_draw(opened)
    assert opened.inner_text("#live-note").endswith("“" + " ".join(["cat", *["a cat"] * 2]) + "” is not read.")


def test_from_the_disk_the_page_says_how_it_is_served(show):
    assert "sdhelpers site --open" in show("draw.html").locator("#live-from-disk:visible").inner_text()
