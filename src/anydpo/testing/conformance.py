"""The suite that a provider has to pass, ours and yours: subclass `ProviderFixture`, then each class of tests.

    class AcmeFixture(ProviderFixture):
        @pytest.fixture
        def remote(self) -> Remote:
            return AcmeRemote()

    class TestCapabilities(AcmeFixture, CapabilityTests): ...
    class TestVerbs(AcmeFixture, VerbTests): ...
    class TestDispatch(AcmeFixture, DispatchTests): ...
    class TestFaults(AcmeFixture, FaultTests): ...

A `Remote` is the far side as a test sees it: it says what arrived there and lets jobs end. Time is a `ManualClock`.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from anydpo.dispatch import Dispatch
from anydpo.errors import AnyDPOError, JobInvalid, OutcomeUnknown, ProviderRefused, RunFailed, Unavailable
from anydpo.job import PreferenceJob
from anydpo.journal import Journal
from anydpo.outgoing import write_files
from anydpo.plan import Prepared, prepare
from anydpo.provider import Capabilities, JobRef, Plan, Provider, Staged
from anydpo.registry import split_place, using
from anydpo.result import METRICS, Result, State
from anydpo.testing.clock import ManualClock
from anydpo.testing.unreliable import Unreliable

CANONICAL = {f"{part}/{name}" for part in ("train", "eval") for name in METRICS}
PLACEHOLDER = re.compile(r"\$\{[a-z_]+\}")


class Remote(Protocol):
    """What the suite needs of the far side of a provider."""

    place: str
    clock: ManualClock

    @property
    def provider(self) -> Provider:
        """The provider under test, connected to this far side."""
        ...

    def job(self, folder: Path, **fields: Any) -> PreferenceJob:
        """Return a small job that this place accepts; `fields` are laid over it, data goes into `folder`."""
        ...

    def creates(self) -> int:
        """Return how many jobs were created there."""
        ...

    def end(self, ref: JobRef, state: State) -> None:
        """Let a job come to this end, or wait until it has."""
        ...


class ProviderFixture:
    """Override `remote`; the rest follows from it."""

    sdk: tuple[str, ...] = ()  # modules that must not be imported with the provider's package

    @pytest.fixture
    def remote(self) -> Remote:
        """Return the far side; every test gets a new one."""
        raise NotImplementedError(f"{type(self).__name__} has to override the fixture `remote`")

    @pytest.fixture
    def provider(self, remote: Remote) -> Iterator[Provider]:
        """Let the remote's provider stand for the installed one."""
        with using(remote.provider):
            yield remote.provider

    @pytest.fixture
    def can(self, remote: Remote, provider: Provider) -> Capabilities:
        """Return what the route says it can do."""
        _, route = split_place(remote.place)
        return provider.capabilities[route or next(iter(provider.capabilities))]

    @pytest.fixture
    def job(self, remote: Remote, tmp_path: Path) -> PreferenceJob:
        """Return the job that is sent."""
        return remote.job(tmp_path)

    @pytest.fixture
    def prepared(self, remote: Remote, provider: Provider, job: PreferenceJob) -> Prepared:
        """Return the job with its data read and its plan made."""
        assert provider is remote.provider
        return prepare(job, remote.place).or_raise()

    @pytest.fixture
    def dispatch(self, remote: Remote, tmp_path: Path) -> Dispatch:
        """Return the dispatch of an empty home."""
        return Dispatch(Journal(tmp_path / "home"), remote.clock)

    @pytest.fixture
    def sent(self, prepared: Prepared, tmp_path: Path) -> JobRef:
        """Return a job that was submitted by hand, verb by verb."""
        return _submit(prepared, tmp_path, "anydpo-0123456789abcdef01234567")


