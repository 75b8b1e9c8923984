"""The explorer, driven the way a reader does: every control at its ends, Stop, errors, impatience."""

import threading

import ipywidgets
import pytest

from beside import draw, state
from sdhelpers.generation import Settings, SettingsError, generate
from sdhelpers.panels.explorer import HISTORY, Explorer
from sdhelpers.schedulers import SCHEDULERS, build_scheduler

PROMPT = "a cartoon of a cat on a beach"


@pytest.fixture
def explorer(pipe):
    panel = Explorer(pipe, PROMPT, sizes=((128, 128), (192, 128)), num_inference_steps=2)
    yield panel
    panel.stop()
    panel.wait()


def click(panel: Explorer, button: ipywidgets.Button) -> None:
    button.click()
    panel.wait()
    assert panel.message.value == "", panel.message.value


def test_generate_shows_the_picture_and_its_settings(explorer):
    before = explorer.picture.value
    click(explorer, explorer.generate_button)
    assert explorer.picture.value != before and bytes(explorer.picture.value).startswith(b"\x89PNG")
    assert explorer.progress.value == explorer.progress.max == 2
    assert explorer.history[0][0] == explorer.settings and len(explorer.strip.children) == 1


@pytest.mark.parametrize("end", ["minimum", "default", "maximum"])
def test_every_control_works_at_its_ends(explorer, end):
    for control in (explorer.guidance_scale, explorer.seed):
        if end != "default":
            control.value = control.min if end == "minimum" else control.max
    explorer.num_inference_steps.value = {"minimum": 1, "default": 2, "maximum": 50}[end]
    explorer.size.value = (192, 128) if end == "maximum" else (128, 128)
    explorer.negative_prompt.value = "" if end == "minimum" else "blurry"
    click(explorer, explorer.generate_button)
    assert explorer.history[0][1].size == explorer.size.value


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [2, 5])
def test_every_scheduler_draws(explorer, name, steps):
    explorer.scheduler.value, explorer.num_inference_steps.value = name, steps
    click(explorer, explorer.generate_button)
    assert type(explorer.pipe.scheduler).__name__ == SCHEDULERS[name][0]


def test_a_schedulers_own_options_do_not_leak_into_the_next(pipe):
    karras = build_scheduler("DPM++ 2M Karras", pipe.scheduler.config)
    assert karras.config.use_karras_sigmas
    assert not build_scheduler("DPM++ 2M", karras.config).config.use_karras_sigmas
    assert not build_scheduler("Euler", karras.config).config.use_karras_sigmas


def test_the_dice_changes_the_seed_and_the_picture(explorer):
    click(explorer, explorer.generate_button)
    seed, picture = explorer.seed.value, explorer.picture.value
    explorer.dice.click()
    assert explorer.seed.value != seed
    click(explorer, explorer.generate_button)
    assert explorer.picture.value != picture
    assert "seed" in explorer.history[0][0].differences(explorer.history[1][0])


def test_one_seed_gives_one_picture(explorer):
    click(explorer, explorer.generate_button)
    click(explorer, explorer.generate_button)
    assert explorer.history[0][1].tobytes() == explorer.history[1][1].tobytes()
    assert explorer.history[0][0].differences(explorer.history[1][0]) == "the same again"


def test_these_settings_brings_the_controls_back(explorer):
    click(explorer, explorer.generate_button)
    old = explorer.settings
    explorer.guidance_scale.value, explorer.scheduler.value, explorer.seed.value = 3, "Euler a", 5
    click(explorer, explorer.generate_button)
    explorer.strip.children[1].children[2].click()
    assert explorer.settings == old


def test_the_history_keeps_the_last_images_only(explorer):
    for seed in range(HISTORY + 2):
        explorer.seed.value = seed
        click(explorer, explorer.generate_button)
    assert [s.seed for s, _ in explorer.history] == list(range(HISTORY + 1, 1, -1))
    assert len(explorer.strip.children) == HISTORY


def test_stop_ends_after_the_present_step_and_says_so(explorer):
    explorer.num_inference_steps.value = 50
    reached = threading.Event()
    explorer.progress.observe(lambda change: change["new"] >= 2 and reached.set(), "value")
    explorer.generate_button.click()
    assert reached.wait(60)
    explorer.stop_button.click()
    explorer.wait()
    assert explorer.progress.value < 50
    assert "Stopped after step" in explorer.message.value
    assert explorer.stop_button.disabled


@pytest.mark.parametrize("name", ["Heun", "Euler a"])
def test_a_cell_that_draws_while_the_explorer_does(explorer, pipe, name):
    """Both pictures are those that each gives alone, and the pipeline is as it was."""
    explorer.scheduler.value, explorer.num_inference_steps.value = name, 20
    click(explorer, explorer.generate_button)
    cells, before = draw(pipe), state(pipe)
    reached = threading.Event()
    explorer.progress.observe(lambda change: change["new"] == 3 and reached.set(), "value")
    explorer.generate_button.click()
    assert reached.wait(60)
    beside = draw(pipe)
    explorer.wait()
    assert explorer.message.value == "" and len(explorer.history) == 2
    assert beside.tobytes() == cells.tobytes()
    assert explorer.history[0][1].tobytes() == explorer.history[1][1].tobytes()
    assert state(pipe) == before


def test_a_dragged_slider_never_starts_a_second_generation(explorer, monkeypatch):
    running, most, drawn = 0, 0, []
    lock = threading.Lock()

    def watched(pipe, settings, on_step=None):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        image = generate(pipe, settings, on_step)
        with lock:
            running -= 1
            drawn.append(settings.guidance_scale)
        return image

    monkeypatch.setattr("sdhelpers.panels.explorer.generate", watched)
    explorer.live.value = True
    positions = [1.5 + 0.5 * i for i in range(20)]
    for position in positions:
        explorer.guidance_scale.value = position
    explorer.wait()
    assert most == 1
    assert drawn[-1] == positions[-1], "the last position is drawn"
    assert len(drawn) < len(positions), "positions passed over are not"


def test_an_error_is_shown_inside_the_panel(explorer, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a <part> is missing")

    monkeypatch.setattr(explorer.pipe, "encode_prompt", broken)
    explorer.generate_button.click()
    explorer.wait()
    assert "RuntimeError: a &lt;part&gt; is missing" in explorer.message.value
    assert explorer.history == [] and explorer.stop_button.disabled
    monkeypatch.undo()
    click(explorer, explorer.generate_button)


def test_text_that_is_cleared_while_typing_does_no_harm(explorer):
    explorer.prompt.value = ""
    click(explorer, explorer.generate_button)
    explorer.prompt.value = "ein Kätzchen 🐱 " * 200
    click(explorer, explorer.generate_button)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seed=-1), "seed must be between 0 and"),
        (dict(seed=2**32), "seed must be between 0 and"),
        (dict(num_inference_steps=0), "steps must be between 1 and 1000"),
        (dict(width=100), "multiples of 8"),
        (dict(height=16), "multiples of 8"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(pipe, change, message):
    with pytest.raises(SettingsError, match=message):
        generate(pipe, Settings(**{"prompt": PROMPT, **change}))


def test_what_changed_is_said_in_a_few_words():
    first = Settings(PROMPT, negative_prompt="blurry", seed=7)
    assert first.differences(None) == "seed 7, guidance 7.5, steps 20, scheduler DPM++ 2M"
    assert Settings(PROMPT, seed=7).differences(first) == "not nothing"
    assert first.differences(first) == "the same again"
