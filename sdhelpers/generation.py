"""What decides how an image looks, and the image made of it: no user interface in here.

    image = generate(pipe, Settings("a cartoon of a cat on a beach", seed=7))
    image = generate(img2img, settings, image=sketch, strength=0.6)

Built in chapter 3.
"""

import dataclasses
import inspect
from typing import Any

from PIL import Image

from sdhelpers import compat
from sdhelpers.device import seeded_generator
from sdhelpers.schedulers import build_scheduler

LARGEST_SEED = 2**32 - 1


class SettingsError(ValueError):
    """Settings that cannot be used; the message is for the reader."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what an image looks like, under the library's own names."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 1234
    guidance_scale: float = 7.5
    num_inference_steps: int = 20
    scheduler: str = "DPM++ 2M"
    width: int = 128
    height: int = 128

    def check(self) -> "Settings":
        """The settings themselves, or SettingsError with one sentence."""
        if not 0 <= self.seed <= LARGEST_SEED:
            raise SettingsError(f"The seed must be between 0 and {LARGEST_SEED}, not {self.seed}.")
        if not 1 <= self.num_inference_steps <= 1000:
            raise SettingsError(f"The steps must be between 1 and 1000, not {self.num_inference_steps}.")
        if self.num_inference_steps % 1:
            raise SettingsError(f"The steps must be a whole number, not {self.num_inference_steps}.")
        if self.width % 8 or self.height % 8 or min(self.width, self.height) < 32:
            size = f"{self.width} x {self.height}"
            raise SettingsError(f"Width and height must be multiples of 8 from 32 on, not {size}.")
        return self

    def differences(self, other: "Settings | None") -> str:
        """What differs from other settings, in a few words; without others the seed, guidance, steps and scheduler."""
        names = [f.name for f in dataclasses.fields(self)]
        if other is None:
            changed = ["seed", "guidance_scale", "num_inference_steps", "scheduler"]
        else:
            changed = [n for n in names if getattr(self, n) != getattr(other, n)]
        short = {"num_inference_steps": "steps", "guidance_scale": "guidance", "negative_prompt": "not"}
        words = [f"{short.get(n, n)} {_in_words(getattr(self, n))}" for n in changed]
        return ", ".join(words) or "the same again"


def _in_words(value: str | float) -> str:
    """A setting in a few letters; a slider's 5.500000000000001 is 5.5."""
    return "nothing" if value == "" else str(round(value, 6) if isinstance(value, float) else value)


def generate(pipe, settings: Settings, on_step=None, **inputs: Any) -> Image.Image:
    """One image from settings, by whatever pipeline: text to image, img2img, inpainting, ControlNet.

    `inputs` are what it takes besides, under its own names: `image` and `strength`, `mask_image`, `control_image`;
    with `prompt_embeds` (see sdhelpers.prompts) the settings' own prompts are not read again, and a
    `callback_on_step_end` is called after each step.
    An img2img pipeline has no width and height of its own and follows its image. `on_step(done, total)` is called
    after each step; returning False stops there. Raises SettingsError for settings out of range and for inputs
    that the pipeline does not take.
    """
    settings.check()
    accepted = inspect.signature(type(pipe).__call__).parameters
    if strange := sorted(set(inputs) - set(accepted)):
        raise SettingsError(
            f"{type(pipe).__name__} takes no {', '.join(strange)}: leave it out or take another pipeline."
        )
    pipe.scheduler = build_scheduler(settings.scheduler, pipe.scheduler.config)

    callback = inputs.pop("callback_on_step_end", None)

    def after_step(pipe, step, timestep, tensors):
        if on_step is not None and on_step(step + 1, pipe.num_timesteps) is False:
            compat.stop(pipe)
        return callback(pipe, step, timestep, tensors) if callback else tensors

    left_out = {"prompt", "negative_prompt"} if "prompt_embeds" in inputs else set()
    values = dataclasses.asdict(settings)
    values = {name: value for name, value in values.items() if name in accepted and name not in {*inputs, *left_out}}
    generator = seeded_generator(settings.seed)
    return pipe(**values, **inputs, generator=generator, callback_on_step_end=after_step).images[0]
