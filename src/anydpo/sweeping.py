"""`sweep`: one job with some of its fields varied, as runs of one place, and which of them came out best.

A sweep is a group in the journal: the values of each trial are written there before its run is sent. Asked for again,
it goes on where it was, and a trial that was made is the run that it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from anydpo import space as spaces
from anydpo.clock import SystemClock
from anydpo.dispatch import Dispatch
from anydpo.errors import (
    AnyDPOError,
    AuthFailed,
    CapExceeded,
    JobInvalid,
    JournalError,
    OutcomeUnknown,
    Problem,
    ProviderMissing,
)
from anydpo.fanout import at_once
from anydpo.handle import Run, send
from anydpo.home import home
from anydpo.identity import sweep_id
from anydpo.job import PreferenceJob
from anydpo.journal import journal_of
from anydpo.plan import Prepared, prepare
from anydpo.provider import CanTune, Tuning
from anydpo.registry import split_place
from anydpo.result import Error, Result, State
from anydpo.secrets import masked
from anydpo.spend import hold_to, is_free, price_of
from anydpo.suggest import Tried, suggest
from anydpo.trials import Sweep, Trial, cost_of, ranked

METRIC = "eval/rewards/accuracies"
PARALLEL = 3  # trials at once at a place that is paid for; on this machine they would only slow each other
Told = Callable[[Trial], None]


def sweep(
    job: PreferenceJob,
    place: str = "local",
    *,
    space: Mapping[str, Any],
    trials: int,
    metric: str = METRIC,
    goal: str = "max",
    max_cost_usd: float | None = None,
    allow_unknown_price: bool = False,
    parallel: int | None = None,
    seed: int = 0,
    native: bool = False,
    on_trial: Told | None = None,
) -> Sweep:
    """Run a job with some of its fields varied and return every trial, with the best run's result.

    `space` is field → choices, a `Range`, or text such as `1e-6..1e-4:log`. The same sweep again is the same trials;
    with more `trials` it goes on. A trial that fails is a row. `max_cost_usd` holds for all trials together. `native`
    leaves the search to the provider's own tuner. `on_trial` is told of each trial when it is sent and when it ends.
    """
    made = prepare_sweep(job, place, space=space, trials=trials, metric=metric, goal=goal, parallel=parallel, seed=seed)
    return made.run(
        max_cost_usd=max_cost_usd, allow_unknown_price=allow_unknown_price, native=native, on_trial=on_trial
    )


def prepare_sweep(
    job: PreferenceJob,
    place: str,
    *,
    space: Mapping[str, Any],
    trials: int,
    metric: str = METRIC,
    goal: str = "max",
    parallel: int | None = None,
    seed: int = 0,
) -> Sweeping:
    """Return a sweep that is checked and not begun. Raises `JobInvalid` for what could not be trained or compared."""
    varied = spaces.parse(space)
    problems = [*_counts(trials, parallel, goal), *_not_comparable(job, varied, metric)]
    if problems:
        raise JobInvalid.of(problems)
    spaces.check(job, varied)
    base = prepare(job, place).or_raise()
    if parallel is None:
        parallel = 1 if is_free(base) and not base.plan.sandbox else PARALLEL
    tuning = Tuning(
        space=varied,
        metric=metric,
        goal="max" if goal == "max" else "min",
        trials=trials,
        parallel=parallel,
        seed=seed,
    )
    return Sweeping(base, place, tuning)


class Sweeping:
    """A sweep under way. Its trials are recorded one by one, whoever takes the next."""

    def __init__(self, base: Prepared, place: str, tuning: Tuning) -> None:
        self.base, self.place, self.tuning = base, place, tuning
        self._journal, self._clock = journal_of(home()), SystemClock()
        search = {
            "space": spaces.plain(tuning.space),
            **tuning.model_dump(include={"metric", "goal", "seed"}),
        }
        self.id = sweep_id(base.fingerprint, base.plan.place, base.plan.target, search)
        self._search, self._data = search, (base.train, base.validation)  # read once for all trials

    def run(
        self,
        *,
        max_cost_usd: float | None = None,
        allow_unknown_price: bool = False,
        native: bool = False,
        on_trial: Told | None = None,
    ) -> Sweep:
        """Make the trials that are not made yet, wait for all, and return them."""
        tell = on_trial or (lambda _trial: None)
        if native:
            return self._by_the_providers_tuner(max_cost_usd, allow_unknown_price, tell)
        self._hold_to(max_cost_usd, allow_unknown_price)
        done: list[Trial] = []
        results: dict[int, Result] = {}
        notes: list[str] = []
        while len(done) < self.tuning.trials and not notes:
            first = len(done) + 1
            numbers = range(first, min(first + self.tuning.parallel, self.tuning.trials + 1))
            values = self._values(numbers, done)
            if len(values) < len(numbers):
                notes.append(f"the space has {first - 1 + len(values)} sets of values, and each was tried")
            cap = self._shares(max_cost_usd, done, len(values))
            made = self._at_once(first, values, cap, allow_unknown_price, tell)
            for trial, result in made:
                done.append(trial)
                if result is not None:
                    results[trial.number] = result
                if trial.error is not None and trial.error.code == CapExceeded.code:
                    notes.append("the cap was reached; `max_cost_usd` higher goes on with the same trials")
        return ranked(self.id, self.place, self.base.job.name, self._search, done, results, dict.fromkeys(notes))

    def price(self) -> tuple[float | None, int]:
        """Return what the trials that are not made yet may cost together in USD, and how many they are."""
        left = self.tuning.trials - len(self._made())
        if is_free(self.base):
            return 0.0, left
        quotes = [price_of(one) for one in self._dearest()]
        known = [quote.cost.amount for quote in quotes if quote is not None]
        return (max(known) * left if len(known) == len(quotes) else None), left

    def _made(self) -> list[str]:
        """Return the runs of the trials that were sent; one that is only recorded is still to be paid for."""
        found = self._journal.group(self.id)
        kept = found["trials"][: self.tuning.trials] if found else []
        return [trial["run"] for trial in kept if trial["run"]]

    def _values(self, numbers: Sequence[int], done: Sequence[Trial]) -> list[dict[str, Any]]:
        """Return the values of these trials: as they were recorded, or chosen now and recorded before anything is."""
        with self._journal.acting(self.id):
            found = self._journal.group(self.id) or {
                "place": self.place,
                "target": self.base.plan.target,
                "search": self._search,
                "job": masked(self.base.job.to_dict()),
                "trials": [],
            }
            kept = list(found["trials"])
            tried = [Tried(trial.values, trial.value) for trial in done]
            for number in numbers[len(kept[numbers[0] - 1 :]) :]:
                running = [Tried(trial["values"], None) for trial in kept[len(done) :]]
                values = suggest(self.tuning, [*tried, *running])
                if values is None:
                    break
                kept.append({"number": number, "values": values, "run": None})
                self._journal.keep_group(self.id, "sweep", self._clock.now(), {**found, "trials": kept})
            return [dict(trial["values"]) for trial in kept[numbers[0] - 1 : numbers[-1]]]

    def _at_once(
        self, first: int, values: Sequence[dict[str, Any]], cap: _Cap, allow_unknown_price: bool, tell: Told
    ) -> list[tuple[Trial, Result | None]]:
        """Make these trials at the same time and return each with its result, where it has one."""
        tasks = [
            partial(self._make, number, each, cap, allow_unknown_price, tell)
            for number, each in enumerate(values, first)
        ]
        if len(tasks) == 1:
            return [tasks[0]()]
        made = at_once(tasks)
        for found in made:
            if isinstance(found, Exception):
                raise found
        return [found for found in made if not isinstance(found, Exception)]

    def _make(
        self, number: int, values: dict[str, Any], cap: _Cap, allow_unknown_price: bool, tell: Told
    ) -> tuple[Trial, Result | None]:
        """Send one trial and wait for it; whatever goes wrong with it alone is its row."""
        trial = Trial(number=number, values=values)
        prepared: Prepared | None = None
        try:
            job = spaces.with_values(self.base.job, values)
            name = f"{job.name or f'sweep-{self.id[:4]}'}-{number}"
            prepared = prepare(job.replace(name=name), self.place, self._data).or_raise()
            limit = cap.share(prepared)
            (run,) = send([prepared], max_cost_usd=limit, allow_unknown_price=allow_unknown_price)
            self._belongs(number, run.id)
            trial = trial.model_copy(update={"run": run.id, "created": run.created, "state": run.state})
            tell(trial)
            result = run.wait()
        except (AuthFailed, JournalError, ProviderMissing):  # no other trial would fare better
            raise
        except AnyDPOError as exc:
            made = self._failed(trial, exc, prepared)
        else:
            made = self._ended(trial, result), result
        tell(made[0])
        return made

    def _failed(self, trial: Trial, exc: AnyDPOError, prepared: Prepared | None) -> tuple[Trial, Result | None]:
        """Return a trial that was refused now or has failed before: what its run says counts most."""
        said = Error(code=exc.code, message=exc.message, hint=exc.hint)
        if prepared is None or self._journal.known(prepared.run_id) is None:
            return trial.model_copy(update={"state": _refused(exc), "error": said}), None
        result = Run(prepared.run_id).result()
        ended = self._ended(trial.model_copy(update={"run": prepared.run_id}), result)
        return ended.model_copy(update={"error": ended.error or said}), result

    def _ended(self, trial: Trial, result: Result) -> Trial:
        succeeded = result.state is State.SUCCEEDED
        given = ", ".join(name for name in result.metrics.final if name.startswith("eval/")) or "no held-out metric"
        without = Error(code="no_metric", message=f"the run gave no {self.tuning.metric}; it gave {given}")
        value = result.metric(self.tuning.metric) if succeeded else None
        return trial.model_copy(
            update={
                "state": result.state,
                "provider_job_id": result.provider_job_id,
                "value": value,
                "cost": result.cost,
                "error": result.error or (without if succeeded and value is None else None),
            }
        )

    def _belongs(self, number: int, run: str) -> None:
        """Record which run a trial is."""
        with self._journal.acting(self.id):
            found = self._journal.group(self.id)
            assert found is not None
            if found["trials"][number - 1]["run"] != run:
                found["trials"][number - 1]["run"] = run
                self._journal.keep_group(self.id, "sweep", self._clock.now(), found, [run])

    def _dearest(self) -> list[Prepared]:
        """Return the trials at the ends of the space, one of which costs as much as any."""
        made = []
        for values in spaces.extremes(self.tuning.space):
            one = prepare(spaces.with_values(self.base.job, values), self.place, self._data)
            if one.plan.ok:
                made.append(one)
        return made or [self.base]

    def _hold_to(self, cap: float | None, allow_unknown_price: bool) -> None:
        """Raise `CapExceeded`, before anything is sent, if the trials still to make may cost more than the cap."""
        made = self._made()
        left = self.tuning.trials - len(made)
        if cap is None or is_free(self.base) or left <= 0:
            return
        costs = [cost_of(Run(run).result()) for run in made]
        spent = sum(cost.amount for cost in costs if cost is not None)
        for one in self._dearest():
            hold_to(cap - spent, [one] * left, allow_unknown_price=allow_unknown_price)

    def _shares(self, cap: float | None, done: Sequence[Trial], now: int) -> _Cap:
        if cap is None:
            return _Cap(None, 1)
        spent = sum(trial.cost.amount for trial in done if trial.cost is not None)
        return _Cap(cap - spent, max(self.tuning.trials - len(done), now))

    def _by_the_providers_tuner(self, cap: float | None, allow_unknown_price: bool, tell: Told) -> Sweep:
        """Let the provider's tuner search, as one run, and return its trials."""
        place = self.base.provider
        if not isinstance(place, CanTune):
            raise ProviderMissing("has no tuner of its own", provider=place.name, hint="leave `native` out: ours runs")
        plan = place.tuning_plan(self.base.plan, self.tuning)
        prepared = replace(self.base, plan=plan, tuning=self.tuning).or_raise()
        (run,) = send([prepared], max_cost_usd=cap, allow_unknown_price=allow_unknown_price)
        result = run.wait()
        _, ref = Dispatch(self._journal).live_ref(run.id)
        done = []
        for number, found in enumerate(place.trials(ref), 1):
            trial = Trial(
                number=number,
                values=found.values,
                run=run.id,
                created=run.created,
                provider_job_id=found.ref.id,
                state=found.state,
                value=found.value if found.state is State.SUCCEEDED else None,
            )
            done.append(trial)
            tell(trial)
        return ranked(
            self.id,
            self.place,
            self.base.job.name,
            self._search,
            done,
            {trial.number: result for trial in done},
            {f"searched by {split_place(self.place)[0]}'s own tuner, as one run": None},
        )


