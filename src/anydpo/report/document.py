"""What a report says, before it is decided where: a title, and sections of tables, bars and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from anydpo.data.finding import Check


@dataclass(frozen=True)
class Table:
    """Rows under columns; columns of numbers stand right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


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


Block: TypeAlias = Table | Bars | Findings | Text


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
