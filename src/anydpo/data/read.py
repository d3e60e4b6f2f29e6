"""From any source to a `PreferenceDataset`: find the files, detect the dialect, read every row once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anydpo.data import aws, hh, openai, trl  # noqa: F401 - each registers its dialects
from anydpo.data.dataset import PreferenceDataset, Skipped
from anydpo.data.dialect import DIALECTS, BadRow, Dialect, closest, detect
from anydpo.data.pair import PreferencePair
from anydpo.data.source import Row, expand, from_objects, read_rows
from anydpo.errors import DataInvalid

OnBad: TypeAlias = Literal["skip", "raise"]
Source: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Mapping[str, Any]]"

SAMPLE = 200  # rows looked at to tell the dialect


def load(source: Source, format: str | None = None, *, on_bad: OnBad = "skip") -> PreferenceDataset:  # noqa: A002
    """Read preference data and return it as pairs, with every row that is not one named by file and line.

    `source` is a path, a list of paths, a folder, a glob, or an iterable of rows; the dialect is detected
    unless `format` names it. The file is read once here, so that what is wrong is known on return, and again
    each time the data set is iterated; memory does not grow with the file. Raises `DataInvalid` for a file
    that cannot be read, an unknown dialect, no pair at all, or, with `on_bad="raise"`, the first bad row.
    """
    dataset = read(source, format, on_bad=on_bad)
    if not len(dataset):
        raise no_pairs(dataset)
    return dataset


def read(source: Source, format: str | None = None, *, on_bad: OnBad = "skip") -> PreferenceDataset:  # noqa: A002
    """Return a data set that may be empty; it is scanned when it is first asked for its length or the like."""
    if format is not None and format not in DIALECTS:
        raise DataInvalid(f"unknown format {format!r}", hint=f"one of {', '.join(sorted(DIALECTS))}")
    readings = [_Reading(name, rows, format) for name, rows in _inputs(source)]
    names = list(dict.fromkeys(reading.format for reading in readings))
    return PreferenceDataset(
        lambda: itertools.chain.from_iterable(reading.outcomes(on_bad) for reading in readings),
        format=names[0] if len(names) == 1 else "+".join(names),
        files=tuple(reading.name for reading in readings),
    )


def no_pairs(dataset: PreferenceDataset) -> DataInvalid:
    """Return the error about a source in which not one row is a pair."""
    first = dataset.skipped_rows[0] if dataset.skipped_rows else None
    reasons = ", ".join(f"{count} {reason}" for reason, count in dataset.skipped.items())
    return DataInvalid(
        f"{', '.join(dataset.files)}: no row of {dataset.rows} is a pair ({reasons})",
        hint=f"the first: {first.file}:{first.line}: {first.reason}: {first.detail}" if first else None,
    )


class _Reading:
    """One file, or one iterable, with its dialect."""

    def __init__(self, name: str, rows: "_Rows", format: str | None) -> None:  # noqa: A002, UP037
        self.name, self._rows = name, rows
        self.dialect, self.format = (
            (DIALECTS[format], format) if format else _dialect_of(name, list(itertools.islice(rows(), SAMPLE)))
        )

    def outcomes(self, on_bad: OnBad) -> Iterator[PreferencePair | Skipped]:
        name, read_row = self.name, self.dialect.read
        for value, line, error in self._rows():
            try:
                if error is not None:
                    raise BadRow("parse_error", error)
                if type(value) is not dict:
                    raise BadRow("unknown_format", "the row is not an object")
                yield read_row(value, {"source": f"{name}:{line}"})
            except BadRow as bad:
                skipped = Skipped(name, line, *self._named(bad, value))
                if on_bad == "raise":
                    raise DataInvalid(f"{name}:{line}: {skipped.reason}: {skipped.detail}") from None
                yield skipped

    def _named(self, bad: BadRow, value: object) -> tuple[str, str]:
        """Say so when a row that does not fit is a row of another dialect."""
        if bad.reason in ("missing_field", "unknown_format") and isinstance(value, dict):
            other = detect([value])
            if other is not None and other.read is not self.dialect.read:
                return "unknown_format", f"a {other.name} row in a {self.format} file"
        return bad.reason, bad.detail


class _Rows:
    """Rows that can be read again: from a file, or from rows kept in memory."""

    def __init__(self, source: Path | list[Any]) -> None:
        self._source = source
        self._seen = _stamp(source)

    def __call__(self) -> Iterator[Row]:
        if isinstance(self._source, list):
            return from_objects(self._source)
        if _stamp(self._source) != self._seen:
            raise DataInvalid(f"{self._source}: the file changed since it was loaded", hint="load it again")
        return read_rows(self._source)


def _stamp(source: Path | list[Any]) -> tuple[int, int] | None:
    if isinstance(source, list):
        return None
    found = source.stat()
    return found.st_size, found.st_mtime_ns


def _inputs(source: Source) -> Iterator[tuple[str, _Rows]]:
    if isinstance(source, (str, PathLike)):
        yield from ((str(path), _Rows(path)) for path in expand(Path(source)))
        return
    rows = list(source)
    if rows and all(isinstance(item, (str, PathLike)) for item in rows):
        for item in rows:
            yield from _inputs(item)  # type: ignore[arg-type]
        return
    if not rows:
        raise DataInvalid("no rows: the source is empty")
    yield "rows", _Rows(rows)


def _dialect_of(name: str, sample: list[Row]) -> tuple[Dialect, str]:
    rows = [row.value for row in sample if row.error is None]
    if not sample:
        raise DataInvalid(f"{name}: the file is empty")
    if not rows:
        raise DataInvalid(f"{name}:{sample[0].line}: parse_error: {sample[0].error}", hint="no row could be parsed")
    if (found := detect(rows)) is None:
        raise _unknown_dialect(name, rows)
    fitting = [row for row in rows if isinstance(row, dict) and found.fits(row)]
    variant = found.variant(fitting) if found.variant else None
    return (DIALECTS[variant], variant) if variant else (found, found.name)


def _unknown_dialect(name: str, rows: Sequence[Any]) -> DataInvalid:
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        return DataInvalid(
            f"{name}: the rows are not JSON objects", hint="preference data is one object per line, or an array of them"
        )
    keys = list(dict.fromkeys(str(key) for row in objects for key in row))
    near = closest(keys)
    return DataInvalid(
        f"{name}: unknown dialect; the rows have the keys {', '.join(keys[:20])}",
        hint="closest: " + "; ".join(f"{d.name} ({', '.join(d.keys)})" for d in near)
        if near
        else f"known dialects: {', '.join(sorted(DIALECTS))}",
    )
