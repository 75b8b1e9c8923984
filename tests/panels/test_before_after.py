"""The sheet of the pictures that a before/after slider shows; that it moves is seen in test_slider.py."""

import pytest
from PIL import Image

from beside import COLOURS, pages
from sdhelpers.panels.before_after import BeforeAfter


def test_texts_cannot_become_html():
    said = BeforeAfter(pages(["red", "blue"]), ['"><script>alert(1)</script>', "b"], '"><b>')._repr_html_()
    assert "<script>" not in said and "<b>" not in said


@pytest.mark.parametrize("images,labels", [([], []), (pages(["red"]), ["one"]), (pages(), ["one"])])
def test_fewer_than_two_and_pictures_without_labels_are_refused(images, labels):
    with pytest.raises(ValueError, match="two images or more and one label each"):
        BeforeAfter(images, labels)


def test_pictures_of_two_sizes_are_refused():
    two = [Image.new("RGB", (8, 8)), Image.new("RGB", (16, 16))]
    with pytest.raises(ValueError, match="resize them to one first"):
        BeforeAfter(two, ["small", "large"])


def test_it_names_its_pictures():
    pair = BeforeAfter(pages(), COLOURS, "which colour")
    assert all(colour in repr(pair) for colour in COLOURS)
    assert 'alt="which colour: ' in pair._repr_html_()
