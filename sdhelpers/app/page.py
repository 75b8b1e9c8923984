"""The page: fields, tabs, and what happens when a button is pressed. Built in chapter 20.

Gradio's own conversion of what comes in is switched off for everything that draws (`preprocess=False`): numbers arrive
as they were sent and files as paths of uploads, so that `requests.read_request` alone decides what is good.
"""

import secrets
from collections.abc import Iterator

import gradio as gr

from sdhelpers.app import uploads
from sdhelpers.app.guide import link, note
from sdhelpers.app.requests import GUIDANCE, TASKS, THRESHOLDS, WEIGHTS, Request, read_request
from sdhelpers.app.rounds import Rounds
from sdhelpers.app.studio import Studio
from sdhelpers.app.views import NOTHING_YET
from sdhelpers.generation import LARGEST_SEED
from sdhelpers.metadata.files import WRITERS
from sdhelpers.models import default_guidance_scale, default_size
from sdhelpers.schedulers import SCHEDULERS

MOST_WAITING = 100
# What is drawn stays in view, however long the tab is. (Gradio's box clips by `hidden`, within which nothing sticks.)
STYLE = """
.gradio-container { overflow: clip !important; }
#result { position: sticky; top: 1rem; align-self: flex-start; }
"""
EXAMPLES = [
    ["a 3d render of a rocket at night", "", 1234, 20, 3, "DPM++ 2M"],
    ["a cartoon of a cat on a beach", "blurred", 7, 20, 3, "Euler a"],
    ["a flat illustration of a castle in a meadow, best quality, detailed", "monochrome", 42, 15, 4, "UniPC"],
]


class Page(gr.Blocks):
    """Blocks in which a request that Gradio itself refuses ends in one sentence, too."""

    async def preprocess_data(self, *arguments, **options):
        try:
            return await super().preprocess_data(*arguments, **options)
        except gr.Error:
            raise
        except Exception as error:  # a file that nobody uploaded, a list in the place of a picture
            text = "The request holds a file that was not uploaded, or something that belongs in no field of this page."
            raise gr.Error(text, print_exception=False) from error


def build(studio: Studio) -> gr.Blocks:
    """The whole page, ready to be launched."""
    rounds = Rounds(studio)
    with Page(title="A drawing app", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# A drawing app\nChapter 20 of *Using Stable Diffusion with Python*, alongside the book.")
        drawn = gr.State([])
        seen = gr.HTML(NOTHING_YET, elem_id="seen", render=False)
        gallery = gr.Gallery(
            label="Drawn", elem_id="gallery", columns=4, object_fit="contain", height=320, render=False
        )
        outputs, events = [seen, gallery, drawn], []
        with gr.Row():
            with gr.Column():
                fields = settings_fields(studio)
                with gr.Tabs():
                    for name, tab in TABS.items():
                        with gr.Tab(name):
                            events.append(tab(rounds, fields | {"drawn": drawn}, outputs))
            with gr.Column(elem_id="result"):
                seen.render()
                stop = gr.Button("Stop", variant="stop")
                gallery.render()
        halt = stop.click(rounds.stop, None, None, queue=False, api_name="stop", cancels=events)
        halt.then(rounds.say_stopped, None, seen, queue=False, show_progress="hidden", api_visibility="private")
        page.unload(rounds.leave)
        page.rounds = rounds
        gr.Examples(EXAMPLES, [fields[name] for name in list(fields)[: len(EXAMPLES[0])]], label="Examples")
    return page.queue(max_size=MOST_WAITING)


def settings_fields(studio: Studio) -> dict[str, gr.components.Component]:
    """The fields that all tabs share, by the names of the values that they send."""
    side, limits = default_size("sd15", studio.tier), studio.limits
    sizes = dict(minimum=64, maximum=limits.largest_side, step=8)
    fields = {
        "prompt": gr.Textbox(EXAMPLES[0][0], label="Prompt", info=note("prompt"), lines=2),
        "negative_prompt": gr.Textbox(label="Negative prompt", info=note("negative_prompt")),
    }
    with gr.Row():
        fields["seed"] = gr.Number(1234, label="Seed", info=note("seed"), minimum=0, maximum=LARGEST_SEED, step=1)
        dice = gr.Button("Another seed", size="sm")
        dice.click(another_seed, None, fields["seed"], queue=False, api_visibility="private")
    with gr.Row():
        fields["num_inference_steps"] = gr.Slider(
            1, limits.most_steps, 20, step=1, label="Steps", info=note("num_inference_steps")
        )
        scale = default_guidance_scale("sd15", studio.tier)
        fields["guidance_scale"] = gr.Slider(
            *GUIDANCE, scale, step=0.5, label="Guidance scale", info=note("guidance_scale")
        )
    fields["scheduler"] = gr.Dropdown(list(SCHEDULERS), value="DPM++ 2M", label="Scheduler", info=note("scheduler"))
    with gr.Row():
        fields["width"] = gr.Slider(**sizes, value=side, label="Width", info=note("size"))
        fields["height"] = gr.Slider(**sizes, value=side, label="Height", info=note("size"))
    if limits.loras:
        with gr.Accordion("LoRAs", open=False):
            for name in limits.loras:
                fields[f"lora_{name}"] = gr.Slider(*WEIGHTS, 0, step=0.1, label=name, info=note("lora"))
    for name, field in fields.items():
        field.elem_id = name
    return fields


def another_seed() -> int:
    return secrets.randbelow(LARGEST_SEED + 1)


def draw_button(task: str, rounds: Rounds, fields: dict, outputs: list, editor: gr.ImageEditor | None = None):
    """A button that draws a task with these fields; returns its event."""

    def draw(request: gr.Request, drawn: list, **values) -> Iterator[tuple]:
        def asked() -> Request:
            return read_request(task, uploads.as_bytes(values, editor), rounds.studio.limits)

        yield from rounds.play(request.session_hash, asked, drawn)

    button = gr.Button("Draw", variant="primary", elem_id=f"draw-{task}")
    return button.click(
        draw,
        inputs_kwargs=fields,
        outputs=outputs,
        preprocess=False,
        api_name=task,
        show_progress="minimal",
        concurrency_limit=rounds.studio.at_once,
        concurrency_id="drawing",
    )


def amount_field(task: str, value: float, label: str) -> dict:
    name = TASKS[task].amount
    return {name: gr.Slider(0, TASKS[task].most, value, step=0.05, label=label, info=note(name))}


def last_button(drawn: gr.State, target: gr.components.Component, task: str) -> None:
    """A button that takes the newest picture of the gallery into a field."""
    button = gr.Button("Take the last picture", size="sm", elem_id=f"last-{task}")
    button.click(lambda drawn: drawn[0][0] if drawn else None, drawn, target, queue=False, api_visibility="private")


def text_tab(rounds: Rounds, fields: dict, outputs: list):
    return draw_button("text", rounds, fields, outputs)


def img2img_tab(rounds: Rounds, fields: dict, outputs: list):
    image = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], height=300)
    last_button(fields["drawn"], image, "img2img")
    own = {"image": image} | amount_field("img2img", 0.6, "Strength")
    return draw_button("img2img", rounds, fields | own, outputs)


