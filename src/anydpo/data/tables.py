"""Tables in, numbered rows out: CSV and TSV, Parquet, Arrow tables, pandas frames, `datasets` data sets."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from typing import IO, Any

from anydpo.data.rows import LONGEST_ROW, Row
from anydpo.errors import DataInvalid

DELIMITERS = ",;\t|"
BATCH = 1024  # rows of a columnar table turned into objects at a time


def csv_rows(file: IO[bytes], name: str, *, encoding: str = "utf-8", delimiter: str | None = None) -> Iterator[Row]:
    """Yield the rows of a CSV file as objects, each with the line on which it begins; blank lines are not rows."""
    csv.field_size_limit(LONGEST_ROW)
    text = io.TextIOWrapper(file, encoding.replace("utf-8", "utf-8-sig"), errors="surrogateescape", newline="")
    try:
        yield from _csv_rows(text, name, delimiter)
    finally:
        with contextlib.suppress(ValueError):  # closed already, where the iteration was given up
            text.detach()  # whoever opened the file closes it


def _csv_rows(text: io.TextIOWrapper, name: str, delimiter: str | None) -> Iterator[Row]:
    first, blank = text.readline(), 0
    while first and not first.strip():
        first, blank = text.readline(), blank + 1
    if not first:
        return
    separator = delimiter or max(DELIMITERS, key=_outside_quotes(first).count)
    reader = csv.reader(_again(first, text), delimiter=separator, strict=True)
    try:
        columns = _columns(next(reader), name)
    except csv.Error as exc:
        raise DataInvalid(f"{name}:1: the header is not CSV: {exc}") from exc
    while True:
        line = blank + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            if "unexpected end" in str(exc):
                why = "a quote that opens here is never closed; the rest of the file is not read"
                yield Row(None, line, why)
                return
            yield Row(None, line, f"not CSV: {exc}")
            continue
        if cells:
            yield _row(columns, cells, line)


def _row(columns: list[str], cells: list[str], line: int) -> Row:
    if len(cells) != len(columns):
        return Row(None, line, f"{len(cells)} cells, but the header has {len(columns)}")
    if not all(map(_encodable, cells)):
        return Row(None, line, 'not UTF-8; if all rows are so, say encoding = "cp1252" in the mapping')
    return Row(dict(zip(columns, cells, strict=True)), line)


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _columns(header: list[str], name: str) -> list[str]:
    columns = [cell.strip() or f"column {at}" for at, cell in enumerate(header, 1)]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataInvalid(f"{name}: two columns are called {twice[0]!r}", hint="rename one of them")
    return columns


def _encodable(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def parquet_rows(file: IO[bytes], name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file, numbered from 1, a batch in memory at a time."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise DataInvalid(f"{name}: reading Parquet needs pyarrow", hint="pip install 'anydpo[data]'") from exc
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH):
            for value in batch.to_pylist():
                number += 1
                yield Row(without_nulls(value), number)
    except pa.ArrowException as exc:
        raise DataInvalid(f"{name}: not a Parquet file that can be read: {exc}") from exc


def without_nulls(row: Any) -> Any:
    """Return a table's row without the nulls it invents inside structs; columns themselves may be null."""
    return {key: _inner(value) for key, value in row.items()} if isinstance(row, dict) else row


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inner(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_inner(one) for one in value]
    return value


class Table:
    """The rows of a table held by another library, read again each time."""

    def __init__(self, table: Any) -> None:
        self._table, self.kind = table, _kind_of(table)

    def __iter__(self) -> Iterator[Row]:
        rows = {"arrow": _arrow_rows, "pandas": _pandas_rows, "datasets": _datasets_rows}[self.kind](self._table)
        return (Row(without_nulls(value), number) for number, value in enumerate(rows, 1))


def is_table(source: object) -> bool:
    """Say whether this is a table of a library we know, importing none."""
    return _kind_of(source) != ""


def _kind_of(source: object) -> str:
    made_in = type(source).__module__.partition(".")[0]
    name = type(source).__name__
    if made_in == "pyarrow" and name in ("Table", "RecordBatch"):
        return "arrow"
    if made_in == "pandas" and name == "DataFrame":
        return "pandas"
    return "datasets" if made_in == "datasets" and name in ("Dataset", "IterableDataset") else ""


def _arrow_rows(table: Any) -> Iterator[dict[str, Any]]:
    for at in range(0, table.num_rows, BATCH):
        yield from table.slice(at, BATCH).to_pylist()


def _pandas_rows(frame: Any) -> Iterator[dict[str, Any]]:
    names = [str(name) for name in frame.columns]
    for values in frame.itertuples(index=False, name=None):
        yield {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    """Return numpy's arrays and numbers as Python's own, and "not a number" as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    return value


def _datasets_rows(dataset: Any) -> Iterator[dict[str, Any]]:
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ == "Image":  # the bytes as they are: decoding needs another package, and loses them
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    yield from dataset
