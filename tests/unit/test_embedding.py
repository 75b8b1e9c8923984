"""Embedding files of every layout: written and read back, read as the library reads them, and broken on purpose."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from beside import WIDTH, of_its_own, table, vectors_of
from sdhelpers.files.embedding import (
    LAYOUTS,
    MOST_VECTORS,
    EmbeddingError,
    add_to_pipeline,
    load_embedding,
    read_embedding,
    token_names,
)

any_file = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map("<{}>".format)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


# Files

ENDINGS = {"a1111": ".pt", "diffusers": ".bin", "safetensors": ".safetensors", "emb_params": ".safetensors"}


def write_embedding(path: Path, token: str, vectors: torch.Tensor, layout: str) -> Path:
    """An embedding as the programs of each layout write it."""
    if path.suffix == ".safetensors":
        save_file({"emb_params" if layout == "emb_params" else token: vectors}, path)
    elif layout == "diffusers":
        torch.save({token: vectors}, path)
    else:
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": token, "step": 7}, path)
    return path


def test_every_layout_is_written_here():
    assert set(ENDINGS) == set(LAYOUTS)


@any_file
@given(
    token=tokens,
    count=st.integers(1, MOST_VECTORS),
    width=st.integers(1, 1280),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_what_is_written_is_read_back(place, token, count, width, layout, seed, dtype):
    vectors = vectors_of(count, width, seed).to(dtype)
    path = write_embedding(place / f"toy{ENDINGS[layout]}", token, vectors, layout)
    [(name, found)] = read_embedding(path).items()
    assert name == ("toy" if layout == "emb_params" else token)
    assert torch.equal(found, vectors.float()) and found.dtype == torch.float32
    assert not list(place.glob("*.part"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
def test_the_library_finds_the_same_in_our_files(fresh, tmp_path, layout, count):
    path = write_embedding(tmp_path / f"toy{ENDINGS[layout]}", "<toy>", vectors_of(count), layout)
    fresh.load_textual_inversion(str(tmp_path), weight_name=path.name, token="<toy>")
    ids = fresh.tokenizer.convert_tokens_to_ids(token_names("<toy>", count))
    assert torch.equal(table(fresh)[ids], vectors_of(count))


@pytest.mark.parametrize(
    "content",
    [
        vectors_of(2),
        {"<toy>": vectors_of(1)[0]},
        {"string_to_param": {"*": vectors_of(2)}, "string_to_token": {"*": 265}},
        {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors_of(2))}), "name": "<toy>"},
    ],
)
def test_files_of_other_programs_are_read(tmp_path, content):
    torch.save(content, tmp_path / "toy.pt")
    [(token, found)] = read_embedding(tmp_path / "toy.pt").items()
    named = isinstance(content, dict) and ("<toy>" in content or "name" in content)
    assert token == ("<toy>" if named else "toy")
    assert torch.equal(found, vectors_of(2)[: len(found)])


def test_a_pair_for_sdxl_has_two_parts(tmp_path):
    save_file({"clip_l": vectors_of(2, 768), "clip_g": vectors_of(2, 1280)}, tmp_path / "toy.safetensors")
    assert {name: tuple(part.shape) for name, part in read_embedding(tmp_path / "toy.safetensors").items()} == {
        "clip_l": (2, 768),
        "clip_g": (2, 1280),
    }


def sentence(caught) -> str:
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300
    return text


class Payload:
    """Harmless: it would create the file that the variable MARKER names."""

    def __reduce__(self):
        return exec, ("import os, pathlib; pathlib.Path(os.environ['MARKER']).touch()",)


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "ran"))
    (tmp_path / "toy.pt").write_bytes(pickle.dumps({"<toy>": Payload()}))
    torch.save({"<toy>": Payload()}, tmp_path / "toy.bin")
    for name in ("toy.pt", "toy.bin"):
        with pytest.raises(EmbeddingError) as caught:
            read_embedding(tmp_path / name)
        assert sentence(caught).startswith(name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["toy.pt", "toy.safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"not an embedding", b"\x80\x04.", b"PK\x03\x04" + bytes(50), b"\x08\0\0\0\0\0\0\0{}      "]
)
def test_what_is_no_embedding_is_said_in_one_sentence(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EmbeddingError) as caught:
        read_embedding(tmp_path / name)
    assert sentence(caught).startswith(name)


@any_file
@given(layout=st.sampled_from(sorted(LAYOUTS)), data=st.data())
def test_a_damaged_file_is_refused_or_still_an_embedding(place, layout, data):
    path = write_embedding(place / f"whole{ENDINGS[layout]}", "<toy>", vectors_of(2, 8), layout)
    good = path.read_bytes()
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        position = data.draw(st.integers(0, len(good) - 1))
        bad = good[:position] + bytes([data.draw(st.integers(0, 255))]) + good[position + 1 :]
    broken = place / f"broken{ENDINGS[layout]}"
    broken.write_bytes(bad)
    try:
        found = read_embedding(broken)
    except EmbeddingError as error:
        assert str(error).startswith(broken.name) and "\n" not in str(error)
    else:
        assert all(vectors.ndim == 2 and vectors.isfinite().all() for vectors in found.values())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "layouts"),
        ({"unet.weight": torch.ones(4, 3, 3, 3)}, "layouts"),
        ({"string_to_param": {}}, "A1111"),
        ({"<toy>": torch.ones(2, 8, dtype=torch.int64)}, "list of vectors"),
        ({"<toy>": torch.full((2, 8), float("nan"))}, "infinite"),
        ({"<toy>": torch.ones(76, 8)}, "76 vectors"),
        ({"<toy>": torch.ones(0, 8)}, "0 vectors"),
        ([1, 2], "a list"),
    ],
)
def test_other_content_is_named(tmp_path, content, words):
    torch.save(content, tmp_path / "toy.pt")
    with pytest.raises(EmbeddingError, match=words) as caught:
        read_embedding(tmp_path / "toy.pt")
    assert sentence(caught).startswith("toy.pt")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(EmbeddingError, match=r"none\.pt cannot be read"):
        read_embedding(tmp_path / "none.pt")


# In a pipeline


@pytest.mark.parametrize("count", [1, 2, 11])
def test_by_hand_equals_the_library(fresh, pipe, count):
    ids = add_to_pipeline(fresh, "<toy>", vectors_of(count))
    theirs = of_its_own(pipe)
    theirs.load_textual_inversion({"<toy>": vectors_of(count)})
    assert torch.equal(table(fresh), table(theirs)[: len(table(fresh))])
    prompt = "a <toy> on a beach"
    expanded = fresh.maybe_convert_prompt(prompt, fresh.tokenizer)
    assert expanded == theirs.maybe_convert_prompt(prompt, theirs.tokenizer)
    assert fresh.tokenizer(expanded).input_ids == theirs.tokenizer(expanded).input_ids
    assert [i for i in fresh.tokenizer(expanded).input_ids if i >= ids[0]] == ids
    ours, others = (p.encode_prompt(prompt, "cpu", 1, False)[0] for p in (fresh, theirs))
    assert torch.equal(ours, others)


def test_nothing_else_changes_and_unloading_restores(fresh, pipe):
    add_to_pipeline(fresh, "<toy>", vectors_of(2))
    add_to_pipeline(fresh, "<other>", vectors_of(1, seed=1))
    assert torch.equal(table(fresh)[: len(table(pipe))], table(pipe))
    fresh.unload_textual_inversion()
    assert torch.equal(table(fresh), table(pipe))
    assert fresh.tokenizer("a <toy>").input_ids == pipe.tokenizer("a <toy>").input_ids


def test_tokens_that_are_taken_or_never_found_are_refused(fresh):
    add_to_pipeline(fresh, "<toy>", vectors_of(1))
    for token in ("<toy>", "cat", "", "two words", "<Toy2>", " <toy2>"):
        with pytest.raises(EmbeddingError) as caught:
            add_to_pipeline(fresh, token, vectors_of(1))
        sentence(caught)
    fresh.tokenizer.add_tokens(["<rest>_1"])
    with pytest.raises(EmbeddingError, match="<rest>_1"):
        add_to_pipeline(fresh, "<rest>", vectors_of(1))


@pytest.mark.parametrize(("width", "words"), [(768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (99, "99")])
def test_a_wrong_width_is_refused_before_anything_changes(fresh, width, words):
    before = len(fresh.tokenizer), table(fresh).shape
    with pytest.raises(EmbeddingError, match=words) as caught:
        add_to_pipeline(fresh, "<toy>", vectors_of(1, width))
    assert str(WIDTH) in sentence(caught)
    assert (len(fresh.tokenizer), table(fresh).shape) == before


@pytest.fixture
def xl(fresh, pipe):
    """A pipeline of two text encoders; the second is narrower and untrained."""
    config = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    return StableDiffusionXLPipeline(
        vae=pipe.vae,
        text_encoder=fresh.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=fresh.tokenizer,
        tokenizer_2=copy.deepcopy(pipe.tokenizer),
        unet=pipe.unet,
        scheduler=pipe.scheduler,
    )


def test_an_sdxl_pair_goes_to_the_encoder_of_its_width(xl):
    for width in (WIDTH, 64):
        ids = add_to_pipeline(xl, "<toy>", vectors_of(2, width))
        encoder = xl.text_encoder if width == WIDTH else xl.text_encoder_2
        assert torch.equal(encoder.get_input_embeddings().weight[ids], vectors_of(2, width))
    with pytest.raises(EmbeddingError, match=f"{WIDTH} and 64"):
        add_to_pipeline(xl, "<other>", vectors_of(1, 1280))


# File and pipeline at once


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_word_is_the_files_name_whatever_is_inside(fresh, tmp_path, layout):
    path = write_embedding(tmp_path / f"Toy-v2{ENDINGS[layout]}", "<toy>", vectors_of(2), layout)
    said = load_embedding(fresh, path)
    ids = fresh.tokenizer.convert_tokens_to_ids(token_names("toy-v2", 2))
    assert torch.equal(table(fresh)[ids], vectors_of(2))
    assert said.startswith(f"Write toy-v2 in the prompt for the 2 vectors of {path.name}") and said.endswith(".")
    assert ("not <toy>, the name inside" in said) == (layout != "emb_params")


def test_the_word_can_be_chosen(fresh, tmp_path):
    path = write_embedding(tmp_path / "toy-v2.bin", "<toy>", vectors_of(1), "diffusers")
    assert load_embedding(fresh, path, "<toy>") == "Write <toy> in the prompt for the 1 vector of toy-v2.bin."
    assert "<toy>" in fresh.tokenizer.get_vocab()


def test_both_halves_of_an_sdxl_file_get_one_word_or_none_does(xl, tmp_path):
    halves = {"clip_l": vectors_of(2), "clip_g": vectors_of(2, 64)}
    before = len(xl.tokenizer)
    save_file(halves | {"clip_g": vectors_of(2, 1280)}, tmp_path / "of-another.safetensors")
    with pytest.raises(EmbeddingError, match="1280"):
        load_embedding(xl, tmp_path / "of-another.safetensors")
    assert len(xl.tokenizer) == before
    save_file(halves, tmp_path / "toy-xl.safetensors")
    said = load_embedding(xl, tmp_path / "toy-xl.safetensors")
    assert said == "Write toy-xl in the prompt for the 2 vectors of toy-xl.safetensors."
    for part, encoder, tokenizer in (
        ("clip_l", xl.text_encoder, xl.tokenizer),
        ("clip_g", xl.text_encoder_2, xl.tokenizer_2),
    ):
        ids = tokenizer.convert_tokens_to_ids(["toy-xl", "toy-xl_1"])
        assert torch.equal(encoder.get_input_embeddings().weight[ids], halves[part])


def test_a_file_of_several_words_is_not_loaded_under_one(fresh, tmp_path):
    torch.save({"<a>": vectors_of(1), "<b>": vectors_of(1)}, tmp_path / "toys.bin")
    with pytest.raises(EmbeddingError, match="2 words") as caught:
        load_embedding(fresh, tmp_path / "toys.bin")
    assert sentence(caught).startswith("toys.bin")


def test_a_file_named_like_a_word_of_the_vocabulary_does_not_take_the_word(fresh, tmp_path):
    torch.save({"<toy>": vectors_of(1)}, tmp_path / "toy.bin")
    with pytest.raises(EmbeddingError, match="toy is in the vocabulary"):
        load_embedding(fresh, tmp_path / "toy.bin")
