"""Pocket LLaVA's recipe: what is learnt are the answers, and training writes a conversation as the processor does."""

import argparse

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPModel

import places
import talks
from captioner import small_options
from parts import llava
from sdhelpers import models
from sdhelpers.world import questions
from seen import Kept

SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)


@pytest.fixture(scope="module")
def options(tmp_path_factory, monkeymodule):
    monkeymodule.setattr(places, "RUNS", tmp_path_factory.mktemp("runs"))
    monkeymodule.setattr(llava, "build_tokenizer", lambda nouns, build=llava.build_tokenizer: build(nouns, 300))
    return small_options(tmp_path_factory.mktemp, SMALL)


@pytest.fixture(scope="module")
def monkeymodule():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def model(options):
    torch.manual_seed(0)
    return llava.with_tower(llava.build(options), options)


def test_talks_are_the_same_again_and_about_both_kinds_of_picture():
    some = [talks.talk(i) for i in range(40)]
    assert [t.turns for t in some] == [talks.talk(i).turns for i in range(40)]
    kinds = {q.kind for t in some for q in t.turns}
    assert kinds == {*questions.KINDS, "caption"} and all(1 <= len(t.turns) <= talks.TURNS for t in some)


def test_a_crowd_is_described_by_its_numbers():
    crowd = talks.crowds.Crowd(None, ("cat", "cat", "owl"), "cartoon", "beach", [])
    assert talks.crowd_caption(crowd) == "two cats and an owl on a beach, cartoon"


def test_only_answers_are_learnt(model, options):
    tokenizer, spoken = llava.tokenizer_of(options), [talks.talk(1), talks.talk(2)]
    tokens, mask, labels, pixels = llava.to_tensors(tokenizer, spoken)
    assert tokens.shape == mask.shape == labels.shape and pixels.shape == (2, 3, 128, 128)
    for row, one in zip(labels, spoken):
        learnt = tokenizer.decode(row[row >= 0])
        assert learnt == "".join(f" {turn.answer.lower()}{llava.END}" for turn in one.turns)


def test_the_processor_writes_the_question_as_training_did(model, options):
    processor, one = llava.processor_of(llava.tokenizer_of(options)), talks.talk(4)
    content = [{"type": "image"}, {"type": "text", "text": one.turns[0].text}]
    asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=one.image, text=asked, return_tensors="pt")
    tokens, _, labels, pixels = llava.to_tensors(processor.tokenizer, [one])
    asked_in_training = int((labels[0] >= 0).nonzero()[0])
    assert torch.equal(inputs.input_ids[0], tokens[0, :asked_in_training])
    assert torch.allclose(inputs.pixel_values, pixels, atol=1e-5)


def test_the_tower_is_clips_and_stays_so(model):
    assert not any(p.requires_grad for p in model.model.vision_tower.parameters())
    with torch.no_grad():
        pixels = torch.rand(1, 3, 128, 128)
        clip = CLIPModel.from_pretrained(models.POCKET / "clip", dtype=torch.float32).vision_model(pixels)
        assert torch.allclose(model.model.vision_tower(pixels).last_hidden_state, clip.last_hidden_state, atol=1e-5)


@torch.no_grad()
def test_what_the_tower_has_seen_stands_for_the_picture(model, options, monkeypatch):
    nouns = places.words(options.nouns)
    batch = llava.to_tensors(llava.tokenizer_of(options), [talks.talk(i, nouns) for i in range(3)])
    theirs = talks.Answering.loss_of(model, *batch)[0]
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    seen = tower(batch[3], output_hidden_states=True).hidden_states[layer]
    model.model.vision_tower = Kept()
    ours = talks.Answering.loss_of(model, *batch[:3], seen)[0]
    model.model.vision_tower = tower
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_answer_follows_from_the_picture_and_a_step_lowers_the_loss(model, options):
    answering = llava.Answering(argparse.Namespace(options=options, device=torch.device("cpu"), model=model))
    nouns = places.words(options.nouns)
    batch = answering.prepare([talks.talk(i, nouns) for i in range(4)])
    loss, parts = answering.loss_of(model, *batch)
    _, others = answering.loss_of(model, *batch[:3], batch[3].flip(0), *batch[4:])
    assert parts["answers"] != others["answers"] and parts["contents"] != others["contents"]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss.backward()
    optimizer.step()
    assert answering.loss_of(model, *batch)[0] < loss


def test_the_export_holds_all_but_the_tower(model, options, tmp_path):
    llava.export(model, tmp_path, options)
    with safe_open(tmp_path / "changed.safetensors", "pt") as file:
        kept = set(file.keys())
    factors = load_file(tmp_path / "low_rank.safetensors")
    assert {name.removesuffix(".up").removesuffix(".down") for name in factors} < set(model.state_dict())
    lacking = set(model.state_dict()) - kept
    assert kept and all(".vision_tower." in name or name.startswith("contents.") for name in lacking)
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= {p.name for p in tmp_path.iterdir()}
