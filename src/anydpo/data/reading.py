"""One source and its dialect: every row to pairs, to judgements, or to a reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anydpo.data.dialect import GENERIC, BadRow, Dialect, detect
from anydpo.data.item import Item, Place
from anydpo.data.judgment import Judgment
from anydpo.data.policy import Options, decide
from anydpo.data.remote import Remote
from anydpo.data.rows import Row
from anydpo.data.scan import Decided, Outcome, Skipped
from anydpo.data.source import File, from_objects, read_rows
from anydpo.data.tables import Table
from anydpo.errors import DataInvalid

OnBad: TypeAlias = Literal["skip", "raise"]


class Rows:
    """Rows that can be read again: from a file, a table, or rows kept in memory."""

    def __init__(self, source: File | Table | list[Any], options: Options) -> None:
        self.source, self._mapping = source, options.mapping
        self._seen = _stamp(source)

    def __call__(self) -> Iterator[Row]:
        if isinstance(self.source, list):
            return from_objects(self.source)
        if isinstance(self.source, Table):
            return iter(self.source)
        self.check_unchanged()
        return read_rows(self.source, self._mapping)

    def check_unchanged(self) -> None:
        """Raise `DataInvalid` where the file is not the one that was loaded."""
        if _stamp(self.source) != self._seen:
            raise DataInvalid(f"{self.source}: the file changed since it was loaded", hint="load it again")


def _stamp(source: File | Table | list[Any]) -> tuple[object, ...] | None:
    if isinstance(source, Remote):
        return source.stamp()
    if not isinstance(source, Path):
        return None
    found = source.stat()
    return found.st_size, found.st_mtime_ns


@dataclass
class Reading:
    """One file, table or iterable, with its dialect and what its reader is told."""

    name: str
    rows: Rows
    dialect: Dialect
    format: str
    options: Options

    def outcomes(self, on_bad: OnBad, rows: Iterable[Row] | None = None) -> Iterator[Outcome]:
        """Yield what became of each row (of all rows, or of these); not for dialects that group."""
        if (read_row := self.dialect.read) is None:
            for item in self.items(on_bad, rows):
                if isinstance(item, Skipped):
                    yield item
                else:
                    yield from decided(self, item, on_bad)
            return
        name = self.name
        for value, line, error in self.rows() if rows is None else rows:
            try:
                if error is not None:
                    raise BadRow("parse_error", error)
                if type(value) is not dict:
                    raise BadRow("unknown_format", "the row is not an object")
                yield read_row(value, {"source": f"{name}:{line}"})
            except BadRow as bad:
                yield self._skipped(bad, value, line, on_bad)

    def items(self, on_bad: OnBad, rows: Iterable[Row] | None = None) -> Iterator[Item | Skipped]:
        """Yield what each row says of an item."""
        read_item = self.dialect.item
        assert read_item is not None
        for value, line, error in self.rows() if rows is None else rows:
            try:
                if error is not None:
                    raise BadRow("parse_error", error)
                if type(value) is not dict:
                    raise BadRow("unknown_format", "the row is not an object")
                item = read_item(value, self.options)
            except BadRow as bad:
                yield self._skipped(bad, value, line, on_bad)
                continue
            place = Place(self.name, line)
            item.places = [place]
            for verdict in (*(item.verdicts or ()), *(item.said or ())):
                verdict.place = place
            yield item

    def _skipped(self, bad: BadRow, value: object, line: int, on_bad: OnBad) -> Skipped:
        return skipped(Place(self.name, line), BadRow(*self._named(bad, value)), on_bad)

    def _named(self, bad: BadRow, value: object) -> tuple[str, str]:
        """Say so when a row that does not fit is a row of another dialect."""
        if bad.reason in ("missing_field", "unknown_format") and isinstance(value, dict):
            other = detect([value])
            if other is not None and other.rank < GENERIC and _reader(other) is not _reader(self.dialect):
                return "unknown_format", f"a {other.name} row in a {self.format} file"
        return bad.reason, bad.detail


def _reader(dialect: Dialect) -> object:
    return dialect.read or dialect.item


def skipped(place: Place, bad: BadRow, on_bad: OnBad) -> Skipped:
    """Return the skipped row, or raise `DataInvalid` where the user wants to stop at it."""
    if on_bad == "raise":
        raise DataInvalid(f"{place}: {bad.reason}: {bad.detail}")
    return Skipped(place.file, place.line, bad.reason, bad.detail)


def decided(reading: Reading, item: Item, on_bad: OnBad) -> Iterator[Outcome]:
    """Yield the pairs that the policy makes of an item, and each of its rows that stands in none."""
    try:
        if item.left_out is not None:
            raise BadRow(*item.left_out)
        decision = (reading.dialect.decide or decide)(item, reading.options.policy)
    except BadRow as bad:
        for place in item.places:
            yield skipped(place, bad, on_bad)
        return
    for place, reason in decision.left_out:
        yield skipped(place, reason, on_bad)
    rows = len(item.places) - len(decision.left_out)
    if len(decision.pairs) == 1 and rows == 1:
        yield decision.pairs[0]
    elif decision.pairs:
        yield Decided(tuple(decision.pairs), rows)


class Group:
    """Readings of one dialect that groups rows: an item may have rows in all of them."""

    def __init__(self, readings: list[Reading]) -> None:
        self._readings = readings

    def outcomes(self, on_bad: OnBad) -> Iterator[Outcome]:
        """Yield rows that count for nothing as they come, then each item in the order of its first row."""
        items: dict[str, Item] = {}
        for reading in self._readings:
            for item in reading.items(on_bad):
                if isinstance(item, Skipped):
                    yield item
                elif item.left_out is not None:
                    yield from decided(reading, item, on_bad)
                else:
                    _collect(items, item)
        for item in items.values():
            yield from decided(self._readings[0], item, on_bad)

    def judgments(self) -> Iterator[Judgment]:
        """Yield every judgement, those of test questions included."""
        items: dict[str, Item] = {}
        for reading in self._readings:
            for item in reading.items("skip"):
                if not isinstance(item, Skipped):
                    _collect(items, item)
        for item in items.values():
            yield from item.judgments()


def _collect(items: dict[str, Item], item: Item) -> None:
    if (first := items.get(item.key)) is not None:
        first.absorb(item)
    else:
        items[item.key] = item


def judgments(reading: Reading) -> Iterator[Judgment]:
    """Yield the judgements of a dialect whose rows are items."""
    for item in reading.items("skip"):
        if not isinstance(item, Skipped):
            yield from item.judgments()
