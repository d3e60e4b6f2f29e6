"""Where a run goes on when a place says no: for reasons that lie with the place, in the user's order, on his terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anydpo.errors import CapExceeded, Invalid, JobInvalid, Problem, SafetyRefused, kinds
from anydpo.identity import chain_id
from anydpo.job import PreferenceJob
from anydpo.journal import Journal
from anydpo.plan import Prepared, prepare_all
from anydpo.provider import Plan
from anydpo.records import AttemptRow, ChoiceRow
from anydpo.result import Attempt, Error, State

PASSED_OVER = frozenset({"no_model_here", "retired", "closed"})  # what a plan says of a place that cannot take the job
LEFT, STOPPED = "left", "stopped"  # steps: we asked the job to stop so as to go on elsewhere; the user asked it to


@dataclass(frozen=True)
class Terms:
    """On which terms a run may go on elsewhere.

    `max_wait` is how many seconds a place may keep it waiting, for an answer and in its queue; `on_safety` lets a
    refusal by a safety screening count; `max_cost_usd` caps what all places together may cost.
    """

    max_wait: float | None = None
    on_safety: bool = False
    max_cost_usd: float | None = None


@dataclass(frozen=True)
class Chain:
    """One request at several places in order; it goes on to the next where one says no for its own reasons."""

    prepared: tuple[Prepared, ...]
    terms: Terms = field(default_factory=Terms)
    prices: tuple[float | None, ...] = ()

    @property
    def run_id(self) -> str:
        """The id of this request: the same places in the same order are the same run."""
        return chain_id([(one.fingerprint, one.plan.place, one.plan.target) for one in self.prepared])

    @property
    def usable(self) -> tuple[Prepared, ...]:
        """The places that can take the job."""
        return tuple(one for one in self.prepared if passed_over(one.plan) is None)

    def or_raise(self) -> Chain:
        """Return this, or raise `JobInvalid`: no place can take the job, or one that may has a problem with it."""
        for one in self.usable:
            one.or_raise()
        if not self.usable:
            reasons = [passed_over(one.plan) for one in self.prepared]
            said = [Problem("model", "no_place", f"{p.place}: {r['message']}") for p, r in self._with(reasons)]
            raise JobInvalid.of(said)
        return self

    def choices(self, files: Sequence[list[dict[str, Any]]], plans: Sequence[dict[str, Any]]) -> list[ChoiceRow]:
        """Return this as the journal holds it."""
        rows = []
        for at, one in enumerate(self.prepared):
            rows.append(
                ChoiceRow(
                    id=f"{self.run_id}.{at}",
                    run=self.run_id,
                    at=at,
                    place=one.plan.place,
                    fingerprint=one.fingerprint,
                    plan=plans[at],
                    files=files[at],
                    terms=self.terms_at(at),
                    skipped=passed_over(one.plan),
                )
            )
        return rows

    def terms_at(self, at: int) -> dict[str, Any]:
        """Return the terms with the price of one place, where prices were asked for."""
        return {**asdict(self.terms), "price_usd": self.prices[at] if self.prices else None}

    def _with(self, reasons: Sequence[dict[str, Any] | None]) -> list[tuple[Plan, dict[str, Any]]]:
        return [(one.plan, why) for one, why in zip(self.prepared, reasons, strict=True) if why is not None]


def chain_of(job: PreferenceJob, places: Sequence[str], terms: Terms | None = None) -> Chain:
    """Return the request at these places. Raises `Invalid` where a place stands there twice."""
    prepared = prepare_all(job, places)
    named = [one.plan.place for one in prepared]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise Invalid(f"{', '.join(twice)} is there twice", hint="a fallback names each place once")
    return Chain(tuple(prepared), terms or Terms())


def passed_over(plan: Plan) -> dict[str, Any] | None:
    """Return why a place cannot take a job at all, None where it can, or where the job has to change first."""
    why = next((problem for problem in plan.problems if problem.code in PASSED_OVER), None)
    return {"code": why.code, "message": why.message, "hint": why.hint} if why is not None else None


def moves_on(code: str, terms: dict[str, Any]) -> bool:
    """Say whether an error of this code lets a run go on elsewhere."""
    kind = kinds().get(code)
    return kind is not None and (kind.failover or (kind is SafetyRefused and bool(terms["on_safety"])))


def onward(
    journal: Journal, attempt: AttemptRow, state: State | None = None, code: str | None = None
) -> ChoiceRow | None:
    """Return where a run goes on after an attempt that has ended, or ends now in `state`; None where it does not."""
    state = state or attempt.state
    if state not in (State.FAILED, State.CANCELLED) or not (choices := journal.choices(attempt.run)):
        return None
    if state is State.CANCELLED:
        code = "waited_too_long" if was_left(journal, attempt) else None
    else:
        code = code or (attempt.error or {}).get("code")
    here = next((choice for choice in choices if choice.place == attempt.place), None)
    if here is None or code is None or not moves_on(code, here.terms):
        return None
    spent = _spent(journal.attempts(attempt.run), choices)
    later = (choice for choice in choices if choice.at > here.at and choice.skipped is None)
    return next((choice for choice in later if not _too_dear(choice, spent)), None)


def was_left(journal: Journal, attempt: AttemptRow) -> bool:
    """Say whether we asked a job to stop so as to go on elsewhere, and the user has not asked for it since."""
    names = {step.name for step in journal.steps(attempt.id)}
    return LEFT in names and STOPPED not in names


def patience(journal: Journal, attempt: AttemptRow) -> float | None:
    """Return how many seconds a place may keep an attempt waiting, None where there is no limit or no further place."""
    choices = journal.choices(attempt.run)
    here = next((choice for choice in choices if choice.place == attempt.place), None)
    if here is None or not any(choice.at > here.at and choice.skipped is None for choice in choices):
        return None
    limit: float | None = here.terms["max_wait"]
    return limit


def history(attempts: Sequence[AttemptRow], choices: Sequence[ChoiceRow]) -> tuple[Attempt, ...]:
    """Return every try in order, with whatever went wrong in any of its stages, and the places passed over."""
    order = {choice.place: choice.at for choice in choices}
    made: list[Attempt] = []
    last = -1
    for number in dict.fromkeys(each.number for each in attempts):
        jobs = [each for each in attempts if each.number == number]
        here = order.get(jobs[0].place, last)
        if here < last:
            last = -1  # all over again
        made += [_over(choice, jobs[0].created) for choice in choices if last < choice.at < here]
        error = next((Error(**each.error) for each in jobs if each.error), None)
        made.append(Attempt(place=jobs[0].place, error=error, when=jobs[0].submitted or jobs[0].created))
        last = here
    return tuple(made)


def _over(choice: ChoiceRow, when: float) -> Attempt:
    if choice.skipped is not None:
        return Attempt(place=choice.place, error=Error(**choice.skipped), when=when)
    cap, price = choice.terms["max_cost_usd"], choice.terms["price_usd"]
    said = f"about {price or 0:.2f} USD, which with what was spent before is above the cap of {cap or 0:g} USD"
    return Attempt(place=choice.place, error=Error(code=CapExceeded.code, message=said), when=when)


def left_of_cap(journal: Journal, choice: ChoiceRow) -> float | None:
    """Return what a place may still cost after all that the run has cost elsewhere, None where there is no cap."""
    cap: float | None = choice.terms["max_cost_usd"]
    return None if cap is None else cap - _spent(journal.attempts(choice.run), journal.choices(choice.run))


def _spent(attempts: Sequence[AttemptRow], choices: Sequence[ChoiceRow]) -> float:
    """Return what the jobs so far have cost, by their bills, or else by their prices: nothing where none was made."""
    prices = {choice.place: choice.terms["price_usd"] or 0.0 for choice in choices}
    spent = 0.0
    for each in attempts:
        if each.provider_job_id is not None:
            billed = (each.result or {}).get("cost")
            spent += billed["amount"] if billed else prices.get(each.place, 0.0)
    return spent


def _too_dear(choice: ChoiceRow, spent: float) -> bool:
    cap, price = choice.terms["max_cost_usd"], choice.terms["price_usd"]
    return cap is not None and bool(price) and spent + price > cap
