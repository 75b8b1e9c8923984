"""Images with their generation data inside: PNG, JPEG and WebP, written and read.

    save_image(image, data, Path("cat.png"))
    found = read_image(Path("cat.png"))        # found.data, found.parameters, found.texts

Two copies of the data are kept: the `parameters` text that other programs read, and ours, which is exact. In
a PNG file both are text chunks; in JPEG and WebP files the first is the EXIF field UserComment (Exif 2.32,
section 4.6.5), the second stands in an XMP packet (ISO 16684-1). Built in chapter 19.
"""

import io
import os
import stat
import struct
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import quoteattr

from PIL import ExifTags, Image

from sdhelpers.generation import Settings
from sdhelpers.metadata import png
from sdhelpers.metadata.a1111 import Parameters, read_parameters, write_parameters
from sdhelpers.metadata.comfyui import read_comfyui
from sdhelpers.metadata.parameters import LORA, to_parameters, understand
from sdhelpers.metadata.png import Chunk, MetadataError
from sdhelpers.metadata.record import GenerationData, from_json, to_json

OURS = "sdhelpers"  # keyword of our text chunk, and name of the field in XMP
NAMESPACE = "urn:sdhelpers:generation-data"
NAMES_OF_FILES = ("Model", "Model hash", "Lora hashes", "TI hashes")
XMP_KEYWORD = "XML:com.adobe.xmp"
WRITERS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
}
LARGEST_OTHER = 64 * 2**20  # bytes of a JPEG or WebP file
COMMENT_CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", b"\0" * 8: "utf-8"}


@dataclass(frozen=True)
class ImageFile:
    """What was found in a file. `parameters` and `data` are None where there are none.

    `parameters` are those of the text of this name, or what ComfyUI's chunks say under the same names.
    """

    format: str
    width: int
    height: int
    chunks: tuple[Chunk, ...]  # of a PNG file
    texts: dict[str, str]
    parameters: Parameters | None
    data: GenerationData | None


def disagreements(found: ImageFile) -> list[str]:
    """The settings, LoRAs, model and hashes in which a file's two copies differ: somebody has changed one of them."""
    if found.data is None or found.parameters is None:
        return []
    try:
        theirs = understand(found.parameters)
    except MetadataError as error:
        return [str(error)]
    ours = read_parameters(write_parameters(to_parameters(found.data)))
    said = understand(ours)
    pairs = {f.name: (getattr(said.settings, f.name), getattr(theirs.settings, f.name)) for f in fields(Settings)}
    pairs |= {name: (getattr(said, name), getattr(theirs, name)) for name in ("reading", "clip_skip")}
    pairs |= {"LoRAs": tuple(" ".join(m[0] for m in LORA.finditer(one.prompt)) for one in (ours, found.parameters))}
    pairs |= {name: tuple(one.fields.get(name, "none") for one in (ours, found.parameters)) for name in NAMES_OF_FILES}
    return [f"{name}: {a} in ours, {b} in parameters" for name, (a, b) in pairs.items() if a != b]


def save_image(image: Image.Image, data: GenerationData, path: Path) -> Path:
    """Write the image with its data, first under a temporary name; the ending says the format.

    Raises MetadataError for an unknown ending, or when the data do not fit into the format.
    """
    if path.suffix.lower() not in WRITERS:
        raise MetadataError(f"{path.name}: choose one of the endings {', '.join(WRITERS)}.")
    kind, options = WRITERS[path.suffix.lower()]
    texts = {"parameters": write_parameters(to_parameters(data)), OURS: to_json(data)}
    file = io.BytesIO()
    try:
        if kind == "PNG":
            image.save(file, kind)
            content = png.with_texts(file.getvalue(), texts)
        else:
            image.save(file, kind, exif=exif_with(texts["parameters"]), xmp=xmp_with(texts[OURS]), **options)
            content = file.getvalue()
    except ValueError as error:
        raise MetadataError(f"{path.name}: {error}") from error
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def exif_with(text: str) -> bytes:
    """EXIF with the text as UserComment: eight bytes that name the encoding, then UTF-16, high byte first.

    Built by hand, for Pillow would give the field the type BYTE, and the standard wants UNDEFINED.
    """
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    header = b"Exif\0\0" + b"MM\0*" + struct.pack(">I", 8)
    first = struct.pack(">HHHIII", 1, ExifTags.IFD.Exif, 4, 1, 26, 0)  # one entry: the list of EXIF fields is at 26
    fields = struct.pack(">HHHIII", 1, ExifTags.Base.UserComment, 7, len(comment), 44, 0)
    return header + first + fields + comment


