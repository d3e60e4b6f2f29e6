"""Runs side by side: one table whoever trained them, grouped by what may be compared, with tests between them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from anydpo.catalogue import name_of
from anydpo.errors import Invalid
from anydpo.result import Cost, Estimate, Evaluation, Part, Result, State
from anydpo.significance import Difference, differences

if TYPE_CHECKING:
    from anydpo.handle import Run

Comparable: TypeAlias = "Run | Result | str"

# The columns of a comparison, the most telling first; those that no run has are left out
COLUMNS = (
    *("measured/rewards/accuracies", "measured/rewards/margins", "measured/logps/chosen_shift"),
    *("measured/logps/rejected_shift", "measured/kl", "measured/calibration/ece", "measured/calibration/brier"),
    "judge/win_rate",
    *("eval/rewards/accuracies", "eval/rewards/margins", "eval/loss"),
    *("train/rewards/accuracies", "train/rewards/margins", "train/loss"),
)
QUALITY = (
    "measured/rewards/accuracies",
    "judge/win_rate",
    "eval/rewards/accuracies",
    "eval/loss",
    "train/rewards/accuracies",
    "train/loss",
)
LOWER_IS_BETTER = ("loss", "log_loss", "ece", "brier", "grad_norm")
KINDS = {".html": "html", ".htm": "html", ".json": "json", ".csv": "csv"}


class NotComparable(UserWarning):
    """Runs of different bases, or measured on different pairs, were put in one order."""


class Row(Part):
    """One run of a comparison: what it is, what it cost, how long it took, and its final figures."""

    run: str
    name: str | None
    place: str
    state: State
    sandbox: bool
    group: int = Field(description="runs of one number may be compared; counted from 1")
    base: str | None
    evaluated_on: str | None = Field(description="fingerprint of the held-out pairs")
    cost: Cost | None
    queue_seconds: float | None
    train_seconds: float | None
    steps: int | None
    train_tokens: int | None
    metrics: dict[str, Estimate]


class Group(Part):
    """Runs of one base that were measured on the same pairs."""

    number: int
    base: str | None
    evaluated_on: str | None
    runs: tuple[str, ...]


class Table(Part):
    """The table of a comparison: `columns` are metrics that some run has; several groups are not comparable."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    comparable: bool
    differences: tuple[Difference, ...]


