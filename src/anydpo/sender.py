"""The steps of one attempt: files to the provider, the one create, and what became of it.

An attempt goes from `intended` (its files lie on this disk) over `staged` (the provider has them) and `submitting`
(a create may have been sent) to `submitted` (it was answered) or `refused`. Reads are repeated; a create is sent once.
Where its reply is lost, the provider is searched for the attempt's key, and if that finds nothing the run is
`unknown`, never a second job.
"""

from __future__ import annotations

from typing import Any

from anydpo.clock import Clock, Reads
from anydpo.errors import AnyDPOError, OutcomeUnknown, Unavailable, WaitedTooLong
from anydpo.fallback import onward, patience
from anydpo.journal import Journal
from anydpo.outgoing import explain
from anydpo.provider import CanResume, ChecksFiles, DataFile, JobRef, Plan, Provider, Staged
from anydpo.records import AttemptRow
from anydpo.registry import split_place
from anydpo.result import State
from anydpo.spend import hold_to_estimate
from anydpo.watcher import abilities_of, pause_of, provider_of, ref_of

LOOKS = 6  # how often a lost job is looked for within the time that the provider's list may lag


class Sender:
    """Carries out the attempts of one journal; its caller acts for the run."""

    def __init__(self, journal: Journal, clock: Clock, reads: Reads) -> None:
        self.journal, self.clock, self._reads = journal, clock, reads

    def advance(self, attempt: AttemptRow) -> bool:
        """Take the steps of an attempt from wherever it stands, and say whether a create was sent."""
        with self.journal.acting(attempt.key):  # another run may ask for the same job, as its fallback
            place, can = provider_of(attempt), abilities_of(attempt)
            reads = self._reads.within(patience(self.journal, attempt))
            since = self._since(attempt)
            found = self._of_another_run(attempt)
            if found is not None:
                pass
            elif since is not None:  # a process was here before and did not live to write down the answer
                found = self._look_for(attempt, since=since)
                if found is None and (not can.finds_by_key or self._is_unknown_elsewhere(attempt)):
                    self._give_up(attempt)
            elif can.finds_by_key:
                found = reads(lambda: place.find(attempt.key))  # a lost home, a fresh machine
            if found is not None:
                self._answered(attempt, found)
                self.wake(self.journal.attempt(attempt.id))  # whoever made it may have died before it ran
                return False
            staged = self._stage(attempt, place, reads)
            self.journal.step(attempt.id, "submitting", self.clock.now())
            self._answered(attempt, self._create(attempt, place, staged))
            return True

    def _of_another_run(self, attempt: AttemptRow) -> JobRef | None:
        """Return the job that another run of this journal was given for the same key."""
        for other in self.journal.holding(attempt.key):
            if other.run != attempt.run and other.phase == "submitted":
                return ref_of(other)
        return None

    def _is_unknown_elsewhere(self, attempt: AttemptRow) -> bool:
        """Say whether another run waits for the user's word on what became of a create of this key."""
        holders = self.journal.holding(attempt.key)
        return any(other.run != attempt.run and other.state is State.UNKNOWN for other in holders)

    def _stage(self, attempt: AttemptRow, place: Provider, reads: Reads) -> tuple[Staged, ...]:
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
                    self._await_check(attempt, place, item, reads)
            hold_to_estimate(plan, staged, place, reads)
        except AnyDPOError as exc:
            if not exc.retryable:  # else nothing was decided: the next process goes on from here
                self.refuse(attempt, exc)
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

    def _await_check(self, attempt: AttemptRow, place: ChecksFiles, item: Staged, reads: Reads) -> None:
        limit, begun = patience(self.journal, attempt), self.clock.now()
        while (found := reads(lambda: place.examine(item))).state == "pending":
            if limit is not None and self.clock.now() - begun > limit:
                raise too_long(attempt, f"has looked at the {item.name} file for {limit:g} s")
            self.clock.sleep(pause_of(attempt))
        if found.state == "refused":
            raise explain(found, next(DataFile(**file) for file in attempt.files if file["name"] == item.name))

    def _create(self, attempt: AttemptRow, place: Provider, staged: tuple[Staged, ...]) -> JobRef:
        """Send the one create of an attempt; whatever is no clear answer is looked for, then called unknown."""
        try:
            return place.submit(Plan(**attempt.plan), staged, attempt.key)
        except Exception as exc:
            if isinstance(exc, AnyDPOError) and not isinstance(exc, (OutcomeUnknown, Unavailable)):
                self.refuse(attempt, exc)
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

    def found_late(self, attempt: AttemptRow) -> bool:
        """Look once more for a job whose create was lost; record it and say so if it is there."""
        found = (
            self._reads(lambda: provider_of(attempt).find(attempt.key)) if abilities_of(attempt).finds_by_key else None
        )
        if found is not None:
            self._answered(attempt, found)
        return found is not None

    def adopt(self, attempt: AttemptRow, job: str) -> None:
        """Take the provider's job of this id for the attempt's own; raises what the provider says if there is none."""
        ref = JobRef(id=job, place=attempt.place)
        self._reads(lambda: provider_of(attempt).poll(ref))
        self._answered(attempt, ref)

    def _answered(self, attempt: AttemptRow, ref: JobRef) -> None:
        now = self.clock.now()
        self.journal.step(
            attempt.id, "submitted", now, state=State.QUEUED, provider_job_id=ref.id, submitted=now, error=None
        )

    def refuse(self, attempt: AttemptRow, exc: AnyDPOError) -> None:
        """Record that the provider said no: nothing runs, and the run ends here or waits for its next place."""
        now, error = self.clock.now(), told(exc)
        further = onward(self.journal, attempt, State.FAILED, exc.code) is not None
        run = State.PENDING if further else State.FAILED
        self.journal.step(attempt.id, "refused", now, state=State.FAILED, of_run=run, error=error, finished=now)

    def _give_up(self, attempt: AttemptRow, exc: Exception | None = None) -> None:
        """Record that the outcome of a create is unknown, and raise that."""
        said = f": {exc}" if exc is not None and str(exc) else ""
        error = unknown(attempt, f"the create may have happened{said}")
        self.journal.observe(attempt.id, State.UNKNOWN, error=told(error))
        raise error from exc

    def wake(self, attempt: AttemptRow) -> None:
        """Let a paused run of a provider that can go on do so."""
        place, ref = provider_of(attempt), ref_of(attempt)
        if (
            not attempt.state.done
            and isinstance(place, CanResume)
            and self._reads(lambda: place.poll(ref)).state is State.PAUSED
        ):
            place.resume(ref)

    def _since(self, attempt: AttemptRow) -> float | None:
        """Return when a create of this key may have been sent, by this run or another; None where none was."""
        holders = [attempt, *(other for other in self.journal.holding(attempt.key) if other.run != attempt.run)]
        lost = [each for each in holders if each.phase == "submitting"]
        times = [step.at for each in lost for step in self.journal.steps(each.id) if step.name == "submitting"]
        return max(times, default=self.clock.now()) if lost else None


def told(exc: AnyDPOError) -> dict[str, Any]:
    """Return an error as the journal holds it."""
    return {"code": exc.code, "message": exc.message, "hint": exc.hint}


def unknown(attempt: AttemptRow, said: str) -> OutcomeUnknown:
    """Return the error of an attempt of which a create may have happened."""
    return OutcomeUnknown(
        f"run {attempt.run}: {said}; nothing is sent again by itself",
        provider=split_place(attempt.place)[0],
        hint=f"look for {attempt.key} at the provider; then --adopt ID takes that job, --resubmit sends a new one",
    )


def too_long(attempt: AttemptRow, said: str) -> WaitedTooLong:
    """Return the error of a place that has kept a run waiting."""
    hint = "--max-wait says how long a place may; the next one was tried"
    return WaitedTooLong(f"{attempt.place} {said}", provider=split_place(attempt.place)[0], hint=hint)
