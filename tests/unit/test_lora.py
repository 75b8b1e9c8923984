"""LoRA files: what they hold in both formats, what they do to the weights, and that PEFT does the same."""

import itertools
import json
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdhelpers import models
from sdhelpers.files.lora import LoraError, MergedLoras, read_lora

NAMES = ("icon", "hedgehog", "detail")
SPELLINGS = ("", "_kohya")
FOLDER = models.POCKET / "loras"
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_model(seed: int = 0) -> SimpleNamespace:
    """Something with a UNet and a text encoder of every kind of layer, and names with dots and underscores."""
    torch.manual_seed(seed)
    attention = torch.nn.ModuleDict(
        {"to_q": torch.nn.Linear(6, 8), "to_out": torch.nn.ModuleList([torch.nn.Linear(8, 6)])}
    )
    unet = torch.nn.ModuleDict(
        {"attn1": attention, "proj_in": torch.nn.Conv2d(4, 6, 1), "conv1": torch.nn.Conv2d(4, 5, 3, padding=1)}
    )
    text = torch.nn.ModuleDict({"self_attn": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(7, 7)})})
    return SimpleNamespace(unet=unet, text_encoder=text)


PATHS = {
    "unet": ("attn1.to_q", "attn1.to_out.0", "proj_in", "conv1"),
    "text_encoder": ("self_attn.q_proj",),
}
EVERY = [(part, path) for part, paths in PATHS.items() for path in paths]


@st.composite
def contents(draw):
    """Some layers of the small model with random halves, ranks and alphas: {(part, path): (down, up, alpha)}."""
    model = small_model()
    chosen = draw(st.lists(st.sampled_from(EVERY), min_size=1, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    layers = {}
    for part, path in chosen:
        shape, rank = getattr(model, part).get_submodule(path).weight.shape, draw(st.integers(1, 6))
        kernel = (1, 1) if len(shape) == 4 else ()
        down = torch.randn((rank, *shape[1:]), generator=generator)
        up = torch.randn((shape[0], rank, *kernel), generator=generator)
        layers[part, path] = (down, up, draw(st.sampled_from([0.5, 1, 4, 8, 128])))
    return layers


def write_kohya(path, layers, alphas: bool = True):
    prefixes, tensors = {"unet": "lora_unet_", "text_encoder": "lora_te_"}, {}
    for (part, layer), (down, up, alpha) in layers.items():
        name = prefixes[part] + layer.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors |= {f"{name}.alpha": torch.tensor(float(alpha))} if alphas else {}
    save_file(tensors, path)
    return path


def write_diffusers(path, layers):
    tensors, notes = {}, {}
    for (part, layer), (down, up, alpha) in layers.items():
        tensors |= {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}
        notes.setdefault(f"{part}.lora_alpha", 1)
        notes.setdefault(f"{part}.alpha_pattern", {})[re.escape(layer)] = alpha
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(notes)})
    return path


