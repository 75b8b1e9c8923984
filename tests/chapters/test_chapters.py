"""Every chapter runs from start to end with Papermill, offline, and all of its claims hold."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from listed_claims import EXPECTED, problems
from sdhelpers.book import chapters, expectations
from sdhelpers.claims import read_claims

MEASURED = (7, 20)  # their claims compare seconds or memory
ALONE = [pytest.param(n, marks=[pytest.mark.alone] if n in MEASURED else []) for n in chapters.existing()]


@pytest.mark.parametrize("chapter", ALONE)
def test_chapter(chapter, tmp_path, record_property, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if chapter in MEASURED:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # all cores, also where the workers share them
    execution = chapters.run(chapter, tmp_path, progress=False)
    executed = nbformat.read(execution.path, as_version=4)
    record_property("seconds", round(execution.seconds, 1))
    record_property("memory", round(execution.peak_memory / 1e9, 2))
    keep_artefact(executed, chapters.path_of(chapter).name)
    stored = {line["claim"]: line["margin"] for line in EXPECTED[str(chapter)]}
    for record in read_claims(executed):
        now = expectations.margin(record)
        record_property("claim", json.dumps(record | {"margin": now, "stored": stored.get(record["claim"])}))
    assert problems(executed, EXPECTED[str(chapter)]) == []


def keep_artefact(executed: nbformat.NotebookNode, name: str) -> None:
    """With SDHELPERS_ARTEFACTS set, keep the executed notebook there for a look."""
    folder = os.environ.get("SDHELPERS_ARTEFACTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        nbformat.write(executed, Path(folder) / name)


def test_every_chapter_has_claims():
    assert set(EXPECTED) == {str(n) for n in chapters.existing()}
    assert all(EXPECTED.values())


@pytest.mark.parametrize("chapter", list(chapters.existing()))
def test_the_stored_notebook_and_the_list_of_claims_agree(chapter):
    """Comparison, reference and margin; `python -m sdhelpers store` writes both at once."""
    stored = nbformat.read(chapters.path_of(chapter), as_version=4)
    assert expectations.expected(stored) == EXPECTED[str(chapter)]


# The harness itself: each of these must be caught.

SETUP = 'from sdhelpers.claims import Claims\n\ncheck = Claims("pocket")'


def run_cells(sources: list[str], tmp_path: Path, monkeypatch) -> Path:
    """Run a made-up chapter 3 through the same road as the real ones."""
    cells = [nbformat.v4.new_code_cell("seed = 7", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in (SETUP, *sources)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}})
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    nbformat.write(notebook, tmp_path / chapters.file_name(3))
    return chapters.run(3, tmp_path / "out", progress=False).path


def test_a_broken_claim_fails_the_chapter(tmp_path, monkeypatch):
    with pytest.raises(chapters.ChapterError, match=r"(?s)ClaimError.*water is dry.*check\("):
        run_cells(['check("water is dry", 1, "<", 0)'], tmp_path, monkeypatch)


def test_an_error_in_a_cell_fails_the_chapter_and_keeps_what_ran(tmp_path, monkeypatch):
    with pytest.raises(chapters.ChapterError, match=r"(?s)ZeroDivisionError.*1 / 0"):
        run_cells(['print("so far")', "1 / 0", 'print("never")'], tmp_path, monkeypatch)
    partial = nbformat.read(tmp_path / "out" / chapters.file_name(3), as_version=4)
    printed = "".join(o.get("text", "") for c in partial.cells for o in c.get("outputs", []))
    assert "so far" in printed and "never" not in printed


def test_a_missing_and_an_unlisted_claim_fail_the_chapter(tmp_path, monkeypatch):
    path = run_cells(['check("water is wet", 1, ">", 0)'], tmp_path, monkeypatch)
    executed = nbformat.read(path, as_version=4)
    water = {"claim": "water is wet", "comparison": ">", "reference": 0, "margin": None}
    assert problems(executed, [water]) == []
    assert problems(executed, [water, water | {"claim": "fire is hot"}]) == ["missing claim: fire is hot"]
    assert problems(executed, []) == ["claim not listed in expected_claims.json: water is wet"]


def test_a_loosened_claim_fails_the_chapter(tmp_path, monkeypatch):
    path = run_cells(["dry = 0.1", 'check("water is wet", 0.9, ">", 2 * dry)'], tmp_path, monkeypatch)
    executed = nbformat.read(path, as_version=4)
    line = {"claim": "water is wet", "comparison": ">", "reference": "2 * dry", "margin": 0.778}
    assert expectations.expected(executed) == [line]
    for change in ({"reference": "4 * dry"}, {"reference": 0.8}, {"comparison": ">="}):
        (wrong,) = problems(executed, [line | change])
        assert wrong.startswith("claim compares with > 2 * dry, not ") and wrong.endswith(": water is wet")


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path, monkeypatch):
    run_cells([], tmp_path, monkeypatch)
    with pytest.raises(chapters.ChapterError, match="no parameter sed; it has seed"):
        chapters.run(3, tmp_path / "out", {"sed": 8}, progress=False)


def test_a_chapter_that_is_not_there_is_named():
    with pytest.raises(chapters.ChapterError, match="no notebook for chapter 99"):
        chapters.path_of(99)
