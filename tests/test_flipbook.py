"""The flipbook turned to its first, middle and last page."""

import io

import pytest
from PIL import Image

from sdhelpers.flipbook import Flipbook

COLOURS = ["red", "green", "blue"]


def pages() -> list[Image.Image]:
    return [Image.new("RGB", (12, 8), colour) for colour in COLOURS]


@pytest.mark.parametrize("page", [0, 1, 2])
def test_each_page_shows_its_picture_and_label(page):
    book = Flipbook(pages(), COLOURS)
    book.page.value = page
    shown = Image.open(io.BytesIO(book.picture.value))
    assert shown.getpixel((0, 0)) == pages()[page].getpixel((0, 0))
    assert book.label.value == COLOURS[page]


def test_the_slider_ends_where_the_pages_end():
    book = Flipbook(pages(), COLOURS)
    book.page.value = 99
    assert book.page.value == 2 and book.label.value == "blue"


@pytest.mark.parametrize("images,labels", [([], []), (pages(), ["one"])])
def test_pages_without_labels_are_refused(images, labels):
    with pytest.raises(ValueError, match="one label each"):
        Flipbook(images, labels)
