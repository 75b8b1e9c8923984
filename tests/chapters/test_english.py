"""What a reader reads is spelt right, and `a` and `an` stand before the sounds that they belong to."""

import io
import re
import tokenize
from contextlib import redirect_stdout
from pathlib import Path

import codespell_lib
import nbformat
import pytest

from sdhelpers.book import chapters
from sdhelpers.paths import ROOT

# Names of code, and what chapters misspell on purpose:
NOT_MISSPELT = "te"
# Sounds, not letters, decide: a unicorn, an hour, an nbformat file, an fp16 file.
SPOKEN_WITH_A_CONSONANT = r"(?:one|once|ewe|eu|uni(?!n|m)|us[aeiu]|ut[ei]|ura|ubi)"
SPOKEN_WITH_A_VOWEL = r"(?:hour|hon(?:est|our)|heir|nb|[fhlmnrsx](?:p\d|\b))"
# Before these `a` is a name of something:
LITTLE_WORDS = r"(?:alone|an|and|are|as|at|else|exceeds|if|in|into|is|of|on|or|over|under)\b"


def wrong_articles(text: str) -> list[str]:
    """Each `a` before a vowel's sound and each `an` before a consonant's, with the word after it."""
    a_wrong = re.findall(rf"\b[Aa] (?!{LITTLE_WORDS}|{SPOKEN_WITH_A_CONSONANT})[aeiou][a-z]*", text)
    a_wrong += re.findall(rf"\b[Aa] {SPOKEN_WITH_A_VOWEL}[a-z]*", text)
    an_wrong = re.findall(rf"\b[Aa]n (?!{SPOKEN_WITH_A_VOWEL})[b-df-hj-np-tv-z][a-z]*", text)
    an_wrong += re.findall(rf"\b[Aa]n {SPOKEN_WITH_A_CONSONANT}[a-z]*", text)
    return a_wrong + an_wrong


def text_of(path: Path) -> str:
    """A notebook's prose, its code's strings and comments, and what it printed; a module's strings and comments."""
    if path.suffix == ".py":
        return words_in_code(path.read_text(encoding="utf-8"))
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        parts.append(cell.source if cell.cell_type == "markdown" else words_in_code(cell.source))
        for output in cell.get("outputs", []):
            parts.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(parts)


def words_in_code(source: str) -> str:
    """The strings and comments of a cell, without its shell and magic lines."""
    source = re.sub(r"(?m)^\s*[%!].*$", "", source)
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return "\n".join(t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type in kinds)


def read_by_people() -> list[Path]:
    """The chapters, every Markdown file, and the sources for their docstrings."""
    own = [p for p in [*(ROOT / "sdhelpers").rglob("*"), *(ROOT / "data").rglob("*")] if "runs" not in p.parts]
    return [*chapters.existing().values(), *ROOT.glob("*.md"), *(p for p in own if p.suffix in (".md", ".py"))]


@pytest.mark.parametrize("path", read_by_people(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_and_an_stand_where_they_belong(path):
    assert wrong_articles(text_of(path)) == []


def test_it_is_spelt_right(tmp_path):
    for path in read_by_people():
        (tmp_path / path.relative_to(ROOT).as_posix().replace("/", "-")).with_suffix(".txt").write_text(
            text_of(path), encoding="utf-8"
        )
    with redirect_stdout(io.StringIO()) as said:
        found = codespell_lib.main("--ignore-words-list", NOT_MISSPELT, str(tmp_path))
    assert found == 0, said.getvalue().replace(str(tmp_path), "")


@pytest.mark.parametrize("wrong", ["a elephant", "A owl", "an cat", "a hour's", "an unicorn", "an useful word"])
def test_a_wrong_article_is_found(wrong):
    assert wrong_articles(f"This is {wrong}.")


@pytest.mark.parametrize(
    "right",
    [
        "an elephant",
        "a unicorn",
        "a one-line file",
        "an hour",
        "a used word",
        "an umbrella",
        "a UNet",
        "a European",
        "a in b",
        "an fp16 file",
    ],
)
def test_a_right_article_is_let_pass(right):
    assert wrong_articles(f"This is {right}.") == []
