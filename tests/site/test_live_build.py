"""What the live page is made of: the exported models are the pipeline's, and what is missing is said."""

import json
import re
import urllib.request

import numpy as np
import pytest
import torch

from sdhelpers.book.site import live, serve
from sdhelpers.book.site.build import drawing_parts
from sdhelpers.device import seeded_generator

PROSE = "<!-- live -->"


@pytest.fixture(scope="module")
def parts(site):
    """The exported models by name, in onnxruntime on the processor."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = site / "_static" / "live" / "models"
    if not folder.exists():
        pytest.skip("this site cannot draw: " + drawing_parts()[1])
    return {path.stem: onnxruntime.InferenceSession(path) for path in folder.glob("*.onnx")}


@torch.no_grad()
def test_the_exported_models_answer_as_the_pipeline_does(parts, pipe):
    generator = seeded_generator(0)
    ids = pipe.tokenizer(["", "a cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = pipe.text_encoder(ids)[0]
    encoded = [parts["text_encoder"].run(None, {"ids": row[None].int().numpy()})[0] for row in ids]
    assert np.abs(np.concatenate(encoded) - text.numpy()).max() < 1e-4
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    given = {"latents": latents.numpy(), "step": np.array([500], dtype=np.float32), "text": text.numpy()}
    noise, attention = parts["unet"].run(None, given)
    expected = pipe.unet(latents.expand(2, -1, -1, -1), 500, text, return_dict=False)[0]
    assert np.abs(noise - expected.numpy()).max() < 1e-3  # sums of a few thousand products, in another order
    assert attention.shape == (77, 16, 16) and np.abs(attention.sum(0) - 1).max() < 1e-5, "shares of each place"
    picture = parts["vae_decoder"].run(None, {"latents": latents.numpy()})[0]
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    assert np.abs(picture - (decoded / 2 + 0.5).clamp(0, 1).numpy()).max() < 1e-3


def test_the_page_states_what_the_build_measured(site):
    about = site / "_static" / "live" / "models" / live.ABOUT
    if not about.exists():
        pytest.skip("this site cannot draw: " + drawing_parts()[1])
    apart = json.loads(about.read_text(encoding="utf-8"))["difference"]
    assert apart["most"] <= 2 and apart["mean"] < 0.05
    text = (site / "draw.html").read_text(encoding="utf-8")
    assert f"differ by {apart['mean']:.1g} of 255" in text and f"by {apart['most']} at most" in text


def test_what_is_missing_is_said_and_the_page_is_there_without_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "installed", lambda name: None if name == "onnxscript" else "1")
    drawing, why_not = drawing_parts()
    assert drawing is None and "onnxscript, not installed" in why_not and capsys.readouterr().err.count("\n") == 1
    prose = tmp_path / "draw.md"
    prose.write_text(PROSE, encoding="utf-8")
    text = live.page(prose, None, why_not, {5})
    assert why_not in text and "<script" not in text


def test_without_npm_the_build_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(live.shutil, "which", lambda name: None)
    with pytest.raises(live.LiveError, match=r"^The live page runs on .* install Node\.js \d+ and build again\.$"):
        live.prepare(tmp_path / "kept")


def test_the_lock_names_versions_and_no_server():
    text = (live.SCRIPTS / "package-lock.json").read_text(encoding="utf-8")
    wanted = json.loads((live.SCRIPTS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads(text)["packages"]
    assert "://" not in re.sub(r'"(funding|url)": "[^"]*"', "", text)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in package for name, package in locked.items() if name)


def test_the_server_sends_the_headers_that_threads_need(tmp_path, serving):
    (tmp_path / "a.mjs").write_text("1", encoding="utf-8")
    with urllib.request.urlopen(f"{serving(tmp_path, serve.Handler)}/a.mjs") as answer:
        headers = answer.headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers.get_content_type() == "text/javascript"
