"""The flipbook's sheet of pages; that it turns them is seen in test_browser.py."""

import pytest
from PIL import Image

from beside import COLOURS, pages
from sdhelpers.panels.flipbook import Flipbook
from sdhelpers.panels.sheet import MOST_BYTES


def test_the_sheet_is_small():
    noise = [Image.effect_noise((200, 200), 80).convert("RGB") for _ in range(20)]
    flat = Flipbook(pages(size=(200, 200)), COLOURS)
    assert len(flat.content) < 10_000
    assert len(Flipbook(noise, [str(i) for i in range(20)]).content) < 3 * MOST_BYTES
    smooth = [Image.linear_gradient("L").convert("RGB").rotate(i) for i in range(20)]
    assert len(Flipbook(smooth, [str(i) for i in range(20)]).content) <= MOST_BYTES


def test_texts_cannot_become_html():
    said = Flipbook(pages(["red"]), ['"><script>alert(1)</script>'], '"><b>')._repr_html_()
    assert "<script>" not in said and "<b>" not in said


@pytest.mark.parametrize("images,labels", [([], []), (pages(), ["one"])])
def test_pages_without_labels_are_refused(images, labels):
    with pytest.raises(ValueError, match="one label each"):
        Flipbook(images, labels)
