"""Is the better run really better? Tests on the pairs that two runs were both measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anydpo.measured import rows_of
from anydpo.result import Estimate, Evaluation, Part
from anydpo.statistics import Resamples, holm, mcnemar, paired_difference

ACCURACY, MARGIN = "measured/rewards/accuracies", "measured/rewards/margins"
LEVEL = 0.05


class Difference(Part):
    """One metric of two runs on the same pairs: how much better the first is, and how likely chance alone does that.

    `p` is two-sided; `p_adjusted` allows for all the tests of its metric (Holm).
    """

    metric: str
    run: str
    other: str
    pairs: int
    difference: Estimate
    p: float
    p_adjusted: float
    test: str

    @property
    def significant(self) -> bool:
        """Whether chance alone is an unlikely explanation."""
        return self.p_adjusted < LEVEL


def differences(evaluations: Mapping[str, Evaluation]) -> list[Difference]:
    """Return the run that is right most often against each other one: accuracy, and margin where the scale is one."""
    rows = {run: {row["pair"]: row for row in rows_of(one)} for run, one in evaluations.items()}
    rows = {run: found for run, found in rows.items() if found}
    if len(rows) < 2:
        return []
    best = max(rows, key=lambda run: [evaluations[run].metrics[name].value for name in (ACCURACY, MARGIN)])
    others = [run for run in rows if run != best]
    found = [_accuracy(best, other, rows) for other in others]
    scale = evaluations[best].settings.get("method")
    found += [_margin(best, other, rows) for other in others if evaluations[other].settings.get("method") == scale]
    return _adjusted([one for one in found if one.pairs])


def _accuracy(run: str, other: str, rows: Mapping[str, Mapping[int, Any]]) -> Difference:
    left, right = _both(run, other, rows, lambda row: float(row["margin"] > 0))
    p = mcnemar(
        sum(a > b for a, b in zip(left, right, strict=True)), sum(a < b for a, b in zip(left, right, strict=True))
    )
    return _made(ACCURACY, run, other, left, right, p, "McNemar, exact")


def _margin(run: str, other: str, rows: Mapping[str, Mapping[int, Any]]) -> Difference:
    left, right = _both(run, other, rows, lambda row: float(row["margin"]))
    return _made(MARGIN, run, other, left, right, None, "paired bootstrap")


def _both(run: str, other: str, rows: Mapping[str, Mapping[int, Any]], value: Any) -> tuple[list[float], list[float]]:
    """Return the values of two runs on the pairs that both have."""
    same = sorted(rows[run].keys() & rows[other].keys())
    return [value(rows[run][i]) for i in same], [value(rows[other][i]) for i in same]


def _made(
    metric: str, run: str, other: str, left: list[float], right: list[float], p: float | None, test: str
) -> Difference:
    interval, drawn = paired_difference(left, right, Resamples.of(len(left)))
    estimate = Estimate(**interval._asdict()) if left else Estimate(value=0.0)
    p = drawn if p is None else p
    return Difference(
        metric=metric, run=run, other=other, pairs=len(left), difference=estimate, p=p, p_adjusted=p, test=test
    )


def _adjusted(found: list[Difference]) -> list[Difference]:
    made = []
    for metric in dict.fromkeys(one.metric for one in found):
        same = [one for one in found if one.metric == metric]
        values = holm([one.p for one in same])
        made += [one.model_copy(update={"p_adjusted": p}) for one, p in zip(same, values, strict=True)]
    return made
