"""Random histories of one home, a provider and many bad days: what must hold whatever happens in whatever order."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from anydpo import dispatch, journal, watcher
from anydpo.clock import Reads
from anydpo.dispatch import Dispatch
from anydpo.errors import AnyDPOError, OutcomeUnknown, RunFailed
from anydpo.journal import Journal
from anydpo.plan import Prepared, prepare
from anydpo.registry import using
from anydpo.result import State
from anydpo.testing.clock import ManualClock
from anydpo.testing.kill import tracing
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job

FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
TRACED = (dispatch, journal, watcher)
JOBS = [memory_job(seed=seed) for seed in range(3)]


class Killed(BaseException):
    """The process dies here: nothing of ours runs after it but what the kernel does."""


def kill_at(last: int) -> Any:
    def each(number: int) -> None:
        if number == last:
            raise Killed

    return each


class Histories(RuleBasedStateMachine):
    """Submit, crash, resume, cancel, watch; replies are lost, lists are late, status words are unknown."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.clock = ManualClock()
        self.service = Service(clock=self.clock)
        self.ended: dict[str, State] = {}
        self.allowed: Counter[str] = Counter()  # keys for which the user said --resubmit
        self.at = self.process()

    def process(self) -> Dispatch:
        """A new process: all it knows is on the disk."""
        reads = Reads(self.clock, draw=lambda: 0.5)
        return Dispatch(Journal(self.folder / "home"), self.clock, reads)

    @initialize(place=st.sampled_from(["memory", "memory/blind"]), lag=st.sampled_from([0.0, 3.0]))
    def begin(self, place: str, lag: float) -> None:
        self.place = place
        self.service.set(lag=lag)
        with using(MemoryProvider(self.service)):
            self.jobs = [prepare(job, place) for job in JOBS]

    def teardown(self) -> None:
        self.at.journal.close()
        shutil.rmtree(self.folder)

    def act(self, verb: Any) -> None:
        """Do something as a user would, who reads the errors."""
        with using(MemoryProvider(self.service)), contextlib.suppress(AnyDPOError):
            verb()

    def known(self, job: Prepared) -> bool:
        return bool(self.at.journal.known(job.run_id) and self.at.journal.attempts(job.run_id))

    @rule(which=st.integers(0, 2), again=st.booleans())
    def submit(self, which: int, again: bool) -> None:
        self.act(lambda: self.at.submit(self.jobs[which], again=again))

    @rule(which=st.integers(0, 2), last=st.integers(1, 260), restart=st.booleans())
    def crash_while_submitting(self, which: int, last: int, restart: bool) -> None:
        with contextlib.suppress(Killed), tracing(TRACED, kill_at(last)):
            self.act(lambda: self.at.submit(self.jobs[which]))
        self.at.journal.close()
        if restart:
            self.clock.sleep(10)
        self.at = self.process()

    @rule(which=st.integers(0, 2))
    def adopt_or_resubmit(self, which: int) -> None:
        job = self.jobs[which]
        if not self.known(job) or self.at.journal.attempts(job.run_id)[-1].state is not State.UNKNOWN:
            return
        key = self.at.journal.attempts(job.run_id)[-1].key
        there = [made["id"] for made in self.service.jobs() if made["key"] == key]
        if there:
            self.act(lambda: self.at.submit(job, adopt=there[0]))
        else:
            self.act(lambda: self.at.submit(job, resubmit=True))

    @rule(which=st.integers(0, 2))
    def cancel(self, which: int) -> None:
        if self.known(self.jobs[which]):
            self.act(lambda: self.at.cancel(self.jobs[which].run_id))

    @rule(which=st.integers(0, 2))
    def watch(self, which: int) -> None:
        if self.known(self.jobs[which]):
            self.act(lambda: list(self.at.events(self.jobs[which].run_id)))

    @rule(which=st.integers(0, 2))
    def resume(self, which: int) -> None:
        if self.known(self.jobs[which]):
            self.act(lambda: self.at.resume(self.jobs[which].run_id))

    @rule(word=st.sampled_from(["lost_reply", "no_answer", "half_reply", "refuse", "quota", "capacity", "unavailable"]))
    def trouble_with_the_next_create(self, word: str) -> None:
        self.service.script("create", word)

    @rule(verb=st.sampled_from(["find", "poll", "stage"]))
    def the_next_read_fails(self, verb: Any) -> None:
        self.service.script(verb, "unavailable:2", "unavailable")

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    @rule(word=st.sampled_from([None, "compacting"]), ends=st.sampled_from(["succeeded", "failed"]))
    def the_service_changes(self, word: str | None, ends: str) -> None:
        self.service.set(word=word, ends=ends)

    @invariant()
    def at_most_one_job_a_key(self) -> None:
        made = Counter(job["key"] for job in self.service.jobs())
        assert all(count == 1 for count in made.values()), made

    @invariant()
    def a_terminal_state_never_changes(self) -> None:
        for row in self.at.journal.runs():
            for attempt in self.at.journal.attempts(row.id):
                if attempt.id in self.ended:
                    assert attempt.state is self.ended[attempt.id]
                elif attempt.state.done:
                    self.ended[attempt.id] = attempt.state

    @invariant()
    def nothing_runs_that_the_journal_has_never_heard_of(self) -> None:
        for job in self.service.jobs():
            (attempt, *_) = self.at.journal.holding(job["key"])
            assert attempt.phase in ("submitting", "submitted", "refused"), attempt.phase


class AtRest(Histories):
    """The same, and at the end a calm day: everything asked for is there once, or called unknown."""

    def teardown(self) -> None:
        self.service.scripts.clear()
        self.service.set(word=None, ends="succeeded", lag=0.0)
        self.clock.sleep(100)
        with using(MemoryProvider(self.service)):
            for job in getattr(self, "jobs", ()):
                if not self.known(job):
                    continue
                with contextlib.suppress(RunFailed, OutcomeUnknown):
                    self.at.submit(job)
                self.at.refresh(job.run_id)
                last = self.at.journal.attempts(job.run_id)[-1]
                there = {made["id"]: made["key"] for made in self.service.jobs()}
                if last.phase == "submitted":
                    assert there[last.provider_job_id or ""] == last.key
                    assert last.state is self.service.state(last.provider_job_id or "")
                else:
                    assert last.state is State.UNKNOWN or last.state is State.CANCELLED
        super().teardown()


@pytest.mark.parametrize("machine", [AtRest])
def test_whatever_happens(machine: type[RuleBasedStateMachine], full: bool) -> None:
    examples, steps = (2000, 50) if full else (100, 30)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
            derandomize=not full,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )
