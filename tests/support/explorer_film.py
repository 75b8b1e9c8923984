"""A short film of chapter 3's explorer, made in a real browser: data/recipes/sheets/explorer.webp.

    .venv/bin/python tests/support/explorer_film.py

JupyterLab opens a notebook that holds the explorer alone; prompts are typed, guidance is turned, and the panel is
photographed all the while.
"""

import io
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from jupyter_pages import CHROMIUM, FLAGS, jupyter_lab, run_all_cells
from sdhelpers.paths import ROOT

TARGET = ROOT / "data" / "recipes" / "sheets" / "explorer.webp"
CELL = """
from diffusers import StableDiffusionPipeline
from sdhelpers import models
from sdhelpers.panels.explorer import Explorer

pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
pipe.set_progress_bar_config(disable=True)
Explorer(pipe, prompt="a cartoon of a snowman in the snow", seed=3, guidance_scale=3)
"""
PROMPTS = (
    "a 3d render of a rocket at night",
    "a flat illustration of an owl in a forest",
    "a line drawing of a castle",
)
FRAME, HELD = 0.2, 1.2  # seconds of a photograph in the film, and of a finished picture
WIDTH = 640  # pixels of the film


class Film:
    """Photographs of an element, each shown as long, however long the next took; what is finished is shown longer."""

    def __init__(self, shown: Locator):
        self.shown, self.frames, self.durations = shown, [], []

    def take(self, seconds: float = FRAME) -> None:
        frame = Image.open(io.BytesIO(self.shown.screenshot())).convert("RGB")
        frame = frame.resize((WIDTH, round(frame.height * WIDTH / frame.width)), Image.Resampling.LANCZOS)
        if self.frames and frame.size == self.frames[-1].size and frame.tobytes() == self.frames[-1].tobytes():
            self.durations[-1] = max(self.durations[-1], seconds)
        else:
            self.frames.append(frame)
            self.durations.append(seconds)

    def save(self, path: Path) -> None:
        """One animated WebP; frames of another height than the largest get white below."""
        height = max(frame.height for frame in self.frames)
        whole = [Image.new("RGB", (WIDTH, height), "white") for _ in self.frames]
        for page, frame in zip(whole, self.frames):
            page.paste(frame)
        milliseconds = [round(1000 * seconds) for seconds in self.durations]
        whole[0].save(path, save_all=True, append_images=whole[1:], duration=milliseconds, loop=0, quality=60, method=6)


def draw(page: Page, panel: Locator, film: Film) -> None:
    """Press Generate and film until the new picture is there, then a little longer."""
    before = panel.locator("img").first.get_attribute("src")
    panel.get_by_role("button", name="Generate").click()
    for _ in range(400):
        film.take()
        if panel.locator("img").first.get_attribute("src") != before:
            page.wait_for_timeout(500)  # the strip below has it, too
            return film.take(HELD)
    raise SystemExit("No new picture came: look at the notebook in JupyterLab.")


def act(page: Page) -> Film:
    panel = page.locator(".sdhelpers-explorer")
    panel.wait_for(timeout=120_000)
    panel.scroll_into_view_if_needed()
    film = Film(panel)
    draw(page, panel, film)
    for prompt in PROMPTS:
        box = panel.locator("textarea").first
        box.fill("")
        for word in prompt.split(" "):
            box.press_sequentially(f"{word} " if word != prompt.split(" ")[-1] else word, delay=15)
            film.take()
        draw(page, panel, film)
    handle = panel.locator(".widget-slider .noUi-handle").first
    for _ in range(3):
        handle.press("PageUp")
        film.take()
        draw(page, panel, film)
    return film


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary) / "notebooks"
        folder.mkdir()
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=[new_code_cell(CELL)], metadata=kernel), folder / "explorer.ipynb")
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM or playwright.chromium.executable_path, args=FLAGS
        )
        with jupyter_lab(folder, Path(temporary)) as address:
            page = browser.new_page(viewport={"width": 1100, "height": 900})
            page.goto(f"{address}/lab/tree/explorer.ipynb")
            page.wait_for_selector(".jp-Notebook", timeout=120_000)
            run_all_cells(page)
            film = act(page)
        browser.close()
        part = Path(temporary) / "explorer.webp"
        film.save(part)
        shutil.move(part, TARGET)
    print(f"{TARGET.relative_to(ROOT)}: {len(film.frames)} frames, {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
