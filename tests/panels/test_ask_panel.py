"""The panel that asks: a picture chosen, dropped or drawn; every control at its ends; what cannot be asked."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import places
import talks
from captioner import small_options
from parts import blip2
from sdhelpers.images import to_png
from sdhelpers.panels.asking import AskPanel, Speaker
from sdhelpers.panels.drop_zone import MOST_BYTES

SMALL = {
    "qformer": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
    "opt": dict(hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=64),
}
LINE = {"pen": 2, "points": [[0.2, 0.5], [0.8, 0.5]]}
DOT = {"pen": 2, "points": [[0.5, 0.2]]}


class Echo(Speaker):
    """Says what it is asked, how bright its picture is, and how much it may say."""

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1), None, lambda text: f"<{text}>")

    def __call__(self, image, text, most):
        if text == "fail":
            raise RuntimeError("a <part> is missing")
        return f"{self.wording(text)} {np.asarray(image).mean():.1f} {most}"


@pytest.fixture
def panel():
    pictures = {name: Image.new("RGB", (64, 64), name) for name in ("black", "gray")}
    return AskPanel({"one": Echo(), "other": Echo()}, pictures, "what is it?")


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A BLIP-2 of the recipe with random weights: what it says means nothing, and follows from picture and question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "RUNS", tmp_path_factory.mktemp("runs"))
        patch.setattr(blip2, "build_tokenizer", lambda nouns, build=blip2.build_tokenizer: build(nouns, 100))
        options = small_options(tmp_path_factory.mktemp, SMALL, queries=4)
        torch.manual_seed(0)
        model = blip2.with_tower(blip2.build(options), options)
        processor = blip2.processor_of(blip2.tokenizer_of(options), options.queries)
    return Speaker(model, processor, lambda text: blip2.QUESTION.format(text) if text else "")


def said(panel: AskPanel) -> str:
    """What both said, which is the same and without an error."""
    assert panel.message.value == "", panel.message.value
    assert list(panel.said) == ["one", "other"] and len(set(panel.said.values())) == 1
    return panel.said["one"]


def drop(panel: AskPanel, name: str, content: bytes | None) -> None:
    """What the browser sends when a file is dropped or chosen."""
    panel.files._handle_custom_msg({"name": name, "size": 0}, [] if content is None else [memoryview(content)])


def test_it_begins_with_the_first_picture_and_its_question(panel):
    assert said(panel) == "<what is it?> 0.0 30"
    assert "<b>other</b>: &lt;what is it?&gt; 0.0 30" in panel.answers.value
    assert np.asarray(Image.open(io.BytesIO(panel.shown.value))).max() == 0


def test_the_picture_that_was_touched_last_is_asked_about(panel):
    panel.choice.value = "gray"
    assert said(panel) == "<what is it?> 128.0 30"
    drop(panel, "white.png", to_png(Image.new("RGB", (300, 200), "white")))
    assert said(panel) == "<what is it?> 255.0 30"
    assert Image.open(io.BytesIO(panel.shown.value)).width == 256
    panel.pad.lines = [LINE]
    assert 230 < np.asarray(panel.picture).mean() < 255, "black on white"
    assert said(panel) == f"<what is it?> {np.asarray(panel.picture).mean():.1f} 30"
    assert panel.choice.value is None
    panel.choice.value = "gray"
    assert said(panel) == "<what is it?> 128.0 30"


def test_a_sketch_is_taken_back_line_by_line(panel):
    panel.pad.lines = [LINE]
    one = said(panel)
    panel.pad.lines = [LINE, DOT]
    assert said(panel) != one
    panel.undo_button.click()
    assert said(panel) == one
    panel.clear_button.click()
    assert panel.pad.lines == [] and said(panel) == "<what is it?> 255.0 30"


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("control", ["most", "pen"])
def test_every_control_works_at_its_ends(panel, control, end):
    slider = getattr(panel, control)
    slider.value = value = getattr(slider, end)
    assert said(panel) == f"<what is it?> 0.0 {value if control == 'most' else 30}"
    assert panel.pad.pen == panel.pen.value


@pytest.mark.parametrize("text", ["", " ", "what?", "why " * 500], ids=["none", "space", "short", "long"])
def test_any_question_is_put_as_it_is(panel, text):
    panel.question.value = text
    assert said(panel) == f"<{text.strip()}> 0.0 30"


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "too large"])
def test_what_is_no_picture_is_said_and_the_old_one_stays(panel, content):
    drop(panel, "<i>file</i>", content)
    assert "&lt;i&gt;file&lt;/i&gt;" in panel.message.value and panel.picture is panel.pictures["black"]
    assert ("more than" in panel.message.value) == (content is None) and MOST_BYTES > 1e6
    panel.choice.value = "gray"
    assert said(panel) == "<what is it?> 128.0 30"


def test_a_failure_is_said_in_the_panel(panel):
    panel.question.value = "fail"
    assert "RuntimeError: a &lt;part&gt; is missing" in panel.message.value
    assert panel.said == {} and panel.answers.value == ""
    panel.question.value = "again?"
    assert said(panel) == "<again?> 0.0 30"


def test_a_speaker_says_what_the_recipe_reads_off_its_model(speaker):
    for one in map(talks.talk, (3, 4, 5)):
        turn = one.turns[0]
        text = "" if turn.kind == "caption" else turn.text
        (theirs,) = blip2.answer(speaker.model, speaker.processor, [one])
        assert speaker(one.image, text, 40) == theirs.strip()


def test_the_longest_question_is_answered_and_one_more_word_is_refused(speaker):
    image, room = Image.new("RGB", (128, 128)), speaker.model.config.text_config.max_position_embeddings

    def asked(words: int) -> int:
        text = speaker.wording("cat " * words)
        return speaker.processor(images=image, text=text, return_tensors="pt").input_ids.shape[1]

    most = 10
    longest = max(n for n in range(room) if asked(n) + most <= room)
    assert isinstance(speaker(image, "cat " * longest, most), str)
    with pytest.raises(ValueError, match=f"room for {room} tokens: ask in [1-9]"):
        speaker(image, "cat " * (longest + 1), most)


def test_the_panels_speaker_is_its_own_and_its_weights_are_not(speaker):
    mine = AskPanel({"one": speaker}, {"black": Image.new("RGB", (64, 64))}, "what is it?").speakers["one"]
    assert mine.processor is not speaker.processor and mine.model is not speaker.model
    ours, theirs = (dict(s.model.named_parameters()) for s in (mine, speaker))
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in theirs)
