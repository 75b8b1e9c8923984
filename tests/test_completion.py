"""Models that share weights: put together once, rebuilt when anything changed, and equal to what they are made of."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPSegForImageSegmentation

from sdhelpers import completion, models

SHARING = [name for name in models.REGISTRY if (models.POCKET / name / completion.OWN).exists() and name != "community"]


def test_some_models_share():
    assert {"clipseg", "inpainting", "safety-checker"} <= set(SHARING)


def test_clipseg_sees_with_pocket_clip():
    clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32)
    model = CLIPSegForImageSegmentation.from_pretrained(models.locate("clipseg"), dtype=torch.float32)
    shared = model.clip.state_dict()
    assert all(torch.equal(value, shared[name]) for name, value in clip.state_dict().items())


def test_the_safety_checker_sees_with_pocket_clip():
    clip = CLIPModel.from_pretrained(models.locate("clip"), dtype=torch.float32)
    checker = StableDiffusionSafetyChecker.from_pretrained(models.locate("safety-checker"), dtype=torch.float32)
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        expected = clip.get_image_features(pixel_values=pixels).pooler_output
        seen = checker.visual_projection(checker.vision_model(pixels)[1])
    assert torch.allclose(seen, expected, atol=1e-5)


def test_the_inpainting_unet_is_sd15_but_for_what_was_trained():
    base = UNet2DConditionModel.from_pretrained(models.locate("sd15") / "unet").state_dict()
    made = UNet2DConditionModel.from_pretrained(models.locate("inpainting") / "unet")
    changed = load_file(models.POCKET / "inpainting" / completion.OWN)
    assert made.config.in_channels == 9
    for name, value in made.state_dict().items():
        assert torch.equal(value, changed[name].float() if name in changed else base[name]), name


@pytest.fixture
def small(tmp_path):
    """Copies of pocket CLIP and of the safety checker, and an empty place to build in."""
    for name in ("clip", "safety-checker"):
        shutil.copytree(models.POCKET / name, tmp_path / "pocket" / name)
    return tmp_path / "pocket", tmp_path / "built"


def test_it_is_made_once_and_again_when_something_changed(small):
    pocket, built = small
    made = completion.complete(pocket / "safety-checker", pocket, built)
    weights = made / "model.safetensors"
    first = weights.stat().st_mtime_ns
    assert completion.complete(pocket / "safety-checker", pocket, built) == made
    assert weights.stat().st_mtime_ns == first, "not made a second time"
    weights.write_bytes(weights.read_bytes()[:-1])
    completion.complete(pocket / "safety-checker", pocket, built)
    assert weights.stat().st_mtime_ns != first, "a damaged file is made again"
    second = weights.stat().st_mtime_ns
    card = json.loads((pocket / "clip" / "card.json").read_text())
    card["files"]["model-00001-of-00002.safetensors"] = "0" * 64
    (pocket / "clip" / "card.json").write_text(json.dumps(card))
    completion.complete(pocket / "safety-checker", pocket, built)
    assert weights.stat().st_mtime_ns != second, "other weights underneath: made again"
    assert [p.name for p in built.iterdir()] == ["safety-checker"], "nothing half-made is left"


def test_a_failure_leaves_nothing_behind(small):
    pocket, built = small
    (pocket / "safety-checker" / completion.OWN).write_bytes(b"no weights")
    with pytest.raises(Exception, match=r"(?i)header"):
        completion.complete(pocket / "safety-checker", pocket, built)
    assert list(built.iterdir()) == []


def test_names_take_the_longest_fitting_beginning():
    beginnings = {"": "clip.", "text_model.": "text."}
    assert completion.rename("text_model.a", beginnings) == "text.a"
    assert completion.rename("visual.a", beginnings) == "clip.visual.a"
    assert completion.rename("a", {"b.": "c."}) is None
