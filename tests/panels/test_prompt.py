"""The prompt panels, driven the way a reader does, and their pictures read back."""

import io

import numpy as np
import pytest
from PIL import Image

from beside import assert_apart, state
from sdhelpers.panels.prompt import (
    GREY,
    PromptPanel,
    SchedulePanel,
    schedule_picture,
    strip_rows,
    token_picture,
    weight_colour,
)
from sdhelpers.prompts import read_prompt, read_schedule, to_chunks
from sdhelpers.schedulers import build_scheduler

SWITCH = "a [cat:dog:{when}] on a beach"


def shown(widget) -> Image.Image:
    return Image.open(io.BytesIO(widget.value)).convert("RGB")


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixel)) for pixel in np.asarray(picture).reshape(-1, 3)}


@pytest.mark.parametrize("weight", [1.1, 1.5, 2, 9, 0.9, 0.5, 0, -1])
def test_a_weight_has_its_colour_in_the_picture(pipe, weight):
    chunks = to_chunks(pipe.tokenizer, read_prompt(f"a (cat:{weight}) on a beach"))
    assert weight_colour(weight) in colours(token_picture(pipe.tokenizer, chunks))
    red, _, blue = weight_colour(weight)
    assert (red > blue) == (weight > 1)


def test_weight_1_is_white():
    assert weight_colour(1.0) == (255, 255, 255)


@pytest.mark.parametrize("prompt", ["", "cat " * 300, "a BREAK b", "w" * 400, "é 🐱 漢字"])
def test_every_prompt_can_be_pictured(pipe, prompt):
    picture = token_picture(pipe.tokenizer, to_chunks(pipe.tokenizer, read_prompt(prompt)), width=300)
    assert picture.width == 300 and picture.height > 20


def cells(readings, width: int = 808) -> list[list[bool]]:
    """Which cells of the strip are filled, from the pixels in their middle: [row][step]."""
    picture, steps = np.asarray(schedule_picture(readings, width)), len(readings)
    cell = (width - 8) / steps
    rows = len(strip_rows(readings))
    middle = [[picture[44 * row + 30, int(4 + cell * (step + 0.5))] for step in range(steps)] for row in range(rows)]
    return [[tuple(map(int, pixel)) != GREY for pixel in line] for line in middle]


@pytest.mark.parametrize("prompt", ["a cat", "[a:b:0.3]", "[a|b|c]", "[a:[b:c:0.7]:0.2]", "[a|b] [c:d:5]"])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_the_strip_equals_the_schedule(prompt, steps):
    readings = read_schedule(prompt, steps)
    filled = cells(readings)
    assert filled == list(strip_rows(readings).values())
    assert [sum(column) for column in zip(*filled)] == [1] * steps, "one text at each step"


@pytest.mark.parametrize("steps", [1, 1000])
def test_a_strip_of_any_length_has_its_width(steps):
    assert schedule_picture(read_schedule("[a|b|" + "word " * 200 + "]", steps)).width == 760


@pytest.fixture
def prompt_panel(pipe):
    return PromptPanel(pipe, "a (cat:1.3) on a beach", num_inference_steps=2)


@pytest.fixture
def schedule_panel(pipe):
    return SchedulePanel(pipe, SWITCH, num_inference_steps=4)


def click(panel) -> Image.Image:
    panel.draw_button.click()
    assert panel.message.value == "", panel.message.value
    assert not panel.draw_button.disabled
    return shown(panel.picture)


def test_the_prompt_panel_follows_the_text_and_draws_it(prompt_panel):
    before = shown(prompt_panel.reading)
    assert [weight for _, weight in prompt_panel.chunks[0].tokens] == [1, 1.3, 1, 1, 1]
    prompt_panel.prompt.value = "a (cat:1.3) on a beach BREAK (sea:0.5)"
    assert len(prompt_panel.chunks) == 2
    after = shown(prompt_panel.reading)
    assert after.height > before.height and weight_colour(0.5) in colours(after)
    assert click(prompt_panel).size == (128, 128)


