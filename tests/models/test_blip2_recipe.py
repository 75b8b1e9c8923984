"""Pocket BLIP-2's recipe: CLIP's tower in another class, only answers learnt, words as the processor writes them."""

import argparse

import pytest
import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor, CLIPModel

import places
import talks
from parts import blip2
from scenes_data import fresh_scenes
from sdhelpers import models
from sdhelpers.images import to_tensor

SMALL = {
    "qformer": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
    "opt": dict(hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=64),
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "RUNS", tmp_path_factory.mktemp("runs"))
        patch.setattr(blip2, "build_tokenizer", lambda build=blip2.build_tokenizer: build(300))
        yield argparse.Namespace(init=None, run=None, queries=4, architecture=SMALL)


@pytest.fixture(scope="module")
def model(options):
    torch.manual_seed(0)
    return blip2.build(options).eval()


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
    spoken = [talks.talk(i) for i in range(12)]
    assert {"caption"} < {one.turns[0].kind for one in spoken}
    tokens, mask, labels, pixels = blip2.to_tensors(tokenizer, spoken, options.queries)
    assert tokens.shape == mask.shape == labels.shape and pixels.shape == (12, 3, 128, 128)
    for ids, row, one in zip(tokens, labels, spoken):
        turn = one.turns[0]
        assert tokenizer.decode(row[row >= 0]).strip() == f"{turn.answer.lower()}{blip2.END}"
        assert (ids == tokenizer.convert_tokens_to_ids(blip2.IMAGE)).sum() == options.queries
        assert ("question:" in tokenizer.decode(ids)) == (turn.kind != "caption")


def test_the_processor_writes_the_question_as_training_did(model, options):
    processor = blip2.processor_of(blip2.tokenizer_of(options), options.queries)
    one = next(t for t in map(talks.talk, range(20)) if t.turns[0].kind != "caption")
    inputs = processor(images=one.image, text=blip2.prompt_of(one.turns[0]), return_tensors="pt")
    tokens, _, labels, pixels = blip2.to_tensors(processor.tokenizer, [one], options.queries)
    asked = int((labels[0] >= 0).nonzero()[0])
    assert torch.equal(inputs.input_ids[0], tokens[0, :asked])
    assert torch.allclose(inputs.pixel_values, pixels, atol=1e-5)


def test_a_step_lowers_the_loss_and_the_picture_counts(model, options):
    batch = blip2.to_tensors(blip2.tokenizer_of(options), [talks.talk(i) for i in range(4)], options.queries)
    loss, _ = talks.Answering.loss_of(model, *batch)
    other, _ = talks.Answering.loss_of(model, *batch[:3], batch[3].flip(0))
    assert loss != other
    learns = [p for p in model.parameters() if p.requires_grad]
    assert len(learns) < len(list(model.parameters()))
    loss.backward()
    torch.optim.SGD(learns, lr=0.05).step()
    assert talks.Answering.loss_of(model, *batch)[0] < loss


def test_the_export_loads_and_answers(model, options, tmp_path):
    blip2.export(blip2.build(options), tmp_path, options)
    again = Blip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    processor = Blip2Processor.from_pretrained(tmp_path)
    answers = blip2.answer(again, processor, [talks.talk(3), talks.talk(4)])
    assert len(answers) == 2 and all(isinstance(a, str) and blip2.END not in a for a in answers)
