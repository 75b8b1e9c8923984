"""A picture of chapter 20's app, taken in a real browser: data/recipes/sheets/app.webp.

    .venv/bin/python tests/support/app_picture.py

A scene is drawn, taken into the inpainting tab, and painted over; the page as it then stands is photographed.
"""

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from jupyter_pages import CHROMIUM, FLAGS
from sdhelpers.paths import ROOT

TARGET = ROOT / "data" / "recipes" / "sheets" / "app.webp"
WIDTH = 900  # pixels of the picture
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # the image editor paints with it


def write(page: Page, field: str, value: str) -> None:
    box = page.locator(f"#{field} textarea, #{field} input[type=number]").first
    box.fill(value)
    box.press("Tab")


def draw(page: Page, task: str) -> None:
    page.evaluate("() => document.querySelectorAll('#seen img').forEach(image => image.dataset.old = '1')")
    page.locator(f"#draw-{task}").click()
    page.locator("#seen img[alt='the picture']:not([data-old])").wait_for(timeout=120_000)


def paint(page: Page) -> None:
    """A stroke over the middle of the picture in the editor."""
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 45, y - 40)
    page.mouse.down()
    for k in range(0, 91, 6):
        page.mouse.move(x - 45 + k, y + (40 if k // 6 % 2 else -40), steps=3)
    page.mouse.up()


def act(page: Page) -> None:
    write(page, "prompt", "a 3d render of a penguin in the snow")
    draw(page, "text")
    page.get_by_role("tab", name="Inpainting").click()
    page.locator("#last-inpaint").click()
    page.wait_for_timeout(4000)  # the canvas takes the picture's size
    page.locator("#editor").scroll_into_view_if_needed()
    paint(page)
    page.wait_for_timeout(1500)
    write(page, "prompt", "a 3d render of an owl in the snow")
    draw(page, "inpaint")
    page.locator("#gallery img").nth(1).wait_for(timeout=20_000)
    page.wait_for_timeout(1500)


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, sync_playwright() as playwright:
        os.environ["GRADIO_TEMP_DIR"] = f"{temporary}/uploads"
        from sdhelpers.app.server import start
        from sdhelpers.app.studio import Studio

        studio = Studio(folder=Path(temporary) / "drawn")
        app = start(studio)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM or playwright.chromium.executable_path,
            args=[flag for flag in FLAGS if flag != "--disable-gpu"] + WEBGL,
        )
        page = browser.new_page(viewport={"width": 1200, "height": 1250})
        page.goto(app.local_url)
        page.locator("#draw-text").wait_for(timeout=60_000)
        act(page)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
        app.close()
        studio.close()
    shot = shot.resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS)
    part = TARGET.with_suffix(".part.webp")
    shot.save(part, quality=80)
    os.replace(part, TARGET)
    print(f"Wrote {TARGET} ({TARGET.stat().st_size:,} bytes).")


if __name__ == "__main__":
    main()
