"""Time, memory and image of every change that chapter 7 teaches, as a table, a plot and a file of data.

    bench = Benchmark("sd15")
    for row in rows("sd15", "cpu", 128):
        bench.add(row)
    print(table(bench.results))

`python -m sdhelpers bench` is this module on the command line; what was measured elsewhere lies in
data/benchmarks. Built in chapter 7.
"""

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from sdhelpers import models
from sdhelpers.benchmark import variants
from sdhelpers.benchmark.fresh import in_fresh_process
from sdhelpers.benchmark.measurement import Row, matmul_rate, measure, plan_of, step_flops
from sdhelpers.device import best_device, relative_speed
from sdhelpers.paths import ROOT

RECORDED = ROOT / "data" / "benchmarks"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "tomesd")
SIZES = {"sd15-shapes": 512, "sdxl-shapes": 1024}  # sd15 has the size of its tier
KEPT = 0.02  # a mean difference that one has to look for
Results = dict[str, Any]

# What is measured: the settings of some rows, and their combinations of changes. Sizes are multiples of the model's.
Plan = list[tuple[dict[str, int], str]]
CPU: Plan = [
    ({}, "fp32; bf16; fp16; fp32 fp16-weights; fp32 bf16-weights; fp32 int8-weights; fp32 fp8-weights"),
    ({}, "fp32 channels-last; fp32 fuse-qkv"),
    ({}, "fp32 model-offload; fp32 group-offload; fp32 sequential-offload; fp32 disk-offload"),
    ({}, "fp32 random-weights"),
    ({"batch": 2}, "fp32; fp32 channels-last"),
    ({"batch": 4}, "fp32"),
    ({"batch": 8}, "fp32; fp32 vae-slicing"),
    ({"steps": 3}, "fp32"),
    ({"size": 2, "steps": 4}, "fp32; fp32 attention-naive; fp32 attention-slicing; fp32 tome"),
    ({"size": 4, "steps": 2, "repeats": 1}, "fp32; fp32 vae-tiling"),
]
CPU_COMPILE: Plan = [({}, "fp32 compile")]
CPU_SHAPES: Plan = [
    ({}, "fp32; bf16; fp16"),
    ({}, "{fast} channels-last; {fast} attention-naive; {fast} tome"),
    ({}, "{fast} int8-weights; {fast} fp8-weights; {fast} group-offload; {fast} disk-offload"),
    ({"size": 2}, "{fast}; {fast} vae-tiling"),
]
GPU: Plan = [
    ({}, "fp32; fp32 no-tf32; fp32 tf32; fp16; bf16; fp16 channels-last; fp16 fuse-qkv"),
    ({}, "fp16 fp8-weights; fp16 int8-weights"),
    ({}, "fp16 attention-naive; fp16 attention-slicing; fp16 attention-xformers; fp16 attention-math"),
    ({}, "fp16 attention-flash; fp16 attention-efficient; fp16 attention-cudnn"),
    ({}, "fp16 tome; fp16 compile; fp16 compile-autotune"),
    ({}, "fp16 model-offload; fp16 group-offload; fp16 group-offload-stream; fp16 sequential-offload"),
    ({}, "fp16 channels-last fuse-qkv compile; bf16 channels-last fuse-qkv compile"),
    ({}, "fp16 channels-last fuse-qkv compile-autotune; fp16 channels-last compile tome"),
    ({"batch": 4}, "fp16"),
    ({"batch": 8}, "fp16; fp16 vae-slicing; fp16 channels-last compile"),
    ({"batch": 16}, "fp16"),
    ({"steps": 10}, "fp16"),
    ({"size": 2}, "fp16; fp16 vae-tiling; fp16 attention-naive; fp16 tome"),
]


def rows(model: str, kind: str, size: int, compiling: bool = False) -> list[Row]:
    """The rows for a model of `size` pixels on a "cpu" or a "cuda" device; the first of each size is its reference.

    Compiling takes minutes on a CPU and is left out there unless it is asked for. The true shapes run two
    steps there, once, in whichever of fp32 and bf16 the processor multiplies faster.
    """
    fast = "bf16" if relative_speed(torch.bfloat16) > 1 else "fp32"
    if kind == "cuda":
        plan, settings = GPU, {"steps": 20}
    elif model.endswith("-shapes"):
        plan, settings = CPU_SHAPES, {"steps": 2, "repeats": 1, "warm_up": False}
    else:
        plan, settings = CPU + (CPU_COMPILE if compiling else []), {}
    return [
        Row(tuple(names.split()), **settings | own | {"size": size * own.get("size", 1)})
        for own, combinations in plan
        for names in combinations.format(fast=fast).split(";")
    ]


def device_facts(threads: int | None) -> dict[str, Any]:
    """What was measured on: kind, name, and memory in bytes."""
    kind = best_device()
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {"kind": kind, "name": properties.name, "memory": properties.total_memory}
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    name += f", {threads or torch.get_num_threads()} threads"
    return {"kind": kind, "name": name, "memory": psutil.virtual_memory().total}


