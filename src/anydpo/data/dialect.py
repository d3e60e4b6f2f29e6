"""What a dialect is, the table of them, and how one is told by its rows.

A reader is one function from a row to a pair, or, where pairs have yet to be made of judgements, from a row to an
item on which a policy decides. It registers itself under the name users see, with a signature (which keys, of which
types) that detection tries in order, most specific first. A writer is the way back.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from anydpo.data.pair import PreferencePair

if TYPE_CHECKING:
    from anydpo.data.item import Item
    from anydpo.data.policy import Decision, Options, Policy

Fields: TypeAlias = Mapping[str, Any]
Reader: TypeAlias = Callable[[Fields, dict[str, Any]], PreferencePair]
ItemReader: TypeAlias = "Callable[[Fields, Options], Item]"
Decider: TypeAlias = "Callable[[Item, Policy], Decision]"

GENERIC = 85  # signatures of this rank and above say too little to call a row one of theirs


class BadRow(Exception):
    """This row is not a pair; `reason` is one of the fixed words, `detail` says what stands there."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Dialect:
    """One way in which people write preference rows.

    A row is a pair (`read`), or holds judgements of an item (`item`), of which a policy makes pairs; `grouped` says
    that rows whose items have the same key are one item, wherever they stand.
    """

    name: str
    about: str
    keys: tuple[str, ...]
    fits: Callable[[Fields], bool]
    rank: int
    read: Reader | None = None
    item: ItemReader | None = None
    grouped: bool = False
    decide: Decider | None = None
    variant: Callable[[Sequence[Fields]], str | None] | None = None


@dataclass(frozen=True)
class Writer:
    """How pairs are written in one dialect, and which of their features it has no place for."""

    name: str
    about: str
    loses: frozenset[str]
    refuses: frozenset[str]
    row: Callable[[PreferencePair], dict[str, Any]]


DIALECTS: dict[str, Dialect] = {}
WRITERS: dict[str, Writer] = {}


def reader(
    name: str,
    about: str,
    *,
    keys: str,
    rank: int,
    fits: Callable[[Fields], bool],
    variant: Callable[[Sequence[Fields]], str | None] | None = None,
) -> Callable[[Reader], Reader]:
    """Register a reader. `rank` orders signatures: the lowest, most specific one is tried first."""

    def register(read: Reader) -> Reader:
        DIALECTS[name] = Dialect(name, about, tuple(keys.split()), fits, rank, read=read, variant=variant)
        return read

    return register


def judged(
    name: str,
    about: str,
    *,
    keys: str,
    rank: int,
    fits: Callable[[Fields], bool],
    grouped: bool = False,
    decide: Decider | None = None,
) -> Callable[[ItemReader], ItemReader]:
    """Register a reader of judgements; `decide` replaces the policies all dialects share."""

    def register(item: ItemReader) -> ItemReader:
        DIALECTS[name] = Dialect(
            name, about, tuple(keys.split()), fits, rank, item=item, grouped=grouped, decide=decide
        )
        return item

    return register


def writer(
    name: str, about: str, *, loses: str = "", refuses: str = ""
) -> Callable[[Callable[[PreferencePair], dict[str, Any]]], Callable[[PreferencePair], dict[str, Any]]]:
    """Register a writer with the features it loses (a note) and those it cannot write at all (an error)."""

    def register(row: Callable[[PreferencePair], dict[str, Any]]) -> Callable[[PreferencePair], dict[str, Any]]:
        WRITERS[name] = Writer(name, about, frozenset(loses.split()), frozenset(refuses.split()), row)
        return row

    return register


def detect(rows: Sequence[Any]) -> Dialect | None:
    """Return the most specific dialect whose signature fits most of these rows."""
    objects = [row for row in rows if isinstance(row, dict)]
    best: Dialect | None = None
    most = 0
    for dialect in sorted(DIALECTS.values(), key=lambda d: d.rank):
        fitting = sum(map(dialect.fits, objects))
        if fitting > most:
            best, most = dialect, fitting
    return best if most * 2 > len(objects) else None


def closest(keys: Sequence[str]) -> list[Dialect]:
    """Return the dialects whose keys look most like these, for the error about an unknown one."""

    def likeness(dialect: Dialect) -> float:
        near = [difflib.get_close_matches(key, keys, n=1, cutoff=0.6) for key in dialect.keys]
        return sum(map(len, near)) / max(len(dialect.keys), len(keys), 1)

    scored = sorted(((likeness(d), -d.rank, d.name, d) for d in DIALECTS.values()), reverse=True)
    return [dialect for score, _, _, dialect in scored[:3] if score > 0]
