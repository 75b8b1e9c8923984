"""Nothing leans on Linux: text files name their encoding, and what Windows lacks stands behind a guard.

Read from the source (the module, tests, recipes, and the notebooks' code cells), so it holds for what no
Windows machine has run yet.
"""

import ast
import json
import re
import subprocess
from collections.abc import Iterator

import nbformat
import pytest

from sdhelpers import models
from sdhelpers.book import chapters
from sdhelpers.paths import ROOT

POSIX_MODULES = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {"WNOHANG", "chown", "fork", "forkpty", "geteuid", "getloadavg", "getpgid", "getuid", "kill", "killpg"}
    | {"mkfifo", "nice", "sched_getaffinity", "sched_setaffinity", "setsid", "symlink", "sysconf", "uname", "wait"},
    "signal": {
        "SIGALRM",
        "SIGCONT",
        "SIGHUP",
        "SIGKILL",
        "SIGSTOP",
        "SIGUSR1",
        "SIGUSR2",
        "alarm",
        "pause",
        "setitimer",
    },
    "time": {"tzset"},
}
GUARDS = re.compile(r"\b(sys\.platform|os\.name|platform\.system|hasattr|importorskip)\b")
CATCHES = re.compile(r"\b(ImportError|ModuleNotFoundError|AttributeError|OSError|NotImplementedError)\b")
TEXT_MODE = re.compile(r"[rwax]\+?t?\+?")
FOREIGN_TIME = re.compile(r"%-[dmHIMSjy]")
IN_TEXT = re.compile(rf"^\s*import ({'|'.join(sorted(POSIX_MODULES))})\b|;\s*import (resource|fcntl)\b", re.MULTILINE)


