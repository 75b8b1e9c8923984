"""Pins from one source, a doctor that says what to do, a command line that fails in words."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from sdhelpers import __main__ as command_line
from sdhelpers import models, paths
from sdhelpers.book import address, chapters, doctor, environment
from sdhelpers.paths import ROOT

PROJECT = tomllib.loads(paths.PYPROJECT.read_text(encoding="utf-8"))["project"]


def pins(lines: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;]+)", line):
            found.setdefault(match[1].lower().replace("_", "-"), set()).add(match[2])
    return found


def test_the_constraints_agree_with_pyproject():
    direct = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    locked = pins(environment.CONSTRAINTS.read_text(encoding="utf-8").split("\n"))
    for name, versions in pins(direct).items():
        assert locked[name] == versions, f"make .ci/constraints.txt again (README, Pins): {name}"
    assert len(pins(direct)) == len(direct), "every dependency is pinned with =="


def test_one_package_owns_opencv():
    """controlnet_aux brings the headless one; a second (opencv-python) would write over its files."""
    locked = pins((ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").split("\n"))
    assert [name for name in locked if name.startswith("opencv")] == ["opencv-python-headless"]


def test_the_conda_environment_takes_its_pins_from_pyproject():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "--constraint .ci/constraints.txt" in text and f"--editable .[{','.join(environment.EXTRAS)}]" in text
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
    assert any(re.match(r"papermill +2\S+ +OK", line) for line in lines), "the tools are looked at too"
    assert any(re.match(r"pocket model sd15 .* OK", line) for line in lines)


def test_the_doctor_says_what_to_do():
    findings = [
        doctor.Finding("torch", "missing", "run `pip install torch`"),
        doctor.Finding("full model sd15", "2.1 GB", "free some disk", essential=False),
    ]
    assert doctor.report(findings).split("\n") == [
        "torch            missing  ✗ run `pip install torch`",
        "full model sd15  2.1 GB   ! free some disk",
    ]


@pytest.fixture
def made(tmp_path):
    """An environment's folder with an interpreter in it, and a function that stamps it."""
    python = environment.python_of(tmp_path)
    python.parent.mkdir()
    python.touch()
    return tmp_path, lambda text: (tmp_path / environment.STAMP).write_text(text, encoding="utf-8")


def test_another_checkout_makes_the_environment_its_own(monkeypatch, tmp_path):
    here = environment.lock_digest()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.lock_digest() != here


def test_a_half_made_environment_is_not_ready(made):
    folder, stamp = made
    assert not environment.is_ready(folder)
    stamp("other pins")
    assert not environment.is_ready(folder)
    stamp(f"{environment.lock_digest()} ")
    assert environment.is_ready(folder)


def test_an_environment_keeps_its_build_of_pytorch_until_another_is_named(made):
    folder, stamp = made
    stamp(f"{environment.lock_digest()} cpu")
    assert environment.is_ready(folder) and environment.is_ready(folder, "cpu")
    assert not environment.is_ready(folder, "auto")


@pytest.fixture
def installs(monkeypatch):
    """Keep what would be run; the test says how each command ends."""
    ran, ends = [], {}

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, ends.get(command[0], 0))

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment.venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(environment.shutil, "which", lambda name: {"uv": "/bin/uv"}.get(name))
    return ran, ends


def test_uv_installs_where_it_is_and_pip_where_it_is_not_or_fails(installs, monkeypatch, tmp_path):
    ran, ends = installs
    python = str(environment.python_of(tmp_path))
    environment.make(tmp_path)
    assert [c[:5] for c in ran] == [["/bin/uv", "pip", "install", "--python", python]]
    ends["/bin/uv"] = 2
    ran.clear()
    environment.make(tmp_path)
    assert [c[0] for c in ran] == ["/bin/uv", python] and ran[1][1:3] == ["-m", "pip"]
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    ran.clear()
    environment.make(tmp_path)
    assert [c[0] for c in ran] == [python]
    for command in ran:
        assert command[-4:] == ["--constraint", str(environment.CONSTRAINTS), "--editable", f"{ROOT}[tools,test,site]"]


