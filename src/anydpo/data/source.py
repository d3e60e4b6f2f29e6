"""Files in, numbered rows out: JSON lines and arrays, CSV, Parquet; plain, `.gz` or `.zst`; one row at a time."""

from __future__ import annotations

import codecs
import difflib
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import orjson

from anydpo.data.remote import Remote, expand_url, is_url
from anydpo.data.rows import LONGEST_ROW, Row
from anydpo.errors import DataInvalid

if TYPE_CHECKING:
    from anydpo.data.mapping import ColumnMapping

File: TypeAlias = Path | Remote

CSV = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".ndjson", ".json", *CSV, ".parquet")
COMPRESSED = (".gz", ".zst")
BOM = codecs.BOM_UTF8
BLOCK = 1 << 20  # bytes asked for at a time


def expand(source: str | Path) -> Sequence[File]:
    """Return the files that a path, a folder, a glob or a URL names, in a stable order."""
    if isinstance(source, str) and is_url(source):
        return expand_url(source, readable_name)
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and readable_name(p))
        if not found:
            raise DataInvalid(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(str(source)):
        if found := sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file()):  # noqa: PTH207
            return found
        raise DataInvalid(f"{source}: no file matches")
    near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, near, n=1)
    raise DataInvalid(f"{path}: no such file", hint=f"did you mean {path.parent / close[0]}?" if close else None)


def read_rows(path: File, mapping: ColumnMapping | None = None) -> Iterator[Row]:
    """Yield every row of one file with its line number (1-based); blank lines are not rows."""
    suffix = inner_suffix(path)
    if suffix not in SUFFIXES and path.suffix:
        raise DataInvalid(
            f"{path}: cannot read {path.suffix} files",
            hint=f"one of {', '.join(SUFFIXES)}, plain or {' '.join(COMPRESSED)}",
        )
    try:
        with open_binary(path) as file:
            if suffix in CSV:
                from anydpo.data.tables import csv_rows

                encoding, delimiter = (mapping.encoding, mapping.delimiter) if mapping else ("utf-8", None)
                yield from csv_rows(file, str(path), encoding=encoding, delimiter=delimiter)
            elif suffix == ".parquet":
                from anydpo.data.tables import parquet_rows

                yield from parquet_rows(file, str(path))
            else:
                yield from _json_rows(file, suffix)
    except (OSError, EOFError, zlib.error, _zstd_error()) as exc:
        raise DataInvalid(f"{path}: {_reason(exc)}", hint="the file is damaged or cut short; fetch it again") from exc


def _json_rows(file: IO[bytes], suffix: str) -> Iterator[Row]:
    head = file.read(BLOCK)
    head = head.removeprefix(BOM)
    rest = _Chained(head, file)
    if head.lstrip()[:1] == b"[":
        yield from _array_rows(rest)
    elif suffix == ".json" and not _first_line_is_row(head):
        yield from _single_object(rest)
    else:
        yield from _line_rows(rest)


def open_binary(path: File) -> IO[bytes]:
    """Open a plain, `.gz` or `.zst` file for reading bytes."""
    if path.suffix == ".gz":
        unpacked: Any = (
            gzip.open(path, "rb")  # noqa: SIM115 - the caller closes it
            if isinstance(path, Path)
            else gzip.GzipFile(fileobj=path.open("rb"), mode="rb")
        )
        return cast("IO[bytes]", unpacked)
    raw: IO[bytes] = path.open("rb")
    if path.suffix == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, closefd=True), BLOCK)
    return raw


def parse(line: bytes) -> tuple[Any, str | None]:
    """Return (value, None), or (None, why) for a line that is not one JSON value in UTF-8.

    NaN and Infinity, which some writers emit and strict JSON forbids, are read as null.
    """
    try:
        return orjson.loads(line), None
    except orjson.JSONDecodeError as exc:
        why = str(exc)
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=lambda _: None)
    except UnicodeDecodeError as exc:
        return None, f"not UTF-8 at byte {exc.start + 1} of the line (0x{line[exc.start]:02x})"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError:
        return None, why
    return (value, None) if _encodable(value) else (None, _why_not(text))


