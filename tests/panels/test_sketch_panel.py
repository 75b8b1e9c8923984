"""The sketch panel: each line is followed at once, its ends, its buttons, and a failure."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from beside import assert_apart
from sdhelpers import models
from sdhelpers.panels.sketch import SketchPanel, sketch_image

HOUSE = [{"pen": 3, "points": [[0.3, 0.8], [0.3, 0.5], [0.7, 0.5], [0.7, 0.8], [0.3, 0.8]]}]
ROOF = {"pen": 3, "points": [[0.25, 0.5], [0.5, 0.25], [0.75, 0.5]]}


@pytest.fixture
def controlled(plain):
    net = ControlNetModel.from_pretrained(models.locate("controlnet-scribble"))
    return StableDiffusionControlNetPipeline(**{**plain.components, "controlnet": net}, requires_safety_checker=False)


@pytest.fixture
def panel(controlled):
    controlled.set_progress_bar_config(disable=True)
    return SketchPanel(controlled, "a cartoon of a house in a meadow", HOUSE, steps=2)


def shown(panel) -> np.ndarray:
    assert panel.message.value == "", panel.message.value
    image = np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("RGB"))
    assert np.array_equal(image, np.asarray(panel.drawn))
    return image


def test_a_sketch_is_white_lines_of_the_pens_width_on_black():
    image = np.asarray(sketch_image([{"pen": 4, "points": [[0.25, 0.5], [0.75, 0.5]]}], 64))
    assert image.shape == (64, 64, 3) and set(np.unique(image)) == {0, 255}
    rows, columns = np.nonzero(image[..., 0])
    assert 3 <= np.ptp(rows) + 1 <= 5 and columns.min() in (13, 14, 15) and columns.max() in (49, 50, 51)
    dot = np.asarray(sketch_image([{"pen": 4, "points": [[0.5, 0.5]]}], 64))
    assert 4 <= (dot[..., 0] > 0).sum() <= 25, "a click without a movement is a dot"
    assert not np.asarray(sketch_image([], 64)).any()


def test_it_begins_with_the_sketch_that_it_is_given_and_follows_each_line(panel):
    first = shown(panel)
    panel.pad.lines = [*panel.pad.lines, ROOF]
    second = shown(panel)
    assert not np.array_equal(first, second)
    panel.undo_button.click()
    assert np.array_equal(shown(panel), first) and panel.pad.lines == HOUSE


def test_without_a_line_the_prompt_alone_counts(panel):
    panel.clear_button.click()
    assert panel.pad.lines == []
    empty = shown(panel)
    panel.scale.value = panel.scale.max
    assert np.array_equal(shown(panel), empty)


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("control", ["scale", "seed", "pen"])
def test_every_control_works_at_its_ends(panel, control, end):
    before = shown(panel)
    slider = getattr(panel, control)
    slider.value = getattr(slider, end)
    assert np.array_equal(shown(panel), before) == (control == "pen"), "the pen is for the next line"
    assert panel.pad.pen == panel.pen.value


def test_other_words_on_the_same_sketch(panel):
    before = shown(panel)
    panel.prompt.value = "a line drawing of a house in the snow"
    assert not np.array_equal(shown(panel), before)


def test_the_panel_and_a_cell_draw_side_by_side(panel, plain):
    def again() -> bytes:
        panel.draw()
        return panel.drawn.tobytes()

    assert_apart(plain, again)


def test_a_failure_is_said_in_the_panel(panel, monkeypatch):
    def broken(**named):
        raise RuntimeError("a <part> is missing")

    monkeypatch.setattr(panel, "pipe", SimpleNamespace(__call__=broken))
    monkeypatch.setattr(panel, "pipe", broken)
    panel.pad.lines = [ROOF]
    assert "RuntimeError: a &lt;part&gt; is missing" in panel.message.value
