"""One picture on its way: its steps one by one, and a way to stop it.

    drawing = Drawing(studio, request)
    for step in drawing:
        print(step.done, "of", step.total)
    drawing.picture

Built in chapter 20.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from PIL import Image

from sdhelpers.app.requests import Request
from sdhelpers.app.studio import Studio
from sdhelpers.metadata.record import GenerationData


class Stopped(Exception):
    """The drawing was stopped: there is no picture."""


@dataclass(frozen=True)
class Step:
    """How far a drawing is, and what it will be; the total is the scheduler's, who may take more than was asked for."""

    done: int
    total: int
    preview: Image.Image


class Drawing:
    """A picture that one of the studio's threads draws while whoever asked for it follows the steps.

    `stop` may be called from any thread and ends it after its present step; so does leaving the loop early. When the
    loop ends by itself, `picture` and `data` are there; what went wrong is raised in it. `scheduler` and `threads` are
    those of a picture that is drawn again.
    """

    def __init__(self, studio: Studio, request: Request, scheduler: dict | None = None, threads: int | None = None):
        self.studio, self.request, self.scheduler, self.processors = studio, request, scheduler, threads
        self.done = 0
        self.picture: Image.Image | None = None
        self.data: GenerationData | None = None
        self._stop = threading.Event()
        self._news: SimpleQueue[Step | None] = SimpleQueue()

    def stop(self) -> None:
        """End it after the step that is being taken."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def __iter__(self) -> Iterator[Step]:
        future: Future = self.studio.threads.submit(self._draw)
        future.add_done_callback(lambda _: self._news.put(None))
        try:
            while (step := self._news.get()) is not None:
                self.done = step.done
                yield step
            self.picture, self.data = future.result()
        finally:
            self.stop()  # and no waiting: whoever closes this loop may be the server itself

    def _draw(self) -> tuple[Image.Image, GenerationData]:
        before = torch.get_num_threads()
        try:
            if self.processors:
                torch.set_num_threads(self.processors)
            self._look()
            drawn = self.studio.draw(self.request, self._after_step, self.scheduler)
            self._look()
            return drawn
        finally:
            torch.set_num_threads(before)

    def _after_step(self, done: int, total: int, guess: torch.Tensor) -> None:
        self._look()
        self._news.put(Step(done, total, self.studio.preview(guess)))

    def _look(self) -> None:
        if self.stopped:
            raise Stopped