def test_the_processor_build_comes_through_uv_which_pip_fetches_where_it_lacks(installs, monkeypatch, tmp_path):
    ran, _ = installs
    python = str(environment.python_of(tmp_path))
    environment.make(tmp_path, "cpu")
    assert [c[:7] for c in ran] == [["/bin/uv", "pip", "install", "--python", python, "--torch-backend", "cpu"]]
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    ran.clear()
    environment.make(tmp_path, "cpu")
    assert ran[0][1:3] == ["-m", "pip"] and ran[0][-1] == "uv"
    assert ran[1][:8] == [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend"]


def test_an_installation_that_fails_leaves_no_stamp_and_one_sentence(installs, tmp_path):
    _, ends = installs
    ends.update({"/bin/uv": 1, str(environment.python_of(tmp_path)): 1})
    with pytest.raises(environment.SetupError, match=r"check the network and the free disk.*again, or without --torch"):
        environment.make(tmp_path, "cpu")
    assert not (tmp_path / environment.STAMP).exists()


def test_local_version_labels_pass_the_doctor(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: "2.15.0+cpu" if name == "torch" else None)
    torch = next(f for f in doctor._examine_libraries() if f.what == "torch")
    assert torch == doctor.Finding("torch", "2.15.0+cpu")


def test_a_reader_on_linux_without_a_gpu_is_told_of_the_processor_build():
    assert "--setup --torch cpu" in environment.what_comes("", "linux", nvidia=False)
    for text in (
        environment.what_comes("", "linux", nvidia=True),
        environment.what_comes("", "win32", nvidia=False),
        environment.what_comes("cpu", "linux", nvidia=False),
    ):
        assert "--torch" not in text and "GB to download" in text


def test_the_command_starts_again_without_its_options_of_the_setup(monkeypatch, tmp_path):
    started = []
    monkeypatch.setenv("SDHELPERS_VENV", str(tmp_path))
    monkeypatch.setattr(environment, "make", lambda place, build: started.append(build))
    monkeypatch.setattr(environment, "python_of", lambda place: "the-python")
    monkeypatch.setattr(
        command_line.subprocess, "run", lambda c: started.append(c) or subprocess.CompletedProcess(c, 0)
    )
    assert command_line.main(["--setup", "--torch", "cpu", "test", "-k", "cpu"]) == 0
    assert command_line.main(["--torch=cpu", "--setup", "run", "3", "-p", "seed", "7"]) == 0
    start = ["the-python", "-m", "sdhelpers"]
    assert started == ["cpu", [*start, "test", "-k", "cpu"], "cpu", [*start, "run", "3", "-p", "seed", "7"]]


def test_a_bare_python_is_told_what_to_do(tmp_path):
    """`python -S` has no libraries: the command must say so, not fail in an import."""
    env = {**os.environ, "SDHELPERS_VENV": str(tmp_path / "none")}
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


def test_jupyterlab_opens_the_chapters_or_one_of_them(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(
        command_line.subprocess, "run", lambda command: opened.append(command[-1]) or SimpleNamespace(returncode=0)
    )
    assert command_line.main(["lab"]) == command_line.main(["lab", "3"]) == 0
    assert opened == [str(paths.NOTEBOOKS), str(chapters.path_of(3))]
    assert command_line.main(["lab", "99"]) == 1 and len(opened) == 2
    assert "no notebook for chapter 99" in capsys.readouterr().err


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """As from a wheel: the package lies where no repository is."""
    for name in ("ROOT", "NOTEBOOKS", "PYPROJECT"):
        monkeypatch.setattr(paths, name, tmp_path / getattr(paths, name).name)


@pytest.mark.parametrize("arguments", [["doctor"], ["run", "3"], ["lab"], ["bench"], ["site"], ["test"], ["relink"]])
def test_from_a_wheel_every_command_says_what_is_missing(wheel, arguments, capsys):
    assert command_line.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err == paths.MISSING + "\n"


def test_from_a_wheel_models_and_notebooks_say_what_is_missing(wheel):
    models.verify.cache_clear()
    with pytest.raises(models.ModelError, match="clone the repository"):
        models.locate("sd15")
    with pytest.raises(paths.CheckoutError, match="clone the repository"):
        chapters.path_of(3)


def test_only_one_place_derives_the_root():
    files = [p for folder in ("sdhelpers", "tests") for p in (ROOT / folder).rglob("*.py") if p.name != "paths.py"]
    found = [
        p.name
        for p in files
        if re.search(r"__file__\)[^\n]*\.(parent\.parent|parents\[)", p.read_text(encoding="utf-8"))
    ]
    assert files and found == []


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/some-one/a.companion.git",
        "https://github.com/some-one/a.companion",
        "https://github.com/some-one/a.companion/\n",
        "https://name:secret@github.com/some-one/a.companion.git",
        "git@github.com:some-one/a.companion.git",
        "git@github.com:some-one/a.companion",
        "ssh://git@github.com/some-one/a.companion.git",
        "ssh://git@ssh.github.com:443/some-one/a.companion.git",
    ],
)
def test_the_address_is_read_from_every_form_of_a_remote(remote):
    assert address.web_address(remote) == "https://github.com/some-one/a.companion"


