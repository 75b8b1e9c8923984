"""Checkpoint files are described as their libraries would load them, and hostile ones end in one sentence."""

import argparse
import json
import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sdhelpers import models
from sdhelpers.files.checkpoints import CheckpointError, Contents, read_checkpoint

WEIGHTS = {
    "unet.conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.float16),
    "unet.conv.bias": torch.zeros(4),
    "scale": torch.tensor(0.5, dtype=torch.float64),
    "ids": torch.arange(7),
    "half": torch.zeros(2, 0, 5, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
}
any_file = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Payload:
    """Harmless: it would create the file that the variable MARKER names."""

    def __reduce__(self):
        return exec, ("import os, pathlib; pathlib.Path(os.environ['MARKER']).touch()",)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def originals(place):
    """One good file of each kind, as bytes."""
    save_file(WEIGHTS, place / "a.safetensors", metadata={"format": "pt", "note": "Käse"})
    torch.save({"state_dict": WEIGHTS, "step": 3}, place / "zip.ckpt")
    torch.save({"state_dict": WEIGHTS, "step": 3}, place / "old.ckpt", _use_new_zipfile_serialization=False)
    return {kind: (place / kind).read_bytes() for kind in ("a.safetensors", "zip.ckpt", "old.ckpt")}


def described(contents: Contents) -> dict[str, tuple]:
    return {t.name: (t.dtype, t.shape, t.size) for t in contents.tensors}


def of_state(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape), t.numel() * t.element_size())
        for name, t in tensors.items()
    }


def attempt(path: Path, data: bytes) -> Contents | None:
    """Contents or None; any other error than a CheckpointError of one sentence fails the test."""
    path.write_bytes(data)
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        sentence = str(error)
        assert sentence.startswith(path.name) and sentence.endswith(".") and "\n" not in sentence
        assert len(sentence) < 300
        return None


# What a file holds


def test_every_kind_of_file_gives_the_tensors_that_were_saved(place, originals):
    for kind in originals:
        contents = read_checkpoint(place / kind)
        assert described(contents) == of_state(WEIGHTS), kind
        assert contents.warnings == ()
    assert read_checkpoint(place / "a.safetensors").metadata == {"format": "pt", "note": "Käse"}


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
kinds = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.float8_e4m3fn])
shapes = st.lists(st.integers(0, 5), max_size=4)


@any_file
@given(st.dictionaries(names, st.tuples(kinds, shapes), min_size=1, max_size=5))
def test_what_the_libraries_write_is_read(place, layout):
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}
    save_file(tensors, place / "any.safetensors")
    torch.save(tensors, place / "any.pt")
    assert described(read_checkpoint(place / "any.safetensors")) == of_state(tensors)
    assert described(read_checkpoint(place / "any.pt")) == of_state(tensors)
    with safe_open(place / "any.safetensors", "pt") as file:
        assert {t.name for t in read_checkpoint(place / "any.safetensors").tensors} == set(file.keys())


def test_the_shipped_weights_are_read_as_safe_open_reads_them():
    for path in sorted(models.locate("sd15").rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            expected = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            assert {t.name: t.shape for t in read_checkpoint(path).tensors} == expected
            assert read_checkpoint(path).metadata == file.metadata()


def test_parameters_views_and_nested_dictionaries_are_found(place):
    weight = torch.nn.Parameter(torch.ones(6, 2))
    torch.save(
        {"model": {"w": weight, "first": weight.detach()[:3]}, "optimizer": [{"m": torch.ones(2)}]}, place / "n.pt"
    )
    assert {n: s for n, (_, s, _) in described(read_checkpoint(place / "n.pt")).items()} == {
        "w": (6, 2),
        "first": (3, 2),
        "m": (2,),
    }


# What a pickle would do


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_payload_is_named_and_not_run(place, monkeypatch, protocol):
    monkeypatch.setenv("MARKER", str(place / "marker"))
    pickled = place / "payload.bin"
    pickled.write_bytes(pickle.dumps({"x": 1, "y": Payload()}, protocol))
    torch.save({"w": torch.ones(2), "y": Payload()}, place / "payload.ckpt", pickle_protocol=max(protocol, 2))
    for path in (pickled, place / "payload.ckpt"):
        contents = read_checkpoint(path)
        assert "builtins.exec" in contents.strangers
        assert any("exec" in warning and "MARKER" in warning for warning in contents.warnings)
    assert not (place / "marker").exists()
    pickle.loads(pickled.read_bytes())
    assert (place / "marker").exists(), "the payload is a real one"
    (place / "marker").unlink()


def test_strangers_are_those_that_torch_refuses(place):
    objects = {"w": torch.ones(2), "a": argparse.Namespace(lr=1), "b": Path("x"), "c": Payload()}
    torch.save(objects, place / "strange.ckpt")
    refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(place / "strange.ckpt"))
    assert refused and refused == set(read_checkpoint(place / "strange.ckpt").strangers)


