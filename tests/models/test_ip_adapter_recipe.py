"""The IP-Adapter's recipe: the published layout, read by the library; at scale 0 nothing changes."""

import argparse

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from parts import ip_adapter, ip_adapter_object, ip_adapter_style
from sdhelpers import models, world
from sdhelpers.world import Description

OPTIONS = argparse.Namespace(init=None, fitted=0)
OWL = Description(("owl",), "cartoon", "beach")
REFERENCES = {
    "ip_adapter": ip_adapter.BOTH,
    "ip_adapter_style": ip_adapter_style.STYLE,
    "ip_adapter_object": ip_adapter_object.OBJECT,
}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return ip_adapter.build(OPTIONS, ip_adapter.BOTH).eval()


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_reference_shares_what_it_shall_and_nothing_else(kind):
    reference = REFERENCES[kind]
    scenes = [reference.scene(OWL, np.random.RandomState(i)).description for i in range(20)]
    assert all(s.place != OWL.place for s in scenes) and len({s.place for s in scenes}) > 5
    for shared, own, theirs in (
        ("noun", OWL.nouns, {s.nouns for s in scenes}),
        ("style", OWL.style, {s.style for s in scenes}),
    ):
        assert theirs == {own} if shared in reference.shared else own not in theirs


def test_words_are_left_out_as_often_as_is_said():
    rngs = [np.random.RandomState(i) for i in range(1000)]
    said = [ip_adapter.words_or_place(OWL, "an owl on a beach", rng) for rng in rngs]
    assert abs(said.count("") / 1000 - 0.4) < 0.05
    assert abs(said.count("an owl on a beach") / 1000 - 0.3) < 0.05
    assert {s for s in said if s and "owl" not in s} == {"on a beach", "at the beach"}


@pytest.mark.parametrize(
    ("kind", "unsaid"), [("ip_adapter_style", ("cartoon", "comic")), ("ip_adapter_object", ("owl",))]
)
def test_the_words_never_say_what_the_reference_shows(kind, unsaid):
    reference = REFERENCES[kind]
    caption = "a cartoon of an owl on a beach"
    said = [reference.words(OWL, caption, np.random.RandomState(i)) for i in range(200)]
    said += [reference.asked(OWL, np.random.RandomState(i)) for i in range(200)]
    assert "" in said and len(set(said)) > 3 and not any(word in text for word in unsaid for text in said)


def test_only_the_adapter_learns_and_it_is_small(unet):
    learns = {name: p.numel() for name, p in unet.named_parameters() if p.requires_grad}
    assert learns and all("_ip." in name or "encoder_hid_proj" in name for name in learns)
    assert sum(learns.values()) < 1_500_000


def test_it_begins_as_the_words_own_keys_and_values(unet):
    for _, attention in ip_adapter.cross_attentions(unet):
        assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight)
        assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight)


@torch.no_grad()
def test_the_library_reads_the_file_and_scale_0_changes_nothing(unet, tmp_path):
    ip_adapter.export(unet, tmp_path, ip_adapter.BOTH)
    pipe = StableDiffusionPipeline.from_pretrained(models.locate("sd15"))
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = dict(prompt="a cat", num_inference_steps=2, latents=noise, output_type="latent")
    plain = pipe(**settings).images
    pipe.register_modules(image_encoder=ip_adapter.image_tower())
    pipe.load_ip_adapter(str(tmp_path), subfolder="models", weight_name=ip_adapter.BOTH.file.name)
    reference = world.draw(OWL, np.random.RandomState(0)).image
    pipe.set_ip_adapter_scale(0)
    assert torch.allclose(pipe(**settings, ip_adapter_image=reference).images, plain, atol=1e-4)
    pipe.set_ip_adapter_scale(1)
    assert not torch.allclose(pipe(**settings, ip_adapter_image=reference).images, plain, atol=1e-2)
    mine, theirs = (ip_adapter.state_of(u) for u in (unet, pipe.unet))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_the_resampler_begins_with_what_comes_nearest_to_the_words():
    """What it says of scenes that it was not fitted to is nearer to their own words than to another scene's."""
    torch.manual_seed(0)
    patches, vectors = ip_adapter.examples(ip_adapter.BOTH, 120)
    assert patches.shape[0] == 120 and vectors.shape[:2] == (120, ip_adapter.TOKENS)
    resampler = ip_adapter.resampler_of()
    ip_adapter.fit(resampler, patches[:100], vectors[:100], batch=32)
    with torch.no_grad():
        found = resampler(patches[100:].float())
    own, others = ((found - v).square().mean((1, 2)) for v in (vectors[100:], vectors[100:].roll(1, 0)))
    assert own.mean() < others.mean()


def test_a_second_kind_begins_with_what_the_first_has_learnt(unet, tmp_path):
    ip_adapter.export(unet, tmp_path / "export", ip_adapter.BOTH)
    options = argparse.Namespace(init=tmp_path / "export", fitted=96, run="none of this name")
    begun = ip_adapter.build(options, ip_adapter_style.STYLE)
    mine, theirs = (ip_adapter.state_of(u) for u in (unet, begun))
    assert mine.keys() == theirs.keys()
    same = {name: torch.equal(mine[name], theirs[name]) for name in mine}
    assert all(same[name] for name in same if name.startswith("ip_adapter.")), "keys and values are kept"
    assert not same["image_proj.proj_out.weight"], "the resampler is fitted to the words for a style alone"


def test_pictures_are_drawn_from_their_own_references(unet):
    """Pictures drawn in a batch are those drawn alone, and another reference gives another picture."""
    tasks, references, words = ip_adapter.tasks_of(ip_adapter.BOTH, 2)
    assert [t.nouns for t in tasks] and words == ["", ""]
    pipe = ip_adapter.pipeline(unet, ip_adapter.image_tower())
    together = ip_adapter.draw(pipe, references, words, steps=2)
    (alone,) = ip_adapter.draw(pipe, references[:1], words[:1], steps=2)
    (other,) = ip_adapter.draw(pipe, references[1:], words[:1], steps=2)
    apart = [np.abs(np.asarray(together[0], int) - np.asarray(image, int)).max() for image in (alone, other)]
    assert apart[0] <= 2 < apart[1]
