"""What test_completion's further processes do; a module of its own, for each of them imports all of it."""

import multiprocessing
from pathlib import Path

from sdhelpers.models import compose, sha256

PATIENCE = 900  # seconds before a test that hangs is given up
PROCESSES, ROUNDS = 4, 5


def ask_in_rounds(pocket: Path, built: Path, barrier, answers) -> None:
    """One process: in each round ask for the same model as the others; answer what was got and how often made."""
    fill, made = compose._fill, []
    compose._fill = lambda new, *rest: (made.append(new), fill(new, *rest))
    for number in range(ROUNDS):
        barrier.wait(PATIENCE)
        try:
            folder = compose.complete(pocket / "safety-checker", pocket, built / str(number))
            digests = {path.name: sha256(path) for path in folder.iterdir()}
        except Exception as error:
            digests = repr(error)
        answers.put((number, digests, len(made)))
        made.clear()


def ask_for_the_file(built: Path, barrier, answers) -> None:
    """One process: ask for the single-file checkpoint; answer what was got and how often made."""
    from sdhelpers.models import folders

    build, made = folders.build_single_file, []
    folders.BUILT = built
    folders.build_single_file = lambda *arguments: (made.append(arguments), build(*arguments))
    barrier.wait(PATIENCE)
    try:
        answer = sha256(folders.locate_file("community"))
    except Exception as error:
        answer = repr(error)
    answers.put((answer, len(made)))


def stop_in_the_middle(pocket: Path, built: Path, in_the_middle) -> None:
    """One process that copies the first files, says so, and gets no further."""
    compose.save_file = lambda *_, **__: (in_the_middle.set(), multiprocessing.Event().wait(PATIENCE))
    compose.complete(pocket / "safety-checker", pocket, built)
