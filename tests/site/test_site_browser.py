"""The site as a reader meets it: from the disk, without a network, in a real browser."""

from pathlib import Path

import axe_playwright_python
import pytest

from sdhelpers.book import chapters

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
LATENTS = "05_how_stable_diffusion_works.html"
FORMATS = "06_using_stable_diffusion_models.html"
VIDEO = "14_video.html"


@pytest.mark.parametrize(
    ("name", "colours", "width"),
    [
        ("index.html", "light", 1280),
        ("glossary.html", "dark", 1280),
        ("search.html", "light", 390),
        (LATENTS, "light", 1280),
        (LATENTS, "dark", 390),
        (FORMATS, "dark", 1280),
    ],
)
def test_axe_finds_nothing_serious(show, name, colours, width):
    tab = show(name, colours, width)
    tab.wait_for_load_state("load")
    tab.wait_for_function("() => !document.querySelector('div.math') || document.querySelector('mjx-container')")
    tab.wait_for_timeout(700)  # site.js lets the keyboard scroll what MathJax has drawn
    tab.add_script_tag(path=AXE)
    violations = tab.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    grave = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:150] for node in v["nodes"]]) for v in grave] == []


def test_no_page_moves_sideways_on_a_phone(show):
    tab = show("index.html", width=390)
    wide = {}
    for path in [*chapters.existing().values(), Path("glossary.html"), Path("index.html"), Path("search.html")]:
        tab.goto(tab.url.rsplit("/", 1)[0] + f"/{path.with_suffix('.html').name}")
        tab.wait_for_function("() => !document.querySelector('div.math') || document.querySelector('mjx-container')")
        width = tab.evaluate("() => document.documentElement.scrollWidth")
        if width > 390:
            wide[path.stem] = width
    assert wide == {}


def test_code_is_copied_whole(show):
    tab = show(LATENTS)
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cell = tab.locator("div.cell_input", has_text="num_inference_steps = 20").first
    cell.hover()
    cell.locator("button.copybtn").click()
    tab.locator("button.copybtn.success").wait_for()
    copied = tab.evaluate("() => navigator.clipboard.readText()")
    assert copied.strip().split("\n") == cell.locator("pre").inner_text().strip().split("\n")
    assert tab.locator("div.cell_output button.copybtn").count() == 0


def test_dark_mode_comes_by_the_button_and_stays(show):
    tab = show(LATENTS)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.get_by_role("button", name="Color mode").locator("visible=true").click()
    tab.locator("button.theme-change-button[data-mode=dark]:visible").click()
    dark = tab.evaluate(ground)
    assert dark != light
    tab.reload()
    assert tab.evaluate(ground) == dark


def test_formulas_are_drawn_with_text_for_those_who_listen(show):
    tab = show(LATENTS)
    first = tab.locator("div.math mjx-container[display=true]").first
    first.locator("svg").wait_for()
    assert first.bounding_box()["height"] > 10
    assert first.locator("mjx-assistive-mml math").count() == 1
    assert tab.locator("mjx-merror").count() == 0 and "\\(" not in tab.locator("p:has(> .math)").first.inner_text()


def test_the_search_finds_a_word_and_leads_to_it(show):
    tab = show("index.html")
    tab.locator("button.search-button-field:visible, button.search-button:visible").first.click()
    tab.locator("input[name=q]:visible").fill("self-attention")
    tab.keyboard.press("Enter")
    tab.locator("ul.search li a").first.wait_for()
    found = tab.locator("ul.search li a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert any(link.startswith(LATENTS) for link in found)
    tab.locator("ul.search li a").first.click()
    tab.locator("article h1").first.wait_for()


def test_a_flipbook_and_a_player_move(show):
    for name in (LATENTS, VIDEO):
        tab = show(name)
        sheet = tab.locator("img.sdhelpers-flipbook").first
        sheet.scroll_into_view_if_needed()
        place = "image => [image.style.left, image.style.top].join()"
        before = sheet.evaluate(place)
        box = tab.locator("div.output", has=tab.locator("img.sdhelpers-flipbook")).first
        box.get_by_title("play").click()
        tab.wait_for_function(
            "before => { const s = document.querySelector('img.sdhelpers-flipbook').style; "
            "return [s.left, s.top].join() !== before; }",
            arg=before,
        )
        box.get_by_role("slider").first.fill("3")
        assert sheet.evaluate(place) != before


def test_a_line_between_two_pictures_moves(show):
    tab = show("11_restoration_and_super_resolution.html")
    box = tab.locator("div.output", has=tab.locator("img.sdhelpers-before-after")).first
    box.get_by_role("slider").fill("10")
    clip = "box => [...box.querySelectorAll('div')].map(d => d.style.clipPath).filter(Boolean).join()"
    assert "90%" in box.evaluate(clip)


def test_a_solution_is_folded_until_it_is_wanted(show):
    tab = show(LATENTS)
    folded = tab.locator("details", has_text="Show the solution").first
    code = folded.locator("pre").first
    assert not code.is_visible()
    folded.locator("summary").click()
    assert code.is_visible()


def test_a_link_between_chapters_lands_on_its_heading(show):
    tab = show(LATENTS)
    tab.locator("table a", has_text="Time-step embeddings").first.click()
    tab.wait_for_timeout(300)
    heading = tab.get_by_role("heading", name="Time-step embeddings").first
    assert 0 <= heading.bounding_box()["y"] < 450


def test_the_glossary_is_searched_as_one_types(show):
    tab = show("glossary.html")
    rows = tab.locator("table.glossary tbody tr")
    every = rows.count()
    tab.get_by_role("searchbox", name="用語を探す").fill("潜在空間")
    seen = [row.inner_text() for row in rows.all() if row.is_visible()]
    assert 1 <= len(seen) < max(2, every) and all("潜在空間" in text for text in seen)
