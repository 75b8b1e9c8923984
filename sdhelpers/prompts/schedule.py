"""A prompt that changes while the picture is drawn, fed to the pipeline step by step.

    scheduled = ScheduledPrompt(pipe, "a [cat:dog:0.5] on a beach", num_inference_steps=20)
    pipe(**scheduled.first, callback_on_step_end=scheduled, num_inference_steps=20)

Built in chapter 12.
"""

from typing import Any

import torch
from diffusers.callbacks import PipelineCallback

from sdhelpers.compat import run_device
from sdhelpers.prompts.chunks import arguments, count_chunks, encode_negative, encode_reading
from sdhelpers.prompts.grammar import PromptError
from sdhelpers.prompts.readings import read_schedule


def count_calls(pipe, num_inference_steps: int, strength: float | None = None) -> int:
    """How often the pipeline will ask the UNet, by its own reckoning; img2img skips some steps by its strength."""
    pipe.scheduler.set_timesteps(num_inference_steps)
    if strength is None:
        return len(pipe.scheduler.timesteps)
    return len(pipe.get_timesteps(num_inference_steps, strength, run_device(pipe))[0])


def real_steps(pipe, num_inference_steps: int, strength: float | None = None) -> int:
    """How many steps the pipeline will really take; Heun, of order 2, asks the UNet twice in each."""
    return -(-count_calls(pipe, num_inference_steps, strength) // pipe.scheduler.order)


class ScheduledPrompt(PipelineCallback):
    """The library's kind of callback: after each step it puts the next step's prompt in place.

    `readings` and `negative_readings` hold what is said at each step, `first` the arguments of the first one.
    Give `strength` for img2img. Raises PromptError for a prompt that cannot be read, and while drawing when
    the pipeline takes another number of steps than the schedule was made for.
    """

    def __init__(
        self,
        pipe,
        prompt: str,
        num_inference_steps: int,
        negative_prompt: str | None = None,
        strength: float | None = None,
        clip_skip: int | None = None,
    ):
        super().__init__()
        self._calls = count_calls(pipe, num_inference_steps, strength)
        self.steps = real_steps(pipe, num_inference_steps, strength)
        self.readings = read_schedule(prompt, self.steps)
        self.negative_readings = None if negative_prompt is None else read_schedule(negative_prompt, self.steps)
        negatives = self.negative_readings or [None] * self.steps
        pairs = list(zip(self.readings, negatives))
        count = count_chunks(pipe, [reading or ((),) for pair in set(pairs) for reading in pair])
        encoded = {}
        for positive, negative in set(pairs):
            vectors = encode_reading(pipe, positive, count, clip_skip)
            encoded[positive, negative] = arguments(vectors, encode_negative(pipe, negative, vectors))
        self._by_step = [encoded[pair] for pair in pairs]

    @property
    def first(self) -> dict[str, torch.Tensor]:
        """The arguments that the pipeline begins with."""
        return self._by_step[0]

    @property
    def tensor_inputs(self) -> list[str]:
        """What the pipeline must hand over: SDXL has a pooled vector besides."""
        return ["prompt_embeds", "add_text_embeds"] if "pooled_prompt_embeds" in self.first else ["prompt_embeds"]

    def callback_fn(self, pipeline, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Exchange the embeddings for those of the step after `step_index`, in the shape that the loop uses."""
        if pipeline.num_timesteps != self._calls:
            raise PromptError(
                f"The schedule was made for {self._calls} calls of the UNet, but the pipeline makes "
                f"{pipeline.num_timesteps}: give both the same num_inference_steps, and the strength of img2img."
            )
        following = self._by_step[min((step_index + 1) // pipeline.scheduler.order, self.steps - 1)]
        for name, argument in (("prompt_embeds", "prompt_embeds"), ("add_text_embeds", "pooled_prompt_embeds")):
            if argument in following:
                tensors = [following[f"negative_{argument}"], following[argument]]
                guided = pipeline.do_classifier_free_guidance
                callback_kwargs[name] = in_batch(tensors if guided else tensors[1:], callback_kwargs[name])
        return callback_kwargs


def in_batch(tensors: list[torch.Tensor], present: torch.Tensor) -> torch.Tensor:
    """Each tensor as often as there are pictures, one below the other, like the present ones: [batch, ...]."""
    pictures = present.shape[0] // len(tensors)
    return torch.cat([tensor.repeat_interleave(pictures, dim=0) for tensor in tensors]).to(present)
