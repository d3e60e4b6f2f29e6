"""One annotator at a time: accuracy on gold, agreement with the others, side and length habits, time."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from anydpo.data.coefficients import cohen, krippendorff
from anydpo.data.judgment import Choice, Judgment
from anydpo.data.votes import Item, annotator, better_by_score, most, table_of


@dataclass
class Habits:
    """Counts of one annotator, or of all: `first` of `decided` verdicts took the answer shown first, `longer` of
    `unequal` the longer one, `with_scores` of `scored` the one that got the higher scores."""

    judged: int = 0
    ties: int = 0
    decided: int = 0
    first: int = 0
    unequal: int = 0
    longer: int = 0
    scored: int = 0
    with_scores: int = 0
    gold_seen: int = 0
    gold_right: int = 0
    gold_opposite: int = 0
    seconds: list[float] = field(default_factory=list[float])

    def see(self, judgment: Judgment, truth: Choice | None) -> None:
        """Count one judgement; `truth` is in the same order of the answers as its choice."""
        self.judged += 1
        if judgment.seconds is not None:
            self.seconds.append(judgment.seconds)
        choice = judgment.choice
        if choice is None:
            return
        if truth is not None:
            self.gold_seen += 1
            self.gold_right += choice == truth
            self.gold_opposite += {choice, truth} == {"first", "second"}
        if choice == "tie":
            self.ties += 1
            return
        self.decided += 1
        self.first += (choice == "first") is not judgment.swapped
        if judgment.lengths is not None and judgment.lengths[0] != judgment.lengths[1]:
            self.unequal += 1
            self.longer += (judgment.lengths[0] > judgment.lengths[1]) == (choice == "first")
        if (better := better_by_score(judgment)) is not None:
            self.scored += 1
            self.with_scores += better == choice

    @property
    def gold_accuracy(self) -> float | None:
        """Share of right answers to test questions."""
        return share(self.gold_right, self.gold_seen)

    @property
    def median_seconds(self) -> float | None:
        """The middle one of the times taken."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Annotator:
    """What one annotator did. `raw` and `kappa` compare with every other annotator on common items; `majority` with
    what most of the others said; `alpha_without` is Krippendorff's alpha of the delivery without this annotator."""

    name: str
    habits: Habits
    raw: float | None
    kappa: float | None
    majority: float | None
    alpha_without: float | None
    kappas: Mapping[str, float | None]
    common: Mapping[str, int]

    def to_dict(self) -> dict[str, object]:
        """Return the row of `agreement --json`."""
        h = self.habits
        return {
            "judged": h.judged,
            "ties": h.ties,
            "raw": self.raw,
            "cohen": self.kappa,
            "with_majority_of_others": self.majority,
            "krippendorff_without": self.alpha_without,
            "gold_seen": h.gold_seen,
            "gold_accuracy": h.gold_accuracy,
            "first_share": share(h.first, h.decided),
            "longer_share": share(h.longer, h.unequal),
            "agrees_with_own_scores": share(h.with_scores, h.scored),
            "median_seconds": h.median_seconds,
        }


@dataclass(frozen=True)
class Pairwise:
    """Cohen's kappa and raw agreement of each two annotators with common items, and how many they have."""

    kappa: dict[tuple[str, str], float | None]
    raw: dict[tuple[str, str], float]
    common: dict[tuple[str, str], int]


def share(part: int, whole: int) -> float | None:
    """Return a share, None of nothing."""
    return part / whole if whole else None


def pairwise(items: Sequence[Item]) -> Pairwise:
    """Compare each two annotators on the items that both judged."""
    both: defaultdict[tuple[str, str], list[tuple[Choice, Choice]]] = defaultdict(list)
    for item in items:
        votes: list[tuple[str, Choice]] = sorted(
            (j.annotator, j.choice) for j in item.judgments if j.annotator is not None and j.choice is not None
        )
        for (one, a), (other, b) in combinations(votes, 2):
            both[one, other].append((a, b))
    found = Pairwise({}, {}, {})
    for pair in sorted(both):
        left, right = zip(*both[pair], strict=True)
        found.kappa[pair] = cohen(left, right)
        found.raw[pair] = sum(a == b for a, b in both[pair]) / len(both[pair])
        found.common[pair] = len(both[pair])
    return found


def habits_of(judgments: Sequence[Judgment], truth: Mapping[str, Choice]) -> tuple[Habits, dict[str, Habits]]:
    """Return the counts of all together and of each annotator."""
    everybody, each = Habits(), defaultdict[str, Habits](Habits)
    for judgment in judgments:
        right = judgment.gold if judgment.gold is not None else truth.get(judgment.item)
        everybody.see(judgment, right)
        each[annotator(judgment)].see(judgment, right)
    return everybody, dict(each)


def annotators_of(items: Sequence[Item], each: Mapping[str, Habits], pairs: Pairwise) -> tuple[Annotator, ...]:
    """Return a row for each annotator, by name."""
    table = table_of(items)
    choices = {item.name: item.choices for item in items}
    made: list[Annotator] = []
    for name in sorted(each):
        own = table.get(name, {})
        with_name = [pair for pair in pairs.kappa if name in pair]
        common = {_other(pair, name): pairs.common[pair] for pair in with_name}
        kappas = {_other(pair, name): pairs.kappa[pair] for pair in with_name}
        known = [(kappas[o], common[o]) for o in kappas if kappas[o] is not None]
        total = sum(common.values())
        made.append(
            Annotator(
                name,
                each[name],
                sum(pairs.raw[pair] * pairs.common[pair] for pair in with_name) / total if total else None,
                sum(k * n for k, n in known if k is not None) / sum(n for _, n in known) if known else None,
                _with_majority(own, choices),
                _alpha_without(own, choices) if len(each) > 2 else None,
                kappas,
                common,
            )
        )
    return tuple(made)


def _other(pair: tuple[str, str], name: str) -> str:
    return pair[1] if pair[0] == name else pair[0]


def _with_majority(own: Mapping[str, Choice], choices: Mapping[str, list[Choice]]) -> float | None:
    same = seen = 0
    for item, choice in own.items():
        if (others := most(_without(choices[item], choice))) is not None:
            seen += 1
            same += choice == others
    return share(same, seen)


def _alpha_without(own: Mapping[str, Choice], choices: Mapping[str, list[Choice]]) -> float | None:
    units = [_without(votes, own[item]) if item in own else votes for item, votes in choices.items()]
    return krippendorff(units)


def _without(votes: list[Choice], choice: Choice) -> list[Choice]:
    left = Counter(votes)
    left[choice] -= 1
    return list(left.elements())
