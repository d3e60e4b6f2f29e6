"""One item under judgement: a prompt, its answers, and what was said of them, before a policy makes pairs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from anydpo.data.judgment import Choice, Judgment
from anydpo.data.pair import Messages, text_of

SWAPPED: dict[Choice | None, Choice | None] = {"first": "second", "second": "first", "tie": "tie", None: None}


class Place(NamedTuple):
    """Where a row stands."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Answer:
    """One answer; `score` is what a ranking goes by (higher is better), `scores` are rubric dimensions beside it."""

    messages: Messages
    score: float | None = None
    model: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True)
class Verdict:
    """What one annotator, or one judge model, said of the item's two answers.

    `swapped` says that the annotator saw them in the other order; everything here is in the item's own order.
    """

    choice: Choice | None
    annotator: str | None = None
    strength: float | None = None
    justification: str | None = None
    seconds: float | None = None
    batch: str | None = None
    gold: Choice | None = None
    scores: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    place: Place | None = None
    swapped: bool = False


@dataclass(slots=True)
class Item:
    """A prompt, its answers, and either verdicts on two of them or a score for each.

    Rows with the same `key` are one item; `name` is what the source calls it. `verdicts` is None where the answers
    are ranked by their scores; `said` are the annotators' own where the source sums them up in one that decides.
    `margin` is the size of the preference in the source's own units where the source states it, and `lead` what
    `min_margin` is held against where that is something else. `ranked` says that scores are places in a ranking,
    which is a choice, and not ratings; `offers_tie` that annotators could say so. `left_out` is why the row makes no
    pair although it holds a judgement (a test question).
    """

    key: str
    prompt: Messages
    answers: list[Answer]
    verdicts: list[Verdict] | None = None
    said: list[Verdict] | None = None
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    tools: tuple[dict[str, Any], ...] | None = None
    margin: float | None = None
    lead: float | None = None
    ranked: bool = False
    offers_tie: bool = True
    name: str | None = None
    left_out: tuple[str, str] | None = None
    places: list[Place] = field(default_factory=list[Place])

    def absorb(self, other: Item) -> None:
        """Take in another row of the same item: its verdicts, or its answer."""
        self.places += other.places
        if self.verdicts is None or other.verdicts is None:
            self.answers += other.answers
            return
        if other.answers[0].messages != self.answers[0].messages:
            for verdict in other.verdicts:
                _swap(verdict)
        self.verdicts += other.verdicts

    def judgments(self) -> Iterator[Judgment]:
        """Yield every judgement this item carries; one a pair of answers where they are ranked."""
        if self.verdicts is not None:
            models = _models(*self.answers)
            lengths = (_length(self.answers[0].messages), _length(self.answers[1].messages))
            for said in self.said or self.verdicts:
                yield Judgment(
                    item=self.name or self.key,
                    annotator=said.annotator,
                    choice=said.choice,
                    strength=said.strength,
                    scores=said.scores,
                    gold=said.gold,
                    models=models,
                    lengths=lengths,
                    seconds=said.seconds,
                    batch=said.batch,
                    justification=said.justification,
                    source=str(said.place or ""),
                    swapped=said.swapped,
                )
            return
        if self.ranked or any(one.scores for one in self.answers):
            for one, two in combinations(self.answers, 2):
                yield self._compared(one, two)

    def _compared(self, one: Answer, two: Answer) -> Judgment:
        choice: Choice | None = None
        if self.ranked and one.score is not None and two.score is not None:
            choice = "tie" if one.score == two.score else "first" if one.score > two.score else "second"
        names = dict.fromkeys((*one.scores, *two.scores))
        return Judgment(
            item=self.name or self.key,
            choice=choice,
            scores={name: (one.scores.get(name), two.scores.get(name)) for name in names},
            models=_models(one, two),
            lengths=(_length(one.messages), _length(two.messages)),
            source=str(self.places[0]) if self.places else "",
        )


def _swap(verdict: Verdict) -> None:
    verdict.choice, verdict.gold = SWAPPED[verdict.choice], SWAPPED[verdict.gold]
    verdict.scores = {name: (second, first) for name, (first, second) in verdict.scores.items()}
    verdict.swapped = not verdict.swapped


def _models(one: Answer, two: Answer) -> tuple[str, str] | None:
    return (one.model, two.model) if one.model is not None and two.model is not None else None


def _length(messages: Messages) -> int:
    return sum(len(text_of(message)) for message in messages)
