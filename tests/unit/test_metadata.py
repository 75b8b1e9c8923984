"""Generation data: kept in full, read by others, made into the same pixels again, and never trusted."""

import copy
import dataclasses
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from safetensors.torch import save_file
from sd_parsers import ParserManager

from growth import calls, growth
from sdhelpers.generation import Settings, SettingsError, generate
from sdhelpers.measures.pixels import difference
from sdhelpers.metadata import files, generation, read_image, save_image, to_parameters, to_settings, understand
from sdhelpers.metadata.a1111 import Parameters, read_parameters, write_parameters
from sdhelpers.metadata.comfyui import read_comfyui
from sdhelpers.metadata.png import MetadataError, with_texts
from sdhelpers.metadata.record import Adapter, Embedding, GenerationData, ModelSource, from_json, to_json
from sdhelpers.models import ModelError, entry, sha256
from sdhelpers.prompts import encode
from sdhelpers.schedulers import SCHEDULERS

ENDINGS = (".png", ".jpg", ".webp")
PROMPT_WITH_EVERYTHING = 'a cartoon of a cat,\non a beach: "Kätzchen" 猫 🐱, Steps: 3'
SETTINGS = Settings(PROMPT_WITH_EVERYTHING, "blurry, grey", 4294967295, 6.25, 3, "Euler a", 96, 64)
DATA = GenerationData(
    settings=SETTINGS,
    reading="weighted",
    clip_skip=1,
    model=ModelSource("sd15", "pocket", "12" * 32, "ab" * 32),
    scheduler={"beta_start": 0.00085, "lambda_min_clipped": float("-inf"), "trained_betas": None, "clip_sample": False},
    adapters=(Adapter("postcard", 0.75, "cd" * 32, "34" * 32),),
    embeddings=(Embedding("<toy>", "56" * 32),),
    made_with={"torch": "2", "diffusers": "0.42.1", "device": "cpu", "dtype": "float32", "threads": "2"},
    pixels="ef" * 32,
)
PICTURE = Image.radial_gradient("L").resize((96, 64)).convert("RGB")


# The parameters text.

LINES = st.characters(exclude_categories=["Cs"])
PROMPTS = st.text(LINES, max_size=200).map(str.strip).filter(lambda text: not has_negative_line(text))
NAMES = st.from_regex(r"[A-Za-z][A-Za-z ]{0,20}[a-z]", fullmatch=True)
FIELDS = st.dictionaries(NAMES, st.text(LINES, max_size=60), min_size=3, max_size=8)


def has_negative_line(text: str) -> bool:
    return any(line.startswith("Negative prompt:") for line in text.split("\n"))


@given(PROMPTS, PROMPTS, FIELDS)
@example("", "", {"Steps": "1", "Seed": "2", "Size": "3"})
@example("", "blurry", {"Steps": "1", "Seed": "2", "Size": "3"})
@example(
    "a cat\nSteps: 1, Sampler: b, Seed: 3",
    "Steps: 1, Sampler: b, Seed: 3",
    {"A b": '"', "C d": "a, b: c\nd", "E f": ""},
)
@example('say "Negative prompt: x"', "猫, 🐱", {"Steps": '"x', "Seed": 'x"', "Size": "\\"})
def test_parameters_come_back_as_they_were_written(prompt, negative, fields):
    written = Parameters(prompt, negative, fields)
    assert read_parameters(write_parameters(written)) == written


@given(st.text(max_size=400))
@example("Steps: 20, Sampler")
@example('a: "b, c: d, e: f')
def test_any_text_can_be_read_as_parameters(text):
    read_parameters(text)


def test_what_the_format_cannot_say_our_own_copy_keeps(tmp_path):
    prompt = "a cat\nNegative prompt: no, this is still the prompt"
    data = dataclasses.replace(DATA, settings=dataclasses.replace(SETTINGS, prompt=prompt))
    found = read_image(save_image(PICTURE, data, tmp_path / "a.png"))
    assert found.parameters.prompt == "a cat"
    assert found.data.settings.prompt == prompt


def test_a_text_without_settings_is_all_prompt():
    assert read_parameters("a cat\nNegative prompt: dog") == Parameters("a cat", "dog")
    assert read_parameters("a cat, Style: flat, Place: beach").fields == {}


