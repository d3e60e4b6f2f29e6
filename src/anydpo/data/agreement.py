"""Whether a delivery of judgements can be relied on: agreement, gold, habits, strengths of the models compared."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anydpo.data.annotators import Annotator, Habits, Pairwise, annotators_of, habits_of, pairwise, share
from anydpo.data.coefficients import LEVELS, Level, cohen, fleiss, krippendorff, raw_agreement
from anydpo.data.finding import Check
from anydpo.data.judgment import Choice, Judgment
from anydpo.data.strength import Strengths, bradley_terry
from anydpo.data.votes import SIGN, Item, annotator, by_item, mean_scores, scores_of, wins_of
from anydpo.errors import DataInvalid

By: TypeAlias = Literal["annotator", "batch", "model"]
COMPARED = 20  # pairs of votes from which label noise is estimated
BY: tuple[By, ...] = ("annotator", "batch", "model")


@dataclass(frozen=True)
class Figures:
    """Agreement on one question. None is undefined: nothing to compare, or one answer was the only one ever given.

    `fleiss` is over the `fleiss_items` items with the most common number of ratings, because its formula needs equal
    numbers. `cohen` and `raw_pairs` are per two annotators; the names are joined by " / ".
    """

    items: int
    raters: int
    ratings: int
    raw: float | None
    raw_pairs: dict[str, float]
    cohen: dict[str, float | None]
    fleiss: float | None
    fleiss_items: int
    krippendorff: dict[Level, float | None]
    bradley_terry: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of `agreement --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Smoothing:
    """How often a label is wrong, judged by how often two annotators who both decide contradict each other.

    `single` is the error rate e of one annotator that gives the disagreement seen, d = 2 e (1 - e); `majority` is what
    is left of it after the votes of an item are counted: the `label_smoothing` to start from.
    """

    disagreement: float
    single: float
    majority: float


@dataclass(frozen=True)
class AgreementReport:
    """What was found about a delivery. `errors` and `warnings` count findings."""

    files: tuple[str, ...]
    judgments: int
    replaced: int
    overall: Figures
    dimensions: dict[str, Figures]
    annotators: tuple[Annotator, ...]
    groups: dict[By, dict[str, Figures]]
    majority: dict[str, int]
    unanimous: int
    habits: Habits
    smoothing: Smoothing | None
    checks: tuple[Check, ...]
    items: tuple[Item, ...]

    @property
    def errors(self) -> int:
        """Findings that say that the data must not be used as they are."""
        return sum(check.severity == "error" for check in self.checks)

    @property
    def warnings(self) -> int:
        """Findings that a person should look at."""
        return sum(check.severity == "warning" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `agreement --json` prints it."""
        h = self.habits
        return {
            "files": list(self.files),
            "judgments": self.judgments,
            "replaced": self.replaced,
            **self.overall.to_dict(),
            "dimensions": {name: figures.to_dict() for name, figures in self.dimensions.items()},
            "annotators": {one.name: one.to_dict() for one in self.annotators},
            "groups": {
                by: {name: figures.to_dict() for name, figures in found.items()} for by, found in self.groups.items()
            },
            "majority": self.majority,
            "unanimous": self.unanimous,
            "gold": {"seen": h.gold_seen, "right": h.gold_right, "accuracy": h.gold_accuracy},
            "bias": {
                "first_share": share(h.first, h.decided),
                "longer_share": share(h.longer, h.unequal),
                "agrees_with_own_scores": share(h.with_scores, h.scored),
                "median_seconds": h.median_seconds,
            },
            "label_smoothing": asdict(self.smoothing) if self.smoothing else None,
            "checks": [asdict(check) for check in self.checks],
        }

    def print(self) -> None:
        """Print the report for people."""
        from anydpo.report.agreement import document
        from anydpo.report.terminal import show

        show(document(self))

    def save(self, path: str | Path) -> None:
        """Write the report as one self-contained HTML page."""
        from anydpo.report.agreement import document
        from anydpo.report.page import save

        save(document(self), path)


def agreement(
    judgments: Iterable[Judgment],
    *,
    files: Sequence[str] = (),
    by: Sequence[By] = (),
    gold: Mapping[str, Choice] | None = None,
) -> AgreementReport:
    """Return what the judgements say of the annotators and of the models they compared.

    `gold` maps an item to its known right answer, in the order in which the answers are shown. Raises `DataInvalid`
    where there is no judgement at all.
    """
    from anydpo.data.delivery import checks_of

    given = list(judgments)
    if not given:
        raise DataInvalid(
            f"{', '.join(files) or 'rows'}: no judgement of an annotator: the rows are pairs that were decided before",
            hint="agreement needs one row per annotator and item, or one column per annotator",
        )
    items, replaced = by_item(given)
    pairs = pairwise(items)
    everybody, each = habits_of(given, gold or {})
    scores = scores_of(items)
    overall = _choices(items, pairs)
    people = annotators_of(items, each, pairs)
    return AgreementReport(
        tuple(files),
        len(given),
        replaced,
        overall,
        {dimension: _scores(scores[dimension], items) for dimension in scores},
        people,
        {one: _grouped(items, one) for one in by if one != "annotator"},
        _majorities(items),
        sum(len(item.choices) > 1 and len(set(item.choices)) == 1 for item in items),
        everybody,
        _smoothing(items),
        tuple(checks_of(items, overall, people, everybody, replaced)),
        tuple(items),
    )


