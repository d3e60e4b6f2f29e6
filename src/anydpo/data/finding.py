"""One finding about data: what lint and agreement report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]

SHOWN = 5  # examples kept of each finding


def counted(count: int, word: str) -> str:
    """Return a number and its word, in the plural where it is not one."""
    plural = f"{word[:-1]}ies" if word.endswith("py") else f"{word}s"
    return f"{count:,} {word if count == 1 else plural}"


@dataclass(frozen=True)
class Check:
    """A fixed word, how bad it is, how many rows, what was seen and where first, why it matters, what to do."""

    code: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()
    why: str = ""
    advice: str = ""
