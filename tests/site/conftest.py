"""The site of all chapters, built once for all tests, and its pages in a browser that has no network."""

import re
import threading
from pathlib import Path

import pytest

from sdhelpers.book import site as book_site
from sdhelpers.book.site import serve
from site_pages import Page, read


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the built site."""
    return book_site.build(tmp_path_factory.mktemp("book") / "site").parent


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    """Every page of the site by its file's name, with its links, anchors and what it loads."""
    return {path.name: read(path) for path in sorted(site.glob("*.html"))}


@pytest.fixture
def show(browser, site):
    """A function that opens a page by name, colours and width; what fails in it or leaves the site is an error."""
    contexts, wrong = [], []

    def opened(name: str, colours: str = "light", width: int = 1280):
        context = browser.new_context(offline=True, color_scheme=colours, viewport={"width": width, "height": 900})
        context.set_default_timeout(120_000)  # a second on an idle computer, a minute on a busy one
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: wrong.append(f"{name}: {error}"))
        tab.on("request", lambda request: wrong.extend(re.findall(r"^(?!file:|data:).{,99}", request.url)))
        tab.goto(f"{site.as_uri()}/{name}")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def serving():
    """A function that serves a folder on loopback by a handler, and gives its address."""
    running = []

    def started(folder: Path, handler: type[serve.Handler]) -> str:
        server = serve.server(folder, handler=handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://{serve.HOST}:{server.server_port}"

    yield started
    for server in running:
        server.shutdown()
        server.server_close()
