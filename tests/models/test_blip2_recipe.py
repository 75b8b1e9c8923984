"""Pocket BLIP-2's recipe: CLIP's tower in another class, only answers learnt, words as the processor writes them."""

import argparse

import numpy as np
import pytest
import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor, CLIPModel

import places
import talks
from captioner import small_options
from parts import blip2
from scenes_data import fresh_scenes
from sdhelpers import models
from sdhelpers.images import to_tensor
from seen import Kept, SeenTalks

SMALL = {
    "qformer": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
    "opt": dict(hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=64),
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "RUNS", tmp_path_factory.mktemp("runs"))
        patch.setattr(blip2, "build_tokenizer", lambda nouns, build=blip2.build_tokenizer: build(nouns, 300))
        yield small_options(tmp_path_factory.mktemp, SMALL, queries=4)


@pytest.fixture(scope="module")
def contents(options):
    return talks.Contents(places.words(options.nouns))


def talk(number, options):
    return talks.talk(number, places.words(options.nouns))


@pytest.fixture(scope="module")
def model(options):
    torch.manual_seed(0)
    return blip2.with_tower(blip2.build(options), options)


@torch.no_grad()
def test_the_tower_sees_nearly_what_clip_sees(model):
    pixels = torch.stack([to_tensor(scene.image) for scene in fresh_scenes(80)[-16:]])  # not those of the mean
    clip = CLIPModel.from_pretrained(models.POCKET / "clip", dtype=torch.float32).vision_model
    theirs, ours = clip(pixels).last_hidden_state, model.vision_model(pixels).last_hidden_state
    theirs = clip.post_layernorm(theirs)  # BLIP-2 normalises every token at the end, CLIP the first alone
    alike = torch.cosine_similarity(theirs, ours, dim=-1)
    shuffled = torch.cosine_similarity(theirs, ours.roll(1, 0), dim=-1)
    assert alike.mean() > 0.95 and alike[:, 0].mean() > 0.95 and alike.mean() > shuffled.mean() + 0.1


def test_only_answers_are_learnt_and_captions_need_no_question(model, options):
    tokenizer = blip2.tokenizer_of(options)
    spoken = [talk(i, options) for i in range(12)]
    turns = [turn for one in spoken for turn in one.turns]
    assert {"caption"} < {turn.kind for turn in turns}
    tokens, mask, labels, pixels, owners = blip2.to_tensors(tokenizer, spoken, options.queries)
    assert tokens.shape == mask.shape == labels.shape and pixels.shape == (12, 3, 128, 128)
    assert owners.tolist() == [i for i, one in enumerate(spoken) for _ in one.turns]
    for ids, row, turn in zip(tokens, labels, turns, strict=True):
        assert tokenizer.decode(row[row >= 0]).strip() == f"{turn.answer.lower()}{blip2.END}"
        assert (ids == tokenizer.convert_tokens_to_ids(blip2.IMAGE)).sum() == options.queries
        assert ("question:" in tokenizer.decode(ids)) == (turn.kind != "caption")


def test_the_processor_writes_the_question_as_training_did(model, options):
    processor = blip2.processor_of(blip2.tokenizer_of(options), options.queries)
    one = next(t for t in (talk(i, options) for i in range(20)) if t.turns[0].kind != "caption")
    inputs = processor(images=one.image, text=blip2.prompt_of(one.turns[0]), return_tensors="pt")
    tokens, _, labels, pixels, _ = blip2.to_tensors(processor.tokenizer, [one], options.queries)
    asked = int((labels[0] >= 0).nonzero()[0])
    assert torch.equal(inputs.input_ids[0], tokens[0, :asked])  # of the first turn
    assert torch.allclose(inputs.pixel_values, pixels, atol=1e-5)


@pytest.fixture(scope="module")
def batch(options, contents):
    spoken = [talk(i, options) for i in range(4)]
    asked = blip2.to_tensors(blip2.tokenizer_of(options), spoken, options.queries)
    return *asked, *contents.targets([one.truth for one in spoken])


@pytest.fixture
def answering(options, model):
    return blip2.Answering(argparse.Namespace(options=options, device=torch.device("cpu"), model=model))


