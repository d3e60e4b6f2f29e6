"""The trials of a sweep as one table, and the best run's `Result`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from anydpo.result import Cost, Error, Part, Result, Stage, State


class Trial(Part):
    """One set of values, the run that tried it, and the metric it reached."""

    number: int
    values: dict[str, Any]
    run: str | None = None
    created: bool = False
    provider_job_id: str | None = None
    state: State = State.PENDING
    value: float | None = None
    cost: Cost | None = None
    error: Error | None = None


class Sweep(Part):
    """Every trial of a sweep, the number of the best, and its run's result."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    sweep: str
    name: str | None = None
    place: str
    metric: str
    goal: Literal["max", "min"]
    space: dict[str, Any]
    trials: tuple[Trial, ...]
    best_trial: int | None = Field(description="its number; null where no trial gave the metric")
    tied: tuple[int, ...] = Field(default=(), description="other trials that reached the same value")
    best: Result | None = None
    cost: Cost | None = Field(default=None, description="of all trials; null where nothing is known of it")
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return ("trial", *self.space, "state", self.metric, "run", "")

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the table, one row a trial; the last cell marks the best, or says what went wrong."""
        return [
            (
                trial.number,
                *(trial.values.get(name) for name in self.space),
                trial.state,
                trial.value,
                trial.run,
                "best" if trial.number == self.best_trial else trial.error.message if trial.error else "",
            )
            for trial in self.trials
        ]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the trials as JSON holds them, each value under its field's name."""
        kept = ("number", "run", "state", "value")
        return [
            {
                **trial.model_dump(mode="json", include=set(kept)),
                **trial.values,
                "best": trial.number == self.best_trial,
            }
            for trial in self.trials
        ]

    def _repr_html_(self) -> str:
        def row(cells: Iterable[Any], tag: str) -> str:
            shown = (f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in cells)
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in shown) + "</tr>"

        return f"<table>{row(self.columns, 'th')}{''.join(row(cells, 'td') for cells in self.rows())}</table>"


def ranked(
    id: str,  # noqa: A002
    place: str,
    name: str | None,
    search: Mapping[str, Any],
    trials: Sequence[Trial],
    results: Mapping[int, Result],
    notes: Iterable[str] = (),
) -> Sweep:
    """Return the sweep with its best trial: the first of those that reached the best value."""
    measured = [trial for trial in trials if trial.value is not None]
    best: Trial | None = None
    tied: tuple[int, ...] = ()
    if measured:
        choose = max if search["goal"] == "max" else min
        best = choose(measured, key=lambda trial: trial.value or 0.0)
        tied = tuple(t.number for t in measured if t.value == best.value and t is not best)
    return Sweep(
        sweep=id,
        name=name,
        place=place,
        metric=search["metric"],
        goal=search["goal"],
        space=dict(search["space"]),
        trials=tuple(trials),
        best_trial=best.number if best else None,
        tied=tied,
        best=_with_trials(results[best.number], trials) if best else None,
        cost=_sum([trial.cost for trial in trials]),
        notes=tuple(notes),
    )


def cost_of(result: Result) -> Cost | None:
    """Return what a run cost in US dollars, None where that is not known."""
    return result.cost if result.cost is not None and result.cost.currency == "USD" else None


def _with_trials(result: Result, trials: Sequence[Trial]) -> Result:
    """Return the best run's result with each trial as a stage."""
    if any(stage.stage == "trial" for stage in result.stages):
        return result
    stages = (
        Stage(stage="trial", provider_job_id=trial.provider_job_id, state=trial.state, cost=trial.cost)
        for trial in trials
    )
    return result.model_copy(update={"stages": (*result.stages, *stages)})


def _sum(costs: Sequence[Cost | None]) -> Cost | None:
    known = [cost for cost in costs if cost is not None]
    if not known or len({cost.currency for cost in known}) > 1:
        return None
    bases = ", ".join(dict.fromkeys(cost.basis for cost in known))
    return Cost(amount=round(sum(cost.amount for cost in known), 6), currency=known[0].currency, basis=bases)