def test_a_pickle_in_the_clothes_of_safetensors_is_told(place):
    for data in (pickle.dumps({"y": Payload()}, 2), pickle.dumps({"y": Payload()}, 4)):
        (place / "sheep.safetensors").write_bytes(data)
        contents = read_checkpoint(place / "sheep.safetensors")
        assert contents.misnamed and "builtins.exec" in contents.strangers
    torch.save({"y": Payload()}, place / "sheep.safetensors")
    assert read_checkpoint(place / "sheep.safetensors").misnamed


# Damaged and hostile files


@any_file
@given(st.data())
def test_a_file_cut_anywhere_gives_one_sentence(place, originals, data):
    kind = data.draw(st.sampled_from(list(originals)))
    original = originals[kind]
    length = data.draw(st.integers(0, len(original) - 1))
    contents = attempt(place / f"cut-{kind}", original[:length])
    if kind != "old.ckpt":  # the old format has its weights at the end, after all that is looked at
        assert contents is None


@any_file
@given(st.data())
def test_changed_bytes_never_end_in_a_traceback(place, originals, data):
    kind = data.draw(st.sampled_from(list(originals)))
    changed = bytearray(originals[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    attempt(place / f"changed-{kind}", bytes(changed))


codes = st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes])
texts = st.sampled_from([b"os\nsystem\n", b"1\n", b"\x01", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x03abc"])


@any_file
@given(st.lists(st.one_of(codes, texts), max_size=40), st.sampled_from(["h.bin", "h.safetensors"]))
def test_any_instructions_are_survived(place, program, name):
    attempt(place / name, b"\x80\x04" + b"".join(program) + b".")


@any_file
@given(st.binary(max_size=200))
def test_any_bytes_are_survived(place, data):
    attempt(place / "noise.safetensors", data)
    attempt(place / "noise.ckpt", data)
    attempt(place / "zip.ckpt2", b"PK\x03\x04" + data)


def header_file(header: object, tail: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tail


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off or no safetensors"),
        ((2**63).to_bytes(8, "little") + b"{}", "announces a header of 9,223,372,036,854,775,808 bytes"),
        (header_file(b"{" + b'"a":[' * 100_000), "header is not the JSON"),
        (header_file([]), "header is not the JSON"),
        (header_file({"a": 1}), "'a' lacks a type, a shape or a place"),
        (header_file({"a": ENTRY | {"shape": [-2]}}, bytes(8)), "lacks a type, a shape"),
        (header_file({"a": ENTRY | {"shape": [True]}}, bytes(8)), "lacks a type, a shape"),
        (header_file({"a": ENTRY | {"shape": [1] * 100_000}}, bytes(8)), "lacks a type, a shape"),
        (header_file({"a": ENTRY}, bytes(4)), "would end at byte 8 of 4, so the file is cut off"),
        (header_file({"a": ENTRY | {"shape": [3]}}, bytes(8)), "8 bytes, which do not fit its shape"),
        (header_file({"__metadata__": {"a": 1}}), "metadata must be texts"),
    ],
)
def test_a_bad_header_is_told_in_words(place, data, words):
    (place / "bad.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(place / "bad.safetensors")
    assert attempt(place / "bad.safetensors", data) is None


def test_traps_for_readers_of_pickles_cost_nothing(place):
    deep = b"\x80\x02" + b")" + b"\x85" * 200_000 + b"."
    laughs = b"\x80\x02](" + b"(2l2" * 10_000 + b"."
    far = b"\x80\x02Nr\xff\xff\xff\x7f."
    as_key = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."
    call = b"\x80\x02cos\nsystem\n)" + b"\x85" * 200_000 + b"R."
    name = b"\x80\x02)" + b"\x85" * 100_000 + b"X\x01\x00\x00\x00x\x93."
    huge = b"\x80\x02\x8e" + (2**40).to_bytes(8, "little") + b"."
    for data in (deep, laughs, far, as_key, call, name, huge):
        attempt(place / "trap.bin", data)
    assert attempt(place / "trap.bin", b"\x80\x02" + b"N0" * 600_000 + b"N.") is None


def test_zip_bombs_and_other_zip_files_are_refused(place):
    for name, kind, words in (
        ("archive/data.pkl", zipfile.ZIP_DEFLATED, "compressed or encrypted"),
        ("photo.jpg", zipfile.ZIP_STORED, "holds no pickle"),
    ):
        with zipfile.ZipFile(place / "bomb.ckpt", "w", kind) as archive:
            archive.writestr(name, bytes(10_000))
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(place / "bomb.ckpt")


def test_a_missing_file_and_a_folder_are_told(place):
    for path in (place / "nothing.ckpt", place):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(path)


def test_nothing_was_run_by_any_of_this(place):
    assert not (place / "marker").exists() and "MARKER" not in os.environ
