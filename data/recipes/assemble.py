"""Put trained parts together into the folders that the repository ships, with a card for each.

    python data/recipes assemble sd15 clip classifier
    python data/recipes assemble sd15 --unet unet2       with a part of another run than its own

Takes the parts that the registry (sdhelpers/models/registry.toml) names from data/recipes/runs/*/export, writes
data/pocket/NAME under a temporary name, loads it once to prove that it is whole, and only then renames it. Scores
that `evaluate` measured stay on the card only while the files that they belong to are unchanged.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

import assemble_xl
import places
import stages
from card import file_hashes, read_card, write_card
from conditioning import NOISE
from export import SHARD
from sdhelpers import models

# Only the noise schedule, as in the published file, so that every other sampler made from it keeps its own defaults.
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": diffusers.__version__,
    **NOISE,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def lay_together(folder: Path, exports: dict[str, Path]) -> None:
    """What the parts have exported, in one folder."""
    for export in exports.values():
        shutil.copytree(export, folder, ignore=shutil.ignore_patterns("facts.json"), dirs_exist_ok=True)


def sd15(folder: Path, exports: dict[str, Path]) -> None:
    """The Stable Diffusion 1.5 folder: tokenizer, text encoder, VAE, UNet, scheduler, feature extractor."""
    clip = exports["clip"]
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(exports["vae"], dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(clip, dtype=torch.float16),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        unet=UNet2DConditionModel.from_pretrained(exports["unet"], dtype=torch.float16),
        scheduler=DPMSolverMultistepScheduler(),
        feature_extractor=CLIPImageProcessor.from_pretrained(clip),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, max_shard_size=SHARD)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)


PIPELINES = {
    "sd15": sd15,
    "sdxl": assemble_xl.base,
    "sdxl-refiner": assemble_xl.refiner,
}  # models that are more than their parts laid together


def make_neutral(folder: Path) -> None:
    """Configurations that say nothing of where the weights came from, and that they run in float32.

    Weights are stored as float16; Transformers follows the config's own dtype.
    """
    for path in folder.rglob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            continue
        named = settings.pop("_name_or_path", None) is not None
        if path.name == "config.json" and "transformers_version" in settings:
            settings["dtype"] = "float32"
            named = True
        if named:
            _write_json(path, settings)


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def keep_curve(run: str) -> None:
    """Copy the run's loss curve; what is fitted in one go has none. Of a run that was probed, also what was noted.

    The numbers go to curves/RUN.json, the pictures that a probe drew to sheets/way/RUN.webp.
    """
    folder = places.RUNS / run
    kept = {folder / "curve.png": places.CURVES / f"{run}.png"}
    if (folder / "growth.webp").exists():
        kept |= {folder / "history.json": places.CURVES / f"{run}.json"}
        kept |= {folder / "growth.webp": places.SHEETS / "way" / f"{run}.webp"}
    for source, target in kept.items():
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def card_of(entry: models.Model, exports: dict[str, Path], new: Path, old: dict[str, Any]) -> dict[str, Any]:
    """The card of what lies in `new`, with what the old one tells of the same files."""
    facts = {part: json.loads((e / "facts.json").read_text(encoding="utf-8")) for part, e in exports.items()}
    card = {"name": entry.name, "about": entry.about, "parts": facts}
    if entry.shares:
        card["shared"] = entry.shares
    for fact in facts.values():  # what a part tells of the whole model
        card |= {key: fact.pop(key) for key in ("flags", "nouns") if key in fact}
    card["files"] = file_hashes(new)
    if old.get("files") == card["files"]:
        card = {**old, **card}
    if entry.loaded_by.endswith(".from_single_file"):
        single = models.build_single_file(new, models.BUILT / f"{entry.name}.safetensors")
        card["single_file_sha256"] = models.sha256(single)
    return card


def prove(entry: models.Model, folder: Path) -> None:
    """Load a whole model with the class that the chapters use; files of another kind are proved by their tests."""
    for library in (diffusers, transformers, diffusers.pipelines.stable_diffusion):
        if hasattr(library, entry.loaded_by):
            getattr(library, entry.loaded_by).from_pretrained(folder)
            return


def assemble(name: str, runs: dict[str, str]) -> None:
    """Write the folder of a model; `runs` names the run of each part that is not in its own."""
    entry = models.entry(name)
    exports = {part: places.export_of(runs.get(part, part)) for part in entry.parts}
    folder, new = places.POCKET / name, places.POCKET / f"{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    PIPELINES.get(name, lay_together)(new, exports)
    make_neutral(new)
    if not entry.shares:
        prove(entry, new)
    for part in entry.parts:
        for run in {runs.get(part, part), *(stage.get("run", part) for stage in stages.stages(part))}:
            keep_curve(run)
    write_card(new, card_of(entry, exports, new, read_card(folder)))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)
    if entry.shares:
        prove(entry, models.locate(name))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{folder.relative_to(places.POCKET.parents[1])}: {size / 1e6:.1f} MB")


def main(arguments: Sequence[str]) -> None:
    parser = stages.parser_of("assemble", __doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(models.REGISTRY))
    for part in stages.names():
        parser.add_argument(f"--{part}", metavar="RUN", default=part, help="the run to take this part from")
    options = parser.parse_args(arguments)
    for name in options.names:
        stages.check(name, tuple(models.REGISTRY), "model")
    for name in options.names:
        assemble(name, vars(options))
