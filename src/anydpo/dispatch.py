"""Submit once, then watch: each step is in the journal before it is taken, so that any process can go on from it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson

from anydpo.data.write import json_line, whole_file, writer_of
from anydpo.errors import AnyDPOError, JobInvalid, OutcomeUnknown, ProviderRefused, RunFailed
from anydpo.health import diagnose
from anydpo.identity import attempt_key
from anydpo.journal import AttemptRow, Journal, RunRow
from anydpo.plan import Prepared
from anydpo.provider import CanResume, DataFile, Event, JobRef, Outcome, Plan, Provider, Staged
from anydpo.registry import provider, split_place
from anydpo.result import Attempt, Data, Error, Method, Notice, Result, State, Timing, missing_metrics


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The computer's own time."""

    def now(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Dispatch:
    """Carries out runs for one journal."""

    def __init__(self, journal: Journal, clock: Clock | None = None) -> None:
        self.journal, self.clock = journal, clock or SystemClock()

    def submit(self, prepared: Prepared, *, again: bool = False) -> tuple[str, bool]:
        """Return (run id, whether something was sent). The same job again is the same run.

        Raises `JobInvalid` for a plan with problems, `RunFailed` for a run that has failed and needs `again`,
        `OutcomeUnknown` where an earlier submission may have happened.
        """
        run = prepared.or_raise().run_id
        with self.journal.acting(run):
            known = self.journal.known(run)
            if known is None:
                self.journal.add_run(self._row(prepared))
            attempts = self.journal.attempts(run)
            if attempts and not self._may_try(attempts[-1], again=again):
                return run, self._wake(attempts[-1])
            unsent = attempts[-1] if attempts and not attempts[-1].state.done else None
            attempt = unsent or self._new_attempt(prepared, run, len(attempts) + 1)
            self._carry_out(prepared, attempt)
        return run, True

    def watch(self, run: str, *, wait: bool = True) -> Iterator[Event]:
        """Yield what happens in a run from its beginning, until it ends or pauses; any process may watch."""
        attempt = self.journal.attempts(run)[-1]
        if attempt.provider_job_id is None:
            yield Event(kind="state", state=attempt.state)
            return
        place, ref, pause = provider(split_place(attempt.place)[0]), _ref(attempt), self._poll_seconds(attempt)
        cursor = ""
        state: State | None = None
        while True:
            poll = place.poll(ref, cursor)
            cursor = poll.cursor
            yield from poll.events
            if poll.state is not state:
                state = poll.state
                self._observe(attempt, state, place, ref)
                yield Event(kind="state", state=state, time=self.clock.now())
            if poll.more:
                continue
            if poll.state.done or poll.state is State.PAUSED or not wait:
                return
            self.clock.sleep(pause)

    def events(self, run: str) -> Iterator[Event]:
        """Yield what has happened in a run so far."""
        return self.watch(run, wait=False)

    def refresh(self, run: str) -> State:
        """Ask the provider once and return where the run stands."""
        attempt = self.journal.attempts(run)[-1]
        if attempt.provider_job_id is not None and not attempt.state.done:
            place, ref = provider(split_place(attempt.place)[0]), _ref(attempt)
            self._observe(attempt, place.poll(ref).state, place, ref)
        return self.journal.run(run).state

    def result(self, run: str) -> Result:
        """Return what is known of a run now; a failed or unfinished run has a result too."""
        row, attempts = self.journal.run(run), self.journal.attempts(run)
        attempt = attempts[-1] if attempts else None
        outcome = Outcome(state=row.state)
        if attempt is not None and attempt.result is not None:
            outcome = Outcome(**attempt.result)
        elif attempt is not None and attempt.provider_job_id is not None:
            outcome = provider(split_place(attempt.place)[0]).result(_ref(attempt))
        return compose(row, attempts, outcome)

    def cancel(self, run: str) -> None:
        """Ask a run to stop."""
        attempt = self._live(run)
        provider(split_place(attempt.place)[0]).cancel(_ref(attempt))

    def resume(self, run: str) -> None:
        """Let an interrupted run go on."""
        attempt = self._live(run)
        place = provider(split_place(attempt.place)[0])
        if not isinstance(place, CanResume):
            raise RunFailed(f"runs on {attempt.place} cannot be resumed by us", provider=attempt.place)
        with self.journal.acting(run):
            place.resume(_ref(attempt))

    def live_ref(self, run: str) -> tuple[Provider, JobRef]:
        """Return the provider and the job of a run's latest attempt."""
        attempts = self.journal.attempts(run)
        if not attempts or attempts[-1].provider_job_id is None:
            raise RunFailed(f"run {run} was never sent")
        return provider(split_place(attempts[-1].place)[0]), _ref(attempts[-1])

    def _live(self, run: str) -> AttemptRow:
        self.live_ref(run)
        attempt = self.journal.attempts(run)[-1]
        if attempt.state.done:
            raise RunFailed(f"run {run} has ended already: {attempt.state}")
        return attempt

    def _row(self, prepared: Prepared) -> RunRow:
        data = {
            "fingerprint": prepared.train.fingerprint,
            "train_pairs": len(prepared.train),
            "validation_pairs": len(prepared.validation) if prepared.validation is not None else None,
            "skipped": prepared.train.skipped,
            "format_sent": prepared.plan.format,
        }
        job = prepared.job
        return RunRow(
            id=prepared.run_id,
            created=self.clock.now(),
            name=job.name,
            place=prepared.plan.place,
            target=prepared.plan.target,
            job=job.to_dict(),
            fingerprint=prepared.fingerprint,
            data=data,
            state=State.PENDING,
        )

    def _may_try(self, last: AttemptRow, *, again: bool) -> bool:
        """Say whether something is to be sent for a run that has been asked for before."""
        if again and (last.state.done or last.state is State.UNKNOWN):
            return True
        if last.state is State.UNKNOWN:
            raise OutcomeUnknown(f"run {last.run}: an earlier submission may have happened", provider=last.place)
        if last.phase != "submitted":
            return True
        if last.state in (State.FAILED, State.CANCELLED):
            message = last.error["message"] if last.error else f"was {last.state}"
            raise RunFailed(
                f"run {last.run} {message}", provider=last.place, hint="--again makes a new attempt of the same job"
            )
        return False

    def _wake(self, attempt: AttemptRow) -> bool:
        """Let a paused run of a provider that can go on do so; returns False, for nothing new was made."""
        place = provider(split_place(attempt.place)[0])
        ref = _ref(attempt)
        if isinstance(place, CanResume) and place.poll(ref).state is State.PAUSED:
            place.resume(ref)
        return False

    def _new_attempt(self, prepared: Prepared, run: str, number: int) -> AttemptRow:
        plan = prepared.plan
        key = attempt_key(prepared.fingerprint, prepared.provider.name, plan.target, "dpo", number)
        self.journal.add_attempt(key, run, number, plan.model_dump(mode="json"), self.clock.now())
        return self.journal.attempts(run)[-1]

    def _carry_out(self, prepared: Prepared, attempt: AttemptRow) -> None:
        """Take the steps of an attempt from wherever it stands: stage, submit once, record."""
        place, plan, key = prepared.provider, prepared.plan, attempt.key
        try:
            found = place.find(key) if attempt.phase == "submitting" or _searchable(place, plan) else None
            if found is None:
                staged = tuple(Staged(**item) for item in attempt.staged)
                if not staged:
                    staged = tuple(place.stage(plan, file) for file in write_files(prepared, self.journal.home))
                    kept = [item.model_dump(mode="json") for item in staged]
                    self.journal.step(key, "staged", self.clock.now(), staged=kept)
                self.journal.step(key, "submitting", self.clock.now())
                found = place.submit(plan, staged, key)
        except (ProviderRefused, JobInvalid) as exc:
            error = {"code": exc.code, "message": exc.message, "hint": exc.hint}
            self.journal.observe(key, attempt.run, State.FAILED, error=error, finished=self.clock.now())
            raise
        now = self.clock.now()
        self.journal.step(key, "submitted", now, provider_job_id=found.id, submitted=now)
        self.journal.observe(key, attempt.run, State.QUEUED)

    def _observe(self, attempt: AttemptRow, state: State, place: Provider, ref: JobRef) -> None:
        values: dict[str, Any] = {}
        if state.done:
            outcome = place.result(ref)
            values["result"] = outcome.model_dump(mode="json")
            values["finished"] = outcome.finished or self.clock.now()
            values["error"] = outcome.error.model_dump(mode="json") if outcome.error else None
        self.journal.observe(attempt.key, attempt.run, state, **values)

    def _poll_seconds(self, attempt: AttemptRow) -> float:
        name, route = split_place(attempt.place)
        return provider(name).capabilities[route or ""].poll_seconds


def write_files(prepared: Prepared, home: Path) -> Iterator[DataFile]:
    """Write what is to be sent, each file under the hash of its content, and describe it."""
    folder = home / "staged"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [("train", _pair_lines(prepared.train, prepared.plan.format))]
    if prepared.validation is not None:
        parts.append(("validation", _pair_lines(prepared.validation, prepared.plan.format)))
    if prepared.job.sft is not None and prepared.job.sft.data != "chosen":
        from anydpo.data.chat import read_chats

        parts.append(("sft", (json_line(chat) for chat in read_chats(Path(prepared.job.sft.data)))))
    for name, lines in parts:
        digest, size, count = hashlib.sha256(), 0, 0
        unfinished = folder / f"{prepared.run_id}.{name}"
        with whole_file(unfinished) as file:
            for line in lines:
                file.write(line)
                digest.update(line)
                size += len(line)
                count += 1
        path = folder / f"{digest.hexdigest()[:24]}.{name}.jsonl"
        unfinished.replace(path)
        yield DataFile(name=name, path=str(path), sha256=digest.hexdigest(), bytes=size, pairs=count)  # type: ignore[arg-type]


def compose(row: RunRow, attempts: list[AttemptRow], outcome: Outcome) -> Result:
    """Put together the one result of a run from the journal and what the provider says."""
    from anydpo import __version__

    last = attempts[-1] if attempts else None
    plan = Plan(**last.plan) if last else None
    skipped = dict(row.data.get("skipped") or {})
    for reason, count in outcome.skipped.items():
        skipped[reason] = skipped.get(reason, 0) + count
    requested = {**row.job.get("method", {}), **{k: v for k, v in row.job.items() if k in outcome.effective}}
    state = outcome.state if last is not None and last.provider_job_id is not None else row.state
    error = outcome.error or (Error(**last.error) if last and last.error else None)
    health = diagnose(outcome.metrics.history, outcome.effective.get("method"))
    told = [Notice(code="provider", message=text) for text in (*(plan.warnings if plan else ()), *outcome.warnings)]
    started, submitted = outcome.started, last.submitted if last else None
    return Result(
        run=row.id,
        name=row.name,
        place=row.place,
        provider_job_id=last.provider_job_id if last else None,
        route_reason=plan.route_reason if plan else None,
        target=row.target or None,
        state=state,
        job=row.job,
        model=outcome.model,
        data=Data(
            fingerprint=row.data.get("fingerprint"),
            train_pairs=outcome.train_pairs or row.data.get("train_pairs"),
            validation_pairs=outcome.validation_pairs or row.data.get("validation_pairs"),
            skipped=skipped,
            format_sent=row.data.get("format_sent"),
        ),
        method=Method(
            requested=requested,
            effective=outcome.effective,
            differences=(*outcome.differences, *(f"{name} was ignored" for name in (plan.ignored if plan else ()))),
        ),
        stages=outcome.stages,
        metrics=outcome.metrics.model_copy(
            update={"missing": missing_metrics(outcome.metrics.final, evaluated=bool(row.data.get("validation_pairs")))}
        ),
        artifacts=outcome.artifacts,
        usage=outcome.usage,
        cost=outcome.cost,
        timing=Timing(
            created=row.created,
            submitted=submitted,
            started=started,
            finished=outcome.finished or (last.finished if last else None),
            queue_seconds=max(0.0, started - submitted) if started and submitted else None,
            train_seconds=outcome.train_seconds,
        ),
        attempts=tuple(
            Attempt(place=a.place, error=Error(**a.error) if a.error else None, when=a.submitted or a.created)
            for a in attempts
        ),
        error=error,
        warnings=(*told, *health),
        versions={"anydpo": __version__, "sdk": outcome.sdk},
    )


def _pair_lines(pairs: Any, format: str) -> Iterator[bytes]:  # noqa: A002
    if format != "canonical":
        to = writer_of(format)
        yield from (json_line(to.row(pair)) for pair in pairs)
        return
    for pair in pairs:  # our own trainer names the source line of a pair that it has to leave out
        row = pair.to_dict(meta=False)
        yield orjson.dumps({**row, "meta": {"source": pair.source}}, option=orjson.OPT_APPEND_NEWLINE)


def _searchable(place: Provider, plan: Plan) -> bool:
    _, route = split_place(plan.place)
    return place.capabilities[route or ""].finds_by_key


def _ref(attempt: AttemptRow) -> JobRef:
    if attempt.provider_job_id is None:
        raise AnyDPOError(f"run {attempt.run} was never sent")
    return JobRef(id=attempt.provider_job_id, place=attempt.place)
