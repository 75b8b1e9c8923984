"""What the training recipes compute, where a mistake would only show after hours of training."""

import copy
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdhelpers import models, world

sys.path.insert(0, str(models.ROOT / "data" / "recipes"))

from encode_latents import chosen
from loop import RECIPES, learning_rate_factor
from train_inpainting import TRAINED, carried_over, nine_channels
from train_unet import GROUNDED_SIDE, Conditioning, Grounding, Latents, WatchedAttention


@pytest.fixture(scope="module")
def conditioning():
    folder = models.locate("sd15")
    return Conditioning(folder / "tokenizer", folder / "text_encoder", torch.device("cpu"))


@pytest.fixture()
def unet(pipe):
    before = dict(pipe.unet.attn_processors)
    yield pipe.unet
    pipe.unet.set_attn_processor(before)


def test_watched_attention_is_the_librarys(unet, conditioning):
    latents, timesteps, texts = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randn(2, 77, 128)
    with torch.no_grad():
        expected = unet(latents, timesteps, texts).sample
        Grounding(unet, conditioning)
        torch.testing.assert_close(unet(latents, timesteps, texts).sample, expected, atol=1e-4, rtol=1e-4)


def test_grounding_finds_each_noun_and_its_place(unet, conditioning):
    boxes = torch.zeros(3, 2, 4)
    boxes[0, 0], boxes[0, 1] = torch.tensor([0.0, 0.5, 0.45, 1.0]), torch.tensor([0.55, 0.5, 1.0, 1.0])
    boxes[1, 0] = torch.tensor([0.3, 0.3, 0.7, 0.7])
    captions = ["a cartoon of a car next to a palm tree", "", "a picture of an owl"]
    nouns = [("car", "palm tree"), ("cat",), ("owl",)]
    *_, tokens, pixels = Grounding(unet, conditioning).prepare((torch.randn(3, 4, 16, 16), captions, nouns, boxes))
    words = conditioning.tokenizer(captions[0]).input_ids
    name = conditioning.tokenizer.convert_ids_to_tokens
    assert [name(words[i]) for i in tokens[0, 0].nonzero().flatten()] == ["car</w>"]
    assert [name(words[i]) for i in tokens[0, 1].nonzero().flatten()] == ["palm</w>", "tree</w>"]
    assert tokens.sum(-1).tolist() == [[1, 1], [0, 0], [1, 0]]
    left, right = pixels[0].view(2, GROUNDED_SIDE, GROUNDED_SIDE)
    assert left[4:, :4].all() and not left[:, 5:].any() and not left[:3].any()
    assert right[4:, 5:].all() and not right[:, :3].any()
    assert not pixels[2].any()  # nothing to see of it


def test_attention_that_lies_on_the_object_costs_nothing(unet, conditioning):
    grounding = Grounding(unet, conditioning)
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0] * 4]])
    tensors = grounding.prepare((torch.randn(1, 4, 16, 16), ["a picture of a cat"], [("cat",)], boxes))
    tokens, pixels = tensors[-2:]
    watched = [WatchedAttention(), WatchedAttention()]
    grounding.watched, grounding.conditioning = watched, type("Free", (), {"loss_of": lambda *_: (0, {})})()
    for probabilities, share in ((pixels, 0.0), (1 - pixels, 1.0)):
        for attention in watched:
            attention.probabilities = (probabilities[:, :1, :, None] * tokens[:, :1, None, :]).expand(1, 4, -1, -1)
        _, metrics = grounding.loss_of(unet, *tensors)
        assert metrics["attention_beside"] == pytest.approx(share)


def test_chosen_scenes_have_known_nouns_and_many_pairs():
    nouns = (RECIPES / "nouns.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert nouns == models.nouns()  # the card's order: a scene number means the same scene everywhere
    descriptions = [world.describe(np.random.RandomState(i), nouns) for i in chosen(range(2000), nouns)]
    assert {noun for d in descriptions for noun in d.nouns} <= set(nouns)
    assert 0.35 < np.mean([len(d.nouns) == 2 for d in descriptions]) < 0.45


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate_factor(step, steps=1000, decay=0.3, warmup=100) for step in range(1001)]
    assert rates[0] == 0.01 and rates[99] == rates[700] == 1.0 and rates[1000] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(rates[700:]))


def test_recipes_that_lack_latents_say_which_command_makes_them():
    with pytest.raises(SystemExit, match=r"run data/recipes/encode_latents\.py first"):
        Latents(Path("nowhere"), ["cat"])


def test_what_inpainting_learnt_carries_over_to_another_sd15(pipe):
    base = pipe.unet
    learnt, other = nine_channels(base), copy.deepcopy(base)
    with torch.no_grad():
        learnt.conv_in.weight += 0.25
        for parameter in other.parameters():
            parameter += 0.5
    same, moved = carried_over(base, learnt, base).state_dict(), carried_over(other, learnt, base).state_dict()
    for name, tensor in learnt.state_dict().items():
        torch.testing.assert_close(same[name], tensor)
    before = nine_channels(other).state_dict()
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor, before[name] + (0.25 if name == "conv_in.weight" else 0.0))
    assert "conv_in." in TRAINED
