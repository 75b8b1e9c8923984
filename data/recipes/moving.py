"""Clips drawn by the frozen sd15 with motion modules from held-out prompts, and how well they move."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DPMSolverMultistepScheduler
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from artist import GUIDANCE
from card import share
from latents import through
from scenes_data import FRESH
from sdhelpers import models
from sdhelpers.device import seeded_generator
from sdhelpers.images import to_image
from sdhelpers.measures import motion
from sdhelpers.measures.judge import Classifier, to_batch
from sdhelpers.world import Description, clips
from sdhelpers.world.captions import COLOURS, held_out_descriptions, pick, write_caption

BASE = models.POCKET / "sd15"
BATCH, STEPS = 4, 10  # clips at once, and how many steps a clip takes
MOVEMENTS = tuple((kind, None) for kind in clips.MOTIONS) + tuple(("still", camera) for camera in clips.CAMERAS)
Clip = list[Image.Image]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be drawn and to move, and its caption, which may leave out what moves."""

    description: Description
    motion: str
    camera: str | None
    caption: str

    @property
    def kind(self) -> str:
        return self.camera or self.motion


def tasks_of(count: int, kinds: Sequence[tuple[str, str | None]] = MOVEMENTS, told: bool = True) -> list[Task]:
    """Held-out combinations at places that one sees move (a plain background shows no camera), each with a motion."""
    rng, tasks = np.random.RandomState(FRESH % 2**32), []
    every = [d for d in held_out_descriptions() if d.nouns[0] in models.nouns() and d.place not in COLOURS]
    for i in range(count):
        description, (moves, camera) = pick(rng, every), kinds[i % len(kinds)]
        said = f", {clips.words_for(description.nouns[0], moves, camera, rng)}" if told else ""
        tasks.append(Task(description, moves, camera, write_caption(description, rng, complete=True) + said))
    return tasks


def probed() -> list[Task]:
    """Tasks of motions that differ most."""
    kinds = ("left", None), ("right", None), ("rise", None)
    return tasks_of(6, (*kinds, ("still", "zoom in"), ("still", "pan right"), ("still", "roll clockwise")))


def pipeline(model) -> AnimateDiffPipeline:
    """The library's pipeline around a trained parts.motion.Moving, on its device, its words of motion read."""
    text_encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    with torch.no_grad():
        ids = tokenizer.convert_tokens_to_ids(model.tokens)
        text_encoder.get_input_embeddings().weight[ids] = model.words.detach().float().cpu()
    pipe = AnimateDiffPipeline(
        vae=AutoencoderKL.from_pretrained(BASE / "vae", dtype=torch.float32),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        motion_adapter=None,
        scheduler=DPMSolverMultistepScheduler.from_pretrained(BASE / "scheduler"),
    ).to(model.words.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: AnimateDiffPipeline, tasks: Sequence[Task], frames: int, steps: int = STEPS) -> list[Clip]:
    """A clip for each task, seed i for the i-th."""
    drawn = []
    for first in range(0, len(tasks), BATCH):
        some = tasks[first : first + BATCH]
        drawn += pipe(
            [task.caption for task in some],
            num_frames=frames,
            height=128,
            width=128,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[seeded_generator(first + i) for i in range(len(some))],
        ).frames
    return drawn


@torch.no_grad()
def after_the_vae(pipe: AnimateDiffPipeline, clip: Clip) -> Clip:
    """What the VAE leaves of a clip."""
    pixels = through(pipe.vae, to_batch(clip).to(pipe.vae.device))
    return [to_image(frame) for frame in pixels]


