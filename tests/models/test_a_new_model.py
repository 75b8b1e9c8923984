"""A new model is one entry in the registry, one recipe, one config and one table of floors: here they are, of one.

And what the registry can say of models that are made of others, before the first of them comes.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import floors
import parts
import places
import stages
from card import file_hashes, read_card
from sdhelpers import models
from sdhelpers.models import ModelError, compose, folders
from sdhelpers.models.registry import read_registry

ENTRY = """
[tiny]
loaded_by = "AutoencoderTiny"
size = 16
about = "An autoencoder of two colours, for this test."
"""
RECIPE = '''
"""Pictures of 16x16 pixels in one colour each, to two numbers a pixel and back."""

import torch
from diffusers import AutoencoderTiny
from torch.utils.data import Dataset

from export import save
from recipe import Recipe


class Colours(Dataset):
    def __getitem__(self, number):
        colour = torch.rand(2, generator=torch.Generator().manual_seed(number))
        return torch.cat([colour, colour[:1]])[:, None, None].expand(3, 16, 16).clone()


class Copying:
    def __init__(self, training):
        self.device = training.device

    def prepare(self, pixels):
        return (pixels.to(self.device),)

    @staticmethod
    def loss_of(model, pixels):
        error = (model(pixels).sample.float() - pixels).square().mean()
        return error, {"error": error}


def build(options):
    return AutoencoderTiny.from_pretrained(options.init) if options.init else AutoencoderTiny(**options.architecture)


@torch.no_grad()
def score(model, options):
    pixels = torch.stack([Colours()[10_000 + i] for i in range(16)])
    return {"error": round(float((model(pixels).sample - pixels).square().mean()), 5)}


RECIPE = Recipe(build, lambda options: Colours(), Copying, score, save)
'''
CONFIG = """
batch = 8
lr = 3e-2
ema = 0.9
decay = 0.0

[[stage]]
run = "tiny_first"
steps = 60

[[stage]]
init = "data/recipes/runs/tiny_first/export"
steps = 60