def test_parameters_of_a_common_web_ui_are_understood():
    text = (
        "birth of a universe\nNegative prompt: photorealistic\nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, "
        'CFG scale: 7, Seed: 12345, Size: 1024x1024, Model hash: 896faa18cd, Model: anima, Lora hashes: "a: 1, b: 2", '
        "Version: v1.10.1"
    )
    expected = Settings("birth of a universe", "photorealistic", 12345, 7.0, 25, "DPM++ 2M Karras", 1024, 1024)
    assert to_settings(read_parameters(text)) == expected
    assert read_parameters(text).fields["Lora hashes"] == "a: 1, b: 2"
    assert to_settings(read_parameters(text.replace("2M, Schedule type: Karras", "2M Karras"))) == expected


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_and_setting_survives_the_parameters_text(scheduler):
    data = dataclasses.replace(DATA, settings=dataclasses.replace(SETTINGS, scheduler=scheduler))
    text = write_parameters(to_parameters(data))
    assert to_settings(read_parameters(text)) == data.settings
    assert "<lora:postcard:0.75>" in text and "Model: sd15" in text and "Model hash: ababababab" in text
    assert 'Lora hashes: "postcard: 343434343434"' in text and 'TI hashes: "<toy>: 565656565656"' in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Sampler": "Restart"}, "sampler 'Restart' is not one"),
        ({"Size": "big"}, "cannot be used"),
        ({"Size": "100x100"}, "multiples of 8"),
        ({"Steps": "1e9"}, "cannot be used"),
        ({"Seed": str(2**64)}, "seed must be between"),
        ({"CFG scale": "nan"}, "not a number"),
        ({"Seed": None}, "do not say 'Seed'"),
    ],
)
def test_parameters_that_cannot_be_used_say_why(change, message):
    fields = {k: v for k, v in (to_parameters(DATA).fields | change).items() if v is not None}
    with pytest.raises(MetadataError, match=message):
        to_settings(Parameters("a cat", "", fields))