class Compared(Part):
    """What `compare --json` prints."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    runs: tuple[Result, ...]
    table: Table


class Comparison:
    """Results of several runs, side by side; the order is that in which they were given."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = tuple(results)
        self._data = _common_data(results)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{one.run} on {one.place}' for one in self.results)})"

    def __len__(self) -> int:
        return len(self.results)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Which runs may be compared with which; several groups are not comparable with one another."""
        found: dict[tuple[str | None, str | None], list[Result]] = {}
        for one in self.results:
            found.setdefault((_weights_of(one), self.evaluated_on(one)), []).append(one)
        return tuple(
            Group(number=i, base=base_of(runs[0]), evaluated_on=data, runs=tuple(one.run for one in runs))
            for i, ((_, data), runs) in enumerate(found.items(), 1)
        )

    @property
    def comparable(self) -> bool:
        """Whether all runs have one base and one set of held-out pairs."""
        return len(self.groups) < 2

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row a run."""
        group = {run: one.number for one in self.groups for run in one.runs}
        return tuple(
            Row(
                run=one.run,
                name=one.name,
                place=one.place,
                state=one.state,
                sandbox=one.sandbox,
                group=group[one.run],
                base=base_of(one),
                evaluated_on=self.evaluated_on(one),
                cost=one.cost,
                queue_seconds=one.timing.queue_seconds,
                train_seconds=one.timing.train_seconds,
                steps=one.usage.steps,
                train_tokens=one.usage.train_tokens,
                metrics=self.figures(one),
            )
            for one in self.results
        )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The metrics that stand in the table: those that a run has, in a fixed order."""
        has = {name for one in self.results for name in self.figures(one)}
        return tuple(name for name in COLUMNS if name in has)

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """The best run of each group against each other one, tested on the pairs that both were measured on."""
        found: list[Difference] = []
        for group in self.groups:
            members = [one for one in self.results if one.run in group.runs]
            found += differences({one.run: made for one in members if (made := self.evaluation(one)) is not None})
        return tuple(found)

    def evaluation(self, result: Result, kind: str = "pairs") -> Evaluation | None:
        """Return a run's newest measurement on the pairs that most of these runs were measured on."""
        found = [one for one in result.evaluations if one.kind == kind and one.data == self._data]
        return found[-1] if found else None

    def evaluated_on(self, result: Result) -> str | None:
        """Return the fingerprint of the pairs that a run's figures are from, None where nothing was held out."""
        if self._data is not None and any(one.data == self._data for one in result.evaluations):
            return self._data
        return result.data.validation_fingerprint

    def figures(self, result: Result) -> dict[str, Estimate]:
        """Return the final figures of a run: its provider's own, and ours under `measured/` and `judge/`."""
        final = result.metrics.final
        made = {name: Estimate(value=v) for name, v in final.items() if v is not None and math.isfinite(v)}
        for kind in ("judge", "pairs"):
            made |= dict(found.metrics) if (found := self.evaluation(result, kind)) is not None else {}
        return made

    def metric(self, name: str) -> dict[str, float | None]:
        """Return run → final figure, None where a run has none of that name."""
        found = {one.run: self.figures(one).get(name) for one in self.results}
        return {run: made.value if made is not None else None for run, made in found.items()}

    def best(self, name: str | None = None, goal: str | None = None) -> Result:
        """Return the run with the best figure of that name, by default of the most telling one that there is.

        `goal` is max or min; without it losses, errors and divergences are the better the lower they are. Warns with
        `NotComparable` where the runs are of different bases or pairs. Raises `Invalid` where no run has the figure.
        """
        name = name or self.quality
        found = {run: value for run, value in self.metric(name).items() if value is not None} if name else {}
        if name is None or not found:
            known = ", ".join(self.columns) or "none"
            raise Invalid(f"no run has the metric {name or 'of quality'!r}", hint=f"there is: {known}")
        if len({one.number for one in self.groups if set(one.runs) & found.keys()}) > 1:
            said = "the runs have different bases or held-out pairs; the order of their figures means nothing"
            warnings.warn(said, NotComparable, stacklevel=2)
        wanted = better_of(name, goal)(found.items(), key=lambda item: item[1])[0]
        return next(one for one in self.results if one.run == wanted)

    @cached_property
    def quality(self) -> str | None:
        """The most telling metric that every finished run has, else one that any run has."""
        done = [one for one in self.results if one.state is State.SUCCEEDED] or list(self.results)
        figures = [self.figures(one) for one in done]
        everyone = [name for name in QUALITY if figures and all(name in each for each in figures)]
        anyone = [name for name in QUALITY if any(name in each for each in figures)]
        return next(iter([*everyone, *anyone]), None)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a flat row a run: a figure with an interval has its ends beside it, as NAME/low and NAME/high."""
        return [dict(self._flat(row)) for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a DataFrame, one row a run; needs pandas."""
        try:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise Invalid("pandas is not installed", hint="pip install pandas, or use to_dicts()") from None
        rows = self.to_dicts()
        return pd.DataFrame(rows, columns=self._names(rows))

    def document(self) -> Compared:
        """Return the JSON document of `compare --json`."""
        table = Table(
            columns=self.columns,
            rows=self.rows,
            groups=self.groups,
            comparable=self.comparable,
            differences=self.differences,
        )
        return Compared(runs=self.results, table=table)

    def save(self, path: str | Path) -> None:
        """Write the comparison, whole or not at all: `.html` a page, `.json` everything, `.csv` the table."""
        path = Path(path)
        match kind_of(path):
            case "html":
                from anydpo.report.comparison import document
                from anydpo.report.page import save

                save(document(self), path)
            case "json":
                from anydpo.data.write import whole_file

                with whole_file(path) as file:
                    file.write(self.document().model_dump_json(indent=1).encode() + b"\n")
            case _:
                from anydpo.data.sheet import write_sheet

                rows = self.to_dicts()
                names = self._names(rows)
                write_sheet(path, names, ([row.get(name) for name in names] for row in rows))

    def print(self) -> None:
        """Print the table and what is to be said of it."""
        from anydpo.report.comparison import summary
        from anydpo.report.terminal import show

        show(summary(self))

    def _repr_html_(self) -> str:
        from anydpo.report.comparison import summary
        from anydpo.report.page import fragment

        return fragment(summary(self))

    def _flat(self, row: Row) -> Iterator[tuple[str, Any]]:
        for name in ("run", "name", "place", "state", "sandbox", "group", "base", "evaluated_on"):
            value = getattr(row, name)
            yield name, value.value if isinstance(value, State) else value
        cost = row.cost
        yield from (("cost", cost.amount if cost else None), ("currency", cost.currency if cost else None))
        yield from ((name, getattr(row, name)) for name in ("queue_seconds", "train_seconds", "steps", "train_tokens"))
        for name, figure in sorted(row.metrics.items(), key=lambda item: _rank(item[0])):
            yield name, figure.value
            if figure.low is not None:
                yield from ((f"{name}/low", figure.low), (f"{name}/high", figure.high))

    @staticmethod
    def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the columns of all rows; a run that has a figure brings its column in where the others have it."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        fixed = [name for name in names if "/" not in name]
        return fixed + sorted((name for name in names if "/" in name), key=_rank)