[architecture]
latent_channels = 2
encoder_block_out_channels = [4]
decoder_block_out_channels = [4]
num_encoder_blocks = [1]
num_decoder_blocks = [1]
"""
FLOORS = """
[tiny]
"tiny: error" = { below = 0.5 }  # untrained, it is more than 2
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """`python data/recipes` in an empty checkout that knows the tiny model besides."""
    home, pocket = tmp_path / "data" / "recipes", tmp_path / "data" / "pocket"
    for path, text in {
        home / "parts" / "tiny.py": RECIPE,
        home / "configs" / "tiny.toml": CONFIG,
        tmp_path / "registry.toml": ENTRY,
        tmp_path / "floors.toml": FLOORS,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setitem(models.REGISTRY, "tiny", read_registry(tmp_path / "registry.toml")["tiny"])
    monkeypatch.setattr(parts, "__path__", [*parts.__path__, str(home / "parts")])
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(stages, "CONFIGS", home / "configs")
    monkeypatch.setattr(floors, "FLOORS", tmp_path / "floors.toml")
    monkeypatch.setattr(places, "RUNS", home / "runs")
    monkeypatch.setattr(places, "CURVES", home / "curves")
    for module in (places, folders):
        monkeypatch.setattr(module, "POCKET", pocket)
    yield runpy.run_path(str(places.RECIPES / "__main__.py"))["main"]
    sys.modules.pop("parts.tiny", None)


def test_it_is_trained_assembled_found_and_scored(recipes, capsys):
    recipes(["train", "tiny", "--stage", "1"])
    recipes(["train", "tiny", "--steps", "80"])
    recipes(["assemble", "tiny"])
    folder = models.locate("tiny")
    card = read_card(folder)
    fact = card["parts"]["tiny"]
    assert (fact["recipe"], fact["steps"], fact["samples"]) == ("data/recipes/parts/tiny.py", 80, 640)
    assert (fact["earlier"]["steps"], fact["learning_rate"]) == (60, 0.03)
    assert card["files"] == file_hashes(folder) and set(card["files"]) == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert card["about"] in (folder / "README.md").read_text(encoding="utf-8")
    assert (places.CURVES / "tiny.png").exists()
    capsys.readouterr()
    recipes(["evaluate", "tiny", "--save"])
    assert "No floor is missed." in capsys.readouterr().out
    shipped = read_card(folder)["parts"]["tiny"]["scores"]["error"]
    assert shipped == pytest.approx(fact["scores"]["error"], rel=0.05), "what float16 leaves of it"
    floors.FLOORS.write_text('[tiny]\n"tiny: error" = { below = 0 }\n', encoding="utf-8")
    recipes(["evaluate", "tiny"])
    assert f"Floors missed:\ntiny: error is {shipped:.4g}, not below 0" in capsys.readouterr().out


def test_a_changed_file_of_it_is_noticed(recipes):
    recipes(["train", "tiny", "--stage", "1", "--steps", "1", "--run", "tiny"])
    recipes(["assemble", "tiny"])
    weights = places.POCKET / "tiny" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="is damaged or was changed"):
        models.locate("tiny")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "tine"], "There is no recipe 'tine'; known are tiny."),
        (["assemble", "tine"], "There is no model 'tine'; known are .*, tiny."),
        (["evaluate", "tine"], "There is no model 'tine'; known are .*, tiny."),
        (["train", "tiny"], "tiny_first.export is not there: train the stage before it"),
    ],
)
def test_what_is_not_there_is_one_sentence(recipes, arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        recipes(arguments)


# What is made of others.


def ship(pocket: Path, name: str, files: dict[str, dict[str, torch.Tensor]], entry: str = "") -> Path:
    """A folder of a pocket model with these weights, and a card with what its entry in the registry says of sharing."""
    for file, tensors in files.items():
        (pocket / name / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, pocket / name / file)
    card = {"name": name, "files": file_hashes(pocket / name)}
    if entry:
        text = f'[{name}]\nloaded_by = "none"\nsize = 128\nabout = ""\n{entry}'
        (pocket / "registry.toml").write_text(text, encoding="utf-8")
        card["shared"] = read_registry(pocket / "registry.toml")[name].shares
    (pocket / name / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return pocket / name


def composed(folder: Path, file: str) -> dict[str, torch.Tensor]:
    return load_file(compose.complete(folder, folder.parent, folder.parent.parent / "built") / file)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def numbers(*shape: int, first: int = 0) -> torch.Tensor:
    """Numbers that float16 and sums of a few of them hold exactly."""
    return (torch.arange(torch.Size(shape).numel()).reshape(shape) + first).half() / 8


def test_two_models_into_one_file_as_for_blip_2(tmp_path):
    """An image tower and a language model, each under another name, and what is trained between them."""
    tower, language, between = numbers(2, 3), numbers(4, first=7), numbers(3, 4, first=9)
    ship(tmp_path, "clip", {"model.safetensors": {"vision_model.weight": tower, "text_model.weight": numbers(1)}})
    ship(tmp_path, "prompter", {"model.safetensors": {"transformer.weight": language}})
    entry = """
[[blip-2.shares.tensors]]
from = "clip"
rename = { "vision_model." = "vision_model.encoder." }
into = "model.safetensors"

[[blip-2.shares.tensors]]
from = "prompter"
rename = { "" = "language_model." }
into = "model.safetensors"
"""
    folder = ship(tmp_path, "blip-2", {"changed.safetensors": {"qformer.weight": between}}, entry)
    assert_equal(
        composed(folder, "model.safetensors"),
        {
            "vision_model.encoder.weight": tower,
            "language_model.transformer.weight": language,
            "qformer.weight": between,
        },
    )


def test_differences_as_for_a_refiner(tmp_path):
    weight, bias, difference = numbers(3, 2), numbers(3, first=4), numbers(3, 2, first=-3)
    ship(tmp_path, "sd15", {"unet/model.safetensors": {"conv.weight": weight, "conv.bias": bias}})
    entry = """
[[refiner.shares.tensors]]
from = "sd15/unet"
rename = { "" = "" }
into = "unet/model.safetensors"
added = "added.safetensors"
"""
    folder = ship(tmp_path, "refiner", {"added.safetensors": {"conv.weight": difference}}, entry)
    found = composed(folder, "unet/model.safetensors")
    assert_equal(found, {"conv.weight": weight + difference, "conv.bias": bias})
    assert found["conv.weight"].dtype == torch.float16


def test_low_rank_updates_as_for_a_controlnet(tmp_path):
    """The UNet's way down, moved a little in every layer, and layers of its own."""
    convolution, linear = numbers(4, 3, 1, 2), numbers(2, 3, first=5)
    ship(
        tmp_path,
        "sd15",
        {"unet/model.safetensors": {"down.conv": convolution, "down.linear": linear, "up.conv": numbers(1)}},
    )
    entry = """
[[control.shares.tensors]]
from = "sd15/unet"
rename = { "down." = "down_blocks." }
into = "model.safetensors"
low_rank = "low_rank.safetensors"
"""
    up, down = numbers(4, 2), numbers(2, 3, 1, 2, first=-4)
    own = numbers(2, 2)
    low_rank = {"down_blocks.conv.up": up, "down_blocks.conv.down": down}
    files = {"low_rank.safetensors": low_rank, "changed.safetensors": {"zero.weight": own}}
    update = torch.einsum("or,rikl->oikl", up.float(), down.float())
    assert_equal(
        composed(ship(tmp_path, "control", files, entry), "model.safetensors"),
        {
            "down_blocks.conv": (convolution.float() + update).half(),
            "down_blocks.linear": linear,
            "zero.weight": own,
        },
    )


def test_a_table_of_mostly_one_row_is_kept_short_and_read_at_full_length(tmp_path):
    table = numbers(1, 3).repeat(9, 1)
    table[[2, 5]] = numbers(2, 3, first=11)
    short = compose.shorten_table("tokens.weight", table) | {"bias": numbers(2)}
    assert short["tokens.weight.rows"].shape == (2, 3) and short["tokens.weight.numbers"].tolist() == [2, 5]
    entry = """
[[second.shares.tensors]]
from = "first/encoder"
rename = { "" = "" }
into = "model.safetensors"
"""
    ship(tmp_path, "first", {"encoder/changed.safetensors": short})
    folder = ship(tmp_path, "second", {"changed.safetensors": {}}, entry)
    assert_equal(composed(folder, "model.safetensors"), {"tokens.weight": table, "bias": numbers(2)})


@pytest.mark.parametrize("kind", ["added", "low_rank"])
def test_a_difference_from_what_is_not_there_is_one_sentence(tmp_path, kind):
    ship(tmp_path, "sd15", {"unet/model.safetensors": {"weight": numbers(2, 2)}})
    entry = f"""
[[other.shares.tensors]]
from = "sd15/unet"
rename = {{ "" = "" }}
into = "model.safetensors"
{kind} = "own.safetensors"
"""
    names = ["bias.up", "bias.down"] if kind == "low_rank" else ["bias"]
    folder = ship(tmp_path, "other", {"own.safetensors": {name: numbers(2, 2) for name in names}}, entry)
    with pytest.raises(ModelError, match="for bias, which no model that is shared with has"):
        composed(folder, "model.safetensors")
