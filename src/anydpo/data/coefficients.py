"""Agreement between annotators as published: Cohen 1960, Fleiss 1971, Krippendorff 2011.

Every function returns None where its formula is 0/0, which happens when only one category was ever used: agreement is
then undefined, not perfect. Standard library only, so that a delivery can be judged where numpy is not installed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["nominal", "ordinal", "interval", "ratio"]
Units: TypeAlias = Sequence[Sequence[Hashable]]  # per item, the values it got; who gave which does not matter

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval", "ratio")


def raw_agreement(units: Units) -> float | None:
    """Return the share of equal pairs among all pairs of values that one item got."""
    same = total = 0
    for values in units:
        n = len(values)
        total += n * (n - 1)
        same += sum(count * (count - 1) for count in Counter(values).values())
    return same / total if total else None


def cohen(left: Sequence[Hashable], right: Sequence[Hashable]) -> float | None:
    """Return Cohen's kappa of two annotators over the same items, in the same order."""
    n = len(left)
    if n == 0:
        return None
    observed = sum(a == b for a, b in zip(left, right, strict=True)) / n
    one, other = Counter(left), Counter(right)
    expected = sum(one[value] * other[value] for value in one) / n**2
    return _above_chance(observed, expected)


def fleiss(units: Units) -> float | None:
    """Return Fleiss' kappa; every item must have the same number of values, two or more."""
    sizes = {len(values) for values in units}
    if not sizes:
        return None
    if len(sizes) > 1 or min(sizes) < 2:
        raise ValueError(f"Fleiss' kappa needs the same number of ratings, two or more, an item; got {sorted(sizes)}")
    observed = raw_agreement(units)
    totals = Counter(value for values in units for value in values)
    n = totals.total()
    expected = sum((count / n) ** 2 for count in totals.values())
    return None if observed is None else _above_chance(observed, expected)


def krippendorff(units: Units, level: Level = "nominal") -> float | None:
    """Return Krippendorff's alpha; items with fewer than two values carry no information and are left out.

    `nominal` takes any values, the other levels numbers; `ratio` needs a scale whose zero means none, and is
    undefined (None) where a value is negative.
    """
    paired = [values for values in units if len(values) > 1]
    totals = Counter(value for values in paired for value in values)
    n = totals.total()
    if n == 0 or len(totals) == 1:
        return None
    if level == "ratio" and any(value < 0 for value in totals):  # type: ignore[operator]
        return None
    difference = _difference(level, totals)
    observed = _observed(paired, difference)
    expected = math.fsum(
        2 * totals[a] * totals[b] * difference(a, b) for a, b in combinations(totals, 2)
    ) / (n * (n - 1))  # fmt: skip
    return 1 - observed / n / expected if expected else None


def _observed(paired: Units, difference: Callable[[Hashable, Hashable], float]) -> float:
    """Return the summed disagreement inside items; items with equal counts are computed once."""
    patterns = Counter(frozenset(Counter(values).items()) for values in paired)
    return math.fsum(
        times
        * math.fsum(2 * m * k * difference(a, b) for (a, m), (b, k) in combinations(pattern, 2))
        / (sum(count for _, count in pattern) - 1)
        for pattern, times in patterns.items()
    )


def _difference(level: Level, totals: Mapping[Hashable, int]) -> Callable[[Hashable, Hashable], float]:
    """Return the squared difference function of a level of measurement."""
    if level == "nominal":
        return lambda a, b: float(a != b)
    if level == "interval":
        return lambda a, b: float((a - b) ** 2)  # type: ignore[operator]
    if level == "ratio":
        return lambda a, b: 0.0 if a == b else float(((a - b) / (a + b)) ** 2)  # type: ignore[operator]
    below, ranks = 0.0, dict[Hashable, float]()
    for value in sorted(totals):  # type: ignore[type-var]
        ranks[value] = below + totals[value] / 2  # values between two, and half of each end
        below += totals[value]
    return lambda a, b: (ranks[a] - ranks[b]) ** 2


def _above_chance(observed: float, expected: float) -> float | None:
    return None if expected >= 1.0 else (observed - expected) / (1 - expected)


def two_sided(successes: int, trials: int) -> float:
    """Return the exact two-sided p-value of so many heads of a fair coin."""
    if trials == 0:
        return 1.0
    return min(1.0, 2 * tail(max(successes, trials - successes), trials))


def tail(successes: int, trials: int, chance: float = 0.5) -> float:
    """Return the chance of at least so many successes."""
    terms = (
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(chance)
            + (trials - k) * math.log1p(-chance)
        )
        for k in range(successes, trials + 1)
    )
    return min(1.0, math.fsum(terms))


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if trials == 0:
        return 0.0, 1.0
    share, scale = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return middle - half, middle + half
