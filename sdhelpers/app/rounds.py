"""From a request to what is shown of it, step by step, for every session at once.

A round yields triples: what is seen now, the gallery, and what the session has drawn. Built in chapter 20.
"""

import html
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from sdhelpers.app import files, views
from sdhelpers.app.drawing import Drawing, Stopped
from sdhelpers.app.pictures import InputError
from sdhelpers.app.requests import TASKS, Request
from sdhelpers.app.studio import Studio, source_of
from sdhelpers.generation import SettingsError
from sdhelpers.metadata import MetadataError
from sdhelpers.metadata.generation import pixel_hash
from sdhelpers.models import ModelError
from sdhelpers.panels.inspector import as_html

MOST_KEPT = 24  # pictures in a session's gallery
SENTENCES = (InputError, MetadataError, SettingsError, ModelError)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Whatever goes wrong is one sentence on the page; what was not foreseen stands in the log as well."""
    try:
        yield
    except SENTENCES as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
    except (gr.Error, Stopped):
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("a picture could not be drawn")
        text = f"This cannot be drawn ({type(error).__name__}): try other settings."
        raise gr.Error(text, print_exception=False) from error


class Rounds:
    """The drawings that are on their way, each with its session, so that one stops one's own."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.running: set[tuple[str, Drawing]] = set()
        self.halted: set[str] = set()  # sessions that are still to be told so

    def play(self, session: str, asked: Callable[[], Request], drawn: list) -> Iterator[tuple]:
        """Draw what was asked for, save it and put it in front of the gallery."""
        with one_sentence():
            yield from self._follow(session, Drawing(self.studio, asked()), drawn, self._keep)

    def play_again(self, session: str, content: Callable[[], bytes | None], drawn: list) -> Iterator[tuple]:
        """Draw a file's picture again, and say whether a pixel differs; nothing is saved."""
        with one_sentence():
            reading = files.read_file(content() or b"")
            request, data = files.request_of(reading, self.studio.limits, self.studio.files), reading.data
            if data.model != source_of(TASKS[reading.task].model, self.studio.tier):
                raise InputError("It was made with another model, or another version of it, than is here.")
            threads = min(int(data.made_with["threads"]), os.cpu_count() or 1)
            drawing = Drawing(self.studio, request, data.scheduler, threads)

            def compare(drawing: Drawing, seconds: float) -> tuple[str, None]:
                same = pixel_hash(drawing.picture) == data.pixels
                return f"Drawn again: {'not a pixel differs' if same else 'the pixels are not those recorded'}.", None

            yield from self._follow(session, drawing, drawn, compare)

    def _follow(self, session: str, drawing: Drawing, drawn: list, finish: Callable) -> Iterator[tuple]:
        """Show each step; at the end what `finish` says, with the file that it wrote if it wrote one."""
        started = time.perf_counter()
        self.running.add((session, drawing))
        try:
            for step in drawing:
                yield views.on_the_way(step.done, step.total, step.preview), gr.skip(), gr.skip()
            said, path = finish(drawing, time.perf_counter() - started)
            drawn = [(str(path), drawing.request.settings.prompt[:100]), *drawn][:MOST_KEPT] if path else drawn
            yield views.finished(drawing.picture, said), drawn, drawn
        except Stopped:
            yield views.STOPPED, gr.skip(), gr.skip()
        finally:
            drawing.stop()
            self.running.discard((session, drawing))

    def _keep(self, drawing: Drawing, seconds: float):
        path = files.keep(drawing.picture, drawing.data, drawing.request, self.studio.folder)
        return f"{path.name}, {drawing.done} steps in {seconds:.1f} s", path

    def stop(self, request: gr.Request) -> None:
        """Stop what this session draws, after its present step."""
        for session, drawing in list(self.running):
            if session == request.session_hash:
                drawing.stop()
                self.halted.add(session)

    def leave(self, request: gr.Request) -> None:
        """Stop what a session draws whose page was closed: nobody is there to be told."""
        self.stop(request)
        self.halted.discard(request.session_hash)

    def say_stopped(self, request: gr.Request):
        """What the page shows after Stop; where nothing was on its way it stays as it is."""
        if request.session_hash not in self.halted:
            return gr.skip()
        self.halted.discard(request.session_hash)
        return views.STOPPED

    def describe(self, content: Callable[[], bytes | None]) -> str:
        """What a file says of itself, as HTML in which every text is escaped."""
        with one_sentence():
            reading = files.read_file(content() or b"")
            same = bool(reading.data) and pixel_hash(reading.picture) == reading.data.pixels
            more = f"<p>Drawn after a picture that the file holds ({reading.task}).</p>" if reading.images else ""
            return more + as_html(reading.found, same)
