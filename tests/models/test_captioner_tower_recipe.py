"""The captioners' tower: pocket CLIP's until it learns, in its LoRA alone, and exported whole."""

import argparse

import pytest
import torch
from transformers import CLIPModel

import places
import stages
import talks
from parts import captioner_tower as recipe
from sdhelpers import models
from sdhelpers.images import to_tensor
from seen import SeenPictures

OPTIONS = argparse.Namespace(init=None, nouns="nouns.txt", rank=4, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def batch():
    drawn = [talks.picture(i, places.words("nouns.txt")) for i in range(4)]
    return torch.stack([to_tensor(one.image) for one in drawn]), [talks.truth_of(one) for one in drawn]


def tower_of(model, pixels):
    with torch.no_grad():
        return model(pixels).last_hidden_state


def test_it_begins_as_pocket_clip_learns_in_its_lora_alone_and_is_exported_whole(batch, tmp_path):
    torch.manual_seed(0)
    model, pixels = recipe.build(OPTIONS), batch[0]
    clip = CLIPModel.from_pretrained(models.POCKET / "clip", dtype=torch.float32).vision_model.eval()
    assert torch.allclose(tower_of(model.tower, pixels), tower_of(clip, pixels), atol=1e-4)
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learns and all(".lora_" in name or name.startswith("reading.") for name in learns)
    reading = recipe.Reading(argparse.Namespace(options=OPTIONS, device=OPTIONS.device))
    prepared = reading.prepare(batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(4):
        loss, _ = reading.loss_of(model, *prepared)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    recipe.export(model, tmp_path, OPTIONS)
    learnt, again = tower_of(model.tower, pixels), tower_of(recipe.load(tmp_path), pixels)
    apart = (learnt - tower_of(clip, pixels)).abs().max()
    assert (again - learnt).abs().max() < 0.05 * apart


def test_pictures_are_kept_as_they_are_drawn(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RUNS", tmp_path)
    kept = SeenPictures(range(4), places.words("nouns.txt"))
    assert torch.allclose(torch.from_numpy(kept.seen / 127.5 - 1).float(), batch[0], atol=1e-5)
    pixels, truths = kept.collate([kept[i] for i in range(4)])
    assert torch.allclose(pixels, batch[0][[kept.index(i) for i in range(4)]], atol=1e-5) and len(truths) == 4


def test_moved_pictures_are_never_twice_the_same_and_hold_the_same(batch):
    torch.manual_seed(0)
    pixels = batch[0][:1].expand(64, -1, -1, -1)
    moved = recipe.moved(pixels)
    assert moved.shape == pixels.shape and moved.min() >= pixels.min() and moved.max() <= pixels.max()
    assert all((one - other).abs().mean() > 0.01 for one, other in zip(moved, moved.roll(1, 0)))
    off, flipped = ((some - pixels).abs().mean((1, 2, 3)) for some in (moved, moved.flip(-1)))
    assert 16 < (flipped < off).sum() < 48, "about half are mirrored"
    back = torch.where((flipped < off)[:, None, None, None], moved.flip(-1), moved)
    assert (back.mean(0) - pixels[0]).abs().mean() < (batch[0][1] - pixels[0]).abs().mean() / 2


@pytest.mark.parametrize("captioner", ["blip2", "llava"])
def test_captioners_learn_from_pictures_that_the_tower_has_not_learnt(captioner):
    assert stages.config(captioner)["first"] >= stages.config("captioner_tower")["drawn"]


def test_what_is_read_rightly_is_counted_by_kind():
    contents = talks.Contents(["cat", "owl"])
    counts, others = contents.targets([{"nouns": ["cat", "cat"], "style": "cartoon", "place": "beach"}])
    outputs = torch.zeros(1, contents.width)
    outputs[0, 1] = 5.0  # one cat
    outputs[0, 5] = 5.0  # no owl
    outputs[0, 10] = 5.0  # the first style, which a cartoon is not
    read = contents.read(outputs, counts, others)
    assert read["nouns"].all() and not read["count"].any() and read["count"].shape == (1,)
    assert not read["style"].any() and read["over"].shape == (0,)
