"""Devices, number formats, seeds, time and memory."""

import contextlib
import os
import time
from collections.abc import Iterator

import psutil
import torch


def best_device() -> str:
    """ "cuda" with an NVIDIA GPU, "mps" on Apple silicon, else "cpu". Built in chapter 2."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> torch.dtype:
    """Half precision on a GPU, single on a CPU, which has no fast half precision. Built in chapter 7."""
    return torch.float16 if device == "cuda" else torch.float32


def seeded_generator(seed: int) -> torch.Generator:
    """A generator on the CPU, so that one seed gives one image on every device. Built in chapter 3."""
    return torch.Generator("cpu").manual_seed(seed)


def seeded_latents(pipe, seed: int, width: int, height: int) -> torch.Tensor:
    """The standard normal start of a generation: [1, 4, height / 8, width / 8]. Built in chapter 3."""
    shape = (1, pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    return torch.randn(shape, generator=seeded_generator(seed))


class Stopwatch:
    """Seconds since it was started; `seconds` keeps the total once the `with` block has ended."""

    def __init__(self) -> None:
        self.seconds = 0.0


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block: `with stopwatch() as watch: ...`, then `watch.seconds`."""
    watch, started = Stopwatch(), time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - started


def memory_in_use() -> float:
    """Memory of this process in GB: the GPU's if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e9
    return psutil.Process(os.getpid()).memory_info().rss / 1e9