def inpaint_tab(rounds: Rounds, fields: dict, outputs: list):
    gr.HTML(f"Paint over what is to be drawn anew ({link('mask')}).")
    brush = gr.Brush(default_size=12, colors=["#ff4fa3"], color_mode="fixed")
    editor = gr.ImageEditor(
        label="Picture and mask",
        elem_id="editor",
        type="filepath",
        sources=["upload", "clipboard"],
        brush=brush,
        layers=False,
        transforms=[],
        canvas_size=(384, 384),
        height=480,
    )
    last_button(fields["drawn"], editor, "inpaint")
    own = {"image": editor} | amount_field("inpaint", 1.0, "Strength")
    return draw_button("inpaint", rounds, fields | own, outputs, editor)


def control_tab(rounds: Rounds, fields: dict, outputs: list):
    image = gr.Image(label="Picture whose edges are kept", type="filepath", sources=["upload", "clipboard"], height=300)
    last_button(fields["drawn"], image, "control")
    own = {"image": image}
    with gr.Row():
        own["low"] = gr.Slider(*THRESHOLDS, 100, step=10, label="Low threshold", info=note("thresholds"))
        own["high"] = gr.Slider(*THRESHOLDS, 200, step=10, label="High threshold", info=note("thresholds"))
    own |= amount_field("control", 1.0, "Control's scale")
    return draw_button("control", rounds, fields | own, outputs)


def file_tab(rounds: Rounds, fields: dict, outputs: list):
    """The tab that reads a file and draws its picture again; returns that event."""
    gr.HTML(f"An image file says how it was drawn ({link('file')}).")
    file = gr.File(label="An image file", file_types=list(WRITERS), elem_id="file")
    said = gr.HTML(elem_id="said", render=False)  # a long table, below the button

    def read(file) -> str:
        return rounds.describe(lambda: uploads.content_of(file)) if file else ""

    def draw_again(request: gr.Request, drawn: list, file) -> Iterator[tuple]:
        yield from rounds.play_again(request.session_hash, lambda: uploads.content_of(file), drawn)

    file.change(read, file, said, preprocess=False, api_name="read")
    event = gr.Button("Draw it again", elem_id="draw-again").click(
        draw_again,
        inputs_kwargs={"drawn": fields["drawn"], "file": file},
        outputs=outputs,
        preprocess=False,
        api_name="again",
        show_progress="minimal",
        concurrency_limit=rounds.studio.at_once,
        concurrency_id="drawing",
    )
    said.render()
    return event


TABS = {
    "Text to image": text_tab,
    "Image to image": img2img_tab,
    "Inpainting": inpaint_tab,
    "Control": control_tab,
    "A file": file_tab,
}
