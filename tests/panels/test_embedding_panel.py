"""The panel of a learnt word: its sliders say what is in its own pipeline, and nowhere else."""

import pytest
import torch

from beside import assert_apart, state, table, vectors_of
from sdhelpers.files.embedding import add_to_pipeline, token_names
from sdhelpers.panels.base import BLANK
from sdhelpers.panels.embedding import EmbeddingPanel


@pytest.fixture
def panel(fresh):
    checkpoints = {step: vectors_of(3, seed=step) for step in (0, 20, 40)}
    return EmbeddingPanel(fresh, "a cartoon of <toy> on a beach", "<toy>", checkpoints, num_inference_steps=2)


@pytest.mark.parametrize("step", [0, 40])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scale", [0, 2])
def test_the_panel_puts_into_the_pipeline_what_its_sliders_say(panel, step, count, scale):
    panel.step.value, panel.vectors.value, panel.scale.value = step, count, scale
    assert panel.message.value == ""
    ids = panel.pipe.tokenizer.convert_tokens_to_ids(token_names("<toy>", count))
    assert torch.equal(table(panel.pipe)[ids], scale * panel.checkpoints[step][:count])
    assert len(panel.pipe.tokenizer.get_vocab()) == min(ids) + count, "no vectors of an earlier setting are left"
    assert all(name in panel.expanded for name in token_names("<toy>", count))


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_panel_draws_at_its_ends(panel, end):
    panel.step.value = panel.step.options[0 if end == "min" else -1]
    for control in (panel.vectors, panel.scale, panel.seed):
        control.value = getattr(control, end)
    panel.draw_button.click()
    assert panel.message.value == "" and panel.picture.value != BLANK


def test_the_panel_begins_with_everything_and_draws(panel):
    assert (panel.step.value, panel.vectors.value, panel.scale.value) == (40, 3, 1)
    first = panel.picture.value
    panel.draw_button.click()
    drawn = panel.picture.value
    assert panel.message.value == "" and drawn != first
    panel.vectors.value = 1
    panel.draw_button.click()
    assert panel.picture.value != drawn


def test_the_panel_and_a_cell_draw_side_by_side(panel, fresh):
    def draws() -> bytes:
        panel.vectors.value = 1
        panel.vectors.value = 3
        panel.draw_button.click()
        assert panel.message.value == ""
        return panel.picture.value

    assert_apart(fresh, draws)


@pytest.mark.parametrize("own", [None, 1, 5])
def test_the_sliders_leave_the_pipelines_vocabulary_alone(fresh, own):
    """Whether the pipeline knows the token already, with other vectors, or not."""
    if own:
        add_to_pipeline(fresh, "<toy>", vectors_of(own, seed=9))
    rows, before = table(fresh).detach().clone(), state(fresh)
    panel = EmbeddingPanel(fresh, "a <toy>", "<toy>", {0: vectors_of(3), 9: vectors_of(3, seed=1)})
    for control in (panel.step, panel.vectors, panel.scale):
        control.value = control.options[0] if control is panel.step else control.min
    assert panel.message.value == ""
    assert state(fresh) == before and torch.equal(table(fresh), rows)


def test_a_prompt_that_cannot_be_read_is_said_in_the_panel(panel):
    panel.prompt.value = "a [<toy>:b on a beach"
    assert panel.message.value != ""
    panel.prompt.value = "a <toy>"
    assert panel.message.value == ""
