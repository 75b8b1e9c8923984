"""What all requests share: the models, each loaded once, and the threads that draw.

    studio = Studio()
    picture, data = studio.draw(request)

A pipeline has state: its scheduler, its tokenizer's settings, PEFT's adapters in its UNet. Two requests that share any
of these mix their pictures. So each request gets a pipeline of its own, whose modules are copies and whose weights are
in memory only once; LoRAs are loaded into the copy and go with it. Only while files are read does one thread wait for
another: the libraries then exchange, for the whole program, how a torch module takes its weights. Built in chapter 20.
"""

import functools
import gc
import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffusers
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from PIL import Image

from sdhelpers import models
from sdhelpers.app.preview import CleanGuess, LinearPreview
from sdhelpers.app.requests import TASKS, Limits, Request
from sdhelpers.device import best_device, best_dtype
from sdhelpers.generation import generate
from sdhelpers.metadata.generation import conditions, load_adapters, model_source, pixel_hash
from sdhelpers.metadata.record import Adapter, GenerationData, ModelSource, check
from sdhelpers.models.compose import STAMP
from sdhelpers.panels.base import own_copy
from sdhelpers.paths import OUTPUTS
from sdhelpers.schedulers import SCHEDULERS

KINDS = {
    "text": diffusers.StableDiffusionPipeline,
    "img2img": diffusers.StableDiffusionImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionInpaintPipeline,
    "control": diffusers.StableDiffusionControlNetPipeline,
}
SIDES = {"pocket": 512, "full": 768}
LOADING = threading.RLock()  # one for the program: see above


class Studio:
    """The models of a tier, and where the pictures are kept. `at_once` pictures are drawn at a time."""

    def __init__(self, tier: str = "pocket", folder: Path = OUTPUTS / "app", at_once: int = 1):
        self.tier, self.folder, self.at_once = models.check_tier(tier), folder, at_once
        self.device = best_device()
        self.dtype = best_dtype(self.device)
        self.threads = ThreadPoolExecutor(at_once, thread_name_prefix="drawing")
        self.files = {path.stem: path for path in lora_files(tier)}
        self.limits = Limits(SIDES[tier], loras=tuple(self.files))
        self._pipelines: dict[str, DiffusionPipeline] = {}
        self._preview: LinearPreview | None = None

    def shared(self, task: str) -> DiffusionPipeline:
        """The pipeline whose weights all requests for a task share; loaded when the first one comes."""
        with LOADING:
            if task not in self._pipelines:
                pipe = self._load(task).to(self.device)
                pipe.set_progress_bar_config(disable=True)
                self._pipelines[task] = pipe
            return self._pipelines[task]

    def _load(self, task: str) -> DiffusionPipeline:
        options = dict(dtype=self.dtype)
        if task in ("text", "inpaint"):
            name = TASKS[task].model
            options |= dict(variant=models.variant(name, self.tier), safety_checker=None)
            return KINDS[task].from_pretrained(models.locate(name, self.tier), **options)
        parts = dict(self.shared("text").components)
        if task == "control":
            name = "controlnet-canny"
            options |= dict(variant=models.variant(name, self.tier))
            parts["controlnet"] = ControlNetModel.from_pretrained(models.locate(name, self.tier), **options)
        return KINDS[task](**parts, requires_safety_checker=False)

    def preview(self, latents: torch.Tensor) -> Image.Image:
        """A small picture of latents that are on their way."""
        with LOADING:
            self._preview = self._preview or LinearPreview(self.shared("text").vae)
        return self._preview(latents)

    def draw(self, request: Request, after_step: Callable | None = None, scheduler: dict | None = None):
        """A picture and its generation data; `scheduler` are options of one to be used instead of the usual ones.

        `after_step(done, total, guess)` is called after each step, `guess` being the clean latents as the UNet guesses
        them; what it raises ends the drawing.
        """
        pipe = own_copy(self.shared(request.task))
        settings = request.settings
        try:
            with LOADING:
                adapters = load_adapters(pipe, {self.files[name]: weight for name, weight in request.loras.items()})
            if scheduler is not None:
                pipe.scheduler = getattr(diffusers, SCHEDULERS[settings.scheduler][0]).from_config(scheduler)
            step = {"callback_on_step_end": _told(after_step, pipe)} if after_step else {}
            image = generate(pipe, settings, **step, **request.inputs())
            return image, self.record(pipe, request, adapters, image)
        finally:
            del pipe
            gc.collect()  # modules refer to each other in circles, and the next picture wants the room

    def record(
        self, pipe: DiffusionPipeline, request: Request, adapters: tuple[Adapter, ...], image: Image.Image
    ) -> GenerationData:
        """The generation data of a picture that was just drawn (chapter 19)."""
        options = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
        return check(
            GenerationData(
                settings=request.settings,
                reading="plain",
                clip_skip=0,
                model=source_of(TASKS[request.task].model, self.tier),
                scheduler=options,
                adapters=adapters,
                embeddings=(),
                made_with=conditions(pipe),
                pixels=pixel_hash(image),
            )
        )

    def close(self) -> None:
        """Take no more pictures."""
        self.threads.shutdown(wait=False, cancel_futures=True)


def _told(after_step: Callable, pipe: DiffusionPipeline) -> Callable:
    """A pipeline's own callback that tells how far it is and what it guesses."""
    guess = CleanGuess(pipe)

    def callback(pipe: DiffusionPipeline, step: int, timestep, tensors: dict) -> dict:
        after_step(step + 1, pipe.num_timesteps, guess.latest)
        return tensors

    return callback


@functools.cache
def source_of(name: str, tier: str) -> ModelSource:
    """Where a model comes from; looked up once, for its files are hashed.

    A pocket model that is put together out of others has a stamp that says of what.
    """
    stamp = models.locate(name, tier) / STAMP
    if tier == "full" or not stamp.is_file():
        return model_source(name, tier)
    made_of = json.dumps(json.loads(stamp.read_text(encoding="utf-8"))["made_of"], sort_keys=True)
    return ModelSource(name, tier, hashlib.sha256(made_of.encode()).hexdigest())


def lora_files(tier: str) -> list[Path]:
    """The LoRAs that come with a tier: the pocket one's, in the library's own format."""
    if tier != "pocket":
        return []
    return [path for path in sorted(models.locate("loras").glob("*.safetensors")) if not path.stem.endswith("_kohya")]