def weights_of(pipe) -> dict[str, torch.Tensor]:
    """Every weight of both parts by its plain name, with PEFT's wrapping taken off."""
    return {
        f"{part}.{key.replace('.base_layer', '')}": value.clone()
        for part in ("unet", "text_encoder")
        for key, value in getattr(pipe, part).state_dict().items()
        if ".lora_" not in key
    }


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def farthest(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@few
@given(contents())
def test_both_formats_give_back_what_was_written(tmp_path, layers):
    kohya = read_lora(write_kohya(tmp_path / "a.safetensors", layers))
    diffusers = read_lora(write_diffusers(tmp_path / "b.safetensors", layers))
    assert (kohya.format, diffusers.format) == ("kohya", "diffusers")
    for file in (kohya, diffusers):
        assert set(file.layers) == {(part, path.replace(".", "_")) for part, path in layers}
        for (part, path), (down, up, alpha) in layers.items():
            layer = file.layers[part, path.replace(".", "_")]
            assert torch.equal(layer.down, down) and torch.equal(layer.up, up)
            assert layer.alpha == alpha and layer.rank == len(down)


@few
@given(contents(), st.floats(-3, 3))
def test_a_merged_layer_answers_like_the_two_thin_ones_beside_it(tmp_path, layers, weight):
    pipe, before = small_model(), small_model()
    loras = MergedLoras(pipe)
    loras.add("x", write_kohya(tmp_path / "a.safetensors", layers))
    loras.set_weights(x=weight)
    for (part, path), (down, up, alpha) in layers.items():
        merged, plain = (getattr(p, part).get_submodule(path) for p in (pipe, before))
        if isinstance(plain, torch.nn.Conv2d):
            x = torch.randn(2, plain.in_channels, 5, 5)
            thin = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=plain.padding), up)
        else:
            x = torch.randn(2, plain.in_features)
            thin = x @ down.T @ up.T
        with torch.no_grad():
            wanted = plain(x) + weight * alpha / len(down) * thin
            scale = wanted.abs().max() + abs(weight * alpha) * thin.abs().max()
            assert (merged(x) - wanted).abs().max() <= 1e-5 * (1 + scale), "more than float32's rounding"


