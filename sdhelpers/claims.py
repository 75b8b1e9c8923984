"""Claims: sentences of a chapter that a cell measures, shows, and records for the tests.

    check = Claims(tier)
    check("guidance 10 is more saturated than guidance 3", saturation[10], ">", saturation[3])

shows `✓ guidance 10 is more saturated than guidance 3: 0.41 > 0.28` and raises where it does not hold.
On the full tier nothing is raised: there a claim is a report. Built for every chapter.
"""

import html
import math
import operator
from collections.abc import Callable
from typing import Any

from IPython.display import display

from sdhelpers.models import check_tier

MIME = "application/vnd.sdhelpers.claim+json"
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class ClaimError(AssertionError):
    """A claim that does not hold."""


class Claims:
    """Measures claims one by one and remembers them; calling it is the check.

    Raises ModelError for a tier that does not exist.
    """

    def __init__(self, tier: str = "pocket"):
        self.raises = check_tier(tier) == "pocket"
        self.records: list[dict[str, Any]] = []

    def __call__(self, claim: str, value: float, comparison: str, reference: float) -> None:
        """Show and record whether `value comparison reference` holds.

        Raises ClaimError when it does not (pocket tier), and ValueError for an unknown comparison, for a
        claim made twice, or for a value that is no finite number.
        """
        value, reference = _number(claim, value), _number(claim, reference)
        if comparison not in OPERATORS:
            raise ValueError(f"Compare with one of {' '.join(OPERATORS)}, not {comparison!r}.")
        if any(record["claim"] == claim for record in self.records):
            raise ValueError(f"The claim {claim!r} is made twice; word the second one differently.")
        holds = bool(OPERATORS[comparison](value, reference))
        record = {"claim": claim, "value": value, "comparison": comparison, "reference": reference, "holds": holds}
        self.records.append(record)
        line = f"{'✓' if holds else '✗'} {claim}: {_short(value)} {comparison} {_short(reference)}"
        colour = "#1a7f37" if holds else "#cf222e"
        page = f'<div style="color:{colour}">{html.escape(line)}</div>'
        display({"text/plain": line, "text/html": page, MIME: record}, raw=True)
        if not holds and self.raises:
            raise ClaimError(f"The claim does not hold: {line[2:]}")

    def __repr__(self) -> str:
        held = sum(record["holds"] for record in self.records)
        return f"{held} of {len(self.records)} claims hold"


def _number(claim: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):  # JSON, which notebooks are, has no such numbers
        raise ValueError(f"The claim {claim!r} was given a value that is not a finite number ({number}).")
    return number


def _short(value: float) -> str:
    """Whole numbers whole, others with three significant digits."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def claims_of(cell: Any) -> list[dict[str, Any]]:
    """The claims that an executed cell (an nbformat node) holds in its outputs, in order."""
    return [output["data"][MIME] for output in cell.get("outputs", []) if MIME in output.get("data", {})]


def read_claims(notebook: Any) -> list[dict[str, Any]]:
    """The claims of an executed notebook (an nbformat node), in order."""
    return [record for cell in notebook.cells for record in claims_of(cell)]
