"""What the tests of the panels share: a cell that draws while a panel does, and what of the pipeline may not change."""

import torch
from PIL import Image

PROMPT = "a cartoon of a cat on a beach"


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
