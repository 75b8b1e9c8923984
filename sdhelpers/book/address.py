"""The repository's web address: kept in pyproject.toml, compared with git's. Imports only the standard library.

`python -m sdhelpers.book.address` writes a warning for GitHub's page of a run when the two differ; it stops nothing.
"""

import re
import subprocess
import tomllib

from sdhelpers.paths import PYPROJECT, ROOT, CheckoutError, checkout, write_text

ADVICE = "run `python -m sdhelpers relink --from-remote` and commit what it changes"
LINE = re.compile(r'^Repository = "([^"]*)"$', re.MULTILINE)
REMOTE = re.compile(
    r"(?:https?://(?:[^@/]+@)?(?:www\.)?github\.com/"
    r"|(?:ssh|git)://(?:[^@/]+@)?(?:ssh\.)?github\.com(?::\d+)?/"
    r"|(?:[^@/]+@)?github\.com:/?)"
    r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?"
)


class AddressError(RuntimeError):
    """The address cannot be taken from git; the message says what to do."""


def kept() -> str:
    """The address in pyproject.toml, the one place of it."""
    checkout()
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def web_address(remote: str) -> str:
    """https://github.com/owner/name for any way in which git writes it. Raises AddressError for other hosts."""
    match = REMOTE.fullmatch(remote.strip())
    if not match:
        raise AddressError(
            f"Git's origin is {remote.strip()!r}, which Colab cannot open: it opens repositories on github.com; "
            "set one with `git remote set-url origin ADDRESS`."
        )
    return f"https://github.com/{match['owner']}/{match['name']}"


def origin() -> str:
    """The web address of git's origin. Raises AddressError where there is none that Colab can open."""
    command = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    except FileNotFoundError as error:
        raise AddressError("git is not installed, so there is no address to take: install it.") from error
    if done.returncode:
        raise AddressError("Git knows no origin here: set one with `git remote add origin ADDRESS`.")
    return web_address(done.stdout)


def keep(address: str) -> None:
    """Write the address into pyproject.toml."""
    text = PYPROJECT.read_text(encoding="utf-8")
    write_text(PYPROJECT, LINE.sub(lambda _: f'Repository = "{address}"', text))


def warning(here: str, there: str) -> str:
    """One line that GitHub shows beside pyproject.toml when the two addresses differ, else nothing."""
    if here == there:
        return ""
    text = PYPROJECT.read_text(encoding="utf-8")
    line = text[: LINE.search(text).start()].count("\n") + 1
    message = f"The badges open {here}, and this repository is {there}: {ADVICE}."
    return f"::warning file=pyproject.toml,line={line},title=The repository has another address::{message}"


if __name__ == "__main__":
    try:
        print(warning(kept(), origin()) or f"The badges open {kept()}, as they should.")
    except (AddressError, CheckoutError) as error:
        print(f"::warning::{error}")