class CapabilityTests(ProviderFixture):
    """What a provider says of itself is data: no SDK, no key, no network."""

    def test_capabilities_are_a_table_of_known_words(self, remote: Remote, provider: Provider) -> None:
        from anydpo.data.dialect import WRITERS
        from anydpo.data.read import load  # noqa: F401 - registers every dialect
        from anydpo_trainer.config import LOSSES

        name, route = split_place(remote.place)
        assert provider.name == name
        assert route is None or route in provider.capabilities
        known = {*PreferenceJob.model_fields, *(f"method.{field}" for field in _method_fields())}
        for can in provider.capabilities.values():
            assert set(can.losses) <= set(LOSSES)
            assert set(can.fields) <= known
            assert set(can.adapters) <= {"lora", "full"}
            assert can.writes in WRITERS
            assert can.poll_seconds > 0 <= can.lag_seconds

    def test_planning_needs_no_network(
        self, provider: Provider, remote: Remote, job: PreferenceJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise AssertionError("a plan must not reach the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        plan = prepare(job, remote.place).plan
        assert plan.ok, plan.problems
        assert plan.place.partition("/")[0] == provider.name
        assert prepare(job, remote.place).plan == plan  # the same again

    def test_a_plan_survives_the_journal(self, prepared: Prepared) -> None:
        written = json.dumps(prepared.plan.model_dump(mode="json"))
        again = Plan(**json.loads(written))
        assert again.requests == prepared.plan.requests
        assert again.stages == prepared.plan.stages
        assert all(PLACEHOLDER.fullmatch(found) for found in re.findall(r"\$\{(?!\{)[^}]*\}", written))

    def test_an_unknown_option_is_a_problem(self, remote: Remote, provider: Provider, tmp_path: Path) -> None:
        job = remote.job(tmp_path, options={provider.name: {"no_such_option": 1}})
        problems = prepare(job, remote.place).plan.problems
        assert [p for p in problems if "no_such_option" in p.field or "no_such_option" in p.message]

    def test_importing_the_provider_imports_no_sdk(self, provider: Provider) -> None:
        module = type(provider).__module__
        check = f"import sys, {module}; sys.exit(','.join(set({self.sdk!r}) & set(sys.modules)) or 0)"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class VerbTests(ProviderFixture):
    """Each verb by itself."""

    def test_the_same_file_is_staged_once(self, prepared: Prepared, tmp_path: Path) -> None:
        files = write_files(prepared, tmp_path)
        first, again = (prepared.provider.stage(prepared.plan, files[0]) for _ in range(2))
        assert first == again

    def test_a_job_is_found_by_its_key(
        self, sent: JobRef, provider: Provider, can: Capabilities, remote: Remote
    ) -> None:
        remote.clock.sleep(can.lag_seconds)
        if can.finds_by_key:
            found = provider.find("anydpo-0123456789abcdef01234567")
            assert found is not None
            assert found.id == sent.id
            assert provider.find("anydpo-ffffffffffffffffffffffff") is None

    def test_polling_is_bounded_and_can_be_repeated(self, sent: JobRef, provider: Provider, remote: Remote) -> None:
        remote.end(sent, State.SUCCEEDED)
        first = provider.poll(sent)
        assert provider.poll(sent) == first
        seen, poll = list(first.events), first
        for _ in range(1000):
            if not poll.more:
                break
            poll = provider.poll(sent, poll.cursor)
            seen += poll.events
        assert poll.state is State.SUCCEEDED
        assert provider.poll(sent, poll.cursor).events == ()
        names = {name for event in seen for name in event.metrics}
        assert {name for name in names if name.startswith(("train/", "eval/"))} <= CANONICAL
        assert all(name.startswith(("train/", "eval/", "sft/", "provider/")) for name in names)

    def test_a_result_says_what_came_out(self, sent: JobRef, provider: Provider, remote: Remote) -> None:
        remote.end(sent, State.SUCCEEDED)
        outcome = provider.result(sent)
        assert outcome.state is State.SUCCEEDED
        assert outcome.model.tuned
        assert outcome.error is None

    def test_cancelling_is_no_error_twice(self, sent: JobRef, provider: Provider, remote: Remote) -> None:
        provider.cancel(sent)
        remote.end(sent, State.CANCELLED)
        provider.cancel(sent)
        assert provider.poll(sent).state is State.CANCELLED

    def test_a_job_that_is_not_there_is_an_error(self, provider: Provider, remote: Remote) -> None:
        with pytest.raises(AnyDPOError):
            provider.result(JobRef(id="no-such-job", place=remote.place))

    def test_weights_go_into_a_new_folder(
        self, sent: JobRef, provider: Provider, can: Capabilities, remote: Remote, tmp_path: Path
    ) -> None:
        remote.end(sent, State.SUCCEEDED)
        if not can.weights:
            with pytest.raises(AnyDPOError):
                provider.fetch(sent, tmp_path / "out")
            return
        artifacts = provider.fetch(sent, tmp_path / "out")
        assert artifacts
        assert all(Path(one.path).exists() and Path(one.path).is_relative_to(tmp_path) for one in artifacts)
        with pytest.raises(JobInvalid):
            provider.fetch(sent, tmp_path / "out")


class DispatchTests(ProviderFixture):
    """At most one job a request, whoever asks and however often."""

    def test_the_same_job_again_is_the_same_run(self, dispatch: Dispatch, prepared: Prepared, remote: Remote) -> None:
        first = dispatch.submit(prepared)
        again = dispatch.submit(prepared)
        assert (first.created, again.created, again.run) == (True, False, first.run)
        assert remote.creates() == 1

    def test_an_empty_home_finds_the_job(
        self, dispatch: Dispatch, prepared: Prepared, remote: Remote, can: Capabilities, tmp_path: Path
    ) -> None:
        run = dispatch.submit(prepared).run
        remote.clock.sleep(can.lag_seconds)
        other = Dispatch(Journal(tmp_path / "another"), remote.clock)
        again = other.submit(prepared)
        assert again.run == run
        assert remote.creates() == (1 if can.finds_by_key else 2)
        assert again.created is not can.finds_by_key

    def test_a_run_is_watched_to_its_end(self, dispatch: Dispatch, prepared: Prepared, remote: Remote) -> None:
        run = dispatch.submit(prepared).run
        _end(dispatch, run, remote, State.SUCCEEDED)
        states = [event.state for event in dispatch.watch(run) if event.kind == "state"]
        assert states[-1] is State.SUCCEEDED
        result = dispatch.result(run)
        assert Result(**result.model_dump(mode="json")) == result
        assert result.state is State.SUCCEEDED
        assert result.data.fingerprint == prepared.train.fingerprint
        assert set(result.metrics.missing).isdisjoint(result.metrics.final)
        assert dispatch.submit(prepared).created is False
        assert remote.creates() == 1

    def test_a_failed_run_is_sent_again_only_when_asked(
        self, dispatch: Dispatch, prepared: Prepared, remote: Remote
    ) -> None:
        run = dispatch.submit(prepared).run
        _end(dispatch, run, remote, State.CANCELLED)
        assert dispatch.refresh(run) is State.CANCELLED
        with pytest.raises(RunFailed, match="again"):
            dispatch.submit(prepared)
        assert remote.creates() == 1
        assert dispatch.submit(prepared, again=True).created is True
        assert remote.creates() == 2

    def test_a_terminal_state_never_changes(self, dispatch: Dispatch, prepared: Prepared, remote: Remote) -> None:
        run = dispatch.submit(prepared).run
        _end(dispatch, run, remote, State.CANCELLED)
        dispatch.refresh(run)
        (attempt,) = dispatch.journal.attempts(run)
        assert dispatch.journal.observe(attempt.id, State.SUCCEEDED) is False
        assert dispatch.refresh(run) is State.CANCELLED


class FaultTests(ProviderFixture):
    """What goes wrong on the way, and what is never done about it."""

    @pytest.fixture
    def unreliable(self, provider: Provider) -> Iterator[Unreliable]:
        """Stand between the core and the provider."""
        made = Unreliable(provider)
        with using(made):  # type: ignore[arg-type]
            yield made

    def test_a_lost_reply_makes_no_second_job(
        self, dispatch: Dispatch, prepared: Prepared, remote: Remote, can: Capabilities, unreliable: Unreliable
    ) -> None:
        unreliable.script("submit", "lost_reply")
        if can.finds_by_key:
            dispatch.submit(prepared)
        else:
            for _ in range(2):
                with pytest.raises(OutcomeUnknown, match="nothing is sent again"):
                    dispatch.submit(prepared)
            (attempt,) = dispatch.journal.attempts(prepared.run_id)
            assert attempt.state is State.UNKNOWN
            assert dispatch.submit(prepared, adopt=unreliable.lost[0].id).created is False
        assert remote.creates() == 1
        (attempt,) = dispatch.journal.attempts(prepared.run_id)
        assert attempt.provider_job_id == unreliable.lost[0].id

    def test_a_refusal_leaves_nothing_and_can_be_tried_again(
        self, dispatch: Dispatch, prepared: Prepared, remote: Remote, unreliable: Unreliable
    ) -> None:
        unreliable.script("submit", "refuse")
        with pytest.raises(ProviderRefused):
            dispatch.submit(prepared)
        assert remote.creates() == 0
        assert dispatch.submit(prepared).created is True
        first, second = dispatch.journal.attempts(prepared.run_id)
        assert (first.phase, second.phase, first.key) == ("refused", "submitted", second.key)

    def test_reads_wait_as_long_as_they_are_told(
        self, dispatch: Dispatch, prepared: Prepared, remote: Remote, unreliable: Unreliable
    ) -> None:
        run = dispatch.submit(prepared).run
        unreliable.script("poll", "unavailable:30", "unavailable:30")
        before = remote.clock.slept
        dispatch.refresh(run)
        assert remote.clock.slept - before >= 60

    def test_not_being_able_to_ask_is_not_failure(
        self, dispatch: Dispatch, prepared: Prepared, unreliable: Unreliable
    ) -> None:
        run = dispatch.submit(prepared).run
        unreliable.script("poll", *["unavailable"] * 500)
        with pytest.raises(Unavailable):
            dispatch.refresh(run)
        assert not dispatch.journal.run(run).state.done


def _submit(prepared: Prepared, folder: Path, key: str) -> JobRef:
    plan = prepared.plan.model_copy(update={"stage": prepared.plan.stages[-1], "stages": prepared.plan.stages[-1:]})
    staged: tuple[Staged, ...] = tuple(prepared.provider.stage(plan, file) for file in write_files(prepared, folder))
    return prepared.provider.submit(plan, staged, key)


def _end(dispatch: Dispatch, run: str, remote: Remote, state: State) -> None:
    _, ref = dispatch.live_ref(run)
    if state is State.CANCELLED:
        dispatch.cancel(run)
    remote.end(ref, state)


def _method_fields() -> tuple[str, ...]:
    from anydpo.job import DPO

    return tuple(DPO.model_fields)
