"""What is inside a checkpoint file, read without loading the weights and without running anything in it.

    contents = checkpoints.read_checkpoint(path)  # .safetensors, .ckpt, .pt, .pth, .bin
    contents.tensors, contents.metadata, contents.warnings

Every trouble with a file is a CheckpointError with one sentence. Built in chapter 6.
"""

import dataclasses
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from sdhelpers.files.pickles import Call, Name, PickleError, PickleMachine, brief, printable

LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library too
LARGEST_PICKLE = 100_000_000  # bytes of instructions; the weights stand elsewhere in the file
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before PyTorch 1.6: five pickles, then the weights
DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "I16": ("int16", 2),
    "I32": ("int32", 4),
    "I64": ("int64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
}
ITEM_SIZES = dict(DTYPES.values())
STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
}
REBUILDS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
OF_TENSORS = re.compile(
    r"torch\.\w+Storage|torch\.storage\.(Untyped|Typed)Storage|torch\.(float|bfloat|int|uint|bool)\w*"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)|collections\.OrderedDict"
)


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint; the message is one sentence for the reader."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file, by its description alone."""

    name: str
    dtype: str  # as PyTorch writes it: "float16"
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its numbers; 0 for a type of number that is not known here."""
        return math.prod(self.shape) * ITEM_SIZES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds. `imports` and `calls` are what a pickle would import and call when loaded."""

    kind: str  # "safetensors" or "pickle"
    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    imports: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    misnamed: bool = False  # called .safetensors and is none, or the other way round

    @property
    def strangers(self) -> tuple[str, ...]:
        """The imports that no tensor needs."""
        return tuple(name for name in self.imports if not OF_TENSORS.fullmatch(name))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the reader; none for a file of tensors alone."""
        found = [f"it would call {call}" for call in self.calls]
        called = {call.partition("(")[0] for call in self.calls}
        found += [f"it would import {name}" for name in self.strangers if name not in called]
        if self.misnamed:
            found.insert(0, f"its name does not say that it is a {self.kind}")
        return tuple(found)


def read_checkpoint(path: Path | str) -> Contents:
    """The contents of a checkpoint, told by its bytes and not by its name. Raises CheckpointError."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            if start[:4] == b"PK\x03\x04":
                contents = _read_zip(file, path.name)
            elif start[8:] == b"{" or (path.suffix == ".safetensors" and start[:1] != b"\x80"):
                contents = _read_safetensors(file, path)
            else:
                contents = _read_pickles(file, path.name)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    misnamed = (path.suffix == ".safetensors") != (contents.kind == "safetensors")
    return dataclasses.replace(contents, misnamed=misnamed)


def _read_safetensors(file: BinaryIO, path: Path) -> Contents:
    """8 bytes with the header's length, the header as JSON, then the numbers, which are not read."""
    size = path.stat().st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > min(LARGEST_HEADER, size - 8):
        raise CheckpointError(
            f"{path.name} is cut off or no safetensors file: it announces a header of {length:,} bytes "
            f"and has {size:,} in all."
        )
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        tensors = tuple(_described(name, item, size - 8 - length) for name, item in header.items())
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is damaged: {error}.") from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: its header is not the JSON of a safetensors file.") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path.name} is damaged: its metadata must be texts by name.")
    return Contents("safetensors", tensors, metadata)


def _described(name: str, item: dict[str, Any], available: int) -> Tensor:
    """One entry of a safetensors header, checked against the `available` bytes of numbers."""
    try:
        code, shape, (begin, end) = item["dtype"], item["shape"], item["data_offsets"]
        if not are_sizes((*shape, begin, end)):
            raise ValueError
        dtype, width = DTYPES.get(code, (str(code).lower(), None))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"the entry of {brief(name)} lacks a type, a shape or a place") from error
    if not begin <= end <= available:
        raise CheckpointError(f"{brief(name)} would end at byte {end:,} of {available:,}, so the file is cut off")
    if width is not None and math.prod(shape) * width != end - begin:
        raise CheckpointError(f"{brief(name)} has {end - begin:,} bytes, which do not fit its shape")
    return Tensor(printable(name), dtype, tuple(shape))


def _read_zip(file: BinaryIO, name: str) -> Contents:
    """What torch.save has written since PyTorch 1.6: a zip with data.pkl and one entry for each storage."""
    machine = PickleMachine()
    try:
        with zipfile.ZipFile(file) as archive:
            programs = [entry for entry in archive.infolist() if entry.filename.endswith(".pkl")]
            if not programs:
                raise CheckpointError(f"{name} is a zip file, but holds no pickle, so it is no checkpoint.")
            for entry in programs:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise CheckpointError(f"{name} is compressed or encrypted inside, which PyTorch never writes.")
                if entry.file_size > LARGEST_PICKLE:
                    raise CheckpointError(f"{name} holds a pickle of {entry.file_size:,} bytes, too many to be honest.")
                with archive.open(entry) as program:
                    machine.run(program)
        return _contents(machine)
    except CheckpointError:
        raise
    except PickleError as error:
        raise CheckpointError(f"{name} holds a damaged pickle: {error}.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{name} is damaged or cut off: its zip directory cannot be read.") from error


def _read_pickles(file: BinaryIO, name: str) -> Contents:
    """A plain pickle, or the five in a row that older torch.save wrote."""
    machine = PickleMachine()
    file.seek(0)
    try:
        if machine.run(file) == LEGACY_MAGIC:
            for _ in range(4):
                machine.run(file)
        return _contents(machine)
    except PickleError as error:
        raise CheckpointError(f"{name} is neither a safetensors file nor a readable pickle: {error}.") from error


def _contents(machine: PickleMachine) -> Contents:
    """What a pickle holds: its tensors, and the calls that no tensor needs."""
    described = (tensor_of(key, value) for key, value in machine.entries if isinstance(value, Call))
    tensors = tuple(tensor for tensor in described if tensor)
    foreign = dict.fromkeys(call.written() for call in machine.calls if not OF_TENSORS.fullmatch(call.name))
    return Contents("pickle", tensors, {}, tuple(machine.imports), tuple(foreign))


def tensor_of(key: Any, call: Call) -> Tensor | None:
    """The tensor that a pickle's call would rebuild, or None for a call of another kind."""
    while call.name == "torch._utils._rebuild_parameter" and isinstance(call.arguments, tuple) and call.arguments:
        if not isinstance(call.arguments[0], Call):
            return None
        call = call.arguments[0]
    if call.name not in REBUILDS:
        return None
    match call.arguments:
        case (("storage", Name(storage), *_), _, tuple(shape), *rest) if are_sizes(shape):
            dtype = STORAGES.get(storage.rpartition(".")[2])
            of_its_own = (item.name.removeprefix("torch.") for item in rest if isinstance(item, Name))
            name = printable(key) if isinstance(key, str) else brief(key)
            return Tensor(name, dtype or next(of_its_own, "unknown"), shape)
    raise PickleError(f"the tensor {brief(key)} lacks a storage or a shape")


def are_sizes(numbers: tuple[Any, ...]) -> bool:
    """Whether all are whole numbers that a file's tensor can have as a size or a place."""
    return len(numbers) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
