"""One row of the benchmark: an image drawn in a fresh process, its time, its memory, and the machine's limit.

Built in chapter 7.
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import math
import re
import statistics
import time
from typing import Any

import psutil
import torch

from sdhelpers import models
from sdhelpers.benchmark import shapes, variants
from sdhelpers.benchmark.fresh import FreshProcessError, MemoryMeter, in_fresh_process, tidy_memory
from sdhelpers.compat import run_device
from sdhelpers.device import best_device, seeded_latents, slowness

PROMPT = "a 3d render of a cat on a beach"
GUIDANCE = 7.5  # of models that the registry does not know: random weights draw nothing at any scale
LEARNT = "^_|version$|dtype$|^scaling_factor$"  # settings that change neither layers nor their work


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a combination of changes, and what is drawn with it.

    Memory is measured on a batch of its own, after a first one to warm up, or without a warm-up on the first. Then
    `repeats` batches are timed; with none, the row tells memory alone.
    """

    names: tuple[str, ...]
    size: int
    batch: int = 1
    steps: int = 6
    repeats: int = 3
    warm_up: bool = True

    @property
    def label(self) -> str:
        return " + ".join(self.names)

    @property
    def key(self) -> tuple:
        return self.label, self.size, self.batch, self.steps


def wait_for(device: torch.device) -> None:
    """A GPU works on while Python goes ahead: wait for it, or the clock measures nothing."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def draw(pipe, row: Row, meter: MemoryMeter | None = None, guidance_scale: float = GUIDANCE) -> dict[str, Any]:
    """Draw one batch; return its times, the first image, and with a meter the peaks of denoising and of decoding."""
    device, ends, peaks = run_device(pipe), [], []

    def after_step(pipe, step, timestep, tensors):
        if step in (0, row.steps - 1):
            wait_for(device)
            ends.append(time.perf_counter())
        if meter and step == row.steps - 1:
            peaks.append(meter.peak)
            meter.reset()
        return tensors

    latents = torch.cat([seeded_latents(pipe, i, row.size, row.size) for i in range(row.batch)])
    settings = {"num_inference_steps": row.steps, "num_images_per_prompt": row.batch, "output_type": "np"}
    settings |= {"guidance_scale": guidance_scale}
    settings |= {"width": row.size, "height": row.size, "latents": latents.to(device, pipe.unet.dtype)}
    if meter:
        meter.reset()
    with tidy_memory() if meter else contextlib.nullcontext():
        started = time.perf_counter()
        images = pipe(PROMPT, **settings, callback_on_step_end=after_step).images
        seconds = time.perf_counter() - started
        peaks += [meter.peak] if meter else []
    return {"seconds": seconds, "step": (ends[-1] - ends[0]) / (row.steps - 1), "peaks": peaks, "image": images[0]}


def weight_bytes(pipe) -> int:
    """Bytes of all parameters and buffers of a pipeline's networks."""
    tensors = [t for part in variants.parts(pipe).values() for t in (*part.parameters(), *part.buffers())]
    return sum(t.numel() * t.element_size() for t in tensors)


def quiet() -> None:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def measure_here(model: str, tier: str, row: Row, device: str, threads: int | None) -> dict[str, Any]:
    """Measure a row in this process, which has to be fresh: see `measure`."""
    torch.set_num_threads(threads or torch.get_num_threads())
    quiet()
    moving = [name for name in row.names if variants.offloads([name])]
    with MemoryMeter(device) as meter:
        before = meter.now()
        pipe = variants.load(model, row.names, device, tier)
        variants.prepare(pipe, [name for name in row.names if name not in moving], device)
        weights = weight_bytes(pipe)
        variants.prepare(pipe, moving, device)
        gc.collect()
        scale = models.default_guidance_scale(model, tier) if model in models.REGISTRY else GUIDANCE
        short = dataclasses.replace(row, steps=2)
        first = draw(pipe, short, None, scale) if row.warm_up else None
        metered = draw(pipe, short if row.warm_up and row.repeats else row, meter, scale)
        drawn = [draw(pipe, row, None, scale) for _ in range(row.repeats)]
    denoising, decoding = (peak - before for peak in metered["peaks"])
    return {
        "weights": weights,
        "memory": max(denoising, decoding),
        "memory_denoising": denoising,
        "memory_decoding": decoding,
        "steps_per_second": row.batch / statistics.median(d["step"] for d in drawn) if drawn else None,
        "seconds": statistics.median(d["seconds"] for d in drawn) if drawn else None,
        "first_call": (first or metered)["seconds"],
        "image": (drawn or [metered])[0]["image"],
    }


def measure(model: str, row: Row, tier: str = "pocket", threads: int | None = None) -> dict[str, Any]:
    """Measure a row in a fresh process: bytes above the empty process, seconds, steps of a picture a second, the image.

    Seconds and steps are None where nothing was timed. A row that cannot be measured here gives {"failed": the reason}.
    """
    reason = obstacle(model, row)
    if reason:
        return {"failed": reason}
    try:
        return in_fresh_process(measure_here, model, tier, row, best_device(), threads)
    except FreshProcessError as error:
        return {"failed": str(error)}


def obstacle(model: str, row: Row) -> str | None:
    """Why a row is not measured here: a precision that this device multiplies absurdly slowly, or want of memory."""
    slow = slowness(variants.check(row.names), best_device())
    return f"{row.names[0]}: {slow}" if slow else shortage(model, row)


def shortage(model: str, row: Row) -> str | None:
    """What is missing to measure the true shapes on a CPU, where too little memory ends the process unasked."""
    if best_device() == "cuda" or not model.endswith("-shapes"):
        return None
    with torch.device("meta"):
        weights = sum(
            p.numel() for part in shapes.parts(model.removesuffix("-shapes")).values() for p in part.parameters()
        )
    needed = 1.4 * weights * variants.check(row.names).itemsize + 1e9 * (row.size / 512) ** 2
    free = psutil.virtual_memory().available
    return None if needed < free else f"does not fit: needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def matmul_rate(precision: str, device: str, threads: int | None) -> float:
    """The machine's limit: operations a second of a large matrix product, the best of several.

    Large is 2048 numbers a side on a processor, and 512 in a precision that it multiplies absurdly slowly.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    variants.allow_tf32(precision == "tf32", precision == "tf32")
    dtype = variants.VARIANTS[precision].dtype or torch.float32
    side = 8192 if device == "cuda" else 512 if slowness(dtype) else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        wait_for(a.device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def plan_of(model: str, tier: str) -> str:
    """Sixteen hexadecimal digits that stand for a model's configurations: time and memory depend on these, not on what
    the weights have learnt. Names, versions, a file's own type and the like are left out."""
    if model.endswith("-shapes"):
        plans = [shapes.UNETS[model.removesuffix("-shapes")], shapes.VAE, shapes.CLIP_L, shapes.CLIP_BIG_G]
    else:
        folder = models.locate(model, tier)
        files = [folder / part / "config.json" for part in ("unet", "vae", "text_encoder")]
        plans = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    kept = [{key: value for key, value in plan.items() if not re.search(LEARNT, key)} for plan in plans]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def step_flops(model: str, tier: str, size: int) -> int:
    """Operations of one guided step of one picture."""
    if model.endswith("-shapes"):
        return shapes.step_flops(shapes.UNETS[model.removesuffix("-shapes")], size)
    config = json.loads((models.locate(model, tier) / "unet" / "config.json").read_text(encoding="utf-8"))
    return shapes.step_flops(config, size)