@few
@given(contents(), contents(), st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), max_size=4))
def test_the_way_back_is_exact_and_the_way_there_does_not_matter(tmp_path, first, second, walk):
    pipe, direct = small_model(), small_model()
    untouched, files = weights_of(pipe), (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    write_kohya(files[0], first), write_diffusers(files[1], second)
    merged, straight = MergedLoras(pipe), MergedLoras(direct)
    for loras, (name, file) in itertools.product((merged, straight), zip("ab", files)):
        loras.add(name, file)
    for a, b in walk:
        merged.set_weights(a=a, b=b)
    merged.set_weights(b=0.5, a=-1)
    straight.set_weights(a=-1, b=0.5)
    assert same(weights_of(pipe), weights_of(direct))
    merged.restore()
    assert same(weights_of(pipe), untouched) and merged.weights == {"a": 0, "b": 0}


def test_without_alpha_it_equals_the_rank(tmp_path):
    layers = {("unet", "proj_in"): (torch.ones(3, 4, 1, 1), torch.ones(6, 3, 1, 1), 99)}
    assert read_lora(write_kohya(tmp_path / "a.safetensors", layers, alphas=False)).layers["unet", "proj_in"].alpha == 3


def test_loading_a_name_again_takes_the_old_file_out(tmp_path):
    pipe = small_model()
    untouched, loras = weights_of(pipe), MergedLoras(pipe)
    layers = {("unet", "proj_in"): (torch.ones(3, 4, 1, 1), torch.ones(6, 3, 1, 1), 3)}
    path = write_kohya(tmp_path / "a.safetensors", layers)
    loras.add("x", path)
    loras.set_weights(x=1)
    assert not same(weights_of(pipe), untouched)
    loras.add("x", path)
    assert same(weights_of(pipe), untouched)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_in_one_sentence_or_still_reads(tmp_path, data):
    whole = write_kohya(
        tmp_path / "a.safetensors", {("unet", "conv1"): (torch.ones(2, 4, 3, 3), torch.ones(5, 2, 1, 1), 1)}
    )
    content = bytearray(whole.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        MergedLoras(small_model()).add("x", damaged)
    except LoraError as error:
        assert "\n" not in str(error)


def key_of(name: str, down: torch.Tensor, up: torch.Tensor) -> dict:
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


GOOD = key_of("lora_unet_attn1_to_q", torch.ones(2, 6), torch.ones(8, 2))
BAD = {
    "only one half": {**GOOD, "lora_unet_proj_in.lora_down.weight": torch.ones(2, 4, 1, 1)},
    "belongs to no LoRA format": {**GOOD, "something.else": torch.ones(1)},
    "LoHa": {"lora_unet_attn1_to_q.hada_w1_a": torch.ones(8, 2)},
    "LoKr": {"lora_unet_attn1_to_q.lokr_w1": torch.ones(8, 2)},
    "DoRA": {**GOOD, "lora_unet_attn1_to_q.dora_scale": torch.ones(8, 1)},
    "third factor": {**GOOD, "lora_unet_attn1_to_q.lora_mid.weight": torch.ones(2, 2, 3, 3)},
    "do not fit": key_of("lora_unet_attn1_to_q", torch.ones(2, 6), torch.ones(8, 3)),
    "not all numbers": key_of("lora_unet_attn1_to_q", torch.full((2, 6), torch.nan), torch.ones(8, 2)),
    "not all numbers of": {**GOOD, "lora_unet_attn1_to_q.alpha": torch.tensor(torch.inf)},
    "is no number": {**GOOD, "lora_unet_attn1_to_q.alpha": torch.ones(2)},
    "there is no layer": key_of("lora_te_attn1_to_q", torch.ones(2, 6), torch.ones(8, 2)),
    "has the shape": key_of("lora_unet_attn1_to_q", torch.ones(2, 6), torch.ones(9, 2)),
    "holds no LoRA layers": {},
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_used_is_refused_and_nothing_is_changed(tmp_path, reason):
    save_file(BAD[reason], tmp_path / "bad.safetensors")
    pipe = small_model()
    untouched, loras = weights_of(pipe), MergedLoras(pipe)
    with pytest.raises(LoraError, match=reason):
        loras.add("x", tmp_path / "bad.safetensors")
    assert same(weights_of(pipe), untouched) and loras.weights == {}


LINEAR = torch.ones(2, 6), torch.ones(8, 2)


@pytest.mark.parametrize(
    "tensors",
    [
        key_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", *LINEAR),
        key_of("lora_unet_middle_block_1_proj_in", *LINEAR),
        key_of("lora_unet_output_blocks_0_1_proj_in", *LINEAR),
        {**GOOD, **key_of("lora_te2_text_model_encoder_layers_0_mlp_fc1", *LINEAR)},
        {"text_encoder_2.x.lora_A.weight": LINEAR[0], "text_encoder_2.x.lora_B.weight": LINEAR[1]},
    ],
    ids=["input blocks", "middle block", "output blocks", "a part that fits before", "Diffusers' names"],
)
def test_a_file_for_sdxl_is_known_by_its_names_and_refused_as_such(tmp_path, tensors):
    save_file(tensors, tmp_path / "xl.safetensors")
    pipe = small_model()
    untouched, loras = weights_of(pipe), MergedLoras(pipe)
    with pytest.raises(LoraError, match=r"^xl\.safetensors is a LoRA for SDXL, [^.]+\.$"):
        loras.add("x", tmp_path / "xl.safetensors")
    assert same(weights_of(pipe), untouched) and loras.weights == {}


def test_a_second_text_encoder_that_is_there_is_merged(tmp_path):
    pipe = small_model()
    pipe.text_encoder_2 = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(6, 8)})
    save_file(key_of("lora_te2_q_proj", *LINEAR), tmp_path / "xl.safetensors")
    loras, before = MergedLoras(pipe), pipe.text_encoder_2["q_proj"].weight.clone()
    loras.add("x", tmp_path / "xl.safetensors")
    loras.set_weights(x=1)
    assert torch.allclose(pipe.text_encoder_2["q_proj"].weight, before + 2)


@pytest.mark.parametrize(
    ("metadata", "base", "tags"),
    [
        ({"ss_base_model_version": "sd_v1", "modelspec.architecture": "other"}, "sd_v1", {}),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "stable-diffusion-v1/lora", {}),
        ({"base": "pocket sd15"}, "pocket sd15", {}),
        ({}, "", {}),
        (
            {"ss_tag_frequency": json.dumps({"10_icon": {"icon": 3, " cat": 9}, "2_more": {"icon": 8}})},
            "",
            {"icon": 11, "cat": 9},
        ),
        ({"ss_tag_frequency": "{"}, "", {}),
        ({"ss_tag_frequency": "[1]"}, "", {}),
        ({"ss_tag_frequency": '{"a": {"b": 1e999}}'}, "", {}),
        ({"ss_tag_frequency": '{"a": {"b": null}}'}, "", {}),
    ],
)
def test_what_the_file_says_of_its_training_is_read(tmp_path, metadata, base, tags):
    save_file(GOOD, tmp_path / "a.safetensors", metadata or None)
    file = read_lora(tmp_path / "a.safetensors")
    assert file.base_model == base and list(file.tags.items()) == list(tags.items())


