"""A panel that asks models of pictures and words: a picture is chosen, dropped or drawn. Built in chapter 15.

speaker = Speaker(blip2, processor, lambda text: f"Question: {text} Answer:" if text else "")
AskPanel({"BLIP-2": speaker}, {"a cat": image}, "what is in the picture?")
"""

import dataclasses
import html
import io
from collections.abc import Callable, Mapping

import ipywidgets as ui
import torch
from PIL import Image, ImageOps

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy
from sdhelpers.panels.drop_zone import MOST_BYTES, DropZone
from sdhelpers.panels.sketch import PENS, SketchPad

SIDE = 256  # pixels at most of the picture as it is shown
KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]


@dataclasses.dataclass
class Speaker:
    """A model of pictures and words, its processor, and `wording`, which makes of a question the model's prompt.

    The empty question asks for a description.
    """

    model: torch.nn.Module
    processor: Callable
    wording: Callable[[str], str]

    @torch.no_grad()
    def __call__(self, image: Image.Image, text: str, most: int) -> str:
        """The answer, of at most so many tokens. Raises ValueError for a question that is too long for the model."""
        inputs = self.processor(images=image, text=self.wording(text), return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        asked, room = inputs.input_ids.shape[1], self.model.config.get_text_config().max_position_embeddings
        if asked + most > room:
            over = asked + most - room
            raise ValueError(f"Picture, question and answer have room for {room} tokens: ask in {over} fewer.")
        tokens = self.model.generate(**inputs, max_new_tokens=most, do_sample=False)
        return self.processor.decode(tokens[0, asked:], skip_special_tokens=True).strip()


class AskPanel(Panel):
    """Pictures by name, a field to drop one on and a pad to draw one, a question, and what each speaker answers.

    `picture` is what is asked about, `said` the last answers by speaker. A sketch is black on white and begins empty.
    """

    sentences = (ValueError,)

    def __init__(
        self,
        speakers: Mapping[str, Speaker],
        pictures: Mapping[str, Image.Image],
        question: str,
        size: int = 128,
    ):
        self.speakers = {name: own_copy(speaker) for name, speaker in speakers.items()}
        self.pictures, self.picture = dict(pictures), next(iter(pictures.values()))
        self.said: dict[str, str] = {}
        unit, (low, high) = size / 128, PENS
        wide, style = ui.Layout(width="34em", max_width="98%"), {"description_width": "6.5em"}
        self.choice = ui.Dropdown(options=list(self.pictures), description="picture", layout=wide, style=style)
        self.files = DropZone(self.receive, accept="image/*", description="drop a picture here, or click")
        self.pad = SketchPad(size=size, pen=low * unit)
        self.pen = ui.FloatSlider(
            low * unit, min=low * unit, max=high * unit, step=unit, description="pen", layout=wide, style=style
        )
        self.undo_button, self.clear_button = ui.Button(description="Undo"), ui.Button(description="Clear")
        self.question = ui.Text(
            question,
            placeholder="a question, then Enter; nothing: a description",
            description="question",
            continuous_update=False,
            layout=wide,
            style=style,
        )
        self.most = ui.IntSlider(
            30, min=1, max=40, description="tokens", continuous_update=False, layout=wide, style=style
        )
        shape = ui.Layout(width="16em", height="16em", object_fit="contain")
        self.shown = ui.Image(value=BLANK, format="png", layout=shape)
        self.answers, self.message = ui.HTML(), ui.HTML()
        row = ui.Layout(flex_flow="row wrap", align_items="center")
        pair = ui.HBox([self.shown, self.pad], layout=row)
        buttons = ui.HBox([self.files, self.undo_button, self.clear_button], layout=row)
        super().__init__([pair, self.choice, buttons, self.pen, self.question, self.most, self.answers, self.message])
        self.add_class("sdhelpers-ask-panel")
        self._follow_controls()
        self.show(self.picture)

    def _follow_controls(self) -> None:
        """What is touched last is the picture; of one from elsewhere the list shows no name, so each can be chosen."""
        ui.link((self.pen, "value"), (self.pad, "pen"))
        self.undo_button.on_click(lambda _: setattr(self.pad, "lines", self.pad.lines[:-1]))
        self.clear_button.on_click(lambda _: setattr(self.pad, "lines", []))
        self.choice.observe(lambda change: change.new and self.show(self.pictures[change.new]), "value")
        self.pad.observe(lambda _: self.show_other(self.sketch()), "lines")
        for control in (self.question, self.most):
            control.observe(lambda _: self.attempt(self.ask), "value")

    def sketch(self) -> Image.Image:
        """What is drawn, as the models know line drawings: black on white, RGB."""
        return ImageOps.invert(self.pad.image())

    def receive(self, name: str, content: bytes | None) -> None:
        """Ask about a dropped file; one that is too large or no picture is a sentence in the panel."""
        if content is None:
            return self.say(f"{name}: more than {MOST_BYTES / 1e6:.0f} MB; make it smaller first.")
        try:
            with Image.open(io.BytesIO(content), formats=KINDS) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return self.say(f"{name} cannot be opened as a picture ({error}).")
        return self.show_other(picture)

    def show_other(self, picture: Image.Image) -> None:
        """Ask about one that is not in the list."""
        self.choice.value = None
        self.show(picture)

    def show(self, picture: Image.Image) -> None:
        """Make this the picture that is asked about, and ask."""
        self.picture, small = picture, picture.copy()
        small.thumbnail((SIDE, SIDE))
        self.shown.value = to_png(small)
        self.attempt(self.ask)

    def ask(self) -> None:
        """Put the question to every speaker."""
        text, self.said, self.answers.value = self.question.value.strip(), {}, ""
        for name, speaker in self.speakers.items():
            self.said[name] = speaker(self.picture, text, self.most.value)
        lines = (f"<b>{html.escape(name)}</b>: {html.escape(said)}" for name, said in self.said.items())
        self.answers.value = "<br>".join(lines)