def versions() -> dict[str, str]:
    """The versions that decide: Python, CUDA and the libraries."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda if torch.cuda.is_available() else None}
    return found | {name: metadata.version(name) for name in LIBRARIES}


class Benchmark:
    """A table that grows row by row; every image is compared with that of the first row of its size.

    With `save`, each row is written as soon as it is measured, and a run that was broken off goes on there.
    """

    def __init__(self, model: str, tier: str = "pocket", threads: int | None = None, save: Path | None = None):
        self.threads, self.save = threads, save
        tier = "random weights" if model in SIZES else tier
        self.results: Results = {"model": model, "tier": tier, "plan": plan_of(model, tier)}
        self.results["date"] = time.strftime("%Y-%m-%d")
        self.results |= {"device": device_facts(threads), "versions": versions(), "limits": {}, "rows": []}
        self._earlier = earlier_rows(save, self.results)
        self._references: dict[int, np.ndarray] = {}

    def add(self, row: Row) -> dict[str, Any]:
        """Measure one row in a fresh process and keep it; what was found, see `measurement.measure`."""
        if row.size in self._references and row.key in self._earlier:
            found = self._earlier[row.key]
        else:
            found = measure(self.results["model"], row, self.results["tier"], self.threads)
            if "failed" not in found:
                self._compare(row, found)
        self.results["rows"].append(dataclasses.asdict(row) | found)
        if self.save:
            write(self.results, self.save)
        return found

    def _compare(self, row: Row, found: dict[str, Any]) -> None:
        """Exchange the image for its difference from the reference, and add the share of the machine's limit."""
        image = found.pop("image")
        difference = float(np.abs(image - self._references.setdefault(row.size, image)).mean())
        flops = step_flops(self.results["model"], self.results["tier"], row.size)
        found["difference"] = difference if math.isfinite(difference) else None
        speed = found["steps_per_second"]
        found["share"] = speed * flops / self.limit(precision_of(row)) if speed else None

    def limit(self, precision: str) -> float:
        """The machine's rate in this precision, measured when it is first asked for."""
        limits = self.results["limits"]
        if precision not in limits:
            limits[precision] = in_fresh_process(matmul_rate, precision, best_device(), self.threads)
        return limits[precision]


def precision_of(row: Row) -> str:
    """The precision whose limit applies: with PyTorch's defaults a GPU convolves float32 numbers as TF32."""
    mixed = row.names[0] == "fp32" and "no-tf32" not in row.names and best_device() == "cuda"
    return "tf32" if mixed or "tf32" in row.names else row.names[0]


def earlier_rows(save: Path | None, results: Results) -> dict[tuple, dict]:
    """Rows that a broken-off run of the same model, plan, device and versions has left in the file."""
    if save is None or not save.exists():
        return {}
    old = json.loads(save.read_text(encoding="utf-8"))
    same = all(old.get(key) == results[key] for key in ("model", "tier", "plan", "device", "versions"))
    measured = [record for record in old["rows"] if "failed" not in record] if same else []
    return {as_row(record).key: record for record in measured}


def as_row(record: dict) -> Row:
    settings = {field.name: record[field.name] for field in dataclasses.fields(Row)}
    return Row(**settings | {"names": tuple(record["names"])})


def write(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def recorded(model: str, kind: str) -> Results | None:
    """What was measured of a model on a "cpu" or a "cuda" device and ships as data, or None."""
    path = RECORDED / f"{model}-{kind}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


WIDTHS = (5, 5, 5, 8, 8, 8, 8, 7, 6)
NAMES = ("px", "batch", "steps", "weights", "memory", "steps/s", "seconds", "image", "limit")
HEADING = f"{'change':<44}" + " ".join(f"{name:>{width}}" for name, width in zip(NAMES, WIDTHS))


def line(row: Row, found: dict | None) -> str:
    """One line of the table: what was found, why it failed, or that it is not measured yet."""
    start = f"{row.label:<44}" + "".join(f"{v:>{w}} " for v, w in zip((row.size, row.batch, row.steps), WIDTHS))
    if found is None or "failed" in found:
        return f"{start} {found['failed'] if found else 'not measured yet'}"
    difference = found["difference"]
    timed = found["steps_per_second"] is not None
    values = (
        f"{found['weights'] / 1e6:,.0f}",
        f"{found['memory'] / 1e6:,.0f}",
        f"{found['steps_per_second']:.3g}" if timed else "-",
        f"{found['seconds']:.2f}" if timed else "-",
        "nan" if difference is None else f"{difference:.4f}",
        f"{found['share']:.0%}" if timed else "-",
    )
    return start + " ".join(f"{v:>{w}}" for v, w in zip(values, WIDTHS[3:]))


def table(results: Results | None, planned: Sequence[Row] = ()) -> str:
    """Results as text, with planned rows that are not in them as "not measured yet".

    Weights and memory are in MB, the most above the empty process; steps/s are the steps of all pictures of
    the batch; `image` is the mean difference from the size's first row (0 to 1); `limit` is the share of
    the rate at which the machine multiplies large matrices.
    """
    measured = {as_row(record).key: record for record in results["rows"]} if results else {}
    shown = {row.key: row for row in [*planned, *map(as_row, results["rows"] if results else [])]}
    return "\n".join([*facts(results), HEADING, *(line(row, measured.get(key)) for key, row in shown.items())])


def facts(results: Results | None) -> list[str]:
    """Model, device, versions and limits of results, in lines."""
    if results is None:
        return ["not measured yet: run `python -m sdhelpers bench` there"]
    device, found = results["device"], results["versions"]
    limits = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in results["limits"].items())
    lines = [
        f"{results['model']} ({results['tier']}), {results['date']}, {device['name']}, {device['memory'] / 1e9:.0f} GB",
        ", ".join(f"{name} {version}" for name, version in found.items() if version),
        f"limit in 10^12 operations a second: {limits}",
    ]
    if results["plan"] != plan_of(results["model"], results["tier"]):
        lines.append("Measured on a model of other layers than today's: measure it anew.")
    return lines


