"""Accepting or refusing a delivery: conditions that figures must meet, and what to send back."""

from __future__ import annotations

import operator
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anydpo.data.agreement import AgreementReport, Figures
from anydpo.data.delivery import annotators_apart, unreliable_on_gold
from anydpo.data.sheet import write_sheet
from anydpo.data.votes import annotator, better_by_score
from anydpo.errors import DataInvalid

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|==|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%?)\s*")
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
COLUMNS = ("task", "annotator", "reason", "detail", "batch", "source")
QUICK = 0.2  # of the usual time: too little to have read both answers


@dataclass(frozen=True)
class Requirement:
    """A condition such as `krippendorff>=0.6`, what was found, and whether it is met; undefined never meets one."""

    text: str
    value: float | None
    ok: bool

    def sentence(self) -> str:
        """Say it for people."""
        found = "undefined" if self.value is None else f"{self.value:.4g}"
        return f"{self.text}: {found}, {'met' if self.ok else 'NOT met'}"


def require(report: AgreementReport, text: str) -> Requirement:
    """Judge one condition; raises `DataInvalid` for one that cannot be read or names no figure."""
    matched = CONDITION.fullmatch(text)
    values = values_of(report)
    if matched is None:
        raise DataInvalid(f"--require {text!r}: expected NAME>=NUMBER", hint='--require "krippendorff>=0.6"')
    name, sign, number, percent = matched.groups()
    if name not in values:
        raise DataInvalid(f"--require {text!r}: no figure {name!r}", hint=f"one of {', '.join(values)}")
    try:
        limit = float(number) / (100 if percent else 1)
    except ValueError:
        raise DataInvalid(f"--require {text!r}: {number!r} is not a number") from None
    value = values[name]
    return Requirement(text, value, value is not None and COMPARE[sign](value, limit))


def values_of(report: AgreementReport) -> dict[str, float | None]:
    """Return every figure that a condition may name; `cohen` is the lowest of all pairs of annotators."""
    found = _figures("", report.overall)
    found["gold"] = found["gold_accuracy"] = report.habits.gold_accuracy
    accuracies = [a for one in report.annotators if (a := one.habits.gold_accuracy) is not None]
    found["gold_lowest"] = min(accuracies, default=None)
    found["errors"], found["warnings"] = float(report.errors), float(report.warnings)
    for dimension, figures in report.dimensions.items():
        found.update(_figures(f"{dimension}.", figures))
        found.update(_figures(f"dimensions.{dimension}.", figures))
    return found


def _figures(prefix: str, figures: Figures) -> dict[str, float | None]:
    kappas = list(figures.cohen.values())
    lowest = min((k for k in kappas if k is not None), default=None) if None not in kappas else None
    return {
        f"{prefix}items": float(figures.items),
        f"{prefix}raters": float(figures.raters),
        f"{prefix}ratings": float(figures.ratings),
        f"{prefix}raw": figures.raw,
        f"{prefix}cohen": lowest,
        f"{prefix}fleiss": figures.fleiss,
        f"{prefix}krippendorff": figures.krippendorff["nominal"],
        **{f"{prefix}krippendorff.{level}": value for level, value in figures.krippendorff.items()},
    }


@dataclass(frozen=True)
class Redo:
    """One task to be judged again: by whom, why (fixed words), and what was seen; nobody named means anybody."""

    task: str
    annotator: str
    reasons: tuple[str, ...]
    detail: str
    batch: str
    source: str


def rework(report: AgreementReport) -> list[Redo]:
    """Return the tasks to send back, in the order of the delivery.

    `no_majority` goes to a further annotator. `gold_wrong`, `contradicts_scores`, `too_fast` and
    `unreliable_annotator` (all work of somebody who fails gold or agrees with nobody) go to the one named.
    """
    return list(_redo(report))


def _redo(report: AgreementReport) -> Iterator[Redo]:
    unreliable = {one.name: "fails test questions" for one in report.annotators if unreliable_on_gold(one)}
    unreliable.update({one.name: "agrees with nobody" for one in annotators_apart(report.annotators)})
    seconds = [j.seconds for item in report.items for j in item.judgments if j.seconds is not None]
    too_fast = statistics.median(seconds) * QUICK if seconds else 0.0
    for item in report.items:
        if item.choices and item.majority is None:
            votes = ", ".join(f"{annotator(j)}: {j.choice}" for j in item.judgments if j.choice)
            first = item.judgments[0]
            yield Redo(item.name, "", ("no_majority",), votes, first.batch or "", first.source)
        for judgment in item.judgments:
            found: dict[str, str] = {}
            who = annotator(judgment)
            if judgment.gold is not None and judgment.choice not in (None, judgment.gold):
                found["gold_wrong"] = f"said {judgment.choice}, known is {judgment.gold}"
            better = better_by_score(judgment)
            if judgment.choice in ("first", "second") and better not in (None, judgment.choice):
                found["contradicts_scores"] = f"said {judgment.choice}, scores prefer {better}"
            if judgment.seconds is not None and judgment.seconds < too_fast:
                found["too_fast"] = f"{judgment.seconds:g} s"
            if who in unreliable:
                found["unreliable_annotator"] = unreliable[who]
            if found:
                detail = "; ".join(found.values())
                yield Redo(item.name, who, tuple(found), detail, judgment.batch or "", judgment.source)


def write_rework(report: AgreementReport, path: Path) -> dict[str, int]:
    """Write the tasks to redo as a spreadsheet and return reason → how many."""
    tasks = rework(report)
    rows = ((t.task, t.annotator, "; ".join(t.reasons), t.detail, t.batch, t.source) for t in tasks)
    write_sheet(path, COLUMNS, rows)
    counts: defaultdict[str, int] = defaultdict(int)
    for task in tasks:
        for reason in task.reasons:
            counts[reason] += 1
    return dict(counts)


def requirements(report: AgreementReport, texts: Sequence[str]) -> list[Requirement]:
    """Judge several conditions."""
    return [require(report, text) for text in texts]
