"""PNG chunks and texts against Pillow, against damage, and against files made to do harm."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from growth import calls
from sdhelpers.metadata import png
from sdhelpers.metadata.png import MetadataError, decode_text, pack_chunk, read_chunks, text_chunk, texts_of, with_texts

MB = 2**20


def png_bytes(image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (16, 24, 3), np.uint8)
    (image or Image.fromarray(noise)).save(file, "PNG", **options)
    return file.getvalue()


def chunks(data: bytes) -> list[png.Chunk]:
    return list(read_chunks(io.BytesIO(data)))


def texts(data: bytes) -> dict[str, str]:
    return texts_of(chunks(data))


PLAIN = png_bytes()
KEYWORDS = st.from_regex(png.KEYWORD, fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)


def test_the_chunks_are_where_the_specification_says():
    found = chunks(PLAIN)
    assert [c.kind for c in found] == [b"IHDR", b"IDAT", b"IEND"]
    assert png.image_size(found[0]) == (24, 16)
    assert found[0].position == 8 and sum(c.length + 12 for c in found) + 8 == len(PLAIN)


@given(st.from_regex(rb"[A-Za-z]{4}", fullmatch=True), st.binary(max_size=200_000))
@settings(deadline=None)
def test_what_is_packed_is_read_again(kind, data):
    if kind in (b"IHDR", b"IEND"):
        return
    whole = png.SIGNATURE + PLAIN[8:33] + pack_chunk(kind, data) + pack_chunk(b"IEND", b"")
    found = chunks(whole)[1]
    assert (found.kind, found.length, found.position) == (kind, len(data), 33)
    assert found.data == (data if kind in png.TEXT_KINDS else b"")


@given(st.integers(0, len(PLAIN) - 1), st.integers(1, 255))
def test_any_damaged_byte_is_noticed(position, change):
    damaged = bytearray(PLAIN)
    damaged[position] ^= change
    with pytest.raises(MetadataError):
        chunks(bytes(damaged))


@given(st.integers(0, len(PLAIN) - 1))
def test_any_truncation_is_noticed(length):
    with pytest.raises(MetadataError, match=r"cut off|not a PNG"):
        chunks(PLAIN[:length])


@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_else_happens(noise):
    for data in (noise, png.SIGNATURE + noise, PLAIN[:33] + noise):
        with pytest.raises(MetadataError):
            chunks(data)


@given(st.dictionaries(KEYWORDS, TEXTS, max_size=4))
@settings(deadline=None)
def test_pillow_reads_our_texts(written):
    data = with_texts(PLAIN, written)
    with Image.open(io.BytesIO(data)) as image:
        assert image.text == written
        assert image.tobytes() == Image.open(io.BytesIO(PLAIN)).tobytes()
    assert texts(data) == written


@given(st.dictionaries(KEYWORDS, TEXTS, max_size=4), st.booleans())
@settings(deadline=None)
def test_we_read_pillows_texts(written, packed):
    info = PngInfo()
    for keyword, text in written.items():
        info.add_text(keyword, text, zip=packed)
    data = png_bytes(pnginfo=info)
    assert texts(data) == written


@given(KEYWORDS, TEXTS, TEXTS)
def test_a_text_replaces_the_one_with_its_keyword(keyword, old, new):
    assert with_texts(with_texts(PLAIN, {keyword: old}), {keyword: new}) == with_texts(PLAIN, {keyword: new})


def test_latin_1_becomes_text_and_everything_else_utf_8():
    assert text_chunk("k", "Kätzchen")[4:].startswith(b"tEXtk\0K\xe4tzchen")
    assert text_chunk("k", "猫")[4:].startswith(b"iTXtk\0\0\0\0\0" + "猫".encode())


@pytest.mark.parametrize("keyword", ["", "k" * 80, " k", "k ", "a  b", "a\nb", "猫", "a\0b"])
def test_keywords_that_the_specification_forbids(keyword):
    with pytest.raises(MetadataError, match="cannot be a keyword"):
        text_chunk(keyword, "text")


@pytest.mark.parametrize(("text", "message"), [("a\0b", "NUL"), ("\ud83d", "surrogate")])
def test_texts_that_cannot_be_written(text, message):
    with pytest.raises(MetadataError, match=message):
        text_chunk("k", text)


def test_bytes_behind_the_end_and_unknown_chunks_do_no_harm():
    odd = PLAIN[:33] + pack_chunk(b"zzZz", b"?") + PLAIN[33:] + b"PK\3\4 something else"
    assert [c.kind for c in chunks(odd)] == [b"IHDR", b"zzZz", b"IDAT", b"IEND"]
    assert Image.open(io.BytesIO(with_texts(odd, {"a": "b"}))).text == {"a": "b"}


def with_chunk(kind: bytes, data: bytes) -> bytes:
    return PLAIN[:33] + pack_chunk(kind, data) + PLAIN[33:]


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(b"\0" * MB) for _ in range(size // MB)]) + packer.flush()


BOMB = bomb(1024 * MB)  # 1 MB that unpacks to a gigabyte
HEADER = PLAIN[:33]
HOSTILE = {
    "a wrong check sum": (PLAIN[:29] + b"\0\0\0\0" + PLAIN[33:], "check sum of the IHDR"),
    "a huge length": (HEADER + struct.pack(">I4s", 2**31 - 1, b"tEXt") + b"k\0text" * 9, "claims 2,147,483,647"),
    "the largest length": (HEADER + b"\xff\xff\xff\xffIDAT" + b"x" * 99, "claims 4,294,967,295"),
    "a zip bomb in zTXt": (with_chunk(b"zTXt", b"k\0\0" + BOMB), "zip bomb"),
    "a zip bomb in iTXt": (with_chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB), "zip bomb"),
    "many zip bombs": (PLAIN[:33] + pack_chunk(b"zTXt", b"k\0\0" + bomb(4 * MB)) * 500 + PLAIN[33:], "zip bomb"),
    "a large text": (with_chunk(b"tEXt", b"k\0" + b"x" * 5 * MB), "more than 4,194,304 are not read"),
    "large texts": (PLAIN[:33] + pack_chunk(b"tEXt", b"k\0" + b"x" * MB) * 9 + PLAIN[33:], "together"),
    "a million chunks": (HEADER + pack_chunk(b"tEXt", b"k\0") * 1_000_000, "more than 100,000 chunks"),
    "cut off": (PLAIN[:100], "only 55 follow"),
    "cut off between chunks": (HEADER, "cut off"),
    "an empty file": (b"", "begins with nothing"),
    "a JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF", "not a PNG file: it begins with ff d8 ff"),
    "line ends changed on the way": (PLAIN.replace(b"\r\n", b"\n"), "not a PNG file"),
    "no header": (png.SIGNATURE + PLAIN[33:], "must begin with one IHDR"),
    "two headers": (HEADER + HEADER[8:] + PLAIN[33:], "must begin with one IHDR"),
    "no letters": (HEADER + pack_chunk(b"a1 \xff", b""), "a chunk should begin"),
    "iTXt that is not UTF-8": (with_chunk(b"iTXt", b"k\0\0\0\0\0K\xe4tzchen"), "not UTF-8"),
    "iTXt without its fields": (with_chunk(b"iTXt", b"k\0\0\0"), "not built as"),
    "iTXt with another flag": (with_chunk(b"iTXt", b"k\0\7\0\0\0text"), "not built as"),
    "an unknown compression": (with_chunk(b"zTXt", b"k\0\5text"), "compressed with a method"),
    "damaged compression": (with_chunk(b"zTXt", b"k\0\0text"), "compressed text is damaged"),
    "half a compression": (with_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"text" * 99)[:-9]), "ends in the middle"),
    "no keyword": (with_chunk(b"tEXt", b"\0text"), "no keyword"),
    "no separator": (with_chunk(b"tEXt", b"text"), "no keyword"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_error_with_bounded_work_and_memory(name):
    data, message = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises(MetadataError, match=message):
        texts(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MB, "the file itself not counted: it is read piece by piece"

    most_chunks = min(len(data) // 12 + 1, png.MOST_CHUNKS)  # a chunk has 12 bytes or more
    assert calls(texts, data, MetadataError) < 20 * most_chunks + 100, "some 15 functions are called for each chunk"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.write(HEADER + struct.pack(">I4s", 2**31 - 1, b"IDAT"))
        file.truncate(2**31 + 99)  # a sparse file: two gigabytes that take no room
    with open(path, "rb") as file, pytest.raises(MetadataError, match="more than 268,435,456 are not read"):
        list(read_chunks(file))


def test_pixels_are_not_kept_in_memory():
    data = PLAIN[:33] + pack_chunk(b"IDAT", b"\0" * 100 * MB) + PLAIN[33:]
    file = io.BytesIO(data)
    tracemalloc.start()
    list(read_chunks(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MB


def test_a_text_at_the_limit_is_read():
    text = "x" * (png.LARGEST_TEXT - 3)
    assert decode_text(chunks(with_chunk(b"tEXt", b"k\0" + text.encode()))[1]) == ("k", text)
    packed = with_chunk(b"zTXt", b"k\0\0" + zlib.compress(text.encode()))
    assert texts(packed) == {"k": text}
