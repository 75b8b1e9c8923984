"""The list of expected claims: what it keeps of each, how it is written, and the summary of the ones near failing."""

import json
import runpy

import nbformat
import pytest

from sdhelpers.book import chapters, expectations, store
from sdhelpers.claims import MIME
from sdhelpers.paths import ROOT

summary = runpy.run_path(str(ROOT / ".ci" / "summary.py"))


def record(value: float, comparison: str, reference: float, claim: str = "a") -> dict:
    return {"claim": claim, "value": value, "comparison": comparison, "reference": reference, "holds": True}


def notebook(*cells: tuple[str, list[dict]]) -> nbformat.NotebookNode:
    """An executed notebook: of each cell the source, and the claims that it shows."""
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                source, outputs=[nbformat.v4.new_output("display_data", {MIME: one}) for one in records]
            )
            for source, records in cells
        ]
    )


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (record(0.41, ">", 0.28), 0.317),
        (record(0.28, ">", 0.41), -0.317),
        (record(0.28, "<", 0.41), 0.317),
        (record(8, ">=", 8), 0),
        (record(9, ">", 8), 0.111),
        (record(-1, "<=", 1), 2),
        (record(-0.2, ">", -0.4), 0.5),
        (record(3, "!=", 4), 0.25),
        (record(8, "==", 8), None),
        (record(0.001, ">", 0), None),
    ],
)
def test_the_margin_is_the_share_that_is_left_before_a_claim_tips(claim, expected):
    assert expectations.margin(claim) == expected


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        ('check("a", x, ">", 0.8)', 0.8),
        ('check("a", x, ">", -2)', -2),
        ('check("a", x, ">", 2*noise.mean() + spread)', "2 * noise.mean() + spread"),
        ('%matplotlib inline\nfor name in "ab":\n    check(f"{name}", x, ">", 1 / 3)', "1 / 3"),
        ('check("b", x, ">", 0.1)\ncheck("a", x, ">", 0.8)', 0.8),
        ('check("a" " claim", x, ">", 0.1)\ncheck("a", x, ">", 0.8)', 0.8),
    ],
)
def test_the_reference_is_what_stands_in_the_cell(source, reference):
    (line,) = expectations.expected(notebook((source, [record(0.9, ">", 0.8)])))
    assert line == {"claim": "a", "comparison": ">", "reference": reference, "margin": 0.111}


def test_a_claim_whose_sentence_is_nowhere_in_the_cell_is_named():
    with pytest.raises(ValueError, match="Write the sentence 'a' into a check"):
        expectations.expected(notebook(('check(sentence, x, ">", 0.8)', [record(0.9, ">", 0.8)])))


def test_storing_a_chapter_shows_a_loosened_claim_as_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(expectations, "PATH", tmp_path / "expected_claims.json")
    before = notebook(
        ('check("a", x, ">", 0.8)\ncheck("é", x, "<", y)', [record(0.9, ">", 0.8), record(1, "<", 2, "é")])
    )
    after = notebook(
        ('check("a", x, ">", 0.1)\ncheck("é", x, "<", y)', [record(0.9, ">", 0.1), record(1, "<", 2, "é")])
    )
    for chapter in (10, 2):
        expectations.update(chapter, before)
    first = expectations.PATH.read_text(encoding="utf-8")
    expectations.update(10, after)
    second = expectations.PATH.read_text(encoding="utf-8")
    changed = [pair for pair in zip(first.split("\n"), second.split("\n"), strict=True) if pair[0] != pair[1]]
    assert changed == [
        (
            '  {"claim": "a", "comparison": ">", "reference": 0.8, "margin": 0.111},',
            '  {"claim": "a", "comparison": ">", "reference": 0.1, "margin": 0.889},',
        )
    ]
    assert list(json.loads(second)) == ["2", "10"] and '"é"' in second


def test_store_writes_the_notebook_and_its_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(expectations, "PATH", tmp_path / "expected_claims.json")
    source = 'from sdhelpers.claims import Claims\n\nCheck = Claims\ncheck = Check()\ncheck("one", 1, "<", 2)'
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(made, tmp_path / chapters.file_name(3))
    stored = nbformat.read(store.store_chapter(3, tmp_path / "out"), as_version=4)
    line = {"claim": "one", "comparison": "<", "reference": 2, "margin": 0.5}
    assert expectations.load() == {"3": [line]} == {"3": expectations.expected(stored)}


def test_the_summary_lists_what_is_nearest_to_failing(tmp_path, capsys):
    claims = [record(100, ">", 100 - n, f"claim {n}") | {"margin": n / 100, "stored": 0.5} for n in range(1, 13)]
    claims += [record(0.5, "==", 0.5, "same") | {"margin": None, "stored": None}]
    claims += [record(0.25, ">", 0.24, "new") | {"margin": 0.04, "stored": None}]
    lines = "".join(f"<property name='claim' value='{json.dumps(c).replace('>', '&gt;')}'/>" for c in claims)
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='tests.chapters.test_chapters' name='test_chapter[3]' time='21.4'>"
        f"<properties><property name='seconds' value='12.3'/>{lines}</properties></testcase>"
        "<testcase classname='tests.unit.test_png' name='a' time='9'/></testsuite></testsuites>",
        encoding="utf-8",
    )
    summary["main"](report)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.split("nearest to failing")[1].split("\n")[2:12]]
    today, stored = zip(*(row[1:3] for row in rows))
    assert today[:6] == ("0.010", "0.020", "0.030", "0.040", "0.040", "0.050")
    assert stored[:6] == ("0.500", "0.500", "0.500", "0.500", "-", "0.500")
    assert "claim 1: 100 > 99 (whole numbers)\n" in printed and "new: 0.25 > 0.24\n" in printed
    assert "claim 9:" in printed and "claim 10:" not in printed and "same" not in printed
    assert "Not ranked, for they are == or against 0: 1.\n" in printed
    assert "of 30 s in all\n     21  chapters.test_chapters\n" in printed and "test_png" not in printed
