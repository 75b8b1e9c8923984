"""The training loop that every recipe shares: resumable, on a CPU or a GPU, bf16 where it pays.

A recipe gives a model, a dataset addressed by number, and a loss. The loop keeps everything in
`data/recipes/runs/NAME/` (never committed): the checkpoint it resumes from, the history, the loss
curve as a picture, and the averaged weights.
"""

import argparse
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset

import card
import places
from sdhelpers.device import best_device, relative_speed

LOG_EVERY = 20  # steps that one point of the history averages over


class Progress:
    """Where the training stands. Accelerate saves and loads it with the rest."""

    def __init__(self) -> None:
        self.step, self.samples, self.seconds, self.history = 0, 0, 0.0, []

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class FromSample(torch.utils.data.Sampler):
    """Sample numbers in order from where the training stands: a resumed run sees what comes next."""

    def __init__(self, first: int):
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def stacked(samples: list) -> Any:
    """A batch of samples, each a tensor or a tuple: tensors are stacked, everything else becomes lists."""
    if isinstance(samples[0], torch.Tensor):
        return torch.stack(samples)
    return tuple(stacked(part) if isinstance(part[0], torch.Tensor) else list(part) for part in zip(*samples))


def learning_rate_factor(step: int, steps: int, decay: float, warmup: int) -> float:
    """Rise over `warmup` steps, stay, and fall to zero over the last `decay` part of `steps`."""
    falling = steps * decay
    rest = (steps - step) / falling if falling else 1.0
    return max(0.0, min(1.0, (step + 1) / warmup, rest))


def precision() -> str:
    """The mixed precision to train in: bf16 where a probe finds it faster than float32, "no" elsewhere."""
    return "bf16" if relative_speed(torch.bfloat16, best_device()) > 1 else "no"


