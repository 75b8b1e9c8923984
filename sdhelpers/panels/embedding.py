"""A panel for a learnt word: how far it was trained, how many of its vectors are used, and at what scale.

    EmbeddingPanel(pipe, "a cartoon of <toy> on a beach", "<toy>", {0: vectors, 50: vectors, 100: vectors})

Built in chapter 9.
"""

from collections.abc import Mapping

import ipywidgets as ui
import torch
from PIL import Image

from sdhelpers.files.embedding import MOST_VECTORS, add_to_pipeline, token_names
from sdhelpers.panels.prompt import DrawingPanel, token_picture
from sdhelpers.prompts import encode, read_prompt, to_chunks


class EmbeddingPanel(DrawingPanel):
    """A prompt with the token, its vectors [vectors, width] after some steps of training, and three sliders.

    Whatever the sliders say is put into the panel's own pipeline at once; `expanded` holds the prompt as it is encoded.
    """

    def __init__(
        self,
        pipe,
        prompt: str,
        token: str,
        checkpoints: Mapping[int, torch.Tensor],
        seed: int = 1234,
        size: int = 128,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
    ):
        self.guidance_scale = guidance_scale
        self.token, self.checkpoints, self.num_inference_steps = token, dict(checkpoints), num_inference_steps
        self.expanded = ""
        count, last = len(next(iter(self.checkpoints.values()))), max(self.checkpoints)
        wide = ui.Layout(width="30em")
        self.step = ui.SelectionSlider(options=sorted(self.checkpoints), value=last, description="steps", layout=wide)
        self.vectors = ui.IntSlider(count, min=1, max=count, description="vectors", layout=wide)
        self.scale = ui.FloatSlider(1, min=0, max=2, step=0.1, description="scale", layout=wide)
        super().__init__(pipe, prompt, (self.step, self.vectors, self.scale), seed, size)
        self.add_class("sdhelpers-embedding-panel")

    def put(self) -> None:
        """Exchange the token's vectors in the panel's pipeline for those that the sliders say."""
        vocabulary = self.pipe.tokenizer.get_vocab()
        old = [name for name in token_names(self.token, MOST_VECTORS) if name in vocabulary]
        vectors = self.checkpoints[self.step.value][: self.vectors.value]
        with torch.random.fork_rng():  # the libraries fill new tables at random first, from torch's own numbers
            if old:
                self.pipe.unload_textual_inversion(old)
            add_to_pipeline(self.pipe, self.token, self.scale.value * vectors)

    def look(self) -> Image.Image:
        self.put()
        self.expanded = self.pipe.maybe_convert_prompt(self.prompt.value, self.pipe.tokenizer)
        return token_picture(self.pipe.tokenizer, to_chunks(self.pipe.tokenizer, read_prompt(self.expanded)))

    def draw(self) -> Image.Image:
        return self.generate(**encode(self.pipe, self.prompt.value), num_inference_steps=self.num_inference_steps)
