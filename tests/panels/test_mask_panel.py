"""The mask panel at its ends, and its errors."""

import pytest
import torch
from PIL import Image

from sdhelpers.panels import mask


@pytest.mark.parametrize("end", ["min", "default", "max"])
def test_the_panel_at_its_ends(end):
    image = Image.new("RGB", (32, 32), "blue")
    panel = mask.MaskPanel(image, lambda words: torch.linspace(0, 1, 32 * 32).reshape(32, 32), "the sky")
    before = panel.picture.value
    for slider in (panel.threshold, panel.feather):
        if end != "default":
            slider.value = getattr(slider, end)
    assert (panel.picture.value != before) == (end != "default")
    assert "of the pixels are masked" in panel.message.value


def test_the_panel_shows_errors_inside():
    panel = mask.MaskPanel(Image.new("RGB", (8, 8)), lambda words: torch.zeros(8, 8), "x")
    panel.words.value = " "
    assert "Write what is to be masked" in panel.message.value
    panel.words.value = "sky"
    assert "0% of the pixels" in panel.message.value
