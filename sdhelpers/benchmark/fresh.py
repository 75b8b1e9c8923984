"""Fresh processes, and the most memory that one has used: what an honest benchmark stands on.

The system remembers a process's highest memory until it ends, and libraries keep what they have allocated, so
a second measurement in one process measures the first. Built in chapter 7.
"""

import contextlib
import ctypes
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

# Imported once by a process from which the fresh ones are copied; these then start in a moment.
PRELOAD = [
    "accelerate",
    "tomesd",
    "torch.utils.flop_counter",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
]


class FreshProcessError(RuntimeError):
    """The fresh process raised an error or was ended; the message says which."""


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    """What a module's function returns when a new process calls it. Raises FreshProcessError when that fails.

    Function, arguments and result travel by pickle. On Linux the process is a copy of one that has imported
    the libraries and done nothing else.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        done, answer = ours.recv()
    except EOFError:
        done, answer = False, "the process was ended, most likely for want of memory"
    process.join()
    if not done:
        raise FreshProcessError(answer)
    return answer


def _answer(pipe, function: Callable, arguments: tuple) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        text, kind = str(error).strip().split("\n")[0], type(error)
        own = kind.__module__.startswith("sdhelpers")  # these are sentences for the reader
        pipe.send((False, text if own else f"{kind.__name__}: {text}"))


def glibc() -> ctypes.CDLL | None:
    """Linux's C library, where it is the one that can be told how to keep its memory."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@contextlib.contextmanager
def tidy_memory() -> Iterator[None]:
    """Inside, what is freed goes back to the system at once, so that resident memory is memory in use.

    Slower: the C library otherwise keeps freed blocks of up to 32 MB for later.
    """
    threshold = -3  # M_MMAP_THRESHOLD in malloc.h: blocks from this size on are the system's
    if glibc():
        glibc().mallopt(threshold, 64 * 1024)
    try:
        yield
    finally:
        if glibc():
            glibc().mallopt(threshold, 32 * 1024 * 1024)


def _forget_record() -> bool:
    """Set this process's record of resident memory (VmHWM) to what it is now; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


class MemoryMeter:
    """The most memory in use since `reset`, in bytes: `with MemoryMeter("cpu") as meter: ...; meter.peak`.

    On a GPU that is what PyTorch has allocated there. Elsewhere it is the resident memory of this process
    without the files that it shares with others (the libraries' code), looked at 200 times a second; where Linux lets a
    process forget its own record, that record counts too, which misses nothing between two looks.
    """

    def __init__(self, device: str):
        self.on_gpu = device == "cuda"
        self._process, self._done, self._peak = psutil.Process(), threading.Event(), 0
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "MemoryMeter":
        self.reset()
        self._watch.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._watch.join()

    def now(self) -> int:
        """Bytes in use."""
        if self.on_gpu:
            return torch.cuda.memory_allocated()
        memory = self._process.memory_info()
        return memory.rss - getattr(memory, "shared", 0)

    @property
    def peak(self) -> int:
        """The most bytes in use since `reset`."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        shared = getattr(self._process.memory_info(), "shared", 0)
        return max(self._peak, self.now(), self._own_record() - shared if self._record_is_reset else 0)

    def reset(self) -> None:
        """Forget the peak, after giving back to the system what was freed."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif glibc():
            glibc().malloc_trim(0)
        self._record_is_reset = not self.on_gpu and _forget_record()
        self._peak = self.now()

    @staticmethod
    def _own_record() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))

    def _look(self) -> None:
        while not self.on_gpu and not self._done.wait(0.005):
            self._peak = max(self._peak, self.now())
