"""Jobs: their states, what happened to them, and the thread that trains them one after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from anydpo.sandbox.archive import Archive, pack
from anydpo.sandbox.clock import Clock
from anydpo.sandbox.faults import Fault
from anydpo.sandbox.training import ADAPTER, Look, Task, Trainer, Training, weights

log = logging.getLogger("anydpo.sandbox")

State = Literal[
    "validating", "queued", "running", "compressing", "uploading",
    "pausing", "paused", "resuming", "cancelling", "succeeded", "failed", "cancelled",
]  # fmt: skip
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Failure:
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    by_user: bool = True


@dataclass(frozen=True)
class Moment:
    """Something that happened to a job; each service puts it into its own words."""

    at: float
    kind: str  # created validated queued started metrics checkpoint trained saved succeeded failed cancelled paused …
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """One fine-tuning job. `make` examines its files and returns what to train, or why not."""

    id: str
    created: float
    request: dict[str, Any]
    folder: Path
    make: Callable[[], Task | Failure]
    state: State = "validating"
    task: Task | None = None
    started: float | None = None
    finished: float | None = None
    updated: float = 0.0
    failure: Failure | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    told: set[int] = field(default_factory=set)  # checkpoints that were noted
    hidden_for: int = 0  # lists that do not show it yet
    hidden_until: float = 0.0
    fails: Fault | None = None
    restarts: bool = False
    facts: dict[str, Any] = field(default_factory=dict)  # what the service keeps with it
    training: Training | None = None
    wanted: State | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ENDED

    def note(self, at: float, kind: str, **record: Any) -> None:
        """Write down what happened, and say it to whoever listens to the log."""
        self.updated = at
        self.moments.append(Moment(at, kind, record))
        if kind not in ("metrics", "checkpoint"):
            log.info("%s %s", self.id, kind)

    def by_step(self) -> dict[int, dict[str, Any]]:
        """Return what is known of each step; the evaluation at the end comes to the last one."""
        found: dict[int, dict[str, Any]] = {}
        for record in list(self.records):
            found.setdefault(record["step"], {}).update(record)
        return found

    def weights(self, step: int | None = None) -> Path | None:
        """Return the folder with the weights of a step, None for the end."""
        return weights(self.folder, self.task.stage, step) if self.task else None

    def checkpoint_steps(self) -> list[int]:
        """Return the steps whose weights are kept, the last one included once it is there."""
        if self.task is None:
            return []
        kept = {int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"checkpoints/{self.task.stage}-step-*")}
        reached = self.last_step
        last = {reached} if self.state == "succeeded" else set()
        return sorted({step for step in kept if step <= reached} | last)

    @property
    def last_step(self) -> int:
        """The last step that was trained."""
        return int(self.records[-1]["step"]) if self.records else 0


class Jobs:
    """Every job of a sandbox, and its worker."""

    def __init__(self, trainer: Trainer, clock: Clock) -> None:
        self.trainer, self.clock = trainer, clock
        self._jobs: dict[str, Job] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Take a job in."""
        job.note(job.created, "created")
        self._jobs[job.id] = job
        if not self.trainer.instant:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="sandbox worker", daemon=True)
                self._worker.start()
            with self._wake:
                self._wake.notify()

    def get(self, identifier: str) -> Job | None:
        """Return a job."""
        return self._jobs.get(identifier)

    def all(self) -> list[Job]:
        """Return every job, newest first."""
        return list(reversed(self._jobs.values()))

    def visible(self) -> list[Job]:
        """Return the jobs that a list shows now, newest first; a late one comes nearer with every list."""
        shown = []
        for job in self.all():
            if job.hidden_for > 0:
                job.hidden_for -= 1
            elif job.hidden_until <= self.clock.now():
                shown.append(job)
        return shown

    def remove(self, identifier: str) -> None:
        """Forget a job."""
        self._jobs.pop(identifier, None)

    def poll(self, job: Job) -> None:
        """Note that somebody looks at a job: where nothing trains, this is what makes it go on, one state a look."""
        if self.trainer.instant and not job.ended:
            self._step(job)

    def ask(self, job: Job, wanted: State) -> None:
        """Ask for `cancelled`, `paused` or `running` (go on)."""
        if job.ended:
            return
        if wanted == "running":
            job.state, job.wanted = "resuming", None
            job.note(self.clock.now(), "resumed")
            with self._wake:
                self._wake.notify()
            return
        waiting = job.state in {"validating", "queued", "paused", "resuming"}
        job.wanted = wanted
        job.state = "cancelling" if wanted == "cancelled" else "pausing"
        job.note(self.clock.now(), "cancel_asked" if wanted == "cancelled" else "pause_asked")
        if waiting and wanted == "cancelled":
            self._end(job, "cancelled")

    def weights(self, job: Job, step: int | None = None, *, merged: bool = True) -> Path | None:
        """Return the folder with the weights of a step, None for the end; an adapter alone, or put into its base."""
        folder = job.weights(None if step == job.last_step else step)
        if folder is None or not (folder / ADAPTER).is_file():
            return folder if merged else None
        if not merged:
            return folder
        target = folder.with_name(f"{folder.name}-merged")
        if not target.is_dir():
            self.trainer.merge(folder, target)
        return target

    def archive(self, job: Job, step: int | None = None, *, merged: bool = True) -> Archive | None:
        """Return the packed weights of a step, None where they are not kept or there is no adapter."""
        folder = self.weights(job, step, merged=merged)
        kind = "model" if merged else "adapter"
        return pack(folder, job.folder / f"{kind}-{step or 'end'}.tar.zst") if folder else None

    def close(self) -> None:
        """Stop what trains and the worker."""
        self._closed = True
        with self._wake:
            self._wake.notify_all()
        if self._worker is not None:
            self._worker.join(30)

    def _step(self, job: Job) -> None:
        """Take a job from one state to the next, without training."""
        now = self.clock.now()
        if job.wanted is not None:
            self._obey(job)
        elif job.state == "validating":
            self._validate(job)
        elif job.state in {"queued", "resuming"}:
            self._start(job)
        elif job.state == "running" and job.training is not None:
            look = job.training.look()
            half = max(1, len(look.records) // 2)
            if len(job.records) < half and len(look.records) > 1:
                self._take(job, Look(look.records[:half]))
            elif not self._broken(job):
                self._take(job, look)
                job.state = "compressing"
                job.note(now, "trained")
        elif job.state == "compressing":
            self.archive(job)
            job.state = "uploading"
            job.note(now, "packed")
        elif job.state == "uploading":
            self._end(job, "succeeded")

    def _work(self) -> None:
        """Train jobs, oldest first, until closed."""
        while not self._closed:
            waiting = [job for job in list(self._jobs.values()) if job.state == "validating"]
            ready = [job for job in list(self._jobs.values()) if job.state in {"queued", "resuming", "pausing"}]
            try:
                if waiting:
                    self._validate(waiting[0])
                elif ready:
                    self._train(ready[0])
                else:
                    with self._wake:
                        self._wake.wait(0.5)
            except Exception:
                log.exception("the sandbox's worker broke")
                self._fail((waiting or ready)[0], Failure("server_error", "The sandbox broke.", by_user=False))

    def _train(self, job: Job) -> None:
        if job.wanted is not None:
            self._obey(job)
            return
        self._start(job)
        training = job.training
        while not self._closed and training is not None and job.wanted is None:
            look = training.look()
            self._take(job, look)
            if job.state == "resuming":  # asked to go on before it had stopped
                job.state = "running"
            if self._broken(job):
                training.stop()
                return
            if look.ended == "succeeded":
                self._save(job)
                return
            if look.ended is not None:
                self._fail(job, Failure("server_error", look.error or "The training failed.", by_user=False))
                return
            with self._wake:
                self._wake.wait(0.1)
        if training is not None:
            training.stop()
        if not self._closed:
            self._obey(job)

    def _save(self, job: Job) -> None:
        job.state = "compressing"
        job.note(self.clock.now(), "trained")
        self.archive(job)
        job.state = "uploading"
        job.note(self.clock.now(), "packed")
        self._end(job, "succeeded")

    def _validate(self, job: Job) -> None:
        made = job.make()
        if isinstance(made, Failure):
            self._fail(job, made)
            return
        job.task, job.state = made, "queued"
        job.note(self.clock.now(), "validated")
        job.note(self.clock.now(), "queued")

    def _start(self, job: Job) -> None:
        assert job.task is not None
        job.training = self.trainer.start(job.task, job.folder)
        job.state = "running"
        job.started = job.started or self.clock.now()
        job.note(self.clock.now(), "started")

    def _take(self, job: Job, look: Look) -> None:
        """Note what the training has written since the last look."""
        for record in look.records[len(job.records) :]:
            if "train/loss" in record or "eval/loss" in record:
                job.note(self.clock.now(), "metrics", **record)
        job.records = look.records
        for step in job.checkpoint_steps():
            if step not in job.told:
                job.told.add(step)
                job.note(self.clock.now(), "checkpoint", step=step)

    def _broken(self, job: Job) -> bool:
        """Fail a job that a fault wants to fail, once it has begun to train."""
        if job.fails is None or not job.records:
            return False
        code, message = job.fails.code or "server_error", job.fails.message or "The job failed on purpose."
        self._fail(job, Failure(code, message, by_user=code != "server_error"))
        return True

    def _obey(self, job: Job) -> None:
        wanted, job.wanted = job.wanted, None
        if wanted == "cancelled":
            self._end(job, "cancelled")
        elif wanted == "paused":
            job.state = "paused"
            job.note(self.clock.now(), "paused")

    def _fail(self, job: Job, failure: Failure) -> None:
        job.failure = failure
        self._end(job, "failed")

    def _end(self, job: Job, state: State) -> None:
        job.state, job.finished, job.wanted = state, self.clock.now(), None
        if job.task is not None:  # its rows are not needed any more
            job.task = replace(job.task, rows=[], validation=[])
        job.note(job.finished, state)
