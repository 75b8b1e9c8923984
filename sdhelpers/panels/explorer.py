"""The explorer: a panel that drives a pipeline, in JupyterLab 4, Notebook 7 and Colab.

    Explorer(pipe, prompt="a cartoon of a cat on a beach")

Generation runs in a thread of its own, so that Stop works and a dragged slider never starts a second
one: while an image is being made, only the newest settings wait their turn. Built in chapter 3.
"""

import html
import random
import threading

import ipywidgets as ui
import torch
from PIL import Image

from sdhelpers.generation import LARGEST_SEED, Settings, SettingsError, generate
from sdhelpers.images import to_png
from sdhelpers.panels.base import BLANK, Panel, own_copy, seed_box
from sdhelpers.schedulers import SCHEDULERS

HISTORY = 6


class Explorer(Panel):
    """A panel with prompt, seed, guidance, steps, scheduler and size, a picture, and a strip of the last ones.

    `settings` holds what the controls say, `history` the finished (settings, image) pairs, newest first.
    """

    sentences = (SettingsError,)

    def __init__(self, pipe, prompt: str, sizes: tuple[tuple[int, int], ...] = ((128, 128),), **settings):
        self.pipe = own_copy(pipe)
        self.history: list[tuple[Settings, Image.Image]] = []
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._waiting: Settings | None = None
        self._stopping = threading.Event()
        first = Settings(prompt=prompt, width=sizes[0][0], height=sizes[0][1], **settings)
        self._build_controls(first, sizes)
        self._build_display()
        super().__init__(
            [ui.HBox([self._controls, self._display], layout=ui.Layout(flex_flow="row wrap")), self.message, self.strip]
        )
        self.add_class("sdhelpers-explorer")

    def _build_controls(self, first: Settings, sizes: tuple[tuple[int, int], ...]) -> None:
        wide, style = ui.Layout(width="26em"), {"description_width": "6.5em"}
        options = dict(layout=wide, style=style)
        self.prompt = ui.Textarea(first.prompt, description="prompt", rows=2, **options)
        self.negative_prompt = ui.Text(first.negative_prompt, description="negative", **options)
        self.seed = seed_box(first.seed, layout=ui.Layout(width="22em"), style=style)
        self.dice = ui.Button(icon="random", tooltip="roll the dice: another seed", layout=ui.Layout(width="3.5em"))
        self.guidance_scale = ui.FloatSlider(
            first.guidance_scale, min=1, max=20, step=0.5, description="guidance", continuous_update=False, **options
        )
        self.num_inference_steps = ui.IntSlider(
            first.num_inference_steps, min=1, max=50, description="steps", continuous_update=False, **options
        )
        self.scheduler = ui.Dropdown(
            options=list(SCHEDULERS), value=first.scheduler, description="scheduler", **options
        )
        self.size = ui.Dropdown(
            options=[(f"{w} x {h}", (w, h)) for w, h in sizes], value=sizes[0], description="size", **options
        )
        self.live = ui.Checkbox(False, description="draw again whenever a control changes", indent=False, layout=wide)
        self.generate_button = ui.Button(description="Generate", button_style="primary")
        self.stop_button = ui.Button(description="Stop", disabled=True)
        self.dice.on_click(lambda _: setattr(self.seed, "value", random.SystemRandom().randint(0, LARGEST_SEED)))
        self.generate_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        for control in (
            self.prompt,
            self.negative_prompt,
            self.seed,
            self.guidance_scale,
            self.num_inference_steps,
            self.scheduler,
            self.size,
        ):
            control.observe(lambda _: self.live.value and self.start(), "value")
        self._controls = ui.VBox(
            [
                self.prompt,
                self.negative_prompt,
                ui.HBox([self.seed, self.dice]),
                self.guidance_scale,
                self.num_inference_steps,
                self.scheduler,
                self.size,
                self.live,
                ui.HBox([self.generate_button, self.stop_button]),
            ]
        )

    def _build_display(self) -> None:
        self.progress = ui.IntProgress(0, min=0, max=1, layout=ui.Layout(width="20em"))
        self.picture = ui.Image(
            format="png",
            value=BLANK,
            layout=ui.Layout(width="20em", height="20em", object_fit="contain"),
        )
        self.message, self.strip = ui.HTML(), ui.HBox(layout=ui.Layout(flex_flow="row wrap"))
        self._display = ui.VBox([self.picture, self.progress])

    @property
    def settings(self) -> Settings:
        """What the controls say now."""
        width, height = self.size.value
        return Settings(
            self.prompt.value.strip(),
            self.negative_prompt.value.strip(),
            self.seed.value,
            self.guidance_scale.value,
            self.num_inference_steps.value,
            self.scheduler.value,
            width,
            height,
        )

    def show(self, settings: Settings) -> None:
        """Set the controls; nothing is drawn until Generate."""
        live, self.live.value = self.live.value, False
        for name in ("prompt", "negative_prompt", "seed", "guidance_scale", "num_inference_steps", "scheduler"):
            getattr(self, name).value = getattr(settings, name)
        self.size.value = (settings.width, settings.height)
        self.live.value = live

    def start(self) -> None:
        """Draw the controls' settings, at once or as soon as the image under way is done."""
        with self._lock:
            self._waiting = self.settings
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()

    def stop(self) -> None:
        """End the image under way after its present step, and forget what waits."""
        with self._lock:
            self._waiting = None
        self._stopping.set()

    def wait(self, timeout: float = 300) -> None:
        """Block until nothing is under way. Raises TimeoutError after `timeout` seconds."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout)
            if worker.is_alive():
                raise TimeoutError(f"The explorer is still drawing after {timeout:.0f} seconds.")

    def _work(self) -> None:
        """Draw what waits until nothing does: the only place where the pipeline runs."""
        while True:
            with self._lock:
                settings, self._waiting = self._waiting, None
                if settings is None:
                    self._worker = None
                    return
            self._draw(settings)

    def _draw(self, settings: Settings) -> None:
        self._stopping.clear()
        self.stop_button.disabled, self.message.value = False, ""
        self.progress.value, self.progress.bar_style = 0, ""
        try:
            image = generate(self.pipe, settings, self._on_step)
        except torch.OutOfMemoryError:
            self.say("There is not enough GPU memory for this size: choose a smaller one.")
        except Exception as error:
            self.say_error(error)
        else:
            self._remember(settings, image)
        finally:
            self.stop_button.disabled = True

    def _on_step(self, done: int, total: int) -> bool:
        self.progress.max, self.progress.value = total, done
        if self._stopping.is_set() and done < total:
            self.progress.bar_style = "warning"
            self.say(f"Stopped after step {done} of {total}: this is how far the image had come.")
            return False
        return True

    def _remember(self, settings: Settings, image: Image.Image) -> None:
        self.picture.value = to_png(image)
        self.history = [(settings, image), *self.history][:HISTORY]
        self.strip.children = [self._thumbnail(i) for i in range(len(self.history))]

    def _thumbnail(self, index: int) -> ui.VBox:
        settings, image = self.history[index]
        before = self.history[index + 1][0] if index + 1 < len(self.history) else None
        back = ui.Button(
            description="these settings",
            icon="undo",
            tooltip="set the controls to this image's settings",
            layout=ui.Layout(width="10.5em"),
        )
        back.on_click(lambda _: self.show(settings))
        text = html.escape(settings.differences(before))
        label = ui.HTML(f'<div style="width:10.5em;font-size:80%;line-height:1.2">{text}</div>')
        return ui.VBox([ui.Image(value=to_png(image), format="png", layout=ui.Layout(width="10em")), label, back])
