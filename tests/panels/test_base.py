"""The panels' own copy of a pipeline: nothing of it is shared but the numbers."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from beside import draw, state
from sdhelpers.panels.base import own_copy

MODULES = ("unet", "text_encoder", "vae")


def test_it_draws_the_same_from_the_same_numbers(pipe):
    mine = own_copy(pipe)
    assert draw(mine).tobytes() == draw(pipe).tobytes()
    for name in MODULES:
        ours, theirs = (dict(getattr(p, name).named_parameters()) for p in (mine, pipe))
        assert list(ours) == list(theirs)
        assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in ours), "no weight is in memory twice"


def test_whatever_is_done_to_it_the_pipeline_stays(pipe):
    before, picture = state(pipe), draw(pipe).tobytes()
    mine = own_copy(pipe)
    mine.scheduler.set_timesteps(3)
    mine.tokenizer.add_tokens(["<toy>"])
    with torch.random.fork_rng():
        mine.text_encoder.resize_token_embeddings(len(mine.tokenizer), mean_resizing=False)
    mine.text_encoder.get_input_embeddings().weight.data[-1:] = 1
    mine.unet.requires_grad_(True).half()
    mine.vae.enable_tiling()
    mine.set_progress_bar_config(disable=False)
    assert state(pipe) == before and not pipe.vae.use_tiling and pipe._progress_bar_config == {"disable": True}
    assert draw(pipe).tobytes() == picture


def test_a_module_with_hooks_is_copied_with_them(pipe):
    """Offloading (chapter 7) is done by such hooks: each copy has to move its own module."""
    mine = own_copy(pipe)
    add_hook_to_module(mine.unet, AlignDevicesHook("cpu"))
    copied = own_copy(mine)
    assert copied.unet._hf_hook is not mine.unet._hf_hook and copied.unet._old_forward.__self__ is copied.unet
    assert draw(copied).tobytes() == draw(pipe).tobytes()


@pytest.mark.parametrize("trainable", [True, False])
def test_a_weight_is_trained_or_not_in_the_copy_as_in_the_pipeline(pipe, trainable):
    mine = own_copy(pipe)
    mine.unet.requires_grad_(trainable)
    assert {weight.requires_grad for weight in own_copy(mine).unet.parameters()} == {trainable}
