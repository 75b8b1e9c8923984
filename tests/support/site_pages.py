"""A page of the site as its links, its anchors, and what it loads, read with the standard library alone."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest"}


@dataclasses.dataclass
class Page:
    """What a page holds: `links` a reader follows, `loads` the browser fetches, `anchors` others may point to."""

    links: list[str] = dataclasses.field(default_factory=list)
    loads: list[str] = dataclasses.field(default_factory=list)
    anchors: set[str] = dataclasses.field(default_factory=set)
    pictures_without_text: list[str] = dataclasses.field(default_factory=list)
    formulas: int = 0


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.page.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if "math" in (given.get("class") or "").split():
            self.page.formulas += 1
        if tag == "a" and given.get("href"):
            self.page.links.append(given["href"])
        if tag == "link" and set((given.get("rel") or "").split()) & LOADING_LINKS:
            self.page.loads.append(given["href"])
        if tag != "a" and given.get("src") and not given["src"].startswith("data:"):
            self.page.loads.append(given["src"])
        if tag == "img" and "alt" not in given:
            self.page.pictures_without_text.append(given.get("src", "")[:80])


def read(path: Path) -> Page:
    """The page of a file."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def fetched_by_styles(path: Path) -> list[str]:
    """What a style sheet loads, data aside."""
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", path.read_text(encoding="utf-8"))
    return [a or b for a, b in found if not (a or b).startswith(("data:", "#"))]
