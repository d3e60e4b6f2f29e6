"""How strong each model is, from who was preferred to whom: Bradley and Terry 1952, fitted as Hunter 2004 does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

HALF_WIN = 0.5  # what each model is lent against an average one where the wins alone decide nothing


@dataclass(frozen=True)
class Strengths:
    """Log strengths with mean 0, strongest first: P(i beats j) = 1 / (1 + exp(s_j - s_i)).

    `connected` is whether every model won, directly or through others, against every other; otherwise no finite
    strengths exist, and each model was lent half a win and half a loss against an average one (`regularised`).
    `standard_errors` are relative to the mean; None where the fit is regularised.
    """

    strengths: dict[str, float]
    connected: bool
    regularised: bool
    standard_errors: dict[str, float] | None


def bradley_terry(wins: Mapping[tuple[str, str], float], *, tolerance: float = 1e-12) -> Strengths | None:
    """Return the maximum likelihood strengths from (winner, loser) → times; None where nothing was compared.

    A tie may be given as half a win each way. Standard library only; a step costs the number of compared pairs.
    """
    names = sorted({name for pair, times in wins.items() if times > 0 for name in pair})
    if not names:
        return None
    connected = _connected(names, wins)
    won: defaultdict[str, float] = defaultdict(float)
    met: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (winner, loser), times in wins.items():
        won[winner] += times
        met[winner][loser] += times
        met[loser][winner] += times
    power = _fit(names, won, met, lend=0.0 if connected else HALF_WIN, tolerance=tolerance)
    logs = {name: math.log(power[name]) for name in names}
    mean = math.fsum(logs.values()) / len(names)
    found = {name: logs[name] - mean for name in sorted(names, key=logs.__getitem__, reverse=True)}
    errors = _standard_errors(names, met, power) if connected else None
    return Strengths(found, connected, not connected, errors)


def _fit(
    names: list[str],
    won: Mapping[str, float],
    met: Mapping[str, Mapping[str, float]],
    *,
    lend: float,
    tolerance: float,
) -> dict[str, float]:
    power = dict.fromkeys(names, 1.0)
    for _ in range(100_000):
        made = {
            name: (won.get(name, 0.0) + lend)
            / (
                math.fsum(times / (power[name] + power[other]) for other, times in met[name].items())
                + 2 * lend / (power[name] + 1.0)
            )
            for name in names
        }
        if not lend:
            scale = math.exp(math.fsum(map(math.log, made.values())) / len(names))
            made = {name: value / scale for name, value in made.items()}
        change = max(abs(made[name] - power[name]) / power[name] for name in names)
        power = made
        if change < tolerance:
            break
    return power


def _connected(names: list[str], wins: Mapping[tuple[str, str], float]) -> bool:
    """Whether every model reaches every other along wins, and is reached along losses."""
    beaten: defaultdict[str, set[str]] = defaultdict(set)
    lost_to: defaultdict[str, set[str]] = defaultdict(set)
    for (winner, loser), times in wins.items():
        if times > 0:
            beaten[winner].add(loser)
            lost_to[loser].add(winner)
    return all(len(_reached(names[0], graph)) == len(names) for graph in (beaten, lost_to))


def _reached(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        found = graph.get(waiting.pop(), set()) - seen
        seen |= found
        waiting.extend(found)
    return seen


def _standard_errors(
    names: list[str], met: Mapping[str, Mapping[str, float]], power: Mapping[str, float]
) -> dict[str, float]:
    """Return the errors from the inverse of the information matrix, in the space where strengths sum to 0."""
    k = len(names)
    matrix = [[1.0 / k] * k for _ in names]  # the constraint; its inverse adds the same 1/k, taken off below
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            if i != j and (times := met[one].get(other, 0.0)):
                chance = power[one] / (power[one] + power[other])
                information = times * chance * (1 - chance)
                matrix[i][i] += information
                matrix[i][j] -= information
    inverse = invert(matrix)
    return {name: math.sqrt(max(0.0, inverse[i][i] - 1.0 / k)) for i, name in enumerate(names)}


def invert(matrix: list[list[float]]) -> list[list[float]]:
    """Return the inverse of a small square matrix (Gauss-Jordan, the largest pivot first)."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        best = max(range(i, size), key=lambda at: abs(rows[at][i]))
        rows[i], rows[best] = rows[best], rows[i]
        pivot = rows[i][i]
        rows[i] = [value / pivot for value in rows[i]]
        for j in range(size):
            if j != i and (factor := rows[j][i]):
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]