def _why_not(text: str) -> str:
    if lone := re.search(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", text):
        return f"a lone surrogate {lone[0]}, which is no character"
    if any(0xDC80 <= ord(letter) <= 0xDCFF for letter in text):  # how bytes that are no UTF-8 were decoded
        return "text that is not UTF-8"
    return "nested too deeply, or a number that is too large"


class _Chained:
    """The bytes already looked at, then the rest of the file."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = io.BytesIO(head), rest

    def read(self, size: int) -> bytes:
        return self._head.read(size) or self._rest.read(size)

    def lines(self) -> Iterator[bytes]:
        tail = b""
        for line in self._head:
            if line.endswith(b"\n"):
                yield line
            else:
                tail = line
        for line in self._rest:
            yield tail + line
            tail = b""
        if tail:
            yield tail


def _line_rows(file: _Chained) -> Iterator[Row]:
    for number, line in enumerate(file.lines(), 1):
        try:
            yield Row(orjson.loads(line), number)
        except orjson.JSONDecodeError:
            if line := line.strip():
                value, why = parse(line)
                yield Row(value, number, why)


def _array_rows(file: _Chained) -> Iterator[Row]:
    """Yield the elements of a top-level JSON array without holding the array."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    text, at, line, done = "", 0, 1, False

    def more() -> bool:
        nonlocal text, at, done
        if done:
            return False
        block = file.read(BLOCK)
        done = not block
        text, at = text[at:] + utf8.decode(block, final=done), 0
        return not done

    def skip(characters: str) -> str:
        nonlocal at, line
        while True:
            while at < len(text) and text[at] in characters:
                line += text[at] == "\n"
                at += 1
            if at < len(text) or not more():
                return text[at : at + 1]

    skip(" \t\r\n")
    at += 1  # the opening bracket
    while (first := skip(" \t\r\n,")) != "]":
        if not first:
            yield Row(None, line, "the array is not closed; the file is cut short")
            return
        try:
            value, end = decoder.raw_decode(text, at)
            if end == len(text) and more():
                continue  # a number might go on in the next block
        except RecursionError:
            yield Row(None, line, "nested too deeply; the rest of the array is not read")
            return
        except ValueError as exc:
            if len(text) - at < LONGEST_ROW and more():
                continue
            yield Row(None, line, f"{exc}; the rest of the array is not read")
            return
        yield (
            Row(value, line)
            if _encodable(value)
            else Row(None, line, _why_not(text[at:end]) if "\\u" in text[at:end] else "text that is not UTF-8")
        )
        line += text.count("\n", at, end)
        at = end


def _single_object(file: _Chained) -> Iterator[Row]:
    data = b"".join(iter(lambda: file.read(BLOCK), b""))
    value, why = parse(data)
    if isinstance(value, dict):
        lists = {k: v for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
        if len(lists) == 1 and len(value) <= 2:
            (rows,) = lists.values()
            yield from (Row(item, number) for number, item in enumerate(rows, 1))
            return
    if data.strip():
        yield Row(value, 1, why)


def _first_line_is_row(head: bytes) -> bool:
    first, newline, _ = head.lstrip().partition(b"\n")
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return bool(newline)


def _encodable(value: object) -> bool:
    """Say whether a value can be written as JSON in UTF-8: no lone surrogate, not nested without end."""
    try:
        orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        return False
    return True


def readable_name(path: File) -> bool:
    """Say whether a file found in a folder is one to read."""
    return inner_suffix(path) in SUFFIXES and not path.name.startswith(".")


def inner_suffix(path: File) -> str:
    """Return the suffix that tells the format, beneath that of a compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def _reason(exc: BaseException) -> str:
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)


def from_objects(rows: Iterable[Any]) -> Iterator[Row]:
    """Number the rows of an iterable from 1."""
    for number, value in enumerate(rows, 1):
        if _encodable(value):
            yield Row(value, number)
        else:
            yield Row(None, number, "text that is not UTF-8, nested too deeply, or a number that is too large")
