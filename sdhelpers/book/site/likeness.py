"""How like the notebooks' pictures those of the exported models are, by onnxruntime, which the live page runs too."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from diffusers import StableDiffusionPipeline

from sdhelpers.device import seeded_latents
from sdhelpers.generation import Settings, generate
from sdhelpers.schedulers import build_scheduler

PICTURES = (
    Settings("a cartoon of an astronaut riding a horse in the desert"),
    Settings("a 3d render of a cat on a beach", "blurry", seed=7),
)


def of_the_notebooks(pipe: StableDiffusionPipeline) -> list[np.ndarray]:
    """PICTURES as the pipeline draws them, [128, 128, 3] from 0 to 255."""
    return [np.asarray(generate(pipe, settings), dtype=np.float32) for settings in PICTURES]


def of_the_files(pipe: StableDiffusionPipeline, folder: Path) -> list[np.ndarray]:
    """PICTURES as the three files in `folder` draw them; of the pipeline only tokenizer and scheduler are used."""
    parts = {path.stem: onnxruntime.InferenceSession(path) for path in folder.glob("*.onnx")}
    return [_drawn(pipe, parts, settings) for settings in PICTURES]


def _drawn(pipe, parts: dict[str, onnxruntime.InferenceSession], settings: Settings) -> np.ndarray:
    texts = (settings.negative_prompt, settings.prompt)
    read = pipe.tokenizer(list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="np")
    rows = [parts["text_encoder"].run(None, {"ids": ids[None].astype(np.int32)})[0] for ids in read.input_ids]
    text = np.concatenate(rows)  # [2, 77, 128]
    scheduler = build_scheduler(settings.scheduler, pipe.scheduler.config)
    scheduler.set_timesteps(settings.num_inference_steps)
    latents = seeded_latents(pipe, settings.seed, settings.width, settings.height)
    for time in scheduler.timesteps:
        step = np.array([time], dtype=np.float32)
        noise, _ = parts["unet"].run(None, {"latents": latents.numpy(), "step": step, "text": text})
        without, given = torch.from_numpy(noise).chunk(2)
        guided = without + settings.guidance_scale * (given - without)
        latents = scheduler.step(guided, time, latents).prev_sample
    picture = parts["vae_decoder"].run(None, {"latents": latents.numpy()})[0][0]
    return np.round(255 * picture.transpose(1, 2, 0))


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> dict[str, float]:
    """Mean and largest difference of two lists of pictures, in grey levels of 255."""
    apart = np.abs(np.stack(one) - np.stack(other))
    return {"pictures": len(one), "mean": round(float(apart.mean()), 4), "most": int(apart.max())}
