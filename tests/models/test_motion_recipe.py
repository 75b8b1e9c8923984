"""The recipes of the motion adapter and of its LoRAs, before any training: what they build, see, and write."""

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

import stages
from clips_data import ClipLatents
from moving import BASE, draw, pipeline, tasks_of, way_off
from parts import motion, motion_loras
from sdhelpers.world import clips


@pytest.fixture(scope="module")
def options():
    return stages.options("motion", arguments=["--stage", "1", "--frames", "3", "--clips", "8"])


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


def test_a_clip_is_drawn_once_and_played_both_ways(options, tmp_path, monkeypatch):
    monkeypatch.setattr("places.RUNS", tmp_path)
    data = ClipLatents(8, 3)
    played = [data[8 * i + 1] for i in range(8)]
    forwards = torch.from_numpy(data.latents(1))
    backwards = [torch.equal(latents, forwards.flip(0)) for latents, _, _ in played]
    assert 0 < sum(backwards) < 8 and len(list(tmp_path.rglob("*.npy"))) == 1
    _, kind, camera, _ = data.plan(1)
    both = {camera or kind, clips.BACKWARDS.get(camera or kind, camera or kind)}
    phrases = {**clips.MOTIONS, **clips.CAMERAS}
    words = {word for name in both for word in phrases[name]} | {clips.FLYING_WORDS.get(name, "-") for name in both}
    told = [any(word in caption for word in words) for _, caption, _ in played]
    assert any(told) and not all(told)
    assert told == [bool(kind) for _, _, kind in played] and {kind for _, _, kind in played} <= both | {""}


def test_a_step_lowers_the_loss(model, options, text_encoder):
    teacher = object.__new__(motion.Clips)
    teacher.text_encoder = text_encoder
    torch.manual_seed(0)
    noisy, noise = torch.randn(1, 4, 3, 16, 16), torch.randn(1, 4, 3, 16, 16)
    ids = CLIPTokenizer.from_pretrained(BASE / "tokenizer")(["an owl, jumping"], return_tensors="pt").input_ids
    batch = noisy, noise, torch.tensor([400]), ids, torch.ones(1), torch.tensor([motion.KINDS.index("jump")])
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


def test_a_batch_is_of_one_movement(tmp_path, monkeypatch):
    monkeypatch.setattr("places.RUNS", tmp_path)
    data = motion_loras.InTurn(16, 2, 2)
    cameras = [data[number][3] for number in range(16)]
    assert cameras[::2] == cameras[1::2] == list(clips.CAMERAS)
    assert {data.plan(clip)[2] for clip in range(8)} == set(clips.CAMERAS)
