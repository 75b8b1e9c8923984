"""The registry: what it says about size and memory is true, and every trouble is one clear sentence."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
)

from published_shapes import DEPTH_ANYTHING_SMALL, UNET, VIT_H, true_sd15
from sdhelpers import models
from sdhelpers.models import ModelError, hub
from sdhelpers.paths import ROOT


@pytest.fixture
def copy_of_sd15(tmp_path):
    shutil.copytree(models.POCKET / "sd15", tmp_path / "sd15")
    return tmp_path / "sd15"


def test_every_shipped_model_is_what_its_card_says():
    for name in models.REGISTRY:
        models.locate(name)
        folder = models.POCKET / name
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert there - set(card["files"]) == {"card.json", "README.md"}, "every file is on the card"


def test_shards_and_the_whole_stay_small():
    weights = list(models.POCKET.rglob("*.safetensors"))
    assert max(p.stat().st_size for p in weights) <= 15 * 2**20
    assert sum(p.stat().st_size for p in weights) <= 200e6


def test_the_pipeline_loads_without_sdhelpers():
    program = (
        "import sys, torch; from diffusers import StableDiffusionPipeline;"
        "pipe = StableDiffusionPipeline.from_pretrained('data/pocket/sd15');"
        "print(*(type(c).__name__ for c in (pipe.tokenizer, pipe.text_encoder, pipe.vae, pipe.unet, pipe.scheduler)));"
        "print({p.dtype for m in (pipe.text_encoder, pipe.vae, pipe.unet) for p in m.parameters()});"
        "print(pipe('a cat', num_inference_steps=2).images[0].size, 'sdhelpers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    assert lines[0] == "CLIPTokenizer CLIPTextModel AutoencoderKL UNet2DConditionModel DPMSolverMultistepScheduler"
    assert lines[1] == "{torch.float32}"
    assert lines[2] == "(128, 128) False"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "damaged or was changed"),
        (lambda f: f.write_bytes(b"version https://git-lfs"), "not a weights file"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"\x00"), "damaged or was changed"),
        (lambda f: f.unlink(), "is missing"),
    ],
)
def test_a_harmed_file_is_named_in_one_sentence(copy_of_sd15, harm, message):
    file = copy_of_sd15 / "vae" / "diffusion_pytorch_model.safetensors"
    if message == "damaged or was changed" and file.read_bytes()[-1] == 0:
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    harm(file)
    with pytest.raises(ModelError, match=rf"{message}.*git checkout") as caught:
        models.verify(copy_of_sd15)
    assert "diffusion_pytorch_model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("card", ["", "{", "[]", '{"files": 3}'])
def test_an_unreadable_card_is_named_in_one_sentence(copy_of_sd15, card):
    (copy_of_sd15 / "card.json").write_text(card, encoding="utf-8")
    with pytest.raises(ModelError, match=r"no readable card\.json"):
        models.verify(copy_of_sd15)


def test_names_and_tiers_are_checked():
    with pytest.raises(ModelError, match="no model 'sd16'; the registry knows sd15"):
        models.locate("sd16")
    with pytest.raises(ModelError, match='tier must be "pocket" or "full", not \'big\''):
        models.locate("sd15", "big")
    with pytest.raises(ModelError, match="pocket tier only"):
        models.locate("classifier", "full")


def test_the_full_tier_says_what_is_wrong_before_any_download(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", lambda **options: missing(options))
    monkeypatch.setattr(hub.hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"needs about 5\.8 GB of memory and 3\.0 GB are free"):
        hub.check_memory(models.entry("sd15").full, available=3 * 10**9, bytes_per_number=4)
    with pytest.raises(ModelError, match=r"download of 2\.1 GB and only 1\.0 GB are free"):
        hub.check_disk(models.entry("sd15").full, free=10**9)
    monkeypatch.setattr(hub, "memory_here", lambda: (10**12, 2))
    monkeypatch.setattr(hub.hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="not on this computer and the hub cannot be reached"):
        models.locate("sd15", "full")


def missing(options: dict):
    assert options["local_files_only"], "nothing may be downloaded here"
    raise hub.huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")


def test_a_cached_full_model_is_used_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "memory_here", lambda: (10**12, 2))
    asked = {}
    monkeypatch.setattr(
        hub.huggingface_hub, "snapshot_download", lambda **options: asked.update(options) or str(tmp_path)
    )
    assert models.locate("sd15", "full") == tmp_path
    assert asked["revision"] == models.entry("sd15").full.revision and len(asked["revision"]) == 40
    assert models.variant("sd15", "full") == "fp16" and models.variant("sd15") is None
    assert models.default_size("sd15", "full") == 512 and models.default_size("sd15") == 128
    assert models.default_guidance_scale("sd15", "full") == 7.5 and models.default_guidance_scale("sd15") == 3


def test_a_download_that_breaks_off_is_one_sentence(monkeypatch, tmp_path):
    def download(**options):
        if options.get("local_files_only"):
            missing(options)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "check_network", lambda model: None)
    with pytest.raises(ModelError, match=r"broke off \(ConnectionResetError\); run the cell again"):
        hub.download(replace(models.entry("sd15").full, download=1000))


def count(*parts: torch.nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def test_the_registry_counts_what_the_true_configuration_has():
    pipe = true_sd15("meta")
    assert count(pipe.unet, pipe.vae, pipe.text_encoder) == models.entry("sd15").full.parameters
    # Half precision is two bytes a number; the files add a header and the tokenizer.
    assert 0.99 < models.entry("sd15").full.download / (2 * models.entry("sd15").full.parameters) < 1.01


def test_the_registry_counts_what_the_other_published_configurations_have():
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    refined = CLIPSegConfig(text_config={}, vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
    pipe = true_sd15("meta")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**UNET, "in_channels": 9})
        clipseg = CLIPSegForImageSegmentation(refined)
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=768))
    assert count(unet, pipe.vae, pipe.text_encoder) == models.entry("inpainting").full.parameters
    assert count(clipseg) == models.entry("clipseg").full.parameters
    with torch.device("meta"):
        copy = ControlNetModel.from_unet(pipe.unet, load_weights_from_unet=False)
    assert count(checker) == models.entry("safety-checker").full.parameters
    nets = [model.full for name, model in models.REGISTRY.items() if name.startswith("controlnet-")]
    assert nets and all(count(copy) == net.parameters for net in nets)
    assert all(0.99 < net.download / (2 * net.parameters) < 1.01 for net in nets)
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT_H))
        depth = DepthAnythingForDepthEstimation(DepthAnythingConfig(**DEPTH_ANYTHING_SMALL))
        tokens = count(IPAdapterPlusImageProjection(1280, 768, 768, depth=4, heads=12, num_queries=16))
    keys = [a.to_k.weight.numel() + a.to_v.weight.numel() for n, a in pipe.unet.named_modules() if n.endswith("attn2")]
    adapter, depths = models.entry("ip-adapter").full, models.entry("depth-estimator").full
    assert count(tower) + tokens + sum(keys) == adapter.parameters and count(depth) == depths.parameters
    # The image tower is published in single precision, the adapter in half.
    assert 0.99 < adapter.download / (4 * count(tower) + 2 * (tokens + sum(keys))) < 1.01
    assert 0.99 < depths.download / (4 * depths.parameters) < 1.01


def test_the_chapters_calls_run_on_the_true_shapes():
    """One step of the real architecture (random weights) at 64 pixels: the same call as in chapter 3."""
    pipe = true_sd15("cpu")
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(0))
    out = pipe("a cat", latents=latents, width=64, height=64, num_inference_steps=1, output_type="latent").images
    assert out.shape == (1, 4, 8, 8) and torch.isfinite(out).all()
