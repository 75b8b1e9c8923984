"""Prompts to look at: tokens with the colours of their weights, schedules as strips, and panels around both.

PromptPanel(pipe, "a (cat:1.3) on a beach")
SchedulePanel(pipe, "a [cat:dog:{when}] on a beach")

Built in chapters 10 and 12.
"""

import math
from collections.abc import Sequence

import ipywidgets as ui
from PIL import Image, ImageDraw, ImageFont

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box
from sdhelpers.prompts.chunks import Chunk, encode, to_chunks
from sdhelpers.prompts.grammar import PromptError
from sdhelpers.prompts.readings import Reading, read_prompt, read_schedule, write_reading
from sdhelpers.prompts.schedule import ScheduledPrompt, real_steps

FONT_SIZE, LINE = 14, 22
INK, PAPER, GREY = (40, 40, 40), (255, 255, 255), (238, 238, 238)
STRONG, WEAK = (255, 145, 60), (80, 150, 255)
STRIP_COLOURS = ((86, 146, 214), (240, 160, 75), (110, 180, 110), (205, 110, 150), (150, 130, 205), (170, 150, 110))
MOST_ROWS = 12


def weight_colour(weight: float) -> tuple[int, int, int]:
    """White for 1, orange above, blue below; the full colour from 2 and from 0.5 on."""
    amount = 1.0 if weight <= 0 else min(abs(math.log2(weight)), 1.0)
    strong = STRONG if weight > 1 else WEAK
    return tuple(round(p + (c - p) * amount) for p, c in zip(PAPER, strong))


