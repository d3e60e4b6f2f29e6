"""What a pickle says, read without obeying it: nothing is imported, called or built.

A `training_args.bin` is a pickle, and loading one runs whatever it names. This reads its instructions as data (module
`pickletools` of the standard library), keeps plain values and tables of them, and takes all else for unknown.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_BYTES, MOST_VALUES = 4 << 20, 10_000
BROKEN = (  # all that bytes of any kind can make these readers raise
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
UNKNOWN = type("Unknown", (), {"__repr__": lambda _self: "unknown"})()
_MARK = object()
PLAIN = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE"
    " SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
FIXED: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
}
IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


def state_of(path: Path) -> dict[str, Any]:
    """Return the plain values in the state of the object that a pickle, or torch's archive of one, holds.

    Empty where there is none, or where the file is anything else.
    """
    try:
        with path.open("rb") as file:
            content = _inner(file) if zipfile.is_zipfile(file) else _whole(file)
        found = _read(content)
    except BROKEN:
        return {}
    told = {name: _value(value) for name, value in found.items() if isinstance(name, str)}
    return {name: value for name, value in told.items() if _plain(value)}


def _whole(file: Any) -> bytes:
    file.seek(0)
    content: bytes = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("too large for arguments")
    return content


def _inner(file: Any) -> bytes:
    with zipfile.ZipFile(file) as archive:
        names = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(names) != 1 or names[0].file_size > MOST_BYTES:
            raise ValueError("no archive of one pickle")
        return archive.read(names[0])


class _Object:
    """Something that the pickle would build: its state, where it has one."""

    def __init__(self, arguments: Any = UNKNOWN) -> None:
        self.arguments, self.state = arguments, dict[str, Any]()


def _read(content: bytes) -> dict[str, Any]:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    last: dict[str, Any] = {}
    for code, given, _ in pickletools.genops(io.BytesIO(content)):
        name = code.name
        if name in PLAIN:
            stack.append(given)
        elif name in FIXED:
            stack.append(FIXED[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(given or 0)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(given or 0)])
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(state, dict) and isinstance(stack[-1], _Object):
                stack[-1].state = last = state
        elif name not in IGNORED:
            _step(name, stack)
    return stack[-1].state if stack and isinstance(stack[-1], _Object) and stack[-1].state else last


def _step(name: str, stack: list[Any]) -> None:
    """Follow one instruction that takes from the stack."""
    if name in EMPTY:
        stack.append(EMPTY[name]())
    elif name in TUPLES:
        count = TUPLES[name]
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
        items = _since_mark(stack)
        stack.append(tuple(items) if name == "TUPLE" else _table(items) if name == "DICT" else items)
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _set(stack[-1], [key, value])
    elif name == "SETITEMS":
        items = _since_mark(stack)
        _set(stack[-1], items)
    elif name == "APPEND":
        value = stack.pop()
        _add(stack[-1], [value])
    elif name in ("APPENDS", "ADDITEMS"):
        items = _since_mark(stack)
        _add(stack[-1], items)
    elif name in ("GLOBAL", "PERSID", "EXT1", "EXT2", "EXT4"):
        stack.append(UNKNOWN)
    elif name == "STACK_GLOBAL":
        stack[-2:] = [UNKNOWN]
    elif name == "BINPERSID":
        stack[-1:] = [UNKNOWN]
    elif name in ("REDUCE", "NEWOBJ"):
        stack[-2:] = [_Object(stack[-1])]
    elif name == "NEWOBJ_EX":
        stack[-3:] = [_Object()]
    elif name in ("INST", "OBJ"):
        _since_mark(stack)
        stack.append(_Object())
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        _since_mark(stack)
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        raise ValueError(f"{name} is no instruction that arguments need")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _table(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _set(made, items)
    return made


def _set(table: Any, items: list[Any]) -> None:
    if isinstance(table, dict):
        for key, value in zip(items[::2], items[1::2], strict=False):
            if isinstance(key, (str, int)):
                table[key] = value


def _add(values: Any, items: list[Any]) -> None:
    if isinstance(values, list):
        values += items


def _value(value: Any) -> Any:
    """Return the word that an enumeration's member stands for."""
    if isinstance(value, _Object) and isinstance(value.arguments, tuple) and len(value.arguments) == 1:
        return value.arguments[0]
    return value


def _plain(value: Any) -> bool:
    """Say whether a value holds nothing but plain values; what holds itself, or no end of them, does not."""
    waiting, seen = [value], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen + len(waiting) > MOST_VALUES:
            return False
        if isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
        elif not (item is None or isinstance(item, (bool, int, float, str))):
            return False
    return True
