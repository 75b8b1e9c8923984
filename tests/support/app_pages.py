"""What is done in the app's page, by its tests and by the photographer."""


def put(page, field: str, value) -> None:
    """Write into a field: a text, or the number of a slider."""
    box = page.locator(f"#{field} textarea, #{field} input[type=number], #{field} input[type=text]").first
    box.fill(str(value))
    box.press("Tab")


def draw(page, task: str, timeout: float = 60_000) -> None:
    """Press a tab's button and wait for its picture, milliseconds at most."""
    page.evaluate("() => document.querySelectorAll('#seen img').forEach(image => image.dataset.old = '1')")
    page.locator(f"#draw-{task}").click()
    page.locator("#seen img[alt='the picture']:not([data-old])").wait_for(timeout=timeout)
