"""The studio's pictures are those that the pipelines draw alone, whoever else draws; a drawing can be stopped."""

import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from asking import SETTINGS
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from beside import state
from sdhelpers import models
from sdhelpers.app import guide
from sdhelpers.app.drawing import Drawing, Step, Stopped
from sdhelpers.app.requests import TASKS, read_request
from sdhelpers.generation import generate
from sdhelpers.images import to_png
from sdhelpers.metadata.generation import load_adapters, pixel_hash, redraw
from sdhelpers.schedulers import SCHEDULERS


def asked(studio, task="text", **values):
    amounts = {"strength": 0.7, "controlnet_conditioning_scale": 1.0, "low": 100, "high": 200}
    return read_request(task, SETTINGS | amounts | values, studio.limits)


@pytest.fixture(scope="module")
def of_task(studio, scene):
    """A request for each task."""
    layer = Image.new("RGBA", scene.size)
    ImageDraw.Draw(layer).ellipse((40, 40, 90, 90), fill="red")
    files = {"image": to_png(scene), "layers": [to_png(layer)]}
    return {task: asked(studio, task, **(files if TASKS[task].images else {})) for task in TASKS}


@pytest.fixture(scope="module")
def alone():
    """The base pipeline, loaded apart from the studio."""
    pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def followed(drawing: Drawing) -> list[Step]:
    """Its steps, when it is done."""
    return list(drawing)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_drawn_and_its_steps_are_counted(task, studio, of_task):
    drawing = Drawing(studio, of_task[task])
    steps = followed(drawing)
    assert drawing.picture.size == (128, 128) and drawing.data.settings == of_task[task].settings
    assert [step.done for step in steps] == list(range(1, len(steps) + 1)) and steps[-1].total == len(steps)
    assert np.asarray(drawing.picture).std() > 5
    again, _ = studio.draw(of_task[task])
    assert again.tobytes() == drawing.picture.tobytes()


def test_the_picture_is_the_pipelines_own_and_chapter_19_draws_it_again(studio, alone):
    request = asked(studio, lora_icon=0.8, lora_detail=-0.5, scheduler="Euler a")
    picture, data = studio.draw(request)
    load_adapters(alone, {studio.files["icon"]: 0.8, studio.files["detail"]: -0.5})
    by_hand = generate(alone, request.settings)
    alone.unload_lora_weights()
    assert np.abs(np.asarray(by_hand, int) - np.asarray(picture, int)).max() <= 1, "the order of two LoRAs is free"
    assert redraw(alone, data, list(studio.files.values())).tobytes() == picture.tobytes()
    assert pixel_hash(picture) == data.pixels


def test_drawing_leaves_the_shared_pipeline_as_it_was(studio):
    before = state(studio.shared("text"))
    studio.draw(asked(studio, lora_icon=1.0, scheduler="Euler"))
    after = state(studio.shared("text"))
    del before["torch"], after["torch"]  # PEFT fills new layers from torch's own generator; no picture is drawn from it
    assert after == before


def test_pictures_drawn_at_once_are_those_drawn_alone(studio, wide):
    requests = [
        asked(studio, lora_icon=1.0, num_inference_steps=5),
        asked(studio, scheduler="Euler", num_inference_steps=8, seed=2),
        asked(studio, lora_hedgehog=1.0, prompt="a hedgehog in a meadow", scheduler="UniPC"),
        asked(studio, num_inference_steps=6, prompt="a flat illustration of a house", width=160),
        asked(studio, lora_icon=-1.0, seed=3, scheduler="Heun"),
        asked(studio),
    ]
    pictures = [studio.draw(request)[0] for request in requests]

    def draw(request):
        drawing = Drawing(wide, request)
        followed(drawing)
        return drawing.picture

    with ThreadPoolExecutor(len(requests)) as threads:
        together = list(threads.map(draw, requests))
    assert [p.tobytes() for p in together] == [p.tobytes() for p in pictures]


