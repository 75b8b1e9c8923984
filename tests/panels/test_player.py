"""The player's sheet of frames; that it plays is seen in test_browser.py."""

import pytest
from PIL import Image

from beside import COLOURS, pages
from sdhelpers.panels.player import WIDEST, Player
from sdhelpers.panels.sheet import GAP


def sheet_of(player: Player, tmp_path) -> Image.Image:
    path = tmp_path / "sheet.webp"
    path.write_bytes(player.content)
    return Image.open(path).convert("RGB")


def test_clips_stand_side_by_side_in_each_frame(tmp_path):
    clips = [pages(["red", "green"], (40, 40)), pages(["blue", "yellow"], (40, 40))]
    sheet = sheet_of(Player(clips, ["first", "second"]), tmp_path)
    width = 2 * (40 + GAP) + GAP  # of a frame of both
    for number, colours in enumerate([("red", "blue"), ("green", "yellow")]):
        for place, name in enumerate(colours):
            left = GAP + number * (width + GAP) + GAP + place * (40 + GAP)
            assert sheet.getpixel((left + 20, 2 * GAP + 20)) == Image.new("RGB", (1, 1), name).getpixel((0, 0))


def test_a_clip_without_a_label_is_its_frames_alone(tmp_path):
    sheet = sheet_of(Player([pages(["red", "green"], (40, 40))]), tmp_path)
    assert sheet.width == 2 * (40 + GAP) + GAP


def test_a_wide_sheet_is_folded():
    many = Player([pages(size=(300, 30))] * 3, ["a", "b", "c"])
    assert many.book["columns"] * many.book["width"] <= WIDEST and many.book["count"] == len(COLOURS)


def test_it_is_told_its_speed_and_names_its_clips():
    player = Player([pages()], ["a wave"], 12, "picture")
    assert player.book["speed"] == 12 and player.book["title"] == "picture"
    assert "a wave" in repr(player) and "7 frames" in repr(player)
    assert "clip 2" in repr(Player([pages(), pages()]))


def test_texts_cannot_become_html():
    said = Player([pages(["red"])], ["<b>"], description='"><script>alert(1)</script>')._repr_html_()
    assert "<script>" not in said


@pytest.mark.parametrize("clips,labels", [([], None), ([[]], None), ([pages()], ["one", "two"])])
def test_clips_without_labels_are_refused(clips, labels):
    with pytest.raises(ValueError, match="one label each"):
        Player(clips, labels)


@pytest.mark.parametrize("other", [pages()[:3], pages(size=(16, 16))])
def test_clips_of_two_lengths_or_sizes_are_refused(other):
    with pytest.raises(ValueError, match="equally long and large"):
        Player([pages(), other])


@pytest.mark.parametrize("speed", [0, 25])
def test_a_speed_that_the_slider_cannot_show_is_refused(speed):
    with pytest.raises(ValueError, match="from 1 to 24"):
        Player([pages()], frames_per_second=speed)
