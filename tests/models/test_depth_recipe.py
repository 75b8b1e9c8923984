"""The depth estimator's recipe: the world's truth as its goal, an answer of a picture's size, and a loss that falls."""

import numpy as np
import pytest
import torch

import stages
from sdhelpers import world

depth = pytest.importorskip("parts.depth")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return depth.build(stages.options("depth")).train()


def test_a_sample_is_the_scene_and_its_depth_and_every_second_one_has_two_objects():
    pixels, goal = depth.Depths()[1]
    assert pixels.shape == (3, 128, 128) and goal.shape == (128, 128)
    assert 0 <= goal.min() < 0.62 <= goal.max() <= 1
    rng = np.random.RandomState(1)
    while len((description := world.describe(rng, held_out=True)).nouns) < 2:
        pass
    assert np.array_equal(goal.numpy(), world.draw(description, rng).depth)


def test_it_answers_in_the_pictures_size_and_learns_more_than_the_best_flat_one(model):
    pixels, goal = (part[None] for part in depth.Depths()[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    flat = (goal - goal.median()).abs().mean() + 2 * sum(goal.diff(dim=d).abs().mean() for d in (1, 2))
    for _ in range(100):
        loss, _ = depth.Estimating.loss_of(model, pixels, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(pixel_values=pixels).predicted_depth.shape == goal.shape
    assert loss.item() < 0.5 * flat.item()


def test_what_is_exported_is_loaded_with_its_processor_and_says_the_same(model, tmp_path):
    from transformers import DPTForDepthEstimation, DPTImageProcessor

    pixels, _ = depth.Depths()[3]
    with torch.no_grad():
        before = model.eval()(pixel_values=pixels[None]).predicted_depth
        depth.export(model, tmp_path, stages.options("depth"))
        again = DPTForDepthEstimation.from_pretrained(tmp_path, dtype=torch.float32)
        assert torch.allclose(again(pixel_values=pixels[None]).predicted_depth, before, atol=0.02)
    image = world.sample(np.random.RandomState(5)).image
    prepared = DPTImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt").pixel_values
    assert torch.allclose(prepared[0], depth.to_batch([image])[0], atol=0.02)
