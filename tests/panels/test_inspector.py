"""The inspector, used as a reader does: a file is dropped, looked at, and drawn again."""

import dataclasses
import io

import pytest
from PIL import Image

from beside import assert_apart
from sdhelpers.generation import LARGEST_SEED, Settings
from sdhelpers.metadata import read_image, save_image
from sdhelpers.metadata.generation import generate_and_record, model_source
from sdhelpers.metadata.png import with_texts
from sdhelpers.panels.inspector import MetadataInspector


@pytest.fixture(scope="module")
def made(pipe, tmp_path_factory):
    """An image, its data, and its file."""
    settings = Settings("a <b>cartoon</b> of a cat", num_inference_steps=3)
    image, data = generate_and_record(pipe, settings, model_source("sd15"))
    return image, data, save_image(image, data, tmp_path_factory.mktemp("inspector") / "cat.png")


@pytest.fixture
def panel(pipe):
    return MetadataInspector(pipe)


def choose(panel: MetadataInspector, name: str, content: bytes) -> None:
    """What the browser sends when a file is dropped or chosen."""
    panel.files._handle_custom_msg({"name": name, "size": len(content)}, [memoryview(content)])


def test_a_dropped_file_is_shown_and_drawn_again(panel, made):
    image, data, path = made
    choose(panel, "cat.png", path.read_bytes())
    assert panel.found.data == data and not panel.draw_button.disabled
    assert Image.open(io.BytesIO(bytes(panel.picture.value))).tobytes() == image.tobytes()
    assert "PNG, 128 x 128 pixels" in panel.message.value
    assert "DPM++ 2M" in panel.details.value and "as recorded" in panel.details.value
    assert "tEXt" in panel.details.value
    panel.draw_button.click()
    assert panel.again.tobytes() == image.tobytes()
    assert panel.message.value == "Drawn again: not a pixel differs."


def test_the_panel_and_a_cell_draw_side_by_side(panel, pipe, made):
    choose(panel, "cat.png", made[2].read_bytes())

    def draws() -> bytes:
        panel.draw_button.click()
        assert panel.message.value == "Drawn again: not a pixel differs."
        return panel.second.value

    assert_apart(pipe, draws)


@pytest.mark.parametrize(
    "settings",
    [
        Settings("", seed=0, guidance_scale=1, num_inference_steps=1, scheduler="Euler", width=64, height=64),
        Settings("cat " * 500, "dog", LARGEST_SEED, 20, 8, "DPM++ 2M Karras", 192, 128),
    ],
    ids=["least", "most"],
)
def test_the_smallest_and_the_largest_settings_are_drawn_again(panel, pipe, tmp_path, settings):
    image, data = generate_and_record(pipe, settings, model_source("sd15"))
    choose(panel, "cat.png", save_image(image, data, tmp_path / "cat.png").read_bytes())
    panel.draw_button.click()
    assert panel.message.value == "Drawn again: not a pixel differs."


def test_texts_from_files_cannot_become_html(panel, made):
    choose(panel, "<i>cat</i>.png", made[2].read_bytes())
    assert "<b>cartoon" not in panel.details.value and "&lt;b&gt;cartoon" in panel.details.value
    assert "<i>" not in panel.message.value


def test_an_edited_file_is_seen_through(panel, made):
    image, _, path = made
    text = read_image(path).texts["parameters"].replace("Steps: 3", "Steps: 30")
    painted = image.copy()
    painted.putpixel((0, 0), (1, 2, 3))
    file = io.BytesIO()
    painted.save(file, "PNG")
    choose(panel, "a.png", with_texts(file.getvalue(), read_image(path).texts | {"parameters": text}))
    assert "not those recorded" in panel.details.value
    assert "num_inference_steps: 3 in ours, 30 in parameters" in panel.details.value


def test_files_of_others_and_plain_ones(panel, made):
    file = io.BytesIO()
    made[0].save(file, "PNG")
    choose(panel, "plain.png", file.getvalue())
    assert "No generation data" in panel.details.value and panel.draw_button.disabled
    choose(panel, "theirs.png", with_texts(file.getvalue(), {"parameters": "a cat\nSteps: 1, Sampler: New, Seed: 3"}))
    assert "a cat" in panel.details.value and "New" in panel.details.value and panel.draw_button.disabled
    assert "sampler &#x27;New&#x27; is not one" in panel.details.value
    text = "a cat\nSteps: 1, Sampler: Euler, Seed: 3, CFG scale: 2, Size: 64x64, RNG: CPU, Hires upscale: <b>"
    choose(panel, "more.png", with_texts(file.getvalue(), {"parameters": text}))
    assert "Not drawn from these: Hires upscale: &lt;b&gt;." in panel.details.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda png: b"", "cat.png: This is not a PNG file"),
        (lambda png: png[:200], "cut off"),
        (lambda png: png[:-60] + b"\0" * 20 + png[-40:], "check sum of the IDAT chunk"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence_in_the_panel(panel, made, change, message):
    choose(panel, "cat.png", made[2].read_bytes())
    choose(panel, "cat.png", change(made[2].read_bytes()))
    assert message in panel.message.value
    assert panel.found is None and panel.draw_button.disabled and panel.details.value == ""


def test_a_file_too_large_for_the_connection_is_a_sentence_too(panel):
    panel.files._handle_custom_msg({"name": "large.png", "size": 10**9}, [])
    assert "large.png: more than 8 MB" in panel.message.value and panel.draw_button.disabled


def test_pixels_that_cannot_be_decoded_are_a_sentence_too(panel):
    file = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(file, "PNG")
    choose(panel, "large.png", file.getvalue())
    assert "too many to show" in panel.message.value
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    choose(panel, "half.jpg", jpeg.getvalue()[:-900])
    assert "half.jpg: its picture cannot be decoded" in panel.message.value


def test_what_cannot_be_drawn_again_is_said(panel, made, tmp_path):
    image, data, _ = made
    other = dataclasses.replace(data, model=dataclasses.replace(data.model, revision="0" * 64))
    choose(panel, "other.png", save_image(image, other, tmp_path / "a.png").read_bytes())
    panel.draw_button.click()
    assert "another version of sd15" in panel.message.value
    unknown = dataclasses.replace(data, model=dataclasses.replace(data.model, name="sd99"))
    choose(panel, "unknown.png", save_image(image, unknown, tmp_path / "b.png").read_bytes())
    panel.draw_button.click()
    assert "no model &#x27;sd99&#x27;" in panel.message.value
