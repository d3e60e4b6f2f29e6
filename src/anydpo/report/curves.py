"""How runs went: learning curves by step and by token, calibration, cost against quality, waiting and training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from anydpo.errors import AnyDPOError
from anydpo.registry import provider, split_place
from anydpo.report.beside import marks_of, seconds
from anydpo.report.document import Block, Line, Lines, Mark, Point, Points, Section, Spans, Views
from anydpo.result import Result

if TYPE_CHECKING:
    from anydpo.comparison import Comparison

FEW = 5  # pairs of one confidence, below which how often they are right says nothing
CURVES = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "mean_token_accuracy")


def sections(comparison: Comparison) -> Iterator[Section]:
    """Yield the sections of charts that these runs have something for."""
    marks = marks_of(comparison)
    by_step, by_token = list(_curves(comparison, marks, "step")), list(_curves(comparison, marks, "tokens"))
    if by_step:
        views = [("by step", by_step), *([("by token", by_token)] if by_token else [])]
        yield Section("Learning curves", (Views("curves", views),), _note(comparison, marks))
    if (calibration := _calibration(comparison, marks)) is not None:
        yield calibration
    if (worth := _worth(comparison, marks)) is not None:
        yield worth
    if (timing := _timing(comparison, marks)) is not None:
        yield timing


def _curves(comparison: Comparison, marks: dict[str, Mark], axis: str) -> Iterator[Block]:
    for metric in (f"{part}/{name}" for name in CURVES for part in ("train", "eval")):
        drawn = [Line(marks[one.run], _points(one, metric, axis)) for one in comparison.results]
        drawn = [line for line in drawn if line.points]
        if any(len(line.points) > 1 for line in drawn):
            yield Lines(metric, "optimiser steps" if axis == "step" else "tokens trained", drawn)


def _points(result: Result, metric: str, axis: str) -> list[tuple[float, float]]:
    """Return the points of one metric; a point without a token count of its own has the last one before it."""
    made, tokens = [], None
    for record in result.metrics.history:
        if record.get("stage", "dpo") != "dpo":
            continue
        tokens = record.get("train/num_tokens") or tokens
        at: Any = record.get("step") if axis == "step" else tokens
        value: Any = record.get(metric)
        if isinstance(at, (int, float)) and isinstance(value, (int, float)):
            made.append((float(at), float(value)))
    return list(dict(made).items())


def _note(comparison: Comparison, marks: dict[str, Mark]) -> str:
    silent = [marks[one.run].letter for one in comparison.results if not one.metrics.history]
    said = "Each line ends at its letter. Long curves are averaged; a value far beyond all others ends at the edge."
    return f"{said} Without curves: {', '.join(silent)}." if silent else said


def _calibration(comparison: Comparison, marks: dict[str, Mark]) -> Section | None:
    found = {one.run: made for one in comparison.results if (made := comparison.evaluation(one)) is not None}
    drawn = [
        Line(marks[run], [(one.confidence, one.accuracy) for one in made.calibration if one.pairs >= FEW])
        for run, made in found.items()
    ]
    if not any(len(line.points) > 1 for line in drawn):
        return None
    chart = Lines("how often it is right", "how sure the model is", drawn, begin=0.5, ideal=True)
    note = (
        "Pairs by the implied Bradley-Terry probability of the answer that the model holds to be better. A model that "
        "knows how much it knows is right in 80 % of the pairs of which it is 80 % sure: the dotted line."
    )
    return Section("Calibration", (chart,), note)


def _worth(comparison: Comparison, marks: dict[str, Mark]) -> Section | None:
    """Return cost against quality where money was named, else training time against quality."""
    name = comparison.quality
    if name is None:
        return None
    costs = {one.run: _dollars(one) for one in comparison.results}
    paid = any(costs.values())
    amounts = costs if paid else {one.run: one.timing.train_seconds for one in comparison.results}
    made = []
    for one in comparison.results:
        figure, amount = comparison.figures(one).get(name), amounts[one.run]
        if figure is not None and amount is not None:
            made.append(Point(marks[one.run], amount, figure.value, figure.low, figure.high))
    if not made:
        return None
    what = "US dollars" if paid else "seconds of training"
    missing = [marks[one.run].letter for one in comparison.results if one.run not in {_run_of(p, marks) for p in made}]
    note = "Letters in one place are runs that cost about the same and are about as good."
    if not comparison.comparable:
        note += " NOT COMPARABLE across groups: only runs of one base and the same held-out pairs have one scale."
    if missing:
        note += f" Not known: {', '.join(missing)}."
    title = "Cost against quality" if paid else "Time against quality"
    return Section(title, (Points(name, what, name, made),), note)


def _run_of(point: Point, marks: dict[str, Mark]) -> str:
    return next(run for run, mark in marks.items() if mark == point.mark)


def _dollars(result: Result) -> float | None:
    """Return what a run cost; nothing where its place bills nothing, None where that is not known."""
    if result.cost is not None:
        return result.cost.amount if result.cost.currency == "USD" else None
    name, route = split_place(result.place)
    try:
        return 0.0 if provider(name).capabilities[route or ""].free else None
    except (AnyDPOError, KeyError):
        return None


def _timing(comparison: Comparison, marks: dict[str, Mark]) -> Section | None:
    rows = []
    for one in comparison.results:
        wait, work = one.timing.queue_seconds, one.timing.train_seconds
        if work is None and one.timing.started is not None and one.timing.finished is not None:
            work = max(0.0, one.timing.finished - one.timing.started)
        if wait is None and work is None:
            continue
        text = f"waited {seconds(wait)}, trained {seconds(work)}"
        rows.append((marks[one.run], wait or 0.0, work or 0.0, text))
    if not rows:
        return None
    note = "From when each was submitted: dotted while it waited, filled while it trained."
    return Section("Time", (Spans(rows),), note)
