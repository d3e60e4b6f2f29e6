"""Where a run goes on when a place says no: for reasons that lie with the place, in order, on the user's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anydpo.errors import CapExceeded, SafetyRefused, kinds
from anydpo.journal import Journal
from anydpo.provider import Plan
from anydpo.records import AttemptRow, ChoiceRow
from anydpo.result import Attempt, Error, State

PASSED_OVER = frozenset({"no_model_here", "retired", "closed"})  # what a plan says of a place that cannot take the job
LEFT, STOPPED = "left", "stopped"  # steps: we asked the job to stop so as to go on elsewhere; the user asked it to


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
