"""The setup cell: it finds the checkout wherever it is run, clones it in Colab, and installs only what it must."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from sdhelpers import paths
from sdhelpers.book import chapters, colab, links

PINS = tomllib.loads(paths.PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
VERSIONS = (paths.ROOT / "tests" / "support" / "colab-versions.txt").read_text(encoding="utf-8")
COLAB = dict(re.findall(r"^([\w.-]+)==(\S+)$", VERSIONS, re.MULTILINE))
IN_COLAB = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"


def setup_cell(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return next(cell.source for cell in cells if "setup" in cell.metadata.get("tags", []))


CELL = setup_cell(chapters.path_of(3))


def test_every_chapter_has_the_same_setup_cell():
    assert {setup_cell(path) for path in chapters.existing().values()} == {CELL}


def make_checkout(folder: Path) -> Path:
    """A repository in small: its `colab.prepare` says which one was found."""
    (folder / "notebooks").mkdir(parents=True)
    book = folder / "sdhelpers" / "book"
    book.mkdir(parents=True)
    for empty in (folder / "pyproject.toml", book.parent / "__init__.py", book / "__init__.py"):
        empty.touch()
    (book / "colab.py").write_text("def prepare():\n    print('found', __file__)\n", encoding="utf-8")
    return folder


def run_cell(cwd: Path, before: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """The cell in a Python that has no libraries and no installed `sdhelpers`; the working folder is on its path."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KAGGLE_KERNEL_RUN_TYPE")}
    return subprocess.run(
        [sys.executable, "-S", "-c", before + CELL], cwd=cwd, env=clean | (env or {}), capture_output=True, text=True
    )


def assert_found(done: subprocess.CompletedProcess, checkout: Path) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"found {(checkout / 'sdhelpers' / 'book' / 'colab.py').resolve()}\n"


@pytest.mark.parametrize(
    ("clone", "cwd"),
    [
        ("here", "here"),
        ("here", "here/notebooks"),
        ("companion", "."),
        ("sdhelpers", "."),  # this folder's name alone can be imported, and holds nothing
        ("companion", "lessons/monday"),
        ("sdhelpers", "sdhelpers/notebooks"),
    ],
)
def test_the_checkout_is_found_above_and_beside_the_working_folder(tmp_path, clone, cwd):
    checkout = make_checkout(tmp_path / clone)
    (tmp_path / cwd).mkdir(parents=True, exist_ok=True)
    assert_found(run_cell(tmp_path / cwd), checkout)


def test_the_checkout_is_found_above_a_notebook_in_vs_code(tmp_path):
    checkout = make_checkout(tmp_path / "book")
    (tmp_path / "elsewhere").mkdir()
    notebook = checkout / "notebooks" / "chapter.ipynb"
    assert_found(run_cell(tmp_path / "elsewhere", f"__vsc_ipynb_file__ = {str(notebook)!r}\n"), checkout)


def test_a_package_without_its_repository_is_passed_over(tmp_path):
    (tmp_path / "site" / "sdhelpers").mkdir(parents=True)
    (tmp_path / "site" / "sdhelpers" / "__init__.py").touch()
    checkout = make_checkout(tmp_path / "companion")
    assert_found(run_cell(tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}), checkout)


def test_a_checkout_that_is_importable_already_comes_first(tmp_path):
    first = make_checkout(tmp_path / "first")
    make_checkout(tmp_path / "companion")
    assert_found(run_cell(tmp_path, env={"PYTHONPATH": str(first)}), first)


def test_without_a_checkout_the_reader_is_told_what_to_do(tmp_path):
    done = run_cell(tmp_path)
    last = done.stderr.strip().split("\n")[-1]
    assert done.returncode == 1 and done.stdout == ""
    assert f"run `git clone --depth 1 {links.repository_address()} companion`" in last