@torch.no_grad()
def test_the_loss_of_the_answers_is_the_librarys(model, answering, batch):
    tokens, mask, labels, pixels, owners = batch[:5]
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, pixel_values=pixels[owners]).loss
    assert torch.allclose(answering.loss_of(model, *batch)[1]["answers"], theirs, atol=1e-5)


def test_a_step_lowers_the_loss_and_the_picture_counts(model, answering, batch):
    loss, parts = answering.loss_of(model, *batch)
    _, others = answering.loss_of(model, *batch[:3], batch[3].flip(0), *batch[4:])
    assert parts["answers"] != others["answers"] and parts["contents"] != others["contents"]
    learns = [p for p in model.parameters() if p.requires_grad]
    assert len(learns) < len(list(model.parameters()))
    loss.backward()
    torch.optim.SGD(learns, lr=0.05).step()
    assert answering.loss_of(model, *batch)[0] < loss


def test_what_the_tower_has_seen_is_kept_and_stands_for_the_picture(model, options, monkeypatch):
    nouns, tower = places.words(options.nouns), lambda pixels: model.vision_model(pixels)[0]
    seen = SeenTalks(range(6, 18), nouns, tower, "seen", turns=2)
    monkeypatch.setattr("seen.keep", None)  # a second time nothing is drawn, nor looked at
    again = SeenTalks(range(6, 18), nouns, tower, "seen", turns=2, pictures=5)
    assert {seen[i].truth["style"] for i in range(12) if "style" in seen[i].truth} and again.count == 5
    assert len(list(places.RUNS.glob("seen_seen-*"))) == 1
    one = seen[7]
    number = next(i for i, truth in enumerate(seen.truths) if truth == one.truth)
    with torch.no_grad():
        pixels = to_tensor(talks.picture(6 + number, nouns).image)[None]
        assert torch.allclose(tower(pixels)[0], one.image, atol=0.1)
        through = Kept()(one.image[None]).last_hidden_state
    assert torch.equal(through[0], one.image) and 1 <= len(one.turns) <= 2
    assert (
        [seen[i].turns for i in range(30)] == [seen[i].turns for i in range(30)] != [again[i].turns for i in range(30)]
    )


def test_contents_are_read_from_the_truth(contents):
    crowd = {"nouns": ["cat", "cat", "owl"], "style": "cartoon", "place": "beach"}
    riding = {"description": {"nouns": ["cat", "horse"], "style": "cartoon", "place": "red", "relation": "riding"}}
    counts, others = contents.targets([crowd, riding])
    cat, owl, horse = (contents.nouns.index(noun) for noun in ("cat", "owl", "horse"))
    assert counts[0, cat] == 2 and counts[0, owl] == 1 and counts[0].sum() == 3
    assert others[0, 2:].tolist() == [-100, -100] and others[1, 2:].tolist() == [cat, horse]
    right = torch.full((2, contents.width), -9.0)
    start = (talks.crowds.MOST + 1) * len(contents.nouns)
    for i in range(2):
        for noun, count in enumerate(counts[i]):
            right[i, (talks.crowds.MOST + 1) * noun + int(count)] = 9.0
        for wanted, offset in zip(others[i], np.cumsum([start, *contents.sizes])):
            if wanted >= 0:
                right[i, offset + int(wanted)] = 9.0
    assert contents.loss_of(right, counts, others) < 0.01 < contents.loss_of(right.flip(0), counts, others)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("two cats and an owl on a beach, cartoon", (True, True, True)),
        ("a comic of cats with an owl at the beach", (True, True, True)),
        ("a cartoon of a cat on a beach", (False, True, True)),
        ("cats, an owl in a car, 3d render", (True, False, False)),
    ],
)
def test_what_a_caption_names(caption, found):
    truth = {"nouns": ["cat", "cat", "owl"], "style": "cartoon", "place": "beach"}
    assert tuple(talks.found_in(caption, truth).values()) == found


def test_the_export_loads_and_answers(model, options, tmp_path):
    blip2.export(blip2.build(options), tmp_path, options)
    again = Blip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    processor = Blip2Processor.from_pretrained(tmp_path)
    answers = blip2.answer(again, processor, [talk(3, options), talk(4, options)])
    assert len(answers) == 2 and all(isinstance(a, str) and blip2.END not in a for a in answers)
    assert not any("contents" in name for name in again.state_dict())
