"""The reference panel: what a reference changes, its scale and kinds, a picture of the reader's own, and a failure."""

import numpy as np
import pytest
from PIL import Image

from beside import assert_apart, shown
from sdhelpers import models, world
from sdhelpers.panels.reference import ReferencePanel, open_picture

KINDS = {"object and style": [1.0, 0.0], "style": [0.0, 1.0]}


def scene(noun: str, style: str) -> Image.Image:
    return world.draw(world.Description((noun,), style, "beach"), np.random.RandomState(0)).image


@pytest.fixture
def references():
    return {"a cat": scene("cat", "cartoon"), "a rocket": scene("rocket", "line drawing")}


@pytest.fixture
def adapted(fresh):
    """The pocket pipeline with two adapters in a UNet of its own."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(models.locate("sd15"), subfolder="unet")
    pipe = StableDiffusionPipeline(**fresh.components | {"unet": unet}, requires_safety_checker=False)
    names = ["ip-adapter-plus_sd15.safetensors", "ip-adapter-style_sd15.safetensors"]
    pipe.load_ip_adapter(str(models.locate("ip-adapter")), subfolder="models", weight_name=names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def panel(adapted, references):
    return ReferencePanel(adapted, references, "in the snow", KINDS, steps=2)


def drawn(panel) -> bytes:
    assert panel.message.value == "", panel.message.value
    assert shown(panel.picture).tobytes() == panel.drawn.tobytes()
    return panel.drawn.tobytes()


def test_it_shows_the_reference_and_another_one_changes_the_picture(panel, references):
    first = drawn(panel)
    assert shown(panel.shown).tobytes() == references["a cat"].tobytes()
    panel.choice.value = "a rocket"
    assert drawn(panel) != first
    assert shown(panel.shown).tobytes() == references["a rocket"].tobytes()


def test_at_scale_0_the_reference_does_not_count(panel):
    panel.scale.value = 0
    before = drawn(panel)
    panel.choice.value = "a rocket"
    assert drawn(panel) == before


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("control", ["scale", "seed"])
def test_every_control_works_at_its_ends(panel, control, end):
    before = drawn(panel)
    slider = getattr(panel, control)
    slider.value = getattr(slider, end)
    assert drawn(panel) != before


def test_what_the_reference_gives_is_one_adapters_or_the_others(panel):
    before = drawn(panel)
    panel.kind.value = "style"
    assert drawn(panel) != before
    panel.kind.value = "object and style"
    assert drawn(panel) == before


def test_a_single_kind_is_no_choice(adapted, references):
    panel = ReferencePanel(adapted, references, "", {"object and style": [1.0, 0.0]}, steps=2)
    assert panel.kind not in panel.children
    assert drawn(panel)


def test_a_picture_of_ones_own_is_taken_until_its_path_is_cleared(panel, tmp_path):
    first = drawn(panel)
    file = tmp_path / "mine.png"
    scene("owl", "3d render").resize((300, 200)).save(file)
    panel.path.value = f" {file} "
    assert drawn(panel) != first and shown(panel.shown).size == (256, 171)
    panel.path.value = ""
    assert drawn(panel) == first


def test_a_path_that_holds_no_picture_is_said_and_the_old_picture_stays(panel, tmp_path):
    before = panel.picture.value
    (tmp_path / "words.txt").write_text("no picture", encoding="utf-8")
    for path in (tmp_path / "words.txt", tmp_path / "missing.png", tmp_path):
        panel.path.value = str(path)
        assert "cannot be opened as a picture" in panel.message.value
        assert panel.picture.value == before


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(str(tmp_path / "turned.jpg")).size == (20, 30)


def test_the_panel_and_a_cell_draw_side_by_side(panel, plain):
    def again() -> bytes:
        panel.draw()
        return panel.drawn.tobytes()

    assert_apart(plain, again)


def test_the_chapters_pipeline_keeps_its_scales(adapted, references):
    adapted.set_ip_adapter_scale([0.3, 0.7])
    panel = ReferencePanel(adapted, references, "in the snow", KINDS, steps=2)
    panel.scale.value = 0.5
    scales = [p.scale for name, p in adapted.unet.attn_processors.items() if ".attn2." in name]
    assert scales and all(scale == [0.3, 0.7] for scale in scales)