def test_the_base_that_a_file_names_is_said_when_it_does_not_fit(tmp_path):
    save_file(BAD["has the shape"], tmp_path / "a.safetensors", {"ss_base_model_version": "sd_v2"})
    with pytest.raises(LoraError, match=r"for another model \('sd_v2'\)"):
        MergedLoras(small_model()).add("x", tmp_path / "a.safetensors")


def test_other_refusals(tmp_path):
    (tmp_path / "old.bin").write_bytes(b"")
    for path, reason in (("old.bin", "convert"), ("missing.safetensors", "cannot be read")):
        with pytest.raises(LoraError, match=reason):
            read_lora(tmp_path / path)
    for notes in ("{", "[1]"):
        save_file(
            {"unet.x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors", {"lora_adapter_metadata": notes}
        )
        with pytest.raises(LoraError, match="metadata"):
            read_lora(tmp_path / "a.safetensors")
    with pytest.raises(LoraError, match="No LoRA is loaded as y"):
        MergedLoras(small_model()).set_weights(y=1)


def by_library(pipe, path, weight: float) -> dict[str, torch.Tensor]:
    """The weights that PEFT fuses; the pipeline is left as it was."""
    before = {part: {k: v.clone() for k, v in getattr(pipe, part).state_dict().items()} for part in PATHS}
    pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="library")
    pipe.set_adapters("library", weight)
    pipe.fuse_lora()
    fused = weights_of(pipe)
    pipe.unload_lora_weights()
    for part, state in before.items():
        getattr(pipe, part).load_state_dict(state)
    return fused


def by_hand(pipe, path, weight: float) -> dict[str, torch.Tensor]:
    loras = MergedLoras(pipe)
    loras.add("hand", path)
    loras.set_weights(hand=weight)
    merged = weights_of(pipe)
    loras.restore()
    return merged


def agree(pipe, path, weight: float) -> None:
    """Hand and library change the same tensors, and differ by no more than float32's rounding."""
    before = weights_of(pipe)
    ours, theirs = by_hand(pipe, path, weight), by_library(pipe, path, weight)
    assert same(weights_of(pipe), before)
    assert farthest(ours, before) > 1e-3
    assert farthest(ours, theirs) <= 1e-6


@pytest.mark.parametrize("weight", [1, -0.7])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_files_merge_as_with_peft(plain, name, spelling, weight):
    agree(plain, FOLDER / f"{name}{spelling}.safetensors", weight)


def test_several_at_once_equal_peft(plain):
    before, loras = weights_of(plain), MergedLoras(plain)
    weights = {"icon": 1.0, "hedgehog": 0.6, "detail": -1.5}
    for name, spelling in zip(weights, itertools.cycle(SPELLINGS)):
        loras.add(name, FOLDER / f"{name}{spelling}.safetensors")
    loras.set_weights(**weights)
    ours = weights_of(plain)
    loras.restore()
    assert same(weights_of(plain), before)
    for name in weights:
        plain.load_lora_weights(FOLDER, weight_name=f"{name}.safetensors", adapter_name=name)
    with pytest.raises(LoraError, match="unload_lora_weights"):
        MergedLoras(plain)
    plain.set_adapters(list(weights), list(weights.values()))
    plain.fuse_lora()
    assert farthest(ours, weights_of(plain)) <= 1e-6


