"""Every chapter's panel as a reader meets it: Run All, then each slider moved and each button pressed.

Cells after the panel may have changed what it draws with, so the whole chapter runs first. Screenshots are kept. That
takes minutes a chapter beside Papermill's run of it, so that chapter 3 (in test_browser) stands for all unless
SDHELPERS_PANELS is "all"; and for Notebook 7, which is the same page without JupyterLab around it, a panel alone.
"""

import os

import pytest

from jupyter_pages import run_all_cells, wait_until_idle, write_cell
from sdhelpers.book import chapters

MOVED, CHOSEN = (f".jp-OutputArea-output:has(.widget-{kind})" for kind in ("slider", "dropdown"))
PANELS = {
    1: ".sdhelpers-masks",
    3: ".sdhelpers-explorer",
    4: MOVED,
    6: f"{MOVED}, {CHOSEN}",
    7: CHOSEN,
    8: ".sdhelpers-lora-panel",
    9: ".sdhelpers-embedding-panel",
    10: ".sdhelpers-prompt-panel",
    12: ".sdhelpers-schedule-panel",
    13: ".sdhelpers-sketch-panel",
    17: ".sdhelpers-prompt-builder",
    18: ".sdhelpers-reference-panel",
}  # chapter 19's takes files and has a test of its own
DRIVEN = PANELS if os.environ.get("SDHELPERS_PANELS") == "all" else {}
BUTTONS = ("Expand", "Draw", "Draw both", "Generate")
MINUTE = 60_000


@pytest.mark.parametrize(("chapter", "selector"), DRIVEN.items())
def test_a_panel_lives_after_run_all(lab, browser, artefacts, chapter, selector):
    walk(browser, f"{lab}/lab/tree/{chapters.file_name(chapter)}", selector, artefacts / f"panel-{chapter:02d}.png")


MASKS = """
import torch
from PIL import Image
from sdhelpers.panels.mask import MaskPanel

ramp = torch.linspace(0, 1, 64).expand(64, 64)
MaskPanel(Image.new("RGB", (64, 64), "orange"), lambda words: ramp, "the right")
"""


def test_a_panel_lives_in_notebook_7(lab, browser, tmp_path, artefacts):
    write_cell(tmp_path / "notebooks" / "masks.ipynb", MASKS)
    walk(browser, f"{lab}/notebooks/masks.ipynb", PANELS[1], artefacts / "notebook-7.png")


def walk(browser, address: str, selector: str, screenshot) -> None:
    """Open a notebook, run it, and drive each of its panels of this kind."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        page.goto(address)
        page.wait_for_selector(".jp-Notebook", timeout=2 * MINUTE)
        run_all_cells(page)
        wait_until_idle(page)
        said = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
        assert not [text for text in said if "Traceback" in text], "warnings are let pass, errors are not"
        panels = page.locator(selector)
        assert panels.count(), "the chapter's panel is in the page"
        for panel in panels.all():
            drive(page, panel)
        panels.first.screenshot(path=screenshot)
    except BaseException:
        page.screenshot(path=screenshot.with_stem(f"{screenshot.stem}-failed"))
        raise


def drive(page, panel) -> None:
    """Each slider to its other end, each list and each button: what is seen changes every time, and no error is said.

    Where there is a button, a choice from a list may wait for it.
    """
    panel.scroll_into_view_if_needed()
    buttons = [b for name in BUTTONS for b in panel.get_by_role("button", name=name, exact=True).all()]
    for choice in panel.locator(".widget-dropdown select:enabled").all():
        before = seen(panel)
        now = choice.evaluate("(list) => list.selectedIndex")
        if (others := choice.locator("option").count() - 1) > 0:
            choice.select_option(index=others if now != others else 0)
            if not buttons:
                until_changed(page, panel, before)
    for handle in panel.locator(".widget-slider .noUi-handle").all():
        before = seen(panel)
        at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.press("Home" if at_the_end else "End")
        until_changed(page, panel, before)
    for button in buttons:
        before = seen(panel)
        button.click()
        until_changed(page, panel, before)
        page.wait_for_function("(button) => !button.disabled", arg=button.element_handle(), timeout=MINUTE)
    assert "Error" not in panel.inner_text()


def seen(panel) -> list[str]:
    """All that a reader sees change: pictures, words, and the numbers beside the sliders."""
    return [panel.inner_text(), *(image.get_attribute("src") for image in panel.locator("img").all())]


def until_changed(page, panel, before: list[str]) -> None:
    for _ in range(240):
        if seen(panel) != before:
            return
        page.wait_for_timeout(250)
    raise AssertionError("nothing changed within a minute")