def token_picture(tokenizer, chunks: Sequence[Chunk], width: int = 760) -> Image.Image:
    """Every token in a box of its weight's colour, wrapped to `width` pixels; a line starts each chunk."""
    font = ImageFont.load_default(size=FONT_SIZE)
    boxes: list[tuple[int, int, int, str, float | None]] = []  # left, top, right, text, weight
    top = 4
    for number, chunk in enumerate(chunks, 1):
        boxes.append((4, top, width - 4, f"chunk {number}: {chunk.length} of {len(chunk.ids) - 2} tokens", None))
        top, left = top + LINE + 2, 4
        for token, weight in chunk.tokens:
            text = tokenizer.convert_ids_to_tokens(token).replace("</w>", "")
            right = left + round(font.getlength(text)) + 8
            if right > width - 4 and left > 4:
                left, top, right = 4, top + LINE + 2, right - left + 4
            boxes.append((left, top, right, text, weight))
            left = right + 2
        top += LINE + 8
    picture = Image.new("RGB", (width, top), PAPER)
    pen = ImageDraw.Draw(picture)
    for left, top, right, text, weight in boxes:
        fill, outline = (PAPER, None) if weight is None else (weight_colour(weight), GREY)
        pen.rectangle((left, top, right, top + LINE), fill=fill, outline=outline)
        pen.text((left + 4, top + LINE // 2), text, fill=INK, font=font, anchor="lm")
    return picture


def strip_rows(readings: Sequence[Reading]) -> dict[str, list[bool]]:
    """Each text that a schedule says, in the order of appearance, and at which of the steps it is said."""
    said = [write_reading(reading) for reading in readings]
    return {text: [text == other for other in said] for text in dict.fromkeys(said)}


def schedule_picture(readings: Sequence[Reading], width: int = 760) -> Image.Image:
    """The strip: a row for each text that is said, a column for each step, a line where the text changes.

    Only the first rows are drawn where a schedule says more than a dozen texts.
    """
    font, steps = ImageFont.load_default(size=FONT_SIZE), len(readings)
    rows = dict(list(strip_rows(readings).items())[:MOST_ROWS])
    cell = max((width - 8) / steps, 1)
    picture = Image.new("RGB", (width, 2 * LINE * len(rows) + LINE + 4), PAPER)
    pen = ImageDraw.Draw(picture)
    for row, (text, when) in enumerate(rows.items()):
        top = 2 * LINE * row
        shown = text or "(nothing)"
        while font.getlength(shown) > width - 8:
            shown = shown[: -max(len(shown) // 10, 5)].rstrip(".") + "..."
        pen.text((4, top + LINE // 2 + 2), shown, fill=INK, font=font, anchor="lm")
        for step, on in enumerate(when):
            box = (4 + cell * step, top + LINE, 4 + cell * (step + 1) - (1 if cell > 3 else 0), top + 2 * LINE - 4)
            pen.rectangle(box, fill=STRIP_COLOURS[row % len(STRIP_COLOURS)] if on else GREY)
    bottom = 2 * LINE * len(rows)
    for step in range(1, steps):
        if readings[step] != readings[step - 1]:
            for top in range(LINE, bottom, 2 * LINE):
                pen.line((3 + cell * step, top - 3, 3 + cell * step, top + LINE - 1), fill=INK)
    for step in sorted({1, *range(5, steps, 5), steps}) if cell * 5 > 24 else (1, steps):
        pen.text((4 + cell * (step - 0.5), bottom + LINE // 2), str(step), fill=INK, font=font, anchor="mm")
    return picture


class DrawingPanel(Panel):
    """What both panels share: a prompt, a picture of how it is read, a button that draws, and a line for messages.

    A subclass sets its controls and says in `look` how the prompt is read and in `draw` how it is drawn.
    """

    sentences = (PromptError,)

    def __init__(self, pipe, prompt: str, controls: Sequence[ui.Widget], seed: int, size: int):
        self.pipe, self.size = own_copy(pipe), size
        wide = ui.Layout(width="46em", max_width="98%")
        self.prompt = ui.Textarea(prompt, description="prompt", rows=3, layout=wide)
        self.seed = seed_box(seed)
        self.draw_button = ui.Button(description="Draw", button_style="primary")
        self.reading = ui.Image(format="png", layout=ui.Layout(max_width="98%", align_self="flex-start"))
        self.picture = ui.Image(format="png", layout=ui.Layout(width="16em", align_self="flex-start"))
        self.message = ui.HTML()
        self.picture.value = BLANK
        for control in (self.prompt, *controls):
            control.observe(lambda _: self.refresh(), "value")
        self.draw_button.on_click(lambda _: self.attempt(self.show_drawing, self.draw_button))
        row = ui.HBox([self.seed, self.draw_button], layout=ui.Layout(flex_flow="row wrap"))
        super().__init__([self.prompt, *controls, self.reading, row, self.message, self.picture])
        self.refresh()

    def refresh(self) -> None:
        self.attempt(lambda: setattr(self.reading, "value", to_png(self.look())))

    def show_drawing(self) -> None:
        self.picture.value = to_png(self.draw())


class PromptPanel(DrawingPanel):
    """A prompt with its tokens, chunks and weights, and the picture that it gives; `chunks` holds what is shown."""

    def __init__(
        self,
        pipe,
        prompt: str,
        seed: int = 1234,
        size: int = 128,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
    ):
        self.chunks: list[Chunk] = []
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        super().__init__(pipe, prompt, (), seed, size)
        self.add_class("sdhelpers-prompt-panel")

    def look(self) -> Image.Image:
        self.chunks = to_chunks(self.pipe.tokenizer, read_prompt(self.prompt.value))
        return token_picture(self.pipe.tokenizer, self.chunks)

    def draw(self) -> Image.Image:
        return self.generate(**encode(self.pipe, self.prompt.value), num_inference_steps=self.num_inference_steps)


class SchedulePanel(DrawingPanel):
    """A slider that stands for `{when}` in the prompt, above the strip of what is said at each step.

    `readings` holds what the strip shows, one for each step.
    """

    def __init__(
        self,
        pipe,
        prompt: str,
        when: float = 0.5,
        num_inference_steps: int = 20,
        seed: int = 1234,
        size: int = 128,
        guidance_scale: float = 7.5,
    ):
        self.readings: list[Reading] = []
        self.guidance_scale = guidance_scale
        self.when = ui.FloatSlider(when, min=0, max=1, step=0.05, description="{when}", layout=ui.Layout(width="30em"))
        self.num_inference_steps = ui.IntSlider(
            num_inference_steps, min=1, max=50, description="steps", layout=ui.Layout(width="30em")
        )
        super().__init__(pipe, prompt, (self.when, self.num_inference_steps), seed, size)
        self.add_class("sdhelpers-schedule-panel")

    @property
    def text(self) -> str:
        """The prompt with the slider's number in it."""
        return self.prompt.value.replace("{when}", f"{self.when.value:.2f}")

    def look(self) -> Image.Image:
        self.readings = read_schedule(self.text, real_steps(self.pipe, self.num_inference_steps.value))
        return schedule_picture(self.readings)

    def draw(self) -> Image.Image:
        steps = self.num_inference_steps.value
        scheduled = ScheduledPrompt(self.pipe, self.text, steps)
        return self.generate(**scheduled.first, callback_on_step_end=scheduled, num_inference_steps=steps)
