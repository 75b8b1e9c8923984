"""A pickle's instructions followed with stand-ins: what it would import and call, without doing it.

Instruction set: the standard library's pickletools. Built in chapter 6.
"""

import dataclasses
import pickletools
import reprlib
from typing import Any, BinaryIO

MOST_INSTRUCTIONS = 1_000_000
LARGEST_PIECE = 100_000_000  # bytes of one instruction
LONGEST_NAME = 500
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names, still written today


class PickleError(ValueError):
    """Instructions that no pickle can hold."""


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """Stands for something that a pickle would import."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """Stands for the result of a call that a pickle would make."""

    name: str
    arguments: Any

    def __repr__(self) -> str:
        return f"{self.name}(...)"

    def written(self) -> str:
        """The call as Python would write it, cut where it is long."""
        arguments = self.arguments if isinstance(self.arguments, tuple | list) else (self.arguments,)
        return f"{self.name}({', '.join(map(brief, arguments[:4]))})"


MARK = object()
IGNORED = {"PROTO", "FRAME", "STOP"}


class PickleMachine:
    """Follows a pickle's instructions with stand-ins: nothing is imported and nothing is called.

    The stack effect of each instruction is taken from the standard library's pickletools.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.imports: dict[str, None] = {}  # in order, each once
        self.calls: list[Call] = []
        self.entries: list[tuple[Any, Any]] = []  # of all dictionaries

    def run(self, file: BinaryIO) -> Any:
        """Follow one pickle up to its end; return what it leaves. Raises PickleError."""
        self.stack, self.memo = [], {}
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(_Program(file))):
                if count > MOST_INSTRUCTIONS:
                    raise PickleError("it has more instructions than any checkpoint needs")
                if operation.name not in IGNORED:
                    self.step(operation, argument)
            return self.stack.pop()
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise PickleError("its instructions break off or make no sense") from error

    def step(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """One instruction: those that import, call or remember here, all others by their stack effect."""
        name, stack = operation.name, self.stack
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
            return
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
            return
        taken = self._take(operation.stack_before)
        if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            result = self._import(*(taken if name == "STACK_GLOBAL" else argument.split(" ", 1)))
            stack.append(self._call(result, taken) if name == "INST" else result)
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(self._call(*taken))
        elif name in ("NEWOBJ_EX", "OBJ"):
            stack.append(self._call(taken[0], taken[1:]))
        elif name.startswith("EXT"):
            stack.append(self._import("copyreg", f"extension_{argument}"))
        elif name == "DUP":
            stack += taken * 2
        else:
            if name in ("SETITEM", "SETITEMS", "DICT"):
                items = taken if name == "DICT" else taken[1:]
                self.entries += zip(items[::2], items[1::2])
            stack += _left(operation, argument, taken)

    def _take(self, kinds: list[pickletools.StackObject]) -> list[Any]:
        """Pop what an instruction takes, in the order in which it was pushed."""
        taken: list[Any] = []
        if pickletools.stackslice in kinds:
            while (item := self.stack.pop()) is not MARK:
                taken.append(item)
        fixed = kinds.index(pickletools.markobject) if pickletools.markobject in kinds else len(kinds)
        taken += [self.stack.pop() for _ in range(fixed)]
        return taken[::-1]

    def _import(self, module: Any, name: Any) -> Name:
        module, name = (part if isinstance(part, str) else brief(part) for part in (module, name))
        full = printable(f"{OLD_MODULES.get(module, module)}.{name}")
        if len(full) > LONGEST_NAME:
            raise PickleError(f"it imports a name of {len(full):,} letters")
        self.imports[full] = None
        return Name(full)

    def _call(self, function: Any, arguments: Any) -> Call:
        call = Call(function.name if isinstance(function, Name) else "?", arguments)
        self.calls.append(call)
        return call


class _Program:
    """A file as pickletools reads it, which gives no more at once than an honest instruction needs."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, count: int) -> bytes:
        if count > LARGEST_PIECE:
            raise PickleError(f"one instruction asks for {count:,} bytes")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(LARGEST_PIECE)


def _left(operation: pickletools.OpcodeInfo, argument: Any, taken: list[Any]) -> list[Any]:
    """What an instruction leaves on the stack: its argument, its container, or what it took, as a tuple."""
    if not operation.stack_after:
        return []
    if operation.name == "MARK":
        return [MARK]
    if operation.name in ("NONE", "NEWTRUE", "NEWFALSE"):
        return [{"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation.name]]
    if argument is not None:
        return [argument]
    fills_container = operation.stack_before[:1] == operation.stack_after
    return taken[:1] if fills_container else [tuple(taken)]


def brief(value: Any) -> str:
    """The value's repr, at most some 100 characters long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    try:
        return short.repr(value)
    except ValueError:
        return "a number of many digits"


def printable(text: str) -> str:
    """The text with halves of surrogate pairs, which no terminal can print, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