@pytest.mark.parametrize("prompt", ["", "cat " * 500, "(((cat))) [on] a (beach"])
def test_the_prompt_panel_takes_its_shortest_and_longest_prompts(prompt_panel, prompt):
    prompt_panel.prompt.value = prompt
    click(prompt_panel)


@pytest.mark.parametrize("seed", ["min", "max"])
def test_the_seed_works_at_its_ends(prompt_panel, schedule_panel, seed):
    for panel in (prompt_panel, schedule_panel):
        usual = click(panel).tobytes()
        panel.seed.value = getattr(panel.seed, seed)
        assert click(panel).tobytes() != usual


def test_a_mistake_is_shown_in_the_panel_and_goes_away(prompt_panel, schedule_panel):
    for panel, message in ((prompt_panel, "changes from step to step"), (schedule_panel, "must not overlap")):
        before = panel.reading.value
        panel.prompt.value = "[a|b]" if panel is prompt_panel else "[a (b] c)"
        assert message in panel.message.value and panel.reading.value == before
        panel.draw_button.click()
        assert message in panel.message.value
        panel.prompt.value = "a < b"
        click(panel)


def test_any_other_failure_is_said_too(prompt_panel, monkeypatch):
    def broken(**arguments):
        raise RuntimeError("a <part> is missing")

    monkeypatch.setattr(prompt_panel, "pipe", broken)
    monkeypatch.setattr("sdhelpers.panels.prompt.encode", lambda pipe, prompt: {})
    prompt_panel.draw_button.click()
    assert "RuntimeError: a &lt;part&gt; is missing" in prompt_panel.message.value
    assert not prompt_panel.draw_button.disabled


@pytest.mark.parametrize("when", ["min", "default", "max"])
@pytest.mark.parametrize("steps", ["min", "default", "max"])
def test_the_schedule_panel_works_at_its_ends(schedule_panel, when, steps):
    for control, end in ((schedule_panel.when, when), (schedule_panel.num_inference_steps, steps)):
        if end != "default":
            control.value = getattr(control, end)
    expected = read_schedule(
        SWITCH.format(when=f"{schedule_panel.when.value:.2f}"), schedule_panel.num_inference_steps.value
    )
    assert schedule_panel.readings == expected
    assert np.array_equal(shown(schedule_panel.reading), np.asarray(schedule_picture(expected)))
    if schedule_panel.num_inference_steps.value < 50 or when == "default":
        click(schedule_panel)


def test_the_switch_point_changes_the_picture(schedule_panel):
    early, late = [], []
    for when, kept in ((0, early), (1, late)):
        schedule_panel.when.value = when
        kept.append(click(schedule_panel).tobytes())
    assert early != late


def test_a_panel_and_a_cell_draw_side_by_side(pipe, prompt_panel, schedule_panel):
    for panel in (prompt_panel, schedule_panel):
        assert_apart(pipe, lambda panel=panel: click(panel).tobytes())


def test_reading_a_prompt_leaves_the_cells_scheduler_alone(pipe, schedule_panel):
    pipe.scheduler.set_timesteps(7)
    steps, before = pipe.scheduler.timesteps, state(pipe)
    schedule_panel.num_inference_steps.value = 50
    assert pipe.scheduler.timesteps is steps and state(pipe) == before


def test_the_strip_counts_the_samplers_real_steps(pipe):
    scheduler = pipe.scheduler
    try:
        pipe.scheduler = build_scheduler("PNDM", scheduler.config)  # takes one step more than it is asked for
        panel = SchedulePanel(pipe, SWITCH, num_inference_steps=4)
        assert len(panel.readings) == 5
        click(panel)
    finally:
        pipe.scheduler = scheduler


@pytest.mark.parametrize("kind", [PromptPanel, SchedulePanel])
def test_a_panel_draws_with_the_cells_guidance(pipe, kind):
    panels = [kind(pipe, "a cat", num_inference_steps=2, guidance_scale=scale) for scale in (1, 3, 3)]
    without, mild, again = (click(panel).tobytes() for panel in panels)
    assert mild == again != without
