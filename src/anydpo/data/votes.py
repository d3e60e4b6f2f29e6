"""Judgements sorted by item: who said what, what most said, in one order of the two answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from anydpo.data.judgment import Choice, Judgment

NOBODY = "(no annotator)"
FLIPPED: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
SIGN: dict[Choice, float] = {"first": -1.0, "tie": 0.0, "second": 1.0}


@dataclass(frozen=True)
class Item:
    """One comparison and every judgement of it, the two answers in the same order in each."""

    name: str
    judgments: tuple[Judgment, ...]

    @property
    def choices(self) -> list[Choice]:
        """The verdicts that were given."""
        return [j.choice for j in self.judgments if j.choice is not None]

    @property
    def majority(self) -> Choice | None:
        """What most said, a tie being an answer like the others; None where no answer has the most votes."""
        return most(self.choices)

    @property
    def models(self) -> tuple[str, str] | None:
        """The two models compared."""
        return next((j.models for j in self.judgments if j.models is not None), None)


def most(choices: Sequence[Choice]) -> Choice | None:
    """Return the single most frequent verdict."""
    ranked = Counter(choices).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def by_item(judgments: Iterable[Judgment]) -> tuple[list[Item], int]:
    """Return the comparisons in order of appearance, and how many judgements were replaced.

    Where an item has more than two answers, each two of them (told apart by model, else by length) are one comparison.
    An annotator's later judgement of the same comparison replaces the earlier one. A judgement whose models, or
    lengths, stand the other way round than in the first one is turned.
    """
    found: dict[tuple[str, object], dict[object, Judgment]] = {}
    names: Counter[str] = Counter()
    replaced = 0
    for judgment in judgments:
        compared = judgment.models or judgment.lengths
        key = (judgment.item, frozenset(compared) if compared else None)
        names[judgment.item] += key not in found
        of_item = found.setdefault(key, {})
        who: object = judgment.annotator if judgment.annotator is not None else len(of_item)
        replaced += who in of_item
        of_item[who] = judgment
    return [
        Item(item if names[item] == 1 else f"{item} ({_compared(compared)})", _turned(list(of_item.values())))
        for (item, compared), of_item in found.items()
    ], replaced


def _compared(answers: object) -> str:
    return " / ".join(sorted(map(str, answers))) if isinstance(answers, frozenset) else "?"


def _turned(judgments: list[Judgment]) -> tuple[Judgment, ...]:
    first = judgments[0]
    return tuple(_flip(j) if _other_way_round(first, j) else j for j in judgments)


def _other_way_round(one: Judgment, other: Judgment) -> bool:
    if one.models is not None and other.models is not None and one.models[0] != one.models[1]:
        return other.models == one.models[::-1]
    if one.lengths is not None and other.lengths is not None and one.lengths[0] != one.lengths[1]:
        return other.lengths == one.lengths[::-1]
    return False


def _flip(judgment: Judgment) -> Judgment:
    return replace(
        judgment,
        choice=FLIPPED[judgment.choice] if judgment.choice is not None else None,
        gold=FLIPPED[judgment.gold] if judgment.gold is not None else None,
        scores={name: (second, first) for name, (first, second) in judgment.scores.items()},
        models=judgment.models[::-1] if judgment.models is not None else None,
        lengths=judgment.lengths[::-1] if judgment.lengths is not None else None,
    )


def annotator(judgment: Judgment) -> str:
    """Return who judged, as reports name them."""
    return NOBODY if judgment.annotator is None else judgment.annotator


def table_of(items: Iterable[Item]) -> dict[str, dict[str, Choice]]:
    """Return annotator → item → verdict."""
    table: defaultdict[str, dict[str, Choice]] = defaultdict(dict)
    for item in items:
        for judgment in item.judgments:
            if judgment.annotator is not None and judgment.choice is not None:
                table[judgment.annotator][item.name] = judgment.choice
    return dict(table)


def scores_of(items: Iterable[Item]) -> dict[str, dict[tuple[str, int], dict[str, float]]]:
    """Return dimension → (item, which answer) → annotator → score."""
    found: defaultdict[str, defaultdict[tuple[str, int], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for item in items:
        for at, judgment in enumerate(item.judgments):
            who = judgment.annotator if judgment.annotator is not None else f"{NOBODY} {at}"
            for dimension, both in judgment.scores.items():
                for side, score in enumerate(both):
                    if score is not None:
                        found[dimension][item.name, side][who] = score
    return {dimension: dict(units) for dimension, units in found.items()}


def better_by_score(judgment: Judgment, dimension: str | None = None) -> Choice | None:
    """Return which answer the scores prefer, in one dimension or summed over all; None where they do not say."""
    both = [
        (first, second)
        for name, (first, second) in judgment.scores.items()
        if (dimension is None or name == dimension) and first is not None and second is not None
    ]
    difference = sum(first - second for first, second in both)
    return None if not both or difference == 0 else "first" if difference > 0 else "second"


def wins_of(items: Iterable[Item]) -> tuple[dict[tuple[str, str], float], int, int]:
    """Return (winner, loser) → items by majority, how many were decided, and how many were tied; ties are dropped."""
    wins: Counter[tuple[str, str]] = Counter()
    decided = tied = 0
    for item in items:
        majority, models = item.majority, item.models
        if models is None or majority is None or models[0] == models[1]:
            continue
        if majority == "tie":
            tied += 1
            continue
        decided += 1
        one, other = models
        wins[(one, other) if majority == "first" else (other, one)] += 1
    return {pair: float(times) for pair, times in wins.items()}, decided, tied


def mean_scores(units: Mapping[tuple[str, int], Mapping[str, float]]) -> dict[tuple[str, int], float]:
    """Return the mean score of each answer."""
    return {unit: sum(scores.values()) / len(scores) for unit, scores in units.items()}
