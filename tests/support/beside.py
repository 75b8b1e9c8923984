"""What tests share: a pipeline of their own, made-up vectors, and a cell that draws while a panel does."""

import copy
import io
import json

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sdhelpers import models

PROMPT = "a cartoon of a cat on a beach"
COLOURS = ["red", "green", "blue", "black", "yellow", "purple", "orange"]  # more than a row of the sheet
WIDTH = json.loads((models.POCKET / "sd15/text_encoder/config.json").read_text(encoding="utf-8"))["hidden_size"]


def of_its_own(pipe) -> StableDiffusionPipeline:
    """The pipeline with a tokenizer and a text encoder of its own; all the rest is shared."""
    own = {name: copy.deepcopy(getattr(pipe, name)) for name in ("tokenizer", "text_encoder")}
    return StableDiffusionPipeline(**pipe.components | own, requires_safety_checker=False)


def table(pipe) -> torch.Tensor:
    """The text encoder's vectors, one row a token."""
    return pipe.text_encoder.get_input_embeddings().weight


def vectors_of(count: int, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """Vectors of an embedding, [count, width]."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def shown(widget) -> Image.Image:
    """The picture that a panel's image widget shows."""
    return Image.open(io.BytesIO(widget.value)).convert("RGB")


def draw(pipe, at_step=None) -> Image.Image:
    """A cell's picture; `at_step` is called in the middle of it, as another thread's turn would come."""

    def after_step(pipe, step, timestep, tensors):
        if step == 2 and at_step:
            at_step()
        return tensors

    generator = torch.Generator().manual_seed(7)
    arguments = dict(num_inference_steps=6, width=128, height=128, callback_on_step_end=after_step)
    return pipe(PROMPT, generator=generator, **arguments).images[0]


def state(pipe) -> dict:
    """All of a pipeline that a panel might change; each weight by its place in memory and its count of changes."""
    said = {
        "scheduler": (id(pipe.scheduler), dict(pipe.scheduler.config)),
        "vocabulary": len(pipe.tokenizer.get_vocab()),
        "adapters": pipe.get_active_adapters() if hasattr(pipe.unet, "peft_config") else [],
        "torch": torch.get_rng_state().tolist(),
    }
    for part in ("unet", "text_encoder", "vae"):
        module = getattr(pipe, part)
        said[part] = [(name, id(layer), dict(getattr(layer, "scaling", {}))) for name, layer in module.named_modules()]
        weights = module.named_parameters()
        said[f"{part}'s weights"] = [(n, w.shape, w.data_ptr(), w._version, w.requires_grad) for n, w in weights]
    return said


def assert_apart(pipe, panel_draws) -> None:
    """A panel's drawing in the middle of a cell's leaves both pictures, and the pipeline, as they are alone."""
    cells, panels, before = draw(pipe), panel_draws(), state(pipe)
    in_the_middle = []
    beside = draw(pipe, lambda: in_the_middle.append(panel_draws()))
    assert in_the_middle == [panels], "the panel's picture is the one that it draws alone"
    assert beside.tobytes() == cells.tobytes(), "and so is the cell's"
    assert state(pipe) == before


def pages(colours=COLOURS, size=(60, 40)) -> list[Image.Image]:
    """Pages of a flipbook, one a colour."""
    return [Image.new("RGB", size, colour) for colour in colours]