def _choices(items: Sequence[Item], pairs: Pairwise | None = None) -> Figures:
    pairs = pairwise(items) if pairs is None else pairs
    judged = [item for item in items if item.choices]
    units = [item.choices for item in judged]
    wins, decided, tied = wins_of(judged)
    raters = {annotator(j) for item in judged for j in item.judgments if j.choice is not None}
    at, same_size = _most_common_size(units)
    return Figures(
        len(judged),
        len(raters),
        sum(map(len, units)),
        raw_agreement(units),
        {" / ".join(pair): value for pair, value in pairs.raw.items()},
        {" / ".join(pair): value for pair, value in pairs.kappa.items()},
        fleiss([units[i] for i in same_size]) if at > 1 else None,
        len(same_size) if at > 1 else 0,
        {**_alphas(_signed(judged)), "nominal": krippendorff(units), "ratio": None},
        _strengths(bradley_terry(wins), decided, tied),
    )


def _scores(units: Mapping[tuple[str, int], Mapping[str, float]], items: Sequence[Item]) -> Figures:
    """Return the figures of one rubric dimension; what is rated is an answer, so a comparison is two units."""
    values = [list(unit.values()) for unit in units.values()]
    at, same_size = _most_common_size(values)
    both: defaultdict[tuple[str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for unit in units.values():
        for (one, a), (other, b) in combinations(sorted(unit.items()), 2):
            both[one, other][0].append(a)
            both[one, other][1].append(b)
    means, wins = mean_scores(units), Counter[tuple[str, str]]()
    decided = tied = 0
    for item in items:
        first, second, models = means.get((item.name, 0)), means.get((item.name, 1)), item.models
        if first is None or second is None or models is None or models[0] == models[1]:
            continue
        if first == second:
            tied += 1
            continue
        decided += 1
        one, other = models
        wins[(one, other) if first > second else (other, one)] += 1
    return Figures(
        len({item for item, _ in units}),
        len({name for unit in units.values() for name in unit}),
        sum(map(len, values)),
        raw_agreement(values),
        {
            " / ".join(pair): sum(a == b for a, b in zip(*both[pair], strict=True)) / len(both[pair][0])
            for pair in sorted(both)
        },
        {" / ".join(pair): cohen(*both[pair]) for pair in sorted(both)},
        fleiss([values[i] for i in same_size]) if at > 1 else None,
        len(same_size) if at > 1 else 0,
        _alphas(values),
        _strengths(bradley_terry({pair: float(n) for pair, n in wins.items()}), decided, tied),
    )


def _alphas(units: Sequence[Sequence[float]]) -> dict[Level, float | None]:
    return {level: krippendorff(units, level) for level in LEVELS}


def _signed(items: Sequence[Item]) -> list[list[float]]:
    """Return verdicts as numbers: first negative, a tie 0, second positive, times the strength where all have one."""
    decided = [j for item in items for j in item.judgments if j.choice in ("first", "second")]
    strong = bool(decided) and all(j.strength for j in decided)
    return [
        [SIGN[j.choice] * (j.strength or 1.0 if strong else 1.0) for j in item.judgments if j.choice is not None]
        for item in items
    ]


def _most_common_size(units: Sequence[Sequence[object]]) -> tuple[int, list[int]]:
    sizes = Counter(len(unit) for unit in units if len(unit) > 1)
    if not sizes:
        return 0, []
    size = max(sizes, key=lambda n: (sizes[n], n))
    return size, [i for i, unit in enumerate(units) if len(unit) == size]


def _strengths(found: Strengths | None, decided: int, tied: int) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**asdict(found), "ties": "dropped", "decided": decided, "tied": tied}


def _majorities(items: Sequence[Item]) -> dict[str, int]:
    found = Counter(item.majority or "no_majority" for item in items if item.choices)
    return {name: found[name] for name in ("first", "second", "tie", "no_majority")}


def _grouped(items: Sequence[Item], by: By) -> dict[str, Figures]:
    """Return the figures within each batch, or of the items in which each model took part."""
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        if by == "model":
            for model in set(item.models or ()):
                groups[model].append(item)
            continue
        parts: defaultdict[str, list[Judgment]] = defaultdict(list)
        for judgment in item.judgments:
            parts[judgment.batch or "(no batch)"].append(judgment)
        for name, judgments in parts.items():
            groups[name].append(Item(item.name, tuple(judgments)))
    return {name: _choices(groups[name]) for name in sorted(groups)}


def _smoothing(items: Sequence[Item]) -> Smoothing | None:
    """Return the label error that contradictions point to; None from fewer than COMPARED pairs of votes."""
    differ = compared = 0
    sizes: Counter[int] = Counter()
    for item in items:
        votes = Counter(choice for choice in item.choices if choice != "tie")
        n = votes.total()
        compared += n * (n - 1) // 2
        differ += votes["first"] * votes["second"]
        if votes["first"] != votes["second"]:
            sizes[n] += 1
    if compared < COMPARED:
        return None
    disagreement = differ / compared
    single = (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2
    wrong = sum(times * _outvoted(n, single) for n, times in sizes.items())
    return Smoothing(disagreement, single, wrong / sizes.total() if sizes else single)


def _outvoted(n: int, error: float) -> float:
    """Return the chance that the majority of n votes is wrong, given that there is one."""
    chances = [math.comb(n, k) * error**k * (1 - error) ** (n - k) for k in range(n + 1)]
    wrong, right = sum(chances[n // 2 + 1 :]), sum(chances[: (n + 1) // 2])
    return wrong / (wrong + right)


def groups_named(text: str | None) -> tuple[By, ...]:
    """Return the groups that a comma-separated list names; raises `DataInvalid` for an unknown one."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in BY:
            raise DataInvalid(f"--by {name}: unknown group", hint=f"one of {', '.join(BY)}")
    return tuple(name for name in BY if name in names)
