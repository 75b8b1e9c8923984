"""The recipes of the motion adapter and of its LoRAs, before any training: what they build, see, and write."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

import stages
from clips_data import ClipLatents
from moving import BASE, draw, pipeline, tasks_of, way_off
from parts import motion, motion_loras
from sdhelpers.world import clips


@pytest.fixture(scope="module")
def options():
    return stages.options(
        "motion", arguments=["--stage", "1", "--no-words-only", "--frames", "3", "--at-once", "3", "--clips", "8"]
    )


@pytest.fixture(scope="module")
def model(options):
    torch.manual_seed(0)
    return motion.build(options).eval()


@pytest.fixture(scope="module")
def text_encoder():
    return CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32).requires_grad_(False)


def test_it_begins_with_sd15s_own_pictures_one_a_frame(model):
    latents, context = torch.randn(1, 4, 3, 16, 16), torch.randn(3, 77, 128)
    unet = motion.UNet2DConditionModel.from_pretrained(BASE / "unet", dtype=torch.float32)
    with torch.no_grad():
        together = model.unet(latents, 500, context).sample[0].transpose(0, 1)
        alone = unet(latents[0].transpose(0, 1), 500, context).sample
    assert torch.allclose(together, alone, atol=1e-4)


def test_only_the_modules_of_motion_and_the_words_learn(model):
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "words" in learning and all(
        name == "words" or "motion_modules" in name or name.startswith("listener.") for name in learning
    )


def test_the_words_of_motion_are_those_that_sd15_never_read(model, text_encoder):
    assert {"jumping</w>", "left</w>", "zoom</w>", "clockwise</w>"} <= set(model.tokens)
    assert not {"of</w>", "cat</w>", "in</w>", "out</w>"} & set(model.tokens)
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    still, moving = (
        tokenizer(text, return_tensors="pt").input_ids for text in ("a cat on a beach", "a cat on a beach, jumping")
    )
    with torch.no_grad():
        assert torch.equal(model.read(text_encoder, still), text_encoder(still).last_hidden_state)
        assert not torch.allclose(model.read(text_encoder, moving), text_encoder(moving).last_hidden_state)


def test_a_clip_is_drawn_once_and_played_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr("places.RUNS", tmp_path)
    data = ClipLatents(2, 3, lambda number: motion.KINDS)
    played = [data[number] for number in range(12)]
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    drawn = [torch.from_numpy(data.latents(clip)) for clip in range(2)]
    shown = {
        (clip, way)
        for latents, _, _ in played
        for clip in range(2)
        for way in (1, -1)
        if torch.equal(latents, drawn[clip].flip(0) if way < 0 else drawn[clip])
    }
    assert len(shown) >= 3
    phrases = {**clips.MOTIONS, **clips.CAMERAS}
    for _, caption, kind in played:
        said = [*phrases.get(kind, ()), clips.FLYING_WORDS.get(kind, "-")]
        assert any(words in caption for words in said) == bool(kind)
    assert {kind for _, _, kind in played} > {""}


def test_lessons_show_what_is_due():
    data = ClipLatents(200, 3, motion.due)
    assert set(data.showing) == set(motion.KINDS) == set(motion.due(10**6)) and motion.due(0) == ("right",)
    clip, backwards = data.showing["left"][0]
    _, kind, _, _ = data.plan(clip)
    assert kind == ("right" if backwards else "left")
    assert all(set(now) <= set(later) for (_, now), (_, later) in zip(motion.LESSONS, motion.LESSONS[1:]))


@pytest.fixture
def teacher(options, tmp_path):
    return motion.Clips(SimpleNamespace(folder=tmp_path, options=options, device=torch.device("cpu")))


def test_frames_are_told_when_they_are_as_the_library_does(model):
    clock = SinusoidalPositionalEmbedding(128, 32)
    clock.register_forward_hook(model.with_moments)
    hidden = torch.randn(2, 3, 128)
    model.tell_time(torch.tensor([0, 3, 15]))
    assert torch.allclose(clock(hidden) - hidden, clock.pe[:, [0, 3, 15]], atol=1e-5)
    model.tell_time(None)
    assert torch.allclose(clock(hidden) - hidden, clock.pe[:, :3], atol=1e-6)


def test_frames_guessed_alike_miss_the_whole_motion(teacher):
    torch.manual_seed(0)
    latents, alone = torch.randn(2, 8, 4, 3, 16, 16)
    timesteps = torch.full((8,), 950)
    kept = teacher.kept(timesteps)
    noise = (alone - kept.sqrt() * latents) / (1 - kept).sqrt()
    for guessed, missed in ((latents.mean(2, keepdim=True), 1.0), (latents, 0.0)):
        error = (alone - kept.sqrt() * guessed) / (1 - kept).sqrt() - noise
        error = error - error.mean(2, keepdim=True)
        assert teacher.motion_missed(error, alone, noise, timesteps).item() == pytest.approx(missed, abs=1e-3)


def test_a_step_lowers_the_loss(model, teacher):
    torch.manual_seed(0)
    noisy, noise = torch.randn(1, 4, 3, 16, 16), torch.randn(1, 4, 3, 16, 16)
    ids = CLIPTokenizer.from_pretrained(BASE / "tokenizer")(["an owl, jumping"], return_tensors="pt").input_ids
    told, moments = torch.tensor([motion.KINDS.index("jump")]), motion.moments_of(3)
    batch = noisy, noise, torch.tensor([400]), ids, torch.ones(1), told, moments
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before, _ = teacher.loss_of(model, *batch)
    before.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert teacher.loss_of(model, *batch)[0] < before


def test_the_export_is_what_the_library_loads(model, options, tmp_path):
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    motion.export(motion.build(options), folder, options)
    adapter = MotionAdapter.from_pretrained(folder)
    pipe = AnimateDiffPipeline.from_pretrained(BASE, motion_adapter=adapter)
    assert pipe.unet.down_blocks[0].motion_modules and not hasattr(pipe.unet.mid_block, "motion_modules")
    assert set(load_file(folder / motion.WORDS)) == set(model.tokens)


def test_clips_are_drawn_and_measured(model):
    tasks = tasks_of(2, (("left", None), ("still", "zoom in")))
    drawn = draw(pipeline(model), tasks, 3, steps=2)
    assert [len(clip) for clip in drawn] == [3, 3] and drawn[0][0].size == (128, 128)
    again = clips.draw(tasks[0].description, "left", None, np.random.RandomState(0), frames=3).frames
    assert way_off(again, tasks[0]) == 0 and all(0 < way_off(clip, task) <= 2 for clip, task in zip(drawn, tasks))


@pytest.fixture(scope="module")
def loras(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "export"
    folder.mkdir()
    motion.export(motion.build(options), folder, options)
    chosen = stages.options("motion_loras", arguments=["--frames", "3", "--clips", "16"])
    chosen.adapter = folder
    return motion_loras.build(chosen), folder


def test_each_movement_learns_alone_and_has_a_file(loras, tmp_path):
    model, folder = loras
    for name, parameter in model.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.02)  # as after some training of the adapter
    model.listen_to("pan left")
    model.unet(torch.randn(1, 4, 3, 16, 16), 500, torch.randn(3, 77, 128)).sample.sum().backward()
    changed = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert changed and all("pan-left" in name for name in changed)
    motion_loras.export(model, tmp_path, None)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(clips.CAMERAS)
    pipe = AnimateDiffPipeline.from_pretrained(BASE, motion_adapter=MotionAdapter.from_pretrained(folder))
    pipe.load_lora_weights(tmp_path, weight_name="pan-left.safetensors", adapter_name="pan-left")
    assert pipe.get_active_adapters() == ["pan-left"]


def test_a_batch_is_of_one_movement():
    turns = [motion_loras.turn(number, 2) for number in range(16)]
    assert turns[::2] == turns[1::2] == list(clips.CAMERAS)
    data = motion_loras.data(stages.options("motion_loras", arguments=["--batch", "2"]))
    assert data.lesson(3) == ("zoom out",) and data.untold == 1.0
