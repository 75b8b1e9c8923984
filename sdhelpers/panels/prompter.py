"""The prompt builder: a few words, the prompts that a language model makes of them, and both drawn.

    PromptBuilder(pipe, prompter, "a kitty at the seaside")

Built in chapter 17.
"""

import html

import ipywidgets as ui

from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box
from sdhelpers.prompts.language_model import Prompter, PrompterError

ANY_STYLE = "any style"


class PromptBuilder(Panel):
    """Words, temperature and number above a list of prompts; raw words and chosen prompt drawn from one seed.

    `candidates` holds the list, `chosen` the prompt that will be drawn.
    """

    sentences = (PrompterError,)

    def __init__(
        self,
        pipe,
        prompter: Prompter,
        words: str,
        styles: tuple[str, ...] = (),
        seed: int = 1234,
        size: int = 128,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
    ):
        self.guidance_scale = guidance_scale
        self.pipe, self.prompter = own_copy(pipe), own_copy(prompter)
        self.size, self.num_inference_steps = size, num_inference_steps
        self._build_controls(words, styles, seed)
        self._build_display()
        row = ui.Layout(flex_flow="row wrap")
        super().__init__(
            [
                self.words,
                self.temperature,
                self.number,
                self.style,
                ui.HBox([self.seed, self.expand_button], layout=row),
                self.list,
                ui.HBox([self.draw_button], layout=row),
                self.message,
                ui.HBox([ui.VBox([self.raw, self.raw_label]), ui.VBox([self.picture, self.label])], layout=row),
            ]
        )
        self.add_class("sdhelpers-prompt-builder")

    def _build_controls(self, words: str, styles: tuple[str, ...], seed: int) -> None:
        wide, style = ui.Layout(width="34em", max_width="98%"), {"description_width": "6.5em"}
        options = dict(layout=wide, style=style)
        self.words = ui.Text(words, description="words", **options)
        self.temperature = ui.FloatSlider(0.7, min=0.1, max=2, step=0.1, description="temperature", **options)
        self.number = ui.IntSlider(4, min=1, max=8, description="prompts", **options)
        self.style = ui.Dropdown(options=[ANY_STYLE, *styles], description="style", **options)
        self.seed = seed_box(seed, style=style)
        self.expand_button = ui.Button(description="Expand", button_style="primary")
        self.draw_button = ui.Button(description="Draw both", disabled=True)
        self.expand_button.on_click(lambda _: self.attempt(self.expand, self.expand_button))
        self.draw_button.on_click(lambda _: self.attempt(self.draw, self.draw_button))

    def _build_display(self) -> None:
        self.list = ui.Select(rows=8, layout=ui.Layout(width="46em", max_width="98%"))
        self.message = ui.HTML()
        self.raw, self.picture = (
            ui.Image(value=BLANK, format="png", layout=ui.Layout(width="14em", height="14em")) for _ in range(2)
        )
        self.raw_label, self.label = (ui.HTML(layout=ui.Layout(width="14em")) for _ in range(2))

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.list.options)

    @property
    def chosen(self) -> str | None:
        return self.list.value

    def expand(self) -> None:
        """Fill the list with prompts for the words."""
        style = None if self.style.value == ANY_STYLE else self.style.value
        prompts = self.prompter.expand(
            self.words.value, self.number.value, self.temperature.value, self.seed.value, style
        )
        self.list.options = list(dict.fromkeys(prompts))
        self.list.index = 0
        twice = len(prompts) - len(self.candidates)
        if twice:
            self.say(f"{twice} of {len(prompts)} came twice: a higher temperature gives more variety.")
        self.draw_button.disabled = False

    def draw(self) -> None:
        """The raw words and the chosen prompt from the same seed, side by side."""
        for words, picture, label in (
            (self.words.value, self.raw, self.raw_label),
            (self.chosen, self.picture, self.label),
        ):
            picture.value = to_png(self.generate(prompt=words, num_inference_steps=self.num_inference_steps))
            label.value = f'<div style="line-height:1.2">{html.escape(words)}</div>'
