"""What a job goes on from: a run that `start_from` names becomes what its place calls the model which that run left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anydpo.clock import Reads, SystemClock
from anydpo.errors import AnyDPOError, Problem
from anydpo.home import home
from anydpo.journal import NAME, Journal, JournalUnknown, journal_of
from anydpo.provider import Outcome, Plan
from anydpo.records import AttemptRow
from anydpo.registry import split_place
from anydpo.result import State
from anydpo.watcher import Watcher, next_stage

FIELD = "start_from"


@dataclass(frozen=True)
class Start:
    """A run of this home, or a step of one; `model` is its place's own id, None where `problem` says why not."""

    attempt: AttemptRow
    step: int | None = None
    model: str | None = None
    problem: Problem | None = None

    @property
    def identity(self) -> str:
        """What stands for it in a job's fingerprint: which attempt of which job, whatever its place calls it."""
        return self.attempt.key if self.step is None else f"{self.attempt.key}@{self.step}"

    def against(self, plan: Plan) -> Problem | None:
        """Return what stands against going on from it in this plan."""
        run, place, target = self.attempt.run, self.attempt.place, self.attempt.plan["target"]
        if place != plan.place:
            said = f"{run} is a run of {place}, which {plan.place} knows nothing of"
            return Problem(FIELD, "other_place", said, _fetch(run))
        if target not in ("", plan.target):
            said = f"{run} was trained at {target}, and this job goes to {plan.target}"
            return Problem(FIELD, "other_target", said, _fetch(run))
        return self.problem


def start_of(given: str | None, name: str) -> Start | None:
    """Return the run or the step that `start_from` names, for a job at the provider of this name.

    None where no run of this home is meant: a folder, or a place's own id, of which the place judges. A run whose end
    has not been seen yet is asked about once.
    """
    if given is None or Path(given).is_dir() or not (home() / NAME).exists():
        return None
    journal, (run, step) = journal_of(home()), _parted(given)
    try:
        attempts = journal.attempts(journal.run(run).id)
    except JournalUnknown:
        return None
    if not attempts or attempts[-1].provider_job_id is None:
        return None
    last = attempts[-1]
    if split_place(last.place)[0] == name and not last.state.done:
        last = _seen(journal, last)
    return _at_step(last, step) if step is not None else _at_end(last)


def left_by(attempt: AttemptRow) -> str | None:
    """Return what its place calls the model that an attempt left, or else the attempt's job."""
    model = Outcome(**attempt.result).model if attempt.result else None
    return (model.tuned or model.weights if model else None) or attempt.provider_job_id


def _parted(given: str) -> tuple[str, int | None]:
    run, at, step = given.rpartition("@")
    return (run, int(step)) if at and step.isdecimal() else (given, None)


def _seen(journal: Journal, attempt: AttemptRow) -> AttemptRow:
    clock = SystemClock()
    try:
        Watcher(journal, clock, Reads(clock, budget=0)).refresh(attempt)
    except AnyDPOError:
        return attempt  # what is known of it stays
    return journal.attempt(attempt.id)


def _at_end(last: AttemptRow) -> Start:
    if last.state is State.SUCCEEDED and next_stage(last) is None:
        return Start(last, model=left_by(last))
    said = f"run {last.run} has left no model: it is {last.state} as far as is known"
    return Start(last, problem=Problem(FIELD, "no_start", said, f"anydpo wait {last.run}"))


def _at_step(last: AttemptRow, step: int) -> Start:
    kept = {
        artifact.step: artifact.path
        for artifact in (Outcome(**last.result).artifacts if last.result else ())
        if artifact.kind == "checkpoint"
    }
    if step in kept:
        return Start(last, step, kept[step])
    steps = ", ".join(str(one) for one in sorted(each for each in kept if each is not None)) or "none"
    said = f"run {last.run} has no checkpoint at step {step}"
    return Start(last, step, problem=Problem(FIELD, "no_start", said, f"kept are: {steps}; save_steps sets how often"))


def _fetch(run: str) -> str:
    return f"`anydpo fetch {run} -o DIR` brings its weights; then start_from = DIR, at a place that takes a folder"
