"""The LoRA panel at its ends, beside a cell, and after a failure."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from beside import assert_apart
from sdhelpers import models
from sdhelpers.panels.lora import STRONGEST, LoraPanel

NAMES = ("icon", "hedgehog", "detail")
FOLDER = models.POCKET / "loras"


@pytest.fixture
def panel(plain):
    for name in NAMES:
        plain.load_lora_weights(FOLDER, weight_name=f"{name}.safetensors", adapter_name=name)
    return LoraPanel(plain, NAMES, "a cartoon of a cat on a beach", steps=2)


def shown(widget) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(widget.value)).convert("RGB"))


def click(panel) -> tuple[np.ndarray, np.ndarray]:
    panel.draw_button.click()
    assert panel.message.value == "", panel.message.value
    assert not panel.draw_button.disabled
    for picture, widget in zip(panel.drawn, panel.pictures):
        assert np.array_equal(np.asarray(picture), shown(widget))
    return shown(panel.pictures[0]), shown(panel.pictures[1])


def test_the_panel_begins_at_0_where_both_pictures_are_equal(panel):
    assert panel.weights == dict.fromkeys(NAMES, 0)
    without, with_them = click(panel)
    assert without.shape == (128, 128, 3) and np.array_equal(without, with_them)


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_every_slider_works_at_its_ends(panel, name, end):
    for slider in panel.sliders.values() if name == "all" else [panel.sliders[name]]:
        slider.value = getattr(slider, end)
        assert abs(slider.value) == STRONGEST
    without, with_them = click(panel)
    assert not np.array_equal(without, with_them)
    panel.zero_button.click()
    again, zero = click(panel)
    assert np.array_equal(again, without) and np.array_equal(zero, without)


@pytest.mark.parametrize("seed", ["min", "max"])
def test_the_seed_works_at_its_ends(panel, seed):
    usual, _ = click(panel)
    panel.seed.value = getattr(panel.seed, seed)
    other, _ = click(panel)
    assert not np.array_equal(usual, other)


def test_the_panel_and_a_cell_draw_side_by_side(panel, plain):
    """The cell draws with one LoRA at a weight of its own while the panel goes from all at 0 to all at 2."""
    plain.set_adapters([NAMES[0]], [0.7])
    for slider in panel.sliders.values():
        slider.value = STRONGEST
    assert_apart(plain, lambda: [picture.tobytes() for picture in afresh(panel)])


def afresh(panel) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures; that without any LoRA is drawn again, too."""
    panel._base = None
    return click(panel)


def test_the_panel_keeps_its_loras_when_a_later_cell_unloads_them(panel, plain):
    for slider in panel.sliders.values():
        slider.value = 1.0
    before = [picture.tobytes() for picture in afresh(panel)]
    plain.unload_lora_weights()
    assert [picture.tobytes() for picture in afresh(panel)] == before


def test_a_failure_is_said_in_the_panel(panel, monkeypatch):
    def broken(*arguments, **named):
        raise RuntimeError("a <part> is missing")

    monkeypatch.setattr(panel, "pipe", SimpleNamespace(set_adapters=broken))
    panel.draw_button.click()
    assert "RuntimeError: a &lt;part&gt; is missing" in panel.message.value
    assert not panel.draw_button.disabled
