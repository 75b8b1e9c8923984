"""The prompt builder at its ends, with its style, beside a cell, and after a failure."""

import numpy as np
import pytest

import wishes
from beside import assert_apart, shown
from sdhelpers import world
from sdhelpers.measures.pixels import difference
from sdhelpers.panels.prompter import PromptBuilder


@pytest.fixture
def panel(pipe, writer):
    return PromptBuilder(pipe, writer, "a kitty at the seaside", world.STYLES, num_inference_steps=2)


@pytest.mark.parametrize("end", ["min", "default", "max"])
def test_the_panel_works_at_its_ends(panel, end):
    if end != "default":
        for control in (panel.temperature, panel.number, panel.seed):
            control.value = getattr(control, end)
    panel.expand_button.click()
    assert 1 <= len(panel.candidates) <= panel.number.value and panel.chosen == panel.candidates[0]
    assert panel.message.value == "" or "came twice" in panel.message.value
    panel.draw_button.click()
    assert shown(panel.raw).size == shown(panel.picture).size == (128, 128)
    assert difference(shown(panel.raw), shown(panel.picture)) > 0
    assert not panel.draw_button.disabled and not panel.expand_button.disabled


def test_the_panel_obeys_the_style_and_draws_what_is_chosen(panel):
    panel.style.value = "line drawing"
    panel.temperature.value = 1.5
    panel.expand_button.click()
    assert np.mean([wishes.names_style(p, "line drawing") for p in panel.candidates]) >= 0.5
    panel.list.index = len(panel.candidates) - 1
    panel.draw_button.click()
    assert panel.candidates[-1] in panel.label.value and "kitty" in panel.raw_label.value


def test_the_panel_and_a_cell_draw_side_by_side(panel, pipe):
    panel.expand_button.click()

    def draws() -> tuple[bytes, bytes]:
        panel.draw_button.click()
        assert panel.message.value == ""
        return panel.raw.value, panel.picture.value

    assert_apart(pipe, draws)


def test_a_mistake_is_shown_in_the_panel_and_goes_away(panel):
    panel.words.value = "  "
    panel.expand_button.click()
    assert "no words" in panel.message.value and panel.candidates == () and panel.draw_button.disabled
    panel.words.value = "a <b>owl</b>"
    panel.expand_button.click()
    panel.draw_button.click()
    assert "no words" not in panel.message.value and "&lt;b&gt;" in panel.raw_label.value


def test_any_other_failure_is_said_too(panel, monkeypatch):
    panel.expand_button.click()

    def broken(*arguments, **more):
        raise RuntimeError("a <part> is missing")

    monkeypatch.setattr(panel, "pipe", broken)
    panel.draw_button.click()
    assert "RuntimeError: a &lt;part&gt; is missing" in panel.message.value and not panel.draw_button.disabled
