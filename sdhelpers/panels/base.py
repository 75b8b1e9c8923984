"""What the panels of all chapters share: a pipeline of their own, pictures, and one line that says what went wrong."""

import copy
import html
from collections.abc import Callable
from typing import TypeVar

import ipywidgets as ui
import torch
from PIL import Image

from sdhelpers.device import seeded_generator
from sdhelpers.generation import LARGEST_SEED
from sdhelpers.images import to_png

Thing = TypeVar("Thing")


BLANK = to_png(Image.new("RGB", (8, 8), (238, 238, 238)))  # what stands there before the first picture


def own_copy(thing: Thing) -> Thing:
    """A pipeline or language model whose every part may be changed, while the weights are in memory only once.

    Scheduler, tokenizer, settings and the modules themselves are copied; only the weights' storage is shared.
    """
    modules = [part for part in vars(thing).values() if isinstance(part, torch.nn.Module)]
    shared = {id(buffer): buffer for module in modules for buffer in module.buffers()}
    for weight in (weight for module in modules for weight in module.parameters()):
        plain = type(weight) is torch.nn.Parameter  # quantised ones have state of their own
        shared[id(weight)] = torch.nn.Parameter(weight.detach(), weight.requires_grad) if plain else weight
    return copy.deepcopy(thing, shared)


def seed_box(seed: int, **options) -> ui.BoundedIntText:
    """A field for a seed, which has its limits."""
    return ui.BoundedIntText(seed, min=0, max=LARGEST_SEED, description="seed", **options)


class Panel(ui.VBox):
    """A panel with a line for messages, `message`, which a subclass sets and puts where it belongs.

    A panel may draw while a cell does: the explorer has a thread of its own, and JupyterLab runs the callbacks of
    widgets beside the cells, in a subshell of the kernel. Two drawings that share a scheduler, a tokenizer's
    truncation or PEFT's active adapters spoil each other, and no lock helps, since the cell would have to take part.
    So a panel works on an `own_copy` of the pipeline, made when the panel is made: it may change what it likes and has
    nothing to put back, and what later cells load, unload or exchange does not reach it. Only numbers that are changed
    in place, as by a LoRA merged by hand, do.

    `sentences` are the errors whose text is a sentence for the reader; of all others the kind is named too.
    """

    sentences: tuple[type[Exception], ...] = ()
    message: ui.HTML
    seed: ui.BoundedIntText
    size: int
    guidance_scale: float = 7.5  # the pipelines' own default; a panel takes its chapter's

    def generate(self, **arguments) -> Image.Image:
        """One picture of the panel's pipeline, square, from the seed that the panel shows."""
        settings = dict(width=self.size, height=self.size, guidance_scale=self.guidance_scale)
        return self.pipe(**arguments, **settings, generator=seeded_generator(self.seed.value)).images[0]

    def say(self, text: str) -> None:
        """Write into the message line, in orange; the text may come from strangers."""
        self.message.value = f'<span style="color:#b35900">{html.escape(text)}</span>'

    def say_error(self, error: Exception) -> None:
        self.say(str(error) if isinstance(error, self.sentences) else f"{type(error).__name__}: {error}")

    def attempt(self, action: Callable[[], None], button: ui.Button | None = None) -> None:
        """Do it, with the button out of use meanwhile; whatever fails is said in the message line."""
        self.message.value = ""
        if button:
            button.disabled = True
        try:
            action()
        except Exception as error:
            self.say_error(error)
        finally:
            if button:
                button.disabled = False
