"""Devices, number formats, seeds and time."""

import contextlib
import functools
import time
from collections.abc import Iterator

import torch


def best_device() -> str:
    """ "cuda" with an NVIDIA GPU, "mps" on Apple silicon, else "cpu". Built in chapter 2."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> torch.dtype:
    """Half precision on a GPU, single on a CPU, which has no fast half precision. Built in chapter 7."""
    return torch.float16 if device == "cuda" else torch.float32


SLOW = 0.25  # with less than this share of float32's speed a number format is not worth drawing with


@functools.cache
def relative_speed(dtype: torch.dtype, device: str = "cpu") -> float:
    """How many times as fast as float32 matrices of a dtype are multiplied here. Built in chapter 7.

    Measured, never looked up by the processor's name: on a processor products of [256, 256], which take less
    than a tenth of a second even where 16-bit arithmetic is forty times slower. Remembered while the process lives.
    """
    return _product_seconds(torch.float32, device) / _product_seconds(dtype, device)


def _product_seconds(dtype: torch.dtype, device: str, side: int | None = None, repeats: int = 3) -> float:
    """Seconds of one product of two square matrices, the best of some; a GPU needs larger ones to show its speed."""
    side = side or (256 if device == "cpu" else 4096)
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        with stopwatch() as watch:
            (a @ b)[0, 0].item()  # waits for a GPU
        seconds.append(watch.seconds)
    return min(seconds)


def slowness(dtype: torch.dtype, device: str = "cpu") -> str | None:
    """Why nothing should be drawn in a dtype here, for the reader, or None where it is fast enough."""
    speed = relative_speed(dtype, device)
    if speed >= SLOW:
        return None
    return f"some {1 / speed:.0f} times slower than float32 on this processor; not drawn"


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
