"""Print from pytest's JUnit report the time and memory of each notebook, and the ten claims nearest to failing.

Then the seconds of each file of tests.

A claim's margin is the distance of value from reference, in the direction in which the claim holds, as a share of the
larger of the two: 0.41 > 0.28 has (0.41 - 0.28) / 0.41 = 0.32, and at 0 it tips. Beside today's stands the margin of
the stored notebook. Claims with `==`, and those against 0, have no such scale and are not ranked, only counted.
Whole numbers are marked: 9 > 8 is a margin of 0.11, and one less fails.
"""

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

NEAREST = 10
LONG = 20  # seconds from which a file of tests is listed


def main(report: Path) -> None:
    if not report.exists():
        print("There is no test report: the tests did not run.")
        return
    print("\nchapter  seconds  GB     outcome")
    claims = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        if not name.startswith("test_chapter["):
            continue
        chapter = name.removeprefix("test_chapter[").removesuffix("]")
        properties = [(p.get("name"), p.get("value")) for p in case.iter("property")]
        claims += [json.loads(text) | {"chapter": chapter} for name, text in properties if name == "claim"]
        found = dict(properties)
        outcome = "failed" if case.find("failure") is not None else "passed"
        print(f"{chapter:>7}  {found.get('seconds', '-'):>7}  {found.get('memory', '-'):<5}  {outcome}")
    print_nearest(claims)
    print_files(report)


def print_files(report: Path) -> None:
    """The seconds of each file of tests that takes long, its setting up included."""
    seconds = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        seconds[case.get("classname", "").removeprefix("tests.")] += float(case.get("time", 0))
    print(f"\nseconds  file of tests, of {sum(seconds.values()):.0f} s in all")
    for name, took in seconds.most_common():
        if took >= LONG:
            print(f"{took:7.0f}  {name}")


def print_nearest(claims: list[dict]) -> None:
    ranked = sorted((claim for claim in claims if claim["margin"] is not None), key=lambda claim: claim["margin"])
    print(f"\nThe {min(NEAREST, len(ranked))} of {len(claims)} claims that are nearest to failing")
    print("chapter  margin  stored  claim")
    for claim in ranked[:NEAREST]:
        value, reference = claim["value"], claim["reference"]
        stored = "-" if claim["stored"] is None else f"{claim['stored']:.3f}"
        whole = " (whole numbers)" if value == int(value) and reference == int(reference) else ""
        numbers = f"{value:.4g} {claim['comparison']} {reference:.4g}{whole}"
        print(f"{claim['chapter']:>7}  {claim['margin']:>6.3f}  {stored:>6}  {claim['claim']}: {numbers}")
    print(f"Not ranked, for they are == or against 0: {len(claims) - len(ranked)}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