@pytest.mark.parametrize(
    "remote", ["https://example.org/a/b.git", "../elsewhere", "https://github.com/a", "https://notgithub.com/a/b"]
)
def test_a_remote_that_colab_cannot_open_is_one_sentence(remote):
    with pytest.raises(address.AddressError, match=r"Colab cannot open.*git remote set-url origin ADDRESS"):
        address.web_address(remote)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a pyproject.toml, as far as the address is concerned."""
    (tmp_path / "pyproject.toml").write_text(paths.PYPROJECT.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(address, "ROOT", tmp_path)
    monkeypatch.setattr(address, "PYPROJECT", tmp_path / "pyproject.toml")
    return tmp_path


def test_the_address_goes_from_git_to_pyproject_and_no_further(repository):
    with pytest.raises(address.AddressError, match="git remote add origin ADDRESS"):
        address.origin()
    remote = ["git", "-C", str(repository), "remote", "add", "origin", "git@github.com:some-one/companion.git"]
    subprocess.run(remote, check=True)
    before = address.PYPROJECT.read_text(encoding="utf-8")
    address.keep(address.origin())
    assert address.kept() == "https://github.com/some-one/companion"
    address.keep(tomllib.loads(before)["project"]["urls"]["Repository"])
    assert address.PYPROJECT.read_text(encoding="utf-8") == before


def test_relink_from_remote_is_one_sentence_where_there_is_no_remote(repository, capsys):
    assert command_line.main(["relink", "--from-remote"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_two_addresses_that_differ_are_a_warning_on_the_line_that_is_wrong(repository):
    one, other = address.kept(), "https://github.com/some-one/companion"
    assert address.warning(one, one) == ""
    line = int(re.search(r"line=(\d+),", address.warning(one, other))[1])
    assert one in address.PYPROJECT.read_text(encoding="utf-8").split("\n")[line - 1]
    assert "relink --from-remote" in address.warning(one, other)


def test_the_readmes_commands_hold_at_any_address():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!-- chapters -->.*<!-- end of chapters -->", "", text, flags=re.DOTALL)
    assert "OWNER" not in prose and "git clone --depth 1 ADDRESS" in prose
    for line in re.findall(r"^ +python3? -m sdhelpers (.*)$", prose, re.MULTILINE):
        assert command_line.parse(line.split()).command in command_line.COMMANDS


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the switches are for Intel and AMD")
def test_a_rehearsed_laptop_has_no_fast_16_bit_arithmetic(monkeypatch):
    program = (
        "import torch; from sdhelpers.device import slowness; formats = torch.float16, torch.bfloat16\n"
        "print(torch.backends.cpu.get_cpu_capability(), *map(slowness, formats), sep='|')"
    )
    seen = {}
    monkeypatch.setattr(command_line.subprocess, "run", lambda command, **how: seen.update(how) or Done())
    command_line.main(["test", "--laptop", "-k", "nothing"])
    monkeypatch.undo()
    found = subprocess.run([sys.executable, "-c", program], env=seen["env"], capture_output=True, text=True, check=True)
    capability, *formats = found.stdout.strip().split("|")
    assert capability == "AVX2"
    assert all("times slower than float32" in text for text in formats)


class Done:
    returncode = 0
