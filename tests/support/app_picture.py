"""A picture of chapter 20's app, taken in a real browser: data/recipes/sheets/app.webp.

    .venv/bin/python tests/support/app_picture.py

A scene is drawn, and the page is photographed on the way; then it is taken into the inpainting tab, painted over, and
photographed again. One stands below the other.
"""

import io
import os
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from app_pages import draw, put
from jupyter_pages import CHROMIUM, WITH_WEBGL
from sdhelpers.paths import ROOT

TARGET = ROOT / "data" / "recipes" / "sheets" / "app.webp"
WIDTH, GAP = 900, 6  # pixels of the picture, and between its halves


def paint(page: Page) -> None:
    """A stroke over the middle of the picture in the editor."""
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 45, y - 40)
    page.mouse.down()
    for k in range(0, 91, 6):
        page.mouse.move(x - 45 + k, y + (40 if k // 6 % 2 else -40), steps=3)
    page.mouse.up()


def photograph(page: Page) -> Image.Image:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return shot.resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS)


def on_the_way(page: Page) -> Image.Image:
    put(page, "prompt", "a 3d render of a penguin in the snow")
    page.evaluate("window.scrollTo(0, 0)")
    page.locator("#draw-text").click()
    page.wait_for_function("() => +document.querySelector('#seen progress')?.value >= 8", timeout=120_000)
    shot = photograph(page)
    page.locator("#seen img[alt='the picture']").wait_for(timeout=120_000)
    return shot


def inpainted(page: Page) -> Image.Image:
    page.get_by_role("tab", name="Inpainting").click()
    page.locator("#last-inpaint").click()
    page.wait_for_timeout(4000)  # the canvas takes the picture's size
    page.locator("#draw-inpaint").scroll_into_view_if_needed()
    paint(page)
    page.wait_for_timeout(1500)
    put(page, "prompt", "a 3d render of an owl in the snow")
    draw(page, "inpaint")
    page.locator("#gallery img").nth(1).wait_for(timeout=20_000)
    page.wait_for_timeout(1500)
    return photograph(page)


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, sync_playwright() as playwright:
        os.environ["GRADIO_TEMP_DIR"] = f"{temporary}/uploads"
        from sdhelpers.app.server import start
        from sdhelpers.app.studio import Studio

        studio = Studio(folder=Path(temporary) / "drawn")
        app = start(studio)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM or playwright.chromium.executable_path,
            args=WITH_WEBGL,
        )
        page = browser.new_page(viewport={"width": 1200, "height": 960})
        page.goto(app.local_url)
        page.locator("#draw-text").wait_for(timeout=60_000)
        shots = [on_the_way(page), inpainted(page)]
        browser.close()
        app.close()
        studio.close()
    sheet = Image.new("RGB", (WIDTH, sum(shot.height for shot in shots) + GAP), "gray")
    sheet.paste(shots[0])
    sheet.paste(shots[1], (0, shots[0].height + GAP))
    part = TARGET.with_suffix(".part.webp")
    sheet.save(part, quality=80)
    os.replace(part, TARGET)
    print(f"Wrote {TARGET} ({TARGET.stat().st_size:,} bytes).")


if __name__ == "__main__":
    main()
