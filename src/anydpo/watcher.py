"""What is known of jobs that were sent: their events, states and results, asked for with patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from anydpo.clock import Clock
from anydpo.compose import compose, not_sent
from anydpo.errors import WaitedTooLong
from anydpo.fallback import onward, was_left
from anydpo.journal import Journal
from anydpo.provider import Capabilities, Event, JobRef, Outcome, Provider
from anydpo.records import AttemptRow
from anydpo.registry import provider, split_place
from anydpo.result import Result, State

REHEARSAL_SECONDS = 0.2
LEFT_QUEUE = "stood in the queue for longer than the run may wait, and was cancelled there"


class Wait(NamedTuple):
    """So many seconds until the next question."""

    seconds: float


class Watcher:
    """Asks providers about the jobs of one journal, and records what they say."""

    def __init__(self, journal: Journal, clock: Clock, reads: Callable[[Callable[[], Any]], Any]) -> None:
        self.journal, self.clock, self.reads = journal, clock, reads

    def follow(
        self, attempt: AttemptRow, *, wait: bool, seen: Callable[[AttemptRow, State], None]
    ) -> Iterator[Event | Wait]:
        """Yield the events of one job from its beginning until it ends or pauses, and record its states.

        Between two questions a `Wait` is yielded; with `wait=False` only what has happened so far. `seen` is told
        where the job stands at each question.
        """
        place, ref = provider_of(attempt), ref_of(attempt)
        cursor, state = "", None
        while True:
            poll = self.reads(lambda at=cursor: place.poll(ref, at))  # type: ignore[misc]
            cursor = poll.cursor
            yield from poll.events
            if poll.more:  # the state is told after all that led to it
                continue
            if poll.state is not state:
                state = poll.state
                self._observe(attempt, state, place, ref)
                yield Event(kind="state", state=self._of_run(attempt, state), time=self.clock.now())
            seen(attempt, poll.state)
            if poll.state.done or poll.state is State.PAUSED or not wait:
                return
            yield Wait(pause_of(attempt))

    def refresh(self, attempt: AttemptRow) -> None:
        """Ask once where a job stands, and record it."""
        if attempt.provider_job_id is not None and not attempt.state.done:
            place, ref = provider_of(attempt), ref_of(attempt)
            self._observe(attempt, self.reads(lambda: place.poll(ref)).state, place, ref)

    def result(self, run: str, *, ask: bool = True) -> Result:
        """Return what is known of a run now; a failed or unfinished run has a result too.

        With `ask=False` only what the journal has: no provider is asked.
        """
        row, attempts = self.journal.run(run), self.journal.attempts(run)
        sent = [attempt for attempt in attempts if attempt.provider_job_id is not None]
        if not sent or sent[-1].number != attempts[-1].number:
            return compose(row, attempts, not_sent(row), self.journal.choices(run))
        latest = sent[-1]
        if latest.result is not None:
            outcome = Outcome(**latest.result)
        elif not ask:
            outcome = Outcome(state=row.state)
        else:
            outcome = self.reads(lambda: provider_of(latest).result(ref_of(latest)))
        whole = latest is attempts[-1] and self._of_run(latest, outcome.state) is outcome.state
        told = outcome if whole else outcome.model_copy(update={"state": row.state})
        return compose(row, attempts, told, self.journal.choices(run))

    def _observe(self, attempt: AttemptRow, state: State, place: Provider, ref: JobRef) -> None:
        values: dict[str, Any] = {}
        if state.done:
            outcome = self.reads(lambda: place.result(ref))
            values["result"] = outcome.model_dump(mode="json")
            values["finished"] = outcome.finished or self.clock.now()
            values["error"] = outcome.error.model_dump(mode="json") if outcome.error else None
            if state is State.CANCELLED and was_left(self.journal, attempt):
                values["error"] = {"code": WaitedTooLong.code, "message": LEFT_QUEUE, "hint": None}
        code = (values.get("error") or {}).get("code")
        self.journal.observe(attempt.id, state, of_run=self._of_run(attempt, state, code), **values)

    def _of_run(self, attempt: AttemptRow, state: State, code: str | None = None) -> State:
        """Return what a job's state means for its run: one that leaves a stage or a place to try has not ended it."""
        if state is State.SUCCEEDED and next_stage(attempt) is not None:
            return State.RUNNING
        known = self.journal.attempt(attempt.id)
        return State.PENDING if onward(self.journal, known, state, code) is not None else state


def pause_of(attempt: AttemptRow) -> float:
    """Return the seconds between two questions: what is polite, and less in a rehearsal on this machine."""
    polite = abilities_of(attempt).poll_seconds
    return min(polite, REHEARSAL_SECONDS) if attempt.plan.get("sandbox") else polite


def next_stage(attempt: AttemptRow) -> str | None:
    """Return the stage that follows this attempt's, None where it is the last."""
    stages: list[str] = attempt.plan.get("stages") or ["dpo"]
    at = stages.index(attempt.stage) + 1
    return stages[at] if at < len(stages) else None


def provider_of(attempt: AttemptRow) -> Provider:
    """Return the provider of an attempt."""
    return provider(split_place(attempt.place)[0])


def abilities_of(attempt: AttemptRow) -> Capabilities:
    """Return what the route of an attempt can do."""
    _, route = split_place(attempt.place)
    return provider_of(attempt).capabilities[route or ""]


def ref_of(attempt: AttemptRow) -> JobRef:
    """Return the provider's job of an attempt that was sent."""
    assert attempt.provider_job_id is not None
    return JobRef(id=attempt.provider_job_id, place=attempt.place)
