"""PNG chunks by hand: length, type, data, check sum; and the texts that some of them carry.

A file is read chunk by chunk, so that memory stays bounded, and whatever is wrong with it is one
MetadataError within a second. Source: the PNG specification (W3C), sections 5.2 to 5.5 and 11.3.3. Built in
chapter 19.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
LARGEST_FILE = 256 * 2**20  # bytes; these and more are refused unread
MOST_CHUNKS = 100_000
LARGEST_TEXT = 4 * 2**20  # bytes of all the texts of one file together, unpacked
PIECE = 2**16
KEYWORD = re.compile(r"(?! )(?!.* $)(?!.*  )[\x20-\x7e\xa1-\xff]{1,79}")


class MetadataError(ValueError):
    """A file or a text that cannot be read or written; the message is one sentence for the reader."""


class Chunk(NamedTuple):
    """One chunk. `data` is empty for kinds that are not kept, such as the pixels."""

    kind: bytes  # four letters
    position: int  # of its first byte (the length) in the file
    length: int  # of the data
    data: bytes


def pack_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk as it stands in a file: length, kind, data, CRC-32 of kind and data."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks in order, each checked; the data of IHDR and of texts is kept, that of others is not.

    `file` must be seekable. Bytes behind IEND are not looked at. Raises MetadataError where it goes wrong.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    if end > LARGEST_FILE:
        raise MetadataError(f"The file has {end:,} bytes; more than {LARGEST_FILE:,} are not read.")
    if (start := file.read(8)) != SIGNATURE:
        raise MetadataError(f"This is not a PNG file: it begins with {start.hex(' ') or 'nothing'}.")
    for number in range(MOST_CHUNKS):
        chunk = _read_chunk(file, end)
        if (number == 0) != (chunk.kind == b"IHDR") or (number == 0 and chunk.length != 13):
            raise MetadataError("A PNG file must begin with one IHDR chunk of 13 bytes; this one does not.")
        yield chunk
        if chunk.kind == b"IEND":
            return
    raise MetadataError(f"The file has more than {MOST_CHUNKS:,} chunks.")


def _read_chunk(file: BinaryIO, end: int) -> Chunk:
    """The chunk that begins where the file stands, with its check sum verified."""
    position = file.tell()
    if end - position < 12:
        raise MetadataError(f"The file ends at byte {end:,}, before its last chunk (IEND): it was cut off.")
    length, kind = struct.unpack(">I4s", file.read(8))
    if not kind.isalpha():
        raise MetadataError(f"At byte {position:,} a chunk should begin and does not: the file is damaged.")
    name = kind.decode()
    if length > end - position - 12:
        raise MetadataError(
            f"The {name} chunk at byte {position:,} claims {length:,} bytes, but only {end - position - 12:,} follow: "
            f"the file is cut off or damaged."
        )
    keep = kind == b"IHDR" or kind in TEXT_KINDS
    if keep and length > LARGEST_TEXT:
        raise MetadataError(f"The {name} chunk has {length:,} bytes; more than {LARGEST_TEXT:,} are not read.")
    data, crc = b"", zlib.crc32(kind)
    for start in range(0, length, PIECE):
        piece = file.read(min(PIECE, length - start))
        crc = zlib.crc32(piece, crc)
        data += piece if keep else b""
    if file.read(4) != struct.pack(">I", crc):
        raise MetadataError(f"The check sum of the {name} chunk at byte {position:,} is wrong: the file is damaged.")
    return Chunk(kind, position, length, data)


def image_size(header: Chunk) -> tuple[int, int]:
    """Width and height from an IHDR chunk."""
    return struct.unpack(">II", header.data[:8])


def text_chunk(keyword: str, text: str) -> bytes:
    """A packed chunk with a keyword (1 to 79 Latin-1 characters) and a text.

    tEXt where Latin-1 has all the characters, else iTXt, which is UTF-8. Raises MetadataError for a keyword that
    the specification does not allow and for a text with a NUL or half a surrogate pair.
    """
    if not KEYWORD.fullmatch(keyword):
        raise MetadataError(f"{keyword!r} cannot be a keyword: 1 to 79 Latin-1 characters, no space at the ends.")
    if "\0" in text:
        raise MetadataError("A text in a PNG file cannot hold the character NUL.")
    key = keyword.encode("latin-1") + b"\0"
    try:
        return pack_chunk(b"tEXt", key + text.encode("latin-1"))
    except UnicodeEncodeError:
        pass
    try:
        return pack_chunk(b"iTXt", key + b"\0\0\0\0" + text.encode())  # not compressed, no language, no translation
    except UnicodeEncodeError as error:
        raise MetadataError("The text holds half a surrogate pair, which no encoding can write.") from error


def decode_text(chunk: Chunk, room: int = LARGEST_TEXT) -> tuple[str, str]:
    """Keyword and text of a tEXt, zTXt or iTXt chunk.

    Raises MetadataError for a wrong structure or encoding, or when the text unpacks to more than `room` bytes.
    """
    name = chunk.kind.decode()
    key, separator, rest = chunk.data.partition(b"\0")
    if not separator or not 1 <= len(key) <= 79:
        raise MetadataError(f"A {name} chunk has no keyword of 1 to 79 characters.")
    encoding, packed = "latin-1", chunk.kind == b"zTXt"
    if chunk.kind == b"zTXt":
        method, rest = rest[:1], rest[1:]
    if chunk.kind == b"iTXt":
        encoding, packed, method = "utf-8", rest[:1] == b"\1", rest[1:2]
        rest = _behind_language(rest)
    if packed and method != b"\0":
        raise MetadataError(f"A {name} chunk is compressed with a method that PNG does not have.")
    data = inflate(rest, room) if packed else rest
    if len(data) > room:
        raise MetadataError(f"The file's texts have more than {LARGEST_TEXT:,} bytes together.")
    try:
        return key.decode("latin-1"), data.decode(encoding)
    except UnicodeDecodeError as error:
        raise MetadataError(f"The {name} chunk {key.decode('latin-1')!r} is not UTF-8, as it must be.") from error


def _behind_language(rest: bytes) -> bytes:
    """The text of an iTXt chunk, behind flag, method, language and translated keyword."""
    parts = rest[2:].split(b"\0", 2)
    if rest[:1] not in (b"\0", b"\1") or len(parts) < 3:
        raise MetadataError("An iTXt chunk is not built as the specification says.")
    return parts[2]


def inflate(data: bytes, room: int = LARGEST_TEXT) -> bytes:
    """Decompress at most `room` bytes. Raises MetadataError when there are more, or when the data is damaged."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, room + 1)
    except zlib.error as error:
        raise MetadataError("A compressed text is damaged.") from error
    if len(text) > room:
        raise MetadataError(f"A compressed text of {len(data):,} bytes unpacks to more than {room:,}: a zip bomb?")
    if not unpacker.eof:
        raise MetadataError("A compressed text ends in the middle.")
    return text


def texts_of(chunks: list[Chunk]) -> dict[str, str]:
    """All texts by keyword; of two with one keyword the last. Raises MetadataError for one that cannot be read."""
    texts, room = {}, LARGEST_TEXT
    for chunk in chunks:
        if chunk.kind in TEXT_KINDS:
            keyword, text = decode_text(chunk, room)
            texts[keyword], room = text, room - len(text)
    return texts


def with_texts(png: bytes, texts: dict[str, str]) -> bytes:
    """The file with the texts right behind its header, in place of others with the same keywords."""
    parts = [SIGNATURE]
    for chunk in read_chunks(io.BytesIO(png)):
        if chunk.kind not in TEXT_KINDS or decode_text(chunk)[0] not in texts:
            parts.append(png[chunk.position : chunk.position + chunk.length + 12])
        if chunk.kind == b"IHDR":
            parts += [text_chunk(keyword, text) for keyword, text in texts.items()]
    return b"".join(parts)
