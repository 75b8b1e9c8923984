"""The site, built in a temporary folder beside its place and put there only when it is whole."""

import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import nbformat

from sdhelpers.book import chapters
from sdhelpers.book.environment import installed
from sdhelpers.book.page import COLAB_FILE
from sdhelpers.book.site import contents, glossary, live
from sdhelpers.book.site.chapter import BADGE_NAME, for_the_site
from sdhelpers.paths import OUTPUTS, ROOT, write_text

SOURCE = Path(__file__).with_name("source")
PLACE = OUTPUTS / "site"
SHEET = ROOT / "data" / "recipes" / "sheets" / "readme.webp"
MATHJAX = "static/mathjax/tex-svg-full.js"  # one file that loads no other: fonts and all of TeX's extensions are in it
EXTRA = ("myst-nb", "sphinx", "sphinx-book-theme", "sphinx-copybutton", "sphinx-mathjax-offline")


class SiteError(RuntimeError):
    """The site cannot be built; the message says what to do."""


def check_extra() -> None:
    """Raise SiteError, with the command that mends it, where a package of the extra `site` is missing."""
    absent = [name for name in EXTRA if installed(name) is None]
    if absent:
        raise SiteError(
            f"The site is made with {', '.join(absent)}, not installed for this Python: run in {ROOT} "
            '`python -m pip install --constraint .ci/constraints.txt --editable ".[site]"`.'
        )


def mathjax() -> Path:
    """MathJax as one file, from the package that brings it. Raises SiteError when it is not there."""
    files = metadata.files("sphinx-mathjax-offline") or []
    found = [Path(file.locate()) for file in files if str(file).endswith(MATHJAX)]
    if not found or not found[0].is_file():
        raise SiteError(
            "The package sphinx-mathjax-offline is here without MathJax's file: run "
            "`python -m pip install --force-reinstall --no-deps sphinx-mathjax-offline`."
        )
    return found[0]


def lay_out(source: Path, only: set[int] | None = None, drawing: Path | None = None, why_not: str = "") -> None:
    """Put the site's sources, the notebooks as the site shows them, and all that these need into one folder.

    `only` are the chapters to take; without it all that are written. `drawing` is what the live page runs on.
    """
    written = {number: path for number, path in chapters.existing().items() if only is None or number in only}
    shutil.copytree(SOURCE, source)
    shutil.copy(mathjax(), source / "static" / "mathjax.js")
    shutil.copy(COLAB_FILE, source / BADGE_NAME)
    shutil.copy(SHEET, source / SHEET.name)
    stored = {number: nbformat.read(path, as_version=4) for number, path in written.items()}
    for number, notebook in stored.items():
        nbformat.write(for_the_site(number, notebook, set(written)), source / written[number].name)
    for small in contents.thumbnails(stored).values():
        shutil.copy(small, source / "static" / small.name)
    write_text(source / "index.md", contents.page(SOURCE / "index.md", stored))
    write_text(source / "draw.md", live.page(SOURCE / "draw.md", drawing, why_not, set(written)))
    write_text(source / "glossary.md", glossary.page(SOURCE / "glossary.md", stored))


def run_sphinx(source: Path, target: Path, doctrees: Path) -> None:
    """Let Sphinx build; raise SiteError with what it said when it warns of anything."""
    options = ["-b", "html", "-q", "-W", "--keep-going", "-j", "auto", "-d", str(doctrees)]
    command = [sys.executable, "-m", "sphinx", *options, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", cwd=ROOT)
    if done.returncode:
        said = done.stderr.strip().replace(f"{source}/", "")
        raise SiteError(f"The site was not built; what lies in its place is as before. Sphinx says:\n{said}")


def leave_out(site: Path) -> None:
    """Remove what only serves those who build: Sphinx's notes, and maps from the theme's scripts to their sources."""
    for file in [*site.glob(".buildinfo*"), *(site / "_static").rglob("*.map")]:
        file.unlink()
    shutil.rmtree(site / "_sources", ignore_errors=True)


def drawing_parts() -> tuple[Path | None, str]:
    """What the live page runs on; or nothing, and the sentence that says why, which is printed too."""
    try:
        return live.prepare(), ""
    except live.LiveError as error:
        print(error, file=sys.stderr)
        return None, str(error)


def build(place: Path = PLACE, only: set[int] | None = None) -> Path:
    """Build the site into `place` and return its first page. Raises SiteError; then `place` is as it was before."""
    check_extra()
    drawing, why_not = drawing_parts()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=place.parent, ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        lay_out(work / "source", only, drawing, why_not)
        run_sphinx(work / "source", work / "site", work / "doctrees")
        leave_out(work / "site")
        if drawing:
            live.add(drawing, work / "site")
        if place.exists():
            place.rename(work / "former")
        (work / "site").rename(place)
    return place / "index.html"