class Training:
    """One run of a recipe: prepares, resumes, trains, and hands back the averaged weights."""

    def __init__(self, name: str, model: torch.nn.Module, options: argparse.Namespace, seed: int = 0):
        torch.set_flush_denormal(True)
        set_seed(seed)
        self.part, self.name, self.options = name, options.run or name, options
        self.folder = places.RUNS / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(mixed_precision=precision())
        self.device = self.accelerator.device
        model.to(self.device, memory_format=torch.channels_last).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, options.steps, options.decay, options.warmup)
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = schedule
        self.ema, self.long_ema = (
            EMAModel(trained, decay=decay, use_ema_warmup=True, power=0.75, foreach=True) if decay else None
            for decay in (options.ema, options.ema_long)
        )
        self.averages = [average for average in (self.ema, self.long_ema) if average]
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.schedule, *self.averages, self.progress)
        self._resume()

    def _resume(self) -> None:
        checkpoint = self.folder / "checkpoint"
        if self.options.fresh:
            for old in (checkpoint, self.folder / "probes"):
                shutil.rmtree(old, ignore_errors=True)
        if checkpoint.exists():
            self.accelerator.load_state(checkpoint)
            self.progress.samples = self.progress.samples or self.progress.step * self.options.batch
            for average in self.averages:
                average.to(self.device)
            for group in self.optimizer.param_groups:
                group["initial_lr"] = self.options.lr
            self.schedule.base_lrs = [self.options.lr] * len(self.schedule.base_lrs)
            print(f"{self.name}: going on from step {self.progress.step}", flush=True)

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then put it in the old one's place."""
        new, old = self.folder / "checkpoint.new", self.folder / "checkpoint"
        shutil.rmtree(new, ignore_errors=True)
        self.accelerator.save_state(new)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(new, old)
        history = self.folder / "history.json"
        history.with_suffix(".part").write_text(json.dumps(self.progress.history), encoding="utf-8")
        os.replace(history.with_suffix(".part"), history)
        if self.progress.history:
            draw_curve(self.progress.history, self.folder / "curve.png", self.name)

    def run(
        self,
        dataset: Dataset,
        prepare: Callable[[Any], tuple[torch.Tensor, ...]],
        loss_of: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]],
        collate: Callable[[list], Any] = stacked,
        probe: Callable[[torch.nn.Module, int], dict[str, float]] | None = None,
    ) -> bool:
        """Train until `steps` or `minutes` are over. True when all the steps are done.

        `prepare` turns a batch into tensors on the device, without gradients. `loss_of(model, *tensors)`
        gives the loss and a dictionary of what else to record. `probe(model, step)` measures the model as it stands,
        at step 0 and then every `options.probe_every` steps.
        """
        options, progress = self.options, self.progress
        loader = DataLoader(
            dataset,
            batch_size=options.batch,
            sampler=FromSample(progress.samples),
            num_workers=options.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        batches, loss_of = iter(loader), torch.compile(loss_of) if options.compile else loss_of
        started = last_save = time.monotonic()
        before, sums, counted = progress.seconds, {}, 0
        if probe and not progress.step:
            progress.history.append({"step": 0, "seconds": 0, **self._probe(probe)})
        while progress.step < options.steps:
            for key, value in self._step(next(batches), prepare, loss_of).items():
                sums[key] = sums.get(key, 0.0) + value.detach().float()
            counted += 1
            if progress.step % LOG_EVERY == 0:
                now = time.monotonic()
                progress.seconds = before + now - started
                entry = {key: round(float(value) / counted, 6) for key, value in sums.items()}
                if probe and progress.step % options.probe_every == 0:
                    entry |= self._probe(probe)
                progress.history.append({"step": progress.step, "seconds": round(progress.seconds), **entry})
                sums, counted = {}, 0
                self._report(entry)
                if now - last_save > 60 * options.save_every:
                    self.save()
                    last_save = time.monotonic()
                if options.minutes and now - started > 60 * options.minutes:
                    break
        progress.seconds = before + time.monotonic() - started
        self.save()
        return progress.step >= options.steps

    def _step(self, batch: Any, prepare: Callable, loss_of: Callable) -> dict[str, torch.Tensor]:
        """One step of the optimizer, of the rate and of the averages; the loss and what else is recorded."""
        with torch.no_grad(), self.accelerator.autocast():
            tensors = prepare(batch)
        with self.accelerator.autocast():
            loss, metrics = loss_of(self.model, *tensors)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        for average in self.averages:
            average.step([p for p in self.model.parameters() if p.requires_grad])
        self.progress.step += 1
        self.progress.samples += self.options.batch
        return {"loss": loss, **metrics}

    def _probe(self, probe: Callable[[torch.nn.Module, int], dict[str, float]]) -> dict[str, float]:
        """What a probe says of the model, which then goes on learning from the random numbers that it had."""
        state = torch.get_rng_state()
        self.model.eval()
        with torch.no_grad():
            found = probe(self.accelerator.unwrap_model(self.model), self.progress.step)
        self.model.train()
        torch.set_rng_state(state)
        return found

    def _report(self, entry: dict[str, float]) -> None:
        progress = self.progress
        rate = progress.samples / max(1.0, progress.seconds)
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in entry.items())
        passed = f"{progress.step}/{self.options.steps}  {progress.seconds / 60:.1f} min  {rate:.1f} samples/s"
        print(f"{self.name} {passed}  {numbers}", flush=True)

    def averaged_model(self, average: EMAModel | None = None) -> torch.nn.Module:
        """The model with its averaged weights (or another average's), in evaluation mode on the CPU in float32."""
        model = self.accelerator.unwrap_model(self.model).to("cpu", memory_format=torch.contiguous_format).float()
        (average or self.ema).copy_to([p for p in model.parameters() if p.requires_grad])
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """What a model card tells of the training."""
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else cpu_threads()
        now = self.progress
        return card.facts(self.part, self.options, now.step, now.samples, now.seconds, device)


def cpu_threads() -> str:
    """The processor as a card names it."""
    return f"{torch.get_num_threads()} CPU threads"


def draw_curve(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Every recorded quantity over the steps, smoothed, each in a panel of its own."""
    names = [key for key in dict.fromkeys(key for entry in history for key in entry) if key not in ("step", "seconds")]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.4 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names):
        points = [(h["step"], h[name]) for h in history if name in h]
        window = max(1, len(points) // 60)
        last = [[value for _, value in points[max(0, i - window) : i + 1]] for i in range(len(points))]
        smooth = [sum(values) / len(values) for values in last]
        axis.plot([s for s, _ in points], smooth, linewidth=1.2)
        axis.set(title=name, xlabel="step")
        if min(smooth) > 0:
            axis.set_yscale("log")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.suptitle(f"{title}: {history[-1]['seconds'] / 60:.0f} minutes")
    figure.tight_layout()
    temporary = path.with_suffix(".part.png")
    figure.savefig(temporary, dpi=80)
    plt.close(figure)
    os.replace(temporary, path)
