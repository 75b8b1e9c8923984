"""From a cold Python to an image: seconds and memory of the pocket model, the first part of the benchmark."""

import json
import platform
import subprocess
import sys
import time

import psutil
import torch

from sdhelpers import models

# Runs in a fresh interpreter, so that the first import and the first image count.
PROGRAM = """
import json, sys, time
started = time.perf_counter()
import torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(int(sys.argv[2]))
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
loaded = time.perf_counter()
prompt = "a 3d render of a cat on a beach"
draw = lambda: pipe(prompt, num_inference_steps=20, guidance_scale=7.5)
draw()
first = time.perf_counter()
wall, cpu = [], []
for _ in range(5):
    w, c = time.perf_counter(), time.process_time()
    draw()
    wall.append(time.perf_counter() - w)
    cpu.append(time.process_time() - c)
if sys.platform == "win32":
    import psutil
    peak = psutil.Process().memory_info().peak_wset
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"load": loaded - started, "cold": first - started, "wall": sorted(wall)[2],
                  "cpu": sorted(cpu)[2], "peak": peak}))
"""


def measure(threads: int = 2) -> dict[str, float]:
    """Seconds and bytes of the pocket Stable Diffusion in a fresh Python process with `threads` threads."""
    folder = models.locate("sd15")
    command = [sys.executable, "-c", PROGRAM, str(folder), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def table(threads: int = 2) -> str:
    """The measurements as a table, with what was measured where."""
    result = measure(threads)
    rows = [
        ("imports and loading", f"{result['load']:.1f} s"),
        ("from a cold Python to the first image", f"{result['cold']:.1f} s"),
        ("one guided image, 20 steps, once loaded", f"{result['wall']:.2f} s"),
        ("the same in processor time over all threads", f"{result['cpu']:.2f} s"),
        ("peak memory", f"{result['peak'] / 1e9:.2f} GB"),
    ]
    wide = max(len(name) for name, _ in rows)
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores, {threads} threads, torch {torch.__version__}"
    head = f"Pocket Stable Diffusion, 128x128, {time.strftime('%Y-%m-%d')}, {machine}"
    return "\n".join([head, *(f"{name:<{wide}}  {value:>8}" for name, value in rows)])