def fastest(results: Results, largest_difference: float) -> dict | None:
    """The row with most steps a second among those that draw what the first does and keep its picture, or None."""
    timed = [r for r in results["rows"] if r.get("steps_per_second")]
    same = [r for r in timed if as_row(r).key[1:] == as_row(results["rows"][0]).key[1:]]
    keep = [r for r in same if r.get("difference") is not None and r["difference"] <= largest_difference]
    return max(keep, key=lambda record: record["steps_per_second"], default=None)


def shares(results: Results) -> list[str]:
    """What share of the machine's measured limit the guided step of two pictures reaches, a sentence a row."""
    two = [r for r in results["rows"] if r["batch"] == 2 and r.get("share")]
    return [
        f"{as_row(record).label}: a guided step of two pictures reaches {record['share']:.0%} of the measured limit"
        for record in two
    ]


def plot(results: Results):
    """Memory and speed of every measured row as bars; return the Matplotlib figure.

    Where weights move about, the peak does not tell how many of them were there: its bar is not divided.
    """
    from matplotlib.figure import Figure

    measured = [record for record in results["rows"] if "failed" not in record]
    names = [f"{as_row(r).label}, {r['size']} px" + f", batch {r['batch']}" * (r["batch"] > 1) for r in measured]
    figure = Figure(figsize=(9, 0.9 + 0.24 * len(measured)), layout="constrained")
    memory, speed = figure.subplots(1, 2, sharey=True)
    places = range(len(measured))
    moving = [place for place, r in zip(places, measured) if variants.offloads(r["names"])]
    held = [0 if place in moving else r["weights"] / 1e6 for place, r in zip(places, measured)]
    memory.barh(places, [r["memory"] / 1e6 for r in measured], color="#9db8d9", label="activations and the rest")
    memory.barh(places, held, color="#3b6ea5", label="weights")
    if moving:
        peaks = [measured[place]["memory"] / 1e6 for place in moving]
        memory.barh(moving, peaks, color="#a9a9a9", label="both, where weights move")
    speed.barh(places, [r["steps_per_second"] or 0 for r in measured], color="#d98e3b")
    memory.set(yticks=places, yticklabels=names, xlabel="memory in MB")
    memory.invert_yaxis()
    memory.tick_params(labelsize=8)
    memory.legend(fontsize=7)
    speed.set(xlabel="steps of a picture a second")
    return figure


def command(model: str, tier: str, threads: int | None, save: Path | None, compiling: bool) -> int:
    """Measure, print the table as it grows, and write it and its plot: `python -m sdhelpers bench`."""
    if model == "sd15" and tier == "pocket":
        from sdhelpers.benchmark import cold_start

        print(cold_start.table(threads or 2), flush=True)
    kind = best_device()
    size = SIZES.get(model) or models.default_size(model, tier)
    save = save or ROOT / "outputs" / "benchmarks" / f"{model}-{kind}.json"
    planned = rows(model, kind, size, compiling)
    print(f"\n{len(planned)} rows, each in a fresh process:", flush=True)
    bench = Benchmark(model, tier, threads, save)
    for row in planned:
        print(line(row, bench.add(row)), flush=True)
    results = bench.results
    plot(results).savefig(save.with_suffix(".png"), dpi=120)
    print("\n" + table(results))
    print("\n".join(shares(results)))
    best = fastest(results, KEPT)
    if best:
        print(f"\nFastest with the image kept (difference of at most {KEPT}):\n{line(as_row(best), best)}")
    print(f"\nThe data and the plot: {save}, {save.with_suffix('.png').name}")
    return 0