def comment_of(exif: Image.Exif) -> str | None:
    """The UserComment's text, or None. Raises MetadataError when its bytes are not of the encoding they name."""
    value = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(value, bytes) or len(value) <= 8:
        return None
    code, data = COMMENT_CODES.get(value[:8]), value[8:]
    if code is None:
        raise MetadataError("The UserComment begins with no encoding that this book reads.")
    if code == "utf-16" and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        low_first = data[1::2].count(0) > data[::2].count(0)  # programs disagree; most letters have a zero high byte
        code = "utf-16-le" if low_first else "utf-16-be"
    try:
        return data.decode(code).rstrip("\0")
    except UnicodeDecodeError as error:
        raise MetadataError(f"The UserComment is not {code.upper()}, as it says.") from error


def xmp_with(text: str) -> bytes:
    """An XMP packet that holds the text, in ASCII, as one field of our own."""
    rdf = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    field = f'xmlns:own="{NAMESPACE}" own:{OURS}={quoteattr(text)}'
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {rdf}><rdf:Description rdf:about="" {field}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode("ascii")


def our_field(packet: bytes) -> str | None:
    """Our field in an XMP packet, or None. Raises MetadataError for broken XML and for XML with a DTD."""
    try:
        text = packet.decode().strip("\0 \n")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise MetadataError("The XMP packet has a document type, which XMP does not allow.")
        tree = ET.fromstring(text)
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise MetadataError("The XMP packet is not XML in UTF-8.") from error
    name = f"{{{NAMESPACE}}}{OURS}"  # an attribute as we write it; some editors make an element of it
    return next((v for node in tree.iter() if (v := node.text if node.tag == name else node.get(name))), None)


def read_image(path: Path) -> ImageFile:
    """What a file says about itself; no pixel is decoded. Raises MetadataError with the file's name."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise MetadataError("This is not a file.")
        with open(path, "rb") as file:
            return read_stream(file)
    except (OSError, MetadataError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise MetadataError(f"{Path(path).name}: {problem}") from error


def read_stream(file: BinaryIO) -> ImageFile:
    """read_image for an open file, or for bytes in an io.BytesIO. Raises MetadataError."""
    start = file.read(12)
    if start[:3] == b"\xff\xd8\xff" or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
        return _with_data(*_read_with_pillow(file))
    chunks = list(png.read_chunks(file))
    texts = png.texts_of(chunks)
    if XMP_KEYWORD in texts and OURS not in texts and (field := our_field(texts[XMP_KEYWORD].encode())):
        texts[OURS] = field
    return _with_data("PNG", png.image_size(chunks[0]), tuple(chunks), texts)


def _with_data(kind: str, size: tuple[int, int], chunks: tuple[Chunk, ...], texts: dict[str, str]) -> ImageFile:
    """Add what the texts say."""
    parameters = read_parameters(texts["parameters"]) if "parameters" in texts else read_comfyui(texts)
    return ImageFile(kind, *size, chunks, texts, parameters, from_json(texts[OURS]) if OURS in texts else None)


def _read_with_pillow(file: BinaryIO) -> tuple[str, tuple[int, int], tuple[Chunk, ...], dict[str, str]]:
    """Format, size and texts of a JPEG or WebP file."""
    if file.seek(0, io.SEEK_END) > LARGEST_OTHER:
        raise MetadataError(f"The file has more than {LARGEST_OTHER:,} bytes, which are not read.")
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=["JPEG", "WEBP"]) as image:
            kind, size, packet, comment = image.format, image.size, image.info.get("xmp"), comment_of(image.getexif())
    except MetadataError:
        raise
    except Exception as error:  # what a damaged file does to its decoder is of any kind
        raise MetadataError("The file is a damaged JPEG or WebP.") from error
    texts = {"parameters": comment} if comment else {}
    if packet and (field := our_field(packet)):
        texts[OURS] = field
    return kind, size, (), texts