def git_takes(folder: Path) -> dict[str, str]:
    """Environment variables that make git clone `folder` in the place of the repository's address."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": links.repository_address(),
    }


@pytest.mark.parametrize(("before", "env"), [(IN_COLAB, {}), ("", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"})])
def test_in_colab_and_on_kaggle_it_is_cloned_once(tmp_path, before, env):
    origin, content = make_checkout(tmp_path / "origin"), tmp_path / "content"
    content.mkdir()
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=origin, check=True)
    assert_found(run_cell(content, before, env | git_takes(origin)), content / "companion")
    assert_found(run_cell(content, before, env | git_takes(tmp_path / "gone")), content / "companion")


def test_a_clone_that_fails_in_colab_is_one_sentence(tmp_path):
    done = run_cell(tmp_path, IN_COLAB, git_takes(tmp_path / "gone"))
    assert done.returncode == 1 and "The repository is not here: run `git clone" in done.stderr.strip().split("\n")[-1]


def test_outside_colab_it_says_nothing_and_installs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(colab, "_install", None)
    monkeypatch.setenv("PYTHONPATH", "")
    colab.prepare()
    assert capsys.readouterr().out == ""


def test_libraries_that_are_missing_outside_colab_are_one_sentence(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(colab, "installed", lambda name: None if name == "diffusers" else "1")
    with pytest.raises(colab.SetupError, match=r"lacks diffusers: run `python -m sdhelpers --setup lab` in "):
        colab.prepare()


def test_a_python_that_a_chapter_starts_finds_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    colab.prepare()
    colab.prepare()
    program = "import sdhelpers, sys; print(sdhelpers.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(paths.ROOT / "sdhelpers" / "__init__.py")
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(paths.ROOT), str(tmp_path)]


def test_every_version_of_colab_stays_unless_a_reason_is_given():
    wanted = colab.missing(PINS, COLAB.get)
    pins = dict(pin.split("==") for pin in PINS)
    replaced = {pin.split("==")[0] for pin in wanted if pin.split("==")[0] in COLAB}
    assert replaced == set(colab.REPLACED), "a reason for what needs none, or the other way round"
    assert all(
        f"instead of {COLAB[name]}: {colab.REPLACED[name]}" in wanted[f"{name}=={pins[name]}"] for name in replaced
    )
    assert {pin.split("==")[0] for pin in wanted} - replaced == set(pins) - set(COLAB)
    assert colab.missing(PINS, pins.get) == {}


@pytest.fixture
def fresh_runtime(monkeypatch):
    """A runtime with Colab's versions whose pip only notes what it is asked for: a list of (arguments, constraints)."""
    asked, versions = [], dict(COLAB)

    def pip(command, check):
        kept = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8").split("\n")
        wanted = [word for word in command if "==" in word]
        versions.update(word.split("==") for word in wanted)
        asked.append((wanted, kept))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(colab.subprocess, "run", pip)
    monkeypatch.setattr(colab, "installed", versions.get)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("PYTHONPATH", "")
    for name in colab.REPLACED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return asked


def test_a_fresh_runtime_gets_what_it_lacks_with_reasons_and_then_nothing(fresh_runtime, capsys):
    colab.prepare()
    (wanted, kept), said = fresh_runtime[0], capsys.readouterr().out
    assert "compel 2.5.1 is not here yet" in said and colab.REPLACED["transformers"] in said
    assert set(wanted) == set(colab.missing(PINS, COLAB.get))
    assert f"torch=={COLAB['torch']}" in kept and f"ipywidgets=={COLAB['ipywidgets']}" in kept
    assert {line.split("==")[0] for line in kept + wanted} == {pin.split("==")[0] for pin in PINS}
    colab.prepare()
    assert len(fresh_runtime) == 1 and capsys.readouterr().out == ""


def test_what_is_in_use_already_wants_a_restart(fresh_runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", colab)
    with pytest.raises(colab.SetupError, match=r"new transformers is installed.*Restart session"):
        colab.prepare()


def test_a_pip_that_fails_is_one_sentence(fresh_runtime, monkeypatch):
    monkeypatch.setattr(colab.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(colab.SetupError, match="pip could not install these"):
        colab.prepare()
