"""One annotator's verdict on two answers, before any policy has made pairs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Choice: TypeAlias = Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class Judgment:
    """What one annotator said of one item: two answers to a prompt, in the order in which they were shown.

    `choice` is None where the row carries scores only. `strength` is how much better, 0 or more, in the source's own
    units. `scores` holds, per rubric dimension, what the (first, second) answer got. `gold` is the known right choice
    of a test question. Ties, gold rows and rows that became no pair are judgements too.

    Where annotators of one item saw the answers in different orders, first and second are those of the item's first
    row, for all of them, so that they can be compared; `swapped` then says that this one saw them the other way round.
    """

    item: str
    annotator: str | None = None
    choice: Choice | None = None
    strength: float | None = None
    scores: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    gold: Choice | None = None
    models: tuple[str, str] | None = None
    lengths: tuple[int, int] | None = None  # characters of the two answers
    seconds: float | None = None
    batch: str | None = None
    justification: str | None = None
    source: str = ""
    swapped: bool = False
