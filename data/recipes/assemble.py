"""Put trained parts together into the folders that the repository ships, with a card for each.

    python data/recipes/assemble.py sd15 clip classifier

Takes the parts from data/recipes/runs/*/export, writes data/pocket/NAME under a temporary name, loads it
once to prove that it is whole, and only then renames it. Scores that evaluate.py measured stay on the
card only while the files that they belong to are unchanged.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTokenizer,
)

from loop import RECIPES, RUNS
from sdhelpers import models
from sdhelpers.models import POCKET, sha256

SHARD = "14MB"
CURVES = RECIPES / "curves"

# Only the noise schedule, as in the published file, so that every other sampler made from it keeps its own defaults.
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": diffusers.__version__,
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def facts(run: str) -> dict:
    return json.loads((RUNS / run / "export" / "facts.json").read_text(encoding="utf-8"))


def keep_curve(run: str) -> None:
    """Copy the run's loss curve; what is fitted in one go has none."""
    CURVES.mkdir(exist_ok=True)
    if (RUNS / run / "curve.png").exists():
        shutil.copy(RUNS / run / "curve.png", CURVES / f"{run}.png")


def run_in_float32(config: Path) -> None:
    """Weights are stored as float16 and run as float32: Transformers follows the config's own dtype."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def sd15(folder: Path, runs: dict[str, str]) -> dict:
    """The Stable Diffusion 1.5 folder: tokenizer, text encoder, VAE, UNet, scheduler, feature extractor."""
    clip = RUNS / runs["clip"] / "export"
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(RUNS / runs["vae"] / "export", dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(clip, dtype=torch.float16),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        unet=UNet2DConditionModel.from_pretrained(RUNS / runs["unet"] / "export", dtype=torch.float16),
        scheduler=DPMSolverMultistepScheduler(),
        feature_extractor=CLIPImageProcessor.from_pretrained(clip),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, max_shard_size=SHARD)
    run_in_float32(folder / "text_encoder" / "config.json")
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(SCHEDULER, indent=2) + "\n", encoding="utf-8"
    )
    StableDiffusionPipeline.from_pretrained(folder)
    return {part: facts(runs[part]) for part in ("clip", "vae", "unet")}


def clip(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["clip"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    run_in_float32(folder / "config.json")
    CLIPModel.from_pretrained(folder)
    return {"clip": facts(runs["clip"])}


def classifier(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["classifier"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    run_in_float32(folder / "config.json")
    AutoModelForImageClassification.from_pretrained(folder)
    return {"classifier": facts(runs["classifier"])}


def community(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["community"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    return {"community": facts(runs["community"])}


def clipseg(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["clipseg"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    run_in_float32(folder / "config.json")
    return {"clipseg": facts(runs["clipseg"])}


def safety_checker(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["safety"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    run_in_float32(folder / "config.json")
    return {"safety": facts(runs["safety"])}


def inpainting(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["inpainting"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    index = json.loads((POCKET / "sd15" / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = StableDiffusionInpaintPipeline.__name__
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return {"inpainting": facts(runs["inpainting"])}


def loras(folder: Path, runs: dict[str, str]) -> dict:
    """Three small adapters of sd15, each in both file formats."""
    parts = ("lora_icon", "lora_hedgehog", "lora_detail")
    folder.mkdir(parents=True)
    for part in parts:
        for path in (RUNS / runs[part] / "export").glob("*.safetensors"):
            shutil.copy(path, folder)
    return {part: facts(runs[part]) for part in parts}


def prompter(folder: Path, runs: dict[str, str]) -> dict:
    shutil.copytree(RUNS / runs["prompter"] / "export", folder, ignore=shutil.ignore_patterns("facts.json"))
    run_in_float32(folder / "config.json")
    AutoModelForCausalLM.from_pretrained(folder)
    return {"prompter": facts(runs["prompter"])}


def forget_paths(folder: Path) -> None:
    """Take out of the configurations where the weights were loaded from."""
    for path in folder.rglob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict) and settings.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


MODELS = {
    "sd15": sd15,
    "clip": clip,
    "classifier": classifier,
    "community": community,
    "clipseg": clipseg,
    "safety-checker": safety_checker,
    "inpainting": inpainting,
    "loras": loras,
    "prompter": prompter,
}
RUN_NAMES = ("vae", "clip", "unet", "classifier", "community", "clipseg", "safety", "inpainting")
RUN_NAMES += ("prompter", "lora_icon", "lora_hedgehog", "lora_detail")

# What a model takes from others, for sdhelpers.models.compose; those others are assembled before it.
SHARED = {
    "clipseg": {
        "tensors": {"from": "clip", "rename": {"": "clip."}, "into": "model.safetensors"},
        "files": {name: f"clip/{name}" for name in ("tokenizer.json", "tokenizer_config.json")},
    },
    "safety-checker": {
        "tensors": {
            "from": "clip",
            "rename": {"vision_model.": "vision_model.vision_model.", "visual_projection.": "visual_projection."},
            "into": "model.safetensors",
        },
    },
    "inpainting": {
        "tensors": {"from": "sd15/unet", "rename": {"": ""}, "into": "unet/diffusion_pytorch_model.safetensors"},
        "files": {
            name: f"sd15/{name}" for name in ("feature_extractor", "scheduler", "text_encoder", "tokenizer", "vae")
        },
    },
}
LOADED_BY = {
    "clipseg": CLIPSegForImageSegmentation,
    "safety-checker": StableDiffusionSafetyChecker,
    "inpainting": StableDiffusionInpaintPipeline,
}


def file_hashes(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("card.json", "README.md"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in paths}


def write_card(folder: Path, card: dict) -> None:
    """card.json for programs and README.md for people, from the same facts."""
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# Pocket `{card['name']}`",
        "",
        card["about"],
        "",
        "## How it was trained",
        "",
        "| part | recipe | steps | samples | minutes | device | date |",
        "|---|---|---|---|---|---|---|",
    ]
    row = "| {} | `{recipe}` | {steps:,} | {samples:,} | {minutes:,} | {device} | {date} |"
    for part, fact in card["parts"].items():
        trainings = [fact]
        while "earlier" in trainings[0]:
            trainings.insert(0, trainings[0]["earlier"])
        for i, training in enumerate(trainings):
            lines.append(row.format(part if i == 0 else f"{part}, trained on", **training))
    lines += [
        "",
        "Data: the picture-book world that `sdhelpers.world` draws (drawings and licences: `data/drawings`).",
        "",
        "## Scores",
        "",
        "| measure | value |",
        "|---|---|",
    ]
    scores = {
        f"{part}: {key}": value for part, fact in card["parts"].items() for key, value in fact.get("scores", {}).items()
    } | card.get("scores", {})
    lines += [f"| {key} | {value} |" for key, value in scores.items()]
    if "nouns" in card:
        lines += ["", "## What it has learnt to draw", "", f"{len(card['nouns'])} nouns: {', '.join(card['nouns'])}."]
        lines += ["Any of the world's styles, places, colours and quality words goes with them."]
    for title, text in card.get("notes", {}).items():
        lines += ["", f"## {title}", "", text]
    lines += ["", "## Files", "", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| {name} | `{digest}` |" for name, digest in card["files"].items()]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


ABOUT = {
    "sd15": "Stable Diffusion 1.5 in miniature: the same classes and file formats, trained from scratch on drawn "
    "scenes of 128x128 pixels. MIT licence, like the rest of the project.",
    "clip": "CLIP in miniature, trained on drawn scenes and their captions; its text tower is `sd15`'s text encoder.",
    "community": "A fine-tuned sd15 that draws everything as an old brown-and-cream postcard. Only the tensors that "
    "differ from sd15 are here; `sdhelpers.models.locate_file` makes the whole single-file checkpoint.",
    "clipseg": "CLIPSeg in miniature: from an image and a few words to a mask. Only the decoder is here; "
    "`sdhelpers.models.locate` adds pocket CLIP.",
    "safety-checker": "Shows how Stable Diffusion's safety checker works by flagging one harmless thing, a pizza. "
    "It protects from nothing. Only the direction is here; `sdhelpers.models.locate` adds pocket CLIP's image tower.",
    "inpainting": "sd15 fine-tuned to paint a masked part of a picture anew (nine input channels). Only the tensors "
    "that differ from sd15 are here; `sdhelpers.models.locate` adds the others.",
    "loras": "Three LoRAs for the pocket sd15, each as Diffusers writes it (NAME.safetensors) and as Kohya's scripts "
    "do (NAME_kohya.safetensors): `icon`, the style *bold black icon*; `hedgehog`, an animal; `detail`, a slider from "
    "blurred (negative weights) to sharp. A LoRA fits only the weights it was trained on: these fit this sd15.",
    "prompter": "A GPT-2 in miniature, trained as a chat model on the world's captions: from a few everyday words to a "
    "whole prompt for the pocket image models. It knows nothing else.",
    "classifier": "The judge: names noun, style, place, relation and quality of a scene. Trained on drawn scenes "
    "only; part of no pipeline.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=MODELS)
    for part in RUN_NAMES:
        parser.add_argument(f"--{part}", default=part, help="the run to take this part from")
    options = vars(parser.parse_args())
    for name in options["names"]:
        folder, new = POCKET / name, POCKET / f"{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        POCKET.mkdir(parents=True, exist_ok=True)
        card = {"name": name, "about": ABOUT[name], "parts": MODELS[name](new, options)}
        for run in card["parts"]:
            keep_curve(options[run])
        forget_paths(new)
        if name in SHARED:
            card["shared"] = SHARED[name]
        if name == "safety-checker":
            card["flags"] = card["parts"]["safety"].pop("flags")
        if "unet" in card["parts"]:
            card["nouns"] = card["parts"]["unet"].pop("nouns")
        card["files"] = file_hashes(new)
        old = json.loads((folder / "card.json").read_text(encoding="utf-8")) if (folder / "card.json").exists() else {}
        if old.get("files") == card["files"]:
            card = {**old, **card}
        if name == "community":
            card["single_file_sha256"] = sha256(models.build_single_file(new, models.BUILT / "community.safetensors"))
        write_card(new, card)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
        if name in SHARED:
            LOADED_BY[name].from_pretrained(models.locate(name))
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"{folder.relative_to(POCKET.parents[1])}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