def test_stop_ends_it_after_the_present_step(studio):
    drawing = Drawing(studio, asked(studio, num_inference_steps=30))
    with pytest.raises(Stopped):
        for step in drawing:
            if step.done == 3:
                drawing.stop()
    assert drawing.done in (3, 4) and drawing.picture is None


def test_leaving_the_steps_frees_the_place(studio):
    left = Drawing(studio, asked(studio, num_inference_steps=100))
    steps = iter(left)
    next(steps)
    steps.close()
    following = Drawing(studio, asked(studio))
    followed(following)
    assert following.picture is not None and left.stopped and left.picture is None


def test_one_that_waits_for_a_thread_can_be_stopped(studio):
    busy, waiting = (Drawing(studio, asked(studio, num_inference_steps=20)) for _ in range(2))
    first = iter(busy)
    next(first)
    waiting.stop()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(followed, waiting)
        first.close()
        with pytest.raises(Stopped):
            future.result(60)
    assert waiting.done == 0


def test_what_goes_wrong_in_the_thread_is_raised_where_the_steps_are_followed(studio):
    request = dataclasses.replace(asked(studio), loras={"unknown": 1.0})
    with pytest.raises(KeyError):
        followed(Drawing(studio, request))


def test_another_number_of_threads_is_put_back(studio):
    before = studio.threads.submit(torch.get_num_threads).result()
    drawing = Drawing(studio, asked(studio), threads=1)
    followed(drawing)
    assert drawing.data.made_with["threads"] == "1"
    assert studio.threads.submit(torch.get_num_threads).result() == before


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_scheduler_draws_with_few_steps_or_says_why_not(studio, scheduler, steps):
    drawing = Drawing(studio, asked(studio, scheduler=scheduler, num_inference_steps=steps, width=64, height=64))
    followed(drawing)
    assert drawing.picture.size == (64, 64) and np.asarray(drawing.picture).std() > 1


def test_the_preview_resembles_the_decoded_picture(studio):
    drawing = Drawing(studio, asked(studio, num_inference_steps=12))
    last = followed(drawing)[-1].preview
    small = drawing.picture.reduce(8)
    assert last.size == small.size == (16, 16)
    assert likeness(last, small) > likeness(last.rotate(180), small) + 0.3
    assert likeness(last, small) > 0.9


def likeness(image: Image.Image, other: Image.Image) -> float:
    """How two pictures of one size go together, -1 to 1."""
    return np.corrcoef(*(np.asarray(i, float).ravel() for i in (image, other)))[0, 1]


@pytest.fixture(scope="module")
def another(studio) -> Image.Image:
    """Another picture, as small as a preview."""
    return studio.draw(asked(studio, prompt="a 3d render of a rocket at night", seed=3))[0].reduce(8)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_third_of_the_way_the_preview_shows_what_will_be(studio, another, scheduler):
    drawing = Drawing(studio, asked(studio, scheduler=scheduler, num_inference_steps=9))
    steps = followed(drawing)
    early, finished = steps[len(steps) // 3].preview, drawing.picture.reduce(8)
    assert likeness(early, finished) > likeness(early, another) + 0.2


def test_early_previews_of_large_latents_are_not_burnt_out(studio):
    drawing = Drawing(studio, asked(studio, num_inference_steps=10, scheduler="Euler"))
    first = np.asarray(followed(drawing)[0].preview)
    assert ((first == 0) | (first == 255)).mean() < 0.5


def test_copies_are_gone_after_the_picture(studio):
    def modules() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.nn.Module) for thing in gc.get_objects())

    studio.draw(asked(studio, lora_icon=1.0))
    before = modules()
    for _ in range(3):
        studio.draw(asked(studio, lora_icon=1.0))
    assert modules() == before


@pytest.mark.parametrize("control", guide.EXPLAINED)
def test_the_section_that_explains_a_control_is_there(control):
    chapter, heading = guide.EXPLAINED[control]
    assert f'id="{heading.replace(" ", "-")}"' in guide.page_of(chapter).replace("&#39;", "'").replace("&#x27;", "'")
    address = f"/chapters/{chapter}#{guide.anchor(heading)}"
    assert address in guide.link(control) and f"]({address})" in guide.note(control)
