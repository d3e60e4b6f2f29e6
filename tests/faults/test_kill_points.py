"""SIGKILL before every line that runs in dispatch, journal and provider: never two jobs, never one that is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anydpo_local.provider
from anydpo import dispatch, fallback, journal, locks, outgoing, plan, sender, watcher
from anydpo.chain import Chain, Terms, chain_of
from anydpo.dispatch import Dispatch
from anydpo.errors import AnyDPOError, OutcomeUnknown
from anydpo.journal import Journal
from anydpo.plan import Prepared, prepare
from anydpo.registry import using
from anydpo.result import State
from anydpo.testing import memory
from anydpo.testing import service as services
from anydpo.testing.clock import ManualClock
from anydpo.testing.kill import dies_at, tracing
from anydpo.testing.memory import MemoryProvider
from anydpo.testing.service import Service
from tests.conformance.helpers import memory_job
from tests.core.places import NAMES, Places

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL: run it on Linux or macOS")

CORE = (dispatch, sender, fallback, journal, watcher, outgoing, locks, plan)


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process and return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def count_lines(work: Callable[[], None], modules: tuple[Any, ...]) -> int:
    with tracing(modules, lambda _: None) as count:
        work()
    return count[0]


@pytest.mark.parametrize("place", ["memory", "memory/blind"])
def test_killed_at_every_line_of_a_submission(place: str, tmp_path: Path, full: bool) -> None:
    """The service is a folder, so that it keeps what it had accepted when the process died."""
    modules = (*CORE, memory, services)
    job = memory_job()

    def world(number: int) -> tuple[Path, Service, Prepared]:
        folder = tmp_path / str(number)
        service = Service(folder / "service", ManualClock())
        with using(MemoryProvider(service)):
            return folder, service, prepare(job, place)

    def submit(folder: Path, prepared: Prepared, **more: Any) -> None:
        with using(prepared.provider):
            Dispatch(Journal(folder / "home"), ManualClock()).submit(prepared, **more)

    folder, service, prepared = world(0)
    lines = count_lines(lambda: submit(folder, prepared), modules)
    assert lines >= 100
    unknown = killed = 0
    for last in range(1, lines + 1, 1 if full else 36):
        folder, service, prepared = world(last)

        def die(folder: Path = folder, prepared: Prepared = prepared, last: int = last) -> None:
            with tracing(modules, dies_at(last)):
                submit(folder, prepared)

        killed += in_child(die) == signal.SIGKILL
        accepted = len(service.jobs())
        try:
            submit(folder, prepared)
        except OutcomeUnknown:
            unknown += 1
            assert place == "memory/blind"
            assert len(service.jobs()) == accepted
            more: dict[str, Any] = {"adopt": service.jobs()[0]["id"]} if accepted else {"resubmit": True}
            submit(folder, prepared, **more)
        (made,) = service.jobs()
        home = Journal(folder / "home")
        assert home.attempts(prepared.run_id)[-1].provider_job_id == made["id"]
        assert home.run(prepared.run_id).state is State.QUEUED
        home.close()
        shutil.rmtree(folder)
    assert killed >= lines // (1 if full else 36) - 1
    assert (unknown > 0) == (place == "memory/blind")
    print(f"\n{place}: killed at {killed} points, 0 duplicates, 0 lost, {unknown} times unknown and said so")  # noqa: T201


TRAINER = """#!/bin/sh
# python -m anydpo_trainer train CONFIG --out DIR: stands for the trainer, so that a hundred deaths take seconds
echo started >> "$6/started"
echo '{"schema": 1, "state": "succeeded", "error": null}' > "$6/result.json"
"""


def test_killed_at_every_line_of_a_local_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(TRAINER)
    python.chmod(0o755)
    modules = (*CORE, anydpo_local.provider)
    job = memory_job(model="tiny", options={"local": {"python": str(python)}})

    def submit(folder: Path) -> None:
        monkeypatch.setenv("ANYDPO_HOME", str(folder))
        Dispatch(Journal(folder)).submit(prepare(job, "local"))

    lines = count_lines(lambda: submit(tmp_path / "0"), modules)
    points = range(1, lines + 1, 2 if full else 60)
    for last in points:
        folder = tmp_path / str(last)

        def die(folder: Path = folder, last: int = last) -> None:
            with tracing(modules, dies_at(last)):
                submit(folder)

        assert in_child(die) == signal.SIGKILL
        submit(folder)
        (made,) = (folder / "local").glob("anydpo-*")
        assert (made / "result.json").exists()
        (run,) = Journal(folder).runs()
        assert Journal(folder).attempts(run.id)[-1].provider_job_id == made.name
        shutil.rmtree(folder)
    print(f"\nlocal: killed at {len(points)} of {lines} points, 0 duplicates, 0 lost")  # noqa: T201


def test_killed_at_every_line_between_two_stages(tmp_path: Path, full: bool) -> None:
    """SFT, then DPO: whoever watches takes the second step, and nobody takes it twice."""
    modules = (*CORE, memory, services)
    job = memory_job(sft={"data": "chosen"})

    def world(folder: Path) -> tuple[Service, Prepared, Dispatch]:
        service = Service(folder / "service", ManualClock(), seconds=0.0)
        with using(MemoryProvider(service)):
            prepared = prepare(job, "memory")
            at = Dispatch(Journal(folder / "home"), ManualClock())
            at.submit(prepared)
        service.end(service.jobs()[0]["id"], State.SUCCEEDED)
        return service, prepared, at

    def go_on(at: Dispatch, prepared: Prepared) -> None:
        with using(prepared.provider):
            at.refresh(prepared.run_id)
            at.advance(prepared.run_id)

    service, prepared, at = world(tmp_path / "0")
    lines = count_lines(lambda: go_on(at, prepared), modules)
    for last in range(1, lines + 1, 1 if full else 36):
        folder = tmp_path / str(last)
        service, prepared, at = world(folder)

        def die(prepared: Prepared = prepared, folder: Path = folder, last: int = last) -> None:
            with tracing(modules, dies_at(last)):
                go_on(Dispatch(Journal(folder / "home"), ManualClock()), prepared)

        in_child(die)
        go_on(Dispatch(Journal(folder / "home"), ManualClock()), prepared)
        first, second = service.jobs()
        assert first["key"] != second["key"]
        assert second["body"]["model"] == f"tuned:{first['id']}"
        shutil.rmtree(folder)


@pytest.mark.parametrize("scene", ["refused", "failed", "left"])
def test_killed_at_every_line_of_a_fallback(scene: str, tmp_path: Path, full: bool) -> None:
    """Three places: the first one or two say no, fail, or keep the job waiting; whoever is there takes the next step."""
    modules = (*CORE, memory, services)

    def world(folder: Path) -> tuple[Places, Chain]:
        places = Places(ManualClock(), folder)
        for service in (places.one, places.two, places.three):
            service.set(queue=0.0, seconds=0.0)
        places.two.script("create", "quota")
        if scene == "refused":
            places.one.script("create", "capacity")
        elif scene == "failed":
            places.one.set(ends="failed", code="provider_fault")
        else:
            places.one.set(queue=1e12)
        with places.known():
            return places, chain_of(memory_job(), NAMES, Terms(max_wait=1 if scene == "left" else None))

    def carry_out(folder: Path, places: Places, chain: Chain) -> None:
        """Submit and watch to the end, in a new process each time: all it knows is on the disk."""
        at = Dispatch(Journal(folder / "home"), ManualClock(2_000_000_000.0))
        with places.known():
            list(at.watch(at.submit(chain).run))
        at.journal.close()

    places, chain = world(tmp_path / "0")
    lines = count_lines(lambda: carry_out(tmp_path / "0", places, chain), modules)
    every = lines // (500 if full else 7)
    killed = 0
    for last in range(1, lines + 1, every):
        folder = tmp_path / str(last)
        places, chain = world(folder)

        def die(folder: Path = folder, places: Places = places, chain: Chain = chain, last: int = last) -> None:
            with tracing(modules, dies_at(last)):
                carry_out(folder, places, chain)

        killed += in_child(die) == signal.SIGKILL
        for _ in range(3):
            try:
                carry_out(folder, places, chain)
                break
            except AnyDPOError:  # the refusal of a place whose script the killed process had used up
                continue
        home = Journal(folder / "home")
        assert home.run(chain.run_id).state is State.SUCCEEDED, last
        made = [service.jobs() for service in (places.one, places.two, places.three)]
        keys = [job["key"] for jobs in made for job in jobs]
        assert len(keys) == len(set(keys)), last  # none twice
        known = {attempt.provider_job_id for attempt in home.attempts(chain.run_id)}
        assert {job["id"] for jobs in made for job in jobs} <= known, last  # none lost
        states = [state for states in places.states() for state in states]
        assert "queued" not in states, last  # nothing left running
        assert "running" not in states, last
        assert states.count("succeeded") == 1, last
        home.close()
        shutil.rmtree(folder)
    assert killed >= lines // every - 1
    print(f"\nfallback, {scene}: killed at {killed} of {lines} lines, 0 duplicates, 0 lost, nothing left running")  # noqa: T201
