"""What a report says, before it is decided where: a title, and sections of tables, bars and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from anydpo.data.finding import Check


@dataclass(frozen=True)
class Mark:
    """A cell that names one of several runs: `key` counts from 0 and is shown as a letter, the same everywhere."""

    key: int
    text: str = ""

    @property
    def letter(self) -> str:
        """A to Z, then A1 to Z1 …"""
        again, at = divmod(self.key, 26)
        return chr(ord("A") + at) + (str(again) if again else "")

    def __str__(self) -> str:
        return f"{self.letter} {self.text}".rstrip()


@dataclass(frozen=True)
class Strong:
    """A cell that stands out, such as the best of its column."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Rows under columns; columns of numbers stand right. A pinned first column stays where a wide table is moved."""

    columns: Sequence[object]
    rows: Sequence[Sequence[object]]
    pinned: bool = False


@dataclass(frozen=True)
class Bars:
    """Shares between 0 and 1, each with a label and the text of its value; `middle` marks the share that is even."""

    rows: Sequence[tuple[str, float, str]]
    middle: float | None = None


@dataclass(frozen=True)
class Findings:
    """What was found, worst first."""

    checks: Sequence[Check]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Line:
    """One run in a chart: points from left to right."""

    mark: Mark
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Lines:
    """A chart of lines over one axis that reaches down to `begin`, each with its name at its end."""

    title: str
    axis: str
    lines: Sequence[Line]
    begin: float | None = 0
    ideal: bool = False  # with the line on which both axes say the same


@dataclass(frozen=True)
class Point:
    """One run in a chart of points; `low` and `high` are the ends of its interval."""

    mark: Mark
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Points:
    """A chart of points over two axes."""

    title: str
    x: str
    y: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Ranges:
    """Figures with their intervals, one under the other on one scale; a row is (run, value, low, high, text)."""

    title: str
    rows: Sequence[tuple[Mark, float, float | None, float | None, str]]
    middle: float | None = None


@dataclass(frozen=True)
class Spans:
    """What took how long, from a common beginning: a row is (run, seconds waited, seconds worked, text)."""

    rows: Sequence[tuple[Mark, float, float, str]]


@dataclass(frozen=True)
class Sides:
    """One question and its answers beside one another: `answers` are (heading, text)."""

    question: str
    answers: Sequence[tuple[object, str]]


@dataclass(frozen=True)
class Views:
    """The same shown in several ways, one at a time on a screen and all on paper: `views` are (name, blocks)."""

    name: str
    views: Sequence[tuple[str, Sequence[Block]]]


Block: TypeAlias = "Table | Bars | Findings | Text | Lines | Points | Ranges | Spans | Sides | Views"


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `note` says how to read it."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Document:
    """A report: `verdict` is one sentence, and `ok`, `look` or `bad` its colour."""

    title: str
    summary: Sequence[str]
    verdict: str
    tone: str
    sections: Sequence[Section]
    wide: bool = False  # for tables of many columns


def figure(value: object, digits: int = 3) -> str:
    """Return a value as people read it; None is undefined."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percent(value: float | None) -> str:
    """Return a share in per cent, or a dash where there is nothing to share."""
    return "–" if value is None else f"{value:.1%}"  # noqa: RUF001


def verdict_of(errors: int, warnings: int) -> tuple[str, str]:
    """Return (sentence, tone) for so many findings."""
    parts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    if not parts:
        return "nothing to object to", "ok"
    return " and ".join(parts), "bad" if errors else "look"
