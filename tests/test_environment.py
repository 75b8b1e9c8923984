"""Pins from one source, a doctor that says what to do, a command line that fails in words."""

import re
import subprocess
import sys
import tomllib

import pytest

from sdhelpers import __main__ as command_line
from sdhelpers import colab, environment

ROOT = environment.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(lines: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;]+)", line):
            found.setdefault(match[1].lower().replace("_", "-"), set()).add(match[2])
    return found


def test_the_constraints_agree_with_pyproject():
    direct = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    locked = pins((ROOT / ".ci" / "constraints.txt").read_text().split("\n"))
    for name, versions in pins(direct).items():
        assert locked[name] == versions, f"make .ci/constraints.txt again (README, Pins): {name}"
    assert len(pins(direct)) == len(direct), "every dependency is pinned with =="


def test_the_conda_environment_takes_its_pins_from_pyproject():
    text = (ROOT / "environment.yml").read_text()
    assert "--constraint .ci/constraints.txt" in text and "--editable .[test]" in text
    assert re.findall(r"[=<>]=?[\d.]+", text) == re.findall(r"=[\d.]+", re.search(r"python(=[\d.]+)", text)[0])
    version = tuple(map(int, re.search(r"python=([\d.]+)", text)[1].split(".")))
    environment.check_python(version)


def test_supported_pythons_agree_with_pyproject():
    low, high = environment.PYTHONS
    assert PROJECT["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"
    with pytest.raises(environment.SetupError, match=r"3\.11 to 3\.13 is needed and this is 3\.9"):
        environment.check_python((3, 9))


def test_the_doctor_finds_this_environment_well(capsys):
    assert command_line.main(["doctor"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert any(re.match(r"torch +2\S+ +OK", line) for line in lines)
    assert any(re.match(r"pocket model sd15 .* OK", line) for line in lines)


def test_the_doctor_says_what_to_do():
    findings = [
        environment.Finding("torch", "missing", "run `pip install torch`"),
        environment.Finding("full model sd15", "2.1 GB", "free some disk", essential=False),
    ]
    assert environment.report(findings).split("\n") == [
        "torch            missing  ✗ run `pip install torch`",
        "full model sd15  2.1 GB   ! free some disk",
    ]


def test_a_half_made_environment_is_not_ready(tmp_path):
    python = environment.python_of(tmp_path)
    python.parent.mkdir()
    python.touch()
    assert not environment.is_ready(tmp_path)
    (tmp_path / "sdhelpers-lock").write_text("other pins")
    assert not environment.is_ready(tmp_path)
    (tmp_path / "sdhelpers-lock").write_text(environment.lock_digest())
    assert environment.is_ready(tmp_path)


def test_a_bare_python_is_told_what_to_do(tmp_path):
    """`python -S` has no libraries: the command must say so, not fail in an import."""
    env = {"SDHELPERS_VENV": str(tmp_path / "none"), "PATH": ""}
    run = [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, '.'); import runpy; "
           "sys.argv = ['sdhelpers', 'run', '3']; runpy.run_module('sdhelpers', run_name='__main__')"]  # fmt: skip
    done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "--setup" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_chapter_is_one_sentence(capsys):
    assert command_line.main(["run", "99"]) == 1
    assert "There is no notebook for chapter 99" in capsys.readouterr().err


def test_parameters_are_read_as_python_or_text():
    values = [command_line.value(text) for text in ("7", "7.5", "True", "a cat", "[1, 2]", "1 +")]
    assert values == [7, 7.5, True, "a cat", [1, 2], "1 +"]


def test_colab_installs_what_is_missing_and_keeps_its_own_torch():
    installed = {"torch": "2.9.0", "diffusers": "0.30.0", "transformers": "5.5.4"}

    def version(name: str) -> str:
        if name not in installed:
            raise colab.metadata.PackageNotFoundError(name)
        return installed[name]

    wanted = colab.missing(["torch==2.15.0", "diffusers==0.42.1", "transformers==5.5.4", "papermill==2.7.0"], version)
    assert wanted == ["diffusers==0.42.1", "papermill==2.7.0"]
