"""Which column of an annotation file means what: the user's mapping, from TOML, a table, or `KEY=COLUMN` words."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from anydpo.data.judgment import Choice
from anydpo.errors import DataInvalid

Labels: TypeAlias = "dict[str, tuple[Choice | None, float | None]]"

KEYS = (
    "task annotator prompt system response_a response_b chosen rejected label strength justification status gold "
    "seconds model_a model_b batch"
).split()
TABLES = ("columns", "labels", "likert", "drop", "policy", "encoding", "delimiter")
SIDES: dict[str, Choice | None] = {"A": "first", "B": "second", "TIE": "tie", "SKIP": None}


@dataclass(frozen=True)
class Likert:
    """A scale from `low`'s end to the other answer's; the middle is a tie."""

    min: float
    max: float
    low: Choice

    def read(self, value: float) -> tuple[Choice, float]:
        """Return (choice, strength) of a point of the scale, strength in points from its middle."""
        distance = value - (self.min + self.max) / 2
        if distance == 0:
            return "tie", 0.0
        high: Choice = "second" if self.low == "first" else "first"
        return (self.low if distance < 0 else high), abs(distance)


@dataclass(frozen=True)
class ColumnMapping:
    """The user's word on a file: columns by key, what labels mean, the scale, which rows to leave out.

    `drop` maps a key or a column to the values (lower case) whose rows count as skipped by the annotator.
    """

    columns: dict[str, str] = field(default_factory=dict[str, str])
    label_columns: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict[str, tuple["Choice | None", "float | None"]])
    likert: Likert | None = None
    drop: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    policy: dict[str, Any] = field(default_factory=dict[str, Any])
    encoding: str = "utf-8"
    delimiter: str | None = None

    @property
    def names_columns(self) -> bool:
        """Whether this says what columns mean; a mapping may hold a policy alone."""
        return bool(self.columns or self.label_columns)

    @property
    def scores(self) -> dict[str, str]:
        """The columns of rubric dimensions: `DIM`, `DIM.a` or `DIM.b` → column."""
        return {key.removeprefix("score."): name for key, name in self.columns.items() if key.startswith("score.")}

    @classmethod
    def of(cls, given: ColumnMapping | Mapping[str, Any] | str | PathLike[str] | None) -> ColumnMapping | None:
        """Return the mapping in a TOML file or a table; raises `DataInvalid` naming what is wrong in it."""
        if given is None or isinstance(given, ColumnMapping):
            return given
        if isinstance(given, Mapping):
            return _mapping(given if set(given) & set(TABLES) else {"columns": given}, "mapping")
        path = Path(given)
        try:
            return _mapping(tomllib.loads(path.read_text("utf-8-sig")), str(path))
        except OSError as exc:
            raise DataInvalid(f"{path}: {exc.strerror or exc}", hint="--mapping names a TOML file") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise DataInvalid(f"{path}: not TOML: {exc}", hint='text goes in quotes: label = "preference"') from exc

    @classmethod
    def from_words(cls, words: Iterable[str], base: str | PathLike[str] | None = None) -> ColumnMapping | None:
        """Return what `KEY=COLUMN` words say, over the mapping of a file; `label` may be given more than once."""
        columns: dict[str, Any] = {}
        for word in words:
            key, equals, column = word.partition("=")
            if not equals or not column:
                raise DataInvalid(f"--map {word}: expected KEY=COLUMN", hint="--map label=preference")
            if key == "label" and key in columns:
                columns[key] = [*([columns[key]] if isinstance(columns[key], str) else columns[key]), column]
            else:
                columns[key] = column
        table: dict[str, Any] = {}
        if base is not None:
            cls.of(base)  # says what is wrong in the file, by its name
            table = tomllib.loads(Path(base).read_text("utf-8-sig"))
        elif not columns:
            return None
        return _mapping({**table, "columns": {**_flat(table.get("columns", {})), **columns}}, "mapping")


def _mapping(table: Mapping[str, Any], where: str) -> ColumnMapping:
    for name, value in table.items():
        if name not in TABLES:
            raise DataInvalid(f"{where}: no table {name!r}", hint=_nearest(name, TABLES))
        if name not in ("encoding", "delimiter") and not isinstance(value, Mapping):
            raise DataInvalid(f"{where}: {name} is {value!r}, expected a table")
    columns = _flat(table.get("columns", {}))
    labels = columns.pop("label", ())
    for key, column in columns.items():
        if key not in KEYS and not key.startswith("score."):
            raise DataInvalid(f"{where}: no column key {key!r}", hint=_nearest(key, [*KEYS, "score.DIM"]))
        if not isinstance(column, str):
            raise DataInvalid(f"{where}: {key} is {column!r}, expected a column's name")
    given = [labels] if isinstance(labels, str) else list(labels)
    if not all(isinstance(name, str) for name in given):
        raise DataInvalid(f"{where}: label is {labels!r}, expected a column's name or a list of them")
    encoding = str(table.get("encoding", "utf-8"))
    try:
        "".encode(encoding)
    except LookupError:
        raise DataInvalid(f"{where}: no encoding {encoding!r}", hint='such as "utf-8", "cp1252", "latin-1"') from None
    return ColumnMapping(
        columns,
        tuple(given),
        {str(word).strip().casefold(): _meaning(word, said, where) for word, said in table.get("labels", {}).items()},
        _likert(table["likert"], where) if "likert" in table else None,
        {str(key): _values(said) for key, said in table.get("drop", {}).items()},
        dict(table.get("policy", {})),
        encoding,
        table.get("delimiter"),
    )


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return `score.tone.a = …`, which TOML nests, under its dotted key."""
    made: dict[str, Any] = {}
    for key, value in table.items():
        made |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return made


def _meaning(word: str, said: object, where: str) -> tuple[Choice | None, float | None]:
    side, colon, strength = str(said).partition(":")
    try:
        return SIDES[side.strip().upper()], float(strength) if colon else None
    except (KeyError, ValueError):
        hint = '"A", "B", "tie" or "skip", with a strength after a colon: "A:2"'
        raise DataInvalid(f"{where}: the label {word!r} means {said!r}", hint=hint) from None


def _likert(table: Mapping[str, Any], where: str) -> Likert:
    low, high = table.get("min"), table.get("max")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or not low < high:
        raise DataInvalid(f"{where}: likert has min {low!r} and max {high!r}", hint="min = 1\nmax = 7")
    end = table.get("low")
    if end is None:
        raise DataInvalid(
            f"{where}: likert does not say which answer its low end prefers; there is no default",
            hint=f'low = "A" if {low:g} means that A is better, low = "B" if it means that B is',
        )
    if str(end).upper() not in ("A", "B"):
        raise DataInvalid(f"{where}: likert has low {end!r}", hint='"A" or "B"')
    for name in table:
        if name not in ("min", "max", "low"):
            raise DataInvalid(f"{where}: likert has no {name!r}", hint=_nearest(name, ("min", "max", "low")))
    return Likert(float(low), float(high), "first" if str(end).upper() == "A" else "second")


def _values(said: object) -> frozenset[str]:
    values = said if isinstance(said, list) else [said]
    return frozenset(str(value).strip().casefold() for value in values)


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