def problems(source: str) -> list[str]:
    """What would fail, or read wrongly, on Windows: "line: what"."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        what = _problem(node)
        if what and not (what.startswith("needs a guard") and _guarded(node, parents)):
            found.append(f"{node.lineno}: {what}")
    return found


def _problem(node: ast.AST) -> str:
    match node:
        case ast.Import(names=names) if bad := {n.name.split(".")[0] for n in names} & POSIX_MODULES:
            return f"needs a guard: import {', '.join(bad)}"
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in POSIX_MODULES:
            return f"needs a guard: from {module} import"
        case ast.Attribute(value=ast.Name(id=module), attr=name) if name in POSIX_NAMES.get(module, ()):
            return f"needs a guard: {module}.{name}"
        case ast.Attribute(attr="symlink_to" | "hardlink_to" as name):
            return f"needs a guard: {name}"
        case ast.keyword(arg="preexec_fn"):
            return "needs a guard: preexec_fn"
        case ast.Constant(value=str(text)) if IN_TEXT.search(text):
            return "needs a guard: a program that imports a POSIX module"
        case ast.Constant(value=str(text)) if FOREIGN_TIME.search(text):
            return "strftime with %-, which Windows does not know"
        case ast.Call(func=ast.Attribute(attr="get_context" | "set_start_method"), args=[ast.Constant(value="fork")]):
            return "needs a guard: fork"
        case ast.Call() if _is_text_without_encoding(node):
            return f"no encoding: {ast.unparse(node)[:80]}"
    return ""


def _is_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file in whatever encoding the computer likes best."""
    keywords = {k.arg: k.value for k in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Name(id="open") | ast.Attribute(value=ast.Name(id="io"), attr="open"):
            mode = keywords.get("mode") or (call.args[1] if len(call.args) > 1 else None)
            return len(call.args) < 4 and not (isinstance(mode, ast.Constant) and "b" in mode.value)
        case ast.Attribute(attr="open"):  # Path.open; Image.open and others take a file first
            mode = keywords.get("mode") or (call.args[0] if call.args else None)
            if mode is None:
                return not call.keywords
            return isinstance(mode, ast.Constant) and bool(TEXT_MODE.fullmatch(str(mode.value)))
    return False


def _guarded(node: ast.AST, parents: dict) -> bool:
    """Whether a try around it catches, or its function asks for the system before."""
    line = node.lineno
    if isinstance(node, ast.Constant) and GUARDS.search(node.value):
        return True  # a program as text that asks for itself
    while node in parents:
        child, node = node, parents[node]
        if isinstance(node, ast.Try) and child in node.body and _catches(node):
            return True
        if isinstance(node, ast.FunctionDef | ast.Module) and _asks(node, line):
            return True
    return False


def _catches(block: ast.Try) -> bool:
    return any(CATCHES.search(ast.unparse(handler.type)) for handler in block.handlers if handler.type)


def _asks(scope: ast.FunctionDef | ast.Module, line: int) -> bool:
    """Whether a test, a skip or a decorator above the line names the system."""
    before = [n for n in ast.walk(scope) if getattr(n, "lineno", line + 1) <= line]
    asked = [n.test for n in before if isinstance(n, ast.If | ast.IfExp | ast.Assert)]
    asked += [n for n in before if isinstance(n, ast.Call)] + getattr(scope, "decorator_list", [])
    return any(GUARDS.search(ast.unparse(n)) for n in asked)


def sources() -> Iterator[tuple[str, str]]:
    """Every piece of Python of the repository, with a name."""
    for folder in ("sdhelpers", "tests", "data/recipes", ".ci"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts and "runs" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in chapters.existing().values():
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                yield f"{path.name} cell {number}", re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def test_the_source_leans_on_no_system():
    pieces = list(sources())
    found = [f"{name}, line {problem}" for name, source in pieces for problem in problems(source)]
    assert len(pieces) > 200 and found == []


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'w')",
        "io.open(path, mode='a')",
        "path.open()",
        "path.open('w')",
        "path.read_text()",
        "path.write_text('é')",
        "import resource",
        "from fcntl import flock",
        "link.symlink_to(target)",
        "os.symlink(a, b)",
        "os.kill(pid, signal.SIGKILL)",
        "os.sched_getaffinity(0)",
        "multiprocessing.get_context('fork')",
        "subprocess.run(command, preexec_fn=f)",
        "program = 'import resource, sys'",
        "time.strftime('%" + "-d %B')",  # in two, so that the test does not find itself
        "def f():\n    import resource\n    if sys.platform == 'win32':\n        return",
        "try:\n    import resource\nexcept ValueError:\n    pass",
    ],
)
def test_what_windows_lacks_is_found(source):
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "open(path, encoding='utf-8')",
        "open(path, 'rb')",
        "path.open('wb')",
        "Image.open(path)",
        "path.read_text('utf-8')",
        "path.read_text(encoding='utf-8')",
        "path.write_text('é', encoding='utf-8')",
        "try:\n    import resource\nexcept ImportError:\n    resource = None",
        "try:\n    link.symlink_to(target)\nexcept OSError:\n    pass",
        "def f():\n    if sys.platform == 'win32':\n        return\n    import resource",
        "cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()",
        "@pytest.mark.skipif(os.name == 'nt', reason='no links')\ndef test_links():\n    a.symlink_to(b)",
    ],
)
def test_what_every_system_has_is_not_found(source):
    assert problems(source) == []


def test_git_changes_no_line_end_of_a_file_whose_digest_a_card_keeps():
    """With Windows' autocrlf a JSON file of a model would else come with other bytes, and be called damaged."""
    files = [
        card.parent / name
        for card in models.POCKET.glob("*/card.json")
        for name in json.loads(card.read_text(encoding="utf-8"))["files"]
    ]
    names = "\n".join(f.relative_to(ROOT).as_posix() for f in files)
    asked = ["git", "-C", str(ROOT), "check-attr", "--stdin", "text"]
    answer = subprocess.run(asked, input=names, capture_output=True, encoding="utf-8", check=True).stdout
    assert files and [line for line in answer.splitlines() if not line.endswith(": unset")] == []


def test_no_file_is_named_as_windows_cannot():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, encoding="utf-8", check=True
    )
    names = [name for name in listed.stdout.split("\0") if name]
    reserved = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", re.IGNORECASE)
    assert (
        names
        and [n for n in names if reserved.search(n) or re.search(r'[<>:"\\|?*]|[. ](/|$)', n) or len(n) > 140] == []
    )
    assert len({n.lower() for n in names}) == len(names), "two names that Windows and macOS take for one"


def test_the_workflows_name_tests_that_exist():
    text = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / ".github" / "workflows").glob("*.yml"))
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text)
    assert named
    for path, test in named:
        assert (ROOT / path).exists() and f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), (path, test)
