"""What the tests expect of a chapter's claims: a line each in expected_claims.json, from the stored notebook.

    {"claim": "more guidance, more colour", "comparison": ">", "reference": "saturation[3]", "margin": 0.317}

`reference` is what stands in the cell: a number where a number was typed, else the expression as text. What such an
expression gives differs from processor to processor, the expression does not; so `> 0.8` cannot become `> 0.1`, nor
`> noise + 2 * spread` become `> noise`, without a line of this file that changes with it. `margin` is for the reader
of such a change: how far the claim was from failing when the chapter was stored. Built for every chapter.
"""

import ast
import json
import re
from typing import Any

from sdhelpers.claims import claims_of
from sdhelpers.paths import ROOT, write_text

PATH = ROOT / "tests" / "chapters" / "expected_claims.json"


def margin(record: dict[str, Any]) -> float | None:
    """How far a claim is from failing: 0 at the point where it tips, negative beyond it, at most 2.

    The distance from value to reference in the direction in which the claim holds, as a share of the larger of both
    magnitudes: 0.41 > 0.28 has (0.41 - 0.28) / 0.41 = 0.32. None where this says nothing: for `==`, which has no
    distance to lose, and for a reference of 0, against which every value is a whole magnitude away.
    """
    value, reference = record["value"], record["reference"]
    if record["comparison"] == "==" or reference == 0:
        return None
    distance = {">": value - reference, "<": reference - value, "!": abs(value - reference)}[record["comparison"][0]]
    return round(distance / max(abs(value), abs(reference)), 3)


def expected(notebook: Any) -> list[dict[str, Any]]:
    """The lines for an executed notebook (an nbformat node), in order.

    Raises ValueError for a claim whose sentence stands in no `check(...)` of the cell that shows it.
    """
    lines = []
    for cell in notebook.cells:
        for record in claims_of(cell):
            line = {"claim": record["claim"], "comparison": record["comparison"]}
            lines.append(line | {"reference": _reference(record["claim"], cell.source), "margin": margin(record)})
    return lines


def _reference(claim: str, source: str) -> float | str:
    """The fourth argument of the `check(...)` that makes this claim: a typed number, or the expression's text."""
    for call in ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "", source, flags=re.MULTILINE))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "check" and len(call.args) == 4:
            sentence, _, _, reference = call.args
            if re.fullmatch(_pattern(sentence), claim, re.DOTALL):
                try:
                    return ast.literal_eval(reference)
                except ValueError:
                    return ast.unparse(reference)
    raise ValueError(f"Write the sentence {claim!r} into a check(...) of the cell that makes the claim.")


def _pattern(sentence: ast.expr) -> str:
    """A regular expression of what a string or an f-string can become; of nothing for any other expression."""
    if isinstance(sentence, ast.JoinedStr):
        return "".join(map(_pattern, sentence.values))
    if isinstance(sentence, ast.FormattedValue):
        return ".+"
    return re.escape(sentence.value) if isinstance(sentence, ast.Constant) else r"(?!)"


def load() -> dict[str, list[dict[str, Any]]]:
    """Chapter number (as text) to the lines of its claims."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def update(chapter: int, notebook: Any) -> None:
    """Put a chapter's lines, made from its executed notebook, in the place of those in the file."""
    entries = (load() if PATH.exists() else {}) | {str(chapter): expected(notebook)}
    parts = []
    for number in sorted(entries, key=int):
        lines = ",\n".join("  " + json.dumps(line, ensure_ascii=False) for line in entries[number])
        parts.append(f' "{number}": [\n{lines}\n ]')
    write_text(PATH, "{\n" + ",\n".join(parts) + "\n}\n")
