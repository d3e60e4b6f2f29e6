"""Submit once, then watch: each step is in the journal before it is taken, so that any process can go on from it.

A run owns attempts, one after the other: the stages of a job at one place, and where it may go on elsewhere, those at
the next place. `Sender` takes the steps of one attempt, `Watcher` asks what became of it; which one is due is
decided here, under the run's lock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anydpo.chain import Chain
from anydpo.clock import Clock, Reads, SystemClock
from anydpo.errors import AnyDPOError, RunFailed
from anydpo.fallback import LEFT, STOPPED, history, left_of_cap, onward, passed_over, patience, was_left
from anydpo.identity import attempt_key, group_id
from anydpo.journal import Journal
from anydpo.measured import with_measurements
from anydpo.outgoing import write_files
from anydpo.plan import Prepared
from anydpo.provider import CanResume, DataFile, Event, JobRef, Plan, Provider
from anydpo.records import FOUND, AttemptRow, ChoiceRow, RunRow
from anydpo.registry import split_place
from anydpo.result import Attempt, Result, State
from anydpo.secrets import masked
from anydpo.sender import Sender, told, unknown
from anydpo.start import left_by
from anydpo.watcher import Wait, Watcher, next_stage, pause_of, provider_of, ref_of

FAILED = (State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Submitted:
    """What a submission came to: `created` is false where the job existed; `remaining` names steps still to take."""

    run: str
    created: bool
    remaining: tuple[str, ...] = ()


class Dispatch:
    """Carries out runs for one journal."""

    def __init__(self, journal: Journal, clock: Clock | None = None, reads: Reads | None = None) -> None:
        self.journal, self.clock = journal, clock or SystemClock()
        self._reads = reads or Reads(self.clock)
        self._watcher = Watcher(journal, self.clock, self._reads)
        self._sender = Sender(journal, self.clock, self._reads)
        self._asked_to_stop: set[str] = set()

    def submit(
        self, prepared: Prepared | Chain, *, again: bool = False, resubmit: bool = False, adopt: str | None = None
    ) -> Submitted:
        """Send a job once and return when its create is answered. The same job again is the same run.

        A chain goes on to its next place where one says no for its own reasons. `again` makes a new attempt of a run
        that has ended, `resubmit` one of a run whose outcome is unknown, `adopt` takes a provider's job for the one
        that was lost; what the plan lets it cost is held against what the place itself estimates once it has the
        files. Raises `JobInvalid` for a plan with problems, `RunFailed` for a run that has failed and needs
        `again`, `OutcomeUnknown` where a create may have happened.
        """
        run = prepared.or_raise().run_id
        with self.journal.acting(run):
            self._record_request(prepared)
            attempts = self.journal.attempts(run)
            last = attempts[-1] if attempts else None
            created = False
            if last is None:
                last = self._new_attempt(prepared, 1)
            elif adopt is None and not again and (choice := onward(self.journal, last)) is not None:
                last = self._attempt_at(choice, last.number + 1)
            elif self._wants_another(last, again=again, resubmit=resubmit, adopt=adopt):
                later = last.phase == "refused" and last.stage != last.plan["stages"][0]
                last = self._same_stage(last) if later else self._new_attempt(prepared, last.number + 1, last)
            if adopt is not None and last.phase != "submitted":
                self._sender.adopt(last, adopt)
            elif last.phase != "submitted":
                created = self._carry_out(self._capped(last, prepared))
            else:
                self._sender.wake(last)
        return Submitted(run, created, self._remaining(run))

    def would_send(self, prepared: Prepared | Chain, *, again: bool = False, resubmit: bool = False) -> bool:
        """Say whether submitting this may create a job at the provider."""
        if self.journal.known(prepared.run_id) is None:
            return True
        attempts = self.journal.attempts(prepared.run_id)
        if again or resubmit or not attempts or attempts[-1].phase != "submitted":
            return True
        return onward(self.journal, attempts[-1]) is not None

    def announce(self, prepared: Sequence[Prepared | Chain], kind: str) -> None:
        """Record runs that are asked for together, before anything of any of them is sent."""
        runs = [one.or_raise().run_id for one in prepared]
        for one in prepared:
            with self.journal.acting(one.run_id):
                self._record_request(one)
        self.journal.keep_group(group_id(runs), kind, self.clock.now(), {"runs": runs}, runs)

    def attempts(self, run: str) -> tuple[Attempt, ...]:
        """Return every try of a run so far, and the places that were passed over, without asking anyone."""
        return history(self.journal.attempts(run), self.journal.choices(run))

    def watch(self, run: str, *, wait: bool = True, timeout: float | None = None) -> Iterator[Event]:
        """Yield what happens in a run from its beginning, until it ends or pauses, taking the steps that are due.

        Any process may watch at any time. Raises what a provider answered for good, and `TimeoutError` after
        `timeout` seconds; a run that cannot be asked about keeps its state.
        """
        left = float("inf") if timeout is None else timeout
        for step in self._walk(run, wait=wait):
            if isinstance(step, Event):
                yield step
                continue
            if left <= 0:
                state = self.journal.run(run).state
                raise TimeoutError(f"run {run} is still {state} after {timeout:g} s; it goes on")
            self.clock.sleep(min(step.seconds, left))
            left -= step.seconds

    def watch_all(self, runs: Sequence[str]) -> Iterator[tuple[str, Event | AnyDPOError]]:
        """Yield (run, event) of several runs as it happens, until all have ended or paused, each asked at its own pace.

        What a provider answered for good ends the watch of its run alone, and is yielded in an event's place.
        """
        due = [(self.clock.now(), at, run, self._walk(run, wait=True)) for at, run in enumerate(runs)]
        while due:
            when, at, run, steps = heapq.heappop(due)
            if (left := when - self.clock.now()) > 0:
                self.clock.sleep(left)
            try:
                for step in steps:
                    if isinstance(step, Wait):
                        heapq.heappush(due, (self.clock.now() + step.seconds, at, run, steps))
                        break
                    yield run, step
            except AnyDPOError as exc:
                yield run, exc

    def events(self, run: str) -> Iterator[Event]:
        """Yield what has happened in a run so far."""
        return self.watch(run, wait=False)

    def refresh(self, run: str) -> State:
        """Ask the provider once and return where the run stands."""
        for attempt in self.journal.attempts(run)[-1:]:
            self._watcher.refresh(attempt)
        return self.journal.run(run).state

    def result(self, run: str) -> Result:
        """Return what is known of a run now; a failed or unfinished run has a result too."""
        return with_measurements(self._watcher.result(run), self.journal.home)

    def known(self, run: str) -> Result:
        """Return what the journal alone knows of a run now."""
        return self._watcher.result(run, ask=False)

    def advance(self, run: str) -> bool:
        """Take the steps of a run that are due, unless another process is at it; say whether any was taken."""
        with self.journal.acting(run, wait=False) as mine:
            if not mine or not self._is_due(run):
                return False
            self._carry_out(self._begin_next(self._last(run)))
            return True

    def cancel(self, run: str) -> State:
        """Ask a run to stop, whatever its next step would be, and return where it stands."""
        with self.journal.acting(run):
            last = self._last(run)
            if last.phase == "submitting" or last.state is State.UNKNOWN:
                raise unknown(last, "whether there is a job to cancel is not known")
            if last.state.done and not self._is_due(run):
                raise RunFailed(f"run {run} has ended already: {last.state}", provider=last.place)
            if last.state.done:
                last = self._begin_next(last)
            if last.provider_job_id is None:
                self.journal.observe(last.id, State.CANCELLED, finished=self.clock.now())
            else:
                self.journal.note(last.id, STOPPED, self.clock.now())
                provider_of(last).cancel(ref_of(last))
        return self.refresh(run)

    def resume(self, run: str) -> None:
        """Let a run go on: one that its provider has paused, or one whose next steps nobody has taken."""
        if self._is_due(run):
            self.advance(run)
            return
        with self.journal.acting(run):
            last = self._last(run)
            if last.provider_job_id is None or last.state.done:
                raise RunFailed(f"run {run} has ended already: {last.state}", provider=last.place)
            place = provider_of(last)
            if not isinstance(place, CanResume):
                raise RunFailed(f"runs on {last.place} cannot be resumed by us", provider=last.place)
            place.resume(ref_of(last))

    def live_ref(self, run: str) -> tuple[Provider, JobRef]:
        """Return the provider and the job of a run's latest attempt."""
        last = self._last(run)
        if last.provider_job_id is None:
            raise RunFailed(f"run {run} was never sent", provider=last.place)
        return provider_of(last), ref_of(last)

    # What stands between a request and its job

    def _wants_another(self, last: AttemptRow, *, again: bool, resubmit: bool, adopt: str | None) -> bool:
        """Say whether a run that has been asked for before gets a new attempt; raise where the user has to decide."""
        if last.state is State.UNKNOWN:
            if resubmit:
                return True
            if adopt is None and not self._sender.found_late(last):
                raise unknown(last, "an earlier create may have happened")
            return False
        if last.phase == "refused":
            return True
        if again and last.state.done:
            return True
        if last.state in FAILED:
            message = last.error["message"] if last.error else f"was {last.state}"
            raise RunFailed(
                f"run {last.run} {message}", provider=last.place, hint="--again makes a new attempt of the same job"
            )
        return False

    def _carry_out(self, attempt: AttemptRow) -> bool:
        """Take the steps of an attempt, or where its place says no those at the next; say whether a job was made."""
        while True:
            try:
                return self._sender.advance(attempt)
            except AnyDPOError as exc:
                attempt = self._elsewhere(self.journal.attempt(attempt.id), exc)

    def _elsewhere(self, attempt: AttemptRow, exc: AnyDPOError) -> AttemptRow:
        """Record the attempt at the next place of a run, or raise the error where the run ends with it."""
        if attempt.phase in ("intended", "staged") and not attempt.state.done:
            if onward(self.journal, attempt, State.FAILED, exc.code) is not None:
                self._sender.refuse(attempt, exc)  # nothing was created, whatever a second try might do
                attempt = self.journal.attempt(attempt.id)
            else:
                self.journal.observe(attempt.id, State.PENDING, error=told(exc))
        choice = onward(self.journal, attempt)
        if choice is None:
            raise exc
        return self._attempt_at(choice, attempt.number + 1)

    def _leave_if_due(self, attempt: AttemptRow, state: State) -> None:
        """Ask a job to stop that stands in its queue for longer than the run may wait there.

        The run goes on elsewhere only when the provider says that the job was cancelled.
        """
        limit = patience(self.journal, attempt)
        if limit is None or state.done or attempt.id in self._asked_to_stop:
            return
        waited = self.clock.now() - (attempt.submitted or attempt.created)
        if not was_left(self.journal, attempt) and (state is not State.QUEUED or waited <= limit):
            return
        with self.journal.acting(attempt.run, wait=False) as mine:
            if mine:
                if not was_left(self.journal, attempt):
                    self.journal.note(attempt.id, LEFT, self.clock.now())
                provider_of(attempt).cancel(ref_of(attempt))
                self._asked_to_stop.add(attempt.id)

    def _record_request(self, prepared: Prepared | Chain) -> None:
        """Record a run before anything of it is sent, with all that its later places will need."""
        known = self.journal.known(prepared.run_id) is not None
        if isinstance(prepared, Prepared):
            if not known:
                self.journal.add_run(self._row(prepared, prepared.run_id))
            return
        if known:
            self.journal.set_terms(prepared.run_id, [prepared.terms_at(at) for at in range(len(prepared.prepared))])
            return
        files, plans = [], []
        for one in prepared.prepared:
            usable = passed_over(one.plan) is None
            made = write_files(one, self.journal.home, prepared.run_id) if usable else []
            files.append([file.model_dump(mode="json") for file in made])
            plans.append(masked(_first_stage(one.plan).model_dump(mode="json")))
        first = self._row(prepared.usable[0], prepared.run_id)
        self.journal.add_run(first, prepared.choices(files, plans))

    def _new_attempt(self, prepared: Prepared | Chain, number: int, before: AttemptRow | None = None) -> AttemptRow:
        """Record a try from the beginning; one whose outcome was unknown is made again where that was."""
        one = prepared if isinstance(prepared, Prepared) else prepared.usable[0]
        if isinstance(prepared, Chain) and before is not None and before.state is State.UNKNOWN:
            one = next(each for each in prepared.usable if each.plan.place == before.place)
        files = write_files(one, self.journal.home, prepared.run_id)
        return self._record(prepared.run_id, number, one.fingerprint, _first_stage(one.plan), files, [])

    def _attempt_at(self, choice: ChoiceRow, number: int) -> AttemptRow:
        """Record the attempt at the next place of a run, with what is left of the cap."""
        files = [DataFile(**file) for file in choice.files]
        plan = Plan(**{**choice.plan, "most_usd": left_of_cap(self.journal, choice)})
        return self._record(choice.run, number, choice.fingerprint, plan, files, [])

    def _begin_next(self, last: AttemptRow) -> AttemptRow:
        """Return the attempt whose steps are due after this one: itself, its next stage, or the next place."""
        if last.state is State.SUCCEEDED:
            return self._begin_stage(last)
        choice = onward(self.journal, last)
        return self._attempt_at(choice, last.number + 1) if choice is not None else last

    def _capped(self, attempt: AttemptRow, prepared: Prepared | Chain) -> AttemptRow:
        """Record what this request lets an attempt cost, for whichever process takes its steps."""
        most = prepared.plan.most_usd if isinstance(prepared, Prepared) else attempt.plan.get("most_usd")
        if attempt.phase not in ("intended", "staged") or attempt.plan.get("most_usd") == most:
            return attempt
        plan = {**attempt.plan, "most_usd": most}
        self.journal.step(attempt.id, attempt.phase, self.clock.now(), plan=plan)
        return self.journal.attempt(attempt.id)

    def _same_stage(self, refused: AttemptRow) -> AttemptRow:
        """Record a new try of a stage that was refused; the stages before it are done and paid for."""
        files = [DataFile(**file) for file in refused.files]
        job = self._fingerprint(refused)
        return self._record(refused.run, refused.number + 1, job, Plan(**refused.plan), files, refused.staged)

    def _begin_stage(self, done: AttemptRow) -> AttemptRow:
        """Record the next stage of a try whose last one has succeeded; it starts from what that one left."""
        filled = {**done.plan["filled"], f"{done.stage}_model": left_by(done)}
        plan = Plan(**{**done.plan, "stage": next_stage(done), "filled": filled})
        files = [DataFile(**file) for file in done.files]
        job = self._fingerprint(done)
        return self._record(done.run, done.number, job, plan, files, done.staged)

    def _record(
        self, run: str, number: int, job: str, plan: Plan, files: list[DataFile], staged: list[dict[str, Any]]
    ) -> AttemptRow:
        name, _ = split_place(plan.place)
        here = [each for each in self.journal.attempts(run) if split_place(each.place)[0] == name]
        known = [each for each in here if each.stage == plan.stage and each.phase != "refused"]
        key = attempt_key(job, name, plan.target, plan.stage, 1 + len(known))
        for other in self.journal.holding(key):
            if other.run.startswith(FOUND):
                self.journal.forget(other.run)
        row = AttemptRow(
            id=f"{run}.{number}.{plan.stage}",
            key=key,
            run=run,
            number=number,
            stage=plan.stage,
            place=plan.place,
            plan=masked(plan.model_dump(mode="json")),
            created=self.clock.now(),
            files=[file.model_dump(mode="json") for file in files],
            phase="staged" if staged else "intended",
            staged=staged,
        )
        self.journal.add_attempt(row)
        return row

    def _walk(self, run: str, *, wait: bool) -> Iterator[Event | Wait]:
        """Yield the events of a run and the pauses between questions, taking the steps that are due."""
        shown: set[str] = set()
        said = 0
        while True:
            for gone in self.attempts(run)[said:-1]:
                said += 1
                if gone.error is not None:
                    text = f"{gone.place}: {gone.error.message} ({gone.error.code})"
                    yield Event(kind="state", state=State.PENDING, text=text)
            attempts = self.journal.attempts(run)
            latest = [each for each in attempts if attempts and each.number == attempts[-1].number]
            unseen = [each for each in latest if each.provider_job_id is not None and each.id not in shown]
            for attempt in unseen:
                shown.add(attempt.id)
                yield from self._watcher.follow(attempt, wait=wait, seen=self._leave_if_due)
            if unseen:
                continue
            if not wait or not self._is_due(run):
                if not shown:
                    yield Event(kind="state", state=self.journal.run(run).state)
                return
            if not self.advance(run):
                yield Wait(pause_of(latest[-1]))

    def _is_due(self, run: str) -> bool:
        """Say whether a run has a next step that waits for nobody but us."""
        attempts = self.journal.attempts(run)
        if not attempts or attempts[-1].state is State.UNKNOWN:
            return False
        last = attempts[-1]
        if last.state in FAILED:
            return onward(self.journal, last) is not None
        if last.phase == "submitted":
            return last.state is State.SUCCEEDED and next_stage(last) is not None
        return not last.state.done

    def _remaining(self, run: str) -> tuple[str, ...]:
        """Name the steps that are still to take, in words: the next stage, and the next place in case of need."""
        last = self._last(run)
        stage, choices = next_stage(last), self.journal.choices(run)
        stages = (f"the {stage} stage",) if stage is not None and last.state not in FAILED else ()
        here = next((choice.at for choice in choices if choice.place == last.place), len(choices))
        further = [choice.place for choice in choices if choice.at > here and choice.skipped is None]
        ended = last.state.done and onward(self.journal, last) is None and not stages
        ended = ended or last.state is State.UNKNOWN
        return (*stages, *([] if ended else [f"{place}, if need be" for place in further]))

    def _fingerprint(self, attempt: AttemptRow) -> str:
        """Return the fingerprint of the job as the place of an attempt trains it."""
        choices = self.journal.choices(attempt.run)
        here = next((choice.fingerprint for choice in choices if choice.place == attempt.place), None)
        return here or self.journal.run(attempt.run).fingerprint

    def _last(self, run: str) -> AttemptRow:
        attempts = self.journal.attempts(run)
        if not attempts:
            raise RunFailed(f"run {run} was never sent")
        return attempts[-1]

    def _row(self, prepared: Prepared, run: str) -> RunRow:
        data = {
            "fingerprint": prepared.train.fingerprint,
            "validation_fingerprint": prepared.validation.fingerprint if prepared.validation is not None else None,
            "train_pairs": len(prepared.train),
            "validation_pairs": len(prepared.validation) if prepared.validation is not None else None,
            "skipped": prepared.train.skipped,
            "format_sent": prepared.plan.format,
        }
        return RunRow(
            id=run,
            created=self.clock.now(),
            name=prepared.job.name,
            place=prepared.plan.place,
            target=prepared.plan.target,
            job=masked(prepared.job.to_dict()),
            fingerprint=prepared.fingerprint,
            data=data,
            state=State.PENDING,
        )


def _first_stage(plan: Plan) -> Plan:
    return plan.model_copy(update={"stage": plan.stages[0]})
