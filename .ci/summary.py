"""Print the time and memory that each notebook took, from pytest's JUnit report."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(report: Path) -> None:
    if not report.exists():
        print("There is no test report: the tests did not run.")
        return
    print("\nchapter  seconds  GB     outcome")
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        if not name.startswith("test_chapter["):
            continue
        found = {p.get("name"): p.get("value") for p in case.iter("property")}
        outcome = "failed" if case.find("failure") is not None else "passed"
        chapter = name.removeprefix("test_chapter[").removesuffix("]")
        print(f"{chapter:>7}  {found.get('seconds', '-'):>7}  {found.get('memory', '-'):<5}  {outcome}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
