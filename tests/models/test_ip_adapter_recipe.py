"""The IP-Adapter's recipe: the published layout, read by the library; at scale 0 nothing changes."""

import argparse

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from parts import ip_adapter
from sdhelpers import models, world
from sdhelpers.world import Description

OPTIONS = argparse.Namespace(init=None)
OWL = Description(("owl",), "cartoon", "beach")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return ip_adapter.build(OPTIONS).eval()


def test_a_reference_shows_the_same_thing_elsewhere():
    scenes = [ip_adapter.reference_of(OWL, np.random.RandomState(i)) for i in range(20)]
    assert all(s.description.nouns == OWL.nouns and s.description.style == OWL.style for s in scenes)
    assert all(s.description.place != OWL.place for s in scenes) and len({s.description.place for s in scenes}) > 5


def test_words_are_left_out_as_often_as_is_said():
    said = [ip_adapter.words_of("an owl on a beach", "beach", np.random.RandomState(i)) for i in range(1000)]
    assert abs(said.count("") / 1000 - ip_adapter.WORDS_LEFT_OUT) < 0.05
    assert abs(said.count("an owl on a beach") / 1000 - 0.3) < 0.05
    assert {s for s in said if s and "owl" not in s} == {"on a beach", "at the beach"}


def test_only_the_adapter_learns_and_it_is_small(unet):
    learns = {name: p.numel() for name, p in unet.named_parameters() if p.requires_grad}
    assert learns and all("_ip." in name or "encoder_hid_proj" in name for name in learns)
    assert sum(learns.values()) < 1_000_000


def test_it_begins_as_the_words_own_keys_and_values(unet):
    for _, attention in ip_adapter.cross_attentions(unet):
        assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight)
        assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight)


@torch.no_grad()
def test_the_library_reads_the_file_and_scale_0_changes_nothing(unet, tmp_path):
    ip_adapter.export(unet, tmp_path, OPTIONS)
    pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = dict(prompt="a cat", num_inference_steps=2, latents=noise, output_type="latent")
    plain = pipe(**settings).images
    pipe.register_modules(image_encoder=ip_adapter.image_tower())
    pipe.load_ip_adapter(str(tmp_path), subfolder="models", weight_name=ip_adapter.FILE.name)
    reference = world.draw(OWL, np.random.RandomState(0)).image
    pipe.set_ip_adapter_scale(0)
    assert torch.allclose(pipe(**settings, ip_adapter_image=reference).images, plain, atol=1e-4)
    pipe.set_ip_adapter_scale(1)
    assert not torch.allclose(pipe(**settings, ip_adapter_image=reference).images, plain, atol=1e-2)
    mine, theirs = (ip_adapter.state_of(u) for u in (unet, pipe.unet))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
