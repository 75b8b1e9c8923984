"""The original key layout, written by us and read by the library."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from published_shapes import true_sd15
from sdhelpers import models
from sdhelpers.files import single_file
from sdhelpers.files.single_file import save_single_file, to_original_layout


def test_a_single_file_is_read_back_tensor_by_tensor(pipe, tmp_path):
    path = save_single_file(pipe, tmp_path / "pocket.safetensors")
    again = StableDiffusionPipeline.from_single_file(path, config=str(models.locate("sd15")), dtype=torch.float32)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(pipe, part).state_dict(), getattr(again, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), part


def test_two_that_write_the_same_file_at_once_do_not_mix(pipe, tmp_path, monkeypatch):
    both_began, both_wrote, save_file = threading.Barrier(2), threading.Barrier(2), single_file.save_file

    def slow(tensors, temporary, **options):
        both_began.wait(300)
        save_file(tensors, temporary, **options)
        both_wrote.wait(300)

    monkeypatch.setattr(single_file, "save_file", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: save_single_file(pipe, tmp_path / "pocket.safetensors"), range(2))
    assert first == second and [path.name for path in tmp_path.iterdir()] == ["pocket.safetensors"]
    assert load_file(first).keys() == to_original_layout(pipe).keys()


def test_the_true_configuration_gets_the_names_that_everybody_knows():
    names = to_original_layout(true_sd15("meta"))
    assert len(names) == 686 + 248 + 196
    for name, shape in {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.bias": (1280,),
        "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "first_stage_model.decoder.up.3.block.0.conv1.weight": (512, 512, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49_408, 768),
    }.items():
        assert tuple(names[name].shape) == shape


def test_an_unknown_tensor_is_named():
    from sdhelpers.files.single_file import unet_key

    with pytest.raises(KeyError, match="add_embedding"):
        unet_key("add_embedding.linear_1.weight", 2, set())