def test_the_two_formats_of_a_shipped_file_hold_the_same_numbers():
    for name in NAMES:
        one, other = (read_lora(FOLDER / f"{name}{spelling}.safetensors") for spelling in SPELLINGS)
        assert one.layers.keys() == other.layers.keys()
        for place, layer in one.layers.items():
            twin = other.layers[place]
            assert torch.equal(layer.down, twin.down) and torch.equal(layer.up, twin.up)
            assert layer.alpha == twin.alpha


def test_the_shipped_files_are_worth_reading():
    """Text encoder, both kinds of convolution, alpha other than rank, two ranks in a file; notes without paths."""
    layers = {name: read_lora(FOLDER / f"{name}.safetensors").layers for name in NAMES}
    assert {part for part, _ in layers["icon"]} == {"unet", "text_encoder"}
    kernels = {tuple(layer.down.shape[2:]) for layer in layers["hedgehog"].values()}
    assert kernels == {(), (1, 1), (3, 3)} and len({layer.rank for layer in layers["hedgehog"].values()}) == 2
    assert all(any(layer.alpha != layer.rank for layer in found.values()) for found in layers.values())
    for path in FOLDER.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            notes = file.metadata()
        assert notes["does"] and "trigger" in notes
        assert not re.search(r'"/|[A-Z]:\\', json.dumps(notes))


def test_rank_stabilised_scaling_is_heard(plain, tmp_path):
    """PEFT's use_rslora divides alpha by the root of the rank; only the metadata says so."""
    part = plain.unet
    part.add_adapter(
        LoraConfig(r=4, lora_alpha=3, target_modules=["to_q"], use_rslora=True, init_lora_weights=False), "r"
    )
    notes = part.peft_config["r"].to_dict()
    tensors = get_peft_model_state_dict(part, adapter_name="r")
    plain.save_lora_weights(tmp_path, unet_lora_layers=tensors, unet_lora_adapter_metadata=notes)
    part.delete_adapters("r")
    plain.unload_lora_weights()
    agree(plain, tmp_path / "pytorch_lora_weights.safetensors", 1)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: re.sub(r"\.lora_([AB])\.", lambda m: f".lora.{'down' if m[1] == 'A' else 'up'}.", key),
        lambda key: re.sub(
            r"(attn\d)\.(to_\w+?)(?:\.0)?\.lora_([AB])\.",
            lambda m: f"{m[1]}.processor.{m[2]}_lora.{'down' if m[3] == 'A' else 'up'}.",
            key,
        ),
    ],
    ids=["before PEFT", "attention processors"],
)
def test_older_spellings_merge_as_with_peft(plain, tmp_path, rename):
    tensors = {rename(key): value for key, value in load_file(FOLDER / "detail.safetensors").items()}
    assert not any("lora_A" in key for key in tensors)
    save_file(tensors, tmp_path / "old.safetensors")
    agree(plain, tmp_path / "old.safetensors", 1)


def test_half_precision_weights_are_merged_in_single_precision(tmp_path):
    layers = {("unet", "proj_in"): (torch.full((1, 4, 1, 1), 1e-4), torch.full((6, 1, 1, 1), 1e-4), 1)}
    pipe = small_model()
    pipe.unet.half()
    untouched, loras = weights_of(pipe), MergedLoras(pipe)
    loras.add("x", write_kohya(tmp_path / "a.safetensors", layers))
    loras.set_weights(x=1e5)
    change = pipe.unet["proj_in"].weight.float() - untouched["unet.proj_in.weight"].float()
    assert float(change.mean().detach()) == pytest.approx(1e-3, rel=0.1), "1e-8 in half precision would be 0"
    loras.restore()
    assert same(weights_of(pipe), untouched)