class _Cap:
    """What trials that are sent at the same time may cost: each what it is quoted at, or its share of what is left."""

    def __init__(self, left: float | None, trials: int) -> None:
        self._left, self._trials, self._guard = left, trials, threading.Lock()

    def share(self, prepared: Prepared) -> float | None:
        """Return the most that this trial may cost, and keep its price from the others."""
        if self._left is None:
            return None
        quote = price_of(prepared)
        with self._guard:
            if quote is None:
                return self._left / self._trials
            allowed, self._left = self._left, self._left - quote.cost.amount
            return allowed


def _counts(trials: int, parallel: int | None, goal: str) -> list[Problem]:
    found = []
    if trials < 1:
        found.append(Problem("trials", "out_of_range", f"is {trials}, at least 1"))
    if parallel is not None and parallel < 1:
        found.append(Problem("parallel", "out_of_range", f"is {parallel}, at least 1"))
    if goal not in ("max", "min"):
        found.append(Problem("goal", "wrong_value", f"is {goal!r}, max or min"))
    return found


def _not_comparable(job: PreferenceJob, varied: Mapping[str, Any], metric: str) -> list[Problem]:
    if not metric.startswith("eval/"):
        return []
    if job.validation is None:
        said = f"the sweep chooses by {metric}, and no pairs are held out"
        return [Problem("validation", "missing_field", said, "validation = 0.1")]
    if "seed" in varied and isinstance(job.validation, float):
        said = "the seed also decides which pairs are held out, so that trials would be measured on different ones"
        return [Problem("space.seed", "not_varied", said, "give the held-out pairs as a file")]
    return []


def _refused(exc: AnyDPOError) -> State:
    if isinstance(exc, OutcomeUnknown):
        return State.UNKNOWN
    return State.PENDING if isinstance(exc, CapExceeded) else State.FAILED
