"""Intervals and tests for figures measured on held-out pairs: seeded, exact where that is possible, no arrays needed.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentile interval) and 16 (paired
test); Wilson (1927); McNemar (1947) with the exact binomial tail; Holm (1979); Guo et al. 2017 (1706.04599).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

RESAMPLES = 1000
MOST_DRAWS = 4_000_000  # draws in all, so that a large file takes seconds; never fewer than 200 resamples
BINS = 10
NORMAL = 1.959963984540054  # of which 2.5 % lie above, in standard deviations


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """Draws with replacement from so many items, the same for every figure that is asked of them."""

    items: int
    draws: Sequence[Sequence[int]]

    @classmethod
    def of(cls, items: int, seed: int = 0, count: int = RESAMPLES) -> Resamples:
        """Return the draws; fewer where the items are so many that the interval is narrow anyway."""
        count = min(count, max(200, MOST_DRAWS // max(items, 1)))
        dice, whole = random.Random(seed), range(items)
        return cls(items, [dice.choices(whole, k=items) for _ in range(count)] if items else [])

    def means(self, values: Sequence[float]) -> list[float]:
        """Return the mean of the values in each draw."""
        return [sum(map(values.__getitem__, draw)) / self.items for draw in self.draws]

    def interval(self, values: Sequence[float]) -> Interval:
        """Return the mean of the values and its percentile interval."""
        return percentiles(mean(values), self.means(values))


def mean(values: Sequence[float]) -> float:
    """Return the mean; not a number where there is none."""
    return math.fsum(values) / len(values) if values else math.nan


def percentiles(value: float, drawn: Sequence[float], level: float = 0.95) -> Interval:
    """Return a value with the interval that holds so much of what was drawn."""
    if not drawn:
        return Interval(value, math.nan, math.nan)
    ordered, tail = sorted(drawn), (1 - level) / 2
    return Interval(value, _quantile(ordered, tail), _quantile(ordered, 1 - tail))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile, between two values by straight line."""
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def wilson(right: int, items: int) -> Interval:
    """Return a share with its score interval, which is not empty where all or none are right (Wilson 1927)."""
    if not items:
        return Interval(math.nan, math.nan, math.nan)
    share, z2 = right / items, NORMAL**2
    middle = (share + z2 / (2 * items)) / (1 + z2 / items)
    half = NORMAL * math.sqrt(share * (1 - share) / items + z2 / (4 * items**2)) / (1 + z2 / items)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_difference(left: Sequence[float], right: Sequence[float], draws: Resamples) -> tuple[Interval, float]:
    """Return (mean of left - right with its interval, two-sided bootstrap p) for values of the same items.

    The p value is twice the smaller share of draws on the other side of 0, counting the sample itself, so never 0.
    """
    differences = [a - b for a, b in zip(left, right, strict=True)]
    drawn = draws.means(differences)
    below, above = sum(d <= 0 for d in drawn), sum(d >= 0 for d in drawn)
    p = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    return percentiles(mean(differences), drawn), p


def mcnemar(only_left: int, only_right: int) -> float:
    """Return the exact two-sided p value that two runs, right on different pairs so often, are equally often right."""
    n, tail, ways = only_left + only_right, 0, 1
    for k in range(min(only_left, only_right) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values for which so many tests were made, in the order given."""
    ranked, worst = sorted(range(len(values)), key=lambda i: values[i]), 0.0
    adjusted = [0.0] * len(values)
    for rank, at in enumerate(ranked):
        worst = max(worst, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = worst
    return adjusted


def sigmoid(value: float) -> float:
    """Return 1 / (1 + e^-value), also where e^-value is too large for a number."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def log_loss(margin: float) -> float:
    """Return -log sigmoid(margin): the surprise that the preferred answer was preferred."""
    return math.log1p(math.exp(-margin)) if margin >= 0 else math.log1p(math.exp(margin)) - margin


def brier(probability: float) -> float:
    """Return the Brier score of the probability given to what happened."""
    return (1 - probability) ** 2


class Bin(NamedTuple):
    """Pairs whose confidence lies in a range: how many, how sure the model was on average, how often it was right."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


def bins_of(margins: Iterable[float], bins: int = BINS) -> list[Bin]:
    """Return the reliability table of Bradley-Terry probabilities: confidence is that of the side held more likely."""
    width = 0.5 / bins
    kept: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for margin in margins:
        sure = sigmoid(abs(margin))
        kept[min(bins - 1, int((sure - 0.5) / width))].append((sure, margin > 0))
    return [
        Bin(0.5 + i * width, 0.5 + (i + 1) * width, len(k), mean([s for s, _ in k]), mean([float(r) for _, r in k]))
        for i, k in enumerate(kept)
        if k
    ]


def calibration_error(table: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, weighted by pairs."""
    total = sum(one.pairs for one in table)
    return sum(one.pairs * abs(one.confidence - one.accuracy) for one in table) / total if total else math.nan


def quantile_groups(values: Sequence[float], names: Sequence[str]) -> list[str]:
    """Return a name for each value by its rank: the lowest share gets the first name; equal values get the same."""
    ordered = sorted(values)
    edges = [ordered[len(ordered) * i // len(names)] for i in range(1, len(names))] if ordered else []
    return [names[sum(value >= edge for edge in edges)] for value in values]