ODD_LINES = {  # of some number of characters
    "letters": lambda n: "a" * n,
    "quotes": lambda n: 'a: "' * (n // 4),
    "colons": lambda n: "a:" * (n // 2),
    "backslashes": lambda n: '\\"' * (n // 2),
    "spaces": lambda n: "a " * (n // 2) + ":",
    "line ends": lambda n: "\n" * n,
}


@pytest.mark.parametrize("name", ODD_LINES)
def test_long_odd_lines_take_work_that_grows_with_their_length_alone(name):
    """Ten times the length: at most some ten times the work; a hundred times if it were quadratic."""
    assert growth(read_parameters, ODD_LINES[name](100_000), ODD_LINES[name](1_000_000), 30) < 30


# The data, and what they are kept in.


@pytest.mark.parametrize("ending", [*ENDINGS, ".jpeg", ".PNG"])
def test_every_setting_is_kept_in_every_format(tmp_path, ending):
    found = read_image(save_image(PICTURE, DATA, tmp_path / f"image{ending}"))
    assert found.data == DATA
    assert found.parameters == to_parameters(DATA)
    assert (found.width, found.height) == PICTURE.size
    assert files.disagreements(found) == []
    assert [p.name for p in tmp_path.iterdir()] == [f"image{ending}"], "no temporary file is left"


@given(st.text(LINES, max_size=300), st.text(LINES, max_size=100), st.sampled_from(ENDINGS))
@settings(deadline=None)
def test_any_prompt_is_kept_exactly(tmp_path_factory, prompt, negative, ending):
    data = dataclasses.replace(DATA, settings=dataclasses.replace(SETTINGS, prompt=prompt, negative_prompt=negative))
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    if "\0" in prompt + negative and ending == ".png":
        with pytest.raises(MetadataError, match="NUL"):
            save_image(PICTURE, data, path)
    else:
        assert read_image(save_image(PICTURE, data, path)).data == data


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_png_and_webp_keep_the_pixels(tmp_path, ending):
    with Image.open(save_image(PICTURE, DATA, tmp_path / f"a{ending}")) as image:
        assert generation.pixel_hash(image) == generation.pixel_hash(PICTURE)


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ("<lora:postcard:0.75>", "<lora:postcard:1>", "LoRAs"),
        ("Model: sd15", "Model: other", "Model"),
        ("Model hash: ababababab", "Model hash: 0000000000", "Model hash"),
        ("postcard: 343434343434", "postcard: 000000000000", "Lora hashes"),
        ("<toy>: 565656565656", "<toy>: 000000000000", "TI hashes"),
    ],
)
def test_an_edited_file_name_or_hash_is_noticed(tmp_path, before, after, name):
    path = save_image(PICTURE, DATA, tmp_path / "a.png")
    assert files.disagreements(read_image(path)) == []
    text = read_image(path).texts["parameters"]
    assert before in text
    path.write_bytes(with_texts(path.read_bytes(), {"parameters": text.replace(before, after)}))
    assert [said.split(":")[0] for said in files.disagreements(read_image(path))] == [name]


def test_an_edited_copy_is_noticed(tmp_path):
    path = save_image(PICTURE, DATA, tmp_path / "a.png")
    text = read_image(path).texts["parameters"].replace("Steps: 3, Sampler", "Steps: 30, Sampler")
    path.write_bytes(with_texts(path.read_bytes(), {"parameters": text}))
    assert files.disagreements(read_image(path)) == ["num_inference_steps: 3 in ours, 30 in parameters"]


def test_xmp_that_other_programs_rewrote_is_read(tmp_path):
    element = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:o="{files.NAMESPACE}"><o:sdhelpers>{escape(to_json(DATA))}</o:sdhelpers>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    assert from_json(files.our_field(element.encode())) == DATA
    path = tmp_path / "a.png"
    PICTURE.save(path)
    path.write_bytes(with_texts(path.read_bytes(), {files.XMP_KEYWORD: files.xmp_with(to_json(DATA)).decode()}))
    assert read_image(path).data == DATA


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
@pytest.mark.parametrize("text", ["a cat", "ein Kätzchen", "a 猫, 猫, 猫"])
def test_user_comments_in_either_byte_order_are_read(encoding, text):
    assert files.comment_of(exif_of(b"UNICODE\0" + text.encode(encoding))) == text


def exif_of(comment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif


def test_other_user_comments():
    assert files.comment_of(exif_of(b"ASCII\0\0\0a cat")) == "a cat"
    assert files.comment_of(exif_of(b"\0\0\0\0\0\0\0\0K\xc3\xa4tzchen")) == "Kätzchen"
    assert files.comment_of(exif_of(b"")) is None
    for wrong in (b"UNICODE\0a c", b"ASCII\0\0\0\xff", b"JIS\0\0\0\0\0x"):
        with pytest.raises(MetadataError, match="UserComment"):
            files.comment_of(exif_of(wrong))


def test_what_does_not_fit_is_said(tmp_path):
    long = dataclasses.replace(DATA, settings=dataclasses.replace(SETTINGS, prompt="猫" * 19_000))
    with pytest.raises(MetadataError, match=r"a\.jpg: .* too long"):
        save_image(PICTURE, long, tmp_path / "a.jpg")
    assert read_image(save_image(PICTURE, long, tmp_path / "a.png")).data == long
    assert read_image(save_image(PICTURE, long, tmp_path / "a.webp")).data == long
    with pytest.raises(MetadataError, match=r"a\.gif: choose one of the endings"):
        save_image(PICTURE, DATA, tmp_path / "a.gif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.webp"]


# Other people's readers.


@pytest.mark.parametrize("ending", ENDINGS)
def test_sd_parsers_reads_ours(tmp_path, ending):
    data = dataclasses.replace(DATA, adapters=())
    with Image.open(save_image(PICTURE, data, tmp_path / f"a{ending}")) as image:
        found = ParserManager().parse(image)
        kept.append(image)
    assert found.full_prompt == SETTINGS.prompt
    assert found.full_negative_prompt == SETTINGS.negative_prompt
    sampler = found.samplers[0]
    assert sampler.name == "Euler a"
    assert sampler.parameters == {"cfg_scale": "6.25", "seed": "4294967295", "steps": "3"}
    assert (sampler.model.name, sampler.model.hash) == ("sd15", "ababababab")
    assert found.metadata["Size"] == "96x64"


kept = []  # sd-parsers 0.6 remembers an image's comment by its id(), which a later image may get


@pytest.fixture(scope="session")
def sd_prompt_reader(request) -> Path:
    """A Python with sd-prompt-reader, in an environment of its own: it wants an older Pillow than ours."""
    place = request.config.cache.mkdir("sd-prompt-reader")
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = place / "ready"
    if not ready.exists():
        try:
            venv.create(place, with_pip=True, clear=True)
            command = [python, "-m", "pip", "install", "-q", "sd-prompt-reader==1.3.5"]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"sd-prompt-reader could not be installed ({type(error).__name__})")
        ready.touch()
    return python


@pytest.mark.parametrize("ending", ENDINGS)
def test_sd_prompt_reader_reads_ours(tmp_path, sd_prompt_reader, ending):
    path = save_image(PICTURE, dataclasses.replace(DATA, adapters=()), tmp_path / f"a{ending}")
    script = (
        "import json, sys; from sd_prompt_reader.image_data_reader import ImageDataReader as R; r = R(sys.argv[1]); "
        "print(json.dumps([r.status.name, r.tool, r.positive, r.negative, r.parameter]))"
    )
    done = subprocess.run([sd_prompt_reader, "-c", script, path], capture_output=True, text=True, check=True)
    status, tool, positive, negative, parameter = json.loads(done.stdout.splitlines()[-1])
    assert (status, tool) == ("READ_SUCCESS", "A1111 webUI")
    assert (positive, negative) == (SETTINGS.prompt, SETTINGS.negative_prompt)
    assert parameter["seed"] == "4294967295" and parameter["steps"] == "3" and parameter["cfg"] == "6.25"
    assert parameter["size"] == "96x64" and parameter["sampler"] == "Euler a" and parameter["model"] == "sd15"


# Strangers' files.


def changed(**changes) -> str:
    values = json.loads(to_json(DATA))
    for place, value in changes.items():
        *way, last = place.split("__")
        target = values
        for step in way:
            target = target[step]
        target[last] = value
    return json.dumps(values)


HOSTILE_DATA = {
    "no JSON": ("{", "not JSON"),
    "deeply nested": ("[" * 100_000, "not JSON"),
    "a number of a million digits": ("9" * 1_000_000, "not JSON"),
    "a list": ("[]", "not of format 2"),
    "another format": (changed(format=3), "not of format 2"),
    "a missing field": ('{"format": 2}', "missing or unknown fields: adapters"),
    "a missing field of format 1": ('{"format": 1}', "missing or unknown fields: adapters"),
    "an unknown field": (changed(settings__evil=1), "unknown fields: evil"),
    "a reading": (changed(reading="os.system"), "the reading cannot be right"),
    "a reading of no kind": (changed(reading=[1]), "data's reading are of the wrong kind"),
    "a clip skip": (changed(clip_skip=10**9), "the clip skip cannot be right"),
    "embeddings": (changed(embeddings=[{"token": 1, "sha256": ""}]), "token should be str"),
    "no settings": (changed(settings=None), "unknown fields: Settings"),
    "a text as seed": (changed(settings__seed="1"), "seed should be int"),
    "a switch as steps": (changed(settings__num_inference_steps=True), "num_inference_steps should be int"),
    "a million steps": (changed(settings__num_inference_steps=10**6), "steps must be between 1 and 1000"),
    "a huge image": (changed(settings__width=2**30), "the size cannot be right"),
    "a huge guidance": (changed(settings__guidance_scale=10**400), "guidance_scale should be float"),
    "no number": (changed(settings__guidance_scale=float("nan")), "the guidance scale cannot be right"),
    "a long prompt": (changed(settings__prompt="x" * 30_000), "the prompt cannot be right"),
    "half a surrogate pair": (changed(settings__prompt="\ud83d"), "not JSON that can be used"),
    "a scheduler of no name": (changed(settings__scheduler="os.system"), "the scheduler cannot be right"),
    "a schedule of a million steps": (changed(scheduler={"num_train_timesteps": 10**6}), "scheduler's options"),
    "a schedule too long": (changed(scheduler={"trained_betas": [0.1] * 2000}), "scheduler's options"),
    "an option that is an object": (changed(scheduler={"a": {"b": 1}}), "scheduler's options"),
    "a tier": (changed(model__tier="../../etc"), "the tier cannot be right"),
    "a number format": (changed(made_with={"dtype": "load", "threads": "2"}), "the number format cannot"),
    "threads": (changed(made_with__threads="99999"), "the number of threads cannot"),
    "adapters": (changed(adapters=[1]), "unknown fields: Adapter"),
    "an adapter's weight": (
        changed(adapters=[{"name": "a", "weight": 1e300, "sha256": "", "tensors_sha256": ""}]),
        "adapter's weight",
    ),
    "the hash": (changed(pixels=["x"]), "the pixels' hash"),
}


@pytest.mark.parametrize("name", HOSTILE_DATA)
def test_data_from_strangers_are_checked_field_by_field(tmp_path, name):
    text, message = HOSTILE_DATA[name]
    path = tmp_path / "a.png"
    PICTURE.save(path)
    path.write_bytes(with_texts(path.read_bytes(), {files.OURS: text}))
    with pytest.raises(MetadataError, match=message) as error:
        read_image(path)
    good = save_image(PICTURE, DATA, tmp_path / "good.png")
    assert calls(read_image, path, MetadataError) < 2 * calls(read_image, good, MetadataError)
    assert str(error.value).startswith("a.png: ") and len(str(error.value)) < 400


def saved(ending: str, tmp_path: Path) -> bytes:
    return save_image(PICTURE, DATA, tmp_path / f"good{ending}").read_bytes()


def xmp(text: str) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, "JPEG", xmp=text.encode())
    return file.getvalue()


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize(
    ("ending", "make", "message"),
    [
        (".png", lambda good: b"", "not a PNG file: it begins with nothing"),
        (".png", lambda good: b"GIF89a" + good, "not a PNG file"),
        (".jpg", lambda good: good[:20], "damaged JPEG or WebP"),
        (".jpg", lambda good: b"\xff\xd8\xff\xe1\xff\xff" + b"Exif\0\0" * 9, "damaged JPEG or WebP"),
        (".webp", lambda good: good[:40], "damaged JPEG or WebP"),
        (".webp", lambda good: good[:12] + b"VP8X" + b"\xff" * 100, "damaged JPEG or WebP"),
        (".jpg", lambda good: good.replace(b"UNICODE\0", b"UNICORN\0"), "no encoding"),
        (".jpg", lambda good: xmp(LAUGHS), "document type"),
        (".jpg", lambda good: xmp("<x>"), "not XML"),
    ],
)
def test_damaged_files_of_every_format_give_one_error(tmp_path, ending, make, message):
    path = tmp_path / f"a{ending}"
    path.write_bytes(make(saved(ending, tmp_path)))
    with pytest.raises(MetadataError, match=rf"a\{ending}: .*{message}"):
        read_image(path)
    assert calls(read_image, path, MetadataError) < 2 * calls(read_image, tmp_path / f"good{ending}", MetadataError)


@given(st.sampled_from([".jpg", ".webp", ".png"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
@settings(deadline=None, max_examples=300)
def test_damage_is_read_or_refused_and_nothing_else(tmp_path_factory, ending, position, damage):
    folder = tmp_path_factory.getbasetemp()
    good = bytearray(saved(ending, folder))
    position %= len(good)
    good[position : position + len(damage)] = damage
    path = folder / f"damaged{ending}"
    path.write_bytes(good)
    try:
        read_image(path)
    except MetadataError as error:
        assert str(error).startswith(path.name)


def test_what_is_no_file_is_refused_and_nothing_hangs(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(MetadataError, match=path.name):
            read_image(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(MetadataError, match=r"pipe\.png: This is not a file"):
            read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_a_small_file_that_claims_a_huge_picture_takes_no_memory(tmp_path, ending):
    pytest.importorskip("resource", reason="only POSIX keeps the highest use of memory")
    path, pixels = tmp_path / f"a{ending}", 16383**2
    if ending == ".webp":
        Image.new("L", (16383, 16383)).save(path, lossless=True, method=0, exif=files.exif_with("a cat"))
    else:
        Image.new("L", (65000, 2000)).save(path)
        header, pixels = bytearray(path.read_bytes()), 65535**2
        at = header.index(b"\xff\xc0") + 5
        header[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(header)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from sdhelpers.metadata import MetadataError, read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except MetadataError: pass\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(grown * (1 if sys.platform == 'darwin' else 1024))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < pixels / 4, "a byte or more a pixel if it were unpacked"


# The same pixels again.


def record(pipe, settings, adapters=(), **more):
    return generation.generate_and_record(pipe, settings, generation.model_source("sd15"), adapters, **more)


@pytest.fixture
def quick_pipe(pipe):
    """With a copy of the tokenizer: Diffusers makes it anew as it takes words out, and then it decodes otherwise."""
    scheduler, tokenizer = pipe.scheduler, pipe.tokenizer
    pipe.tokenizer = copy.deepcopy(tokenizer)
    yield pipe
    pipe.unload_lora_weights()
    pipe.unload_textual_inversion()
    pipe.scheduler, pipe.tokenizer = scheduler, tokenizer


PROMPT = "a cartoon of a cat on a beach"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_is_made_again_from_its_file_pixel_for_pixel(quick_pipe, tmp_path, scheduler):
    settings = Settings(PROMPT, "blurry", 7, 5.5, 4, scheduler, 96, 64)
    image, data = record(quick_pipe, settings)
    assert data.settings is settings
    found = read_image(save_image(image, data, tmp_path / "a.png"))
    record(quick_pipe, Settings("something else", scheduler="DPM++ 2M Karras", num_inference_steps=2))
    again = generation.redraw(quick_pipe, found.data)
    assert difference(image, again) == 0 and generation.pixel_hash(again) == found.data.pixels


def test_options_that_the_settings_do_not_name_are_kept(quick_pipe, tmp_path):
    settings = Settings(PROMPT, num_inference_steps=4)
    plain, _ = record(quick_pipe, settings)
    before = quick_pipe.scheduler
    quick_pipe.scheduler = type(before).from_config(before.config, solver_order=1)
    image, data = record(quick_pipe, settings)
    assert difference(plain, image) > 0.001
    quick_pipe.scheduler = before
    found = read_image(save_image(image, data, tmp_path / "a.webp"))
    assert difference(image, generation.redraw(quick_pipe, found.data)) == 0


def test_a_process_of_its_own_makes_it_again_from_the_file_alone(quick_pipe, tmp_path):
    image, data = record(quick_pipe, Settings(PROMPT, num_inference_steps=3))
    path = save_image(image, data, tmp_path / "a.png")
    script = (
        "import sys; from pathlib import Path; from sdhelpers.metadata import generation; "
        "from sdhelpers.metadata import read_image; data = read_image(Path(sys.argv[1])).data; "
        "pipe = generation.load_pipeline(data); print(generation.what_differs(pipe, data)); "
        "print(generation.pixel_hash(generation.redraw(pipe, data)))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-3:-1] == ["[]", data.pixels]


def make_lora(pipe, path: Path, seed: int) -> Path:
    """A small LoRA with random weights: what it draws does not matter here, that it is loaded does."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights(path.parent, get_peft_model_state_dict(pipe.unet), weight_name=path.name)
    pipe.unload_lora_weights()
    return path


def test_adapters_are_kept_and_found_again_by_their_content(quick_pipe, tmp_path):
    settings = Settings(PROMPT, num_inference_steps=3)
    plain, _ = record(quick_pipe, settings)
    files = [make_lora(quick_pipe, tmp_path / f"my style v1.{i}.safetensors", i) for i in (0, 1)]
    adapters = generation.load_adapters(quick_pipe, {files[0]: 0.5, files[1]: 0.25})
    tensors = generation.tensors_sha256(files[0])
    assert adapters[0] == Adapter("my style v1.0", 0.5, sha256(files[0]), tensors)
    image, data = record(quick_pipe, settings, adapters)
    assert difference(plain, image) > 0.001
    found = read_image(save_image(image, data, tmp_path / "a.jpg"))
    assert "<lora:my style v1.0:0.5> <lora:my style v1.1:0.25>" in found.texts["parameters"]
    assert data.adapters[0].tensors_sha256[:12] in found.texts["parameters"]
    moved = [file.rename(tmp_path / f"renamed{i}.safetensors") for i, file in enumerate(files)]
    assert difference(image, generation.redraw(quick_pipe, found.data, moved)) == 0
    assert difference(plain, record(quick_pipe, settings)[0]) == 0, "redraw leaves no adapter behind"
    with pytest.raises(MetadataError, match=r"made with my style v1\.1, and no file"):
        generation.redraw(quick_pipe, found.data, moved[:1])


def test_an_adapter_that_is_not_to_be_recorded_is_an_error(quick_pipe, tmp_path):
    file = make_lora(quick_pipe, tmp_path / "style.safetensors", 0)
    generation.load_adapters(quick_pipe, {file: 1.0})
    with pytest.raises(MetadataError, match=r"has the adapters \['style'\]"):
        record(quick_pipe, Settings(PROMPT, num_inference_steps=2))


def test_a_weight_or_a_model_that_did_not_draw_is_refused(quick_pipe, tmp_path):
    settings = Settings(PROMPT, num_inference_steps=1)
    adapters = generation.load_adapters(quick_pipe, {make_lora(quick_pipe, tmp_path / "a.safetensors", 0): 0.5})
    assert generation.weights_of(quick_pipe, "a") == {0.5}
    record(quick_pipe, settings, adapters)
    quick_pipe.set_adapters(["a"], [1.0])
    with pytest.raises(MetadataError, match=r"a has another weight in the pipeline than 0\.5"):
        record(quick_pipe, settings, adapters)
    with pytest.raises(MetadataError, match="folder sd15, which is not community"):
        generation.generate_and_record(quick_pipe, settings, generation.model_source("community"), adapters)


def test_bad_settings_and_other_models_are_refused(quick_pipe):
    with pytest.raises(SettingsError, match="steps must be"):
        record(quick_pipe, Settings(PROMPT, num_inference_steps=0))
    with pytest.raises(ModelError, match="another version of sd15"):
        generation.load_pipeline(DATA)
    with pytest.raises(ModelError, match="no model 'sd99'"):
        generation.load_pipeline(dataclasses.replace(DATA, model=ModelSource("sd99", "pocket", "")))
    own = dict(quick_pipe.scheduler.config)
    options = {k: v for k, v in own.items() if not k.startswith("_")} | {"beta_schedule": "made up"}
    data = dataclasses.replace(DATA, settings=Settings(PROMPT), scheduler=options, adapters=(), embeddings=())
    with pytest.raises(MetadataError, match="cannot be made from these data"):
        generation.redraw(quick_pipe, data)


def test_the_conditions_say_what_differs(quick_pipe):
    _, data = record(quick_pipe, Settings(PROMPT, num_inference_steps=1))
    assert generation.what_differs(quick_pipe, data) == []
    older = dataclasses.replace(data, made_with=data.made_with | {"torch": "1.0", "threads": "1", "other": "x"})
    said = [f"torch: 1.0 then, {data.made_with['torch']} here", "other: x then, unknown here"]
    assert generation.what_differs(quick_pipe, older) == said
    assert {"system", "processor", "gpu"} <= set(data.made_with)


def test_a_model_from_one_file_is_found_again(tmp_path):
    source = generation.model_source("community")
    assert len(source.revision) == 64
    data = dataclasses.replace(DATA, model=source, settings=Settings(PROMPT, num_inference_steps=2), adapters=())
    pipe = generation.load_pipeline(data)
    image, data = generation.generate_and_record(pipe, data.settings, source)
    assert difference(image, generation.redraw(generation.load_pipeline(data), data)) == 0


# What another program's parameters say, and what of it is lost.

THEIRS = "a (cat:1.3)\nNegative prompt: dog\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 96x64, RNG: CPU"


@pytest.mark.parametrize(
    ("more", "reading", "clip_skip", "dropped"),
    [
        ("", "weighted", 0, ()),
        (", Version: v1.10.1, Clip skip: 2, Model hash: 6ce0161689", "weighted", 1, ("clip skip in the negative",)),
        (", Clip skip: many", "weighted", 0, ("Clip skip: many",)),
        (", Emphasis: None", "plain", 0, ()),
        (", Emphasis: No norm", "weighted", 0, ("Emphasis: No norm",)),
        (", Schedule type: Automatic", "weighted", 0, ()),
        (", Schedule type: Beta", "weighted", 0, ("Schedule type: Beta",)),
        (", Hires upscale: 2, Model: x", "weighted", 0, ("Hires upscale: 2", "Model: x; the pipeline .* choose")),
        (", TI hashes: toy", "weighted", 0, ("embeddings toy: load",)),
    ],
)
def test_what_is_understood_of_others_and_what_is_dropped_is_said(more, reading, clip_skip, dropped):
    found = understand(read_parameters(THEIRS + more))
    assert (found.reading, found.clip_skip) == (reading, clip_skip)
    assert found.settings == Settings("a (cat:1.3)", "dog", 5, 7.0, 3, "Euler a", 96, 64)
    assert len(found.dropped) == len(dropped)
    assert all(re.match(pattern, said) for pattern, said in zip(dropped, found.dropped))


def test_more_that_is_dropped_is_said():
    text = THEIRS.replace(", RNG: CPU", "").replace("a (cat:1.3)", "a [(cat] <lora:style:0.8>)")
    found = understand(read_parameters(text))
    assert found.reading == "plain" and found.settings.prompt == "a [(cat])"
    assert [said.split(":")[0] for said in found.dropped] == [
        "LoRA style at 0.8",
        "the noise",
        "the prompt's signs, which are read as characters",
    ]


def test_hashes_are_of_files_or_absent():
    for tier in ("pocket", "full"):
        data = dataclasses.replace(DATA, model=generation.model_source("sd15", tier))
        assert data.model.revision and "Model hash" not in to_parameters(data).fields
    full = dataclasses.replace(DATA, model=generation.model_source("community", "full"))
    assert to_parameters(full).fields["Model hash"] == entry("community").full.sha256[:10] == "879db523c3"


def test_a_loras_hash_stays_when_its_description_is_edited(tmp_path):
    tensors, paths = {"a": torch.arange(6.0)}, [tmp_path / f"{i}.safetensors" for i in (0, 1)]
    for path in paths:
        save_file(tensors, path, metadata={"title": path.stem * 50})
    assert sha256(paths[0]) != sha256(paths[1])
    assert generation.tensors_sha256(paths[0]) == generation.tensors_sha256(paths[1])
    assert generation.tensors_sha256(paths[0]) == hashlib.sha256(tensors["a"].numpy().tobytes()).hexdigest()


def test_data_of_the_older_format_are_read():
    values = json.loads(to_json(dataclasses.replace(DATA, reading="plain", clip_skip=0, embeddings=())))
    older = {k: v for k, v in values.items() if k not in ("reading", "clip_skip", "embeddings")} | {"format": 1}
    del older["model"]["file_sha256"], older["adapters"][0]["tensors_sha256"]
    found = from_json(json.dumps(older))
    assert (found.reading, found.clip_skip, found.embeddings) == ("plain", 0, ())
    assert found.settings == SETTINGS and found.adapters == (Adapter("postcard", 0.75, "cd" * 32),)


# ComfyUI.

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 987654321012345,
            "steps": 12,
            "cfg": 3.5,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["8", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (cat:1.3)", "clip": ["9", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dog", "clip": ["9", 0]}},
    "8": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "ink.safetensors",
            "strength_model": 0.8,
            "strength_clip": 1.0,
            "model": ["4", 0],
            "clip": ["4", 1],
        },
    },
    "9": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["8", 1]}},
    "10": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "11": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["10", 0]}},
}
ORDER = {
    "KSampler": ["seed", None, "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "LoraLoader": ["lora_name", "strength_model", "strength_clip"],
}


def workflow_of(graph: dict) -> dict:
    """The graph as the editor keeps it: links by number, values in the widgets' order."""
    nodes, links = [], []
    for number, node in graph.items():
        slots = []
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(number), len(slots), name.upper()])
                slots.append({"name": name, "type": "X", "link": links[-1][0]})
        order = ORDER.get(node["class_type"]) or [k for k, v in node["inputs"].items() if not isinstance(v, list)]
        widgets = [node["inputs"].get(name, "randomize") for name in order]
        nodes.append({"id": int(number), "type": node["class_type"], "inputs": slots, "widgets_values": widgets})
    return {"nodes": nodes, "links": links}


@pytest.mark.parametrize("kept", [("prompt", "workflow"), ("prompt",), ("workflow",)])
def test_comfyui_files_are_read(tmp_path, kept):
    texts = {"prompt": json.dumps(GRAPH), "workflow": json.dumps(workflow_of(GRAPH))}
    path = tmp_path / "comfy.png"
    PICTURE.save(path)
    path.write_bytes(with_texts(path.read_bytes(), {name: texts[name] for name in kept}))
    found = understand(read_image(path).parameters)
    assert found.settings == Settings("a (cat:1.3)", "dog", 987654321012345 % 2**32, 3.5, 12, "DPM++ 2M Karras", 96, 64)
    assert (found.reading, found.clip_skip) == ("weighted", 1)
    assert [said.split(":")[0] for said in found.dropped] == [
        "LoRA ink.safetensors at 0.8",
        "LoRA in the text encoder",
        "Model",
        "clip skip in the negative prompt",
        "ComfyUI's way of weighting",
    ]
    if len(kept) == 2:
        with Image.open(path) as image:
            theirs = ParserManager().parse(image)
            kept_open.append(image)
        sampler = theirs.samplers[0]
        assert (theirs.full_prompt, theirs.full_negative_prompt) == ("a (cat:1.3)", "dog")
        assert sampler.parameters["steps"] == 12 and sampler.parameters["cfg_scale"] == 3.5


kept_open = []  # as above, for sd-parsers


def test_a_processors_noise_takes_the_lowest_32_bits_of_a_seed():
    seed = GRAPH["3"]["inputs"]["seed"]
    ours, theirs = (torch.randn(9, generator=torch.Generator().manual_seed(s)) for s in (seed % 2**32, seed))
    assert torch.equal(ours, theirs)


def test_what_a_graph_holds_besides_is_said():
    more = {"20": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 0.5}}}
    graph = json.loads(json.dumps(GRAPH | more))
    graph["3"]["inputs"] |= {"positive": ["20", 0], "denoise": 0.6}
    found = understand(read_comfyui({"prompt": json.dumps(graph)}))
    assert found.settings.prompt == "a (cat:1.3)"
    assert {"Denoising strength: 0.6", "Other nodes: ControlNetApply"} <= set(found.dropped)
    graph["3"]["inputs"]["sampler_name"] = "res_multistep"
    with pytest.raises(MetadataError, match="sampler 'res_multistep Karras' is not one"):
        understand(read_comfyui({"prompt": json.dumps(graph)}))


def test_of_two_samplers_the_first_on_the_way_to_the_saved_picture_is_read():
    second = {"class_type": "KSampler", "inputs": GRAPH["3"]["inputs"] | {"seed": 2, "latent_image": ["3", 0]}}
    graph = {"1": second} | json.loads(json.dumps(GRAPH))
    graph["10"]["inputs"]["samples"] = ["1", 0]
    graph["5"]["inputs"]["batch_size"] = 4
    found = read_comfyui({"prompt": json.dumps(graph)})
    assert found.fields["Seed"] == "987654321012345"
    assert {"Other samplers: 1", "Batch size: 4"} <= set(understand(found).dropped)
    del graph["1"]["inputs"]["latent_image"]  # two pictures of which one is saved
    assert read_comfyui({"prompt": json.dumps(graph)}).fields["Seed"] == "2"


LOOP = GRAPH | {"6": {"class_type": "Reroute", "inputs": {"in": ["6", 0], "back": ["3", 0]}}}


@pytest.mark.parametrize(
    "text",
    ["a cat", "[]", "{}", '{"1": 2}', "[" * 100_000, '{"1": {"class_type": 1, "inputs": {}}}', json.dumps({"3": {}})],
)
def test_texts_that_are_no_graph_are_left_alone(text):
    assert read_comfyui({"prompt": text}) is None
    assert read_comfyui({"workflow": text}) is None
    assert read_comfyui({"workflow": json.dumps({"nodes": text, "links": [1, [2], [[], 1, 1, 1, 1]]})}) is None


def test_a_graph_that_goes_in_circles_ends():
    assert "Other nodes" in read_comfyui({"prompt": json.dumps(LOOP)}).fields
    odd = json.loads(json.dumps(GRAPH))
    odd["3"]["inputs"] |= {"positive": [[], {}], "model": [{}, 0], "seed": {"a": 1}, "scheduler": None}
    with pytest.raises(MetadataError):
        understand(read_comfyui({"prompt": json.dumps(odd)}))


# What the prompt is read as.


def test_a_weighted_prompt_is_drawn_again_as_weighted(quick_pipe, tmp_path):
    settings = Settings("a (cartoon:0.6) of a (cat:1.4) on a beach", "blurry", 7, 4.0, 3, width=64, height=64)
    plain, weighted = (record(quick_pipe, settings, reading=reading) for reading in ("plain", "weighted"))
    assert difference(plain[0], weighted[0]) > 0.001
    for image, data in (plain, weighted):
        found = read_image(save_image(image, data, tmp_path / "a.png"))
        assert ("Emphasis: None" in found.texts["parameters"]) == (data.reading == "plain")
        assert understand(found.parameters).reading == data.reading
        assert difference(image, generation.redraw(quick_pipe, found.data)) == 0
    by_hand = generate(quick_pipe, settings, **encode(quick_pipe, settings.prompt, settings.negative_prompt))
    assert difference(weighted[0], by_hand) == 0


@pytest.mark.parametrize("scheduler", ["DPM++ 2M", "Heun"])
def test_words_that_change_and_long_prompts_are_drawn_again(quick_pipe, scheduler):
    prompt = "a [cartoon:3d render:0.5] of a [cat|dog] on a beach" + ", sand" * 80
    settings = Settings(prompt, "", 7, 4.0, 4, scheduler, 64, 64)
    image, data = record(quick_pipe, settings, reading="weighted", clip_skip=1)
    assert difference(image, generation.redraw(quick_pipe, from_json(to_json(data)))) == 0
    for other in ({"reading": "plain"}, {"clip_skip": 0}):
        assert difference(image, generation.redraw(quick_pipe, dataclasses.replace(data, **other))) > 0


def test_embeddings_are_kept_and_found_again_by_their_content(quick_pipe, tmp_path):
    vectors = quick_pipe.text_encoder.get_input_embeddings().weight[[2368, 1929]].detach().clone()
    path = tmp_path / "toy.safetensors"
    save_file({"inner": vectors}, path)
    embeddings = generation.load_embeddings(quick_pipe, {path: "<toy>"})
    assert embeddings == (Embedding("<toy>", sha256(path)),) and generation.tokens_of(quick_pipe) == {"<toy>"}
    settings = Settings("a cartoon of a <toy>", "", 7, 4.0, 3, width=64, height=64)
    with pytest.raises(MetadataError, match=r"has the embeddings \['<toy>'\]"):
        record(quick_pipe, settings)
    image, data = record(quick_pipe, settings, embeddings=embeddings)
    quick_pipe.unload_textual_inversion()
    moved = path.rename(tmp_path / "renamed.safetensors")
    assert difference(image, generation.redraw(quick_pipe, from_json(to_json(data)), [moved])) == 0
    assert generation.tokens_of(quick_pipe) == set(), "redraw leaves no word behind"
    with pytest.raises(MetadataError, match="made with <toy>, and no file"):
        generation.redraw(quick_pipe, data)


def test_a_reading_that_does_not_exist_is_refused(quick_pipe):
    with pytest.raises(MetadataError, match="can be read plain or weighted"):
        record(quick_pipe, Settings(PROMPT, num_inference_steps=1), reading="backwards")
