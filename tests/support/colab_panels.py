"""Every panel at the minimum, the default and the maximum of every control, in a kernel of the Colab rehearsal.

`check_all()` is called in a cell, so that the widgets have a real connection. It raises for anything that a
panel, its buttons or its thread let fail, and needs no pytest: the rehearsed environment has none.
"""

import contextlib
import functools
import html
import re
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import ipywidgets as ui
import torch
from diffusers import StableDiffusionPipeline
from IPython import get_ipython
from IPython.display import display
from PIL import Image

from sdhelpers import models
from sdhelpers.generation import Settings
from sdhelpers.metadata import save_image
from sdhelpers.metadata.generation import generate_and_record, model_source
from sdhelpers.panels.base import BLANK
from sdhelpers.panels.embedding import EmbeddingPanel
from sdhelpers.panels.explorer import Explorer
from sdhelpers.panels.inspector import MetadataInspector
from sdhelpers.panels.lora import LoraPanel
from sdhelpers.panels.mask import MaskPanel
from sdhelpers.panels.prompt import PromptPanel, SchedulePanel
from sdhelpers.panels.prompter import PromptBuilder
from sdhelpers.prompts.language_model import Prompter

ENDS = ("minimum", "default", "maximum")
LONGEST = "a cartoon of a cat on a beach, " * 40
CAT = "a cartoon of a cat on a beach"
LORAS = ("icon", "hedgehog", "detail")


@functools.cache
def pipeline() -> StableDiffusionPipeline:
    """One for all panels: each works on its own copy."""
    pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def pipeline_with_loras() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    for name in LORAS:
        pipe.load_lora_weights(models.locate("loras"), weight_name=f"{name}.safetensors", adapter_name=name)
    return pipe


def embedding_panel() -> EmbeddingPanel:
    width = pipeline().text_encoder.config.hidden_size
    checkpoints = {step: torch.full((3, width), 0.01 * (step + 1)) for step in (0, 20, 40)}
    return EmbeddingPanel(pipeline(), "a cartoon of <toy>", "<toy>", checkpoints, num_inference_steps=2)


def mask_panel() -> MaskPanel:
    picture = Image.new("RGB", (32, 32), "blue")
    return MaskPanel(picture, lambda words: torch.linspace(0, 1, 32 * 32).reshape(32, 32), "the sky")


PANELS: dict[str, Callable[[], ui.Widget]] = {
    "Explorer": lambda: Explorer(pipeline(), CAT, sizes=((128, 128), (192, 128)), num_inference_steps=2),
    "PromptPanel": lambda: PromptPanel(pipeline(), "a (cat:1.3) on a beach", num_inference_steps=2),
    "SchedulePanel": lambda: SchedulePanel(pipeline(), "a [cat:dog:{when}]", num_inference_steps=4),
    "LoraPanel": lambda: LoraPanel(pipeline_with_loras(), LORAS, CAT, steps=2),
    "EmbeddingPanel": embedding_panel,
    "PromptBuilder": lambda: PromptBuilder(pipeline(), Prompter(), "a cat at the sea", num_inference_steps=2),
    "MetadataInspector": lambda: MetadataInspector(pipeline()),
    "MaskPanel": mask_panel,
}


def parts(widget: ui.Widget) -> Iterator[ui.Widget]:
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def end_of(control: ui.Widget, end: str):
    """The value of a control at an end; None for the default, and for what is no control."""
    if end == "default":
        return None
    first = end == "minimum"
    if isinstance(control, ui.Text | ui.Textarea):
        return "" if first else LONGEST
    if isinstance(control, ui.Checkbox):
        return not first
    if isinstance(control, ui.Dropdown | ui.SelectionSlider):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return values[0 if first else -1]
    if isinstance(control, ui.IntProgress) or not hasattr(control, "max"):
        return None
    return control.min if first else control.max


@contextlib.contextmanager
def failures() -> Iterator[list[str]]:
    """Gathers what fails meanwhile in a button's action or in a thread, which a kernel would only print."""
    texts: list[str] = []
    shell, hook = get_ipython(), threading.excepthook
    show = shell.showtraceback
    shell.showtraceback = lambda *arguments, **options: texts.append(traceback.format_exc())
    threading.excepthook = lambda raised: texts.append(f"{raised.exc_type.__name__} in a thread: {raised.exc_value}")
    try:
        yield texts
    finally:
        shell.showtraceback, threading.excepthook = show, hook


def use(panel: ui.Widget, end: str) -> None:
    """Show a panel, put every control at an end, and press every button that may be pressed, once."""
    display(panel)
    if isinstance(panel, MetadataInspector):
        drop_file(panel, end)
    for control in list(parts(panel)):
        value = end_of(control, end)
        if value is not None:
            control.value = value
    pressed: set[ui.Button] = set()
    while waiting := [p for p in parts(panel) if isinstance(p, ui.Button) and not p.disabled and p not in pressed]:
        pressed.add(waiting[0])
        waiting[0].click()
        if isinstance(panel, Explorer):
            panel.wait()


def drop_file(panel: MetadataInspector, end: str) -> None:
    """What the browser sends for a file: an empty one, one of ours, one too large for the connection."""
    image, data = generate_and_record(panel.pipe, Settings(CAT, num_inference_steps=2), model_source("sd15"))
    with tempfile.TemporaryDirectory() as folder:
        ours = save_image(image, data, Path(folder) / "cat.png").read_bytes()
    content = {"minimum": [b""], "default": [ours], "maximum": []}[end]
    panel.files._handle_custom_msg({"name": "cat.png", "size": 10**9}, [memoryview(c) for c in content])


def problems(panel: ui.Widget, end: str) -> list[str]:
    """What a panel shows that it should not: an error that is no sentence, or a picture that was not drawn."""
    said = html.unescape(getattr(panel, "message", ui.HTML()).value)
    wrong = [said] if re.search(r"\w+(Error|Exception|Exit|Interrupt): ", said) else []
    pictures = [part.value for part in parts(panel) if isinstance(part, ui.Image)]
    if end == "default" and (not pictures or BLANK in pictures):
        wrong.append(f"a picture was not drawn ({said})")
    return wrong


def check_all() -> None:
    """Raise AssertionError with all that went wrong in any panel at any end."""
    wrong = []
    for name, make in PANELS.items():
        for end in ENDS:
            with failures() as texts:
                panel = make()
                use(panel, end)
            found = [*texts, *problems(panel, end)]
            print(f"{name} at its {end}: {'; '.join(found) or 'works'}", flush=True)
            wrong += found
    assert not wrong, "\n".join(wrong)
