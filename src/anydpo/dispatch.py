"""Submit once, then watch: each step is in the journal before it is taken, so that any process can go on from it.

An attempt goes from `intended` (its files lie on this disk) over `staged` (the provider has them) and `submitting`
(a create may have been sent) to `submitted` (it was answered) or `refused`. Reads are repeated in one place; a create
is sent once. Where its reply is lost, the provider is searched for the attempt's key, and if that finds nothing the
run is `unknown`, never a second job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from anydpo.clock import Clock, Reads, SystemClock
from anydpo.errors import AnyDPOError, OutcomeUnknown, RunFailed, Unavailable
from anydpo.identity import attempt_key
from anydpo.journal import Journal
from anydpo.measured import with_measurements
from anydpo.outgoing import explain, write_files
from anydpo.plan import Prepared
from anydpo.provider import CanResume, ChecksFiles, DataFile, Event, JobRef, Outcome, Plan, Provider, Staged
from anydpo.records import FOUND, AttemptRow, RunRow
from anydpo.registry import split_place
from anydpo.result import Result, State
from anydpo.secrets import masked
from anydpo.watcher import Watcher, abilities_of, next_stage, pause_of, provider_of, ref_of

FAILED = (State.FAILED, State.CANCELLED)
LOOKS = 6  # how often a lost job is looked for within the time that the provider's list may lag


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

    def submit(
        self, prepared: Prepared, *, again: bool = False, resubmit: bool = False, adopt: str | None = None
    ) -> Submitted:
        """Send a job once and return when its create is answered. The same job again is the same run.

        `again` makes a new attempt of a run that has ended, `resubmit` one of a run whose outcome is unknown,
        `adopt` takes a provider's job for the one that was lost. Raises `JobInvalid` for a plan with problems,
        `RunFailed` for a run that has failed and needs `again`, `OutcomeUnknown` where a create may have happened.
        """
        run = prepared.or_raise().run_id
        with self.journal.acting(run):
            if self.journal.known(run) is None:
                self.journal.add_run(self._row(prepared))
            attempts = self.journal.attempts(run)
            last = attempts[-1] if attempts else None
            created = False
            if last is None:
                last = self._new_attempt(prepared, 1)
            elif self._wants_another(last, again=again, resubmit=resubmit, adopt=adopt):
                later = last.phase == "refused" and last.stage != last.plan["stages"][0]
                last = self._same_stage(last) if later else self._new_attempt(prepared, last.number + 1)
            if adopt is not None and last.phase != "submitted":
                self._adopt(last, adopt)
            elif last.phase != "submitted":
                created = self._advance(last)
            else:
                self._wake(last)
        return Submitted(run, created, self._remaining(run))

    def would_send(self, prepared: Prepared, *, again: bool = False, resubmit: bool = False) -> bool:
        """Say whether submitting this may create a job at the provider."""
        if self.journal.known(prepared.run_id) is None:
            return True
        attempts = self.journal.attempts(prepared.run_id)
        return again or resubmit or not attempts or attempts[-1].phase != "submitted"

    def watch(self, run: str, *, wait: bool = True, timeout: float | None = None) -> Iterator[Event]:
        """Yield what happens in a run from its beginning, until it ends or pauses, taking the steps that are due.

        Any process may watch at any time. Raises what a provider answered for good, and `TimeoutError` after
        `timeout` seconds; a run that cannot be asked about keeps its state.
        """
        shown: set[str] = set()
        pause = self._pauses(run, timeout)
        while True:
            attempts = self.journal.attempts(run)
            latest = [each for each in attempts if attempts and each.number == attempts[-1].number]
            unseen = [each for each in latest if each.provider_job_id is not None and each.id not in shown]
            for attempt in unseen:
                shown.add(attempt.id)
                yield from self._watcher.follow(attempt, pause if wait else None)
            if unseen:
                continue
            if not wait or not self._is_due(run):
                if not shown:
                    yield Event(kind="state", state=self.journal.run(run).state)
                return
            if not self.advance(run):
                pause(pause_of(latest[-1]))

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

    def advance(self, run: str) -> bool:
        """Take the steps of a run that are due, unless another process is at it; say whether any was taken."""
        with self.journal.acting(run, wait=False) as mine:
            if not mine or not self._is_due(run):
                return False
            last = self._last(run)
            if last.phase == "submitted":
                last = self._begin_stage(last)
            self._advance(last)
            return True

    def cancel(self, run: str) -> State:
        """Ask a run to stop, whatever its next step would be, and return where it stands."""
        with self.journal.acting(run):
            last = self._last(run)
            if last.phase == "submitting" or last.state is State.UNKNOWN:
                raise self._unknown(last, "whether there is a job to cancel is not known")
            if last.state.done and not self._is_due(run):
                raise RunFailed(f"run {run} has ended already: {last.state}", provider=last.place)
            if last.state is State.SUCCEEDED:
                last = self._begin_stage(last)
            if last.provider_job_id is None:
                self.journal.observe(last.id, State.CANCELLED, finished=self.clock.now())
            else:
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
            if adopt is None and not self._found_late(last):
                raise self._unknown(last, "an earlier create may have happened")
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

    def _new_attempt(self, prepared: Prepared, number: int) -> AttemptRow:
        plan = prepared.plan.model_copy(update={"stage": prepared.plan.stages[0]})
        files = write_files(prepared, self.journal.home)
        return self._record(prepared.run_id, number, prepared.fingerprint, plan, files, [])

    def _same_stage(self, refused: AttemptRow) -> AttemptRow:
        """Record a new try of a stage that was refused; the stages before it are done and paid for."""
        files = [DataFile(**file) for file in refused.files]
        job = self.journal.run(refused.run).fingerprint
        return self._record(refused.run, refused.number + 1, job, Plan(**refused.plan), files, refused.staged)

    def _begin_stage(self, done: AttemptRow) -> AttemptRow:
        """Record the next stage of a try whose last one has succeeded; it starts from what that one left."""
        left = (Outcome(**done.result).model.tuned if done.result else None) or done.provider_job_id
        filled = {**done.plan["filled"], f"{done.stage}_model": left}
        plan = Plan(**{**done.plan, "stage": next_stage(done), "filled": filled})
        files = [DataFile(**file) for file in done.files]
        job = self.journal.run(done.run).fingerprint
        return self._record(done.run, done.number, job, plan, files, done.staged)

    def _record(
        self, run: str, number: int, job: str, plan: Plan, files: list[DataFile], staged: list[dict[str, Any]]
    ) -> AttemptRow:
        known = [each for each in self.journal.attempts(run) if each.stage == plan.stage and each.phase != "refused"]
        name, _ = split_place(plan.place)
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

    def _advance(self, attempt: AttemptRow) -> bool:
        """Take the steps of an attempt from wherever it stands, and say whether a create was sent."""
        place, can = provider_of(attempt), abilities_of(attempt)
        found: JobRef | None = None
        if attempt.phase == "submitting":  # a process was here before and did not live to write down the answer
            found = self._look_for(attempt, since=self._since(attempt))
            if found is None and not can.finds_by_key:
                self._give_up(attempt)
        elif can.finds_by_key:
            found = self._reads(lambda: place.find(attempt.key))  # a lost home, a fresh machine
        if found is not None:
            self._answered(attempt, found)
            self._wake(self.journal.attempt(attempt.id))  # whoever made it may have died before it ran
            return False
        staged = self._stage(attempt, place)
        self.journal.step(attempt.id, "submitting", self.clock.now())
        self._answered(attempt, self._create(attempt, place, staged))
        return True

    def _stage(self, attempt: AttemptRow, place: Provider) -> tuple[Staged, ...]:
        """Bring the files to the provider, wait until it has accepted them, and record what they are called there."""
        plan, files = Plan(**attempt.plan), [DataFile(**file) for file in attempt.files]
        staged = tuple(Staged(**item) for item in attempt.staged)
        try:
            if not staged:
                staged = tuple(self._twice(lambda file=file: place.stage(plan, file)) for file in files)
                kept = [item.model_dump(mode="json") for item in staged]
                self.journal.step(attempt.id, "staged", self.clock.now(), staged=kept)
            if isinstance(place, ChecksFiles):
                for item in staged:
                    self._await_check(place, item, files, pause_of(attempt))
        except AnyDPOError as exc:
            if not exc.retryable:  # else nothing was decided: the next process goes on from here
                self._refused(attempt, exc)
            raise
        return staged

    def _twice(self, upload: Any) -> Staged:
        """Upload; once more where that may help. The same content again is the same file."""
        try:
            return upload()  # type: ignore[no-any-return]
        except AnyDPOError as exc:
            if not exc.retryable:
                raise
            self.clock.sleep(exc.retry_after or 1.0)
            return upload()  # type: ignore[no-any-return]

    def _await_check(self, place: ChecksFiles, item: Staged, files: list[DataFile], pause: float) -> None:
        while (found := self._reads(lambda: place.examine(item))).state == "pending":
            self.clock.sleep(pause)
        if found.state == "refused":
            raise explain(found, next(file for file in files if file.name == item.name))

    def _create(self, attempt: AttemptRow, place: Provider, staged: tuple[Staged, ...]) -> JobRef:
        """Send the one create of an attempt; whatever is no clear answer is looked for, then called unknown."""
        try:
            return place.submit(Plan(**attempt.plan), staged, attempt.key)
        except Exception as exc:
            if isinstance(exc, AnyDPOError) and not isinstance(exc, (OutcomeUnknown, Unavailable)):
                self._refused(attempt, exc)
                raise
            if abilities_of(attempt).finds_by_key:
                found = self._look_for(attempt, since=self.clock.now())
                if found is not None:
                    return found
            self._give_up(attempt, exc)
            raise AssertionError from exc

    def _look_for(self, attempt: AttemptRow, *, since: float) -> JobRef | None:
        """Return the job of an attempt, looked for until the provider's list must have it; None if it has not."""
        place, can = provider_of(attempt), abilities_of(attempt)
        if not can.finds_by_key:
            return None
        left = min(can.lag_seconds, max(0.0, since + can.lag_seconds - self.clock.now()))
        pause = left / LOOKS
        for look in range(LOOKS + 1):
            if (found := self._reads(lambda: place.find(attempt.key))) is not None:
                return found
            if left == 0:
                return None
            if look < LOOKS:
                self.clock.sleep(pause)
        return None

    def _found_late(self, attempt: AttemptRow) -> bool:
        """Look once more for a job whose create was lost; record it and say so if it is there."""
        found = (
            self._reads(lambda: provider_of(attempt).find(attempt.key)) if abilities_of(attempt).finds_by_key else None
        )
        if found is not None:
            self._answered(attempt, found)
        return found is not None

    def _adopt(self, attempt: AttemptRow, job: str) -> None:
        """Take the provider's job of this id for the attempt's own; raises what the provider says if there is none."""
        ref = JobRef(id=job, place=attempt.place)
        self._reads(lambda: provider_of(attempt).poll(ref))
        self._answered(attempt, ref)

    def _answered(self, attempt: AttemptRow, ref: JobRef) -> None:
        now = self.clock.now()
        self.journal.step(
            attempt.id, "submitted", now, state=State.QUEUED, provider_job_id=ref.id, submitted=now, error=None
        )

    def _refused(self, attempt: AttemptRow, exc: AnyDPOError) -> None:
        """Record that the provider said no: nothing runs."""
        now = self.clock.now()
        self.journal.step(attempt.id, "refused", now, state=State.FAILED, error=_told(exc), finished=now)

    def _give_up(self, attempt: AttemptRow, exc: Exception | None = None) -> None:
        """Record that the outcome of a create is unknown, and raise that."""
        said = f": {exc}" if exc is not None and str(exc) else ""
        error = self._unknown(attempt, f"the create may have happened{said}")
        self.journal.observe(attempt.id, State.UNKNOWN, error=_told(error))
        raise error from exc

    def _unknown(self, attempt: AttemptRow, said: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"run {attempt.run}: {said}; nothing is sent again by itself",
            provider=split_place(attempt.place)[0],
            hint=f"look for {attempt.key} at the provider; then --adopt ID takes that job, --resubmit sends a new one",
        )

    def _pauses(self, run: str, timeout: float | None) -> Callable[[float], None]:
        """Return how to wait between two questions: no longer than the caller wants to in all."""
        left = float("inf") if timeout is None else timeout

        def pause(seconds: float) -> None:
            nonlocal left
            if left <= 0:
                state = self.journal.run(run).state
                raise TimeoutError(f"run {run} is still {state} after {timeout:g} s; it goes on")
            self.clock.sleep(min(seconds, left))
            left -= seconds

        return pause

    def _wake(self, attempt: AttemptRow) -> None:
        """Let a paused run of a provider that can go on do so."""
        place, ref = provider_of(attempt), ref_of(attempt)
        if (
            not attempt.state.done
            and isinstance(place, CanResume)
            and self._reads(lambda: place.poll(ref)).state is State.PAUSED
        ):
            place.resume(ref)

    def _is_due(self, run: str) -> bool:
        """Say whether a run has a next step that waits for nobody but us."""
        attempts = self.journal.attempts(run)
        if not attempts or attempts[-1].state is State.UNKNOWN:
            return False
        last = attempts[-1]
        if last.phase == "submitted":
            return last.state is State.SUCCEEDED and next_stage(last) is not None
        return last.phase != "refused" and not last.state.done

    def _remaining(self, run: str) -> tuple[str, ...]:
        last = self._last(run)
        stage = next_stage(last)
        return (f"the {stage} stage",) if stage is not None and last.state not in FAILED else ()

    def _last(self, run: str) -> AttemptRow:
        attempts = self.journal.attempts(run)
        if not attempts:
            raise RunFailed(f"run {run} was never sent")
        return attempts[-1]

    def _since(self, attempt: AttemptRow) -> float:
        """Return when the create of an attempt may have been sent."""
        times = [step.at for step in self.journal.steps(attempt.id) if step.name == "submitting"]
        return times[-1] if times else self.clock.now()

    def _row(self, prepared: Prepared) -> RunRow:
        data = {
            "fingerprint": prepared.train.fingerprint,
            "validation_fingerprint": prepared.validation.fingerprint if prepared.validation is not None else None,
            "train_pairs": len(prepared.train),
            "validation_pairs": len(prepared.validation) if prepared.validation is not None else None,
            "skipped": prepared.train.skipped,
            "format_sent": prepared.plan.format,
        }
        return RunRow(
            id=prepared.run_id,
            created=self.clock.now(),
            name=prepared.job.name,
            place=prepared.plan.place,
            target=prepared.plan.target,
            job=masked(prepared.job.to_dict()),
            fingerprint=prepared.fingerprint,
            data=data,
            state=State.PENDING,
        )


def _told(exc: AnyDPOError) -> dict[str, Any]:
    return {"code": exc.code, "message": exc.message, "hint": exc.hint}
