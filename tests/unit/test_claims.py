"""Claims: what holds is shown and recorded, what does not hold stops the chapter."""

import json

import nbformat
import pytest

from sdhelpers.claims import MIME, ClaimError, Claims, read_claims
from sdhelpers.models import ModelError


def test_a_claim_that_holds_is_shown_with_both_numbers(capsys):
    check = Claims()
    check("guidance 10 is more saturated than guidance 3", 0.412, ">", 0.28)
    assert "✓ guidance 10 is more saturated than guidance 3: 0.412 > 0.28" in capsys.readouterr().out
    assert check.records[0]["holds"] and repr(check) == "1 of 1 claims hold"


def test_a_claim_that_does_not_hold_raises_with_its_sentence():
    with pytest.raises(ClaimError, match=r"does not hold: one is two: 1 == 2"):
        Claims()("one is two", 1, "==", 2)


def test_on_the_full_tier_claims_report_and_do_not_raise():
    check = Claims("full")
    check("one is two", 1, "==", 2)
    assert repr(check) == "0 of 1 claims hold"


@pytest.mark.parametrize("tier", ["poket", "Full", "", None])
def test_an_unknown_tier_is_refused(tier):
    with pytest.raises(ModelError, match=f'^tier must be "pocket" or "full", not {tier!r}\\.$'):
        Claims(tier)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", 1, "~", 2), "Compare with one of"),
        (("x", float("nan"), ">", 0), "not a finite number"),
        (("x", float("inf"), ">", 0), "not a finite number"),
        (("x", "much", ">", 0), "could not convert"),
    ],
)
def test_claims_refuse_what_they_cannot_compare(arguments, message):
    with pytest.raises(ValueError, match=message):
        Claims()(*arguments)


def test_a_claim_cannot_be_made_twice():
    check = Claims()
    check("twice", 1, ">", 0)
    with pytest.raises(ValueError, match="made twice"):
        check("twice", 1, ">", 0)


def test_claims_are_read_back_from_a_notebook():
    record = {"claim": "a", "value": 1.0, "comparison": ">", "reference": 0.0, "holds": True}
    output = nbformat.v4.new_output("display_data", {"text/plain": "✓ a: 1 > 0", MIME: record})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    again = nbformat.reads(json.dumps(notebook), as_version=4)
    assert read_claims(again) == [record]
