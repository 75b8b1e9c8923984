"""The ControlNet recipes: pictures of the world's truth, a copy that changes nothing at first, and its two factors."""

import argparse

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file

from sdhelpers import models, world
from sdhelpers.measures.edges import agreement, edges

controlnet = pytest.importorskip("parts.controlnet")
KINDS = ("canny", "depth", "scribble", "tile")
OPTIONS = argparse.Namespace(init=None, embedding="16,32,64,96", rank=4)


def plain_scenes(count: int) -> list[world.Scene]:
    """Scenes that are neither blurred nor cropped."""
    scenes = (world.sample(np.random.RandomState(i)) for i in range(100))
    return [scene for scene in scenes if scene.description.quality == "plain"][:count]


def picture_of(kind: str, scene: world.Scene, seed: int = 0) -> np.ndarray:
    module = pytest.importorskip(f"parts.controlnet_{kind}")
    return module.picture(scene, np.random.RandomState(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_has_the_scenes_size_and_says_something_of_it(kind):
    one, other = plain_scenes(2)
    picture = picture_of(kind, one)
    assert picture.dtype == np.uint8 and picture.shape[:2] == (128, 128) and picture.std() > 5
    assert controlnet.control_tensor(picture).shape == (3, 128, 128)
    assert np.array_equal(picture, picture_of(kind, one)), "the same random state, the same picture"
    assert not np.array_equal(picture, picture_of(kind, other))


def test_cannys_control_is_the_scenes_own_edges_and_not_anothers():
    one, other = plain_scenes(2)
    control = picture_of("canny", one) > 0
    assert agreement(control, edges(one.image)) > 0.8 > 0.5 > agreement(control, edges(other.image))


def test_depth_is_nearer_in_front():
    scene = next(s for i in range(200) if len((s := world.sample(np.random.RandomState(i))).masks) == 2)
    depth = picture_of("depth", scene)
    front, back = (depth[scene.masks[i]].mean() for i in scene.front_to_back)
    assert front > back > depth.min()


@pytest.fixture(scope="module")
def copy() -> ControlNetModel:
    return controlnet.build(OPTIONS).eval()


@torch.no_grad()
def test_a_fresh_copy_changes_nothing(copy):
    unet = UNet2DConditionModel.from_pretrained(models.POCKET / "sd15" / "unet", dtype=torch.float32).eval()
    noisy, texts, control = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 128), torch.rand(1, 3, 128, 128)
    down, mid = copy(noisy, 500, texts, control, return_dict=False)
    with_it = unet(noisy, 500, texts, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
    assert torch.equal(with_it, unet(noisy, 500, texts).sample)
    assert controlnet.norm_of_zero_convolutions(copy) == 0


def test_factors_of_full_rank_give_the_matrix_back_and_fewer_the_best_fit():
    matrix = torch.randn(12, 5, 3, 3)
    up, down = controlnet.low_rank(matrix, 12)
    assert torch.allclose((up @ down.flatten(1)).view_as(matrix), matrix, atol=1e-5)
    up, down = controlnet.low_rank(matrix, 4)
    error = ((up @ down.flatten(1)).view_as(matrix) - matrix).square().sum()
    lost = torch.linalg.svdvals(matrix.flatten(1))[4:].square().sum()
    assert error == pytest.approx(float(lost), rel=1e-3)


def test_the_export_holds_what_the_rank_keeps_and_all_that_sd15_lacks(copy, tmp_path):
    changed = ControlNetModel.from_config(copy.config)
    changed.load_state_dict(copy.state_dict())
    with torch.no_grad():
        weight = changed.mid_block.resnets[0].conv1.weight
        weight += 0.1 * torch.einsum("o,ihw->oihw", torch.randn(len(weight)), torch.randn(weight.shape[1:]))
        changed.controlnet_mid_block.weight.fill_(0.5)
    (tmp_path / "export").mkdir()
    assert controlnet.export(changed, tmp_path / "export", OPTIONS) == {"rank": 4}
    own, factors = (load_file(tmp_path / "export" / f"{name}.safetensors") for name in ("changed", "low_rank"))
    whole = {k: v.float() for k, v in copy.state_dict().items()} | {k: v.float() for k, v in own.items()}
    for name in {key.rpartition(".")[0] for key in factors}:
        update = factors[f"{name}.up"].float() @ factors[f"{name}.down"].flatten(1).float()
        whole[name] = whole[name] + update.view_as(whole[name])
    assert whole.keys() == changed.state_dict().keys()
    assert all(torch.allclose(whole[k], v, atol=2e-3) for k, v in changed.state_dict().items())
    assert (tmp_path / "whole" / "config.json").exists()
