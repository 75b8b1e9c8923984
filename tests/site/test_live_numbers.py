"""The arithmetic that the live page does itself, in Node: the same numbers as PyTorch's and Diffusers'."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from sdhelpers import models
from sdhelpers.book.site.live import SCRIPTS
from sdhelpers.device import seeded_generator
from sdhelpers.schedulers import build_scheduler

NUMBERS = Path(__file__).with_name("numbers.mjs")
pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")


def in_node(wanted: str, **given):
    """What a script of the page answers."""
    command = ["node", str(NUMBERS), str(SCRIPTS), wanted]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [0, 1234, 2**32 - 1])
def test_a_seed_gives_the_noise_that_it_gives_in_pytorch(seed):
    noise = torch.tensor(in_node("noise", seed=seed, count=1024))
    expected = torch.randn(1024, generator=seeded_generator(seed))
    assert (noise - expected).abs().max() < 2e-6  # PyTorch's own vector instructions round otherwise in the last digit


@pytest.mark.parametrize("steps", [1, 2, 6, 20, 47])
@pytest.mark.parametrize("name", ["DPM++ 2M", "DDIM"])
def test_a_sampler_moves_as_in_diffusers(name, steps):
    own = DPMSolverMultistepScheduler.from_pretrained(models.locate("sd15"), subfolder="scheduler")
    scheduler = build_scheduler(name, own.config)
    scheduler.set_timesteps(steps)
    latents = start = torch.randn(64, generator=seeded_generator(steps))
    for time in scheduler.timesteps:
        noise = torch.sin(latents) + time / 2000
        latents = scheduler.step(noise, time, latents).prev_sample
    answer = in_node("latents", scheduler=name, steps=steps, start=start.tolist())
    assert answer["times"] == scheduler.timesteps.tolist()
    assert (torch.tensor(answer["latents"]) - latents).abs().max() < 1e-4
