"""What is known of jobs that were sent: their events, states and results, asked for with patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from anydpo.clock import Clock, Reads
from anydpo.compose import compose, not_sent
from anydpo.journal import Journal
from anydpo.provider import Capabilities, Event, JobRef, Outcome, Provider
from anydpo.records import AttemptRow
from anydpo.registry import provider, split_place
from anydpo.result import Result, State

REHEARSAL_SECONDS = 0.5


class Watcher:
    """Asks providers about the jobs of one journal, and records what they say."""

    def __init__(self, journal: Journal, clock: Clock, reads: Reads) -> None:
        self.journal, self.clock, self.reads = journal, clock, reads

    def follow(self, attempt: AttemptRow, pause: Callable[[float], None] | None) -> Iterator[Event]:
        """Yield the events of one job from its beginning until it ends or pauses, and record its states.

        `pause` waits between two questions; without it only what has happened so far is told.
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
                yield Event(kind="state", state=_of_run(attempt, state), time=self.clock.now())
            if poll.state.done or poll.state is State.PAUSED or pause is None:
                return
            pause(pause_of(attempt))

    def refresh(self, attempt: AttemptRow) -> None:
        """Ask once where a job stands, and record it."""
        if attempt.provider_job_id is not None and not attempt.state.done:
            place, ref = provider_of(attempt), ref_of(attempt)
            self._observe(attempt, self.reads(lambda: place.poll(ref)).state, place, ref)

    def result(self, run: str) -> Result:
        """Return what is known of a run now; a failed or unfinished run has a result too."""
        row, attempts = self.journal.run(run), self.journal.attempts(run)
        sent = [attempt for attempt in attempts if attempt.provider_job_id is not None]
        if not sent or sent[-1].number != attempts[-1].number:
            return compose(row, attempts, not_sent(row))
        latest = sent[-1]
        if latest.result is not None:
            outcome = Outcome(**latest.result)
        else:
            outcome = self.reads(lambda: provider_of(latest).result(ref_of(latest)))
        whole = latest is attempts[-1] and _of_run(latest, outcome.state) is outcome.state
        return compose(row, attempts, outcome if whole else outcome.model_copy(update={"state": row.state}))

    def _observe(self, attempt: AttemptRow, state: State, place: Provider, ref: JobRef) -> None:
        values: dict[str, Any] = {}
        if state.done:
            outcome = self.reads(lambda: place.result(ref))
            values["result"] = outcome.model_dump(mode="json")
            values["finished"] = outcome.finished or self.clock.now()
            values["error"] = outcome.error.model_dump(mode="json") if outcome.error else None
        self.journal.observe(attempt.id, state, of_run=_of_run(attempt, state), **values)


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


def _of_run(attempt: AttemptRow, state: State) -> State:
    """Return what a job's state means for its run: one that leaves another stage to do leaves the run running."""
    return State.RUNNING if state is State.SUCCEEDED and next_stage(attempt) is not None else state
