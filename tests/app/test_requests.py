"""Whatever is sent makes a request that can be drawn, or one sentence."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from asking import SETTINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile

from sdhelpers.app import files, pictures, uploads
from sdhelpers.app.pictures import InputError
from sdhelpers.app.requests import TASKS, Limits, read_request
from sdhelpers.generation import LARGEST_SEED
from sdhelpers.images import to_png
from sdhelpers.measures.edges import edges
from sdhelpers.metadata import MetadataError
from sdhelpers.metadata.png import SIGNATURE, pack_chunk, with_texts
from sdhelpers.metadata.record import Adapter, GenerationData, ModelSource

LIMITS = Limits(loras=("detail", "hedgehog", "icon"))
EXTRA = {"strength": 0.6, "controlnet_conditioning_scale": 1.0, "low": 100, "high": 200}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, -(2**70), 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
SCENE = Image.fromarray(np.random.RandomState(0).randint(0, 255, (96, 160, 3), np.uint8))


def painted(size=(160, 96), box=(40, 20, 80, 60)) -> Image.Image:
    """A layer on which a box is painted."""
    layer = Image.new("RGBA", size)
    ImageDraw.Draw(layer).rectangle(box, fill=(255, 79, 163, 255))
    return layer


def sent(task: str, **values) -> dict:
    """The values of a good request, with some exchanged."""
    own = {"image": to_png(SCENE), "layers": [to_png(painted())]} if TASKS[task].images else {}
    return SETTINGS | EXTRA | own | values


def is_one_sentence(text: str) -> bool:
    return "\n" not in text and len(text) < 400 and text[0].isupper() and text.endswith(".")


@pytest.mark.parametrize("task", TASKS)
def test_a_good_request_is_what_was_asked_for(task):
    request = read_request(task, sent(task, lora_icon=0.5), LIMITS)
    assert dataclasses.asdict(request.settings) == {n: v for n, v in SETTINGS.items() if not n.startswith("lora")}
    assert request.loras == {"icon": 0.5} and set(request.images) == set(TASKS[task].images)
    assert all(image.size == (128, 128) for image in request.images.values())
    amount = TASKS[task].amount
    assert request.inputs().get(amount) == (EXTRA[amount] if amount else None)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*SETTINGS, *EXTRA]), JSON, max_size=4), st.sampled_from([*TASKS]))
def test_any_json_makes_a_request_within_the_limits_or_one_sentence(strange, task):
    try:
        request = read_request(task, sent(task) | strange, LIMITS)
    except InputError as error:
        assert is_one_sentence(str(error)), error
        return
    wanted = request.settings.check()
    assert max(wanted.width, wanted.height) <= LIMITS.largest_side and wanted.num_inference_steps <= LIMITS.most_steps
    assert 0 <= wanted.guidance_scale <= 30 and all(-2 <= weight <= 2 for weight in request.loras.values())


HOSTILE = {
    "a prompt of 100 kB": ({"prompt": "a cat " * 17_000}, "The prompt has 102,000 characters"),
    "half a surrogate pair": ({"prompt": "\ud83c"}, "no file can keep"),
    "no text": ({"negative_prompt": ["a"]}, "must be a text"),
    "no number": ({"guidance_scale": float("nan")}, "guidance scale must be a number from 0 to 30, not nan"),
    "an infinite number": ({"lora_icon": float("inf")}, "weight of icon must be a number from -2 to 2"),
    "true": ({"num_inference_steps": True}, "number of steps must be a number from 1 to 100, not True"),
    "a negative size": ({"width": -128}, "width must be a number from 64 to 512, not -128"),
    "a huge size": ({"height": 10**9}, "height must be"),
    "an odd size": ({"width": 130}, "multiple of 8"),
    "half a step": ({"num_inference_steps": 2.5}, "whole number"),
    "a seed too large": ({"seed": LARGEST_SEED + 1}, "The seed must be"),
    "an empty field": ({"seed": None}, "it is missing"),
    "a scheduler from elsewhere": ({"scheduler": "../../evil"}, "There is no scheduler '../../evil'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_refused_with_their_name(name):
    values, said = HOSTILE[name]
    with pytest.raises(InputError) as error:
        read_request("text", sent("text", **values), LIMITS)
    assert said in str(error.value) and is_one_sentence(str(error.value))


def test_a_strength_that_leaves_no_step_is_refused():
    with pytest.raises(InputError, match=r"Of 3 steps a strength of 0\.3 leaves none"):
        read_request("img2img", sent("img2img", strength=0.3), LIMITS)


# Pictures


def with_size(width: int, height: int) -> bytes:
    """A small PNG file that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + pack_chunk(b"IHDR", header) + pack_chunk(b"IDAT", zlib.compress(b"")) + pack_chunk(b"IEND", b"")


