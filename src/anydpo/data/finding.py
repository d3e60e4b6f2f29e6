"""One finding about data: what lint and agreement report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]

SHOWN = 5  # examples kept of each finding


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
