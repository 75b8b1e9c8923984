"""Every pinned package by its name alone, one a line: for a run with the newest versions of all of them."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in (*project["dependencies"], *extras["tools"], *extras["test"], *extras["site"]):
    print(requirement.split("==")[0])