def way_off(clip: Clip, task: Task) -> float:
    """How far the clip's flow is from that of the world's own clip of the same task: 0 alike, 1 as if nothing moved.

    Both are the mean flow over the frames of what moves together: shift, enlargement and turn, in pixels at a quarter
    of the side from the middle.
    """
    rng = np.random.RandomState(0)
    drawn = clips.draw(task.description, task.motion, task.camera, rng, frames=len(clip)).frames
    ways = []
    for frames in (clip, drawn):
        found = motion.flows(frames)
        right, down = motion.inside(frames, found).sum(0)
        moved = motion.whole(frames, found)
        quarter = frames[0].width / 4
        if task.camera and task.camera.startswith(("zoom", "roll")):
            right = down = 0.0
        turned = (np.log(moved.zoom) * quarter, np.radians(moved.turn) * quarter) if task.camera else (0.0, 0.0)
        ways.append(np.array([right, down, *turned]))
    return float(min(2.0, np.linalg.norm(ways[0] - ways[1]) / max(np.linalg.norm(ways[1]), 1.0)))


def differences(frames: Sequence[Image.Image]) -> float:
    """Mean difference of neighbouring frames, 0 to 1."""
    pixels = np.stack([np.asarray(frame, np.float32) / 255 for frame in frames])
    return float(np.abs(np.diff(pixels, axis=0)).mean())


def scores_of(pipe: AnimateDiffPipeline, count: int, frames: int) -> dict[str, float]:
    """Whether things move as the words say, how smoothly, and whether each frame shows its noun.

    Beside them the same of drawn clips after the VAE, the ceiling of the judge of motions.
    """
    tasks = tasks_of(count)
    drawn = draw(pipe, tasks, frames)
    right = [motion.named(clip) == task.kind for clip, task in zip(drawn, tasks)]
    direction = [motion.named(clip, bool(task.camera)) == task.kind for clip, task in zip(drawn, tasks)]
    judge = Classifier()
    nouns = [
        [noun == task.description.nouns[0] for noun in judge(clip).best("noun")] for clip, task in zip(drawn, tasks)
    ]
    moving = [clip for clip, task in zip(drawn, tasks) if task.kind != "still"]
    seconds = [[clip[len(clip) // 2] for clip in drawn[i : i + 8]] for i in range(0, len(drawn) - 7, 8)]
    some = tasks[: max(1, count // 2)]
    ceiling = [
        after_the_vae(
            pipe, clips.draw(t.description, t.motion, t.camera, np.random.RandomState(i), frames=frames).frames
        )
        for i, t in enumerate(some)
    ]
    scores = {"clips": count, "frames": frames, "motion right": share(right)}
    for name, kinds in {"objects": tuple(clips.MOTIONS), "cameras": tuple(clips.CAMERAS)}.items():
        scores[f"motion right, {name}"] = share([r for r, task in zip(right, tasks) if task.kind in kinds])
        scores[f"direction right, {name}"] = share([r for r, task in zip(direction, tasks) if task.kind in kinds])
    return scores | {
        "motion right, drawn by the world": share([motion.named(c) == t.kind for c, t in zip(ceiling, some)]),
        "noun right in every frame": share([all(clip) for clip in nouns]),
        "noun right, frames": share([flag for clip in nouns for flag in clip]),
        "difference of neighbours": round(float(np.mean([differences(clip) for clip in moving])), 4),
        "difference of neighbours, drawn by the world": round(float(np.mean([differences(c) for c in ceiling])), 4),
        "difference of independent pictures": round(float(np.mean([differences(clip) for clip in seconds])), 4),
    }


def scores_of_loras(
    pipe: AnimateDiffPipeline, count: int, frames: int, listen_to: Callable[[str], None]
) -> dict[str, float]:
    """For each movement of the camera, clips of prompts that say nothing of it, that move as its LoRA promises.

    Beside each how many of the same prompts and seeds do so without any LoRA.
    """
    scores: dict[str, float] = {"clips": count, "frames": frames}
    cameras = tuple(clips.CAMERAS)
    tasks = tasks_of(count // len(cameras), told=False)
    pipe.unet.disable_adapters()
    without = [motion.named(clip, camera=True) for clip in draw(pipe, tasks, frames)]
    pipe.unet.enable_adapters()
    for camera in cameras:
        listen_to(camera)
        drawn = draw(pipe, tasks, frames)
        scores[camera] = share([motion.named(clip, camera=True) == camera for clip in drawn])
        scores[f"{camera}, without the LoRA"] = share([kind == camera for kind in without])
    return scores