def compare(runs: Comparable | Sequence[Comparable]) -> Comparison:
    """Return runs side by side: handles, results, or ids and names of runs in this home folder."""
    from anydpo.handle import Run

    given = [runs] if isinstance(runs, (Run, Result, str)) else list(runs)
    if not given:
        raise Invalid("no run to compare", hint="`anydpo list` shows the runs of this home folder")
    results = [
        one if isinstance(one, Result) else (Run(one) if isinstance(one, str) else one).result() for one in given
    ]
    return Comparison(list({one.run: one for one in results}.values()))


def kind_of(path: Path | None) -> str | None:
    """Return which kind of report a name asks for, before any work is done for it. Raises `Invalid` for no kind."""
    if path is not None and path.suffix.lower() not in KINDS:
        raise Invalid(f"{path}: no such kind of report", hint="end the name in .html, .json or .csv")
    return KINDS[path.suffix.lower()] if path is not None else None


def base_of(result: Result) -> str | None:
    """Return the weights a run began from, by name: what was asked for at that place, and a start if there was one."""
    return _from(result.model.requested or result.model.provider_model, result)


def _weights_of(result: Result) -> str | None:
    """Return `base_of` with one name for what several places call differently, as the catalogue knows it."""
    base = result.model.requested or result.model.provider_model
    return _from(base and name_of(base), result)


def _from(base: str | None, result: Result) -> str | None:
    start = result.job.get("start_from")
    return f"{base} from {start}" if start else base


def better_of(name: str, goal: str | None = None) -> Any:
    """Return `max` or `min`: which figure of that name is the better one. Raises `Invalid` for any other goal."""
    if goal not in (None, "max", "min"):
        raise Invalid(f"goal is {goal!r}", hint="max or min")
    lower = goal == "min" if goal else name.rpartition("/")[2] in LOWER_IS_BETTER
    return min if lower else max


def _common_data(results: Sequence[Result]) -> str | None:
    """Return the pairs on which most of the runs were measured; of several, those that were used last."""
    found: dict[str, tuple[int, float]] = {}
    for one in results:
        for data in {each.data for each in one.evaluations}:
            newest = max(each.when or 0.0 for each in one.evaluations if each.data == data)
            count, when = found.get(data, (0, 0.0))
            found[data] = (count + 1, max(when, newest))
    return max(found, key=lambda data: found[data]) if found else None


def _rank(name: str) -> tuple[int, str]:
    stem = name.removesuffix("/low").removesuffix("/high")
    return (COLUMNS.index(stem) if stem in COLUMNS else len(COLUMNS), name if stem == name else f"{stem}/{name[-4:]}")
