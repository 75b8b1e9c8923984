"""The command line: python -m sdhelpers doctor | run 3 | lab | app | bench | site | test | ...

Imports only the standard library until the pinned libraries are known to be there.
"""

import argparse
import ast
import io
import os
import subprocess
import sys
import webbrowser
from pathlib import Path

from sdhelpers import paths
from sdhelpers.book import environment


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sdhelpers", description="Run the companion's chapters.", allow_abbrev=False
    )
    parser.add_argument("--setup", action="store_true", help="first make .venv with the pinned libraries (once)")
    parser.add_argument(
        "--torch",
        metavar="BUILD",
        help="with --setup: PyTorch's build as uv names it: cpu (small, for a computer without NVIDIA GPU), auto "
        "(the one for this computer's GPU), cu130 ...; without it the one on PyPI",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="report on this computer: OK, or what to do")
    for name, text in (("run", "execute a chapter"), ("store", "execute a chapter and store it with its outputs")):
        command = commands.add_parser(name, help=text)
        command.add_argument("chapter", type=int)
        command.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the executed notebook")
        if name == "run":
            command.add_argument("--tier", choices=("pocket", "full"))
            command.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
            command.add_argument("--open", action="store_true", help="show the result in the browser")
    lab = commands.add_parser("lab", help="open JupyterLab on the chapters, or on one")
    lab.add_argument("chapter", type=int, nargs="?", help="without it their folder")
    app = commands.add_parser("app", help="open the drawing app of chapter 20")
    app.add_argument("--tier", choices=("pocket", "full"), default="pocket")
    app.add_argument("--port", type=int, help="without it the first free one from 7860 on")
    app.add_argument("--listen", action="store_true", help="let other computers in; without it only this one")
    app.add_argument("--open", action="store_true", help="show it in the browser")
    bench = commands.add_parser("bench", help="measure time and memory of images on this computer")
    shapes = ("sd15", "sd15-shapes", "sdxl-shapes")
    bench.add_argument("--model", choices=shapes, default="sd15", help="-shapes: the true sizes with random weights")
    bench.add_argument("--tier", choices=("pocket", "full"), default="pocket")
    bench.add_argument("--threads", type=int, help="threads of the processor")
    bench.add_argument("--save", type=Path, help="JSON file; a run that was broken off goes on there")
    bench.add_argument("--compile", action="store_true", help="torch.compile on a CPU too (minutes)")
    site = commands.add_parser("site", help="build the static site of the stored chapters into outputs/site")
    site.add_argument("--open", action="store_true", help="serve it on this computer and show it, until Ctrl-C")
    command = commands.add_parser("test", help="run the tests; further arguments go to pytest")
    command.add_argument("--laptop", action="store_true", help="compute as on a processor that has AVX2 alone")
    command.add_argument("--workers", type=int, help="tests side by side, each with its share of the processor")
    commands.add_parser("lint", help="check the code with ruff")
    relink = commands.add_parser("relink", help="rewrite badges, clone addresses, navigation and the README's table")
    relink.add_argument("--from-remote", action="store_true", help="first take the address from git's origin")
    options, further = parser.parse_known_args(arguments)
    if further and options.command != "test":
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    if options.torch and not options.setup:
        parser.error("--torch goes with --setup")
    options.pytest = further
    return options


def value(text: str):
    """A parameter as Python reads it: 7, 7.5, True, [1, 2]; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def doctor(options: argparse.Namespace) -> int:
    from sdhelpers.book.doctor import examine, report

    findings = list(examine())
    print(report(findings))
    return int(any(f.advice and f.essential for f in findings))


def run(options: argparse.Namespace) -> int:
    from sdhelpers.book import chapters

    parameters = {name: value(text) for name, text in options.parameter}
    if options.tier:
        parameters["tier"] = options.tier
    try:
        executed = chapters.run(options.chapter, options.out, parameters).path
    except chapters.ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    page = chapters.to_html(executed)
    print(f"Chapter {options.chapter} ran to its end: {executed}\nTo read it in a browser: {page}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def store(options: argparse.Namespace) -> int:
    from sdhelpers.book import chapters, links, store

    try:
        print("Stored", store.store_chapter(options.chapter, options.out))
    except chapters.ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    for path in links.relink():
        print("Rewrote", path)
    return 0


def lab(options: argparse.Namespace) -> int:
    from sdhelpers.book import chapters

    try:
        shown = paths.NOTEBOOKS if options.chapter is None else chapters.path_of(options.chapter)
    except chapters.ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-m", "jupyter", "lab", str(shown)]).returncode


def app(options: argparse.Namespace) -> int:
    from sdhelpers.app.server import serve

    return serve(options.tier, options.listen, options.port, options.open)


def bench(options: argparse.Namespace) -> int:
    from sdhelpers import benchmark

    return benchmark.command(options.model, options.tier, options.threads, options.save, options.compile)


def site(options: argparse.Namespace) -> int:
    from sdhelpers.book.site import SiteError, build
    from sdhelpers.book.site.serve import serve

    try:
        page = build()
    except SiteError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The site of the book, to be read without a server and without a network: {page}")
    return serve(page) if options.open else 0


def test(options: argparse.Namespace) -> int:
    env, command = os.environ | (environment.LAPTOP if options.laptop else {}), [sys.executable, "-m", "pytest"]
    if options.workers:
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.workers))
        command += ["--numprocesses", str(options.workers), "--dist", "loadscope"]
    return subprocess.run([*command, *options.pytest], cwd=paths.ROOT, env=env).returncode


def lint(options: argparse.Namespace) -> int:
    ruff = [sys.executable, "-m", "ruff"]
    checks = [[*ruff, "check", "."], [*ruff, "format", "--check", "."]]
    return max(subprocess.run(check, cwd=paths.ROOT).returncode for check in checks)


def relink(options: argparse.Namespace) -> int:
    from sdhelpers.book import address, links

    if options.from_remote:
        try:
            address.keep(address.origin())
        except address.AddressError as error:
            print(error, file=sys.stderr)
            return 1
    for path in links.relink():
        print("Rewrote", path)
    return 0


COMMANDS = {f.__name__: f for f in (doctor, run, store, lab, app, bench, site, test, lint, relink)}


def start_again_inside(python: Path, options: argparse.Namespace, arguments: list[str]) -> int:
    """Run the same command with the environment's own Python."""
    setup = ("--setup", "--torch", options.torch, f"--torch={options.torch}")
    start = arguments.index(options.command)
    rest = [a for a in arguments[:start] if a not in setup] + arguments[start:]
    return subprocess.run([str(python), "-m", "sdhelpers", *rest]).returncode


def show_what_can_be_shown() -> None:
    """Let a Windows pipe, whose encoding lacks signs such as ✓, show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main(arguments: list[str] | None = None) -> int:
    show_what_can_be_shown()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    place = environment.folder()
    inside = Path(sys.prefix).resolve() == place.resolve()
    try:
        paths.checkout()
        if options.setup and not inside:
            environment.make(place, options.torch)
            return start_again_inside(environment.python_of(place), options, arguments)
        if environment.dependencies_missing() and not inside and environment.is_ready(place):
            return start_again_inside(environment.python_of(place), options, arguments)
    except (environment.SetupError, paths.CheckoutError) as error:
        print(error, file=sys.stderr)
        return 1
    if environment.dependencies_missing() and options.command != "doctor":
        print(
            "The libraries are not installed for this Python: run `python -m sdhelpers --setup ...` once.",
            file=sys.stderr,
        )
        return 1
    return COMMANDS[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
