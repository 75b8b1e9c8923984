"""The list of claims, and what is wrong with an executed chapter by it."""

import nbformat

from sdhelpers.book import expectations
from sdhelpers.claims import read_claims

EXPECTED = expectations.load()


def problems(executed: nbformat.NotebookNode, expected: list[dict]) -> list[str]:
    """What is wrong with an executed chapter: claims that are missing, unexpected, looser, or do not hold."""
    found = {line["claim"]: line for line in expectations.expected(executed)}
    listed = {line["claim"]: line for line in expected}
    wrong = [f"missing claim: {claim}" for claim in listed if claim not in found]
    wrong += [f"claim not listed in expected_claims.json: {claim}" for claim in found if claim not in listed]
    for claim in listed.keys() & found.keys():
        was, now = (f"{line['comparison']} {line['reference']}" for line in (listed[claim], found[claim]))
        wrong += [f"claim compares with {now}, not {was}: {claim}"] if now != was else []
    return wrong + [f"claim does not hold: {r['claim']}" for r in read_claims(executed) if not r["holds"]]