def test_a_picture_of_ten_thousand_pixels_is_refused_by_its_header(monkeypatch):
    content = to_png(Image.new("1", (10_000, 10_000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("its pixels were decoded"))
    with pytest.raises(InputError, match="10000 x 10000 pixels; at most 4096"):
        pictures.opened(content)


@pytest.mark.parametrize("content", [with_size(2**31 - 1, 2**31 - 1), with_size(30_000, 30_000), with_size(0, 5)])
def test_absurd_headers_are_refused(content):
    with pytest.raises(InputError) as error:
        pictures.opened(content)
    assert is_one_sentence(str(error.value))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_picture_or_one_sentence(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
    file = io.BytesIO()
    SCENE.save(file, kind)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert pictures.fitted(content, (64, 64)).size == (64, 64)
    except InputError as error:
        assert is_one_sentence(str(error))


def test_what_is_transparent_is_white():
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    assert pictures.fitted(to_png(clear), (64, 64)).getcolors() == [(64 * 64, (255, 255, 255))]


def test_the_mask_is_white_where_a_layer_is_painted_and_nowhere_else():
    box = (40, 20, 80, 60)
    made = pictures.with_mask(
        to_png(SCENE), [to_png(painted(box=box)), to_png(Image.new("RGBA", SCENE.size))], (160, 96)
    )
    mask = np.asarray(made["mask_image"])
    truth = np.zeros((96, 160), bool)
    truth[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    assert np.array_equal(mask == 255, truth) and set(np.unique(mask)) == {0, 255}
    assert np.array_equal(np.asarray(made["image"]), np.asarray(SCENE))


def test_picture_and_mask_are_cut_alike():
    marked = SCENE.copy()
    ImageDraw.Draw(marked).rectangle((40, 20, 80, 60), fill="white")
    made = pictures.with_mask(to_png(marked), [to_png(painted())], (64, 64))
    inside = np.asarray(made["mask_image"]) == 255
    assert np.asarray(made["image"])[inside].min(-1).mean() > 245, "the white box lies under the mask"


@pytest.mark.parametrize("layers", [[], [to_png(Image.new("RGBA", (160, 96)))]])
def test_an_empty_mask_is_refused(layers):
    with pytest.raises(InputError, match="Nothing is painted"):
        pictures.with_mask(to_png(SCENE), layers, (64, 64))


def test_control_is_drawn_after_cannys_edges():
    request = read_request("control", sent("control"), LIMITS)
    there = np.asarray(request.images["image"])[..., 0] > 0
    assert np.array_equal(there, edges(pictures.fitted(to_png(SCENE), (128, 128)), 100, 200)) and there.any()


# Uploads


def test_a_file_that_is_gone_and_one_that_is_too_large_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="not there any more"):
        uploads.content_of({"path": str(tmp_path / "gone.png")})
    for strange in ({"path": None}, {}, "text", {"path": "a\0b"}, {"path": str(tmp_path)}):
        with pytest.raises(InputError):
            uploads.content_of(strange)
    monkeypatch.setattr(uploads, "MOST_BYTES", 3)
    (tmp_path / "large.png").write_bytes(b"four")
    with pytest.raises(InputError, match="4 bytes; at most 3"):
        uploads.content_of({"path": str(tmp_path / "large.png")})


def test_what_a_browser_sent_beforehand_is_taken_once():
    blobs = SimpleNamespace(background=b"picture", layers=[b"layer", None])
    editor = SimpleNamespace(blob_storage={"7": blobs})
    taken = uploads.as_bytes({"image": {"id": "7", "layers": []}}, editor)
    assert taken == {"image": b"picture", "layers": [b"layer"]} and not editor.blob_storage
    assert uploads.as_bytes({"image": {"id": "7"}}, editor) == {"image": None, "layers": []}


# Files

LORAS = {"icon": "0" * 64}


def data_of(request) -> GenerationData:
    """Generation data as if the request had been drawn."""
    return GenerationData(
        settings=request.settings,
        reading="plain",
        clip_skip=0,
        model=ModelSource(TASKS[request.task].model, "pocket", "1" * 64),
        scheduler={"num_train_timesteps": 1000},
        adapters=tuple(Adapter(name, weight, LORAS[name]) for name, weight in request.loras.items()),
        embeddings=(),
        made_with={"diffusers": "0", "dtype": "float32", "threads": "1"},
        pixels="2" * 64,
    )


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """One LoRA file whose digest is known."""
    path = tmp_path / "icon.safetensors"
    path.touch()
    monkeypatch.setattr("sdhelpers.metadata.generation.sha256", lambda path: LORAS[path.stem])
    return {"icon": path}


@pytest.mark.parametrize("task", TASKS)
def test_a_kept_file_asks_for_the_same_picture(task, tmp_path, loras):
    request = read_request(task, sent(task, lora_icon=0.5, prompt="ein Kätzchen, 猫"), LIMITS)
    path = files.keep(SCENE.resize((128, 128)), data_of(request), request, tmp_path / "drawn")
    reading = files.read_file(path.read_bytes())
    again = files.request_of(reading, LIMITS, loras)
    assert again == dataclasses.replace(request, images=again.images)
    assert all(again.images[n].tobytes() == image.tobytes() for n, image in request.images.items())
    assert all(again.images[n].mode == image.mode for n, image in request.images.items())
    assert reading.found.parameters.prompt.startswith("ein Kätzchen, 猫"), "other programs read it, too"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_strangers_file_is_read_or_refused_in_one_sentence(data):
    request = read_request("img2img", sent("img2img"), LIMITS)
    values = json.loads(files.texts_of(data_of(request), request)[files.KEYWORD])
    values[data.draw(st.sampled_from([*values, "more"]))] = data.draw(JSON)
    content = with_texts(to_png(SCENE), {files.KEYWORD: json.dumps(values).replace("\\ud", "\\u0d")})
    try:
        files.request_of(files.read_file(content), LIMITS, {})
    except (InputError, MetadataError) as error:
        assert str(error)


def test_a_break_while_writing_leaves_no_picture(tmp_path, monkeypatch):
    write = Path.write_bytes

    def broken(path, content):
        write(path, content[: len(content) // 2])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    for task in TASKS:
        request = read_request(task, sent(task), LIMITS)
        with pytest.raises(OSError, match="full"):
            files.keep(SCENE, data_of(request), request, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_names_of_files_are_ours_and_differ(tmp_path):
    request = read_request("text", sent("text", prompt="../../../etc/passwd"), LIMITS)
    paths = [files.keep(SCENE, data_of(request), request, tmp_path) for _ in range(3)]
    assert len({p.name for p in paths}) == 3 and all(p.parent == tmp_path and "passwd" not in p.name for p in paths)
